//! What becomes of an attempt to deliver.

use std::time::Duration;

/// What became of one attempt to deliver. The texts are for the delivery log, which admins read: they hold no secrets, no
/// control characters, and at most [`MAX_TEXT`](Self::MAX_TEXT) bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The other side has it.
    Delivered {
        /// What it answered: an HTTP status, or an SMTP reply.
        status: String,
    },
    /// The endpoint is gone, and not to be asked again.
    #[cfg_attr(not(feature = "webhooks"), allow(dead_code, reason = "only an HTTP endpoint says so"))]
    Gone {
        /// What it answered.
        status: String,
    },
    /// To be tried again.
    Failed {
        /// Why it failed.
        error: String,
        /// How long the other side wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It will never work as it stands.
    Rejected {
        /// Why not.
        error: String,
    },
}

impl Outcome {
    /// The longest text, in bytes.
    pub(crate) const MAX_TEXT: usize = 500;

    pub(crate) fn delivered(status: &str) -> Self {
        Self::Delivered { status: printable(status) }
    }

    pub(crate) fn failed(error: &str) -> Self {
        Self::Failed { error: printable(error), retry_after: None }
    }

    pub(crate) fn rejected(error: &str) -> Self {
        Self::Rejected { error: printable(error) }
    }
}

/// `text` on one line, without control characters, cut to [`Outcome::MAX_TEXT`].
pub(crate) fn printable(text: &str) -> String {
    let mut line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    line.truncate(line.floor_char_boundary(Outcome::MAX_TEXT));
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_one_line_and_bounded() {
        let Outcome::Failed { error, .. } = Outcome::failed(&format!("a\r\nb\0c\u{85}d{}", "é".repeat(1000))) else {
            panic!("no failure");
        };
        assert!(error.starts_with("a  b c dé"), "{error}");
        assert!(error.len() <= Outcome::MAX_TEXT && error.len() > Outcome::MAX_TEXT - 2, "{}", error.len());
    }
}
