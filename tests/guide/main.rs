//! Every block of code in the guide and in the README is true: Rust is compiled and run as doctests, and all else here.
//!
//! | block | what is done with it |
//! |---|---|
//! | `rust` | `cargo test --doc` runs it; here it is made sure of that it does |
//! | `console` | typed into a shell, against the quickstart on SQLite and on Postgres; what comes is compared |
//! | `sql` | run in the database of that quickstart, in its turn |
//! | `toml` | loaded as a file of rules, checked as a configuration of the service or a part of one, or held against the manifest; files are there in the shell |
//! | `sh` | calls of cargo: the examples and features that they name exist |
//! | `text` | the session that the tests of `quotactl` hold the README against |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]
#![cfg(unix)]

#[path = "../support/mod.rs"]
mod support;

mod blocks;
mod shell;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use snapbox::Assert;
use tower_quota::{ResourceCatalog, RouteMap};

use blocks::{Block, Document, documents, read};
use shell::Shell;
use support::quickstart::{Quickstart, Server};

#[test]
fn every_block_is_of_a_kind_that_is_tested() {
    let transcript = read("tests/quotactl/transcripts/readme.txt").replace("[ADDRESS]", "127.0.0.1:3000");
    for document in documents() {
        for Block { info, text, at } in &document.blocks {
            match info.as_str() {
                // With what else rustdoc knows, Rust would not be run, or not even be compiled.
                "console" | "sql" | "toml" | "sh" | "rust" => {}
                "text" => assert!(transcript.contains(text), "{at}: no test compares this text with anything"),
                _ => panic!("{at}: nothing tests blocks of the kind {info:?}"),
            }
        }
    }
}

/// Rustdoc runs what it is told of.
#[test]
fn every_page_is_a_module_of_the_documentation() {
    let guide = read("src/guide/mod.rs");
    let (_, pages) = guide.split_once("pages! {").unwrap();
    let mut modules: BTreeSet<_> = pages.trim_end_matches(['}', '\n']).split_whitespace().collect();
    let library = read("src/lib.rs");
    for document in documents().filter(|document| document.path.starts_with("docs/guide/")) {
        let page = document.path.trim_start_matches("docs/guide/").trim_end_matches(".md");
        let is_included = match page {
            "README" => guide.contains(r#"include_str!("../../docs/guide/README.md")"#),
            page => modules.remove(page),
        };
        assert!(is_included, "{} is no module of src/guide/mod.rs", document.path);
    }
    assert_eq!(modules, BTreeSet::new());
    assert!(library.contains("pub mod guide;") && library.contains(r#"#[doc = include_str!("../README.md")]"#));
}

#[test]
fn links_between_pages_lead_somewhere() {
    let links = read("src/guide/links.md");
    for document in documents().filter(|document| document.path.starts_with("docs/guide/")) {
        let mut defined = BTreeSet::new();
        for line in document.prose.lines() {
            let Some((name, target)) = line.strip_prefix('[').and_then(|line| line.split_once("]: ")) else { continue };
            assert_eq!(format!("{name}.md"), target, "{}", document.path);
            assert!(blocks::exists(&format!("docs/guide/{target}")), "{}: {target}", document.path);
            assert!(links.contains(&format!("[{name}]: crate::guide::{name}\n")), "src/guide/links.md: {name}");
            defined.insert(name);
        }
        let used = document.prose.split("][").skip(1).filter_map(|rest| rest.split(']').next());
        assert_eq!(used.collect::<BTreeSet<_>>(), defined, "{}: links and their definitions", document.path);
        assert!(!document.prose.contains(".md)"), "{}: rustdoc has no such file: write [text][page]", document.path);
    }
}

/// What a block of TOML is.
#[derive(PartialEq)]
enum Toml {
    Manifest,
    Rules,
    /// A configuration of the service.
    Service,
    /// Sections that can be added to one.
    Sections,
}

impl Toml {
    fn of(block: &Block) -> Self {
        let table: toml::Table = block.text.parse().unwrap_or_else(|error| panic!("{}: {error}", block.at));
        let kinds = [("dependencies", Self::Manifest), ("rule", Self::Rules), ("token", Self::Service)];
        kinds.into_iter().find(|(key, _)| table.contains_key(*key)).map_or(Self::Sections, |(_, kind)| kind)
    }

    /// The blocks of this kind.
    fn blocks(self) -> Vec<Block> {
        let all = documents().flat_map(|document| document.blocks);
        all.filter(|block| block.info == "toml" && Self::of(block) == self).collect()
    }
}

#[test]
fn rules_load_and_manifests_name_what_there_is() {
    let rules = Toml::Rules.blocks();
    assert!(rules.len() > 2, "{}", rules.len());
    for Block { text, at, .. } in rules {
        let map = RouteMap::with_types_from_toml(&text, ResourceCatalog::builder());
        assert_ne!(map.unwrap_or_else(|error| panic!("{at}: {error}")).rules().len(), 0, "{at}");
    }
    for Block { text, at, .. } in Toml::Manifest.blocks() {
        let manifest: toml::Table = text.parse().unwrap();
        let ours = &manifest["dependencies"]["tower-quota"];
        assert!(env!("CARGO_PKG_VERSION").starts_with(ours["version"].as_str().unwrap()), "{at}");
        for feature in ours["features"].as_array().unwrap() {
            let feature = feature.as_str().unwrap();
            assert!(features().contains(feature), "{at}: {feature}");
        }
    }
}

#[test]
fn configurations_of_the_service_are_good() {
    let (whole, sections) = (Toml::Service.blocks(), Toml::Sections.blocks());
    assert_eq!(whole.len(), 1, "sections are added to the one that there is");
    assert!(sections.len() > 2, "{}", sections.len());
    let page = documents().find(|document| whole[0].at.starts_with(&document.path)).unwrap();
    let rules = page.blocks.iter().find(|block| block.info == "toml" && Toml::of(block) == Toml::Rules).unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("quota.toml");
    let private = [("acme-token", "acme-token"), ("key.pem", &made.signing_key.serialize_pem())];
    for (name, text) in
        private.into_iter().chain([("routes.toml", &*rules.text), ("certificate.pem", &made.cert.pem())])
    {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    for Block { text, at, .. } in whole.iter().chain(&sections) {
        let more = if *at == whole[0].at { "" } else { text };
        fs::write(&config, format!("{}\n{more}", whole[0].text)).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_quotactl"));
        check.args(["serve", "--check", "--config"]).arg(&config);
        check.envs([("QUOTA_ADMIN_TOKEN", "admin-token"), ("PRODUCT_DATABASE_URL", "sqlite://product.db")]);
        let output = check.output().unwrap();
        assert!(output.status.success(), "{at}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_alert_is_explained() {
    let alerts = read("monitoring/alerts.yml");
    let alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let operating = read("docs/guide/operating.md");
    let explained = operating.split('`').filter(|word| word.starts_with("TowerQuota"));
    assert_eq!(explained.collect::<BTreeSet<_>>(), alerts.collect());
}

fn manifest() -> toml::Table {
    read("Cargo.toml").parse().unwrap()
}

fn features() -> BTreeSet<String> {
    manifest()["features"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn calls_of_cargo_name_what_there_is() {
    let examples = manifest()["example"].as_array().unwrap().clone();
    for document in documents() {
        for Block { text, at, .. } in document.blocks.iter().filter(|block| block.info == "sh") {
            for line in text.lines() {
                let line = line.split(" #").next().unwrap();
                let mut words = line.split_whitespace();
                assert_eq!(words.next(), Some("cargo"), "{at}: nothing tests {line:?}: make it `console`");
                let package = match words.next() {
                    Some("run") => env!("CARGO_PKG_NAME"),
                    Some("install" | "add") => words.next().unwrap(),
                    _ => panic!("{at}: nothing tests {line:?}"),
                };
                assert_eq!(package, env!("CARGO_PKG_NAME"), "{at}");
                while let Some(word) = words.next() {
                    match word {
                        "--example" => {
                            let name = words.next().unwrap();
                            assert!(examples.iter().any(|known| known["name"].as_str() == Some(name)), "{at}: {name}");
                        }
                        "--features" => {
                            for feature in words.next().unwrap().split(',') {
                                assert!(features().contains(feature), "{at}: {feature}");
                            }
                        }
                        "--no-default-features" => {}
                        _ => panic!("{at}: nothing tests {word:?}"),
                    }
                }
            }
        }
    }
}

fn sessions_happen(on: Server) {
    let mut sessions = 0;
    for document in documents() {
        if document.blocks.iter().any(|block| matches!(block.info.as_str(), "console" | "sql")) {
            session_happens(&document, on);
            sessions += 1;
        }
    }
    assert!(sessions > 4, "{sessions}");
}

/// All that is typed on a page is one session, and what is in between happens in between. Files that it shows are in its home.
fn session_happens(document: &Document, on: Server) {
    let server = Quickstart::start(on);
    let mut shell = Shell::start(&server);
    for block in &document.blocks {
        let Block { info, text, at } = block;
        match info.as_str() {
            "console" => {
                let happened = shell.session(text);
                println!("{at}\n{happened}");
                Assert::new().action_env("NONE").normalize_paths(false).eq(happened, text);
            }
            "sql" => server.database().run(text.clone()),
            "toml" => match Toml::of(block) {
                Toml::Rules => shell.write("routes.toml", text),
                Toml::Service => shell.write("quota.toml", text),
                Toml::Manifest | Toml::Sections => {}
            },
            _ => {}
        }
    }
}

#[test]
fn sessions_happen_on_sqlite() {
    sessions_happen(Server::Sqlite);
}

#[test]
fn sessions_happen_on_postgres() {
    sessions_happen(Server::Postgres);
}
