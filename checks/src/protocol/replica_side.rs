//! The steps of a replica and of its requests.

use super::state::{Body, Counted, Ends, Fault, Message, Parting, Request, Stage, State, Waiter};
use super::{Action, Config, Mutant};
use crate::ledger::{Answer, Ask, Known, LeaseState, Totals};

/// More than two in a queue are as good as two: the first, and those behind.
const QUEUE: usize = 2;

/// Where time is in the model, this replica is watched by the other, who has all the time it needs.
const WATCHED: usize = 0;

impl Config {
    pub(crate) fn replica_actions(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let replica = &state.replicas[index];
        let left = &state.left;
        let room = self.has_room(state, index);
        if left.requests > 0 && replica.queue.len() < QUEUE && self.is_alive(state, index) {
            actions.extend(self.units.iter().map(|units| Action::Arrive(index, *units)));
        }
        if left.edits > 0 && room && self.is_alive(state, index) {
            actions.push(Action::Edit(index));
        }
        // Where time is in the model, what has nothing to do with it is not.
        let timed = self.times.is_some();
        if !replica.queue.is_empty() && !timed {
            actions.push(Action::Leave(index));
        }
        if room {
            if !replica.queue.is_empty() && left.asks > 0 || replica.queue.is_empty() && replica.lease.waits() {
                actions.push(Action::Ask(index));
            }
            if replica.lease.has_news() && !timed {
                actions.push(Action::Tell(index));
            }
            if !self.is(Mutant::NothingReturned) && !timed {
                actions.push(Action::Recall(index));
            }
            if left.recounts > 0 {
                actions.push(Action::Recount(index));
            }
            let ready = |parting: &Parting| !parting.told && parting.lease.is_idle();
            let parting = replica.parting.iter().enumerate().filter(|(_, parting)| ready(parting));
            actions.extend(parting.map(|(which, _)| Action::SeeOff(index, which)));
        }
        let parting = replica.parting.iter().enumerate().filter(|(_, parting)| state.never_began(parting));
        actions.extend(parting.map(|(which, _)| Action::Forget(index, which)));
        if left.evictions > 0 && replica.lease.is_idle() && replica.queue.is_empty() {
            actions.push(Action::Evict(index));
        }
        if left.crashes > 0 {
            actions.push(Action::Crash(index));
        }
        if state.is_dead(replica.me) {
            actions.push(Action::Rejoin(index));
        }
        match (self.times, index) {
            (None, _) => {}
            (Some(_), WATCHED) => match replica.clock.beat {
                None if replica.clock.beaten => {}
                None => actions.push(Action::SendBeat(index)),
                Some((_, false)) => actions.push(Action::TakeBeat(index)),
                Some((_, true)) => actions.push(Action::HearBeat(index)),
            },
            (Some(_), _) => {
                let other = &state.replicas[WATCHED];
                let beats = state.books.replicas.get(&other.me).filter(|other| other.live).map(|other| other.beats);
                let watched = replica.clock.watched.map(|(id, beats, _)| (id, beats));
                if beats.is_some_and(|beats| watched != Some((other.me, beats))) {
                    actions.push(Action::Watch(index, other.me));
                }
                if left.ticks > 0 && self.may_tick(state) {
                    actions.push(Action::Tick(None));
                    if left.drifts > 0 {
                        actions.push(Action::Tick(Some(WATCHED)));
                    }
                }
            }
        }
    }

    pub(crate) fn is_alive(&self, state: &State, replica: usize) -> bool {
        self.times.is_none()
            || replica != WATCHED
            || self.is(Mutant::LifeIgnored)
            || state.replicas[replica].clock.life > 0
    }

    pub(crate) fn has_room(&self, state: &State, replica: usize) -> bool {
        state.messages.iter().filter(|message| message.replica == replica).count() < self.window
    }

    /// The database ends what takes longer than the longest handler, where requests don't fence.
    fn may_tick(&self, state: &State) -> bool {
        let longest = self.times.map_or(0, |times| times.longest_handler);
        self.fenced || state.requests.iter().all(|request| request.has_ended() || request.age < longest)
    }

    pub(crate) fn tick(state: &mut State, slow: Option<usize>) {
        state.left.ticks -= 1;
        state.left.drifts -= u8::from(slow.is_some());
        for request in &mut state.requests {
            request.age += u8::from(!request.has_ended());
        }
        for (index, replica) in state.replicas.iter_mut().enumerate() {
            let clock = &mut replica.clock;
            clock.beaten = false;
            if let Some((_, _, age)) = &mut clock.watched {
                *age += 1;
            }
            if slow != Some(index) {
                clock.life = clock.life.saturating_sub(1);
                if let Some((age, _)) = &mut clock.beat {
                    *age += 1;
                }
            }
        }
    }

    pub(crate) fn replica_step(&self, state: &mut State, action: Action) {
        match action {
            Action::Arrive(index, units) => {
                state.left.requests -= 1;
                state.replicas[index].queue.push(Waiter { units, has: 0, asked: false });
                self.serve(state, index);
            }
            Action::Edit(index) => self.begin_edit(state, index),
            Action::LookUp(request) => {
                if state.edited {
                    state.requests[request].stage = Stage::Admitted;
                } else {
                    self.end(state, request);
                }
            }
            Action::Leave(index) => {
                let waiter = state.replicas[index].queue.remove(0);
                state.replicas[index].lease.give_back(waiter.has);
                self.serve(state, index);
            }
            Action::Ask(index) => {
                if !state.replicas[index].queue.is_empty() {
                    state.left.asks -= 1;
                }
                let ask = self.ask(state, index);
                state.tell(index, Body::Ask(ask, None));
            }
            Action::Tell(index) | Action::Recall(index) => {
                let lease = &mut state.replicas[index].lease;
                let kept = lease.clone();
                if matches!(action, Action::Recall(_)) {
                    lease.return_idle();
                }
                let (news, totals, waiting) = (lease.has_news(), lease.totals(), lease.waits());
                if self.is(Mutant::ReturnedAndKept) {
                    *lease = kept;
                }
                if news {
                    state.tell(index, Body::Flush { totals, waiting, ends: Ends::No });
                }
            }
            Action::Recount(index) => {
                state.left.recounts -= 1;
                let ask = state.replicas[index].lease.report(true);
                state.tell(index, Body::Ask(ask, None));
            }
            Action::Evict(index) => {
                state.left.evictions -= 1;
                state.give_up(index);
            }
            Action::SeeOff(index, which) => {
                let replica = &mut state.replicas[index];
                let lease = &mut replica.parting[which].lease;
                lease.return_idle();
                let early = lease.may_begin() && !self.is(Mutant::BegunUnseen);
                let ends = if early { Ends::Early } else { Ends::Yes };
                let body = Body::Flush { totals: lease.totals(), waiting: false, ends };
                let (me, lease) = (replica.me, lease.id());
                state.send(Message { replica: index, me, lease, body });
            }
            Action::Forget(index, which) => drop(state.replicas[index].parting.remove(which)),
            Action::End(request) => self.end(state, request),
            Action::Abandon(request) => self.abandon(state, request),
            Action::Settle(index) => {
                let request = state.requests.remove(index);
                if let Some(lease) = state.replicas[request.replica].state_of(request.lease) {
                    if request.edit { lease.end_edit(request.units) } else { lease.post(request.units) }
                }
                self.serve(state, request.replica);
            }
            Action::Crash(index) => self.crash(state, index),
            Action::Rejoin(index) => self.rejoin(state, index),
            Action::SendBeat(index) => {
                let clock = &mut state.replicas[index].clock;
                clock.beat = Some((0, false));
                clock.beaten = true;
            }
            Action::TakeBeat(index) => {
                let replica = &mut state.replicas[index];
                state.books.beat(replica.me);
                replica.clock.beat = replica.clock.beat.map(|(age, _)| (age, true));
            }
            Action::HearBeat(index) => {
                let alive = !state.is_dead(state.replicas[index].me);
                let clock = &mut state.replicas[index].clock;
                if let (Some((age, _)), Some(times), true) = (clock.beat.take(), self.times, alive) {
                    let age = if self.is(Mutant::LifeFromAnswer) { 0 } else { age };
                    clock.life = times.time_to_live.saturating_sub(age);
                    self.serve(state, index);
                }
            }
            Action::Watch(index, id) => {
                let beats = state.books.replicas.get(&id).map_or(0, |replica| replica.beats);
                state.replicas[index].clock.watched = Some((id, beats, 0));
            }
            _ => {}
        }
    }

    /// What `Cell::step` asks for.
    pub(crate) fn ask(&self, state: &mut State, index: usize) -> Ask {
        let replica = &mut state.replicas[index];
        let first = replica.queue.first().copied();
        let queued = replica.queue.iter().map(|waiter| waiter.units).sum();
        for waiter in &mut replica.queue {
            waiter.asked = true;
        }
        let lease = &mut replica.lease;
        if self.is(Mutant::PartialGrants) && first.is_some() {
            let one = lease.clone().ask(1, 1);
            return Ask { seq: one.seq, need: 1, queued: 1, spare: 0, ..lease.report(one.recount) };
        }
        let ask = lease.ask(first.map_or(0, |waiter| waiter.units), queued);
        // How much is asked for in store is no part of the protocol. Where it makes no difference, it makes no states.
        let mut reset = lease.clone();
        reset.return_idle();
        if reset.totals() == lease.totals() {
            *lease = reset;
        }
        ask
    }

    /// Those who wait are served in order, as far as it goes.
    pub(crate) fn serve(&self, state: &mut State, index: usize) {
        if !self.is_alive(state, index) && !self.is(Mutant::LifeUnchecked) {
            return;
        }
        let replica = &mut state.replicas[index];
        while let Some(first) = replica.queue.first_mut() {
            let units = if self.is(Mutant::PartialGrants) { 1 } else { first.units };
            if replica.lease.headroom() < units {
                return;
            }
            replica.lease.hold(units);
            first.has += units;
            if first.has < first.units {
                continue;
            }
            let request = Request {
                replica: index,
                lease: replica.lease.id(),
                units: first.units,
                edit: false,
                stage: Stage::Admitted,
                open: true,
                abandoned: false,
                age: 0,
            };
            state.requests.push(request);
            replica.queue.remove(0);
        }
    }

    fn begin_edit(&self, state: &mut State, index: usize) {
        state.left.edits -= 1;
        let lease = &mut state.replicas[index].lease;
        lease.begin_edit(1);
        let number = lease.totals().edits;
        let (id, ask) = (lease.id(), lease.report(false));
        let announced = !self.is(Mutant::EditNotAnnounced);
        state.requests.push(Request {
            replica: index,
            lease: id,
            units: 1,
            edit: true,
            stage: if announced { Stage::Announced(number) } else { Stage::Heard },
            open: true,
            abandoned: false,
            age: 0,
        });
        if announced {
            state.tell(index, Body::Ask(ask, None));
        }
    }

    /// The request tells how it ended.
    pub(crate) fn end(&self, state: &mut State, index: usize) {
        let request = state.requests.remove(index);
        let Some(lease) = state.replicas[request.replica].state_of(request.lease) else { return };
        match request.stage {
            _ if request.edit => lease.end_edit(request.units),
            Stage::Committed(rows) => {
                lease.post(rows);
                lease.give_back(request.units - rows);
            }
            _ => lease.give_back(request.units),
        }
        self.serve(state, request.replica);
    }

    fn abandon(&self, state: &mut State, index: usize) {
        state.left.unknown -= 1;
        let request = &mut state.requests[index];
        request.open = false;
        let request = *request;
        let lease = state.replicas[request.replica].state_of(request.lease);
        if self.is(Mutant::UnknownReleased) {
            lease.into_iter().for_each(|lease| lease.give_back(request.units));
            self.serve(state, request.replica);
        } else if !self.fenced {
            state.requests[index].abandoned = true;
        } else if let Some(lease) = lease {
            if request.edit {
                lease.lose_edit(request.units)
            } else {
                lease.lose(request.units)
            }
            if state.replicas[request.replica].lease.id() == request.lease {
                state.give_up(request.replica);
            }
        }
        Self::forget_ended(state);
    }

    fn crash(&self, state: &mut State, index: usize) {
        state.left.crashes -= 1;
        let gone = |request: &Request| {
            request.replica == index && matches!(request.stage, Stage::Admitted | Stage::Announced(_) | Stage::Heard)
        };
        state.requests.retain(|request| !gone(request));
        for request in state.requests.iter_mut().filter(|request| request.replica == index) {
            request.open = false;
            request.abandoned = false;
        }
        Self::forget_ended(state);
        state.messages.retain(|message| message.replica != index || message.is_to_authority());
        let (me, new) = (state.new_id(), state.new_id());
        let replica = &mut state.replicas[index];
        let id = if self.is(Mutant::IdUsedAgain) { replica.lease.id() } else { new };
        replica.me = me;
        replica.lease = LeaseState::new(id);
        replica.queue.clear();
        replica.parting.clear();
        replica.clock = super::state::Clock { life: self.times.map_or(0, |times| times.time_to_live), ..replica.clock };
        replica.clock.beat = None;
        state.books.join(me);
    }

    /// It has found out that it was taken for dead.
    pub(crate) fn rejoin(&self, state: &mut State, index: usize) {
        let me = state.new_id();
        state.replicas[index].me = me;
        state.books.join(me);
        let life = self.times.map_or(0, |times| times.time_to_live);
        state.replicas[index].clock.life = life;
        state.replicas[index].clock.beat = None;
        state.give_up(index);
    }

    pub(crate) fn deliver(&self, state: &mut State, message: &Message, repeated: bool) {
        if message.is_to_authority() {
            let body = self.answer(state, message, repeated);
            // A process that is gone hears nothing.
            if state.replicas[message.replica].me == message.me {
                state.send(Message { body, ..*message });
            }
            return;
        }
        let index = message.replica;
        let replica = &mut state.replicas[index];
        let is_current = replica.lease.id() == message.lease;
        let Some(lease) = replica.state_of(message.lease) else { return };
        match message.body {
            Body::Ask(..) | Body::Flush { .. } => {}
            Body::Count(ask, mark) => {
                let counted = Counted { mark, rows: state.rows };
                let body = Body::Ask(ask, Some(counted));
                state.send(Message { body, ..*message });
            }
            Body::Dead if is_current => {
                if state.is_dead(state.replicas[index].me) {
                    self.rejoin(state, index);
                } else {
                    state.give_up(index);
                }
            }
            Body::Dead => {}
            Body::Heard { totals, asked, answer, ends, .. } => {
                lease.heard(totals, asked, answer);
                if ends != Ends::No {
                    state.told(index, message.lease, totals);
                }
                self.serve(state, index);
            }
            Body::Unheard { totals, ends } => {
                lease.unheard(totals);
                if ends != Ends::No {
                    state.unheard(index, message.lease, ends);
                }
            }
            Body::Answer(ask, answer) => {
                let again = self.is(Mutant::AnsweredTwice) && repeated && answer.granted > 0;
                let seq = if again { lease.clone().ask(1, 1).seq } else { ask.seq };
                // What is told in refusals makes no states.
                let answer = Answer { known: Known { posted: 0, reserved: 0, ..answer.known }, ..answer };
                lease.answered(&Ask { seq, ..ask }, &Answer { known: Known::default(), ..answer });
                for request in &mut state.requests {
                    if let (Stage::Announced(number), true) = (request.stage, request.lease == message.lease)
                        && number <= ask.totals.edits
                    {
                        request.stage = Stage::Heard;
                    }
                }
                if is_current {
                    self.answered(state, index, &answer);
                }
            }
        }
    }

    /// What `Cell::answered` does with the queue.
    fn answered(&self, state: &mut State, index: usize, answer: &Answer) {
        self.serve(state, index);
        if let (true, Some(limit)) = (answer.counted, answer.known.limit) {
            let over = |waiter: &Waiter| waiter.asked && answer.known.counted + waiter.units > limit;
            let replica = &mut state.replicas[index];
            let has = replica.queue.iter().filter(|waiter| over(waiter)).map(|waiter| waiter.has).sum();
            replica.lease.give_back(has);
            replica.queue.retain(|waiter| !over(waiter));
            self.serve(state, index);
        }
    }

    /// Every unit that a replica holds belongs to one request.
    pub(crate) fn balance(&self, state: &mut State) {
        let requests = &state.requests;
        let held = |lease: u128| -> u64 {
            let holds =
                |request: &&Request| request.lease == lease && !request.edit && (request.open || request.abandoned);
            requests.iter().filter(holds).map(|request| request.units).sum()
        };
        let balanced = state.replicas.iter().all(|replica| {
            let waiting: u64 = replica.queue.iter().map(|waiter| waiter.has).sum();
            replica.lease.held() == held(replica.lease.id()) + waiting
                && replica.parting.iter().all(|parting| parting.lease.held() >= held(parting.lease.id()))
        });
        if !balanced && !self.is(Mutant::PartialGrants) {
            state.fault = Some(Fault::Unbalanced);
        }
    }
}

impl State {
    pub(crate) fn is_dead(&self, replica: u128) -> bool {
        self.books.replicas.get(&replica).is_none_or(|replica| !replica.live)
    }

    /// Sends a message about the lease in use. One that is under way already is not sent twice: it may be repeated.
    fn tell(&mut self, index: usize, body: Body) {
        let replica = &self.replicas[index];
        self.send(Message { replica: index, me: replica.me, lease: replica.lease.id(), body });
    }

    fn send(&mut self, message: Message) {
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    /// The authority has heard `totals` of a lease that is out of use. More of it is told, or what was lost of it is ended.
    fn told(&mut self, index: usize, lease: u128, totals: Totals) {
        let books = &self.books;
        self.replicas[index].parting.retain_mut(|parting| {
            if parting.lease.id() != lease {
                return true;
            }
            parting.lease.return_idle();
            let more = parting.lease.totals() != totals;
            parting.told = !more && parting.lease.lost() > 0;
            more || parting.told && books.leases.contains_key(&lease)
        });
    }

    /// The authority doesn't know a lease that is out of use. It may begin yet, by a request that is under way.
    fn unheard(&mut self, index: usize, lease: u128, ends: Ends) {
        let may_begin = |parting: &Parting| ends == Ends::Early || parting.lease.may_begin();
        self.replicas[index].parting.retain(|parting| parting.lease.id() != lease || may_begin(parting));
    }

    /// Whether a lease can't begin any more, and never did: requests that are too old begin none.
    pub(crate) fn never_began(&self, parting: &Parting) -> bool {
        let lease = parting.lease.id();
        let asks = |message: &Message| message.lease == lease && matches!(message.body, Body::Ask(..));
        parting.lease.may_begin()
            && parting.lease.is_idle()
            && !self.books.leases.contains_key(&lease)
            && !self.messages.iter().any(asks)
    }
}
