//! Who changed what.

use axum::response::Response;
use maud::{Markup, html};
use serde_json::Value;

use super::layout::{Place, page};
use crate::dashboard::text;
use crate::dashboard::visitor::{Fault, Visitor, encoded};
use crate::policy::{AuditAction, AuditEntry, AuditFilter, AuditPage};

/// How many entries are on a page.
const ROWS: usize = 50;

/// What there was or is, where there is something to be said of it.
fn said(action: AuditAction, value: &Value) -> Option<String> {
    match (action, value) {
        (AuditAction::LimitSet | AuditAction::CapSet | AuditAction::Imported, Value::Null) => {
            Some("unlimited".to_owned())
        }
        (AuditAction::ModeSet, Value::Null) => Some("that of all".to_owned()),
        (AuditAction::PlanAssigned | AuditAction::ParentSet | AuditAction::ShareSet, Value::Null) => {
            Some("none".to_owned())
        }
        (_, Value::Null) => None,
        (_, value) => Some(text::value(value)),
    }
}

fn change(entry: &AuditEntry) -> Markup {
    html! {
        @match (said(entry.action, &entry.old), said(entry.action, &entry.new)) {
            (None, None) => {},
            (None, Some(new)) => span class="new" { (new) },
            (Some(old), None) => span class="old" { (old) },
            (Some(old), Some(new)) => {
                span class="old" { (old) }
                span aria-hidden="true" { " → " } span class="unseen" { " became " }
                span class="new" { (new) }
            }
        }
    }
}

/// Entries as a list, the newest first. With the workspace where they are of several.
pub(in crate::dashboard) fn entries(visitor: &Visitor, entries: &[AuditEntry], of_several: bool) -> Markup {
    html! {
        @if entries.is_empty() {
            p class="quiet" { "Nothing has been changed." }
        } @else {
            ol class="audit" {
                @for entry in entries {
                    li {
                        div class="what" {
                            b { (text::action(entry.action)) }
                            @if let Some(resource) = &entry.resource_type { span { (text::title(resource)) } }
                            @if let Some(workspace) = entry.workspace_id.as_ref().filter(|_| of_several) {
                                a class="id" href=(visitor.to_workspace(workspace)) { (workspace) }
                            }
                            span class="change" { (change(entry)) }
                        }
                        @if let Some(reason) = &entry.reason { p class="why" { (reason) } }
                        p class="quiet" { (entry.actor) " by way of " (entry.origin) ", " (text::ago(entry.at)) }
                    }
                }
            }
        }
    }
}

pub(in crate::dashboard) async fn list(visitor: Visitor) -> Result<Response, Fault> {
    visitor.operator()?;
    let workspace = visitor.asked("workspace").map(|raw| visitor.quota().workspace(raw)).transpose()?;
    let filter = AuditFilter {
        workspace: workspace.as_ref().map(|workspace| workspace.as_str().to_owned()),
        before: visitor.asked("before").and_then(|before| before.parse().ok()),
        limit: ROWS,
        ..AuditFilter::default()
    };
    let AuditPage { entries: found, next } = visitor.quota().audit(&filter).await?;
    let of =
        workspace.as_ref().map(|workspace| format!("workspace={}&", encoded(workspace.as_str()))).unwrap_or_default();
    let main = html! {
        h1 { "Audit log" }
        form class="search" method="get" action=(visitor.to("/audit")) role="search" {
            label class="unseen" for="workspace" { "Of the workspace with this id" }
            input id="workspace" type="search" name="workspace" value=(workspace.as_ref().map_or("", |workspace| workspace.as_str())) placeholder="Of one workspace" autocomplete="off" spellcheck="false" maxlength="255";
            button class="quiet" type="submit" { "Show" }
        }
        div id="audit" class="card" data-live { (entries(&visitor, &found, workspace.is_none())) }
        @if let Some(next) = next {
            nav class="pages" aria-label="Pages" {
                a class="button quiet" rel="next" href=(format!("{}?{of}before={next}", visitor.to("/audit"))) { "Older" }
            }
        }
    };
    Ok(page(&visitor, Place::Audit, "Audit log", &main))
}
