//! Error answers over HTTP: the codes, and the body that carries them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};

use crate::decision::Refusal;
use crate::error::Error;

/// The `error` field of an error answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The limit is reached; nothing was created. 429.
    QuotaExceeded,
    /// There is no quota record, and records are provisioned explicitly. 404.
    QuotaNotFound,
    /// An unknown resource type or limit field. 400.
    InvalidResourceType,
    /// Not an admin, or another workspace's token. 403.
    InsufficientPermissions,
    /// No token or a bad one. 401.
    Unauthenticated,
    /// Malformed JSON, a wrong type, a bad range. 400.
    InvalidRequest,
    /// A request names two different workspaces. 400.
    WorkspaceMismatch,
    /// `If-Match` names another version. 412.
    PreconditionFailed,
    /// The body is over the cap. 413.
    PayloadTooLarge,
    /// No such resource in this API. 404.
    NotFound,
    /// The path exists, the method doesn't. 405.
    MethodNotAllowed,
    /// The store can't answer and the policy is to fail closed. 503.
    QuotaUnavailable,
    /// A gateway has not got a request's body in time, or not whole. 408.
    RequestTimeout,
    /// A gateway has got no proper answer from the server behind it. 502.
    BadGateway,
    /// A gateway knows that the server behind it is down. 503.
    ServiceUnavailable,
    /// A gateway has got no answer from the server behind it in time. 504.
    GatewayTimeout,
}

impl ErrorCode {
    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::QuotaNotFound => "QUOTA_NOT_FOUND",
            Self::InvalidResourceType => "INVALID_RESOURCE_TYPE",
            Self::InsufficientPermissions => "INSUFFICIENT_PERMISSIONS",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::WorkspaceMismatch => "WORKSPACE_MISMATCH",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::QuotaUnavailable => "QUOTA_UNAVAILABLE",
            Self::RequestTimeout => "REQUEST_TIMEOUT",
            Self::BadGateway => "BAD_GATEWAY",
            Self::ServiceUnavailable => "SERVICE_UNAVAILABLE",
            Self::GatewayTimeout => "GATEWAY_TIMEOUT",
        }
    }

    /// The HTTP status that goes with the code.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::QuotaExceeded => StatusCode::TOO_MANY_REQUESTS,
            Self::QuotaNotFound | Self::NotFound => StatusCode::NOT_FOUND,
            Self::InvalidResourceType | Self::InvalidRequest | Self::WorkspaceMismatch => StatusCode::BAD_REQUEST,
            Self::InsufficientPermissions => StatusCode::FORBIDDEN,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::QuotaUnavailable | Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::GatewayTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// A short title that is the same for every occurrence, as RFC 9457 asks.
    const fn title(self) -> &'static str {
        match self {
            Self::QuotaExceeded => "Quota exceeded",
            Self::QuotaNotFound => "Quota record not found",
            Self::InvalidResourceType => "Invalid resource type",
            Self::InsufficientPermissions => "Insufficient permissions",
            Self::Unauthenticated => "Unauthenticated",
            Self::InvalidRequest => "Invalid request",
            Self::WorkspaceMismatch => "Workspace mismatch",
            Self::PreconditionFailed => "Precondition failed",
            Self::PayloadTooLarge => "Payload too large",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::QuotaUnavailable => "Quota unavailable",
            Self::RequestTimeout => "Request timeout",
            Self::BadGateway => "Bad gateway",
            Self::ServiceUnavailable => "Service unavailable",
            Self::GatewayTimeout => "Gateway timeout",
        }
    }
}

/// An error answer of the wire contract: `{"error", "message", "details"?}`.
///
/// ```
/// use tower_quota::{ErrorCode, Problem, ProblemFormat};
///
/// let problem = Problem::new(ErrorCode::InvalidRequest, "`increment` is an integer of 1 to 9223372036854775807");
/// assert!(problem.to_json(ProblemFormat::Json).starts_with(r#"{"error":"INVALID_REQUEST","message":"#));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    code: ErrorCode,
    message: String,
    details: Option<Value>,
    retry_after: Option<u64>,
}

/// What the client can read, as far as errors are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemFormat {
    /// `application/json`.
    Json,
    /// `application/problem+json` (RFC 9457): the same object and its standard members.
    ProblemJson,
}

impl ProblemFormat {
    /// The format that the request's `Accept` asks for: problem+json only where it is named.
    pub fn negotiate(headers: &HeaderMap) -> Self {
        let names_it = |value: &HeaderValue| {
            value.to_str().is_ok_and(|accept| {
                accept.split(',').any(|range| {
                    let mut parts = range.split(';').map(str::trim);
                    let named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/problem+json"));
                    // A weight of zero means "not this one" (RFC 9110, 12.4.2).
                    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
                    named && weight.and_then(|weight| weight.parse::<f32>().ok()).is_none_or(|weight| weight > 0.0)
                })
            })
        };
        match headers.get_all(header::ACCEPT).iter().any(names_it) {
            true => Self::ProblemJson,
            false => Self::Json,
        }
    }
}

/// The members of an error body, in the order in which they are written.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    error: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
}

impl Problem {
    /// An answer with `code` and a message that tells what to do instead.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None, retry_after: None }
    }

    /// Adds the machine-readable `details`.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Adds `Retry-After`, in seconds.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// `Retry-After` in seconds, where trying again may help.
    pub fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// The body of the wire contract, as a JSON text.
    ///
    /// In `application/problem+json` the same object has the standard members of RFC 9457, too.
    pub fn to_json(&self, format: ProblemFormat) -> String {
        let standard = format == ProblemFormat::ProblemJson;
        let body = Body {
            r#type: standard.then_some("about:blank"),
            title: standard.then_some(self.code.title()),
            status: standard.then_some(self.code.status().as_u16()),
            detail: standard.then_some(self.message.as_str()),
            error: self.code.as_str(),
            message: &self.message,
            details: self.details.as_ref(),
        };
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_string(&body).unwrap_or_default()
    }

    /// The whole answer, in `format`.
    pub fn to_response(&self, format: ProblemFormat) -> Response<Bytes> {
        let content_type = match format {
            ProblemFormat::Json => "application/json",
            ProblemFormat::ProblemJson => "application/problem+json",
        };
        let mut response = Response::new(Bytes::from(self.to_json(format)));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == ErrorCode::Unauthenticated {
            // RFC 9110, 11.6.1: a 401 names the scheme it wants.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let mut details = json!({
            "resourceType": refusal.resource.name(),
            "currentUsage": refusal.current_usage,
            "limit": refusal.limit,
            "requested": refusal.requested,
            "remaining": refusal.remaining,
        });
        if let Some(reserved) = refusal.reserved {
            details["reserved"] = reserved.into();
        }
        if let Some(top) = &refusal.cap {
            details["cappedBy"] = top.as_str().into();
        }
        let mut problem = Self::new(ErrorCode::QuotaExceeded, refusal.message()).with_details(details);
        // Retry-After has whole seconds; less than one would tell the client to try at once.
        problem.retry_after = refusal.retry_after.map(|after| after.as_secs().max(1));
        problem
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let code = if error.is_invalid() {
            ErrorCode::InvalidRequest
        } else if error.is_unknown_resource() {
            ErrorCode::InvalidResourceType
        } else if error.is_not_found() {
            ErrorCode::QuotaNotFound
        } else if error.is_conflict() {
            ErrorCode::PreconditionFailed
        } else {
            // What a database driver says is for the log, not for a client.
            return Self::new(ErrorCode::QuotaUnavailable, "the quota can't be checked now; try again")
                .with_retry_after(1);
        };
        Self::new(code, error.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_json_only_where_it_is_named() {
        let asked = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            ProblemFormat::negotiate(&headers)
        };
        assert_eq!(asked("*/*"), ProblemFormat::Json);
        assert_eq!(asked("application/json"), ProblemFormat::Json);
        assert_eq!(asked("text/html, application/problem+json;q=0.9"), ProblemFormat::ProblemJson);
        assert_eq!(asked("application/problem+json;q=0"), ProblemFormat::Json);
    }

    #[test]
    fn a_fault_is_never_told_as_a_refusal_and_hides_its_cause() {
        let problem = Problem::from(&Error::unavailable("no route to db.internal"));
        assert_eq!(problem.code().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!problem.message().contains("db.internal"));
    }
}
