//! What limits depend on, in memory, in front of any store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::ops::compute::Op;
use moka::sync::Cache;
use tokio::time::Instant;

use super::{Expect, QuotaRecord, QuotaStore};
use crate::error::Error;
use crate::limit::LimitSet;
use crate::policy::Lineage;
use crate::workspace::WorkspaceId;

/// Keeps the lineages of a store in memory, for a time and up to a number of them.
///
/// A [`Quota`](crate::Quota) puts one in front of the store that it is built with. What was read is never replaced by an
/// older version, and not remembered where something has changed since the reading began: a slow one can't undo an update.
/// What is not there isn't remembered either.
#[derive(Debug)]
pub(crate) struct CachedStore<S> {
    store: S,
    lineages: Cache<WorkspaceId, Cached>,
    /// How often something was changed or forgotten.
    changes: AtomicU64,
}

#[derive(Debug, Clone)]
struct Cached {
    lineage: Arc<Lineage>,
    /// It was in the store then, or later.
    since: Instant,
}

impl<S: QuotaStore> CachedStore<S> {
    pub(crate) fn new(store: S, capacity: u64, time_to_live: Duration) -> Self {
        let lineages = Cache::builder().max_capacity(capacity).time_to_live(time_to_live).build();
        Self { store, lineages, changes: AtomicU64::new(0) }
    }

    /// The store itself.
    pub(crate) fn inner(&self) -> &S {
        &self.store
    }

    /// A lineage, and for how long it has been in memory.
    pub(crate) async fn load(&self, workspace: &WorkspaceId) -> Result<(Arc<Lineage>, Duration), Error> {
        match self.lineages.get(workspace) {
            Some(Cached { lineage, since }) => Ok((lineage, since.elapsed())),
            None => Ok((self.reload(workspace).await?, Duration::ZERO)),
        }
    }

    /// Reads a lineage from the store itself.
    pub(crate) async fn reload(&self, workspace: &WorkspaceId) -> Result<Arc<Lineage>, Error> {
        let (since, changes) = (Instant::now(), self.changes());
        let lineage = Arc::new(self.store.lineage(workspace).await?);
        if lineage.record().is_none() {
            self.lineages.invalidate(workspace);
            return Ok(lineage);
        }
        let kept = self.remember(workspace, lineage, since);
        if changes != self.changes() {
            self.lineages.invalidate(workspace);
        }
        Ok(kept)
    }

    /// The record, made if there is none.
    pub(crate) async fn provision(&self, workspace: &WorkspaceId) -> Result<QuotaRecord, Error> {
        self.store.provision(workspace).await
    }

    /// Changes the limits of a record; makes it if there is none.
    pub(crate) async fn update(
        &self,
        workspace: &WorkspaceId,
        changes: &LimitSet,
        expect: &Expect,
    ) -> Result<QuotaRecord, Error> {
        let updated = self.store.update(workspace, changes, expect).await;
        // It may have been stored even where the answer is an error.
        self.forget(workspace);
        updated
    }

    /// How often something was changed or forgotten.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The workspace has changed.
    pub(crate) fn forget(&self, workspace: &WorkspaceId) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.lineages.invalidate(workspace);
    }

    /// Something has changed that many depend on.
    pub(crate) fn forget_all(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.lineages.invalidate_all();
    }

    /// Whether the store answers.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        self.store.ping().await
    }

    /// Keeps a lineage, unless a newer one is there; answers the newer of both.
    ///
    /// Other ways to write to the cache compare nothing, and would let the slower of two callers win.
    fn remember(&self, workspace: &WorkspaceId, lineage: Arc<Lineage>, since: Instant) -> Arc<Lineage> {
        let kept = self.lineages.entry_by_ref(workspace).and_compute_with(|entry| {
            let newer = entry.is_some_and(|entry| {
                let current = entry.value();
                match (current.lineage.record(), lineage.record()) {
                    (Some(current_record), Some(record)) if current_record.id == record.id => {
                        (current_record.version, current.since) > (record.version, since)
                    }
                    _ => current.since > since,
                }
            });
            if newer { Op::Nop } else { Op::Put(Cached { lineage: Arc::clone(&lineage), since }) }
        });
        kept.into_entry().map_or(lineage, |entry| entry.into_value().lineage)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::BoxFuture;
    use crate::limit::Limit;
    use crate::resource::ResourceCatalog;
    use crate::store::MemoryStore;
    use crate::workspace::WorkspaceFormat;

    /// The real store, which reads at once and answers when it may.
    #[derive(Debug, Default)]
    struct Slow {
        store: MemoryStore,
        reads: AtomicUsize,
        answers: Option<Semaphore>,
    }

    impl QuotaStore for Slow {
        fn load<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
            Box::pin(async move {
                let read = self.store.load(workspace).await;
                self.reads.fetch_add(1, Ordering::SeqCst);
                if let Some(answers) = &self.answers {
                    answers.acquire().await.unwrap().forget();
                }
                read
            })
        }

        fn provision<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
            self.store.provision(workspace)
        }

        fn update<'a>(
            &'a self,
            workspace: &'a WorkspaceId,
            changes: &'a LimitSet,
            expect: &'a Expect,
        ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
            self.store.update(workspace, changes, expect)
        }

        fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
            self.store.ping()
        }
    }

    fn cached(answers: Option<Semaphore>) -> (Arc<CachedStore<Slow>>, WorkspaceId) {
        let slow = Slow { answers, ..Slow::default() };
        let store = CachedStore::new(slow, 100, Duration::from_secs(600));
        (Arc::new(store), WorkspaceFormat::Verbatim.parse("acme").unwrap())
    }

    fn segments(limit: u32) -> LimitSet {
        let segments = ResourceCatalog::default().by_name("segments").unwrap().id();
        LimitSet::new().with(segments, Limit::of(limit))
    }

    #[tokio::test]
    async fn a_record_is_read_once() {
        let (store, acme) = cached(None);
        assert_eq!(store.load(&acme).await.unwrap().0.record(), None);
        store.store.store.update(&acme, &segments(5), &Expect::Anything).await.unwrap();
        for _ in 0..3 {
            assert_eq!(store.load(&acme).await.unwrap().0.record().unwrap().limits, segments(5));
        }
        // Once when there was none, and once when there was one.
        assert_eq!(store.store.reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_is_read_from_memory_has_its_age() {
        let (store, acme) = cached(None);
        store.update(&acme, &segments(5), &Expect::Anything).await.unwrap();
        store.load(&acme).await.unwrap();
        let second = Duration::from_secs(1);
        tokio::time::advance(second).await;
        assert_eq!(store.load(&acme).await.unwrap().1, second);
        store.reload(&acme).await.unwrap();
        assert_eq!(store.load(&acme).await.unwrap().1, Duration::ZERO);
    }

    #[tokio::test]
    async fn a_slow_reading_never_undoes_an_update() {
        let (store, acme) = cached(Some(Semaphore::new(0)));
        store.update(&acme, &segments(5), &Expect::Anything).await.unwrap();
        store.lineages.invalidate_all();
        let slow = tokio::spawn({
            let (store, acme) = (Arc::clone(&store), acme.clone());
            async move { store.load(&acme).await }
        });
        while store.store.reads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // It has read the 5.
        store.update(&acme, &segments(2), &Expect::Anything).await.unwrap();
        store.store.answers.as_ref().unwrap().add_permits(2);
        assert_eq!(slow.await.unwrap().unwrap().0.record().unwrap().limits, segments(5));
        assert_eq!(store.load(&acme).await.unwrap().0.record().unwrap().limits, segments(2));
    }
}
