//! The document, and the page to browse it: Swagger UI, from this server alone.

use axum::extract::{OriginalUri, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::header;
use serde::Serialize;
use serde_json::Value;
use swagger_ui_dist::{ApiDefinition, OpenApiSource, generate_routes};
use tower::Service;

use crate::api::{Api, operations};

describe!(document, |it| it.is("getDocument", "Description", "This document.").answers(
    StatusCode::OK,
    "OpenAPI 3.1.",
    json!({"type": "object"}),
    json!({"openapi": "3.1.1"})
));

/// The document, and where the API is.
#[derive(Serialize)]
struct Served<'a> {
    servers: [Server<'a>; 1],
    #[serde(flatten)]
    document: &'a Value,
}

#[derive(Serialize)]
struct Server<'a> {
    url: &'a str,
}

/// Only the request tells where the router is mounted. A URL that is relative to the document would do as well, but for
/// the programs that read it otherwise.
pub(in crate::api) async fn document(State(api): State<Api>, OriginalUri(uri): OriginalUri) -> Response {
    let url = uri.path().strip_suffix("/openapi.json").filter(|root| !root.is_empty()).unwrap_or("/");
    Json(Served { servers: [Server { url }], document: &api.0.document }).into_response()
}

describe!(docs, |it| it
    .is("getDocs", "Description", "A page to browse this document, and to try it out.")
    .answers_with("text/html", "The page."));

/// Relative, since only the host knows where the API is mounted.
const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quota API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"#;

const START: &str = "SwaggerUIBundle({url: 'openapi.json', dom_id: '#swagger-ui', validatorUrl: null});\n";

/// Nothing but what comes from here. The images of Swagger UI stand in its style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(in crate::api) async fn docs() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, PAGE).into_response()
}

/// Adds what the page loads.
pub(in crate::api) fn with_assets(router: Router<Api>) -> Router<Api> {
    let source = OpenApiSource::Uri("openapi.json");
    let ui = generate_routes(ApiDefinition { uri_prefix: "/docs", api_definition: source, title: None });
    // Its own page isn't among them: it has a script inside.
    let asset = || {
        let ui = ui.clone();
        operations(get(move |request: Request| {
            let mut ui = ui.clone();
            async move { cached(ui.call(request).await) }
        }))
    };
    router
        .route("/docs/swagger-ui.css", asset())
        .route("/docs/swagger-ui-bundle.js", asset())
        .route("/docs/start.js", operations(get(async || cached(([(header::CONTENT_TYPE, "text/javascript")], START)))))
}

/// They change with the crate only.
fn cached(asset: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "max-age=3600"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], asset).into_response()
}
