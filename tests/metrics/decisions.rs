//! What became of requests, and how long that took to decide.

use std::time::Duration;

use sqlx::Connection;
use tower_quota::{Actor, Demand, EnforcementMode, Grace, Limit, OnFailure, PolicyChange, Provisioning};

use crate::host::{Host, decisions, until};

const SECONDS: &str = "tower_quota_decision_seconds";

/// All decisions, and those that took more than a look into memory.
fn totals(host: &Host) -> (f64, f64) {
    let exported = host.told.exported();
    (exported.sum("tower_quota_decisions_total"), exported.sum(&format!("{SECONDS}_count")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_is_told_once_by_what_became_of_it() {
    let host = Host::new().await;
    // All series are there from the start.
    for outcome in ["admitted", "edited", "warned", "refused", "blocked", "undecided", "failed", "unprovisioned"] {
        assert_eq!(host.told.value(&decisions(outcome)), 0.0);
    }
    for _ in 0..3 {
        assert_eq!(host.create("acme").await, 201);
    }
    host.decided("admitted", 3.0).await;
    for _ in 0..2 {
        assert_eq!(host.create("acme").await, 429);
    }
    host.decided("refused", 2.0).await;
    // At the limit, a row that is there may be edited, and one that is not can't be made.
    assert_eq!(host.upsert("acme", 1).await, 200);
    assert_eq!(host.upsert("acme", 77).await, 429);
    host.decided("edited", 1.0).await;
    host.decided("refused", 3.0).await;
    host.quota.set_mode(EnforcementMode::Warn);
    assert_eq!(host.create("acme").await, 201);
    host.decided("warned", 1.0).await;
    host.quota.set_mode(EnforcementMode::Enforce);
    // Only what is in flight stands in the way: for whom it is blocked after a while.
    let held = host.reserve("globex", 3).await;
    assert_eq!(host.create("globex").await, 429);
    host.decided("blocked", 1.0).await;
    held.void();
    host.decided("admitted", 4.0).await;
    // An upsert that makes its row takes a unit as any creation.
    assert_eq!(host.upsert("globex", 78).await, 200);
    host.decided("admitted", 5.0).await;
    let (decided, timed) = totals(&host);
    assert_eq!(decided, 11.0, "each of them is told once");
    let refused = host.told.value(&format!(r#"{SECONDS}_count{{outcome="refused"}}"#));
    assert_eq!(refused, 4.0, "all that were refused or blocked took a count");
    assert!(timed < decided, "those that were admitted at once aren't timed");
    assert!(host.told.value(&format!(r#"{SECONDS}_sum{{outcome="refused"}}"#)) >= 0.05, "one waited for `max_wait`");
    assert_eq!(host.told.value(&format!(r#"{SECONDS}_bucket{{outcome="refused",le="+Inf"}}"#)), 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_many_threads_admit_at_once_is_all_told() {
    let host = std::sync::Arc::new(Host::new().await);
    host.limit("acme", 1_000_000).await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let host = std::sync::Arc::clone(&host);
            tokio::spawn(async move {
                for _ in 0..500 {
                    host.reserve("acme", 1).await.void();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    host.decided("admitted", 4000.0).await;
    let (decided, timed) = totals(&host);
    assert_eq!(decided, 4000.0);
    assert!(timed < 400.0, "nearly all took no more than a look into memory, not {timed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grace_is_a_warning() {
    let host =
        Host::with(|builder| builder.grace(Grace::new(100, Duration::from_secs(600), ["segments"])), |it| it).await;
    for _ in 0..4 {
        assert_eq!(host.create("acme").await, 201);
    }
    host.decided("admitted", 3.0).await;
    host.decided("warned", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_decided_is_told_by_what_the_mode_makes_of_it() {
    let host = Host::with(|builder| builder, |layer| layer.on_failure(OnFailure::Open)).await;
    host.run(r#"ALTER TABLE "Segment" RENAME TO "Gone""#).await;
    let failures = r#"tower_quota_errors_total{source="usage",kind="failure"}"#;
    assert_eq!(host.told.value(failures), 0.0);
    // It passes, and then fails in the handler, whose table is gone too: as long as the request is not refused.
    let passes = tokio::spawn({
        let quota = host.quota.clone();
        async move {
            let acme = quota.workspace("acme").unwrap();
            quota.reserve(&acme, &[Demand::one(quota.catalog().by_name("segments").unwrap().id())]).await
        }
    });
    assert!(passes.await.unwrap().unwrap_err().is_unavailable());
    host.decided("failed", 1.0).await;
    assert_eq!(host.send(http::Method::POST, "/acme/segments", "fails").await, 500);
    host.decided("undecided", 1.0).await;
    host.quota.set_mode(EnforcementMode::Strict);
    assert_eq!(host.send(http::Method::POST, "/acme/segments", "fails").await, 503);
    host.decided("failed", 2.0).await;
    assert_eq!(host.told.value(failures), 3.0);
    assert_eq!(host.told.value(&format!(r#"{SECONDS}_count{{outcome="failed"}}"#)), 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_without_a_record_is_no_failure() {
    let host = Host::with(|builder| builder.provisioning(Provisioning::Explicit), |layer| layer).await;
    assert_eq!(host.create("nobody").await, 404);
    host.decided("unprovisioned", 1.0).await;
    assert_eq!(host.told.exported().sum("tower_quota_errors_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_gives_no_answer_is_told() {
    let set_up = |builder: tower_quota::QuotaBuilder| builder.io_timeout(Duration::from_millis(200));
    let host = Host::with(set_up, |layer| layer).await;
    // Nobody reads while somebody has the whole file.
    let mut whole = host.pool().acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut *whole).await.unwrap();
    assert_eq!(host.send(http::Method::POST, "/acme/segments", "fails").await, 500);
    sqlx::query("ROLLBACK").execute(&mut *whole).await.unwrap();
    whole.ping().await.unwrap();
    host.tells(r#"tower_quota_errors_total{source="store",kind="timeout"}"#, 1.0).await;
    host.decided("undecided", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_to_be_silent_is() {
    let host = Host::with(|builder| builder.metrics(false), |layer| layer).await;
    assert_eq!(host.create("acme").await, 201);
    assert_eq!(host.told.exported().series().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_refuses_as_a_limit_does() {
    let host = Host::new().await;
    let admin = host.quota.admin(Actor::library());
    let cap = PolicyChange::new().cap("segments", Limit::of(1));
    admin.configure(&host.workspace("acme"), cap, &tower_quota::Expect::Anything).await.unwrap();
    assert_eq!(host.create("acme").await, 201);
    assert_eq!(host.create("acme").await, 429);
    host.decided("admitted", 1.0).await;
    host.decided("refused", 1.0).await;
    // The workspace, and all below it together.
    until("both are in memory", async || host.told.value("tower_quota_workspaces") == 2.0).await;
}
