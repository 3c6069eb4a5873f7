//! The usage of all workspaces, without holding all of them at once.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::UsageSource;
use crate::error::Error;
use crate::resource::{ResourceCatalog, ResourceType};

/// Large enough that a database which goes through a whole table for each page does so a handful of times.
const PAGE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4_999);

/// What a workspace has of each resource type.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkspaceUsage {
    /// The workspace, as the rows spell it: [`WorkspaceFormat::parse`](crate::WorkspaceFormat::parse) makes an id of it.
    pub workspace: String,
    /// The number of rows of each type, in the catalog's order.
    pub rows: Vec<u64>,
}

/// Goes through all workspaces that have rows, in the order of the bytes of their ids, a batch at a time.
///
/// It keeps one page for each resource type, however many workspaces there are. Rows may be written in the meantime: a
/// workspace comes at most once, with each count as it was when the page was read. One that comes to have rows behind the
/// place that was reached isn't told of.
///
/// ```
/// # use sqlx::SqlitePool;
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_quota::{Limit, ResourceCatalog, ResourceSpec, SqliteUsage, UsagePages};
///
/// # let directory = tempfile::tempdir()?;
/// # let options = sqlx::sqlite::SqliteConnectOptions::new().filename(directory.path().join("app.db"));
/// # let pool = SqlitePool::connect_with(options.create_if_missing(true)).await?;
/// # sqlx::raw_sql("CREATE TABLE Webhook (workspaceId TEXT); INSERT INTO Webhook VALUES ('acme'), ('globex'), ('acme')")
/// #     .execute(&pool).await?;
/// let catalog = ResourceCatalog::empty()
///     .resource(ResourceSpec::new("webhooks", "maxWebhooks", Limit::of(20)).table("Webhook"))
///     .build()?;
/// let usage = SqliteUsage::builder(pool, &catalog).build()?;
/// let mut pages = UsagePages::new(usage, &catalog);
/// let mut rows = 0;
/// loop {
///     let batch = pages.next().await?;
///     if batch.is_empty() {
///         break;
///     }
///     rows += batch.iter().map(|usage| usage.rows[0]).sum::<u64>();
/// }
/// assert_eq!(rows, 3);
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
pub struct UsagePages<S> {
    source: S,
    listings: Vec<Listing>,
    page: NonZeroUsize,
    /// What the next batch has so far: a call that fails, or that is given up, loses nothing.
    batch: Vec<WorkspaceUsage>,
}

/// The workspaces that have rows of one resource type.
struct Listing {
    resource: Arc<ResourceType>,
    read: VecDeque<(String, u64)>,
    /// The last that was read.
    after: Option<String>,
    ended: bool,
}

impl<S: UsageSource> UsagePages<S> {
    /// Goes through the workspaces that have rows of any of the catalog's types.
    pub fn new(source: S, catalog: &ResourceCatalog) -> Self {
        let listing = |resource: &Arc<ResourceType>| Listing {
            resource: Arc::clone(resource),
            read: VecDeque::new(),
            after: None,
            ended: false,
        };
        Self { source, listings: catalog.iter().map(listing).collect(), page: PAGE, batch: Vec::new() }
    }

    /// How many workspaces a batch has, and how many are read at once for each type; 5000 where nothing is said.
    #[must_use]
    pub fn page(mut self, workspaces: NonZeroUsize) -> Self {
        self.page = workspaces;
        self
    }

    /// Begins behind `workspace`, which was the last one of an earlier run.
    #[must_use]
    pub fn after(mut self, workspace: impl Into<String>) -> Self {
        let workspace = workspace.into();
        for listing in &mut self.listings {
            listing.after = Some(workspace.clone());
        }
        self
    }

    /// The next workspaces; none when there are no more.
    ///
    /// # Errors
    ///
    /// Those of [`UsageSource::page`]. The next call goes on where this one failed.
    pub async fn next(&mut self) -> Result<Vec<WorkspaceUsage>, Error> {
        while self.batch.len() < self.page.get() {
            for listing in &mut self.listings {
                listing.fill(&self.source, self.page).await?;
            }
            let Some(usage) = self.least() else { break };
            self.batch.push(usage);
        }
        Ok(mem::take(&mut self.batch))
    }

    /// Takes the first workspace of all. Each listing that has more has read on.
    fn least(&mut self) -> Option<WorkspaceUsage> {
        let first = self.listings.iter().filter_map(|listing| listing.read.front());
        let workspace = first.map(|(workspace, _)| workspace).min()?.clone();
        let rows = self
            .listings
            .iter_mut()
            .map(|listing| listing.read.pop_front_if(|(listed, _)| *listed == workspace).map_or(0, |(_, rows)| rows));
        Some(WorkspaceUsage { rows: rows.collect(), workspace })
    }
}

impl Listing {
    async fn fill(&mut self, source: &impl UsageSource, page: NonZeroUsize) -> Result<(), Error> {
        if self.ended || !self.read.is_empty() {
            return Ok(());
        }
        let read = source.page(&self.resource, self.after.as_deref(), page.get()).await?;
        let ids = self.after.iter().chain(read.iter().map(|(workspace, _)| workspace));
        if !ids.is_sorted_by(|one, next| one < next) {
            return Err(Error::config(format!(
                "the usage source lists the workspaces of {} out of order: it must list each once, in the order of its \
                 bytes, and only those behind the one that it is given",
                self.resource.name()
            )));
        }
        self.ended = read.len() < page.get();
        if let Some((last, _)) = read.last() {
            self.after = Some(last.clone());
        }
        self.read = read.into();
        Ok(())
    }
}

impl<S> fmt::Debug for UsagePages<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&str> = self.listings.iter().map(|listing| listing.resource.name()).collect();
        f.debug_struct("UsagePages").field("types", &types).field("page", &self.page).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Bound;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;
    use crate::workspace::WorkspaceId;
    use crate::{BoxFuture, Limit, ResourceSpec};

    /// Lists what the function says, of the position of a type, the workspace before, and the most that are asked for.
    struct Lists<F>(F);

    impl<F> UsageSource for Lists<F>
    where
        F: Fn(usize, Option<&str>, usize) -> Result<Vec<(String, u64)>, Error> + Send + Sync + 'static,
    {
        fn count<'a>(
            &'a self,
            _: &'a WorkspaceId,
            _: &'a ResourceType,
            _: Option<u64>,
        ) -> BoxFuture<'a, Result<u64, Error>> {
            unreachable!("nobody counts")
        }

        fn existing<'a>(
            &'a self,
            _: &'a WorkspaceId,
            _: &'a ResourceType,
            _: &'a str,
            _: &'a [String],
        ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
            unreachable!("nobody asks")
        }

        fn page<'a>(
            &'a self,
            resource: &'a ResourceType,
            after: Option<&'a str>,
            at_most: usize,
        ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
            Box::pin(async move { (self.0)(resource.id().index(), after, at_most) })
        }
    }

    fn catalog(types: usize) -> ResourceCatalog {
        let spec = |number: usize| ResourceSpec::new(format!("t{number}"), format!("maxT{number}"), Limit::of(1));
        (0..types).map(spec).fold(ResourceCatalog::empty(), |builder, spec| builder.resource(spec)).build().unwrap()
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => unreachable!("there is nothing to wait for"),
        }
    }

    /// All batches, with errors tried again.
    fn batches(mut pages: UsagePages<impl UsageSource>) -> Vec<Vec<WorkspaceUsage>> {
        let mut batches = Vec::new();
        loop {
            match now(pages.next()) {
                Ok(batch) if batch.is_empty() => return batches,
                Ok(batch) => batches.push(batch),
                Err(error) => assert!(error.is_unavailable(), "{error}"),
            }
        }
    }

    proptest! {
        #[test]
        fn every_workspace_comes_once_with_all_its_counts(
            tables in prop::collection::vec(prop::collection::btree_map("[abAé]{1,3}", 1..100_u64, 0..30), 1..5),
            page in 1..12_usize,
            after in prop::option::of("[abAé]{1,2}"),
            fails in prop::bool::ANY,
        ) {
            let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for (at, table) in tables.iter().enumerate() {
                for (workspace, rows) in table.iter().filter(|(workspace, _)| Some(*workspace) > after.as_ref()) {
                    expected.entry(workspace.clone()).or_insert_with(|| vec![0; tables.len()])[at] = *rows;
                }
            }
            let catalog = catalog(tables.len());
            let calls = AtomicUsize::new(0);
            let source = move |at: usize, after: Option<&str>, at_most| {
                if fails && calls.fetch_add(1, Ordering::Relaxed) % 3 != 2 {
                    return Err(Error::unavailable("not now"));
                }
                let behind = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
                let listed = tables[at].range::<str, _>(behind).take(at_most);
                Ok(listed.map(|(workspace, rows)| (workspace.clone(), *rows)).collect())
            };
            let mut pages = UsagePages::new(Lists(source), &catalog).page(NonZeroUsize::new(page).unwrap());
            if let Some(after) = after {
                pages = pages.after(after);
            }
            let batches = batches(pages);
            if let Some((last, others)) = batches.split_last() {
                prop_assert!(others.iter().all(|batch| batch.len() == page) && last.len() <= page);
            }
            let told: Vec<_> = batches.into_iter().flatten().map(|usage| (usage.workspace, usage.rows)).collect();
            prop_assert_eq!(told, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_source_without_the_order_is_told() {
        for (listed, after) in [(["b", "a"], "A"), (["a", "a"], "A"), (["a", "b"], "a"), (["a", "b"], "aa")] {
            let source = Lists(move |_, _: Option<&str>, _| Ok(listed.map(|id| (id.to_owned(), 1)).to_vec()));
            let error = now(UsagePages::new(source, &catalog(1)).after(after).next()).unwrap_err();
            assert!(error.is_config() && error.message().contains("workspaces of t0 out of order"), "{error}");
        }
    }

    #[test]
    fn a_source_that_only_counts_is_told() {
        let closure = crate::ClosureUsage::new(|_, _, _| async { Ok::<u64, Error>(1) });
        let error = now(UsagePages::new(Arc::new(closure), &catalog(2)).next()).unwrap_err();
        assert!(error.is_config() && error.message().contains("workspaces that have t0 can't be listed"), "{error}");
    }
}
