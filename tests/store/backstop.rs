//! Rows that are written around the layer, against the triggers that a migration makes.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;
use tower_quota::{
    Backstop, Expect, Limit, PostgresStore, PostgresUsage, QuotaStore, ResourceCatalog, ResourceSpec, SqlTable,
};

use crate::postgres::{number, pool, run};
use crate::support::postgres::shared;
use crate::{limits, workspace};

/// Rows that are archived don't count.
const TABLES: &str = r#"
CREATE TABLE "Segment" (
  "id" bigint GENERATED ALWAYS AS IDENTITY, "workspaceId" text, "name" text UNIQUE, "archived" boolean DEFAULT false);
CREATE INDEX "byWorkspace" ON "Segment" ("workspaceId");
"#;

const FILTER: &str = r#"NOT "Segment"."archived""#;

struct Host {
    url: String,
    pool: PgPool,
    store: PostgresStore,
}

fn catalog(limit: Limit) -> ResourceCatalog {
    ResourceCatalog::empty().resource(ResourceSpec::new("segments", "maxSegments", limit)).build().unwrap()
}

fn backstop_of(pool: &PgPool, table: SqlTable, limit: Limit) -> Backstop {
    let catalog = catalog(limit);
    let usage = PostgresUsage::builder(pool.clone(), &catalog).table("segments", table).build().unwrap();
    usage.backstop(&catalog, ["segments"]).unwrap()
}

/// Of one of several types that are all in the same table.
fn backstop_of_all(pool: &PgPool, catalog: &ResourceCatalog, resource: &str) -> Backstop {
    let tables = catalog.iter().map(|resource| (resource.name(), SqlTable::new("Segment")));
    let usage = PostgresUsage::builder(pool.clone(), catalog).tables(tables).build().unwrap();
    usage.backstop(catalog, [resource]).unwrap()
}

impl Host {
    /// With a backstop of segments.
    async fn start(limit: u32) -> Self {
        let url = shared().database();
        let pool = pool(&url).await;
        run(&pool, TABLES).await;
        let limit = Limit::of(limit);
        let store = PostgresStore::connect(&url, &catalog(limit)).await.unwrap();
        run(&pool, backstop_of(&pool, SqlTable::new("Segment").filter(FILTER), limit).up()).await;
        Self { url, pool, store }
    }

    async fn set_limit(&self, workspace_id: &str, limit: Limit) {
        let changes = limits(&catalog(limit), &[("maxSegments", limit)]);
        self.store.update(&workspace(workspace_id), &changes, &Expect::Anything).await.unwrap();
    }

    async fn rows(&self) -> i64 {
        number(&self.pool, r#"SELECT count(*) FROM "Segment" WHERE NOT "archived""#).await
    }

    /// What the books say there may be at most.
    async fn bound(&self) -> i64 {
        number(&self.pool, r#"SELECT sum("counted" + "posted" + "carried" + "leased")::bigint FROM "_tower_quota_key""#)
            .await
    }

    #[track_caller]
    fn admits(&self, sql: &str) -> impl Future<Output = ()> {
        let attempt = attempt(self.pool.clone(), sql.to_owned());
        async move { attempt.await.unwrap() }
    }

    async fn refuses(&self, sql: &str) -> sqlx::Error {
        let error = attempt(self.pool.clone(), sql.to_owned()).await.expect_err(sql);
        assert!(Backstop::refused(&error), "{sql}: {error}");
        error
    }
}

async fn attempt(pool: PgPool, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await.map(drop)
}

fn insert(workspace_id: &str, rows: usize) -> String {
    format!(r#"INSERT INTO "Segment" ("workspaceId") SELECT '{workspace_id}' FROM generate_series(1, {rows})"#)
}

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().unwrap().code().unwrap().into_owned()
}

#[tokio::test]
async fn rows_are_refused_above_the_limit_however_they_are_inserted() {
    let host = Host::start(3).await;
    host.admits(r#"INSERT INTO "Segment" ("workspaceId", "name") VALUES ('acme', 'a'), ('acme', 'b')"#).await;
    host.refuses(&insert("acme", 2)).await;
    assert_eq!((host.rows().await, host.bound().await), (2, 2));
    host.admits(&insert("acme", 1)).await;
    let merge = r#"MERGE INTO "Segment" AS s USING (VALUES ('acme', 'm')) AS v(w, n) ON s."name" = v.n
        WHEN NOT MATCHED THEN INSERT ("workspaceId", "name") VALUES (v.w, v.n)"#;
    let common_table = r#"WITH a AS (INSERT INTO "Segment" ("workspaceId") VALUES ('other') RETURNING 1),
        b AS (INSERT INTO "Segment" ("workspaceId") VALUES ('acme') RETURNING 1) SELECT"#;
    let conflict = r#"INSERT INTO "Segment" ("workspaceId", "name") VALUES ('acme', 'c') ON CONFLICT ("name")"#;
    for sql in [
        &insert("acme", 1),
        merge,
        common_table,
        &format!("{conflict} DO NOTHING"),
        &format!(r#"{conflict} DO UPDATE SET "workspaceId" = 'acme'"#),
        // One of them is too many, and so none is made.
        r#"INSERT INTO "Segment" ("workspaceId") VALUES ('other'), ('acme'), ('third')"#,
    ] {
        host.refuses(sql).await;
    }
    let mut connection = host.pool.acquire().await.unwrap();
    let mut copy = connection.copy_in_raw(r#"COPY "Segment" ("workspaceId") FROM STDIN"#).await.unwrap();
    copy.send("acme\n".as_bytes()).await.unwrap();
    assert!(Backstop::refused(&copy.finish().await.unwrap_err()));
    assert_eq!(host.rows().await, 3);

    // What makes no row that counts is no concern of it.
    for sql in [
        r#"INSERT INTO "Segment" ("workspaceId", "name") VALUES ('acme', 'a') ON CONFLICT ("name") DO NOTHING"#,
        r#"INSERT INTO "Segment" ("workspaceId", "name") VALUES ('acme', 'a')
           ON CONFLICT ("name") DO UPDATE SET "archived" = false"#,
        r#"INSERT INTO "Segment" ("workspaceId", "archived") VALUES ('acme', true), (NULL, false)"#,
        r#"UPDATE "Segment" SET "name" = 'z' WHERE "name" = 'a'"#,
    ] {
        host.admits(sql).await;
    }
    // And other workspaces have limits of their own.
    host.admits(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('x'), ('other'), ('x'), ('third'), ('other'), ('x')"#)
        .await;
    host.refuses(&insert("x", 1)).await;
    host.admits(&insert("other", 1)).await;
}

#[tokio::test]
async fn a_refusal_says_what_is_in_the_way() {
    let host = Host::start(2).await;
    host.admits(&insert("acme inc", 2)).await;
    let error = host.refuses(&insert("acme inc", 1)).await;
    let error = error.as_database_error().unwrap().downcast_ref::<sqlx::postgres::PgDatabaseError>();
    assert_eq!(error.code(), "53400");
    assert_eq!(error.constraint(), Some("_tower_quota_segments"));
    assert_eq!((error.table(), error.schema()), (Some("Segment"), Some("public")));
    assert_eq!(error.message(), r#"the limit of 2 segments in workspace "acme inc" is reached"#);
    assert!(error.detail().unwrap().contains("at least 3"), "{:?}", error.detail());
    assert!(error.hint().unwrap().contains("Delete rows, or raise the limit"), "{:?}", error.hint());
    // Limits of Postgres itself have the same code.
    let other = "DO $$ BEGIN RAISE EXCEPTION 'temporary files' USING ERRCODE = '53400'; END $$";
    assert!(!Backstop::refused(&attempt(host.pool.clone(), other.to_owned()).await.unwrap_err()));
}

#[tokio::test]
async fn deleted_rows_make_room() {
    let host = Host::start(3).await;
    for rows in [1, 2] {
        host.admits(&insert("acme", rows)).await;
    }
    host.admits(r#"DELETE FROM "Segment" WHERE "id" IN (SELECT "id" FROM "Segment" LIMIT 2)"#).await;
    host.refuses(&insert("acme", 3)).await;
    host.admits(&insert("acme", 2)).await;
    assert_eq!((host.rows().await, host.bound().await), (3, 3));
    // In the same transaction, too.
    host.admits(&format!(r#"BEGIN; DELETE FROM "Segment"; {}; COMMIT"#, insert("acme", 3))).await;
    host.refuses(&insert("acme", 1)).await;
    assert_eq!((host.rows().await, host.bound().await), (3, 3));
    // Rows that are counted elsewhere, meanwhile, find it by that.
    assert_eq!(number(&host.pool, r#"SELECT "posts" FROM "_tower_quota_key""#).await, 8);
}

#[tokio::test]
async fn a_row_that_is_being_edited_keeps_its_place() {
    let host = Host::start(2).await;
    host.admits(&insert("acme", 2)).await;
    // As a replica says it.
    host.admits(r#"UPDATE "_tower_quota_key" SET "edits" = 1"#).await;
    host.refuses(&insert("acme", 1)).await;
    host.admits(r#"DELETE FROM "Segment" WHERE "id" = 1"#).await;
    host.refuses(&insert("acme", 1)).await;
    // The other one that is gone isn't edited.
    host.admits(r#"DELETE FROM "Segment""#).await;
    host.refuses(&insert("acme", 2)).await;
    host.admits(&insert("acme", 1)).await;
    assert_eq!((host.rows().await, host.bound().await), (1, 2));
    host.admits(r#"UPDATE "_tower_quota_key" SET "edits" = 0, "editsEnded" = 1"#).await;
    host.admits(&insert("acme", 1)).await;
    assert_eq!((host.rows().await, host.bound().await), (2, 2));
}

#[tokio::test]
async fn what_is_rolled_back_is_given_back() {
    let host = Host::start(4).await;
    let mut connection = PgConnection::connect(&host.url).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let two = insert("acme", 2);
    let run = async |connection: &mut PgConnection, sql: &str| {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await
    };
    run(&mut transaction, &two).await.unwrap();
    for _ in 0..3 {
        let mut savepoint = transaction.begin().await.unwrap();
        run(&mut savepoint, &two).await.unwrap();
        assert!(Backstop::refused(&run(&mut savepoint, &two).await.unwrap_err()));
        savepoint.rollback().await.unwrap();
    }
    transaction.rollback().await.unwrap();
    assert_eq!(number(&host.pool, r#"SELECT count(*) FROM "_tower_quota_key""#).await, 0);

    let mut transaction = connection.begin().await.unwrap();
    let mut savepoint = transaction.begin().await.unwrap();
    run(&mut savepoint, &two).await.unwrap();
    savepoint.commit().await.unwrap();
    transaction.commit().await.unwrap();
    host.admits(&two).await;
    host.refuses(&insert("acme", 1)).await;
    assert_eq!((host.rows().await, host.bound().await), (4, 4));
}

#[tokio::test]
async fn limits_are_those_in_force() {
    let host = Host::start(1).await;
    host.admits(&insert("acme", 1)).await;
    host.refuses(&insert("acme", 1)).await;
    host.set_limit("acme", Limit::of(3)).await;
    host.admits(&insert("acme", 2)).await;
    host.refuses(&insert("acme", 1)).await;
    host.set_limit("acme", Limit::Unlimited).await;
    host.admits(&insert("acme", 20)).await;
    // Rows that were made without a limit are in the books.
    host.set_limit("acme", Limit::of(22)).await;
    host.refuses(&insert("acme", 1)).await;
    host.set_limit("acme", Limit::of(5)).await;
    host.refuses(&insert("acme", 1)).await;
    host.set_limit("acme", Limit::finite(Limit::MAX).unwrap()).await;
    host.admits(&insert("acme", 1)).await;
    host.set_limit("new", Limit::finite(Limit::MAX).unwrap()).await;
    host.admits(&insert("new", 1)).await;
    host.set_limit("closed", Limit::of(0)).await;
    host.refuses(&insert("closed", 1)).await;
    host.set_limit("acme", Limit::of(0)).await;
    host.refuses(&insert("acme", 1)).await;
    assert_eq!(host.rows().await, 25);

    let unlimited = Host::start(0).await;
    unlimited.refuses(&insert("acme", 1)).await;
    run(&unlimited.pool, backstop_of(&unlimited.pool, SqlTable::new("Segment"), Limit::Unlimited).up()).await;
    unlimited.admits(&insert("acme", 9)).await;
}

/// Inserts row after row over 16 connections until each is refused, and tells how many were made.
async fn storm(host: &Host, level: &'static str, limit: usize) -> usize {
    let pool = PgPoolOptions::new().max_connections(16).connect(&host.url).await.unwrap();
    let pool = Arc::new(pool);
    let mut writers = JoinSet::new();
    for _ in 0..16 {
        let pool = Arc::clone(&pool);
        writers.spawn(async move {
            let mut made = 0;
            loop {
                let insert = async {
                    let mut transaction = pool.begin_with(level).await?;
                    sqlx::query(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('acme')"#)
                        .execute(&mut *transaction)
                        .await?;
                    transaction.commit().await
                };
                match insert.await {
                    Ok(()) => {
                        made += 1;
                        assert!(made <= limit, "too many rows");
                    }
                    Err(error) if Backstop::refused(&error) => return made,
                    Err(error) => assert_eq!(code(&error), "40001", "{error}"),
                }
            }
        });
    }
    writers.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_connections_store_exactly_as_many_rows_as_the_limit_says() {
    for level in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE"] {
        for limit in [1, 7, 100] {
            let host = Host::start(limit).await;
            let made = storm(&host, level, usize::try_from(limit).unwrap()).await;
            assert_eq!((made, host.rows().await), (usize::try_from(limit).unwrap(), i64::from(limit)), "{level}");
            assert_eq!(host.bound().await, i64::from(limit));
        }
    }
}

#[tokio::test]
async fn an_old_snapshot_is_an_error_and_never_a_row_too_many() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let host = Host::start(2).await;
        let mut connection = PgConnection::connect(&host.url).await.unwrap();
        let begin = format!(r#"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM "Segment""#);
        // Rows that others made since, on books that it saw, or that were not there yet.
        for made in [1, 1] {
            run_on(&mut connection, &begin).await.unwrap();
            host.admits(&insert("acme", made)).await;
            assert_eq!(code(&run_on(&mut connection, &insert("acme", 1)).await.unwrap_err()), "40001");
            run_on(&mut connection, "ROLLBACK").await.unwrap();
        }
        // Limits that were lowered since: the first time, and again.
        for limit in [1, 0] {
            run_on(&mut connection, &begin).await.unwrap();
            host.set_limit("other", Limit::of(limit)).await;
            assert_eq!(code(&run_on(&mut connection, &insert("other", 1)).await.unwrap_err()), "40001");
            run_on(&mut connection, "ROLLBACK").await.unwrap();
        }
        // Where nothing has changed, it is admitted and refused as others are.
        run_on(&mut connection, &format!("{begin}; {}; COMMIT", insert("third", 2))).await.unwrap();
        run_on(&mut connection, &begin).await.unwrap();
        assert!(Backstop::refused(&run_on(&mut connection, &insert("third", 1)).await.unwrap_err()));
        run_on(&mut connection, "ROLLBACK").await.unwrap();
        assert_eq!(host.rows().await, 4);
    }
}

async fn run_on(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
}

#[tokio::test]
async fn a_limit_waits_for_an_old_snapshot_that_goes_by_the_one_before() {
    let host = Host::start(2).await;
    let mut connection = PgConnection::connect(&host.url).await.unwrap();
    run_on(&mut connection, &format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}", insert("acme", 1))).await.unwrap();
    let lower = tokio::spawn({
        let store = PostgresStore::connect(&host.url, &catalog(Limit::of(2))).await.unwrap();
        async move {
            let changes = limits(&catalog(Limit::of(2)), &[("maxSegments", Limit::of(1))]);
            store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap()
        }
    });
    let waits = r#"SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%"WorkspaceQuota"%'"#;
    while number(&host.pool, waits).await == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    run_on(&mut connection, &format!("{}; COMMIT", insert("acme", 1))).await.unwrap();
    lower.await.unwrap();
    assert_eq!(host.rows().await, 2);
}

/// `root` with a cap, and, below it, workspaces with none of their own.
async fn capped(host: &Host, cap: u32, below: &[&str]) {
    host.admits(&record("root", None, Some(cap))).await;
    for workspace_id in below {
        host.admits(&record(workspace_id, Some("root"), None)).await;
    }
}

fn record(workspace_id: &str, parent: Option<&str>, cap: Option<u32>) -> String {
    let parent = parent.map_or("NULL".to_owned(), |parent| format!("'{parent}'"));
    let settings = cap.map_or("{}".to_owned(), |cap| format!(r#"{{"caps": {{"segments": {cap}}}}}"#));
    format!(
        r#"INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt", "parent", "settings")
           VALUES (gen_random_uuid(), '{workspace_id}', 1, now(), now(), {parent}, '{settings}')
           ON CONFLICT ("workspaceId") DO UPDATE SET "parent" = excluded."parent", "settings" = excluded."settings""#
    )
}

#[tokio::test]
async fn a_cap_is_filled_from_all_below_it() {
    let host = Host::start(4).await;
    capped(&host, 5, &["one", "two"]).await;
    host.admits(&insert("one", 2)).await;
    host.admits(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('two'), ('elsewhere'), ('root')"#).await;
    let error = host.refuses(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('two'), ('one')"#).await;
    let error = error.as_database_error().unwrap();
    assert_eq!(error.message(), r#"the cap of 5 segments on workspace "root" and all below it is reached"#);
    assert_eq!(error.constraint(), Some("_tower_quota_segments"));
    host.admits(&insert("two", 1)).await;
    for workspace_id in ["one", "two", "root"] {
        host.refuses(&insert(workspace_id, 1)).await;
    }
    assert_eq!(host.rows().await, 6);
    // Who isn't below it has the own limit, as all have.
    host.admits(&insert("elsewhere", 3)).await;
    host.refuses(&insert("elsewhere", 1)).await;
    host.admits(r#"DELETE FROM "Segment" WHERE "workspaceId" <> 'one'"#).await;
    host.refuses(&insert("one", 3)).await;
    host.admits(&insert("one", 2)).await;
    host.admits(&insert("two", 1)).await;
    host.refuses(&insert("two", 1)).await;

    // The nearest is one of several, and what comes from elsewhere brings its rows along.
    host.admits(&record("leaf", Some("two"), None)).await;
    host.admits(&record("two", Some("root"), Some(2))).await;
    host.admits(&record("root", None, Some(9))).await;
    host.admits(&insert("leaf", 1)).await;
    let error = host.refuses(&insert("leaf", 1)).await;
    assert!(error.to_string().contains(r#"cap of 2 segments on workspace "two""#), "{error}");
    host.admits(&insert("elsewhere", 2)).await;
    host.admits(&record("elsewhere", Some("root"), None)).await;
    host.refuses(&insert("root", 2)).await;
    host.admits(&insert("root", 1)).await;
    host.refuses(&insert("root", 1)).await;
    host.admits(&record("root", None, None)).await;
    host.admits(&insert("root", 3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_writes_for_several_below_a_cap_never_deadlocks_and_never_exceeds_it() {
    const CAP: u32 = 100;
    let host = Host::start(1000).await;
    capped(&host, CAP, &["one", "two", "~three"]).await;
    host.admits(&record("~three", Some("two"), Some(1000))).await;
    let pool = PgPoolOptions::new().max_connections(8).connect(&host.url).await.unwrap();
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let values = ["('one'), ('two'), ('~three')", "('~three'), ('two'), ('one')", "('root'), ('one')", "('two')"];
        let insert = format!(r#"INSERT INTO "Segment" ("workspaceId") VALUES {}"#, values[writer % 4]);
        let level = if writer < 5 { "READ COMMITTED" } else { "REPEATABLE READ" };
        let sql = format!("BEGIN ISOLATION LEVEL {level}; {insert}; COMMIT");
        let pool = pool.clone();
        writers.spawn(async move {
            loop {
                let mut connection = pool.acquire().await.unwrap();
                match run_on(&mut connection, &sql).await {
                    Ok(()) => continue,
                    Err(error) if Backstop::refused(&error) => {
                        run_on(&mut connection, "ROLLBACK").await.unwrap();
                        return;
                    }
                    Err(error) => assert_eq!(code(&error), "40001", "{error}"),
                }
                run_on(&mut connection, "ROLLBACK").await.unwrap();
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    assert_eq!(host.rows().await, i64::from(CAP));
    host.refuses(&insert("root", 1)).await;
}

#[tokio::test]
async fn rows_wait_for_a_workspace_that_moves_below_a_cap() {
    for (moves, writes) in [("full", "child"), ("new", "new"), ("parent", "new")] {
        let host = Host::start(9).await;
        capped(&host, 3, &["child"]).await;
        host.admits(&insert("full", 3)).await;
        for workspace_id in ["full", "parent"] {
            host.admits(&record(workspace_id, None, None)).await;
        }
        host.admits(&record("new", Some("parent"), None)).await;
        let mut mover = PgConnection::connect(&host.url).await.unwrap();
        // Nobody has opened any books there.
        if moves != "full" {
            host.admits(&record("full", Some("root"), None)).await;
        }
        run_on(&mut mover, &format!("BEGIN; {}", record(moves, Some("root"), None))).await.unwrap();
        let writer = tokio::spawn(attempt(host.pool.clone(), insert(writes, 1)));
        let waits = r#"SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%"Segment"%'"#;
        while number(&host.pool, waits).await == 0 {
            assert!(!writer.is_finished(), "{writes} doesn't wait for {moves}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        run_on(&mut mover, "COMMIT").await.unwrap();
        let error = writer.await.unwrap().unwrap_err();
        assert!(Backstop::refused(&error), "{error}");
    }
}

#[tokio::test]
async fn who_writes_rows_needs_no_rights_on_the_books_and_gets_none() {
    let host = Host::start(2).await;
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&host.pool).await.unwrap();
    let role = format!("{database}_writer");
    // It doesn't even see the rows that there are.
    run(
        &host.pool,
        &format!(
            r#"CREATE ROLE "{role}" LOGIN; GRANT INSERT ON "Segment" TO "{role}"; GRANT CREATE ON SCHEMA public TO "{role}";
               ALTER TABLE "Segment" ENABLE ROW LEVEL SECURITY;
               CREATE POLICY writes ON "Segment" FOR INSERT WITH CHECK (true)"#
        ),
    )
    .await;
    let writer = pool(&shared().url_of(&role, &database)).await;
    attempt(writer.clone(), insert("acme", 2)).await.unwrap();
    // Nor does a table of its own stand in for the books.
    let hidden = format!(
        r#"BEGIN; CREATE TEMP TABLE "_tower_quota_key" ("workspace" text, "resource" text); {}; COMMIT"#,
        insert("acme", 1)
    );
    assert!(Backstop::refused(&attempt(writer.clone(), hidden).await.unwrap_err()));
    // What stands in a trigger is run with the rights of the books' owner.
    let own = r#"CREATE TABLE "Mine" ("workspaceId" text);
        CREATE TRIGGER "mine" AFTER INSERT ON "Mine" REFERENCING NEW TABLE AS "_tower_quota_new" FOR EACH STATEMENT
        EXECUTE FUNCTION "_tower_quota_backstop"('segments', 'workspaceId', 'text', 'true', 'maxSegments', '5')"#;
    assert_eq!(code(&attempt(writer, own.to_owned()).await.unwrap_err()), "42501");
    assert_eq!(host.rows().await, 2);
}

#[tokio::test]
async fn it_comes_and_goes() {
    let host = Host::start(1).await;
    let backstop = backstop_of(&host.pool, SqlTable::new("Segment"), Limit::of(2));
    // In the place of the one that there is.
    for _ in 0..2 {
        run(&host.pool, backstop.up()).await;
    }
    host.admits(&insert("acme", 2)).await;
    host.refuses(&insert("acme", 1)).await;
    for _ in 0..2 {
        run(&host.pool, backstop.down()).await;
    }
    host.admits(&insert("acme", 5)).await;
    // What was written meanwhile is found by the first count.
    run(&host.pool, backstop.up()).await;
    host.refuses(&insert("acme", 1)).await;
    host.admits(r#"DELETE FROM "Segment" WHERE "id" > 2"#).await;
    host.refuses(&insert("acme", 2)).await;
}

#[tokio::test]
async fn two_types_of_one_table_of_uuids_in_a_schema_of_the_hosts_own() {
    let url = shared().database();
    let owner = pool(&url).await;
    run(
        &owner,
        r#"CREATE SCHEMA "app's"; CREATE TABLE "app's"."Resource" ("workspaceId" uuid, "kind" text);
           DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, %I', current_database(), 'app''s'); END $$"#,
    )
    .await;
    let host = pool(&url).await;
    let kinds = [("cats", r#""kind" = 'it''s a \ cat'"#), ("dogs", r#""Resource"."kind" ~ '^\w{3}%s$'"#)];
    let catalog = ResourceCatalog::empty()
        .resource(ResourceSpec::new("cats", "maxCats", Limit::of(2)))
        .resource(ResourceSpec::new("dogs", "maxDogs", Limit::of(1)))
        .build()
        .unwrap();
    let tables = kinds.map(|(name, filter)| (name, SqlTable::new("Resource").workspace_type("uuid").filter(filter)));
    let usage = PostgresUsage::builder(host.clone(), &catalog).tables(tables).build().unwrap();
    PostgresStore::new(host.clone(), &catalog).await.unwrap();
    run(&host, usage.backstop(&catalog, ["cats", "dogs"]).unwrap().up()).await;
    let acme = "0190163d-8694-739b-aea5-966c26f8ad91";
    let rows = |kind: &str, rows| {
        let kind = kind.replace('\'', "''");
        format!(r#"INSERT INTO "app's"."Resource" SELECT '{acme}', '{kind}' FROM generate_series(1, {rows})"#)
    };
    // Whatever the path of the writer.
    run(&host, &format!("SET search_path = nowhere; {}; RESET search_path", rows(r"it's a \ cat", 2))).await;
    run(&host, &rows("dog%s", 1)).await;
    run(&host, &rows("fish", 9)).await;
    for kind in [r"it's a \ cat", "dog%s"] {
        let error = attempt(host.clone(), rows(kind, 1)).await.unwrap_err();
        assert!(Backstop::refused(&error), "{error}");
    }
}

#[tokio::test]
async fn mistakes_show_before_a_row_is_written() {
    let host = Host::start(1).await;
    let other = ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(1)))
        .resource(ResourceSpec::new("webhooks", "maxWebhooks", Limit::of(1)))
        .resource(ResourceSpec::new("a".repeat(51), "maxLong", Limit::of(1)).table("Long"))
        .build()
        .unwrap();
    let usage = PostgresUsage::builder(host.pool.clone(), &other)
        .table("segments", SqlTable::new("Segment"))
        .without("webhooks")
        .build()
        .unwrap();
    let long = "a".repeat(51);
    for (resources, says) in [
        (vec![], "segments, webhooks"),
        (vec!["segments", "sgements"], "unknown resource type"),
        (vec!["webhooks"], "without a table"),
        (vec![long.as_str()], "at most 50 letters"),
    ] {
        let error = usage.backstop(&other, resources).unwrap_err();
        assert!(error.is_config() && error.message().contains(says), "{error}");
    }
    // What only the database can tell, it tells when the triggers are made.
    for table in [
        SqlTable::new("Sgement"),
        SqlTable::new("Segment").workspace_column("ws"),
        SqlTable::new("Segment").filter("archvied"),
        SqlTable::new("Segment").filter("\"archived\" = $1"),
        SqlTable::new("Segment").workspace_type("uuid"),
    ] {
        let backstop = backstop_of(&host.pool, table.clone(), Limit::of(1));
        assert!(attempt(host.pool.clone(), backstop.up().to_owned()).await.is_err(), "{table:?}");
    }
    // The store was opened without that resource type.
    let later = backstop_of_all(&host.pool, &other, "webhooks");
    let error = attempt(host.pool.clone(), later.up().to_owned()).await.unwrap_err();
    assert!(error.to_string().contains("maxWebhooks"), "{error}");
    // Who owns the books may not count the rows.
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&host.pool).await.unwrap();
    let role = format!("{database}_owner");
    run(
        &host.pool,
        &format!(
            r#"CREATE ROLE "{role}"; GRANT CREATE ON SCHEMA public TO "{role}";
               ALTER FUNCTION "_tower_quota_backstop"() OWNER TO "{role}";
               GRANT SELECT ON "WorkspaceQuota" TO "{role}""#
        ),
    )
    .await;
    let backstop = backstop_of(&host.pool, SqlTable::new("Segment"), Limit::of(1));
    let denied = attempt(host.pool.clone(), backstop.up().to_owned()).await.unwrap_err();
    assert_eq!(code(&denied), "42501", "{denied}");
    run(&host.pool, &format!(r#"GRANT SELECT ON "Segment" TO "{role}""#)).await;
    run(&host.pool, backstop.up()).await;

    let bare = pool(&shared().database()).await;
    run(&bare, TABLES).await;
    let backstop = backstop_of(&bare, SqlTable::new("Segment"), Limit::of(1));
    let error = attempt(bare, backstop.up().to_owned()).await.unwrap_err();
    assert!(error.to_string().contains("_tower_quota_backstop"), "{error}");
    assert!(backstop.up().contains("The tables of its PostgresStore must be there"));
}
