//! In which version the tables of a store are.

use serde::{Deserialize, Serialize};

use crate::BoxFuture;
use crate::error::Error;

/// In what a store keeps quota records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum StoreKind {
    /// An SQLite database.
    Sqlite,
    /// A Postgres database.
    Postgres,
    /// The memory of the process, or a store of the host's own.
    Other,
}

/// Versions of the quota tables. A program applies those that it knows at its start, and refuses to start on a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SchemaVersions {
    /// That which the database has.
    pub applied: u64,
    /// The newest one that this program knows.
    pub known: u64,
}

impl SchemaVersions {
    pub(crate) fn new(applied: u64, known: u64) -> Self {
        Self { applied, known }
    }
}

/// Tables with versions, in the database of the quota records.
///
/// Not for others to implement: it grows with what there is to be told.
pub trait SchemaStore: Send + Sync {
    fn kind(&self) -> StoreKind;

    /// The newest version that this program knows.
    fn known(&self) -> u64;

    /// The version that the database has; 0 before the first. Read also where it is too new to be worked with.
    fn applied(&self) -> BoxFuture<'_, Result<u64, Error>>;
}
