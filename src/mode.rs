//! How strictly limits are enforced.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The environment variable that [`EnforcementMode::from_env`] reads.
pub const MODE_VARIABLE: &str = "QUOTA_ENFORCEMENT_MODE";

/// How strictly limits are enforced; the stricter is the greater.
///
/// | mode | at the limit | when the store can't answer |
/// |---|---|---|
/// | `off` | nothing is checked | passes |
/// | `warn` | passes with a warning (event, response header `quota-warning`) | passes |
/// | `enforce` | refuses new creations | last known limits, then [`OnFailure`](crate::OnFailure) (default: passes) |
/// | `strict` | refuses, also a create under a declared prefix that no rule maps | 503 |
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnforcementMode {
    /// Nothing is checked.
    Off,
    /// Requests over the limit pass, with a warning.
    Warn,
    /// Requests over the limit are refused.
    #[default]
    Enforce,
    /// As [`EnforcementMode::Enforce`], and what can't be checked is refused too.
    Strict,
}

impl EnforcementMode {
    /// The four modes.
    pub const ALL: [Self; 4] = [Self::Off, Self::Warn, Self::Enforce, Self::Strict];

    /// The mode's name on the wire and in the environment.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Warn => "warn",
            Self::Enforce => "enforce",
            Self::Strict => "strict",
        }
    }

    /// Whether a request over the limit is refused.
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Enforce | Self::Strict)
    }

    /// Reads `QUOTA_ENFORCEMENT_MODE`; `None` when it is not set.
    ///
    /// # Errors
    ///
    /// When it is set to anything but the four names.
    pub fn from_env() -> Result<Option<Self>, Error> {
        match std::env::var(MODE_VARIABLE) {
            Ok(value) => value.parse().map(Some),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(value)) => Err(unknown(&value.to_string_lossy())),
        }
    }
}

fn unknown(value: &str) -> Error {
    Error::config(format!("{MODE_VARIABLE} can't be {value:?}: write off, warn, enforce or strict"))
}

impl FromStr for EnforcementMode {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == value).ok_or_else(|| unknown(value))
    }
}

impl fmt::Display for EnforcementMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the mode in force came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ModeSource {
    /// Nothing said otherwise.
    Default,
    /// `QUOTA_ENFORCEMENT_MODE`.
    Environment,
    /// The host's code.
    Code,
    /// A call at run time, for example over the HTTP API.
    Runtime,
}

/// What is promised of limits: rows never exceed the limit in force when the last unit was granted, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Promise {
    /// ... whatever happens to processes and messages.
    Exact,
    /// ... but by those of requests that were in flight when a replica stood still, or was cut off, for longer than its
    /// leases last, where its handlers don't fence; and by what the ledger was not told of, or told wrongly, where it
    /// [alone counts](crate::QuotaBuilder::tally).
    Bounded,
}
