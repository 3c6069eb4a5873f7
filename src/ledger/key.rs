//! The state of one key, as a pure state machine.

/// What is known of one key (a resource type of a workspace) at the place that grants units.
///
/// `None` as a limit means unlimited. Sums saturate: a bound that can't be told is a bound that nothing fits under.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct KeyState {
    /// Rows at the last count; `None` before the first.
    counted: Option<u64>,
    /// Units posted since that count's mark.
    posted: u64,
    /// Units that may still be posted: idle in a pool, or held by reservations.
    leased: u64,
    /// Units ever posted. Only grows, so that a count can tell what was posted since it took its mark.
    posts: u64,
    /// Counts applied: tells whether one came during somebody's edit.
    applied: u64,
    /// How often the rows were forgotten: a count that began before can't tell what happened since.
    forgotten: u64,
}

/// Taken before the rows are read: which posts the count must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    posts: u64,
    forgotten: u64,
}

impl KeyState {
    /// Rows that the ledger believes to exist; `None` before the first count.
    pub(crate) fn believed(&self) -> Option<u64> {
        self.counted.map(|counted| counted.saturating_add(self.posted))
    }

    /// Rows at the last count; `None` before the first.
    pub(crate) fn counted(&self) -> Option<u64> {
        self.counted
    }

    /// Units that may still be posted.
    pub(crate) fn leased(&self) -> u64 {
        self.leased
    }

    /// How many units can be granted under `limit`: none before the first count, since rows that nobody counted may
    /// already fill the limit.
    pub(crate) fn headroom(&self, limit: Option<u64>) -> u64 {
        match (limit, self.believed()) {
            (None, _) => u64::MAX - self.leased,
            (Some(_), None) => 0,
            (Some(limit), Some(believed)) => limit.saturating_sub(believed.saturating_add(self.leased)),
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

    /// How many counts have been applied: what an edit remembers.
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// An edit of `units` rows ended, that existed when [`applied`](Self::applied) was `applied`.
    ///
    /// The rows were in the bound when the edit began. They still are if no count has been applied since; otherwise
    /// they may have been deleted, counted as gone and made anew by the edit, and are posted. Either way a count that
    /// is under way may have seen them gone, and adds them to what it found.
    pub(crate) fn end_edit(&mut self, units: u64, applied: u64) {
        if self.applied != applied {
            return self.post(units);
        }
        self.leased = self.leased.saturating_sub(units);
        self.posts = self.posts.saturating_add(units);
    }

    /// Nothing is known of the rows any more: they were changed without being in the bound.
    pub(crate) fn forget(&mut self) {
        self.counted = None;
        self.forgotten += 1;
    }

    /// The mark of a count. Rows must be read in a snapshot that begins after this call.
    pub(crate) fn mark(&self) -> Mark {
        Mark { posts: self.posts, forgotten: self.forgotten }
    }

    /// The count that took `mark` found `rows`. What was posted since the mark may or may not be among them, and is
    /// counted once more until the next count; so counts may overlap, and finish in any order. A count that began before
    /// the rows were [forgotten](Self::forget) tells nothing.
    pub(crate) fn apply(&mut self, mark: Mark, rows: u64) {
        if self.forgotten != mark.forgotten {
            return;
        }
        self.counted = Some(rows);
        self.posted = self.posts.saturating_sub(mark.posts);
        self.applied += 1;
    }
}
