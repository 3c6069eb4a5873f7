//! Requests and answers, without a notion of what they are about.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, IF_MATCH, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use url::Url;
use url::form_urlencoded;

use super::QuotaClientBuilder;
use super::error::ClientError;
use crate::peer::{causes, encoded, pause, tls_config};

/// The longest answer that is read, in bytes: a report of some hundred thousand lines.
const LONGEST: usize = 64 << 20;

/// How often a call is repeated that may be.
const REPEATS: u32 = 2;

/// The first pause before a call is repeated; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause that is waited; a server that asks for more is not asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Transport {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Without a slash at its end.
    base: String,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

/// A call.
pub(super) struct Call {
    method: Method,
    /// Encoded.
    path: String,
    query: Vec<(&'static str, String)>,
    if_match: Option<String>,
    body: Option<Value>,
}

impl Call {
    /// A call of the path with these segments.
    pub(super) fn new(method: Method, segments: &[&str]) -> Self {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.push_str(&encoded(segment));
        }
        Self { method, path, query: Vec::new(), if_match: None, body: None }
    }

    pub(super) fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(super) fn if_match(mut self, etag: Option<&str>) -> Self {
        self.if_match = etag.map(str::to_owned);
        self
    }

    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Whether it may be sent again when nobody knows what became of it.
    fn only_reads(&self) -> bool {
        self.method == Method::GET
    }

    /// Whether it may be sent again when it is known not to have been carried out.
    fn repeatable(&self) -> bool {
        self.only_reads() || self.if_match.is_some()
    }
}

/// An answer with success.
pub(super) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| foreign().with_source(error))
    }

    pub(super) fn etag(&self) -> Option<String> {
        Some(self.headers.get(ETAG)?.to_str().ok()?.to_owned())
    }

    /// The server's clock.
    pub(super) fn date(&self) -> Option<Timestamp> {
        let date = httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()?;
        Timestamp::try_from(date).ok()
    }

    /// The body as it is, of an answer that is a document: only its media type tells it from the page of another server.
    pub(super) fn report(self) -> Result<Bytes, ClientError> {
        let written = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = written.split(';').next().unwrap_or_default().trim();
        let is_report = ["text/csv", "application/json"].iter().any(|known| media_type.eq_ignore_ascii_case(known));
        if is_report { Ok(self.body) } else { Err(foreign()) }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

/// What comes from something else than a quota API.
fn foreign() -> ClientError {
    ClientError::unreadable(
        "the server's answer is none of a quota API: check the URL, with the path where the API is mounted, and the \
         server's version",
    )
}

/// One attempt that has come to nothing.
enum Failed {
    /// It has never reached the server.
    Unsent(ClientError),
    /// What became of it isn't known.
    Unknown(ClientError),
    /// It would come to nothing again, or the time is up.
    Final(ClientError),
}

impl Transport {
    pub(super) fn new(builder: QuotaClientBuilder) -> Result<Self, ClientError> {
        let QuotaClientBuilder { url, token, timeout, connect_timeout, roots } = builder;
        let base = base_url(&url)?;
        let authorization = token.map(|token| bearer(&token)).transpose()?;
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_nodelay(true);
        let tls = tls_config(&roots).map_err(|error| ClientError::invalid(error.message()).with_source(error))?;
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
        let http = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(https);
        Ok(Self { http, base, authorization, timeout })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a call, again where that is safe, and fails unless the answer tells of success.
    pub(super) async fn send(&self, call: Call) -> Result<Reply, ClientError> {
        let reply = self.exchange(call).await?;
        match reply.status.is_success() {
            true => Ok(reply),
            false => Err(ClientError::answered(reply.status, &reply.body, pause(&reply.headers))),
        }
    }

    /// The same, whatever the answer tells.
    pub(super) async fn exchange(&self, call: Call) -> Result<Reply, ClientError> {
        let mut waits = FIRST_PAUSE;
        let mut repeats = REPEATS;
        loop {
            let (again, pause) = match self.attempt(&call).await {
                Ok(reply) if reply.status == StatusCode::SERVICE_UNAVAILABLE && call.repeatable() => {
                    // Without that header the server doesn't say that it has done nothing.
                    let asked = pause(&reply.headers);
                    (Ok(reply), asked.filter(|pause| *pause <= LONGEST_PAUSE))
                }
                Ok(reply) => return Ok(reply),
                Err(Failed::Unsent(error)) => (Err(error), call.repeatable().then_some(waits)),
                Err(Failed::Unknown(error)) => (Err(error), call.only_reads().then_some(waits)),
                Err(Failed::Final(error)) => return Err(error),
            };
            let Some(pause) = pause.filter(|_| repeats > 0) else { return again };
            sleep(pause).await;
            waits = waits.saturating_mul(2);
            repeats -= 1;
        }
    }

    async fn attempt(&self, call: &Call) -> Result<Reply, Failed> {
        let request = self.request(call).map_err(Failed::Final)?;
        match timeout(self.timeout, self.answer(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("{} gave no answer within {:?}", self.base, self.timeout);
                Err(Failed::Final(ClientError::unreachable(message)))
            }
        }
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Result<Reply, Failed> {
        let response = self.http.request(request).await.map_err(|error| {
            // The client only says in which step it failed.
            let told = std::error::Error::source(&error).map_or_else(|| error.to_string(), causes);
            let failed = ClientError::unreachable(format!("{} can't be reached: {told}", self.base));
            match error.is_connect() {
                true => Failed::Unsent(failed.with_source(error)),
                false => Failed::Unknown(failed.with_source(error)),
            }
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|error| {
            let message = format!("the answer of {} broke off: {error}", self.base);
            Failed::Unknown(ClientError::unreachable(message).with_source(error))
        })?;
        Ok(Reply { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut uri = format!("{}{}", self.base, call.path);
        if !call.query.is_empty() {
            uri.push('?');
            let pairs = call.query.iter().map(|(name, value)| (*name, value.as_str()));
            uri.push_str(&form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish());
        }
        let mut request = Request::builder()
            .method(&call.method)
            .uri(uri)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("tower-quota/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(etag) = &call.if_match {
            request = request.header(IF_MATCH, etag);
        }
        let body = match &call.body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let malformed = "the call can't be written as a request: an entity tag is printable ASCII, such as \"7\"";
        request.body(Full::new(body)).map_err(|error| ClientError::invalid(malformed).with_source(error))
    }
}

/// A URL such as `https://example.com/api`, without a slash at its end. One that is written without any path means `/api`.
fn base_url(written: &str) -> Result<String, ClientError> {
    let hint = "write the API's, with the path where it is mounted, such as https://example.com/api";
    let url = Url::parse(written)
        .map_err(|error| ClientError::invalid(format!("the URL is malformed ({error}): {hint}")).with_source(error))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(ClientError::invalid(format!("the URL has to begin with https:// or http://: {hint}")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ClientError::invalid("the URL has a user or password: leave them out, and give a token instead"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(ClientError::invalid(format!("the URL has a query or fragment: {hint}")));
    }
    let base = url.as_str().trim_end_matches('/');
    Ok(if url.path() == "/" && !written.ends_with('/') { format!("{base}/api") } else { base.to_owned() })
}

fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let unfit = || {
        ClientError::invalid(
            "the token is empty or has characters that no token has: give it without blanks, as it was issued",
        )
    };
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unfit());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| unfit())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_a_plain_url() {
        assert_eq!(base_url("https://example.com/api/").unwrap(), "https://example.com/api");
        assert_eq!(base_url("https://example.com/v1/quotas").unwrap(), "https://example.com/v1/quotas");
        assert_eq!(base_url("http://127.0.0.1:3000").unwrap(), "http://127.0.0.1:3000/api");
        assert_eq!(base_url("http://127.0.0.1:3000/").unwrap(), "http://127.0.0.1:3000");
        for (wrong, says) in [
            ("", "malformed"),
            ("localhost:3000/api", "begin with"),
            ("example.com/api", "malformed"),
            ("ftp://example.com", "begin with"),
            ("https://me:secret@example.com", "password"),
            ("https://example.com/api?x=1", "query"),
        ] {
            let error = base_url(wrong).unwrap_err();
            assert!(error.is_invalid() && error.message().contains(says), "{wrong}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn segments_stay_segments() {
        let call = Call::new(Method::GET, &["workspaces", "a/b?c d#é", "..", "quota"]);
        assert_eq!(call.path, "/workspaces/a%2Fb%3Fc%20d%23%C3%A9/%2E%2E/quota");
    }

    #[test]
    fn tokens_are_checked_and_not_told() {
        assert!(bearer("acme-token").unwrap().is_sensitive());
        for wrong in ["", "two words", "line\nbreak", "secret\u{e9}"] {
            let error = bearer(wrong).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn only_what_changes_nothing_twice_is_sent_again() {
        let call = |method| Call::new(method, &["plans"]);
        assert!(call(Method::GET).only_reads() && call(Method::GET).repeatable());
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            assert!(!call(method.clone()).repeatable());
            let conditional = call(method).if_match(Some("\"1\""));
            assert!(conditional.repeatable() && !conditional.only_reads());
        }
    }
}
