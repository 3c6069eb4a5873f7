//! Answers to proxies that ask before they forward a request, by rules that change while it runs.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::Router;
use axum::response::Response;
use axum::routing::future::RouteFuture;
use http::Request;
use hyper::body::Incoming;
use tokio::sync::watch;
use tower::Service;
use tower_quota::{AuthRequest, Error, ExtAuthz, Quota, QuotaLayer, RouteMap};

use super::config;
use super::file::File;
use crate::failure::Failure;

/// Where Envoy asks, which gRPC lays down.
const ENVOY: &str = "/envoy.service.auth.v3.Authorization";

/// Checks that those who ask can tell what the rules need.
pub(super) fn check(file: &File, written: &config::Authz, map: &RouteMap) -> Result<(), Failure> {
    if let Some(rule) = map.rules().find(|rule| rule.needs_extension()) {
        let message = format!(
            "rule {:?} takes the workspace from an extension of the request, which none has that comes to [authz]: name \
             another source in `rules`, such as a header that the proxy sets",
            rule.name()
        );
        return Err(file.wrong_in_all(&message));
    }
    let Some(path) = &written.nginx_path else { return Ok(()) };
    if path.get_ref().is_at_or_below(ENVOY) {
        return Err(file.wrong(path.span(), "this is where Envoy asks: write another path, such as \"/authz\""));
    }
    match map.rules().find(|rule| rule.needs_body()) {
        None => Ok(()),
        Some(rule) => {
            let message = format!(
                "rule {:?} reads the request body, which nginx hands on to nobody that it asks: take what it needs from the \
                 path, the query or a header, or leave `nginx_path` out and use Envoy or [gateway]",
                rule.name()
            );
            Err(file.wrong(path.span(), &message))
        }
    }
}

/// All that answers.
///
/// # Errors
///
/// Where the rules are of other resource types than `quota`, or name workspaces in a way that no proxy does.
pub(super) fn router(written: &config::Authz, quota: &Quota, map: &RouteMap) -> Result<Router, Error> {
    let (headers, on_failure) = (written.rate_limit_headers, written.on_failure.into());
    let layer = QuotaLayer::reading_bodies(quota.clone(), map.clone())?;
    let router = ExtAuthz::new(layer.rate_limit_headers(headers).on_failure(on_failure))?.into_router();
    let Some(path) = &written.nginx_path else { return Ok(router) };
    let layer = QuotaLayer::new(quota.clone(), map.clone())?;
    let nginx = AuthRequest::new(layer.rate_limit_headers(headers).on_failure(on_failure))?.into_router();
    Ok(router.nest(path.get_ref().as_str(), nginx))
}

/// Answers by the router in force.
#[derive(Clone)]
pub(super) struct Authz(watch::Receiver<Router>);

impl Authz {
    pub(super) fn new(router: watch::Receiver<Router>) -> Self {
        Self(router)
    }
}

impl Service<Request<Incoming>> for Authz {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router always is.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let mut router = self.0.borrow().clone();
        router.call(request)
    }
}
