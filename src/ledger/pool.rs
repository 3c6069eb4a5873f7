//! Units leased in advance, in one atomic word.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Units that requests may take, and units whose rows exist but which the key's state doesn't know yet.
///
/// Both counts and the flag that closes the pool are one word: whoever changes one of them sees the others as they
/// are at that moment. A closed pool hands out nothing and takes nothing; its callers go to the lock of the cell.
///
/// ```text
/// 63      62..32    31..0
/// closed  settled   idle
/// ```
#[derive(Debug)]
pub(crate) struct Pool(AtomicU64);

const IDLE_BITS: u32 = 32;
const IDLE: u64 = (1 << IDLE_BITS) - 1;
const CLOSED: u64 = 1 << 63;
const SETTLED_MAX: u64 = (1 << 31) - 1;

const fn idle(word: u64) -> u64 {
    word & IDLE
}

const fn settled(word: u64) -> u64 {
    (word & !CLOSED) >> IDLE_BITS
}

/// What was in a pool when it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) idle: u64,
    pub(crate) settled: u64,
}

impl Pool {
    /// The most units a pool holds; a key with more headroom fills it again.
    pub(crate) const MAX: u64 = IDLE;

    /// A pool that is closed.
    pub(crate) fn closed() -> Self {
        Self(AtomicU64::new(CLOSED))
    }

    /// Takes `units`, all or none; answers how many are left. `None` when there are too few or the pool is closed.
    #[inline]
    pub(crate) fn take(&self, units: u64) -> Option<u64> {
        let taken = |word: u64| (word & CLOSED == 0 && units <= idle(word)).then(|| word - units);
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).ok()?;
        Some(idle(before) - units)
    }

    /// Puts back `units` that became no rows. `false` when the pool is closed or full: they are still the caller's.
    #[inline]
    pub(crate) fn put_back(&self, units: u64) -> bool {
        let put = |word: u64| (word & CLOSED == 0 && units <= IDLE - idle(word)).then(|| word + units);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, put).is_ok()
    }

    /// Notes `units` that became rows. `false` when the pool is closed or can't hold the note.
    #[inline]
    pub(crate) fn settle(&self, units: u64) -> bool {
        let noted = |word: u64| {
            let room = SETTLED_MAX - settled(word);
            (word & CLOSED == 0 && units <= room).then(|| word + (units << IDLE_BITS))
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, noted).is_ok()
    }

    /// Closes the pool and takes out what it has; nothing when it is closed already.
    pub(crate) fn close(&self) -> Contents {
        let word = self.0.swap(CLOSED, Ordering::AcqRel);
        Contents { idle: idle(word), settled: settled(word) }
    }

    /// Opens a closed pool with `units` in it, at most [`Pool::MAX`]. Only the holder of the cell's lock opens it.
    pub(crate) fn open(&self, units: u64) {
        self.0.store(units.min(Self::MAX), Ordering::Release);
    }
}
