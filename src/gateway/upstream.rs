//! Connections to the upstream, and what becomes of a request on them.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Mutex;
use tower::Service;

use super::head::Target;
use super::options::GatewayOptions;
use crate::error::Error;
use crate::peer::{causes, tls_config};

/// A request's body, whatever server it comes from.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, Error>;

/// Times are for the whole of it, TLS and all.
type Connector = TimeoutConnector<HttpsConnector<HttpConnector>>;

/// How often a connection is asked for a sign of life while requests are under way on it, and how long that may take.
const PING: Duration = Duration::from_secs(20);

/// How much of one response may wait for a client that reads slowly, in bytes.
const STREAM_WINDOW: u32 = 256 << 10;

/// How much of all responses of a connection may: more than all clients together could leave there.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Why there is no response.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// No connection came about, and so nothing was sent.
    NoConnection { in_time: bool, why: String },
    /// What became of the request isn't known.
    Unknown(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NoConnection { why, .. } | Self::Unknown(why)) = self;
        f.write_str(why)
    }
}

#[derive(Debug)]
pub(super) enum Upstream {
    Http1(Client<Connector, RequestBody>),
    Http2(Multiplexed),
}

/// The one HTTP/2 connection, by which all requests go.
#[derive(Debug)]
pub(super) struct Multiplexed {
    connector: Connector,
    target: Target,
    current: Mutex<Current>,
    /// How many attempts to connect have failed.
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct Current {
    connection: Option<SendRequest<RequestBody>>,
    /// What came of the last attempt to connect that has failed.
    failure: Option<Failure>,
}

impl Upstream {
    pub(super) fn new(options: &GatewayOptions, target: &Target) -> Result<Self, Error> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        // So that each of several addresses has its share of the time.
        http.set_connect_timeout(Some(options.connect_timeout));
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls_config(&options.roots)?).https_or_http();
        let https = match target.http2 {
            true => https.enable_http2().wrap_connector(http),
            false => https.enable_http1().wrap_connector(http),
        };
        let mut connector = TimeoutConnector::new(https);
        connector.set_connect_timeout(Some(options.connect_timeout));
        connector.set_write_timeout(Some(options.idle_timeout));
        if target.http2 {
            let (target, current, failures) = (target.clone(), Mutex::default(), AtomicU64::new(0));
            return Ok(Self::Http2(Multiplexed { connector, target, current, failures }));
        }
        // A request that meets a connection which the upstream has just closed is sent on another, as long as not one byte
        // of it was written: hyper hands it back then, and only then. Nothing is ever sent twice.
        let client = Client::builder(TokioExecutor::new())
            .retry_canceled_requests(true)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(options.keep_alive)
            .build(connector);
        Ok(Self::Http1(client))
    }

    pub(super) async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, Failure> {
        match self {
            Self::Http1(client) => client.request(request).await.map_err(|error| {
                // The client only says in which step it failed.
                let told = std::error::Error::source(&error).map_or_else(|| error.to_string(), causes);
                match error.is_connect() {
                    true => no_connection(&error, told),
                    false => Failure::Unknown(told),
                }
            }),
            Self::Http2(connection) => connection.send(request).await,
        }
    }
}

fn no_connection(error: &(dyn std::error::Error + 'static), why: String) -> Failure {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let late = causes
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut));
    Failure::NoConnection { in_time: !late, why }
}

impl Multiplexed {
    async fn send(&self, mut request: Request<RequestBody>) -> Result<Response<Incoming>, Failure> {
        loop {
            let (mut connection, is_new) = self.connection().await?;
            let mut failed = match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            // What was not sent comes back: the connection has ended before.
            let unsent = failed.take_message();
            let why = causes(&failed.into_error());
            request = match unsent {
                Some(request) if !is_new => request,
                Some(_) => return Err(Failure::NoConnection { in_time: true, why }),
                None => return Err(Failure::Unknown(why)),
            };
        }
    }

    /// The connection, and whether it was made for this.
    async fn connection(&self) -> Result<(SendRequest<RequestBody>, bool), Failure> {
        let failures = self.failures.load(Ordering::Acquire);
        // Who waits here waits for the same connection, and for what comes of it.
        let mut current = self.current.lock().await;
        if let Some(connection) = current.connection.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok((connection.clone(), false));
        }
        if let Some(failure) = current.failure.as_ref().filter(|_| self.failures.load(Ordering::Acquire) > failures) {
            return Err(failure.clone());
        }
        match self.connect().await {
            Ok(connection) => Ok((current.connection.insert(connection).clone(), true)),
            Err(failure) => {
                self.failures.fetch_add(1, Ordering::Release);
                Err(current.failure.insert(failure).clone())
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<RequestBody>, Failure> {
        let uri =
            self.target.uri("/").map_err(|error| Failure::NoConnection { in_time: true, why: error.to_string() })?;
        let io = self.connector.clone().call(uri).await.map_err(|error| {
            let told = causes(error.as_ref());
            no_connection(error.as_ref(), told)
        })?;
        if self.target.is_encrypted() && !io.connected().is_negotiated_h2() {
            let why = "it agrees on no HTTP/2: leave `http2` out".to_owned();
            return Err(Failure::NoConnection { in_time: true, why });
        }
        let mut http = Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
        // Clients that read slowly hold back their own responses, and not those of all on this connection.
        http.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (connection, ends) =
            http.handshake(io).await.map_err(|error| Failure::NoConnection { in_time: true, why: causes(&error) })?;
        tokio::spawn(async move {
            if let Err(error) = ends.await {
                tracing::debug!(%error, "the connection to the upstream has broken off");
            }
        });
        Ok(connection)
    }
}
