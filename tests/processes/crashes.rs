//! Processes that are killed, and a server that crashes.

use crate::fleet::{
    Addresses, Storm, Weather, all_can_be_used, all_serve_again, hold_commits, let_commits_go, limit,
    make_commits_wait, send, start, start_one, thread_of, waiting,
};
use crate::support::database::Database;
use crate::support::postgres::{Durability, Server, shared};
use crate::support::quickstart::{create, create_all, is_final_among_others, list, segments};
use crate::support::random::{Random, seed};
use crate::support::until;

#[test]
fn processes_that_are_killed_in_a_storm_leave_the_limit_exact_and_all_units_usable() {
    const KILLS: usize = 4;
    const LIMIT: i64 = 30;
    let seed = seed();
    let url = shared().database();
    let (mut servers, mut database) = start(&url, 3);
    limit(&servers[0], "killed", LIMIT);
    let addresses = Addresses::of(&servers);
    let storm = Storm { workspace: "killed", connections: 36, weather: Weather::Crashes, seed, round: 0 };
    let tally = storm.rage(&addresses, |answered| {
        let mut random = Random::new(seed, &[KILLS]);
        for kill in 0..KILLS {
            let place = random.below(servers.len());
            answered.wait_for_more(random.below(400));
            if kill % 2 == 1 {
                // As soon as a row of its own is there, of which it may not have heard itself yet.
                let before = database.names("Segment", "killed");
                let its_own = |name: &String| thread_of(name) % servers.len() == place && !before.contains(name);
                until("a row of the one that dies", || database.names("Segment", "killed").iter().any(its_own));
            }
            servers[place].kill();
            servers[place] = start_one(&url);
            addresses.replace(place, &servers[place]);
        }
    });
    assert!(tally[&201] > 0 && tally[&204] > 0, "{tally:?}");
    all_can_be_used(&servers, &mut database, "killed", LIMIT);
}

/// What a process has not heard of when it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unheard {
    /// That its rows were committed.
    Commit,
    /// Anything: its rows are committed when it is dead.
    Death,
}

fn a_process_that_dies_at_its_commit(unheard: Unheard) {
    const LIMIT: i64 = 10;
    const BEFORE: usize = 3;
    const MEANWHILE: usize = 4;
    let url = shared().database();
    let (mut servers, mut database) = start(&url, 2);
    let mut dying = servers.remove(0);
    limit(&dying, "committed", LIMIT);
    create_all(&mut dying.connect(), "committed", (0..BEFORE).map(|at| format!("before {at}")));
    // The other one has its part, too, and counts no more unless it has to.
    create(&mut servers[0].connect(), "committed", "at the other one").expect(201);
    let mut gate = Database::postgres(&url);
    make_commits_wait(&mut gate, "Segment", "committed");
    hold_commits(&mut gate);
    let unanswered = send(&dying, "committed", MEANWHILE, "meanwhile");
    let meanwhile = i64::try_from(MEANWHILE).unwrap();
    until("all commits wait", || waiting(&mut database, "COMMIT") == meanwhile);
    match unheard {
        Unheard::Commit => dying.signal("STOP"),
        Unheard::Death => dying.kill(),
    }
    let_commits_go(&mut gate);
    let before = i64::try_from(BEFORE).unwrap();
    until("the rows are committed", || database.rows("Segment", "committed") == before + 1 + meanwhile);
    dying.kill();
    drop(unanswered);
    // Before anybody counts: the books alone must know of its rows.
    let leases = r#"SELECT count(*) FROM "_tower_quota_lease" WHERE "workspace" = $1"#;
    until("its lease has ended", || database.number(leases.to_owned(), "committed") == 1);
    all_can_be_used(&servers, &mut database, "committed", LIMIT);
}

#[test]
fn a_process_that_dies_between_commit_and_answer_has_made_its_rows() {
    a_process_that_dies_at_its_commit(Unheard::Commit);
}

#[test]
fn rows_that_are_committed_after_their_process_died_are_within_the_limit() {
    a_process_that_dies_at_its_commit(Unheard::Death);
}

#[test]
fn a_server_that_crashes_in_a_storm_leaves_the_limit_exact_and_all_units_usable() {
    const CRASHES: usize = 3;
    const LIMIT: i64 = 30;
    let seed = seed();
    let server = Server::start(Durability::Full);
    let url = server.database();
    let (servers, mut database) = start(&url, 3);
    limit(&servers[0], "crashed", LIMIT);
    drop(database);
    let storm = Storm { workspace: "crashed", connections: 24, weather: Weather::Faults, seed, round: 0 };
    let tally = storm.rage(&Addresses::of(&servers), |answered| {
        let mut random = Random::new(seed, &[CRASHES]);
        for _ in 0..CRASHES {
            answered.wait_for_more(100 + random.below(400));
            server.restart_immediate();
        }
        answered.wait_for_more(100);
    });
    assert!(tally[&201] > 0 && tally.contains_key(&500), "{tally:?}");
    database = Database::postgres(&url);
    all_serve_again(&servers, "another");
    all_can_be_used(&servers, &mut database, "crashed", LIMIT);
    // At rest nobody is refused below the limit, not even for a moment.
    let mut connections: Vec<_> = servers.iter().map(|server| server.connect()).collect();
    for row in list(&mut connections[0], "crashed") {
        let path = format!("{}/{}", segments("crashed"), row["id"].as_str().unwrap());
        connections[0].send("DELETE", &path, "").expect(204);
    }
    for at in 0..usize::try_from(LIMIT).unwrap() {
        create(&mut connections[at % 3], "crashed", &format!("anew {at}")).expect(201);
    }
    assert!(is_final_among_others(&create(&mut connections[0], "crashed", "one too many")));
    assert_eq!(database.peak("Segment", "crashed"), LIMIT);
}
