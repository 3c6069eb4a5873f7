//! The operations over all workspaces, and those on rows.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use super::Api;
use super::dto::{self, Object};
use super::extract::{Admin, MaybeEmpty, Operator, Pairs};
use super::failure::Failure;
use crate::engine::{Proposal, ShadowReport, SystemStatus};
use crate::error::Error;
use crate::problem::{ErrorCode, Problem};
use crate::resource::ResourceId;
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

describe!(import, |it| {
    it.is("importLimits", "Operations", "Proposes limits by what workspaces have, or sets them")
        .about(
            "The limits are `ceil(usage * percent / 100)`, and `floor` at least. With `apply` they are \
            set, and a run that was broken off goes on with the same `name`; call it until \
            `summary.done`. Without, nothing is changed, and `after` is where to go on: the \
            `summary.after` of the call before.",
        )
        .takes(
            options([
                ("percent", integer(1, 100_000)),
                ("floor", integer(0, Limit::MAX)),
                ("allowLowering", flag()),
                ("apply", flag()),
                ("batch", integer(1, 10_000)),
                ("name", or_null(json!({"type": "string", "minLength": 1, "maxLength": 100}))),
                ("after", or_null(text())),
            ]),
            json!({"percent": 120, "floor": 10}),
        )
        .answers(
            StatusCode::OK,
            "How far it has come, and the first proposals. `existing` is `unset` where there was no own limit.",
            object([
                (
                    "summary",
                    object([
                        ("workspaces", count()),
                        ("set", count()),
                        ("raised", count()),
                        ("lowered", count()),
                        ("kept", count()),
                        ("invalid", count()),
                        ("invalidIds", list(text())),
                        ("after", or_null(text())),
                        ("done", flag()),
                    ]),
                ),
                (
                    "proposals",
                    list(object([
                        ("workspaceId", named("WorkspaceId")),
                        ("resourceType", named("ResourceType")),
                        ("usage", count()),
                        ("existing", json!({"anyOf": [named("Limit"), {"const": "unset"}]})),
                        ("proposed", named("Limit")),
                        ("taken", flag()),
                    ])),
                ),
            ]),
            json!({
                "summary": {
                    "workspaces": 1, "set": 1, "raised": 0, "lowered": 0, "kept": 0, "invalid": 0, "invalidIds": [],
                    "after": "acme", "done": true,
                },
                "proposals": [{
                    "workspaceId": "acme", "resourceType": "segments", "usage": 45, "existing": "unset", "proposed": 54,
                    "taken": true,
                }],
            }),
        )
        .fails(&[ErrorCode::PreconditionFailed])
});

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

describe!(status, |it| {
    it.is("readStatus", "Operations", "Tells how the set-up stands: its tables, and the processes that enforce limits")
        .about(
            "`schema` has the version of the tables that the database has and the newest one that this program knows. `replicas` \
            are the processes that share a ledger, each with what it enforces; in one process, it is that. `this` is the one that \
            answers. `config` is null where a process doesn't tell, and times are those of the database's clock. One that was \
            killed is there until its leases have ended.",
        )
        .answers(StatusCode::OK, "As it stands.", named("Status"), examples::status())
});

pub(super) async fn status(State(api): State<Api>, _: Operator) -> Result<Json<SystemStatus>, Failure> {
    Ok(Json(api.quota().status().await?))
}

describe!(readiness, |it| {
    it
    .is("readiness", "Operations", "Tells who would be refused if limits were enforced now")
    .query("limit", most(), "At most so many workspaces of each resource type.")
    .answers(
        StatusCode::OK,
        "By resource type: how many workspaces are at their limit, how many above it, how many of those their mode lets \
        pass, and the worst of them; and the same of caps.",
        object([("workspaces", count()), ("wouldRefuse", flag()), ("types", named("Readiness"))]),
        json!({
            "workspaces": 2, "wouldRefuse": true,
            "types": {"segments": {
                "full": 0, "over": 1, "exempt": 0, "worst": [{"workspaceId": "acme", "usage": 52, "limit": 50}],
                "caps": {"reached": 0, "worst": []},
            }},
        }),
    )
});

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

describe!(clean, |it| {
    it.is("cleanUp", "Operations", "Handles the rows above a limit")
        .about(
            "As the policy of the resource type says: `report`, `archive` or `delete`, the newest first. \
            It only looks unless `dryRun` is false, and removes rows in mode `strict` only.",
        )
        .takes(
            with_optional(
                [("resourceType", named("ResourceType"))],
                [("dryRun", flag()), ("batch", integer(1, 10_000))],
            ),
            json!({"resourceType": "segments", "dryRun": true}),
        )
        .answers(
            StatusCode::OK,
            "What was done, or would be.",
            object([
                ("resourceType", named("ResourceType")),
                ("policy", one_of(["report", "archive", "delete"])),
                ("dryRun", flag()),
                ("above", count()),
                ("removed", count()),
                ("rows", list(text())),
            ]),
            json!({
            "resourceType": "segments",
            "policy": "archive",
            "dryRun": true,
            "above": 1,
            "removed": 0,
            "rows": ["17"],
            }),
        )
        .fails(&[ErrorCode::InvalidResourceType])
});

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

describe!(set_tally, |it| {
    it.is("setTally", "Operations", "Sets how many rows a workspace has of types that the ledger alone counts")
        .about(
            "There nobody can count rows: the ledger has what was posted, less what was deleted, from where this has set it. Rows \
            of requests that are in flight meanwhile count on top. All types that are named are set, or none.",
        )
        .takes(
            with_optional(
                [("rows", json!({"$ref": "#/components/schemas/Tally", "minProperties": 1}))],
                [("reason", or_null(words()))],
            ),
            json!({"rows": {"segments": 45}, "reason": "counted by hand"}),
        )
        .answers(
            StatusCode::OK,
            "What it had before, and has now.",
            object([("workspaceId", named("WorkspaceId")), ("before", named("Tally")), ("rows", named("Tally"))]),
            json!({"workspaceId": "acme", "before": {"segments": 47}, "rows": {"segments": 45}}),
        )
        .fails(&[ErrorCode::InvalidResourceType])
        .fails_as(
            ErrorCode::InvalidRequest,
            "segments is not counted by the ledger alone: its rows are counted where they are, and can't be set",
        )
});

pub(super) async fn set_tally(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    body: Object,
) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    let (rows, reason) = dto::tally(body, quota.catalog())?;
    let before = quota.admin(caller.actor).set_tally(&workspace, &rows, reason).await?;
    tracing::info!(%workspace, caller = %caller.principal, types = rows.len(), "tally set");
    let named = |rows: &mut dyn Iterator<Item = (ResourceId, u64)>| -> Map<String, Value> {
        rows.map(|(resource, rows)| (quota.catalog().get(resource).name().to_owned(), rows.into())).collect()
    };
    Ok(Json(json!({
        "workspaceId": workspace.as_str(),
        "before": named(&mut rows.iter().map(|(resource, _)| *resource).zip(before)),
        "rows": named(&mut rows.iter().copied()),
    })))
}

describe!(read_shadow, |it| it
    .is("readShadow", "Operations", "Tells what came of trying limits out")
    .query("limit", most(), "At most so many workspaces.")
    .answers(StatusCode::OK, "What would have been refused.", named("Shadow"), examples::shadow(),)
    .fails(&[ErrorCode::NotFound]));

pub(super) async fn read_shadow(State(api): State<Api>, _: Operator, mut pairs: Pairs) -> Result<Json<Value>, Failure> {
    let most = pairs.take_limit()?;
    pairs.finish("`limit`")?;
    shadow(api.quota().shadow(most))
}

describe!(start_shadow, |it| it
    .is("startShadow", "Operations", "Tries limits out, without enforcing them")
    .about("Everywhere, or in some workspaces. It takes the place of what was tried out before.")
    .takes(
        with_optional(
            [("limits", json!({"$ref": "#/components/schemas/Limits", "minProperties": 1}))],
            [("workspaces", or_null(list(named("WorkspaceId"))))],
        ),
        json!({"limits": {"maxSegments": 50}}),
    )
    .answers(StatusCode::OK, "It has begun.", named("Shadow"), examples::shadow(),)
    .fails(&[ErrorCode::InvalidResourceType]));

pub(super) async fn start_shadow(State(api): State<Api>, _: Operator, body: Object) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    let (limits, only) = dto::shadow(body, quota.catalog(), |raw| quota.workspace(raw))?;
    quota.start_shadow(limits, only)?;
    shadow(quota.shadow(0))
}

describe!(stop_shadow, |it| it
    .is("stopShadow", "Operations", "Ends trying limits out")
    .answers(StatusCode::OK, "What would have been refused.", named("Shadow"), examples::shadow(),)
    .fails(&[ErrorCode::NotFound]));

pub(super) async fn stop_shadow(State(api): State<Api>, _: Operator) -> Result<Json<Value>, Failure> {
    shadow(api.quota().stop_shadow(PROPOSALS))
}
