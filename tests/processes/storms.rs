//! Many requests at once, at all processes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fleet::{Addresses, Storm, Weather, all_can_be_used, limit, start};
use crate::support::client::{Connection, together};
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::quickstart::{Quickstart, create, is_final_among_others};
use crate::support::random::seed;

const CONNECTIONS: usize = 64;

/// Creates rows from so many connections, and checks that those that were admitted exist, and are as many as the limit
/// says.
fn exactly_as_many(servers: &[Quickstart], database: &mut Database, workspace: &str, limit: i64) {
    const EACH: usize = 200;
    let admitted = together(CONNECTIONS, 0, 0, |thread, _| {
        let mut connection = servers[thread % servers.len()].connect();
        let names = (0..EACH).map(|at| format!("{thread}/{at}"));
        let created = |name: &String| {
            let answer = create(&mut connection, workspace, name);
            answer.status == 201 || {
                is_final_among_others(&answer);
                false
            }
        };
        names.filter(created).collect::<Vec<String>>()
    });
    let admitted: HashSet<String> = admitted.into_iter().flatten().collect();
    assert_eq!(i64::try_from(admitted.len()).unwrap(), limit, "{workspace}");
    assert_eq!(database.names("Segment", workspace).into_iter().collect::<HashSet<_>>(), admitted, "{workspace}");
    assert_eq!(database.peak("Segment", workspace), limit, "{workspace}");
    for server in servers {
        assert!(is_final_among_others(&create(&mut server.connect(), workspace, "late")));
    }
}

#[test]
fn three_processes_create_exactly_as_many_as_the_limit_allows() {
    let url = shared().database();
    let (servers, mut database) = start(&url, 3);
    for round in 0..20 {
        exactly_as_many(&servers, &mut database, &format!("round-{round}"), 50);
    }
}

#[test]
fn any_limit_is_exact() {
    let url = shared().database();
    let (servers, mut database) = start(&url, 3);
    for (place, rows) in [1, 7, 1000].into_iter().enumerate() {
        let workspace = format!("limit-{rows}");
        limit(&servers[place], &workspace, rows);
        exactly_as_many(&servers, &mut database, &workspace, rows);
    }
}

#[test]
fn recounts_in_the_midst_of_creations_and_deletions_lose_nothing() {
    const RECOUNTS: usize = 60;
    const LIMIT: i64 = 20;
    let seed = seed();
    let url = shared().database();
    let (servers, mut database) = start(&url, 3);
    limit(&servers[0], "recounted", LIMIT);
    let storm = Storm { workspace: "recounted", connections: 24, weather: Weather::Fair, seed, round: 0 };
    let corrections = AtomicUsize::new(0);
    let tally = storm.rage(&Addresses::of(&servers), |_| {
        // Two at each of two processes.
        together(4, seed, 1, |thread, _| {
            let mut connection = servers[thread % 2].connect();
            for _ in 0..RECOUNTS {
                corrections.fetch_add(recount(&mut connection), Ordering::Relaxed);
            }
        });
    });
    println!("{corrections:?} corrections");
    assert!(tally[&201] > 0 && tally[&204] > 0, "{tally:?}");
    all_can_be_used(&servers, &mut database, "recounted", LIMIT);
    // At rest, a recount finds what is believed.
    for server in &servers {
        assert_eq!(recount(&mut server.connect()), 0);
    }
}

/// Answers how much it corrected.
fn recount(connection: &mut Connection) -> usize {
    let answer = connection.send("POST", "/api/workspaces/recounted/quota/recalculate", "").expect(200).json();
    assert!(answer["usage"]["segments"].as_i64().unwrap() <= 20, "{answer}");
    answer["corrections"].as_array().unwrap().len()
}
