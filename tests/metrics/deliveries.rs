//! Notices and what became of them, with real receivers.

use std::time::Duration;

use serde_json::json;
use tower_quota::{Actor, DeliveryRetries, EmailOptions, EndpointChange, QuotaBuilder, Thresholds, WebhookOptions};

use crate::host::Host;
use crate::support::receiver::{Receiver, Reply};
use crate::support::smtp;

fn notices(threshold: &str) -> String {
    format!(r#"tower_quota_notices_total{{threshold="{threshold}"}}"#)
}

fn deliveries(channel: &str, outcome: &str) -> String {
    format!(r#"tower_quota_deliveries_total{{channel="{channel}",outcome="{outcome}"}}"#)
}

fn outbox(status: &str) -> String {
    format!(r#"tower_quota_outbox_deliveries{{status="{status}"}}"#)
}

fn with_webhooks(builder: QuotaBuilder) -> QuotaBuilder {
    let retries = DeliveryRetries::default().first(Duration::from_millis(20)).longest(Duration::from_millis(50));
    builder
        .webhooks(WebhookOptions::new().allow_networks(["127.0.0.0/8"]).timeout(Duration::from_secs(1)))
        .delivery_retries(retries)
        .thresholds(Thresholds::default().min_interval(Duration::ZERO))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_told_by_what_became_of_each_attempt() {
    let host = Host::with(with_webhooks, |layer| layer).await;
    let receiver = Receiver::start().await;
    let admin = host.quota.admin(Actor::library());
    let (endpoint, _) = admin.add_endpoint(None, &receiver.url, EndpointChange::default(), None).await.unwrap();
    receiver.answer([Reply::status(500)]);
    // From nothing to all of the limit: over all three thresholds.
    for _ in 0..3 {
        assert_eq!(host.create("acme").await, 201);
    }
    for threshold in ["warning", "critical", "exceeded"] {
        host.tells(&notices(threshold), 1.0).await;
    }
    host.tells(&deliveries("webhook", "retried"), 1.0).await;
    host.tells(&deliveries("webhook", "delivered"), 3.0).await;
    host.tells(&outbox("pending"), 0.0).await;
    receiver.answer([Reply::status(410)]);
    admin.test_endpoint(endpoint.id).await.unwrap();
    host.tells(&deliveries("webhook", "dead"), 1.0).await;
    host.tells(&outbox("dead"), 1.0).await;
    assert_eq!(host.told.exported().sum("tower_quota_deliveries_total"), 5.0);
    // What nobody takes waits.
    admin.change_endpoint(endpoint.id, &EndpointChange::default().active(true)).await.unwrap();
    receiver.answer([0; 100].map(|_| Reply::Hang));
    admin.test_endpoint(endpoint.id).await.unwrap();
    host.tells(&outbox("pending"), 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_are_told_too() {
    let mut mails = smtp::Server::start(json!({})).await;
    let options = EmailOptions::smtp(format!("smtp://localhost:{}", mails.port), "Quotas <quotas@example.com>");
    let host = Host::with(|builder| builder.email(options), |layer| layer).await;
    let contacts = ["ada@example.com".to_owned()];
    host.quota.admin(Actor::library()).set_contacts(&host.workspace("acme"), &contacts).await.unwrap();
    for _ in 0..3 {
        assert_eq!(host.create("acme").await, 201);
    }
    for _ in 0..2 {
        assert_eq!(mails.received().await.to, contacts);
    }
    host.tells(&deliveries("email", "delivered"), 2.0).await;
    assert_eq!(host.told.exported().sum("tower_quota_deliveries_total"), 2.0);
}
