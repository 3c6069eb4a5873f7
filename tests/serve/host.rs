//! A service with a folder, a database and a configuration of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::client::Connection;
use crate::support::database::Database;
use crate::support::quickstart::{Server, file, signal};
use crate::support::{postgres, until};

pub(crate) const ADMIN: &str = "admin-s3cret";
pub(crate) const ACME: &str = "acme-s3cret";

pub(crate) const RULES: &str = r#"[[resource]]
name = "segments"
limit_field = "maxSegments"
default = 3
table = "Segment"

[[rule]]
name = "create-segment"
methods = ["POST"]
paths = ["/workspaces/{workspace}/segments"]
workspace = [{ path = "workspace" }]
charge = [{ resource = "segments" }]
"#;

/// What a configuration is written into, and a database.
pub(crate) struct Folder {
    folder: TempDir,
    pub(crate) url: String,
}

impl Folder {
    pub(crate) fn new(on: Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quota.db");
        let url = match on {
            Server::Sqlite => {
                fs::write(&path, "").unwrap();
                file(&path)
            }
            Server::Postgres => postgres::shared().database(),
        };
        let made = Self { folder, url };
        made.database().run(r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL)"#.to_owned());
        made.private("admin-token", ADMIN);
        made.write("routes.toml", RULES);
        made.write("quota.toml", &made.config());
        made
    }

    pub(crate) fn database(&self) -> Database {
        match self.url.strip_prefix("sqlite://") {
            Some(path) => Database::open(path.as_ref()),
            None => Database::postgres(&self.url),
        }
    }

    /// Makes rows in the workspace `acme`.
    pub(crate) fn insert(&self, rows: usize) {
        for _ in 0..rows {
            self.database().run(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('acme')"#.to_owned());
        }
    }

    pub(crate) fn config(&self) -> String {
        format!(
            r#"listen = "127.0.0.1:0"
rules = "routes.toml"
standard_types = false

[database]
url = "{}"

[[token]]
name = "operators"
secret = "file:admin-token"
role = "admin"

[[token]]
name = "acme"
secret = "env:ACME_TOKEN"
role = "member"
workspaces = ["acme"]
"#,
            self.url
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A file that only its owner may read.
    pub(crate) fn private(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes the configuration with a part of it replaced.
    #[track_caller]
    pub(crate) fn change(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.path("quota.toml")).unwrap();
        assert!(config.contains(from), "{from} is not in {config}");
        self.write("quota.toml", &config.replacen(from, to, 1));
    }

    pub(crate) fn append(&self, text: &str) {
        self.write("quota.toml", &format!("{}\n{text}", fs::read_to_string(self.path("quota.toml")).unwrap()));
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quotactl"));
        command.env_clear().env("ACME_TOKEN", ACME).current_dir("/").stdin(Stdio::null());
        command.arg("serve").arg("--config").arg(self.path("quota.toml"));
        command
    }

    /// Runs it to its end.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        let child = self.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.wait_with_output().unwrap()
    }

    /// What it says of a configuration that it refuses, with the folder's name taken out.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: &[&str], code: i32) -> String {
        let output = self.output(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        told.replace(&format!("{}/", self.folder.path().display()), "")
    }

    pub(crate) fn start(&self) -> Service {
        let service = self.start_unready();
        until("it is ready", || service.probe("/readyz") == Some(200));
        service
    }

    pub(crate) fn start_unready(&self) -> Service {
        let log = self.path("log");
        let stderr = fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut child = self.command().stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut listens = || {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            let address = line.trim_end().rsplit_once("://").and_then(|(_, address)| address.parse().ok());
            address.unwrap_or_else(|| panic!("{line:?}: {}", fs::read_to_string(&log).unwrap()))
        };
        let address = listens();
        let config = fs::read_to_string(self.path("quota.toml")).unwrap();
        let gateway = config.lines().any(|line| line == "[gateway]").then(listens);
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        Service { child, address, gateway, log }
    }
}

/// A service that runs. Killed when it is dropped.
pub(crate) struct Service {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where the API is that it stands in front of.
    pub(crate) gateway: Option<SocketAddr>,
    log: PathBuf,
}

impl Service {
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }

    pub(crate) fn admin(&self) -> Connection {
        self.connect().with_token(ADMIN)
    }

    /// To the API that it stands in front of.
    pub(crate) fn front(&self) -> Connection {
        Connection::open(self.gateway.unwrap()).unwrap()
    }

    /// The status with which a path answers; `None` where nobody does.
    pub(crate) fn probe(&self, path: &str) -> Option<u16> {
        let mut connection = Connection::open(self.address).ok()?;
        connection.try_send("GET", path, "").ok().map(|answer| answer.status)
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for a line of the log that has this.
    #[track_caller]
    pub(crate) fn logs(&self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.log().contains(what) {
            assert!(Instant::now() < deadline, "never logged: {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tells it to read its configuration anew, and waits until it says what came of it.
    pub(crate) fn reload(&self) {
        let told = ["the configuration is read anew", "the configuration stays as it was"];
        let lines = |log: &str| log.lines().filter(|line| told.iter().any(|told| line.contains(told))).count();
        let before = lines(&self.log());
        self.signal("HUP");
        until("it has read its configuration", || lines(&self.log()) > before);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        until("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
