//! The HTTP API over real sockets.

#![cfg(feature = "api")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::{get, patch};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_quota::{
    AuthLayer, BoxFuture, ClosureUsage, Decision, Demand, EnforcementMode, Error, Expect, Limit, LimitSet, MemoryStore,
    Provisioning, Quota, QuotaApi, QuotaBuilder, QuotaRecord, QuotaStore, ResourceCatalog, ResourceSpec, StaticTokens,
    TrustExtension, WorkspaceFormat, WorkspaceId,
};

const ROOT: &str = "root-token";
const ACME: &str = "acme-token";
const BOSS: &str = "boss-of-acme-token";
const GLOBEX: &str = "globex-token";

const QUOTA: &str = "/api/workspaces/acme/quota";
const VALIDATE: &str = "/api/workspaces/acme/quota/validate";
const RECALCULATE: &str = "/api/workspaces/acme/quota/recalculate";
const ENFORCEMENT: &str = "/api/system/config/quota-enforcement";
const HEALTH: &str = "/api/system/health";

/// The host's rows by resource type, the same in every workspace; and whether they can be counted.
#[derive(Clone, Default)]
struct Rows {
    counts: Arc<Mutex<HashMap<String, u64>>>,
    down: Arc<AtomicBool>,
}

impl Rows {
    fn set(&self, resource: &str, rows: u64) {
        self.counts.lock().unwrap().insert(resource.to_owned(), rows);
    }

    fn source(&self) -> ClosureUsage {
        let rows = self.clone();
        ClosureUsage::new(move |_, resource, _| {
            let counted = match rows.down.load(Ordering::SeqCst) {
                true => Err(io::Error::other("no route to rows.internal")),
                false => Ok(rows.counts.lock().unwrap().get(resource.name()).copied().unwrap_or(0)),
            };
            async move { counted }
        })
    }
}

fn tokens() -> StaticTokens {
    StaticTokens::builder()
        .admin(ROOT)
        .member(ACME, ["acme"])
        .admin_of(BOSS, ["acme"])
        .member(GLOBEX, ["globex"])
        .build()
        .unwrap()
}

struct Server {
    address: SocketAddr,
    client: Client,
    quota: Quota,
    rows: Rows,
}

async fn listen(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

impl Server {
    async fn start() -> Self {
        Self::with(ResourceCatalog::default(), |builder| builder).await
    }

    async fn with(catalog: ResourceCatalog, set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder) -> Self {
        Self::mounted(catalog, set_up, |quota| {
            Router::new().nest("/api", QuotaApi::new(quota, tokens()).with_not_found().into_router())
        })
        .await
    }

    async fn mounted(
        catalog: ResourceCatalog,
        set_up: impl FnOnce(QuotaBuilder) -> QuotaBuilder,
        mount: impl FnOnce(Quota) -> Router,
    ) -> Self {
        let rows = Rows::default();
        let builder =
            Quota::builder(catalog).store(MemoryStore::new()).usage(rows.source()).mode(EnforcementMode::Enforce);
        let quota = set_up(builder).build().unwrap();
        let address = listen(mount(quota.clone())).await;
        Self { address, client: Client::new(), quota, rows }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(token)
    }

    async fn get(&self, path: &str, token: &str) -> Response {
        self.request(Method::GET, path, token).send().await.unwrap()
    }

    async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::PUT, path, ROOT).body(body).send().await.unwrap()
    }

    async fn validate(&self, query: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::POST, &format!("{VALIDATE}{query}"), ACME).body(body).send().await.unwrap()
    }

    async fn tag(&self) -> String {
        etag(&self.get(QUOTA, ACME).await)
    }

    /// Sends bytes as they are, ends the sending side, and reads all that comes back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn etag(response: &Response) -> String {
    response.headers()["etag"].to_str().unwrap().to_owned()
}

async fn body(response: Response) -> Value {
    assert_eq!(response.headers()["cache-control"], "no-store");
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}

/// Checks an error answer, and returns its message.
async fn refused(response: Response, status: u16, code: &str) -> String {
    let found = response.status().as_u16();
    let body = body(response).await;
    assert_eq!((found, body["error"].as_str()), (status, Some(code)), "{body}");
    body["message"].as_str().unwrap().to_owned()
}

// Quotas

#[tokio::test]
async fn a_quota_is_read_in_the_contracts_shape() {
    let server = Server::start().await;
    server.rows.set("users", 750);
    server.rows.set("segments", 45);
    server.rows.set("journeys", 21);
    let response = server.get(QUOTA, ACME).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(etag(&response), "\"1\"");
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["quota"]["workspaceId"], "acme");
    assert_eq!(body["quota"]["maxSegments"], 50);
    assert_eq!(body["usage"]["users"], 750);
    assert_eq!(body["percentages"]["users"], 75);
    assert_eq!(body["percentages"]["segments"], 90);
    assert_eq!(body["percentages"]["journeys"], 105);
    assert_eq!(body["usage"].as_object().unwrap().len(), 8);
    assert_eq!(body["percentages"].as_object().unwrap().len(), 8);
    for field in ["createdAt", "updatedAt"] {
        assert!(body["quota"][field].as_str().unwrap().ends_with('Z'));
    }
    // The order of the catalog, not of the alphabet.
    let places = ["\"id\"", "\"maxUsers\"", "\"maxSegments\"", "\"maxJourneys\"", "\"createdAt\"", "\"usage\""]
        .map(|field| text.find(field).unwrap());
    assert!(places.is_sorted(), "{text}");
}

#[tokio::test]
async fn head_answers_as_get_without_a_body() {
    let server = Server::start().await;
    let response = server.request(Method::HEAD, QUOTA, ACME).send().await.unwrap();
    assert_eq!((response.status(), etag(&response).as_str()), (StatusCode::OK, "\"1\""));
    assert!(response.bytes().await.unwrap().is_empty());
    let response = server.anonymous(Method::HEAD, QUOTA).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_update_changes_what_it_names() {
    let server = Server::start().await;
    // Before any GET: the update makes the record.
    let response = server.put(QUOTA, r#"{"maxSegments": 100, "maxUsers": null}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    let tag = etag(&response);
    let made = body(response).await;
    assert_eq!(made["quota"]["maxSegments"], 100);
    assert!(made["quota"]["maxUsers"].is_null());
    assert_eq!(made["quota"]["maxJourneys"], 20);
    assert!(made.get("warnings").is_none() && made.get("usage").is_none());

    let read = server.get(QUOTA, ACME).await;
    assert_eq!(etag(&read), tag);
    let read = body(read).await;
    assert_eq!(read["quota"], made["quota"]);
    assert_eq!(read["percentages"]["users"], 0);

    let nothing = server.put(QUOTA, "{}").await;
    assert_eq!((nothing.status(), etag(&nothing)), (StatusCode::OK, tag.clone()));
    let more = server.put(QUOTA, r#"{"maxJourneys": 0}"#).await;
    assert_ne!(etag(&more), tag);
    let more = body(more).await;
    assert_eq!(more["quota"]["maxSegments"], 100);
    assert_eq!(more["quota"]["maxJourneys"], 0);
    assert_eq!(more["quota"]["id"], made["quota"]["id"]);
    assert_eq!(body(server.get(QUOTA, ACME).await).await["percentages"]["journeys"], 100);
}

#[tokio::test]
async fn the_admin_of_a_workspace_may_update_it() {
    let server = Server::start().await;
    let response = server.request(Method::PUT, QUOTA, BOSS).body(r#"{"maxSegments": 7}"#).send().await.unwrap();
    assert_eq!(body(response).await["quota"]["maxSegments"], 7);
}

#[tokio::test]
async fn any_content_type_is_read() {
    let server = Server::start().await;
    for content_type in ["application/json", "application/x-www-form-urlencoded", "text/plain"] {
        let request = server.request(Method::PUT, QUOTA, ROOT).header("content-type", content_type);
        let response = request.body(r#"{"maxSegments": 7}"#).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{content_type}");
    }
}

#[tokio::test]
async fn a_whole_quota_may_be_sent_back() {
    let server = Server::start().await;
    let read = body(server.get(QUOTA, ACME).await).await;
    let response = server.put(QUOTA, read["quota"].to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(body(response).await["quota"]["maxSegments"], 50);
    let response = server.put("/api/workspaces/globex/quota", read["quota"].to_string()).await;
    refused(response, 400, "WORKSPACE_MISMATCH").await;
    refused(server.put(QUOTA, r#"{"workspaceId": 7}"#).await, 400, "INVALID_REQUEST").await;
}

#[tokio::test]
async fn a_limit_below_usage_is_set_and_warned_about() {
    let server = Server::start().await;
    server.rows.set("segments", 45);
    server.rows.set("users", 2000);
    let response = server.put(QUOTA, r#"{"maxSegments": 40, "maxJourneys": 5}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = body(response).await;
    assert_eq!(answer["quota"]["maxSegments"], 40);
    let warnings = answer["warnings"].as_array().unwrap();
    // `users` is over its limit as well, but not by this update.
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].as_str().unwrap().contains("maxSegments is 40"));
    refused(server.validate("", r#"{"resourceType": "segments"}"#).await, 429, "QUOTA_EXCEEDED").await;
}

#[tokio::test]
async fn a_failed_count_fails_what_needs_it_and_tells_no_internals() {
    let server = Server::start().await;
    server.rows.down.store(true, Ordering::SeqCst);
    let response = server.put(QUOTA, r#"{"maxSegments": 40}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(body(response).await["warnings"][0].as_str().unwrap().contains("can't be counted"));
    for response in [
        server.get(QUOTA, ACME).await,
        server.validate("", r#"{"resourceType": "segments"}"#).await,
        server.request(Method::POST, RECALCULATE, ROOT).send().await.unwrap(),
    ] {
        assert!(response.headers().contains_key("retry-after"));
        let message = refused(response, 503, "QUOTA_UNAVAILABLE").await;
        assert!(!message.contains("rows.internal"), "{message}");
    }
}

#[tokio::test]
async fn a_bad_update_changes_nothing() {
    let server = Server::start().await;
    let before = server.tag().await;
    let deep = format!("{{\"maxSegments\": {}", "[".repeat(20_000));
    let bad = [
        ("", "INVALID_REQUEST", "line 1"),
        ("{", "INVALID_REQUEST", "line 1"),
        ("{\"maxSegments\": 5,\n}", "INVALID_REQUEST", "line 2"),
        ("[]", "INVALID_REQUEST", "object"),
        ("null", "INVALID_REQUEST", "object"),
        ("\"secret\"", "INVALID_REQUEST", "object"),
        (deep.as_str(), "INVALID_REQUEST", "line 1"),
        (r#"{"maxSegments": -1}"#, "INVALID_REQUEST", "maxSegments"),
        (r#"{"maxSegments": 1.5}"#, "INVALID_REQUEST", "maxSegments"),
        (r#"{"maxSegments": 9223372036854775808}"#, "INVALID_REQUEST", "maxSegments"),
        (r#"{"maxSegments": 18446744073709551616}"#, "INVALID_REQUEST", "maxSegments"),
        (r#"{"maxSegments": 1e400}"#, "INVALID_REQUEST", "line 1"),
        (r#"{"maxSegments": "5"}"#, "INVALID_REQUEST", "maxSegments"),
        (r#"{"maxSegments": true}"#, "INVALID_REQUEST", "maxSegments"),
        (r#"{"maxSegments": {}}"#, "INVALID_REQUEST", "maxSegments"),
        (r#"{"maxSegments": 5, "maxSegments": 6}"#, "INVALID_REQUEST", "twice"),
        (r#"{"maxSegments": 5, "maxWidgets": 6}"#, "INVALID_RESOURCE_TYPE", "maxUsers, maxSegments"),
        (r#"{"maxUsers": 5, "segments": 6}"#, "INVALID_RESOURCE_TYPE", "maxUsers, maxSegments"),
        (r#"{"maxUsers": 5, "workspaceId": "globex"}"#, "WORKSPACE_MISMATCH", "workspaceId"),
    ];
    for (text, code, word) in bad {
        let message = refused(server.put(QUOTA, text.to_owned()).await, 400, code).await;
        assert!(message.contains(word), "{text:.60}: {message}");
        assert!(!message.contains("secret") && message.len() < 400, "{message}");
    }
    refused(server.put(QUOTA, &b"{\"max\xffUsers\": 1}"[..]).await, 400, "INVALID_REQUEST").await;
    assert_eq!(server.tag().await, before);
}

#[tokio::test]
async fn conditional_updates() {
    let server = Server::start().await;
    let put = async |conditions: &[&str]| {
        let request = server.request(Method::PUT, QUOTA, ROOT).body(r#"{"maxSegments": 7}"#);
        conditions.iter().fold(request, |request, value| request.header("if-match", *value)).send().await.unwrap()
    };
    refused(put(&["*"]).await, 412, "PRECONDITION_FAILED").await;
    refused(put(&["\"1\""]).await, 412, "PRECONDITION_FAILED").await;
    assert_eq!(server.tag().await, "\"1\"");
    for stale in ["\"2\"", "W/\"1\"", "\"01\"", "\"abc\"", "\"0\", \"2\""] {
        refused(put(&[stale]).await, 412, "PRECONDITION_FAILED").await;
    }
    for malformed in ["1", "", "\"1", "*, \"1\"", "\"1\" \"2\""] {
        let message = refused(put(&[malformed]).await, 400, "INVALID_REQUEST").await;
        assert!(message.contains("If-Match"), "{message}");
    }
    assert_eq!(server.tag().await, "\"1\"");
    assert_eq!(etag(&put(&["\"1\""]).await), "\"2\"");
    assert_eq!(etag(&put(&["\"9\", \"2\""]).await), "\"3\"");
    assert_eq!(etag(&put(&["\"9\"", "\"3\""]).await), "\"4\"");
    assert_eq!(etag(&put(&["*"]).await), "\"5\"");

    // The condition holds for an update without changes, too.
    let request = server.request(Method::PUT, QUOTA, ROOT).header("if-match", "\"1\"").body("{}");
    refused(request.send().await.unwrap(), 412, "PRECONDITION_FAILED").await;
}

#[tokio::test]
async fn of_two_conditional_updates_one_wins() {
    let server = Server::start().await;
    let tag = server.tag().await;
    let put = || server.request(Method::PUT, QUOTA, ROOT).header("if-match", &tag).body(r#"{"maxSegments": 7}"#).send();
    let (one, other) = tokio::join!(put(), put());
    let mut statuses = [one.unwrap().status().as_u16(), other.unwrap().status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
}

#[tokio::test]
async fn where_records_are_provisioned_explicitly_an_update_makes_them() {
    let explicit = |builder: QuotaBuilder| builder.provisioning(Provisioning::Explicit);
    let server = Server::with(ResourceCatalog::default(), explicit).await;
    refused(server.get(QUOTA, ACME).await, 404, "QUOTA_NOT_FOUND").await;
    let response = server.validate("", r#"{"resourceType": "segments"}"#).await;
    refused(response, 404, "QUOTA_NOT_FOUND").await;
    assert_eq!(server.put(QUOTA, "{}").await.status(), StatusCode::OK);
    assert_eq!(server.get(QUOTA, ACME).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn custom_types_are_like_the_others() {
    let catalog = ResourceCatalog::builder()
        .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)))
        .build()
        .unwrap();
    let server = Server::with(catalog, |builder| builder).await;
    server.rows.set("customMetrics", 50);
    let read = body(server.get(QUOTA, ACME).await).await;
    assert_eq!(read["quota"]["maxCustomMetrics"], 50);
    assert_eq!(read["percentages"]["customMetrics"], 100);
    let answer = body(server.validate("", r#"{"resourceType": "customMetrics"}"#).await).await;
    assert_eq!(answer["message"], "Custom metric quota exceeded");
    assert_eq!(server.put(QUOTA, r#"{"maxCustomMetrics": 51}"#).await.status(), StatusCode::OK);
    let answer = server.validate("", r#"{"resourceType": "customMetrics"}"#).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

// Validation

#[tokio::test]
async fn a_demand_that_fits_is_allowed() {
    let server = Server::start().await;
    server.rows.set("segments", 45);
    let response = server.validate("", r#"{"resourceType": "segments", "increment": 5}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    let expected = json!({"allowed": true, "currentUsage": 45, "limit": 50, "remaining": 5, "percentUsed": 90,
                          "wouldExceed": false});
    assert_eq!(body(response).await, expected);
    for default in [r#"{"resourceType": "segments"}"#, r#"{"resourceType": "segments", "increment": null}"#] {
        assert_eq!(body(server.validate("?soft=false", default).await).await, expected);
    }
}

#[tokio::test]
async fn a_demand_that_does_not_fit_is_refused_with_the_evidence() {
    let server = Server::start().await;
    server.rows.set("segments", 50);
    let response = server.validate("", r#"{"resourceType": "segments", "increment": 5}"#).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    // Nothing is in flight, so that trying again would not help.
    assert!(!response.headers().contains_key("retry-after"));
    assert_eq!(
        body(response).await,
        json!({"error": "QUOTA_EXCEEDED", "message": "Segment quota exceeded",
               "details": {"resourceType": "segments", "currentUsage": 50, "limit": 50, "requested": 5,
                           "remaining": 0}})
    );
    let most = r#"{"resourceType": "segments", "increment": 9223372036854775807}"#;
    refused(server.validate("", most).await, 429, "QUOTA_EXCEEDED").await;
}

#[tokio::test]
async fn a_soft_validation_tells_a_refusal_in_the_body() {
    let server = Server::start().await;
    server.rows.set("segments", 48);
    let response = server.validate("?soft=true", r#"{"resourceType": "segments", "increment": 3}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        body(response).await,
        json!({"allowed": false, "currentUsage": 48, "limit": 50, "remaining": 2, "percentUsed": 96,
               "wouldExceed": true})
    );
    for query in ["?soft", "?soft=", "?soft=1", "?soft=TRUE", "?soft=true&soft=true", "?soft=%FF"] {
        let message =
            refused(server.validate(query, r#"{"resourceType": "segments"}"#).await, 400, "INVALID_REQUEST").await;
        assert!(message.contains("soft"), "{query}: {message}");
    }
    let response = server.validate("?other=1", r#"{"resourceType": "segments"}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn modes_that_refuse_nothing_allow_and_tell() {
    let server = Server::start().await;
    server.rows.set("segments", 50);
    for mode in [EnforcementMode::Off, EnforcementMode::Warn] {
        server.quota.set_mode(mode);
        for query in ["", "?soft=true"] {
            let response = server.validate(query, r#"{"resourceType": "segments"}"#).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(
                body(response).await,
                json!({"allowed": true, "currentUsage": 50, "limit": 50, "remaining": 0, "percentUsed": 100,
                       "wouldExceed": true})
            );
        }
    }
    server.quota.set_mode(EnforcementMode::Strict);
    refused(server.validate("", r#"{"resourceType": "segments"}"#).await, 429, "QUOTA_EXCEEDED").await;
}

#[tokio::test]
async fn without_a_limit_everything_fits() {
    let server = Server::start().await;
    server.rows.set("segments", 5000);
    server.put(QUOTA, r#"{"maxSegments": null}"#).await;
    let response = server.validate("", r#"{"resourceType": "segments", "increment": 9223372036854775807}"#).await;
    assert_eq!(
        body(response).await,
        json!({"allowed": true, "currentUsage": 5000, "limit": null, "remaining": null, "percentUsed": 0,
               "wouldExceed": false})
    );
}

#[tokio::test]
async fn requests_in_flight_are_told_apart_from_rows() {
    let server = Server::start().await;
    server.rows.set("segments", 48);
    let acme = server.quota.workspace("acme").unwrap();
    let segments = server.quota.catalog().by_name("segments").unwrap().id();
    let Decision::Admitted(in_flight) = server.quota.reserve(&acme, &[Demand::one(segments)]).await.unwrap() else {
        panic!("two units are free");
    };
    let response = server.validate("", r#"{"resourceType": "segments", "increment": 2}"#).await;
    assert!(response.headers().contains_key("retry-after"));
    let answer = body(response).await;
    assert_eq!(
        answer["details"],
        json!({"resourceType": "segments", "currentUsage": 48, "limit": 50, "requested": 2, "remaining": 1,
               "reserved": 1})
    );
    let soft = body(server.validate("?soft=true", r#"{"resourceType": "segments", "increment": 2}"#).await).await;
    assert_eq!(
        soft,
        json!({"allowed": false, "currentUsage": 48, "limit": 50, "remaining": 1, "percentUsed": 96,
               "wouldExceed": true, "reserved": 1})
    );
    in_flight.void();
}

#[tokio::test]
async fn bad_validations_are_refused() {
    let server = Server::start().await;
    let bad = [
        ("", "INVALID_REQUEST", "line 1"),
        ("5", "INVALID_REQUEST", "object"),
        ("{}", "INVALID_REQUEST", "resourceType"),
        (r#"{"resourceType": 5}"#, "INVALID_REQUEST", "resourceType"),
        (r#"{"resourceType": null}"#, "INVALID_REQUEST", "resourceType"),
        (r#"{"resourceType": ["segments"]}"#, "INVALID_REQUEST", "resourceType"),
        (r#"{"resourceType": "widgets"}"#, "INVALID_RESOURCE_TYPE", "users, segments"),
        (r#"{"resourceType": "Segments"}"#, "INVALID_RESOURCE_TYPE", "users, segments"),
        (r#"{"resourceType": "segments", "increment": 0}"#, "INVALID_REQUEST", "increment"),
        (r#"{"resourceType": "segments", "increment": -1}"#, "INVALID_REQUEST", "increment"),
        (r#"{"resourceType": "segments", "increment": 1.5}"#, "INVALID_REQUEST", "increment"),
        (r#"{"resourceType": "segments", "increment": "1"}"#, "INVALID_REQUEST", "increment"),
        (r#"{"resourceType": "segments", "increment": 9223372036854775808}"#, "INVALID_REQUEST", "increment"),
        (r#"{"resourceType": "segments", "increment": 18446744073709551616}"#, "INVALID_REQUEST", "increment"),
        (r#"{"resourceType": "segments", "amount": 1}"#, "INVALID_REQUEST", "amount"),
        (r#"{"resourceType": "segments", "resourceType": "users"}"#, "INVALID_REQUEST", "twice"),
    ];
    for (text, code, word) in bad {
        let message = refused(server.validate("", text).await, 400, code).await;
        assert!(message.contains(word), "{text}: {message}");
    }
}

// Recounts

#[tokio::test]
async fn a_recount_tells_what_was_believed() {
    let server = Server::start().await;
    server.rows.set("segments", 10);
    let acme = server.quota.workspace("acme").unwrap();
    let segments = server.quota.catalog().by_name("segments").unwrap().id();
    let Decision::Admitted(created) = server.quota.reserve(&acme, &[Demand::one(segments)]).await.unwrap() else {
        panic!("forty units are free");
    };
    created.post();
    // Behind the engine's back.
    server.rows.set("segments", 3);
    let told = server.request(Method::POST, &format!("{RECALCULATE}?dryRun=true"), BOSS).send().await.unwrap();
    assert_eq!(body(told).await["corrections"][0]["drift"], -8);
    for bad in ["?dryRun=yes", "?dryRun", "?dryRun=true&dryRun=true"] {
        let response = server.request(Method::POST, &format!("{RECALCULATE}{bad}"), BOSS).send().await.unwrap();
        let message = refused(response, 400, "INVALID_REQUEST").await;
        assert!(message.contains("`dryRun`"), "{message}");
    }
    let response = server.request(Method::POST, RECALCULATE, BOSS).body("not read").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let answer = body(response).await;
    assert_eq!(answer["workspaceId"], "acme");
    assert_eq!(answer["usage"]["segments"], 3);
    assert_eq!(answer["usage"].as_object().unwrap().len(), 8);
    assert!(answer["recalculatedAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(answer["corrections"], json!([{"resourceType": "segments", "cached": 11, "actual": 3, "drift": -8}]));
    let again = server.request(Method::POST, RECALCULATE, ROOT).send().await.unwrap();
    assert_eq!(body(again).await["corrections"], json!([]));
}

// The system's operations

#[tokio::test]
async fn the_enforcement_mode_is_read_and_changed() {
    let server = Server::start().await;
    let read = body(server.get(ENFORCEMENT, GLOBEX).await).await;
    assert_eq!(read, json!({"mode": "enforce", "source": "code", "promise": "exact"}));
    for mode in ["warn", "off", "strict", "enforce"] {
        let response = server.put(ENFORCEMENT, json!({ "mode": mode }).to_string()).await;
        assert_eq!(body(response).await, json!({"mode": mode, "source": "runtime", "promise": "exact"}));
        assert_eq!(server.quota.mode().as_str(), mode);
    }
    for bad in ["", "{}", r#"{"mode": null}"#, r#"{"mode": 1}"#, r#"{"mode": "off", "for": "ever"}"#, "[]"] {
        refused(server.put(ENFORCEMENT, bad).await, 400, "INVALID_REQUEST").await;
    }
    for bad in [r#"{"mode": "on"}"#, r#"{"mode": "Off"}"#] {
        let message = refused(server.put(ENFORCEMENT, bad).await, 400, "INVALID_REQUEST").await;
        assert!(message.contains("off, warn, enforce, strict"), "{message}");
    }
    // What all workspaces share is not for the admin of one.
    for token in [ACME, BOSS] {
        let request = server.request(Method::PUT, ENFORCEMENT, token).body(r#"{"mode": "off"}"#);
        refused(request.send().await.unwrap(), 403, "INSUFFICIENT_PERMISSIONS").await;
    }
    assert_eq!(server.quota.mode(), EnforcementMode::Enforce);
}

/// A store that is gone.
struct Gone;

impl Gone {
    fn error<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, Error>> {
        Box::pin(async { Err(Error::unavailable("no route to db.internal")) })
    }
}

impl QuotaStore for Gone {
    fn load<'a>(&'a self, _: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
        Self::error()
    }

    fn provision<'a>(&'a self, _: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Self::error()
    }

    fn update<'a>(
        &'a self,
        _: &'a WorkspaceId,
        _: &'a LimitSet,
        _: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Self::error()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        Self::error()
    }
}

#[tokio::test]
async fn health_needs_no_token_and_a_store() {
    let server = Server::start().await;
    let response = server.anonymous(Method::GET, HEALTH).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(body(response).await, json!({"status": "ok"}));

    let server = Server::with(ResourceCatalog::default(), |builder| builder.store(Gone)).await;
    let response = server.anonymous(Method::GET, HEALTH).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body(response).await, json!({"status": "unavailable"}));
    for response in [server.get(QUOTA, ACME).await, server.put(QUOTA, "{}").await] {
        assert!(response.headers().contains_key("retry-after"));
        let message = refused(response, 503, "QUOTA_UNAVAILABLE").await;
        assert!(!message.contains("db.internal"), "{message}");
    }
}

// Who may do what

fn operations() -> [(Method, &'static str); 6] {
    [
        (Method::GET, QUOTA),
        (Method::PUT, QUOTA),
        (Method::POST, VALIDATE),
        (Method::POST, RECALCULATE),
        (Method::GET, ENFORCEMENT),
        (Method::PUT, ENFORCEMENT),
    ]
}

#[tokio::test]
async fn strangers_are_turned_away_before_anything_is_read() {
    let server = Server::start().await;
    for (method, path) in operations() {
        let bad: [&[&str]; 7] = [
            &[],
            &["Bearer"],
            &["Bearer wrong"],
            &["Basic cm9vdDpyb290"],
            &[ROOT],
            &["Bearer root-token", "Bearer root-token"],
            &["Bearer root-token extra"],
        ];
        for values in bad {
            let request = server.anonymous(method.clone(), path).header("if-match", "malformed").body("{malformed");
            let request = values.iter().fold(request, |request, value| request.header("authorization", *value));
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["www-authenticate"], "Bearer");
            refused(response, 401, "UNAUTHENTICATED").await;
        }
    }
    // Nor do they learn which workspace ids are well-formed.
    let response = server.anonymous(Method::GET, "/api/workspaces/%FF/quota").send().await.unwrap();
    refused(response, 401, "UNAUTHENTICATED").await;
}

#[tokio::test]
async fn the_scheme_is_read_without_regard_to_case() {
    let server = Server::start().await;
    for value in ["bearer root-token", "BEARER root-token"] {
        let request = server.anonymous(Method::GET, QUOTA).header("authorization", value);
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_foreign_token_is_forbidden_before_the_body_is_read() {
    let server = Server::start().await;
    for (method, path) in operations().into_iter().take(4) {
        let request = server.request(method, path, GLOBEX).body("{malformed");
        refused(request.send().await.unwrap(), 403, "INSUFFICIENT_PERMISSIONS").await;
    }
    let elsewhere = server.request(Method::PUT, "/api/workspaces/globex/quota", BOSS).body("{}");
    refused(elsewhere.send().await.unwrap(), 403, "INSUFFICIENT_PERMISSIONS").await;
}

#[tokio::test]
async fn members_change_nothing() {
    let server = Server::start().await;
    for (method, path) in [(Method::PUT, QUOTA), (Method::POST, RECALCULATE), (Method::PUT, ENFORCEMENT)] {
        let request = server.request(method, path, ACME).body("{malformed");
        refused(request.send().await.unwrap(), 403, "INSUFFICIENT_PERMISSIONS").await;
    }
}

// Paths

#[tokio::test]
async fn workspace_ids_in_paths_are_decoded_once() {
    let server = Server::start().await;
    let id_of = async |path: &str| {
        let response = server.get(&format!("/api/workspaces/{path}/quota"), ROOT).await;
        body(response).await["quota"]["workspaceId"].as_str().unwrap().to_owned()
    };
    assert_eq!(id_of("%61cme").await, "acme");
    assert_eq!(id_of("%2561cme").await, "%61cme");
    assert_eq!(id_of("a%2Fb").await, "a/b");
    assert_eq!(id_of("caf%C3%A9").await, "café");
    assert_eq!(id_of("Acme").await, "Acme");
    for bad in
        [String::new(), "%FF".to_owned(), "%C3".to_owned(), "a%00b".to_owned(), "a%0Ab".to_owned(), "x".repeat(256)]
    {
        let response = server.get(&format!("/api/workspaces/{bad}/quota"), ROOT).await;
        refused(response, 400, "INVALID_REQUEST").await;
    }
    // Decoded, it is the id that the token is for.
    assert_eq!(server.get("/api/workspaces/%61cme/quota", ACME).await.status(), StatusCode::OK);
    refused(server.get("/api/workspaces/%2561cme/quota", ACME).await, 403, "INSUFFICIENT_PERMISSIONS").await;
}

#[tokio::test]
async fn workspace_ids_have_one_canonical_form() {
    let lowercase = |builder: QuotaBuilder| builder.workspace_format(WorkspaceFormat::Lowercase);
    let server = Server::with(ResourceCatalog::default(), lowercase).await;
    let response = server.get("/api/workspaces/ACME/quota", ACME).await;
    assert_eq!(body(response).await["quota"]["workspaceId"], "acme");
    let response = server.put("/api/workspaces/ACME/quota", r#"{"maxSegments": 7, "workspaceId": "Acme"}"#).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(body(server.get(QUOTA, ACME).await).await["quota"]["maxSegments"], 7);

    let uuid = |builder: QuotaBuilder| builder.workspace_format(WorkspaceFormat::Uuid);
    let server = Server::with(ResourceCatalog::default(), uuid).await;
    refused(server.get(QUOTA, ROOT).await, 400, "INVALID_REQUEST").await;
}

#[tokio::test]
async fn other_methods_and_paths_are_answered_in_the_contracts_form() {
    let server = Server::start().await;
    let response = server.request(Method::PATCH, QUOTA, ROOT).send().await.unwrap();
    let allow = response.headers()["allow"].to_str().unwrap().to_owned();
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        assert!(allow.contains(method), "{allow}");
    }
    refused(response, 405, "METHOD_NOT_ALLOWED").await;
    for path in ["/api", "/api/nothing", "/api/workspaces/acme/quota/nothing"] {
        refused(server.get(path, ROOT).await, 404, "NOT_FOUND").await;
    }
    let outside = server.get("/elsewhere", ROOT).await;
    assert_eq!(outside.status(), StatusCode::NOT_FOUND);
    assert!(!outside.headers().contains_key("cache-control"));
}

#[tokio::test]
async fn a_merged_router_leaves_the_hosts_routes_alone() {
    let host = || {
        Router::new()
            .route("/workspaces/{id}", get(|| async { "the host's" }))
            .route("/workspaces/{workspaceId}/quota", patch(|| async { "patched by the host" }))
    };
    let merged = |quota: Quota| host().merge(QuotaApi::new(quota, tokens()).into_router());
    let server = Server::mounted(ResourceCatalog::default(), |builder| builder, merged).await;
    assert_eq!(server.get("/workspaces/acme", ACME).await.text().await.unwrap(), "the host's");
    assert_eq!(server.get("/workspaces/acme/quota", ACME).await.status(), StatusCode::OK);
    let patched = server.request(Method::PATCH, "/workspaces/acme/quota", ROOT).send().await.unwrap();
    assert_eq!(patched.text().await.unwrap(), "patched by the host");
    let response = server.get("/nothing", ROOT).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(!response.headers().contains_key("cache-control"));
    assert!(response.text().await.unwrap().is_empty());

    let merged = |quota: Quota| {
        let fallback = || async { (StatusCode::NOT_FOUND, "the host's fallback") };
        Router::new().fallback(fallback).merge(QuotaApi::new(quota, tokens()).into_router())
    };
    let server = Server::mounted(ResourceCatalog::default(), |builder| builder, merged).await;
    assert_eq!(server.get("/nothing", ROOT).await.text().await.unwrap(), "the host's fallback");
    let response = server.request(Method::PATCH, "/workspaces/acme/quota", ROOT).send().await.unwrap();
    refused(response, 405, "METHOD_NOT_ALLOWED").await;
}

#[tokio::test]
async fn a_prefix_may_have_parameters_and_the_host_a_state() {
    let nested = |quota: Quota| {
        Router::new()
            .nest("/regions/{region}/api", QuotaApi::new(quota, tokens()).into_router::<String>())
            .with_state("state".to_owned())
    };
    let server = Server::mounted(ResourceCatalog::default(), |builder| builder, nested).await;
    let response = server.get("/regions/eu/api/workspaces/acme/quota", ACME).await;
    assert_eq!(body(response).await["quota"]["workspaceId"], "acme");
}

// The host's own authentication

#[tokio::test]
async fn a_hosts_layer_may_vouch_for_the_caller() {
    let guarded = |quota: Quota| {
        let api = QuotaApi::new(quota, TrustExtension);
        Router::new().nest("/api", api.into_router()).layer(AuthLayer::new(tokens()))
    };
    let server = Server::mounted(ResourceCatalog::default(), |builder| builder, guarded).await;
    assert_eq!(server.get(QUOTA, ACME).await.status(), StatusCode::OK);
    refused(server.get(QUOTA, GLOBEX).await, 403, "INSUFFICIENT_PERMISSIONS").await;
    let response = server.anonymous(Method::GET, QUOTA).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);

    let open = |quota: Quota| Router::new().nest("/api", QuotaApi::new(quota, TrustExtension).into_router());
    let server = Server::mounted(ResourceCatalog::default(), |builder| builder, open).await;
    refused(server.get(QUOTA, ROOT).await, 401, "UNAUTHENTICATED").await;
}

// Forms of errors

#[tokio::test]
async fn errors_are_problem_json_where_it_is_asked_for() {
    let server = Server::start().await;
    server.rows.set("segments", 50);
    let asked = |method, path| server.request(method, path, ACME).header("accept", "application/problem+json");
    let expect = async |request: RequestBuilder, status: u16, code: &str| {
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let found = response.status().as_u16();
        let body = body(response).await;
        assert_eq!((found, body["error"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["detail"], body["message"]);
        assert!(body["type"].is_string() && body["title"].is_string());
    };
    let validate = || asked(Method::POST, VALIDATE);
    expect(validate().body(r#"{"resourceType": "segments"}"#), 429, "QUOTA_EXCEEDED").await;
    expect(validate().body("{"), 400, "INVALID_REQUEST").await;
    expect(validate().body(vec![b' '; 70_000]), 413, "PAYLOAD_TOO_LARGE").await;
    expect(asked(Method::PUT, QUOTA), 403, "INSUFFICIENT_PERMISSIONS").await;
    expect(asked(Method::PATCH, QUOTA), 405, "METHOD_NOT_ALLOWED").await;
    expect(asked(Method::GET, "/api/nothing"), 404, "NOT_FOUND").await;
    let stranger = server.anonymous(Method::GET, QUOTA).header("accept", "application/problem+json");
    expect(stranger, 401, "UNAUTHENTICATED").await;

    let fine = asked(Method::GET, QUOTA).send().await.unwrap();
    assert_eq!(fine.headers()["content-type"], "application/json");
}

// Bodies on the wire

fn head(length: &str) -> String {
    format!(
        "PUT {QUOTA} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {ROOT}\r\nconnection: close\r\n{length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_over_the_cap_is_too_large() {
    let small = |quota: Quota| Router::new().nest("/api", QuotaApi::new(quota, tokens()).body_cap(32).into_router());
    let server = Server::mounted(ResourceCatalog::default(), |builder| builder, small).await;
    let fits = format!("{:32}", r#"{"maxSegments": 7}"#);
    assert_eq!(server.put(QUOTA, fits.clone()).await.status(), StatusCode::OK);
    refused(server.put(QUOTA, format!("{fits} ")).await, 413, "PAYLOAD_TOO_LARGE").await;

    // What only announces itself as too long is not waited for.
    let answer = server.raw(head("content-length: 99999999999").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
    // Nor is a next request taken on that connection.
    assert!(answer.contains("connection: close"), "{answer}");

    let chunk = format!("10\r\n{}\r\n", " ".repeat(16));
    let request = format!("{}{}0\r\n\r\n", head("transfer-encoding: chunked"), chunk.repeat(3));
    let answer = server.raw(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("PAYLOAD_TOO_LARGE"), "{answer}");
}

#[tokio::test]
async fn the_default_cap_is_64_kibibytes() {
    let server = Server::start().await;
    let mut largest = r#"{"maxSegments": 7}"#.to_owned();
    largest.push_str(&" ".repeat(QuotaApi::DEFAULT_BODY_CAP - largest.len()));
    assert_eq!(server.put(QUOTA, largest.clone()).await.status(), StatusCode::OK);
    largest.push(' ');
    refused(server.put(QUOTA, largest).await, 413, "PAYLOAD_TOO_LARGE").await;
}

#[tokio::test]
async fn chunked_bodies_are_read_whole() {
    let server = Server::start().await;
    let chunks = "7\r\n{\"maxSe\r\nb\r\ngments\": 7}\r\n0\r\n\r\n";
    let answer = server.raw(format!("{}{chunks}", head("transfer-encoding: chunked")).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"maxSegments\":7"), "{answer}");
}

#[tokio::test]
async fn truncated_and_broken_bodies_change_nothing() {
    let server = Server::start().await;
    let before = server.tag().await;
    let whole = r#"{"maxSegments": 7}"#;
    for request in [
        // Each is whole JSON, so that only the framing tells that something is missing.
        format!("{}{whole}", head("content-length: 19")),
        format!("{}12\r\n{whole}\r\n", head("transfer-encoding: chunked")),
        format!("{}12\r\n{whole}\r\nzz\r\n", head("transfer-encoding: chunked")),
        format!("{}{whole}", head("transfer-encoding: chunked")),
    ] {
        let answer = server.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("INVALID_REQUEST"), "{answer}");
    }
    // The head says that the body is over.
    let answer = server.raw(format!("{}{whole}", head("content-length: 5")).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("INVALID_REQUEST"), "{answer}");
    assert_eq!(server.tag().await, before);
}
