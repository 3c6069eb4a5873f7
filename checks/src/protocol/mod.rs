//! The protocol between processes as a model, checked in all its states.
//!
//! The replicas are the library's own `LeaseState`, the authority is the mirror of its SQL functions. What is modelled
//! here is all around them: requests and their transactions, messages that are lost, repeated and overtaken, processes
//! that die or stand still, users that delete rows, and limits that change.
//!
//! What is bounded: there are two replicas, one key, limits of up to three, a few requests of one or two units, and of
//! each fault one or two ([`Budget`]). All ways that the protocol was ever seen to fail take no more: of two parties one is
//! wrong about the other, and one unit too many is as wrong as a thousand.

use stateright::{Model, Property};

mod authority_side;
mod drain;
mod replica_side;
mod state;
mod tests;

use state::{Budget, Copied, Fault, Request, Stage, State};

pub(crate) const CEILING: &str = "no more rows than the limit in force at the last grant";
pub(crate) const BOUND: &str = "no more rows than the books allow";
pub(crate) const ONCE: &str = "each reservation ends once";
pub(crate) const NOT_REFUSED: &str = "nobody is refused who fits";
pub(crate) const NOT_OVERTAKEN: &str = "nobody is overtaken";
pub(crate) const REST: &str = "nothing leaks, and nobody waits for nothing";

/// What is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    /// Transactions hold on to the lease of their units.
    pub(crate) fenced: bool,
    /// Rows are in another database than the books.
    pub(crate) counts_elsewhere: bool,
    /// Where it is `None`, anybody may be taken for dead at any time, and nobody looks at a clock.
    pub(crate) times: Option<Times>,
    pub(crate) limit: u64,
    pub(crate) other_limits: &'static [u64],
    /// Rows at the start.
    pub(crate) rows: u64,
    /// What requests need.
    pub(crate) units: &'static [u64],
    /// Messages get lost.
    pub(crate) lossy: bool,
    /// How many messages of a replica may be under way at once.
    pub(crate) window: usize,
    pub(crate) budget: Budget,
    pub(crate) mutant: Option<Mutant>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) time_to_live: u8,
    pub(crate) longest_handler: u8,
    pub(crate) margin: u8,
}

/// A rule that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Grants go by the limit that was in force before.
    RememberedLimit,
    /// Units are granted one by one, and kept by who waits.
    PartialGrants,
    /// A post takes a unit from `leased`, and adds it nowhere.
    PostingForgets,
    /// A word that is heard twice counts twice.
    HeardTwice,
    /// The last word counts, not the greatest.
    LastWord,
    /// A repeated request for units is granted once more.
    GrantedTwice,
    /// A repeated answer gives the replica units once more.
    AnsweredTwice,
    /// Units that are returned stay in the pool.
    ReturnedAndKept,
    /// The word of a lease that has ended changes the books.
    DeadHeard,
    /// The first request doesn't wait for a count.
    NoFirstCount,
    /// A count that was made elsewhere is put down as if it were of now.
    CountWithoutMark,
    /// A request is refused by an older count.
    OldCount,
    /// Nobody has a claim.
    NoClaim,
    /// Idle units are not given back.
    NothingReturned,
    /// Units whose fate is unknown are given back at once.
    UnknownReleased,
    /// What is left of a lease that ended is free.
    SettledAsFree,
    /// A replica's time begins when the answer arrives.
    LifeFromAnswer,
    /// A replica goes on when its time is over.
    LifeIgnored,
    /// Whoever waited is served by an answer that came after the replica's time.
    LifeUnchecked,
    /// A replica is taken for dead while its requests may be at work.
    BuriedTooEarly,
    /// Clocks are taken to run alike.
    NoMargin,
    /// What is left of a lease is put down while transactions hold on to it.
    FencesNotAwaited,
    /// A transaction may take hold of a lease that is marked.
    MarkIgnored,
    /// A replica that was taken for dead goes on under the old lease's id.
    IdUsedAgain,
    /// A first request for units that comes after the end of its lease begins it anew.
    LateFirstAsk,
    /// A lease that begins while its end is told is forgotten.
    BegunUnseen,
    /// Edits are not told before the row is looked up.
    EditNotAnnounced,
    /// Edits are not carried.
    NothingCarried,
    /// After a failover to a copy that has lost commits, the books of before are in force.
    OldEpoch,
}

impl Mutant {
    pub(crate) const ALL: &[Self] = &[
        Self::RememberedLimit,
        Self::PartialGrants,
        Self::PostingForgets,
        Self::HeardTwice,
        Self::LastWord,
        Self::GrantedTwice,
        Self::AnsweredTwice,
        Self::ReturnedAndKept,
        Self::DeadHeard,
        Self::NoFirstCount,
        Self::CountWithoutMark,
        Self::OldCount,
        Self::NoClaim,
        Self::NothingReturned,
        Self::UnknownReleased,
        Self::SettledAsFree,
        Self::LifeFromAnswer,
        Self::LifeIgnored,
        Self::LifeUnchecked,
        Self::BuriedTooEarly,
        Self::NoMargin,
        Self::FencesNotAwaited,
        Self::MarkIgnored,
        Self::IdUsedAgain,
        Self::LateFirstAsk,
        Self::BegunUnseen,
        Self::EditNotAnnounced,
        Self::NothingCarried,
        Self::OldEpoch,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A request that needs so many units.
    Arrive(usize, u64),
    /// An edit of the row.
    Edit(usize),
    LookUp(usize),
    /// The first in the queue has waited long enough.
    Leave(usize),
    /// Asks for those in the queue, or gives up the claim.
    Ask(usize),
    /// Tells what is new.
    Tell(usize),
    /// Somebody waits elsewhere, or the units were not used for a while: returns them and tells.
    Recall(usize),
    Recount(usize),
    /// The workspace was not used for a while.
    Evict(usize),
    SeeOff(usize, usize),
    /// A lease that is out of use has never begun, and won't.
    Forget(usize, usize),
    Deliver(usize),
    Repeat(usize),
    Lose(usize),
    Begin(usize),
    Commit(usize, u64),
    Abort(usize),
    /// The request tells how it ended.
    End(usize),
    /// The request is gone, and nobody tells.
    Abandon(usize),
    /// No transaction of an abandoned request can commit any more.
    Settle(usize),
    Crash(usize),
    Bury(u128),
    Rejoin(usize),
    MarkDead(u128),
    SettleLease(u128),
    Delete,
    DeleteEdited,
    ChangeLimit(u64),
    Copy,
    FailOver,
    SendBeat(usize),
    TakeBeat(usize),
    HearBeat(usize),
    Watch(usize, u128),
    /// Time goes by, but not by this replica's clock.
    Tick(Option<usize>),
}

impl Config {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        for replica in 0..state.replicas.len() {
            self.replica_actions(state, replica, actions);
        }
        for (index, message) in state.messages.iter().enumerate() {
            actions.push(Action::Deliver(index));
            if self.lossy {
                actions.push(Action::Lose(index));
            }
            if state.left.repeats > 0 && self.has_room(state, message.replica) {
                actions.push(Action::Repeat(index));
            }
        }
        for (index, request) in state.requests.iter().enumerate() {
            self.request_actions(state, index, request, actions);
        }
        self.authority_actions(state, actions);
        if state.left.deletes > 0 {
            if state.rows > u64::from(state.edited) {
                actions.push(Action::Delete);
            }
            if state.edited {
                actions.push(Action::DeleteEdited);
            }
        }
        if state.left.limits > 0 {
            let others = self.other_limits.iter().filter(|limit| **limit != state.limit);
            actions.extend(others.map(|limit| Action::ChangeLimit(*limit)));
        }
        if state.left.failovers > 0 {
            actions.push(if state.copy.is_some() { Action::FailOver } else { Action::Copy });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action);
        self.balance(&mut state);
        state.sort();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(CEILING, |_, state: &State| state.rows <= state.ceiling),
            Property::always(BOUND, |_, state: &State| state.bound().is_none_or(|bound| state.rows <= bound)),
            Property::always(ONCE, |_, state: &State| state.fault != Some(Fault::Unbalanced)),
            Property::always(NOT_REFUSED, |_, state: &State| state.fault != Some(Fault::FalseRefusal)),
            Property::always(NOT_OVERTAKEN, |_, state: &State| state.fault != Some(Fault::Overtaken)),
            Property::always(REST, Self::comes_to_rest),
        ]
    }
}

impl Config {
    fn step(&self, state: &mut State, action: Action) {
        match action {
            Action::Begin(index) => state.requests[index].stage = self.begin(state, index),
            Action::Commit(index, rows) => self.commit(state, index, rows),
            Action::Abort(index) => {
                state.requests[index].stage = Stage::Aborted;
                if state.requests[index].edit && state.requests[index].open {
                    self.end(state, index);
                } else {
                    Self::forget_ended(state);
                }
            }
            Action::Delete => {
                state.left.deletes -= 1;
                state.rows -= 1;
            }
            Action::DeleteEdited => {
                state.left.deletes -= 1;
                state.rows -= 1;
                state.edited = false;
            }
            Action::ChangeLimit(limit) => {
                state.left.limits -= 1;
                state.limit_before = state.limit;
                state.limit = limit;
            }
            Action::Copy => {
                state.copy =
                    Some(Box::new(Copied { books: state.books.clone(), rows: state.rows, edited: state.edited }));
            }
            Action::FailOver => {
                state.left.failovers -= 1;
                if let Some(copied) = state.copy.take() {
                    (state.books, state.rows, state.edited) = (copied.books, copied.rows, copied.edited);
                }
                if !self.is(Mutant::OldEpoch) {
                    state.books.fail_over();
                }
                // Transactions that were open are gone.
                for request in &mut state.requests {
                    if request.stage == Stage::Begun {
                        request.stage = Stage::Aborted;
                    }
                }
                Self::forget_ended(state);
            }
            Action::Deliver(index) => {
                let message = state.messages.remove(index);
                self.deliver(state, &message, false);
            }
            Action::Repeat(index) => {
                state.left.repeats -= 1;
                let message = state.messages[index].clone();
                self.deliver(state, &message, true);
            }
            Action::Lose(index) => drop(state.messages.remove(index)),
            Action::Bury(id) => {
                state.left.burials = state.left.burials.saturating_sub(1);
                let beats = state.books.replicas.get(&id).map_or(0, |replica| replica.beats);
                state.books.bury(id, beats);
            }
            Action::MarkDead(lease) => state.books.kill(lease),
            Action::SettleLease(lease) => self.settle_lease(state, lease),
            Action::Tick(slow) => Self::tick(state, slow),
            other => self.replica_step(state, other),
        }
    }

    /// What a transaction meets that begins now.
    fn begin(&self, state: &State, index: usize) -> Stage {
        let lease = state.books.leases.get(&state.requests[index].lease);
        let lives = lease.is_some_and(|lease| lease.live || self.is(Mutant::MarkIgnored));
        // The fence is taken before the rows are made.
        if !self.fenced || lives || (self.is(Mutant::MarkIgnored) && lease.is_none()) {
            Stage::Begun
        } else {
            Stage::Aborted
        }
    }

    fn commit(&self, state: &mut State, index: usize, rows: u64) {
        let request = &mut state.requests[index];
        request.stage = Stage::Committed(rows);
        if !request.edit {
            state.rows += rows;
        } else if !state.edited {
            // The row was deleted meanwhile, and is made anew.
            state.edited = true;
            state.rows += 1;
        }
        Self::forget_ended(state);
    }

    /// Requests of which nobody will say anything are gone with their transaction.
    fn forget_ended(state: &mut State) {
        state.requests.retain(|request| request.open || request.abandoned || !request.has_ended());
    }

    fn request_actions(&self, state: &State, index: usize, request: &Request, actions: &mut Vec<Action>) {
        match request.stage {
            // The announcement failed.
            Stage::Announced(_) => actions.push(Action::Abort(index)),
            Stage::Heard => actions.push(Action::LookUp(index)),
            Stage::Admitted => actions.push(Action::Begin(index)),
            Stage::Begun => {
                // Some of the rows, or all; none is an abort.
                actions.extend((1..=request.units).map(|rows| Action::Commit(index, rows)));
                actions.push(Action::Abort(index));
            }
            Stage::Committed(_) | Stage::Aborted => {
                if request.open {
                    actions.push(Action::End(index));
                } else if request.abandoned {
                    actions.push(Action::Settle(index));
                }
            }
        }
        if request.open && state.left.unknown > 0 && !matches!(request.stage, Stage::Announced(_) | Stage::Heard) {
            actions.push(Action::Abandon(index));
        }
    }
}
