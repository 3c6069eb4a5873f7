//! The state of one key, as a pure state machine.

use std::ops::RangeInclusive;

/// What is known of one key (a resource type of a workspace) at the place that grants units.
///
/// `None` as a limit means unlimited. Sums saturate: a bound that can't be told is a bound that nothing fits under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct KeyState {
    /// Rows at the last count; `None` before the first.
    counted: Option<u64>,
    /// Units posted since that count's mark.
    posted: u64,
    /// Rows that the last count didn't find, and that edits may have been about to make anew.
    carried: u64,
    /// Units that may still be posted: idle in a pool, or held by reservations.
    leased: u64,
    /// Units ever posted. Only grows, so that a count can tell what was posted since it took its mark.
    posts: u64,
    /// Rows that are being edited.
    edits: u64,
    /// Rows whose edit has ended. Only grows.
    edits_ended: u64,
    /// Rows that were said to be deleted. Only grows.
    deletes: u64,
    /// Units in flight during the last count, which it may have found already when they are posted.
    posted_twice: u64,
    /// Of the deletes, those that the last count has seen for sure.
    deletes_counted: u64,
    /// How often all was forgotten: a count from before tells nothing.
    epoch: u32,
}

/// Taken before the rows are read: what the count must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    posts: u64,
    edits_ended: u64,
    deletes: u64,
    epoch: u32,
}

impl KeyState {
    /// Rows by the last count and those posted since; `None` before the first count.
    pub(crate) fn rows(&self) -> Option<u64> {
        self.counted.map(|counted| counted.saturating_add(self.posted))
    }

    /// Rows at the last count; `None` before the first.
    pub(crate) fn counted(&self) -> Option<u64> {
        self.counted
    }

    /// How many rows there should be, at least and at most, as far as anybody told; `None` before the first count.
    ///
    /// [`rows`](Self::rows) is safe rather than exact: it doesn't trust in deletes, and may have units twice.
    pub(crate) fn believed(&self) -> Option<RangeInclusive<u64>> {
        let unsure =
            self.posted_twice.min(self.posted).saturating_add(self.deletes.saturating_sub(self.deletes_counted));
        self.rows().map(|rows| rows.saturating_sub(unsure)..=rows)
    }

    /// Units of requests in flight, beside the rows: what is leased, and what edits may make anew.
    pub(crate) fn reserved(&self) -> u64 {
        self.leased.saturating_add(self.carried)
    }

    /// Rows that requests in flight may still make, or make anew.
    pub(crate) fn in_flight(&self) -> u64 {
        self.leased.saturating_add(self.edits)
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.leased == 0 && self.edits == 0
    }

    /// Whether nothing was forgotten since `mark` was taken.
    pub(crate) fn is_of_now(&self, mark: Mark) -> bool {
        mark.epoch == self.epoch
    }

    /// Units posted since `mark` was taken.
    pub(crate) fn posts_since(&self, mark: Mark) -> u64 {
        self.posts.saturating_sub(mark.posts)
    }

    /// How many units can be granted under `limit`: none before the first count, since rows that nobody counted may
    /// already fill the limit.
    pub(crate) fn headroom(&self, limit: Option<u64>) -> u64 {
        match (limit, self.rows()) {
            (None, _) => u64::MAX - self.leased,
            (Some(_), None) => 0,
            (Some(limit), Some(rows)) => limit.saturating_sub(rows.saturating_add(self.reserved())),
        }
    }

    /// Leases `units`, all or none.
    pub(crate) fn grant(&mut self, units: u64, limit: Option<u64>) -> bool {
        let fits = units <= self.headroom(limit);
        if fits {
            self.leased += units;
        }
        fits
    }

    /// Leases `units` whatever the limit is: for requests that pass over the limit, so that they are in the bound.
    pub(crate) fn force(&mut self, units: u64) {
        self.leased = self.leased.saturating_add(units);
    }

    /// `units` became rows, or may have: the bound doesn't move.
    pub(crate) fn post(&mut self, units: u64) {
        self.leased = self.leased.saturating_sub(units);
        self.posted = self.posted.saturating_add(units);
        self.posts = self.posts.saturating_add(units);
    }

    /// `units` can't become rows any more.
    pub(crate) fn give_back(&mut self, units: u64) {
        self.leased = self.leased.saturating_sub(units);
    }

    /// An edit of `units` rows begins. That they exist must be found out after this call.
    ///
    /// An edit costs nothing, since its rows are in the bound. But a row may be deleted meanwhile and counted as gone,
    /// and the edit make it anew: see [`apply`](Self::apply).
    pub(crate) fn begin_edit(&mut self, units: u64) {
        self.edits = self.edits.saturating_add(units);
    }

    /// The edit of `units` rows has ended, or found that they don't exist.
    pub(crate) fn end_edit(&mut self, units: u64) {
        self.edits = self.edits.saturating_sub(units);
        self.edits_ended = self.edits_ended.saturating_add(units);
    }

    /// `rows` were deleted, by the word of whoever did it. The bound moves only with the next count.
    pub(crate) fn delete(&mut self, rows: u64) {
        self.deletes = self.deletes.saturating_add(rows);
    }

    /// Nothing is known of the rows any more: they were changed without being in the bound.
    pub(crate) fn forget(&mut self) {
        self.counted = None;
        self.epoch += 1;
    }

    /// The mark of a count. Rows must be read in a snapshot that begins after this call.
    pub(crate) fn mark(&self) -> Mark {
        Mark { posts: self.posts, edits_ended: self.edits_ended, deletes: self.deletes, epoch: self.epoch }
    }

    /// The count that took `mark` found `rows`. `false` when all was forgotten meanwhile, so that it tells nothing.
    ///
    /// What was posted since the mark may or may not be among the rows, and is counted once more until the next count;
    /// so counts may overlap, and finish in any order.
    ///
    /// Of the rows that were edited since the mark, each may have been deleted before the rows were read, and made anew
    /// after. There are no more of those than edits, and never more rows than the bound allowed before: the smaller of
    /// both is carried on. While nobody deletes, that is nothing.
    pub(crate) fn apply(&mut self, mark: Mark, rows: u64) -> bool {
        if !self.is_of_now(mark) {
            return false;
        }
        let before = self.rows().map(|before| before.saturating_add(self.carried));
        let posted = self.posts_since(mark);
        let edited = self.edits.saturating_add(self.edits_ended.saturating_sub(mark.edits_ended));
        let missing = before.map(|before| before.saturating_sub(rows.saturating_add(posted)));
        self.counted = Some(rows);
        self.posted = posted;
        self.posted_twice = posted.saturating_add(self.leased);
        self.deletes_counted = mark.deletes;
        self.carried = edited.min(missing.unwrap_or(u64::MAX));
        true
    }
}
