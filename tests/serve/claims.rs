//! Keys that say whose a request is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::host::{Folder, RULES};
use crate::support::quickstart::Server;

const CLAIM: &str = r#"[gateway]
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

#[test]
fn a_key_says_whose_a_request_is() {
    let folder = Folder::new(Server::Sqlite);
    let keys = "CREATE TABLE keys (name TEXT, password TEXT, workspace TEXT);
        INSERT INTO keys VALUES ('ann', 'one', 'acme'), ('ben', 'two', 'globex')";
    folder.database().run(keys.to_owned());
    folder.write("routes.toml", &extension());
    folder.append(CLAIM);
    let service = folder.start();
    service.admin().send("PUT", "/api/workspaces/globex/quota", r#"{"maxSegments": 0}"#).expect(200);
    let create = |key: &str| {
        let headers = [("authorization", key)];
        service.front().send_with("POST", "/workspaces/acme/segments", &headers, "")
    };
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
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
