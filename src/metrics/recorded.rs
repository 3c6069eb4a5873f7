//! What is told, to the recorder of the `metrics` facade that there is when the engine is built.
//!
//! All series are registered then, so that they are there from the start, at 0: a rate needs a value before the first. What
//! several engines of a process tell adds up, but for what they would tell of the same database.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use metrics::{
    Counter, Gauge, Histogram, NoopRecorder, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram, with_local_recorder,
};
use thread_local::ThreadLocal;

use super::Outcome;
use crate::error::Error;
use crate::events::{DeliveryStatus, Threshold};
use crate::resource::{ResourceCatalog, ResourceId};

const DECISIONS: &str = "tower_quota_decisions_total";
const DECISION_SECONDS: &str = "tower_quota_decision_seconds";
const COUNTS: &str = "tower_quota_counts_total";
const REFUSALS_AVERTED: &str = "tower_quota_false_refusals_averted_total";
const DRIFT: &str = "tower_quota_drift_rows_total";
const BREACHES: &str = "tower_quota_breach_rows_total";
const RESERVED: &str = "tower_quota_reserved_units";
const STRANDED: &str = "tower_quota_stranded_units";
const LEASES: &str = "tower_quota_leases";
const LEASES_LOST: &str = "tower_quota_leases_lost_total";
const REPLICAS: &str = "tower_quota_replicas";
const WORKSPACES: &str = "tower_quota_workspaces";
const NOTICES: &str = "tower_quota_notices_total";
const OUTBOX: &str = "tower_quota_outbox_deliveries";
const DELIVERIES: &str = "tower_quota_deliveries_total";
const ERRORS: &str = "tower_quota_errors_total";

/// Bounds for buckets of `tower_quota_decision_seconds`, from 10 µs to 2.5 s.
///
/// An exporter has to be told of them where it is set up: that of Prometheus makes a summary of what it has no buckets for,
/// and summaries of several processes can't be added up.
///
/// ```
/// use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
/// use tower_quota::DECISION_SECONDS_BUCKETS;
///
/// let name = Matcher::Full("tower_quota_decision_seconds".to_owned());
/// let builder = PrometheusBuilder::new().set_buckets_for_metric(name, &DECISION_SECONDS_BUCKETS)?;
/// // An engine tells the recorder that is there when it is built.
/// let handle = builder.install_recorder()?;
/// # drop(handle);
/// # Ok::<(), metrics_exporter_prometheus::BuildError>(())
/// ```
pub const DECISION_SECONDS_BUCKETS: [f64; 12] =
    [0.000_01, 0.000_025, 0.000_1, 0.000_25, 0.001, 0.002_5, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5];

fn describe() {
    describe_counter!(
        DECISIONS,
        Unit::Count,
        "What became of requests that were to make rows, for each resource type of a request."
    );
    describe_histogram!(
        DECISION_SECONDS,
        Unit::Seconds,
        "How long decisions took for which there weren't units in memory: they may have counted rows, or waited for others."
    );
    describe_counter!(COUNTS, Unit::Count, "How often the rows of a workspace were counted.");
    describe_counter!(
        REFUSALS_AVERTED,
        Unit::Count,
        "Demands that didn't fit beside the rows that were believed to exist, and were admitted by a new count."
    );
    describe_counter!(DRIFT, Unit::Count, "Rows by which recounts found more or fewer than were believed to exist.");
    describe_counter!(BREACHES, Unit::Count, "Rows that were found beyond what the shared ledger had allowed.");
    describe_gauge!(
        RESERVED,
        Unit::Count,
        "Units that requests in flight of this process may still turn into rows, stranded ones included."
    );
    describe_gauge!(
        STRANDED,
        Unit::Count,
        "Units of requests that ended without saying what became of them, and that are not settled yet."
    );
    describe_gauge!(LEASES, Unit::Count, "Leases of units that this process has from the shared ledger.");
    describe_counter!(
        LEASES_LOST,
        Unit::Count,
        "Leases that this process lost since it was taken for dead, or its ledger failed over."
    );
    describe_gauge!(
        REPLICAS,
        Unit::Count,
        "Processes alive on the same ledger, as this one sees it; 1 without a shared one."
    );
    describe_gauge!(WORKSPACES, Unit::Count, "Workspaces in memory, subtrees with caps included.");
    describe_counter!(NOTICES, Unit::Count, "Notices that a threshold was reached.");
    describe_gauge!(
        OUTBOX,
        Unit::Count,
        "Deliveries in the outbox of all processes: those to be made, and those given up."
    );
    describe_counter!(DELIVERIES, Unit::Count, "Attempts to deliver notices, and what became of them.");
    describe_counter!(
        ERRORS,
        Unit::Count,
        "Calls of the store, the counts, the shared ledger or the outbox that failed."
    );
}

/// What is told of one resource type.
struct OfType {
    decisions: [Counter; Outcome::ALL.len()],
    /// Of those that were admitted, how many the recorder knows of.
    told: AtomicU64,
    counts: Counter,
    refusals_averted: Counter,
    /// More, and fewer.
    drift: [Counter; 2],
    breaches: Counter,
    reserved: Level,
    stranded: Level,
}

impl OfType {
    fn new(name: &str) -> Self {
        let name = || name.to_owned();
        Self {
            decisions: Outcome::ALL
                .map(|outcome| counter!(DECISIONS, "resource_type" => name(), "outcome" => outcome.as_str())),
            told: AtomicU64::new(0),
            counts: counter!(COUNTS, "resource_type" => name()),
            refusals_averted: counter!(REFUSALS_AVERTED, "resource_type" => name()),
            drift: ["more", "fewer"]
                .map(|direction| counter!(DRIFT, "resource_type" => name(), "direction" => direction)),
            breaches: counter!(BREACHES, "resource_type" => name()),
            reserved: Level::new(gauge!(RESERVED, "resource_type" => name())),
            stranded: Level::new(gauge!(STRANDED, "resource_type" => name())),
        }
    }
}

/// A gauge that engines of one process share: each tells by how much its own part has changed.
struct Level {
    gauge: Gauge,
    own: AtomicU64,
}

impl Level {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(0.0);
        Self { gauge, own: AtomicU64::new(0) }
    }

    fn set(&self, now: u64) {
        let before = self.own.swap(now, Ordering::Relaxed);
        self.gauge.increment(now as f64 - before as f64);
    }

    fn add(&self, more: u64) {
        self.own.fetch_add(more, Ordering::Relaxed);
        self.gauge.increment(more as f64);
    }

    fn subtract(&self, less: u64) {
        self.own.fetch_sub(less, Ordering::Relaxed);
        self.gauge.decrement(less as f64);
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Since when something takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[inline]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

/// Tells the recorder.
pub(crate) struct Metrics {
    /// Else there is nobody to tell.
    on: bool,
    /// By resource type: how many demands each thread admitted at once. Each thread counts for itself, without an atomic
    /// addition or a line of memory that others write, and `flush` adds up. What a thread has counted stays when it ends.
    admitted: ThreadLocal<Box<[AtomicU64]>>,
    types: Box<[OfType]>,
    seconds: [Histogram; 3],
    leases: Level,
    leases_lost: Counter,
    replicas: Gauge,
    workspaces: Level,
    notices: [Counter; 3],
    /// Pending and dead.
    outbox: [Gauge; 2],
    /// Of webhooks and of e-mail, by what a delivery is after the attempt.
    deliveries: [[Counter; 3]; 2],
    /// Failures and time-outs by their source.
    errors: [[Counter; 2]; Source::ALL.len()],
}

impl Metrics {
    pub(crate) fn new(catalog: &ResourceCatalog, on: bool) -> Self {
        let made = || {
            describe();
            Self::registered(catalog, on)
        };
        if on { made() } else { with_local_recorder(&NoopRecorder, made) }
    }

    /// Whether there is somebody to tell.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    fn registered(catalog: &ResourceCatalog, on: bool) -> Self {
        Self {
            on,
            admitted: ThreadLocal::new(),
            types: catalog.iter().map(|resource| OfType::new(resource.name())).collect(),
            seconds: ["admitted", "refused", "failed"]
                .map(|outcome| histogram!(DECISION_SECONDS, "outcome" => outcome)),
            leases: Level::new(gauge!(LEASES)),
            leases_lost: counter!(LEASES_LOST),
            replicas: gauge!(REPLICAS),
            workspaces: Level::new(gauge!(WORKSPACES)),
            notices: [Threshold::Warning, Threshold::Critical, Threshold::Exceeded]
                .map(|threshold| counter!(NOTICES, "threshold" => threshold.as_str())),
            outbox: ["pending", "dead"].map(|status| gauge!(OUTBOX, "status" => status)),
            deliveries: ["webhook", "email"].map(|channel| {
                DeliveryStatus::ALL.map(|status| {
                    let outcome = if status == DeliveryStatus::Pending { "retried" } else { status.as_str() };
                    counter!(DELIVERIES, "channel" => channel, "outcome" => outcome)
                })
            }),
            errors: Source::ALL.map(|source| {
                ["failure", "timeout"].map(|kind| counter!(ERRORS, "source" => source.as_str(), "kind" => kind))
            }),
        }
    }

    fn of(&self, resource: ResourceId) -> &OfType {
        &self.types[resource.index()]
    }

    /// A demand was met by units in memory: the hot path.
    #[inline]
    pub(crate) fn admitted(&self, resource: ResourceId) {
        if !self.on {
            return;
        }
        let own = &self.admitted.get_or(|| self.types.iter().map(|_| AtomicU64::new(0)).collect())[resource.index()];
        // Nobody else writes it.
        own.store(own.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Something became of a demand off the hot path.
    pub(crate) fn decided(&self, resource: ResourceId, outcome: Outcome) {
        self.of(resource).decisions[outcome as usize].increment(1);
    }

    pub(crate) fn took(&self, since: Stopwatch, outcome: Outcome) {
        let kind = match outcome {
            Outcome::Refused | Outcome::Blocked => 1,
            Outcome::Failed | Outcome::Undecided | Outcome::Unprovisioned => 2,
            Outcome::Admitted | Outcome::Edited | Outcome::Warned => 0,
        };
        self.seconds[kind].record(since.0.elapsed());
    }

    pub(crate) fn counted(&self, resource: ResourceId) {
        self.of(resource).counts.increment(1);
    }

    /// The books would have refused a demand that a count let pass.
    pub(crate) fn refusal_averted(&self, resource: ResourceId) {
        self.of(resource).refusals_averted.increment(1);
    }

    /// A recount found `actual` rows where `believed` were believed to exist.
    pub(crate) fn corrected(&self, resource: ResourceId, believed: u64, actual: u64) {
        let [more, fewer] = &self.of(resource).drift;
        more.increment(actual.saturating_sub(believed));
        fewer.increment(believed.saturating_sub(actual));
    }

    pub(crate) fn breached(&self, resource: ResourceId, rows: u64) {
        self.of(resource).breaches.increment(rows);
    }

    /// Nobody told what became of `units` of the resource type at this place in the catalog.
    pub(crate) fn stranded(&self, resource: usize, units: u64) {
        self.types[resource].stranded.add(units);
    }

    /// No commit is possible any more that would make rows of them.
    pub(crate) fn settled(&self, resource: usize, units: u64) {
        self.types[resource].stranded.subtract(units);
    }

    pub(crate) fn leases_lost(&self, leases: usize) {
        self.leases_lost.increment(u64::try_from(leases).unwrap_or(u64::MAX));
    }

    pub(crate) fn noticed(&self, threshold: Threshold) {
        self.notices[threshold as usize].increment(1);
    }

    /// One attempt to deliver, to an endpoint or by e-mail, and what the delivery is then.
    #[cfg_attr(not(any(feature = "webhooks", feature = "email")), allow(dead_code, reason = "nothing is delivered"))]
    pub(crate) fn delivered(&self, to_endpoint: bool, status: DeliveryStatus) {
        self.deliveries[usize::from(!to_endpoint)][status as usize].increment(1);
    }

    /// The call that does `what` failed.
    pub(crate) fn failed(&self, what: &str, error: &Error) {
        if error.is_unavailable()
            && let Some(source) = Source::of(what)
        {
            self.errors[source as usize][0].increment(1);
        }
    }

    /// The call that does `what` took too long.
    pub(crate) fn timed_out(&self, what: &str) {
        self.errors[Source::of(what).unwrap_or(Source::Store) as usize][1].increment(1);
    }

    /// Tells what the hot path has counted.
    pub(crate) fn flush(&self) {
        for (index, of) in self.types.iter().enumerate() {
            let total =
                self.admitted.iter().fold(0_u64, |total, own| total.wrapping_add(own[index].load(Ordering::Relaxed)));
            let before = of.told.swap(total, Ordering::Relaxed);
            of.decisions[Outcome::Admitted as usize].increment(total.wrapping_sub(before));
        }
    }

    /// What this process has, as of now. `reserved` are units by resource type.
    pub(crate) fn holds(&self, workspaces: u64, reserved: &[u64], leases: u64, replicas: u64) {
        self.workspaces.set(workspaces);
        for (of, units) in self.types.iter().zip(reserved) {
            of.reserved.set(*units);
        }
        self.leases.set(leases);
        self.replicas.set(replicas as f64);
    }

    /// What is in the outbox that all processes share.
    pub(crate) fn outbox(&self, pending: u64, dead: u64) {
        self.outbox[0].set(pending as f64);
        self.outbox[1].set(dead as f64);
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.flush();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What a call that may fail asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Quota records and what belongs to them.
    Store,
    /// The host's rows.
    Usage,
    /// The ledger that several processes share.
    Ledger,
    /// Notices, endpoints and deliveries.
    Outbox,
}

impl Source {
    const ALL: [Self; 4] = [Self::Store, Self::Usage, Self::Ledger, Self::Outbox];

    /// The calls that ask something else than the store, by what they are called.
    const OTHERS: [(Self, &'static [&'static str]); 3] = [
        (
            Self::Usage,
            &[
                "count rows",
                "look up existing rows",
                "look for rows above the limit",
                "remove rows above the limit",
                "list workspaces with rows",
            ],
        ),
        (
            Self::Ledger,
            &["reach the ledger", "ask the ledger", "give back leases", "leave the ledger", "tell the ledger"],
        ),
        (
            Self::Outbox,
            &[
                "read thresholds",
                "read the books",
                "tell of thresholds",
                "take deliveries",
                "give a delivery back",
                "tell of a delivery",
                "address a notice",
                "delete old deliveries",
                "read the outbox",
            ],
        ),
    ];

    /// Another call in which this one fails, and which is told of by itself.
    const AROUND: &'static str = "read the limits";

    /// `None` where a failure is told of already.
    fn of(what: &str) -> Option<Self> {
        if what == Self::AROUND {
            return None;
        }
        let other = Self::OTHERS.iter().find(|(_, calls)| calls.contains(&what));
        Some(other.map_or(Self::Store, |(source, _)| *source))
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Usage => "usage",
            Self::Ledger => "ledger",
            Self::Outbox => "outbox",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The sources of the engine, but for this folder.
    fn sources(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => sources(&path, all),
                false => all.push_str(&fs::read_to_string(&path).unwrap()),
            }
        }
    }

    #[test]
    fn calls_are_called_what_they_are_called_here() {
        let mut engine = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine"), &mut engine);
        let named = Source::OTHERS.iter().flat_map(|(_, calls)| *calls).chain([&Source::AROUND]);
        for call in named {
            assert!(engine.contains(&format!("(\"{call}\"")), "no call is called {call:?} any more");
        }
    }

    #[test]
    fn outcomes_are_in_their_order() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
        }
        for (index, source) in Source::ALL.into_iter().enumerate() {
            assert_eq!(source as usize, index);
        }
        assert_eq!([Threshold::Warning, Threshold::Critical, Threshold::Exceeded].map(|of| of as usize), [0, 1, 2]);
        assert_eq!(DeliveryStatus::ALL.map(|of| of as usize), [0, 1, 2]);
    }
}
