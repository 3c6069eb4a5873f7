//! Why a call had no success.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a call of a [`QuotaClient`](super::QuotaClient) had no success.
///
/// The `is_*` methods tell which of these it is: the server can't be reached, it has answered with an error of the
/// contract, it has answered something that is none of its answers, or the client was set up or called wrongly.
pub struct ClientError(Box<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

#[derive(Debug)]
enum Kind {
    Invalid,
    Unreachable,
    Unreadable,
    Answer(Answer),
}

/// An error answer.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    code: Option<String>,
    details: Option<Value>,
    exceeded: Option<QuotaExceeded>,
    retry_after: Option<Duration>,
}

/// The evidence of a refusal: the `details` of a `QUOTA_EXCEEDED`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct QuotaExceeded {
    /// Of what.
    pub resource_type: String,
    /// Rows that exist.
    pub current_usage: u64,
    /// The limit in force.
    pub limit: u64,
    /// Units asked for.
    pub requested: u64,
    /// Units that are left, beside rows and requests in flight.
    pub remaining: u64,
    /// Units of requests in flight, where only those stand in the way: to try again may help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<u64>,
    /// The workspace whose cap on itself and all below it stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capped_by: Option<String>,
}

impl ClientError {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, message)
    }

    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unreadable, message)
    }

    pub(super) fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The error that an answer with `status` and `body` is.
    pub(super) fn answered(status: StatusCode, body: &[u8], retry_after: Option<Duration>) -> Self {
        /// As the contract has it; a proxy may answer anything.
        #[derive(Deserialize)]
        struct Body {
            error: String,
            message: String,
            details: Option<Value>,
        }

        let body: Option<Body> = serde_json::from_slice(body).ok();
        let message = match &body {
            Some(body) => body.message.clone(),
            None if status.is_redirection() => {
                format!("the server redirects ({status}), which is not followed: use the URL that it redirects to")
            }
            None => format!("the server answered {status}"),
        };
        let (code, details) = body.map_or((None, None), |body| (Some(body.error), body.details));
        let exceeded = details
            .as_ref()
            .filter(|_| code.as_deref() == Some("QUOTA_EXCEEDED"))
            .and_then(|details| QuotaExceeded::deserialize(details).ok());
        Self::new(Kind::Answer(Answer { status, code, details, exceeded, retry_after }), message)
    }

    fn answer(&self) -> Option<&Answer> {
        match &self.0.kind {
            Kind::Answer(answer) => Some(answer),
            _ => None,
        }
    }

    fn has(&self, status: StatusCode) -> bool {
        self.status() == Some(status)
    }

    /// What went wrong, without the causes behind it.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The status of the answer, where there was one.
    pub fn status(&self) -> Option<StatusCode> {
        self.answer().map(|answer| answer.status)
    }

    /// The contract's code of the answer, such as `INVALID_REQUEST`; `None` where the quota API has not answered.
    pub fn code(&self) -> Option<&str> {
        self.answer()?.code.as_deref()
    }

    /// The answer's `details`.
    pub fn details(&self) -> Option<&Value> {
        self.answer()?.details.as_ref()
    }

    /// After which time to try again may help.
    pub fn retry_after(&self) -> Option<Duration> {
        self.answer()?.retry_after
    }

    /// The evidence of a refusal.
    pub fn quota_exceeded(&self) -> Option<&QuotaExceeded> {
        self.answer()?.exceeded.as_ref()
    }

    /// The limit is reached (429 `QUOTA_EXCEEDED`).
    pub fn is_quota_exceeded(&self) -> bool {
        self.code() == Some("QUOTA_EXCEEDED")
    }

    /// There is no token, or the server doesn't know it (401).
    pub fn is_unauthenticated(&self) -> bool {
        self.has(StatusCode::UNAUTHORIZED)
    }

    /// The token may not do this (403).
    pub fn is_forbidden(&self) -> bool {
        self.has(StatusCode::FORBIDDEN)
    }

    /// There is no such thing: a workspace without a record, a plan, an override, or a path of the API (404).
    pub fn is_not_found(&self) -> bool {
        self.has(StatusCode::NOT_FOUND)
    }

    /// Something is not as the call takes it to be: another version, a request that is decided, a plan in use (412).
    pub fn is_conflict(&self) -> bool {
        self.has(StatusCode::PRECONDITION_FAILED)
    }

    /// The server makes no sense of the call (400).
    pub fn is_bad_request(&self) -> bool {
        self.has(StatusCode::BAD_REQUEST)
    }

    /// The server can't answer now (503).
    pub fn is_unavailable(&self) -> bool {
        self.has(StatusCode::SERVICE_UNAVAILABLE)
    }

    /// No answer came: no connection, or not in time. What was asked for may have been done all the same.
    pub fn is_unreachable(&self) -> bool {
        matches!(self.0.kind, Kind::Unreachable)
    }

    /// An answer came that no quota API gives: the URL may lead to something else.
    pub fn is_unreadable(&self) -> bool {
        matches!(self.0.kind, Kind::Unreadable)
    }

    /// The client was set up or called with something that makes no request.
    pub fn is_invalid(&self) -> bool {
        matches!(self.0.kind, Kind::Invalid)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code() {
            Some(code) => write!(f, "{code}: {}", self.message()),
            None => f.write_str(self.message()),
        }
    }
}

impl fmt::Debug for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, source } = &*self.0;
        f.debug_struct("ClientError").field("kind", kind).field("message", message).field("source", source).finish()
    }
}

impl StdError for ClientError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}
