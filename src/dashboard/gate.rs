//! What stands around all pages: headers that tell the browser what it may do, and a look at where a form comes from.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::Desk;
use super::pages::layout;
use super::visitor::{Base, Fault};
use crate::problem::{ErrorCode, Problem};

/// Headers of every answer. No source of anything but this site, nothing inline, and no frame around it.
///
/// The referrer stays on this site, where browsers go by the same policy when they name the `Origin` of a form: without
/// one, that would be `null`.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

pub(super) async fn gate(State(desk): State<Desk>, base: Base, request: Request, next: Next) -> Response {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = if safe || is_from_here(request.uri(), request.headers()) {
        next.run(request).await
    } else {
        let problem = Problem::new(
            ErrorCode::InsufficientPermissions,
            "this form was not sent by a page of this site: open the dashboard and try there",
        );
        Fault::from(problem).into_response()
    };
    // What went wrong is told on a page, now that it is known where the dashboard is.
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        response = layout::fault(&desk, &base, fault);
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether a browser says that a request comes from a page of this site. One that says nothing of it is too old for
/// cookies that stay on their site, or is none: for programs there is the API.
fn is_from_here(uri: &Uri, headers: &HeaderMap) -> bool {
    let one = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = one(&HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    // In HTTP/2 the host is a part of the target.
    let host = uri.authority().map(Authority::as_str).or_else(|| one(&header::HOST));
    let (Some(origin), Some(host)) = (one(&header::ORIGIN), host) else { return false };
    origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host))
}

pub(super) async fn not_found() -> Fault {
    no_page()
}

pub(super) fn no_page() -> Fault {
    Problem::new(ErrorCode::NotFound, "there is no such page").into()
}

pub(super) async fn method_not_allowed() -> Fault {
    Problem::new(ErrorCode::MethodNotAllowed, "this page is not to be used that way").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &'static str, pairs: &[(&'static str, &'static str)]) -> bool {
        is_from_here(
            &Uri::from_static(target),
            &pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect(),
        )
    }

    fn from_here(pairs: &[(&'static str, &'static str)]) -> bool {
        asked("/dashboard", pairs)
    }

    #[test]
    fn forms_of_other_sites_are_refused() {
        let host = ("host", "quota.example:8443");
        assert!(from_here(&[host, ("sec-fetch-site", "same-origin")]));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!from_here(&[host, ("sec-fetch-site", site), ("origin", "https://quota.example:8443")]), "{site}");
        }
        assert!(from_here(&[host, ("origin", "https://quota.example:8443")]));
        for origin in
            ["null", "https://quota.example", "https://evil.example", "https://quota.example:8443.evil.example", ""]
        {
            assert!(!from_here(&[host, ("origin", origin)]), "{origin}");
        }
        assert!(!from_here(&[host]) && !from_here(&[("origin", "https://quota.example")]));
        // In HTTP/2 there is no such field.
        let http2 = "https://quota.example/dashboard";
        assert!(asked(http2, &[("origin", "https://quota.example")]));
        assert!(!asked(http2, &[("origin", "https://evil.example"), ("host", "evil.example")]));
    }
}
