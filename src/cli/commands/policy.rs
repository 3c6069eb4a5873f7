//! What limits come from.

use jiff::Timestamp;
use serde_json::json;
use tower_quota::client::{AuditQuery, NamedPlan, SettingsChange, WorkspaceSettings};
use tower_quota::{IncreaseRequest, RequestStatus, TemporaryOverride};

use super::{Context, listed, more, or_dash};
use crate::args::{Audit, Grace, Overrides, Plans, Requests};
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Shown, Tone};

fn all(context: &Context, plans: &[NamedPlan]) -> Result<Outcome, Failure> {
    let mut shown = Shown::table(&plans, ["plan", "version", "changed", "limits"])?;
    for plan in plans {
        shown.row([
            Cell::text(&plan.name),
            Cell::number(plan.version),
            Cell::text(plan.updated_at),
            Cell::text(listed(&plan.limits)),
        ]);
    }
    if plans.is_empty() {
        shown.note("there are no plans: make one with `quotactl plans set NAME --max-segments 100`");
    }
    context.show(&shown)
}

fn one(context: &Context, plan: &NamedPlan) -> Result<Outcome, Failure> {
    let mut shown = Shown::table(plan, ["limit", "rows"])?;
    for (field, limit) in plan.limits.iter() {
        shown.row([Cell::text(field), Cell::number(limit)]);
    }
    shown.note(format!("plan {}, version {}", plan.name, plan.version));
    context.show(&shown)
}

pub(super) async fn plans(context: &Context, plans: Plans) -> Result<Outcome, Failure> {
    let client = &context.client;
    match plans {
        Plans::List => all(context, &client.plans().await?),
        Plans::Show { name } => one(context, &client.plan(&name).await?),
        Plans::Set { name, if_match } => {
            let tag = if_match.map(|version| format!("\"{}\"", version.trim_matches('"')));
            one(context, &client.put_plan(&name, &context.limits.guessed(), tag.as_deref()).await?)
        }
        Plans::Delete { name } => {
            client.delete_plan(&name).await?;
            context.done(&json!({"deleted": name}), format!("plan {name} is deleted"))
        }
        Plans::Assign { name, of, .. } => {
            let change = SettingsChange::new().plan(name.as_deref());
            let settings = client.change_settings(&of.workspace, &change, None).await?;
            let workspace = of.workspace;
            context.done(
                &settings,
                match &settings.plan {
                    Some(plan) => format!("workspace {workspace} has plan {plan}"),
                    None => format!("workspace {workspace} has no plan"),
                },
            )
        }
    }
}

fn grace_of(context: &Context, settings: &WorkspaceSettings) -> Result<Outcome, Failure> {
    let json = json!({"grace": settings.settings.grace, "graceUses": settings.settings.grace_uses});
    let Some(grace) = &settings.settings.grace else {
        return context.done(&json, "nothing is set for this workspace: the server's grace counts, if it has one");
    };
    let mut shown = Shown::fields(
        &json,
        [
            ("enabled", Cell::text(grace.enabled)),
            ("percentage", Cell::text(grace.percentage)),
            ("duration", Cell::text(format!("{} s", grace.duration))),
            ("resources", Cell::text(grace.resources.join(", "))),
        ],
    )?;
    for (resource, used) in &settings.settings.grace_uses {
        let word = if used.is_active(Timestamp::now()) { "ends" } else { "ended" };
        shown.note(format!("{resource}: began {}, {word} {}", used.started_at, used.ends_at));
    }
    context.show(&shown)
}

pub(super) async fn grace(context: &Context, grace: Grace) -> Result<Outcome, Failure> {
    let client = &context.client;
    let (workspace, change) = match grace {
        Grace::Show(of) => return grace_of(context, &client.settings(&of.workspace).await?),
        Grace::Set { of, percentage, duration, resources, reason } => {
            let resources = match resources.is_empty() {
                false => resources,
                true => client.quota(&of.workspace).await?.usage.names().map(str::to_owned).collect(),
            };
            let grace = tower_quota::Grace::new(percentage, duration, resources);
            let change = SettingsChange::new().grace(Some(&grace));
            (
                of.workspace,
                match reason {
                    Some(reason) => change.reason(&reason),
                    None => change,
                },
            )
        }
        Grace::Off(of) => {
            // Not `null`, which would let the server's grace count again.
            let mut grace = client.settings(&of.workspace).await?.settings.grace;
            let off = match &mut grace {
                Some(grace) => {
                    grace.enabled = false;
                    grace.clone()
                }
                None => {
                    let mut off = tower_quota::Grace::new(0, std::time::Duration::from_secs(1), Vec::<String>::new());
                    off.enabled = false;
                    off
                }
            };
            (of.workspace, SettingsChange::new().grace(Some(&off)))
        }
    };
    grace_of(context, &client.change_settings(&workspace, &change, None).await?)
}

fn some(json: &impl serde::Serialize, overrides: &[TemporaryOverride]) -> Result<Shown, Failure> {
    let mut shown = Shown::table(json, ["id", "resource", "limit", "from", "until", "state", "by", "reason"])?;
    let now = Timestamp::now();
    for of in overrides {
        let state = match (of.is_active(now), of.starts_at > now) {
            (true, _) => Cell::text("active").tone(Tone::Good),
            (false, true) => Cell::text("to come"),
            (false, false) => Cell::text("over"),
        };
        shown.row([
            Cell::text(of.id),
            Cell::text(&of.resource_type),
            Cell::number(of.limit),
            Cell::text(format!("{:.0}", of.starts_at)),
            Cell::text(format!("{:.0}", of.expires_at)),
            state,
            Cell::text(&of.created_by),
            Cell::text(&of.reason),
        ]);
    }
    Ok(shown)
}

pub(super) async fn overrides(context: &Context, overrides: Overrides) -> Result<Outcome, Failure> {
    let client = &context.client;
    match overrides {
        Overrides::List(of) => {
            let overrides = client.overrides(&of.workspace).await?;
            let mut shown = some(&overrides, &overrides)?;
            if overrides.is_empty() {
                shown.note(format!("workspace {} has no overrides", of.workspace));
            }
            context.show(&shown)
        }
        Overrides::Add { of, resource, limit, until, from, reason } => {
            let from = from.unwrap_or_else(Timestamp::now);
            let temporary = TemporaryOverride::new(resource, limit, from, until, reason);
            let added = client.add_override(&of.workspace, &temporary).await?;
            context.show(&some(&added, std::slice::from_ref(&added))?)
        }
        Overrides::Remove { of, id } => {
            let update = client.end_override(&of.workspace, &id).await?;
            context.done(&update, format!("override {id} has ended"))
        }
    }
}

fn requested(shown: &mut Shown, request: &IncreaseRequest) {
    let tone = match request.status {
        RequestStatus::Pending => Tone::Warning,
        RequestStatus::Approved => Tone::Good,
        RequestStatus::Denied => Tone::Bad,
        _ => Tone::Plain,
    };
    shown.row([
        Cell::text(request.id),
        Cell::text(&request.workspace_id),
        Cell::text(&request.resource_type),
        Cell::number(request.amount),
        Cell::text(request.status.as_str()).tone(tone),
        Cell::text(&request.requested_by),
        Cell::text(&request.reason),
        Cell::maybe(request.note.as_deref()),
    ]);
}

const REQUEST: [&str; 8] = ["id", "workspace", "resource", "amount", "status", "by", "reason", "note"];

pub(super) async fn requests(context: &Context, requests: Requests) -> Result<Outcome, Failure> {
    let client = &context.client;
    let request = match requests {
        Requests::List { of, status, page } => {
            let list = client.requests(of.workspace.as_deref(), status, page.cursor.as_deref(), page.count).await?;
            let mut shown = Shown::table(&list, REQUEST)?;
            list.requests.iter().for_each(|request| requested(&mut shown, request));
            if list.requests.is_empty() {
                shown.note("there are no requests");
            }
            more(&mut shown, list.next.as_deref());
            return context.show(&shown);
        }
        Requests::Make { of, resource, amount, reason } => {
            client.request_increase(&of.workspace, &resource, amount, &reason).await?
        }
        Requests::Approve { of, id, note, until } => client.approve(&of.workspace, &id, note.as_deref(), until).await?,
        Requests::Deny { of, id, note } => client.deny(&of.workspace, &id, note.as_deref()).await?,
        Requests::Withdraw { of, id } => client.withdraw(&of.workspace, &id).await?,
    };
    let mut shown = Shown::table(&request, REQUEST)?;
    requested(&mut shown, &request);
    context.show(&shown)
}

pub(super) async fn audit(context: &Context, audit: Audit) -> Result<Outcome, Failure> {
    let Audit { of, resource, since, until, page } = audit;
    let query = AuditQuery {
        workspace: of.workspace,
        resource_type: resource,
        since,
        until,
        cursor: page.cursor,
        limit: page.count,
    };
    let list = context.client.audit(&query).await?;
    let header = ["time", "actor", "origin", "action", "workspace", "resource", "old", "new", "reason"];
    let mut shown = Shown::table(&list, header)?;
    for entry in &list.entries {
        shown.row([
            Cell::text(format!("{:.0}", entry.at)),
            Cell::text(&entry.actor),
            Cell::text(&entry.origin),
            Cell::text(action(entry)),
            or_dash(entry.workspace_id.as_deref()),
            or_dash(entry.resource_type.as_deref()),
            Cell::long(&entry.old),
            Cell::long(&entry.new),
            Cell::maybe(entry.reason.as_deref()),
        ]);
    }
    if list.entries.is_empty() {
        shown.note("there are no entries");
    }
    more(&mut shown, list.next.as_deref());
    context.show(&shown)
}

/// What was done, as the log has it.
pub(crate) fn action(entry: &tower_quota::AuditEntry) -> String {
    json!(entry.action).as_str().unwrap_or_default().to_owned()
}
