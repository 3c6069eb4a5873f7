//! Endpoints for events, and what became of their deliveries.

use axum::response::Response;
use jiff::Timestamp;
use maud::{Markup, html};
use uuid::Uuid;

use super::layout::{Place, page, token};
use crate::api::operators_only;
use crate::dashboard::gate::no_page;
use crate::dashboard::session::Flash;
use crate::dashboard::text;
use crate::dashboard::visitor::{Fault, Form, Visitor, see};
use crate::engine::EndpointChange;
use crate::error::Error;
use crate::events::{Delivery, DeliveryFilter, DeliveryStatus, Endpoint, EndpointStatus, EventKind};

/// How many deliveries are on a page.
const ROWS: usize = 50;

/// How many attempts of a delivery are shown.
const ATTEMPTS: usize = 5;

fn state(endpoint: &Endpoint) -> Markup {
    let paused = endpoint.paused_until.filter(|until| *until > Timestamp::now());
    html! {
        @match (endpoint.status, paused) {
            (EndpointStatus::Disabled, _) => span class="pill quiet" { "Disabled" },
            (_, Some(_)) => span class="pill over" { "Paused" },
            _ if endpoint.failures > 0 => span class="pill warning" { "Failing" },
            _ => span class="pill done" { "Active" },
        }
        @if endpoint.failures > 0 { " " span class="quiet" { (text::count(endpoint.failures.into(), "failure", "failures")) " in a row" } }
        @if let Some(until) = paused { " " span class="quiet" { "next try " (text::ago(until)) } }
    }
}

fn told(endpoint: &Endpoint) -> String {
    let events: Vec<_> = endpoint.events.iter().map(|event| event.as_str()).collect();
    let of = endpoint.workspace_id.as_deref().unwrap_or("all workspaces");
    format!("{} of {of}", events.join(", "))
}

/// Which events, as boxes.
fn events(chosen: &[EventKind]) -> Markup {
    html! {
        fieldset {
            legend { "Events" }
            @for event in EventKind::FILTERS {
                label class="check" { input type="checkbox" name="event" value=(event) checked[chosen.contains(&event)]; " " (event) }
            }
        }
    }
}

pub(in crate::dashboard) async fn list(visitor: Visitor) -> Result<Response, Fault> {
    visitor.operator()?;
    let quota = visitor.quota();
    let endpoints = quota.endpoints().await?;
    let (pending, dead) = quota.outbox_depth().await?;
    let main = html! {
        h1 { "Webhooks" }
        p class="lead" { "Endpoints that are told when a limit comes near, and when it is reached." }
        div id="outbox" class="tiles" data-live {
            div class="tile calm" { b { (text::number(pending)) } span { "deliveries on their way" } }
            div class=(if dead > 0 { "tile full" } else { "tile calm" }) { b { (text::number(dead)) } span { "given up" } }
        }
        div id="endpoints" data-live {
            @if endpoints.is_empty() {
                div class="card empty" { p { b { "Nobody is told by webhook." } } p class="quiet" { "Add an endpoint below." } }
            } @else {
                ul class="card rows" {
                    @for endpoint in &endpoints {
                        li {
                            div class="what" {
                                a class="id" href=(visitor.to(&format!("/webhooks/{}", endpoint.id))) { (endpoint.url) }
                                (state(endpoint))
                            }
                            @if !endpoint.description.is_empty() { p class="why" { (endpoint.description) } }
                            p class="quiet" { (told(endpoint)) }
                        }
                    }
                }
            }
        }
        details class="card" open[endpoints.is_empty()] {
            summary { "Add an endpoint" }
            form id="add" class="stack" method="post" action=(visitor.to("/webhooks")) data-send {
                (token(&visitor))
                div class="field" {
                    label for="url" { "URL" }
                    input id="url" name="url" type="url" required maxlength="2000" placeholder="https://" autocomplete="off" spellcheck="false";
                }
                div class="field" {
                    label for="of" { "Of one workspace" }
                    input id="of" name="workspace" placeholder="all workspaces" maxlength="255" autocomplete="off" spellcheck="false";
                }
                div class="field" {
                    label for="description" { "What it is for" }
                    input id="description" name="description" maxlength="500" autocomplete="off";
                }
                (events(&EventKind::FILTERS))
                button type="submit" { "Add the endpoint" }
            }
        }
    };
    Ok(page(&visitor, Place::Webhooks, "Webhooks", &main))
}

/// What a form says of an endpoint.
fn change_of(form: &Form) -> Result<EndpointChange, Error> {
    let events = form.all("event").map(str::parse).collect::<Result<Vec<EventKind>, _>>()?;
    Ok(EndpointChange::default().events(events).description(form.field("description")))
}

pub(in crate::dashboard) async fn add(form: Form) -> Result<Response, Fault> {
    operators_only(&form.visitor.principal)?;
    let visitor = &form.visitor;
    let quota = visitor.quota();
    let added = async {
        let workspace = form.filled("workspace").map(|raw| quota.workspace(raw)).transpose()?;
        let admin = quota.admin(visitor.actor.clone());
        Ok::<_, Fault>(admin.add_endpoint(workspace.as_ref(), form.field("url"), change_of(&form)?, None).await?)
    };
    match added.await {
        Ok((endpoint, secret)) => {
            visitor.session.tell(Flash::Secret(secret.expose()));
            Ok(see(&visitor.to(&format!("/webhooks/{}", endpoint.id))))
        }
        Err(fault) => {
            let page = visitor.to("/webhooks");
            form.then(&page, Err(fault))
        }
    }
}

fn delivery_row(visitor: &Visitor, endpoint: Uuid, delivery: &Delivery) -> Markup {
    let class = match delivery.status {
        DeliveryStatus::Pending => "asks",
        DeliveryStatus::Delivered => "done",
        DeliveryStatus::Dead => "over",
    };
    let body: serde_json::Value = serde_json::from_str(&delivery.body).unwrap_or_default();
    let pretty = serde_json::to_string_pretty(&body).unwrap_or_default();
    let made = delivery.log.first().map(|first| first.at);
    html! {
        li {
            div class="what" {
                b { (body["event"].as_str().unwrap_or("event")) }
                @if let Some(workspace) = body["workspace_id"].as_str() { a class="id" href=(visitor.to_workspace(workspace)) { (workspace) } }
                span class=(format!("pill {class}")) { (text::title(delivery.status.as_str())) }
                span class="quiet" {
                    (text::count(delivery.attempts.into(), "try", "tries"))
                    @if let Some(made) = made { ", first " (text::ago(made)) }
                    @if delivery.status == DeliveryStatus::Pending {
                        @if delivery.next_at > Timestamp::now() { ", next " (text::ago(delivery.next_at)) } @else { ", due now" }
                    }
                }
            }
            @if !delivery.log.is_empty() {
                ul class="tries" {
                    @for attempt in delivery.log.iter().rev().take(ATTEMPTS) {
                        li { (text::ago(attempt.at)) ": " (attempt.result) " (" (text::number(attempt.took_ms)) " ms)" }
                    }
                }
            }
            details id=(format!("body-{}", delivery.id)) { summary { "What is sent" } pre tabindex="0" { code { (pretty) } } }
            @if delivery.status != DeliveryStatus::Pending {
                form method="post" action=(visitor.to(&format!("/webhooks/{endpoint}/deliveries/{}/replay", delivery.id))) data-live-form {
                    (token(visitor))
                    button class="quiet" type="submit" { "Send it again" }
                }
            }
        }
    }
}

pub(in crate::dashboard) async fn show(visitor: Visitor) -> Result<Response, Fault> {
    visitor.operator()?;
    let id = visitor.id("id")?;
    let quota = visitor.quota();
    let endpoint = quota.endpoint(id).await?;
    let filter = DeliveryFilter {
        target: Some(id.to_string()),
        status: visitor.asked("status").map(str::parse).transpose()?,
        before: visitor.asked("before").and_then(|before| Uuid::try_parse(before).ok()),
        limit: ROWS,
    };
    let deliveries = quota.deliveries(&filter).await?;
    let here = visitor.to(&format!("/webhooks/{id}"));
    let link = |status: Option<DeliveryStatus>| {
        let to = status.map_or_else(|| here.clone(), |status| format!("{here}?status={}", status.as_str()));
        let name = status.map_or_else(|| "All".to_owned(), |status| text::title(status.as_str()));
        html! { a href=(to) aria-current=[(filter.status == status).then_some("true")] { (name) } }
    };
    let work = |what: &str, class: &str, name: &str| {
        html! {
            form method="post" action=(format!("{here}/{what}")) data-send {
                (token(&visitor)) button class=(class) type="submit" { (name) }
            }
        }
    };
    let main = html! {
        p class="crumb" { a href=(visitor.to("/webhooks")) { "Webhooks" } }
        // Where it is too long for a line, it is broken behind a slash.
        h1 class="id" { @for part in endpoint.url.split_inclusive('/') { (part) wbr; } }
        div id="endpoint" class="lead" data-live { (state(&endpoint)) " " span class="quiet" { (told(&endpoint)) } }
        div class="actions" {
            (work("test", "quiet", "Send a test"))
            @match endpoint.status {
                EndpointStatus::Active => (work("disable", "quiet", "Disable")),
                EndpointStatus::Disabled => (work("enable", "quiet", "Enable")),
            }
        }
        details class="card" {
            summary { "Change the endpoint" }
            form id="change" class="stack" method="post" action=(here) data-send {
                (token(&visitor))
                div class="field" { label for="url" { "URL" } input id="url" name="url" type="url" required maxlength="2000" value=(endpoint.url) autocomplete="off" spellcheck="false"; }
                div class="field" { label for="description" { "What it is for" } input id="description" name="description" maxlength="500" value=(endpoint.description) autocomplete="off"; }
                (events(&endpoint.events))
                button type="submit" { "Save the endpoint" }
            }
            div class="actions" {
                (work("secret", "quiet", "Make a new signing secret"))
                form method="post" action=(format!("{here}/delete")) data-send {
                    (token(&visitor))
                    label class="check" { input type="checkbox" name="sure" required; " With all its deliveries" }
                    button class="danger" type="submit" { "Delete" }
                }
            }
        }
        h2 { "Deliveries" }
        nav class="sort" aria-label="Which deliveries" { (link(None)) @for status in DeliveryStatus::ALL { (link(Some(status))) } }
        div id="deliveries" class="card" data-live {
            @if deliveries.deliveries.is_empty() {
                div class="empty" { p { b { "No deliveries." } } p class="quiet" { "Send a test to see whether events arrive." } }
            } @else {
                ul class="rows" { @for delivery in &deliveries.deliveries { (delivery_row(&visitor, id, delivery)) } }
            }
        }
        @if let Some(next) = deliveries.next {
            nav class="pages" aria-label="Pages" {
                a class="button quiet" rel="next" href=(format!("{here}?{}before={next}", filter.status.map(|status| format!("status={}&", status.as_str())).unwrap_or_default())) { "Older" }
            }
        }
    };
    Ok(page(&visitor, Place::Webhooks, "Webhook", &main))
}

pub(in crate::dashboard) async fn change(form: Form) -> Result<Response, Fault> {
    operators_only(&form.visitor.principal)?;
    let id = form.visitor.id("id")?;
    let changed = async {
        let visitor = &form.visitor;
        let change = change_of(&form)?.url(form.field("url"));
        visitor.quota().admin(visitor.actor.clone()).change_endpoint(id, &change).await?;
        Ok(Flash::Done("The endpoint is saved.".to_owned()))
    };
    let changed = changed.await;
    let page = form.visitor.to(&format!("/webhooks/{id}"));
    form.then(&page, changed)
}

pub(in crate::dashboard) async fn work(form: Form) -> Result<Response, Fault> {
    operators_only(&form.visitor.principal)?;
    let id = form.visitor.id("id")?;
    let what = form.visitor.param("work").to_owned();
    let mut page = form.visitor.to(&format!("/webhooks/{id}"));
    let done = async {
        let admin = form.visitor.quota().admin(form.visitor.actor.clone());
        let done = match what.as_str() {
            "test" => {
                admin.test_endpoint(id).await?;
                "A test is on its way."
            }
            "enable" => {
                admin.change_endpoint(id, &EndpointChange::default().active(true)).await?;
                "The endpoint is told again."
            }
            "disable" => {
                admin.change_endpoint(id, &EndpointChange::default().active(false)).await?;
                "The endpoint is told nothing any more."
            }
            "secret" => return Ok(Flash::Secret(admin.rotate_secret(id, None).await?.1.expose())),
            "delete" if !form.ticked("sure") => {
                return Ok(Flash::Failed("Tick the box to say that its deliveries are to go, too.".to_owned()));
            }
            "delete" => {
                admin.remove_endpoint(id).await?;
                page = form.visitor.to("/webhooks");
                "The endpoint is deleted."
            }
            _ => return Err(no_page()),
        };
        Ok(Flash::Done(done.to_owned()))
    };
    let done = done.await;
    form.then(&page, done)
}

pub(in crate::dashboard) async fn replay(form: Form) -> Result<Response, Fault> {
    operators_only(&form.visitor.principal)?;
    let (id, delivery) = (form.visitor.id("id")?, form.visitor.id("delivery")?);
    let replayed = async {
        let visitor = &form.visitor;
        visitor.quota().admin(visitor.actor.clone()).replay(&id.to_string(), delivery).await?;
        Ok(Flash::Done("The delivery is on its way again.".to_owned()))
    };
    let replayed = replayed.await;
    let page = form.visitor.to(&format!("/webhooks/{id}"));
    form.then(&page, replayed)
}
