//! Rows that are in no table.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::host::{ADMIN, Folder};
use crate::support::quickstart::Server;

/// An API that answers all that is asked with one body, and keeps what it was asked.
struct Api {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    says: Arc<Mutex<&'static str>>,
    ended: Arc<AtomicBool>,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // So that it looks.
        let _ = TcpStream::connect(self.address);
    }
}

impl Api {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (asked, says) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Mutex::new("{\"total\": 2}")));
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let api = Self { address, asked: Arc::clone(&asked), says: Arc::clone(&says), ended: Arc::clone(&ended) };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    head.push(byte[0]);
                }
                asked.lock().unwrap().push(String::from_utf8(head).unwrap());
                let body = *says.lock().unwrap();
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                // Who asked may be gone.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        api
    }
}

fn with(folder: &Folder, of: &str) {
    folder.append(&format!("[[resource]]\nname = \"segments\"\n{of}\n"));
}

fn probe(folder: &Folder, api: &Api) {
    folder.private("probe-token", "Bearer pr0be");
    folder.append(&format!(
        "[probe]\nurl = \"http://{}/v1\"\nheaders = {{ authorization = \"file:probe-token\" }}\n",
        api.address
    ));
}

#[test]
fn rows_are_asked_for_over_http() {
    let api = Api::start();
    let folder = Folder::new(Server::Sqlite);
    probe(&folder, &api);
    with(&folder, r#"http = { url = "/segments?of={workspace}", pointer = "/total" }"#);
    let service = folder.start();
    let mut admin = service.admin();
    let status = admin.send("GET", "/api/workspaces/a%20b/quota", "").expect(200).json();
    assert_eq!(status["usage"], json!({"segments": 2}));
    let asked = api.asked.lock().unwrap().last().unwrap().clone();
    assert!(asked.starts_with("GET /v1/segments?of=a%20b HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer pr0be\r\n"), "{asked}");
    *api.says.lock().unwrap() = "{\"count\": 2}";
    admin.send("GET", "/api/workspaces/acme/quota", "").refused(503, "QUOTA_UNAVAILABLE");
    service.logs("its answer has nothing at");
    assert!(!service.log().contains("pr0be"), "{}", service.log());
    let tally = json!({"rows": {"segments": 1}}).to_string();
    let told = admin.send("PUT", "/api/workspaces/acme/quota/tally", &tally).refused(400, "INVALID_REQUEST");
    assert!(told.contains("not counted by the ledger alone"), "{told}");
}

fn tallied(on: Server) {
    let folder = Folder::new(on);
    with(&folder, "ledger = true");
    let mut service = folder.start();
    let mut admin = service.admin();
    let usage = |admin: &mut crate::support::client::Connection| {
        let status = admin.send("GET", "/api/workspaces/acme/quota", "").expect(200).json();
        status["usage"]["segments"].as_u64().unwrap()
    };
    assert_eq!(usage(&mut admin), 0);
    let tally = json!({"rows": {"segments": 3}, "reason": "counted"}).to_string();
    let set = admin.send("PUT", "/api/workspaces/acme/quota/tally", &tally).expect(200).json();
    assert_eq!(set, json!({"workspaceId": "acme", "before": {"segments": 0}, "rows": {"segments": 3}}));
    assert_eq!(usage(&mut admin), 3);
    let asked = json!({"resourceType": "segments"}).to_string();
    admin.send("POST", "/api/workspaces/acme/quota/validate", &asked).refused(429, "QUOTA_EXCEEDED");
    let mode = admin.send("GET", "/api/system/config/quota-enforcement", "").expect(200).json();
    assert_eq!(mode["promise"], "bounded");
    for (body, code) in [
        (json!({}), "INVALID_REQUEST"),
        (json!({"rows": {}}), "INVALID_REQUEST"),
        (json!({"rows": {"segments": -1}}), "INVALID_REQUEST"),
        (json!({"rows": {"segments": 1.5}}), "INVALID_REQUEST"),
        (json!({"rows": {"zebras": 1}}), "INVALID_RESOURCE_TYPE"),
        (json!({"rows": {"segments": 1}, "more": 1}), "INVALID_REQUEST"),
    ] {
        admin.send("PUT", "/api/workspaces/acme/quota/tally", &body.to_string()).refused(400, code);
    }
    let mut member = service.connect().with_token(crate::host::ACME);
    member.send("PUT", "/api/workspaces/acme/quota/tally", &tally).refused(403, "INSUFFICIENT_PERMISSIONS");

    // Lines for many workspaces; what is wrong changes nothing.
    let quotactl = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_quotactl"));
        command.env_clear().args(["--url", &format!("http://{}/api", service.address), "--token", ADMIN]);
        let output = command.args(arguments).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(told).unwrap())
    };
    let path = |name: &str| folder.path(name).display().to_string();
    folder.write("bad.csv", "acme,segments,1\nother,segments,x\n");
    let (code, told) = quotactl(&["tally", "import", &path("bad.csv")]);
    assert!(code == Some(2) && told.contains("bad.csv, line 2: "), "{told}");
    assert_eq!(usage(&mut admin), 3);
    folder.write("unknown.csv", "workspace,type,count\nacme,segments,2\nother,zebras,1\n");
    let (code, told) = quotactl(&["tally", "import", &path("unknown.csv")]);
    assert!(code == Some(2) && told.contains("line 3: ") && told.contains("go on with `--after 2`"), "{told}");
    assert_eq!(usage(&mut admin), 2);
    folder.write("good.ndjson", "{\"workspace\":\"acme\",\"type\":\"segments\",\"count\":1}\n{\"workspace\":\"other\",\"type\":\"segments\",\"count\":4}\n");
    for corrected in ["2 were others", "0 were others"] {
        let (code, told) = quotactl(&["tally", "import", &path("good.ndjson"), "--reason", "migration"]);
        let expected = format!("tallies set: 2, of which {corrected}");
        assert!(code == Some(0) && told.contains(&expected), "{told}");
    }
    let (code, told) = quotactl(&["tally", "set", "-w", "acme", "--resource", "segments", "2"]);
    assert!(code == Some(0) && told.contains("segments       1    2"), "{told}");

    service.signal("TERM");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
    let service = folder.start();
    assert_eq!(usage(&mut service.admin()), 2);
}

#[test]
fn the_ledger_alone_counts_on_sqlite() {
    tallied(Server::Sqlite);
}

#[test]
fn the_ledger_alone_counts_on_postgres() {
    tallied(Server::Postgres);
}

#[test]
fn what_makes_no_sense_is_told_with_its_line() {
    let api = Api::start();
    for (of, says) in [
        ("ledger = true\nhttp = { url = \"/x?of={workspace}\", pointer = \"\" }", "counted in more than one way"),
        ("ledger = true\ntable = \"Segment\"", "counted in more than one way"),
        ("http = { url = \"/x?of={workspace}\" }", "missing field `pointer`"),
        ("http = { url = \"/x?of={workspace}\", pointer = \"\", count = 1 }", "unknown field `count`"),
        ("http = { url = \"/x\", pointer = \"\" }", "has no {workspace}"),
        ("http = { url = \"/x?of={workspace}\", pointer = \"total\" }", "is not a JSON pointer"),
        ("table = \"Segment\"\nexists.id = { url = \"/x/{value}\" }", "leave `exists` out"),
        ("ledger = true\nexists.id = { url = \"/x\" }", "has no {value}"),
        ("ledger = \"yes\"", "invalid type: string \"yes\", expected a boolean"),
    ] {
        let folder = Folder::new(Server::Sqlite);
        probe(&folder, &api);
        with(&folder, of);
        let told = folder.refused(&["--check"], 2);
        assert!(told.starts_with("error: quota.toml, line ") && told.contains(says), "{of}: {told}");
    }
    let folder = Folder::new(Server::Sqlite);
    with(&folder, "http = { url = \"/x?of={workspace}\", pointer = \"\" }");
    let told = folder.refused(&["--check"], 2);
    assert!(told.contains("add [probe] with its `url`"), "{told}");

    let folder = Folder::new(Server::Sqlite);
    folder.append("[probe]\nurl = \"http://127.0.0.1:1\"\n");
    with(&folder, "ledger = true\nexists.id = { url = \"/x/{value}\" }");
    let rule = r#"
[[rule]]
name = "upsert"
methods = ["PUT"]
paths = ["/segments/{workspace}/{name}"]
operation = "upsert"
workspace = [{ path = "workspace" }]
charge = [{ resource = "segments", probe = [{ path = "name", column = "name" }] }]
"#;
    folder.write("routes.toml", &format!("{}{rule}", crate::host::RULES));
    let told = folder.refused(&["--check"], 2);
    assert!(
        told.contains("the rule \"upsert\" looks segments up by \"name\"") && told.contains("exists.name"),
        "{told}"
    );
}
