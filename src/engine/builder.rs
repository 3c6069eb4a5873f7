//! How an engine is set up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::abandoned::{Outlet, Settling, settle, settle_with_lease};
use super::cleanup::Cleaner;
use super::outlets::{OutletOptions, Outlets};
use super::replica::{self, Replica};
use super::tallies::{self, Tallied, Tallies};
use super::watch::watch;
use super::{Inner, ModeCell, Quota, Tenants, maintain};
use crate::authority::{Authority, Times};
use crate::clock::CoarseClock;
use crate::error::Error;
use crate::events::Thresholds;
use crate::metrics::Metrics;
use crate::mode::{EnforcementMode, ModeSource};
use crate::policy::Grace;
use crate::resource::ResourceCatalog;
use crate::store::{CachedStore, QuotaStore};
use crate::usage::{Cleanup, CleanupPolicy, UsageSource};
use crate::workspace::WorkspaceFormat;

/// What happens to a workspace that has no quota record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Provisioning {
    /// The catalog's defaults are in force, and the record is made when it is first read or changed.
    #[default]
    Automatic,
    /// Nothing is decided: [`Error::is_not_found`], `QUOTA_NOT_FOUND` over HTTP. A `PUT` makes the record.
    Explicit,
}

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) provisioning: Provisioning,
    pub(crate) workspace_format: WorkspaceFormat,
    pub(crate) refresh_after: Duration,
    pub(crate) max_wait: Duration,
    pub(crate) io_timeout: Duration,
    pub(crate) grace: Option<Grace>,
    /// By resource type; `None` where nothing is told.
    pub(crate) thresholds: Option<Box<[Thresholds]>>,
    /// Workspaces have admins whose addresses somebody else knows.
    pub(crate) writes_to_admins: bool,
    /// How often thresholds are looked at where workspaces are not in use.
    pub(crate) sweep_every: Option<Duration>,
    /// Abandoned units are settled by a barrier.
    #[cfg(feature = "authz")]
    pub(crate) has_barrier: bool,
}

/// Builds a [`Quota`].
#[must_use]
pub struct QuotaBuilder {
    catalog: ResourceCatalog,
    store: Option<Arc<dyn QuotaStore>>,
    usage: Option<Arc<dyn UsageSource>>,
    tallied: Vec<String>,
    pub(super) authority: Option<(Arc<dyn Authority>, Times)>,
    mode: Option<EnforcementMode>,
    settling: Settling,
    capacity: u64,
    first_count_after: Duration,
    cleaner: Option<Cleaner>,
    thresholds: Option<Thresholds>,
    thresholds_of: HashMap<String, Thresholds>,
    outlets: OutletOptions,
    #[cfg(feature = "insight")]
    snapshots: Option<super::SnapshotOptions>,
    metrics: bool,
    config: Config,
}

impl QuotaBuilder {
    pub(super) fn new(catalog: ResourceCatalog) -> Self {
        Self {
            catalog,
            store: None,
            usage: None,
            tallied: Vec::new(),
            authority: None,
            mode: None,
            settling: Settling::default(),
            capacity: 100_000,
            first_count_after: Duration::ZERO,
            cleaner: None,
            thresholds: Some(Thresholds::default()),
            thresholds_of: HashMap::new(),
            outlets: OutletOptions::default(),
            #[cfg(feature = "insight")]
            snapshots: Some(super::SnapshotOptions::default()),
            metrics: cfg!(feature = "metrics"),
            config: Config {
                provisioning: Provisioning::default(),
                workspace_format: WorkspaceFormat::default(),
                refresh_after: Duration::from_secs(60),
                max_wait: Duration::from_secs(1),
                io_timeout: Duration::from_secs(5),
                grace: None,
                thresholds: None,
                writes_to_admins: false,
                sweep_every: Some(Duration::from_secs(3600)),
                #[cfg(feature = "authz")]
                has_barrier: false,
            },
        }
    }

    /// Where quota records are kept. Required.
    pub fn store(mut self, store: impl QuotaStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// How rows are counted. Required, unless all resource types are [tallied](Self::tally).
    pub fn usage(mut self, usage: impl UsageSource) -> Self {
        self.usage = Some(Arc::new(usage));
        self
    }

    /// Counts these resource types by the ledger alone, where nobody can count their rows: a workspace has what was posted, less
    /// what was deleted, from where [`Admin::set_tally`](crate::Admin::set_tally) has set it, or from 0. The store is a
    /// [`SqliteStore`](crate::SqliteStore) or a [`PostgresStore`](crate::PostgresStore), which keeps it in `"QuotaTally"`.
    ///
    /// It errs to the side of too many rows: a request of which nobody knows what it did counts as if it had made its rows, an
    /// [`Amount::AtMost`](crate::Amount::AtMost) counts in full, and so do units that a process had in hand when it was killed: those
    /// of its requests in flight, and up to 16 for each workspace and type. It can also miss rows, by what the layer never sees or
    /// is told wrongly: rows that are made around it or in mode `off`, a deletion that is answered with success and has deleted
    /// nothing, an edit that makes a row anew which was deleted a moment ago; and by what the database loses, in a fail-over or, with
    /// SQLite, when the machine loses power. So the [promise](Quota::promise) is [`Bounded`](crate::Promise::Bounded); set the tally
    /// anew from time to time.
    ///
    /// Deletions count where a rule of the operation `delete` maps them. Where rules look rows up, the usage source is asked.
    pub fn tally<N: Into<String>>(mut self, resources: impl IntoIterator<Item = N>) -> Self {
        self.tallied.extend(resources.into_iter().map(Into::into));
        self
    }

    /// Keeps limits exact over several processes. Without it, this process alone must create rows of its workspaces.
    #[cfg(feature = "postgres")]
    pub fn ledger(mut self, ledger: crate::PostgresLedger) -> Self {
        self.authority = Some(ledger.open());
        self
    }

    /// The enforcement mode. Without it, `QUOTA_ENFORCEMENT_MODE` decides, and where that isn't set, `enforce`.
    pub fn mode(mut self, mode: EnforcementMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// When abandoned units are settled; ten seconds after by default.
    pub fn settling(mut self, settling: Settling) -> Self {
        #[cfg(feature = "authz")]
        {
            self.config.has_barrier = matches!(settling, Settling::Barrier(_));
        }
        self.settling = settling;
        self
    }

    /// How long after the start rows are first counted; at once by default, which is right for an embedded database.
    ///
    /// Transactions of a process that was killed may still commit at a database server, after a count that came too
    /// early. Where a crash must not cost exactness, set this to the time in which the server ends them. Requests wait
    /// that long after the start.
    pub fn first_count_after(mut self, time: Duration) -> Self {
        self.first_count_after = time;
        self
    }

    /// What happens to a workspace that has no record.
    pub fn provisioning(mut self, provisioning: Provisioning) -> Self {
        self.config.provisioning = provisioning;
        self
    }

    /// Which spellings name the same workspace; byte for byte by default.
    pub fn workspace_format(mut self, format: WorkspaceFormat) -> Self {
        self.config.workspace_format = format;
        self
    }

    /// How many workspaces are kept in memory, beside those that have requests in flight; 100,000 by default.
    pub fn capacity(mut self, workspaces: u64) -> Self {
        self.capacity = workspaces;
        self
    }

    /// After what time limits are read and rows are counted again while a workspace is in use, to see what changed
    /// around the engine; a minute by default. Requests go on meanwhile with what is known, up to twice this age.
    pub fn refresh_after(mut self, time: Duration) -> Self {
        self.config.refresh_after = time;
        self
    }

    /// How long a request waits where only requests in flight stand in its way; a second by default.
    pub fn max_wait(mut self, time: Duration) -> Self {
        self.config.max_wait = time;
        self
    }

    /// What removes rows above a limit when [`Admin::clean`](crate::Admin::clean) is called, and what becomes of them, by the
    /// names of resource types; those that are not among `policies` are reported.
    pub fn cleanup<N, I>(mut self, source: impl Cleanup, policies: I) -> Self
    where
        N: Into<String>,
        I: IntoIterator<Item = (N, CleanupPolicy)>,
    {
        let policies = policies.into_iter().map(|(name, policy)| (name.into(), policy)).collect();
        self.cleaner = Some(Cleaner { source: Arc::new(source), policies });
        self
    }

    /// The grace of all workspaces that have none of their own; none by default.
    pub fn grace(mut self, grace: Grace) -> Self {
        self.config.grace = Some(grace);
        self
    }

    /// At which usage notices are given; at 90, 95 and 100 % of the limit by default. `None` turns them off. They are kept in
    /// the database of a [`SqliteStore`](crate::SqliteStore) or [`PostgresStore`](crate::PostgresStore): with another store
    /// nothing is told.
    ///
    /// The engine looks every second at workspaces that are in use, off the path of requests: at all that was posted, and at
    /// each count. What seems to be reached is counted before it is told.
    pub fn thresholds(mut self, thresholds: impl Into<Option<Thresholds>>) -> Self {
        self.thresholds = thresholds.into();
        self
    }

    /// The same for one resource type, by its name.
    pub fn thresholds_of(mut self, resource: impl Into<String>, thresholds: Thresholds) -> Self {
        self.thresholds_of.insert(resource.into(), thresholds);
        self
    }

    /// How often thresholds are looked at in all workspaces, in use or not; every hour by default, and at the start, after
    /// mode `off`, when a plan was changed, and after an import. `None` is never: what is changed in many workspaces at once is
    /// told then when they are next used.
    ///
    /// It finds what no request and no recount tells of: rows that a process made just before it was killed, rows that were
    /// made around the engine, limits of a parent; and it arms again what was reached where there are no rows any more. It takes a listing of the rows for each resource type, by
    /// [`UsageSource::page`](crate::UsageSource::page), and a look-up of each workspace's limits. A source that can't list
    /// workspaces does without.
    pub fn threshold_sweeps(mut self, every: impl Into<Option<Duration>>) -> Self {
        self.config.sweep_every = every.into();
        self
    }

    /// Delivers notices to endpoints: see [`Admin::add_endpoint`](crate::Admin::add_endpoint). Of several processes, one or more may.
    #[cfg(feature = "webhooks")]
    pub fn webhooks(mut self, options: crate::WebhookOptions) -> Self {
        self.outlets.webhooks = Some(options);
        self
    }

    /// Writes an e-mail to a workspace's admins when a limit becomes critical or is exceeded. Their addresses are those of
    /// [`Admin::set_contacts`](crate::Admin::set_contacts), unless [`contacts`](Self::contacts) knows them.
    #[cfg(feature = "email")]
    pub fn email(mut self, options: crate::EmailOptions) -> Self {
        self.outlets.email = Some(options);
        self
    }

    /// When a delivery that has failed is tried again.
    #[cfg(any(feature = "webhooks", feature = "email"))]
    pub fn delivery_retries(mut self, retries: super::DeliveryRetries) -> Self {
        self.outlets.retries = retries;
        self
    }

    /// Who knows the e-mail addresses of a workspace's admins. Of several processes, all are to have it: the one that finds a
    /// threshold to be reached has the e-mail written.
    #[cfg(feature = "email")]
    pub fn contacts(mut self, contacts: impl crate::AdminContacts + 'static) -> Self {
        self.outlets.contacts = Some(Arc::new(contacts));
        self
    }

    /// When snapshots of usage are taken; every hour by default. `None` turns them off. They are kept in the database of a
    /// [`SqliteStore`](crate::SqliteStore) or [`PostgresStore`](crate::PostgresStore): with another store there are none.
    ///
    /// Of several processes one at a time takes them, in the order of a claim in the database; when it dies, another goes on.
    /// All workspaces are looked at that have rows, or a record, a batch at a time. Where the usage source can't list
    /// workspaces ([`UsageSource::page`]), as a [`ClosureUsage`](crate::ClosureUsage) can't, those are counted that this process
    /// has in memory. What a [`recount`](Quota::recount) finds is kept, too, and creations that were refused are counted in the
    /// hour in which they were: those of the last five seconds are lost when the process ends without
    /// [`shutdown`](Quota::shutdown).
    #[cfg(feature = "insight")]
    pub fn snapshots(mut self, options: impl Into<Option<super::SnapshotOptions>>) -> Self {
        self.snapshots = options.into();
        self
    }

    /// Whether the engine tells the recorder of the `metrics` facade what it does; it does by default. That is the recorder
    /// which is there when the engine is built. See the [README](https://docs.rs/crate/tower-quota) for what it tells.
    ///
    /// Turn it off for all but one where several engines of a process are on the same database: what they tell of that would be
    /// told by each of them.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, tell: bool) -> Self {
        self.metrics = tell;
        self
    }

    /// How long one call of the store or one count may take; five seconds by default.
    pub fn io_timeout(mut self, time: Duration) -> Self {
        self.config.io_timeout = time;
        self
    }

    /// Builds the engine and starts its background tasks, which end with its last clone.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] when options of webhooks, e-mail or snapshots can't be used, when the store or the usage source is missing, when `QUOTA_ENFORCEMENT_MODE` is none of the
    /// four modes, when a time is zero or the ledger's is too short, or outside a tokio runtime.
    pub fn build(mut self) -> Result<Quota, Error> {
        let store = self.store.ok_or_else(|| Error::config("the quota needs a store: call `store` on its builder"))?;
        let tallies = Tallies::new(&self.tallied, &self.catalog, &store, self.authority.is_some())?;
        let tallies = Arc::new(tallies);
        let usage = match self.usage {
            Some(usage) if !tallies.any() => usage,
            None if !self.catalog.iter().all(|resource| tallies.has(resource.id())) => {
                return Err(Error::config("the quota needs counts: call `usage` on its builder"));
            }
            others => Arc::new(Tallied { tallies: Arc::clone(&tallies), others }),
        };
        let times = [
            ("refresh_after", self.config.refresh_after),
            ("max_wait", self.config.max_wait),
            ("io_timeout", self.config.io_timeout),
            ("threshold_sweeps", self.config.sweep_every.unwrap_or(Duration::MAX)),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(Error::config(format!("`{name}` can't be zero")));
        }
        if let Some((_, times)) = &self.authority
            && times.time_to_live < Times::SHORTEST
        {
            return Err(Error::config(format!("the ledger's `time_to_live` is {:?} at least", Times::SHORTEST)));
        }
        for name in self.cleaner.iter().flat_map(|cleaner| cleaner.policies.keys()) {
            self.catalog.by_name(name).map_err(|error| Error::config(format!("the cleanup: {}", error.message())))?;
        }
        if let Some(grace) = &self.config.grace {
            grace.check().map_err(|error| Error::config(format!("the grace: {}", error.message())))?;
            for name in &grace.resources {
                self.catalog.by_name(name).map_err(|error| Error::config(format!("the grace: {}", error.message())))?;
            }
        }
        for name in self.thresholds_of.keys() {
            self.catalog.by_name(name).map_err(|error| Error::config(format!("thresholds: {}", error.message())))?;
        }
        self.config.thresholds = self.thresholds.filter(|_| store.events().is_some()).map(|all| {
            let of = |name| self.thresholds_of.get(name).unwrap_or(&all).clone();
            self.catalog.iter().map(|resource| of(resource.name())).collect()
        });
        #[cfg(feature = "email")]
        {
            self.config.writes_to_admins = self.outlets.contacts.is_some();
        }
        #[cfg(feature = "insight")]
        let snapshots = {
            self.snapshots.as_ref().map_or(Ok(()), super::SnapshotOptions::check)?;
            super::snapshots::Snapshots::new(self.snapshots.filter(|_| store.snapshots().is_some()))
        };
        let outlets = Outlets::open(self.outlets, store.events().is_some())?;
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| Error::config("build the quota inside a tokio runtime").with_source(error))?;
        let (mode, source) = match (self.mode, EnforcementMode::from_env()?) {
            (Some(mode), _) => (mode, ModeSource::Code),
            (None, Some(mode)) => (mode, ModeSource::Environment),
            (None, None) => (EnforcementMode::default(), ModeSource::Default),
        };
        let metrics = Arc::new(Metrics::new(&self.catalog, self.metrics));
        let (outlet, abandoned) = Outlet::new(Arc::clone(&metrics), Arc::clone(&tallies));
        let inner = Arc::new(Inner {
            tenants: Tenants::new(self.capacity, self.catalog.len(), self.authority.is_some(), outlet),
            tallies,
            replica: self.authority.map(|(authority, times)| Replica::new(authority, times)),
            type_modes: RwLock::new(vec![None; self.catalog.len()]),
            moves: Mutex::default(),
            parents: Mutex::default(),
            shadowing: AtomicBool::new(false),
            shadow: RwLock::default(),
            cleaner: self.cleaner,
            catalog: self.catalog,
            store: CachedStore::new(store, self.capacity, self.config.refresh_after),
            usage,
            mode: ModeCell::new(mode, source),
            clock: CoarseClock::new(),
            first_count: Instant::now() + self.first_count_after,
            breaches: AtomicU64::new(0),
            changed: Mutex::default(),
            sweep: AtomicBool::new(false),
            #[cfg(feature = "webhooks")]
            webhooks: outlets.webhooks.clone(),
            told: Arc::new(Notify::new()),
            #[cfg(feature = "insight")]
            snapshots,
            metrics,
            runtime: runtime.clone(),
            config: self.config,
        });
        match &inner.replica {
            Some(replica) if replica.fenced() => runtime.spawn(settle_with_lease(abandoned, Arc::downgrade(&inner))),
            _ => runtime.spawn(settle(abandoned, self.settling)),
        };
        if let Some(replica) = &inner.replica {
            replica::start(&inner, replica);
        }
        if inner.tallies.any() {
            runtime.spawn(tallies::keep(Arc::downgrade(&inner)));
        }
        if inner.config.thresholds.is_some() {
            runtime.spawn(watch(Arc::downgrade(&inner)));
        }
        #[cfg(feature = "metrics")]
        if self.metrics {
            runtime.spawn(super::measure::measure(Arc::downgrade(&inner), outlets.any()));
        }
        outlets.start(&inner);
        #[cfg(feature = "insight")]
        super::snapshots::start(&inner);
        runtime.spawn(maintain(Arc::downgrade(&inner)));
        Ok(Quota(inner))
    }
}
