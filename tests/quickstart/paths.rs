//! Paths that look like others: none gets past the limit, and none that leads nowhere is charged.

use serde_json::json;

use crate::process::{
    ADMIN, Quickstart, Server, create, create_all, is_final, name, quota, remaining, segments, set_quota,
};
use crate::support::client::{Answer, request};

const TRICKS: &[&str] = &[
    "/api/workspaces/acme/%73egments",
    "/api/workspaces/acme/segment%73",
    "/api/workspaces/acme/segments/",
    "/api/workspaces/acme/segments//",
    "/api/workspaces/acme//segments",
    "/api/workspaces//acme/segments",
    "/api//workspaces/acme/segments",
    "//api/workspaces/acme/segments",
    "/api/workspaces/acme/../acme/segments",
    "/api/workspaces/acme/./segments",
    "/api/workspaces/acme/segments/.",
    "/api/workspaces/acme/segments/..",
    "/api/workspaces/globex/../acme/segments",
    "/api/workspaces/acme/segments;x",
    "/api/workspaces/acme/segments;jsessionid=1",
    "/api/workspaces/acme;x/segments",
    "/api/workspaces/acme/SEGMENTS",
    "/api/workspaces/acme/Segments",
    "/API/workspaces/acme/segments",
    "/api/workspaces/ACME/segments",
    "/api/workspaces/%61cme/segments",
    "/api/workspaces/acm%65/segments",
    "/api/workspaces/%2561cme/segments",
    "/api/workspaces/acme%2Fsegments",
    "/api%2Fworkspaces/acme/segments",
    "/api/workspaces/acme/segments%00",
    "/api/workspaces/acme/segments%20",
    "/api/workspaces/acme/segments%0a",
    "/api/workspaces/acme/segments%3Fx",
    "/api/workspaces/acme/segments?x=/../segments",
    "/api/workspaces/acme/segments?workspaceId=globex",
    "/api/workspaces/acme%20/segments",
    "/api/workspaces/%20acme/segments",
    "/api/workspaces/acme%00/segments",
    "/api/workspaces/acme/segments\\",
    "/api\\workspaces\\acme\\segments",
    "http://quickstart/api/workspaces/acme/segments",
    "http://quickstart/api/workspaces/acme/%73egments",
];

const METHODS: &[&str] = &["POST", "post", "PUT", "PATCH", "GET", "HEAD", "OPTIONS", "DELETE", "QUERY"];

const OVERRIDES: &[(&str, &str)] = &[
    ("x-http-method-override", "POST"),
    ("x-http-method", "POST"),
    ("x-method-override", "POST"),
    ("x-original-url", "/api/workspaces/acme/segments"),
    ("x-rewrite-url", "/api/workspaces/acme/segments"),
    ("x-forwarded-prefix", "/api"),
];

fn attempt(server: &Quickstart, method: &str, path: &str, headers: &[(&str, &str)], named: &str) -> Answer {
    let mut connection = server.connect();
    connection.send_raw(&request(method, path, Some(ADMIN), headers, &name(named))).unwrap();
    // HEAD is answered without the body whose length it tells.
    match method {
        "HEAD" => connection.read_head().unwrap(),
        _ => connection.read().unwrap(),
    }
}

#[test]
fn no_path_leads_past_the_limit() {
    let server = Quickstart::start(Server::Sqlite);
    let mut connection = server.connect();
    let mut database = server.database();
    for (workspace, rows) in [("acme", 3), ("globex", 0)] {
        set_quota(&mut connection, workspace, &json!({ "maxSegments": rows }));
        create_all(&mut connection, workspace, (0..rows).map(|at| format!("row {at}")));
    }
    for (at, path) in TRICKS.iter().enumerate() {
        for method in METHODS {
            attempt(&server, method, path, &[], &format!("{at} {method}"));
        }
        for (header, value) in OVERRIDES {
            for method in ["POST", "PUT", "GET"] {
                attempt(&server, method, path, &[(header, value)], &format!("{at} {method} {header}"));
            }
        }
        // Whatever it was answered with: the row counts.
        assert_eq!((database.rows("Segment", "acme"), database.rows("Segment", "globex")), (3, 0), "{path}");
    }
    for (header, value) in OVERRIDES {
        for path in [segments("acme"), "/".to_owned(), "/api/workspaces/acme/journeys".to_owned()] {
            for method in ["GET", "PUT", "PATCH", "OPTIONS"] {
                attempt(&server, method, &path, &[(header, value)], "overridden");
            }
        }
    }
    assert_eq!((database.rows("Segment", "acme"), database.rows("Journey", "acme")), (3, 0));
    assert!(is_final(&create(&mut connection, "acme", "one too many")));
}

#[test]
fn a_path_that_leads_nowhere_costs_nothing() {
    let server = Quickstart::start(Server::Sqlite);
    let mut connection = server.connect();
    let mut database = server.database();
    create_all(&mut connection, "acme", ["row".to_owned()]);
    let before = quota(&mut connection, "acme");
    let (mut nowhere, mut created) = (0, 0);
    for (at, path) in TRICKS.iter().enumerate() {
        for method in METHODS {
            let rows = database.rows("Segment", "acme");
            let left = remaining(&mut connection, "acme", "segments");
            let answer = attempt(&server, method, path, &[], &format!("{at} {method}"));
            let made = database.rows("Segment", "acme") - rows;
            match answer.status {
                201 => created += made,
                _ => {
                    assert_eq!(made, 0, "{method} {path}: {answer}");
                    assert_eq!(remaining(&mut connection, "acme", "segments"), left, "{method} {path}: {answer}");
                    nowhere += i32::from(answer.status == 404);
                }
            }
        }
    }
    println!("{nowhere} led nowhere, {created} created a row");
    assert!(nowhere > 100 && created > 0);
    // Every row that there is was charged, and nothing else: the others are free.
    assert_eq!(quota(&mut connection, "acme")["usage"]["segments"], 1 + created);
    assert_eq!(before["usage"]["segments"], 1);
    server.fill("acme", 50);
    // Other workspaces that came to exist by the way have their own rows and limits.
    for workspace in ["ACME", "globex", "acme;x", "acme "] {
        assert!(database.rows("Segment", workspace) < 10, "{workspace}");
    }
}
