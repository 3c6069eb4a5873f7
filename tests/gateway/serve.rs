//! `quotactl serve` in front of an API that knows nothing of limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{PgPool, SqlitePool};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::host::{Folder, RULES, Service};
use crate::support::client::together;
use crate::support::quickstart::Server;
use crate::support::random::seed;
use crate::support::until;
use crate::upstream::Upstream;

const PATH: &str = "/workspaces/acme/segments";
const QUOTA: &str = "/api/workspaces/acme/quota";
const INSERT: &str = r#"INSERT INTO "Segment" VALUES ($1)"#;

/// An API with rows in the folder's database.
struct Api {
    address: SocketAddr,
    well: Arc<AtomicBool>,
    // Its end is the end of all connections.
    _runtime: Runtime,
}

#[derive(Clone)]
enum Rows {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Takes its time: as many milliseconds as it is told.
async fn create(
    State(rows): State<Rows>,
    Path(workspace): Path<String>,
    headers: HeaderMap,
    _body: Bytes,
) -> StatusCode {
    let delay = headers.get("x-delay").map_or(0, |delay| delay.to_str().unwrap().parse().unwrap());
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let made = match rows {
        Rows::Sqlite(pool) => sqlx::query(INSERT).bind(workspace).execute(&pool).await.map(drop),
        Rows::Postgres(pool) => sqlx::query(INSERT).bind(workspace).execute(&pool).await.map(drop),
    };
    made.map_or(StatusCode::SERVICE_UNAVAILABLE, |()| StatusCode::CREATED)
}

impl Api {
    fn start(folder: &Folder) -> Self {
        let runtime = Runtime::new().unwrap();
        let well = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&well);
        let health = move || async move {
            match asked.load(Ordering::SeqCst) {
                true => StatusCode::OK,
                false => StatusCode::INTERNAL_SERVER_ERROR,
            }
        };
        let address = runtime.block_on(async {
            let rows = match folder.url.starts_with("sqlite") {
                true => Rows::Sqlite(SqlitePoolOptions::new().max_connections(1).connect(&folder.url).await.unwrap()),
                false => Rows::Postgres(PgPoolOptions::new().max_connections(20).connect(&folder.url).await.unwrap()),
            };
            let app = Router::new()
                .route("/workspaces/{workspace}/segments", post(create))
                .route("/elsewhere/{workspace}", post(create))
                .route("/health", get(health))
                .with_state(rows);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            address
        });
        Self { address, well, _runtime: runtime }
    }
}

/// A folder whose service stands in front of an API in the same database.
fn set_up(on: Server, more: &str) -> (Folder, Api) {
    let folder = Folder::new(on);
    let api = Api::start(&folder);
    folder.append(&format!(
        "[gateway]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://{}\"\nlongest_request_seconds = 70\n{more}",
        api.address
    ));
    (folder, api)
}

fn limit(service: &Service, limit: usize) {
    service.admin().send("PUT", QUOTA, &format!(r#"{{"maxSegments": {limit}}}"#)).expect(200);
}

/// Fills a workspace by many connections to these services, and asserts that not one row is missing, and none too many.
fn fills_exactly(folder: &Folder, services: &[&Service]) {
    const LIMIT: usize = 50;
    let mut database = folder.database();
    database.watch("Segment");
    limit(services[0], LIMIT);
    let created = together(64, seed(), 0, |thread, random| {
        let mut connection = services[thread % services.len()].front();
        let mut created = 0;
        for _ in 0..4 {
            let delay = random.below(10).to_string();
            let answer = connection.send_with("POST", PATH, &[("x-delay", &delay)], "");
            match answer.status {
                201 => created += 1,
                _ => drop(answer.refused(429, "QUOTA_EXCEEDED")),
            }
        }
        created
    });
    assert_eq!(created.iter().sum::<usize>(), LIMIT, "{created:?}");
    let rows = i64::try_from(LIMIT).unwrap();
    assert_eq!((database.rows("Segment", "acme"), database.peak("Segment", "acme")), (rows, rows));
    for service in services {
        let quota = service.admin().send("GET", QUOTA, "").expect(200).json();
        assert_eq!(quota["usage"]["segments"], LIMIT, "{quota}");
    }
    // Nothing is held any more: there is room for one more as soon as the limit says so.
    for service in services {
        // Each is told, since a notice to the other may get lost.
        limit(service, LIMIT + 1);
        let body = r#"{"resourceType": "segments"}"#;
        until("all of it is free", || service.admin().send("POST", &format!("{QUOTA}/validate"), body).status == 200);
    }
    services[0].front().send("POST", PATH, "").expect(201);
    services[0].front().send("POST", PATH, "").refused(429, "QUOTA_EXCEEDED");
}

#[test]
fn limits_are_exact_on_sqlite() {
    let (folder, _api) = set_up(Server::Sqlite, "");
    let service = folder.start();
    fills_exactly(&folder, &[&service]);
}

#[test]
fn limits_are_exact_over_two_replicas_on_postgres() {
    let (folder, _api) = set_up(Server::Postgres, "");
    let (one, other) = (folder.start(), folder.start());
    // Not more is promised than holds.
    let mode = one.admin().send("GET", "/api/system/config/quota-enforcement", "").expect(200).json();
    assert_eq!(mode["promise"], "bounded", "{mode}");
    fills_exactly(&folder, &[&one, &other]);
}

#[test]
fn rules_change_while_it_runs() {
    let (folder, _api) = set_up(Server::Sqlite, "rate_limit_headers = true\n");
    let service = folder.start();
    limit(&service, 1);
    let mut connection = service.front();
    let answer = connection.send("POST", PATH, "").expect(201);
    assert_eq!(answer.header("ratelimit"), Some("\"segments\";r=0"), "{answer}");
    connection.send("POST", PATH, "").refused(429, "QUOTA_EXCEEDED");
    connection.send("POST", "/elsewhere/acme", "").expect(201);
    let elsewhere = RULES.replace("\"/workspaces/{workspace}/segments\"", "\"/elsewhere/{workspace}\"");
    folder.write("routes.toml", &elsewhere);
    service.reload();
    // A connection that is open already is no exception.
    connection.send("POST", "/elsewhere/acme", "").refused(429, "QUOTA_EXCEEDED");
    connection.send("POST", PATH, "").expect(201);
    // Types can't change, and a file with a mistake changes nothing.
    folder.write("routes.toml", &RULES.replace("\"segments\"", "\"parts\""));
    service.reload();
    connection.send("POST", "/elsewhere/acme", "").refused(429, "QUOTA_EXCEEDED");
    service.logs("the rules stay as they were");
}

#[test]
fn the_api_and_the_gateway_are_apart() {
    let (folder, api) = set_up(Server::Sqlite, "");
    let service = folder.start();
    // What is the service's own at one address is the upstream's at the other.
    service.front().send("GET", QUOTA, "").expect(404);
    service.front().send("GET", "/livez", "").expect(404);
    service.connect().send("GET", "/health", "").expect(404);
    service.front().send("GET", "/health", "").expect(200);
    drop(api);
    service.front().send("POST", PATH, "").refused(502, "BAD_GATEWAY");
    let body = r#"{"resourceType": "segments", "increment": 3}"#;
    service.admin().send("POST", &format!("{QUOTA}/validate"), body).expect(200);
}

#[test]
fn an_upstream_that_is_down_is_left_alone() {
    let (folder, api) = set_up(Server::Sqlite, "health_path = \"/health\"\nhealth_every_seconds = 1\n");
    let service = folder.start();
    service.front().send("POST", PATH, "").expect(201);
    api.well.store(false, Ordering::SeqCst);
    service.logs("the upstream is down");
    let answer = service.front().send("POST", PATH, "");
    answer.refused(503, "SERVICE_UNAVAILABLE");
    assert_eq!(answer.header("retry-after"), Some("1"));
    // Nothing is held for it.
    let body = r#"{"resourceType": "segments", "increment": 2}"#;
    service.admin().send("POST", &format!("{QUOTA}/validate"), body).expect(200);
    // Nor is the API of limits taken out of service, which needs no upstream.
    assert_eq!(service.probe("/readyz"), Some(200));
    api.well.store(true, Ordering::SeqCst);
    service.logs("the upstream is up again");
    service.front().send("POST", PATH, "").expect(201);
}

#[test]
fn nobody_is_waited_for_forever() {
    // It sends more than any buffers on the way take.
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            talk.send(format!("10000\r\n{}\r\n", "x".repeat(0x10000)))?;
        }
    });
    let folder = Folder::new(Server::Sqlite);
    folder.write("routes.toml", &RULES.replace("{ path = \"workspace\" }", "{ body = \"/workspace\" }"));
    let gateway =
        format!("[gateway]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\nidle_timeout_seconds = 1\n", upstream.url());
    folder.append(&gateway);
    let service = folder.start();
    // Who reads nothing, and who sends nothing of a body that a rule wants to read.
    let mut reader = service.front();
    reader.send_raw(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut sender = service.front();
    sender.send_raw(format!("POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\n").as_bytes()).unwrap();
    sender.read().unwrap().refused(400, "INVALID_REQUEST");
    until("the upstream is rid of it", || upstream.closed() == 1);
}

#[test]
fn who_leaves_a_response_lying_is_not_waited_for() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            talk.send(format!("10000\r\n{}\r\n", "x".repeat(0x10000)))?;
        }
    });
    let folder = Folder::new(Server::Sqlite);
    let gateway =
        format!("[gateway]\nlisten = \"127.0.0.1:0\"\nupstream = \"{}\"\nidle_timeout_seconds = 1\n", upstream.url());
    folder.append(&gateway);
    let service = folder.start();
    // One that never lets any of it come, and one that takes the first of it and no more.
    for window in [0, 65_535] {
        Runtime::new().unwrap().block_on(async {
            let stream = tokio::net::TcpStream::connect(service.gateway.unwrap()).await.unwrap();
            let mut http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            let client = http.initial_stream_window_size(window).handshake(TokioIo::new(stream)).await;
            let (mut client, connection) = client.unwrap();
            let connection = tokio::spawn(connection);
            let request = http::Request::get("http://a/x").body(Empty::<Bytes>::new()).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            // It answers pings, and so it lives; but it is left.
            let ended = tokio::time::timeout(Duration::from_secs(60), connection).await;
            ended.expect("never: the connection ends").unwrap().ok();
            drop(response);
        });
    }
    until("the upstream is rid of them", || upstream.closed() == 2);
}

#[test]
fn what_is_under_way_is_finished() {
    let (folder, _api) = set_up(Server::Sqlite, "");
    let mut service = folder.start();
    let mut connection = service.front();
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n");
    connection.send_raw(head.as_bytes()).unwrap();
    // It is with the upstream, which asks for the body.
    assert_eq!(connection.read_head().unwrap().status, 100);
    service.signal("TERM");
    until("it takes no more connections", || TcpStream::connect(service.gateway.unwrap()).is_err());
    assert!(service.is_running(), "{}", service.log());
    connection.send_raw(b"{}").unwrap();
    assert!(!connection.read().unwrap().expect(201).keeps_alive());
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
    assert!(!service.log().contains("cut off"), "{}", service.log());
}

#[test]
fn what_two_readers_might_part_over_does_not_get_through() {
    let (folder, _api) = set_up(Server::Sqlite, "");
    let service = folder.start();
    limit(&service, 4);
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: a\r\n");
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        "content-length: 0\r\ncontent-length: 0\r\n\r\n",
        "content-length: 0\n\r\n",
    ] {
        let mut stream = TcpStream::connect(service.gateway.unwrap()).unwrap();
        stream.write_all(format!("{head}content-length: 0\r\n\r\n{head}{fields}").as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
        assert_eq!(statuses, ["201", "400"], "{fields:?}: {answers}");
    }
    assert_eq!(folder.database().rows("Segment", "acme"), 4);
}

#[test]
fn it_may_have_a_certificate_of_its_own() {
    let (folder, _api) = set_up(Server::Sqlite, "[gateway.tls]\ncertificate = \"front.pem\"\nkey = \"front.key\"\n");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    folder.private("front.key", &made.signing_key.serialize_pem());
    folder.write("front.pem", &made.cert.pem());
    let service = folder.start();
    for (offered, agreed) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(connection, TcpStream::connect(service.gateway.unwrap()).unwrap());
        if agreed == "http/1.1" {
            stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        } else {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        }
        assert_eq!(stream.conn.alpn_protocol(), Some(agreed.as_bytes()));
    }
}

#[test]
fn what_makes_no_sense_is_told() {
    for (written, says) in [
        ("upstream = \"localhost\"", "line 20: the upstream's URL is malformed"),
        ("upstream = \"http://a/b\"", "line 20: the upstream's URL has a path or query"),
        ("upstream = \"http://a\"\nlongest_request_seconds = 20", "line 21: `longest_request_seconds` is no less than"),
        ("upstream = \"http://a\"\nhost = \"mine\"", "line 21: unknown variant `mine`"),
        ("upstream = \"http://a\"\ntrusted_proxies = [\"here\"]", "line 21: \"here\" is no network"),
        ("upstream = \"http://a\"\nhealth_path = \"health\"", "line 21: \"health\" is no plain path"),
        ("listen = \"127.0.0.1:0\"", "missing field `upstream`"),
    ] {
        let folder = Folder::new(Server::Sqlite);
        folder.append(&format!("[gateway]\n{written}\n"));
        let told = folder.refused(&["--check"], 2);
        assert!(told.contains(says), "{written}: {told}");
    }
}
