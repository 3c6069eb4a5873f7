//! What the engine tells of itself in numbers: every name, label and meaning is here and in `recorded`.
//!
//! The engine calls the methods of [`Metrics`], whatever is built in. Without the feature `metrics` they are empty, and
//! nothing is kept.

#[cfg(feature = "metrics")]
mod recorded;
#[cfg(not(feature = "metrics"))]
mod silent;

#[cfg(feature = "metrics")]
pub use recorded::DECISION_SECONDS_BUCKETS;
#[cfg(feature = "metrics")]
pub(crate) use recorded::{Metrics, Stopwatch};
#[cfg(not(feature = "metrics"))]
pub(crate) use silent::{Metrics, Stopwatch};

use crate::decision::Refusal;
use crate::error::Error;

/// What became of a request's demand for one resource type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// New rows may be made.
    Admitted,
    /// All of its rows exist already, and cost nothing.
    Edited,
    /// Passes over the limit with a warning: in mode `warn`, or in grace.
    Warned,
    /// Rows and demand are over the limit.
    Refused,
    /// Only requests in flight stand in the way, and have done so for `max_wait`.
    Blocked,
    /// Passes although nothing could be decided.
    Undecided,
    /// Answered with an error, since nothing could be decided.
    Failed,
    /// There is no quota record, and records are provisioned explicitly.
    Unprovisioned,
}

#[cfg(feature = "metrics")]
impl Outcome {
    const ALL: [Self; 8] = [
        Self::Admitted,
        Self::Edited,
        Self::Warned,
        Self::Refused,
        Self::Blocked,
        Self::Undecided,
        Self::Failed,
        Self::Unprovisioned,
    ];
}

impl Outcome {
    /// Of a request that is answered with `error`, since nothing could be decided.
    pub(crate) fn of_error(error: &Error) -> Self {
        if error.is_not_found() { Self::Unprovisioned } else { Self::Failed }
    }

    /// Of one that is refused.
    pub(crate) fn of_refusal(refusal: &Refusal) -> Self {
        if refusal.reserved.is_some() { Self::Blocked } else { Self::Refused }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Edited => "edited",
            Self::Warned => "warned",
            Self::Refused => "refused",
            Self::Blocked => "blocked",
            Self::Undecided => "undecided",
            Self::Failed => "failed",
            Self::Unprovisioned => "unprovisioned",
        }
    }
}
