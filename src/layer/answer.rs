//! What the layer itself answers, and the headers that it adds.

use std::fmt::Write as _;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::outcome::{header_value, is_grpc};
use crate::decision::Refusal;
use crate::engine::{Reservation, Unit};
use crate::problem::{ErrorCode, Problem, ProblemFormat};
use crate::resource::ResourceCatalog;

/// Makes the answer to a refused request; for hosts whose clients expect another body than the contract's.
///
/// Closures are refusal responses too. gRPC calls are answered with a gRPC status whatever this says.
///
/// ```
/// use bytes::Bytes;
/// use http::{Response, request::Parts};
/// use tower_quota::{Refusal, RefusalResponse};
///
/// fn plain(refusal: &Refusal, _request: &Parts) -> Response<Bytes> {
///     let text = format!("You have {} of {}.", refusal.current_usage, refusal.limit);
///     let mut response = Response::new(text.into());
///     *response.status_mut() = http::StatusCode::PAYMENT_REQUIRED;
///     response
/// }
/// fn takes(_: impl RefusalResponse) {}
/// takes(plain);
/// ```
pub trait RefusalResponse: Send + Sync + 'static {
    /// The answer to `request`, which was refused with `refusal`.
    fn respond(&self, refusal: &Refusal, request: &Parts) -> Response<Bytes>;
}

impl<F> RefusalResponse for F
where
    F: Fn(&Refusal, &Parts) -> Response<Bytes> + Send + Sync + 'static,
{
    fn respond(&self, refusal: &Refusal, request: &Parts) -> Response<Bytes> {
        self(refusal, request)
    }
}

/// The answer of the wire contract.
pub(super) fn contract(refusal: &Refusal, request: &Parts) -> Response<Bytes> {
    Problem::from(refusal).to_response(ProblemFormat::negotiate(&request.headers))
}

/// How a client reads errors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ErrorForm {
    Http(ProblemFormat),
    Grpc,
}

impl ErrorForm {
    /// By the headers of its request.
    pub(crate) fn of(request: &HeaderMap) -> Self {
        if is_grpc(request) { Self::Grpc } else { Self::Http(ProblemFormat::negotiate(request)) }
    }

    pub(crate) fn answer(self, problem: &Problem) -> Response<Bytes> {
        match self {
            Self::Http(format) => problem.to_response(format),
            Self::Grpc => grpc(problem),
        }
    }
}

/// An error, as the client of this request reads it.
pub(super) fn problem(problem: &Problem, request: &HeaderMap) -> Response<Bytes> {
    ErrorForm::of(request).answer(problem)
}

/// A gRPC answer without messages: its status stands in the head.
pub(super) fn grpc(problem: &Problem) -> Response<Bytes> {
    // The numbers of google.rpc.Code.
    let status = match problem.code() {
        ErrorCode::QuotaExceeded | ErrorCode::PayloadTooLarge => "8",
        ErrorCode::QuotaNotFound | ErrorCode::NotFound => "5",
        ErrorCode::InvalidResourceType | ErrorCode::InvalidRequest | ErrorCode::WorkspaceMismatch => "3",
        ErrorCode::InsufficientPermissions => "7",
        ErrorCode::Unauthenticated => "16",
        ErrorCode::PreconditionFailed => "9",
        ErrorCode::MethodNotAllowed => "12",
        ErrorCode::QuotaUnavailable | ErrorCode::BadGateway | ErrorCode::ServiceUnavailable => "14",
        ErrorCode::RequestTimeout | ErrorCode::GatewayTimeout => "4",
    };
    // `grpc-message` is percent-encoded UTF-8 (gRPC over HTTP/2, "Responses").
    const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');
    let message = utf8_percent_encode(problem.message(), MESSAGE).to_string();
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    if let Some(message) = header_value(&message) {
        headers.insert("grpc-message", message);
    }
    response
}

/// `quota-warning`: what was over its limit in a request that passed, as a structured field (RFC 9651).
pub(super) fn warning_header(warnings: &[Refusal]) -> Option<HeaderValue> {
    let mut text = String::new();
    for warning in warnings {
        let separator = if text.is_empty() { "" } else { ", " };
        let (name, usage, limit) = (warning.resource.name(), warning.current_usage, warning.limit);
        // Writing to a string can't fail.
        let _ = write!(text, "{separator}\"{name}\";usage={usage};limit={limit}");
    }
    if text.is_empty() { None } else { header_value(&text) }
}

/// `RateLimit-Policy` and `RateLimit` (IETF draft-ietf-httpapi-ratelimit-headers-10) of an admitted request: the quota
/// and what is left of it, without a window, since a count doesn't come back with time.
pub(super) fn rate_limit_headers(headers: &mut HeaderMap, reservation: &Reservation, catalog: &ResourceCatalog) {
    let mut rooms: Vec<_> = reservation.units().iter().filter_map(Unit::room).collect();
    // Of a limit and caps above it, what leaves least.
    rooms.sort_unstable_by_key(|(resource, _, remaining)| (*resource, *remaining));
    rooms.dedup_by_key(|(resource, ..)| *resource);
    let mut fields = Fields::default();
    for (resource, limit, remaining) in rooms {
        fields.add(catalog.get(resource).name(), limit, remaining);
    }
    fields.insert(headers);
}

/// The same of a refused request.
pub(super) fn refused_rate_limit_headers(headers: &mut HeaderMap, refusal: &Refusal) {
    let mut fields = Fields::default();
    fields.add(refusal.resource.name(), refusal.limit, refusal.remaining);
    if let Some(after) = refusal.retry_after {
        // Writing to a string can't fail.
        let _ = write!(fields.limit, ";t={}", after.as_secs().max(1));
    }
    fields.insert(headers);
}

#[derive(Default)]
struct Fields {
    policy: String,
    limit: String,
}

impl Fields {
    fn add(&mut self, name: &str, limit: u64, remaining: u64) {
        let separator = if self.policy.is_empty() { "" } else { ", " };
        // Integers of structured fields have at most 15 digits (RFC 9651, 3.3.1).
        let fits = |number: u64| number.min(999_999_999_999_999);
        // Writing to a string can't fail.
        let _ = write!(self.policy, "{separator}\"{name}\";q={}", fits(limit));
        let _ = write!(self.limit, "{separator}\"{name}\";r={}", fits(remaining));
    }

    fn insert(self, headers: &mut HeaderMap) {
        if self.policy.is_empty() {
            return;
        }
        for (name, value) in [("ratelimit-policy", self.policy), ("ratelimit", self.limit)] {
            if let Some(value) = header_value(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

/// Replaces the status of a refusal, where the host wants another one.
pub(super) fn with_status(mut response: Response<Bytes>, status: Option<StatusCode>) -> Response<Bytes> {
    if let Some(status) = status {
        *response.status_mut() = status;
    }
    response
}
