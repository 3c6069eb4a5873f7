//! Many connections at once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::process::{ADMIN, Quickstart, Server, create, create_all, created, file, is_final, list, name, segments};
use crate::support::client::{Answered, Connection, request, together};
use crate::support::random::{Random, seed};

const CONNECTIONS: usize = 64;
const LIMIT: i64 = 50;

fn sixty_four_connections_create_exactly_as_many_as_the_limit_allows(on: Server) {
    const EACH: usize = 200;
    let rounds = match on {
        Server::Sqlite => 20,
        Server::Postgres => 5,
    };
    let server = Quickstart::start(on);
    let mut database = server.database();
    database.watch("Segment");
    for round in 0..rounds {
        let workspace = format!("round-{round}");
        let admitted = together(CONNECTIONS, 0, round, |thread, _| {
            let mut connection = server.connect();
            let names = (0..EACH).map(|at| format!("{thread}/{at}"));
            names.filter(|name| created(&create(&mut connection, &workspace, name))).collect::<Vec<String>>()
        });
        let admitted: HashSet<String> = admitted.into_iter().flatten().collect();
        assert_eq!(i64::try_from(admitted.len()).unwrap(), LIMIT, "{workspace}");
        // The same rows by the API and in the file; those that were answered with 201, and no others.
        let listed = list(&mut server.connect(), &workspace);
        let listed: HashSet<String> = listed.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(listed, admitted, "{workspace}");
        assert_eq!(database.rows("Segment", &workspace), LIMIT, "{workspace}");
        assert_eq!(database.names("Segment", &workspace).into_iter().collect::<HashSet<_>>(), admitted);
        assert_eq!(database.peak("Segment", &workspace), LIMIT, "{workspace}");
        // Whoever comes now is refused by the rows, not by requests in flight.
        assert!(is_final(&create(&mut server.connect(), &workspace, "late")));
    }
}

/// Sends a creation and hangs up at a random moment.
fn hang_up(server: &Quickstart, workspace: &str, named: &str, random: &mut Random) {
    let bytes = request("POST", &segments(workspace), Some(ADMIN), &[], &name(named));
    let head = bytes.len() - name(named).len();
    let mut connection = server.connect();
    let sent = match random.below(5) {
        // In the middle of the head, behind it, in the middle of the body.
        0 => random.below(head),
        1 => head,
        2 => head + random.below(bytes.len() - head),
        // Whole: its answer is never read.
        _ => bytes.len(),
    };
    // The server may be the first to hang up.
    let _ = connection.send_raw(&bytes[..sent]);
    if random.below(8) == 0 {
        connection.end_sending();
    }
}

#[test]
fn clients_that_hang_up_leak_nothing() {
    const ROUNDS: usize = 6;
    let seed = seed();
    let server = Quickstart::start(Server::Sqlite);
    let mut database = server.database();
    database.watch("Segment");
    for round in 0..ROUNDS {
        let workspace = format!("hang-up-{round}");
        together(CONNECTIONS, seed, round, |thread, random| {
            let mut connection = server.connect();
            for at in 0..24 {
                let name = format!("{thread}/{at}");
                match random.below(3) {
                    // Deleting makes room, so that creations are admitted all the time.
                    0 => {
                        let answer = create(&mut connection, &workspace, &name);
                        if created(&answer) {
                            let row = format!("{}/{}", segments(&workspace), answer.json()["id"].as_str().unwrap());
                            connection.send("DELETE", &row, "").expect(204);
                        }
                    }
                    _ => hang_up(&server, &workspace, &name, random),
                }
            }
        });
        server.fill(&workspace, LIMIT);
        let mut connection = server.connect();
        for row in list(&mut connection, &workspace) {
            let row = format!("{}/{}", segments(&workspace), row["id"].as_str().unwrap());
            connection.send("DELETE", &row, "").expect(204);
        }
        // What was used can be used again.
        server.fill(&workspace, LIMIT);
        assert_eq!(database.peak("Segment", &workspace), LIMIT, "{workspace}");
    }
}

#[test]
fn a_killed_process_comes_back_with_an_exact_limit() {
    const KILLS: usize = 5;
    const WORKSPACE: &str = "killed";
    let seed = seed();
    let folder = tempfile::tempdir().unwrap();
    let url = file(&folder.path().join("persistent.db"));
    for kill in 0..KILLS {
        let mut server = Quickstart::on(&url, &[]);
        let mut database = server.database();
        database.watch("Segment");
        let moment = 100 + Random::new(seed, &[kill]).below(900);
        let answered = Answered::default();
        let address = server.address;
        thread::scope(|scope| {
            let storm = scope.spawn(|| {
                together(CONNECTIONS, seed, kill, |thread, random| {
                    let mut created: Vec<String> = Vec::new();
                    // Until the server is gone.
                    let Ok(connection) = Connection::open(address) else { return };
                    let mut connection = connection.with_token(ADMIN);
                    for at in 0.. {
                        let row = if random.below(2) == 0 { created.pop() } else { None };
                        let answer = match row {
                            Some(row) => connection.try_send("DELETE", &row, ""),
                            None => {
                                let name = name(&format!("{kill}/{thread}/{at}"));
                                connection.try_send("POST", &segments(WORKSPACE), &name)
                            }
                        };
                        let Ok(answer) = answer else { return };
                        match answer.status {
                            201 => {
                                let id = answer.json()["id"].as_str().unwrap().to_owned();
                                created.push(format!("{}/{id}", segments(WORKSPACE)));
                            }
                            204 => {}
                            _ => {
                                is_final(&answer);
                            }
                        }
                        answered.one();
                    }
                })
            });
            answered.wait_for(moment);
            server.kill();
            storm.join().unwrap();
        });
        assert!(database.peak("Segment", WORKSPACE) <= LIMIT);
    }
    let server = Quickstart::on(&url, &[]);
    server.fill(WORKSPACE, LIMIT);
    assert_eq!(server.database().peak("Segment", WORKSPACE), LIMIT);
}

fn a_mixed_storm_stays_exact_and_lets_edits_pass(on: Server) {
    const ROUNDS: usize = 5;
    const EACH: usize = 40;
    const PINNED: usize = 10;
    let seed = seed();
    let server = Quickstart::start(on);
    let mut database = server.database();
    database.watch("Segment");
    for round in 0..ROUNDS {
        let workspace = format!("mixed-{round}");
        let mut connection = server.connect();
        // Rows that nobody deletes.
        create_all(&mut connection, &workspace, (0..PINNED).map(|at| format!("pinned {at}")));
        let pinned = list(&mut connection, &workspace);
        // Rows that anybody may delete or make anew.
        let volatile: Vec<String> = (0..12).map(|at| format!("volatile {at}")).collect();
        let upsert = |name: &str| json!({ "workspaceId": workspace, "name": name }).to_string();
        let (edits, refusals) = (AtomicUsize::new(0), AtomicUsize::new(0));
        together(CONNECTIONS, seed, round, |thread, random| {
            let mut connection = server.connect();
            for at in 0..EACH {
                match random.below(8) {
                    0 | 1 => {
                        let pinned = random.pick(&pinned);
                        let name = pinned["name"].as_str().unwrap();
                        let body = match random.below(2) {
                            0 => upsert(name),
                            _ => json!({ "workspaceId": workspace, "id": pinned["id"], "name": name }).to_string(),
                        };
                        let answer = connection.send("PUT", "/api/segments", &body).expect(200);
                        assert_eq!(answer.json(), *pinned);
                        edits.fetch_add(1, Ordering::Relaxed);
                    }
                    2 | 3 => {
                        let answer = connection.send("PUT", "/api/segments", &upsert(random.pick(&volatile).as_str()));
                        if answer.status != 200 {
                            is_final(&answer);
                            refusals.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    4 => {
                        let row = json!({ "workspaceId": workspace, "id": format!("{round}/{thread}/{at}"),
                            "name": format!("by id {thread}/{at}") });
                        let answer = connection.send("PUT", "/api/segments", &row.to_string());
                        if answer.status != 200 {
                            is_final(&answer);
                            refusals.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    5 => {
                        if !created(&create(&mut connection, &workspace, &format!("{thread}/{at}"))) {
                            refusals.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    _ => {
                        let rows = list(&mut connection, &workspace);
                        assert!(i64::try_from(rows.len()).unwrap() <= LIMIT);
                        let row = random.pick(&rows);
                        if !row["name"].as_str().unwrap().starts_with("pinned") {
                            let id = row["id"].as_str().unwrap().replace('/', "%2F");
                            let answer = connection.send("DELETE", &format!("{}/{id}", segments(&workspace)), "");
                            // Somebody else may have been faster.
                            assert!([204, 404].contains(&answer.status), "{answer}");
                        }
                    }
                }
            }
        });
        println!("{workspace}: {edits:?} edits of pinned rows, {refusals:?} refusals");
        assert!(edits.into_inner() > 0);
        server.fill(&workspace, LIMIT);
        assert_eq!(database.peak("Segment", &workspace), LIMIT, "{workspace}");
        // At the limit, edits pass, and what would be new does not.
        connection.send("PUT", "/api/segments", &upsert("pinned 0")).expect(200);
        assert!(is_final(&connection.send("PUT", "/api/segments", &upsert("brand-new"))));
    }
}

everywhere!(
    sixty_four_connections_create_exactly_as_many_as_the_limit_allows,
    a_mixed_storm_stays_exact_and_lets_edits_pass,
);
