//! What is there to begin with.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::Folder;
use crate::support::quickstart::Server;

fn contrib(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)).unwrap()
}

fn check(text: &str) -> (Option<i32>, String) {
    let folder = Folder::new(Server::Sqlite);
    folder.write("quota.toml", text);
    for name in ["smtp-password", "key.pem"] {
        folder.private(name, "s3cret");
    }
    for name in ["root.pem", "certificate.pem"] {
        folder.write(name, "");
    }
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    folder.write("certificate.pem", &key.cert.pem());
    folder.private("key.pem", &key.signing_key.serialize_pem());
    let output =
        folder.command().arg("--check").envs([("QUOTA_ADMIN_TOKEN", "one"), ("QUOTA_ACME_TOKEN", "two")]).output();
    let output = output.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn the_example_is_good() {
    assert_eq!(check(&contrib("quota.toml")), (Some(0), String::new()));
}

#[test]
fn what_is_commented_out_in_the_example_is_good_too() {
    // A line of a setting: `# name = value`, or `# [section]`; but for another database, and types that the file has already.
    let setting = |line: &str| {
        let Some(rest) = line.strip_prefix("# ") else { return false };
        let name = rest.split(" = ").next().filter(|name| name.len() < rest.len());
        let named = name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        let section = rest.starts_with('[') && rest.ends_with(']');
        (named && !rest.starts_with("rules") && !rest.starts_with("workspace_type")) || section
    };
    let text = contrib("quota.toml").replace("password = \"file:", "password = \"file:");
    let mut opened = 0;
    let lines = text.lines().map(|line| match setting(line) {
        true => {
            opened += 1;
            // It is a postgres database.
            &line[2..]
        }
        false => line,
    });
    let text =
        lines.collect::<Vec<_>>().join("\n").replace("filter = \"\\\"archived\\\" = 0\"", "filter = \"archived = 0\"");
    assert!(opened >= 16, "{opened}");
    assert_eq!(check(&text), (Some(0), String::new()), "{text}");
}

#[test]
fn the_example_names_all_that_can_be_written() {
    let text = contrib("quota.toml");
    // The parser's own list of what it knows.
    let folder = Folder::new(Server::Sqlite);
    folder.write("quota.toml", "nonsense = 1\n");
    let told = folder.refused(&["--check"], 2);
    let known: Vec<_> = told.split('`').skip(3).step_by(2).collect();
    assert!(known.len() > 15, "{told}");
    for name in known {
        let there =
            [format!("{name} = "), format!("[{name}]"), format!("[[{name}]]")].iter().any(|it| text.contains(it));
        assert!(there, "{name} is not in the example");
    }
}

#[test]
fn systemd_knows_all_that_is_in_its_unit() {
    let folder = Folder::new(Server::Sqlite);
    // It looks for the program, which is elsewhere here.
    let unit = contrib("quotactl.service").replace("/usr/local/bin/quotactl", env!("CARGO_BIN_EXE_quotactl"));
    folder.write("quotactl.service", &unit);
    let verified = Command::new("systemd-analyze").arg("verify").arg(folder.path("quotactl.service")).output();
    // Not each machine has it.
    let Ok(verified) = verified else { return };
    let told = String::from_utf8(verified.stderr).unwrap();
    assert!(verified.status.success() && !told.contains("quotactl.service:"), "{told}");
}
