//! What a response says about the rows that the request was to create.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};

use super::answer::{rate_limit_headers, warning_header};
use super::body::ResponseBody;
use super::request_body::ResponseMode;
use crate::decision::{DecisionReceipt, Demand};
use crate::engine::{Inner, Reservation};
use crate::resource::ResourceCatalog;
use crate::workspace::WorkspaceId;

/// What became of the rows that a request was to create, and so of its units.
///
/// As a rule its response's status tells. A service behind the layer that knows better says so in the response's extensions:
/// a proxy that answers 502 because it has sent nothing, for example.
///
/// ```
/// use http::{Response, StatusCode};
/// use tower_quota::RowOutcome;
///
/// let mut response = Response::new("nobody is there");
/// *response.status_mut() = StatusCode::BAD_GATEWAY;
/// response.extensions_mut().insert(RowOutcome::Voided);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOutcome {
    /// The rows exist.
    Posted,
    /// No row exists, and none can come to exist.
    Voided,
    /// Nobody can tell yet.
    Unknown,
}

/// nginx's status for a client that closed the connection.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl RowOutcome {
    #[inline]
    fn of_status(status: StatusCode) -> Self {
        match status {
            // After a redirect, too, the handler is done: a form that was posted may well have made its row.
            _ if status.is_success() || status.is_redirection() => Self::Posted,
            // A handler that was cut off by a time-out may have made its rows.
            StatusCode::REQUEST_TIMEOUT => Self::Unknown,
            _ if status.as_u16() == CLIENT_CLOSED_REQUEST => Self::Unknown,
            _ if status.is_client_error() => Self::Voided,
            _ => Self::Unknown,
        }
    }

    #[inline]
    fn end(self, reservation: Reservation) {
        match self {
            Self::Posted => reservation.post(),
            Self::Voided => reservation.void(),
            // Dropped, it is settled as abandoned.
            Self::Unknown => drop(reservation),
        }
    }
}

/// The outcome that gRPC headers or trailers tell; `None` when they have no `grpc-status`.
pub(super) fn grpc_outcome(headers: &HeaderMap) -> Option<RowOutcome> {
    let status = headers.get("grpc-status")?;
    Some(match status.as_bytes() {
        // OK
        b"0" => RowOutcome::Posted,
        // INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, FAILED_PRECONDITION, UNIMPLEMENTED, UNAUTHENTICATED:
        // the server refused the call, as with a 4xx.
        b"3" | b"5" | b"6" | b"7" | b"9" | b"12" | b"16" => RowOutcome::Voided,
        // Among them RESOURCE_EXHAUSTED and OUT_OF_RANGE, by which libraries also tell that the handler's answer was too large to be
        // sent: then it has done its work.
        _ => RowOutcome::Unknown,
    })
}

/// Whether a message is gRPC's, by its content type.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE) else { return false };
    let Some(rest) = content_type.as_bytes().strip_prefix(b"application/grpc") else { return false };
    // `application/grpc-web` has its trailers inside the body, where nobody else reads them.
    matches!(rest.first(), None | Some(b'+' | b';'))
}

/// What is left to do for a request once its outcome is known. Dropped, by a client that hangs up or a panic, its outcome isn't.
#[derive(Debug)]
pub(super) struct Pending {
    reservation: Reservation,
    // Boxed, since it is rare, and this is moved around with every request.
    after: Option<Box<After>>,
    /// Whether to add the `RateLimit` headers, and the names for them.
    headers: Option<ResourceCatalog>,
    /// What it was decided by, where that is asked for.
    receipt: Option<Box<DecisionReceipt>>,
}

/// What else the engine is told after a success.
pub(super) struct After {
    pub(super) quota: Arc<Inner>,
    pub(super) workspace: WorkspaceId,
    pub(super) demands: Vec<Demand>,
    pub(super) what: What,
    /// How long rows may come after the response.
    pub(super) late: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Rows were deleted.
    Deleted,
    /// Only a count tells how many rows were made.
    Count,
}

impl Pending {
    /// Its response tells about limits what `headers` and `receipt` are for.
    #[inline]
    pub(super) fn new(
        reservation: Reservation,
        after: Option<After>,
        headers: Option<ResourceCatalog>,
        receipt: Option<Box<DecisionReceipt>>,
    ) -> Self {
        Self { reservation, after: after.map(Box::new), headers, receipt }
    }

    /// Of a request that needs no units.
    pub(super) fn nothing(after: Option<After>) -> Self {
        Self::new(Reservation::nothing(), after, None, None)
    }

    /// From now on the handler may create rows.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.reservation.begin();
    }

    #[inline]
    pub(super) fn end(mut self, outcome: RowOutcome) {
        let reservation = mem::replace(&mut self.reservation, Reservation::nothing());
        match self.after.take() {
            None => outcome.end(reservation),
            Some(after) => after.end(reservation, outcome),
        }
    }

    /// Hands the request what ties its transactions to its units, where they are on lease.
    #[inline]
    pub(super) fn tie<B>(&self, request: &mut Request<B>) {
        #[cfg(feature = "postgres")]
        if self.reservation.is_leased() {
            request.extensions_mut().insert(self.reservation.fence());
        }
        #[cfg(not(feature = "postgres"))]
        let _ = request;
    }

    /// Settles the request by its response, or by the trailers that are still to come.
    pub(super) fn settle<M: ResponseMode<B>, B>(mut self, mut response: Response<B>) -> Response<M::Leaving> {
        self.tell(response.headers_mut());
        if let Some(receipt) = self.receipt.take() {
            response.extensions_mut().insert(*receipt);
        }
        if let Some(outcome) = response.extensions().get::<RowOutcome>().copied() {
            self.end(outcome);
        } else if response.status() == StatusCode::OK && is_grpc(response.headers()) {
            let Some(outcome) = grpc_outcome(response.headers()) else {
                return response.map(|body| M::made(ResponseBody::watched(body, self)));
            };
            self.end(outcome);
        } else {
            self.end(RowOutcome::of_status(response.status()));
        }
        response.map(M::passed)
    }

    /// Leaves the request to somebody who will never tell how it ended; answers with the headers for its response.
    #[cfg(feature = "authz")]
    pub(super) fn leave(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.tell(&mut headers);
        self.end(RowOutcome::Unknown);
        headers
    }

    /// What a response tells of limits.
    fn tell(&self, headers: &mut HeaderMap) {
        if let Some(warning) = warning_header(self.reservation.warnings()) {
            headers.insert(HeaderName::from_static("quota-warning"), warning);
        }
        if let Some(catalog) = &self.headers {
            rate_limit_headers(headers, &self.reservation, catalog);
        }
    }
}

impl Drop for Pending {
    #[inline]
    fn drop(&mut self) {
        if let Some(after) = self.after.take() {
            after.end(mem::replace(&mut self.reservation, Reservation::nothing()), RowOutcome::Unknown);
        }
    }
}

impl After {
    fn end(self, reservation: Reservation, outcome: RowOutcome) {
        match self.late.filter(|_| outcome != RowOutcome::Voided) {
            None => self.end_now(reservation, outcome),
            Some(late) => {
                // Not that of whoever drops it, who may be outside of any.
                let runtime = self.quota.runtime().clone();
                runtime.spawn(async move {
                    tokio::time::sleep(late).await;
                    self.end_now(reservation, outcome);
                });
            }
        }
    }

    fn end_now(self, reservation: Reservation, outcome: RowOutcome) {
        outcome.end(reservation);
        if outcome != RowOutcome::Voided {
            self.tell(outcome);
        }
    }

    fn tell(self, outcome: RowOutcome) {
        match self.what {
            // Where nobody can count, rows that may still be there must stay in the books.
            What::Deleted if outcome == RowOutcome::Unknown => {
                self.quota.may_be_deleted(&self.workspace, self.demands.into_iter());
            }
            What::Deleted => self.quota.deleted(&self.workspace, self.demands.into_iter()),
            What::Count => {
                let resources = self.demands.iter().map(|demand| demand.resource).collect();
                self.quota.count_behind(&self.workspace, resources);
            }
        }
    }
}

impl std::fmt::Debug for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("After").field("what", &self.what).finish_non_exhaustive()
    }
}

/// For header values that are made of numbers and checked identifiers.
pub(super) fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let outcome = |status| RowOutcome::of_status(StatusCode::from_u16(status).unwrap());
        for status in [200, 201, 202, 204, 299, 302, 303] {
            assert_eq!(outcome(status), RowOutcome::Posted, "{status}");
        }
        for status in [400, 401, 404, 409, 422, 429] {
            assert_eq!(outcome(status), RowOutcome::Voided, "{status}");
        }
        for status in [101, 408, 499, 500, 502, 503, 504, 599] {
            assert_eq!(outcome(status), RowOutcome::Unknown, "{status}");
        }
    }

    #[test]
    fn grpc_messages() {
        let named = |content_type: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            is_grpc(&headers)
        };
        assert!(named("application/grpc") && named("application/grpc+proto") && named("application/grpc;x=y"));
        assert!(!named("application/grpc-web+proto") && !named("application/json"));
    }
}
