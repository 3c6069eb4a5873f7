//! How an operation fails, and how that failure becomes an answer.

use std::error::Error as StdError;

use axum::body::Body;
use axum::extract::{MatchedPath, OriginalUri, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use tracing::{Instrument, Span};

use crate::error::Error;
use crate::problem::{Problem, ProblemFormat};
use crate::spans;

/// What handlers and extractors return instead of an answer.
///
/// Neither knows what the client accepts, so that the problem travels in the extensions of an otherwise empty response,
/// up to [`finish`].
#[derive(Debug, Clone)]
pub(super) struct Failure(Problem);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let problem = Problem::from(&error);
        if problem.code().status().is_server_error() {
            // The answer hides the cause, so that this is the only place that tells it.
            tracing::error!(error = &error as &(dyn StdError + 'static), "the quota API can't answer");
        }
        Self(problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = self.0.code().status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The span of a request, for extractors to add to.
#[derive(Debug, Clone)]
pub(super) struct RequestSpan(pub(super) Span);

impl RequestSpan {
    fn of(request: &Request) -> Self {
        let extensions = request.extensions();
        // Below a prefix the request's own path has lost it.
        let path = extensions.get::<OriginalUri>().map_or(request.uri(), |original| &original.0).path();
        Self(spans::api(request.method(), path, extensions.get::<MatchedPath>().map(MatchedPath::as_str)))
    }
}

/// Middleware around every operation: writes failures in the format that the client asks for, keeps caches out of all that
/// doesn't say otherwise, and tells `tracing` of it.
pub(super) async fn finish(mut request: Request, next: Next) -> Response {
    let RequestSpan(span) = RequestSpan::of(&request);
    request.extensions_mut().insert(RequestSpan(span.clone()));
    let format = ProblemFormat::negotiate(request.headers());
    let mut response = next.run(request).instrument(span.clone()).await;
    spans::answered(&span, response.status());
    if let Some(Failure(problem)) = response.extensions_mut().remove::<Failure>() {
        response = problem.to_response(format).map(Body::from);
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
