//! What a replica has of the database: everything goes over the network.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Mutex, Notify, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::world::{Shared, Time, World, asker, lock};
use crate::BoxFuture;
use crate::authority::{
    Above, Authority, Books, BooksMark, Changed, Heard, Introduction, LeaseOf, News, Notice, Peer, Reply,
};
use crate::error::Error;
use crate::ledger::Ask;
use crate::limit::LimitSet;
use crate::mode::EnforcementMode;
use crate::resource::ResourceType;
use crate::store::{Expect, QuotaRecord, QuotaStore};
use crate::usage::{CountSql, UsageSource};
use crate::workspace::WorkspaceId;

/// The clock of a host, which may run fast or slow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) base: Time,
    pub(super) start: Instant,
    /// Seconds that it shows in a million.
    pub(super) rate: u32,
}

impl Clock {
    const MILLION: u32 = 1_000_000;

    /// What time it really is.
    pub(super) fn now(&self) -> Time {
        self.base + self.start.elapsed() * Self::MILLION / self.rate
    }

    /// What it shows at `time`.
    pub(super) fn shows(&self, time: Time) -> Instant {
        // Never a moment too early.
        self.start + time.saturating_sub(self.base) * self.rate / Self::MILLION + Duration::from_micros(1)
    }
}

#[derive(Clone)]
pub(super) struct Link {
    pub(super) world: Shared,
    pub(super) host: usize,
    pub(super) clock: Clock,
    /// Something was sent: the world goes on.
    pub(super) sent: Arc<Notify>,
    pub(super) notices: Arc<Mutex<UnboundedReceiver<Result<Notice, Error>>>>,
}

impl Link {
    /// Has `work` done at the database. Waits for ever for an answer that never comes.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl Fn(&mut World) -> T + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        lock(&self.world).call(self.host, self.clock.now(), work, |result| {
            // Nobody waits any more.
            let _ = answer.send(result);
        });
        self.sent.notify_one();
        answered.await.unwrap_or_else(|_| Err(Error::unavailable("the run is over")))
    }
}

impl Authority for Link {
    fn ask<'a>(
        &'a self,
        of: LeaseOf<'a>,
        ask: &'a Ask,
        usage: &'a dyn UsageSource,
        counted: Option<(BooksMark, u64)>,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        let (asker, ask) = (asker(&of), *ask);
        let here = usage.count_sql(of.resource).is_some();
        Box::pin(self.call(move |world| world.ask(&asker, &ask, here, counted)))
    }

    fn flush<'a>(&'a self, news: &'a [News]) -> BoxFuture<'a, Result<Vec<Heard>, Error>> {
        let news = news.to_vec();
        Box::pin(self.call(move |world| world.flush(&news)))
    }

    // Nothing is tallied here.
    fn deleted<'a>(&'a self, _: &'a WorkspaceId, _: &'a ResourceType, _: u64) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    // Nobody looks after the replicas here.
    fn books<'a>(&'a self, _: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<Books>, Error>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn join<'a>(&'a self, replica: Uuid, _: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.call(move |world| world.books.join(replica.as_u128())))
    }

    fn introduce<'a>(&'a self, _: Uuid, _: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn introductions(&self) -> BoxFuture<'_, Result<Vec<Introduction>, Error>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn leave(&self, replica: Uuid) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.call(move |world| world.books.leave(replica.as_u128())))
    }

    fn beat(&self, replica: Uuid) -> BoxFuture<'_, Result<Vec<Peer>, Error>> {
        Box::pin(self.call(move |world| world.beat(replica)))
    }

    fn bury<'a>(&'a self, replica: Uuid, beats: u64) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.call(move |world| world.bury(replica, beats)))
    }

    fn orphans(&self) -> BoxFuture<'_, Result<Vec<Uuid>, Error>> {
        Box::pin(self.call(|world| world.orphans()))
    }

    fn end<'a>(&'a self, leases: &'a [Uuid]) -> BoxFuture<'a, Result<u64, Error>> {
        let leases: Arc<[u128]> = leases.iter().map(Uuid::as_u128).collect();
        Box::pin(async move {
            let killed = Arc::clone(&leases);
            self.call(move |world| killed.iter().for_each(|lease| world.books.kill(*lease))).await?;
            self.call(move |world| leases.iter().map(|lease| world.settle(*lease)).sum()).await
        })
    }

    // Limits are changed around the engines here.
    fn above<'a>(
        &'a self,
        _: &'a Changed,
        _: &'a [(&'a ResourceType, EnforcementMode)],
    ) -> BoxFuture<'a, Result<Vec<Above>, Error>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn outlast<'a>(
        &'a self,
        _: &'a Changed,
        _: &'a [(&'a ResourceType, EnforcementMode)],
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn recall<'a>(&'a self, _: &'a [Above]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn notice(&self) -> BoxFuture<'_, Result<Notice, Error>> {
        Box::pin(async move {
            let mut notices = self.notices.lock().await;
            match notices.recv().await {
                Some(notice) => notice,
                None => std::future::pending().await,
            }
        })
    }
}

/// Counts rows by itself, or lets the authority count.
pub(super) struct Rows {
    pub(super) link: Link,
    pub(super) elsewhere: bool,
}

impl UsageSource for Rows {
    fn count<'a>(
        &'a self,
        _: &'a WorkspaceId,
        resource: &'a ResourceType,
        _: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        let resource = resource.id().index();
        Box::pin(self.link.call(move |world| world.count(resource)))
    }

    fn existing<'a>(
        &'a self,
        _: &'a WorkspaceId,
        resource: &'a ResourceType,
        _: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        let resource = resource.id().index();
        let rows: Vec<u64> = values.iter().map(|value| value.parse().unwrap()).collect();
        Box::pin(self.link.call(move |world| rows.iter().map(|row| world.exists(resource, *row)).collect()))
    }

    fn count_sql(&self, _: &ResourceType) -> Option<CountSql> {
        (!self.elsewhere).then(|| CountSql::new("", ""))
    }
}

impl QuotaStore for Link {
    fn load<'a>(&'a self, _: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
        Box::pin(async { self.call(|world| world.record()).await? })
    }

    fn provision<'a>(&'a self, _: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Box::pin(async { self.call(|world| world.provision()).await? })
    }

    fn update<'a>(
        &'a self,
        _: &'a WorkspaceId,
        changes: &'a LimitSet,
        expect: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        let (changes, expect) = (changes.clone(), expect.clone());
        Box::pin(async move { self.call(move |world| world.update_limits(&changes, &expect)).await? })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.call(|_| ()))
    }
}
