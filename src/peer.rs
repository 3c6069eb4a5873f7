//! What it takes to talk to other servers: whom to trust, when to come back, and what went wrong.

#[cfg(any(feature = "client", feature = "gateway"))]
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt::Write as _;
#[cfg(any(feature = "webhooks", feature = "gateway"))]
use std::net::IpAddr;
#[cfg(any(feature = "webhooks", feature = "client", feature = "gateway"))]
use std::sync::Arc;
#[cfg(any(feature = "webhooks", feature = "client"))]
use std::time::{Duration, SystemTime};

#[cfg(any(feature = "webhooks", feature = "client"))]
use http::{HeaderMap, header::RETRY_AFTER};
#[cfg(any(feature = "webhooks", feature = "gateway"))]
use ipnet::IpNet;
#[cfg(any(feature = "client", feature = "gateway"))]
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
#[cfg(any(feature = "webhooks", feature = "client", feature = "gateway"))]
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
#[cfg(any(feature = "webhooks", feature = "client", feature = "gateway"))]
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;

/// The certificates in `pems`.
///
/// # Errors
///
/// [Config](Error::is_config) where one has none, or none that can be read.
pub(crate) fn certificates(pems: &[Vec<u8>]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let mut all = Vec::new();
    for pem in pems {
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| unreadable().with_source(error))?;
        if found.is_empty() {
            return Err(unreadable());
        }
        all.extend(found);
    }
    Ok(all)
}

/// What to say of a certificate that can't be read.
pub(crate) fn unreadable() -> Error {
    Error::config(
        "a root certificate can't be read: give it in PEM, with its BEGIN CERTIFICATE and END CERTIFICATE lines",
    )
}

/// TLS with the system's root certificates and those in `pems`.
#[cfg(any(feature = "webhooks", feature = "client", feature = "gateway"))]
pub(crate) fn tls_config(pems: &[Vec<u8>]) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    // Some that can't be read are usual; with none at all, each request tells that the certificate is of no known issuer.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for certificate in certificates(pems)? {
        roots.add(certificate).map_err(|error| unreadable().with_source(error))?;
    }
    // A process-wide choice of the host's comes first.
    let provider = CryptoProvider::get_default().cloned().unwrap_or_else(|| Arc::new(ring::default_provider()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::config("the cryptography of the process has no version of TLS").with_source(error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The pause that `Retry-After` asks for, in seconds or up to a date.
#[cfg(any(feature = "webhooks", feature = "client"))]
pub(crate) fn pause(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    // What is past asks for no pause.
    Some(httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Networks such as `10.0.0.0/8`, or single addresses.
///
/// # Errors
///
/// The first text that is neither.
#[cfg(any(feature = "webhooks", feature = "gateway"))]
pub(crate) fn networks(texts: &[String]) -> Result<Vec<IpNet>, &str> {
    let parse = |text: &'_ String| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    texts.iter().map(|text| parse(text).ok_or(text.as_str())).collect()
}

/// What need not be encoded in a segment of a path (RFC 3986, 2.3).
#[cfg(any(feature = "client", feature = "gateway"))]
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a URL, which stays one part whatever is in it.
#[cfg(any(feature = "client", feature = "gateway"))]
pub(crate) fn encoded(text: &str) -> Cow<'_, str> {
    match text {
        // A server may take segments of dots for what they mean in a file's path.
        "." => "%2E".into(),
        ".." => "%2E%2E".into(),
        text => utf8_percent_encode(text, SEGMENT).into(),
    }
}

/// What `error` and those behind it say. Some libraries repeat in one what the next says.
pub(crate) fn causes(error: &(dyn StdError + 'static)) -> String {
    let mut told = error.to_string();
    for cause in std::iter::successors(error.source(), |&error| error.source()) {
        let cause = cause.to_string();
        if !told.contains(&cause) {
            // Writing to a string can't fail.
            let _ = write!(told, ": {cause}");
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::new(std::io::ErrorKind::TimedOut, "too late");
        let error = crate::Error::unavailable("no answer").with_source(cause);
        assert_eq!(causes(&error), "no answer: too late");
        let repeated = crate::Error::unavailable("no answer: too late").with_source(error);
        assert_eq!(causes(&repeated), "no answer: too late");
    }
}
