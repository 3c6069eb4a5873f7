//! What `tracing` is told of the way of a request: every span, with its fields.
//!
//! They are named by OpenTelemetry's conventions for HTTP where these have a name, and `tower_quota.…` otherwise. Fields named
//! `otel.…` are those by which `tracing-opentelemetry` knows a span's name, kind and status. A span that nobody wants costs
//! a look at a number that says so.

use http::{Method, StatusCode};
use tracing::field::{Empty, display};
use tracing::{Level, Span};

use crate::decision::{DecisionReceipt, Refusal, ResolvedCharge};
use crate::metrics::Outcome;
use crate::resource::ResourceCatalog;

const TARGET: &str = "tower_quota";

/// A number as the conventions have it. Others would be exported as texts.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The method as the conventions have it: of a bounded set.
fn method(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE => method.as_str(),
        Method::CONNECT | Method::OPTIONS | Method::TRACE | Method::PATCH => method.as_str(),
        _ => "_OTHER",
    }
}

/// A decision at a level. Levels are part of the place in the code that `tracing` remembers, and so can't be chosen at run time.
macro_rules! decision {
    ($level:expr, $request:expr) => {{
        let request = $request;
        tracing::span!(
            target: TARGET,
            $level,
            "quota decision",
            otel.name = %format_args!("quota {}", request.rule),
            otel.kind = "internal",
            otel.status_code = Empty,
            http.request.method = method(request.method),
            url.path = request.path,
            http.route = request.route,
            http.response.status_code = Empty,
            "error.type" = Empty,
            tower_quota.rule = request.rule,
            tower_quota.workspace = Empty,
            tower_quota.resource_type = Empty,
            tower_quota.requested = Empty,
            tower_quota.outcome = Empty,
            tower_quota.usage = Empty,
            tower_quota.limit = Empty,
        )
    }};
}

/// A request that is to make rows.
pub(crate) struct Asked<'r> {
    pub(crate) method: &'r Method,
    pub(crate) path: &'r str,
    /// The template that its path fits.
    pub(crate) route: &'r str,
    /// The name of its rule.
    pub(crate) rule: &'r str,
}

/// Whether anybody wants a span of each request that is admitted at once.
#[inline]
pub(crate) fn wants_all() -> bool {
    tracing::enabled!(target: TARGET, Level::TRACE)
}

/// A decision that takes more than a look into memory.
pub(crate) fn decision(asked: &Asked<'_>) -> Span {
    decision!(Level::INFO, asked)
}

/// One that didn't.
#[cold]
pub(crate) fn decision_at_once(asked: &Asked<'_>) -> Span {
    decision!(Level::TRACE, asked)
}

/// What is asked for, and for whom.
pub(crate) fn resolved(span: &Span, workspace: &str, charges: &[ResolvedCharge], catalog: &ResourceCatalog) {
    if span.is_disabled() {
        return;
    }
    span.record("tower_quota.workspace", workspace);
    let mut names: Vec<_> = charges.iter().map(|charge| catalog.get(charge.resource).name()).collect();
    names.dedup();
    span.record("tower_quota.resource_type", names.join(","));
    let units = charges.iter().fold(0_u64, |units, charge| units.saturating_add(charge.units));
    span.record("tower_quota.requested", number(units));
}

/// It passes.
pub(crate) fn passed(span: &Span, outcome: Outcome, receipt: impl FnOnce() -> Option<DecisionReceipt>) {
    if span.is_disabled() {
        return;
    }
    span.record("tower_quota.outcome", outcome.as_str());
    let receipt = receipt();
    // Of several there is no one number.
    if let Some([evidence]) = receipt.as_ref().map(|receipt| receipt.evidence.as_slice()) {
        standing(
            span,
            evidence.counted.map(|counted| counted.saturating_add(evidence.posted)),
            evidence.limit.and_then(|limit| limit.rows()),
        );
    }
}

/// It doesn't, since there are too many rows.
pub(crate) fn refused(span: &Span, outcome: Outcome, refusal: &Refusal) {
    span.record("tower_quota.outcome", outcome.as_str());
    span.record("tower_quota.resource_type", refusal.resource.name());
    standing(span, Some(refusal.current_usage), Some(refusal.limit));
}

/// It doesn't, since nothing could be decided.
pub(crate) fn not_decided(span: &Span, outcome: Outcome) {
    span.record("tower_quota.outcome", outcome.as_str());
}

fn standing(span: &Span, usage: Option<u64>, limit: Option<u64>) {
    span.record("tower_quota.usage", usage.map(number));
    span.record("tower_quota.limit", limit.map(number));
}

/// What this crate answers.
pub(crate) fn answered(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("error.type", status.as_str());
        span.record("otel.status_code", "ERROR");
    }
}

/// A request to the HTTP API.
#[cfg(feature = "api")]
pub(crate) fn api(verb: &Method, path: &str, route: Option<&str>) -> Span {
    let verb = method(verb);
    tracing::info_span!(
        target: TARGET,
        "quota api",
        otel.name = %format_args!("{verb} {}", route.unwrap_or_default()),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = verb,
        url.path = path,
        http.route = route,
        http.response.status_code = Empty,
        "error.type" = Empty,
        tower_quota.workspace = Empty,
    )
}

/// Whom such a request is about.
#[cfg(feature = "api")]
pub(crate) fn about(span: &Span, workspace: &str) {
    span.record("tower_quota.workspace", workspace);
}

/// A call of the store, of a count, of the shared ledger: whatever may wait for something outside of the process.
pub(crate) fn call(what: &str) -> Span {
    tracing::debug_span!(
        target: TARGET,
        "quota call",
        otel.name = what,
        otel.kind = "client",
        otel.status_code = Empty,
        otel.status_description = Empty,
        "error.type" = Empty,
        tower_quota.operation = what,
    )
}

/// Such a call failed.
pub(crate) fn call_failed(span: &Span, kind: &'static str, error: &crate::error::Error) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", display(error));
}
