//! The dashboard: pages for people, on top of the engine and with the rules of the API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use http::request::Parts;

use crate::api::Authenticator;
use crate::engine::Quota;

mod assets;
mod chart;
mod gate;
mod pages;
mod session;
mod text;
mod visitor;

use assets::Assets;
use session::{Sessions, Throttle};

/// A dashboard, as a router to nest: who is over a limit or near it, and what to do about it.
///
/// It shows all workspaces, the fullest first; one workspace with a bar for each resource type, its trend and forecast,
/// refusals, requests and audit log; plans, webhooks with their deliveries, and modes. Pages are HTML made by the server:
/// they work without scripts, and with the one small script that comes with them they are live.
///
/// ```
/// use axum::Router;
/// use tower_quota::{Dashboard, Quota, QuotaApi, StaticTokens};
///
/// fn app(quota: Quota, tokens: StaticTokens) -> Router {
///     Router::new()
///         .nest("/api", QuotaApi::new(quota.clone(), tokens.clone()).into_router())
///         .nest("/dashboard", Dashboard::new(quota, tokens).into_router())
/// }
/// ```
///
/// # Who may do what
///
/// One signs in with a token of the API. The [`Authenticator`] is asked with it, as `Authorization: Bearer`, at each
/// request, so that a session ends with its token; and what its [`Principal`](crate::Principal) may do is what it may do
/// over the API: a member sees its workspaces and asks for more, an admin of workspaces changes their limits, an admin of
/// all sees all. Changes are told in the audit log, by way of `dashboard`.
///
/// # Sessions
///
/// The browser has a random id in a cookie (`HttpOnly`, `SameSite=Strict`, `Secure` over https, for the mount point only);
/// the token stays in the memory of this process. A session ends after [`Dashboard::idle`] without a click, after
/// [`Dashboard::lifetime`] in any case, by signing out, and with the process. Where several replicas serve the dashboard, a
/// load balancer has to send a browser to the same one ("sticky sessions").
///
/// Who signs in with wrong tokens too often has to wait a minute; by [`Dashboard::origin`], where that tells clients apart.
///
/// # What stands in front of it
///
/// Nothing on its pages comes from elsewhere, and their Content-Security-Policy has no `unsafe-inline`. A request that
/// changes something needs the session's own token in its form, and has to come from a page of the same site, by
/// `Sec-Fetch-Site` or `Origin`: a proxy has to leave `Host` and the path as they are.
pub struct Dashboard {
    quota: Quota,
    authenticator: Arc<dyn Authenticator>,
    origin: Arc<Origin>,
    idle: Duration,
    lifetime: Duration,
}

/// Where a request comes from.
type Origin = dyn Fn(&Parts) -> String + Send + Sync;

impl Dashboard {
    /// A dashboard on `quota`, for those whom `authenticator` knows.
    pub fn new(quota: Quota, authenticator: impl Authenticator) -> Self {
        Self {
            quota,
            authenticator: Arc::new(authenticator),
            origin: Arc::new(|_| "dashboard".to_owned()),
            idle: Duration::from_secs(30 * 60),
            lifetime: Duration::from_secs(12 * 60 * 60),
        }
    }

    /// From where a change was made, as the audit log has it; `dashboard` by default. Only the host knows which address of a
    /// request is the client's, and which of its proxies to believe.
    #[must_use]
    pub fn origin(mut self, origin: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.origin = Arc::new(origin);
        self
    }

    /// After what time without a click a session ends; half an hour by default. That a page brings itself up to date is no
    /// click.
    #[must_use]
    pub fn idle(mut self, time: Duration) -> Self {
        self.idle = time;
        self
    }

    /// After what time a session ends in any case; twelve hours by default.
    #[must_use]
    pub fn lifetime(mut self, time: Duration) -> Self {
        self.lifetime = time;
        self
    }

    /// The router, for a host with any state of its own. Nest it; its paths are its own, unknown ones too, but for the mount
    /// point with a slash behind it, of which axum lets only the host say something.
    pub fn into_router<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let Self { quota, authenticator, origin, idle, lifetime } = self;
        let desk = Desk(Arc::new(Shared {
            quota,
            authenticator,
            origin,
            sessions: Sessions::new(idle, lifetime),
            throttle: Throttle::new(),
            assets: Assets::new(),
        }));
        let router = Router::new()
            .route("/", get(pages::workspaces::list))
            .route("/sign-in", get(pages::sign_in::show).post(pages::sign_in::sign_in))
            .route("/sign-out", post(pages::sign_in::sign_out))
            .route("/workspaces/{workspaceId}", get(pages::workspace::show))
            .route("/workspaces/{workspaceId}/limits", post(pages::workspace::set_limit))
            .route("/workspaces/{workspaceId}/settings", post(pages::workspace::configure))
            .route("/workspaces/{workspaceId}/recalculate", post(pages::workspace::recalculate))
            .route("/workspaces/{workspaceId}/requests", post(pages::requests::make))
            .route("/workspaces/{workspaceId}/requests/{id}/{verdict}", post(pages::requests::decide))
            .route("/requests", get(pages::requests::list))
            .route("/audit", get(pages::audit::list))
            .route("/plans", get(pages::plans::list).post(pages::plans::put))
            .route("/plans/{name}/delete", post(pages::plans::delete))
            .route("/modes", get(pages::modes::show).post(pages::modes::set))
            .route("/assets/{hash}/{file}", get(assets::serve));
        #[cfg(feature = "webhooks")]
        let router = router
            .route("/webhooks", get(pages::webhooks::list).post(pages::webhooks::add))
            .route("/webhooks/{id}", get(pages::webhooks::show).post(pages::webhooks::change))
            .route("/webhooks/{id}/{work}", post(pages::webhooks::work))
            .route("/webhooks/{id}/deliveries/{delivery}/replay", post(pages::webhooks::replay));
        router
            .fallback(gate::not_found)
            .method_not_allowed_fallback(gate::method_not_allowed)
            .layer(from_fn_with_state(desk.clone(), gate::gate))
            .with_state(desk)
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").field("idle", &self.idle).field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// What the pages share.
#[derive(Clone)]
struct Desk(Arc<Shared>);

struct Shared {
    quota: Quota,
    authenticator: Arc<dyn Authenticator>,
    origin: Arc<Origin>,
    sessions: Sessions,
    throttle: Throttle,
    assets: Assets,
}

impl Desk {
    fn quota(&self) -> &Quota {
        &self.0.quota
    }

    fn authenticator(&self) -> &dyn Authenticator {
        &*self.0.authenticator
    }

    fn origin(&self, parts: &Parts) -> String {
        (self.0.origin)(parts)
    }

    fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    fn throttle(&self) -> &Throttle {
        &self.0.throttle
    }

    fn assets(&self) -> &Assets {
        &self.0.assets
    }
}
