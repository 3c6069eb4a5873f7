//! Keys that say whose a request is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::host::{Folder, RULES, Service};
use crate::support::client::Answer;
use crate::support::quickstart::Server;

const CLAIM: &str = r#"[gateway]
listen = "127.0.0.1:0"
upstream = "http://127.0.0.1:9"

[[gateway.claim]]
rules = ["create-segment"]
scheme = "basic"
sql = "SELECT workspace FROM keys WHERE name = $1 AND password = $2"
"#;

/// Rules that go by nothing else.
fn extension() -> String {
    RULES.replace(r#"[{ path = "workspace" }]"#, r#"["extension"]"#)
}

/// One key of `acme`, and one of `globex`, which may create nothing.
fn start() -> (Folder, Service) {
    let folder = Folder::new(Server::Sqlite);
    let keys = "CREATE TABLE keys (name TEXT, password TEXT, workspace TEXT);
        INSERT INTO keys VALUES ('ann', 'one', 'acme'), ('ben', 'two', 'globex')";
    folder.database().run(keys.to_owned());
    folder.write("routes.toml", &extension());
    folder.append(CLAIM);
    let service = folder.start();
    service.admin().send("PUT", "/api/workspaces/globex/quota", r#"{"maxSegments": 0}"#).expect(200);
    (folder, service)
}

/// The answer to a creation that comes with this key.
fn create(service: &Service, key: &str) -> Answer {
    service.front().send_with("POST", "/workspaces/acme/segments", &[("authorization", key)], "")
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

#[test]
fn a_key_says_whose_a_request_is() {
    let (_folder, service) = start();
    let create = |key: &str| create(&service, key);
    // Forwarded; but nobody is there.
    assert_eq!(create(&basic("ann:one")).status, 502);
    create(&basic("ben:two")).refused(429, "QUOTA_EXCEEDED");
    create(&basic("ben:one")).refused(401, "UNAUTHENTICATED");
    service.front().send("POST", "/workspaces/acme/segments", "").refused(401, "UNAUTHENTICATED");
    // In mode `off`, nothing is looked at.
    service.admin().send("PUT", "/api/system/config/quota-enforcement", r#"{"mode": "off"}"#).expect(200);
    assert_eq!(create(&basic("ben:one")).status, 502);
}

#[test]
fn claims_change_with_their_rules() {
    let (folder, service) = start();
    let holds = || {
        assert_eq!(create(&service, &basic("ann:one")).status, 502);
        create(&service, &basic("ben:two")).refused(429, "QUOTA_EXCEEDED");
        create(&service, &basic("ben:one")).refused(401, "UNAUTHENTICATED");
    };
    // Rules without what a claim names.
    folder.write("routes.toml", &extension().replace("create-segment", "make-segment"));
    service.reload();
    service.logs("there is no rule \"create-segment\" in `rules`");
    holds();
    // A statement that the database doesn't know.
    folder.change("\"create-segment\"", "\"make-segment\"");
    folder.change("FROM keys", "FROM locks");
    service.reload();
    service.logs("no such table: locks");
    holds();

    folder.change("FROM locks", "FROM keys");
    service.reload();
    holds();
    folder.change("scheme = \"basic\"", "scheme = \"bearer\"");
    folder.change(" AND password = $2", "");
    service.reload();
    assert_eq!(create(&service, "Bearer ann").status, 502);
    create(&service, "Bearer ben").refused(429, "QUOTA_EXCEEDED");
    create(&service, &basic("ann:one")).refused(401, "UNAUTHENTICATED");
    let log = service.log();
    assert_eq!(log.matches("the configuration stays as it was").count(), 2, "{log}");
    assert!(!log.contains("can't change while it runs"), "{log}");
}

#[test]
fn a_claim_is_of_a_rule_that_takes_it_and_goes_by_its_key() {
    let good = Folder::new(Server::Sqlite);
    let extension = extension();
    let told = |rules: &str, from: &str, to: &str| {
        let folder = Folder::new(Server::Sqlite);
        folder.write("routes.toml", rules);
        assert!(CLAIM.contains(from));
        folder.append(&CLAIM.replace(from, to));
        let config = std::fs::read_to_string(folder.path("quota.toml")).unwrap();
        let line = config.lines().position(|line| line == "[[gateway.claim]]").unwrap() + 1;
        let told = folder.refused(&["--check"], 2);
        assert!(told.contains(&format!("quota.toml, line {line}: ")), "{line} {told}");
        told
    };
    let sql = |to: &str| told(&extension, "name = $1 AND password = $2", to);
    assert!(told(RULES, "", "").contains("rule \"create-segment\" takes no claim: add \"extension\""));
    assert!(told(&extension, "create-segment", "create-user").contains("there is no rule \"create-user\""));
    assert!(told(&extension, "\"create-segment\"", "").contains("`rules` is empty"));
    assert!(told(&extension, "\"create-segment\"", "\"create-segment\", \"create-segment\"").contains("two claims"));
    assert!(told(&extension, "scheme", "header = \"a b\"\nscheme").contains("\"a b\" is no name of a header"));
    assert!(told(&extension, "\"basic\"", "\"bearer\"").contains("goes by the key, `$1`, and by nothing else"));
    assert!(sql("name = $1").contains("the password, `$2`"));
    assert!(sql("true").contains("the password, `$2`"));

    good.write("routes.toml", &extension);
    good.append(CLAIM);
    assert_eq!(good.output(&["--check"]).status.code(), Some(0));
    // Its table is missing: that is for the database to say, at the start.
    let told = good.refused(&[], 3);
    assert!(told.contains("a [[gateway.claim]] can't be looked up") && told.contains("no such table: keys"), "{told}");
}
