//! The operations over all workspaces, and those on rows.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Api;
use super::dto::{self, Object};
use super::extract::{Admin, MaybeEmpty, Operator, Pairs};
use super::failure::Failure;
use crate::engine::{Proposal, ShadowReport};
use crate::error::Error;
use crate::problem::{ErrorCode, Problem};
use crate::workspace::WorkspaceId;

/// How many batches of an import one request makes: it is to be answered within seconds.
const BATCHES: usize = 10;

/// How many proposals are answered.
const PROPOSALS: usize = 200;

/// What this set-up can't do, however often it is asked for.
pub(super) fn beyond(error: Error) -> Failure {
    if error.is_config() {
        return Problem::new(ErrorCode::InvalidRequest, error.message()).into();
    }
    error.into()
}

pub(super) async fn import(
    State(api): State<Api>,
    Operator(caller): Operator,
    MaybeEmpty(body): MaybeEmpty,
) -> Result<Json<Value>, Failure> {
    let mut import = api.quota().admin(caller.actor).import(dto::import(body)?).await.map_err(beyond)?;
    let mut proposals = Vec::new();
    for _ in 0..BATCHES {
        let Some(some) = import.next().await.map_err(beyond)? else { break };
        proposals.extend(some.into_iter().take(PROPOSALS.saturating_sub(proposals.len())));
    }
    let proposal = |proposal: &Proposal| {
        json!({
            "workspaceId": proposal.workspace.as_str(),
            "resourceType": proposal.resource.name(),
            "usage": proposal.rows,
            "existing": proposal.existing.map_or_else(|| json!("unset"), |limit| json!(limit)),
            "proposed": proposal.proposed,
            "taken": proposal.taken,
        })
    };
    let proposals: Vec<_> = proposals.iter().map(proposal).collect();
    Ok(Json(json!({"summary": import.summary(), "proposals": proposals})))
}

pub(super) async fn readiness(State(api): State<Api>, _: Operator, mut pairs: Pairs) -> Result<Json<Value>, Failure> {
    let most = pairs.take_limit()?;
    pairs.finish("`limit`")?;
    let readiness = api.quota().readiness(most).await.map_err(beyond)?;
    let named = |worst: &[(WorkspaceId, u64, u64)]| {
        let name = |(workspace, usage, limit): &(WorkspaceId, u64, u64)| json!({"workspaceId": workspace.as_str(), "usage": usage, "limit": limit});
        worst.iter().map(name).collect::<Vec<_>>()
    };
    let types = readiness.types.iter().map(|of| {
        let told = json!({
            "full": of.full,
            "over": of.over,
            "exempt": of.exempt,
            "worst": named(&of.worst),
            "caps": {"reached": of.caps, "worst": named(&of.worst_caps)},
        });
        (of.resource.name().to_owned(), told)
    });
    let types: serde_json::Map<String, Value> = types.collect();
    Ok(Json(json!({"workspaces": readiness.workspaces, "wouldRefuse": readiness.would_refuse(), "types": types})))
}

pub(super) async fn clean(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    body: Object,
) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    let (resource, options) = dto::cleanup(body, quota.catalog())?;
    let report = quota.admin(caller.actor).clean(&workspace, resource, options).await.map_err(beyond)?;
    Ok(Json(json!({
        "resourceType": quota.catalog().get(resource).name(),
        "policy": report.policy,
        "dryRun": report.dry_run,
        "above": report.above,
        "removed": report.removed,
        "rows": report.rows,
    })))
}

fn shadow(report: Option<ShadowReport>) -> Result<Json<Value>, Failure> {
    let report = report.ok_or_else(|| Problem::new(ErrorCode::NotFound, "no limits are being tried out"))?;
    let workspaces = report.workspaces.iter().map(|of| {
        json!({
            "workspaceId": of.workspace.as_str(),
            "resourceType": of.resource.name(),
            "refusals": of.refusals,
            "usage": of.usage,
            "limit": of.limit,
        })
    });
    Ok(Json(json!({
        "since": report.since,
        "evaluated": report.evaluated,
        "wouldRefuse": report.would_refuse,
        "workspaces": workspaces.collect::<Vec<_>>(),
    })))
}

pub(super) async fn read_shadow(State(api): State<Api>, _: Operator, mut pairs: Pairs) -> Result<Json<Value>, Failure> {
    let most = pairs.take_limit()?;
    pairs.finish("`limit`")?;
    shadow(api.quota().shadow(most))
}

pub(super) async fn start_shadow(State(api): State<Api>, _: Operator, body: Object) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    let (limits, only) = dto::shadow(body, quota.catalog(), |raw| quota.workspace(raw))?;
    quota.start_shadow(limits, only)?;
    shadow(quota.shadow(0))
}

pub(super) async fn stop_shadow(State(api): State<Api>, _: Operator) -> Result<Json<Value>, Failure> {
    shadow(api.quota().stop_shadow(PROPOSALS))
}
