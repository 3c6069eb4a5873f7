//! Users, who come to exist by their first event: by whose key, and one, several or a file of them at once.

use serde_json::{Value, json};

use crate::host::{Client, Stand, Workspace};
use crate::support::client::Answer;
use crate::support::random::seed;
use crate::support::until;

pub(crate) const TABLE: &str = "ColumnStoreUser";

pub(crate) fn event(client: &mut Client, kind: &str, key: &str, body: &Value) -> Answer {
    post(client, &format!("/api/public/apps/{kind}"), key, body)
}

pub(crate) fn post(client: &mut Client, path: &str, key: &str, body: &Value) -> Answer {
    client.send("POST", path, &[("authorization", key)], &body.to_string())
}

/// A file of users, as a browser sends it.
pub(crate) fn upload(client: &mut Client, workspace: &Workspace<'_>, path: &str, users: &[String]) -> Answer {
    let body = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"csv\"; filename=\"u.csv\"\r\nContent-Type: text/csv\r\n\r\n\
         id,email\n{}\r\n--edge--\r\n",
        users.iter().map(|user| format!("{user},{user}@example.com")).collect::<Vec<_>>().join("\n")
    );
    let headers = [("df-workspace-id", &*workspace.id), ("content-type", "multipart/form-data; boundary=edge")];
    client.send("POST", path, &headers, &body)
}

fn named(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{prefix}{number}")).collect()
}

#[test]
fn only_the_write_key_says_whose_an_event_is() {
    let stand = Stand::start(seed(), &[]);
    let (workspace, other) = (stand.workspace(&[("maxUsers", 1)]), stand.workspace(&[("maxUsers", 0)]));
    let (key, empty) = (workspace.write_key(), other.write_key());
    let mut client = stand.connect(0);
    let user = json!({"userId": "u", "event": "e", "workspaceId": other.id});

    let basic = |text: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    };
    let wrong = [
        "Bearer key".to_owned(),
        "Basic !".to_owned(),
        basic("no colon"),
        basic("no uuid:v4lue"),
        basic(&format!("{}:v4lue", stand.uuid())),
        basic(&format!("{}:wrong", &String::from_utf8(decoded(&key)).unwrap()[..36])),
    ];
    for key in wrong {
        let answer = event(&mut client, "track", &key, &user);
        answer.refused(401, "UNAUTHENTICATED");
        assert_eq!(answer.header("x-body-sha256"), None, "it was forwarded: {answer}");
    }
    for headers in [vec![], vec![("authorization", key.as_str()), ("authorization", empty.as_str())]] {
        let answer = client.send("POST", "/api/public/apps/track", &headers, &user.to_string());
        answer.refused(401, "UNAUTHENTICATED");
    }
    assert_eq!(workspace.rows(TABLE, "true") + other.rows(TABLE, "true"), 0);

    // Whatever the body says.
    event(&mut client, "track", &key, &user).expect(204);
    event(&mut client, "tr%61ck", &key, &user).expect(204);
    event(&mut client, "track;x", &key, &json!({"userId": "v"})).refused(429, "QUOTA_EXCEEDED");
    event(&mut client, "track", &empty, &user).refused(429, "QUOTA_EXCEEDED");
    // What makes nothing needs no key here: upstream has the say.
    client.send("POST", "/api/public/apps/alias", &[], "{}").expect(400);
    assert_eq!((workspace.rows(TABLE, "true"), other.rows(TABLE, "true")), (1, 0));
}

fn decoded(key: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(key.trim_start_matches("Basic ")).unwrap()
}

#[test]
fn the_first_event_of_a_user_is_charged() {
    let stand = Stand::start(seed(), &[]);
    let workspace = stand.workspace(&[("maxUsers", 7)]);
    let key = workspace.write_key();
    let mut client = stand.connect(1);
    for (kind, body) in [
        ("identify", json!({"userId": "a"})),
        ("track", json!({"anonymousId": "b", "event": "e"})),
        ("page", json!({"userId": null, "anonymousId": "c"})),
        ("screen", json!({"userId": 4, "anonymousId": "c"})),
        // Two of them.
        ("group", json!({"userId": "a", "groupId": "g"})),
        (
            "batch",
            json!({"batch": [
                {"type": "track", "userId": "a", "groupId": "no user"},
                {"type": "group", "userId": "x", "groupId": "x"},
                {"type": "group", "userId": "x", "groupId": "a"},
                {"type": "identify", "anonymousId": "y"},
            ]}),
        ),
    ] {
        event(&mut client, kind, &key, &body).expect(204);
        // A retry costs nothing, at the limit too.
        event(&mut client, kind, &key, &body).expect(204);
    }
    assert_eq!((workspace.rows(TABLE, "true"), workspace.usage("users")), (7, 7));

    let refused = |answer: Answer| drop(answer.refused(429, "QUOTA_EXCEEDED"));
    for kind in ["identify", "track", "page", "screen", "group"] {
        refused(event(&mut client, kind, &key, &json!({"userId": "new", "groupId": "g"})));
    }
    refused(event(&mut client, "group", &key, &json!({"userId": "a", "groupId": "new"})));
    refused(event(&mut client, "batch", &key, &json!({"batch": [{"userId": "a"}, {"userId": "new"}]})));
    let mut send = |method: &str, path: &str, body: Value| workspace.send(&mut client, method, path, &body);
    let [update, assign] = ["/api/segments/manual-segment/update", "/api/subscription-groups/assignments"];
    send("POST", update, json!({"segmentId": "s", "userIds": ["a", "b"]})).expect(200);
    refused(send("POST", update, json!({"segmentId": "s", "userIds": ["a", "new"]})));
    send("PUT", assign, json!({"userUpdates": [{"userId": "a", "changes": {}}]})).expect(200);
    refused(send("PUT", assign, json!({"userUpdates": [{"userId": "new", "changes": {}}]})));

    // Each deletion frees.
    send("DELETE", "/api/users", json!({"userIds": ["a", "b"]})).expect(204);
    send("POST", update, json!({"segmentId": "s", "userIds": ["p", "q", "q"]})).expect(200);
    refused(send("PUT", assign, json!({"userUpdates": [{"userId": "r", "changes": {}}]})));
    let path = format!("/api/admin/users/v2?workspaceId={}&userIds=p&userIds=q", workspace.id);
    client.send("DELETE", &path, &[], "").expect(204);
    let two = json!({"userUpdates": [{"userId": "r"}, {"userId": "s"}, {"userId": "r"}]});
    workspace.send(&mut client, "PUT", assign, &two).expect(200);
    refused(event(&mut client, "track", &key, &json!({"userId": "new"})));
    assert_eq!(workspace.rows(TABLE, "true"), 7);
}

#[test]
fn what_the_api_makes_of_other_types_is_charged() {
    let stand = Stand::start(seed(), &[]);
    // Two numbers that are one to a double. Of this one, it makes 9007199254740992.
    let number = 9_007_199_254_740_993_u64;
    let workspace = stand.workspace(&[("maxUsers", 2)]);
    let key = workspace.write_key();
    let mut client = stand.connect(0);
    let update = "/api/segments/manual-segment/update";
    workspace.send(&mut client, "POST", update, &json!({"userIds": ["known", number.to_string()]})).expect(200);

    let group = |user: Value, group: Value| json!({"type": "group", "userId": user, "groupId": group});
    let track = |user: Value| json!({"type": "track", "userId": user, "anonymousId": "known"});
    let mut events: Vec<(&str, Value)> = vec![
        ("batch", json!({"batch": [{"type": ["group"], "userId": "known", "groupId": "new"}]})),
        ("batch", json!({"batch": track("new".into())})),
        ("batch", json!({"batch": "new"})),
        ("batch", json!([{"batch": [track("new".into())]}])),
        ("track", json!([track("new".into())])),
    ];
    for user in [json!(["new"]), json!(true), json!(null), json!([null]), json!([["new"]]), json!({}), json!(number)] {
        events.push(("track", track(user.clone())));
        events.push(("batch", json!({"batch": [track(user.clone())]})));
        events.push(("group", group("known".into(), user.clone())));
        events.push(("batch", json!({"batch": [group("known".into(), user)]})));
    }
    for (kind, body) in &events {
        let answer = event(&mut client, kind, &key, body);
        assert!([400, 429].contains(&answer.status), "{kind} {body}: {answer}");
    }
    let mut send = |method: &str, path: &str, body: Value| {
        let answer = workspace.send(&mut client, method, path, &body);
        assert!([400, 429].contains(&answer.status), "{path} {body}: {answer}");
    };
    for user in [json!("new"), json!(["new"]), json!(true), json!(null), json!(number)] {
        send("POST", update, json!({"userIds": user}));
        send("POST", update, json!({"userIds": [user]}));
        send("PUT", "/api/subscription-groups/assignments", json!({"userUpdates": [{"userId": user, "changes": {}}]}));
    }
    send("PUT", "/api/subscription-groups/assignments", json!({"userUpdates": {"userId": "new", "changes": {}}}));
    assert_eq!(workspace.rows(TABLE, "true"), 2);
}

#[test]
fn files_are_imported_after_the_response_and_never_beyond_the_limit() {
    let stand = Stand::start(seed(), &[]);
    let workspace = stand.workspace(&[("maxUsers", 20)]);
    let key = workspace.write_key();
    let mut clients = [stand.connect(0), stand.connect(1)];
    let [segments, groups] = ["/api/segments/upload-csv", "/api/admin/subscription-groups/upload-csv"];

    upload(&mut clients[0], &workspace, segments, &named("a", 0..12)).expect(200);
    // Its rows may still come, whatever is counted meanwhile.
    upload(&mut clients[1], &workspace, groups, &named("b", 0..12)).refused(429, "QUOTA_EXCEEDED");
    upload(&mut clients[0], &workspace, segments, &named("b", 0..12)).refused(429, "QUOTA_EXCEEDED");
    until("the file is imported", || workspace.rows(TABLE, "true") == 12);
    // A header and an edge more than there are users were held. After a while they are free again.
    for number in 0..8 {
        until("there is room", || {
            let body = json!({"userId": format!("u{number}")});
            event(&mut clients[number % 2], "identify", &key, &body).status == 204
        });
    }
    upload(&mut clients[0], &workspace, segments, &named("c", 0..1)).refused(429, "QUOTA_EXCEEDED");
    event(&mut clients[0], "track", &key, &json!({"userId": "new"})).refused(429, "QUOTA_EXCEEDED");
    assert_eq!(workspace.rows(TABLE, "true"), 20);
    // Two workspaces, or none.
    let mut odd = |headers: &[(&str, &str)]| {
        let multipart = [("content-type", "multipart/form-data; boundary=edge")];
        let headers = [&multipart, headers].concat();
        clients[0].send("POST", &format!("{segments}?workspaceId={}", stand.uuid()), &headers, "--edge--")
    };
    odd(&[("df-workspace-id", &workspace.id)]).refused(400, "WORKSPACE_MISMATCH");
}
