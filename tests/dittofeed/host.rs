//! Dittofeed's stand-in, and two replicas of the gateway in front of it, with the configuration that is in `maps`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tempfile::TempDir;

use crate::support::client::{Answer, Connection};
use crate::support::database::Database;
use crate::support::random::Random;
use crate::support::{postgres, until};

const ADMIN: &str = "admin-s3cret";

const SHARED: &str = "shared-s3cret";

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An API, on a database of its own, behind two gateways.
pub(crate) struct Stand {
    // Ended in this order.
    replicas: Vec<Replica>,
    _upstream: Ended,
    database: String,
    _folder: TempDir,
    next: AtomicUsize,
    seed: u64,
}

struct Replica {
    api: SocketAddr,
    gateway: SocketAddr,
    _process: Ended,
}

/// A process that ends with its holder.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Reads the addresses that a process prints, one a line.
fn addresses<const N: usize>(output: &mut BufReader<ChildStdout>, log: &Path) -> [SocketAddr; N] {
    std::array::from_fn(|_| {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim_end().rsplit_once("://").and_then(|(_, address)| address.parse().ok());
        address.unwrap_or_else(|| panic!("{line:?}: {}", fs::read_to_string(log).unwrap()))
    })
}

impl Stand {
    /// Starts all of it, with changes to the configuration.
    pub(crate) fn start(seed: u64, changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = postgres::shared().database();
        let schema = fs::read_to_string(repository("tests/dittofeed/upstream/schema.sql")).unwrap();
        Database::postgres(&database).run(schema);
        let (upstream, address) = upstream(&database, &folder.path().join("upstream.log"));

        fs::copy(repository("maps/dittofeed.toml"), folder.path().join("dittofeed.toml")).unwrap();
        let mut config = fs::read_to_string(repository("maps/dittofeed.quota.toml")).unwrap();
        let upstream_url = format!("http://{address}");
        let own = [("127.0.0.1:8080", "127.0.0.1:0"), ("127.0.0.1:8081", "127.0.0.1:0")];
        for (from, to) in own.iter().chain(&[("http://127.0.0.1:3001", &*upstream_url)]).chain(changes) {
            assert!(config.contains(from), "{from} is not in {config}");
            config = config.replacen(from, to, 1);
        }
        fs::write(folder.path().join("quota.toml"), config).unwrap();
        let replicas = (0..2).map(|number| Replica::start(folder.path(), &database, number)).collect();
        Self { replicas, _upstream: upstream, database, _folder: folder, next: AtomicUsize::new(0), seed }
    }

    pub(crate) fn uuid(&self) -> String {
        let mut random = Random::new(self.seed, &[self.next.fetch_add(1, Ordering::Relaxed)]);
        let bits = (u128::from(random.next()) << 64) | u128::from(random.next());
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }

    /// A new workspace, with limits.
    pub(crate) fn workspace(&self, limits: &[(&str, u64)]) -> Workspace<'_> {
        let workspace = Workspace { stand: self, id: self.uuid() };
        let limits: serde_json::Map<_, _> =
            limits.iter().map(|(field, limit)| ((*field).into(), (*limit).into())).collect();
        let path = format!("/api/workspaces/{}/quota", workspace.id);
        self.api().send("PUT", &path, &Value::Object(limits).to_string()).expect(200);
        workspace
    }

    /// The quota API.
    pub(crate) fn api(&self) -> Connection {
        Connection::open(self.replicas[0].api).unwrap().with_token(ADMIN)
    }

    /// A connection to one of the gateways.
    pub(crate) fn connect(&self, replica: usize) -> Client {
        let address = self.replicas[replica % self.replicas.len()].gateway;
        Client { connection: Connection::open(address).unwrap(), address }
    }

    pub(crate) fn database(&self) -> Database {
        Database::postgres(&self.database)
    }
}

fn upstream(database: &str, log: &Path) -> (Ended, SocketAddr) {
    let folder = repository("tests/dittofeed/upstream");
    assert!(folder.join("node_modules").exists(), "run `npm --prefix tests/dittofeed/upstream ci` first");
    let mut node = Command::new("node");
    node.arg(folder.join("server.mjs")).env("DATABASE_URL", database);
    // It ends with its input, even where this process is killed.
    node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(log).unwrap());
    let mut child = node.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let ended = Ended(child);
    let [address] = addresses(&mut output, log);
    (ended, address)
}

impl Replica {
    fn start(folder: &Path, database: &str, number: usize) -> Self {
        let log = folder.join(format!("replica-{number}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_quotactl"));
        command.arg("serve").arg("--config").arg(folder.join("quota.toml")).current_dir("/");
        command.env_clear().env("DATABASE_URL", database).env("QUOTA_ADMIN_TOKEN", ADMIN);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let process = Ended(child);
        let [api, gateway] = addresses(&mut output, &log);
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        let ready = || {
            let answer = Connection::open(api).and_then(|mut probe| probe.try_send("GET", "/readyz", ""));
            answer.is_ok_and(|answer| answer.status == 200)
        };
        until("the gateway is ready", ready);
        Self { api, gateway, _process: process }
    }
}

/// A keep-alive connection of a client of Dittofeed.
pub(crate) struct Client {
    connection: Connection,
    address: SocketAddr,
}

impl Client {
    /// Sends what is JSON, unless a header says otherwise.
    pub(crate) fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let json = [("content-type", "application/json")];
        let typed = headers.iter().any(|(name, _)| *name == "content-type");
        let headers: Vec<_> = json.iter().filter(|_| !typed && !body.is_empty()).chain(headers).copied().collect();
        let answer = self.connection.send_with(method, path, &headers, body);
        if !answer.keeps_alive() {
            self.connection = Connection::open(self.address).unwrap();
        }
        answer
    }

    /// Sends the head of a request, and nothing of its body.
    pub(crate) fn begin(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: dittofeed\r\n{lines}\r\n");
        self.connection.send_raw(head.as_bytes()).unwrap();
        self.connection.read().unwrap()
    }
}

/// A tenant of the API.
pub(crate) struct Workspace<'s> {
    stand: &'s Stand,
    pub(crate) id: String,
}

impl Workspace<'_> {
    /// Sends a request of this workspace: its id is put into the body, an object in JSON.
    pub(crate) fn send(&self, client: &mut Client, method: &str, path: &str, body: &Value) -> Answer {
        let mut body = body.clone();
        body["workspaceId"] = self.id.as_str().into();
        client.send(method, path, &[], &body.to_string())
    }

    /// As many rows as the condition holds for.
    pub(crate) fn rows(&self, table: &str, condition: &str) -> i64 {
        let sql = format!(r#"SELECT count(*) FROM "{table}" WHERE "workspaceId" = $1::uuid AND {condition}"#);
        self.stand.database().number(sql, &self.id)
    }

    /// A value of a row, as text, by the name that the row has.
    pub(crate) fn column(&self, table: &str, column: &str, name: &str) -> String {
        let sql =
            format!(r#"SELECT "{column}"::text FROM "{table}" WHERE "workspaceId" = $1::uuid AND "name" = '{name}'"#);
        self.stand.database().texts(sql, &self.id).pop().unwrap()
    }

    /// What the quota API says of a resource type.
    pub(crate) fn usage(&self, resource: &str) -> u64 {
        let answer = self.stand.api().send("GET", &format!("/api/workspaces/{}/quota", self.id), "");
        answer.expect(200).json()["usage"][resource].as_u64().unwrap()
    }

    /// Lets Segment's webhook in.
    pub(crate) fn take_webhooks(&self) {
        let insert = format!(
            r#"INSERT INTO "SegmentIOConfiguration" ("workspaceId", "sharedSecret") VALUES ('{}', '{SHARED}')"#,
            self.id
        );
        self.stand.database().run(insert);
    }

    /// What Segment sends: a body that is signed as it stands.
    pub(crate) fn webhook(&self, client: &mut Client, path: &str, body: &str) -> Answer {
        let mut mac = Hmac::<Sha256>::new_from_slice(SHARED.as_bytes()).unwrap();
        mac.update(body.as_bytes());
        let signature = hex(&mac.finalize().into_bytes());
        client.send("POST", path, &[("df-workspace-id", &self.id), ("x-signature", &signature)], body)
    }

    /// A write key, as the `Authorization` header has it.
    pub(crate) fn write_key(&self) -> String {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD;

        let secret = self.stand.uuid();
        let insert = format!(
            r#"INSERT INTO "Secret" ("id", "workspaceId", "name", "value") VALUES ('{secret}', '{}', '{secret}', 'v4lue');
               INSERT INTO "WriteKey" ("workspaceId", "secretId") VALUES ('{}', '{secret}')"#,
            self.id, self.id
        );
        self.stand.database().run(insert);
        format!("Basic {}", STANDARD.encode(format!("{secret}:v4lue")))
    }
}
