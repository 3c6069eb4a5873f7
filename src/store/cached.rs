//! Quota records in memory, in front of any store.

use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::sync::Cache;
use tokio::time::Instant;

use super::{Expect, QuotaRecord, QuotaStore};
use crate::error::Error;
use crate::limit::LimitSet;
use crate::workspace::WorkspaceId;

/// Keeps the records of a store in memory, for a time and up to a number of them.
///
/// A [`Quota`](crate::Quota) puts one in front of the store that it is built with. A record that was read or written is
/// never replaced by an older version of it: a slow reading that began before an update can't undo it. What is not there
/// isn't remembered.
#[derive(Debug)]
pub(crate) struct CachedStore<S> {
    store: S,
    records: Cache<WorkspaceId, Cached>,
}

#[derive(Debug, Clone)]
struct Cached {
    record: Arc<QuotaRecord>,
    /// The record was in the store then, or later.
    since: Instant,
}

impl<S: QuotaStore> CachedStore<S> {
    pub(crate) fn new(store: S, capacity: u64, time_to_live: Duration) -> Self {
        Self { store, records: Cache::builder().max_capacity(capacity).time_to_live(time_to_live).build() }
    }

    /// A record, and for how long it has been in memory.
    pub(crate) async fn load(&self, workspace: &WorkspaceId) -> Result<(Option<QuotaRecord>, Duration), Error> {
        match self.records.get(workspace) {
            Some(Cached { record, since }) => Ok((Some(Arc::unwrap_or_clone(record)), since.elapsed())),
            None => Ok((self.reload(workspace).await?, Duration::ZERO)),
        }
    }

    /// Reads a record from the store itself.
    pub(crate) async fn reload(&self, workspace: &WorkspaceId) -> Result<Option<QuotaRecord>, Error> {
        let since = Instant::now();
        let record = self.store.load(workspace).await?;
        if record.is_none() {
            self.records.invalidate(workspace);
        }
        Ok(record.map(|record| self.remember(record, since)))
    }

    /// The record, made if there is none.
    pub(crate) async fn provision(&self, workspace: &WorkspaceId) -> Result<QuotaRecord, Error> {
        let since = Instant::now();
        Ok(self.remember(self.store.provision(workspace).await?, since))
    }

    /// Changes a record; makes it if there is none.
    pub(crate) async fn update(
        &self,
        workspace: &WorkspaceId,
        changes: &LimitSet,
        expect: &Expect,
    ) -> Result<QuotaRecord, Error> {
        let since = Instant::now();
        // The store's own answer, even where another update has overtaken it: the caller's `ETag` is that of its own.
        let updated = self.store.update(workspace, changes, expect).await;
        if updated.is_err() {
            // It may have been stored all the same.
            self.records.invalidate(workspace);
        }
        let record = updated?;
        self.remember(record.clone(), since);
        Ok(record)
    }

    /// The record has changed elsewhere.
    pub(crate) fn forget(&self, workspace: &WorkspaceId) {
        self.records.invalidate(workspace);
    }

    /// Whether the store answers.
    pub(crate) async fn ping(&self) -> Result<(), Error> {
        self.store.ping().await
    }

    /// Keeps a record, unless a newer version is there; answers the newer of both.
    ///
    /// Other ways to write to the cache compare nothing, and would let the slower of two callers win.
    fn remember(&self, record: QuotaRecord, since: Instant) -> QuotaRecord {
        let record = Arc::new(record);
        let kept = self.records.entry_by_ref(&record.workspace).and_compute_with(|entry| {
            let newer = entry.is_some_and(|entry| {
                let current = &entry.value().record;
                current.id == record.id && current.version > record.version
            });
            if newer { Op::Nop } else { Op::Put(Cached { record: Arc::clone(&record), since }) }
        });
        let kept = kept.into_entry().map_or(record, |entry| entry.into_value().record);
        Arc::unwrap_or_clone(kept)
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
        assert_eq!(store.load(&acme).await.unwrap(), (None, Duration::ZERO));
        store.store.store.update(&acme, &segments(5), &Expect::Anything).await.unwrap();
        for _ in 0..3 {
            assert_eq!(store.load(&acme).await.unwrap().0.unwrap().limits, segments(5));
        }
        // Once when there was none, and once when there was one.
        assert_eq!(store.store.reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_is_read_from_memory_has_its_age() {
        let (store, acme) = cached(None);
        store.update(&acme, &segments(5), &Expect::Anything).await.unwrap();
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
        store.records.invalidate_all();
        let slow = tokio::spawn({
            let (store, acme) = (Arc::clone(&store), acme.clone());
            async move { store.load(&acme).await }
        });
        while store.store.reads.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // It has read the 5.
        store.update(&acme, &segments(2), &Expect::Anything).await.unwrap();
        store.store.answers.as_ref().unwrap().add_permits(1);
        assert_eq!(slow.await.unwrap().unwrap().0.unwrap().limits, segments(2));
        assert_eq!(store.load(&acme).await.unwrap().0.unwrap().limits, segments(2));
    }
}
