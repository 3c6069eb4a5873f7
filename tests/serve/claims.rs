//! Keys that say whose a request is: what makes no sense.

use crate::host::{Folder, RULES};
use crate::support::quickstart::Server;

const CLAIM: &str = r#"[gateway]
upstream = "http://127.0.0.1:9"

[[gateway.claim]]
rules = ["create-segment"]
scheme = "basic"
sql = "SELECT workspace FROM keys WHERE name = $1 AND password = $2"
"#;

#[test]
fn a_claim_is_of_a_rule_that_takes_it_and_goes_by_its_key() {
    let good = Folder::new(Server::Sqlite);
    let extension = RULES.replace(r#"[{ path = "workspace" }]"#, r#"["extension"]"#);
    let told = |rules: &str, from: &str, to: &str| {
        let folder = Folder::new(Server::Sqlite);
        folder.write("routes.toml", rules);
        assert!(CLAIM.contains(from));
        folder.append(&CLAIM.replace(from, to));
        let first = std::fs::read_to_string(folder.path("quota.toml")).unwrap();
        let line = first.lines().position(|line| line == "[[gateway.claim]]").unwrap() + 1;
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
