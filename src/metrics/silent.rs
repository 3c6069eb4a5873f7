//! Nothing is told.

use super::Outcome;
use crate::error::Error;
use crate::events::{DeliveryStatus, Threshold};
use crate::resource::{ResourceCatalog, ResourceId};

/// Tells nobody anything.
#[derive(Debug)]
pub(crate) struct Metrics;

/// Measures nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch;

impl Stopwatch {
    #[inline]
    pub(crate) fn start() -> Self {
        Self
    }
}

#[allow(clippy::unused_self, reason = "they are those of the other implementation")]
impl Metrics {
    pub(crate) fn new(_: &ResourceCatalog, _: bool) -> Self {
        Self
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        false
    }

    #[inline]
    pub(crate) fn admitted(&self, _: ResourceId) {}

    #[inline]
    pub(crate) fn decided(&self, _: ResourceId, _: Outcome) {}

    #[inline]
    pub(crate) fn took(&self, _: Stopwatch, _: Outcome) {}

    #[inline]
    pub(crate) fn counted(&self, _: ResourceId) {}

    #[inline]
    pub(crate) fn refusal_averted(&self, _: ResourceId) {}

    #[inline]
    pub(crate) fn corrected(&self, _: ResourceId, _: u64, _: u64) {}

    #[inline]
    pub(crate) fn breached(&self, _: ResourceId, _: u64) {}

    #[inline]
    pub(crate) fn stranded(&self, _: usize, _: u64) {}

    #[inline]
    pub(crate) fn settled(&self, _: usize, _: u64) {}

    #[inline]
    pub(crate) fn leases_lost(&self, _: usize) {}

    #[inline]
    pub(crate) fn noticed(&self, _: Threshold) {}

    #[inline]
    #[cfg_attr(not(any(feature = "webhooks", feature = "email")), allow(dead_code, reason = "nothing is delivered"))]
    pub(crate) fn delivered(&self, _: bool, _: DeliveryStatus) {}

    #[inline]
    pub(crate) fn failed(&self, _: &str, _: &Error) {}

    #[inline]
    pub(crate) fn timed_out(&self, _: &str) {}
}
