//! Limits, and sets of them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::Error;
use crate::resource::ResourceId;

/// How many rows of one resource type a workspace may have.
///
/// In JSON a limit is a non-negative integer of at most 2^63-1, or `null` for [`Limit::Unlimited`].
///
/// ```
/// use tower_quota::Limit;
///
/// let limit: Limit = serde_json::from_str("50")?;
/// assert_eq!(limit, Limit::finite(50)?);
/// assert_eq!(serde_json::to_string(&Limit::Unlimited)?, "null");
/// assert!(serde_json::from_str::<Limit>("-1").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// At most this many rows; 0 means that none may be created.
    Finite(FiniteLimit),
    /// No limit.
    Unlimited,
}

/// A number of rows between 0 and 2^63-1, the largest that a database's 64-bit integer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiniteLimit(u64);

impl FiniteLimit {
    /// The number of rows.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl Limit {
    /// The largest finite limit: 2^63-1.
    pub const MAX: u64 = i64::MAX as u64;

    /// A limit of `rows`.
    ///
    /// # Errors
    ///
    /// When `rows` is above [`Limit::MAX`].
    pub fn finite(rows: u64) -> Result<Self, Error> {
        if rows > Self::MAX {
            return Err(Error::invalid(format!(
                "a limit is an integer of at most {} (2^63-1), or null for unlimited; got {rows}",
                Self::MAX
            )));
        }
        Ok(Self::Finite(FiniteLimit(rows)))
    }

    /// The same for a number that always fits: for limits written in code.
    pub const fn of(rows: u32) -> Self {
        Self::Finite(FiniteLimit(rows as u64))
    }

    /// The number of rows, or `None` without a limit.
    pub const fn rows(self) -> Option<u64> {
        match self {
            Self::Finite(FiniteLimit(rows)) => Some(rows),
            Self::Unlimited => None,
        }
    }

    /// Reads a limit from a JSON value.
    ///
    /// # Errors
    ///
    /// When the value is not an integer of 0 to 2^63-1 or `null`; the message says what to write instead.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, Error> {
        use serde_json::Value;
        let hint = "write an integer of 0 to 9223372036854775807, or null for unlimited";
        match value {
            Value::Null => Ok(Self::Unlimited),
            Value::Number(number) => match number.as_u64() {
                Some(rows) if rows <= Self::MAX => Ok(Self::Finite(FiniteLimit(rows))),
                _ => Err(Error::invalid(format!("a limit can't be {number}: {hint}"))),
            },
            other => Err(Error::invalid(format!("a limit can't be {}: {hint}", kind_of(other)))),
        }
    }
}

/// What a JSON value is, for messages that must not repeat a caller's (possibly huge) input.
pub(crate) fn kind_of(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows() {
            Some(rows) => rows.fmt(f),
            None => f.write_str("unlimited"),
        }
    }
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.rows().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Self::from_json(&value).map_err(|error| de::Error::custom(error.message()))
    }
}

/// Limits by resource type; a type that is not in the set has no limit of its own.
///
/// It is both what a quota record stores and what a partial update changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitSet {
    // Sorted by id. A set has a handful of entries, so that a vector beats a map in size and speed.
    entries: Vec<(ResourceId, Limit)>,
}

impl LimitSet {
    /// The empty set.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// The same set with `resource` at `limit`.
    #[must_use]
    pub fn with(mut self, resource: ResourceId, limit: Limit) -> Self {
        self.set(resource, limit);
        self
    }

    /// Sets the limit of `resource`.
    pub fn set(&mut self, resource: ResourceId, limit: Limit) {
        match self.entries.binary_search_by_key(&resource, |entry| entry.0) {
            Ok(at) => self.entries[at].1 = limit,
            Err(at) => self.entries.insert(at, (resource, limit)),
        }
    }

    /// Takes the limit of `resource` out of the set; answers what it was.
    pub fn remove(&mut self, resource: ResourceId) -> Option<Limit> {
        let at = self.entries.binary_search_by_key(&resource, |entry| entry.0).ok()?;
        Some(self.entries.remove(at).1)
    }

    /// The limit of `resource`, if it is in the set.
    pub fn get(&self, resource: ResourceId) -> Option<Limit> {
        let at = self.entries.binary_search_by_key(&resource, |entry| entry.0).ok()?;
        Some(self.entries[at].1)
    }

    /// The entries, in the catalog's order.
    pub fn iter(&self) -> impl Iterator<Item = (ResourceId, Limit)> + '_ {
        self.entries.iter().copied()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl FromIterator<(ResourceId, Limit)> for LimitSet {
    fn from_iter<I: IntoIterator<Item = (ResourceId, Limit)>>(entries: I) -> Self {
        let mut set = Self::new();
        for (resource, limit) in entries {
            set.set(resource, limit);
        }
        set
    }
}
