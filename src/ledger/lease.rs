//! The state of one key at a replica: the units that the authority has leased to it, as a pure state machine.

/// What a replica says about a lease. Each number only grows, so that to hear it twice, or late, changes nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Totals {
    /// Units that became rows, or may have.
    pub(crate) posted: u64,
    /// Units that the replica doesn't use any more.
    pub(crate) returned: u64,
    /// Rows whose edit began.
    pub(crate) edits: u64,
    /// Rows whose edit ended.
    pub(crate) edits_ended: u64,
}

impl Totals {
    /// Both brought together.
    pub(crate) fn merged(self, other: Self) -> Self {
        Self {
            posted: self.posted.max(other.posted),
            returned: self.returned.max(other.returned),
            edits: self.edits.max(other.edits),
            edits_ended: self.edits_ended.max(other.edits_ended),
        }
    }
}

/// One request to the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ask {
    /// The number of the request for units. It is used again until it is known what became of it.
    pub(crate) seq: u64,
    pub(crate) totals: Totals,
    /// The least that is of use, on top of what the replica has. 0 asks for nothing.
    pub(crate) need: u64,
    /// What all that wait here need.
    pub(crate) queued: u64,
    /// What would be good to have in store.
    pub(crate) spare: u64,
    /// Count the rows, whether or not that is needed to decide.
    pub(crate) recount: bool,
}

/// What the authority knows of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    /// Rows at the last count.
    pub(crate) counted: u64,
    /// Units posted since.
    pub(crate) posted: u64,
    /// Units that may become rows: leased to any replica, or carried for edits.
    pub(crate) reserved: u64,
    /// The limit in force; `None` is unlimited.
    pub(crate) limit: Option<u64>,
}

/// The authority's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    /// Units that are the replica's from now on, over and above those it has.
    pub(crate) granted: u64,
    /// A need was not met. The replica stands in the queue of the authority until it asks again or says that nobody waits.
    pub(crate) waits: bool,
    /// Counted for this request.
    pub(crate) counted: bool,
    pub(crate) known: Known,
}

/// Units leased to this replica.
///
/// Of what was granted, some were posted, some returned, some are *held* (by requests, or idle in the pool), and the
/// rest is idle. Units held past what was granted (by requests that pass over the limit) are paid back by later grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct LeaseState {
    /// Random, and never used again.
    id: u128,
    granted: u64,
    held: u64,
    /// Units of requests of which nobody will ever tell what they did. They end with the lease.
    lost: u64,
    /// The same of rows that were to be edited.
    lost_edits: u64,
    totals: Totals,
    /// What the authority has heard.
    told: Totals,
    /// The authority was asked for the first time, and whether it has heard that.
    first_ask: Option<bool>,
    /// Requests for units whose answers are known.
    answered: u64,
    /// One more is under way, or was lost on it.
    asking: bool,
    /// What it is granted is of before a change of the limit: for those who wait, and not to be kept in store.
    late: bool,
    /// How much to ask for in store. Doubles with every request.
    spare: u64,
    /// Nothing is granted before the rows were counted.
    stale: bool,
    /// The authority holds a place in its queue.
    waits: bool,
    /// Idle units and posts when last looked at, to find out whether the key is in use.
    seen: (u64, u64),
    known: Option<Known>,
}

impl LeaseState {
    /// The most that is asked for in store.
    const MOST_SPARE: u64 = 4096;

    pub(crate) fn new(id: u128) -> Self {
        Self { id, stale: true, spare: 1, ..Self::default() }
    }

    pub(crate) fn id(&self) -> u128 {
        self.id
    }

    pub(crate) fn known(&self) -> Option<&Known> {
        self.known.as_ref()
    }

    /// Units that nobody uses.
    fn idle(&self) -> u64 {
        let used = self.totals.posted.saturating_add(self.totals.returned);
        self.granted.saturating_sub(used.saturating_add(self.held).saturating_add(self.lost))
    }

    /// How many units can be handed out without asking.
    pub(crate) fn headroom(&self) -> u64 {
        if self.stale { 0 } else { self.idle() }
    }

    pub(crate) fn hold(&mut self, units: u64) {
        self.held = self.held.saturating_add(units);
    }

    pub(crate) fn post(&mut self, units: u64) {
        self.held = self.held.saturating_sub(units);
        self.totals.posted = self.totals.posted.saturating_add(units);
    }

    pub(crate) fn give_back(&mut self, units: u64) {
        self.held = self.held.saturating_sub(units);
    }

    /// What became of `units` will never be known.
    pub(crate) fn lose(&mut self, units: u64) {
        self.held = self.held.saturating_sub(units);
        self.lost = self.lost.saturating_add(units);
    }

    /// What became of the edit of `units` rows will never be known.
    pub(crate) fn lose_edit(&mut self, units: u64) {
        self.lost_edits = self.lost_edits.saturating_add(units);
    }

    /// How much of it ends only with the lease: units, and rows that were to be edited.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.saturating_add(self.lost_edits)
    }

    pub(crate) fn begin_edit(&mut self, units: u64) {
        self.totals.edits = self.totals.edits.saturating_add(units);
    }

    pub(crate) fn end_edit(&mut self, units: u64) {
        self.totals.edits_ended = self.totals.edits_ended.saturating_add(units).min(self.totals.edits);
    }

    /// Nothing is handed out before the rows were counted again.
    pub(crate) fn forget(&mut self) {
        self.stale = true;
    }

    /// Rows as far as they are known, and units of this replica's requests in flight.
    pub(crate) fn used(&self) -> u64 {
        let untold = self.totals.posted.saturating_sub(self.told.posted);
        let known = self.known.map_or(0, |known| known.counted.saturating_add(known.posted));
        known.saturating_add(untold).saturating_add(self.held)
    }

    /// Units of this replica's requests in flight.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Whether no request of this replica is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.held == 0 && self.totals.edits == self.totals.edits_ended.saturating_add(self.lost_edits)
    }

    /// Whether requests anywhere may be in flight. Idle units of other replicas look the same: they are called back first.
    pub(crate) fn others_in_flight(&self) -> bool {
        !self.is_idle() || self.known.is_some_and(|known| known.reserved > 0)
    }

    /// Whether there is anything that the authority hasn't heard.
    pub(crate) fn has_news(&self) -> bool {
        self.told != self.totals || self.asking
    }

    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// Gives all idle units back to the authority, with the next request.
    pub(crate) fn return_idle(&mut self) {
        self.totals.returned = self.totals.returned.saturating_add(self.idle());
        self.spare = 1;
    }

    /// The limit has changed: whatever is handed out from now on is asked for under the new one.
    pub(crate) fn limit_changed(&mut self) {
        self.return_idle();
        self.late |= self.asking;
    }

    /// Those who waited for an answer have been served.
    pub(crate) fn served(&mut self) {
        if std::mem::take(&mut self.late) {
            self.return_idle();
        }
    }

    /// Gives idle units back if none was used since the last look.
    pub(crate) fn return_unused(&mut self) {
        let now = (self.idle(), self.totals.posted);
        if self.seen == now && now.0 > 0 {
            self.return_idle();
        }
        self.seen = (self.idle(), self.totals.posted);
    }

    /// The request for those who wait: the first needs `need`, and all of them `queued`. Without any, it gives up the
    /// place in the authority's queue.
    pub(crate) fn ask(&mut self, need: u64, queued: u64) -> Ask {
        if self.waits {
            // Two replicas that each hold a part of what they need would wait for each other.
            self.return_idle();
        }
        let idle = self.idle();
        let need = need.saturating_sub(idle);
        self.asking |= need > 0;
        self.first_ask.get_or_insert(false);
        let ask = Ask {
            seq: self.answered.saturating_add(1),
            totals: self.totals,
            need,
            queued: queued.saturating_sub(idle).max(need),
            spare: if need > 0 { self.spare } else { 0 },
            recount: self.stale,
        };
        if need > 0 {
            self.spare = Self::MOST_SPARE.min(self.spare.saturating_mul(2));
        }
        ask
    }

    /// A request that asks for no units.
    pub(crate) fn report(&mut self, recount: bool) -> Ask {
        self.first_ask.get_or_insert(false);
        Ask { seq: 0, totals: self.totals, need: 0, queued: 0, spare: 0, recount }
    }

    /// The authority's answer to `ask`.
    pub(crate) fn answered(&mut self, ask: &Ask, answer: &Answer) {
        self.told = self.told.merged(ask.totals);
        self.first_ask = Some(true);
        self.known = Some(answer.known);
        self.stale &= !answer.counted;
        if ask.seq > 0 {
            self.waits = answer.waits;
        }
        if ask.need > 0 {
            self.settle_ask(ask.seq, answer.granted);
        }
    }

    /// The authority has heard `totals`; the last request for units that it answered was number `seq`, with `granted`.
    pub(crate) fn heard(&mut self, totals: Totals, seq: u64, granted: u64) {
        self.told = self.told.merged(totals);
        self.first_ask = Some(true);
        self.settle_ask(seq, granted);
    }

    /// The authority doesn't know the lease, or not any more. Answers how many posted units it has never heard of.
    pub(crate) fn unheard(&mut self, totals: Totals) -> u64 {
        let news = totals.posted.saturating_sub(self.told.posted);
        self.told = self.told.merged(totals);
        news
    }

    /// Whether the lease may not have begun yet: the first request is under way, or was lost on it.
    pub(crate) fn may_begin(&self) -> bool {
        self.first_ask == Some(false)
    }

    /// Each request is counted once, however often its answer comes.
    fn settle_ask(&mut self, seq: u64, granted: u64) {
        if seq == self.answered.saturating_add(1) {
            self.answered = seq;
            self.asking = false;
            self.granted = self.granted.saturating_add(granted);
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }
}
