//! The operations.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use jiff::Timestamp;

use super::Api;
use super::dto::{self, EnforcementAnswer, HealthAnswer, Object, QuotaAnswer, RecountAnswer, UpdateAnswer, Verdict};
use super::etag;
use super::extract::{Admin, Caller, DryRun, Explain, IfMatch, Operator, Reader, Soft};
use super::failure::Failure;
use crate::problem::{ErrorCode, Problem};

describe!(read_quota, |it| {
    it.is("readQuota", "Quotas", "Tells what a workspace may have, and what it has")
        .about(
            "`percentages` are rounded down: 100 is at the limit or above it. An unlimited type has 0, \
            one with limit 0 has 100. Where records are made by themselves, the first call makes that of \
            the workspace.",
        )
        .answers(
            StatusCode::OK,
            "Limits, rows, percentages.",
            with_optional(
                [("quota", named("Quota")), ("usage", named("Counts")), ("percentages", named("Counts"))],
                [("explain", named("Explanation"))],
            ),
            json!({
                "quota": examples::quota(),
                "usage": {"users": 750, "segments": 45},
                "percentages": {"users": 75, "segments": 90},
            }),
        )
        .tagged()
});

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

describe!(update_quota, |it| {
    it.is("updateQuota", "Quotas", "Sets limits of a workspace")
        .about(
            "Fields that are left out stay as they are. A limit below usage is no error: what is there \
            stays, new rows are refused, and `warnings` tells it.",
        )
        .takes(named("QuotaUpdate"), json!({"maxSegments": 100, "reason": "a larger contract"}))
        .answers(
            StatusCode::OK,
            "The whole quota.",
            with_optional([("quota", named("Quota"))], [("warnings", list(text()))]),
            json!({"quota": examples::quota()}),
        )
        .tagged()
        .fails(&[ErrorCode::InvalidResourceType, ErrorCode::WorkspaceMismatch])
});

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

describe!(validate, |it| {
    it.is("validate", "Quotas", "Tells whether rows could be created now")
        .about(
            "It is advice, and reserves nothing. `remaining` and `percentUsed` are those before the \
            increment. In the modes `off` and `warn` nothing is refused: `allowed` is true and \
            `wouldExceed` tells.",
        )
        .takes(
            with_optional([("resourceType", named("ResourceType"))], [("increment", or_null(integer(1, Limit::MAX)))]),
            json!({"resourceType": "segments", "increment": 5}),
        )
        .answers(
            StatusCode::OK,
            "They could; or `soft` was given.",
            with_optional(
                [
                    ("allowed", flag()),
                    ("currentUsage", count()),
                    ("limit", named("Limit")),
                    ("remaining", or_null(count())),
                    ("percentUsed", count()),
                    ("wouldExceed", flag()),
                ],
                [("reserved", count())],
            ),
            json!({
            "allowed": true,
            "currentUsage": 45,
            "limit": 50,
            "remaining": 5,
            "percentUsed": 90,
            "wouldExceed": false,
            }),
        )
        .fails(&[ErrorCode::InvalidResourceType, ErrorCode::QuotaExceeded])
});

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

describe!(recalculate, |it| it
    .is("recalculate", "Quotas", "Counts the rows of a workspace anew")
    .about("With `dryRun`, nothing is changed: `corrections` are those that would be made.")
    .answers(
        StatusCode::OK,
        "The counts, and where something else was believed: `drift` is `actual` - `cached`.",
        object([
            ("workspaceId", named("WorkspaceId")),
            ("usage", named("Counts")),
            (
                "corrections",
                list(object([
                    ("resourceType", named("ResourceType")),
                    ("cached", count()),
                    ("actual", count()),
                    ("drift", json!({"type": "integer"})),
                ])),
            ),
            ("recalculatedAt", time()),
        ]),
        json!({
            "workspaceId": "acme",
            "usage": {"users": 750, "segments": 45},
            "corrections": [{"resourceType": "segments", "cached": 47, "actual": 45, "drift": -2}],
            "recalculatedAt": examples::time(),
        }),
    ));

pub(super) async fn recalculate(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    DryRun(dry_run): DryRun,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let Caller { principal, actor } = caller;
    let recount = match dry_run {
        true => quota.drift(&workspace).await?,
        false => {
            let recount = quota.admin(actor).recount(&workspace).await?;
            let corrections = recount.corrections.len();
            tracing::info!(%workspace, caller = %principal, corrections, "usage recalculated");
            recount
        }
    };
    let answer = RecountAnswer::new(quota.catalog(), &workspace, &recount, Timestamp::now());
    Ok(Json(answer).into_response())
}

describe!(read_enforcement, |it| it
    .is("readEnforcement", "Enforcement", "Tells how strictly limits are enforced")
    .answers(
        StatusCode::OK,
        "The mode of all, where it came from, what is promised, and the modes of resource types that have their own.",
        named("Enforcement"),
        json!({"mode": "enforce", "source": "environment", "promise": "exact"}),
    ));

pub(super) async fn read_enforcement(State(api): State<Api>, _: Caller) -> Json<EnforcementAnswer> {
    Json(EnforcementAnswer::of(api.quota()))
}

describe!(update_enforcement, |it| {
    it.is("updateEnforcement", "Enforcement", "Sets how strictly limits are enforced")
        .takes(
            json!({
                "type": "object",
                "properties": {"mode": or_null(named("Mode")), "types": named("ModesChange")},
                "additionalProperties": false,
                "anyOf": [
                    {"required": ["mode"], "properties": {"mode": named("Mode")}},
                    {"required": ["types"], "properties": {"types": {"minProperties": 1}}},
                ],
            }),
            json!({"mode": "warn", "types": {"segments": "enforce"}}),
        )
        .answers(
            StatusCode::OK,
            "As it is now.",
            named("Enforcement"),
            json!({"mode": "warn", "source": "runtime", "promise": "exact", "types": {"segments": "enforce"}}),
        )
        .fails(&[ErrorCode::InvalidResourceType])
});

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

describe!(health, |it| it
    .is("health", "Health", "Tells whether the store answers")
    .answers(StatusCode::OK, "It does.", object([("status", one_of(["ok"]))]), json!({"status": "ok"}))
    .answers(
        StatusCode::SERVICE_UNAVAILABLE,
        "It doesn't.",
        object([("status", one_of(["unavailable"]))]),
        json!({"status": "unavailable"}),
    ));

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
