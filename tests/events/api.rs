//! The operations on endpoints and contacts, over HTTP.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_quota::{
    Actor, ClosureUsage, EndpointChange, Principal, Quota, QuotaApi, SqliteStore, StaticTokens, WebhookOptions,
};

use crate::host::{Host, both, catalog, until};
use crate::support::receiver::Receiver;

struct Api(Router);

impl Api {
    fn of(host: &Host) -> Self {
        let tokens = StaticTokens::builder()
            .token("root", Principal::admin("root"))
            .token("ada", Principal::admin_of("ada", ["acme"]))
            .token("mel", Principal::member("mel", ["acme"]))
            .build()
            .unwrap();
        Self(QuotaApi::new(host.quota(0).clone(), tokens).into_router())
    }

    async fn send(&self, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request =
            Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.0.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await.unwrap()).unwrap())
    }

    async fn root(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send("root", method, path, body).await
    }
}

both!(endpoints_are_made_read_changed_tried_and_deleted, host, {
    let (api, receiver) = (Api::of(&host), Receiver::start().await);
    let new = json!({"url": receiver.url, "workspaceId": "acme", "events": ["quota.exceeded"], "description": "ours"});
    let (status, made) = api.root("POST", "/system/webhooks", new).await;
    assert_eq!(status, 201, "{made}");
    let made = &made["webhook"];
    let secret = made["secret"].as_str().unwrap();
    assert_eq!((&made["workspaceId"], &made["status"]), (&json!("acme"), &json!("active")));
    let path = format!("/system/webhooks/{}", made["id"].as_str().unwrap());
    let (_, read) = api.root("GET", &path, Value::Null).await;
    let mut without = made.clone();
    without.as_object_mut().unwrap().remove("secret");
    assert_eq!(read["webhook"], without);
    assert_eq!(api.root("GET", "/system/webhooks", Value::Null).await.1["webhooks"], json!([without]));
    // It is sent back as it was read, but for one thing.
    without["events"] = json!(["quota.warning", "quota.exceeded"]);
    let (status, changed) = api.root("PUT", &path, without.clone()).await;
    assert_eq!((status, &changed["webhook"]["events"]), (200, &without["events"]));
    let (status, tried) = api.root("POST", &format!("{path}/test"), Value::Null).await;
    assert_eq!(status, 202);
    until("it is sent", async || receiver.requests().len() == 1).await;
    let sent = &receiver.requests()[0];
    sent.verify(&[secret]);
    assert_eq!(
        (json!(sent.header("webhook-id")), &sent.body()["workspace_id"]),
        (tried["notice"].clone(), &json!("acme"))
    );
    let log = format!("{path}/deliveries?status=delivered");
    until("it is told", async || api.root("GET", &log, Value::Null).await.1["deliveries"][0]["log"][0]["ok"] == true)
        .await;
    let (_, page) = api.root("GET", &log, Value::Null).await;
    let delivery = &page["deliveries"][0];
    assert_eq!((&delivery["attempts"], &delivery["log"][0]["result"]), (&json!(1), &json!("204")));
    let replay = format!("{path}/deliveries/{}/replay", delivery["id"].as_str().unwrap());
    assert_eq!(api.root("POST", &replay, Value::Null).await.0, 202);
    until("it is sent again", async || receiver.requests().len() == 2).await;
    assert_eq!(json!(receiver.requests()[1].header("webhook-id")), tried["notice"]);
    let given = format!("whsec_{}", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let (status, rotated) = api.root("POST", &format!("{path}/secret"), json!({"secret": given})).await;
    assert_eq!((status, &rotated["webhook"]["secret"]), (200, &json!(given)));
    assert_eq!(api.root("DELETE", &path, Value::Null).await.0, 200);
    assert_eq!(api.root("GET", &path, Value::Null).await.0, 404);
    assert_eq!(api.root("DELETE", &path, Value::Null).await.0, 404);
    // Who did what stands in the audit log, without secrets.
    let (_, audit) = api.root("GET", "/system/quota-audit", Value::Null).await;
    let actions: Vec<_> =
        audit["entries"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["endpoint_removed", "endpoint_changed", "endpoint_changed", "endpoint_added"]);
    assert!(!audit.to_string().contains("whsec_"));
});

both!(a_change_that_the_audit_log_does_not_take_is_none, host, {
    let (api, receiver) = (Api::of(&host), Receiver::start().await);
    let contacts = "/workspaces/acme/quota/contacts";
    let new = json!({"url": receiver.url});
    let (_, made) = api.root("POST", "/system/webhooks", new.clone()).await;
    let path = format!("/system/webhooks/{}", made["webhook"]["id"].as_str().unwrap());
    api.root("PUT", contacts, json!({"emails": ["ada@example.com"]})).await;
    let before = (host.quota(0).endpoints().await.unwrap(), api.root("GET", contacts, Value::Null).await);
    host.audit_takes(false).await;
    for (method, path, body) in [
        ("POST", "/system/webhooks", new),
        ("PUT", &path, json!({"active": false})),
        ("POST", &format!("{path}/secret"), Value::Null),
        ("DELETE", &path, Value::Null),
        ("PUT", contacts, json!({"emails": []})),
    ] {
        assert_eq!(api.root(method, path, body).await.0, 503, "{method} {path}");
    }
    let endpoints = host.quota(0).endpoints().await.unwrap();
    assert_eq!((endpoints, api.root("GET", contacts, Value::Null).await), before);
    host.audit_takes(true).await;
    assert_eq!(api.root("POST", &format!("{path}/secret"), Value::Null).await.0, 200);
});

both!(what_makes_no_sense_is_refused_and_changes_nothing, host, {
    let api = Api::of(&host);
    let bad = [
        (json!({}), "`url` is missing"),
        (json!({"url": "ftp://example.com"}), "http"),
        (json!({"url": "not a url"}), "URL"),
        (json!({"url": "http://10.0.0.1/"}), "not on the public internet"),
        (json!({"url": "http://169.254.169.254/latest"}), "not on the public internet"),
        (json!({"url": "http://[::1]:80/"}), "not on the public internet"),
        (json!({"url": "https://example.com", "events": ["quota.gone"]}), "quota.warning and quota.exceeded"),
        (json!({"url": "https://example.com", "events": []}), "one event at least"),
        (json!({"url": "https://example.com", "events": "quota.warning"}), "array of strings"),
        (json!({"url": "https://example.com", "secret": "whsec_c2hvcnQ="}), "24"),
        (json!({"url": "https://example.com", "secret": "short"}), "whsec_"),
        (json!({"url": "https://example.com", "active": "yes"}), "`active` is true or false"),
        (json!({"url": "https://example.com", "colour": "red"}), "unknown field"),
    ];
    for (body, reason) in bad {
        let (status, answer) = api.root("POST", "/system/webhooks", body.clone()).await;
        assert_eq!((status, &answer["error"]), (400, &json!("INVALID_REQUEST")), "{body}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(reason), "{body}: {answer}");
    }
    assert_eq!(api.root("GET", "/system/webhooks", Value::Null).await.1["webhooks"], json!([]));
    for token in ["ada", "mel"] {
        assert_eq!(api.send(token, "GET", "/system/webhooks", Value::Null).await.0, 403);
    }
    let contacts = "/workspaces/acme/quota/contacts";
    assert_eq!(api.send("mel", "PUT", contacts, json!({"emails": []})).await.0, 403);
    assert_eq!(api.send("ada", "PUT", "/workspaces/other/quota/contacts", json!({"emails": []})).await.0, 403);
    for body in [
        json!({}),
        json!({"emails": "x"}),
        json!({"emails": ["no address"]}),
        json!({"emails": vec!["a@b.example"; 21]}),
    ] {
        assert_eq!(api.send("ada", "PUT", contacts, body.clone()).await.0, 400, "{body}");
    }
    let set = json!({"workspaceId": "acme", "emails": ["ada@example.com"]});
    assert_eq!(api.send("ada", "PUT", contacts, set.clone()).await, (200, set.clone()));
    assert_eq!(api.send("ada", "GET", contacts, Value::Null).await, (200, set));
});

#[tokio::test]
async fn names_that_lead_to_this_machine_only_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("quota.db").display());
    let quota = Quota::builder(catalog())
        .store(SqliteStore::connect(&url, &catalog()).await.unwrap())
        .usage(ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(0) }))
        .webhooks(WebhookOptions::new())
        .build()
        .unwrap();
    let admin = quota.admin(Actor::library());
    let none = EndpointChange::default;
    let error = admin.add_endpoint(None, "http://localhost:9000/", none(), None).await.unwrap_err();
    assert!(error.is_invalid() && error.message().contains("localhost: it is not on the public internet"), "{error}");
    // It may come to exist.
    let (endpoint, _) = admin.add_endpoint(None, "https://hooks.invalid/", none(), None).await.unwrap();
    let error = admin.change_endpoint(endpoint.id, &none().url("http://localhost:9000/")).await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
    assert_eq!(quota.endpoint(endpoint.id).await.unwrap(), endpoint);
}
