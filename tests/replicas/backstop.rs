//! The database's own guard, beside the layer: it refuses what is written around the layer, and never what was admitted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::runtime::{Builder, Runtime};
use tower_quota::{Backstop, Decision, Demand, EnforcementMode, PostgresStore, Quota, Reservation};

use crate::host::{Replica, catalog, create, create_somehow, database, fill, upsert, usage};
use crate::support::client::together;
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::random::{Random, seed};
use crate::support::until;

/// Replicas on a database of their own, whose table has a backstop.
fn guarded(replicas: usize) -> (String, Database, Vec<Replica>) {
    let url = shared().database();
    let mut database = database(&url);
    let replicas: Vec<_> = (0..replicas).map(|_| Replica::start(&url)).collect();
    database.run(usage(&replicas[0].pool).backstop(&catalog(), ["segments"]).unwrap().up().to_owned());
    (url, database, replicas)
}

/// A session around the layer.
struct Writer {
    runtime: Runtime,
    connection: PgConnection,
}

impl Writer {
    fn connect(url: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(PgConnection::connect(url)).unwrap();
        Self { runtime, connection }
    }

    fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let run = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.connection);
        self.runtime.block_on(run).map(drop)
    }

    #[track_caller]
    fn is_refused(&mut self, sql: &str) {
        let error = self.run(sql).expect_err(sql);
        assert!(Backstop::refused(&error), "{error}");
    }
}

fn rows(workspace: &str, rows: usize) -> String {
    format!(r#"INSERT INTO "Segment" SELECT gen_random_uuid()::text, '{workspace}' FROM generate_series(1, {rows})"#)
}

async fn insert(connection: &mut PgConnection, workspace: &str, count: usize) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(rows(workspace, count))).execute(connection).await.map(drop)
}

impl Replica {
    fn reserve(&self, workspace: &str, units: u64) -> Reservation {
        let workspace = self.quota.workspace(workspace).unwrap();
        let demand = Demand::new(self.quota.catalog().by_name("segments").unwrap().id(), units);
        match self.runtime.block_on(self.quota.reserve(&workspace, &[demand])).unwrap() {
            Decision::Admitted(reservation) => reservation,
            Decision::Refused(refusals) => panic!("{refusals:?}"),
        }
    }
}

/// Waits until idle units are back, and no more than so many are leased.
fn only_leased(database: &mut Database, workspace: &str, units: i64) {
    let leased = r#"SELECT coalesce(sum("leased"), 0)::bigint FROM "_tower_quota_key" WHERE "workspace" = $1"#;
    until("idle units are given back", || database.number(leased.to_owned(), workspace) == units);
}

#[test]
fn rows_of_admitted_requests_pass_whatever_happens_meanwhile() {
    let (url, mut database, replicas) = guarded(1);
    let replica = &replicas[0];
    let mut around = Writer::connect(&url);
    replica.set_limit("acme", 4);
    let reservation = replica.reserve("acme", 2);
    only_leased(&mut database, "acme", 2);
    around.run(&rows("acme", 2)).unwrap();
    // Its units are not for others.
    around.is_refused(&rows("acme", 1));
    replica.set_limit("acme", 1);
    // Nor does it wait for those who have the books.
    around.run(r#"BEGIN; SELECT FROM "_tower_quota_key" FOR UPDATE"#).unwrap();
    replica.runtime.block_on(async {
        let mut transaction = replica.pool.begin().await.unwrap();
        sqlx::raw_sql("SET LOCAL lock_timeout = '5s'").execute(&mut *transaction).await.unwrap();
        reservation.fence().hold(&mut *transaction).await.unwrap();
        for _ in 0..2 {
            insert(&mut transaction, "acme", 1).await.unwrap();
        }
        transaction.commit().await.unwrap();
    });
    around.run("ROLLBACK").unwrap();
    reservation.post();
    assert_eq!(database.rows("Segment", "acme"), 4);
    around.is_refused(&rows("acme", 1));
}

#[test]
fn what_a_handler_makes_beyond_its_units_is_held_against_the_limit() {
    let (url, mut database, replicas) = guarded(1);
    let replica = &replicas[0];
    replica.set_limit("acme", 3);
    replica.set_limit("closed", 0);
    let runtime = &replica.runtime;
    let one = replica.reserve("acme", 1);
    only_leased(&mut database, "acme", 1);
    let begin = async || {
        let mut transaction = replica.pool.begin().await.unwrap();
        // To hold it twice makes nothing of it.
        for _ in 0..2 {
            one.fence().hold(&mut *transaction).await.unwrap();
        }
        transaction
    };
    runtime.block_on(async {
        let mut transaction = begin().await;
        assert!(Backstop::refused(&insert(&mut transaction, "acme", 4).await.unwrap_err()));
        transaction.rollback().await.unwrap();

        let mut transaction = begin().await;
        for _ in 0..3 {
            let mut savepoint = transaction.begin().await.unwrap();
            insert(&mut savepoint, "acme", 3).await.unwrap();
            assert!(Backstop::refused(&insert(&mut savepoint, "acme", 1).await.unwrap_err()));
            savepoint.rollback().await.unwrap();
        }
        // The unit is of this key.
        let mut savepoint = transaction.begin().await.unwrap();
        assert!(Backstop::refused(&insert(&mut savepoint, "closed", 1).await.unwrap_err()));
        savepoint.rollback().await.unwrap();
        insert(&mut transaction, "acme", 1).await.unwrap();
        insert(&mut transaction, "acme", 2).await.unwrap();
        assert!(Backstop::refused(&insert(&mut transaction, "acme", 1).await.unwrap_err()));
        transaction.rollback().await.unwrap();

        let mut transaction = begin().await;
        insert(&mut transaction, "acme", 2).await.unwrap();
        transaction.commit().await.unwrap();
    });
    one.post();
    assert_eq!(database.rows("Segment", "acme"), 2);
    // Both rows are in the books, and neither is there twice.
    fill(&replicas, &mut database, "acme", 3);

    // The same by a count: the books don't know yet that the rows are gone.
    let mut around = Writer::connect(&url);
    around.run(&rows("gone", 2)).unwrap();
    replica.set_limit("gone", 3);
    let one = replica.reserve("gone", 1);
    only_leased(&mut database, "gone", 1);
    around.run(r#"DELETE FROM "Segment" WHERE "workspaceId" = 'gone'"#).unwrap();
    runtime.block_on(async {
        let mut transaction = replica.pool.begin().await.unwrap();
        one.fence().hold(&mut *transaction).await.unwrap();
        insert(&mut transaction, "gone", 3).await.unwrap();
        assert!(Backstop::refused(&insert(&mut transaction, "gone", 1).await.unwrap_err()));
    });
}

#[test]
fn two_reservations_of_one_transaction_add_up() {
    let (_url, mut database, replicas) = guarded(1);
    let replica = &replicas[0];
    replica.set_limit("acme", 3);
    let (first, second) = (replica.reserve("acme", 1), replica.reserve("acme", 2));
    replica.runtime.block_on(async {
        let mut transaction = replica.pool.begin().await.unwrap();
        for reservation in [&first, &second, &first] {
            reservation.fence().hold(&mut *transaction).await.unwrap();
        }
        insert(&mut transaction, "acme", 3).await.unwrap();
        assert!(Backstop::refused(&insert(&mut transaction, "acme", 1).await.unwrap_err()));
        transaction.rollback().await.unwrap();
        let mut transaction = replica.pool.begin().await.unwrap();
        first.fence().hold(&mut *transaction).await.unwrap();
        // Those of the other transaction are gone with it.
        assert!(Backstop::refused(&insert(&mut transaction, "acme", 2).await.unwrap_err()));
    });
    first.void();
    second.void();
    fill(&replicas, &mut database, "acme", 3);
}

/// `root` with a cap, `one` and `two` below it.
fn capped(url: &str, cap: u32) -> Writer {
    let mut around = Writer::connect(url);
    around
        .run(&format!(
            r#"INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt", "parent", "settings")
               VALUES (gen_random_uuid(), 'root', 1, now(), now(), NULL, '{{"caps": {{"segments": {cap}}}}}'),
                 (gen_random_uuid(), 'one', 1, now(), now(), 'root', '{{}}'),
                 (gen_random_uuid(), 'two', 1, now(), now(), 'root', '{{}}')"#
        ))
        .unwrap();
    around
}

const BOOKS_OF_ROOT: &str = "\u{1f}root";

#[test]
fn handlers_are_never_refused_at_a_cap() {
    let (url, mut database, replicas) = guarded(2);
    let mut around = capped(&url, 40);
    around.run(&rows("two", 3)).unwrap();
    let all = |database: &mut Database| database.rows("Segment", "one") + database.rows("Segment", "two");
    thread::scope(|scope| {
        for creator in 0..8 {
            let (replica, url) = (&replicas[creator % 2], url.as_str());
            let workspace = if creator < 4 { "one" } else { "two" };
            scope.spawn(move || {
                let (mut connection, mut around) = (replica.connect(), Writer::connect(url));
                loop {
                    let answer = create(&mut connection, workspace);
                    match answer.status {
                        201 => {}
                        429 if answer.json()["details"].get("reserved").is_none() => return,
                        429 => {}
                        _ => panic!("{answer}"),
                    }
                    if let Err(error) = around.run(&rows(workspace, 1)) {
                        assert!(Backstop::refused(&error), "{error}");
                    }
                }
            });
        }
    });
    assert_eq!(all(&mut database), 40);
    for workspace in ["one", "two", "root"] {
        around.is_refused(&rows(workspace, 1));
    }
    around.run(&deletion("one", 1)).unwrap();
    create(&mut replicas[0].connect(), "two").expect(201);
    for replica in &replicas {
        create(&mut replica.connect(), "one").refused(429, "QUOTA_EXCEEDED");
        assert_eq!(replica.refused.load(Ordering::Relaxed), 0, "the trigger refused what the layer admitted");
        assert_eq!(replica.quota.breaches(), 0);
    }
    assert_eq!(all(&mut database), 40);
}

#[test]
fn what_a_handler_makes_beyond_its_units_is_held_against_the_cap() {
    let (url, mut database, replicas) = guarded(1);
    let replica = &replicas[0];
    let mut around = capped(&url, 3);
    around.run(&rows("two", 2)).unwrap();
    let one = replica.reserve("one", 1);
    only_leased(&mut database, BOOKS_OF_ROOT, 1);
    around.is_refused(&rows("two", 1));
    replica.runtime.block_on(async {
        let mut transaction = replica.pool.begin().await.unwrap();
        one.fence().hold(&mut *transaction).await.unwrap();
        insert(&mut transaction, "one", 1).await.unwrap();
        assert!(Backstop::refused(&insert(&mut transaction, "one", 1).await.unwrap_err()));
    });
    // By a count: the books don't know yet that the rows are gone.
    around.run(&deletion("two", 2)).unwrap();
    replica.runtime.block_on(async {
        let mut transaction = replica.pool.begin().await.unwrap();
        one.fence().hold(&mut *transaction).await.unwrap();
        insert(&mut transaction, "one", 2).await.unwrap();
        insert(&mut transaction, "two", 1).await.unwrap();
        for workspace in ["one", "two"] {
            let mut savepoint = transaction.begin().await.unwrap();
            assert!(Backstop::refused(&insert(&mut savepoint, workspace, 1).await.unwrap_err()));
            savepoint.rollback().await.unwrap();
        }
        transaction.commit().await.unwrap();
    });
    one.post();
    around.is_refused(&rows("two", 1));
    around.run(&deletion("one", 1)).unwrap();
    until("there is room again", || around.run(&rows("two", 1)).is_ok());
    around.is_refused(&rows("two", 1));
}

#[test]
fn a_cap_holds_against_what_was_in_flight_before_it() {
    let (url, mut database, replicas) = guarded(1);
    let replica = &replicas[0];
    let before = replica.reserve("one", 2);
    only_leased(&mut database, "one", 2);
    let mut around = capped(&url, 3);
    around.is_refused(&rows("two", 2));
    around.run(&rows("two", 1)).unwrap();
    around.is_refused(&rows("two", 1));
    replica.runtime.block_on(async {
        let mut transaction = replica.pool.begin().await.unwrap();
        before.fence().hold(&mut *transaction).await.unwrap();
        insert(&mut transaction, "one", 2).await.unwrap();
        assert!(Backstop::refused(&insert(&mut transaction, "one", 1).await.unwrap_err()));
        transaction.rollback().await.unwrap();
        let mut transaction = replica.pool.begin().await.unwrap();
        before.fence().hold(&mut *transaction).await.unwrap();
        insert(&mut transaction, "one", 2).await.unwrap();
        transaction.commit().await.unwrap();
    });
    before.post();
    around.is_refused(&rows("two", 1));
    assert_eq!(database.rows("Segment", "one"), 2);
    around.run(&deletion("one", 1)).unwrap();
    until("there is room again", || around.run(&rows("two", 1)).is_ok());
    around.is_refused(&rows("one", 1));
}

#[test]
fn an_edit_may_make_its_row_anew() {
    let (url, mut database, replicas) = guarded(1);
    replicas[0].set_limit("acme", 1);
    let mut connection = replicas[0].connect();
    upsert(&mut connection, "acme", "common").expect(200);
    // The row is gone after the edit was admitted.
    let mut around = Writer::connect(&url);
    around.run(r#"BEGIN; DELETE FROM "Segment""#).unwrap();
    thread::scope(|scope| {
        let edit = scope.spawn(|| upsert(&mut connection, "acme", "common").status);
        let waits = r#"SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'INSERT%' AND $1 <> ''"#;
        until("the edit waits for the deletion", || database.number(waits.to_owned(), "acme") == 1);
        around.run("COMMIT").unwrap();
        assert_eq!(edit.join().unwrap(), 200);
    });
    assert_eq!(database.rows("Segment", "acme"), 1);
    around.is_refused(&rows("acme", 1));
}

#[test]
fn the_trigger_follows_the_layer_where_that_lets_pass() {
    let (url, mut database, replicas) = guarded(1);
    replicas[0].set_limit("acme", 1);
    let mut connection = replicas[0].connect();
    create(&mut connection, "acme").expect(201);
    replicas[0].quota.set_mode(EnforcementMode::Warn);
    create(&mut connection, "acme").expect(201);
    assert_eq!(database.rows("Segment", "acme"), 2);
    // Nobody looks at the request: it is written around the layer.
    replicas[0].quota.set_mode(EnforcementMode::Off);
    create(&mut connection, "acme").expect(409);
    assert_eq!(replicas[0].refused.load(Ordering::Relaxed), 1);
    Writer::connect(&url).is_refused(&rows("acme", 1));
}

#[test]
fn the_layer_knows_at_once_what_was_written_around_it() {
    let (url, mut database, replicas) = guarded(2);
    let mut around = Writer::connect(&url);
    replicas[0].set_limit("acme", 9);
    let mut connections: Vec<_> = replicas.iter().map(Replica::connect).collect();
    for connection in &mut connections {
        create(connection, "acme").expect(201);
    }
    // Units that are idle come back by themselves.
    until("there is room for it", || around.run(&rows("acme", 6)).is_ok());
    create(&mut connections[0], "acme").expect(201);
    for connection in &mut connections {
        create(connection, "acme").refused(429, "QUOTA_EXCEEDED");
    }
    assert_eq!(replicas.iter().map(|replica| replica.quota.breaches()).sum::<u64>(), 0);
    around.run(r#"DELETE FROM "Segment" WHERE "id" IN (SELECT "id" FROM "Segment" LIMIT 2)"#).unwrap();
    fill(&replicas, &mut database, "acme", 9);
}

/// What hosts do whose limits are kept by one process.
#[test]
fn it_agrees_with_a_ledger_in_memory() {
    let url = shared().database();
    let mut database = database(&url);
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let (refused, over) = runtime.block_on(async {
        let pool = PgPool::connect(&url).await.unwrap();
        let store = PostgresStore::connect(&url, &catalog()).await.unwrap();
        let usage = usage(&pool);
        sqlx::raw_sql(AssertSqlSafe(usage.backstop(&catalog(), ["segments"]).unwrap().up().to_owned()))
            .execute(&pool)
            .await
            .unwrap();
        let quota = Quota::builder(catalog()).store(store).usage(usage).build().unwrap();
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (quota, pool) = (quota.clone(), pool.clone());
            clients.spawn(async move {
                let acme = quota.workspace("acme").unwrap();
                let one = Demand::one(quota.catalog().by_name("segments").unwrap().id());
                loop {
                    let Decision::Admitted(reservation) = quota.reserve(&acme, &[one]).await.unwrap() else { return };
                    let mut transaction = pool.begin().await.unwrap();
                    reservation.fence().hold(&mut *transaction).await.unwrap();
                    insert(&mut transaction, "acme", 1).await.unwrap();
                    transaction.commit().await.unwrap();
                    reservation.post();
                }
            });
        }
        clients.join_all().await;
        let mut connection = pool.acquire().await.unwrap();
        let over = insert(&mut connection, "acme", 1).await.unwrap_err();
        (Backstop::refused(&over), over)
    });
    assert!(refused, "{over}");
    assert_eq!(database.rows("Segment", "acme"), 50);
}

#[test]
fn layer_and_trigger_never_disagree() {
    let (url, mut database, replicas) = guarded(3);
    database.watch("Segment");
    let seed = seed();
    let (mut admitted, mut around) = (0, 0);
    for (round, limit) in [20, 3, 100, 20, 7, 300].into_iter().enumerate() {
        let workspace = format!("round-{round}");
        replicas[round % 3].set_limit(&workspace, limit);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut looks = self::database(&url);
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    // From one snapshot: rows that the books don't allow.
                    let beyond = r#"SELECT (SELECT count(*) FROM "Segment" WHERE "workspaceId" = $1)
                        - coalesce(max("counted" + "posted" + "carried" + "leased"), 1000000)
                        FROM "_tower_quota_key" WHERE "workspace" = $1"#;
                    let beyond = looks.number(beyond.to_owned(), &workspace);
                    assert!(beyond <= 0, "{beyond} more rows than the books allow");
                    seen += 1;
                }
                seen
            });
            let made = together(31, seed, round, |number, random: &mut Random| match number {
                30 => {
                    for _ in 0..20 {
                        let lowered = random.below(usize::try_from(limit).unwrap() / 2);
                        replicas[0].set_limit(&workspace, limit - u32::try_from(lowered).unwrap());
                    }
                    (0, 0)
                }
                0..6 => (0, around_the_layer(&url, &workspace, random)),
                _ => (through_the_layer(&replicas[number % 3], &workspace, random), 0),
            });
            done.store(true, Ordering::Relaxed);
            for (through, by) in made {
                admitted += through;
                around += by;
            }
            println!("{admitted} rows through the layer, {around} around it, {} looks", looks.join().unwrap());
        });
        assert!(database.peak("Segment", &workspace) <= i64::from(limit));
        replicas[0].set_limit(&workspace, limit);
        for replica in &replicas {
            assert_eq!(replica.refused.load(Ordering::Relaxed), 0, "the trigger refused what the layer admitted");
            assert_eq!(replica.quota.breaches(), 0);
        }
        fill(&replicas, &mut database, &workspace, i64::from(limit));
        let mut writer = Writer::connect(&url);
        writer.is_refused(&rows(&workspace, 1));
        writer.run(&deletion(&workspace, 3)).unwrap();
        until("deleted rows make room", || writer.run(&rows(&workspace, 3)).is_ok());
        assert_eq!(database.peak("Segment", &workspace), i64::from(limit));
    }
    assert!(admitted > 0 && around > 0);
}

fn deletion(workspace: &str, rows: usize) -> String {
    format!(
        r#"DELETE FROM "Segment" WHERE "id" IN (
             SELECT "id" FROM "Segment" WHERE "workspaceId" = '{workspace}' ORDER BY random() LIMIT {rows}
             FOR UPDATE SKIP LOCKED)"#
    )
}

/// Rows made around the layer.
fn around_the_layer(url: &str, workspace: &str, random: &mut Random) -> usize {
    let mut writer = Writer::connect(url);
    let mut made = 0;
    for _ in 0..100 {
        let count = 1 + random.below(3);
        let insert = rows(workspace, count);
        let (sql, makes) = match random.below(9) {
            0 => (format!("BEGIN; {insert}; SELECT pg_sleep(0.002); COMMIT"), count),
            1 => (format!("BEGIN; {insert}; ROLLBACK"), 0),
            2 => (insert, count),
            _ => (deletion(workspace, count), 0),
        };
        match writer.run(&sql) {
            Ok(()) => made += makes,
            Err(error) => {
                assert!(Backstop::refused(&error), "{error}");
                writer.run("ROLLBACK").unwrap();
            }
        }
    }
    made
}

/// Rows made through the layer.
fn through_the_layer(replica: &Replica, workspace: &str, random: &mut Random) -> usize {
    let mut connection = replica.connect();
    let mut made = 0;
    for _ in 0..20 {
        if random.below(4) == 0 {
            upsert(&mut connection, workspace, &format!("{workspace} {}", random.below(6)));
            continue;
        }
        let answer = create_somehow(replica, &mut connection, workspace, random);
        made += usize::from(answer.is_some_and(|answer| answer.status == 201));
    }
    made
}
