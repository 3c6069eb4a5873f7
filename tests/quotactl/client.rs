//! The library under the program: errors that tell what is to be done, and what is sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower_quota::client::{
    AuditQuery, Named, QuotaClient, ReportFormat, SettingsChange, TrendQuery, WebhookChange, WebhookDelivery,
};
use tower_quota::{
    AuditAction, CleanupPolicy, DeliveryStatus, EndpointStatus, EnforcementMode, EventKind, Limit, Period,
};

use crate::host::serve;
use crate::support::quickstart::{ACME, ADMIN, Quickstart, Server, create, create_all, list, remaining};
use crate::support::receiver::{Receiver, Reply};
use crate::support::until;

fn limits(rows: u32) -> Named<Limit> {
    [("maxSegments", Limit::of(rows))].into_iter().collect()
}

fn client(server: &Quickstart, token: &str) -> QuotaClient {
    QuotaClient::builder(format!("http://{}", server.address)).token(token).build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_tell_what_they_are() {
    let server = Quickstart::start(Server::Sqlite);
    let (admin, member) = (client(&server, ADMIN), client(&server, ACME));
    tokio::task::block_in_place(|| create_all(&mut server.connect(), "acme", (0..2).map(|n| format!("s{n}"))));
    let read = admin.quota("acme").await.unwrap();
    let update = admin.set_limits("acme", &limits(2), read.etag.as_deref(), None).await.unwrap();
    assert_eq!(update.quota.limits.get("maxSegments"), Some(&Limit::of(2)));
    let stale = admin.set_limits("acme", &limits(3), read.etag.as_deref(), None).await.unwrap_err();
    assert!(stale.is_conflict() && stale.code() == Some("PRECONDITION_FAILED"), "{stale}");

    let refused = member.validate("acme", "segments", 1).await.unwrap_err();
    assert!(refused.is_quota_exceeded() && refused.status() == Some(StatusCode::TOO_MANY_REQUESTS));
    let evidence = refused.quota_exceeded().unwrap();
    assert_eq!((evidence.current_usage, evidence.limit, evidence.requested, evidence.remaining), (2, 2, 1, 0));
    assert_eq!((evidence.reserved, refused.retry_after()), (None, None));

    let forbidden = member.set_limits("acme", &limits(3), None, None).await.unwrap_err();
    assert!(forbidden.is_forbidden() && !forbidden.is_unauthenticated());
    assert!(client(&server, "unknown").enforcement().await.unwrap_err().is_unauthenticated());
    assert!(admin.plan("absent").await.unwrap_err().is_not_found());
    let unknown = admin.validate("acme", "zebras", 1).await.unwrap_err();
    assert!(unknown.is_bad_request() && unknown.message().contains("segments"), "{unknown}");
    assert_eq!(tokio::task::block_in_place(|| remaining(&mut server.connect(), "acme", "segments")), 0);

    let absent = QuotaClient::builder("http://127.0.0.1:1").build().unwrap().enforcement().await.unwrap_err();
    assert!(absent.is_unreachable() && absent.status().is_none(), "{absent:?}");
    assert!(QuotaClient::builder("nothing").build().unwrap_err().is_invalid());
    assert!(!format!("{:?}", QuotaClient::builder("http://127.0.0.1").token("s3cret")).contains("s3cret"));
}

/// A workspace id is one segment of the path, whatever is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_encoded() {
    let server = Quickstart::start(Server::Sqlite);
    let admin = client(&server, ADMIN);
    for id in ["a b", "a/b", "a%2Fb", "a?b#c", "größe", ".", ".."] {
        assert_eq!(admin.quota(id).await.unwrap().quota.workspace_id, id);
    }
}

/// A runtime for a client and for whom it sets up; it works beside the test.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A quickstart that delivers to this machine.
fn delivering() -> Quickstart {
    Quickstart::with(Server::Sqlite, &[("QUOTA_WEBHOOK_NETWORKS", "127.0.0.0/8")])
}

fn endpoint(url: &str, workspace: Option<&str>) -> WebhookChange {
    WebhookChange { url: Some(url.to_owned()), workspace_id: workspace.map(str::to_owned), ..WebhookChange::default() }
}

#[test]
fn an_endpoint_is_made_read_changed_and_deleted() {
    let (server, runtime) = (delivering(), runtime());
    let admin = client(&server, ADMIN);
    runtime.block_on(async {
        let new = WebhookChange {
            events: Some(vec!["quota.warning".to_owned()]),
            description: Some("ours".to_owned()),
            ..endpoint("https://example.com/hook", Some("acme"))
        };
        let made = admin.add_webhook(&new).await.unwrap();
        let secret = made.secret.clone().unwrap();
        assert_eq!((made.workspace_id.as_deref(), &made.events[..]), (Some("acme"), &[EventKind::Warning][..]));
        let id = made.id.to_string();
        let read = admin.webhook(&id).await.unwrap();
        assert_eq!((read.id, read.created_at, read.secret.as_ref()), (made.id, made.created_at, None));
        assert_eq!(admin.webhooks().await.unwrap(), [read]);
        let off = WebhookChange { active: Some(false), ..WebhookChange::default() };
        let changed = admin.change_webhook(&id, &off).await.unwrap();
        assert_eq!((changed.status, changed.description.as_str()), (EndpointStatus::Disabled, "ours"));
        let rotated = admin.rotate_webhook_secret(&id, None).await.unwrap().secret.unwrap();
        assert_ne!(rotated, secret);
        let again = admin.rotate_webhook_secret(&id, Some(&secret)).await.unwrap();
        assert_eq!(again.secret, Some(secret));
        admin.delete_webhook(&id).await.unwrap();
        assert!(admin.webhook(&id).await.unwrap_err().is_not_found());
        assert!(admin.test_webhook(&id).await.unwrap_err().is_not_found());
        assert!(admin.deliveries(&id, None, None, None).await.unwrap_err().is_not_found());
    });
}

#[test]
fn a_test_arrives_signed_and_what_was_given_up_is_replayed() {
    let (server, runtime) = (delivering(), runtime());
    let admin = client(&server, ADMIN);
    let receiver = runtime.block_on(Receiver::start());
    receiver.answer([Reply::status(410)]);
    let made = runtime.block_on(admin.add_webhook(&endpoint(&receiver.url, None))).unwrap();
    let (id, secret) = (made.id.to_string(), made.secret.unwrap());
    let ended = |status| {
        let mut found: Vec<WebhookDelivery> = Vec::new();
        until("it has ended", || {
            found = runtime.block_on(admin.deliveries(&id, Some(status), None, None)).unwrap().deliveries;
            !found.is_empty()
        });
        assert_eq!(found.len(), 1);
        found.remove(0)
    };

    let notice = runtime.block_on(admin.test_webhook(&id)).unwrap();
    let dead = ended(DeliveryStatus::Dead);
    assert_eq!((dead.notice, dead.attempts, dead.next_at), (notice, 1, None));
    assert_eq!(
        (dead.log[0].ok, dead.log[0].result.as_str(), &dead.body["event"]),
        (false, "410", &json!("quota.test"))
    );
    assert_eq!(runtime.block_on(admin.webhook(&id)).unwrap().status, EndpointStatus::Disabled);

    let on = WebhookChange { active: Some(true), ..WebhookChange::default() };
    runtime.block_on(admin.change_webhook(&id, &on)).unwrap();
    runtime.block_on(admin.replay(&id, &dead.id.to_string())).unwrap();
    let delivered = ended(DeliveryStatus::Delivered);
    assert_eq!((delivered.id, delivered.notice), (dead.id, notice));
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        request.verify(&[&secret]);
        assert_eq!((request.header("webhook-id"), request.body()), (notice.to_string(), dead.body.clone()));
    }
}

#[test]
fn what_a_workspace_has_of_its_own_goes_with_its_record() {
    let (server, runtime) = (delivering(), runtime());
    let admin = client(&server, ADMIN);
    create_all(&mut server.connect(), "acme", ["one".to_owned()]);
    runtime.block_on(async {
        let own = admin.add_webhook(&endpoint("https://example.com/", Some("acme"))).await.unwrap();
        let of_all = admin.add_webhook(&endpoint("https://example.com/", None)).await.unwrap();
        admin.set_contacts("acme", &["ada@example.com".to_owned()]).await.unwrap();
        admin.set_limits("acme", &limits(7), None, None).await.unwrap();
        admin.delete_quota("acme").await.unwrap();
        assert!(admin.webhook(&own.id.to_string()).await.unwrap_err().is_not_found());
        admin.webhook(&of_all.id.to_string()).await.unwrap();
        assert!(admin.contacts("acme").await.unwrap().is_empty());
        let status = admin.quota("acme").await.unwrap();
        assert_eq!(status.quota.limits.get("maxSegments"), Some(&Limit::of(50)));
        assert_eq!(status.usage.get("segments"), Some(&1));
        let query = AuditQuery { workspace: Some("acme".to_owned()), ..Default::default() };
        let audit = admin.audit(&query).await.unwrap();
        assert!(audit.entries.iter().any(|entry| entry.action == AuditAction::WorkspaceDeleted));
    });
}

#[test]
fn rows_above_a_limit_are_told_and_go_when_they_are_to() {
    let server = Quickstart::with(Server::Sqlite, &[("QUOTA_CLEANUP", "segments=archive")]);
    let (admin, runtime, mut connection) = (client(&server, ADMIN), runtime(), server.connect());
    create_all(&mut connection, "acme", (0..3).map(|n| format!("s{n}")));
    let newest = list(&mut connection, "acme").iter().map(|row| row["id"].as_str().unwrap().to_owned()).max();
    runtime.block_on(async {
        admin.set_limits("acme", &limits(2), None, None).await.unwrap();
        let told = admin.clean("acme", "segments", true, None).await.unwrap();
        assert_eq!((told.policy, told.dry_run, told.above, told.removed), (CleanupPolicy::Archive, true, 1, 0));
        assert_eq!(told.rows, Vec::from_iter(newest));
        assert_eq!(admin.quota("acme").await.unwrap().usage.get("segments"), Some(&3));
        let strict = SettingsChange::new().mode(Some(EnforcementMode::Strict));
        admin.change_settings("acme", &strict, None).await.unwrap();
        let done = admin.clean("acme", "segments", false, Some(1)).await.unwrap();
        assert_eq!((done.dry_run, done.above, done.removed, done.rows), (false, 1, 1, told.rows));
        assert_eq!(admin.quota("acme").await.unwrap().usage.get("segments"), Some(&2));
    });
}

#[test]
fn usage_over_time_and_reports_on_it() {
    let server = Quickstart::start(Server::Sqlite);
    let (admin, runtime, mut connection) = (client(&server, ADMIN), runtime(), server.connect());
    runtime.block_on(admin.set_limits("acme", &limits(2), None, None)).unwrap();
    create_all(&mut connection, "acme", (0..2).map(|n| format!("s{n}")));
    create(&mut connection, "acme", "one too many").refused(429, "QUOTA_EXCEEDED");
    let analytics = runtime.block_on(admin.analytics("acme", &TrendQuery::last_days(1))).unwrap();
    let today = analytics.trends.last().unwrap();
    assert_eq!(today.usage.get("segments"), Some(&Some(2)));
    let forecast = analytics.forecast.get("segments").unwrap();
    assert_eq!((forecast.projected_date.as_ref(), forecast.days_until_limit), (Some(&today.date), Some(0)));

    let report = |workspace, format| {
        let report = runtime.block_on(admin.report(workspace, format, Period::Monthly)).unwrap();
        String::from_utf8(report).unwrap()
    };
    // Refusals are written down some seconds later.
    let mut row = Value::Null;
    until("the refusal is in the report", || {
        let report: Value = serde_json::from_str(&report(Some("acme"), ReportFormat::Json)).unwrap();
        let rows = report["rows"].as_array().unwrap();
        row = rows.iter().find(|row| row["resourceType"] == "segments").unwrap().clone();
        row["refusals"] == 1
    });
    assert_eq!(
        (&row["last"], &row["limit"], &row["percent"], &row["limitChanges"]),
        (&json!(2), &json!(2), &json!(100), &json!(1))
    );
    for of in [Some("acme"), None] {
        let mut csv = csv::Reader::from_reader(std::io::Cursor::new(report(of, ReportFormat::Csv)));
        let columns = csv.headers().unwrap().clone();
        let all: Vec<_> = csv.records().map(|record| record.unwrap()).collect();
        let field = |record: &csv::StringRecord, name| {
            let at = columns.iter().position(|column| column == name).unwrap();
            record[at].to_owned()
        };
        let segments = all.iter().find(|record| field(record, "resourceType") == "segments").unwrap();
        assert_eq!((field(segments, "workspaceId"), field(segments, "refusals")), ("acme".to_owned(), "1".to_owned()));
    }
}

/// A server that answers each request with the next of some answers, and counts them.
async fn scripted(answers: Vec<Response>) -> (QuotaClient, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let (count, answers) = (Arc::clone(&served), Arc::new(std::sync::Mutex::new(answers.into_iter())));
    let app = Router::new().fallback(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let next = answers.lock().unwrap().next();
        async move { next.unwrap_or_else(|| StatusCode::IM_A_TEAPOT.into_response()) }
    });
    let address = serve(app).await;
    (QuotaClient::builder(format!("http://{address}")).build().unwrap(), served)
}

fn busy(retry_after: Option<&'static str>) -> Response {
    let mut response = StatusCode::SERVICE_UNAVAILABLE.into_response();
    if let Some(after) = retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, http::HeaderValue::from_static(after));
    }
    response
}

fn plans() -> Response {
    r#"{"plans": [], "new": true}"#.into_response()
}

#[tokio::test]
async fn reads_are_sent_again_and_other_calls_are_not() {
    let (client, served) = scripted(vec![busy(Some("0")), busy(Some("0")), plans()]).await;
    assert!(client.plans().await.unwrap().is_empty());
    assert_eq!(served.load(Ordering::SeqCst), 3);

    // Not for ever, not where the server doesn't say when, and not where that is too long.
    for (answers, calls) in [
        (vec![busy(Some("0")), busy(Some("0")), busy(Some("0")), plans()], 3),
        (vec![busy(None), plans()], 1),
        (vec![busy(Some("3600")), plans()], 1),
    ] {
        let (client, served) = scripted(answers).await;
        assert!(client.plans().await.unwrap_err().is_unavailable());
        assert_eq!(served.load(Ordering::SeqCst), calls);
    }

    // Who knows what would be done twice?
    let (client, served) = scripted(vec![busy(Some("0")), plans()]).await;
    assert!(client.recalculate("acme", false).await.unwrap_err().is_unavailable());
    assert!(client.put_plan("pro", &limits(1), None).await.unwrap_err().is_unreadable());
    assert_eq!(served.load(Ordering::SeqCst), 2);
    let (client, served) = scripted(vec![busy(Some("0")), StatusCode::IM_A_TEAPOT.into_response()]).await;
    let error = client.put_plan("pro", &limits(1), Some("\"1\"")).await.unwrap_err();
    assert_eq!((error.status(), served.load(Ordering::SeqCst)), (Some(StatusCode::IM_A_TEAPOT), 2));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_tried_again_by_reads_alone() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = QuotaClient::builder(format!("http://{}", listener.local_addr().unwrap())).build().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            // The request is read, and then there is nothing.
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await;
        }
    });
    assert!(client.plans().await.unwrap_err().is_unreachable());
    assert_eq!(accepted.swap(0, Ordering::SeqCst), 3);
    assert!(client.recalculate("acme", false).await.unwrap_err().is_unreachable());
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_no_answer_of_the_api_is_told() {
    let html = || axum::response::Html("<html>hello</html>").into_response();
    let redirect = axum::response::Redirect::temporary("http://127.0.0.1:1/").into_response();
    let (client, _) =
        scripted(vec![html(), redirect, (StatusCode::BAD_GATEWAY, "proxy").into_response(), html(), html()]).await;
    assert!(client.plans().await.unwrap_err().is_unreadable());
    let error = client.plans().await.unwrap_err();
    assert!(error.status() == Some(StatusCode::TEMPORARY_REDIRECT) && error.message().contains("redirect"), "{error}");
    let error = client.plans().await.unwrap_err();
    assert!(error.status() == Some(StatusCode::BAD_GATEWAY) && error.code().is_none(), "{error}");
    assert!(client.health().await.unwrap_err().is_unreadable());
    assert!(client.report(None, ReportFormat::Csv, Period::Daily).await.unwrap_err().is_unreadable());
}

#[tokio::test]
async fn a_call_takes_no_longer_than_it_may() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let builder = QuotaClient::builder(format!("http://{}", listener.local_addr().unwrap()));
    let client = builder.timeout(Duration::from_millis(50)).build().unwrap();
    let error = client.plans().await.unwrap_err();
    assert!(error.is_unreachable() && error.message().contains("within 50ms"), "{error}");
}
