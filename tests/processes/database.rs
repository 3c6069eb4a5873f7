//! A database that has no connections to give, that ends transactions which are in each other's way, or that sees less
//! than others.

use crate::fleet::{
    Addresses, Storm, Weather, all_can_be_used, all_serve_again, limit, send, start, start_one, waiting,
};
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::quickstart::create;
use crate::support::random::seed;
use crate::support::until;

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
    let mut database = Database::postgres(&url);
    let mut set = |change: &str| {
        database.run(format!("DO 'BEGIN EXECUTE format($$ALTER DATABASE %I {change}$$, current_database()); END'"));
    };
    set(&format!("SET default_transaction_isolation = ''{level}''"));
    let (mut servers, mut database) = start(&url, 3);
    limit(&servers[0], "acme", LIMIT);
    let storm = Storm { workspace: "acme", connections: 24, weather: Weather::Faults, seed: seed(), round: 0 };
    let tally = storm.rage(&Addresses::of(&servers), |answered| answered.wait_for(1000));
    // Transactions of the host fail, but the ledger's don't.
    assert!(tally[&201] > 0 && tally[&500] > 0 && !tally.contains_key(&503), "{tally:?}");
    // One whose transactions don't fail finds all units that they left.
    set("RESET default_transaction_isolation");
    servers.insert(0, start_one(&url));
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

#[test]
fn a_deadlock_in_the_ledger_costs_nobody_anything() {
    const LIMIT: i64 = 100;
    let url = shared().database();
    let (servers, mut database) = start(&url, 1);
    let mut connection = servers[0].connect();
    let mut opponent = Database::postgres(&url);
    // The ledger finds out first, and gives way.
    opponent.run("SET deadlock_timeout = '1h'".to_owned());
    let lock = |workspace| format!(r#"SELECT FROM "_tower_quota_key" WHERE "workspace" = '{workspace}' FOR UPDATE"#);
    limit(&servers[0], "first", LIMIT);
    limit(&servers[0], "second", LIMIT);
    let mut rows = 0;
    until("the ledger is in a deadlock", || {
        rows += 1;
        for workspace in ["first", "second"] {
            create(&mut connection, workspace, &format!("before {rows}")).expect(201);
        }
        opponent.run(format!("BEGIN; {}", lock("second")));
        let unanswered = ["first", "second"].map(|workspace| send(&servers[0], workspace, 1, &format!("with {rows}")));
        until("the ledger waits", || waiting(&mut database, r#"%"_tower_quota_%"#) > 0);
        // Where it tells of both at once, it has locked the first.
        let free = r#"SELECT count(*) FROM (SELECT FROM "_tower_quota_key" WHERE "workspace" = $1 FOR UPDATE SKIP LOCKED) AS free"#;
        let deadlock = opponent.number(free.to_owned(), "first") == 0;
        opponent.run(format!("{}; ROLLBACK", lock("first")));
        for mut connection in unanswered.into_iter().flatten() {
            connection.read().unwrap().expect(201);
        }
        deadlock
    });
    for workspace in ["first", "second"] {
        all_can_be_used(&servers, &mut database, workspace, LIMIT);
    }
}

#[test]
fn a_transaction_of_the_host_that_ends_in_a_deadlock_gives_its_units_back() {
    const LIMIT: i64 = 10;
    let url = shared().database();
    let (servers, mut database) = start(&url, 2);
    limit(&servers[0], "acme", LIMIT);
    let mut opponent = Database::postgres(&url);
    opponent.run("SET deadlock_timeout = '1h'".to_owned());
    for at in 0..3 {
        create(&mut servers[0].connect(), "acme", &format!("before {at}")).expect(201);
        // Names are unique: whoever wants one that is not committed yet waits for its fate.
        opponent.run(format!(r#"BEGIN; INSERT INTO "Segment" VALUES ('by the test {at}', 'acme', 'disputed {at} 0')"#));
        let [mut disputed] = <[_; 1]>::try_from(send(&servers[0], "acme", 1, &format!("disputed {at}"))).ok().unwrap();
        until("it waits", || waiting(&mut database, r#"INSERT INTO "Segment"%"#) == 1);
        // It holds on to its lease.
        opponent.run(r#"SELECT FROM "_tower_quota_lease" WHERE "workspace" = 'acme' FOR UPDATE; ROLLBACK"#.to_owned());
        disputed.read().unwrap().expect(500);
    }
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
}
