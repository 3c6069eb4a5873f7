//! Envoy's external authorization over gRPC (`envoy.service.auth.v3`).

use std::collections::{HashMap, HashSet};
use std::fmt;

use axum::Router;
use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{
    Authorization, AuthorizationServer, CheckRequest, CheckResponse, HeaderAppendAction, HttpStatusCode,
};
use envoy_types::ext_authz::v3::{CheckResponseExt, DeniedHttpResponseBuilder, OkHttpResponseBuilder};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tonic::{Code, Status};

use super::{method, target};
use crate::error::Error;
use crate::layer::{Handed, QuotaLayer, Replayed, grpc_code, problem};
use crate::problem::{ErrorCode, Problem};
use crate::rules::RouteMap;

/// Whether Envoy has handed on only a part of the body. It takes such a header of the client's away.
const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// How much longer a message may be than the body in it.
const HEADROOM: usize = 1024 * 1024;

/// Answers Envoy's [external authorization][filter] over gRPC, so that Envoy holds an upstream to the limits.
///
/// ```
/// # use std::convert::Infallible;
/// use axum::Router;
/// use tower_quota::{ExtAuthz, QuotaLayer};
/// # use tower_quota::{Charge, ClosureUsage, MemoryStore, Quota, ResourceCatalog, RouteMap, Rule, WorkspaceSource};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let catalog = ResourceCatalog::default();
/// # let create = Rule::new("create-segment", http::Method::POST, "/segments");
/// # let create = create.workspace(WorkspaceSource::body("/workspaceId")).charge(Charge::of("segments"));
/// # let routes = RouteMap::builder(&catalog).rule(create).build()?;
/// # let quota = Quota::builder(catalog)
/// #     .store(MemoryStore::new())
/// #     .usage(ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, Infallible>(50) }))
/// #     .build()?;
/// let layer = QuotaLayer::reading_bodies(quota, routes)?;
/// // To be served over HTTP/2.
/// let app: Router = ExtAuthz::new(layer)?.into_router();
/// # let _ = app;
/// # Ok(()) }
/// ```
///
/// # What it is asked and answers
///
/// A request that may pass is answered with `OK`; in mode `warn`, `Quota-Warning` is added to its response. One that is
/// refused gets what a [`QuotaLayer`] would answer: 429 with the same headers and body, and for gRPC the status
/// `RESOURCE_EXHAUSTED`. [`QuotaLayer::on_failure`] and its like hold as they do there.
///
/// Envoy's filter takes these options, all of which `contrib/envoy.yaml` has:
///
/// | option | why |
/// |---|---|
/// | `encode_raw_headers: true` | without it, Envoy joins headers of one name. Those that name a workspace are taken apart again, and refused where they have an `!`, which may stand for another character |
/// | `with_request_body`, `pack_as_bytes: true` | for rules that need the body. Without `pack_as_bytes`, Envoy changes what is not UTF-8, and such rules refuse the request |
/// | `max_request_bytes` | the largest body cap of the rules; messages may be 1 MiB longer than that |
/// | `allow_partial_message: true` | for uploads that no rule maps. Where a rule needs the body, a part of it is answered with 413 |
/// | `failure_mode_allow: false` | who can't be asked lets nothing pass |
/// | `envoy.filters.http.buffer` before it | a client that is slow to send a body could make its row at any time after it has passed |
/// | `use_remote_address: true` of the connection manager | a client that says that it is internal could have its creation sent again |
///
/// A rule that needs the body refuses with 400 a request of which Envoy tells neither a body nor that there is none:
/// HTTP/2 without `content-length`, while `with_request_body` is missing or the client sends no body.
///
/// # What is promised
///
/// The same as by [`AuthRequest`](crate::AuthRequest#what-is-promised): units stay taken for the time of
/// [`Settling::After`](crate::Settling::After), and limits are exact as long as no request makes rows later than that.
///
/// It believes what it is told: nobody but Envoy may reach it.
///
/// [filter]: https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter
pub struct ExtAuthz {
    layer: QuotaLayer<Replayed>,
}

impl ExtAuthz {
    /// Decides by the rules and options of `layer`.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the engine settles by a [barrier](crate::Settling::barrier) or a ledger that is fenced, both of
    /// which know nothing of an upstream, or tallies a resource type; and when a rule takes the workspace from an extension
    /// alone, which no proxy sends.
    pub fn new(layer: QuotaLayer<Replayed>) -> Result<Self, Error> {
        layer.decides_for_others()?;
        Ok(Self { layer })
    }

    /// A router with the gRPC service `envoy.service.auth.v3.Authorization`, for a server that speaks HTTP/2.
    pub fn into_router(self) -> Router {
        let largest = self.layer.rules().map(|rule| rule.body_cap()).max().unwrap_or(RouteMap::DEFAULT_BODY_CAP);
        let named = self.layer.rules().flat_map(|rule| rule.workspace_headers().cloned()).collect();
        let checks = AuthorizationServer::new(Checks { layer: self.layer, named })
            .max_decoding_message_size(largest.saturating_add(HEADROOM));
        Router::new().route_service("/envoy.service.auth.v3.Authorization/{method}", checks)
    }
}

impl fmt::Debug for ExtAuthz {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtAuthz").field("layer", &self.layer).finish()
    }
}

struct Checks {
    layer: QuotaLayer<Replayed>,
    /// The headers that may name a workspace.
    named: HashSet<HeaderName>,
}

#[tonic::async_trait]
impl Authorization for Checks {
    async fn check(&self, check: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, Status> {
        let attributes = check.into_inner().attributes.and_then(|attributes| attributes.request);
        let http = attributes.and_then(|request| request.http);
        let http = http.ok_or_else(|| Status::invalid_argument("the request to be checked is no HTTP request"))?;
        let answer = match self.original(http) {
            Ok(request) => self.layer.ask::<Handed, Handed>(request).await,
            Err(told) => Err(problem(&told, &HeaderMap::new())),
        };
        Ok(tonic::Response::new(match answer {
            Ok(headers) => passed(&headers),
            Err(response) => denied(&response),
        }))
    }
}

impl Checks {
    /// The request that Envoy asks about.
    fn original(&self, mut http: HttpRequest) -> Result<Request<Handed>, Problem> {
        let mut headers = match http.header_map.take() {
            Some(raw) => raw.headers.into_iter().try_fold(HeaderMap::new(), |mut headers, header| {
                let value = if header.raw_value.is_empty() { header.value.into_bytes() } else { header.raw_value };
                append(&mut headers, &header.key, &value).map(|()| headers)
            })?,
            None => self.taken_apart(&http.headers)?,
        };
        if !headers.contains_key(HOST) {
            append(&mut headers, HOST.as_str(), http.host.as_bytes())?;
        }
        let mut request = Request::new(handed(&mut http, &headers));
        *request.method_mut() = method(http.method.as_bytes())?;
        // `CONNECT` has no path.
        *request.uri_mut() = target(if http.path.is_empty() { b"/" } else { http.path.as_bytes() })?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Headers that Envoy has joined and put into UTF-8.
    fn taken_apart(&self, joined: &HashMap<String, String>) -> Result<HeaderMap, Problem> {
        let mut headers = HeaderMap::with_capacity(joined.len());
        for (name, value) in joined {
            if !self.named.iter().any(|named| named.as_str().eq_ignore_ascii_case(name)) {
                append(&mut headers, name, value.as_bytes())?;
                continue;
            }
            // To read another workspace than the upstream does would charge the wrong one.
            if value.contains('!') {
                let message = format!(
                    "the header `{name}` names a workspace with a `!`, which Envoy may have put there for another \
                     character: set `encode_raw_headers` in Envoy"
                );
                return Err(Problem::new(ErrorCode::InvalidRequest, message));
            }
            for one in value.split(',') {
                append(&mut headers, name, one.trim_ascii().as_bytes())?;
            }
        }
        Ok(headers)
    }
}

/// Adds a header; pseudo-headers are told elsewhere.
fn append(headers: &mut HeaderMap, name: &str, value: &[u8]) -> Result<(), Problem> {
    if name.starts_with(':') {
        return Ok(());
    }
    match (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
        (Ok(name), Ok(value)) => {
            headers.append(name, value);
            Ok(())
        }
        _ => Err(Problem::new(ErrorCode::InvalidRequest, format!("the header {name:?} is none that HTTP allows"))),
    }
}

/// What Envoy has handed on of the body.
fn handed(http: &mut HttpRequest, headers: &HeaderMap) -> Handed {
    let unread = |code, message| Handed::Unread(Problem::new(code, message));
    let partial = headers.get_all(PARTIAL_BODY);
    if partial.iter().any(|partial| partial != "false") {
        return unread(
            ErrorCode::PayloadTooLarge,
            "a quota depends on the body, which is longer than what the proxy hands on (`max_request_bytes`)",
        );
    }
    if partial.iter().next().is_some() {
        return match http.body.is_empty() {
            true => Handed::Whole(Bytes::from(std::mem::take(&mut http.raw_body))),
            false => unread(
                ErrorCode::QuotaUnavailable,
                "a quota depends on the body, and the proxy may have changed it: set `pack_as_bytes` in Envoy",
            ),
        };
    }
    let is_empty = match headers.get(CONTENT_LENGTH) {
        Some(length) => length == "0",
        // Later versions of HTTP need no header to send a body.
        None => http.protocol.starts_with("HTTP/1") && !headers.contains_key(TRANSFER_ENCODING),
    };
    match is_empty {
        true => Handed::Whole(Bytes::new()),
        false => unread(
            ErrorCode::InvalidRequest,
            "a quota depends on the body, and the proxy handed on none: set `with_request_body` in Envoy; a request \
             without a body says `content-length: 0`",
        ),
    }
}

/// The pairs of `headers` that are text, which all are that are made here.
fn texts(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
}

fn passed(headers: &HeaderMap) -> CheckResponse {
    let mut ok = OkHttpResponseBuilder::new();
    for (name, value) in texts(headers) {
        ok.add_response_header(name, value, Some(HeaderAppendAction::OverwriteIfExistsOrAdd), false);
    }
    let mut response = CheckResponse::with_status(Status::ok(""));
    response.set_http_response(ok);
    response
}

fn denied(answer: &Response<Bytes>) -> CheckResponse {
    let code = answer.extensions().get::<ErrorCode>().copied();
    // gRPC has its own status, and always 200 beside it. Envoy keeps `grpc-status`, and makes the 200 itself.
    let grpc = answer.headers().contains_key("grpc-status");
    let status = code.filter(|_| grpc).map_or(answer.status(), ErrorCode::status);
    let known = HttpStatusCode::try_from(i32::from(status.as_u16())).unwrap_or(HttpStatusCode::Forbidden);
    let mut denied = DeniedHttpResponseBuilder::new();
    denied.set_http_status(known).set_body(String::from_utf8_lossy(answer.body()));
    for (name, value) in texts(answer.headers()) {
        denied.add_header(name, value, Some(HeaderAppendAction::OverwriteIfExistsOrAdd), false);
    }
    let code = code.map_or(Code::PermissionDenied, |code| Code::from_i32(grpc_code(code)));
    let mut response = CheckResponse::with_status(Status::new(code, ""));
    response.set_http_response(denied);
    response
}
