//! Grace: for a time, a little more than the limit.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// For some resource types, up to `percentage` over the limit is allowed for `duration` from the first overrun.
///
/// It begins by itself when a creation would be refused, is the same for all replicas, and begins anew only after usage has
/// fallen below the limit. There is none in mode `strict`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grace {
    /// Whether there is any.
    pub enabled: bool,
    /// How much over the limit, in percent of it, rounded down.
    pub percentage: u32,
    /// For how long, in seconds.
    pub duration: u64,
    /// The resource types that have it.
    pub resources: Vec<String>,
}

impl Grace {
    /// The longest, in seconds: a year.
    pub const MAX_DURATION: u64 = 366 * 24 * 3600;
    /// The most over the limit, in percent.
    pub const MAX_PERCENTAGE: u32 = 1000;

    /// Grace of `percentage` for `duration`.
    pub fn new<I>(percentage: u32, duration: Duration, resources: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let resources = resources.into_iter().map(Into::into).collect();
        Self { enabled: true, percentage, duration: duration.as_secs(), resources }
    }

    /// Whether creations of `resource` have it.
    pub(crate) fn covers(&self, resource: &str) -> bool {
        self.enabled && self.percentage > 0 && self.resources.iter().any(|name| name == resource)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.percentage > Self::MAX_PERCENTAGE {
            let most = Self::MAX_PERCENTAGE;
            return Err(Error::invalid(format!("`percentage` is an integer of 0 to {most}; got {}", self.percentage)));
        }
        if !(1..=Self::MAX_DURATION).contains(&self.duration) {
            let most = Self::MAX_DURATION;
            return Err(Error::invalid(format!("`duration` is seconds, of 1 to {most}; got {}", self.duration)));
        }
        Ok(())
    }
}

/// A grace that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct GraceUse {
    /// The first overrun.
    pub started_at: Timestamp,
    /// From then on the limit itself counts again.
    pub ends_at: Timestamp,
    /// How much over the limit, in percent of it.
    pub percentage: u32,
}

impl GraceUse {
    pub(crate) fn begin(grace: &Grace, now: Timestamp) -> Self {
        let seconds = i64::try_from(grace.duration.min(Grace::MAX_DURATION)).unwrap_or_default();
        let ends_at = now.as_second().saturating_add(seconds);
        let ends_at = Timestamp::new(ends_at, now.subsec_nanosecond()).unwrap_or(Timestamp::MAX);
        Self { started_at: now, ends_at, percentage: grace.percentage }
    }

    /// Whether more than the limit is allowed.
    pub fn is_active(&self, at: Timestamp) -> bool {
        at < self.ends_at
    }
}
