//! A database that has no connections to give, that ends transactions which are in each other's way, or that sees less
//! than others.

use crate::fleet::{Addresses, Storm, Weather, all_can_be_used, limit, start, start_one, waiting};
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::quickstart::{Quickstart, create};
use crate::support::random::seed;
use crate::support::until;

#[track_caller]
fn all_serve_again(servers: &[Quickstart], workspace: &str) {
    for (at, server) in servers.iter().enumerate() {
        let mut connection = server.connect();
        until("it serves again", || match create(&mut connection, workspace, &format!("again {at}")).status {
            201 => true,
            500 | 503 => false,
            status => panic!("{status}"),
        });
    }
}

#[test]
fn without_a_connection_to_be_had_nobody_is_told_that_the_limit_is_reached() {
    const LIMIT: i64 = 1000;
    let url = shared().database();
    let mut database = Database::postgres(&url);
    let role = "without_connections";
    database.run(format!("CREATE ROLE {role} LOGIN"));
    database.run(format!("DO 'BEGIN EXECUTE format($$ALTER DATABASE %I OWNER TO {role}$$, current_database()); END'"));
    let theirs = url.replace("//postgres@", &format!("//{role}@"));
    let servers = [(); 2].map(|()| start_one(&theirs));
    limit(&servers[0], "acme", LIMIT);
    Database::postgres(&theirs).watch("Segment");
    create(&mut servers[0].connect(), "acme", "before").expect(201);
    database.run(format!("ALTER ROLE {role} CONNECTION LIMIT 0"));
    database.run(format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"));
    let storm = Storm { workspace: "acme", connections: 24, weather: Weather::Faults, seed: seed(), round: 0 };
    let tally = storm.rage(&Addresses::of(&servers), |answered| answered.wait_for(48));
    assert!(tally.keys().all(|status| [500, 503].contains(status)), "{tally:?}");
    database.run(format!("ALTER ROLE {role} CONNECTION LIMIT -1"));
    all_serve_again(&servers, "acme");
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
}

#[test]
fn when_all_connections_of_a_process_are_busy_nobody_is_told_that_the_limit_is_reached() {
    const LIMIT: i64 = 1000;
    let url = shared().database();
    let (servers, mut database) = start(&url, 2);
    limit(&servers[0], "acme", LIMIT);
    let mut holder = Database::postgres(&url);
    let storm = Storm { workspace: "acme", connections: 48, weather: Weather::Faults, seed: seed(), round: 0 };
    let tally = storm.rage(&Addresses::of(&servers), |answered| {
        answered.wait_for_more(100);
        holder.run(r#"BEGIN; LOCK TABLE "Segment" IN SHARE ROW EXCLUSIVE MODE"#.to_owned());
        until("all connections wait", || waiting(&mut database, r#"%"Segment"%"#) == 32);
        answered.wait_for_more(96);
        holder.run("ROLLBACK".to_owned());
        answered.wait_for_more(100);
    });
    assert!(tally.contains_key(&500) && !tally.contains_key(&429), "{tally:?}");
    all_serve_again(&servers, "acme");
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
}

fn at_an_isolation_of(level: &str) {
    const LIMIT: i64 = 30;
    let url = shared().database();
    Database::postgres(&url).run(format!(
        "DO 'BEGIN EXECUTE format($$ALTER DATABASE %I SET default_transaction_isolation = ''{level}''$$, \
         current_database()); END'"
    ));
    let (servers, mut database) = start(&url, 3);
    limit(&servers[0], "acme", LIMIT);
    let storm = Storm { workspace: "acme", connections: 24, weather: Weather::Faults, seed: seed(), round: 0 };
    let tally = storm.rage(&Addresses::of(&servers), |answered| answered.wait_for(1000));
    assert!(tally[&201] > 0 && tally[&204] > 0, "{tally:?}");
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
}

#[test]
fn repeatable_reads_by_default_are_exact() {
    at_an_isolation_of("repeatable read");
}

#[test]
fn serializable_transactions_by_default_are_exact() {
    at_an_isolation_of("serializable");
}
