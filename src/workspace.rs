//! Workspaces: the tenants that limits belong to.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The identity of a workspace, in its one canonical form.
///
/// Two spellings of one workspace would be two quotas, so that every id that comes in from outside goes through
/// [`WorkspaceFormat::parse`]. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceId(Arc<str>);

impl WorkspaceId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 255;

    /// What comes before the id of a workspace in that of the books of all below it: no id has a control character.
    const SUBTREE: char = '\u{1f}';

    /// An id that is in its canonical form already.
    #[cfg_attr(
        not(any(feature = "postgres", feature = "sqlite", feature = "insight")),
        allow(dead_code, reason = "for stores")
    )]
    pub(crate) fn canonical(id: &str) -> Self {
        Self(id.into())
    }

    /// By what the books are known of this workspace and all below it together.
    pub(crate) fn subtree(&self) -> Self {
        Self(format!("{}{}", Self::SUBTREE, self.0).into())
    }

    /// The workspace, where this stands for it and all below it.
    pub(crate) fn top(&self) -> Option<Self> {
        self.0.strip_prefix(Self::SUBTREE).map(|id| Self(id.into()))
    }

    /// The id as text.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for WorkspaceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Which spellings name the same workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkspaceFormat {
    /// Ids are compared byte for byte.
    #[default]
    Verbatim,
    /// Ids are compared without regard to ASCII case, and are kept in lower case.
    Lowercase,
    /// Ids are UUIDs in their hyphenated form, in either case; anything else is refused.
    Uuid,
}

impl WorkspaceFormat {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verbatim => "verbatim",
            Self::Lowercase => "lowercase",
            Self::Uuid => "uuid",
        }
    }

    /// The canonical form of `raw`.
    ///
    /// # Errors
    ///
    /// When `raw` is empty, longer than [`WorkspaceId::MAX_LEN`], has a control character, or doesn't fit the format.
    ///
    /// ```
    /// use tower_quota::WorkspaceFormat;
    ///
    /// let id = WorkspaceFormat::Uuid.parse("0190163D-8694-739B-AEA5-966C26F8AD91")?;
    /// assert_eq!(id.as_str(), "0190163d-8694-739b-aea5-966c26f8ad91");
    /// assert!(WorkspaceFormat::Uuid.parse("acme").is_err());
    /// # Ok::<(), tower_quota::Error>(())
    /// ```
    pub fn parse(self, raw: &str) -> Result<WorkspaceId, Error> {
        if raw.is_empty() {
            return Err(Error::invalid("the workspace id is empty"));
        }
        if raw.len() > WorkspaceId::MAX_LEN {
            return Err(Error::invalid(format!(
                "a workspace id has at most {} bytes; got {}",
                WorkspaceId::MAX_LEN,
                raw.len()
            )));
        }
        if raw.chars().any(char::is_control) {
            return Err(Error::invalid("a workspace id has no control characters"));
        }
        match self {
            Self::Verbatim => Ok(WorkspaceId(raw.into())),
            Self::Lowercase => Ok(WorkspaceId(raw.to_ascii_lowercase().into())),
            // `Uuid` parses other notations too; one length leaves only the hyphenated one.
            Self::Uuid => match uuid::Uuid::try_parse(raw) {
                Ok(id) if raw.len() == uuid::fmt::Hyphenated::LENGTH => Ok(WorkspaceId(id.to_string().into())),
                _ => Err(Error::invalid("a workspace id is a UUID such as 0190163d-8694-739b-aea5-966c26f8ad91")),
            },
        }
    }

    /// Whether `raw`, as it stands, can be looked up among canonical ids: spares the hot path a copy.
    #[inline]
    pub(crate) fn is_canonical(self, raw: &str) -> bool {
        match self {
            Self::Verbatim => true,
            Self::Lowercase | Self::Uuid => !raw.bytes().any(|byte| byte.is_ascii_uppercase()),
        }
    }
}
