//! Counts that the host makes itself.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;

use super::UsageSource;
use crate::BoxFuture;
use crate::error::Error;
use crate::resource::ResourceType;
use crate::workspace::WorkspaceId;

type Cause = Box<dyn StdError + Send + Sync>;
type Answer<T> = BoxFuture<'static, Result<T, Cause>>;
type Count = dyn Fn(WorkspaceId, ResourceType, Option<u64>) -> Answer<u64> + Send + Sync;
type Existing = dyn Fn(WorkspaceId, ResourceType, String, Vec<String>) -> Answer<Vec<bool>> + Send + Sync;

/// Counts with a closure: for rows that are behind another database, ORM or service.
///
/// The closure is given the workspace, the resource type, and how far to count: from `at_most` up, any number will do,
/// so that a query may stop there. It must return an error where it can't tell, for a resource type that it doesn't
/// know too; 0 means that there are no rows.
///
/// ```
/// use std::collections::HashMap;
/// use std::io;
/// use std::sync::Arc;
///
/// use tower_quota::{ClosureUsage, ResourceCatalog, UsageSource, WorkspaceFormat};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_quota::Error> {
/// let rows = Arc::new(HashMap::from([("segments", 45), ("journeys", 3)]));
/// let usage = ClosureUsage::new(move |_workspace, resource, _at_most| {
///     let rows = Arc::clone(&rows);
///     async move {
///         let counted = rows.get(resource.name()).copied();
///         counted.ok_or_else(|| io::Error::other("no such resource type"))
///     }
/// });
///
/// let catalog = ResourceCatalog::default();
/// let acme = WorkspaceFormat::Verbatim.parse("acme")?;
/// assert_eq!(usage.count(&acme, catalog.by_name("segments")?, None).await?, 45);
/// assert!(usage.count(&acme, catalog.by_name("users")?, None).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct ClosureUsage {
    count: Box<Count>,
    existing: Option<Box<Existing>>,
}

impl ClosureUsage {
    /// Counts with `count`.
    ///
    /// An error of the closure becomes the source of an [`Error::is_unavailable`]; an [`Error`] of this crate is passed
    /// on as it is.
    pub fn new<F, Fut, E>(count: F) -> Self
    where
        F: Fn(WorkspaceId, ResourceType, Option<u64>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<u64, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        Self {
            count: Box::new(move |workspace, resource, at_most| {
                let counted = count(workspace, resource, at_most);
                Box::pin(async move { counted.await.map_err(Into::into) })
            }),
            existing: None,
        }
    }

    /// Answers existence probes with `existing`. It is given the workspace, the resource type, a column and values, and
    /// returns for each value whether a row that is counted has it in that column.
    #[must_use]
    pub fn with_existing<F, Fut, E>(mut self, existing: F) -> Self
    where
        F: Fn(WorkspaceId, ResourceType, String, Vec<String>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<bool>, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.existing = Some(Box::new(move |workspace, resource, column, values| {
            let found = existing(workspace, resource, column, values);
            Box::pin(async move { found.await.map_err(Into::into) })
        }));
        self
    }
}

impl fmt::Debug for ClosureUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosureUsage").field("existing", &self.existing.is_some()).finish_non_exhaustive()
    }
}

impl UsageSource for ClosureUsage {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let counted = (self.count)(workspace.clone(), resource.clone(), at_most).await;
            counted.map_err(|cause| failed("count", workspace, resource, cause))
        })
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            let Some(existing) = &self.existing else {
                return Err(Error::config(format!(
                    "a rule for {} looks up {column:?}, and the ClosureUsage can only count: give it a closure with \
                     with_existing, or take the existence probe out of the rule",
                    resource.name()
                )));
            };
            let found = existing(workspace.clone(), resource.clone(), column.to_owned(), values.to_vec())
                .await
                .map_err(|cause| failed("look up", workspace, resource, cause))?;
            if found.len() != values.len() {
                return Err(Error::config(format!(
                    "the closure of with_existing was asked for {} values of {column:?} and answered for {}: return \
                     one answer per value, in order",
                    values.len(),
                    found.len()
                )));
            }
            Ok(found)
        })
    }
}

fn failed(attempt: &str, workspace: &WorkspaceId, resource: &ResourceType, cause: Cause) -> Error {
    match cause.downcast::<Error>() {
        Ok(error) => *error,
        Err(cause) => {
            Error::unavailable(format!("the host couldn't {attempt} {} of workspace {workspace:?}", resource.name()))
                .with_source(cause)
        }
    }
}
