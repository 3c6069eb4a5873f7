//! The operations on what limits come from: plans, settings, overrides, requests, the audit log.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;
use super::dto::{self, Object, UpdateAnswer};
use super::etag;
use super::extract::{Admin, Caller, IfMatch, MaybeEmpty, Named, Operator, Pairs, Reader};
use super::failure::Failure;
use crate::engine::{Quota, QuotaView};
use crate::error::Error;
use crate::limit::LimitSet;
use crate::policy::{AuditFilter, AuditPage, IncreaseRequest, Plan, RequestStatus};
use crate::problem::{ErrorCode, Problem};
use crate::resource::{ResourceCatalog, shown};
use crate::store::QuotaRecord;
use crate::workspace::WorkspaceId;

/// A workspace that isn't there has a code of its own; other things that aren't haven't.
pub(super) fn missing(error: Error) -> Failure {
    if error.is_not_found() {
        return Problem::new(ErrorCode::NotFound, error.message()).into();
    }
    error.into()
}

fn tagged(version: u64, body: Value) -> Response {
    ([(header::ETAG, etag::of_version(version))], Json(body)).into_response()
}

fn updated(catalog: &ResourceCatalog, view: &QuotaView) -> Response {
    let tag = etag::of_version(view.record.version);
    ([(header::ETAG, tag)], Json(UpdateAnswer::new(catalog, view, &[]))).into_response()
}

/// An id in a path: one that isn't a UUID names nothing.
pub(super) fn id(raw: &str) -> Result<Uuid, Failure> {
    Uuid::try_parse(raw).map_err(|_| Problem::new(ErrorCode::NotFound, "there is nothing with this id").into())
}

fn settings(record: &QuotaRecord) -> Value {
    let mut settings = json!(record.settings);
    for part in ["shares", "caps", "modes"] {
        if settings.get(part).is_none() {
            settings[part] = json!({});
        }
    }
    settings["overrides"] = json!(record.settings.overrides);
    settings["mode"] = json!(record.settings.mode);
    settings["grace"] = json!(record.settings.grace);
    settings["plan"] = json!(record.plan.as_deref());
    settings["parent"] = json!(record.parent.as_ref().map(WorkspaceId::as_str));
    json!({"workspaceId": record.workspace.as_str(), "settings": settings})
}

fn closed(what: &str) -> Failure {
    Problem::new(ErrorCode::InsufficientPermissions, format!("{what} is not open to the caller")).into()
}

/// Who is below another counts in its caps, and may leave it only for somebody to whom that is open as well.
async fn may_leave(
    quota: &Quota,
    workspace: &WorkspaceId,
    to: Option<&WorkspaceId>,
    caller: &Caller,
) -> Result<(), Failure> {
    let parent = quota.parent(workspace).await?;
    match parent {
        Some(parent) if Some(&parent) != to && !caller.principal.may_access(parent.as_str()) => {
            Err(closed("the workspace above this one"))
        }
        _ => Ok(()),
    }
}

describe!(read_settings, |it| it
    .is("readSettings", "Settings", "Tells what is set for a workspace beside its limits")
    .answers(
        StatusCode::OK,
        "Plan, parent, shares, caps, modes, overrides, grace.",
        object([("workspaceId", named("WorkspaceId")), ("settings", named("Settings"))]),
        examples::settings(),
    )
    .tagged());

pub(super) async fn read_settings(State(api): State<Api>, reader: Reader) -> Result<Response, Failure> {
    let view = api.quota().record(&reader.workspace).await?;
    Ok(tagged(view.record.version, settings(&view.record)))
}

describe!(update_settings, |it| {
    it.is("updateSettings", "Settings", "Changes what is set for a workspace beside its limits")
        .about(
            "Fields that are left out stay as they are; null takes something back. A plan must be there, \
            and so must the record of a parent. A parent must be open to the caller, the new one and the \
            one that is left.",
        )
        .takes(named("SettingsChange"), json!({"plan": "pro", "caps": {"segments": 100}}))
        .answers(
            StatusCode::OK,
            "As it is now.",
            object([("workspaceId", named("WorkspaceId")), ("settings", named("Settings"))]),
            examples::settings(),
        )
        .tagged()
        .fails(&[ErrorCode::InvalidResourceType])
});

pub(super) async fn update_settings(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    IfMatch(expect): IfMatch,
    body: Object,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let (change, parent) = dto::policy_change(body, |raw| quota.workspace(raw))?;
    if let Some(parent) = parent {
        // Its limits would be shared, and its cap used up.
        if parent.as_ref().is_some_and(|parent| !caller.principal.may_access(parent.as_str())) {
            return Err(closed("the parent"));
        }
        may_leave(quota, &workspace, parent.as_ref(), &caller).await?;
    }
    let view = quota.admin(caller.actor).configure(&workspace, change, &expect).await?;
    Ok(tagged(view.record.version, settings(&view.record)))
}

describe!(clear_limit, |it| {
    it.is("clearLimit", "Quotas", "Takes back a limit that a workspace has of its own")
        .answers(
            StatusCode::OK,
            "The whole quota.",
            with_optional([("quota", named("Quota"))], [("warnings", list(text()))]),
            json!({"quota": examples::quota()}),
        )
        .tagged()
        .fails(&[ErrorCode::InvalidResourceType])
});

pub(super) async fn clear_limit(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    Named(name): Named,
    IfMatch(expect): IfMatch,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let resource = quota.catalog().by_name(&name)?.id();
    let view = quota.admin(caller.actor).clear_limits(&workspace, &[resource], &expect).await?;
    Ok(updated(quota.catalog(), &view))
}

describe!(delete_quota, |it| {
    it
    .is("deleteQuota", "Quotas", "Deletes the record of a workspace")
    .about(
        "What was set for it is gone, and the defaults are in force. Its contacts, its own webhooks with their deliveries, the \
        thresholds that it had reached and its snapshots are gone, too, whether or not it has rows: these stay. The audit log \
        tells how many there were.",
    )
    .answers(StatusCode::OK, "Whose.", object([("deleted", named("WorkspaceId"))]), json!({"deleted": "acme"}))
    .fails(&[ErrorCode::PreconditionFailed])
});

pub(super) async fn delete_quota(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    IfMatch(expect): IfMatch,
) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    may_leave(quota, &workspace, None, &caller).await?;
    quota.admin(caller.actor).delete_workspace(&workspace, &expect).await?;
    Ok(Json(json!({"deleted": workspace.as_str()})))
}

describe!(bulk, |it| it
    .is("setQuotas", "Quotas", "Sets limits of several workspaces, all or none")
    .takes(
        with_optional(
            [
                (
                    "workspaces",
                    json!({
                        "type": "array",
                        "items": named("WorkspaceId"),
                        "minItems": 1,
                        "maxItems": Admin::MOST_AT_ONCE,
                    }),
                ),
                ("limits", named("Limits")),
            ],
            [("reason", or_null(words()))],
        ),
        json!({"workspaces": ["acme", "globex"], "limits": {"maxSegments": 100}}),
    )
    .answers(StatusCode::OK, "How many.", object([("updated", count())]), json!({"updated": 2}))
    .fails(&[ErrorCode::InvalidResourceType]));

pub(super) async fn bulk(
    State(api): State<Api>,
    Operator(caller): Operator,
    body: Object,
) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    let (workspaces, limits, reason) = dto::bulk(body, quota.catalog(), |raw| quota.workspace(raw))?;
    quota.admin(caller.actor).set_limits_of_all(&workspaces, &limits, reason).await?;
    Ok(Json(json!({"updated": workspaces.len()})))
}

fn plan_object(catalog: &ResourceCatalog, plan: &Plan) -> Value {
    let field = |(id, limit)| (catalog.get(id).limit_field().to_owned(), json!(limit));
    let limits: serde_json::Map<String, Value> = plan.limits.iter().map(field).collect();
    json!({
        "name": &*plan.name,
        "version": plan.version,
        "limits": limits,
        "createdAt": plan.created_at,
        "updatedAt": plan.updated_at,
    })
}

describe!(list_plans, |it| {
    it.is("listPlans", "Plans", "Lists the plans").answers(
        StatusCode::OK,
        "All of them.",
        object([("plans", list(named("Plan")))]),
        json!({"plans": [examples::plan()]}),
    )
});

pub(super) async fn list_plans(State(api): State<Api>, _: Caller) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    let plans = quota.plans().await?;
    let plans: Vec<_> = plans.iter().map(|plan| plan_object(quota.catalog(), plan)).collect();
    Ok(Json(json!({"plans": plans})))
}

describe!(read_plan, |it| {
    it.is("readPlan", "Plans", "Tells the limits of a plan")
        .answers(StatusCode::OK, "The plan.", object([("plan", named("Plan"))]), json!({"plan": examples::plan()}))
        .tagged()
        .fails(&[ErrorCode::NotFound])
});

pub(super) async fn read_plan(State(api): State<Api>, _: Caller, Named(name): Named) -> Result<Response, Failure> {
    let quota = api.quota();
    let plan = quota.plans().await?.into_iter().find(|plan| *plan.name == *name);
    let plan = plan.ok_or_else(|| Problem::new(ErrorCode::NotFound, format!("there is no plan {}", shown(&name))))?;
    Ok(tagged(plan.version, json!({"plan": plan_object(quota.catalog(), &plan)})))
}

describe!(put_plan, |it| {
    it.is("putPlan", "Plans", "Makes a plan, or sets its limits")
        .about(
            "The limits take the place of those before. They are in force at once for all workspaces that \
            have the plan.",
        )
        .takes(object([("limits", named("Limits"))]), json!({"limits": {"maxSegments": 100}}))
        .answers(StatusCode::OK, "The plan.", object([("plan", named("Plan"))]), json!({"plan": examples::plan()}))
        .tagged()
        .fails(&[ErrorCode::InvalidResourceType])
});

pub(super) async fn put_plan(
    State(api): State<Api>,
    Operator(caller): Operator,
    Named(name): Named,
    IfMatch(expect): IfMatch,
    body: Object,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let limits: LimitSet = dto::plan_limits(body, quota.catalog())?;
    let plan = quota.admin(caller.actor).put_plan(&name, &limits, &expect).await?;
    Ok(tagged(plan.version, json!({"plan": plan_object(quota.catalog(), &plan)})))
}

describe!(delete_plan, |it| it
    .is("deletePlan", "Plans", "Deletes a plan that no workspace has")
    .answers(StatusCode::OK, "Which.", object([("deleted", named("PlanName"))]), json!({"deleted": "pro"}))
    .fails(&[ErrorCode::NotFound, ErrorCode::PreconditionFailed]));

pub(super) async fn delete_plan(
    State(api): State<Api>,
    Operator(caller): Operator,
    Named(name): Named,
) -> Result<Json<Value>, Failure> {
    api.quota().admin(caller.actor).delete_plan(&name).await.map_err(missing)?;
    Ok(Json(json!({"deleted": name})))
}

describe!(list_overrides, |it| it
    .is("listOverrides", "Overrides", "Lists the temporary overrides of a workspace")
    .answers(
        StatusCode::OK,
        "Those that are in force, or will be.",
        object([("overrides", list(named("Override")))]),
        json!({"overrides": [examples::temporary_override()]}),
    ));

pub(super) async fn list_overrides(State(api): State<Api>, reader: Reader) -> Result<Json<Value>, Failure> {
    let view = api.quota().record(&reader.workspace).await?;
    Ok(Json(json!({"overrides": view.record.settings.overrides})))
}

describe!(add_override, |it| {
    it.is("addOverride", "Overrides", "Sets a limit for a time")
        .about(
            "It begins now unless `startsAt` says otherwise, and `expiresAt` is after that and in the \
            future. Those of one resource type don't overlap.",
        )
        .takes(
            with_optional(
                [
                    ("resourceType", named("ResourceType")),
                    ("limit", named("Limit")),
                    ("expiresAt", time()),
                    ("reason", words()),
                ],
                [("startsAt", or_null(time()))],
            ),
            json!({
            "resourceType": "segments",
            "limit": 80,
            "expiresAt": "2096-02-28T00:00:00Z",
            "reason": "the spring campaign",
            }),
        )
        .answers(
            StatusCode::CREATED,
            "The override.",
            object([("override", named("Override"))]),
            json!({"override": examples::temporary_override()}),
        )
        .leads_to(&["endOverride"], "id", "/override/id")
        .fails(&[ErrorCode::InvalidResourceType])
});

pub(super) async fn add_override(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    body: Object,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let temporary = dto::temporary_override(body)?;
    let added = quota.admin(caller.actor).add_override(&workspace, temporary).await?;
    Ok((StatusCode::CREATED, Json(json!({"override": added}))).into_response())
}

describe!(end_override, |it| {
    it.is("endOverride", "Overrides", "Ends a temporary override before its time")
        .answers(
            StatusCode::OK,
            "The whole quota.",
            with_optional([("quota", named("Quota"))], [("warnings", list(text()))]),
            json!({"quota": examples::quota()}),
        )
        .tagged()
        .fails(&[ErrorCode::NotFound])
});

pub(super) async fn end_override(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    Named(raw): Named,
) -> Result<Response, Failure> {
    let quota = api.quota();
    let view = quota.admin(caller.actor).end_override(&workspace, id(&raw)?).await.map_err(missing)?;
    Ok(updated(quota.catalog(), &view))
}

async fn requests(api: &Api, workspace: Option<&WorkspaceId>, mut pairs: Pairs) -> Result<Json<Value>, Failure> {
    let status = pairs.take("status")?.map(|name| {
        let known = RequestStatus::ALL.into_iter().find(|status| status.as_str() == name);
        let names = RequestStatus::ALL.map(RequestStatus::as_str).join(", ");
        known.ok_or_else(|| {
            Problem::new(ErrorCode::InvalidRequest, format!("`status` is one of {names}; got {}", shown(&name)))
        })
    });
    let before = pairs.take("cursor")?.map(|raw| {
        Uuid::try_parse(&raw).map_err(|_| Problem::new(ErrorCode::InvalidRequest, "`cursor` is what came as `next`"))
    });
    let limit = pairs.take_limit()?;
    pairs.finish("`status`, `cursor` and `limit`")?;
    let (status, before) = (status.transpose()?, before.transpose()?);
    let mut requests = api.quota().requests(workspace, status, before, limit.saturating_add(1)).await?;
    let more = requests.len() > limit;
    requests.truncate(limit);
    let next = requests.last().filter(|_| more).map(|request| request.id);
    Ok(Json(json!({"requests": requests, "next": next})))
}

describe!(list_requests, |it| it
    .is("listRequests", "Requests", "Lists the requests of a workspace for more")
    .query("status", one_of(RequestStatus::ALL.map(RequestStatus::as_str)), "Only those.")
    .query("cursor", uuid(), "What came as `next`.")
    .query("limit", most(), "At most so many.")
    .answers(
        StatusCode::OK,
        "The latest first.",
        page("requests", "IncreaseRequest", uuid()),
        json!({"requests": [examples::request("pending", None)], "next": null}),
    ));

pub(super) async fn list_requests(
    State(api): State<Api>,
    reader: Reader,
    pairs: Pairs,
) -> Result<Json<Value>, Failure> {
    requests(&api, Some(&reader.workspace), pairs).await
}

describe!(all_requests, |it| it
    .is("listAllRequests", "Requests", "Lists the requests of all workspaces for more")
    .query("status", one_of(RequestStatus::ALL.map(RequestStatus::as_str)), "Only those.")
    .query("cursor", uuid(), "What came as `next`.")
    .query("limit", most(), "At most so many.")
    .answers(
        StatusCode::OK,
        "The latest first.",
        page("requests", "IncreaseRequest", uuid()),
        json!({"requests": [examples::request("pending", None)], "next": null}),
    ));

pub(super) async fn all_requests(State(api): State<Api>, _: Operator, pairs: Pairs) -> Result<Json<Value>, Failure> {
    requests(&api, None, pairs).await
}

describe!(make_request, |it| {
    it.is("makeRequest", "Requests", "Asks for more")
        .takes(
            object([("resourceType", named("ResourceType")), ("amount", integer(1, Limit::MAX)), ("reason", words())]),
            json!({"resourceType": "segments", "amount": 10, "reason": "a new brand"}),
        )
        .answers(
            StatusCode::CREATED,
            "The request, which waits for an admin.",
            object([("request", named("IncreaseRequest"))]),
            json!({"request": examples::request("pending", None)}),
        )
        .leads_to(&["approveRequest", "denyRequest", "withdrawRequest"], "id", "/request/id")
        .fails(&[ErrorCode::InvalidResourceType])
});

pub(super) async fn make_request(State(api): State<Api>, reader: Reader, body: Object) -> Result<Response, Failure> {
    let quota = api.quota();
    let (demand, reason) = dto::increase(body, quota.catalog())?;
    let admin = quota.admin(reader.caller.actor);
    let request = admin.request_increase(&reader.workspace, demand.resource, demand.units, &reason).await?;
    Ok((StatusCode::CREATED, Json(json!({"request": request}))).into_response())
}

fn decided(request: &IncreaseRequest) -> Json<Value> {
    Json(json!({"request": request}))
}

describe!(approve_request, |it| {
    it.is("approveRequest", "Requests", "Approves a request, and raises the limit")
        .about("For good, or until `expiresAt`.")
        .takes(options([("note", or_null(words())), ("expiresAt", or_null(time()))]), json!({"note": "welcome"}))
        .answers(
            StatusCode::OK,
            "The request.",
            object([("request", named("IncreaseRequest"))]),
            json!({"request": examples::request("approved", Some("ann"))}),
        )
        .fails(&[ErrorCode::NotFound, ErrorCode::PreconditionFailed])
});

pub(super) async fn approve_request(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    Named(raw): Named,
    MaybeEmpty(body): MaybeEmpty,
) -> Result<Json<Value>, Failure> {
    let (note, expires_at) = dto::approval(body)?;
    let admin = api.quota().admin(caller.actor);
    let request = admin.approve(&workspace, id(&raw)?, note, expires_at).await.map_err(missing)?;
    Ok(decided(&request))
}

describe!(deny_request, |it| {
    it.is("denyRequest", "Requests", "Denies a request")
        .takes(options([("note", or_null(words()))]), json!({"note": "not this year"}))
        .answers(
            StatusCode::OK,
            "The request.",
            object([("request", named("IncreaseRequest"))]),
            json!({"request": examples::request("denied", Some("ann"))}),
        )
        .fails(&[ErrorCode::NotFound, ErrorCode::PreconditionFailed])
});

pub(super) async fn deny_request(
    State(api): State<Api>,
    Admin { caller, workspace }: Admin,
    Named(raw): Named,
    MaybeEmpty(body): MaybeEmpty,
) -> Result<Json<Value>, Failure> {
    let note = dto::denial(body)?;
    let request = api.quota().admin(caller.actor).deny(&workspace, id(&raw)?, note).await.map_err(missing)?;
    Ok(decided(&request))
}

describe!(withdraw_request, |it| {
    it.is("withdrawRequest", "Requests", "Withdraws a request")
        .about("Who made it may do so, and any admin of the workspace.")
        .answers(
            StatusCode::OK,
            "The request.",
            object([("request", named("IncreaseRequest"))]),
            json!({"request": examples::request("withdrawn", Some("bob"))}),
        )
        .fails(&[ErrorCode::NotFound, ErrorCode::PreconditionFailed])
});

pub(super) async fn withdraw_request(
    State(api): State<Api>,
    reader: Reader,
    Named(raw): Named,
) -> Result<Json<Value>, Failure> {
    let quota = api.quota();
    let request = id(&raw)?;
    // A member withdraws what it has asked for itself, and an admin what anybody has.
    let by = (!reader.caller.principal.is_admin()).then(|| reader.caller.principal.subject().to_owned());
    let admin = quota.admin(reader.caller.actor);
    let request = admin.withdraw(&reader.workspace, request, by.as_deref()).await.map_err(missing)?;
    Ok(decided(&request))
}

async fn audit(api: &Api, workspace: Option<String>, mut pairs: Pairs) -> Result<Json<Value>, Failure> {
    let resource = pairs.take("resourceType")?;
    if let Some(name) = &resource {
        api.quota().catalog().by_name(name)?;
    }
    let filter = AuditFilter {
        workspace,
        resource,
        since: pairs.take_time("since")?,
        until: pairs.take_time("until")?,
        before: pairs.take_number("cursor")?,
        limit: pairs.take_limit()?,
    };
    pairs.finish("`resourceType`, `since`, `until`, `cursor` and `limit`")?;
    let AuditPage { entries, next } = api.quota().audit(&filter).await?;
    Ok(Json(json!({"entries": entries, "next": next.map(|next| next.to_string())})))
}

describe!(read_audit, |it| it
    .is("readAudit", "Audit", "Tells who changed what in a workspace")
    .query("resourceType", named("ResourceType"), "Only what was done to it.")
    .query("since", time(), "From then on.")
    .query("until", time(), "Up to then.")
    .query("cursor", json!({"type": "string", "pattern": "^[0-9]{1,18}$"}), "What came as `next`.")
    .query("limit", most(), "At most so many.")
    .answers(
        StatusCode::OK,
        "The latest first.",
        page("entries", "AuditEntry", text()),
        json!({"entries": [examples::audit_entry()], "next": null}),
    )
    .fails(&[ErrorCode::InvalidResourceType]));

pub(super) async fn read_audit(State(api): State<Api>, reader: Admin, pairs: Pairs) -> Result<Json<Value>, Failure> {
    audit(&api, Some(reader.workspace.as_str().to_owned()), pairs).await
}

describe!(all_audit, |it| it
    .is("readWholeAudit", "Audit", "Tells who changed what")
    .query("workspaceId", named("WorkspaceId"), "Only in this workspace.")
    .query("resourceType", named("ResourceType"), "Only what was done to it.")
    .query("since", time(), "From then on.")
    .query("until", time(), "Up to then.")
    .query("cursor", json!({"type": "string", "pattern": "^[0-9]{1,18}$"}), "What came as `next`.")
    .query("limit", most(), "At most so many.")
    .answers(
        StatusCode::OK,
        "The latest first.",
        page("entries", "AuditEntry", text()),
        json!({"entries": [examples::audit_entry()], "next": null}),
    )
    .fails(&[ErrorCode::InvalidResourceType]));

pub(super) async fn all_audit(State(api): State<Api>, _: Operator, mut pairs: Pairs) -> Result<Json<Value>, Failure> {
    let workspace = pairs.take("workspaceId")?.map(|raw| api.quota().workspace(&raw)).transpose()?;
    audit(&api, workspace.map(|workspace| workspace.as_str().to_owned()), pairs).await
}
