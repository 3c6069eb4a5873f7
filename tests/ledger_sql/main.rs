//! The ledger's SQL functions do what their mirror does: the model and the simulation of the protocol speak of the real
//! thing. Caps on workspaces and all below them, and grace, are not in the mirror: see `tests/policy`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use sqlx::postgres::{PgConnection, PgListener, PgRow};
use sqlx::{AssertSqlSafe, Connection, FromRow, Row};
use tokio::runtime::{Builder, Runtime};
use tower_quota::{Limit, PostgresStore, ResourceCatalog, ResourceSpec};
use uuid::Uuid;

use authority::{Asker, Books, Count, Key, Lease, Notice, Outcome, Replica, Said};
use ledger::{Answer, Ask, Known, Totals};

#[path = "../../checks/src/authority.rs"]
#[allow(dead_code)]
mod authority;

#[path = "../support/mod.rs"]
mod support;

#[path = "../../src/ledger/lease.rs"]
#[allow(dead_code)]
mod lease;

/// Where the mirror looks for it.
mod ledger {
    pub(crate) use crate::lease::{Answer, Ask, Known, Totals};
}

const DEFAULT_LIMIT: u32 = 3;
const WORKSPACE: &str = "acme inc";
const RESOURCES: [(&str, &str, &str); 2] = [("cats", "maxCats", "Cat"), ("dogs", "maxDogs", "Dog")];
const REPLICAS: u128 = 2;
const LEASES: u128 = 8;

/// Each lease has its replica and its key.
fn replica_of(lease: u128) -> u128 {
    lease % REPLICAS
}

fn key_of(lease: u128) -> usize {
    usize::from(lease >= LEASES / 2)
}

#[derive(Debug, Clone)]
enum Op {
    Ask {
        lease: u128,
        ask: Ask,
        place: Place,
        beats: u64,
        replicas: u64,
    },
    Flush(Vec<(u128, Totals, bool, bool)>),
    Kill(u128),
    Settle(u128),
    Join(u128),
    Leave(u128),
    Beat(u128, u8),
    Bury(u128, bool),
    /// A transaction takes hold of a lease.
    Hold(u128),
    /// The transaction that holds leases ends.
    Release,
    /// The database is a copy of what it was.
    FailOver,
    Rows(usize, u64),
    Limit(usize, Option<i64>),
}

/// Where rows are counted.
#[derive(Debug, Clone, Copy)]
enum Place {
    Here,
    Elsewhere,
    /// Elsewhere, since the last time that this was called for.
    Counted(u64),
}

fn totals() -> impl Strategy<Value = Totals> {
    (0..5_u64, 0..5_u64, 0..3_u64, 0..3_u64).prop_map(|(posted, returned, edits, ended)| Totals {
        posted,
        returned,
        edits,
        edits_ended: ended.min(edits),
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    // The number is counted from the one before the last that was answered.
    let seq = prop_oneof![3 => Just(2_u64), 2 => 0..4_u64];
    let numbers = (seq, 0..4_u64, 0..3_u64, 0..5_u64);
    (totals(), numbers, any::<bool>()).prop_map(|(totals, (seq, need, more, spare), recount)| Ask {
        seq,
        totals,
        need,
        queued: need + more,
        spare,
        recount,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let place = prop_oneof![
        3 => Just(Place::Here),
        1 => Just(Place::Elsewhere),
        1 => (0..6_u64).prop_map(Place::Counted),
    ];
    let limit = prop_oneof![Just(None), Just(Some(-1)), (0..12_i64).prop_map(Some),];
    let said = (0..LEASES, totals(), any::<bool>(), any::<bool>());
    prop_oneof![
        12 => (0..LEASES, ask(), place, 0..3_u64, 0..4_u64)
            .prop_map(|(lease, ask, place, beats, replicas)| Op::Ask { lease, ask, place, beats, replicas }),
        // A replica tells of each of its leases once.
        5 => vec(said, 0..4).prop_map(|mut said| {
            said.sort_unstable_by_key(|(lease, ..)| *lease);
            said.dedup_by_key(|(lease, ..)| *lease);
            Op::Flush(said)
        }),
        1 => (0..LEASES).prop_map(Op::Kill),
        2 => (0..LEASES).prop_map(Op::Settle),
        1 => (0..REPLICAS).prop_map(Op::Join),
        1 => (0..REPLICAS).prop_map(Op::Leave),
        1 => (0..REPLICAS, prop_oneof![Just(1), Just(33), Just(66)]).prop_map(|(replica, times)| Op::Beat(replica, times)),
        1 => (0..REPLICAS, (0..4_u8).prop_map(|often| often > 0)).prop_map(|(replica, late)| Op::Bury(replica, late)),
        1 => (0..LEASES).prop_map(Op::Hold),
        1 => Just(Op::Release),
        1 => Just(Op::FailOver),
        3 => (0..RESOURCES.len(), 0..6_u64).prop_map(|(key, rows)| Op::Rows(key, rows)),
        2 => (0..RESOURCES.len(), limit).prop_map(|(key, limit)| Op::Limit(key, limit)),
    ]
}

/// The books, what is around them, and the same in the mirror.
struct Both {
    runtime: Arc<Runtime>,
    database: PgConnection,
    /// The session of a transaction that holds leases.
    holder: PgConnection,
    listener: PgListener,
    mirror: Mirror,
}

#[derive(Default)]
struct Mirror {
    books: Books<usize>,
    rows: [u64; RESOURCES.len()],
    limits: [Option<i64>; RESOURCES.len()],
    marks: BTreeMap<usize, (u64, u64)>,
    held: Vec<u128>,
    notices: Vec<Notice<usize>>,
}

fn number(units: u64) -> i64 {
    i64::try_from(units).unwrap()
}

fn units(row: &PgRow, column: &str) -> u64 {
    u64::try_from(row.get::<i64, _>(column)).unwrap()
}

impl Both {
    fn new(runtime: Arc<Runtime>) -> Self {
        let url = support::postgres::shared().database();
        let catalog = RESOURCES.iter().fold(ResourceCatalog::builder(), |catalog, (name, field, table)| {
            catalog.resource(ResourceSpec::new(*name, *field, Limit::of(DEFAULT_LIMIT)).table(*table))
        });
        let catalog = catalog.build().unwrap();
        let (database, holder, listener) = runtime.block_on(async {
            PostgresStore::connect(&url, &catalog).await.unwrap();
            let mut listener = PgListener::connect(&url).await.unwrap();
            listener.listen("_tower_quota").await.unwrap();
            (PgConnection::connect(&url).await.unwrap(), PgConnection::connect(&url).await.unwrap(), listener)
        });
        let mut both = Self { runtime, database, holder, listener, mirror: Mirror::default() };
        // A fail-over that takes no other server.
        both.run(
            r#"CREATE TABLE "Epoch" ("epoch" bigint NOT NULL); INSERT INTO "Epoch" VALUES (1);
               CREATE OR REPLACE FUNCTION "_tower_quota_epoch"() RETURNS bigint LANGUAGE sql STABLE
               AS 'SELECT "epoch" FROM "Epoch"'"#,
        );
        for (_, _, table) in RESOURCES {
            both.run(&format!(r#"CREATE TABLE "{table}" ("workspaceId" TEXT NOT NULL)"#));
        }
        both
    }

    fn run(&mut self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        self.runtime.block_on(sql.execute(&mut self.database)).unwrap();
    }

    /// The result of a function, each of whose arguments are numbers and ids.
    fn call<T: for<'r> FromRow<'r, PgRow> + Send + Unpin>(&mut self, sql: String) -> Vec<T> {
        let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut self.database);
        self.runtime.block_on(rows).unwrap()
    }

    fn begin_anew(&mut self) {
        self.release();
        self.run(
            r#"TRUNCATE "_tower_quota_replica", "_tower_quota_key", "_tower_quota_lease", "_tower_quota_ended",
               "Cat", "Dog", "WorkspaceQuota""#,
        );
        self.run(&format!(
            r#"INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt")
               VALUES ('{}', '{WORKSPACE}', 1, now(), now())"#,
            Uuid::from_u128(1)
        ));
        self.mirror = Mirror::default();
        for replica in 0..REPLICAS {
            self.apply(&Op::Join(replica));
        }
        self.notices();
        self.mirror.notices.clear();
    }

    fn release(&mut self) {
        self.runtime.block_on(sqlx::raw_sql("ROLLBACK").execute(&mut self.holder)).unwrap();
        self.mirror.held.clear();
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Ask { lease, ask, place, beats, replicas } => self.ask(*lease, ask, *place, *beats, *replicas),
            Op::Flush(said) => self.flush(said),
            Op::Kill(lease) => {
                self.call::<(Option<bool>,)>(format!("SELECT NULL::boolean FROM {}", on_leases("kill", *lease)));
                self.mirror.books.kill(*lease);
            }
            Op::Settle(lease) => {
                let [(settled,)] = self.call::<(i64,)>(format!("SELECT {}", on_leases("settle", *lease)))[..] else {
                    panic!("one row");
                };
                let held = self.mirror.held.contains(lease);
                let mirrored = if held { None } else { self.mirror.books.settle(*lease) };
                assert_eq!(settled, mirrored.map_or(0, number));
            }
            Op::Join(replica) => {
                self.run(&format!(
                    r#"INSERT INTO "_tower_quota_replica" ("id") VALUES ('{}') ON CONFLICT DO NOTHING"#,
                    Uuid::from_u128(*replica)
                ));
                self.mirror.books.join(*replica);
            }
            Op::Leave(replica) => {
                let id = Uuid::from_u128(*replica);
                self.run(&format!(
                    r#"DELETE FROM "_tower_quota_replica" WHERE "id" = '{id}'
                       AND NOT EXISTS (SELECT FROM "_tower_quota_lease" WHERE "replica" = '{id}')"#
                ));
                self.mirror.books.leave(*replica);
            }
            Op::Beat(replica, times) => {
                for _ in 0..*times {
                    self.run(&format!(r#"SELECT "_tower_quota_beat"('{}')"#, Uuid::from_u128(*replica)));
                    self.mirror.books.beat(*replica);
                }
            }
            Op::Bury(replica, late) => {
                let beats =
                    self.mirror.books.replicas.get(replica).map_or(0, |replica| replica.beats) + u64::from(*late);
                self.run(&format!(
                    r#"UPDATE "_tower_quota_replica" SET "live" = false WHERE "id" = '{}' AND "beats" = {beats}"#,
                    Uuid::from_u128(*replica)
                ));
                self.mirror.books.bury(*replica, beats);
            }
            Op::Hold(lease) => {
                let hold = sqlx::query(tower_quota::Fence::SQL).bind(vec![Uuid::from_u128(*lease)]).bind("");
                if self.mirror.held.is_empty() {
                    self.runtime.block_on(sqlx::raw_sql("BEGIN").execute(&mut self.holder)).unwrap();
                }
                let held = self.runtime.block_on(hold.execute(&mut self.holder)).unwrap();
                let live = self.mirror.books.leases.get(lease).is_some_and(|lease| lease.live);
                assert_eq!(held.rows_affected(), u64::from(live));
                if live {
                    self.mirror.held.push(*lease);
                } else if self.mirror.held.is_empty() {
                    self.release();
                }
            }
            Op::Release => self.release(),
            Op::FailOver => {
                self.release();
                self.run(r#"UPDATE "Epoch" SET "epoch" = "epoch" + 1"#);
                self.mirror.books.fail_over();
            }
            Op::Rows(key, rows) => {
                let (_, _, table) = RESOURCES[*key];
                self.run(&format!(
                    r#"DELETE FROM "{table}"; INSERT INTO "{table}" SELECT '{WORKSPACE}' FROM generate_series(1, {rows})"#
                ));
                self.mirror.rows[*key] = *rows;
            }
            Op::Limit(key, limit) => {
                let (_, field, _) = RESOURCES[*key];
                let value = limit.map_or_else(|| "NULL".to_owned(), |limit| limit.to_string());
                self.run(&format!(r#"UPDATE "WorkspaceQuota" SET "{field}" = {value}"#));
                self.mirror.limits[*key] = *limit;
            }
        }
        self.mirror.tell();
    }

    fn ask(&mut self, lease: u128, ask: &Ask, place: Place, beats: u64, replicas: u64) {
        let (replica, key) = (replica_of(lease), key_of(lease));
        let (resource, field, table) = RESOURCES[key];
        let asked = self.mirror.books.leases.get(&lease).map_or(0, |lease| lease.asked);
        let ask = &Ask { seq: (asked + ask.seq).saturating_sub(1), ..*ask };
        let limit = self.mirror.limits[key].map_or(Some(u64::from(DEFAULT_LIMIT)), |limit| u64::try_from(limit).ok());
        let count = match (place, self.mirror.marks.get(&key)) {
            (Place::Here, _) => Count::Here(self.mirror.rows[key]),
            (Place::Counted(rows), Some((posts, edits_ended))) => {
                Count::Since { posts: *posts, edits_ended: *edits_ended, rows }
            }
            _ => Count::Elsewhere,
        };
        let (mut rows, mut mark) = (None, (None, None));
        if let Count::Since { posts, edits_ended, rows: counted } = count {
            rows = Some(number(counted));
            mark = (Some(number(posts)), Some(number(edits_ended)));
        }
        let here = matches!(count, Count::Here(_));
        let bounded =
            format!(r#"SELECT count(*) FROM (SELECT FROM "{table}" WHERE "workspaceId" = $1 LIMIT $2) AS "some""#);
        let all = format!(r#"SELECT count(*) FROM "{table}" WHERE "workspaceId" = $1"#);
        let arguments = (1..=24).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ");
        let row = sqlx::query(AssertSqlSafe(format!(r#"SELECT * FROM "_tower_quota_ask"({arguments})"#)))
            .bind(Uuid::from_u128(lease))
            .bind(Uuid::from_u128(replica))
            .bind(number(beats))
            .bind(WORKSPACE)
            .bind(resource)
            .bind(number(ask.totals.posted))
            .bind(number(ask.totals.returned))
            .bind(number(ask.totals.edits))
            .bind(number(ask.totals.edits_ended))
            .bind(number(ask.seq))
            .bind(number(ask.need))
            .bind(number(ask.queued))
            .bind(number(ask.spare))
            .bind(number(replicas))
            .bind(ask.recount)
            .bind(field)
            .bind(i64::from(DEFAULT_LIMIT))
            .bind(here.then_some(bounded))
            .bind(here.then_some(all))
            .bind(rows)
            .bind(mark.0)
            .bind(mark.1)
            .bind(Vec::<String>::new())
            .bind(true)
            .fetch_one(&mut self.database);
        let row = self.runtime.block_on(row).unwrap();
        let asker = Asker { lease, replica, beats, key, replicas };
        let outcome = self.mirror.books.ask(&asker, ask, limit, count);
        assert_eq!(read(&row), outcome);
        if let Outcome::Count { posts, edits_ended } = outcome {
            self.mirror.marks.insert(key, (posts, edits_ended));
        }
    }

    fn flush(&mut self, said: &[(u128, Totals, bool, bool)]) {
        let numbers =
            |of: fn(&Totals) -> u64| said.iter().map(|(_, totals, ..)| number(of(totals))).collect::<Vec<_>>();
        let heard = sqlx::query_as::<_, (Uuid, i64, i64, bool)>(
            r#"SELECT * FROM "_tower_quota_flush"($1, $2, $3, $4, $5, $6, $7)"#,
        )
        .bind(said.iter().map(|(lease, ..)| Uuid::from_u128(*lease)).collect::<Vec<_>>())
        .bind(numbers(|totals| totals.posted))
        .bind(numbers(|totals| totals.returned))
        .bind(numbers(|totals| totals.edits))
        .bind(numbers(|totals| totals.edits_ended))
        .bind(said.iter().map(|(.., waiting, _)| *waiting).collect::<Vec<_>>())
        .bind(said.iter().map(|(.., ends)| *ends).collect::<Vec<_>>())
        .fetch_all(&mut self.database);
        let heard = self.runtime.block_on(heard).unwrap();
        let held = &self.mirror.held;
        let said = said.iter().map(|(lease, totals, waiting, ends)| Said {
            lease: *lease,
            totals: *totals,
            waiting: *waiting,
            ends: *ends,
            held: held.contains(lease),
        });
        let said: Vec<_> = said.collect();
        let mirrored = self.mirror.books.flush(&said).into_iter();
        let mirrored = mirrored
            .map(|heard| (Uuid::from_u128(heard.lease), number(heard.asked), number(heard.answer), heard.wanted));
        assert_eq!(heard, mirrored.collect::<Vec<_>>());
    }

    /// The books as they are in the database.
    fn books(&mut self) -> Books<usize> {
        let key_named = |resource: &str| RESOURCES.iter().position(|(name, ..)| *name == resource).unwrap();
        let mut books = Books::default();
        let mut table = |name: &str| {
            let sql = match name {
                "ended" => r#"SELECT * FROM "_tower_quota_ended""#.to_owned(),
                // What is of an earlier epoch is void, though it is there.
                _ => format!(r#"SELECT *, "epoch" = "_tower_quota_epoch"() AS "valid" FROM "_tower_quota_{name}""#),
            };
            let rows = sqlx::query(AssertSqlSafe(sql));
            self.runtime.block_on(rows.fetch_all(&mut self.database)).unwrap()
        };
        let id = |row: &PgRow, column: &str| row.get::<Uuid, _>(column).as_u128();
        let valid = |row: &PgRow| row.get::<bool, _>("valid");
        for row in table("replica") {
            books
                .replicas
                .insert(id(&row, "id"), Replica { beats: units(&row, "beats"), live: row.get("live") && valid(&row) });
        }
        for row in table("key") {
            let key = Key {
                counted: row
                    .get::<Option<i64>, _>("counted")
                    .filter(|_| valid(&row))
                    .map(|counted| u64::try_from(counted).unwrap()),
                posted: units(&row, "posted"),
                carried: units(&row, "carried"),
                leased: units(&row, "leased"),
                posts: units(&row, "posts"),
                edits: units(&row, "edits"),
                edits_ended: units(&row, "editsEnded"),
                claim: row.get::<Option<Uuid>, _>("claim").map(|claim| claim.as_u128()),
            };
            books.keys.insert(key_named(row.get("resource")), key);
        }
        for row in table("lease") {
            let lease = Lease {
                replica: id(&row, "replica"),
                key: key_named(row.get("resource")),
                live: row.get("live") && valid(&row),
                granted: units(&row, "granted"),
                totals: Totals {
                    posted: units(&row, "posted"),
                    returned: units(&row, "returned"),
                    edits: units(&row, "edits"),
                    edits_ended: units(&row, "editsEnded"),
                },
                asked: units(&row, "asked"),
                answer: units(&row, "answer"),
            };
            books.leases.insert(id(&row, "id"), lease);
        }
        for row in table("ended") {
            books.ended.insert(id(&row, "lease"), (id(&row, "replica"), units(&row, "beats")));
        }
        books
    }

    /// What the replicas were told since they were last asked.
    fn notices(&mut self) -> Vec<String> {
        self.run("NOTIFY _tower_quota, 'enough'");
        let mut notices = Vec::new();
        loop {
            let notice = self.runtime.block_on(self.listener.recv()).unwrap().payload().to_owned();
            match notice.as_str() {
                "enough" => return notices,
                limits if limits.starts_with("limits ") => {}
                _ => notices.push(notice),
            }
        }
    }
}

impl Mirror {
    /// A transaction tells the same thing once.
    fn tell(&mut self) {
        let mut told: Vec<Notice<usize>> = Vec::new();
        for notice in self.books.notices.drain(..) {
            if !told.contains(&notice) {
                told.push(notice);
            }
        }
        self.notices.extend(told);
    }
}

fn on_leases(function: &str, id: u128) -> String {
    format!(r#""_tower_quota_{function}"('{{{}}}')"#, Uuid::from_u128(id))
}

/// What the function says, in the mirror's words.
fn read(row: &PgRow) -> Outcome {
    let maybe = |column: &str| row.get::<Option<i64>, _>(column).map(|number| u64::try_from(number).unwrap());
    match row.get("verdict") {
        "dead" => Outcome::Dead,
        "count" => Outcome::Count { posts: units(row, "posts"), edits_ended: units(row, "edits_ended") },
        verdict => {
            let granted = units(row, "granted");
            assert_eq!(verdict == "granted", granted > 0);
            Outcome::Answer {
                answer: Answer {
                    granted,
                    waits: verdict == "blocked",
                    counted: row.get("counted"),
                    known: Known {
                        counted: maybe("rows").unwrap_or(0),
                        posted: units(row, "posted"),
                        reserved: units(row, "reserved"),
                        limit: u64::try_from(row.get::<i64, _>("limit")).ok(),
                    },
                },
                believed: maybe("believed"),
                breach: units(row, "breach"),
            }
        }
    }
}

#[test]
fn the_functions_do_what_their_mirror_does() {
    let runtime = Arc::new(Builder::new_current_thread().enable_all().build().unwrap());
    // The listener ends its session there.
    let _inside = runtime.enter();
    let both = RefCell::new(Both::new(Arc::clone(&runtime)));
    let config = ProptestConfig { cases: 200, ..ProptestConfig::default() };
    proptest!(config, |(ops in vec(op(), 1..60))| {
        let both = &mut *both.borrow_mut();
        both.begin_anew();
        for op in &ops {
            both.apply(op);
            let books = both.books();
            prop_assert_eq!(&books, &both.mirror.books, "after {:?}", op);
        }
        let told = both.mirror.notices.iter().map(|notice| match notice {
            Notice::Recall(key) => format!("recall {} {WORKSPACE}", RESOURCES[*key].0),
            Notice::Free(key) => format!("free {} {WORKSPACE}", RESOURCES[*key].0),
        });
        let told: Vec<_> = told.collect();
        prop_assert_eq!(both.notices(), told);
    });
}
