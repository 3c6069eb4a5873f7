//! Who is told when a limit comes near.

use std::path::PathBuf;

use serde_json::json;
use tower_quota::DeliveryStatus;
use tower_quota::EndpointStatus;
use tower_quota::client::{Webhook, WebhookChange};

use super::{Context, more, or_dash};
use crate::args::{WebhookFields, Webhooks};
use crate::connect::secret;
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Shown, Tone};

fn events(webhook: &Webhook) -> String {
    webhook.events.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(", ")
}

fn state(webhook: &Webhook) -> Cell {
    match (webhook.status, webhook.paused_until) {
        (EndpointStatus::Active, None) => Cell::text("active").tone(Tone::Good),
        (EndpointStatus::Active, Some(until)) => Cell::text(format!("paused until {until}")).tone(Tone::Warning),
        _ => Cell::text("disabled").tone(Tone::Bad),
    }
}

fn one(context: &Context, webhook: &Webhook) -> Result<Outcome, Failure> {
    let mut shown = Shown::fields(
        webhook,
        [
            ("id", Cell::text(webhook.id)),
            ("url", Cell::text(&webhook.url)),
            ("workspace", Cell::text(webhook.workspace_id.as_deref().unwrap_or("all"))),
            ("events", Cell::text(events(webhook))),
            ("status", state(webhook)),
            ("failures", Cell::text(webhook.failures)),
            ("description", Cell::text(&webhook.description)),
        ],
    )?;
    if let Some(secret) = &webhook.secret {
        shown.row([Cell::text("secret"), Cell::text(secret)]);
        shown.note("the secret is not shown again: keep it where the endpoint checks signatures");
    }
    context.show(&shown)
}

fn fields(fields: WebhookFields) -> WebhookChange {
    let WebhookFields { events, description, active } = fields;
    WebhookChange { events: (!events.is_empty()).then_some(events), description, active, ..WebhookChange::default() }
}

fn given(file: Option<PathBuf>) -> Result<Option<String>, Failure> {
    file.map(|file| secret(&file)).transpose()
}

pub(super) async fn run(context: &Context, webhooks: Webhooks) -> Result<Outcome, Failure> {
    let client = &context.client;
    match webhooks {
        Webhooks::List => {
            let webhooks = client.webhooks().await?;
            let mut shown = Shown::table(&webhooks, ["id", "url", "workspace", "events", "status", "failures"])?;
            for webhook in &webhooks {
                shown.row([
                    Cell::text(webhook.id),
                    Cell::text(&webhook.url),
                    Cell::text(webhook.workspace_id.as_deref().unwrap_or("all")),
                    Cell::text(events(webhook)),
                    state(webhook),
                    Cell::number(webhook.failures),
                ]);
            }
            if webhooks.is_empty() {
                shown.note("there are no endpoints: make one with `quotactl webhooks add URL`");
            }
            context.show(&shown)
        }
        Webhooks::Add { endpoint, workspace, change, secret_file } => {
            let new = WebhookChange {
                url: Some(endpoint),
                workspace_id: workspace,
                secret: given(secret_file)?,
                ..fields(change)
            };
            one(context, &client.add_webhook(&new).await?)
        }
        Webhooks::Show { id } => one(context, &client.webhook(&id).await?),
        Webhooks::Update { id, endpoint, change } => {
            let change = WebhookChange { url: endpoint, ..fields(change) };
            if change == WebhookChange::default() {
                return Err(Failure::usage(
                    "nothing is to be changed: add --endpoint, --event, --description or --active",
                ));
            }
            one(context, &client.change_webhook(&id, &change).await?)
        }
        Webhooks::Delete { id } => {
            client.delete_webhook(&id).await?;
            context.done(&json!({"deleted": id}), format!("endpoint {id} is deleted"))
        }
        Webhooks::Secret { id, secret_file } => {
            let secret = given(secret_file)?;
            one(context, &client.rotate_webhook_secret(&id, secret.as_deref()).await?)
        }
        Webhooks::Test { id } => {
            let notice = client.test_webhook(&id).await?;
            let sentence = format!("notice {notice} is on its way: see `quotactl webhooks deliveries {id}`");
            context.done(&json!({"notice": notice}), sentence)
        }
        Webhooks::Deliveries { id, status, page } => {
            let list = client.deliveries(&id, status, page.cursor.as_deref(), page.count).await?;
            let mut shown = Shown::table(&list, ["id", "event", "status", "attempts", "next", "result"])?;
            for delivery in &list.deliveries {
                let tone = match delivery.status {
                    DeliveryStatus::Pending => Tone::Warning,
                    DeliveryStatus::Delivered => Tone::Good,
                    _ => Tone::Bad,
                };
                shown.row([
                    Cell::text(delivery.id),
                    or_dash(delivery.body["event"].as_str()),
                    Cell::text(delivery.status.as_str()).tone(tone),
                    Cell::number(delivery.attempts),
                    Cell::maybe(delivery.next_at),
                    Cell::maybe(delivery.log.last().map(|attempt| attempt.result.as_str())),
                ]);
            }
            if list.deliveries.is_empty() {
                shown.note("there are no deliveries");
            }
            more(&mut shown, list.next.as_deref());
            context.show(&shown)
        }
        Webhooks::Replay { id, delivery } => {
            client.replay(&id, &delivery).await?;
            context.done(&json!({"replayed": delivery}), format!("delivery {delivery} is sent again"))
        }
    }
}
