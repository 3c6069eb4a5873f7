//! The operations.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use jiff::Timestamp;

use super::Api;
use super::dto::{self, EnforcementAnswer, HealthAnswer, Object, QuotaAnswer, RecountAnswer, UpdateAnswer, Verdict};
use super::etag;
use super::extract::{Admin, Caller, Explain, IfMatch, Operator, Reader, Soft};
use super::failure::Failure;
use crate::problem::{ErrorCode, Problem};

pub(super) async fn read_quota(
    State(api): State<Api>,
    reader: Reader,
    Explain(explain): Explain,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let view = quota.record(&reader.workspace).await?;
    let usage = quota.usage(&reader.workspace).await?;
    let tag = etag::of_version(view.record.version);
    let traces = if explain { Some(quota.explain(&reader.workspace).await?) } else { None };
    let answer = QuotaAnswer::new(quota.catalog(), &view, &usage, traces.as_deref());
    Ok(([(header::ETAG, tag)], Json(answer)).into_response())
}

pub(super) async fn update_quota(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    IfMatch(expect): IfMatch,
    body: Object,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let catalog = quota.catalog();
    let (changes, reason) = dto::limit_changes(body, catalog, &workspace, |raw| quota.workspace(raw))?;
    let Caller { principal, actor } = caller;
    let view = quota.admin(actor).set_limits(&workspace, &changes, &expect, reason).await?;
    let version = view.record.version;
    if !changes.is_empty() {
        tracing::info!(%workspace, caller = %principal, version, "quota limits set");
    }
    // The change stands whether or not rows can be counted now, so that a failed count is no failure of the request.
    let mut warnings = if changes.iter().any(|(_, limit)| limit.rows().is_some()) {
        match quota.usage(&workspace).await {
            Ok(usage) => dto::below_usage(catalog, &changes, &usage),
            Err(error) => {
                tracing::warn!(%workspace, %error, "usage can't be compared with the new limits");
                vec!["usage can't be counted now: it may be above the new limits".to_owned()]
            }
        }
    } else {
        Vec::new()
    };
    if !changes.is_empty() {
        let traces = quota.explain(&workspace).await.unwrap_or_default();
        warnings.extend(dto::above_caps(&changes, &traces));
    }
    let answer = UpdateAnswer::new(catalog, &view, &warnings);
    Ok(([(header::ETAG, etag::of_version(version))], Json(answer)).into_response())
}

pub(super) async fn validate(
    State(api): State<Api>,
    reader: Reader,
    Soft(soft): Soft,
    body: Object,
) -> Result<Json<Verdict>, Failure> {
    let quota = api.quota();
    let demand = dto::demand(body, quota.catalog())?;
    let check = quota.check(&reader.workspace, demand).await?;
    let refuses = quota.mode_of(&reader.workspace, demand.resource).refuses();
    let refusal = check.refusal.as_ref().filter(|_| refuses);
    match refusal {
        Some(refusal) if !soft => Err(Problem::from(refusal).into()),
        _ => Ok(Json(Verdict::new(&check, demand.units, refusal.is_none()))),
    }
}

pub(super) async fn recalculate(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let Caller { principal, actor } = caller;
    let recount = quota.admin(actor).recount(&workspace).await?;
    tracing::info!(%workspace, caller = %principal, corrections = recount.corrections.len(), "usage recalculated");
    let answer = RecountAnswer::new(quota.catalog(), &workspace, &recount, Timestamp::now());
    Ok(Json(answer).into_response())
}

pub(super) async fn read_enforcement(State(api): State<Api>, _: Caller) -> Json<EnforcementAnswer> {
    Json(EnforcementAnswer::of(api.quota()))
}

pub(super) async fn update_enforcement(
    State(api): State<Api>,
    Operator(caller): Operator,
    body: Object,
) -> Result<Json<EnforcementAnswer>, Failure> {
    let (mode, types) = dto::modes(body, api.quota().catalog())?;
    let admin = api.quota().admin(caller.actor);
    if let Some(mode) = mode {
        admin.set_mode(mode).await?;
        tracing::info!(caller = %caller.principal, %mode, "enforcement mode set");
    }
    for (resource, mode) in types {
        admin.set_mode_of(resource, mode).await?;
    }
    Ok(Json(EnforcementAnswer::of(api.quota())))
}

pub(super) async fn health(State(api): State<Api>) -> (StatusCode, Json<HealthAnswer>) {
    match api.quota().ping().await {
        Ok(()) => (StatusCode::OK, Json(HealthAnswer { status: "ok" })),
        Err(error) => {
            tracing::warn!(%error, "the quota store does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, Json(HealthAnswer { status: "unavailable" }))
        }
    }
}

pub(super) async fn not_found() -> Failure {
    Problem::new(ErrorCode::NotFound, "there is no such path in the quota API").into()
}

pub(super) async fn method_not_allowed() -> Failure {
    Problem::new(ErrorCode::MethodNotAllowed, "the path has no such method; `Allow` lists those it has").into()
}
