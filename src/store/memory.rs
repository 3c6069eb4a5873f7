//! Quota records in the memory of one process.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::{Expect, QuotaRecord, QuotaStore, now};
use crate::BoxFuture;
use crate::error::Error;
use crate::limit::LimitSet;
use crate::workspace::WorkspaceId;

/// Keeps quota records in memory: for tests, examples, and hosts whose limits come from elsewhere at every start.
///
/// Records are gone when the process ends, and no other process sees them.
///
/// ```
/// use tower_quota::{Expect, Limit, LimitSet, MemoryStore, QuotaStore, ResourceCatalog, WorkspaceFormat};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_quota::Error> {
/// let catalog = ResourceCatalog::default();
/// let segments = catalog.by_name("segments")?.id();
/// let acme = WorkspaceFormat::Verbatim.parse("acme")?;
///
/// let store = MemoryStore::new();
/// let changes = LimitSet::new().with(segments, Limit::of(75));
/// let record = store.update(&acme, &changes, &Expect::Anything).await?;
/// assert_eq!(record.limits.get(segments), Some(Limit::of(75)));
/// assert_eq!(record.version, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    records: Mutex<HashMap<WorkspaceId, QuotaRecord>>,
}

impl MemoryStore {
    /// A store without records.
    pub fn new() -> Self {
        Self::default()
    }

    fn records(&self) -> MutexGuard<'_, HashMap<WorkspaceId, QuotaRecord>> {
        // Nothing that could panic runs between the writes of one change, so that a poisoned map is a whole one.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_record(workspace: &WorkspaceId, limits: LimitSet) -> QuotaRecord {
    let now = now();
    QuotaRecord::new(Uuid::now_v7(), workspace.clone(), 1, limits, now, now)
}

impl QuotaStore for MemoryStore {
    fn load<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
        Box::pin(async move { Ok(self.records().get(workspace).cloned()) })
    }

    fn provision<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Box::pin(async move {
            let mut records = self.records();
            let record =
                records.entry(workspace.clone()).or_insert_with(|| new_record(workspace, LimitSet::new())).clone();
            Ok(record)
        })
    }

    fn update<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        changes: &'a LimitSet,
        expect: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Box::pin(async move {
            let mut records = self.records();
            let found = records.get_mut(workspace);
            if !expect.holds(found.as_ref().map(|record| record.version)) {
                return Err(expect.unmet(workspace));
            }
            let Some(record) = found else {
                let record = new_record(workspace, changes.clone());
                records.insert(workspace.clone(), record.clone());
                return Ok(record);
            };
            if !changes.is_empty() {
                for (resource, limit) in changes.iter() {
                    record.limits.set(resource, limit);
                }
                record.version += 1;
                record.updated_at = record.updated_at.max(now());
            }
            Ok(record.clone())
        })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}
