//! What is there to begin with.

use std::fs;
use std::io::{self, Write};
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
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    folder.private("smtp-password", "s3cret");
    folder.private("probe-authorization", "Bearer s3cret");
    folder.write("root.pem", &key.cert.pem());
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
    // A line of a setting: `# name = value`, or `# [section]`; but for a file that isn't here.
    let setting = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let (name, _) = rest.split_once(" = ").unwrap_or_default();
        let named = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let section = rest.starts_with('[') && rest.ends_with(']');
        (section || named && name != "rules").then(|| rest.to_owned())
    };
    let text = contrib("quota.toml");
    let opened = text.lines().filter(|line| setting(line).is_some()).count();
    assert!(opened >= 15, "{opened}");
    let lines: Vec<_> = text.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned())).collect();
    // The ledger alone can't count for proxies that ask.
    let text = lines.join("\n").replace("ledger = true", "table = \"Counted\"");
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
    let verify = |unit: &str| {
        folder.write("quotactl.service", unit);
        let verified = Command::new("systemd-analyze").arg("verify").arg(folder.path("quotactl.service")).output()?;
        let told = String::from_utf8(verified.stderr).unwrap();
        Ok::<_, io::Error>((verified.status.success() && !told.contains("quotactl.service:"), told))
    };
    match verify(&unit) {
        Ok((is_good, told)) => assert!(is_good, "{told}"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Past the tests' own output, which is shown of those alone that fail.
            let skipped = "skipped: systemd_knows_all_that_is_in_its_unit: there is no systemd-analyze\n";
            return io::stderr().write_all(skipped.as_bytes()).unwrap();
        }
        Err(error) => panic!("systemd-analyze: {error}"),
    }
    for (from, to) in [
        ("PrivateTmp=", "PrivateTemp="),
        ("SystemCallFilter=@system-service", "SystemCallFilter=@system-services"),
        ("quotactl serve", "no-quotactl serve"),
    ] {
        assert!(unit.contains(from), "{from}");
        let (is_good, told) = verify(&unit.replace(from, to)).unwrap();
        assert!(!is_good, "{to}: {told}");
    }
}
