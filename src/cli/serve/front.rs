//! What stands in front of another API: the layer, whose rules change while it runs, and the gateway behind it.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tower::{Layer, Service};
use tower_quota::{Gateway, GatewayBody, QuotaLayer, QuotaService, Replayed, ResponseBody};

/// The layer in force.
pub(super) type Rules = watch::Receiver<QuotaLayer<Replayed>>;

/// Holds requests against limits, and forwards those that may pass.
#[derive(Clone)]
pub(super) struct Front {
    rules: Rules,
    gateway: Gateway,
}

impl Front {
    pub(super) fn new(rules: Rules, gateway: Gateway) -> Self {
        Self { rules, gateway }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<ResponseBody<GatewayBody>>;
    type Error = Infallible;
    type Future = <QuotaService<Gateway, Replayed> as Service<Request<Incoming>>>::Future;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The gateway always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.rules.borrow().layer(self.gateway.clone()).call(request)
    }
}
