//! The reverse proxy that a layer stands in front of. Its prose is at the type, which is what readers of the docs see.

mod body;
mod forwarded;
mod framing;
mod guard;
mod head;
mod health;
mod options;
mod tunnel;
mod upstream;

use std::convert::Infallible;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode, request};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::ext::on_informational;
use hyper::upgrade::OnUpgrade;
use tokio::sync::Notify;
use tokio::time::timeout;
use tower::Service;

use self::body::{ClientFailure, Progress, Upload};
pub use self::body::{GatewayBody, PacedBody};
pub use self::forwarded::ClientConnection;
use self::forwarded::Trusted;
pub use self::guard::{GuardedFuture, GuardedService, GuardedStream};
use self::head::Target;
use self::health::Health;
pub use self::options::GatewayOptions;
use self::upstream::{Failure, Upstream};
use crate::BoxFuture;
use crate::error::Error;
use crate::layer::{ErrorForm, RowOutcome};
use crate::problem::{ErrorCode, Problem};

/// How long an upstream may be silent about a body that it is asked about.
const SILENCE: Duration = Duration::from_secs(1);

/// Forwards requests to an upstream: a reverse proxy, to put behind a [`QuotaLayer`](crate::QuotaLayer) where the API itself
/// isn't written in Rust.
///
/// ```
/// use tower::{Layer, Service};
/// use tower_quota::{Gateway, GatewayOptions, Quota, QuotaLayer, RouteMap};
///
/// fn in_front_of_it(quota: Quota, routes: RouteMap) -> Result<(), tower_quota::Error> {
///     let gateway = Gateway::new(GatewayOptions::upstream("http://127.0.0.1:3000"))?;
///     let service = QuotaLayer::reading_bodies(quota, routes)?.layer(gateway);
///     // Any server of Tower services takes it from here.
/// #   fn takes(_: impl Service<http::Request<hyper::body::Incoming>>) {}
/// #   takes(service);
///     Ok(())
/// }
/// ```
///
/// Requests and responses are streamed, byte for byte and with their trailers; paths and queries are forwarded as they were
/// received. The service never fails: where there is no response, it makes one.
///
/// | what happens | answer | the layer's units |
/// |---|---|---|
/// | the upstream refuses connections, or isn't there | 502 `BAD_GATEWAY` | given back: nothing was sent |
/// | no connection comes about within [`connect_timeout`](GatewayOptions::connect_timeout) | 504 `GATEWAY_TIMEOUT` | given back |
/// | no head within [`response_timeout`](GatewayOptions::response_timeout) | 504 `GATEWAY_TIMEOUT` | unknown |
/// | the upstream breaks off before it has answered, or what it says is no HTTP | 502 `BAD_GATEWAY` | unknown |
/// | it breaks off or falls silent after that | the response breaks off, too | by its status |
/// | the upstream is known to be down, by its [`health`](GatewayOptions::health) | 503 `SERVICE_UNAVAILABLE` | given back |
/// | the client is too slow with its body ([`idle_timeout`](GatewayOptions::idle_timeout), [`body_timeout`](GatewayOptions::body_timeout)), or sends none that is one | 408 `REQUEST_TIMEOUT` | unknown |
/// | the request can't be forwarded | 400 `INVALID_REQUEST`, 405 `METHOD_NOT_ALLOWED` | given back |
///
/// gRPC calls are answered in their own terms, with `UNAVAILABLE` and `DEADLINE_EXCEEDED`.
///
/// A server has its connections [guarded](ClientConnection::guard), so that nothing is forwarded that the upstream might read
/// otherwise. That puts the [`ClientConnection`] into a request's extensions, too, by which the upstream learns of it in
/// `Forwarded` and `X-Forwarded-For`. For WebSocket and other upgrades it has to serve them with upgrades, as
/// `hyper_util::server::conn::auto` does with `serve_connection_with_upgrades`. What goes over an upgraded connection is
/// seen by nobody in between.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

struct Shared {
    options: GatewayOptions,
    target: Target,
    trusted: Trusted,
    upstream: Upstream,
    health: Health,
}

impl Gateway {
    /// A gateway with these options. It connects when the first request comes.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when the upstream's URL, a network, a path or a root certificate can't be used.
    pub fn new(options: GatewayOptions) -> Result<Self, Error> {
        let target = Target::new(&options)?;
        if let Some((path, every)) = &options.health
            && (every.is_zero() || !path.starts_with('/') || target.probe(path).is_err())
        {
            return Err(Error::config(
                "the upstream's health is at a path such as /healthz, and looked at now and then",
            ));
        }
        let trusted = Trusted::new(&options.trusted)?;
        let upstream = Upstream::new(&options, &target)?;
        let health = Health::default();
        Ok(Self { shared: Arc::new(Shared { options, target, trusted, upstream, health }) })
    }

    /// Whether the upstream is taken to be well: unless its [health](GatewayOptions::health) is asked for, always. To be
    /// called inside a Tokio runtime, where the asking begins with the first call.
    pub fn is_up(&self) -> bool {
        if let Some((path, every)) = &self.shared.options.health
            && self.shared.health.begins()
        {
            tokio::spawn(health::watch(Arc::downgrade(&self.shared), Arc::clone(path), *every));
        }
        self.shared.health.is_up()
    }
}

impl<B> Service<Request<B>> for Gateway
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<GatewayBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<GatewayBody>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let is_up = self.is_up();
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let form = ErrorForm::of(&head.headers);
            let forwarded = match is_up {
                true => shared.forward(head, body).await,
                false => Err(Failed::down(shared.options.health.as_ref().map_or(Duration::ZERO, |(_, every)| *every))),
            };
            Ok(forwarded.unwrap_or_else(|failed| failed.response(form)))
        })
    }
}

impl Shared {
    async fn forward<B>(&self, mut head: request::Parts, body: B) -> Result<Response<GatewayBody>, Failed>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let received = head::receive(&head).map_err(Failed::before)?;
        if !head::may_go_on(&mut head) {
            return Ok(Response::new(GatewayBody::answer(Bytes::new())));
        }
        let mut extensions = mem::take(&mut head.extensions);
        head::forward(&mut head, &received, &self.target)
            .map_err(|error| Failed::before(Problem::new(ErrorCode::InvalidRequest, error.to_string())))?;
        let client = extensions.get::<ClientConnection>().copied();
        self.trusted.tell(&mut head.headers, client, received.host.as_ref().map(Authority::as_str));
        if !self.target.http2
            && !body.is_end_stream()
            && body.size_hint().exact().is_none()
            && !head.headers.contains_key(CONTENT_LENGTH)
        {
            // Without it, hyper takes it that a GET has no body.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let progress = Progress::new();
        let mut request = Request::from_parts(head, ());
        let wanted = (received.expects_continue && !self.target.http2).then(|| wanted(&mut request));
        let body = Upload::new(body, wanted, self.options.idle_timeout, Arc::clone(&progress)).boxed_unsync();
        let response = tokio::select! {
            response = self.upstream.send(request.map(|()| body)) => response,
            () = progress.stalled_for(self.options.response_timeout) => return Err(Failed::slow()),
            // A body that comes byte by byte is never late, and its units are held all the while.
            () = progress.client_awaited_for(self.options.body_timeout) => {
                return Err(Failed::by_client(ClientFailure::TooSlow));
            }
        };
        let (mut head, body) = match (response, progress.client_failure()) {
            (Ok(response), _) => response.into_parts(),
            (Err(_), Some(failure)) => return Err(Failed::by_client(failure)),
            (Err(failure), None) => return Err(Failed::by_upstream(&failure)),
        };
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let sides = (extensions.remove::<OnUpgrade>(), head.extensions.remove::<OnUpgrade>());
            let (Some(_), (Some(client), Some(upstream))) = (received.upgrade, sides) else {
                return Err(Failed::broken("it changes to a protocol that nobody asked for"));
            };
            tokio::spawn(tunnel::carry(client, upstream, self.options.idle_timeout));
        }
        head::answer(&mut head).map_err(Failed::broken)?;
        Ok(Response::from_parts(head, GatewayBody::upstream(body, self.options.idle_timeout, progress)))
    }
}

/// Ends when the upstream asks for the body of `request`, or has not said anything about it for a while: not all servers do.
fn wanted(request: &mut Request<()>) -> BoxFuture<'static, ()> {
    let asked = Arc::new(Notify::new());
    let asks = Arc::clone(&asked);
    on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            asks.notify_one();
        }
    });
    // Without an answer, the body goes as well.
    Box::pin(async move { drop(timeout(SILENCE, asked.notified()).await) })
}

/// A request that has no response of the upstream's.
struct Failed {
    problem: Problem,
    rows: RowOutcome,
}

impl Failed {
    /// Nothing was sent.
    fn before(problem: Problem) -> Self {
        Self { problem, rows: RowOutcome::Voided }
    }

    /// What became of the request isn't known.
    fn after(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { problem: Problem::new(code, message), rows: RowOutcome::Unknown }
    }

    fn down(every: Duration) -> Self {
        let message = "the server behind this gateway is down; try again later";
        // Retry-After has whole seconds; less than one would tell the client to try at once.
        let problem = Problem::new(ErrorCode::ServiceUnavailable, message).with_retry_after(every.as_secs().max(1));
        Self::before(problem)
    }

    fn slow() -> Self {
        Self::after(ErrorCode::GatewayTimeout, "the server behind this gateway has not answered in time")
    }

    fn broken(why: &str) -> Self {
        tracing::warn!(why, "the upstream has given no response that can be passed on");
        Self::after(ErrorCode::BadGateway, "the server behind this gateway has given no proper answer")
    }

    fn by_client(failure: ClientFailure) -> Self {
        let message = match failure {
            ClientFailure::TooSlow => "the body has not come in time: send it faster, and without pauses",
            ClientFailure::BrokenOff => "the body broke off before its end: send it whole",
        };
        Self::after(ErrorCode::RequestTimeout, message)
    }

    fn by_upstream(failure: &Failure) -> Self {
        match failure {
            Failure::Unknown(why) => Self::broken(why),
            Failure::NoConnection { in_time, why } => {
                tracing::warn!(why, "the upstream can't be reached");
                let message = "the server behind this gateway can't be reached; try again";
                let code = if *in_time { ErrorCode::BadGateway } else { ErrorCode::GatewayTimeout };
                Self::before(Problem::new(code, message))
            }
        }
    }

    fn response(self, form: ErrorForm) -> Response<GatewayBody> {
        let mut response = form.answer(&self.problem);
        response.extensions_mut().insert(self.rows);
        response.map(GatewayBody::answer)
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("upstream", &self.shared.options.upstream).finish_non_exhaustive()
    }
}
