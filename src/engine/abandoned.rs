//! Units whose outcome nobody told: when they are settled.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Inner;
#[cfg(feature = "authz")]
use super::replica::Replica;
use super::reservation::Kind;
use super::tallies::Tallies;
use super::tenant::Tenant;
use crate::BoxFuture;
#[cfg(feature = "authz")]
use crate::error::Error;
use crate::metrics::Metrics;
use crate::resource::ResourceId;

type Source = Box<dyn std::error::Error + Send + Sync>;
type Barrier = Arc<dyn Fn() -> BoxFuture<'static, Result<(), Source>> + Send + Sync>;

/// When no transaction of an abandoned request can commit any more.
///
/// A request is abandoned when its client hangs up, its handler panics, times out or answers with a server error. The
/// handler's transaction may still commit afterwards: a driver sends a `COMMIT` and its caller is dropped before the
/// answer comes. Until that can't happen any more, the request's units stay taken.
#[derive(Clone)]
#[non_exhaustive]
pub enum Settling {
    /// After this time, which the database must enforce: no shorter than the sum of its time-outs for a statement, a
    /// lock and an idle transaction.
    After(Duration),
    /// When a closure has returned; see [`Settling::barrier`].
    Barrier(SettlingBarrier),
}

/// The closure of a [`Settling::Barrier`].
#[derive(Clone)]
pub struct SettlingBarrier(Barrier);

impl Settling {
    /// Settles abandoned units when `barrier` has returned `Ok`, called after they were abandoned: it proves that all
    /// that was sent to the database before has ended. For an embedded SQLite database to which one pooled connection
    /// writes, taking that connection from the pool is such a proof.
    ///
    /// ```
    /// use tower_quota::Settling;
    /// # #[derive(Clone)] struct Pool; impl Pool { async fn acquire(&self) -> Result<(), std::io::Error> { Ok(()) } }
    /// # let writer = Pool;
    /// let settling = Settling::barrier(move || {
    ///     let writer = writer.clone();
    ///     async move { writer.acquire().await.map(drop) }
    /// });
    /// # let _ = settling;
    /// ```
    pub fn barrier<F, Fut, E>(barrier: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Source>,
    {
        Self::Barrier(SettlingBarrier(Arc::new(move || {
            let passed = barrier();
            Box::pin(async move { passed.await.map_err(Into::into) })
        })))
    }
}

impl Default for Settling {
    /// Ten seconds: twice the time for which SQLite drivers wait for a lock by default.
    fn default() -> Self {
        Self::After(Duration::from_secs(10))
    }
}

impl fmt::Debug for Settling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(time) => f.debug_tuple("After").field(time).finish(),
            Self::Barrier(barrier) => barrier.fmt(f),
        }
    }
}

impl fmt::Debug for SettlingBarrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Barrier")
    }
}

#[cfg(feature = "authz")]
impl Inner {
    /// Checks that units can be settled of requests that are let through here, and served elsewhere.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when they would be settled before the request is done.
    pub(crate) fn settles_elsewhere(&self) -> Result<(), Error> {
        if self.replica.as_ref().is_some_and(Replica::fenced) {
            return Err(Error::config(
                "the ledger is `fenced`, and who serves the requests of a proxy holds no fences: leave `fenced` out, and \
                 say with `longest_handler` how long such a request takes at most",
            ));
        }
        // What it waits for may not have begun yet.
        if self.config.has_barrier {
            return Err(Error::config(
                "a barrier can't tell that a request is done which a proxy has only asked about: use `Settling::After`, \
                 with a time that no request takes longer than",
            ));
        }
        // Deletes would be taken off before they are done, and nobody counts what they left.
        if let Some(resource) = self.catalog.iter().find(|resource| self.tallies.has(resource.id())) {
            return Err(Error::config(format!(
                "{} is counted by the ledger alone, which must hear how requests end, and a proxy doesn't tell: have its rows \
                 counted by SQL or over HTTP",
                resource.name()
            )));
        }
        Ok(())
    }
}

/// Units whose request is gone.
#[derive(Debug)]
pub(crate) struct Abandoned {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) resource: ResourceId,
    pub(crate) units: u64,
    pub(crate) kind: Kind,
    pub(crate) since: Instant,
}

impl Abandoned {
    /// No commit is possible any more: the units count as rows until the next count tells.
    fn settle(self) {
        if let Some(key) = self.tenant.key(self.resource) {
            self.kind.post(key, self.units);
        }
        self.tenant.outlet.metrics.settled(self.resource.index(), self.units);
    }
}

/// Where units go that leave a tenant: those whose request is gone, and those that are tallied.
#[derive(Debug)]
pub(crate) struct Outlet {
    abandoned: mpsc::UnboundedSender<Abandoned>,
    metrics: Arc<Metrics>,
    pub(super) tallies: Arc<Tallies>,
}

impl Outlet {
    /// Also answers where they come out.
    pub(super) fn new(metrics: Arc<Metrics>, tallies: Arc<Tallies>) -> (Arc<Self>, mpsc::UnboundedReceiver<Abandoned>) {
        let (abandoned, comes) = mpsc::unbounded_channel();
        (Arc::new(Self { abandoned, metrics, tallies }), comes)
    }

    pub(super) fn abandon(&self, abandoned: Abandoned) {
        self.metrics.stranded(abandoned.resource.index(), abandoned.units);
        // The receiver is gone only when the engine is, and its ledger with it.
        let _ = self.abandoned.send(abandoned);
    }
}

/// Settles abandoned units, in the order in which they came, until the engine is gone.
pub(crate) async fn settle(mut abandoned: mpsc::UnboundedReceiver<Abandoned>, settling: Settling) {
    const BATCH: usize = 1024;
    let mut batch = Vec::new();
    while abandoned.recv_many(&mut batch, BATCH).await > 0 {
        match &settling {
            Settling::After(time) => {
                for unit in batch.drain(..) {
                    sleep_until(unit.since + *time).await;
                    unit.settle();
                }
            }
            Settling::Barrier(SettlingBarrier(barrier)) => {
                pass(barrier).await;
                batch.drain(..).for_each(Abandoned::settle);
            }
        }
    }
}

/// Abandoned units of handlers that fence end with their lease: when it has ended, none of their transactions can commit
/// any more.
pub(crate) async fn settle_with_lease(mut abandoned: mpsc::UnboundedReceiver<Abandoned>, quota: Weak<Inner>) {
    while let Some(unit) = abandoned.recv().await {
        let Some(quota) = quota.upgrade() else { return };
        if let Some(key) = unit.tenant.key(unit.resource) {
            unit.kind.lose(key, unit.units);
        }
        // The next request begins a new lease.
        quota.tenants.give_up(&unit.tenant);
    }
}

/// Waits until the barrier lets through, and outlives its failures: units that are never settled are lost.
async fn pass(barrier: &Barrier) {
    const LONGEST_TRY: Duration = Duration::from_secs(30);
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);
    let mut pause = Duration::from_millis(20);
    loop {
        let barrier = Arc::clone(barrier);
        // In a task of its own, so that a panic in it is no panic here.
        let mut attempt = tokio::spawn(async move { barrier().await });
        let failure: Source = match timeout(LONGEST_TRY, &mut attempt).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => error,
            Ok(Err(panic)) => panic.into(),
            Err(elapsed) => {
                attempt.abort();
                elapsed.into()
            }
        };
        tracing::warn!(error = %failure, "abandoned units stay taken: the barrier failed, and is tried again");
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}
