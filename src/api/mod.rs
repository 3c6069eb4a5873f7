//! The HTTP API: the engine as an axum router, and the authentication in front of it.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, post, put};

use http::request::Parts;

use crate::engine::Quota;

mod auth;
mod dto;
mod etag;
#[cfg(any(feature = "webhooks", feature = "email"))]
mod events;
mod extract;
mod failure;
mod handlers;
#[cfg(feature = "insight")]
mod insight;
mod layer;
mod operate;
mod policy;

pub use auth::{Authenticator, StaticTokens, StaticTokensBuilder, TrustExtension, bearer_token};
#[cfg(feature = "dashboard")]
pub(crate) use dto::{above_caps, below_usage};
#[cfg(feature = "dashboard")]
pub(crate) use extract::{admins_only, open_workspace, operators_only};
pub use layer::{Auth, AuthLayer};

/// The quota API, as a router to nest or to merge.
///
/// | path | method | who |
/// |---|---|---|
/// | `/workspaces/{workspaceId}/quota` | `GET` | any caller to whom the workspace is open |
/// | `/workspaces/{workspaceId}/quota` | `PUT`, `DELETE` | its admins |
/// | `…/quota/settings` | `GET` | any caller to whom the workspace is open |
/// | `…/quota/settings` | `PUT` | its admins |
/// | `…/quota/limits/{resourceType}` | `DELETE` | its admins |
/// | `…/quota/overrides` | `GET` | any caller to whom the workspace is open |
/// | `…/quota/overrides` | `POST` | its admins |
/// | `…/quota/overrides/{id}` | `DELETE` | its admins |
/// | `…/quota/requests` | `GET`, `POST` | any caller to whom the workspace is open |
/// | `…/quota/requests/{id}/approve`, `…/deny` | `POST` | its admins |
/// | `…/quota/requests/{id}/withdraw` | `POST` | who made it, and its admins |
/// | `…/quota/audit` | `GET` | its admins |
/// | `/workspaces/{workspaceId}/quota/validate` | `POST` | any caller to whom the workspace is open |
/// | `/workspaces/{workspaceId}/quota/recalculate` | `POST` | its admins |
/// | `…/quota/cleanup` | `POST` | its admins |
/// | `/plans`, `/plans/{name}` | `GET` | any caller |
/// | `/plans/{name}` | `PUT`, `DELETE` | admins of all workspaces |
/// | `/system/quotas` | `PUT` | admins of all workspaces |
/// | `/system/quota-import` | `POST` | admins of all workspaces |
/// | `/system/quota-readiness` | `GET` | admins of all workspaces |
/// | `/system/quota-shadow` | `GET`, `PUT`, `DELETE` | admins of all workspaces |
/// | `/system/quota-requests`, `/system/quota-audit` | `GET` | admins of all workspaces |
/// | `/system/config/quota-enforcement` | `GET` | any caller |
/// | `/system/config/quota-enforcement` | `PUT` | admins of all workspaces |
/// | `/system/webhooks` | `GET`, `POST` | admins of all workspaces |
/// | `/system/webhooks/{id}` | `GET`, `PUT`, `DELETE` | admins of all workspaces |
/// | `…/webhooks/{id}/secret`, `…/test` | `POST` | admins of all workspaces |
/// | `…/webhooks/{id}/deliveries` | `GET` | admins of all workspaces |
/// | `…/webhooks/{id}/deliveries/{delivery}/replay` | `POST` | admins of all workspaces |
/// | `…/quota/contacts` | `GET`, `PUT` | admins of the workspace |
/// | `…/quota/analytics` | `GET` | any caller to whom the workspace is open |
/// | `…/quota/report` | `GET` | any caller to whom the workspace is open |
/// | `/system/quota-report` | `GET` | admins of all workspaces |
/// | `/system/health` | `GET` | anybody |
///
/// Those of webhooks are there with the feature `webhooks`, that of contacts with `email`, analytics and reports with `insight`.
///
/// ```
/// use axum::Router;
/// use tower_quota::{Quota, QuotaApi, StaticTokens};
///
/// fn app(quota: Quota, root: String, acme: String) -> Result<Router, tower_quota::Error> {
///     let tokens = StaticTokens::builder().admin(root).member(acme, ["acme"]).build()?;
///     Ok(Router::new().nest("/api", QuotaApi::new(quota, tokens).into_router()))
/// }
/// ```
///
/// # Who may do what
///
/// The [`Authenticator`] tells who calls, before anything else of the request is looked at. What the caller may do
/// follows from its [`Principal`](crate::Principal), before the body is read. The path's workspace id is decoded once and
/// brought to its canonical form before it is compared.
///
/// # Errors
///
/// Every error is a [`Problem`](crate::Problem), as `application/problem+json` where `Accept` names it. A path of the API
/// with another method is answered in this form too; an unknown path only after [`QuotaApi::with_not_found`].
///
/// # Conditional updates
///
/// `GET` and `PUT` of a quota answer with an `ETag`. It names the version of the quota record, not the usage beside it:
/// it is there to be sent back in the `If-Match` of a `PUT`, which then fails with 412 if somebody else changed the record
/// in between.
///
/// # Usage over time
///
/// `…/quota/analytics` takes `startDate` and `endDate` (both inclusive; the last 30 days where they are left out) and
/// `granularity` (`hour`, `day`, `week`, `month`; `day` by default). `trends` has the usage at the end of each bucket; `carried`
/// names the types of which nothing was read in it, so that their usage is what was known before. `forecast` has, for each
/// type, what `Forecast` has. Reports take `format` (`json`, `csv`), `period` (`daily`, `weekly`, `monthly`, which is the
/// default) and `date`, a day of the period, today where it is left out. That on all workspaces is streamed; where it breaks off, so
/// does the transfer. All days are those of UTC.
///
/// # Bodies
///
/// They are JSON objects, whatever `Content-Type` says, up to [`QuotaApi::body_cap`]. A field that is given twice is
/// refused, since readers of JSON disagree on which one counts. How long a client may take to send one is for a time-out
/// of the host to say.
pub struct QuotaApi {
    quota: Quota,
    authenticator: Arc<dyn Authenticator>,
    body_cap: usize,
    not_found: bool,
    origin: Arc<Origin>,
}

/// Where a request comes from.
type Origin = dyn Fn(&Parts) -> String + Send + Sync;

impl QuotaApi {
    /// The largest body that is read unless [`QuotaApi::body_cap`] says otherwise, in bytes.
    pub const DEFAULT_BODY_CAP: usize = 64 * 1024;

    /// An API on `quota`, for callers whom `authenticator` knows.
    pub fn new(quota: Quota, authenticator: impl Authenticator) -> Self {
        Self {
            quota,
            authenticator: Arc::new(authenticator),
            body_cap: Self::DEFAULT_BODY_CAP,
            not_found: false,
            origin: Arc::new(|_| "api".to_owned()),
        }
    }

    /// From where a change was made, as the audit log has it; `api` by default. Only the host knows which address of a
    /// request is the client's, and which of its proxies to believe.
    #[must_use]
    pub fn origin(mut self, origin: impl Fn(&Parts) -> String + Send + Sync + 'static) -> Self {
        self.origin = Arc::new(origin);
        self
    }

    /// The largest body that is read, in bytes; a larger one is answered with 413.
    #[must_use]
    pub fn body_cap(mut self, bytes: usize) -> Self {
        self.body_cap = bytes;
        self
    }

    /// Answers unknown paths too, with the contract's 404.
    ///
    /// This is for a router that is nested, where it covers the paths below the prefix, or that is all that a server
    /// has. A router that is merged would take the fallback of the host's routes.
    #[must_use]
    pub fn with_not_found(mut self) -> Self {
        self.not_found = true;
        self
    }

    /// The router, for a host with any state of its own.
    pub fn into_router<S>(self) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        let Self { quota, authenticator, body_cap, not_found, origin } = self;
        let mut router = Router::new()
            .route(
                "/workspaces/{workspaceId}/quota",
                operations(get(handlers::read_quota).put(handlers::update_quota).delete(policy::delete_quota)),
            )
            .route(
                "/workspaces/{workspaceId}/quota/settings",
                operations(get(policy::read_settings).put(policy::update_settings)),
            )
            .route("/workspaces/{workspaceId}/quota/limits/{name}", operations(delete(policy::clear_limit)))
            .route(
                "/workspaces/{workspaceId}/quota/overrides",
                operations(get(policy::list_overrides).post(policy::add_override)),
            )
            .route("/workspaces/{workspaceId}/quota/overrides/{name}", operations(delete(policy::end_override)))
            .route(
                "/workspaces/{workspaceId}/quota/requests",
                operations(get(policy::list_requests).post(policy::make_request)),
            )
            .route("/workspaces/{workspaceId}/quota/requests/{name}/approve", operations(post(policy::approve_request)))
            .route("/workspaces/{workspaceId}/quota/requests/{name}/deny", operations(post(policy::deny_request)))
            .route(
                "/workspaces/{workspaceId}/quota/requests/{name}/withdraw",
                operations(post(policy::withdraw_request)),
            )
            .route("/workspaces/{workspaceId}/quota/audit", operations(get(policy::read_audit)))
            .route("/plans", operations(get(policy::list_plans)))
            .route(
                "/plans/{name}",
                operations(get(policy::read_plan).put(policy::put_plan).delete(policy::delete_plan)),
            )
            .route("/system/quotas", operations(put(policy::bulk)))
            .route("/workspaces/{workspaceId}/quota/cleanup", operations(post(operate::clean)))
            .route("/system/quota-import", operations(post(operate::import)))
            .route("/system/quota-readiness", operations(get(operate::readiness)))
            .route(
                "/system/quota-shadow",
                operations(get(operate::read_shadow).put(operate::start_shadow).delete(operate::stop_shadow)),
            )
            .route("/system/quota-requests", operations(get(policy::all_requests)))
            .route("/system/quota-audit", operations(get(policy::all_audit)))
            .route("/workspaces/{workspaceId}/quota/validate", operations(post(handlers::validate)))
            .route("/workspaces/{workspaceId}/quota/recalculate", operations(post(handlers::recalculate)))
            .route(
                "/system/config/quota-enforcement",
                operations(get(handlers::read_enforcement).put(handlers::update_enforcement)),
            )
            .route("/system/health", operations(get(handlers::health)));
        #[cfg(feature = "webhooks")]
        {
            router = router
                .route("/system/webhooks", operations(get(events::list).post(events::add)))
                .route(
                    "/system/webhooks/{name}",
                    operations(get(events::read).put(events::change).delete(events::remove)),
                )
                .route("/system/webhooks/{name}/secret", operations(post(events::rotate)))
                .route("/system/webhooks/{name}/test", operations(post(events::test)))
                .route("/system/webhooks/{name}/deliveries", operations(get(events::deliveries)))
                .route("/system/webhooks/{name}/deliveries/{delivery}/replay", operations(post(events::replay)));
        }
        #[cfg(feature = "email")]
        {
            router = router.route(
                "/workspaces/{workspaceId}/quota/contacts",
                operations(get(events::contacts).put(events::set_contacts)),
            );
        }
        #[cfg(feature = "insight")]
        {
            router = router
                .route("/workspaces/{workspaceId}/quota/analytics", operations(get(insight::analytics)))
                .route("/workspaces/{workspaceId}/quota/report", operations(get(insight::report)))
                .route("/system/quota-report", operations(get(insight::system_report)));
        }
        if not_found {
            router = router.fallback(handlers::not_found.layer(from_fn(failure::finish)));
        }
        router.with_state(Api(Arc::new(Shared { quota, authenticator, body_cap, origin })))
    }
}

/// The operations on one path, and what all of them have around them. It is not a layer of the router, since that would
/// also stand around the fallback of a router that this one is merged into.
fn operations(methods: MethodRouter<Api>) -> MethodRouter<Api> {
    methods.fallback(handlers::method_not_allowed).layer(from_fn(failure::finish))
}

impl fmt::Debug for QuotaApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuotaApi")
            .field("body_cap", &self.body_cap)
            .field("not_found", &self.not_found)
            .finish_non_exhaustive()
    }
}

/// What the operations share.
#[derive(Clone)]
struct Api(Arc<Shared>);

struct Shared {
    quota: Quota,
    authenticator: Arc<dyn Authenticator>,
    body_cap: usize,
    origin: Arc<Origin>,
}

impl Api {
    fn origin(&self, parts: &Parts) -> String {
        (self.0.origin)(parts)
    }

    fn quota(&self) -> &Quota {
        &self.0.quota
    }

    fn authenticator(&self) -> &dyn Authenticator {
        &*self.0.authenticator
    }

    fn body_cap(&self) -> usize {
        self.0.body_cap
    }
}
