//! What becomes of a state when no more faults come, and nothing new.

use super::state::{Body, Ends, Message, Parting, Replica, Stage, State};
use super::{Action, Config, Mutant};
use crate::authority::Lease;

/// In each, all is done that can be. The longest chain of those who wait for each other takes fewer.
const ROUNDS: usize = 32;

impl Config {
    /// From here a state can be reached in which nothing is leased, the books have the rows that exist, and nobody waits;
    /// even where no notice arrives any more.
    ///
    /// The way there is tried from each state without requests in flight, once with all messages lost and once with all
    /// delivered. From any other state one of those is reached by ending the requests.
    pub(crate) fn comes_to_rest(&self, state: &State) -> bool {
        if !state.requests.is_empty() || state.fault.is_some() {
            return true;
        }
        let lost = State { messages: Vec::new(), ..state.clone() };
        self.rests(lost) && (state.messages.is_empty() || self.rests(self.delivered(state)))
    }

    fn delivered(&self, state: &State) -> State {
        let mut state = state.clone();
        while let Some(message) = state.messages.pop() {
            self.deliver(&mut state, &message, false);
        }
        state
    }

    fn rests(&self, mut state: State) -> bool {
        let is_spent = |lease: &Lease<()>| lease.rest() == 0 && lease.totals.edits == lease.totals.edits_ended;
        let is_quiet = |state: &State| {
            let quiet = |replica: &Replica| {
                replica.queue.is_empty() && replica.parting.is_empty() && !state.is_dead(replica.me)
            };
            state.requests.is_empty()
                && state.replicas.iter().all(quiet)
                && state.books.leases.values().all(|lease| lease.live && is_spent(lease))
        };
        for _ in 0..ROUNDS {
            if is_quiet(&state) {
                let ask = state.replicas[0].lease.report(true);
                self.call(&mut state, 0, Body::Ask(ask, None));
                let rows = state.rows;
                let key = state.book();
                return key.counted == Some(rows) && key.posted + key.carried + key.leased + key.edits == 0;
            }
            self.round(&mut state);
            state.sort();
        }
        false
    }

    /// All that the replicas do by themselves, with no message lost.
    fn round(&self, state: &mut State) {
        while let Some(request) = state.requests.first().copied() {
            if request.open && !request.has_ended() {
                state.requests[0].stage = Stage::Aborted;
            }
            if request.open {
                self.end(state, 0);
            } else if request.abandoned {
                self.replica_step(state, Action::Settle(0));
            } else {
                state.requests.remove(0);
            }
        }
        for index in 0..state.replicas.len() {
            if let Some(times) = self.times {
                state.replicas[index].clock.life = times.time_to_live;
            }
            if state.is_dead(state.replicas[index].me) {
                self.rejoin(state, index);
            }
            if !state.replicas[index].queue.is_empty() || state.replicas[index].lease.waits() {
                let ask = self.ask(state, index);
                self.call(state, index, Body::Ask(ask, None));
            }
            self.flush(state, index);
            let ready = |parting: &Parting| !parting.told && parting.lease.is_idle();
            for which in (0..state.replicas[index].parting.len()).rev() {
                if ready(&state.replicas[index].parting[which]) {
                    self.replica_step(state, Action::SeeOff(index, which));
                    *state = self.delivered(state);
                }
            }
            while let Some(which) = state.replicas[index].parting.iter().position(|parting| state.never_began(parting))
            {
                self.replica_step(state, Action::Forget(index, which));
            }
        }
        let there = state.replicas.each_ref().map(|replica| replica.me);
        let gone: Vec<_> = state.books.replicas.keys().copied().filter(|id| !there.contains(id)).collect();
        for id in gone {
            self.step(state, Action::Bury(id));
        }
        let mut actions = Vec::new();
        self.authority_actions(state, &mut actions);
        for action in actions {
            if let Action::MarkDead(lease) = action {
                self.step(state, action);
                self.step(state, Action::SettleLease(lease));
            } else if matches!(action, Action::SettleLease(_)) {
                self.step(state, action);
            }
        }
    }

    /// What is told with a sign of life.
    fn flush(&self, state: &mut State, index: usize) {
        let lease = &mut state.replicas[index].lease;
        if !self.is(Mutant::NothingReturned) {
            lease.return_unused();
        }
        if lease.has_news() {
            let body = Body::Flush { totals: lease.totals(), waiting: lease.waits(), ends: Ends::No };
            self.call(state, index, body);
        }
    }

    /// A message whose answer comes at once.
    fn call(&self, state: &mut State, index: usize, body: Body) {
        let replica = &state.replicas[index];
        state.messages.push(Message { replica: index, me: replica.me, lease: replica.lease.id(), body });
        *state = self.delivered(state);
    }
}
