//! The HTTP API: the engine as an axum router, and the authentication in front of it.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::middleware::from_fn;
use axum::routing::MethodRouter;

use http::request::Parts;

use crate::engine::Quota;

/// What the document of the API says of an operation, beside what its extractors say. It stands with the handler and has its
/// name, so that a route to one without it doesn't compile.
macro_rules! describe {
    ($handler:ident, |$it:ident| $description:expr) => {
        #[cfg(feature = "openapi")]
        #[allow(unused_imports, reason = "not each operation needs all")]
        pub(in crate::api) mod $handler {
            use http::StatusCode;
            use serde_json::json;

            use crate::api::openapi::schema::*;
            use crate::api::openapi::{Operation, examples};
            use crate::engine::Admin;
            #[cfg(feature = "insight")]
            use crate::insight::Granularity;
            use crate::limit::Limit;
            use crate::policy::RequestStatus;
            use crate::problem::ErrorCode;

            pub(in crate::api) fn describe($it: &mut Operation) {
                $description;
            }
        }
    };
}

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
#[cfg(feature = "openapi")]
mod openapi;
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
/// | `…/quota/tally` | `PUT` | its admins |
/// | `…/quota/cleanup` | `POST` | its admins |
/// | `/plans`, `/plans/{name}` | `GET` | any caller |
/// | `/plans/{name}` | `PUT`, `DELETE` | admins of all workspaces |
/// | `/system/quotas` | `PUT` | admins of all workspaces |
/// | `/system/quota-import` | `POST` | admins of all workspaces |
/// | `/system/quota-readiness` | `GET` | admins of all workspaces |
/// | `/system/quota-status` | `GET` | admins of all workspaces |
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
/// | `/openapi.json`, `/docs` | `GET` | anybody |
///
/// Those of webhooks are there with the feature `webhooks`, that of contacts with `email`, analytics and reports with `insight`, and
/// the last with `openapi`.
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
/// `granularity` (`hour`, `day`, `week`, `month`; `day` by default). `trends` has the usage at the end of each bucket, and
/// `refusals` the creations that were refused in it, by the types of which any were; `carried`
/// names the types of which nothing was read in it, so that their usage is what was known before. `forecast` has, for each
/// type, what `Forecast` has. Reports take `format` (`json`, `csv`), `period` (`daily`, `weekly`, `monthly`, which is the
/// default) and `date`, a day of the period, today where it is left out. That on all workspaces is streamed; where it breaks off, so
/// does the transfer. All days are those of UTC.
///
/// # Description
///
/// With the feature `openapi`, `/openapi.json` describes all of this in OpenAPI 3.1, with the resource types of the quota's
/// catalog, and `/docs` is a page to browse it. It loads nothing from other hosts, and is served with a
/// `Content-Security-Policy` that would not let it.
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
        let mut router = routes();
        #[cfg(feature = "openapi")]
        {
            router = openapi::page::with_assets(router);
        }
        if not_found {
            router = router.fallback(handlers::not_found.layer(from_fn(failure::finish)));
        }
        let shared = Shared {
            #[cfg(feature = "openapi")]
            document: document().finish(quota.catalog()),
            quota,
            authenticator,
            body_cap,
            origin,
        };
        router.with_state(Api(Arc::new(shared)))
    }
}

/// All routes, by path, method and handler; and what the document says of each.
macro_rules! routes {
    ($($(#[$when:meta])* $path:literal: $($method:ident => $($handler:ident)::+),+;)+) => {
        fn routes() -> Router<Api> {
            let mut router = Router::new();
            $(
                $(#[$when])*
                {
                    router = router.route($path, operations(MethodRouter::new()$(.$method($($handler)::+))+));
                }
            )+
            router
        }

        #[cfg(feature = "openapi")]
        fn document() -> openapi::Document {
            let mut document = openapi::Document::new();
            $(
                $(#[$when])*
                {
                    $(document.add($path, stringify!($method), &$($handler)::+, $($handler)::+::describe);)+
                }
            )+
            document
        }
    };
}

routes! {
    "/workspaces/{workspaceId}/quota":
        get => handlers::read_quota, put => handlers::update_quota, delete => policy::delete_quota;
    "/workspaces/{workspaceId}/quota/validate": post => handlers::validate;
    "/workspaces/{workspaceId}/quota/recalculate": post => handlers::recalculate;
    "/workspaces/{workspaceId}/quota/tally": put => operate::set_tally;
    "/workspaces/{workspaceId}/quota/settings": get => policy::read_settings, put => policy::update_settings;
    "/workspaces/{workspaceId}/quota/limits/{resourceType}": delete => policy::clear_limit;
    "/workspaces/{workspaceId}/quota/overrides": get => policy::list_overrides, post => policy::add_override;
    "/workspaces/{workspaceId}/quota/overrides/{id}": delete => policy::end_override;
    "/workspaces/{workspaceId}/quota/requests": get => policy::list_requests, post => policy::make_request;
    "/workspaces/{workspaceId}/quota/requests/{id}/approve": post => policy::approve_request;
    "/workspaces/{workspaceId}/quota/requests/{id}/deny": post => policy::deny_request;
    "/workspaces/{workspaceId}/quota/requests/{id}/withdraw": post => policy::withdraw_request;
    "/workspaces/{workspaceId}/quota/audit": get => policy::read_audit;
    "/workspaces/{workspaceId}/quota/cleanup": post => operate::clean;
    #[cfg(feature = "email")]
    "/workspaces/{workspaceId}/quota/contacts": get => events::contacts, put => events::set_contacts;
    #[cfg(feature = "insight")]
    "/workspaces/{workspaceId}/quota/analytics": get => insight::analytics;
    #[cfg(feature = "insight")]
    "/workspaces/{workspaceId}/quota/report": get => insight::report;
    #[cfg(feature = "insight")]
    "/system/quota-report": get => insight::system_report;
    "/plans": get => policy::list_plans;
    "/plans/{name}": get => policy::read_plan, put => policy::put_plan, delete => policy::delete_plan;
    "/system/quotas": put => policy::bulk;
    "/system/quota-import": post => operate::import;
    "/system/quota-readiness": get => operate::readiness;
    "/system/quota-status": get => operate::status;
    "/system/quota-shadow":
        get => operate::read_shadow, put => operate::start_shadow, delete => operate::stop_shadow;
    "/system/quota-requests": get => policy::all_requests;
    "/system/quota-audit": get => policy::all_audit;
    "/system/config/quota-enforcement": get => handlers::read_enforcement, put => handlers::update_enforcement;
    #[cfg(feature = "webhooks")]
    "/system/webhooks": get => events::list, post => events::add;
    #[cfg(feature = "webhooks")]
    "/system/webhooks/{id}": get => events::read, put => events::change, delete => events::remove;
    #[cfg(feature = "webhooks")]
    "/system/webhooks/{id}/secret": post => events::rotate;
    #[cfg(feature = "webhooks")]
    "/system/webhooks/{id}/test": post => events::test;
    #[cfg(feature = "webhooks")]
    "/system/webhooks/{id}/deliveries": get => events::deliveries;
    #[cfg(feature = "webhooks")]
    "/system/webhooks/{id}/deliveries/{delivery}/replay": post => events::replay;
    "/system/health": get => handlers::health;
    #[cfg(feature = "openapi")]
    "/openapi.json": get => openapi::page::document;
    #[cfg(feature = "openapi")]
    "/docs": get => openapi::page::docs;
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
    #[cfg(feature = "openapi")]
    document: serde_json::Value,
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
