//! An SMTP server, whose received messages are parsed.

use std::env;
use std::process::{Command as StdCommand, Stdio};

use rcgen::generate_simple_self_signed;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// The first interpreter that has aiosmtpd: Debian's need not be the first in the path.
fn python() -> String {
    let candidates =
        env::var("TEST_PYTHON").map_or_else(|_| vec!["python3".into(), "/usr/bin/python3".into()], |one| vec![one]);
    let works = |python: &String| {
        let imported = StdCommand::new(python).args(["-c", "import aiosmtpd"]).stderr(Stdio::null()).status();
        imported.is_ok_and(|status| status.success())
    };
    candidates.into_iter().find(works).expect("the tests need aiosmtpd (Debian's python3-aiosmtpd)")
}

/// An SMTP server, which ends with the test.
pub(crate) struct Server {
    pub(crate) port: u16,
    received: Lines<BufReader<ChildStdout>>,
    _process: Child,
    _certificate: TempDir,
    /// The certificate that it is known by, in PEM.
    pub(crate) root: String,
}

/// What it has received, and made of it.
#[derive(Deserialize)]
pub(crate) struct Received {
    pub(crate) hello: String,
    pub(crate) encrypted: bool,
    pub(crate) authenticated: bool,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) r#type: String,
    pub(crate) text: String,
    pub(crate) html: String,
    pub(crate) raw: String,
}

impl Received {
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(header, _)| header.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

impl Server {
    pub(crate) async fn start(mut options: Value) -> Self {
        let key = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("server.pem");
        std::fs::write(&file, format!("{}{}", key.signing_key.serialize_pem(), key.cert.pem())).unwrap();
        options["certificate"] = json!(file);
        let mut process = Command::new(python())
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/smtp_server.py"))
            .arg(options.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut received = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = received.next_line().await.unwrap().expect("the SMTP server does not start");
        let port = serde_json::from_str::<Value>(&line).unwrap()["port"].as_u64().unwrap();
        let port = u16::try_from(port).unwrap();
        Self { port, received, _process: process, _certificate: directory, root: key.cert.pem() }
    }

    pub(crate) async fn received(&mut self) -> Received {
        let line = self.received.next_line().await.unwrap().expect("the SMTP server has ended");
        serde_json::from_str(&line).unwrap()
    }
}
