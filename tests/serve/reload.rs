//! A configuration that is read anew while it runs.

use crate::host::{ADMIN, Folder, RULES, Service};
use crate::support::quickstart::Server;

const QUOTA: &str = "/api/workspaces/acme/quota";
const MODE: &str = "/api/system/config/quota-enforcement";

#[track_caller]
fn answers(service: &Service, token: &str, status: u16) {
    service.connect().with_token(token).send("GET", QUOTA, "").expect(status);
}

fn mode(service: &Service) -> String {
    service.admin().send("GET", MODE, "").expect(200).json()["mode"].as_str().unwrap().to_owned()
}

#[test]
fn tokens_mode_and_level_change_while_it_runs() {
    let folder = Folder::new(Server::Sqlite);
    folder.change("rules =", "mode = \"warn\"\nrules =");
    let service = folder.start();
    assert_eq!(mode(&service), "warn");
    let mut connection = service.admin();
    connection.send("GET", QUOTA, "").expect(200);

    folder.private("admin-token", "another-s3cret");
    folder.change("mode = \"warn\"", "mode = \"strict\"");
    folder.append("[log]\nlevel = \"debug\"\n");
    service.reload();
    // A connection that is open already is no exception.
    connection.send("GET", QUOTA, "").expect(401);
    answers(&service, ADMIN, 401);
    answers(&service, "another-s3cret", 200);
    folder.private("admin-token", ADMIN);
    service.reload();
    assert_eq!(mode(&service), "strict");
    // Calls of the store are spans on that level, and requests that break off are told.
    drop(service.connect().send_raw(b"nonsense\r\n\r\n"));
    service.logs("DEBUG");
}

#[test]
fn a_mode_that_was_set_over_the_api_stays() {
    let folder = Folder::new(Server::Sqlite);
    folder.change("rules =", "mode = \"warn\"\nrules =");
    let service = folder.start();
    service.admin().send("PUT", MODE, r#"{"mode": "off"}"#).expect(200);
    folder.change("mode = \"warn\"", "mode = \"strict\"");
    service.reload();
    assert_eq!(mode(&service), "off");
    service.logs("the mode was set over the API");
}

#[test]
fn a_bad_file_changes_nothing() {
    let folder = Folder::new(Server::Sqlite);
    let service = folder.start();
    folder.private("admin-token", "another-s3cret");
    folder.append("[nonsense]\n");
    service.reload();
    service.logs("line 19: unknown field `nonsense`");
    answers(&service, ADMIN, 200);
    answers(&service, "another-s3cret", 401);

    // The same of a rule.
    folder.change("[nonsense]", "");
    folder.write("routes.toml", &RULES.replace("methods", "method"));
    service.reload();
    service.logs("routes.toml, line 9, rule \"create-segment\": unknown field `method`");
    answers(&service, ADMIN, 200);
    assert_eq!(service.probe("/readyz"), Some(200));

    // And once it is good, it counts.
    folder.write("routes.toml", &RULES.replace("create-segment", "make-segment"));
    service.reload();
    answers(&service, "another-s3cret", 200);
}

#[test]
fn what_can_not_change_is_told_and_the_rest_does() {
    let folder = Folder::new(Server::Sqlite);
    let service = folder.start();
    folder.change("127.0.0.1:0", "127.0.0.1:1");
    folder.append("[metrics]\npath = \"/elsewhere\"\n");
    folder.write("routes.toml", &RULES.replace("default = 3", "default = 4"));
    folder.private("admin-token", "another-s3cret");
    service.reload();
    answers(&service, "another-s3cret", 200);
    let log = service.log();
    for name in ["listen", "metrics", "the resource types"] {
        let told = log.lines().any(|line| line.contains("can't change while it runs") && line.contains(name));
        assert!(told, "{name}: {log}");
    }
    assert!(!log.lines().any(|line| line.contains("can't change") && line.contains("token")), "{log}");
    assert_eq!((service.probe("/metrics"), service.probe("/elsewhere")), (Some(200), Some(404)));
    let quota = service.connect().with_token("another-s3cret").send("GET", QUOTA, "").expect(200).json();
    assert_eq!(quota["quota"]["maxSegments"], 3, "{quota}");
}
