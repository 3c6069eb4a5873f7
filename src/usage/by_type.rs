//! Counts that go to another source for each resource type.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{CountSql, UsageSource};
use crate::BoxFuture;
use crate::error::Error;
use crate::resource::ResourceType;
use crate::workspace::WorkspaceId;

/// Counts each resource type in its own way: one by SQL, another by a closure.
///
/// ```
/// use std::io;
///
/// use tower_quota::{ClosureUsage, ResourceCatalog, UsageByType, UsageSource, WorkspaceFormat};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_quota::Error> {
/// let of = |rows| ClosureUsage::new(move |_workspace, _resource, _at_most| async move { Ok::<_, io::Error>(rows) });
/// let usage = UsageByType::new().with("segments", of(45)).others(of(3));
///
/// let catalog = ResourceCatalog::default();
/// let acme = WorkspaceFormat::Verbatim.parse("acme")?;
/// assert_eq!(usage.count(&acme, catalog.by_name("segments")?, None).await?, 45);
/// assert_eq!(usage.count(&acme, catalog.by_name("users")?, None).await?, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct UsageByType {
    sources: BTreeMap<String, Arc<dyn UsageSource>>,
    others: Option<Arc<dyn UsageSource>>,
}

impl UsageByType {
    /// Counts nothing yet: a count is an error.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks `source` about the resource type of this name.
    #[must_use]
    pub fn with(mut self, resource: impl Into<String>, source: impl UsageSource) -> Self {
        self.sources.insert(resource.into(), Arc::new(source));
        self
    }

    /// Asks `source` about all resource types that have none of their own.
    #[must_use]
    pub fn others(mut self, source: impl UsageSource) -> Self {
        self.others = Some(Arc::new(source));
        self
    }

    fn source(&self, resource: &ResourceType) -> Result<&dyn UsageSource, Error> {
        self.sources.get(resource.name()).or(self.others.as_ref()).map(|source| &**source).ok_or_else(|| {
            Error::config(format!(
                "nothing counts {name}: give the UsageByType a source with with(\"{name}\", …), or one for all others",
                name = resource.name()
            ))
        })
    }
}

impl UsageSource for UsageByType {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move { self.source(resource)?.count(workspace, resource, at_most).await })
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async move { self.source(resource)?.existing(workspace, resource, column, values).await })
    }

    fn existing_or_uncounted<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async move { self.source(resource)?.existing_or_uncounted(workspace, resource, column, values).await })
    }

    fn page<'a>(
        &'a self,
        resource: &'a ResourceType,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        Box::pin(async move { self.source(resource)?.page(resource, after, at_most).await })
    }

    fn count_sql(&self, resource: &ResourceType) -> Option<CountSql> {
        self.source(resource).ok()?.count_sql(resource)
    }
}

impl fmt::Debug for UsageByType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<_> = self.sources.keys().collect();
        f.debug_struct("UsageByType").field("types", &types).field("others", &self.others.is_some()).finish()
    }
}
