//! The database of the notices fails while rows are made in another, or rows can't be counted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{Connection, SqliteConnection, SqlitePool, query};
use tempfile::TempDir;
use tower_quota::{
    Actor, ClosureUsage, Decision, DeliveryFilter, DeliveryRetries, DeliveryStatus, Demand, EndpointChange,
    EnforcementMode, Error, Expect, Limit, LimitSet, PostgresStore, Quota, QuotaStore, SqliteStore, SqliteUsage,
    WebhookOptions,
};

use crate::host::{catalog, until};
use crate::support::postgres::{Durability, Server};
use crate::support::receiver::{Receiver, Reply};

/// Longer than a statement waits for a lock, and a call for its answer.
const OUTAGE: Duration = Duration::from_secs(7);

struct Host {
    quota: Quota,
    rows: SqlitePool,
    receiver: Receiver,
    _directory: TempDir,
}

impl Host {
    async fn on(store: impl QuotaStore) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(directory.path().join("rows.db")).create_if_missing(true);
        let rows = SqlitePool::connect_with(options.journal_mode(SqliteJournalMode::Wal)).await.unwrap();
        query(r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL)"#).execute(&rows).await.unwrap();
        let webhooks = WebhookOptions::new().allow_networks(["127.0.0.0/8"]).timeout(Duration::from_secs(1));
        let quota = Quota::builder(catalog())
            .store(store)
            .usage(SqliteUsage::builder(rows.clone(), &catalog()).build().unwrap())
            .webhooks(webhooks)
            .delivery_retries(DeliveryRetries::default().first(Duration::from_millis(20)))
            .build()
            .unwrap();
        let receiver = Receiver::start().await;
        let admin = quota.admin(Actor::library());
        admin.add_endpoint(None, &receiver.url, EndpointChange::default(), None).await.unwrap();
        let host = Self { quota, rows, receiver, _directory: directory };
        for workspace in ["acme", "other"] {
            let segments = host.quota.catalog().by_name("segments").unwrap().id();
            let limits: LimitSet = [(segments, Limit::of(10))].into_iter().collect();
            let workspace_id = host.quota.workspace(workspace).unwrap();
            host.quota.update_limits(&workspace_id, &limits, &Expect::Anything).await.unwrap();
            host.create(workspace, 5).await;
        }
        host
    }

    /// Makes rows one after the other.
    async fn create(&self, workspace: &str, rows: u64) {
        let segments = self.quota.catalog().by_name("segments").unwrap().id();
        let id = self.quota.workspace(workspace).unwrap();
        for _ in 0..rows {
            let decision = self.quota.reserve(&id, &[Demand::one(segments)]).await.unwrap();
            let Decision::Admitted(reservation) = decision else { panic!("{decision:?}") };
            let insert = query(r#"INSERT INTO "Segment" ("workspaceId") VALUES ($1)"#).bind(workspace);
            insert.execute(&self.rows).await.unwrap();
            reservation.post();
        }
    }

    /// The ids of what was delivered, each of them once.
    fn ids(&self) -> BTreeSet<String> {
        self.receiver.requests().iter().map(|request| request.header("webhook-id")).collect()
    }

    async fn all_are_delivered(&self, notices: usize) {
        let mut filter = DeliveryFilter::default();
        (filter.status, filter.limit) = (Some(DeliveryStatus::Delivered), 100);
        until("all are delivered", async || {
            self.quota.deliveries(&filter).await.is_ok_and(|page| page.deliveries.len() == notices)
        })
        .await;
        assert_eq!(self.ids().len(), notices);
        filter.status = None;
        assert_eq!(self.quota.deliveries(&filter).await.unwrap().deliveries.len(), notices);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_that_is_locked_holds_up_no_creation_and_loses_no_notice() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("quota.db");
    let store = SqliteStore::connect(&format!("sqlite://{}", file.display()), &catalog()).await.unwrap();
    let host = Host::on(store).await;
    let mut locker = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    query("BEGIN IMMEDIATE").execute(&mut locker).await.unwrap();
    host.create("acme", 5).await;
    tokio::time::sleep(OUTAGE).await;
    assert_eq!(host.receiver.bodies().len(), 0);
    query("ROLLBACK").execute(&mut locker).await.unwrap();
    host.all_are_delivered(3).await;
    // Once more, as soon as something is being delivered.
    host.receiver.take(Duration::from_millis(300));
    host.create("other", 5).await;
    until("it is being delivered", async || host.ids().len() > 3).await;
    query("BEGIN IMMEDIATE").execute(&mut locker).await.unwrap();
    tokio::time::sleep(OUTAGE).await;
    query("ROLLBACK").execute(&mut locker).await.unwrap();
    host.all_are_delivered(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_down_or_crashes_holds_up_no_creation_and_loses_no_notice() {
    let server = Server::start(Durability::Full);
    let host = Host::on(PostgresStore::connect(&server.database(), &catalog()).await.unwrap()).await;
    server.stop();
    host.create("acme", 5).await;
    tokio::time::sleep(OUTAGE).await;
    assert_eq!(host.receiver.bodies().len(), 0);
    server.start_again();
    host.all_are_delivered(3).await;
    host.receiver.take(Duration::from_millis(300));
    host.create("other", 5).await;
    for crash in 0..3 {
        until("it is being delivered", async || host.ids().len() > 3 + crash).await;
        server.restart_immediate();
    }
    host.all_are_delivered(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_ends_while_a_receiver_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("quota.db").display());
    let opened = async || SqliteStore::connect(&url, &catalog()).await;
    let quota = Quota::builder(catalog())
        .store(opened().await.unwrap())
        .usage(ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(0) }))
        // For longer than this test waits.
        .webhooks(WebhookOptions::new().allow_networks(["127.0.0.0/8"]).timeout(Duration::from_secs(300)))
        .build()
        .unwrap();
    let receiver = Receiver::start().await;
    receiver.answer([Reply::Hang]);
    let admin = quota.admin(Actor::library());
    let (endpoint, _) = admin.add_endpoint(None, &receiver.url, EndpointChange::default(), None).await.unwrap();
    admin.test_endpoint(endpoint.id).await.unwrap();
    until("it is being delivered", async || !receiver.requests().is_empty()).await;
    assert!(opened().await.is_err(), "an engine has the file");
    drop((quota, admin));
    until("the file is free", async || opened().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_could_not_be_counted_when_they_were_made_are_told_of_when_they_can() {
    let (rows, fails) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let usage = ClosureUsage::new({
        let (rows, fails) = (Arc::clone(&rows), Arc::clone(&fails));
        move |_, _, _| {
            let counted = if fails.load(Ordering::SeqCst) {
                Err(Error::unavailable("the rows can't be counted"))
            } else {
                Ok(rows.load(Ordering::SeqCst))
            };
            async move { counted }
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("quota.db").display());
    let quota = Quota::builder(catalog())
        .store(SqliteStore::connect(&url, &catalog()).await.unwrap())
        .usage(usage)
        .webhooks(WebhookOptions::new().allow_networks(["127.0.0.0/8"]))
        .mode(EnforcementMode::Warn)
        .build()
        .unwrap();
    let receiver = Receiver::start().await;
    let admin = quota.admin(Actor::library());
    admin.add_endpoint(None, &receiver.url, EndpointChange::default(), None).await.unwrap();
    let (acme, segments) = (quota.workspace("acme").unwrap(), quota.catalog().by_name("segments").unwrap().id());
    let decision = quota.reserve(&acme, &[Demand::new(segments, 900)]).await.unwrap();
    let Decision::Admitted(reservation) = decision else { panic!("{decision:?}") };
    rows.fetch_add(900, Ordering::SeqCst);
    reservation.post();
    tokio::time::sleep(Duration::from_secs(3)).await;
    fails.store(false, Ordering::SeqCst);
    until("it is told", async || receiver.bodies().len() == 1).await;
    assert_eq!(receiver.bodies()[0]["data"]["current_usage"], 900);
}
