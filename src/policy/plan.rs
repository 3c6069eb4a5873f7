//! Plans: named sets of limits.

use std::sync::Arc;

use jiff::Timestamp;

use crate::error::Error;
use crate::limit::LimitSet;
use crate::resource::shown;

/// A named set of limits. Workspaces to which it is assigned have its limits where they have none of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Its name.
    pub name: Arc<str>,
    /// 1 when made, and one more with every change.
    pub version: u64,
    /// Its limits; a resource type that is not among them is left to what comes after plans.
    pub limits: LimitSet,
    /// When it was made (UTC).
    pub created_at: Timestamp,
    /// When it was last changed (UTC).
    pub updated_at: Timestamp,
}

impl Plan {
    /// A plan as a store holds it.
    pub fn new(name: Arc<str>, version: u64, limits: LimitSet, created_at: Timestamp, updated_at: Timestamp) -> Self {
        Self { name, version, limits, created_at, updated_at }
    }

    /// Refuses what could not stand in a path or a log as it is.
    pub(crate) fn check_name(name: &str) -> Result<(), Error> {
        const LONGEST: usize = 63;
        let fits = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_' | b'.');
        let starts = name.bytes().next().is_some_and(|letter| letter.is_ascii_alphanumeric());
        if starts && name.len() <= LONGEST && name.bytes().all(fits) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a plan can't be called {}: write a letter or digit, then letters, digits, `-`, `_` and `.`, at most \
             {LONGEST} of them",
            shown(name)
        )))
    }
}
