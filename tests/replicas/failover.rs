//! The database fails over to a copy that has lost commits.

use std::sync::atomic::Ordering;

use crate::host::{create, creation, database, fill, start, until};
use crate::support::postgres::{Durability, Server};

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
