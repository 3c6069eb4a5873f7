//! The example as its users run it: a process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::client::{Answer, Connection};
use super::database::Database;
use super::{example, postgres, until};

pub(crate) const ADMIN: &str = "admin-token";
pub(crate) const ACME: &str = "acme-token";

/// A running example. Killed when it is dropped.
pub(crate) struct Quickstart {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) introduction: String,
    pub(crate) url: String,
    // Held until the process is gone.
    #[allow(dead_code)]
    folder: Option<TempDir>,
}

/// The command that starts the example on a port of the system's choice, whatever the environment of the tests says.
pub(crate) fn command(url: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(example("quickstart"));
    for variable in [
        "QUOTA_ENFORCEMENT_MODE",
        "QUOTA_ROUTES",
        "QUOTA_ADMIN_TOKEN",
        "QUOTA_MEMBER_TOKENS",
        "QUOTA_WEBHOOK_NETWORKS",
        "QUOTA_SMTP_URL",
        "QUOTA_SMTP_FROM",
        "QUOTA_CLEANUP",
        "RUST_LOG",
    ] {
        command.env_remove(variable);
    }
    command
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("DATABASE_URL", url)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

/// Sends a process a signal, such as `STOP`.
pub(crate) fn signal(process: &Child, signal: &str) {
    let mut kill = Command::new("sh");
    kill.args(["-c", r#"kill -s "$1" "$2""#, "kill", signal]).arg(process.id().to_string());
    assert!(kill.status().unwrap().success());
}

/// What the host's rows and the quota records are in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Server {
    Sqlite,
    Postgres,
}

/// The URL of a file.
pub(crate) fn file(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

impl Quickstart {
    pub(crate) fn start(on: Server) -> Self {
        Self::with(on, &[])
    }

    /// With more variables in its environment.
    pub(crate) fn with(on: Server, variables: &[(&str, &str)]) -> Self {
        match on {
            Server::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let mut started = Self::on(&file(&folder.path().join("quickstart.db")), variables);
                started.folder = Some(folder);
                started
            }
            Server::Postgres => Self::on(&postgres::shared().database(), variables),
        }
    }

    /// On a database that outlives it.
    pub(crate) fn on(url: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = command(url, variables).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut introduction = String::new();
        // Three lines, an empty one, and four calls with a comment each.
        for _ in 0..12 {
            assert_ne!(output.read_line(&mut introduction).unwrap(), 0, "it ended early: {introduction}");
        }
        // A process whose output nobody reads would be stopped by a full pipe.
        thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let address = introduction.strip_prefix("listening on http://").and_then(|rest| rest.split(',').next());
        let address = address.and_then(|address| address.parse().ok()).expect(&introduction);
        Self { child, address, introduction, url: url.to_owned(), folder: None }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits for its end, after it was told to go.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn anonymous(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }

    pub(crate) fn connect(&self) -> Connection {
        self.anonymous().with_token(ADMIN)
    }

    pub(crate) fn database(&self) -> Database {
        match self.url.strip_prefix("sqlite://") {
            Some(path) => Database::open(Path::new(path)),
            None => Database::postgres(&self.url),
        }
    }

    /// Creates segments one after the other until one is refused for good, and checks that there are then `limit`.
    ///
    /// A refusal that says that others are in the way may be answered by trying again, but not for ever.
    #[track_caller]
    pub(crate) fn fill(&self, workspace: &str, limit: i64) {
        const TRIES: usize = 100;
        let (mut connection, mut database) = (self.connect(), self.database());
        let mut waited = 0;
        loop {
            let answer = create(&mut connection, workspace, &format!("filler {}", Uuid::now_v7()));
            match answer.status {
                201 => {}
                429 if is_final_among_others(&answer) => break,
                // Where many tests share the machine, a statement may take longer than its time-out.
                429 | 500 | 503 => {
                    waited += 1;
                    assert!(waited < TRIES, "units never came back: {answer}");
                }
                _ => panic!("{answer}"),
            }
        }
        assert_eq!(database.rows("Segment", workspace), limit, "a refusal for good, and the limit is not used");
        assert_eq!(list(&mut connection, workspace).len(), usize::try_from(limit).unwrap());
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn segments(workspace: &str) -> String {
    format!("/api/workspaces/{workspace}/segments")
}

pub(crate) fn name(name: &str) -> String {
    json!({ "name": name }).to_string()
}

#[track_caller]
pub(crate) fn create(connection: &mut Connection, workspace: &str, named: &str) -> Answer {
    connection.send("POST", &segments(workspace), &name(named))
}

/// Creates segments that must all be admitted.
#[track_caller]
pub(crate) fn create_all(connection: &mut Connection, workspace: &str, names: impl IntoIterator<Item = String>) {
    for name in names {
        create(connection, workspace, &name).expect(201);
    }
}

#[track_caller]
pub(crate) fn list(connection: &mut Connection, workspace: &str) -> Vec<Value> {
    connection.send("GET", &segments(workspace), "").expect(200).json().as_array().unwrap().clone()
}

#[track_caller]
pub(crate) fn set_quota(connection: &mut Connection, workspace: &str, limits: &Value) {
    connection.send("PUT", &format!("/api/workspaces/{workspace}/quota"), &limits.to_string()).expect(200);
}

#[track_caller]
pub(crate) fn quota(connection: &mut Connection, workspace: &str) -> Value {
    connection.send("GET", &format!("/api/workspaces/{workspace}/quota"), "").expect(200).json()
}

/// What the quota API says is left, beside rows and units in flight.
#[track_caller]
pub(crate) fn remaining(connection: &mut Connection, workspace: &str, resource: &str) -> Value {
    let path = format!("/api/workspaces/{workspace}/quota/validate?soft=true");
    let body = json!({ "resourceType": resource }).to_string();
    connection.send("POST", &path, &body).expect(200).json()["remaining"].clone()
}

/// Checks a refusal against the contract. `true` when it is for good: not only requests in flight stand in the way.
#[track_caller]
pub(crate) fn is_final(answer: &Answer) -> bool {
    let is_final = is_final_among_others(answer);
    if !is_final {
        let details = &answer.json()["details"];
        assert!(details["remaining"].as_u64() < details["requested"].as_u64(), "{answer}");
    }
    is_final
}

/// As [`is_final`], where other processes take part: one of them may have waited for longer, and is served first.
#[track_caller]
pub(crate) fn is_final_among_others(answer: &Answer) -> bool {
    answer.refused(429, "QUOTA_EXCEEDED");
    let body = answer.json();
    let details = &body["details"];
    let number = |field: &str| details[field].as_u64().unwrap_or_else(|| panic!("{field}: {answer}"));
    let (usage, limit, requested) = (number("currentUsage"), number("limit"), number("requested"));
    let is_final = details.get("reserved").is_none();
    if is_final {
        assert!(usage + requested > limit, "{answer}");
        assert_eq!(number("remaining"), limit.saturating_sub(usage), "{answer}");
        assert_eq!(answer.header("retry-after"), None, "{answer}");
    } else {
        assert!(usage + requested <= limit, "{answer}");
        assert!(answer.header("retry-after").is_some(), "{answer}");
    }
    is_final
}

/// Checks that a creation was either made or refused, and tells which.
#[track_caller]
pub(crate) fn created(answer: &Answer) -> bool {
    match answer.status {
        201 => true,
        _ => {
            is_final(answer);
            false
        }
    }
}
