//! Two replicas on one Postgres server, each with a recorder of its own.

use crate::support::exported::Recorder;
use crate::support::postgres::{Durability, Server, shared};
use crate::support::replica::{Replica, create, creation, database};
use crate::support::until;

const RESERVED: &str = r#"tower_quota_reserved_units{resource_type="segments"}"#;
const STRANDED: &str = r#"tower_quota_stranded_units{resource_type="segments"}"#;
const BREACHES: &str = r#"tower_quota_breach_rows_total{resource_type="segments"}"#;
const COUNTS: &str = r#"tower_quota_counts_total{resource_type="segments"}"#;

fn replica(url: &str) -> (Replica, Recorder) {
    let told = Recorder::new();
    (told.told_by(|| Replica::start(url)), told)
}

#[track_caller]
fn tells(told: &Recorder, series: &str, value: f64) {
    until(&format!("{series} {value}"), || told.value(series) == value);
}

#[test]
fn leases_are_those_of_each_replica() {
    let url = shared().database();
    drop(database(&url));
    let ((first, of_first), (second, of_second)) = (replica(&url), replica(&url));
    for workspace in ["a", "b", "c"] {
        create(&mut first.connect(), workspace).expect(201);
    }
    create(&mut second.connect(), "a").expect(201);
    tells(&of_first, "tower_quota_leases", 3.0);
    tells(&of_second, "tower_quota_leases", 1.0);
    tells(&of_first, "tower_quota_replicas", 2.0);
    tells(&of_second, "tower_quota_replicas", 2.0);
    // Each asked the ledger, which counts a key once, and then only where it has to.
    assert_eq!(of_first.value(COUNTS), 3.0);
    assert_eq!(of_first.value("tower_quota_leases_lost_total"), 0.0);
}

#[test]
fn a_replica_that_is_taken_for_dead_tells_what_it_lost() {
    let url = shared().database();
    let mut database = database(&url);
    let (alive, told) = replica(&url);
    create(&mut alive.connect(), "a").expect(201);
    create(&mut alive.connect(), "b").expect(201);
    tells(&told, "tower_quota_leases", 2.0);
    // As another would that has seen no sign of life of it.
    database.run(r#"UPDATE "_tower_quota_replica" SET "live" = false"#.to_owned());
    tells(&told, "tower_quota_leases_lost_total", 2.0);
    tells(&told, "tower_quota_leases", 0.0);
    // It comes back under another name.
    until("it goes on", || create(&mut alive.connect(), "a").status == 201);
    tells(&told, "tower_quota_leases", 1.0);
}

#[test]
fn units_that_nobody_tells_of_are_stranded_until_their_lease_has_ended() {
    let url = shared().database();
    let mut database = database(&url);
    let (replica, told) = replica(&url);
    let mut connection = replica.connect();
    connection.send_raw(&creation("a", "hang before")).unwrap();
    tells(&told, RESERVED, 1.0);
    assert_eq!(told.value(STRANDED), 0.0);
    // Nobody ends a lease while somebody has its row locked: not before we have seen it.
    database.run(r#"BEGIN; SELECT FROM "_tower_quota_lease" FOR UPDATE"#.to_owned());
    drop(connection);
    tells(&told, STRANDED, 1.0);
    database.run("ROLLBACK".to_owned());
    tells(&told, STRANDED, 0.0);
    tells(&told, RESERVED, 0.0);
    create(&mut replica.connect(), "a").expect(201);
}

#[test]
fn rows_beyond_the_books_are_a_breach() {
    let url = shared().database();
    let mut database = database(&url);
    let (replica, told) = replica(&url);
    replica.set_limit("a", 5);
    create(&mut replica.connect(), "a").expect(201);
    assert_eq!(told.value(BREACHES), 0.0);
    database.run(r#"INSERT INTO "Segment" SELECT 'x' || n, 'a' FROM generate_series(1, 20) n"#.to_owned());
    let workspace = replica.quota.workspace("a").unwrap();
    replica.runtime.block_on(replica.quota.recount(&workspace)).unwrap();
    let breaches = told.value(BREACHES);
    assert!((16.0..=20.0).contains(&breaches), "of 21 rows no more than 5 were allowed: {breaches}");
    assert_eq!(breaches, replica.quota.breaches() as f64);
    assert_eq!(told.value(r#"tower_quota_drift_rows_total{resource_type="segments",direction="more"}"#), 20.0);
}

#[test]
fn a_ledger_that_does_not_answer_is_told() {
    let server = Server::start(Durability::None);
    let url = server.database();
    drop(database(&url));
    let (replica, told) = replica(&url);
    create(&mut replica.connect(), "a").expect(201);
    let failures = || {
        let exported = told.exported();
        let of = |kind| exported.value(&format!(r#"tower_quota_errors_total{{source="ledger",kind="{kind}"}}"#));
        of("failure") + of("timeout")
    };
    assert_eq!(failures(), 0.0);
    server.stop();
    // Without any request, too: signs of life fail.
    until("it is told", || failures() > 0.0);
}
