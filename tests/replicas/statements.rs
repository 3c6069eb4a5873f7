//! The statements that run often: how they are planned, and what they wait for.

use std::thread;

use tower_quota::Fence;

use crate::host::{Replica, database};
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::until;

const REPLICA: &str = "00000000-0000-0000-0000-000000000001";
const LEASE: &str = "00000000-0000-0000-0000-00000000000a";

/// A database with a lease that no process has.
fn with_a_lease() -> (String, Database) {
    let url = shared().database();
    let mut database = database(&url);
    // It makes the tables.
    drop(Replica::start(&url));
    database.run(format!(
        r#"INSERT INTO "_tower_quota_replica" ("id") VALUES ('{REPLICA}');
           INSERT INTO "_tower_quota_lease" ("id", "replica", "workspace", "resource")
           VALUES ('{LEASE}', '{REPLICA}', 'acme', 'segments')"#
    ));
    (url, database)
}

#[test]
fn a_fence_is_planned_once_and_finds_its_leases_by_their_index() {
    let (_, mut database) = with_a_lease();
    database.run(format!("PREPARE hold (uuid[], text) AS {}", Fence::SQL));
    for _ in 0..7 {
        database.run(format!("EXECUTE hold ('{{{LEASE}}}', '')"));
    }
    database.run(format!(
        "CREATE FUNCTION plan() RETURNS text LANGUAGE plpgsql AS $$
         DECLARE
           line text;
           plan text := '';
         BEGIN
           FOR line IN EXECUTE 'EXPLAIN EXECUTE hold (''{{{LEASE}}}'', '''')' LOOP
             plan := plan || line;
           END LOOP;
           RETURN plan;
         END $$"
    ));
    let planned_once = "SELECT generic_plans FROM pg_prepared_statements WHERE name = $1";
    assert!(database.number(planned_once.to_owned(), "hold") > 0);
    let by_index = "SELECT (plan() LIKE '%Index Scan%' AND plan() NOT LIKE '%' || $1 || '%')::int::bigint";
    assert_eq!(database.number(by_index.to_owned(), "Seq Scan"), 1);
}

#[test]
fn a_fence_that_had_to_wait_sees_what_became_of_its_lease() {
    let (url, mut database) = with_a_lease();
    let held = |url: &str| {
        let held = format!("SELECT count(*) FROM ({}) AS held", Fence::SQL.replace("$2", "''"));
        Database::postgres(url).number(held, &format!("{{{LEASE}}}"))
    };
    for (change, expected) in [(r#""asked" = 1"#, 1), (r#""live" = false"#, 0)] {
        let lock = format!(r#"BEGIN; SELECT FROM "_tower_quota_lease" WHERE "id" = '{LEASE}' FOR UPDATE"#);
        database.run(format!(r#"{lock}; UPDATE "_tower_quota_lease" SET {change}"#));
        thread::scope(|scope| {
            let held = scope.spawn(|| held(&url));
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = $1";
            let mut observer = Database::postgres(&url);
            until("the fence waits", || observer.number(waiting.to_owned(), "Lock") == 1);
            database.run("COMMIT".to_owned());
            assert_eq!(held.join().unwrap(), expected, "{change}");
        });
    }
}

/// Makes requests for units, and tells of each whether it waits for the disk.
fn waits_in(database: &mut Database) -> impl FnMut(u32, u32, u32, u32) -> bool {
    move |seq, posted, need, limit| {
        database.run(format!(
            r#"BEGIN;
               SELECT "_tower_quota_ask"('{LEASE}', '{REPLICA}', 0, 'acme', 'segments', {posted}, 0, 0, 0, {seq}, {need},
                 {need}, 0, 1, false, 'maxSegments', {limit}, 'SELECT count(*) FROM "Segment" WHERE $1 <> '''' LIMIT $2',
                 'SELECT count(*) FROM "Segment" WHERE $1 <> ''''', NULL, NULL, NULL, '{{}}', true)"#
        ));
        let waits = "SELECT (current_setting($1) <> 'off')::int::bigint";
        let on = database.number(waits.to_owned(), "synchronous_commit");
        database.run("COMMIT".to_owned());
        on == 1
    }
}

#[test]
fn a_refusal_that_says_nothing_new_does_not_wait_for_the_disk_and_all_else_does() {
    let (_, mut database) = with_a_lease();
    database.run("SET synchronous_commit = on".to_owned());
    let mut waits = waits_in(&mut database);
    assert!(waits(1, 0, 5, 0), "the first request");
    assert!(!waits(2, 0, 5, 0), "refused");
    assert!(waits(3, 0, 1, 1), "granted");
    assert!(!waits(4, 0, 2, 1), "refused");
    assert!(waits(5, 1, 5, 1), "refused, with a row that nobody knew of");
    assert!(!waits(6, 1, 5, 1), "refused");
    assert!(waits(0, 1, 0, 1), "nothing asked for");
    drop(waits);
    // Whatever the default is.
    database.run("SET synchronous_commit = off".to_owned());
    let mut waits = waits_in(&mut database);
    assert!(waits(7, 1, 1, 9), "granted");
    assert!(!waits(8, 1, 10, 9), "refused");
}
