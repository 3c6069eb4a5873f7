//! Files of rules, and what else needs no server.

use crate::transcript::Session;

const RULES: &str = r#"strict_prefixes = ["/api"]

[[resource]]
name = "webhooks"
limit_field = "maxWebhooks"
default = 20
table = "Webhook"

[[rule]]
name = "create-webhooks"
methods = ["POST", "PUT"]
paths = ["/api/{workspace}/webhooks"]
workspace = [{ path = "workspace" }]
charge = [{ resource = "webhooks" }]

[[rule]]
name = "create-users-batch"
methods = ["POST"]
paths = ["/api/users/batch"]
workspace = [{ header = "x-workspace" }, { body = "/workspaceId" }]
charge = [{ resource = "users", amount = { length = "/users" } }]

[[rule]]
name = "upsert-segment"
methods = ["PUT"]
paths = ["/api/segments"]
operation = "upsert"
workspace = [{ body = "/workspaceId" }]

[[rule.charge]]
resource = "segments"
probe = [{ body = "/id", column = "id" }, { body = "/name", column = "name" }]

[[rule]]
name = "search-users"
methods = ["POST"]
paths = ["/api/users/search"]
operation = "ignore"
"#;

#[test]
fn rules_are_checked() {
    let mut session = Session::new();
    session.file("routes.toml", RULES);
    session.file("twice.toml", &RULES.replace("search-users", "upsert-segment"));
    session.file("unknown.toml", &RULES.replace("operation = \"ignore\"", "operaton = \"ignore\""));
    session.file("value.toml", &RULES.replace("\"ignore\"", "\"pass\""));
    session.file("type.toml", &RULES.replace("resource = \"segments\"", "resource = \"zebras\""));
    session.file("open.toml", "[[rule]\n");
    session.file("routes.json", r#"{"rule": [{"name": "one", "methods": ["POST"], "paths": ["users"]}]}"#);
    session.all(&[
        "routes check routes.toml",
        "routes check routes.toml --output json",
        "routes check twice.toml",
        "routes check unknown.toml",
        "routes check value.toml",
        "routes check type.toml",
        "routes check type.toml --resource zebras --output csv",
        "routes check open.toml",
        "routes check routes.json",
        "routes check absent.toml",
        "routes check",
    ]);
    session.is("routes-check.txt");
}

#[test]
fn requests_are_explained() {
    let mut session = Session::new();
    session.file("routes.toml", RULES);
    session.file("body.json", r#"{"workspaceId": "acme", "users": [1, 2, 3]}"#);
    session.all(&[
        "routes explain routes.toml POST /api/acme/webhooks",
        "routes explain routes.toml post /api/acme/webhooks",
        "routes explain routes.toml POST /api/users/batch @body.json",
        "routes explain routes.toml POST /api/users/batch '{\"users\": []}' -H 'x-workspace: acme' --output json",
        "routes explain routes.toml PUT /api/segments '{\"workspaceId\": \"acme\", \"name\": \"Big spenders\"}'",
        "routes explain routes.toml PUT /api/segments '{\"workspaceId\": \"acme\", \"name\": \"x\"}' --output json",
        "routes explain routes.toml POST /api/users/search",
        "routes explain routes.toml POST /api/other",
        "routes explain routes.toml POST /other",
        "routes explain routes.toml POST /api/users/batch @body.json -H 'x-workspace: globex'",
        "routes explain routes.toml POST /api/users/batch '{\"users\": 5}' -H 'x-workspace: acme'",
        "routes explain routes.toml POST /api/users/batch '{' -H 'x-workspace: acme' --output json",
        "routes explain routes.toml POST api/users",
        "routes explain routes.toml POST '/a b'",
        "routes explain routes.toml 'PO ST' /api/users",
        "routes explain routes.toml POST /api/users/batch @absent.json",
        "routes explain routes.toml POST /api/users/batch -H nothing",
    ]);
    session.run_with("routes explain routes.toml POST /api/users/batch -", r#"{"workspaceId": "acme", "users": [1]}"#);
    session.is("routes-explain.txt");
}

#[test]
fn the_map_of_dittofeed_is_good_and_explained() {
    let mut session = Session::new();
    let map = concat!(env!("CARGO_MANIFEST_DIR"), "/maps/dittofeed.toml");
    session.file("dittofeed.toml", &std::fs::read_to_string(map).unwrap());
    let workspace = "0190163D-8694-739B-AEA5-966C26F8AD91";
    let named = format!("-H 'df-workspace-id: {workspace}'");
    let id = "6E9F5A1C-0D3B-4C5E-9B7A-2F1E8D4C6B0A";
    session
        .file("users.csv", "--edge\nContent-Disposition: form-data; name=csv; filename=u\n\nid\nann\nben\n--edge--\n");
    session.all(&[
        "routes check dittofeed.toml",
        &format!("routes explain dittofeed.toml PUT '/api/%73egments;x' '{{\"name\": \"Spenders\"}}' {named}"),
        &format!(
            "routes explain dittofeed.toml PUT /api/admin/segments/ '{{\"id\": \"{id}\", \"resourceType\": \"Declarative\"}}' {named}"
        ),
        &format!("routes explain dittofeed.toml PUT /api/segments '{{\"name\": \"s\", \"resourceType\": \"Internal\"}}' {named}"),
        &format!("routes explain dittofeed.toml POST /api/resources/duplicate '{{\"name\": \"n\", \"resourceType\": \"Journey\"}}' {named}"),
        &format!(
            "routes explain dittofeed.toml POST /api/public/apps/batch \
             '{{\"batch\": [{{\"userId\": \"ann\"}}, {{\"type\": \"group\", \"userId\": \"ann\", \"groupId\": \"staff\"}}]}}' --claim {workspace}"
        ),
        &format!("routes explain dittofeed.toml POST /api/public/apps/track '{{\"userId\": \"ann\"}}' {named}"),
        &format!("routes explain dittofeed.toml POST /api/segments/upload-csv @users.csv {named}"),
        &format!("routes explain dittofeed.toml POST /api/segments/upload-csv @users.csv {named} --output json"),
        &format!("routes explain dittofeed.toml DELETE '/api/segments/v2?workspaceId={workspace}&id={id}'"),
        "routes explain dittofeed.toml POST /api/users/count",
        "routes explain dittofeed.toml PUT /api/segments/other",
    ]);
    session.is("routes-dittofeed.txt");
}

#[test]
fn shells_complete_commands() {
    let mut session = Session::new();
    for (shell, begins) in [("bash", "_quotactl()"), ("zsh", "#compdef quotactl"), ("fish", "complete -c quotactl")] {
        let script = session.run(&format!("completions {shell}")).stdout;
        assert!(script.contains(begins) && script.contains("recalculate") && script.contains("if-match"), "{script}");
    }
    let mut session = Session::new();
    session.run("completions tcsh");
    session.is("completions.txt");
    if std::path::Path::new("/bin/bash").exists() {
        let script = session.run("completions bash").stdout;
        let file = session.file("completions", &script);
        let asked = "COMP_WORDS=(quotactl rec) COMP_CWORD=1; _quotactl quotactl rec; echo \"${COMPREPLY[@]}\"";
        let asked = format!("source {}; {asked}", file.display());
        let completed = std::process::Command::new("/bin/bash").args(["-c", &asked]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "recalculate");
    }
}

#[test]
fn help() {
    let mut session = Session::new();
    session.all(&["--help", "update --help", "report --help", "monitor -h", "webhooks add --help"]);
    session.is("help.txt");
    let mut session = Session::new();
    session.all(&["", "stats", "--output json status -w acme"]);
    assert_eq!(session.run("--version").stdout, format!("quotactl {}\n", env!("CARGO_PKG_VERSION")));
    session.is("usage.txt");
}
