//! Bodies that are read whole, up to a cap, and places in them.

use std::error::Error as StdError;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};

use crate::problem::{ErrorCode, Problem};

/// Reads a body of at most `cap` bytes.
///
/// # Errors
///
/// 413 when it is longer, 400 when it breaks off.
pub(crate) async fn read<B>(body: B, cap: usize) -> Result<Collected<Bytes>, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let too_large = || {
        let message = format!("the body is too large: at most {cap} bytes are read here");
        Problem::new(ErrorCode::PayloadTooLarge, message)
    };
    // What announces itself as too long need not be read first.
    if usize::try_from(body.size_hint().lower()).map_or(true, |announced| announced > cap) {
        return Err(too_large());
    }
    Limited::new(body, cap).collect().await.map_err(|error| {
        if is_over_limit(error.as_ref()) {
            return too_large();
        }
        Problem::new(ErrorCode::InvalidRequest, "the body broke off before its end; send it whole")
    })
}

/// Refuses what is no JSON pointer (RFC 6901, 3).
pub(crate) fn check_pointer(pointer: &str) -> Result<(), String> {
    let escapes = pointer.split('~').skip(1).all(|behind| behind.starts_with(['0', '1']));
    match (pointer.is_empty() || pointer.starts_with('/')) && escapes {
        true => Ok(()),
        false => Err(format!(
            "{pointer:?} is not a JSON pointer: write it as `/field/inner`, with `~1` for a slash in a name and `~0` for a tilde"
        )),
    }
}

/// Whether the cap, or a smaller one that the host put around the body, is behind `error`.
fn is_over_limit(error: &(dyn StdError + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| error.is::<LengthLimitError>())
}
