//! What a store keeps to list workspaces by: how full each was when it was last looked at.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::BoxFuture;
use crate::decision::Usage;
use crate::error::Error;
use crate::store::Reading;

/// Keeps how full workspaces are, in the database of the quota records.
///
/// Not for others to implement: it grows with what there is to be shown.
pub trait OverviewStore: Send + Sync {
    /// Takes in how full some workspaces are. Resource types that aren't told stay as they were.
    fn note<'a>(&'a self, seen: &'a [Overview]) -> BoxFuture<'a, Result<(), Error>>;

    /// Some workspaces, in an order.
    fn page<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Vec<Overview>, Error>>;

    /// These workspaces, in the order of their ids, where anything is known of them.
    fn overviews<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Overview>, Error>>;

    /// How many workspaces are that full; it counts no further than `most`.
    fn crowd(&self, fullness: Fullness, most: usize) -> BoxFuture<'_, Result<usize, Error>>;
}

/// How full a workspace was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overview {
    pub(crate) workspace: String,
    pub(crate) at: Timestamp,
    /// By resource type.
    pub(crate) usage: BTreeMap<String, Usage>,
}

impl Overview {
    /// How full the resource type is that is nearest to its limit, in percent.
    pub(crate) fn percent(&self) -> u64 {
        self.usage.values().copied().map(fullness).max().unwrap_or(0)
    }
}

/// How full a resource type is, in percent. Where nothing may be and nothing is, nobody has to do anything.
pub(crate) fn fullness(usage: Usage) -> u64 {
    if usage.current == 0 { 0 } else { usage.percent() }
}

/// Which workspaces, by how full they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fullness {
    /// All.
    #[default]
    Any,
    /// From 90 % on, and below 100.
    Near,
    /// From 100 % on.
    Full,
}

impl Fullness {
    /// The percentages: from, and up to.
    pub(crate) fn bounds(self) -> (u64, Option<u64>) {
        match self {
            Self::Any => (0, None),
            Self::Near => (90, Some(100)),
            Self::Full => (100, None),
        }
    }
}

/// Which workspaces are wanted, and in which order.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code, reason = "for stores"))]
pub struct Wanted {
    pub(crate) fullness: Fullness,
    /// In the order of their ids; else the fullest first.
    pub(crate) by_name: bool,
    /// What their ids have in them, whatever the case of its ASCII letters.
    pub(crate) text: Option<String>,
    /// Behind this one: how full it is, and its id.
    pub(crate) after: Option<(u64, String)>,
    pub(crate) limit: usize,
}

/// How full workspaces are by what was read of them.
#[cfg_attr(not(any(feature = "postgres", feature = "sqlite")), allow(dead_code, reason = "for stores"))]
pub(super) fn read(readings: &[Reading<'_>]) -> Vec<Overview> {
    let mut read: BTreeMap<&str, Overview> = BTreeMap::new();
    for Reading { workspace, resource, snapshot } in readings {
        let seen = read.entry(workspace).or_insert_with(|| Overview {
            workspace: (*workspace).to_owned(),
            at: snapshot.at,
            usage: BTreeMap::new(),
        });
        seen.at = seen.at.max(snapshot.at);
        seen.usage.insert((*resource).to_owned(), Usage { current: snapshot.last, limit: snapshot.limit });
    }
    read.into_values().collect()
}
