//! Counts and look-ups over HTTP: what is understood, and that all else is an error.

use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::AUTHORIZATION;
use tower_quota::{HttpUsage, HttpUsageBuilder, ResourceCatalog, UsageSource, WorkspaceFormat, WorkspaceId};

use crate::upstream::{Said, Upstream};

fn workspace(id: &str) -> WorkspaceId {
    WorkspaceFormat::Verbatim.parse(id).unwrap()
}

fn builder(upstream: &Upstream) -> HttpUsageBuilder {
    HttpUsage::builder(upstream.url(), &ResourceCatalog::default())
        .count("segments", "/workspaces/{workspace}/segments?of={workspace}", "/total")
        .count("users", "/workspaces/{workspace}/users", "/items")
        .exists("segments", "id", "/workspaces/{workspace}/segments/{value}", None)
        .exists("segments", "name", "/workspaces/{workspace}/segments?name={value}", "/items")
}

async fn count(usage: &HttpUsage, of: &str, resource: &str) -> Result<u64, tower_quota::Error> {
    let catalog = ResourceCatalog::default();
    usage.count(&workspace(of), catalog.by_name(resource).unwrap(), None).await
}

async fn exists(usage: &HttpUsage, column: &str, values: &[&str]) -> Result<Vec<bool>, tower_quota::Error> {
    let catalog = ResourceCatalog::default();
    let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
    usage.existing(&workspace("acme"), catalog.by_name("segments").unwrap(), column, &values).await
}

#[tokio::test]
async fn numbers_and_arrays_are_counted() {
    let upstream = Upstream::start();
    let usage = builder(&upstream).header(AUTHORIZATION, HeaderValue::from_static("Bearer s3cret")).build().unwrap();
    for id in ["1", "2", "3"] {
        upstream.rows.insert("a/b c?d", "segments", id);
        upstream.rows.insert("acme", "users", id);
    }
    assert_eq!(count(&usage, "a/b c?d", "segments").await.unwrap(), 3);
    assert_eq!(count(&usage, "acme", "users").await.unwrap(), 3);
    assert_eq!(count(&usage, "acme", "segments").await.unwrap(), 0);
    let read = upstream.rows.read.lock().unwrap().clone();
    let secret = Some("Bearer s3cret".to_owned());
    assert_eq!(read[0], ("/workspaces/a%2Fb%20c%3Fd/segments?of=a%2Fb%20c%3Fd".to_owned(), secret));
    let error = count(&usage, "acme", "journeys").await.unwrap_err();
    assert!(error.is_config() && error.message().contains("count(\"journeys\""), "{error}");
}

#[tokio::test]
async fn rows_are_looked_up() {
    let upstream = Upstream::start();
    let usage = builder(&upstream).build().unwrap();
    upstream.rows.insert("acme", "segments", "a b");
    assert_eq!(exists(&usage, "id", &["a b", "other", ".."]).await.unwrap(), [true, false, false]);
    assert_eq!(exists(&usage, "name", &["x"]).await.unwrap(), [true]);
    // Without a value the URL is that of the list; and what is too long, or one too many, may make the question fail.
    assert_eq!(exists(&usage, "name", &["", "x"]).await.unwrap(), [false, true]);
    upstream.rows.say(Said::Answer(431, Vec::new()));
    assert_eq!(exists(&usage, "name", &["", &"x".repeat(2049)]).await.unwrap(), [false, false]);
    upstream.rows.say(None);
    assert_eq!(exists(&usage, "name", &["x"; 101]).await.unwrap(), [vec![true; 100], vec![false]].concat());
    upstream.rows.remove("acme", "segments", "a b");
    assert_eq!(exists(&usage, "name", &["x"]).await.unwrap(), [false]);
    assert_eq!(exists(&usage, "id", &[]).await.unwrap(), Vec::<bool>::new());
    let error = exists(&usage, "slug", &["x"]).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("exists(\"segments\", \"slug\""), "{error}");
    for (status, body, says) in [
        (500, "", "500"),
        (204, "", "204"),
        (403, "", "403"),
        (200, "{}", "nothing at \"/items\""),
        (200, "no JSON", "not JSON"),
    ] {
        upstream.rows.say(Said::Answer(status, body.into()));
        let error = exists(&usage, "name", &["x"]).await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains(says), "{status}: {error}");
    }
}

#[tokio::test]
async fn whatever_else_comes_is_an_error_and_never_nothing() {
    let upstream = Upstream::start();
    let usage = builder(&upstream).timeout(Duration::from_millis(500)).body_cap(1000).build().unwrap();
    let big = format!("{{\"total\": 1, \"more\": \"{}\"}}", "x".repeat(2000));
    for (status, body, says) in [
        (404, "", "404 Not Found"),
        (500, "{\"total\": 1}", "500"),
        (201, "{\"total\": 1}", "201"),
        (302, "", "302"),
        (200, "", "not JSON"),
        (200, "<html>", "not JSON"),
        (200, "{\"total\": 1", "not JSON"),
        (200, "{\"total\": 1} more", "not JSON"),
        (200, "{\"count\": 1}", "nothing at \"/total\""),
        (200, "[1]", "nothing at \"/total\""),
        (200, "{\"total\": null}", "null"),
        (200, "{\"total\": -1}", "-1"),
        (200, "{\"total\": 1.5}", "1.5"),
        (200, "{\"total\": \"1\"}", "a text"),
        (200, "{\"total\": {}}", "an object"),
        (200, &big, "at most 1000 bytes"),
    ] {
        upstream.rows.say(Said::Answer(status, body.into()));
        let error = count(&usage, "acme", "segments").await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains(says), "{status} {body}: {error}");
        assert!(error.message().contains("/workspaces/acme/segments"), "{error}");
    }
    for said in [Said::Silence, Said::Dribble] {
        upstream.rows.say(said);
        let error = count(&usage, "acme", "segments").await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains("no answer within 500ms"), "{error}");
    }
    upstream.rows.say(None);
    assert_eq!(count(&usage, "acme", "segments").await.unwrap(), 0);
    drop(upstream);
    let error = count(&usage, "acme", "segments").await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
}
