//! The layers that ours is measured beside.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use http::{Request, Response, StatusCode};
use limitador::RateLimiter;
use limitador::limit::{Limit, Namespace};
use pin_project::pin_project;
use tower::{Layer, Service};
use tower_governor::GovernorLayer;
use tower_governor::errors::GovernorError;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::{KeyExtractor, PeerIpKeyExtractor};

/// Does nothing, in a future of its own.
#[derive(Clone)]
pub(crate) struct NoopLayer;

#[derive(Clone)]
pub(crate) struct Noop<S>(S);

#[pin_project]
pub(crate) struct NoopFuture<F>(#[pin] F);

impl<S> Layer<S> for NoopLayer {
    type Service = Noop<S>;

    fn layer(&self, inner: S) -> Noop<S> {
        Noop(inner)
    }
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Noop<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = NoopFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        NoopFuture(self.0.call(request))
    }
}

impl<F: Future> Future for NoopFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().0.poll(context)
    }
}

/// `tower_governor` as its README sets it up, by the peer's address, with a burst that nothing uses up.
pub(crate) fn governor() -> GovernorLayer<PeerIpKeyExtractor, governor::middleware::NoOpMiddleware, Body> {
    let config = GovernorConfigBuilder::default().per_nanosecond(1).burst_size(1_000_000).finish();
    GovernorLayer::new(config.expect("a rate and a burst"))
}

/// `tower_governor` by what ours goes by: the workspace in the path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByWorkspace;

impl KeyExtractor for ByWorkspace {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        let workspace = request.uri().path().split('/').nth(2);
        workspace.map(str::to_owned).ok_or(GovernorError::UnableToExtractKey)
    }
}

pub(crate) fn governor_by_workspace() -> GovernorLayer<ByWorkspace, governor::middleware::NoOpMiddleware, Body> {
    let mut by_address = GovernorConfigBuilder::default();
    let mut builder = by_address.per_nanosecond(1).burst_size(1_000_000).key_extractor(ByWorkspace);
    GovernorLayer::new(builder.finish().expect("a rate and a burst"))
}

/// limitador in memory, with a limit per workspace that is never reached.
#[derive(Clone)]
pub(crate) struct LimitadorLayer(Arc<(RateLimiter, Namespace)>);

#[derive(Clone)]
pub(crate) struct Limitador<S> {
    inner: S,
    limiter: Arc<(RateLimiter, Namespace)>,
}

#[pin_project(project = LimitadorProjection)]
pub(crate) enum LimitadorFuture<F> {
    Passed(#[pin] F),
    Refused,
}

impl LimitadorLayer {
    pub(crate) fn new() -> Self {
        let limiter = RateLimiter::new(100_000);
        let workspace = "workspace".try_into().expect("an expression");
        let method = "method == 'POST'".try_into().expect("a condition");
        limiter.add_limit(Limit::new("segments", u64::MAX, 1_000_000_000, vec![method], vec![workspace]));
        Self(Arc::new((limiter, "segments".into())))
    }
}

impl<S> Layer<S> for LimitadorLayer {
    type Service = Limitador<S>;

    fn layer(&self, inner: S) -> Limitador<S> {
        Limitador { inner, limiter: Arc::clone(&self.0) }
    }
}

impl<S> Service<Request<Body>> for Limitador<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = LimitadorFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (limiter, namespace) = &*self.limiter;
        let workspace = request.uri().path().split('/').nth(2).unwrap_or_default();
        let values = HashMap::from([
            ("method".to_owned(), request.method().as_str().to_owned()),
            ("workspace".to_owned(), workspace.to_owned()),
        ]);
        match limiter.check_rate_limited_and_update(namespace, &values.into(), 1) {
            Ok(result) if !result.limited => LimitadorFuture::Passed(self.inner.call(request)),
            _ => LimitadorFuture::Refused,
        }
    }
}

impl<F, E> Future for LimitadorFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            LimitadorProjection::Passed(inner) => inner.poll(context),
            LimitadorProjection::Refused => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                Poll::Ready(Ok(response))
            }
        }
    }
}
