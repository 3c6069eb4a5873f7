//! Every route that makes, changes or removes rows with a name, one after the other.

use serde_json::{Value, json};

use crate::host::{Client, Stand, Workspace};
use crate::support::random::seed;

/// Rows that one upsert makes and changes.
pub(crate) struct Kind {
    pub(crate) resource: &'static str,
    limit: &'static str,
    pub(crate) table: &'static str,
    pub(crate) counted: &'static str,
    pub(crate) upsert: &'static [&'static str],
    /// Method, path, and whether the id is in the query.
    delete: &'static [(&'static str, bool)],
}

pub(crate) const COUNTED: &str = r#""resourceType" <> 'Internal'"#;

pub(crate) const UNARCHIVED: &str = r#""archived" IS NOT TRUE"#;

pub(crate) const KINDS: [Kind; 6] = [
    Kind {
        resource: "segments",
        limit: "maxSegments",
        table: "Segment",
        counted: COUNTED,
        upsert: &["/api/segments", "/api/segments/", "/api/admin/segments", "/api/admin/segments/"],
        delete: &[
            ("/api/segments", false),
            ("/api/admin/segments/", false),
            ("/api/segments/v2", true),
            ("/api/admin/segments/v2", true),
        ],
    },
    Kind {
        resource: "journeys",
        limit: "maxJourneys",
        table: "Journey",
        counted: COUNTED,
        upsert: &["/api/journeys", "/api/journeys/", "/api/admin/journeys"],
        delete: &[("/api/journeys/", false), ("/api/admin/journeys", false), ("/api/journeys/v2", true)],
    },
    Kind {
        resource: "broadcasts",
        limit: "maxBroadcasts",
        table: "Broadcast",
        counted: UNARCHIVED,
        upsert: &["/api/broadcasts/v2", "/api/admin/broadcasts/v2"],
        delete: &[],
    },
    Kind {
        resource: "computedProperties",
        limit: "maxComputedProperties",
        table: "UserProperty",
        counted: COUNTED,
        upsert: &["/api/user-properties", "/api/user-properties/", "/api/admin/user-properties"],
        delete: &[("/api/user-properties", false), ("/api/admin/user-properties/", false)],
    },
    Kind {
        resource: "emailTemplates",
        limit: "maxEmailTemplates",
        table: "MessageTemplate",
        counted: COUNTED,
        upsert: &["/api/content/templates", "/api/content/templates/reset", "/api/admin/content/templates"],
        delete: &[("/api/content/templates", false), ("/api/admin/content/templates/v2", true)],
    },
    Kind {
        resource: "subscriptionGroups",
        limit: "maxSubscriptionGroups",
        table: "SubscriptionGroup",
        counted: "true",
        upsert: &["/api/subscription-groups", "/api/subscription-groups/", "/api/admin/subscription-groups"],
        delete: &[("/api/subscription-groups", false), ("/api/admin/subscription-groups/", false)],
    },
];

#[track_caller]
fn created(answer: crate::support::client::Answer) -> String {
    answer.expect(200).json()["id"].as_str().unwrap().to_owned()
}

fn delete(workspace: &Workspace<'_>, client: &mut Client, (path, by_query): (&str, bool), id: &str) -> u16 {
    if by_query {
        let path = format!("{path}?workspaceId={}&id={id}", workspace.id);
        return client.send("DELETE", &path, &[], "").status;
    }
    workspace.send(client, "DELETE", path, &json!({ "id": id })).status
}

#[test]
fn each_creation_charges_each_edit_passes_and_each_deletion_frees() {
    let stand = Stand::start(seed(), &[]);
    for kind in &KINDS {
        let workspace = stand.workspace(&[(kind.limit, 2)]);
        let mut client = stand.connect(0);
        let first = created(workspace.send(&mut client, "PUT", kind.upsert[0], &json!({"name": "first"})));
        created(workspace.send(&mut client, "PUT", kind.upsert[0], &json!({"name": "second"})));
        assert_eq!(workspace.usage(kind.resource), 2);

        for path in kind.upsert {
            let refused = workspace.send(&mut client, "PUT", path, &json!({"name": "third"}));
            refused.refused(429, "QUOTA_EXCEEDED");
            let id = stand.uuid();
            let new = workspace.send(&mut client, "PUT", path, &json!({"id": id, "name": "first"}));
            // With an id, the name is no fallback. A reset goes by the name alone.
            if path.ends_with("/reset") {
                continue;
            }
            new.refused(429, "QUOTA_EXCEEDED");
            for spelt in [first.clone(), first.to_ascii_uppercase()] {
                let edited = workspace.send(&mut client, "PUT", path, &json!({"id": spelt, "name": "first"}));
                assert_eq!(created(edited), first);
            }
            created(workspace.send(&mut client, "PUT", path, &json!({"name": "second"})));
            let no_id = workspace.send(&mut client, "PUT", path, &json!({"id": "7", "name": "first"}));
            assert!(no_id.refused(400, "INVALID_REQUEST").contains("UUID"));
        }
        assert_eq!(workspace.rows(kind.table, "true"), 2);

        let mut id = first;
        for way in kind.delete {
            assert_eq!(delete(&workspace, &mut client, *way, &id), 204, "{way:?}");
            assert_eq!(delete(&workspace, &mut client, *way, &id), 404, "{way:?}");
            id = created(workspace.send(&mut client, "PUT", kind.upsert[0], &json!({"name": "first"})));
            let refused = workspace.send(&mut client, "PUT", kind.upsert[0], &json!({"name": "third"}));
            refused.refused(429, "QUOTA_EXCEEDED");
        }
    }
    // Its two segments are Internal.
    let workspace = stand.workspace(&[("maxSegments", 0), ("maxSubscriptionGroups", 1)]);
    created(workspace.send(&mut stand.connect(1), "PUT", "/api/subscription-groups", &json!({"name": "news"})));
    assert_eq!((workspace.rows("Segment", "true"), workspace.usage("segments")), (2, 0));
}

#[test]
fn internal_rows_are_not_counted_and_are_charged_when_they_become_others() {
    let stand = Stand::start(seed(), &[]);
    for (limit, path, table) in [
        ("maxSegments", "/api/segments", "Segment"),
        ("maxEmailTemplates", "/api/content/templates", "MessageTemplate"),
    ] {
        let workspace = stand.workspace(&[(limit, 1)]);
        let mut client = stand.connect(1);
        let mut put = |body: Value| workspace.send(&mut client, "PUT", path, &body);
        for name in ["a", "b", "c"] {
            created(put(json!({"name": name, "resourceType": "Internal"})));
        }
        let b = workspace.column(table, "id", "b").to_ascii_uppercase();
        // The one that there is room for.
        created(put(json!({"name": "a", "resourceType": "Declarative"})));
        for body in [json!({"name": "b"}), json!({"id": b})] {
            let mut flip = body.clone();
            flip["resourceType"] = "Declarative".into();
            put(flip).refused(429, "QUOTA_EXCEEDED");
            // Who leaves it Internal only edits, and so does who says so again.
            created(put(body.clone()));
            let mut stay = body;
            stay["resourceType"] = "Internal".into();
            created(put(stay));
        }
        created(put(json!({"name": "a", "resourceType": "Declarative"})));
        put(json!({"name": "d", "resourceType": "Declarative"})).refused(429, "QUOTA_EXCEEDED");
        put(json!({"name": "d"})).refused(429, "QUOTA_EXCEEDED");
        // Back to Internal: there is room again.
        created(put(json!({"name": "a", "resourceType": "Internal"})));
        created(put(json!({"name": "b", "resourceType": "Declarative"})));
        assert_eq!((workspace.rows(table, COUNTED), workspace.rows(table, "true")), (1, 3));
    }

    let workspace = stand.workspace(&[("maxSegments", 1)]);
    let mut client = stand.connect(0);
    let mut only = |name: &str, kind: &str| {
        let body = json!({"name": name, "createOnly": true, "resourceType": kind});
        workspace.send(&mut client, "PUT", "/api/segments", &body)
    };
    created(only("i", "Internal"));
    let first = created(only("a", "Declarative"));
    assert_eq!(created(only("a", "Declarative")), first);
    // It stays what it is.
    created(only("i", "Declarative"));
    only("b", "Declarative").refused(429, "QUOTA_EXCEEDED");
    assert_eq!(workspace.column("Segment", "resourceType", "i"), "Internal");
}

#[test]
fn what_the_api_makes_of_other_types_is_charged() {
    let stand = Stand::start(seed(), &[]);
    let workspace = stand.workspace(&[("maxSegments", 1), ("maxBroadcasts", 1)]);
    let mut client = stand.connect(0);
    let mut send = |method: &str, path: &str, body: Value| workspace.send(&mut client, method, path, &body);
    created(send("PUT", "/api/segments", json!({"name": "s"})));
    created(send("PUT", "/api/segments", json!({"name": "i", "resourceType": "Internal"})));
    created(send("PUT", "/api/broadcasts/v2", json!({"name": "old"})));
    let old = workspace.column("Broadcast", "id", "old");
    send("PUT", "/api/broadcasts/archive", json!({"broadcastId": old, "archived": [true]})).expect(200);
    created(send("PUT", "/api/broadcasts/v2", json!({"name": "new"})));

    // A list of one is that one, and `false` has many spellings.
    send("PUT", "/api/segments", json!({"name": "i", "resourceType": ["Declarative"]})).refused(429, "QUOTA_EXCEEDED");
    for no in [json!(false), json!("false"), json!(0), json!(null), json!([false])] {
        let flip = json!({"name": "i", "resourceType": "Declarative", "createOnly": no});
        send("PUT", "/api/segments", flip).refused(429, "QUOTA_EXCEEDED");
        let unarchive = json!({"broadcastId": old, "archived": no});
        send("PUT", "/api/broadcasts/archive", unarchive).refused(429, "QUOTA_EXCEEDED");
    }
    // Numbers are their digits, as far as a double has them.
    for name in [json!(7), json!(null)] {
        send("PUT", "/api/segments", json!({"name": name})).refused(429, "QUOTA_EXCEEDED");
    }
    for name in [json!(9_007_199_254_740_993_u64), json!(true), json!(["n"]), json!({})] {
        send("PUT", "/api/segments", json!({"name": name})).refused(400, "INVALID_REQUEST");
    }
    let copy = json!({"name": "s", "resourceType": ["Segment"]});
    send("POST", "/api/resources/duplicate", copy).refused(400, "INVALID_REQUEST");
    send("PUT", "/api/segments", json!({"id": workspace.column("Segment", "id", "s"), "name": 7})).expect(200);
    created(send("PUT", "/api/segments", json!({"name": 7})));
    assert_eq!((workspace.rows("Segment", COUNTED), workspace.rows("Broadcast", UNARCHIVED)), (1, 1));
}

#[test]
fn broadcasts_are_executed_archived_and_copied() {
    let stand = Stand::start(seed(), &[]);
    let limits = [("maxBroadcasts", 2), ("maxSegments", 1), ("maxJourneys", 0), ("maxEmailTemplates", 0)];
    let workspace = stand.workspace(&limits);
    let mut client = stand.connect(0);
    let mut send = |method: &str, path: &str, body: Value| workspace.send(&mut client, method, path, &body);

    // What it makes beside itself is Internal.
    let sent = send("POST", "/api/broadcasts/execute", json!({"broadcastName": "first"})).expect(200);
    let first = sent.json()["broadcastId"].as_str().unwrap().to_owned();
    send("POST", "/api/admin/broadcasts/execute", json!({"broadcastName": "second"})).expect(200);
    send("POST", "/api/broadcasts/execute", json!({"broadcastName": "third"})).refused(429, "QUOTA_EXCEEDED");
    // The update that is no upsert, and others that only look like it.
    send("PUT", "/api/broadcasts", json!({"id": first, "name": "renamed"})).expect(200);
    for (method, path) in [("PUT", "/api/broadcasts/trigger"), ("POST", "/api/admin/broadcasts/trigger")] {
        send(method, path, json!({"id": first})).expect(200);
    }

    let archive = "/api/broadcasts/archive";
    send("PUT", archive, json!({"broadcastId": first, "archived": true})).expect(200);
    send("POST", "/api/broadcasts/execute", json!({"broadcastName": "third"})).expect(200);
    // Whoever edits it leaves it archived.
    created(send("PUT", "/api/broadcasts/v2", json!({"id": first, "name": "renamed again"})));
    send("PUT", archive, json!({"broadcastId": first, "archived": false})).refused(429, "QUOTA_EXCEEDED");
    // To archive it again needs no room.
    send("PUT", archive, json!({"broadcastId": first, "archived": true})).expect(200);
    let second = workspace.column("Broadcast", "id", "second").to_ascii_uppercase();
    // Without a word it archives, too; and what counts already may be said to.
    send("PUT", "/api/admin/broadcasts/archive", json!({"broadcastId": second, "archived": false})).expect(200);
    send("PUT", archive, json!({"broadcastId": second})).expect(200);
    send("PUT", archive, json!({"broadcastId": first, "archived": false})).expect(200);
    send("PUT", archive, json!({"broadcastId": second, "archived": false})).refused(429, "QUOTA_EXCEEDED");
    assert_eq!(workspace.rows("Broadcast", UNARCHIVED), 2);
    assert_eq!(workspace.usage("journeys") + workspace.usage("emailTemplates") + workspace.usage("segments"), 0);

    // The body says of what it makes a copy.
    let copy = |name: &str, kind: &str| json!({"name": name, "resourceType": kind});
    send("POST", "/api/resources/duplicate", copy("third", "Broadcast")).refused(429, "QUOTA_EXCEEDED");
    created(send("PUT", "/api/segments", json!({"name": "s"})));
    send("POST", "/api/resources/duplicate", copy("s", "Segment")).refused(429, "QUOTA_EXCEEDED");
    send("POST", "/api/resources/duplicate", copy("s", "Zebra")).refused(400, "INVALID_RESOURCE_TYPE");
    assert_eq!(workspace.rows("Segment", COUNTED), 1);
    let roomy = stand.workspace(&[("maxUsers", 1)]);
    let mut client = stand.connect(1);
    for (kind, path) in [
        ("Segment", "/api/segments"),
        ("Journey", "/api/journeys"),
        ("Broadcast", "/api/broadcasts/v2"),
        ("UserProperty", "/api/user-properties"),
        ("MessageTemplate", "/api/content/templates"),
        ("SubscriptionGroup", "/api/subscription-groups"),
    ] {
        created(roomy.send(&mut client, "PUT", path, &json!({"name": "n"})));
        created(roomy.send(&mut client, "POST", "/api/resources/duplicate", &copy("n", kind)));
    }
    for kind in &KINDS {
        assert_eq!(roomy.usage(kind.resource), 2, "{}", kind.resource);
    }
}

#[test]
fn what_only_looks_like_a_creation_is_never_charged() {
    let stand = Stand::start(seed(), &[]);
    let workspace = stand.workspace(&KINDS.map(|kind| (kind.limit, 0)));
    let mut client = stand.connect(0);
    let id = stand.uuid();
    for (method, path, status) in [
        ("POST", "/api/users", 200),
        ("POST", "/api/users/", 200),
        ("POST", "/api/admin/users/count", 200),
        ("PUT", "/api/broadcasts", 404),
        ("PUT", "/api/broadcasts/trigger", 200),
        ("PATCH", "/api/segments/status", 200),
        ("PATCH", "/api/journeys/status", 200),
        ("PATCH", "/api/admin/user-properties/status", 200),
        ("POST", "/api/computed-properties/trigger-recompute", 200),
        ("PUT", "/api/admin/computed-properties/periods", 200),
        ("POST", "/api/content/templates/render", 200),
        ("PUT", "/api/secrets", 200),
        ("PUT", "/api/broadcasts/v2/", 404),
    ] {
        workspace.send(&mut client, method, path, &json!({"id": id, "name": "n"})).expect(status);
    }
    for kind in &KINDS {
        assert_eq!((workspace.usage(kind.resource), workspace.rows(kind.table, "true")), (0, 0));
        workspace.send(&mut client, "PUT", kind.upsert[0], &json!({"name": "n"})).refused(429, "QUOTA_EXCEEDED");
    }
}
