//! The steps of the authority, each of which is one transaction.

use super::state::{Body, Counted, Fault, Mark, Message, State};
use super::{Action, Config, Mutant};
use crate::authority::{Asker, Count, Outcome};
use crate::ledger::{Answer, Ask, Totals};

impl Config {
    pub(crate) fn authority_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (id, replica) in &state.books.replicas {
            let is_there = state.replicas.iter().any(|replica| replica.me == *id);
            let may = match self.times {
                None => state.left.burials > 0 || !is_there,
                Some(times) => {
                    let handler =
                        if self.fenced || self.is(Mutant::BuriedTooEarly) { 0 } else { times.longest_handler };
                    let margin = if self.is(Mutant::NoMargin) { 0 } else { times.margin };
                    let stood_still = |watched: (u128, u64, u8)| {
                        (watched.0, watched.1) == (*id, replica.beats)
                            && watched.2 >= times.time_to_live + handler + margin
                    };
                    state.replicas.iter().filter_map(|replica| replica.clock.watched).any(stood_still)
                }
            };
            if replica.live && may {
                actions.push(Action::Bury(*id));
            }
        }
        let orphans = state.books.orphans();
        for (id, lease) in &state.books.leases {
            let parting = state.replicas.iter().flat_map(|replica| &replica.parting);
            let ends = orphans.contains(id) || parting.clone().any(|parting| parting.lease.id() == *id && parting.told);
            if lease.live && ends {
                actions.push(Action::MarkDead(*id));
            }
            if !lease.live && (!state.is_held(*id, self) || self.is(Mutant::FencesNotAwaited)) {
                actions.push(Action::SettleLease(*id));
            }
        }
    }

    pub(crate) fn settle_lease(&self, state: &mut State, lease: u128) {
        let units = state.books.settle(lease).unwrap_or(0);
        if self.is(Mutant::SettledAsFree) {
            state.book().posted -= units;
        }
        for replica in &mut state.replicas {
            replica.parting.retain(|parting| parting.lease.id() != lease || !parting.told);
        }
    }

    /// An authority that gets a message answers.
    pub(crate) fn answer(&self, state: &mut State, message: &Message, repeated: bool) -> Body {
        let totals = match &message.body {
            Body::Ask(ask, _) => ask.totals,
            Body::Flush { totals, .. } => *totals,
            _ => Totals::default(),
        };
        let before = self.before(state, message.lease, totals);
        let twice = u64::from(repeated && self.is(Mutant::HeardTwice) && totals.returned > 0);
        let totals = Totals { returned: totals.returned + twice, ..totals };
        let answer = match &message.body {
            Body::Ask(ask, counted) => self.hear_ask(state, message, &Ask { totals, ..*ask }, *counted),
            Body::Flush { waiting, ends, .. } => {
                if !waiting && state.first == Some(message.lease) {
                    state.first = None;
                }
                let said = state.said(self, message.lease, totals, *waiting, *ends);
                match state.books.flush(&[said]).as_slice() {
                    [heard] => Body::Heard {
                        totals,
                        asked: heard.asked,
                        answer: heard.answer,
                        wanted: heard.wanted,
                        ends: *ends,
                    },
                    _ => Body::Unheard { totals, ends: *ends },
                }
            }
            other => other.clone(),
        };
        if self.is(Mutant::DeadHeard) && matches!(answer, Body::Dead | Body::Unheard { .. }) {
            // The bound goes down once more by what the end of the lease has put down as rows.
            let key = state.book();
            key.posted = key.posted.saturating_sub(totals.returned);
        }
        if self.is(Mutant::PostingForgets) && !matches!(&answer, Body::Answer(_, answer) if answer.counted) {
            let posted = state.books.leases.get(&message.lease).map_or(0, |lease| lease.totals.posted);
            let key = state.book();
            key.posted = key.posted.saturating_sub(posted.saturating_sub(before));
        }
        answer
    }

    /// What mutants do before the authority hears. Answers what was posted until now.
    fn before(&self, state: &mut State, id: u128, totals: Totals) -> u64 {
        let Some(lease) = state.books.leases.get_mut(&id) else { return 0 };
        if self.is(Mutant::LastWord) && lease.live && totals.returned < lease.totals.returned {
            let rest = lease.rest();
            lease.totals.returned = totals.returned;
            let more = lease.rest() - rest;
            state.book().leased += more;
        }
        state.books.leases.get(&id).map_or(0, |lease| lease.totals.posted)
    }

    fn hear_ask(&self, state: &mut State, message: &Message, ask: &Ask, counted: Option<Counted>) -> Body {
        let asker = Asker { lease: message.lease, replica: message.me, beats: 0, key: (), replicas: 1 };
        let limit = if self.is(Mutant::RememberedLimit) { state.limit_before } else { state.limit };
        let mut ask = *ask;
        let mut counted = counted;
        if self.is(Mutant::GrantedTwice)
            && ask.need > 0
            && let Some(lease) = state.books.leases.get_mut(&message.lease)
        {
            lease.asked = lease.asked.min(ask.seq - 1);
        }
        if self.is(Mutant::NoFirstCount) {
            state.book().counted.get_or_insert(0);
            ask.recount = false;
        }
        let key = state.book();
        if self.is(Mutant::CountWithoutMark)
            && let Some(counted) = &mut counted
        {
            counted.mark = Mark { posts: key.posts, edits_ended: key.edits_ended };
        }
        let known = key.counted;
        if self.is(Mutant::LateFirstAsk) {
            state.books.ended.clear();
        }
        let mut count = state.count(self, counted);
        if let (true, Some(rows)) = (self.is(Mutant::OldCount), known) {
            count = Count::Here(rows);
        }

        let granted_to = |state: &State| state.books.leases.get(&message.lease).map_or(0, |lease| lease.granted);
        let before = granted_to(state);
        let outcome = state.books.ask(&asker, &ask, Some(limit), count);
        if self.is(Mutant::NoClaim) {
            state.book().claim = None;
        }
        if self.is(Mutant::NothingCarried) {
            state.book().carried = 0;
        }
        let (answer, counts) = match outcome {
            Outcome::Dead => return Body::Dead,
            Outcome::Count { posts, edits_ended } => return Body::Count(ask, Mark { posts, edits_ended }),
            Outcome::Answer { answer, .. } => (answer, counted.map_or(state.rows, |counted| counted.rows)),
        };
        if granted_to(state) > before {
            state.ceiling = state.limit;
            let others = state.first.filter(|first| *first != message.lease);
            if others.and_then(|first| state.books.leases.get(&first)).is_some_and(|lease| lease.live) {
                state.fault = Some(Fault::Overtaken);
            }
        }
        let first = state.first.and_then(|first| state.books.leases.get(&first)).is_some_and(|lease| lease.live);
        if answer.waits && !first {
            state.first = Some(message.lease);
        } else if !answer.waits && state.first == Some(message.lease) {
            state.first = None;
        }
        let over = ask.need > 0 && answer.granted == 0 && answer.counted && !answer.waits;
        if over && counts + ask.need <= state.limit {
            state.fault = Some(Fault::FalseRefusal);
        }
        let counted = answer.counted || self.is(Mutant::NoFirstCount);
        Body::Answer(ask, Answer { counted, ..answer })
    }
}
