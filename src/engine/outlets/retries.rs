//! When a delivery that has failed is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

/// When a delivery that has failed is tried again: later and later, by chance up to twice as late, so that not all come at once.
///
/// By default after 5 seconds, then three times as late each time, up to twelve hours: 14 tries over some three to six days.
///
/// ```
/// use std::time::Duration;
/// use tower_quota::DeliveryRetries;
///
/// let retries = DeliveryRetries::default().first(Duration::from_secs(1)).tries(5);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DeliveryRetries {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Default for DeliveryRetries {
    fn default() -> Self {
        Self { first: Duration::from_secs(5), longest: Duration::from_secs(12 * 3600), tries: 14 }
    }
}

impl DeliveryRetries {
    /// The shortest time after the first failure; five seconds by default.
    #[must_use]
    pub fn first(mut self, time: Duration) -> Self {
        self.first = time;
        self
    }

    /// The longest time that is waited, without what chance adds; twelve hours by default.
    #[must_use]
    pub fn longest(mut self, time: Duration) -> Self {
        self.longest = time;
        self
    }

    /// How often a delivery is tried in all before it is given up; 14 times by default, once at least.
    #[must_use]
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// How long to wait after `tries` tries; `None` where that were enough.
    pub(super) fn after(&self, tries: u32) -> Option<Duration> {
        if tries >= self.tries {
            return None;
        }
        let delays = ExponentialBuilder::new()
            .with_min_delay(self.first)
            .with_max_delay(self.longest)
            .with_factor(3.0)
            .without_max_times()
            .with_jitter();
        delays.build().nth(usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_made_over_days_and_then_no_more() {
        let retries = DeliveryRetries::default();
        let waits: Vec<_> = (1..14).map(|tries| retries.after(tries).unwrap().as_secs_f64()).collect();
        for (wait, least) in
            waits.iter().zip([5.0, 15.0, 45.0, 135.0, 405.0, 1215.0, 3645.0, 10935.0, 32805.0, 43200.0])
        {
            assert!((least..=2.0 * least).contains(wait), "{waits:?}");
        }
        let days = waits.iter().sum::<f64>() / 86400.0;
        assert!((2.5..6.0).contains(&days), "{days}");
        assert_eq!((retries.after(14), retries.after(15)), (None, None));
    }
}
