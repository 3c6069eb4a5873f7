//! What stands in front of another API: the layer, whose rules change while it runs, and the gateway behind it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use pin_project::pin_project;
use tokio::sync::watch;
use tower::{Layer, Service};
use tower_quota::{
    BoxFuture, EnforcementMode, Gateway, GatewayBody, PacedBody, Quota, QuotaLayer, QuotaService, Replayed,
    ResponseBody, RouteMap, WorkspaceClaim,
};

use super::claims::Claims;

/// What is in force: the layer, and who knows whose the requests of its rules are.
pub(super) struct Rules {
    pub(super) quota: Quota,
    pub(super) layer: QuotaLayer<Replayed>,
    pub(super) routes: RouteMap,
    pub(super) claims: Claims,
}

/// Holds requests against limits, and forwards those that may pass.
#[derive(Clone)]
pub(super) struct Front {
    rules: watch::Receiver<Rules>,
    gateway: Gateway,
    /// How long the next piece of a body may take, which the layer may read before the gateway does.
    idle_timeout: Duration,
}

impl Front {
    pub(super) fn new(rules: watch::Receiver<Rules>, gateway: Gateway, idle_timeout: Duration) -> Self {
        Self { rules, gateway, idle_timeout }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<ResponseBody<GatewayBody>>;
    type Error = Infallible;
    type Future = FrontFuture;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The gateway always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let request = request.map(|body| PacedBody::new(body, self.idle_timeout));
        let rules = self.rules.borrow();
        let mut service = rules.layer.layer(self.gateway.clone());
        let off = rules.quota.mode() == EnforcementMode::Off;
        let Some(lookup) = rules.claims.of(&rules.routes, &request).filter(|_| !off) else {
            return FrontFuture::Known(service.call(request));
        };
        FrontFuture::Asking(Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            match lookup.workspace(&parts).await {
                Ok(workspace) => {
                    parts.extensions.insert(WorkspaceClaim(workspace));
                    service.call(Request::from_parts(parts, body)).await
                }
                Err(problem) => Ok(lookup.answer(&problem, &parts.headers).map(ResponseBody::from)),
            }
        }))
    }
}

type Answer = Result<Response<ResponseBody<GatewayBody>>, Infallible>;

/// The answer to a request: at once on its way to it, or first to whose the request is.
#[pin_project(project = FrontProjection)]
pub(super) enum FrontFuture {
    Known(#[pin] <QuotaService<Gateway, Replayed> as Service<Request<PacedBody<Incoming>>>>::Future),
    Asking(BoxFuture<'static, Answer>),
}

impl Future for FrontFuture {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        match self.project() {
            FrontProjection::Known(answer) => answer.poll(context),
            FrontProjection::Asking(answer) => answer.as_mut().poll(context),
        }
    }
}
