//! What a client may send that it shouldn't: each is answered with what is wrong, and costs nothing.

use serde_json::json;

use crate::process::{
    ADMIN, Quickstart, Server, create, create_all, is_final, name, quota, remaining, segments, set_quota,
};
use crate::support::client::{Answer, Connection, request, together};
use crate::support::random::{Random, seed};

const BATCH: &str = "/api/workspaces/acme/users/batch";
const LIMIT: usize = 50;
/// The most that a rule reads of a body.
const CAP: usize = 1 << 20;

/// Sends, and checks that the connection serves a next request unless the answer said that it won't.
#[track_caller]
fn send_and_go_on(server: &Quickstart, connection: &mut Connection, bytes: &[u8]) -> Answer {
    connection.send_raw(bytes).unwrap();
    let answer = connection.read().unwrap();
    if answer.keeps_alive() {
        connection.send("GET", &segments("acme"), "").expect(200);
    } else {
        *connection = server.connect();
    }
    answer
}

/// Nothing was charged: the whole limit is free, by the counts and by the ledger, and can be used without waiting.
#[track_caller]
fn nothing_was_charged(server: &Quickstart) {
    let mut connection = server.connect();
    for (resource, table) in [("segments", "Segment"), ("users", "User")] {
        assert_eq!(server.database().rows(table, "acme"), 0);
        assert_eq!(quota(&mut connection, "acme")["usage"][resource], 0);
    }
    assert_eq!(remaining(&mut connection, "acme", "segments"), LIMIT);
    create_all(&mut connection, "acme", (0..LIMIT).map(|at| format!("row {at}")));
    assert!(is_final(&create(&mut connection, "acme", "one too many")));
}

fn bodies_that_are_not_what_they_should_be(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    let deep = "[".repeat(100_000);
    let deep_object = r#"{"a":"#.repeat(100_000);
    let bodies: Vec<(&str, String)> = vec![
        ("nothing", String::new()),
        ("space", " ".into()),
        ("no JSON", "name=a".into()),
        ("half of it", r#"{"name": "a""#.into()),
        ("more than one", r#"{"name": "a"}{"name": "b"}"#.into()),
        ("a number that is none", r#"{"name": 01}"#.into()),
        ("NaN", r#"{"name": NaN}"#.into()),
        ("deep", deep.clone()),
        ("deep and closed", deep.clone() + &"]".repeat(100_000)),
        ("deep objects", deep_object),
        ("deep in a field", format!(r#"{{"name": "a", "more": {deep}"#)),
        ("an array", "[]".into()),
        ("a string", r#""name""#.into()),
        ("null", "null".into()),
        ("a name that is a number", r#"{"name": 1}"#.into()),
        ("a name that is null", r#"{"name": null}"#.into()),
        ("a name that is a list", r#"{"name": ["a"]}"#.into()),
        ("half a surrogate", r#"{"name": "\ud800"}"#.into()),
        ("a huge number", format!(r#"{{"name": "a", "workspaceId": {}}}"#, "9".repeat(400))),
        ("a workspace that is an object", r#"{"name": "a", "workspaceId": {}}"#.into()),
        ("a workspace that is true", r#"{"name": "a", "workspaceId": true}"#.into()),
        ("a workspace with a line break", r#"{"name": "a", "workspaceId": "acme\n"}"#.into()),
    ];
    for (what, body) in &bodies {
        let bytes = request("POST", &segments("acme"), Some(ADMIN), &[], body);
        let answer = send_and_go_on(&server, &mut connection, &bytes);
        assert!([400, 413].contains(&answer.status), "{what}: {answer}");
        let json = answer.json();
        assert!(
            json["error"].is_string() && json["message"].as_str().is_some_and(|it| it.len() > 10),
            "{what}: {answer}"
        );
    }
    for users in [
        json!(null),
        json!(1),
        json!("ten"),
        json!({}),
        json!({ "0": { "name": "a" } }),
        json!([1]),
        json!([null]),
        json!([{}]),
        json!([{ "name": "a" }, { "name": 1 }]),
        json!([{ "name": "a" }, { "name": " " }]),
    ] {
        let body = json!({ "users": users }).to_string();
        let answer = send_and_go_on(&server, &mut connection, &request("POST", BATCH, Some(ADMIN), &[], &body));
        answer.refused(400, "INVALID_REQUEST");
    }
    connection.send("POST", BATCH, "{}").refused(400, "INVALID_REQUEST");
    nothing_was_charged(&server);
}

fn a_body_that_is_not_text(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    for body in [&b"{\"name\": \"\xff\xfe\"}"[..], b"\xff", b"\x1f\x8b\x08\x00\x00", b"\x00"] {
        let mut bytes = request("POST", &segments("acme"), Some(ADMIN), &[], &" ".repeat(body.len()));
        let head = bytes.len() - body.len();
        bytes[head..].copy_from_slice(body);
        send_and_go_on(&server, &mut connection, &bytes).refused(400, "INVALID_REQUEST");
    }
    nothing_was_charged(&server);
}

fn compressed_bodies_are_refused(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    for coding in ["gzip", "br", "identity, gzip", "GZIP", "x"] {
        let headers = [("content-encoding", coding)];
        let bytes = request("POST", &segments("acme"), Some(ADMIN), &headers, &name("a"));
        let message = send_and_go_on(&server, &mut connection, &bytes).refused(400, "INVALID_REQUEST");
        assert!(message.contains("content-encoding"), "{message}");
    }
    nothing_was_charged(&server);
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    connection.send_with("POST", &segments("acme"), &[("content-encoding", "identity")], &name("a")).expect(201);
}

fn paths_that_are_not_text(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    for workspace in ["%ff", "%c3%28", "a%ed%a0%80"] {
        let bytes = request("POST", &segments(workspace), Some(ADMIN), &[], &name("a"));
        let message = send_and_go_on(&server, &mut connection, &bytes).refused(400, "INVALID_REQUEST");
        assert!(message.contains("workspaceId"), "{message}");
    }
    for workspace in ["%00", "a%0ab", "%20", "%20acme", "acme%20"] {
        let bytes = request("POST", &segments(workspace), Some(ADMIN), &[], &name("a"));
        let answer = send_and_go_on(&server, &mut connection, &bytes);
        // A workspace of its own, or none: never acme.
        assert!([201, 400].contains(&answer.status), "{workspace}: {answer}");
    }
    nothing_was_charged(&server);
}

/// A chunked request.
fn chunked(path: &str, chunks: &[&[u8]], end: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: quickstart\r\nauthorization: Bearer {ADMIN}\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    for chunk in chunks {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(end);
    bytes
}

fn bodies_over_the_cap(on: Server) {
    let server = Quickstart::start(on);
    // With a length, one byte too long and much too long: known from the head, and refused by it.
    for length in [CAP + 1, 3 * CAP] {
        let body = name(&"a".repeat(length - name("").len()));
        assert_eq!(body.len(), length);
        let mut connection = server.connect();
        let bytes = request("POST", &segments("acme"), Some(ADMIN), &[], &body);
        // The server may stop to read once it has answered.
        let _ = connection.send_raw(&bytes);
        let message = connection.read().unwrap().refused(413, "PAYLOAD_TOO_LARGE");
        assert!(message.contains(&CAP.to_string()), "{message}");
    }
    // A head alone, that promises too much.
    for length in ["1048577", "18446744073709551615"] {
        let mut connection = server.connect();
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: q\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: {length}\r\n\r\n",
            segments("acme")
        );
        connection.send_raw(head.as_bytes()).unwrap();
        let answer = connection.read().unwrap();
        // A length that it can't represent is refused by hyper itself.
        assert!([413, 431].contains(&answer.status), "{answer}");
    }
    // In chunks, where the length is not known before.
    let large = vec![b' '; 64 * 1024];
    let chunks: Vec<&[u8]> = std::iter::repeat_n(&large[..], 17).collect();
    let mut connection = server.connect();
    let _ = connection.send_raw(&chunked(&segments("acme"), &chunks, b"0\r\n\r\n"));
    connection.read().unwrap().refused(413, "PAYLOAD_TOO_LARGE");
    // Nobody waits for the end of a body that is too long already.
    let mut connection = server.connect();
    let _ = connection.send_raw(&chunked(&segments("acme"), &chunks, b""));
    connection.read().unwrap().refused(413, "PAYLOAD_TOO_LARGE");
    // A huge batch, below the cap: refused by its size in users.
    set_quota(&mut server.connect(), "acme", &json!({ "maxUsers": 1000 }));
    let users: Vec<_> = (0..20_000).map(|at| json!({ "name": format!("{at}") })).collect();
    let refused = server.connect().send("POST", BATCH, &json!({ "users": users }).to_string());
    assert!(is_final(&refused));
    assert_eq!(refused.json()["details"]["requested"], 20_000);
    nothing_was_charged(&server);
}

// Postgres has no index for names of a megabyte.
#[test]
fn a_body_of_just_the_cap_is_read() {
    let server = Quickstart::start(Server::Sqlite);
    let named = "a".repeat(CAP - name("").len());
    assert_eq!(name(&named).len(), CAP);
    create(&mut server.connect(), "acme", &named).expect(201);
    // In chunks of odd sizes, too.
    let other = name(&"b".repeat(CAP - name("").len()));
    let chunks: Vec<&[u8]> = other.as_bytes().chunks(7919).collect();
    let mut connection = server.connect();
    connection.send_raw(&chunked(&segments("acme"), &chunks, b"0\r\nx-trailer: a\r\n\r\n")).unwrap();
    let answer = connection.read().unwrap().expect(201);
    assert_eq!(answer.json()["name"].as_str().unwrap().len(), named.len());
    // The connection goes on.
    connection.send("GET", "/api/workspaces/globex/segments", "").expect(200);
    assert_eq!(server.database().rows("Segment", "acme"), 2);
}

fn bodies_that_break_off(on: Server) {
    let seed = seed();
    let server = Quickstart::start(on);
    let body = name("broken off");
    let whole = chunked(&segments("acme"), &[body.as_bytes()], b"0\r\n\r\n");
    let length = request("POST", &segments("acme"), Some(ADMIN), &[], &body);
    together(16, seed, 0, |_, random: &mut Random| {
        for _ in 0..20 {
            let bytes = if random.below(2) == 0 { &whole } else { &length };
            let sent = bytes.len() - 1 - random.below(body.len());
            let mut connection = Connection::open(server.address).unwrap();
            connection.send_raw(&bytes[..sent]).unwrap();
            connection.end_sending();
            // An answer is owed to nobody who doesn't end the request; if there is one, it is a refusal.
            if let Ok(answer) = connection.read() {
                answer.refused(400, "INVALID_REQUEST");
            }
        }
    });
    // Chunks that are none.
    for end in [&b"zz\r\n"[..], b"-1\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabc"] {
        let mut connection = server.connect();
        connection.send_raw(&chunked(&segments("acme"), &[br#"{"name": "#], end)).unwrap();
        connection.end_sending();
        if let Ok(answer) = connection.read() {
            assert_eq!(answer.status, 400, "{answer}");
        }
    }
    nothing_was_charged(&server);
}

everywhere!(
    bodies_that_are_not_what_they_should_be,
    a_body_that_is_not_text,
    compressed_bodies_are_refused,
    paths_that_are_not_text,
    bodies_over_the_cap,
    bodies_that_break_off,
);
