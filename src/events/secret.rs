//! What webhooks are signed with.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::digest::KeyInit as _;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::error::Error;

/// The secret that an endpoint's webhooks are signed with, as [Standard Webhooks](https://www.standardwebhooks.com) has it:
/// `whsec_` and the base64 of 24 to 64 bytes.
///
/// `Debug` doesn't show it.
///
/// ```
/// use tower_quota::WebhookSecret;
///
/// let secret = WebhookSecret::generate()?;
/// let read = WebhookSecret::parse(&secret.expose())?;
/// assert_eq!(read.sign("msg_1", 1_700_000_000, "{}"), secret.sign("msg_1", 1_700_000_000, "{}"));
/// assert!(WebhookSecret::parse("hunter2").is_err());
/// # Ok::<(), tower_quota::Error>(())
/// ```
#[derive(Clone)]
pub struct WebhookSecret {
    // A key of HMAC-SHA-256 that is shorter than a block counts as one with zeros behind it.
    block: [u8; Self::MAX_BYTES],
    len: usize,
}

impl WebhookSecret {
    const PREFIX: &str = "whsec_";
    const MIN_BYTES: usize = 24;
    const MAX_BYTES: usize = 64;
    const GENERATED_BYTES: usize = 32;

    /// A new one: 32 bytes of the operating system's randomness.
    ///
    /// # Errors
    ///
    /// [Unavailable](Error::is_unavailable) when the operating system has no randomness to give.
    pub fn generate() -> Result<Self, Error> {
        let mut block = [0; Self::MAX_BYTES];
        getrandom::fill(&mut block[..Self::GENERATED_BYTES])
            .map_err(|error| Error::unavailable("no randomness for a webhook secret").with_source(error))?;
        Ok(Self { block, len: Self::GENERATED_BYTES })
    }

    /// One that is written as `whsec_` and base64.
    ///
    /// # Errors
    ///
    /// [Invalid](Error::is_invalid) when the prefix is missing, when the rest isn't base64 (the standard alphabet, with
    /// padding), and when there are fewer than 24 or more than 64 bytes. The message doesn't repeat what was written.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let encoded = text.strip_prefix(Self::PREFIX).ok_or_else(|| {
            Error::invalid("a webhook secret begins with whsec_: write whsec_ and then 24 to 64 random bytes in base64")
        })?;
        let key = STANDARD.decode(encoded).map_err(|_| {
            Error::invalid(
                "what follows whsec_ is not base64: write 24 to 64 random bytes in standard base64, padded with =",
            )
        })?;
        let wrong_length = |what| {
            let (min, max) = (Self::MIN_BYTES, Self::MAX_BYTES);
            let message =
                format!("the webhook secret is too {what}: write {min} to {max} bytes in base64, not {}", key.len());
            Error::invalid(message)
        };
        if key.len() < Self::MIN_BYTES {
            return Err(wrong_length("short"));
        }
        let mut block = [0; Self::MAX_BYTES];
        block.get_mut(..key.len()).ok_or_else(|| wrong_length("long"))?.copy_from_slice(&key);
        Ok(Self { block, len: key.len() })
    }

    /// The secret as text, to be shown once to whoever checks signatures.
    pub fn expose(&self) -> String {
        format!("{}{}", Self::PREFIX, STANDARD.encode(&self.block[..self.len]))
    }

    /// The signature of a message with this id and `body`, sent at `timestamp` (seconds since 1970): `v1,` and base64.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new(&self.block.into());
        for part in [id, ".", &timestamp.to_string(), ".", body] {
            mac.update(part.as_bytes());
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use jiff::Timestamp;
    use standardwebhooks::Webhook;

    use super::*;

    fn of(bytes: usize) -> String {
        format!("whsec_{}", STANDARD.encode(vec![7; bytes]))
    }

    fn headers(id: &str, timestamp: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", timestamp.into());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    #[test]
    fn lengths_are_judged() {
        for bytes in [24, 32, 63, 64] {
            assert_eq!(WebhookSecret::parse(&of(bytes)).unwrap().expose(), of(bytes));
        }
        for (text, told) in [
            (of(23), "too short: write 24 to 64 bytes in base64, not 23"),
            (of(0), "too short"),
            (of(65), "too long: write 24 to 64 bytes in base64, not 65"),
            ("whsec_no base64!".into(), "not base64"),
            (of(32).replace('=', ""), "not base64"),
            (of(32).replace("whsec_", ""), "begins with whsec_"),
            (String::new(), "begins with whsec_"),
        ] {
            let error = WebhookSecret::parse(&text).unwrap_err();
            assert!(error.is_invalid() && error.message().contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_is_random_and_not_shown() {
        let secret = WebhookSecret::generate().unwrap();
        assert_ne!(secret.expose(), WebhookSecret::generate().unwrap().expose());
        assert_eq!(STANDARD.decode(&secret.expose()["whsec_".len()..]).unwrap().len(), 32);
        assert_eq!(format!("{secret:?}"), "WebhookSecret(..)");
    }

    #[test]
    fn signatures_are_those_of_the_reference() {
        for secret in [of(24), of(64), WebhookSecret::generate().unwrap().expose()] {
            let ours = WebhookSecret::parse(&secret).unwrap();
            let reference = Webhook::new(&secret).unwrap();
            for body in ["", "{}", r#"{"workspace_id": "Zürich"}"#] {
                assert_eq!(
                    ours.sign("msg_1", 1_700_000_000, body),
                    reference.sign("msg_1", 1_700_000_000, body.as_bytes()).unwrap()
                );
            }
        }
    }

    #[test]
    fn the_reference_takes_either_of_two_signatures() {
        let (old, new, other) = (WebhookSecret::generate(), WebhookSecret::generate(), WebhookSecret::generate());
        let (old, new, other) = (old.unwrap(), new.unwrap(), other.unwrap());
        let now = Timestamp::now().as_second();
        let both = format!("{} {}", old.sign("msg_1", now, "{}"), new.sign("msg_1", now, "{}"));
        let sent = headers("msg_1", now, &both);
        for secret in [&old, &new] {
            let reference = Webhook::new(&secret.expose()).unwrap();
            reference.verify(b"{}", &sent).unwrap();
            assert!(reference.verify(b"{ }", &sent).is_err());
            assert!(reference.verify(b"{}", &headers("msg_2", now, &both)).is_err());
            assert!(reference.verify(b"{}", &headers("msg_1", now + 1, &both)).is_err());
        }
        assert!(Webhook::new(&other.expose()).unwrap().verify(b"{}", &sent).is_err());
    }
}
