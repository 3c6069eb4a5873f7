//! Heads of requests and responses, as the next hop may see them (RFC 9110, 7.6).

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, MAX_FORWARDS, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, request, response};

use url::Url;

use super::forwarded::append;
use super::options::GatewayOptions;
use crate::error::Error;
use crate::problem::{ErrorCode, Problem};

/// The fields of one connection, whether `Connection` names them or not. `Proxy-*` is between a client and the proxy that it
/// chose; this is none.
const OF_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Where requests go on to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) http2: bool,
    /// Whether it is told its own name instead of the one that the client used.
    pub(super) upstream_host: bool,
}

impl Target {
    /// The server that the options name.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), with what to write instead.
    pub(super) fn new(options: &GatewayOptions) -> Result<Self, Error> {
        let hint = "write a scheme, a host and perhaps a port, such as http://127.0.0.1:3000";
        let url = Url::parse(&options.upstream).map_err(|error| {
            Error::config(format!("the upstream's URL is malformed ({error}): {hint}")).with_source(error)
        })?;
        let scheme = match url.scheme() {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            _ => return Err(Error::config(format!("the upstream's URL begins with http:// or https://: {hint}"))),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::config("the upstream's URL has a user or password: requests bring their own"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            let message =
                format!("the upstream's URL has a path or query, where those of requests are forwarded: {hint}");
            return Err(Error::config(message));
        }
        let authority = Authority::try_from(url.authority())
            .map_err(|error| Error::config(format!("the upstream's host is malformed: {hint}")).with_source(error))?;
        Ok(Self { scheme, authority, http2: options.http2, upstream_host: options.upstream_host })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// Where something is at the upstream.
    pub(super) fn uri(&self, path: &str) -> Result<Uri, http::Error> {
        Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(path).build()
    }

    /// A request of the gateway's own.
    pub(super) fn probe(&self, path: &str) -> Result<Request<()>, http::Error> {
        Request::get(self.uri(path)?).header(USER_AGENT, concat!("tower-quota/", env!("CARGO_PKG_VERSION"))).body(())
    }
}

/// What is to be known of a request's head before fields of the connection are taken out of it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) host: Option<Authority>,
    /// The protocol that the client would rather speak.
    pub(super) upgrade: Option<HeaderValue>,
    /// Whether the client keeps its body until it is asked for it.
    pub(super) expects_continue: bool,
    /// Whether the client wants the trailers of a response.
    trailers: bool,
}

/// Looks at a request that is to be forwarded.
///
/// # Errors
///
/// What to answer to one that may not be.
pub(super) fn receive(head: &request::Parts) -> Result<Received, Problem> {
    let invalid = |message: &str| Err(Problem::new(ErrorCode::InvalidRequest, message));
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        let message = format!("{} is not forwarded: this is a gateway, and no proxy", head.method);
        return Err(Problem::new(ErrorCode::MethodNotAllowed, message));
    }
    // HTTP/2 has both of them, and HTTP/1.1 none or both; a bare host is for CONNECT.
    let origin = (head.uri.scheme_str(), head.uri.authority());
    if !matches!(origin, (None, None) | (Some("http" | "https"), Some(_))) {
        return invalid("the target is a path, or a URL that begins with http:// or https://");
    }
    if !is_plainly_chunked(&head.headers) {
        return invalid("the only transfer coding that is understood here is `chunked`, once");
    }
    // The layer may have gone by such a field, which the upstream would not see.
    let hidden = |name: &str| {
        let is_there = HeaderName::try_from(name).is_ok_and(|name| head.headers.contains_key(name));
        is_there && !OF_CONNECTION.iter().any(|of_connection| name.eq_ignore_ascii_case(of_connection.as_str()))
    };
    if let Some(name) = elements(&head.headers, CONNECTION).find(|name| hidden(name)) {
        return invalid(&format!("`Connection` names {name:?}, which is not about the connection: leave it out"));
    }
    Ok(Received {
        host: host(head)?,
        upgrade: upgrade(head),
        // HTTP/1.0 has no such thing.
        expects_continue: head.version == Version::HTTP_11
            && elements(&head.headers, EXPECT).any(|element| element.eq_ignore_ascii_case("100-continue")),
        trailers: elements(&head.headers, TE).any(|element| element.eq_ignore_ascii_case("trailers")),
    })
}

/// The host that the client asks for: the target's own where it has one, as RFC 9112, 3.2.2 has it.
fn host(head: &request::Parts) -> Result<Option<Authority>, Problem> {
    let invalid = |message: &str| Problem::new(ErrorCode::InvalidRequest, message);
    let mut lines = head.headers.get_all(HOST).iter();
    let (line, more) = (lines.next(), lines.next().is_some());
    if more || (head.version == Version::HTTP_11 && line.is_none()) {
        return Err(invalid("an HTTP/1.1 request has one `Host`: RFC 9112, 3.2"));
    }
    let line = match line.filter(|line| !line.is_empty()) {
        None => None,
        Some(line) => Some(Authority::try_from(line.as_bytes()).map_err(|_| invalid("`Host` is malformed"))?),
    };
    let host = head.uri.authority().cloned().or(line);
    match &host {
        Some(host) if host.as_str().contains(['@', '"', '\\']) => Err(invalid("the host is malformed")),
        _ => Ok(host),
    }
}

/// What a client wants to upgrade to. Not to HTTP/2: what would be asked for there nobody would have looked at.
fn upgrade(head: &request::Parts) -> Option<HeaderValue> {
    let asked = elements(&head.headers, CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let to = head.headers.get(UPGRADE).filter(|_| asked && head.version == Version::HTTP_11)?;
    let is_http = |to: &str| ["h2", "http"].iter().any(|http| to.to_ascii_lowercase().starts_with(http));
    (!elements(&head.headers, UPGRADE).any(is_http)).then(|| to.clone())
}

/// Whether there is no transfer coding but `chunked`, which is the only one that is undone on the way.
fn is_plainly_chunked(headers: &HeaderMap) -> bool {
    let codings: Vec<_> = elements(headers, TRANSFER_ENCODING).collect();
    codings.len() <= 1 && codings.iter().all(|coding| coding.eq_ignore_ascii_case("chunked"))
}

/// The elements of a field that is a list, whatever lines it is in.
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|it| !it.is_empty())
}

/// Takes out the fields of the connection.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<_> = elements(headers, CONNECTION).filter_map(|name| HeaderName::try_from(name).ok()).collect();
    for name in named.iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
}

/// Whether a request may be forwarded once more: of those that ask about the way, `Max-Forwards` says how often.
pub(super) fn may_go_on(head: &mut request::Parts) -> bool {
    if head.method != Method::OPTIONS {
        return true;
    }
    let left = head.headers.get(MAX_FORWARDS).and_then(|left| left.to_str().ok()?.parse::<u32>().ok());
    match left {
        None => true,
        Some(0) => false,
        Some(left) => {
            head.headers.insert(MAX_FORWARDS, (left - 1).into());
            true
        }
    }
}

/// Makes of a request's head the one with which it goes on.
pub(super) fn forward(head: &mut request::Parts, received: &Received, to: &Target) -> Result<(), http::Error> {
    strip(&mut head.headers);
    if !received.expects_continue || to.http2 {
        head.headers.remove(EXPECT);
    }
    append_via(&mut head.headers, head.version);
    join_cookies(&mut head.headers);
    let host = received.host.as_ref().filter(|_| !to.upstream_host).unwrap_or(&to.authority);
    let authority = if to.http2 { host } else { &to.authority };
    let target = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(to.scheme.clone()).authority(authority.clone()).path_and_query(target);
    head.uri = uri.build()?;
    if to.http2 {
        // It is `:authority`, which another `Host` would contradict.
        head.headers.remove(HOST);
        head.version = Version::HTTP_2;
    } else {
        head.headers.insert(HOST, HeaderValue::from_str(host.as_str())?);
        head.version = Version::HTTP_11;
    }
    let upgrade = received.upgrade.as_ref().filter(|_| !to.http2);
    if received.trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        head.headers.insert(UPGRADE, upgrade.clone());
    }
    let of_connection = match (received.trailers && !to.http2, upgrade) {
        (true, Some(_)) => "te, upgrade",
        (true, None) => "te",
        (false, Some(_)) => "upgrade",
        (false, None) => return Ok(()),
    };
    head.headers.insert(CONNECTION, HeaderValue::from_static(of_connection));
    Ok(())
}

/// Makes of a response's head the one with which it goes back.
///
/// # Errors
///
/// Says what makes it unfit.
pub(super) fn answer(head: &mut response::Parts) -> Result<(), &'static str> {
    if !is_plainly_chunked(&head.headers) {
        return Err("the upstream's transfer coding is not understood");
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        // It tells the length, whatever stands beside it (RFC 9112, 6.3).
        head.headers.remove(CONTENT_LENGTH);
    }
    let upgrade = head.headers.get(UPGRADE).filter(|_| head.status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    strip(&mut head.headers);
    append_via(&mut head.headers, head.version);
    if let Some(upgrade) = upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, upgrade);
    }
    // The server in front of this has a version of its own.
    head.version = Version::HTTP_11;
    Ok(())
}

fn append_via(headers: &mut HeaderMap, received: Version) {
    let via = match received {
        Version::HTTP_2 => "2 tower-quota",
        Version::HTTP_10 => "1.0 tower-quota",
        _ => "1.1 tower-quota",
    };
    append(headers, VIA, via);
}

/// HTTP/2 may have several lines of what is one in HTTP/1.1 (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}
