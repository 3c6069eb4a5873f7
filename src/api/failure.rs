//! How an operation fails, and how that failure becomes an answer.

use std::error::Error as StdError;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};

use crate::error::Error;
use crate::problem::{Problem, ProblemFormat};

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

/// Middleware around every operation: writes failures in the format that the client asks for, and keeps caches out of all that
/// doesn't say otherwise.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let format = ProblemFormat::negotiate(request.headers());
    let mut response = next.run(request).await;
    if let Some(Failure(problem)) = response.extensions_mut().remove::<Failure>() {
        response = problem.to_response(format).map(Body::from);
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
