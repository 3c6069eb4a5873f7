//! Updates whose row is deleted while they are under way, so that they make it anew.

use std::time::Duration;

use crate::host::{Host, LIMIT, batch, create, request, upsert, upsertion};
use crate::support::client::{Answer, together};
use crate::support::random::{Random, seed};

fn host() -> Host {
    Host::start(|usage| usage, |builder, pools| builder.settling(pools.barrier()).max_wait(Duration::from_millis(50)))
}

#[track_caller]
fn details(answer: &Answer) -> serde_json::Value {
    answer.refused(429, "QUOTA_EXCEEDED");
    answer.json()["details"].clone()
}

/// A workspace at its limit, one of whose rows is known by its id.
fn at_the_limit(host: &Host, workspace: &str, id: &str) {
    upsert(&mut host.connect(), workspace, id).expect(200);
    host.fill(workspace);
}

#[test]
fn an_edit_holds_its_row_against_others() {
    let host = host();
    let mut database = host.database();
    at_the_limit(&host, "acme", "common");
    let (mut editor, mut other) = (host.connect(), host.connect());
    for round in 0..20 {
        editor.send_raw(&upsertion("acme", "common", true)).unwrap();
        host.wait_at_gate();
        // The row goes, by the host's own hand, and is counted as gone.
        database.run(r#"DELETE FROM "Segment" WHERE "id" = 'common'"#.to_owned());
        for _ in 0..=round % 3 {
            let details = details(&create(&mut other, "calm", "direct", "acme", "done"));
            assert_eq!((&details["currentUsage"], &details["reserved"]), (&49.into(), &1.into()), "{details}");
        }
        host.open_gate();
        editor.read().unwrap().expect(200);
        // It is there again, and whoever comes next is told so.
        let details = details(&create(&mut other, "calm", "direct", "acme", "done"));
        assert_eq!((&details["currentUsage"], details.get("reserved")), (&50.into(), None), "{details}");
        assert_eq!(database.rows("Segment", "acme"), LIMIT);
    }
    assert_eq!(database.peak("Segment", "acme"), LIMIT);
}

#[test]
fn an_edit_that_is_done_gives_back_what_it_held() {
    let host = host();
    let mut database = host.database();
    at_the_limit(&host, "acme", "common");
    let (mut editor, mut other) = (host.connect(), host.connect());
    // While it is under way, a row is deleted: not the one that it updates. The room is had as soon as it is done.
    let delete = r#"DELETE FROM "Segment" WHERE "id" = (SELECT "id" FROM "Segment" WHERE "id" <> 'common' LIMIT 1)"#;
    editor.send_raw(&upsertion("acme", "common", true)).unwrap();
    host.wait_at_gate();
    database.run(delete.to_owned());
    details(&create(&mut other, "calm", "direct", "acme", "done"));
    host.open_gate();
    editor.read().unwrap().expect(200);
    create(&mut other, "calm", "direct", "acme", "done").expect(201);
    assert_eq!(database.rows("Segment", "acme"), LIMIT);
    // And one that is cut off: nobody knows what it did, so that a count has to tell.
    editor.send_raw(&upsertion("acme", "common", true)).unwrap();
    host.wait_at_gate();
    drop(editor);
    other.send_raw(&request("DELETE", "calm", "direct", "acme", "done", 0)).unwrap();
    assert_eq!(other.read().unwrap().status, 201);
    host.open_gate();
    host.fill("acme");
    assert_eq!(database.peak("Segment", "acme"), LIMIT);
}

#[test]
fn an_upsert_whose_row_another_one_makes_is_an_edit() {
    let host = Host::start(
        |usage| usage,
        |builder, pools| builder.settling(pools.barrier()).max_wait(Duration::from_secs(20)),
    );
    let mut database = host.database();
    // One unit is free.
    for _ in 1..LIMIT {
        create(&mut host.connect(), "calm", "direct", "acme", "done").expect(201);
    }
    let (mut first, mut second) = (host.connect(), host.connect());
    first.send_raw(&upsertion("acme", "common", true)).unwrap();
    host.wait_at_gate();
    // The row is not there yet, and no unit for it either. In the end it is there, and the upsert makes nothing new.
    let counts = host.counts();
    let second = std::thread::spawn(move || upsert(&mut second, "acme", "common"));
    // It waits once it has been counted for.
    while host.counts() == counts {
        std::thread::yield_now();
    }
    host.open_gate();
    first.read().unwrap().expect(200);
    second.join().unwrap().expect(200);
    assert_eq!(database.peak("Segment", "acme"), LIMIT);
    details(&upsert(&mut host.connect(), "acme", "another"));
}

const DELETE_ANOTHER: &str =
    r#"DELETE FROM "Segment" WHERE "id" = (SELECT "id" FROM "Segment" WHERE "id" NOT LIKE 'row-%' LIMIT 1)"#;

#[test]
fn a_batch_that_edits_and_creates_is_not_in_its_own_way() {
    let host = host();
    let mut database = host.database();
    // By the host's own hand, so that the batch is the first to have rows counted.
    for row in 1..LIMIT {
        let id = if row == 1 { "row-0" } else { &format!("early-{row}") };
        database.run(format!(r#"INSERT INTO "Segment" VALUES ('{id}', 'acme')"#));
    }
    let mut connection = host.connect();
    batch(&mut connection, "acme", &["row-0", "row-1"]).expect(200);
    for round in 2..20 {
        assert_eq!(database.rows("Segment", "acme"), LIMIT);
        details(&batch(&mut connection, "acme", &["row-0", "another"]));
        // The room that a deletion makes has to be found by a count.
        database.run(DELETE_ANOTHER.to_owned());
        batch(&mut connection, "acme", &["row-0", "row-1", &format!("row-{round}")]).expect(200);
    }
    // A batch of edits only passes at the limit.
    batch(&mut connection, "acme", &["row-0", "row-1"]).expect(200);
    assert_eq!(database.peak("Segment", "acme"), LIMIT);
}

#[test]
fn batches_that_edit_and_create_are_not_in_each_others_way() {
    let host = Host::start(
        |usage| usage,
        |builder, pools| builder.settling(pools.barrier()).max_wait(Duration::from_secs(20)),
    );
    let mut database = host.database();
    at_the_limit(&host, "acme", "row-0");
    const BATCHES: usize = 4;
    for round in 0..10 {
        for _ in 0..BATCHES {
            database.run(DELETE_ANOTHER.to_owned());
        }
        let answers = together(BATCHES, 0, round, |number, _: &mut Random| {
            batch(&mut host.connect(), "acme", &["row-0", &format!("row-{round}-{number}")])
        });
        for answer in answers {
            answer.expect(200);
        }
        assert_eq!(database.rows("Segment", "acme"), LIMIT);
    }
    assert_eq!(database.peak("Segment", "acme"), LIMIT);
}

#[test]
fn a_storm_of_batches_and_deletions_stays_at_the_limit() {
    const CONNECTIONS: usize = 16;
    let host = host();
    let mut database = host.database();
    at_the_limit(&host, "acme", "row-0");
    let seed = seed();
    for round in 0..5 {
        together(CONNECTIONS, seed, round, |number, random: &mut Random| {
            let (mut connection, mut database) = (host.connect(), host.database());
            for _ in 0..20 {
                let ids: Vec<_> = (0..=random.below(4)).map(|_| format!("row-{}", random.below(60))).collect();
                let ids: Vec<_> = ids.iter().map(String::as_str).collect();
                match batch(&mut connection, "acme", &ids).status {
                    200 | 429 => {}
                    other => panic!("{other}"),
                }
                // Some are deleted that others are about to edit.
                if number % 4 == 0 {
                    database.run(format!(r#"DELETE FROM "Segment" WHERE "id" = 'row-{}'"#, random.below(60)));
                }
            }
        });
        assert!(database.peak("Segment", "acme") <= LIMIT);
        host.fill("acme");
    }
    assert_eq!(database.peak("Segment", "acme"), LIMIT);
}
