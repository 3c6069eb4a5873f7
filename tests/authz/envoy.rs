//! Envoy's side of `ext_authz`, spoken by a client that sends what Envoy does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use envoy_types::ext_authz::v3::pb::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::config::core::v3::HeaderMap;
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use http::{HeaderName, Method};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tower_quota::{
    Amount, Charge, ClosureUsage, EnforcementMode, Limit, MemoryStore, OnFailure, Predicate, Quota, QuotaBuilder,
    QuotaLayer, Replayed, ResourceCatalog, ResourceSpec, RouteMap, Rule, Settling, WorkspaceSource,
};

use crate::files::{LONGEST, SHORT};

/// Who answers Envoy, and the rows of all workspaces.
pub(crate) struct Authz {
    client: AuthorizationClient<Channel>,
    rows: Arc<AtomicU64>,
}

/// Stands for a count that fails.
const UNKNOWN: u64 = u64::MAX;

impl Authz {
    /// A limit of three items for each workspace.
    async fn start(
        set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder,
        options: impl FnOnce(QuotaLayer<Replayed>) -> QuotaLayer<Replayed>,
    ) -> Self {
        let items = ResourceSpec::new("items", "maxItems", Limit::of(3));
        let catalog = ResourceCatalog::empty().resource(items).build().unwrap();
        let rows = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&rows);
        let usage = ClosureUsage::new(move |_, _, _| {
            let rows = counted.load(Ordering::SeqCst);
            async move { if rows == UNKNOWN { Err("nobody can count") } else { Ok(rows) } }
        });
        let quota = Quota::builder(catalog.clone())
            .store(MemoryStore::new())
            .usage(usage)
            .mode(EnforcementMode::Enforce)
            .max_wait(Duration::from_millis(20))
            .settling(Settling::After(LONGEST));
        let by_path = Rule::new("by-path", Method::POST, "/w/{workspace}/items")
            .workspace(WorkspaceSource::path("workspace"))
            .charge(Charge::of("items"));
        let by_header = Rule::new("by-header", Method::POST, "/items")
            .workspace(WorkspaceSource::header(HeaderName::from_static("x-workspace")))
            .charge(Charge::of("items"));
        let by_body = Rule::new("by-body", Method::POST, "/w/{workspace}/batches")
            .workspace(WorkspaceSource::path("workspace"))
            .charge(Charge::of("items").amount(Amount::length("/items")).when(Predicate::present("/items")));
        let rules = [by_path, by_header, by_body];
        let routes = rules.into_iter().fold(RouteMap::builder(&catalog), |routes, rule| routes.rule(rule));
        let quota = set_up(quota).build().unwrap();
        let layer = QuotaLayer::reading_bodies(quota, routes.build().unwrap()).unwrap();
        let router = tower_quota::ExtAuthz::new(options(layer)).unwrap().into_router();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder().add_routes(Routes::from(router));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { client: AuthorizationClient::new(channel), rows }
    }

    async fn plain() -> Self {
        Self::start(|builder| builder, |layer| layer).await
    }

    async fn check(&self, http: HttpRequest) -> CheckResponse {
        Self::ask(self.client.clone(), http).await
    }

    pub(crate) async fn ask(mut client: AuthorizationClient<Channel>, http: HttpRequest) -> CheckResponse {
        let attributes =
            AttributeContext { request: Some(Request { time: None, http: Some(http) }), ..AttributeContext::default() };
        let request = CheckRequest { attributes: Some(attributes) };
        client.check(request).await.unwrap().into_inner()
    }

    pub(crate) fn has_passed(response: &CheckResponse) -> bool {
        response.status.as_ref().is_some_and(|status| status.code == Code::Ok as i32)
    }

    #[track_caller]
    fn passes(response: CheckResponse) -> OkHttpResponse {
        assert!(Self::has_passed(&response), "{response:?}");
        match response.http_response {
            Some(HttpResponse::OkResponse(ok)) => ok,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn denies(response: CheckResponse, status: i32) -> DeniedHttpResponse {
        assert!(!Self::has_passed(&response), "{response:?}");
        match response.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => {
                assert_eq!(denied.status.as_ref().unwrap().code, status, "{denied:?}");
                denied
            }
            other => panic!("{other:?}"),
        }
    }

    /// Denied with this code; the message that comes with it.
    #[track_caller]
    fn refuses(response: CheckResponse, status: i32, code: &str) -> String {
        let denied = Self::denies(response, status);
        let body: Value = serde_json::from_str(&denied.body).unwrap();
        assert_eq!(body["error"], code, "{body}");
        body["message"].as_str().unwrap().to_owned()
    }
}

/// A request as Envoy tells it with `encode_raw_headers`.
pub(crate) fn raw(method: &str, path: &str, headers: &[(&str, &[u8])]) -> HttpRequest {
    let pseudo: [(&str, &[u8]); 2] = [(":method", method.as_bytes()), (":path", path.as_bytes())];
    let headers = pseudo.iter().chain(headers).map(|(name, value)| HeaderValue {
        key: (*name).to_owned(),
        value: String::new(),
        raw_value: value.to_vec(),
    });
    HttpRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        host: "shop.example.com".to_owned(),
        protocol: "HTTP/2".to_owned(),
        header_map: Some(HeaderMap { headers: headers.collect() }),
        ..HttpRequest::default()
    }
}

/// The same without it.
fn joined(method: &str, path: &str, headers: &[(&str, &str)]) -> HttpRequest {
    let headers: HashMap<_, _> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HttpRequest { header_map: None, headers, ..raw(method, path, &[]) }
}

fn creation() -> HttpRequest {
    raw("POST", "/w/acme/items", &[])
}

fn header<'h>(headers: &'h [HeaderValueOption], name: &str) -> Option<&'h str> {
    headers
        .iter()
        .filter_map(|option| option.header.as_ref())
        .find(|header| header.key == name)
        .map(|header| &*header.value)
}

#[tokio::test]
async fn what_is_over_the_limit_gets_the_layers_answer() {
    let authz = Authz::plain().await;
    for _ in 0..3 {
        let ok = Authz::passes(authz.check(creation()).await);
        assert!(ok.headers.is_empty() && ok.response_headers_to_add.is_empty(), "{ok:?}");
    }
    authz.rows.store(3, Ordering::SeqCst);
    let response = authz.check(creation()).await;
    assert_eq!(response.status.as_ref().unwrap().code, Code::ResourceExhausted as i32);
    let denied = Authz::denies(response, 429);
    let body: Value = serde_json::from_str(&denied.body).unwrap();
    let details = json!({ "resourceType": "items", "currentUsage": 3, "limit": 3, "requested": 1, "remaining": 0 });
    assert_eq!((&body["error"], &body["details"]), (&json!("QUOTA_EXCEEDED"), &details));
    assert_eq!(header(&denied.headers, "content-type"), Some("application/json"));

    let problem = raw("POST", "/w/acme/items", &[("accept", b"application/problem+json")]);
    let denied = Authz::denies(authz.check(problem).await, 429);
    assert_eq!(header(&denied.headers, "content-type"), Some("application/problem+json"));

    // Envoy keeps `grpc-status` where it answers for a gRPC service, and takes a body for the message.
    let denied =
        Authz::denies(authz.check(raw("POST", "/w/acme/items", &[("content-type", b"application/grpc")])).await, 429);
    assert_eq!(header(&denied.headers, "grpc-status"), Some("8"));
    assert_eq!(header(&denied.headers, "grpc-message"), Some("Item quota exceeded"));
    assert_eq!(denied.body, "");

    for other in [raw("GET", "/w/acme/items", &[]), raw("POST", "/elsewhere", &[]), raw("CONNECT", "", &[])] {
        Authz::passes(authz.check(other).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_as_many_pass_as_there_is_room_for() {
    let authz = Arc::new(Authz::plain().await);
    for round in 0..8 {
        let asking = (0..64).map(|_| {
            let authz = Arc::clone(&authz);
            tokio::spawn(async move { authz.check(raw("POST", &format!("/w/acme{round}/items"), &[])).await })
        });
        let mut passed = 0;
        for asked in asking.collect::<Vec<_>>() {
            let response = asked.await.unwrap();
            match Authz::has_passed(&response) {
                true => passed += 1,
                false => drop(Authz::refuses(response, 429, "QUOTA_EXCEEDED")),
            }
        }
        assert_eq!(passed, 3);
    }
}

#[tokio::test]
async fn a_unit_stays_taken_until_no_row_can_come_of_it() {
    let authz = Authz::start(|builder| builder.settling(Settling::After(SHORT)), |layer| layer).await;
    let begun = Instant::now();
    for _ in 0..3 {
        Authz::passes(authz.check(creation()).await);
    }
    let denied = Authz::denies(authz.check(creation()).await, 429);
    let body: Value = serde_json::from_str(&denied.body).unwrap();
    assert_eq!((&body["details"]["currentUsage"], &body["details"]["reserved"]), (&json!(0), &json!(3)));
    assert_eq!(header(&denied.headers, "retry-after"), Some("1"));
    // The upstream made one row of the three.
    authz.rows.store(1, Ordering::SeqCst);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Authz::has_passed(&authz.check(creation()).await) {
        assert!(Instant::now() < deadline, "the units never came back");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
    Authz::passes(authz.check(creation()).await);
    Authz::denies(authz.check(creation()).await, 429);
}

#[tokio::test]
async fn a_body_is_judged_only_if_it_is_whole_and_unchanged() {
    let authz = Authz::plain().await;
    const PATH: &str = "/w/acme/batches";
    let with = |partial: &[u8], body: &str| HttpRequest {
        raw_body: body.as_bytes().to_vec(),
        ..raw("POST", PATH, &[("x-envoy-auth-partial-body", partial)])
    };
    let four = r#"{"items": [1, 2, 3, 4]}"#;
    Authz::refuses(authz.check(with(b"false", four)).await, 429, "QUOTA_EXCEEDED");
    // Of this part alone nothing would be charged.
    Authz::refuses(authz.check(with(b"true", "{}")).await, 413, "PAYLOAD_TOO_LARGE");
    let text = HttpRequest { body: "{}".to_owned(), ..with(b"false", "") };
    let message = Authz::refuses(authz.check(text).await, 503, "QUOTA_UNAVAILABLE");
    assert!(message.contains("pack_as_bytes"), "{message}");
    let large = format!("{{}}{}", " ".repeat(RouteMap::DEFAULT_BODY_CAP));
    Authz::refuses(authz.check(with(b"false", &large)).await, 413, "PAYLOAD_TOO_LARGE");

    // Envoy says nothing of a body where there is none, and where it was not told to hand it on.
    let unsaid = raw("POST", PATH, &[]);
    let sized = raw("POST", PATH, &[("content-length", b"23")]);
    let one = HttpRequest { protocol: "HTTP/1.1".to_owned(), ..unsaid.clone() };
    let chunked = raw("POST", PATH, &[("transfer-encoding", b"chunked")]);
    let chunked = HttpRequest { protocol: "HTTP/1.1".to_owned(), ..chunked };
    for unknown in [unsaid, sized, chunked] {
        let message = Authz::refuses(authz.check(unknown).await, 400, "INVALID_REQUEST");
        assert!(message.contains("with_request_body"), "{message}");
    }
    for empty in [one, raw("POST", PATH, &[("content-length", b"0")]), with(b"false", "")] {
        Authz::passes(authz.check(empty).await);
    }
    // No rule needs it there.
    Authz::passes(authz.check(HttpRequest { path: "/uploads".to_owned(), ..with(b"true", "{}") }).await);
    // Nothing of all that was charged.
    Authz::passes(authz.check(with(b"false", r#"{"items": [1, 2, 3]}"#)).await);
    Authz::refuses(authz.check(with(b"false", r#"{"items": [1]}"#)).await, 429, "QUOTA_EXCEEDED");
}

#[tokio::test]
async fn a_workspace_is_the_one_that_the_client_sent() {
    let authz = Authz::plain().await;
    let named = |first: &[u8], second: &[u8]| raw("POST", "/items", &[("x-workspace", first), ("x-workspace", second)]);
    Authz::passes(authz.check(named(b"acme", b"acme")).await);
    Authz::refuses(authz.check(named(b"acme", b"globex")).await, 400, "WORKSPACE_MISMATCH");
    Authz::refuses(
        authz.check(raw("POST", "/items", &[("x-workspace", b"w\xc3\xb6rk")])).await,
        400,
        "INVALID_REQUEST",
    );

    // Envoy's own form has joined them, and has an `!` for what isn't UTF-8.
    let named = |value| joined("POST", "/items", &[("x-workspace", value), ("user-agent", "curl, or so!")]);
    Authz::passes(authz.check(named("acme,acme")).await);
    Authz::refuses(authz.check(named("acme,globex")).await, 400, "WORKSPACE_MISMATCH");
    let message = Authz::refuses(authz.check(named("w!rk")).await, 400, "INVALID_REQUEST");
    assert!(message.contains("encode_raw_headers"), "{message}");
    // Two of three units are taken.
    Authz::passes(authz.check(named("acme")).await);
    Authz::denies(authz.check(named("acme")).await, 429);
}

#[tokio::test]
async fn in_mode_warn_the_response_says_what_was_over_the_limit() {
    let authz =
        Authz::start(|builder| builder.mode(EnforcementMode::Warn), |layer| layer.rate_limit_headers(true)).await;
    authz.rows.store(3, Ordering::SeqCst);
    let ok = Authz::passes(authz.check(creation()).await);
    assert_eq!(header(&ok.response_headers_to_add, "quota-warning"), Some("\"items\";usage=3;limit=3"), "{ok:?}");
    assert_eq!(header(&ok.response_headers_to_add, "ratelimit-policy"), Some("\"items\";q=3"), "{ok:?}");
}

#[tokio::test]
async fn a_failure_is_what_the_layer_makes_of_it() {
    for (on_failure, passes) in [(OnFailure::Open, true), (OnFailure::Closed, false)] {
        let authz = Authz::start(|builder| builder, |layer| layer.on_failure(on_failure)).await;
        authz.rows.store(UNKNOWN, Ordering::SeqCst);
        let response = authz.check(creation()).await;
        match passes {
            true => drop(Authz::passes(response)),
            false => drop(Authz::refuses(response, 503, "QUOTA_UNAVAILABLE")),
        }
    }
}

#[tokio::test]
async fn an_answer_that_envoy_has_no_status_for_still_refuses() {
    let authz =
        Authz::start(|builder| builder, |layer| layer.refusal_status(http::StatusCode::from_u16(420).unwrap())).await;
    authz.rows.store(3, Ordering::SeqCst);
    Authz::denies(authz.check(creation()).await, 403);
}

#[tokio::test]
async fn what_is_no_http_request_is_not_let_through() {
    let authz = Authz::plain().await;
    let empty = authz.client.clone().check(CheckRequest::default()).await;
    assert_eq!(empty.unwrap_err().code(), Code::InvalidArgument);
    for (method, path) in [("P T", "/w/acme/items"), ("POST", "\u{7f}:")] {
        Authz::refuses(authz.check(raw(method, path, &[])).await, 400, "INVALID_REQUEST");
    }
    let bad = raw("POST", "/w/acme/items", &[("x y", b"z")]);
    Authz::refuses(authz.check(bad).await, 400, "INVALID_REQUEST");
}
