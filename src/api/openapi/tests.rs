use std::collections::BTreeSet;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

use crate::api::document;
use crate::engine::Quota;
use crate::limit::Limit;
use crate::mode::EnforcementMode;
use crate::resource::{ResourceCatalog, ResourceSpec};
use crate::store::MemoryStore;
use crate::usage::ClosureUsage;
use crate::{QuotaApi, StaticTokens};

fn api() -> Router {
    let gadgets = ResourceSpec::new("gadgets", "maxGadgets", Limit::of(7));
    let catalog = ResourceCatalog::builder().resource(gadgets).build().unwrap();
    let usage = ClosureUsage::new(async |_, _, _| Ok::<_, std::io::Error>(0));
    let quota = Quota::builder(catalog).store(MemoryStore::new()).usage(usage).mode(EnforcementMode::Enforce);
    QuotaApi::new(quota.build().unwrap(), StaticTokens::builder().build().unwrap()).into_router()
}

async fn get(path: &str) -> (header::HeaderMap, Vec<u8>) {
    let response = api().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    let headers = response.headers().clone();
    (headers, to_bytes(response.into_body(), 10_000_000).await.unwrap().to_vec())
}

async fn served() -> Value {
    let (headers, body) = get("/openapi.json").await;
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    serde_json::from_slice(&body).unwrap()
}

/// Its paths, and the methods that each has.
fn described(document: &Value) -> Vec<(String, BTreeSet<String>)> {
    let methods =
        |operations: &Value| operations.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
    let paths = document["paths"].as_object().unwrap().iter();
    paths.map(|(path, operations)| (path.clone(), methods(operations))).collect()
}

#[test]
fn every_operation_is_described() {
    assert_eq!(document().faults, Vec::<String>::new());
}

#[test]
fn what_is_missing_is_told() {
    let mut faulty = super::Document::new();
    faulty.add("/a", "put", &async |_: crate::api::dto::Object, _: crate::api::extract::Pairs| (), |_| {});
    let missing = ["a name", "an answer", "a body", "a query"];
    assert_eq!(faulty.faults, missing.map(|what| format!("put /a has no {what}")));
}

/// Routes that are added elsewhere than among those with a description are seen here.
#[tokio::test]
async fn the_router_has_the_paths_of_the_document_and_no_others() {
    let shown = format!("{:?}", api());
    let all: BTreeSet<_> = shown.split('"').filter(|part| part.starts_with('/')).collect();
    let assets = ["/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"];
    // Axum's own.
    let fallback = ["/", "/{*__private__axum_fallback}"];
    let others = assets.into_iter().chain(fallback).collect();
    let document = served().await;
    let paths: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(all.difference(&others).copied().collect::<BTreeSet<_>>(), paths);
}

#[tokio::test]
async fn each_path_has_the_methods_of_the_document_and_no_others() {
    for (path, mut methods) in described(&served().await) {
        let request = Request::builder().method("TRACE").uri(path.replace(['{', '}'], "")).body(Body::empty());
        let response = api().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = response.headers()[header::ALLOW].to_str().unwrap();
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        assert_eq!(allowed.split(',').map(str::to_owned).collect::<BTreeSet<_>>(), methods, "{path}");
    }
}

#[tokio::test]
async fn names_are_unique_and_lead_somewhere() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = served().await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in &found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is used nowhere");
    }
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    let ids: Vec<_> = operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

#[tokio::test]
async fn the_document_tells_where_the_api_is() {
    let url = async |app: Router, path: &str| {
        let response = app.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let body = to_bytes(response.into_body(), 10_000_000).await.unwrap();
        serde_json::from_slice::<Value>(&body).unwrap()["servers"].clone()
    };
    assert_eq!(url(api(), "/openapi.json").await, serde_json::json!([{"url": "/"}]));
    let nested = Router::new().nest("/api/v1", api());
    assert_eq!(url(nested, "/api/v1/openapi.json").await, serde_json::json!([{"url": "/api/v1"}]));
}

#[tokio::test]
async fn the_types_are_those_of_the_catalog() {
    let document = served().await;
    let schemas = &document["components"]["schemas"];
    let types = schemas["ResourceType"]["enum"].as_array().unwrap();
    assert_eq!(types.len(), 9);
    assert_eq!(types[8], "gadgets");
    for limits in ["Quota", "QuotaUpdate", "Limits"] {
        assert!(schemas[limits]["properties"]["maxGadgets"].is_object(), "{limits}");
    }
    assert!(schemas["Counts"]["properties"]["gadgets"].is_object());
}

#[tokio::test]
async fn extractors_say_what_they_ask_for_and_how_they_refuse() {
    let document = served().await;
    let operation = &document["paths"]["/workspaces/{workspaceId}/quota"]["put"];
    assert_eq!(operation["security"][0]["bearer"], serde_json::json!([]));
    let parameters: Vec<_> = operation["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(parameters, ["workspaceId", "If-Match"]);
    let statuses: Vec<_> = operation["responses"].as_object().unwrap().keys().collect();
    assert_eq!(statuses, ["200", "400", "401", "403", "404", "412", "413", "503"]);
    let codes = operation.pointer("/responses/400/content/application~1problem+json/schema/properties/error/enum");
    assert_eq!(codes.unwrap(), &serde_json::json!(["INVALID_REQUEST", "INVALID_RESOURCE_TYPE", "WORKSPACE_MISMATCH"]));
    assert_eq!(document["paths"]["/system/health"]["get"]["security"], serde_json::json!([]));
}

/// What most operations have as an example of a code says nothing of what only one of them refuses.
#[tokio::test]
async fn a_refusal_that_only_one_operation_has_is_its_example() {
    let document = served().await;
    let message = |path: &str| {
        let examples = &document["paths"][path]["put"]["responses"]["400"]["content"]["application/json"]["examples"];
        examples["INVALID_REQUEST"]["value"]["message"].as_str().unwrap().to_owned()
    };
    let told = message("/workspaces/{workspaceId}/quota/tally");
    assert!(told.contains("not counted by the ledger alone"), "{told}");
    assert!(message("/workspaces/{workspaceId}/quota").contains("given twice"));
}

#[tokio::test]
async fn the_page_loads_nothing_but_what_is_here() {
    let (headers, page) = get("/docs").await;
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let page = String::from_utf8(page).unwrap();
    assert!(!page.contains("//") && !page.contains("<script>") && !page.contains("style="), "{page}");
    let loaded = page.split('"').filter(|part| part.starts_with("docs/"));
    let mut found = 0;
    for asset in loaded {
        let (headers, body) = get(&format!("/{asset}")).await;
        let kind = if asset.ends_with("css") { "text/css" } else { "text/javascript" };
        assert_eq!(headers[header::CONTENT_TYPE], kind, "{asset}");
        assert_eq!(headers[header::CACHE_CONTROL], "max-age=3600");
        assert!(!body.is_empty());
        found += 1;
    }
    assert_eq!(found, 3);
}
