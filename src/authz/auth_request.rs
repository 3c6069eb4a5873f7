//! nginx's `auth_request`: a subrequest for each request, which only its status answers.

use std::fmt;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};

use super::{method, target};
use crate::error::Error;
use crate::layer::{QuotaLayer, Untouched, problem};
use crate::problem::{ErrorCode, Problem};

const ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");

/// Answers nginx's [`auth_request`](https://nginx.org/en/docs/http/ngx_http_auth_request_module.html), so that nginx holds an
/// upstream to the limits.
///
/// ```
/// # use std::convert::Infallible;
/// use axum::Router;
/// # use axum::body::Body;
/// use http::{Method, Request, StatusCode};
/// # use tower::ServiceExt;
/// use tower_quota::{AuthRequest, QuotaLayer};
/// # use tower_quota::{Charge, ClosureUsage, MemoryStore, Quota, ResourceCatalog, RouteMap, Rule, WorkspaceSource};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let catalog = ResourceCatalog::default();
/// # let create = Rule::new("create-segment", Method::POST, "/workspaces/{id}/segments");
/// # let create = create.workspace(WorkspaceSource::path("id")).charge(Charge::of("segments"));
/// # let routes = RouteMap::builder(&catalog).rule(create).build()?;
/// # let quota = Quota::builder(catalog)
/// #     .store(MemoryStore::new())
/// #     .usage(ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, Infallible>(50) }))
/// #     .build()?;
/// let layer = QuotaLayer::new(quota, routes)?;
/// let app: Router = Router::new().nest("/authz", AuthRequest::new(layer)?.into_router());
///
/// // What nginx asks before it forwards `POST /workspaces/acme/segments`.
/// let asked = Request::get("/authz")
///     .header("x-original-method", "POST")
///     .header("x-original-uri", "/workspaces/acme/segments");
/// let answer = app.oneshot(asked.body(Body::empty())?).await?;
/// assert_eq!(answer.status(), StatusCode::FORBIDDEN);
/// assert_eq!(answer.headers()["quota-status"], "429");
/// # Ok(()) }
/// ```
///
/// # What it is asked and answers
///
/// The request is told by `X-Original-Method` (nginx's `$request_method`) and `X-Original-URI` (`$request_uri`), both of
/// which nginx must set; all other headers are those of the client. nginx hands on no body, so that the layer is one of
/// [`QuotaLayer::new`], which takes no rule that needs it.
///
/// A request that may pass is answered with 200; in mode `warn`, `Quota-Warning` says what was over a limit. All else is
/// 403, the one way to refuse that nginx knows, with what the client is to be told:
///
/// | header | what it has |
/// |---|---|
/// | `Quota-Status` | the status of the answer that the client is to get: 429 for a refusal |
/// | `Quota-Code` | the code in it, such as `QUOTA_EXCEEDED` |
/// | `Quota-Problem` | its body, where that fits into a header, as JSON always does |
/// | `Retry-After` and others | those of that answer |
///
/// `contrib/nginx.conf` has nginx give that answer.
///
/// # What is promised
///
/// How the upstream answers is never seen here. So units of a request that passes stay taken for the time of
/// [`Settling::After`](crate::Settling::After), even if the upstream refuses it; a row that is counted meanwhile counts beside
/// its unit. Then they count as rows, until the next count of rows says otherwise: nobody is refused without one. Limits are
/// exact as long as no request makes rows later than that time after it has passed, nor, after a restart without a
/// `PostgresLedger`, later than [`first_count_after`](crate::QuotaBuilder::first_count_after). Of a deletion, too, the count
/// tells whether it was done.
///
/// nginx asks before it reads a body. It must have read it, as in `contrib/nginx.conf`: a client that is slow to send one could
/// make its row at any time.
///
/// It believes what it is told: nobody but nginx may reach it.
pub struct AuthRequest {
    layer: QuotaLayer<Untouched>,
}

impl AuthRequest {
    /// Decides by the rules and options of `layer`.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the engine settles by a [barrier](crate::Settling::barrier) or a ledger that is fenced, both of
    /// which know nothing of an upstream, or tallies a resource type; and when a rule takes the workspace from an extension
    /// alone, which no proxy sends.
    pub fn new(layer: QuotaLayer<Untouched>) -> Result<Self, Error> {
        layer.decides_for_others()?;
        Ok(Self { layer })
    }

    /// A router that answers at `/`: nest it where nginx asks.
    pub fn into_router(self) -> Router {
        Router::new().route("/", any(answer)).with_state(self.layer)
    }
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest").field("layer", &self.layer).finish()
    }
}

async fn answer(State(layer): State<QuotaLayer<Untouched>>, asking: Request<Body>) -> Response {
    let (mut parts, _) = asking.into_parts();
    match original(&parts.headers) {
        Ok((method, uri)) => {
            parts.headers.remove(ORIGINAL_METHOD);
            parts.headers.remove(ORIGINAL_URI);
            let mut request = Request::new(());
            *request.method_mut() = method;
            *request.uri_mut() = uri;
            *request.headers_mut() = parts.headers;
            match layer.ask::<Untouched, ()>(request).await {
                Ok(headers) => (StatusCode::OK, headers).into_response(),
                Err(response) => refused(response),
            }
        }
        Err(told) => {
            tracing::warn!(problem = told.message(), "this is not what nginx should ask");
            refused(problem(&told, &parts.headers))
        }
    }
}

/// What nginx asks about.
fn original(headers: &HeaderMap) -> Result<(Method, Uri), Problem> {
    Ok((method(only(headers, &ORIGINAL_METHOD)?)?, target(only(headers, &ORIGINAL_URI)?)?))
}

/// The value of a header that nginx sets. Where there are two, one is the client's.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h [u8], Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        _ => {
            let message = format!("`{name}` is to be here once: set it in nginx with `proxy_set_header`");
            Err(Problem::new(ErrorCode::InvalidRequest, message))
        }
    }
}

/// A refusal as nginx understands it, with the answer that was meant for the client.
fn refused(response: http::Response<Bytes>) -> Response {
    let (mut parts, body) = response.into_parts();
    let code = parts.extensions.get::<ErrorCode>().copied();
    // gRPC has its own status, and always 200 beside it.
    let grpc = parts.headers.contains_key("grpc-status");
    let status = code.filter(|_| grpc).map_or(parts.status, ErrorCode::status);
    parts.status = StatusCode::FORBIDDEN;
    parts.headers.insert("quota-status", HeaderValue::from(status.as_u16()));
    if let Some(code) = code {
        parts.headers.insert("quota-code", HeaderValue::from_static(code.as_str()));
    }
    if !body.is_empty()
        && let Ok(problem) = HeaderValue::from_bytes(&body)
    {
        parts.headers.insert("quota-problem", problem);
    }
    Response::from_parts(parts, Body::from(body))
}
