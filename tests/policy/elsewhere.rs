//! Caps on two replicas whose rows are in another database than their books: those are counted between two calls of the
//! ledger, while others go on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::{PgPool, query, query_scalar};
use tokio::sync::Semaphore;
use tower_quota::{
    Actor, ClosureUsage, Decision, Demand, Expect, Limit, LimitSet, PolicyChange, PostgresLedger, PostgresStore, Quota,
    Reservation, WorkspaceId,
};
use uuid::Uuid;

use crate::host::{catalog, until};
use crate::support::postgres::shared;

/// What counts of all rows of a workspace wait for when they are done, and before they tell.
struct Gate {
    at: Mutex<Option<&'static str>>,
    waiting: AtomicUsize,
    turns: Semaphore,
}

struct Elsewhere {
    rows: PgPool,
    books: PgPool,
    gate: Arc<Gate>,
    quotas: Vec<Quota>,
}

impl Elsewhere {
    async fn start() -> Self {
        let (url, books) = (shared().database(), shared().database());
        let rows = PgPool::connect(&url).await.unwrap();
        query(r#"CREATE TABLE "Segment" ("id" TEXT PRIMARY KEY, "workspaceId" TEXT NOT NULL)"#)
            .execute(&rows)
            .await
            .unwrap();
        let gate = Arc::new(Gate { at: Mutex::default(), waiting: AtomicUsize::new(0), turns: Semaphore::new(0) });
        let mut quotas = Vec::new();
        for _ in 0..2 {
            let (pool, gate) = (rows.clone(), Arc::clone(&gate));
            let usage = ClosureUsage::new(move |workspace, _resource, at_most| {
                let (pool, gate, workspace) = (pool.clone(), Arc::clone(&gate), workspace.to_string());
                async move {
                    let rows = count(&pool, &workspace).await;
                    if at_most.is_none() && *gate.at.lock().unwrap() == Some(workspace.as_str()) {
                        gate.waiting.fetch_add(1, Ordering::SeqCst);
                        gate.turns.acquire().await.unwrap().forget();
                    }
                    Ok::<_, std::io::Error>(rows)
                }
            });
            let store = PostgresStore::connect(&books, &catalog()).await.unwrap();
            let ledger = PostgresLedger::new(&store);
            quotas.push(Quota::builder(catalog()).store(store).usage(usage).ledger(ledger).build().unwrap());
        }
        Self { rows, books: PgPool::connect(&books).await.unwrap(), gate, quotas }
    }

    fn id(&self, workspace: &str) -> WorkspaceId {
        self.quotas[0].workspace(workspace).unwrap()
    }

    async fn limit(&self, workspace: &str) {
        let limits = LimitSet::new().with(catalog().by_name("segments").unwrap().id(), Limit::of(1000));
        let admin = self.quotas[1].admin(Actor::library());
        admin.set_limits(&self.id(workspace), &limits, &Expect::Anything, None).await.unwrap();
    }

    async fn configure(&self, workspace: &str, change: PolicyChange) {
        let admin = self.quotas[1].admin(Actor::library());
        admin.configure(&self.id(workspace), change, &Expect::Anything).await.unwrap();
    }

    async fn insert(&self, workspace: &str, rows: usize) {
        for _ in 0..rows {
            let insert = query(r#"INSERT INTO "Segment" VALUES ($1, $2)"#).bind(Uuid::now_v7().to_string());
            insert.bind(workspace).execute(&self.rows).await.unwrap();
        }
    }

    async fn reserve(&self, replica: usize, workspace: &str, units: u64) -> Option<Reservation> {
        let segments = catalog().by_name("segments").unwrap().id();
        let demand = Demand::new(segments, units);
        match self.quotas[replica].reserve(&self.id(workspace), &[demand]).await.unwrap() {
            Decision::Admitted(reservation) => Some(reservation),
            Decision::Refused(_) => None,
        }
    }

    /// Whether the first replica admits units for `other`. When its count of the cap has come past a workspace, something
    /// happens.
    async fn admits_while(&self, units: u64, past: &'static str, happens: impl AsyncFnOnce()) -> bool {
        *self.gate.at.lock().unwrap() = Some(past);
        let (reserved, ()) = tokio::join!(self.reserve(0, "other", units), async {
            until("the count waits", async || self.gate.waiting.load(Ordering::SeqCst) > 0).await;
            *self.gate.at.lock().unwrap() = None;
            happens().await;
            self.gate.turns.add_permits(100);
        });
        reserved.map(Reservation::void).is_some()
    }
}

async fn count(pool: &PgPool, workspace: &str) -> u64 {
    let count = query_scalar(r#"SELECT count(*) FROM "Segment" WHERE "workspaceId" = $1"#).bind(workspace);
    let rows: i64 = count.fetch_one(pool).await.unwrap();
    u64::try_from(rows).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_that_comes_below_a_cap_while_its_rows_are_counted_counts() {
    for comes_back in [false, true] {
        let host = Elsewhere::start().await;
        for workspace in ["root", "leaf", "other"] {
            host.limit(workspace).await;
        }
        host.configure("root", PolicyChange::new().cap("segments", Limit::of(5))).await;
        host.configure("other", PolicyChange::new().parent(host.id("root"))).await;
        if comes_back {
            host.configure("leaf", PolicyChange::new().parent(host.id("root"))).await;
        }
        let past = if comes_back { "leaf" } else { "root" };
        let admitted = host.admits_while(3, past, async || {
            if comes_back {
                host.configure("leaf", PolicyChange::new().parent(None)).await;
            }
            host.insert("leaf", 3).await;
            host.configure("leaf", PolicyChange::new().parent(host.id("root"))).await;
        });
        assert!(!admitted.await, "{comes_back}");
        for replica in 0..2 {
            assert!(host.reserve(replica, "other", 3).await.is_none(), "{comes_back}, {replica}");
            host.reserve(replica, "other", 2).await.unwrap().void();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_in_flight_before_a_cap_and_becomes_rows_while_they_are_counted_counts() {
    let host = Elsewhere::start().await;
    for workspace in ["root", "leaf", "other"] {
        host.limit(workspace).await;
    }
    host.configure("root", PolicyChange::new().cap("segments", Limit::of(5))).await;
    host.configure("other", PolicyChange::new().parent(host.id("root"))).await;
    let flying = host.reserve(1, "leaf", 2).await.unwrap();
    host.configure("leaf", PolicyChange::new().parent(host.id("root"))).await;
    let admitted = host.admits_while(4, "leaf", async || {
        host.insert("leaf", 2).await;
        flying.post();
        let rest = r#"SELECT coalesce(sum("granted" - "posted" - "returned"), 0)::bigint FROM "_tower_quota_lease"
                      WHERE "workspace" = 'leaf'"#;
        until("the ledger has heard", async || query_scalar::<_, i64>(rest).fetch_one(&host.books).await.unwrap() == 0)
            .await;
    });
    assert!(!admitted.await);
    for replica in 0..2 {
        assert!(host.reserve(replica, "other", 4).await.is_none(), "{replica}");
        host.reserve(replica, "other", 3).await.unwrap().void();
    }
}
