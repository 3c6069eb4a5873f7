//! What is made for Prometheus and Grafana, against Prometheus' own tool and what a running example really exports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use support::exported::Exported;
use support::quickstart::{Quickstart, Server, create, set_quota};
use support::until;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(folder().join(path)).unwrap()
}

/// `TEST_PROMTOOL`, or what is in the path, or what `test.sh` has put beside what is built.
fn promtool() -> PathBuf {
    let paths = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&paths).map(|folder| folder.join("promtool"));
    let told = env::var_os("TEST_PROMTOOL").map(PathBuf::from);
    let mut all = told.into_iter().chain(in_path).chain([folder().join("target/tools/bin/promtool")]);
    all.find(|path| path.is_file())
        .expect("the tests need promtool (Debian's prometheus), or TEST_PROMTOOL to say where it is")
}

/// What it says to these arguments and this input, which it must be content with.
#[track_caller]
fn passes(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(promtool());
    command.args(arguments).current_dir(folder()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn each_alert_fires_when_it_should_and_not_else() {
    passes(&["check", "rules", "monitoring/alerts.yml"], "");
    passes(&["test", "rules", "monitoring/alerts-test.yml"], "");
    let (alerts, tests) = (read("monitoring/alerts.yml"), read("monitoring/alerts-test.yml"));
    let alerts: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(alert), "nothing tests {alert}");
    }
}

/// The panels that show something.
fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read("monitoring/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    panels.iter().filter(|panel| panel["type"] != "row").cloned().collect()
}

fn expressions(panel: &Value) -> impl Iterator<Item = &str> {
    panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].as_str().unwrap())
}

#[test]
fn each_panel_asks_the_chosen_prometheus_something_that_it_understands() {
    let (mut ids, mut rules) = (BTreeSet::new(), Vec::new());
    for panel in panels() {
        let title = panel["title"].as_str().unwrap();
        assert!(panel["description"].as_str().unwrap().len() > 20, "{title} says nothing of what it shows");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: another panel has its id");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for expression in expressions(&panel) {
            // What Grafana puts in the place of its variables.
            let expression = expression.replace("$__rate_interval", "5m").replace("$__range", "6h");
            let expression = expression.replace("$instance", ".*").replace("$resource_type", ".*");
            assert!(!expression.contains('$'), "{title}: {expression}");
            rules.push(json!({ "record": format!("panel:{}", rules.len()), "expr": expression }));
        }
    }
    // JSON is YAML.
    let rules = json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    passes(&["check", "rules", "--lint=none", file.path().to_str().unwrap()], "");
}

/// The names of metrics in a text, as Prometheus has them before it makes series of a histogram.
fn named_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let names = words.filter(|word| word.starts_with("tower_quota_"));
    let base = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned()
    };
    names.map(base).collect()
}

/// What the running example has for Prometheus.
fn scrape(server: &Quickstart) -> String {
    let answer = server.anonymous().send("GET", "/metrics", "").expect(200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"), "{answer}");
    answer.text()
}

#[test]
fn what_is_drawn_alerted_on_and_documented_is_what_is_exported() {
    for on in [Server::Sqlite, Server::Postgres] {
        let server = Quickstart::start(on);
        let mut connection = server.connect();
        set_quota(&mut connection, "acme", &json!({ "maxSegments": 2 }));
        for name in ["one", "two"] {
            create(&mut connection, "acme", name).expect(201);
        }
        create(&mut connection, "acme", "one too many").expect(429);
        let decided = r#"tower_quota_decisions_total{resource_type="segments",outcome="admitted"}"#;
        until("the engine has told", || Exported::parse(&scrape(&server)).value(decided) == 2.0);
        let scraped = scrape(&server);
        let exported = Exported::parse(&scraped);
        let refused = r#"tower_quota_decisions_total{resource_type="segments",outcome="refused"}"#;
        assert_eq!(exported.value(refused), 1.0);
        // It says nothing about a file that it is content with.
        assert_eq!(passes(&["check", "metrics"], &scraped), "");
        // Whose they are is nowhere.
        assert!(!scraped.contains("acme"));

        let dashboard: String = panels()
            .iter()
            .flat_map(|panel| expressions(panel).map(|it| format!("{it}\n")).collect::<Vec<_>>())
            .collect();
        assert_eq!(named_in(&dashboard), exported.names, "what is drawn, and what is exported");
        let readme = read("README.md");
        let documented = readme.split("\n## Metrics\n").nth(1).unwrap().split("\n## ").next().unwrap();
        assert_eq!(named_in(documented), exported.names, "what is documented, and what is exported");
        let alerts = named_in(&read("monitoring/alerts.yml"));
        let unknown: Vec<_> = alerts.difference(&exported.names).collect();
        assert!(!alerts.is_empty() && unknown.is_empty(), "nobody exports {unknown:?}");
    }
}
