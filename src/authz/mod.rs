//! Decisions for proxies that ask before they forward a request. Its prose is at the types.

mod auth_request;
mod ext_authz;

pub use auth_request::AuthRequest;
pub use ext_authz::ExtAuthz;

use http::{Method, Uri};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::problem::{ErrorCode, Problem};

/// The target of a request, as its client wrote it.
fn target(written: &[u8]) -> Result<Uri, Problem> {
    // What proxies let through, though it has no place in a URI (RFC 3986, appendix A).
    const ESCAPED: &AsciiSet =
        &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');
    percent_encode(written, ESCAPED).to_string().parse().map_err(|_| {
        let shown = String::from_utf8_lossy(written);
        Problem::new(ErrorCode::InvalidRequest, format!("{shown:?} is no path with a query, such as \"/a/b?c=d\""))
    })
}

fn method(written: &[u8]) -> Result<Method, Problem> {
    Method::from_bytes(written).map_err(|_| {
        let shown = String::from_utf8_lossy(written);
        Problem::new(ErrorCode::InvalidRequest, format!("{shown:?} is no HTTP method, such as \"POST\""))
    })
}
