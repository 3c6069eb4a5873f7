//! Time as the hot path can afford it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Milliseconds since the start, as of the last tick: reading it is one load, where asking the system costs as much
/// as the whole look-up. Good for judging ages of seconds, and nothing finer.
#[derive(Debug)]
pub(crate) struct CoarseClock {
    start: Instant,
    // Starts at 1, so that 0 can stand for "never".
    now: AtomicU64,
}

impl CoarseClock {
    /// How far the clock may lag behind.
    pub(crate) const TICK: Duration = Duration::from_millis(100);

    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), now: AtomicU64::new(1) }
    }

    pub(crate) fn tick(&self) {
        self.now.store(millis(self.start.elapsed()).saturating_add(1), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// The time this long after now.
    pub(crate) fn after(&self, duration: Duration) -> u64 {
        self.now().saturating_add(millis(duration))
    }
}

impl CoarseClock {
    /// Now, in ticks, for what is kept many times.
    pub(crate) fn ticks(&self) -> u32 {
        u32::try_from(self.now() / millis(Self::TICK)).unwrap_or(u32::MAX)
    }

    /// How long ago that was.
    pub(crate) fn since(&self, ticks: u32) -> Duration {
        Self::TICK * self.ticks().saturating_sub(ticks)
    }
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
