//! Every route that the map has a rule for, by its method and path as they are written there.

use serde_json::{Value, json};
use tower_quota::{MappedRule, Operation, ResourceCatalog, RouteMap};

use crate::host::{Client, Stand, Workspace};
use crate::rows::KINDS;
use crate::support::client::Answer;
use crate::support::random::seed;
use crate::support::until;
use crate::users;

/// What a type's rows are, which ones count, and the plainest way to make one.
fn table_of(resource: &str) -> (&'static str, &'static str) {
    match KINDS.iter().find(|kind| kind.resource == resource) {
        Some(kind) => (kind.table, kind.counted),
        None => (users::TABLE, "true"),
    }
}

fn make_plainly(workspace: &Workspace<'_>, client: &mut Client, resource: &str, name: &str) -> Answer {
    match KINDS.iter().find(|kind| kind.resource == resource) {
        Some(kind) => workspace.send(client, "PUT", kind.upsert[0], &json!({"name": name})),
        None => workspace.send(client, "POST", "/api/segments/manual-segment/update", &json!({"userIds": [name]})),
    }
}

/// A creation by a route, of one row with this name.
fn create(workspace: &Workspace<'_>, client: &mut Client, rule: &str, method: &str, path: &str, name: &str) -> Answer {
    let mut send = |body: Value| workspace.send(client, method, path, &body);
    match rule {
        "upsert-segment"
        | "upsert-journey"
        | "upsert-broadcast"
        | "upsert-user-property"
        | "upsert-template"
        | "reset-template"
        | "upsert-subscription-group" => send(json!({"name": name})),
        "execute-broadcast" => send(json!({"broadcastName": name})),
        "archive-broadcast" => {
            let id = workspace.column("Broadcast", "id", name);
            send(json!({"broadcastId": id, "archived": false}))
        }
        "duplicate" => send(json!({"name": "original", "resourceType": "Segment"})),
        "update-manual-segment" => send(json!({"userIds": [name]})),
        "assign-subscription-groups" => send(json!({"userUpdates": [{"userId": name}]})),
        "event" => users::post(client, path, &workspace.write_key(), &json!({"userId": name})),
        "group-event" => users::post(client, path, &workspace.write_key(), &json!({"userId": name, "groupId": name})),
        "event-batch" => {
            let batch = json!({"batch": [{"type": "group", "anonymousId": name, "groupId": name}]});
            users::post(client, path, &workspace.write_key(), &batch)
        }
        "segment-webhook" => {
            workspace.webhook(client, path, &json!({"type": "page", "userId": null, "anonymousId": name}).to_string())
        }
        "upload-csv" => users::upload(client, workspace, path, &[name.to_owned()]),
        _ => panic!("nobody drives the rule {rule}"),
    }
}

fn delete(workspace: &Workspace<'_>, client: &mut Client, rule: &str, path: &str, table: &str, name: &str) -> Answer {
    let workspace_id = &workspace.id;
    match rule {
        "delete-users" => workspace.send(client, "DELETE", path, &json!({"userIds": [name]})),
        "delete-users-v2" => {
            client.send("DELETE", &format!("{path}?workspaceId={workspace_id}&userIds={name}"), &[], "")
        }
        _ => {
            let id = workspace.column(table, "id", name);
            match rule.ends_with("-v2") {
                true => client.send("DELETE", &format!("{path}?workspaceId={workspace_id}&id={id}"), &[], ""),
                false => workspace.send(client, "DELETE", path, &json!({"id": id})),
            }
        }
    }
}

/// A limit is reached by the route itself, and is in its way then.
fn creates(stand: &Stand, client: &mut Client, map: &RouteMap, rule: &MappedRule, (method, path): (&str, &str)) {
    let (resource, before, room) = match rule.name() {
        "duplicate" => ("segments", 1, 2),
        // Two lines of its frame are held with the user.
        "upload-csv" => ("users", 0, 3),
        _ => (map.catalog().get(rule.resources().next().unwrap()).name(), 0, 1),
    };
    let (table, counted) = table_of(resource);
    let limit = map.catalog().by_name(resource).unwrap().limit_field();
    let workspace = stand.workspace(&[(limit, room)]);
    match rule.name() {
        "duplicate" => drop(make_plainly(&workspace, client, resource, "original").expect(200)),
        "archive-broadcast" => {
            let rows = format!(
                r#"INSERT INTO "Broadcast" ("workspaceId", "name", "archived")
                   SELECT '{}', name, true FROM unnest(ARRAY['first', 'second']) name"#,
                workspace.id
            );
            stand.database().run(rows);
        }
        "segment-webhook" => workspace.take_webhooks(),
        _ => {}
    }
    let first = create(&workspace, client, rule.name(), method, path, "first");
    assert!([200, 204].contains(&first.status), "{method} {path}: {first}");
    until("the row is there", || workspace.rows(table, counted) == before + 1);
    let second = create(&workspace, client, rule.name(), method, path, "second");
    assert_eq!(second.status, 429, "{method} {path}: {second}");
    assert_eq!(workspace.rows(table, counted), before + 1, "{method} {path}");
}

/// Where there is no room, a deletion by the route makes some.
fn deletes(stand: &Stand, client: &mut Client, map: &RouteMap, rule: &MappedRule, path: &str) {
    let resource = map.catalog().get(rule.resources().next().unwrap());
    let (table, counted) = table_of(resource.name());
    let workspace = stand.workspace(&[(resource.limit_field(), 1)]);
    make_plainly(&workspace, client, resource.name(), "first").expect(200);
    make_plainly(&workspace, client, resource.name(), "second").refused(429, "QUOTA_EXCEEDED");
    let deleted = delete(&workspace, client, rule.name(), path, table, "first");
    assert_eq!(deleted.status, 204, "{path}: {deleted}");
    make_plainly(&workspace, client, resource.name(), "second").expect(200);
    make_plainly(&workspace, client, resource.name(), "third").refused(429, "QUOTA_EXCEEDED");
    assert_eq!(workspace.rows(table, counted), 1, "{path}");
}

/// What makes nothing reaches the API where there may be nothing at all.
fn passes(stand: &Stand, client: &mut Client, map: &RouteMap, (method, path): (&str, &str)) {
    let limits: Vec<_> = map.catalog().iter().map(|resource| (resource.limit_field(), 0)).collect();
    let workspace = stand.workspace(&limits);
    let rest = if method == "PUT" { "periods" } else { "trigger-recompute" };
    let answer =
        workspace.send(client, method, &path.replace("{*rest}", rest), &json!({"id": stand.uuid(), "name": "n"}));
    assert!(answer.status != 429 && answer.header("x-body-sha256").is_some(), "{method} {path}: {answer}");
    let rows = |resource: &str| workspace.rows(table_of(resource).0, "true");
    assert_eq!(map.catalog().iter().map(|resource| rows(resource.name())).sum::<i64>(), 0, "{method} {path}");
}

#[test]
fn every_route_of_the_map_is_charged_or_frees_or_passes() {
    let map = include_str!("../../maps/dittofeed.toml");
    let map = RouteMap::with_types_from_toml(map, ResourceCatalog::empty()).unwrap();
    let stand = Stand::start(seed(), &[]);
    let mut clients = [stand.connect(0), stand.connect(1)];
    let routes = map.rules().flat_map(|rule| map.routes_of(rule).map(move |route| (rule, route)));
    for (number, (rule, (method, path))) in routes.enumerate() {
        let client = &mut clients[number % 2];
        let route = (method.as_str(), path);
        match rule.operation() {
            Operation::Ignore => passes(&stand, client, &map, route),
            Operation::Delete => deletes(&stand, client, &map, rule, path),
            _ => creates(&stand, client, &map, rule, route),
        }
    }
}
