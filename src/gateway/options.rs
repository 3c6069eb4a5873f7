//! What can be set of a gateway.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Where a [`Gateway`](crate::Gateway) forwards to, and how.
///
/// ```
/// use std::time::Duration;
/// use tower_quota::{Gateway, GatewayOptions};
///
/// let options = GatewayOptions::upstream("http://127.0.0.1:3000")
///     .trusted_proxies(["10.0.0.0/8"])
///     .response_timeout(Duration::from_secs(30));
/// let gateway = Gateway::new(options)?;
/// # Ok::<(), tower_quota::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct GatewayOptions {
    pub(super) upstream: String,
    pub(super) http2: bool,
    pub(super) upstream_host: bool,
    pub(super) trusted: Vec<String>,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) health: Option<(Arc<str>, Duration)>,
    pub(super) roots: Vec<Vec<u8>>,
}

impl GatewayOptions {
    /// Forwards to the server at `url`, which has a scheme, a host and perhaps a port, and nothing else: paths are forwarded
    /// as they are.
    ///
    /// HTTP/1.1; the client's `Host`; no trusted proxies; nobody looks after the upstream's health; 5 seconds to connect, 60 up to
    /// the head of a response, 60 between two pieces of a body, 300 for all of a request's; idle connections are kept for 4 seconds;
    /// the system's root certificates.
    pub fn upstream(url: impl Into<String>) -> Self {
        Self {
            upstream: url.into(),
            http2: false,
            upstream_host: false,
            trusted: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(300),
            keep_alive: Duration::from_secs(4),
            health: None,
            roots: Vec::new(),
        }
    }

    /// Speaks HTTP/2 to the upstream, and nothing else: agreed on by ALPN over TLS, taken for granted in the clear. gRPC
    /// needs it. All requests share one connection, and upgrades, such as WebSocket's, are not forwarded.
    pub fn http2(mut self, yes: bool) -> Self {
        self.http2 = yes;
        self
    }

    /// Whether the upstream is told its own name in `Host` (`:authority` in HTTP/2) instead of the one that the client used.
    /// The latter is always in `Forwarded` and `X-Forwarded-Host`.
    pub fn upstream_host(mut self, yes: bool) -> Self {
        self.upstream_host = yes;
        self
    }

    /// Networks such as `10.0.0.0/8`, or single addresses, of proxies in front of this one. What they say in `Forwarded` and
    /// `X-Forwarded-*` about the client is passed on, with what is known here added; of all others it is replaced, and so is `X-Real-IP`.
    /// Other fields that networks of their own kind have for it, such as `CF-Connecting-IP`, are passed on as they are, whoever sends
    /// them: an upstream that goes by one must only be reached through the network that sets it.
    pub fn trusted_proxies<I>(mut self, networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.trusted.extend(networks.into_iter().map(Into::into));
        self
    }

    /// How long a connection to the upstream may take, over all its addresses. 504 after that.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// How long the upstream may take up to the head of its response, not counting the time in which the client's body is
    /// awaited. 504 after that.
    pub fn response_timeout(mut self, time: Duration) -> Self {
        self.response_timeout = time;
        self
    }

    /// How long the next piece of a body may take, in either direction. A request's is answered with 408 after that, a
    /// response breaks off. How long a client may take to read is up to the server around.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = time;
        self
    }

    /// How long the pieces of a request's body may take in all, counted while the upstream would take more than has come. 408 after
    /// that. It counts no more once the response has begun, so that calls in both directions may take as long as they like.
    pub fn body_timeout(mut self, time: Duration) -> Self {
        self.body_timeout = time;
        self
    }

    /// How long a connection to an HTTP/1.1 upstream is kept that nobody uses. It should be less than the upstream's own
    /// patience, or a request may meet a connection that is just being closed, and be answered with 502.
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = time;
        self
    }

    /// Asks the upstream for `path` so often, from the first request on. After two failures in a row, which are answers other
    /// than 2xx and 3xx, or none within that time, requests are answered with 503 `SERVICE_UNAVAILABLE` until it is well again.
    pub fn health(mut self, path: impl Into<String>, every: Duration) -> Self {
        self.health = Some((path.into().into(), every));
        self
    }

    /// Root certificates in PEM, one or several, that are trusted beside those of the system.
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }
}

impl fmt::Debug for GatewayOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayOptions").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}
