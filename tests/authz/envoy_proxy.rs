//! `ext_authz`, with Envoy as it is in `contrib`, `quotactl serve` that it asks, and an API that makes rows.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::routing::put;
use envoy_types::ext_authz::v3::pb::CheckRequest;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Code;
use tower_quota::RouteMap;

use crate::host::{Folder, RULES, Service};
use crate::keeper::{Kept, program};
use crate::serve::{envoy, product, serve, start};
use crate::support::client::{Connection, together};
use crate::support::quickstart::Server;
use crate::support::until;

/// Beside the rule that goes by the path, those that need more. The method of gRPC is one that there is a client for.
const MORE_RULES: &str = r#"
[[rule]]
name = "create-segments"
methods = ["POST"]
paths = ["/batches"]
workspace = [{ body = "/workspaceId" }]
charge = [{ resource = "segments", amount = { length = "/segments" } }]

[[rule]]
name = "upsert-segment"
methods = ["PUT"]
paths = ["/segments"]
operation = "upsert"
workspace = [{ body = "/workspaceId" }]
charge = [{ resource = "segments", probe = [{ body = "/name", column = "name" }] }]

[[rule]]
name = "create-by-header"
methods = ["POST"]
paths = ["/named", "/envoy.service.auth.v3.Authorization/Check"]
workspace = [{ header = "x-workspace" }]
charge = [{ resource = "segments" }]
"#;

fn contrib() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/envoy.yaml")).unwrap()
}

/// Envoy. It ends when this is dropped, or with the process of the tests.
struct Envoy {
    _server: Kept,
    _folder: TempDir,
    address: SocketAddr,
}

impl Envoy {
    /// By `config`, with the addresses of its examples replaced.
    fn start(mut config: String, quota: SocketAddr, upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (example, own) in [(8082, quota), (3000, upstream), (8000, address)] {
            let example = format!("{{ address: 127.0.0.1, port_value: {example} }}");
            assert_eq!(config.matches(&example).count(), 1, "{example}");
            config = config.replace(&example, &format!("{{ address: {}, port_value: {} }}", own.ip(), own.port()));
        }
        let [file, log] = ["envoy.yaml", "log"].map(|name| folder.path().join(name));
        fs::write(&file, config).unwrap();
        let arguments = ["-c".as_ref(), file.as_os_str(), "--log-path".as_ref(), log.as_os_str()];
        // What it shares with an Envoy that follows it is shared with those of other tests, too.
        let arguments = [arguments.as_slice(), &["--disable-hot-restart".as_ref()]].concat();
        let envoy =
            Self { _server: Kept::start(&program("envoy", "TEST_ENVOY"), &arguments), _folder: folder, address };
        let mut told = String::new();
        until("Envoy has started, or said why not", || {
            told = fs::read_to_string(&log).unwrap_or_default();
            Connection::open(address).is_ok() || told.contains("[critical]")
        });
        assert!(!told.contains("[critical]"), "{told}");
        envoy
    }

    fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }
}

/// The service, Envoy that asks it, and the API behind Envoy. The runtime serves until it is dropped.
struct Setup {
    envoy: Envoy,
    service: Service,
    folder: Arc<Folder>,
    runtime: Runtime,
}

impl Setup {
    fn new() -> Self {
        Self::with(contrib())
    }

    fn with(config: String) -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = Arc::new(Folder::new(Server::Sqlite));
        folder.database().run(r#"ALTER TABLE "Segment" ADD COLUMN "name" TEXT"#.to_owned());
        folder.write("routes.toml", &format!("{RULES}{MORE_RULES}"));
        let (service, quota) = start(&folder, "");
        let app = product(Arc::clone(&folder)).route("/segments", put(StatusCode::OK)).fallback(echo);
        let envoy = Envoy::start(config, quota, runtime.block_on(serve(app)));
        Self { envoy, service, folder, runtime }
    }

    fn rows(&self, workspace: &str) -> i64 {
        self.folder.database().rows("Segment", workspace)
    }

    /// Rows of the workspace `acme`, up to its limit.
    fn fill(&self) {
        self.folder.insert(3);
    }
}

/// Answers with what it was sent.
async fn echo(request: Request<Body>) -> Json<Value> {
    let (parts, body) = request.into_parts();
    let headers: Value =
        parts.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap()))).collect();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Json(json!({ "headers": headers, "bytes": body.len() }))
}

#[test]
fn envoy_has_nothing_to_say_against_its_configuration() {
    let mut validate = Command::new(program("envoy", "TEST_ENVOY"));
    let output = validate.args(["--mode", "validate", "--config-yaml", &contrib()]).output().unwrap();
    let told = [output.stdout, output.stderr].map(|told| String::from_utf8_lossy(&told).into_owned()).concat();
    // It warns of what it will not know in a later version.
    assert!(output.status.success() && !told.contains("[warning]"), "{told}");
}

#[test]
fn what_is_over_the_limit_is_answered_as_by_the_layer() {
    let setup = Setup::new();
    let mut client = setup.envoy.connect();
    for _ in 0..3 {
        let created = client.send("POST", "/workspaces/globex/segments", "").expect(201);
        assert_eq!(created.header("quota-warning"), None);
    }
    client.send("POST", "/workspaces/globex/segments", "").refused(429, "QUOTA_EXCEEDED");
    assert_eq!(setup.rows("globex"), 3);

    setup.fill();
    let refused = client.send("POST", "/workspaces/acme/segments", "");
    assert_eq!(refused.refused(429, "QUOTA_EXCEEDED"), "Segment quota exceeded");
    let details = json!({ "resourceType": "segments", "currentUsage": 3, "limit": 3, "requested": 1, "remaining": 0 });
    assert_eq!(refused.json()["details"], details);
    assert_eq!(refused.header("content-type"), Some("application/json"));
    let accept = [("accept", "application/problem+json")];
    let problem = client.send_with("POST", "/workspaces/acme/segments", &accept, "");
    assert_eq!((problem.header("content-type"), &problem.json()["status"]), (Some(accept[0].1), &json!(429)));
    assert_eq!(setup.rows("acme"), 3);

    // What is none of the layer's business passes.
    assert_eq!(client.send("GET", "/workspaces/acme/segments", "").status, 405);
    client.send("DELETE", "/elsewhere", "").expect(200);
}

#[test]
fn a_call_of_grpc_is_refused_by_its_own_status() {
    let setup = Setup::new();
    setup.fill();
    let told = setup.runtime.block_on(async {
        let mut request = tonic::Request::new(CheckRequest::default());
        request.metadata_mut().insert("x-workspace", "acme".parse().unwrap());
        envoy(setup.envoy.address).await.check(request).await.unwrap_err()
    });
    assert_eq!((told.code(), told.message()), (Code::ResourceExhausted, "Segment quota exceeded"));
}

#[test]
fn of_many_at_once_as_many_pass_as_there_is_room_for() {
    let setup = Setup::new();
    for round in 0..4 {
        let workspace = format!("acme{round}");
        let path = format!("/workspaces/{workspace}/segments");
        let answers = together(64, 1, round, |_, _| setup.envoy.connect().send("POST", &path, ""));
        let passed = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!((passed, setup.rows(&workspace)), (3, 3), "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            answer.refused(429, "QUOTA_EXCEEDED");
        }
    }
}

#[test]
fn what_the_body_says_is_charged() {
    let setup = Setup::new();
    let mut client = setup.envoy.connect();
    let batch = |segments: usize| json!({ "workspaceId": "acme", "segments": vec![0; segments] }).to_string();
    client.send("POST", "/batches", &batch(4)).refused(429, "QUOTA_EXCEEDED");
    let answer = client.send("POST", "/batches", &batch(2)).expect(200);
    assert_eq!(answer.json()["bytes"], batch(2).len());
    let refused = client.send("POST", "/batches", &batch(2));
    refused.refused(429, "QUOTA_EXCEEDED");
    assert_eq!(refused.json()["details"]["remaining"], 1, "{refused}");

    // No row has come of them, and still may.
    assert_eq!(refused.json()["details"]["reserved"], 2, "{refused}");
    assert!(refused.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{refused}");

    // Of one that is longer than what rules read, Envoy hands on a part. That may not be judged, whatever the client says of it.
    let padded = |length: usize| batch(1) + &" ".repeat(length - batch(1).len());
    let longer = padded(RouteMap::DEFAULT_BODY_CAP + 1);
    for headers in [&[][..], &[("x-envoy-auth-partial-body", "false")]] {
        client.send_with("POST", "/batches", headers, &longer).refused(413, "PAYLOAD_TOO_LARGE");
    }
    // Where no rule needs it, it goes through.
    assert_eq!(client.send("POST", "/uploads", &longer).expect(200).json()["bytes"], longer.len());
    // One without a length is a body, too.
    let chunked = format!(
        "POST /batches HTTP/1.1\r\nhost: envoy\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        batch(2).len(),
        batch(2)
    );
    client.send_raw(chunked.as_bytes()).unwrap();
    client.read().unwrap().refused(429, "QUOTA_EXCEEDED");
    client.send("POST", "/batches", &padded(RouteMap::DEFAULT_BODY_CAP)).expect(200);
}

#[test]
fn a_workspace_is_the_one_that_the_client_sent() {
    let setup = Setup::new();
    // Envoy closes a connection on which it has answered with 400.
    let send = |names: &[&'static str]| {
        let headers: Vec<_> = names.iter().map(|&name| ("x-workspace", name)).collect();
        setup.envoy.connect().send_with("POST", "/named", &headers, "")
    };
    send(&["acme", "acme"]).expect(200);
    send(&["acme", "globex"]).refused(400, "WORKSPACE_MISMATCH");
    // In the form in which Envoy joins headers, these stand for others.
    send(&["acme!"]).expect(200);
    send(&["acme,globex"]).expect(200);
    send(&["wörk"]).refused(400, "INVALID_REQUEST");
}

#[test]
fn an_edit_passes_at_the_limit() {
    let setup = Setup::new();
    let rows = r#"INSERT INTO "Segment" VALUES ('acme', 'one'), ('acme', 'two'), ('acme', 'three')"#;
    setup.folder.database().run(rows.to_owned());
    let mut client = setup.envoy.connect();
    let upsert = |name: &str| json!({ "workspaceId": "acme", "name": name }).to_string();
    client.send("PUT", "/segments", &upsert("two")).expect(200);
    client.send("PUT", "/segments", &upsert("four")).refused(429, "QUOTA_EXCEEDED");
}

#[test]
fn a_body_that_comes_late_is_awaited_before_a_unit_is_taken() {
    let setup = Setup::new();
    let path = "/workspaces/acme/segments";
    let mut slow = [setup.envoy.connect(), setup.envoy.connect(), setup.envoy.connect()];
    // More than Envoy hands on when it asks.
    let length = 2 * RouteMap::DEFAULT_BODY_CAP;
    for client in &mut slow {
        let head = format!("POST {path} HTTP/1.1\r\nhost: envoy\r\ncontent-length: {length}\r\n\r\n");
        client.send_raw(head.as_bytes()).unwrap();
        client.send_raw(&vec![b' '; length - 1]).unwrap();
    }
    let mut quick = setup.envoy.connect();
    for _ in 0..3 {
        quick.send("POST", path, "").expect(201);
    }
    for mut client in slow {
        client.send_raw(b" ").unwrap();
        client.read().unwrap().refused(429, "QUOTA_EXCEEDED");
    }
    assert_eq!(setup.rows("acme"), 3);
}

#[test]
fn while_the_service_is_down_nothing_passes() {
    let setup = Setup::new();
    let mut client = setup.envoy.connect();
    client.send("POST", "/workspaces/acme/segments", "").expect(201);
    drop(setup.service);
    for path in ["/workspaces/acme/segments", "/elsewhere"] {
        client.send("POST", path, "").expect(503);
    }
    assert_eq!(setup.folder.database().rows("Segment", "acme"), 1);
}

#[test]
fn a_client_can_not_have_its_request_sent_again_or_awaited_longer() {
    // Envoy takes the word of a client that is in such a network, even of one that says so.
    let front = "use_remote_address: true";
    assert_eq!(contrib().matches(front).count(), 1);
    let internal = "internal_address_config: { cidr_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }] }";
    let setup = Setup::with(contrib().replace(front, &format!("{front}\n                {internal}")));
    let headers = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-envoy-retry-on", "retriable-status-codes"),
        ("x-envoy-retriable-status-codes", "200,201"),
        ("x-envoy-max-retries", "10"),
        ("x-envoy-upstream-rq-timeout-ms", "600000"),
    ];
    let mut client = setup.envoy.connect();
    client.send_with("POST", "/workspaces/acme/segments", &headers, "").expect(201);
    assert_eq!(setup.rows("acme"), 1);
    let echoed = client.send_with("POST", "/elsewhere", &headers, "").expect(200).json();
    assert_eq!(echoed["headers"]["x-envoy-expected-rq-timeout-ms"], "25000", "{echoed}");
}
