//! Webhooks: one POST of a signed body to an endpoint that somebody has chosen.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use tokio::time::{Instant, timeout, timeout_at};
use tower::Service;
use url::{Host, Url};

use super::address::Reachable;
use super::outcome::{Outcome, printable};
use super::secret::WebhookSecret;
use crate::BoxFuture;
use crate::error::Error;
use crate::peer::{causes, pause, tls_config};

/// How webhooks are sent.
///
/// They go to addresses on the public internet only, whatever an endpoint's name resolves to: not to loopback, private,
/// link-local and other special addresses, unless their network [is allowed](Self::allow_networks). Redirects are not
/// followed, proxies of the environment not used.
///
/// ```
/// use std::time::Duration;
///
/// use tower_quota::WebhookOptions;
///
/// let options = WebhookOptions::new().timeout(Duration::from_secs(10)).allow_http(false).allow_networks(["10.1.0.0/16"]);
/// ```
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    timeout: Duration,
    connect_timeout: Duration,
    allow_http: bool,
    allowed: Vec<String>,
    roots: Vec<Vec<u8>>,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl WebhookOptions {
    /// 15 seconds for a request, of which 5 for the connection; HTTP and HTTPS; no networks but the public internet; the
    /// system's root certificates.
    pub fn new() -> Self {
        Self {
            timeout: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(5),
            allow_http: true,
            allowed: Vec::new(),
            roots: Vec::new(),
        }
    }

    /// How long an endpoint may take for the whole request, from the look-up of its name to the head of its response.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long the connection may take, over all addresses of the endpoint.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Networks such as `10.1.0.0/16` or `fd00::/8`, or single addresses, that webhooks may go to though they are not on the
    /// public internet. Whoever may set up endpoints can then reach everything in them.
    #[must_use]
    pub fn allow_networks<I>(mut self, networks: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.allowed.extend(networks.into_iter().map(Into::into));
        self
    }

    /// Whether endpoints may have `http` URLs: without TLS, everyone on the way can read what is sent.
    #[must_use]
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.allow_http = allow;
        self
    }

    /// Root certificates in PEM, one or several, that are trusted beside those of the system.
    #[must_use]
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }
}

/// Sends webhooks.
#[derive(Clone)]
pub(crate) struct WebhookClient {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>,
    resolver: Resolver,
    allow_http: bool,
    timeout: Duration,
    connect_timeout: Duration,
}

impl WebhookClient {
    /// The longest URL, in bytes.
    const MAX_URL: usize = 2048;
    /// How much of a response's body is told of a failure, in bytes; no more is read.
    const TOLD_OF_BODY: usize = 300;
    /// How many idle connections are kept, and for how long: a burst of notices to one endpoint needs one handshake.
    const IDLE_CONNECTIONS: usize = 1;
    const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
    /// The longest pause that an endpoint may ask for.
    const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

    /// A client with these options.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config) when a network or a root certificate can't be read.
    pub(crate) fn new(options: &WebhookOptions) -> Result<Self, Error> {
        Self::with_lookup(options, look_up)
    }

    fn with_lookup(options: &WebhookOptions, look_up: LookUp) -> Result<Self, Error> {
        let resolver = Resolver { reachable: Arc::new(Reachable::new(&options.allowed)?), look_up };
        let mut http = HttpConnector::new_with_resolver(resolver.clone());
        http.enforce_http(false);
        http.set_connect_timeout(Some(options.connect_timeout));
        http.set_nodelay(true);
        let tls = tls_config(&options.roots)?;
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(Self::IDLE_CONNECTIONS)
            .pool_idle_timeout(Self::IDLE_TIMEOUT)
            .build(https);
        let WebhookOptions { allow_http, timeout, connect_timeout, .. } = *options;
        Ok(Self { client, resolver, allow_http, timeout, connect_timeout })
    }

    /// Whether webhooks may go to `url`, as far as can be told without looking its name up. What it is normalised to is
    /// where they go.
    ///
    /// # Errors
    ///
    /// [Invalid](Error::is_invalid), with what to write instead.
    pub(crate) fn check_url(&self, url: &str) -> Result<Url, Error> {
        if url.len() > Self::MAX_URL {
            return Err(Error::invalid(format!(
                "a webhook URL has at most {} bytes; got {}",
                Self::MAX_URL,
                url.len()
            )));
        }
        let url = Url::parse(url).map_err(|error| {
            Error::invalid(format!(
                "the webhook URL is malformed ({error}): write one such as https://example.com/hooks"
            ))
        })?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => {
                return Err(Error::invalid("webhooks are sent over TLS only: write a URL that begins with https://"));
            }
            _ => return Err(Error::invalid("a webhook URL begins with https:// or http://")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            let message = "a webhook URL has no user and password: leave them out, and check the signature instead";
            return Err(Error::invalid(message));
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(_)) => None,
            None => {
                return Err(Error::invalid("the webhook URL has no host: write one such as https://example.com/hooks"));
            }
        };
        // An address isn't looked up, so that the resolver doesn't get to see it.
        if let Some(address) = address.filter(|&address| !self.resolver.reachable.allows(address)) {
            return Err(Error::invalid(forbidden(&address.to_string())));
        }
        // What a URL may have and an HTTP request may not.
        if url.as_str().parse::<http::Uri>().is_err() {
            return Err(Error::invalid("the webhook URL has characters that must be percent-encoded"));
        }
        Ok(url)
    }

    /// Whether webhooks may go to `url` as things stand now. A name that can't be looked up may come to exist: all is checked
    /// again with each attempt.
    ///
    /// # Errors
    ///
    /// [Invalid](Error::is_invalid), with what to write instead.
    pub(crate) async fn check(&self, url: &str) -> Result<(), Error> {
        let url = self.check_url(url)?;
        let Some(name) = url.domain().and_then(|name| name.parse().ok()) else { return Ok(()) };
        match timeout(self.connect_timeout, self.resolver.clone().call(name)).await {
            Ok(Err(error)) if error.is::<Forbidden>() => Err(Error::invalid(error.to_string())),
            _ => Ok(()),
        }
    }

    /// How long an attempt may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Posts `body` to `url` once, signed with each of `secrets` as of `timestamp`.
    pub(crate) async fn send(
        &self,
        url: &str,
        id: &str,
        timestamp: Timestamp,
        body: &str,
        secrets: &[WebhookSecret],
    ) -> Outcome {
        // Somebody may allow it, or a name lead elsewhere again: that it is so now is no reason to give a notice up.
        let url = match self.check_url(url) {
            Ok(url) => url,
            Err(error) => return Outcome::failed(error.message()),
        };
        let request = match request(&url, id, timestamp.as_second(), body, secrets) {
            Ok(request) => request,
            Err(error) => return Outcome::rejected(error.message()),
        };
        let deadline = Instant::now() + self.timeout;
        let response = match timeout_at(deadline, self.client.request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return unanswered(&error),
            Err(_) => return Outcome::failed(&format!("no answer within {:?}", self.timeout)),
        };
        answered(response, deadline).await
    }
}

fn request(
    url: &Url,
    id: &str,
    timestamp: i64,
    body: &str,
    secrets: &[WebhookSecret],
) -> Result<Request<Full<Bytes>>, Error> {
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(id, timestamp, body)).collect();
    Request::post(url.as_str())
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(USER_AGENT, HeaderValue::from_static(concat!("tower-quota/", env!("CARGO_PKG_VERSION"))))
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signatures.join(" "))
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .map_err(|error| Error::invalid("the webhook can't be written as a request").with_source(error))
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("WebhookClient");
        debug.field("reachable", &self.resolver.reachable).field("timeout", &self.timeout);
        debug.finish_non_exhaustive()
    }
}

/// What becomes of a request that was answered with `response`.
async fn answered<B>(response: Response<B>, deadline: Instant) -> Outcome
where
    B: Body<Data = Bytes>,
{
    let status = response.status();
    // What stands in the body is no matter then, nor whether it ever ends.
    if status.is_success() {
        return Outcome::delivered(status.as_str());
    }
    if status == StatusCode::GONE {
        return Outcome::Gone { status: status.as_str().into() };
    }
    if status.is_redirection() {
        let message =
            format!("{}: redirects are not followed; set the endpoint to where it redirects", status.as_str());
        return Outcome::failed(&message);
    }
    let retry_after = retry_after(status, response.headers());
    let told = head_of(response.into_body(), deadline).await;
    let error = if told.is_empty() { status.to_string() } else { format!("{status}: {told}") };
    Outcome::Failed { error: printable(&error), retry_after }
}

/// What becomes of a request that wasn't.
fn unanswered(error: &hyper_util::client::legacy::Error) -> Outcome {
    let error: &(dyn StdError + 'static) = error;
    if let Some(forbidden) =
        std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref::<Forbidden>())
    {
        return Outcome::failed(&forbidden.to_string());
    }
    // The client only says in which step it failed.
    Outcome::failed(&causes(error.source().unwrap_or(error)))
}

/// How long the endpoint asks to be left alone, in seconds or up to a date.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    Some(pause(headers)?.min(WebhookClient::MAX_RETRY_AFTER))
}

/// The beginning of a body, which may be endless or never come.
async fn head_of<B>(body: B, deadline: Instant) -> String
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut head = Vec::new();
    while head.len() < WebhookClient::TOLD_OF_BODY {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else { break };
        if let Ok(data) = frame.into_data() {
            let room = WebhookClient::TOLD_OF_BODY - head.len();
            head.extend_from_slice(data.get(..room).unwrap_or(&data));
        }
    }
    String::from_utf8_lossy(&head).trim().into()
}

fn forbidden(host: &str) -> String {
    format!(
        "webhooks don't go to {host}: it is not on the public internet; use a public address, or have the operator allow its \
         network"
    )
}

/// A name all of whose addresses are out of bounds.
#[derive(Debug)]
struct Forbidden {
    name: String,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&forbidden(&self.name))
    }
}

impl StdError for Forbidden {}

type LookUp = fn(&str) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>>;

fn look_up(name: &str) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}

/// Looks names up, and hands on only the addresses that webhooks may go to: what is checked is what is connected to.
#[derive(Debug, Clone)]
struct Resolver {
    reachable: Arc<Reachable>,
    look_up: LookUp,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { reachable, look_up } = self.clone();
        Box::pin(async move {
            let mut addresses = look_up(name.as_str()).await?;
            if addresses.is_empty() {
                return Err(format!("{name} has no addresses").into());
            }
            addresses.retain(|address| reachable.allows(address.ip()));
            if addresses.is_empty() {
                return Err(Forbidden { name: name.as_str().into() }.into());
            }
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests;
