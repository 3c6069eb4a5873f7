//! Requests that are written otherwise than a plain client would, and mean the same to a router behind that decodes.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::host::{Stand, hex};
use crate::support::random::seed;

#[test]
fn each_spelling_of_a_path_is_charged() {
    let stand = Stand::start(seed(), &[]);
    for path in [
        "/api/%73egments",
        "/%61pi/segments",
        "/api/segments;x",
        "/api/segments;a=b?c=d",
        "http://dittofeed.example/api/segments",
        "http://dittofeed.example/api/%73egments;x",
        "/api/admin/segment%73/",
    ] {
        let workspace = stand.workspace(&[("maxSegments", 1)]);
        let mut client = stand.connect(0);
        workspace.send(&mut client, "PUT", path, &json!({"name": "first"})).expect(200);
        workspace.send(&mut client, "PUT", path, &json!({"name": "second"})).refused(429, "QUOTA_EXCEEDED");
        assert_eq!(workspace.rows("Segment", "true"), 1, "{path}");
    }
    // What is no route there is none here.
    let workspace = stand.workspace(&[("maxSegments", 0)]);
    for path in ["/api/Segments", "/api//segments", "/api/segments%2F", "/api/segments/.", "/api/%2573egments"] {
        workspace.send(&mut stand.connect(1), "PUT", path, &json!({"name": "n"})).expect(404);
    }
}

#[test]
fn a_workspace_is_one_however_it_is_named() {
    let stand = Stand::start(seed(), &[]);
    let workspace = stand.workspace(&[("maxSegments", 1)]);
    let other = stand.workspace(&[]);
    let mut client = stand.connect(0);
    let (id, upper) = (workspace.id.clone(), workspace.id.to_ascii_uppercase());

    for (path, header, body) in [
        (format!("/api/segments?workspaceId={id}"), other.id.clone(), json!({"name": "n"})),
        (format!("/api/segments?workspaceId={id}"), id.clone(), json!({"name": "n", "workspaceId": other.id})),
        (format!("/api/segments?workspaceId={id}&workspaceId={}", other.id), id.clone(), json!({"name": "n"})),
        (format!("/api/segments;workspaceId={}", other.id), id.clone(), json!({"name": "n"})),
    ] {
        let answer = client.send("PUT", &path, &[("df-workspace-id", &header)], &body.to_string());
        answer.refused(400, "WORKSPACE_MISMATCH");
    }
    let two = [("df-workspace-id", id.as_str()), ("df-workspace-id", other.id.as_str())];
    client.send("PUT", "/api/segments", &two, r#"{"name": "n"}"#).refused(400, "WORKSPACE_MISMATCH");
    client.send("PUT", "/api/segments", &[], r#"{"name": "n"}"#).refused(400, "INVALID_REQUEST");
    assert_eq!(workspace.rows("Segment", "true") + other.rows("Segment", "true"), 0);

    // In capitals it is the same, and the last unit is taken.
    client.send("PUT", "/api/segments", &[("df-workspace-id", &upper)], r#"{"name": "first"}"#).expect(200);
    for (path, headers, body) in [
        ("/api/segments".to_owned(), vec![], json!({"name": "n", "workspaceId": upper})),
        (format!("/api/segments?workspaceId={upper}"), vec![], json!({"name": "n"})),
        (format!("/api/segments;workspaceId={upper}"), vec![], json!({"name": "n"})),
        (
            "/api/segments".to_owned(),
            vec![("df-workspace-id", upper.as_str())],
            json!({"name": "n", "workspaceId": id}),
        ),
    ] {
        client.send("PUT", &path, &headers, &body.to_string()).refused(429, "QUOTA_EXCEEDED");
    }
    // Where a key is repeated, the last one counts, here and there.
    let repeated = format!(r#"{{"workspaceId": "{id}", "name": "n", "workspaceId": "{}"}}"#, other.id);
    client.send("PUT", "/api/segments", &[], &repeated).expect(200);
    assert_eq!((workspace.rows("Segment", "true"), other.rows("Segment", "true")), (1, 1));
    let repeated = format!(r#"{{"workspaceId": "{id}", "name": "first", "name": "n"}}"#);
    client.send("PUT", "/api/segments", &[], &repeated).refused(429, "QUOTA_EXCEEDED");
}

#[test]
fn bodies_are_read_by_what_they_are_and_are_handed_on_as_they_are() {
    let stand = Stand::start(seed(), &[]);
    let workspace = stand.workspace(&[("maxSegments", 1), ("maxUsers", 1)]);
    let mut client = stand.connect(0);
    let header = [("df-workspace-id", workspace.id.as_str())];
    let typed = |content_type| [header[0], ("content-type", content_type)];

    // Upstream takes it for JSON.
    client.send("PUT", "/api/segments", &typed("application/jsonx"), r#"{"name": "first"}"#).expect(200);
    let refused = client.send("PUT", "/api/segments", &typed("application/jsonx"), r#"{"name": "second"}"#);
    refused.refused(429, "QUOTA_EXCEEDED");
    // What upstream refuses leaves nothing behind.
    client.send("PUT", "/api/segments", &typed("text/plain"), r#"{"name": "first"}"#).expect(415);
    client.send("PUT", "/api/segments", &header, "{").refused(400, "INVALID_REQUEST");
    let gzip = [header[0], ("content-encoding", "gzip")];
    client.send("PUT", "/api/segments", &gzip, "{}").refused(400, "INVALID_REQUEST");

    let body_of = |length: usize| {
        let head = r#"{ "name" : "first", "definition":  ""#;
        let mut body = format!("{head}{}\"}}", "é".repeat((length - head.len() - 2) / 2));
        body.push_str(&" ".repeat(length - body.len()));
        body
    };
    let most = 5 * 1024 * 1024;
    for length in [most - 1, most] {
        let body = body_of(length);
        assert_eq!(body.len(), length);
        let answer = client.send("PUT", "/api/segments", &header, &body).expect(200);
        assert_eq!(answer.header("x-body-sha256"), Some(hex(&Sha256::digest(&body)).as_str()));
    }
    // Its length is enough to refuse it.
    let length = (most + 1).to_string();
    let announced = [header[0], ("content-length", length.as_str())];
    stand.connect(1).begin("PUT", "/api/segments", &announced).refused(413, "PAYLOAD_TOO_LARGE");

    // Signed over its bytes, with a spelling that no writer of JSON would choose.
    workspace.take_webhooks();
    let mut webhook = |mount: &str, user: &str| {
        let body =
            format!("{{\"type\"\t: \"track\", \"messageId\": \"m\",\n \"userId\": \"\\u0075{user}\", \"n\": 1.50e0 }}");
        workspace.webhook(&mut client, &format!("{mount}/webhooks/segment"), &body)
    };
    webhook("/api", "1").expect(200);
    for mount in ["/api", "/api/public", "/api/admin"] {
        webhook(mount, "1").expect(200);
        webhook(mount, "2").refused(429, "QUOTA_EXCEEDED");
    }
    assert_eq!(workspace.rows("ColumnStoreUser", r#""userId" = 'u1'"#), 1);
}
