//! Resource types that the file of the rules declares.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::process::{Quickstart, Server, file, is_final, name, quota, set_quota};
use crate::support::client::{Answer, Connection};
use crate::support::postgres::shared;

/// The file of the example.
const ROUTES: &str = include_str!("../../examples/quickstart/routes.toml");

/// Collection, resource type, limit field, default, label.
const TYPES: [(&str, &str, &str, u64, &str); 2] = [
    ("custom-metrics", "customMetrics", "maxCustomMetrics", 50, "Custom metric"),
    ("webhooks", "webhooks", "maxWebhooks", 20, "Webhook"),
];

#[track_caller]
fn create(connection: &mut Connection, collection: &str, named: &str) -> Answer {
    connection.send("POST", &format!("/api/workspaces/acme/{collection}"), &name(named))
}

#[track_caller]
fn validate(connection: &mut Connection, resource: &str, increment: u64) -> Answer {
    let body = json!({ "resourceType": resource, "increment": increment }).to_string();
    connection.send("POST", "/api/workspaces/acme/quota/validate", &body)
}

fn declared_types_are_like_the_others(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    for (collection, resource, field, default, label) in TYPES {
        let before = quota(&mut connection, "acme");
        assert_eq!((&before["quota"][field], &before["usage"][resource]), (&json!(default), &json!(0)));
        let all = validate(&mut connection, resource, default).expect(200).json();
        assert_eq!((&all["limit"], &all["remaining"]), (&json!(default), &json!(default)));
        for at in 1..default {
            create(&mut connection, collection, &format!("row {at}")).expect(201);
        }
        create(&mut connection, collection, "the last").expect(201);
        let expected = json!({
            "error": "QUOTA_EXCEEDED",
            "message": format!("{label} quota exceeded"),
            "details": {
                "resourceType": resource, "currentUsage": default, "limit": default, "requested": 1, "remaining": 0
            },
        });
        let refused = create(&mut connection, collection, "one too many");
        assert_eq!((refused.status, refused.json()), (429, expected.clone()));
        let refused = validate(&mut connection, resource, 1);
        assert_eq!((refused.status, refused.json()), (429, expected));

        set_quota(&mut connection, "acme", &json!({ field: default + 1 }));
        let rows = connection.send("GET", &format!("/api/workspaces/acme/{collection}"), "").expect(200).json();
        let id = rows[0]["id"].as_str().unwrap().to_owned();
        create(&mut connection, collection, "the new last").expect(201);
        assert!(is_final(&create(&mut connection, collection, "one too many")));
        connection.send("DELETE", &format!("/api/workspaces/acme/{collection}/{id}"), "").expect(204);
        create(&mut connection, collection, "in its place").expect(201);
        let after = quota(&mut connection, "acme");
        assert_eq!(after["quota"][field], default + 1);
        assert_eq!((&after["usage"][resource], &after["percentages"][resource]), (&json!(default + 1), &json!(100)));

        connection.send("PUT", "/api/workspaces/acme/quota", &json!({ field: null }).to_string()).expect(200);
        create(&mut connection, collection, "without a limit").expect(201);
        let recounted = connection.send("POST", "/api/workspaces/acme/quota/recalculate", "").expect(200).json();
        assert_eq!(recounted["usage"][resource], default + 2);
    }
    let unknown = validate(&mut connection, "webhook", 1).refused(400, "INVALID_RESOURCE_TYPE");
    assert!(unknown.contains("customMetrics, webhooks"), "{unknown}");
    let fields: Vec<String> = quota(&mut connection, "acme")["usage"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields.len(), 10, "{fields:?}");
}

/// The file of the example without what stands between lines that name webhooks and the next empty line.
fn without_webhooks(folder: &Path) -> String {
    let kept: Vec<&str> = ROUTES.split("\n\n").filter(|block| !block.contains("webhooks")).collect();
    assert_eq!(ROUTES.split("\n\n").count() - kept.len(), 3, "a type and two rules");
    let path = folder.join("routes.toml");
    fs::write(&path, kept.join("\n\n")).unwrap();
    path.display().to_string()
}

fn a_type_that_is_taken_away_keeps_its_data(on: Server) {
    let folder = tempfile::tempdir().unwrap();
    let url = match on {
        Server::Sqlite => file(&folder.path().join("quickstart.db")),
        Server::Postgres => shared().database(),
    };
    let limits = |quota: &Value| (quota["maxWebhooks"].clone(), quota["maxSegments"].clone());

    let mut with = Quickstart::on(&url, &[]);
    set_quota(&mut with.connect(), "acme", &json!({ "maxWebhooks": 3, "maxSegments": 7 }));
    create(&mut with.connect(), "webhooks", "kept").expect(201);
    with.kill();

    let mut without = Quickstart::on(&url, &[("QUOTA_ROUTES", &without_webhooks(folder.path()))]);
    let mut connection = without.connect();
    let known = quota(&mut connection, "acme");
    assert_eq!(limits(&known["quota"]), (Value::Null, json!(7)));
    assert_eq!(known["usage"].get("webhooks"), None);
    assert_eq!(known["usage"]["customMetrics"], 0);
    validate(&mut connection, "webhooks", 1).refused(400, "INVALID_RESOURCE_TYPE");
    let put = connection.send("PUT", "/api/workspaces/acme/quota", r#"{"maxWebhooks": 9}"#);
    put.refused(400, "INVALID_RESOURCE_TYPE");
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 8 }));
    // Nobody counts them now.
    for at in 0..3 {
        create(&mut connection, "webhooks", &format!("uncounted {at}")).expect(201);
    }
    without.kill();

    let again = Quickstart::on(&url, &[]);
    let mut connection = again.connect();
    let known = quota(&mut connection, "acme");
    assert_eq!(limits(&known["quota"]), (json!(3), json!(8)));
    assert_eq!((&known["usage"]["webhooks"], &known["percentages"]["webhooks"]), (&json!(4), &json!(133)));
    assert!(is_final(&create(&mut connection, "webhooks", "one too many")));
}

everywhere!(declared_types_are_like_the_others, a_type_that_is_taken_away_keeps_its_data,);
