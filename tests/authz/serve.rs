//! `quotactl serve` with [authz], as its users run it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::routing::post;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use http::StatusCode;
use tonic::transport::{Channel, Endpoint};

use crate::envoy::{Authz, raw};
use crate::host::{Folder, Service};
use crate::nginx::Nginx;
use crate::support::client::together;
use crate::support::quickstart::Server;
use crate::support::until;

/// A service that answers proxies, and where.
pub(crate) fn start(folder: &Folder, options: &str) -> (Service, SocketAddr) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    folder.append(&format!("[authz]\nlisten = \"{address}\"\nlongest_request_seconds = 60\n{options}\n"));
    (folder.start(), address)
}

/// An API that makes a row for each request, and knows nothing of limits.
pub(crate) fn product(folder: Arc<Folder>) -> Router {
    let create = post(|Path(workspace): Path<String>| async move {
        let insert = format!(r#"INSERT INTO "Segment" ("workspaceId") VALUES ('{workspace}')"#);
        let made = tokio::task::spawn_blocking(move || folder.database().run(insert));
        made.await.map_or(StatusCode::INTERNAL_SERVER_ERROR, |()| StatusCode::CREATED)
    });
    Router::new().route("/workspaces/{workspace}/segments", create)
}

pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

pub(crate) async fn envoy(address: SocketAddr) -> AuthorizationClient<Channel> {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    AuthorizationClient::new(channel)
}

#[test]
fn nginx_holds_another_api_to_the_limit() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = Arc::new(Folder::new(Server::Sqlite));
    let (_service, address) = start(&folder, "nginx_path = \"/authz\"");
    let product = runtime.block_on(serve(product(Arc::clone(&folder))));
    let nginx = Nginx::start(address, Some(product), &folder.path(""));
    for (round, workspace) in ["acme", "globex"].into_iter().enumerate() {
        let path = format!("/workspaces/{workspace}/segments");
        let answers = together(64, 1, round, |_, _| nginx.connect().send("POST", &path, ""));
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!((made, folder.database().rows("Segment", workspace)), (3, 3), "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            answer.refused(429, "QUOTA_EXCEEDED");
        }
    }
}

#[test]
fn after_a_start_nothing_is_granted_until_what_passed_before_is_done() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = Folder::new(Server::Sqlite);
    let begun = Instant::now();
    let (_service, address) = start(&folder, "first_count_after_seconds = 4");
    let request = raw("POST", "/workspaces/acme/segments", &[]);
    let asked = runtime.block_on(async { Authz::ask(envoy(address).await, request).await });
    assert!(Authz::has_passed(&asked) && begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn two_services_share_the_limit() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (one, two) = (Folder::new(Server::Postgres), Folder::new(Server::Postgres));
    two.change(&two.url, &one.url);
    let services = [start(&one, ""), start(&two, "")];
    let passed = runtime.block_on(async {
        let clients = [envoy(services[0].1).await, envoy(services[1].1).await];
        let asking = (0..64).map(|index| {
            let client = clients[index % 2].clone();
            tokio::spawn(async move { Authz::ask(client, raw("POST", "/workspaces/acme/segments", &[])).await })
        });
        let mut passed = 0;
        for asked in asking.collect::<Vec<_>>() {
            passed += usize::from(Authz::has_passed(&asked.await.unwrap()));
        }
        passed
    });
    assert_eq!(passed, 3);
}

#[test]
fn rules_change_while_it_runs() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = Folder::new(Server::Sqlite);
    let (service, address) = start(&folder, "nginx_path = \"/authz\"");
    folder.insert(3);
    let asks = |path: &str| {
        let request = raw("POST", path, &[]);
        Authz::has_passed(&runtime.block_on(async { Authz::ask(envoy(address).await, request).await }))
    };
    assert!(!asks("/workspaces/acme/segments") && asks("/v2/acme/segments"));
    let rules = crate::host::RULES.replace("\"/workspaces/{workspace}/segments\"", "\"/v2/{workspace}/segments\"");
    folder.write("routes.toml", &rules);
    service.reload();
    until("the new rules are in force", || !asks("/v2/acme/segments"));
    assert!(asks("/workspaces/acme/segments"));
    // Rules that nginx can't be answered by change nothing.
    folder.write("routes.toml", &rules.replace("{ path = \"workspace\" }", "{ body = \"/workspaceId\" }"));
    service.reload();
    service.logs("reads the request body");
    assert!(!asks("/v2/acme/segments"));
}

#[test]
fn what_can_not_be_asked_is_said_at_the_start() {
    let by_body = ("{ path = \"workspace\" }", "{ body = \"/workspaceId\" }");
    let by_extension = ("{ path = \"workspace\" }", "\"extension\"");
    let cases = [
        ("nginx_path = \"/authz\"", by_body, "line 20: rule \"create-segment\" reads the request body"),
        ("", by_extension, "rule \"create-segment\" takes the workspace from an extension"),
        ("nginx_path = \"authz\"", ("", ""), "line 20: \"authz\" is no plain path"),
        ("nginx_path = \"/envoy.service.auth.v3.Authorization\"", ("", ""), "line 20: this is where Envoy asks"),
        ("longest_request_seconds = 0", ("", ""), "line 20: 0 is out of range"),
        ("on_failure = \"ajar\"", ("", ""), "line 20: unknown variant `ajar`, expected `open` or `closed`"),
        (
            "envoy_path = \"/authz\"",
            ("", ""),
            "line 20: unknown field `envoy_path`, expected one of `listen`, `nginx_path`",
        ),
    ];
    for (option, (from, to), expected) in cases {
        let folder = Folder::new(Server::Sqlite);
        folder.append(&format!("[authz]\n{option}\n"));
        folder.write("routes.toml", &crate::host::RULES.replacen(from, to, usize::from(!from.is_empty())));
        let told = folder.refused(&["--check"], 2);
        assert!(told.contains(expected), "{option}: {told}");
    }
    let folder = Folder::new(Server::Sqlite);
    folder.append("[authz]\n[[resource]]\nname = \"segments\"\nledger = true\n");
    let told = folder.refused(&["--check"], 2);
    assert!(told.contains("line 20: with [authz] the ledger alone can't count"), "{told}");
    // Envoy hands on bodies.
    let folder = Folder::new(Server::Sqlite);
    folder.append("[authz]\n");
    folder.write("routes.toml", &crate::host::RULES.replace(by_body.0, by_body.1));
    assert_eq!(folder.output(&["--check"]).status.code(), Some(0));
}
