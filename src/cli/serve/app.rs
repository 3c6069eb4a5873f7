//! What is served: how the service is, whatever it does; and all else once it has started.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::request::Parts;
use http::{Request, StatusCode};
use tower::Service;
use tower_http::timeout::RequestBodyTimeoutLayer;
use tower_quota::{
    Authenticator, BoxFuture, ClientConnection, Dashboard, ErrorCode, Principal, Problem, ProblemFormat, Quota,
    QuotaApi, StaticTokens,
};

use super::config::Config;
use super::http::PATIENCE;

/// The paths at which it is told how the service is: that it lives, and that it is ready.
pub(super) const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// Where the service stands.
#[derive(Default)]
pub(super) struct Gate {
    open: OnceLock<(Quota, Router)>,
    closing: AtomicBool,
}

impl Gate {
    pub(super) fn open(&self, quota: Quota, app: Router) {
        // It is done once.
        let _ = self.open.set((quota, app));
    }

    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Whether it can answer. An upstream that is down is no reason: the gateway itself says so to whoever asks for it, and limits
    /// can be read and set all the same.
    async fn state(&self) -> Result<(), &'static str> {
        if self.closing.load(Ordering::Acquire) {
            return Err("the service is shutting down");
        }
        let (quota, _) = self.open.get().ok_or("the service is starting")?;
        quota.ping().await.map_err(|error| {
            tracing::warn!(%error, "the quota store does not answer");
            "the quota store does not answer"
        })
    }
}

/// Answers from the first moment on.
pub(super) fn outer(gate: Arc<Gate>) -> Router {
    let [live, ready] = PROBES;
    Router::new()
        .route(live, get(|| async { "live\n" }))
        .route(ready, get(readiness))
        .fallback(inside)
        .with_state(gate)
        .layer(RequestBodyTimeoutLayer::new(PATIENCE))
}

async fn readiness(State(gate): State<Arc<Gate>>) -> Response {
    match gate.state().await {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn inside(State(gate): State<Arc<Gate>>, request: Request<Body>) -> Response {
    match gate.open.get() {
        Some((_, app)) => app.clone().call(request).await.into_response(),
        None => Problem::new(ErrorCode::QuotaUnavailable, "the service is starting: try again")
            .to_response(ProblemFormat::Json)
            .map(Body::from),
    }
}

/// All that it is for.
pub(super) fn inner(config: &Config, quota: &Quota, tokens: Arc<Tokens>, metrics: Option<Router>) -> Router {
    let api = QuotaApi::new(quota.clone(), Arc::clone(&tokens)).with_not_found();
    let api = api.origin(|request| origin("api", request)).into_router();
    let mut app = Router::new().nest(config.api.path.get_ref().as_str(), api).merge(metrics.unwrap_or_default());
    if config.dashboard.enabled {
        let dashboard = Dashboard::new(quota.clone(), tokens).origin(|request| origin("dashboard", request));
        let path = config.dashboard.path.get_ref().as_str();
        let slash = Redirect::permanent(path);
        app = app.nest(path, dashboard.into_router()).route(&format!("{path}/"), get(|| async { slash }));
    }
    app
}

/// From where a request came, for the audit log.
fn origin(way: &str, request: &Parts) -> String {
    request
        .extensions
        .get()
        .map_or_else(|| way.to_owned(), |client: &ClientConnection| format!("{way} {}", client.address().ip()))
}

/// The tokens in force, which change while it runs.
pub(super) struct Tokens(RwLock<StaticTokens>);

impl Tokens {
    pub(super) fn new(tokens: StaticTokens) -> Self {
        Self(RwLock::new(tokens))
    }

    pub(super) fn replace(&self, tokens: StaticTokens) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }
}

impl Authenticator for Tokens {
    fn authenticate<'a>(&'a self, parts: &'a Parts) -> BoxFuture<'a, Result<Principal, Problem>> {
        let tokens = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async move { tokens.authenticate(parts).await })
    }
}
