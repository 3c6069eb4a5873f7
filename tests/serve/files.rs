//! Configurations that make no sense: where, and what was expected.

use crate::host::{Folder, RULES};
use crate::support::quickstart::Server;

#[test]
fn a_good_one_is_told_so() {
    let folder = Folder::new(Server::Sqlite);
    let output = folder.output(&["--check"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.ends_with("quota.toml is good: resource types 1, rules 1, tokens 2\n"), "{told}");
}

#[test]
fn what_is_wrong_has_a_file_a_line_and_what_to_write() {
    let unknown = "error: quota.toml, line 1: unknown field `lisen`, expected one of `listen`, `mode`, ";
    let cases: &[(&str, &str, &str)] = &[
        ("listen =", "lisen =", unknown),
        (
            "listen = \"127.0.0.1:0\"",
            "listen = \"8080\"",
            "line 1: invalid value: string \"8080\", expected an address and port such as \"127.0.0.1:8080\"",
        ),
        (
            "listen = \"127.0.0.1:0\"",
            "listen = 8080",
            "line 1: invalid type: integer `8080`, expected an address and port such",
        ),
        ("listen =", "listen", "quota.toml, line 1: "),
        (
            "standard_types = false",
            "standard_types = 1",
            "quota.toml, line 3: invalid type: integer `1`, expected a boolean",
        ),
        (
            "standard_types = false",
            "mode = \"strickt\"",
            "quota.toml, line 3: unknown variant `strickt`, expected one of",
        ),
        ("[database]", "[datbase]", "quota.toml, line 5: unknown field `datbase`"),
        ("url = \"sqlite:", "url = \"mysql:", "quota.toml, line 6: this is no URL of a database: write sqlite:///"),
        (
            "role = \"admin\"",
            "role = \"root\"",
            "quota.toml, line 11: unknown variant `root`, expected `admin` or `member`",
        ),
        ("file:admin-token", "file:nowhere", "quota.toml, line 10: "),
        ("env:ACME_TOKEN", "env:GLOBEX_TOKEN", "quota.toml, line 15: the environment variable GLOBEX_TOKEN is not set"),
        ("env:ACME_TOKEN", "file:admin-token", "quota.toml, line 15: the API token in place 2 was given before"),
        ("workspaces = [\"acme\"]", "", "quota.toml, line 13: token \"acme\": a member has `workspaces`"),
        ("workspaces = [\"acme\"]", "workspaces = [\"\"]", "quota.toml, line 13: token \"acme\": \"\" is no workspace"),
        (
            "rules = \"routes.toml\"\nstandard_types = false\n",
            "",
            "no table is known for users, segments, journeys, broadcasts, computedProperties, audiences, emailTemplates, \
             subscriptionGroups: add a [[resource]] with `name = \"users\"`",
        ),
        (
            "rules = \"routes.toml\"\n",
            "",
            "a catalog needs at least one resource type: declare resource types in a file that `rules` names",
        ),
    ];
    for (from, to, expected) in cases {
        let folder = Folder::new(Server::Sqlite);
        folder.change(from, to);
        let told = folder.refused(&["--check"], 2);
        assert!(told.contains(expected), "{to}: {told}");
        assert_eq!(told, folder.refused(&[], 2), "it starts by the same rules");
    }
}

#[test]
fn what_is_wrong_in_a_section_has_its_line() {
    let sections: &[(&str, &str)] = &[
        ("[api]\npath = \"api\"", "line 20: \"api\" is no plain path: write one such as \"/api\""),
        ("[api]\npath = \"/livez\"", "line 20: /livez is taken"),
        ("[metrics]\npath = \"/api/metrics\"", "line 20: the API is at /api: this needs a path that is neither above"),
        ("[dashboard]\npath = \"/readyz/a\"", "line 20: /readyz is taken"),
        ("[dashboard]\npath = \"/api\"", "line 20: the API is at /api"),
        ("[dashboard]\npath = \"/a\"\n[api]\npath = \"/a/b\"", "line 20: the API is at /a/b"),
        ("[metrics]\npath = \"/dashboard\"", "line 20: the dashboard is at /dashboard"),
        // What is in the way may be a path that nobody has written.
        ("[dashboard]\npath = \"/metrics\"", "line 20: the metrics are at /metrics"),
        ("[api]\npath = \"/dashboard/api\"", "line 20: the dashboard is at /dashboard"),
        ("[log]\nlevel = \"loud\"", "line 20: unknown variant `loud`, expected one of `error`"),
        ("[thresholds]\nwarning = 99", "thresholds are percentages of 1 to 1000"),
        ("[thresholds.of.zebras]\nwarning = 1\ncritical = 2\nexceeded = 3", "unknown resource type \"zebras\""),
        ("[webhooks]\nallow_networks = [\"10.1\"]", "line 20: \"10.1\" is no network"),
        ("[webhooks]\ntimeout_seconds = 0", "line 20: 0 is out of range"),
        ("[webhooks]\ntimeout_seconds = -5", "line 20: -5 is out of range: write whole seconds, from 1 to 86400"),
        ("[shutdown]\ndrain_seconds = -1", "line 20: -1 is out of range: write whole seconds, of 0 or more"),
        ("[thresholds]\nmin_interval_seconds = -1", "line 20: -1 is out of range: write whole seconds, of 0 or more"),
        ("[authz]\nfirst_count_after_seconds = -1", "line 20: -1 is out of range: write whole seconds, of 0 or more"),
        ("[authz]\nlisten = \"8082\"", "line 20: invalid value: string \"8082\", expected an address and port"),
        (
            "[gateway]\nupstream = \"http://127.0.0.1\"\nlisten = \"8081\"",
            "line 21: invalid value: string \"8081\", expected an address and port",
        ),
        // Nothing is asked there yet.
        ("[probe]\nurl = \"nowhere\"", "line 19: "),
        ("[smtp]\nurl = \"http://a\"\nfrom = \"a@b.c\"", "line 20: this is no URL of a mail server"),
        ("[smtp]\nurl = \"smtps://a\"\nfrom = \"Quotas\"", "line 21: \"Quotas\" is no e-mail address"),
        ("[smtp]\nurl = \"smtps://a\"\nfrom = \"a@b.c\"\nuser = \"a\"", "line 22: [smtp] has both of"),
        ("[snapshots]\nkeep_days = 1", "line 20: `keep_days` is from `keep_hours_for_days`, 14, up to"),
        ("[[resource]]\nname = \"zebras\"", "unknown resource type \"zebras\": write one of segments"),
        (
            "[[resource]]\nname = \"segments\"\nfilter = \"a = 'b\"",
            "the filter \"a = 'b\" of segments: a quote is not closed",
        ),
        ("[tls]\ncertificate = \"no.pem\"\nkey = \"admin-token\"", "no.pem can't be used"),
    ];
    for (section, expected) in sections {
        let folder = Folder::new(Server::Sqlite);
        folder.append(section);
        let told = folder.refused(&["--check"], 2);
        assert!(told.starts_with("error: quota.toml, line ") && told.contains(expected), "{section}: {told}");
    }
}

#[test]
fn a_bad_rule_has_its_own_file_and_line() {
    let folder = Folder::new(Server::Sqlite);
    folder.write("routes.toml", &RULES.replace("resource = \"segments\" }", "resource = \"zebras\" }"));
    let told = folder.refused(&["--check"], 2);
    assert!(told.starts_with("error: routes.toml, line 7, rule \"create-segment\": unknown resource type"), "{told}");
}

#[test]
fn secrets_are_for_their_owner() {
    let folder = Folder::new(Server::Sqlite);
    folder.write("public-token", "public");
    std::fs::set_permissions(folder.path("public-token"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    folder.change("file:admin-token", "file:public-token");
    let told = folder.refused(&["--check"], 2);
    assert!(told.contains("line 10: others may read public-token") && told.contains("chmod 0600"), "{told}");

    // One that stands in the file itself makes it one.
    folder.change("file:public-token", "s3cret");
    std::fs::set_permissions(folder.path("quota.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let told = folder.refused(&["--check"], 2);
    assert!(told.contains("others may read quota.toml") && !told.contains("s3cret"), "{told}");
    std::fs::set_permissions(folder.path("quota.toml"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(folder.output(&["--check"]).status.code(), Some(0));
}

#[test]
fn a_configuration_that_is_not_there() {
    let folder = Folder::new(Server::Sqlite);
    std::fs::remove_file(folder.path("quota.toml")).unwrap();
    assert!(folder.refused(&[], 2).starts_with("error: quota.toml can't be read: No such file"));
}
