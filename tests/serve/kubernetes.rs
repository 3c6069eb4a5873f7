//! The manifests for Kubernetes: linted, held against its schemas, and against what they run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::host::Folder;
use crate::support::python;
use crate::support::quickstart::Server;

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/serve/kubernetes");
const CONTRIB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib");

/// A copy of what is looked at, to be changed.
struct Contrib(TempDir);

impl Contrib {
    fn copy() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        fs::create_dir(copy.0.path().join("kubernetes")).unwrap();
        fs::copy(Path::new(CONTRIB).join("Dockerfile"), copy.0.path().join("Dockerfile")).unwrap();
        for file in fs::read_dir(Path::new(CONTRIB).join("kubernetes")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path(file.file_name().to_str().unwrap())).unwrap();
        }
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("kubernetes").join(name)
    }

    #[track_caller]
    fn change(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from} is not in {name}");
        fs::write(self.path(name), text.replacen(from, to, 1)).unwrap();
    }

    /// What is wrong with it, a mistake a line; nothing where it is good.
    fn mistakes(&self) -> String {
        let programs = python::environment("kubernetes", &Path::new(HERE).join("requirements.txt"));
        let mut lint = Command::new(programs.join("yamllint"));
        lint.args(["--strict", "--format", "parsable", "--config-file"]).arg(format!("{HERE}/yamllint.yaml"));
        let mut check = Command::new(programs.join("python"));
        check.arg(format!("{HERE}/check.py"));
        for (mut program, looks_at) in [(lint, self.path("")), (check, self.0.path().to_owned())] {
            let output = program.arg(looks_at).output().unwrap();
            let told = [output.stdout, output.stderr].map(|told| String::from_utf8(told).unwrap()).concat();
            if !output.status.success() {
                assert_ne!(told.trim(), "", "it fails, and says nothing of why");
                return told;
            }
        }
        String::new()
    }
}

#[test]
fn they_are_good() {
    assert_eq!(Contrib::copy().mistakes(), "");
}

#[test]
fn they_are_good_with_the_gateway_too() {
    let contrib = Contrib::copy();
    let mut opened = 0;
    for file in fs::read_dir(contrib.path("")).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // What is commented out, and not said.
        let open = |line: &str| match line.trim_start().strip_prefix('#') {
            Some(rest) if rest.starts_with(|first: char| !first.is_whitespace()) => {
                opened += 1;
                line.replacen('#', "", 1)
            }
            _ => line.to_owned(),
        };
        let lines: Vec<_> = text.lines().map(open).collect();
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    assert_eq!((opened, contrib.mistakes()), (7, String::new()));
}

#[test]
fn mistakes_are_found() {
    let cases = [
        ("deployment.yaml", "replicas: 3", "replica: 3", "'replica' was unexpected"),
        ("deployment.yaml", "periodSeconds: 10", "periodSecs: 10", "'periodSecs' was unexpected"),
        ("deployment.yaml", "containerPort: 8080", "containerPort: http", "'http' is not of type 'integer'"),
        ("deployment.yaml", "replicas: 3", "replicas: 3\n  replicas: 4", "duplication of key \"replicas\""),
        ("deployment.yaml", "  template:\n", "   template:\n", "[error]"),
        ("deployment.yaml", "apiVersion: apps/v1", "apiVersion: apps/v1beta1", "Couldn't find schema"),
        ("deployment.yaml", "path: /livez", "path: /healthz", "the startup probe asks for"),
        ("deployment.yaml", "path: /readyz", "path: /livez", "the readiness probe asks for"),
        (
            "deployment.yaml",
            "name: http\n              containerPort",
            "name: web\n              containerPort",
            "the container has the ports",
        ),
        (
            "deployment.yaml",
            "      labels:\n        app.kubernetes.io/name: quotactl",
            "      labels:\n        app.kubernetes.io/name: quota",
            "the Deployment selects",
        ),
        ("deployment.yaml", "GracePeriodSeconds: 60", "GracePeriodSeconds: 40", "a pod is killed after 40 s"),
        ("deployment.yaml", "name: DATABASE_URL", "name: DATABASE", "needs ['DATABASE_URL']"),
        ("deployment.yaml", "/etc/quotactl/quota.toml", "/etc/quota.toml", "its configuration is in /etc/quotactl"),
        ("deployment.yaml", "runAsUser: 10001", "runAsUser: 1000", "pods run as 1000, and the image as 10001"),
        ("deployment.yaml", "Escalation: false", "Escalation: true", "can gain privileges"),
        ("deployment.yaml", "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "can be written"),
        ("deployment.yaml", "image: quotactl", "image: quota", "the container has quota"),
        ("service.yaml", "targetPort: http", "targetPort: web", "the Service quotactl has the port"),
        ("service.yaml", "port: 8080", "port: 80", "the Service quotactl has the port"),
        (
            "service.yaml",
            "selector:\n    app.kubernetes.io/name: quotactl",
            "selector:\n    app: quotactl",
            "the Service quotactl selects",
        ),
        ("networkpolicy.yaml", "policyTypes", "policyType", "'policyType' was unexpected"),
        ("networkpolicy.yaml", "- port: 443", "- port: 80", "doesn't let webhooks out"),
        (
            "networkpolicy.yaml",
            "app.kubernetes.io/name: quotactl\n  policy",
            "app: quotactl\n  policy",
            "the NetworkPolicy selects",
        ),
        ("poddisruptionbudget.yaml", "maxUnavailable: 1", "maxUnavailable: 2", "one replica alone may be left"),
        ("servicemonitor.yaml", "interval: 30s", "interval: 30s\n      retries: 2", "'retries' was unexpected"),
        ("servicemonitor.yaml", "path: /metrics", "path: /metric", "where no metrics are"),
        ("servicemonitor.yaml", "port: http", "port: metrics", "the ServiceMonitor asks at the port metrics"),
        ("servicemonitor.yaml", "component: api", "component: web", "which 0 Services have"),
        ("kustomization.yaml", "  - networkpolicy.yaml\n", "", "and there are"),
        ("kustomization.yaml", "images:", "image: []\nimages:", "'image' was unexpected"),
        ("quota.toml", "0.0.0.0:8080", "0.0.0.0:8090", "quota.toml listens on {'http': 8090}"),
        ("quota.toml", "0.0.0.0:8080", "127.0.0.1:8080", "where no other pod can reach it"),
        ("quota.toml", "env:QUOTA_ADMIN_TOKEN", "env:QUOTA_TOKEN", "needs ['QUOTA_TOKEN']"),
        ("quota.toml", "drain_seconds = 10", "drain_seconds = 2", "before all know that it is not ready"),
        (
            "quota.toml",
            "#[gateway]\n#listen",
            "[gateway]\nupstream = \"http://upstream:3000\"\nlisten",
            "'gateway': 8081",
        ),
    ];
    for (name, from, to, expected) in cases {
        let contrib = Contrib::copy();
        contrib.change(name, from, to);
        let told = contrib.mistakes();
        assert!(told.contains(expected), "{name}: {to}: {told}");
    }
}

#[test]
fn the_configuration_is_good_and_serves_what_they_ask_for() {
    let folder = Folder::new(Server::Postgres);
    let text = fs::read_to_string(Path::new(CONTRIB).join("kubernetes/quota.toml")).unwrap();
    folder.write("quota.toml", &text);
    let environment = [("DATABASE_URL", "postgres://quota@database/quota"), ("QUOTA_ADMIN_TOKEN", "s3cret")];
    let output = folder.command().arg("--check").envs(environment).output().unwrap();
    let told = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && told.ends_with("is good: resource types 8, rules 0, tokens 1\n"), "{told}");

    // The same on a database that there is, and at a port that is free.
    let mut database = folder.database();
    let written: toml::Table = text.parse().unwrap();
    for resource in written["resource"].as_array().unwrap() {
        let table = resource["table"].as_str().unwrap();
        database.run(format!(r#"CREATE TABLE IF NOT EXISTS "{table}" ("workspaceId" TEXT NOT NULL)"#));
    }
    folder.change("0.0.0.0:8080", "127.0.0.1:0");
    folder.change("env:QUOTA_ADMIN_TOKEN", "file:admin-token");
    folder.append(&format!("[database]\nurl = \"{}\"\n", folder.url));
    let service = folder.start();
    for path in ["/livez", "/readyz", "/metrics", "/dashboard/sign-in"] {
        assert_eq!(service.probe(path), Some(200), "{path}");
    }
    service.admin().send("GET", "/api/workspaces/acme/quota", "").expect(200);
}
