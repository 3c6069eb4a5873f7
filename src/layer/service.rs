//! The layer and its service.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, Method, Request, Response, StatusCode, Uri};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use super::answer::{self, RefusalResponse, contract, refused_rate_limit_headers, with_status};
use super::body::ResponseBody;
use super::future::ResponseFuture;
use super::outcome::{After, Pending, RowOutcome, What, is_grpc};
use super::request_body::{BodyMode, Replayed, ResponseMode, Untouched};
use crate::decision::{Existing, Refusal, ResolvedCharge};
use crate::engine::{Decision, Quota, Reservation};
use crate::error::Error;
use crate::metrics::Outcome;
use crate::mode::EnforcementMode;
use crate::principal::Principal;
use crate::problem::{ErrorCode, Problem};
use crate::resource::ResourceCatalog;
use crate::rules::{Direct, Match, OnFailure, Operation, Resolved, RouteMap};
use crate::spans::{self, Asked};

/// Puts a [`QuotaService`] around a service.
///
/// A request that the route map doesn't map goes straight to the inner service. One that it maps is resolved into a
/// workspace and charges; the engine reserves the units; the inner service runs; and its response settles them.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Method, Request, Response, StatusCode};
/// use http_body_util::Empty;
/// use bytes::Bytes;
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// use tower_quota::{
///     Charge, ClosureUsage, MemoryStore, Quota, QuotaLayer, ResourceCatalog, RouteMap, Rule, WorkspaceSource,
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = ResourceCatalog::default();
/// let routes = RouteMap::builder(&catalog)
///     .rule(
///         Rule::new("create-segment", Method::POST, "/workspaces/{id}/segments")
///             .workspace(WorkspaceSource::path("id"))
///             .charge(Charge::of("segments")),
///     )
///     .build()?;
/// let quota = Quota::builder(catalog)
///     .store(MemoryStore::new())
///     .usage(ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, Infallible>(50) }))
///     .build()?;
///
/// let create = service_fn(|_: Request<Empty<Bytes>>| async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) });
/// let mut service = ServiceBuilder::new().layer(QuotaLayer::new(quota, routes)?).service(create);
///
/// let request = Request::post("/workspaces/acme/segments").body(Empty::new())?;
/// let response = service.ready().await?.call(request).await?;
/// assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
/// # Ok(()) }
/// ```
///
/// # What a response says
///
/// | response | units |
/// |---|---|
/// | 2xx and 3xx; for gRPC, status `OK` in the head or the trailers | posted: the rows exist |
/// | 4xx but 408 and 499; for gRPC, a status that says the call was refused | given back |
/// | anything else; an error, a panic, a dropped request | unknown: see [`Settling`](crate::Settling) |
///
/// The gRPC statuses that say so are `INVALID_ARGUMENT`, `NOT_FOUND`, `ALREADY_EXISTS`, `PERMISSION_DENIED`,
/// `FAILED_PRECONDITION`, `UNIMPLEMENTED` and `UNAUTHENTICATED`, by convention, as with 4xx. `RESOURCE_EXHAUSTED` and `OUT_OF_RANGE` are
/// unknown: libraries have them for an answer that is too large to be sent, too, when the handler has made its rows.
///
/// A [`RowOutcome`](crate::RowOutcome) in its extensions comes before all of that.
///
/// A row must not come of a request after its response has begun: not from a task that the handler has left behind, and
/// not while the response's body is written. Such a handler reserves its units itself, with
/// [`Quota::reserve`].
///
/// # Where to put it
///
/// From the outside in: trace, catch-panic, CORS, time-out, authentication, body limit, **quota**, handler. The layer
/// believes the workspace that the request names; if authentication puts a [`Principal`] into the request's extensions,
/// the layer also refuses what that principal may not access.
///
/// # Bodies
///
/// Rules can go by the request's body. It is then read, up to the rule's cap, and handed on byte for byte. Since that
/// changes the body's type for the inner service, it has a constructor of its own:
///
/// | constructor | the inner service takes | for |
/// |---|---|---|
/// | [`QuotaLayer::new`] | `Request<B>` | maps without body rules, any server |
/// | `QuotaLayer::for_axum` | `Request<axum::body::Body>` | axum (feature `axum`) |
/// | [`QuotaLayer::reading_bodies`] | `Request<RequestBody<B>>` | any other server |
#[must_use]
pub struct QuotaLayer<M = Untouched> {
    pub(super) shared: Arc<Shared>,
    mode: PhantomData<fn() -> M>,
}

pub(super) struct Shared {
    pub(super) quota: Quota,
    pub(super) routes: RouteMap,
    refusal: Arc<dyn RefusalResponse>,
    refusal_status: Option<StatusCode>,
    rate_limit_headers: bool,
    receipts: bool,
    on_failure: OnFailure,
}

impl QuotaLayer<Untouched> {
    /// A layer for maps whose rules need no request bodies; bodies keep their type.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when a rule needs the body, and when the map and the engine disagree about resource types or
    /// the format of workspace ids.
    pub fn new(quota: Quota, routes: RouteMap) -> Result<Self, Error> {
        if let Some(rule) = routes.rules().find(|rule| rule.needs_body()) {
            return Err(Error::config(format!(
                "rule {:?} reads the request body: make the layer with `for_axum` or `reading_bodies`",
                rule.name()
            )));
        }
        Self::with_mode(quota, routes)
    }
}

impl QuotaLayer<Replayed> {
    /// A layer whose rules may read request bodies. The inner service takes a [`RequestBody`](crate::RequestBody).
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the map and the engine disagree about resource types or the format of workspace ids.
    pub fn reading_bodies(quota: Quota, routes: RouteMap) -> Result<Self, Error> {
        Self::with_mode(quota, routes)
    }
}

#[cfg(feature = "axum")]
impl QuotaLayer<super::request_body::AxumBody> {
    /// A layer for `axum::Router::layer`, whose rules may read request bodies.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the map and the engine disagree about resource types or the format of workspace ids.
    pub fn for_axum(quota: Quota, routes: RouteMap) -> Result<Self, Error> {
        Self::with_mode(quota, routes)
    }
}

impl<M> QuotaLayer<M> {
    fn with_mode(quota: Quota, routes: RouteMap) -> Result<Self, Error> {
        let engine = quota.0.workspace_format();
        if let Some(format) = routes.workspace_format()
            && format != engine
        {
            return Err(Error::config(format!(
                "the route map says workspace ids are {format:?}, the quota says {engine:?}: say the same in both"
            )));
        }
        if !routes.catalog().same_types(quota.catalog()) {
            return Err(Error::config(
                "the route map and the quota have different resource types: build both from the same catalog",
            ));
        }
        let shared = Shared {
            quota,
            routes,
            refusal: Arc::new(contract),
            refusal_status: None,
            rate_limit_headers: false,
            receipts: false,
            on_failure: OnFailure::Open,
        };
        Ok(Self { shared: Arc::new(shared), mode: PhantomData })
    }

    /// Answers refused requests in another form than the contract's.
    pub fn refusal_response(self, refusal: impl RefusalResponse) -> Self {
        self.change(|shared| shared.refusal = Arc::new(refusal))
    }

    /// Answers refused requests with another status than 429; gRPC calls excepted.
    pub fn refusal_status(self, status: StatusCode) -> Self {
        self.change(|shared| shared.refusal_status = Some(status))
    }

    /// Adds `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers) to the responses of mapped
    /// requests; off by default.
    pub fn rate_limit_headers(self, add: bool) -> Self {
        self.change(|shared| shared.rate_limit_headers = add)
    }

    /// Puts a [`DecisionReceipt`](crate::DecisionReceipt) into the extensions of the response to each request that was to
    /// make rows, for layers around this one; off by default, since it takes a look at the books and an allocation.
    /// Refusals always have theirs.
    pub fn receipts(self, add: bool) -> Self {
        self.change(|shared| shared.receipts = add)
    }

    /// What happens in mode `enforce` to requests of rules that inherit it, when no decision can be made: they pass by
    /// default. In `warn` they always pass, in `strict` never.
    pub fn on_failure(self, on_failure: OnFailure) -> Self {
        self.change(|shared| shared.on_failure = on_failure)
    }

    fn change(self, change: impl FnOnce(&mut Shared)) -> Self {
        let mut shared = Shared {
            quota: self.shared.quota.clone(),
            routes: self.shared.routes.clone(),
            refusal: Arc::clone(&self.shared.refusal),
            refusal_status: self.shared.refusal_status,
            rate_limit_headers: self.shared.rate_limit_headers,
            receipts: self.shared.receipts,
            on_failure: self.shared.on_failure,
        };
        change(&mut shared);
        Self { shared: Arc::new(shared), mode: PhantomData }
    }
}

impl<M> Clone for QuotaLayer<M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), mode: PhantomData }
    }
}

impl<M> fmt::Debug for QuotaLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuotaLayer").field("quota", &self.shared.quota).finish_non_exhaustive()
    }
}

impl<S, M> Layer<S> for QuotaLayer<M> {
    type Service = QuotaService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        QuotaService { inner, shared: Arc::clone(&self.shared), mode: PhantomData }
    }
}

/// A service whose creations are held against limits. Made by [`QuotaLayer`].
#[must_use]
pub struct QuotaService<S, M = Untouched> {
    inner: S,
    shared: Arc<Shared>,
    mode: PhantomData<fn() -> M>,
}

impl<S: Clone, M> Clone for QuotaService<S, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), shared: Arc::clone(&self.shared), mode: PhantomData }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for QuotaService<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuotaService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, M, B, ResBody> Service<Request<B>> for QuotaService<S, M>
where
    M: BodyMode<B> + ResponseMode<ResBody> + 'static,
    M::Body: Send,
    B: Send + 'static,
    S: Service<Request<M::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<M::Leaving>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, M, ResBody, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.shared.triage(&request) {
            Triage::Pass => ResponseFuture::passed(self.inner.call(M::pass_request(request))),
            Triage::Admitted(pending) => {
                pending.tie(&mut request);
                ResponseFuture::admitted(self.inner.call(M::pass_request(request)), pending)
            }
            Triage::Answer(problem) => ResponseFuture::answered(answer::problem(&problem, request.headers())),
            Triage::Decide => self.decide(request),
        }
    }
}

impl<S, M> QuotaService<S, M> {
    /// Decides in a future of its own, in its own function so that requests that pass don't pay for its size.
    #[inline(never)]
    fn decide<B, ResBody>(&mut self, request: Request<B>) -> ResponseFuture<S::Future, M, ResBody, S::Error>
    where
        M: BodyMode<B> + ResponseMode<ResBody> + 'static,
        M::Body: Send,
        B: Send + 'static,
        S: Service<Request<M::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
        S::Future: Send,
    {
        // The ready service goes into the future; its clone, not known to be ready, takes its place.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);
        ResponseFuture::deciding(Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (mut request, mut pending) = match shared.decide::<M, B>(parts, body).await {
                Ok(admitted) => admitted,
                Err(response) => return Ok(response.map(|data| M::made(ResponseBody::from(data)))),
            };
            pending.begin();
            pending.tie(&mut request);
            // Declared after `pending` and so dropped before it: the handler's transaction goes first.
            let response = inner.call(request);
            let response = response.await?;
            Ok(pending.settle::<M, ResBody>(response))
        }))
    }
}

/// What can be said about a request at first sight, without waiting for anything.
pub(super) enum Triage {
    Pass,
    Admitted(Pending),
    Answer(Problem),
    Decide,
}

impl Shared {
    pub(super) fn triage<B>(&self, request: &Request<B>) -> Triage {
        let mode = self.quota.mode();
        if mode == EnforcementMode::Off {
            return Triage::Pass;
        }
        let Some(found) = self.find(request.method(), request.uri(), request.extensions()) else {
            return match mode {
                EnforcementMode::Strict => self.unmapped(request),
                _ => Triage::Pass,
            };
        };
        match found.rule().operation() {
            Operation::Ignore => return Triage::Pass,
            Operation::Create => {}
            Operation::Upsert | Operation::Delete | Operation::Restore => return Triage::Decide,
        }
        let direct = match found.direct() {
            Some(Ok(direct)) => direct,
            Some(Err(problem)) => return Triage::Answer(problem),
            None => return Triage::Decide,
        };
        if !self.quota.0.workspace_format().is_canonical(&direct.workspace) {
            return Triage::Decide;
        }
        if let Err(problem) = authorise(request.extensions(), &direct.workspace) {
            return Triage::Answer(problem);
        }
        let demands = direct.charges.iter().map(|charge| charge.demand());
        match self.quota.0.try_admit(&direct.workspace, demands) {
            Some(mut reservation) => {
                reservation.begin();
                if spans::wants_all() {
                    self.trace(&found, request, &direct, &reservation);
                }
                let receipt = self.quota.0.explain(&reservation, self.receipts);
                Triage::Admitted(Pending::new(reservation, None, self.named(), receipt))
            }
            None => Triage::Decide,
        }
    }

    /// Tells of a request that was admitted at once.
    #[cold]
    fn trace<B>(&self, found: &Match<'_>, request: &Request<B>, direct: &Direct<'_>, reservation: &Reservation) {
        let span = spans::decision_at_once(&asked(found, request.method(), request.uri(), request.extensions()));
        spans::resolved(&span, &direct.workspace, direct.charges, self.quota.catalog());
        spans::passed(&span, Outcome::Admitted, || self.quota.receipt(reservation));
    }

    /// The names for the `RateLimit` headers, where they are asked for.
    fn named(&self) -> Option<ResourceCatalog> {
        self.rate_limit_headers.then(|| self.quota.catalog().clone())
    }

    #[cold]
    fn unmapped<B>(&self, request: &Request<B>) -> Triage {
        let (path, matched) = (path(request.uri(), request.extensions()), matched_path(request.extensions()));
        if !self.routes.is_unmapped_create(request.method(), path, matched) {
            return Triage::Pass;
        }
        let message = format!(
            "no quota rule maps this {} to a resource type, and strict mode refuses what it can't count; the types are {}",
            request.method(),
            self.quota.catalog().names()
        );
        Triage::Answer(Problem::new(ErrorCode::InvalidResourceType, message))
    }

    fn find<'r>(&'r self, method: &Method, uri: &'r Uri, extensions: &'r Extensions) -> Option<Match<'r>> {
        if !self.routes.maps(method) {
            return None;
        }
        self.routes.find(method, path(uri, extensions), matched_path(extensions))
    }

    /// Resolves a request and reserves what it needs: what to call the inner service with, or the answer.
    pub(super) async fn decide<M, B>(
        &self,
        parts: Parts,
        body: B,
    ) -> Result<(Request<M::Body>, Pending), Response<Bytes>>
    where
        M: BodyMode<B>,
    {
        let Some(found) = self.find(&parts.method, &parts.uri, &parts.extensions) else {
            // The same map found it a moment ago.
            return Ok((Request::from_parts(parts, M::pass(body)), Pending::nothing(None)));
        };
        let span = spans::decision(&asked(&found, &parts.method, &parts.uri, &parts.extensions));
        let decided = self.decide_by::<M, B>(&found, &parts, body, &span).instrument(span.clone()).await;
        drop(found);
        match decided {
            Ok((body, pending)) => Ok((Request::from_parts(parts, body), pending)),
            Err(response) => {
                spans::answered(&span, response.status());
                Err(response)
            }
        }
    }

    async fn decide_by<M, B>(
        &self,
        found: &Match<'_>,
        parts: &Parts,
        body: B,
        span: &Span,
    ) -> Result<(M::Body, Pending), Response<Bytes>>
    where
        M: BodyMode<B>,
    {
        let rule = found.rule();
        let (data, body) = if rule.needs_body() {
            let (data, body) =
                M::read(body, rule.body_cap()).await.map_err(|problem| answer::problem(&problem, &parts.headers))?;
            (Some(data), body)
        } else {
            (None, M::pass(body))
        };
        match self.reserve(found, parts, data.as_deref(), span).await {
            Ok(pending) => Ok((body, pending)),
            Err(Denied::Refused(refusal)) => Err(self.refuse(refusal, parts)),
            Err(Denied::Problem(problem)) => Err(answer::problem(&problem, &parts.headers)),
        }
    }

    async fn reserve(
        &self,
        found: &Match<'_>,
        parts: &Parts,
        body: Option<&[u8]>,
        span: &Span,
    ) -> Result<Pending, Denied> {
        let rule = found.rule();
        let Resolved { workspace, charges, .. } =
            found.resolve(parts, body, self.quota.0.workspace_format()).await.map_err(Denied::Problem)?;
        spans::resolved(span, workspace.as_str(), &charges, self.quota.catalog());
        authorise(&parts.extensions, workspace.as_str()).map_err(Denied::Problem)?;
        let after = |what| After {
            quota: Arc::clone(&self.quota.0),
            workspace: workspace.clone(),
            demands: charges.iter().map(ResolvedCharge::demand).collect(),
            what,
            late: rule.late_rows(),
        };
        if rule.operation() == Operation::Delete {
            return Ok(Pending::nothing(Some(after(What::Deleted))));
        }
        let counts = rule.late_rows().is_some() || charges.iter().any(|charge| charge.settle_by_count);
        // What only edits leaves nothing to be counted.
        let after = |reservation: &Reservation| (counts && reservation.makes_any()).then(|| after(What::Count));
        let demands = charges.iter().map(|charge| charge.demand());
        let new = charges.iter().all(|charge| charge.existing == Existing::No);
        let at_once = if new { self.quota.0.try_admit(workspace.as_str(), demands) } else { None };
        let decision = match at_once {
            Some(reservation) => Ok(Decision::Admitted(reservation)),
            None => self.quota.0.admit(&workspace, &charges).await,
        };
        match decision {
            Ok(Decision::Admitted(reservation)) => {
                spans::passed(span, outcome_of(&reservation), || self.quota.receipt(&reservation));
                let receipt = self.quota.0.explain(&reservation, self.receipts);
                let after = after(&reservation);
                Ok(Pending::new(reservation, after, self.named(), receipt))
            }
            Ok(Decision::Refused(refusal)) => {
                spans::refused(span, Outcome::of_refusal(&refusal), &refusal);
                Err(Denied::Refused(refusal))
            }
            Err(error) => {
                let modes = charges.iter().map(|charge| self.quota.mode_of(&workspace, charge.resource));
                // The strictest of them.
                let mode = modes.max().unwrap_or_else(|| self.quota.mode());
                // A workspace without a record is the client's fault, and no failure of the store.
                if error.is_not_found() && mode.refuses() || self.is_closed(mode, rule.on_failure()) {
                    self.quota.0.not_decided(&charges, &error);
                    spans::not_decided(span, Outcome::of_error(&error));
                    tracing::error!(error = %error, %workspace, rule = rule.name(), "the quota can't be checked: refused");
                    return Err(Denied::Problem(Problem::from(&error)));
                }
                tracing::error!(error = %error, %workspace, rule = rule.name(), "the quota can't be checked: passes");
                spans::not_decided(span, Outcome::Undecided);
                let reservation = self.quota.0.admit_undecided(&workspace, &charges);
                let receipt = self.quota.0.explain(&reservation, self.receipts);
                let after = after(&reservation);
                Ok(Pending::new(reservation, after, None, receipt))
            }
        }
    }

    /// Whether a request is refused when the quota can't be checked.
    fn is_closed(&self, mode: EnforcementMode, rule: OnFailure) -> bool {
        let on_failure = if rule == OnFailure::Inherit { self.on_failure } else { rule };
        match mode {
            EnforcementMode::Off | EnforcementMode::Warn => false,
            EnforcementMode::Enforce => on_failure == OnFailure::Closed,
            EnforcementMode::Strict => true,
        }
    }

    fn refuse(&self, refusal: Refusal, parts: &Parts) -> Response<Bytes> {
        let mut response = if is_grpc(&parts.headers) {
            answer::grpc(&Problem::from(&refusal))
        } else {
            with_status(self.refusal.respond(&refusal, parts), self.refusal_status)
        };
        if self.rate_limit_headers {
            refused_rate_limit_headers(response.headers_mut(), &refusal);
        }
        response.extensions_mut().insert(ErrorCode::QuotaExceeded);
        // A layer around this one has reserved units, too, and doesn't know this answer's status from a handler's.
        response.extensions_mut().insert(RowOutcome::Voided);
        response.extensions_mut().insert(refusal.receipt.clone());
        response.extensions_mut().insert(refusal);
        response
    }
}

/// What a span tells of a request.
fn asked<'r>(found: &Match<'r>, method: &'r Method, uri: &'r Uri, extensions: &'r Extensions) -> Asked<'r> {
    Asked { method, path: path(uri, extensions), route: found.template(), rule: found.rule().name() }
}

/// What a reservation says of its decision.
fn outcome_of(reservation: &Reservation) -> Outcome {
    match (reservation.warnings(), reservation.makes_any()) {
        ([], true) => Outcome::Admitted,
        ([], false) => Outcome::Edited,
        _ => Outcome::Warned,
    }
}

/// Why a request doesn't reach the inner service.
enum Denied {
    Refused(Refusal),
    Problem(Problem),
}

/// The workspace that a request names is a claim: where the host's authentication left a principal, it must be one
/// that the principal may access.
fn authorise(extensions: &Extensions, workspace: &str) -> Result<(), Problem> {
    match extensions.get::<Principal>() {
        Some(principal) if !principal.may_access(workspace) => {
            Err(Problem::new(ErrorCode::InsufficientPermissions, "this token may not act on that workspace"))
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "axum")]
fn path<'r>(uri: &'r Uri, extensions: &'r Extensions) -> &'r str {
    // Inside a nested router the request's own path has lost its prefix.
    extensions.get::<axum::extract::OriginalUri>().map_or(uri, |original| &original.0).path()
}

#[cfg(not(feature = "axum"))]
fn path<'r>(uri: &'r Uri, _extensions: &'r Extensions) -> &'r str {
    uri.path()
}

#[cfg(feature = "axum")]
fn matched_path(extensions: &Extensions) -> Option<&str> {
    extensions.get::<axum::extract::MatchedPath>().map(axum::extract::MatchedPath::as_str)
}

#[cfg(not(feature = "axum"))]
fn matched_path(_extensions: &Extensions) -> Option<&str> {
    None
}
