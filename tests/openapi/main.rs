//! The description of the API, held against a running quickstart by schemathesis, which finds nothing.
//!
//! | variable | default |
//! |---|---|
//! | `SCHEMATHESIS_EXAMPLES` | 20: the most calls of one operation in each of its ways to make some up; 1000 is a long run |
//! | `SCHEMATHESIS_SEED` | 1 |
//!
//! A Python that has `venv` is needed, and the network when it is first run: it installs what `requirements.txt` lists.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use support::python::{self, run};
use support::quickstart::{ACME, ADMIN, Quickstart, Server};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi");

/// Where the programs are that come with schemathesis.
fn environment() -> PathBuf {
    python::environment("schemathesis", &Path::new(HERE).join("requirements.txt"))
}

fn document(server: &Quickstart) -> Value {
    server.anonymous().send("GET", "/api/openapi.json", "").expect(200).json()
}

/// Calls all operations as whoever has `token`, in all ways that schemathesis knows, and checks all that it can check.
fn fuzz(token: &str, more: &[&str]) {
    let server = Quickstart::start(Server::Sqlite);
    let document = document(&server);
    let folder = tempfile::tempdir().unwrap();
    let or = |name, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let printed = run(Command::new(environment().join("schemathesis"))
        .current_dir(folder.path())
        .env("PYTHONPATH", HERE)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("QUOTA_TOKEN", token)
        .args(["--config-file", &format!("{HERE}/schemathesis.toml"), "run", "--no-color"])
        .arg(format!("http://{}/api/openapi.json", server.address))
        .args(["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful", "--generation-database", "none"])
        .args(["--seed", &or("SCHEMATHESIS_SEED", "1"), "--max-examples", &or("SCHEMATHESIS_EXAMPLES", "20")])
        .args(more));
    println!("{printed}");
    let paths = document["paths"].as_object().unwrap();
    // All but that which it reads at its start.
    let tested = paths.values().map(|path| path.as_object().unwrap().len()).sum::<usize>() - 1;
    assert!(printed.contains(&format!("Tested: {tested}\n")), "it left something out");
    // It is there still.
    server.anonymous().send("GET", "/api/system/health", "").expect(200);
}

#[test]
fn an_admin_finds_nothing() {
    fuzz(ADMIN, &[]);
}

#[test]
fn a_member_finds_nothing() {
    fuzz(ACME, &["--header", "Accept: application/problem+json"]);
}

#[test]
fn a_stranger_finds_nothing() {
    fuzz("nobodys-token", &[]);
}

#[test]
fn the_document_is_one_and_its_examples_fit_their_schemas() {
    let server = Quickstart::start(Server::Sqlite);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("openapi.json");
    fs::write(&file, document(&server).to_string()).unwrap();
    let python = environment().join("python");
    let examples = run(Command::new(python).arg(format!("{HERE}/check.py")).arg(&file));
    assert!(examples.trim().parse::<usize>().unwrap() > 100, "{examples}");
}

/// Debian's Chromium, or what is called so elsewhere.
fn browser() -> Command {
    let mut browser = Command::new(env::var("TEST_CHROMIUM").unwrap_or_else(|_| "chromium".into()));
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]);
    browser
}

#[test]
fn a_browser_shows_all_operations_and_has_nothing_to_complain_of() {
    let server = Quickstart::start(Server::Sqlite);
    let profile = tempfile::tempdir().unwrap();
    let mut browser = browser();
    browser.arg(format!("--user-data-dir={}", profile.path().display()));
    // It is the page's time that passes, however long that takes.
    browser.args(["--virtual-time-budget=20000", "--dump-dom"]).arg(format!("http://{}/api/docs", server.address));
    let output = browser.output().unwrap();
    let (page, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!log.contains("CONSOLE"), "{log}");
    let document = document(&server);
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("data-path=\"{path}\"")), "{path} is not on the page: {log}");
    }
    assert!(page.contains("<option value=\"/api\">"), "it doesn't know where the API is");
}
