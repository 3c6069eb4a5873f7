//! What is told when a limit comes near, and how it gets to real receivers, on SQLite and on replicas that share a Postgres
//! database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod api;
mod host;
mod mails;
mod outages;
mod rights;

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::query;
use tokio::task::JoinSet;
use tower_quota::{
    Actor, AuditAction, AuditFilter, ClosureUsage, Decision, DeliveryFilter, DeliveryStatus, Demand, EmailOptions,
    EndpointChange, EndpointStatus, EnforcementMode, EventKind, Expect, ImportOptions, Limit, MemoryStore,
    PolicyChange, Quota, ResourceCatalog, ResourceSpec, SqliteStore, Thresholds, WebhookOptions,
};

use uuid::Uuid;

use host::{Gate, Host, both, until, waiting};
use support::receiver::{Receiver, Reply};

fn all() -> EndpointChange {
    EndpointChange::default()
}

/// What the receiver was told: usage, limit, percent and threshold.
fn told(receiver: &Receiver) -> Vec<(u64, u64, u64, String)> {
    let told = |body: &Value| {
        let data = &body["data"];
        let number = |field: &str| data[field].as_u64().unwrap();
        (
            number("current_usage"),
            number("limit"),
            number("percent_used"),
            data["threshold"].as_str().unwrap().to_owned(),
        )
    };
    receiver.bodies().iter().map(told).collect()
}

both!(each_threshold_is_told_once_at_exactly_its_percentage, host, {
    let receiver = Receiver::start().await;
    let (_, secret) = host.endpoint(&receiver, all()).await;
    host.limit("acme", Limit::of(100)).await;
    host.create(0, "acme", 89).await;
    for (at, (rows, told)) in [(1, 1), (4, 1), (1, 2), (4, 2), (1, 3)].into_iter().enumerate() {
        host.create(at % host.replicas(), "acme", rows).await;
        until("it is told", async || receiver.bodies().len() >= told).await;
    }
    let expected = [(90, 100, 90, "warning"), (95, 100, 95, "critical"), (100, 100, 100, "exceeded")];
    assert_eq!(told(&receiver), expected.map(|(usage, limit, percent, name)| (usage, limit, percent, name.to_owned())));
    let requests = receiver.requests();
    let events: Vec<_> = requests.iter().map(|request| request.body()["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["quota.warning", "quota.warning", "quota.exceeded"]);
    for request in &requests {
        request.verify(&[secret.expose().as_str()]);
        assert_eq!(request.body()["workspace_id"], "acme");
    }
    // What the database has is what was sent: no notice that somebody else will send.
    assert_eq!(host.deliveries(None).await.len(), 3);
});

both!(a_jump_over_all_thresholds_tells_of_each_in_order, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, all()).await;
    host.limit("acme", Limit::of(100)).await;
    host.create(0, "acme", 10).await;
    host.create(host.replicas() - 1, "acme", 90).await;
    until("all are told", async || receiver.bodies().len() >= 3).await;
    let expected = ["warning", "critical", "exceeded"].map(|name| (100, 100, 100, name.to_owned()));
    assert_eq!(told(&receiver), expected);
});

both!(a_limit_that_is_lowered_below_usage_is_told_and_what_falls_is_armed_again, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, EndpointChange::default().events([EventKind::Exceeded])).await;
    host.limit("acme", Limit::Unlimited).await;
    host.create(0, "acme", 40).await;
    // None of these is anything to be told of, nor is a limit of 0 where there are no rows.
    host.limit("nothing", Limit::of(0)).await;
    host.limit("acme", Limit::of(1000)).await;
    host.limit("acme", Limit::of(30)).await;
    until("it is told", async || !receiver.bodies().is_empty()).await;
    assert_eq!(told(&receiver), [(40, 30, 133, "exceeded".to_owned())]);
    host.delete("acme", 30).await;
    host.quota(0).admin(Actor::library()).recount(&host.workspace("acme")).await.unwrap();
    host.create(0, "acme", 1).await;
    until("it is armed again", async || !host.reached("acme").await).await;
    host.create(0, "acme", 19).await;
    until("it is told again", async || receiver.bodies().len() > 1).await;
    assert_eq!(told(&receiver)[1..], [(30, 30, 100, "exceeded".to_owned())]);
    // To the endpoint that asked for no more than that.
    assert!(host.deliveries(None).await.iter().all(|delivery| delivery.body.contains("quota.exceeded")));
});

both!(a_receiver_that_fails_gets_the_same_notice_until_it_takes_it, host, {
    let receiver = Receiver::start().await;
    let (endpoint, secret) = host.endpoint(&receiver, all()).await;
    let replies = [Reply::status(500), Reply::retry_after(1), Reply::redirect(), Reply::Hang, Reply::status(200)];
    let tries = replies.len();
    receiver.answer(replies);
    host.limit("acme", Limit::of(10)).await;
    host.create(0, "acme", 9).await;
    until("it is delivered", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 1).await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), tries);
    let ids: Vec<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(requests.iter().all(|request| request.body == requests[0].body));
    requests.iter().for_each(|request| request.verify(&[secret.expose().as_str()]));
    let [delivery] = &host.deliveries(None).await[..] else { panic!("not one delivery") };
    assert_eq!(delivery.notice.to_string(), ids[0]);
    assert_eq!(usize::try_from(delivery.attempts).unwrap(), tries);
    let log: Vec<_> = delivery.log.iter().map(|attempt| (attempt.ok, attempt.result.as_str())).collect();
    assert!(log[0].1.starts_with("500") && log[1].1.starts_with("429") && log[2].1.contains("redirect"), "{log:?}");
    assert!(log[3].1.contains("no answer") && log[4] == (true, "200"), "{log:?}");
    let between = delivery.log[2].at.duration_since(delivery.log[1].at);
    assert!(between >= jiff::SignedDuration::from_secs(1), "it was asked to wait for a second: {between:?}");
    let endpoint = host.quota(0).endpoint(endpoint.id).await.unwrap();
    assert_eq!((endpoint.failures, endpoint.paused_until), (0, None));
});

both!(an_endpoint_that_asks_to_be_left_alone_gets_nothing_else_either, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, all()).await;
    receiver.answer([Reply::retry_after(2)]);
    host.limit("acme", Limit::of(10)).await;
    host.create(0, "acme", 10).await;
    until("all are delivered", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 3).await;
    let mut tries: Vec<_> = host.deliveries(None).await.into_iter().flat_map(|delivery| delivery.log).collect();
    tries.sort_by_key(|attempt| attempt.at);
    assert_eq!(tries.iter().map(|attempt| attempt.ok).collect::<Vec<_>>(), [false, true, true, true]);
    let pause = tries[1].at.duration_since(tries[0].at);
    assert!(pause >= jiff::SignedDuration::from_secs(2), "{pause:?}");
});

both!(one_recipient_is_told_of_one_thing_after_the_other_whoever_delivers, host, {
    const ROUNDS: usize = 3;
    const EVENTS: usize = 40;
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    receiver.take(Duration::from_millis(2));
    let mut sent = Vec::new();
    for round in 1..=ROUNDS {
        host.admin().change_endpoint(endpoint.id, &all().active(false)).await.unwrap();
        for _ in 0..EVENTS {
            sent.push(host.admin().test_endpoint(endpoint.id).await.unwrap().to_string());
        }
        // All who deliver hear of them at the same time.
        host.admin().change_endpoint(endpoint.id, &all().active(true)).await.unwrap();
        let mut hearing = JoinSet::new();
        for replica in 0..host.replicas() {
            let (admin, id) = (host.quota(replica).admin(Actor::library()), endpoint.id);
            hearing.spawn(async move { admin.change_endpoint(id, &all().description("heard of")).await.unwrap() });
        }
        hearing.join_all().await;
        until("all are sent", async || receiver.requests().len() >= round * EVENTS).await;
        until("all is told", async || host.outbox().await == (0, 0)).await;
    }
    assert_eq!(receiver.most_at_once(), 1);
    let received: Vec<_> = receiver.requests().iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(received, sent);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_take_at_the_same_moment_do_not_share_a_recipient() {
    let host = Host::postgres().await;
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    receiver.take(Duration::from_millis(300));
    // Nobody sees what another takes as long as this is held.
    let mut gate = Gate::hold(&host, "UPDATE", "NEW.claim <> '' AND OLD.claim = ''").await;
    for replica in 0..2 {
        host.quota(replica).admin(Actor::library()).test_endpoint(endpoint.id).await.unwrap();
        until("the next one waits", async || gate.waiting().await == replica + 1).await;
    }
    gate.open().await;
    until("both are delivered", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 2).await;
    assert_eq!((receiver.requests().len(), receiver.most_at_once()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_deleted_takes_along_what_is_told_at_the_same_moment() {
    let host = Host::postgres().await;
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    host.limit("acme", Limit::of(10)).await;
    let mut gate = Gate::hold(&host, "INSERT", "true").await;
    host.create(0, "acme", 9).await;
    until("the notice is about to be committed", async || gate.waiting().await >= 1).await;
    let admin = host.quota(0).admin(Actor::library());
    let removed = tokio::spawn(async move { admin.remove_endpoint(endpoint.id).await });
    until("the deletion waits for it", async || removed.is_finished() || gate.waiting().await >= 2).await;
    gate.open().await;
    removed.await.unwrap().unwrap();
    until("it is told", async || host.reached("acme").await).await;
    assert_eq!(host.outbox().await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_deleted_and_a_delivery_that_ends_do_not_wait_for_each_other() {
    let host = Host::postgres().await;
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    let (mut holder, mut other) = (host.session().await, host.session().await);
    query("BEGIN").execute(&mut holder).await.unwrap();
    query(r#"SELECT 1 FROM "QuotaEndpoint" FOR UPDATE"#).execute(&mut holder).await.unwrap();
    // Adds it as it will be: the endpoint is held.
    let notice = Uuid::now_v7().to_string();
    // Not as one of long ago, which would be given up.
    for insert in [
        r#"INSERT INTO "QuotaNotice"
           VALUES ($1, '', '', 'quota.test', '{}', (extract(epoch FROM clock_timestamp()) * 1000)::bigint)"#,
        r#"INSERT INTO "QuotaDelivery" ("id", "noticeId", "channel", "target", "status", "attempts", "nextAt")
           SELECT $1, $1, 'webhook', "id", 'pending', 0, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
           FROM "QuotaEndpoint""#,
    ] {
        query(insert).bind(&notice).execute(&mut other).await.unwrap();
    }
    until("what became of it waits to be told", async || waiting(&mut other).await == 1).await;
    assert_eq!(receiver.requests().len(), 1);
    let admin = host.quota(0).admin(Actor::library());
    let removed = tokio::spawn(async move { admin.remove_endpoint(endpoint.id).await });
    until("the deletion waits as well", async || waiting(&mut other).await == 2).await;
    // Who waits for the endpoint has nothing that the other needs.
    query(r#"SELECT 1 FROM "QuotaDelivery" FOR UPDATE NOWAIT"#).execute(&mut other).await.unwrap();
    query("COMMIT").execute(&mut holder).await.unwrap();
    removed.await.unwrap().unwrap();
    assert_eq!(host.deliveries(None).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_type_may_have_thresholds_of_its_own() {
    let spec = |name: &str, field: &str| ResourceSpec::new(name, field, Limit::of(1000));
    let catalog =
        ResourceCatalog::empty().resource(spec("segments", "maxSegments")).resource(spec("users", "maxUsers"));
    let catalog = catalog.build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("quota.db").display());
    let store = SqliteStore::connect(&url, &catalog).await.unwrap();
    let builder = |named: &str| {
        Quota::builder(catalog.clone())
            .usage(ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(599) }))
            .webhooks(WebhookOptions::new().allow_networks(["127.0.0.0/8"]))
            .thresholds_of(named, Thresholds::new(50, 60, 70).unwrap())
    };
    let error = builder("nothing").store(MemoryStore::new()).build().unwrap_err();
    assert!(
        error.is_config() && error.message().contains("thresholds") && error.message().contains("nothing"),
        "{error}"
    );
    let quota = builder("users").store(store).build().unwrap();
    let receiver = Receiver::start().await;
    quota.admin(Actor::library()).add_endpoint(None, &receiver.url, all(), None).await.unwrap();
    let demands: Vec<_> = quota.catalog().iter().map(|resource| Demand::one(resource.id())).collect();
    let acme = quota.workspace("acme").unwrap();
    let decision = quota.reserve(&acme, &demands).await.unwrap();
    assert!(matches!(decision, Decision::Admitted(_)), "{decision:?}");
    until("it is told", async || !receiver.bodies().is_empty()).await;
    // Both were looked at by the same look.
    let told = |body: &Value| (body["data"]["resource_type"].clone(), body["data"]["threshold"].clone());
    assert_eq!(receiver.bodies().iter().map(told).collect::<Vec<_>>(), [(json!("users"), json!("warning"))]);
}

both!(rows_that_were_made_around_the_engine_are_told_of_where_nobody_is_at_work, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, all()).await;
    host.limit("acme", Limit::of(10)).await;
    host.create(0, "acme", 5).await;
    // The books that replicas share say 5 from here on.
    let host = host.rolled().await;
    host.insert("acme", 5).await;
    let _host = host.rolled().await;
    until("all are told", async || receiver.bodies().len() >= 3).await;
    assert_eq!(told(&receiver), ["warning", "critical", "exceeded"].map(|name| (10, 10, 100, name.to_owned())));
});

both!(what_an_import_lowers_is_told_of_where_nobody_is_at_work, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, EndpointChange::default().events([EventKind::Exceeded])).await;
    host.limit("acme", Limit::of(1000)).await;
    host.insert("acme", 10).await;
    let options = ImportOptions::new().apply(true).allow_lowering(true).percent(100);
    let mut import = host.admin().import(options).await.unwrap();
    while import.next().await.unwrap().is_some() {}
    assert_eq!(import.summary().lowered, 1);
    until("it is told", async || !receiver.bodies().is_empty()).await;
    assert_eq!(told(&receiver), [(10, 10, 100, "exceeded".to_owned())]);
});

both!(a_workspace_that_was_emptied_around_the_engine_is_armed_again, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, EndpointChange::default().events([EventKind::Exceeded])).await;
    host.limit("acme", Limit::of(10)).await;
    host.create(0, "acme", 10).await;
    until("it is told", async || receiver.bodies().len() == 1).await;
    let host = host.rolled().await;
    host.delete("acme", 10).await;
    // All are looked at when one begins.
    let host = host.rolled().await;
    until("it is armed again", async || !host.reached("acme").await).await;
    host.create(0, "acme", 10).await;
    until("it is told again", async || receiver.bodies().len() == 2).await;
});

both!(what_is_old_is_given_up_and_then_deleted, host, {
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    let test = async |host: &Host| host.admin().test_endpoint(endpoint.id).await.unwrap();
    test(&host).await;
    until("it is delivered", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 1).await;
    host.admin().change_endpoint(endpoint.id, &all().active(false)).await.unwrap();
    let stuck = test(&host).await;
    // With the start of a worker, and every hour from then on.
    host.days_later(29).await;
    let host = host.restarted().await;
    let recent = test(&host).await;
    host.days_later(2).await;
    let host = host.restarted().await;
    until("the old one is given up", async || host.outbox().await == (0, 1)).await;
    until("what was delivered is gone", async || host.notices().await == 2).await;
    assert_eq!(host.deliveries(Some(DeliveryStatus::Dead)).await[0].notice, stuck);
    assert_eq!(host.deliveries(Some(DeliveryStatus::Pending)).await[0].notice, recent);
    assert_eq!(host.deliveries(Some(DeliveryStatus::Delivered)).await.len(), 0);
    host.days_later(91).await;
    let host = host.restarted().await;
    until("that is gone as well", async || host.outbox().await == (0, 1) && host.notices().await == 1).await;
    assert_eq!(host.deliveries(None).await[0].notice, recent);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_that_is_old_is_deleted_a_part_at_a_time_beside_deliveries() {
    let host = Host::postgres().await;
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    host.no_large_deletions().await;
    for (status, channel) in [("delivered", "webhook"), ("dead", "webhook"), ("pending", "email")] {
        for insert in [
            r#"INSERT INTO "QuotaNotice" SELECT $1 || n, 'acme', 'segments', 'quota.test', '{}', 0 FROM generate_series(1, 2500) n"#,
            r#"INSERT INTO "QuotaDelivery" ("id", "noticeId", "channel", "target", "status", "attempts", "nextAt")
               SELECT $1 || n, $1 || n, $2, 'old', $1, 0, 0 FROM generate_series(1, 2500) n"#,
        ] {
            query(insert).bind(status).bind(channel).execute(&mut host.session().await).await.unwrap();
        }
    }
    let host = host.restarted().await;
    host.admin().test_endpoint(endpoint.id).await.unwrap();
    // What was due for that long is given up, and kept for a while.
    until("all of it is gone", async || host.notices().await == 2501 && host.outbox().await == (0, 2500)).await;
    until("what is new is delivered", async || receiver.requests().len() == 1).await;
}

both!(flapping_around_the_edge_is_told_once_until_it_was_well_below, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, all()).await;
    host.limit("acme", Limit::of(100)).await;
    host.create(0, "acme", 90).await;
    until("it is told", async || receiver.bodies().len() == 1).await;
    for at in 0..4 {
        host.delete("acme", 1).await;
        host.admin().recount(&host.workspace("acme")).await.unwrap();
        host.create(at % host.replicas(), "acme", 1).await;
    }
    host.create(0, "acme", 5).await;
    until("what comes next is told", async || receiver.bodies().len() >= 2).await;
    host.delete("acme", 7).await;
    host.admin().recount(&host.workspace("acme")).await.unwrap();
    until("both are armed again", async || !host.reached("acme").await).await;
    host.create(0, "acme", 2).await;
    until("it is told again", async || receiver.bodies().len() >= 3).await;
    let expected = [(90, "warning"), (95, "critical"), (90, "warning")];
    assert_eq!(told(&receiver), expected.map(|(usage, name)| (usage, 100, usage, name.to_owned())));
});

both!(what_was_made_while_nothing_was_enforced_is_told_when_it_counts_again, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, all()).await;
    host.limit("acme", Limit::of(10)).await;
    host.mode(EnforcementMode::Off);
    host.create(0, "acme", 12).await;
    // Nobody is at work there any more, and the engine has forgotten it.
    let host = host.restarted_in(EnforcementMode::Off).await;
    host.mode(EnforcementMode::Warn);
    until("all are told", async || receiver.bodies().len() >= 3).await;
    assert_eq!(told(&receiver), ["warning", "critical", "exceeded"].map(|name| (12, 10, 120, name.to_owned())));
    // In mode `warn` there may be more, and it is nothing new.
    host.create(host.replicas() - 1, "acme", 1).await;
    host.limit("other", Limit::of(1)).await;
    host.create(0, "other", 1).await;
    until("the other is told", async || receiver.bodies().len() >= 6).await;
    assert!(receiver.bodies()[3..].iter().all(|body| body["workspace_id"] == "other"));
});

both!(a_plan_that_is_lowered_is_told_of_where_nobody_is_at_work, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, all()).await;
    let (acme, anything) = (host.workspace("acme"), Expect::Anything);
    host.admin().put_plan("pro", &host.limits(Limit::of(100)), &anything).await.unwrap();
    host.admin().configure(&acme, PolicyChange::default().plan("pro"), &anything).await.unwrap();
    host.create(0, "acme", 50).await;
    let host = host.rolled().await;
    host.admin().put_plan("pro", &host.limits(Limit::of(50)), &anything).await.unwrap();
    until("all are told", async || receiver.bodies().len() >= 3).await;
    assert_eq!(told(&receiver), ["warning", "critical", "exceeded"].map(|name| (50, 50, 100, name.to_owned())));
});

both!(a_workspace_that_is_deleted_leaves_nothing_to_the_next_of_that_name, host, {
    let (acme, receiver) = (host.workspace("acme"), Receiver::start().await);
    let (shared, _) = host.endpoint(&receiver, all()).await;
    host.admin().add_endpoint(Some(&acme), &receiver.url, all(), None).await.unwrap();
    host.admin().add_endpoint(Some(&host.workspace("other")), &receiver.url, all(), None).await.unwrap();
    host.admin().set_contacts(&acme, &["ada@example.com".to_owned()]).await.unwrap();
    host.limit("acme", Limit::of(10)).await;
    host.create(0, "acme", 9).await;
    until("both are told", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 2).await;
    host.remember("acme").await;
    assert_eq!(host.kept_of("acme").await, 2);
    host.delete("acme", 9).await;
    host.admin().delete_workspace(&acme, &Expect::Anything).await.unwrap();
    assert_eq!(host.quota(0).contacts(&acme).await.unwrap(), Vec::<String>::new());
    let left: Vec<_> = host.quota(0).endpoints().await.unwrap().into_iter().map(|left| left.workspace_id).collect();
    assert_eq!(left, [None, Some("other".to_owned())]);
    let deliveries: Vec<_> = host.deliveries(None).await.into_iter().map(|left| left.target).collect();
    assert_eq!(deliveries, [shared.id.to_string()]);
    assert_eq!(host.kept_of("acme").await, 0);
    // It is told how many there were.
    let mut filter = AuditFilter::default();
    (filter.workspace, filter.limit) = (Some("acme".to_owned()), 1);
    let told = &host.quota(0).audit(&filter).await.unwrap().entries[0];
    assert_eq!(told.action, AuditAction::WorkspaceDeleted);
    for what in ["thresholds", "endpoints", "deliveries", "contacts"] {
        assert_eq!(told.old["kept"][what], 1, "{what}");
    }
    // The engine may have taken others meanwhile.
    assert!(told.old["kept"]["snapshots"].as_u64().unwrap() >= 1);
});

both!(an_endpoint_that_is_gone_is_asked_no_more_until_somebody_says_so, host, {
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    receiver.answer([Reply::status(410)]);
    host.limit("acme", Limit::of(10)).await;
    host.create(0, "acme", 10).await;
    until("it is disabled", async || {
        host.quota(0).endpoint(endpoint.id).await.unwrap().status == EndpointStatus::Disabled
    })
    .await;
    let dead = host.deliveries(Some(DeliveryStatus::Dead)).await;
    assert_eq!((dead.len(), receiver.requests().len()), (3, 1));
    assert_eq!(host.outbox().await.1, 3);
    let admin = host.quota(0).admin(Actor::library());
    admin.change_endpoint(endpoint.id, &EndpointChange::default().active(true)).await.unwrap();
    for delivery in &dead {
        admin.replay(&delivery.target, delivery.id).await.unwrap();
    }
    until("all are delivered", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 3).await;
    assert!(admin.replay(&endpoint.id.to_string(), endpoint.id).await.unwrap_err().is_not_found());
});

both!(what_can_not_be_delivered_is_given_up_and_kept, host, {
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    // No more than an endpoint bears without a pause.
    receiver.answer([500; Host::TRIES as usize].map(Reply::status));
    let notice = host.quota(0).admin(Actor::library()).test_endpoint(endpoint.id).await.unwrap();
    until("it is given up", async || host.deliveries(Some(DeliveryStatus::Dead)).await.len() == 1).await;
    let [dead] = &host.deliveries(None).await[..] else { panic!("not one delivery") };
    assert_eq!((dead.attempts, dead.notice), (Host::TRIES, notice));
    assert_eq!(receiver.requests().len(), Host::TRIES as usize);
    assert_eq!(receiver.bodies()[0]["event"], "quota.test");
});

both!(a_new_secret_signs_at_once_and_the_one_before_for_a_while, host, {
    let receiver = Receiver::start().await;
    let (endpoint, first) = host.endpoint(&receiver, all()).await;
    let admin = host.quota(0).admin(Actor::library());
    let (_, second) = admin.rotate_secret(endpoint.id, None).await.unwrap();
    admin.test_endpoint(endpoint.id).await.unwrap();
    until("it is sent", async || receiver.requests().len() == 1).await;
    receiver.requests()[0].verify(&[first.expose().as_str(), second.expose().as_str()]);
    let (_, third) = admin.rotate_secret(endpoint.id, None).await.unwrap();
    admin.test_endpoint(endpoint.id).await.unwrap();
    until("it is sent", async || receiver.requests().len() == 2).await;
    receiver.requests()[1].verify(&[second.expose().as_str(), third.expose().as_str()]);
    receiver.requests()[1].does_not_verify(first.expose().as_str());
});

both!(a_worker_that_is_gone_in_the_midst_of_a_delivery_is_followed_by_another, host, {
    let receiver = Receiver::start().await;
    let (endpoint, _) = host.endpoint(&receiver, all()).await;
    receiver.answer([Reply::Hang]);
    let notice = host.quota(0).admin(Actor::library()).test_endpoint(endpoint.id).await.unwrap();
    until("somebody delivers", async || receiver.requests().len() == 1).await;
    // All workers end at once, whatever they are at.
    let host = host.restarted().await;
    until("it is delivered", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 1).await;
    let ids: Vec<_> = receiver.requests().iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids, [notice.to_string(), notice.to_string()]);
});

both!(what_was_reached_while_nobody_looked_is_told_at_the_next_use, host, {
    let receiver = Receiver::start().await;
    host.endpoint(&receiver, EndpointChange::default().events([EventKind::Exceeded])).await;
    host.limit("acme", Limit::of(10)).await;
    host.create(0, "acme", 5).await;
    let host = host.rolled().await;
    // Around the engine, and so nobody has seen it.
    host.insert("acme", 4).await;
    host.create(0, "acme", 1).await;
    // Else it would be told once more by the next.
    until("it is told, and known to be", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 1)
        .await;
    let host = host.rolled().await;
    host.quota(0).admin(Actor::library()).recount(&host.workspace("acme")).await.unwrap();
    host.quota(0).admin(Actor::library()).recount(&host.workspace("other")).await.unwrap();
    host.limit("other", Limit::of(1)).await;
    host.create(0, "other", 1).await;
    until("the other is told", async || receiver.bodies().len() > 1).await;
    // It was not told again of the first.
    assert_eq!(receiver.bodies()[1]["workspace_id"], "other");
});

both!(who_is_admin_is_written_to, host, {
    let mut mails = support::smtp::Server::start(json!({})).await;
    let server = format!("smtp://localhost:{}", mails.port);
    let host = host.with_email(EmailOptions::smtp(server, "Quotas <quotas@example.com>")).await;
    let admin = host.quota(0).admin(Actor::library());
    let emails = ["ada@example.com".to_owned(), "bob@example.com".to_owned()];
    admin.set_contacts(&host.workspace("acme"), &emails).await.unwrap();
    assert_eq!(host.quota(0).contacts(&host.workspace("acme")).await.unwrap(), emails);
    host.limit("acme", Limit::of(20)).await;
    host.create(0, "acme", 19).await;
    let mut to = Vec::new();
    for _ in 0..2 {
        let mail = mails.received().await;
        assert_eq!(mail.headers("subject"), ["Segment quota critical in workspace acme: 19 of 20 (95 %)"]);
        assert!(mail.text.contains("Usage: 19 of 20 (95 %)") && mail.html.contains("19 of 20"), "{}", mail.raw);
        to.extend(mail.to);
    }
    to.sort();
    assert_eq!(to, emails);
    until("all is told", async || host.deliveries(Some(DeliveryStatus::Delivered)).await.len() == 2).await;
    // Nobody was written to of the warning.
    assert_eq!(host.deliveries(None).await.len(), 2);
    let error = admin.set_contacts(&host.workspace("acme"), &["nobody".to_owned()]).await.unwrap_err();
    assert!(error.is_invalid() && error.message().contains("\"nobody\" is no e-mail address"), "{error}");
    let mut of_acme = DeliveryFilter::default();
    (of_acme.target, of_acme.limit) = (Some("ada@example.com".to_owned()), 10);
    assert_eq!(host.quota(0).deliveries(&of_acme).await.unwrap().deliveries.len(), 1);
});
