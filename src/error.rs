//! The crate's one error type.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// What went wrong in a call to this crate.
///
/// A refusal is not an error: it is [`Decision::Refused`](crate::Decision::Refused). An `Error` means that no decision
/// could be made, or that what was asked for makes no sense. The `is_*` methods tell which, and
/// [`source`](StdError::source) keeps what a database driver or a closure of the host said.
///
/// Cloning is cheap enough to tell several waiters of one failure.
#[derive(Clone)]
pub struct Error {
    kind: Kind,
    message: Arc<str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Config,
    InvalidInput,
    UnknownResource,
    NotFound,
    Conflict,
    Unavailable,
}

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into().into(), source: None }
    }

    /// A set-up that can't work: it says what to write instead, and is meant for the operator at start-up.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// Input of a caller that is out of range or malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidInput, message)
    }

    /// A resource type or limit field that the catalog doesn't have.
    pub fn unknown_resource(message: impl Into<String>) -> Self {
        Self::new(Kind::UnknownResource, message)
    }

    /// No quota record for this workspace, where records are provisioned explicitly.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// The record has another version than the one the caller named.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// A store, a count or a time-out: the answer is not to be had now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// Keeps the error that lies behind this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into().into());
        self
    }

    /// The set-up is wrong; trying again won't help.
    pub fn is_config(&self) -> bool {
        self.kind == Kind::Config
    }

    /// The caller's input is wrong (400 over HTTP).
    pub fn is_invalid(&self) -> bool {
        self.kind == Kind::InvalidInput
    }

    /// The resource type or limit field is unknown (400 `INVALID_RESOURCE_TYPE` over HTTP).
    pub fn is_unknown_resource(&self) -> bool {
        self.kind == Kind::UnknownResource
    }

    /// There is no quota record (404 over HTTP).
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// The record changed since the caller read it (412 over HTTP).
    pub fn is_conflict(&self) -> bool {
        self.kind == Kind::Conflict
    }

    /// A store or a count did not answer (503 over HTTP); trying again may help.
    pub fn is_unavailable(&self) -> bool {
        self.kind == Kind::Unavailable
    }

    /// What went wrong, without the causes behind it.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind).field("message", &self.message);
        if let Some(source) = &self.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
