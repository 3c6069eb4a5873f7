//! Requests for more.

use axum::response::Response;
use maud::{Markup, html};
use uuid::Uuid;

use super::layout::{Place, page, token};
use crate::api::admins_only;
use crate::dashboard::gate::no_page;
use crate::dashboard::session::Flash;
use crate::dashboard::text;
use crate::dashboard::visitor::{Fault, Form, Visitor};
use crate::error::Error;
use crate::policy::{IncreaseRequest, RequestStatus};
use crate::principal::Workspaces;
use crate::problem::{ErrorCode, Problem};
use crate::workspace::WorkspaceId;

/// How many are on a page.
const ROWS: usize = 50;

/// How many workspaces of somebody who doesn't see all are asked for requests.
const OWN: usize = 200;

fn status(request: &IncreaseRequest) -> Markup {
    let class = match request.status {
        RequestStatus::Pending => "asks",
        RequestStatus::Approved => "done",
        RequestStatus::Denied => "over",
        RequestStatus::Withdrawn => "quiet",
    };
    html! { span class=(format!("pill {class}")) { (text::title(request.status.as_str())) } }
}

/// What can still be done about a request.
fn verdicts(visitor: &Visitor, request: &IncreaseRequest) -> Markup {
    let admin = visitor.principal.is_admin() && visitor.principal.may_access(&request.workspace_id);
    let own = request.requested_by == visitor.principal.subject();
    let to =
        |verdict: &str| format!("{}/requests/{}/{verdict}", visitor.to_workspace(&request.workspace_id), request.id);
    let note = format!("note-{}", request.id);
    html! {
        @if request.status == RequestStatus::Pending && (admin || own) {
            form class="verdict" method="post" action=(to(if admin { "approve" } else { "withdraw" })) data-live-form {
                (token(visitor))
                input type="hidden" name="back" value=(visitor.path);
                @if admin {
                    label class="unseen" for=(note) { "Note on the request" }
                    input id=(note) name="note" placeholder="Note (optional)" maxlength="2000" autocomplete="off";
                    button type="submit" { "Approve" }
                    button class="quiet" type="submit" formaction=(to("deny")) { "Deny" }
                } @else {
                    button class="quiet" type="submit" { "Withdraw" }
                }
            }
        }
    }
}

/// Requests as a list. With the workspace where they are of several.
pub(in crate::dashboard) fn requests(visitor: &Visitor, requests: &[IncreaseRequest], of_several: bool) -> Markup {
    html! {
        @if requests.is_empty() {
            p class="quiet" { "No requests." }
        } @else {
            ul class="requests" {
                @for request in requests {
                    li {
                        div class="what" {
                            @if of_several {
                                a class="id" href=(visitor.to_workspace(&request.workspace_id)) { (request.workspace_id) }
                            }
                            b { "+" (text::number(request.amount)) " " (text::title(&request.resource_type).to_lowercase()) }
                            (status(request))
                        }
                        p class="why" { (request.reason) }
                        p class="quiet" {
                            (request.requested_by) ", " (text::ago(request.created_at))
                            @if let (Some(by), Some(at)) = (&request.decided_by, request.decided_at) {
                                " · " (request.status.as_str()) " by " (by) ", " (text::ago(at))
                            }
                            @if let Some(note) = &request.note { ": “" (note) "”" }
                        }
                        (verdicts(visitor, request))
                    }
                }
            }
        }
    }
}

/// Those that a page shows, and where the next one begins.
async fn found(
    visitor: &Visitor,
    status: Option<RequestStatus>,
) -> Result<(Vec<IncreaseRequest>, Option<Uuid>), Fault> {
    let quota = visitor.quota();
    let before = visitor.asked("before").and_then(|before| Uuid::try_parse(before).ok());
    let mut found = match visitor.principal.workspaces() {
        Workspaces::All if visitor.is_operator() => quota.requests(None, status, before, ROWS + 1).await?,
        Workspaces::All => {
            let message = "requests of all workspaces are for admins of all workspaces: open one of them";
            return Err(Problem::new(ErrorCode::InsufficientPermissions, message).into());
        }
        Workspaces::Only(own) => {
            let mut found = Vec::new();
            for id in own.iter().take(OWN) {
                let Ok(workspace) = quota.workspace(id) else { continue };
                found.extend(quota.requests(Some(&workspace), status, before, ROWS + 1).await?);
            }
            found.sort_by_key(|request| std::cmp::Reverse(request.id));
            found
        }
    };
    let more = found.len() > ROWS;
    found.truncate(ROWS);
    let next = found.last().filter(|_| more).map(|last| last.id);
    Ok((found, next))
}

pub(in crate::dashboard) async fn list(visitor: Visitor) -> Result<Response, Fault> {
    let status = match visitor.asked("show") {
        Some("all") => None,
        _ => Some(RequestStatus::Pending),
    };
    let (found, next) = found(&visitor, status).await?;
    let link = |show: &str, name: &str, here: bool| {
        html! { a href=(format!("{}{show}", visitor.to("/requests"))) aria-current=[here.then_some("true")] { (name) } }
    };
    let main = html! {
        h1 { "Requests for more" }
        nav class="sort" aria-label="Which" {
            (link("", "Waiting", status.is_some())) (link("?show=all", "All", status.is_none()))
        }
        div id="requests" class="card" data-live {
            @if found.is_empty() && status.is_some() {
                div class="empty" { p { b { "Nobody waits for a decision." } } p class="quiet" { "Requests for a higher limit come here." } }
            } @else {
                (requests(&visitor, &found, true))
            }
        }
        @if let Some(next) = next {
            nav class="pages" aria-label="Pages" {
                a class="button quiet" rel="next" href=(format!("{}?{}before={next}", visitor.to("/requests"), if status.is_none() { "show=all&" } else { "" })) { "Older" }
            }
        }
    };
    Ok(page(&visitor, Place::Requests, "Requests", &main))
}

pub(in crate::dashboard) async fn make(form: Form) -> Result<Response, Fault> {
    let workspace = form.visitor.workspace()?;
    let made = async {
        let visitor = &form.visitor;
        let resource = visitor.quota().catalog().by_name(form.field("resource"))?;
        let amount: Result<u64, _> = form.field("amount").replace(',', "").parse();
        let amount =
            amount.map_err(|_| Error::invalid("the number of rows to ask for is a whole number of 1 or more"))?;
        let admin = visitor.quota().admin(visitor.actor.clone());
        admin.request_increase(&workspace, resource.id(), amount, form.field("reason")).await?;
        Ok(Flash::Done(format!(
            "Asked for {} more of {}.",
            text::number(amount),
            text::title(resource.name()).to_lowercase()
        )))
    };
    let made = made.await;
    let page = form.visitor.to_workspace(workspace.as_str());
    form.then(&page, made)
}

pub(in crate::dashboard) async fn decide(form: Form) -> Result<Response, Fault> {
    let workspace = form.visitor.workspace()?;
    let id = form.visitor.id("id")?;
    let verdict = form.visitor.param("verdict").to_owned();
    if matches!(verdict.as_str(), "approve" | "deny") {
        admins_only(&form.visitor.principal)?;
    }
    let decided = decided(&form, &workspace, id, &verdict).await;
    // Back to where it was decided: among the requests of all, or on the workspace's page.
    let page = match form.field("back") {
        "/requests" => form.visitor.to("/requests"),
        _ => form.visitor.to_workspace(workspace.as_str()),
    };
    form.then(&page, decided)
}

async fn decided(form: &Form, workspace: &WorkspaceId, id: Uuid, verdict: &str) -> Result<Flash, Fault> {
    let visitor = &form.visitor;
    let admin = visitor.quota().admin(visitor.actor.clone());
    let note = form.filled("note").map(str::to_owned);
    let (request, word) = match verdict {
        "approve" => (admin.approve(workspace, id, note, None).await?, "Approved"),
        "deny" => (admin.deny(workspace, id, note).await?, "Denied"),
        "withdraw" => {
            // A member withdraws what it has asked for itself, and an admin what anybody has.
            let by = (!visitor.principal.is_admin()).then(|| visitor.principal.subject().to_owned());
            (admin.withdraw(workspace, id, by.as_deref()).await?, "Withdrawn")
        }
        _ => return Err(no_page()),
    };
    let what = text::title(&request.resource_type).to_lowercase();
    Ok(Flash::Done(format!("{word}: {} more {what} for {}.", text::number(request.amount), request.workspace_id)))
}
