//! The workspaces that have rows, as the host's own source lists them.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::admit::guarded;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::usage::{UsagePages, UsageSource, WorkspaceUsage};

/// How long a page of one resource type may take: it may be a walk through a large table.
const LONGEST_PAGE: Duration = Duration::from_secs(300);

/// Goes through them. It doesn't hold the engine, which may end while a page is read.
pub(super) struct Listing {
    pages: UsagePages<Arc<dyn UsageSource>>,
    longest: Duration,
    metrics: Arc<Metrics>,
}

impl Listing {
    pub(super) fn new(quota: &Inner) -> Self {
        Self {
            pages: UsagePages::new(Arc::clone(&quota.usage), &quota.catalog),
            longest: LONGEST_PAGE * u32::try_from(quota.catalog.len()).unwrap_or(u32::MAX),
            metrics: Arc::clone(&quota.metrics),
        }
    }

    /// The next workspaces; none when there are no more. It is the host's code, which may panic, or never answer.
    pub(super) async fn next(&mut self) -> Result<Vec<WorkspaceUsage>, Error> {
        guarded("list workspaces with rows", &self.metrics, self.longest, || self.pages.next()).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::BoxFuture;
    use crate::resource::{ResourceCatalog, ResourceType};
    use crate::workspace::WorkspaceId;

    struct Source {
        panics: bool,
    }

    impl UsageSource for Source {
        fn count<'a>(
            &'a self,
            _: &'a WorkspaceId,
            _: &'a ResourceType,
            _: Option<u64>,
        ) -> BoxFuture<'a, Result<u64, Error>> {
            Box::pin(async { Ok(0) })
        }

        fn existing<'a>(
            &'a self,
            _: &'a WorkspaceId,
            _: &'a ResourceType,
            _: &'a str,
            _: &'a [String],
        ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn page<'a>(
            &'a self,
            _: &'a ResourceType,
            _: Option<&'a str>,
            _: usize,
        ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
            assert!(!self.panics, "the host's code is broken");
            Box::pin(pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_hangs_or_panics_is_a_failure() {
        let catalog = ResourceCatalog::default();
        for (panics, says) in [(false, "time-out: could not list workspaces"), (true, "panic: could not list")] {
            let mut listing = Listing {
                pages: UsagePages::new(Arc::new(Source { panics }), &catalog),
                longest: LONGEST_PAGE,
                metrics: Arc::new(Metrics::new(&catalog, false)),
            };
            let error = listing.next().await.unwrap_err();
            assert!(error.is_unavailable() && error.message().contains(says), "{error}");
        }
    }
}
