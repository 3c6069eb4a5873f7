//! What the upstream is told about the client: `Forwarded` (RFC 7239) and the `X-Forwarded-*` that came before it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use crate::error::Error;
use crate::peer;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The connection on which a request came, as a server says so in the request's extensions for a
/// [`Gateway`](crate::Gateway) to tell the upstream.
///
/// ```
/// use http::Request;
/// use tower_quota::ClientConnection;
///
/// let mut request = Request::get("/segments").body(())?;
/// request.extensions_mut().insert(ClientConnection::new(([192, 0, 2, 1], 4711)).encrypted(true));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientConnection {
    address: SocketAddr,
    encrypted: bool,
}

impl ClientConnection {
    /// A connection from `address`, in the clear.
    pub fn new(address: impl Into<SocketAddr>) -> Self {
        Self { address: address.into(), encrypted: false }
    }

    /// Whether TLS protects it.
    #[must_use]
    pub fn encrypted(mut self, yes: bool) -> Self {
        self.encrypted = yes;
        self
    }

    /// Where the client is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The networks of proxies whose word counts.
#[derive(Debug, Clone)]
pub(super) struct Trusted(Vec<IpNet>);

impl Trusted {
    /// With networks such as `10.0.0.0/8`, or single addresses.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config) where one is neither.
    pub(super) fn new(networks: &[String]) -> Result<Self, Error> {
        let trusted = peer::networks(networks).map_err(|text| {
            Error::config(format!(
                "{text:?} is no network of trusted proxies: write one such as 10.0.0.0/8 or fd00::/8"
            ))
        })?;
        Ok(Self(trusted))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        // An IPv4 address that is written as IPv6 is reached over IPv4.
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Tells who asks, and for which host. What the request says about that itself counts only from a trusted proxy.
    pub(super) fn tell(&self, headers: &mut HeaderMap, client: Option<ClientConnection>, host: Option<&str>) {
        let scheme = client.map(|client| if client.encrypted { "https" } else { "http" });
        let address = client.map(|client| client.address.ip().to_canonical());
        if !address.is_some_and(|address| self.trusts(address)) {
            let claims: Vec<_> = headers.keys().filter(|name| is_claim(name)).cloned().collect();
            for name in claims {
                headers.remove(name);
            }
            // Of a trusted proxy it would be the proxy's own.
            if let Some(address) = address {
                append(headers, X_REAL_IP, &address.to_string());
            }
        }
        let mut element = match address {
            None => "for=unknown".to_owned(),
            Some(IpAddr::V4(address)) => format!("for={address}"),
            Some(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
        };
        // Writing to a string can't fail. A host is checked to need no escapes.
        if let Some(host) = host {
            let _ = write!(element, ";host=\"{host}\"");
        }
        if let Some(scheme) = scheme {
            let _ = write!(element, ";proto={scheme}");
        }
        append(headers, FORWARDED, &element);
        append(headers, X_FORWARDED_FOR, &address.map_or_else(|| "unknown".to_owned(), |address| address.to_string()));
        // Of these two, the first proxy's word is the one about the client.
        for (name, value) in [(X_FORWARDED_HOST, host), (X_FORWARDED_PROTO, scheme)] {
            if let (Some(value), false) = (value, headers.contains_key(&name)) {
                append(headers, name, value);
            }
        }
    }
}

/// Whether a field says something about the client that only a proxy can know. Some servers take an underscore for a hyphen.
fn is_claim(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let begins_with = |claim: &[u8]| {
        let same = |(letter, expected): (&u8, &u8)| letter == expected || (*letter == b'_' && *expected == b'-');
        name.len() >= claim.len() && name.iter().zip(claim).all(same)
    };
    let is = |claim: &[u8]| name.len() == claim.len() && begins_with(claim);
    is(b"forwarded") || is(b"x-real-ip") || begins_with(b"x-forwarded-")
}

/// Adds an element to a field that is a list, in one line.
pub(super) fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut list = Vec::new();
    for line in headers.get_all(&name) {
        list.extend_from_slice(line.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    // Both parts were field values before.
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(trusted: &[&str], client: Option<&str>, given: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let trusted: Vec<_> = trusted.iter().map(|&network| network.to_owned()).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let client = client.map(|address| ClientConnection::new(SocketAddr::new(address.parse().unwrap(), 9)));
        Trusted::new(&trusted).unwrap().tell(&mut headers, client, Some("api.example.com"));
        let mut told: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
            .collect();
        told.sort();
        told
    }

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_a_client_says_of_itself_is_replaced() {
        let forged = [
            ("forwarded", "for=192.0.2.7"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x_forwarded_for", "192.0.2.7"),
            ("x-forwarded-port", "443"),
            ("x-real-ip", "192.0.2.7"),
        ];
        let honest = pairs(&[
            ("forwarded", "for=198.51.100.1;host=\"api.example.com\";proto=http"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-host", "api.example.com"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "198.51.100.1"),
        ]);
        assert_eq!(told(&[], Some("198.51.100.1"), &forged), honest);
        assert_eq!(told(&["10.0.0.0/8"], Some("198.51.100.1"), &forged), honest);
        // An address in its other form is the same address.
        assert_eq!(told(&[], Some("::ffff:198.51.100.1"), &forged), honest);
        // Nobody's word is not a proxy's.
        let unknown = told(&["0.0.0.0/0"], None, &forged);
        assert_eq!(unknown[0].1, "for=unknown;host=\"api.example.com\"");
        assert!(unknown.iter().all(|(name, _)| name != "x-real-ip"), "{unknown:?}");
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept() {
        let given = [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-for", "192.0.2.8"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "www.example.com"),
            ("forwarded", "for=192.0.2.7;proto=https"),
            ("x-real-ip", "192.0.2.7"),
        ];
        let kept = pairs(&[
            ("forwarded", "for=192.0.2.7;proto=https, for=\"[fd00::1]\";host=\"api.example.com\";proto=http"),
            ("x-forwarded-for", "192.0.2.7, 192.0.2.8, fd00::1"),
            ("x-forwarded-host", "www.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "192.0.2.7"),
        ]);
        assert_eq!(told(&["fd00::/8"], Some("fd00::1"), &given), kept);
        // What it doesn't say is not its own address.
        let silent = told(&["fd00::/8"], Some("fd00::1"), &given[..1]);
        assert!(silent.iter().all(|(name, _)| name != "x-real-ip"), "{silent:?}");
    }

    #[test]
    fn networks_are_checked() {
        let error = Trusted::new(&["10.0.0.0/33".to_owned()]).unwrap_err();
        assert!(error.is_config() && error.message().contains("10.0.0.0/33"), "{error}");
    }
}
