//! From its start to its end.

use crate::host::{ACME, Folder, Service};
use crate::support::client::Connection;
use crate::support::quickstart::Server;
use crate::support::until;

/// What is there on either database.
fn serves(on: Server) {
    let folder = Folder::new(on);
    folder.insert(2);
    let mut service = folder.start();
    assert_eq!(service.probe("/livez"), Some(200));

    let mut admin = service.admin();
    let quota = admin.send("GET", "/api/workspaces/acme/quota", "").expect(200).json();
    assert_eq!((&quota["quota"]["maxSegments"], &quota["usage"]["segments"]), (&3.into(), &2.into()), "{quota}");
    admin.send("PUT", "/api/workspaces/acme/quota", r#"{"maxSegments": 2}"#).expect(200);
    let full = r#"{"resourceType": "segments"}"#;
    admin.send("POST", "/api/workspaces/acme/quota/validate", full).refused(429, "QUOTA_EXCEEDED");
    // What the member of one workspace may not do.
    let mut member = service.connect().with_token(ACME);
    member.send("GET", "/api/workspaces/acme/quota", "").expect(200);
    member.send("PUT", "/api/workspaces/acme/quota", "{}").refused(403, "INSUFFICIENT_PERMISSIONS");
    member.send("GET", "/api/workspaces/globex/quota", "").refused(403, "INSUFFICIENT_PERMISSIONS");
    service.connect().send("GET", "/api/workspaces/acme/quota", "").refused(401, "UNAUTHENTICATED");
    service.connect().send("GET", "/api/nothing", "").refused(404, "NOT_FOUND");
    // From where it was, for the audit log.
    let audit = admin.send("GET", "/api/workspaces/acme/quota/audit", "").expect(200).text();
    assert!(audit.contains("operators") && audit.contains("api 127.0.0.1"), "{audit}");
    service.connect().send("GET", "/api/openapi.json", "").expect(200);

    until("what it did is told in metrics", || {
        let metrics = service.connect().send("GET", "/metrics", "").expect(200).text();
        metrics.contains("tower_quota_counts_total{resource_type=\"segments\"}")
    });
    service.signal("TERM");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());

    // What was set is there again.
    let service = folder.start();
    let quota = service.admin().send("GET", "/api/workspaces/acme/quota", "").expect(200).json();
    assert_eq!(quota["quota"]["maxSegments"], 2, "{quota}");
}

#[test]
fn it_serves_on_sqlite() {
    serves(Server::Sqlite);
}

#[test]
fn it_serves_on_postgres() {
    serves(Server::Postgres);
}

#[test]
fn several_share_a_postgres_database() {
    let folder = Folder::new(Server::Postgres);
    let (one, other) = (folder.start(), folder.start());
    one.admin().send("PUT", "/api/workspaces/acme/quota", r#"{"maxSegments": 9}"#).expect(200);
    until("the other knows it, too", || {
        let quota = other.admin().send("GET", "/api/workspaces/acme/quota", "").expect(200).json();
        quota["quota"]["maxSegments"] == 9
    });
}

#[test]
fn rows_can_be_elsewhere() {
    let (records, rows) = (Folder::new(Server::Sqlite), Folder::new(Server::Postgres));
    rows.insert(3);
    records.append(&format!("[rows]\nurl = \"{}\"\n", rows.url));
    let service = records.start();
    let quota = service.admin().send("GET", "/api/workspaces/acme/quota", "").expect(200).json();
    assert_eq!(quota["usage"]["segments"], 3, "{quota}");
}

/// Begins a request, which the service waits for the end of.
fn begin(service: &Service) -> Connection {
    let mut connection = service.admin();
    // So the service has it in its hands before it is told anything.
    connection.send("GET", "/api/workspaces/acme/quota", "").expect(200);
    let head = format!(
        "PUT /api/workspaces/acme/quota HTTP/1.1\r\nhost: it\r\nauthorization: Bearer {}\r\nexpect: 100-continue\r\n\
         content-length: 18\r\n\r\n",
        crate::host::ADMIN
    );
    connection.send_raw(head.as_bytes()).unwrap();
    // It asks for the body once it is at work.
    assert_eq!(connection.read_head().unwrap().status, 100);
    connection
}

#[test]
fn what_is_under_way_is_finished() {
    let folder = Folder::new(Server::Sqlite);
    let mut service = folder.start();
    let mut fresh = service.connect();
    let mut connection = begin(&service);
    let mut idle = service.connect();
    idle.send("GET", "/livez", "").expect(200);
    service.signal("TERM");
    until("it takes no more connections", || Connection::open(service.address).is_err());
    // Who asks for nothing is not waited for.
    assert!(idle.try_send("GET", "/livez", "").is_err() && fresh.read().is_err());
    assert!(service.is_running(), "it waits for the request: {}", service.log());
    connection.send_raw(br#"{"maxSegments": 7}"#).unwrap();
    let answer = connection.read().unwrap().expect(200);
    assert!(!answer.keeps_alive() && answer.json()["quota"]["maxSegments"] == 7, "{answer}");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
    assert!(!service.log().contains("cut off"), "{}", service.log());
}

#[test]
fn nobody_is_waited_for_forever() {
    let folder = Folder::new(Server::Sqlite);
    folder.append("[shutdown]\npatience_seconds = 1\n");
    let mut service = folder.start();
    let mut connection = begin(&service);
    service.signal("INT");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
    assert!(connection.read().is_err());
    service.logs("requests are cut off");
}

#[test]
fn a_load_balancer_is_told_before_it_ends() {
    let folder = Folder::new(Server::Sqlite);
    folder.append("[shutdown]\ndrain_seconds = 3\n");
    let mut service = folder.start();
    service.signal("TERM");
    until("it is not ready any more", || service.probe("/readyz") == Some(503));
    service.admin().send("GET", "/api/workspaces/acme/quota", "").expect(200);
    assert_eq!(service.probe("/livez"), Some(200));
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
}

#[test]
fn it_is_not_ready_without_its_store() {
    let server = crate::support::postgres::Server::start(crate::support::postgres::Durability::None);
    let folder = Folder::new(Server::Sqlite);
    let url = server.database();
    crate::support::database::Database::postgres(&url)
        .run(r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL)"#.to_owned());
    folder.change(&folder.url, &url);
    let mut service = folder.start();
    server.stop();
    until("it is not ready", || service.probe("/readyz") == Some(503));
    assert_eq!(service.probe("/livez"), Some(200));
    server.start_again();
    until("it is ready again", || service.probe("/readyz") == Some(200));
    assert!(service.is_running());
}
