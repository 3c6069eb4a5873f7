//! Processes that make rows, and tell of them.

use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, SqlitePool, query};
use tempfile::TempDir;
use tower_quota::{
    Actor, Admin, Decision, Delivery, DeliveryFilter, DeliveryRetries, DeliveryStatus, Demand, EmailOptions, Endpoint,
    EndpointChange, EnforcementMode, Error, Limit, LimitSet, PostgresLedger, PostgresStore, PostgresUsage, Quota,
    QuotaBuilder, ResourceCatalog, ResourceSpec, SqliteStore, SqliteUsage, Thresholds, WebhookOptions, WebhookSecret,
    WorkspaceId,
};

use crate::support::postgres::shared;
use crate::support::receiver::Receiver;

pub(crate) struct Host {
    quotas: Vec<Quota>,
    place: Place,
    email: Option<EmailOptions>,
    contacts: Option<&'static [&'static str]>,
}

enum Place {
    Sqlite(SqlitePool, #[expect(dead_code, reason = "it goes with the test")] TempDir),
    Postgres(PgPool, String),
}

/// One test on SQLite and on two replicas.
macro_rules! both {
    ($name:ident, $host:ident, $test:block) => {
        mod $name {
            use super::*;

            async fn test($host: Host) $test

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                test(Host::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                test(Host::postgres().await).await;
            }
        }
    };
}
pub(crate) use both;

pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn catalog() -> ResourceCatalog {
    let segments = ResourceSpec::new("segments", "maxSegments", Limit::of(1000)).label("Segment").table("Segment");
    ResourceCatalog::empty().resource(segments).build().unwrap()
}

impl Host {
    /// How often a delivery is tried.
    pub(crate) const TRIES: u32 = 5;

    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(directory.path().join("host.db")).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(Duration::from_secs(20));
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
        Self { quotas: Vec::new(), place: Place::Sqlite(pool, directory), email: None, contacts: None }.made().await
    }

    pub(crate) async fn postgres() -> Self {
        let url = shared().database();
        let pool = PgPool::connect(&url).await.unwrap();
        Self { quotas: Vec::new(), place: Place::Postgres(pool, url), email: None, contacts: None }.made().await
    }

    async fn made(self) -> Self {
        self.run(r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL)"#.to_owned()).await;
        self.restarted().await
    }

    /// The same processes, begun anew on what they have left. What they were at is not ended in any order.
    pub(crate) async fn restarted(self) -> Self {
        self.restarted_in(EnforcementMode::Enforce).await
    }

    /// The same, in another mode.
    pub(crate) async fn restarted_in(mut self, mode: EnforcementMode) -> Self {
        self.quotas.clear();
        let (email, contacts) = (self.email.clone(), self.contacts);
        let built = |builder: QuotaBuilder| {
            let webhooks = WebhookOptions::new().allow_networks(["127.0.0.0/8"]).timeout(Duration::from_secs(1));
            let retries =
                DeliveryRetries::default().first(Duration::from_millis(20)).longest(Duration::from_millis(50));
            let builder = builder
                .webhooks(webhooks)
                .delivery_retries(retries.tries(Self::TRIES))
                .mode(mode)
                .thresholds(Thresholds::default().min_interval(Duration::ZERO));
            let builder = match email.clone() {
                Some(email) => builder.email(email),
                None => builder,
            };
            let builder = match contacts {
                Some(emails) => builder.contacts(move |_| async move {
                    Ok::<_, Error>(emails.iter().map(|&email| email.to_owned()).collect())
                }),
                None => builder,
            };
            builder.build().unwrap()
        };
        match &self.place {
            Place::Sqlite(pool, _) => {
                let mut store = None;
                until("the file is free", async || {
                    store = SqliteStore::new(pool.clone(), &catalog()).await.ok();
                    store.is_some()
                })
                .await;
                let usage = SqliteUsage::builder(pool.clone(), &catalog()).build().unwrap();
                self.quotas.push(built(Quota::builder(catalog()).store(store.unwrap()).usage(usage)));
            }
            Place::Postgres(pool, url) => {
                for _ in 0..2 {
                    let store = PostgresStore::connect(url, &catalog()).await.unwrap();
                    let ledger = PostgresLedger::new(&store).fenced();
                    let usage = PostgresUsage::builder(pool.clone(), &catalog()).build().unwrap();
                    self.quotas.push(built(Quota::builder(catalog()).store(store).usage(usage).ledger(ledger)));
                }
            }
        }
        self
    }

    /// The same, in order.
    pub(crate) async fn rolled(self) -> Self {
        for quota in &self.quotas {
            quota.shutdown(Duration::from_secs(10)).await.unwrap();
        }
        self.restarted().await
    }

    pub(crate) async fn with_email(mut self, options: EmailOptions) -> Self {
        self.email = Some(options);
        self.restarted().await
    }

    pub(crate) async fn with_contacts(mut self, contacts: &'static [&'static str]) -> Self {
        self.contacts = Some(contacts);
        self.restarted().await
    }

    pub(crate) fn replicas(&self) -> usize {
        self.quotas.len()
    }

    pub(crate) fn quota(&self, replica: usize) -> &Quota {
        &self.quotas[replica]
    }

    pub(crate) fn admin(&self) -> Admin {
        self.quotas[0].admin(Actor::library())
    }

    pub(crate) fn mode(&self, mode: EnforcementMode) {
        self.quotas.iter().for_each(|quota| quota.set_mode(mode));
    }

    /// Limits of a plan, or changes of a workspace's.
    pub(crate) fn limits(&self, limit: Limit) -> LimitSet {
        [(self.quotas[0].catalog().by_name("segments").unwrap().id(), limit)].into_iter().collect()
    }

    pub(crate) fn workspace(&self, name: &str) -> WorkspaceId {
        self.quotas[0].workspace(name).unwrap()
    }

    pub(crate) async fn endpoint(&self, receiver: &Receiver, change: EndpointChange) -> (Endpoint, WebhookSecret) {
        self.quotas[0].admin(Actor::library()).add_endpoint(None, &receiver.url, change, None).await.unwrap()
    }

    pub(crate) async fn limit(&self, workspace: &str, limit: Limit) {
        let changes = self.limits(limit);
        let expect = tower_quota::Expect::Anything;
        self.quotas[0].update_limits(&self.workspace(workspace), &changes, &expect).await.unwrap();
    }

    /// Makes rows in one request.
    pub(crate) async fn create(&self, replica: usize, workspace: &str, rows: u64) {
        let quota = self.quota(replica);
        let segments = quota.catalog().by_name("segments").unwrap().id();
        let id = self.workspace(workspace);
        let Decision::Admitted(reservation) = quota.reserve(&id, &[Demand::new(segments, rows)]).await.unwrap() else {
            panic!("{rows} rows are refused");
        };
        // The fence of a replica is of no interest here: nobody dies.
        self.insert(workspace, rows).await;
        reservation.post();
    }

    /// Rows that no request makes.
    pub(crate) async fn insert(&self, workspace: &str, rows: u64) {
        let values = vec![format!("('{workspace}')"); usize::try_from(rows).unwrap()].join(", ");
        self.run(format!(r#"INSERT INTO "Segment" ("workspaceId") VALUES {values}"#)).await;
    }

    pub(crate) async fn delete(&self, workspace: &str, rows: u64) {
        let row = match &self.place {
            Place::Sqlite(..) => "rowid",
            Place::Postgres(..) => "ctid",
        };
        self.run(format!(
            r#"DELETE FROM "Segment" WHERE {row} IN (SELECT {row} FROM "Segment" WHERE "workspaceId" = '{workspace}' LIMIT {rows})"#
        ))
        .await;
    }

    /// So many days go by for the deliveries.
    pub(crate) async fn days_later(&self, days: u64) {
        let time = days * 24 * 3600 * 1000;
        self.run(format!(r#"UPDATE "QuotaDelivery" SET "nextAt" = "nextAt" - {time}"#)).await;
        self.run(format!(r#"UPDATE "QuotaNotice" SET "at" = "at" - {time}"#)).await;
    }

    /// How many notices there are.
    pub(crate) async fn notices(&self) -> i64 {
        let count = r#"SELECT count(*) FROM "QuotaNotice""#;
        match &self.place {
            Place::Sqlite(pool, _) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
            Place::Postgres(pool, _) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
        }
    }

    /// A snapshot of long ago.
    pub(crate) async fn remember(&self, workspace: &str) {
        self.run(format!(
            r#"INSERT INTO "QuotaSnapshot"
("workspaceId", "resourceType", "start", "granularity", "at", "last", "min", "max", "limit", "refusals")
VALUES ('{workspace}', 'segments', 0, 'day', 0, 1, 1, 1, 1, 0)"#
        ))
        .await;
    }

    /// How many thresholds and snapshots of long ago are kept of a workspace.
    pub(crate) async fn kept_of(&self, workspace: &str) -> i64 {
        let count = |table, of| format!(r#"(SELECT count(*) FROM "{table}" WHERE "workspaceId" = '{workspace}'{of})"#);
        let old = count("QuotaSnapshot", r#" AND "start" = 0"#);
        let sum = AssertSqlSafe(format!("SELECT {} + {old}", count("QuotaThreshold", "")));
        match &self.place {
            Place::Sqlite(pool, _) => sqlx::query_scalar(sum).fetch_one(pool).await.unwrap(),
            Place::Postgres(pool, _) => sqlx::query_scalar(sum).fetch_one(pool).await.unwrap(),
        }
    }

    /// Whether any threshold of the workspace is marked as reached.
    pub(crate) async fn reached(&self, workspace: &str) -> bool {
        let marks = format!(r#"SELECT "marks" FROM "QuotaThreshold" WHERE "workspaceId" = '{workspace}'"#);
        let marks = match &self.place {
            Place::Sqlite(pool, _) => sqlx::query_scalar::<_, String>(AssertSqlSafe(marks)).fetch_one(pool).await,
            Place::Postgres(pool, _) => sqlx::query_scalar::<_, String>(AssertSqlSafe(marks)).fetch_one(pool).await,
        };
        marks.unwrap().contains("true")
    }

    /// How many deliveries are pending, and dead.
    pub(crate) async fn outbox(&self) -> (u64, u64) {
        self.quotas[0].outbox_depth().await.unwrap()
    }

    pub(crate) async fn deliveries(&self, status: Option<DeliveryStatus>) -> Vec<Delivery> {
        let mut filter = DeliveryFilter::default();
        (filter.status, filter.limit) = (status, 100);
        self.quotas[0].deliveries(&filter).await.unwrap().deliveries
    }

    /// Whether the audit log takes entries.
    pub(crate) async fn audit_takes(&self, entries: bool) {
        let sql = match (&self.place, entries) {
            (Place::Sqlite(..), false) => {
                r#"CREATE TRIGGER deaf BEFORE INSERT ON "QuotaAudit" BEGIN SELECT RAISE(ABORT, 'deaf'); END"#
            }
            (Place::Sqlite(..), true) => "DROP TRIGGER deaf",
            (Place::Postgres(..), false) => r#"ALTER TABLE "QuotaAudit" ADD CONSTRAINT deaf CHECK (false) NOT VALID"#,
            (Place::Postgres(..), true) => r#"ALTER TABLE "QuotaAudit" DROP CONSTRAINT deaf"#,
        };
        self.run(sql.to_owned()).await;
    }

    /// Refuses statements that delete more than 1000 deliveries or notices.
    pub(crate) async fn no_large_deletions(&self) {
        let refuse = r#"CREATE FUNCTION large() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF (SELECT count(*) FROM gone) > 1000 THEN RAISE 'too many at once'; END IF;
                 RETURN NULL;
               END $$;
               CREATE TRIGGER large AFTER DELETE ON "QuotaDelivery" REFERENCING OLD TABLE AS gone
               FOR EACH STATEMENT EXECUTE FUNCTION large();
               CREATE TRIGGER large AFTER DELETE ON "QuotaNotice" REFERENCING OLD TABLE AS gone
               FOR EACH STATEMENT EXECUTE FUNCTION large()"#;
        sqlx::raw_sql(refuse).execute(&mut self.session().await).await.unwrap();
    }

    /// A session of its own on Postgres.
    pub(crate) async fn session(&self) -> PgConnection {
        let Place::Postgres(_, url) = &self.place else { panic!("this is SQLite") };
        PgConnection::connect(url).await.unwrap()
    }

    async fn run(&self, sql: String) {
        match &self.place {
            Place::Sqlite(pool, _) => query(AssertSqlSafe(sql)).execute(pool).await.map(drop),
            Place::Postgres(pool, _) => query(AssertSqlSafe(sql)).execute(pool).await.map(drop),
        }
        .unwrap();
    }
}

/// How many sessions wait for a lock.
pub(crate) async fn waiting(session: &mut PgConnection) -> usize {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(session).await.unwrap();
    usize::try_from(waiting).unwrap()
}

/// Makes the `COMMIT`s wait of all who change deliveries, as long as it is held.
pub(crate) struct Gate(PgConnection);

impl Gate {
    pub(crate) async fn hold(host: &Host, change: &str, when: &str) -> Self {
        let mut connection = host.session().await;
        let hold = format!(
            r#"CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock_shared(10);
                 RETURN NULL;
               END $$;
               CREATE CONSTRAINT TRIGGER held AFTER {change} ON "QuotaDelivery" DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION held();
               SELECT pg_advisory_lock(10)"#
        );
        sqlx::raw_sql(AssertSqlSafe(hold)).execute(&mut connection).await.unwrap();
        Self(connection)
    }

    /// How many sessions wait for a lock.
    pub(crate) async fn waiting(&mut self) -> usize {
        waiting(&mut self.0).await
    }

    pub(crate) async fn open(mut self) {
        query("SELECT pg_advisory_unlock(10)").execute(&mut self.0).await.unwrap();
    }
}
