//! A database that comes late, is damaged, or fails over to a copy that has lost commits.

use std::sync::atomic::Ordering;

use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Runtime;
use tower_quota::{Demand, PostgresLedger, PostgresStore, PostgresUsage, Quota, SqlTable};

use crate::host::{Replica, catalog, create, creation, database, fill, start};
use crate::support::postgres::{Durability, Server, shared};
use crate::support::until;

const WAITING: usize = 5;

#[test]
fn units_from_before_make_no_rows() {
    let server = Server::start(Durability::None);
    let url = server.database();
    let (replicas, mut connections) = start(&url, 2);
    database(&url);
    for connection in &mut connections {
        create(connection, "acme").expect(201);
    }
    server.copy();
    // Of all this the copy knows nothing: neither of the rows, nor of the units.
    for turn in 0..20 {
        create(&mut connections[turn % 2], "acme").expect(201);
    }
    let mut late: Vec<_> = (0..WAITING).map(|_| replicas[0].connect()).collect();
    for connection in &mut late {
        connection.send_raw(&creation("acme", "wait")).unwrap();
    }
    until("all are admitted", || replicas[0].gate.waiting.load(Ordering::Relaxed) == WAITING);
    server.fail_over();
    let mut database = database(&url);
    assert_eq!(database.rows("Segment", "acme"), 2);

    // Sessions with the server of before are broken, and handlers fail until they are replaced.
    for replica in &replicas {
        until("it serves again", || {
            let mut connection = replica.connect();
            connection.send_raw(&creation("acme", "done")).unwrap();
            connection.read().is_ok_and(|answer| answer.status == 201)
        });
    }
    fill(&replicas[1..], &mut database, "acme", 50);
    replicas[0].gate.turns.add_permits(WAITING);
    for connection in &mut late {
        assert_eq!(connection.read().unwrap().status, 503);
    }
    assert_eq!(database.rows("Segment", "acme"), 50);
    assert_eq!(replicas.iter().map(|replica| replica.quota.breaches()).sum::<u64>(), 0);

    database.run(r#"DELETE FROM "Segment" WHERE "id" IN (SELECT "id" FROM "Segment" LIMIT 7)"#.to_owned());
    fill(&replicas, &mut database, "acme", 50);
}

#[test]
fn a_replica_may_start_before_its_database() {
    let server = Server::start(Durability::Full);
    let url = server.database();
    database(&url);
    server.stop();
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let store = PostgresStore::connect_lazy(&url, &catalog()).unwrap();
    let rows = PgPoolOptions::new().connect_lazy(&url).unwrap();
    let usage = PostgresUsage::builder(rows, &catalog()).table("segments", SqlTable::new("Segment")).build().unwrap();
    let ledger = PostgresLedger::new(&store).fenced();
    let quota = Quota::builder(catalog()).store(store).usage(usage).ledger(ledger).build().unwrap();
    let acme = quota.workspace("acme").unwrap();
    let one = [Demand::one(quota.catalog().by_name("segments").unwrap().id())];
    let error = runtime.block_on(quota.reserve(&acme, &one)).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    server.start_again();
    until("it serves", || runtime.block_on(quota.reserve(&acme, &one)).is_ok());
}

#[test]
fn a_ledger_that_is_gone_is_told() {
    let url = shared().database();
    let mut database = database(&url);
    let replica = Replica::start(&url);
    let acme = replica.quota.workspace("acme").unwrap();
    let one = [Demand::one(replica.quota.catalog().by_name("segments").unwrap().id())];
    for damage in [r#"DROP TABLE "_tower_quota_ended" CASCADE"#, r#"DROP FUNCTION "_tower_quota_open" CASCADE"#] {
        database.run(damage.to_owned());
        let error = replica.runtime.block_on(replica.quota.reserve(&acme, &one)).unwrap_err();
        assert!(error.is_unavailable() && error.to_string().contains("restore them"), "{error}");
    }
}
