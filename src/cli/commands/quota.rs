//! Limits and usage of one workspace.

use serde_json::json;
use tower_quota::client::{Explained, QuotaStatus, WorkspaceQuota};
use tower_quota::{Limit, Usage};

use super::{Context, tone};
use crate::args::{Cleanup, Recalculate, Update, Validate};
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Shown, Tone, warn};

/// What counts of a resource type, where the server tells it.
pub(crate) struct Row<'a> {
    pub(crate) resource: &'a str,
    pub(crate) usage: Usage,
    pub(crate) source: &'a str,
}

/// The resource types of a workspace, in the server's order.
pub(crate) fn rows(status: &QuotaStatus) -> impl Iterator<Item = Row<'_>> {
    // Without an explanation, limits and types are only known to be in the same order.
    let fields: Vec<Limit> = status.quota.limits.iter().map(|(_, limit)| *limit).collect();
    status.usage.iter().enumerate().map(move |(at, (resource, current))| {
        let explained: Option<&Explained> = status.explain.get(resource);
        let limit = explained.map(|explained| explained.limit).or_else(|| fields.get(at).copied());
        let usage = Usage { current: *current, limit: limit.unwrap_or(Limit::Unlimited) };
        Row { resource, usage, source: explained.map_or("", |explained| explained.source.as_str()) }
    })
}

pub(super) async fn status(context: &Context, workspace: &str) -> Result<Outcome, Failure> {
    let status = context.client.quota(workspace).await?;
    let mut shown = Shown::table(&status, ["resource", "used", "limit", "left", "percent", "source"])?;
    for Row { resource, usage, source } in rows(&status) {
        let tone = tone(usage.percent());
        shown.row([
            Cell::text(resource),
            Cell::number(usage.current),
            Cell::number(usage.limit),
            Cell::number(usage.remaining().map_or_else(|| "-".to_owned(), |left| left.to_string())),
            Cell::percent(usage.percent()).tone(tone),
            Cell::text(source),
        ]);
    }
    let tag = status.etag.as_deref().unwrap_or("-");
    shown.note(format!("workspace {}, changed {}, tag {tag}", status.quota.workspace_id, status.quota.updated_at));
    for (resource, explained) in status.explain.iter() {
        if let Some(grace) = &explained.grace {
            shown.note(format!("{resource}: grace up to {} until {}", grace["limit"], text(&grace["endsAt"])));
        }
        for cap in explained.caps.iter().filter(|cap| cap["exceeded"] == true) {
            let (top, cap) = (text(&cap["workspaceId"]), &cap["cap"]);
            shown.note(format!("{resource}: workspace {top} and all below it may have {cap} together"));
        }
    }
    context.show(&shown)
}

/// A JSON string without its quotes.
fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) async fn update(context: &Context, update: Update) -> Result<Outcome, Failure> {
    let Update { of, if_match, reason } = update;
    let before = match context.client.quota(&of.workspace).await {
        Ok(status) => Some(status.quota),
        // To set its limits makes the record.
        Err(error) if error.is_not_found() && error.code() == Some("QUOTA_NOT_FOUND") => None,
        Err(error) => return Err(error.into()),
    };
    let limits = match &before {
        Some(quota) => context.limits.of(&quota.limits.names().collect::<Vec<_>>())?,
        None => context.limits.guessed(),
    };
    // A shell takes the quotes of a tag away.
    let tag = if_match.map(|tag| if tag.starts_with(['"', 'W', '*']) { tag } else { format!("\"{tag}\"") });
    let update = context.client.set_limits(&of.workspace, &limits, tag.as_deref(), reason.as_deref()).await?;
    for warning in &update.warnings {
        warn(warning);
    }
    let mut shown = Shown::table(&update, ["limit", "before", "now"])?;
    let limit = |quota: &WorkspaceQuota, field: &str| quota.limits.get(field).map(ToString::to_string);
    for field in limits.names() {
        let before = before.as_ref().and_then(|quota| limit(quota, field));
        let now = limit(&update.quota, field);
        shown.row([
            Cell::text(field),
            Cell::number(before.unwrap_or_else(|| "-".to_owned())),
            Cell::number(now.unwrap_or_default()),
        ]);
    }
    context.show(&shown)
}

pub(super) async fn validate(context: &Context, asked: Validate) -> Result<Outcome, Failure> {
    let Validate { of, resource, increment } = asked;
    match context.client.validate(&of.workspace, &resource, increment).await {
        Ok(verdict) => {
            let (mut shown, word) = (
                Shown::table(&verdict, ["allowed", "used", "limit", "left", "percent"])?,
                if verdict.would_exceed { ("yes, though over the limit", Tone::Warning) } else { ("yes", Tone::Good) },
            );
            shown.row([
                Cell::text(word.0).tone(word.1),
                Cell::number(verdict.current_usage),
                Cell::number(verdict.limit),
                Cell::number(verdict.remaining.map_or_else(|| "-".to_owned(), |left| left.to_string())),
                Cell::percent(verdict.percent_used),
            ]);
            context.show(&shown)
        }
        Err(error) => {
            let Some(refused) = error.quota_exceeded() else { return Err(error.into()) };
            let mut shown = Shown::table(
                &json!({"allowed": false, "details": refused}),
                ["allowed", "used", "limit", "left", "percent"],
            )?;
            let usage = Usage {
                current: refused.current_usage,
                limit: Limit::finite(refused.limit).unwrap_or(Limit::Unlimited),
            };
            shown.row([
                Cell::text("no").tone(Tone::Bad),
                Cell::number(refused.current_usage),
                Cell::number(refused.limit),
                Cell::number(refused.remaining),
                Cell::percent(usage.percent()),
            ]);
            shown.note(error.message());
            if let Some(top) = &refused.capped_by {
                shown.note(format!("usage and limit are those of workspace {top} and all below it together"));
            }
            if let (Some(reserved), Some(after)) = (refused.reserved, error.retry_after()) {
                shown.note(format!(
                    "{reserved} requests in flight stand in the way: try again in {} s",
                    after.as_secs()
                ));
            }
            context.show(&shown)?;
            Ok(Outcome::Refused)
        }
    }
}

pub(super) async fn recalculate(context: &Context, asked: Recalculate) -> Result<Outcome, Failure> {
    let Recalculate { of, dry_run } = asked;
    let recount = context.client.recalculate(&of.workspace, dry_run).await?;
    let mut shown = Shown::table(&recount, ["resource", "believed", "rows", "drift"])?;
    for (resource, rows) in recount.usage.iter() {
        let drift = recount.corrections.iter().find(|correction| correction.resource_type == resource);
        shown.row([
            Cell::text(resource),
            Cell::number(drift.map_or(*rows, |drift| drift.cached)),
            Cell::number(rows),
            Cell::number(drift.map_or(0, |drift| drift.drift)).tone(if drift.is_some() {
                Tone::Warning
            } else {
                Tone::Plain
            }),
        ]);
    }
    shown.note(match (recount.corrections.len(), dry_run) {
        (0, false) => "all counts were right".to_owned(),
        (1, false) => "1 count was corrected".to_owned(),
        (some, false) => format!("{some} counts were corrected"),
        (0, true) => "all counts are right".to_owned(),
        (1, true) => "1 count is wrong: without --dry-run it is corrected".to_owned(),
        (some, true) => format!("{some} counts are wrong: without --dry-run they are corrected"),
    });
    context.show(&shown)
}

pub(super) async fn cleanup(context: &Context, cleanup: Cleanup) -> Result<Outcome, Failure> {
    let Cleanup { of, resource, apply, batch } = cleanup;
    let result = context.client.clean(&of.workspace, &resource, !apply, batch).await?;
    let mut shown = Shown::table(&result, ["row"])?;
    for id in &result.rows {
        shown.row([Cell::text(id)]);
    }
    shown.note(match (result.above, result.dry_run) {
        (0, _) => format!("no rows of {resource} are above the limit"),
        (above, false) => {
            format!("{} of {above} rows above the limit were removed (policy {})", result.removed, result.policy)
        }
        (above, true) if apply => {
            format!(
                "{above} rows are above the limit, and stay: the server's policy for {resource} is {}",
                result.policy
            )
        }
        (above, true) => {
            format!(
                "{above} rows are above the limit (policy {}); nothing was changed: `--apply` does that",
                result.policy
            )
        }
    });
    context.show(&shown)
}
