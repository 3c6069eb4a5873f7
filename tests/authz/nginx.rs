//! `auth_request`, with nginx as it is in `contrib`, in front of nginx that writes files.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use axum::Router;
use serde_json::json;
use tempfile::TempDir;
use tower_quota::{AuthRequest, EnforcementMode, QuotaLayer, Settling};

use crate::files::{Files, LONGEST, SHORT};
use crate::keeper::{Kept, program};
use crate::support::client::{Connection, together};
use crate::support::until;

/// nginx that asks, and nginx that writes files. It ends when this is dropped, or with the process of the tests.
pub(crate) struct Nginx {
    _server: Kept,
    folder: TempDir,
    pub(crate) address: SocketAddr,
}

impl Nginx {
    /// Asks at `quota`, and forwards to `upstream`, or else to the one that writes files into `files`.
    pub(crate) fn start(quota: SocketAddr, upstream: Option<SocketAddr>, files: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // In the file it is at an address, which is told once to listen and once to forward.
        let behind = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let here = folder.path().display();
        let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/nginx.conf");
        let mut front = fs::read_to_string(contrib).unwrap();
        let upstream = upstream.map_or_else(|| format!("unix:{here}/files"), |upstream| upstream.to_string());
        let own = [
            ("127.0.0.1:8082", quota.to_string()),
            ("127.0.0.1:3000", upstream),
            ("127.0.0.1:8000", address.to_string()),
        ];
        for (example, own) in own {
            assert_eq!(front.matches(example).count(), 1, "{example}");
            front = front.replace(example, &own);
        }
        assert_eq!(front.matches("127.0.0.1:8001").count(), 2);
        front = front.replace("127.0.0.1:8001", &behind.to_string());
        fs::write(folder.path().join("front.conf"), front).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {here}/temporary;")).join(" ");
        let config = format!(
            "user root root; daemon off; worker_processes 2; pid {here}/pid; events {{ worker_connections 1024; }}\n\
             http {{\n  access_log off; {temporary}\n  include front.conf;\n\
             server {{ listen unix:{here}/files; root {}; dav_methods PUT DELETE; }}\n}}\n",
            files.display()
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let arguments = ["-p".as_ref(), folder.path().as_os_str(), "-c".as_ref(), "nginx.conf".as_ref()];
        let arguments = [arguments.as_slice(), &["-e".as_ref(), "error.log".as_ref()]].concat();
        let server = Kept::start(&program("nginx", "TEST_NGINX"), &arguments);
        let nginx = Self { _server: server, folder, address };
        let mut error = String::new();
        until("nginx has started, or said why not", || {
            error = fs::read_to_string(nginx.folder.path().join("error.log")).unwrap_or_default();
            Connection::open(address).is_ok() || error.contains("[emerg]")
        });
        assert!(!error.contains("[emerg]"), "{error}");
        nginx
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }
}

/// What nginx asks, and nginx. The runtime serves until it is dropped.
struct Setup {
    nginx: Nginx,
    files: Files,
    quota: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Setup {
    fn new(mode: EnforcementMode, settled_after: Duration) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (files, quota) = runtime.block_on(async {
            let files = Files::new(|builder| builder.mode(mode).settling(Settling::After(settled_after)));
            let layer = QuotaLayer::new(files.quota.clone(), files.routes.clone()).unwrap();
            let app = Router::new().nest("/authz", AuthRequest::new(layer).unwrap().into_router());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await });
            (files, address)
        });
        let nginx = Nginx::start(quota, None, files.path());
        Self { nginx, files, quota, _runtime: runtime }
    }
}

#[test]
fn what_is_over_the_limit_is_answered_as_by_the_layer() {
    let setup = Setup::new(EnforcementMode::Enforce, SHORT);
    setup.files.workspace("acme");
    let mut client = setup.nginx.connect();
    for name in ["one", "two", "three"] {
        client.send("PUT", &format!("/acme/{name}"), name).expect(201);
    }
    let refused = client.send("PUT", "/acme/four", "four");
    assert_eq!(refused.refused(429, "QUOTA_EXCEEDED"), "File quota exceeded");
    let details = json!({ "resourceType": "files", "currentUsage": 3, "limit": 3, "requested": 1, "remaining": 0 });
    assert_eq!(refused.json()["details"], details);
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert_eq!(refused.header("quota-warning"), None);
    assert_eq!(setup.files.number("acme"), 3);

    // What is none of the layer's business passes, and so do other workspaces.
    assert_eq!(client.send("GET", "/acme/two", "").expect(200).text(), "two");
    client.send("GET", "/acme/four", "").expect(404);
    setup.files.workspace("globex");
    client.send("PUT", "/globex/one", "").expect(201);

    // What is deleted leaves room, once nobody can be making files any more.
    client.send("DELETE", "/acme/one", "").expect(204);
    until("there is room again", || client.send("PUT", "/acme/four", "four").status == 201);
    client.send("PUT", "/acme/five", "").refused(429, "QUOTA_EXCEEDED");
    assert_eq!(setup.files.number("acme"), 3);
}

#[test]
fn a_body_that_comes_late_is_awaited_before_a_unit_is_taken() {
    let setup = Setup::new(EnforcementMode::Enforce, LONGEST);
    setup.files.workspace("acme");
    let mut slow = [setup.nginx.connect(), setup.nginx.connect(), setup.nginx.connect()];
    for client in &mut slow {
        client.send_raw(b"PUT /acme/late HTTP/1.1\r\nhost: nginx\r\ncontent-length: 4\r\n\r\nlat").unwrap();
    }
    let mut quick = setup.nginx.connect();
    for name in ["one", "two", "three"] {
        quick.send("PUT", &format!("/acme/{name}"), "").expect(201);
    }
    for mut client in slow {
        client.send_raw(b"e").unwrap();
        client.read().unwrap().refused(429, "QUOTA_EXCEEDED");
    }
    assert_eq!(setup.files.number("acme"), 3);
}

#[test]
fn of_many_at_once_as_many_pass_as_there_is_room_for() {
    let setup = Setup::new(EnforcementMode::Enforce, LONGEST);
    for round in 0..4 {
        let workspace = format!("acme{round}");
        setup.files.workspace(&workspace);
        let answers = together(64, 1, round, |thread, _| {
            setup.nginx.connect().send("PUT", &format!("/{workspace}/{thread}"), "")
        });
        let passed = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!((passed, setup.files.number(&workspace)), (3, 3), "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            answer.refused(429, "QUOTA_EXCEEDED");
        }
    }
}

#[test]
fn units_of_what_the_upstream_refuses_come_back() {
    let setup = Setup::new(EnforcementMode::Enforce, SHORT);
    setup.files.workspace("acme");
    let mut client = setup.nginx.connect();
    // That would be folders, which nginx doesn't make.
    for name in ["one", "two", "three"] {
        client.send("PUT", &format!("/acme/{name}/"), "").expect(409);
    }
    // How that ended is not seen: until the time is over, each of them may still become a file.
    let blocked = client.send("PUT", "/acme/four", "");
    blocked.refused(429, "QUOTA_EXCEEDED");
    assert_eq!(blocked.json()["details"]["reserved"], 3, "{blocked}");
    assert_eq!(blocked.header("retry-after"), Some("1"));
    until("the units are settled, and a count finds nothing", || client.send("PUT", "/acme/four", "").status == 201);
    // A file that is counted while its unit may still become one counts twice.
    for name in ["five", "six"] {
        until("there is room for it", || client.send("PUT", &format!("/acme/{name}"), "").status == 201);
    }
    client.send("PUT", "/acme/seven", "").refused(429, "QUOTA_EXCEEDED");
    assert_eq!(setup.files.number("acme"), 3);
}

#[test]
fn no_spelling_gets_past_it() {
    let setup = Setup::new(EnforcementMode::Enforce, LONGEST);
    setup.files.workspace("acme");
    let mut client = setup.nginx.connect();
    for path in ["//acme/one", "/%61cme/./two", "/other/../acme%2Fthree"] {
        client.send("PUT", path, "").expect(201);
    }
    assert_eq!(setup.files.number("acme"), 3);
    for path in ["/acme/four", "//acme//four", "/%61cme/four", "/acme%2ffour", "/acme/four?x=/", "/acme/f<our"] {
        client.send("PUT", path, "").refused(429, "QUOTA_EXCEEDED");
    }
    // A client's word on what it asks for counts for nothing.
    let forged = [("x-original-uri", "/globex/four"), ("x-original-method", "GET")];
    client.send_with("PUT", "/acme/four", &forged, "").refused(429, "QUOTA_EXCEEDED");
    client.send("GET", "/.quota", "").expect(404);
    assert_eq!(setup.files.number("acme"), 3);
}

#[test]
fn a_problem_of_the_request_is_told_as_such() {
    let setup = Setup::new(EnforcementMode::Enforce, LONGEST);
    let message = setup.nginx.connect().send("PUT", "/%FF/one", "").refused(400, "INVALID_REQUEST");
    assert!(message.contains("UTF-8"), "{message}");
}

#[test]
fn in_mode_warn_the_response_says_what_was_over_the_limit() {
    let setup = Setup::new(EnforcementMode::Warn, LONGEST);
    setup.files.workspace("acme");
    let mut client = setup.nginx.connect();
    for name in ["one", "two", "three"] {
        assert_eq!(client.send("PUT", &format!("/acme/{name}"), "").expect(201).header("quota-warning"), None);
    }
    let warned = client.send("PUT", "/acme/four", "").expect(201);
    assert_eq!(warned.header("quota-warning"), Some("\"files\";usage=3;limit=3"), "{warned}");
    assert_eq!(setup.files.number("acme"), 4);
}

#[test]
fn who_asks_in_another_way_is_told_how() {
    let setup = Setup::new(EnforcementMode::Enforce, LONGEST);
    let mut direct = Connection::open(setup.quota).unwrap();
    let target = ("x-original-uri", "/acme/one");
    let method = |method| ("x-original-method", method);
    let twice = vec![target, method("PUT"), method("GET")];
    // What gRPC answers is always 200, which nginx would let through.
    let grpc = vec![target, ("content-type", "application/grpc")];
    for headers in [vec![], vec![target], twice, grpc] {
        let refused = direct.send_with("GET", "/authz", &headers, "");
        assert_eq!((refused.status, refused.header("quota-status")), (403, Some("400")), "{refused}");
        let told = refused.header("quota-problem").or(refused.header("grpc-message"));
        assert!(told.is_some_and(|told| told.contains("x-original-method")), "{refused}");
    }
    for method in ["GET", "PUT", "HEAD"] {
        let request = [target, ("x-original-method", "PUT")];
        let passed = match method {
            "HEAD" => {
                direct.send_raw(&crate::support::client::request(method, "/authz", None, &request, "")).unwrap();
                direct.read_head().unwrap()
            }
            _ => direct.send_with(method, "/authz", &request, ""),
        };
        assert_eq!(passed.status, 200, "{passed}");
    }
    let refused = direct.send_with("GET", "/authz", &[target, ("x-original-method", "PUT")], "");
    assert_eq!(refused.status, 403, "{refused}");
    assert_eq!(refused.header("quota-status"), Some("429"));
    assert_eq!(refused.header("quota-code"), Some("QUOTA_EXCEEDED"));
    assert_eq!(refused.header("quota-problem"), Some(&*refused.text()));
    let grpc = [target, ("x-original-method", "PUT"), ("content-type", "application/grpc")];
    let refused = direct.send_with("GET", "/authz", &grpc, "");
    assert_eq!((refused.status, refused.header("grpc-status")), (403, Some("8")), "{refused}");
    assert_eq!(refused.header("quota-status"), Some("429"));
}
