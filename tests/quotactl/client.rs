//! The library under the program: errors that tell what is to be done, and what is sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tower_quota::Limit;
use tower_quota::client::{Named, QuotaClient};

use crate::host::serve;
use crate::support::quickstart::{ACME, ADMIN, Quickstart, Server, create_all, remaining};

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
        scripted(vec![html(), redirect, (StatusCode::BAD_GATEWAY, "proxy").into_response(), html()]).await;
    assert!(client.plans().await.unwrap_err().is_unreadable());
    let error = client.plans().await.unwrap_err();
    assert!(error.status() == Some(StatusCode::TEMPORARY_REDIRECT) && error.message().contains("redirect"), "{error}");
    let error = client.plans().await.unwrap_err();
    assert!(error.status() == Some(StatusCode::BAD_GATEWAY) && error.code().is_none(), "{error}");
    assert!(client.health().await.unwrap_err().is_unreadable());
}

#[tokio::test]
async fn a_call_takes_no_longer_than_it_may() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let builder = QuotaClient::builder(format!("http://{}", listener.local_addr().unwrap()));
    let client = builder.timeout(Duration::from_millis(50)).build().unwrap();
    let error = client.plans().await.unwrap_err();
    assert!(error.is_unreachable() && error.message().contains("within 50ms"), "{error}");
}
