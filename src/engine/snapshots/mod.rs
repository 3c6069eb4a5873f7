//! Snapshots of usage: who takes them and when, and what is noted between them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::{Inner, Quota, RETRY};
use crate::decision::{Refusal, Usage};
use crate::error::Error;
use crate::insight::{Granularity, Snapshot};
use crate::limit::Limit;
use crate::resource::ResourceId;
use crate::store::{QuotaStore, Reading, SnapshotStore, Turn};
use crate::workspace::WorkspaceId;

mod walk;

pub use walk::SnapshotSummary;

use walk::Walk;

/// How often it is looked whether snapshots are to be taken, at least.
const POLL: Duration = Duration::from_secs(30);

/// How often what was noted is written.
const FLUSH: Duration = Duration::from_secs(5);

/// How many keys are noted at most: with a database that doesn't answer for long, memory is not to grow.
const MOST_NOTED: usize = 100_000;

/// How many readings are written, merged or deleted at once.
const BATCH: usize = 500;
const OLD: usize = 2000;

/// After how many failures the rest is left for the next time: each may take as long as a call may.
const FAILURES: usize = 8;

/// When snapshots of usage are taken, and how long they are kept: see [`QuotaBuilder::snapshots`](crate::QuotaBuilder::snapshots).
///
/// ```
/// use std::time::Duration;
///
/// use tower_quota::SnapshotOptions;
///
/// let options = SnapshotOptions::new().every(Duration::from_secs(15 * 60)).keep_hours(31).keep_days(3 * 366);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct SnapshotOptions {
    every: Duration,
    take_over_after: Duration,
    keep_hours: u32,
    keep_days: u32,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(3600),
            take_over_after: Duration::from_secs(30),
            keep_hours: 14,
            keep_days: 500,
        }
    }
}

impl SnapshotOptions {
    /// Every hour, kept by the hour for 14 days and by the day for 500.
    pub fn new() -> Self {
        Self::default()
    }

    /// How often they are taken, from a second to a day; every hour by default. What is read more often than that is merged
    /// into the hour. The times are those of the database's clock, in the middle of each hour where it is one.
    pub fn every(mut self, time: Duration) -> Self {
        self.every = time;
        self
    }

    /// For how many days they are kept by the hour; 14 by default. After that, hours are merged into days.
    pub fn keep_hours(mut self, days: u32) -> Self {
        self.keep_hours = days;
        self
    }

    /// For how many days they are kept at all; 500 by default. A forecast goes by 400 of them.
    pub fn keep_days(mut self, days: u32) -> Self {
        self.keep_days = days;
        self
    }

    /// After what time without a sign of life of the process whose turn it is another takes over; 30 seconds by default, and
    /// not less than one.
    pub fn take_over_after(mut self, time: Duration) -> Self {
        self.take_over_after = time;
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
        if !(second..=day).contains(&self.every) {
            return Err(Error::config(format!("snapshots: `every` is from a second to a day; got {:?}", self.every)));
        }
        if !(second..=day).contains(&self.take_over_after) {
            let got = self.take_over_after;
            return Err(Error::config(format!("snapshots: `take_over_after` is from a second to a day; got {got:?}")));
        }
        const MOST: u32 = 100 * 366;
        if self.keep_hours == 0 || self.keep_days < self.keep_hours || self.keep_days > MOST {
            return Err(Error::config(format!(
                "snapshots: `keep_hours` is 1 at least, and `keep_days` from that up to {MOST}; got {} and {}",
                self.keep_hours, self.keep_days
            )));
        }
        Ok(())
    }

    /// Where the time begins of which hours, or else days, are kept.
    pub(super) fn kept_from(&self, granularity: Granularity, now: Timestamp) -> Timestamp {
        ago(now, if granularity == Granularity::Hour { self.keep_hours } else { self.keep_days })
    }
}

/// The beginning of the day that was so many days ago.
pub(super) fn ago(now: Timestamp, days: u32) -> Timestamp {
    let then = now.checked_sub(SignedDuration::from_hours(24 * i64::from(days))).unwrap_or(Timestamp::MIN);
    Granularity::Day.start(then)
}

/// What the engine has of snapshots.
pub(super) struct Snapshots {
    /// `None` where none are taken.
    pub(super) options: Option<SnapshotOptions>,
    /// By key and hour: what is to be written.
    noted: Mutex<HashMap<(WorkspaceId, ResourceId, Timestamp), Noted>>,
    /// There were too many, which was told.
    overflowed: AtomicBool,
    /// Forecasts are computed by as many threads as there are processors.
    pub(super) forecasts: Arc<Semaphore>,
}

/// What happened to a key in an hour.
#[derive(Debug, Clone, Copy)]
struct Noted {
    at: Timestamp,
    refusals: u64,
    /// `None` where nothing was counted.
    read: Option<Snapshot>,
}

impl Noted {
    fn merge(&mut self, later: &Self) {
        self.at = self.at.max(later.at);
        self.refusals = self.refusals.saturating_add(later.refusals);
        match (&mut self.read, later.read) {
            (Some(read), Some(later)) => read.merge(&later),
            (read @ None, later) => *read = later,
            (Some(_), None) => {}
        }
    }
}

/// What a count says.
pub(super) fn reading(at: Timestamp, usage: Usage) -> Snapshot {
    let Usage { current, limit } = usage;
    Snapshot { at, last: current, min: current, max: current, limit, refusals: 0 }
}

impl Snapshots {
    pub(super) fn new(options: Option<SnapshotOptions>) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            options,
            noted: Mutex::default(),
            overflowed: AtomicBool::new(false),
            forecasts: Arc::new(Semaphore::new(processors)),
        }
    }

    fn note(&self, workspace: &WorkspaceId, resource: ResourceId, noted: Noted) {
        let mut all = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let full = all.len() >= MOST_NOTED;
        match all.entry((workspace.clone(), resource, Granularity::Hour.start(noted.at))) {
            Entry::Occupied(mut before) => before.get_mut().merge(&noted),
            Entry::Vacant(_) if full => {
                if !self.overflowed.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        "refusals and recounts are not noted any more: {MOST_NOTED} keys wait to be written"
                    );
                }
            }
            Entry::Vacant(place) => {
                place.insert(noted);
            }
        }
    }
}

impl Inner {
    /// Notes that a creation was refused.
    #[cold]
    pub(super) fn note_refusal(&self, refusal: &Refusal) {
        if self.snapshots.options.is_none() {
            return;
        }
        let at = Timestamp::now();
        // What a cap refuses tells nothing of the workspace's own rows; nor does one that waited in vain tell of rows of now.
        let own = refusal.cap.is_none() && refusal.reserved.is_none();
        let counted = own.then(|| refusal.receipt.evidence.first().and_then(|evidence| evidence.counted)).flatten();
        let read = counted.zip(Limit::finite(refusal.limit).ok());
        let read = read.map(|(current, limit)| reading(at, Usage { current, limit }));
        self.snapshots.note(&refusal.workspace, refusal.resource.id(), Noted { at, refusals: 1, read });
    }

    /// Notes what a recount found.
    pub(super) fn note_recount(&self, workspace: &WorkspaceId, usage: &[Usage]) {
        if self.snapshots.options.is_none() {
            return;
        }
        let at = Timestamp::now();
        for (resource, usage) in self.catalog.iter().zip(usage) {
            let noted = Noted { at, refusals: 0, read: Some(reading(at, *usage)) };
            self.snapshots.note(workspace, resource.id(), noted);
        }
    }

    /// Writes what was noted. What can't be written is kept for the next time.
    pub(super) async fn write_noted(self: &Arc<Self>) -> Result<(), Error> {
        let Some(store) = self.store.inner().snapshots() else { return Ok(()) };
        let noted = std::mem::take(&mut *self.snapshots.noted.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut failures, mut failed) = (0, None);
        let again = |key: &(WorkspaceId, ResourceId, Timestamp), noted| self.snapshots.note(&key.0, key.1, noted);
        let mut read = Vec::with_capacity(noted.len());
        for (key, noted) in noted {
            let snapshot = match noted.read {
                Some(snapshot) => Ok(snapshot),
                None if failures < FAILURES => self.usage_of(&key.0, key.1).await.map(|usage| reading(noted.at, usage)),
                None => {
                    again(&key, noted);
                    continue;
                }
            };
            match snapshot {
                Ok(snapshot) => read.push((key, Snapshot { refusals: noted.refusals, ..snapshot })),
                // There is nothing any more that a snapshot could be of.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    failures += 1;
                    failed = Some(error);
                    again(&key, noted);
                }
            }
        }
        // In one order for all, so that no two processes wait for each other.
        read.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for some in read.chunk_by(|(one, _), (other, _)| one.2 == other.2).flat_map(|hour| hour.chunks(BATCH)) {
            let readings: Vec<_> = some
                .iter()
                .map(|((workspace, resource, _), snapshot)| Reading {
                    workspace: workspace.as_str(),
                    resource: self.catalog.get(*resource).name(),
                    snapshot: *snapshot,
                })
                .collect();
            if let Err(error) = self.within("write refusals", || store.add(&readings)).await {
                failed = Some(error);
                for (key, snapshot) in some {
                    let read = Some(Snapshot { refusals: 0, ..*snapshot });
                    again(key, Noted { at: snapshot.at, refusals: snapshot.refusals, read });
                }
            }
        }
        if failed.is_none() {
            self.snapshots.overflowed.store(false, Ordering::Relaxed);
        }
        failed.map_or(Ok(()), Err)
    }

    async fn usage_of(self: &Arc<Self>, workspace: &WorkspaceId, resource: ResourceId) -> Result<Usage, Error> {
        let tenant = self.fresh(workspace).await?;
        let current = self.count_rows(workspace, resource, None).await?;
        Ok(Usage { current, limit: self.limits_of(&tenant)?.by_resource[resource.index()] })
    }

    /// Where snapshots are kept.
    pub(super) fn kept_snapshots(&self) -> Result<&dyn SnapshotStore, Error> {
        self.store.inner().snapshots().ok_or_else(|| {
            Error::config(
                "this store keeps no snapshots of usage: analytics and reports need a SqliteStore or a PostgresStore",
            )
        })
    }
}

impl Quota {
    /// Takes snapshots of all workspaces now, whatever is due: as the engine does it by itself, which see at
    /// [`QuotaBuilder::snapshots`](crate::QuotaBuilder::snapshots).
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] where the store keeps none; [`Error::is_unavailable`]. What was read before the failure is kept.
    pub async fn take_snapshots(&self) -> Result<SnapshotSummary, Error> {
        let mut walk = Walk::new(&self.0)?;
        loop {
            walk.read().await?;
            if !walk.step(&self.0).await? {
                return Ok(walk.summary());
            }
        }
    }
}

/// Takes snapshots and writes what is noted, for as long as there is an engine.
pub(super) fn start(quota: &Arc<Inner>) {
    if quota.snapshots.options.is_some() {
        quota.runtime.spawn(take_turns(Arc::downgrade(quota)));
        quota.runtime.spawn(write_notes(Arc::downgrade(quota)));
    }
}

async fn write_notes(quota: Weak<Inner>) {
    let mut ticks = interval(FLUSH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let Some(quota) = quota.upgrade() else { return };
        let written = quota.write_noted().await;
        if let Err(error) = &written
            && !failing
        {
            tracing::error!(error = %error, "refusals and recounts can't be written into snapshots now");
        }
        failing = written.is_err();
    }
}

async fn take_turns(quota: Weak<Inner>) {
    let mut failing = false;
    loop {
        let Some(turn) = turn(&quota).await else { return };
        if let Err(error) = &turn
            && !failing
        {
            tracing::error!(error = %error, "snapshots of usage can't be taken now");
        }
        failing = turn.is_err();
        sleep(turn.unwrap_or(POLL).min(POLL)).await;
    }
}

/// Takes snapshots where it is this process' turn; answers in what time to look again. `None` when the engine is gone.
async fn turn(quota: &Weak<Inner>) -> Option<Result<Duration, Error>> {
    let (turn, options) = {
        let quota = quota.upgrade()?;
        let (store, options) = (quota.kept_snapshots().ok()?, quota.snapshots.options.clone()?);
        match quota.within("take a turn", || store.take_turn(options.take_over_after)).await {
            Ok(Turn::Mine(turn)) => (turn, options),
            Ok(Turn::In(wait)) => return Some(Ok(wait)),
            Err(error) => return Some(Err(error)),
        }
    };
    let worked = tokio::select! {
        worked = work(quota, &options) => worked?,
        () = lose(quota, turn, options.take_over_after) => Err(Error::unavailable("another took the turn over")),
    };
    let quota = quota.upgrade()?;
    let store = quota.kept_snapshots().ok()?;
    let done = worked.is_ok().then_some(options.every);
    let ended = quota.within("end a turn", || store.end_turn(turn, done)).await;
    // Where somebody else has it by now, there is nothing to end.
    Some(worked.and(ended).map(|_| RETRY))
}

/// Keeps the turn; returns when it is lost.
async fn lose(quota: &Weak<Inner>, turn: Uuid, lease: Duration) {
    let mut kept = Instant::now();
    loop {
        sleep(lease / 3).await;
        let Some(quota) = quota.upgrade() else { return };
        let Ok(store) = quota.kept_snapshots() else { return };
        let asked = Instant::now();
        match quota.within("keep a turn", || store.keep_turn(turn, lease)).await {
            Ok(true) => kept = asked,
            Ok(false) => return,
            Err(_) if kept.elapsed() < lease => {}
            Err(_) => return,
        }
    }
}

/// All that is to be done in a turn. The engine may end in the midst of it: nothing is held from one step to the next.
async fn work(quota: &Weak<Inner>, options: &SnapshotOptions) -> Option<Result<(), Error>> {
    let begun = Instant::now();
    let mut walk = match Walk::new(&*quota.upgrade()?) {
        Ok(walk) => walk,
        Err(error) => return Some(Err(error)),
    };
    loop {
        if let Err(error) = walk.read().await {
            return Some(Err(error));
        }
        match walk.step(&quota.upgrade()?).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return Some(Err(error)),
        }
    }
    let SnapshotSummary { workspaces, snapshots, batches } = walk.summary();
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(workspaces, snapshots, batches, ms, "snapshots of usage were taken");
    // Done is done: to look at all workspaces again would help nobody.
    match tidy(quota, options).await? {
        Ok((0, 0)) => {}
        Ok((merged, deleted)) => tracing::info!(merged, deleted, "old snapshots of usage were merged or deleted"),
        Err(error) => {
            tracing::error!(error = %error, "old snapshots can't be merged or deleted before the next are taken")
        }
    }
    Some(Ok(()))
}

/// Merges what is old into days, and deletes what is too old; how many hours and days that were.
async fn tidy(quota: &Weak<Inner>, options: &SnapshotOptions) -> Option<Result<(usize, usize), Error>> {
    let now = Timestamp::now();
    let (mut merged, mut deleted) = (0, 0);
    loop {
        let quota = quota.upgrade()?;
        let store = quota.kept_snapshots().ok()?;
        match quota
            .within("merge old snapshots", || store.condense(options.kept_from(Granularity::Hour, now), OLD))
            .await
        {
            Ok(0) => break,
            Ok(hours) => merged += hours,
            Err(error) => return Some(Err(error)),
        }
    }
    loop {
        let quota = quota.upgrade()?;
        let store = quota.kept_snapshots().ok()?;
        match quota.within("delete old snapshots", || store.forget(options.kept_from(Granularity::Day, now), OLD)).await
        {
            Ok(0) => break,
            Ok(days) => deleted += days,
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok((merged, deleted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_told() {
        assert!(SnapshotOptions::new().check().is_ok());
        for (bad, says) in [
            (SnapshotOptions::new().every(Duration::from_millis(999)), "`every`"),
            (SnapshotOptions::new().every(Duration::from_secs(90_000)), "`every`"),
            (SnapshotOptions::new().take_over_after(Duration::ZERO), "`take_over_after`"),
            (SnapshotOptions::new().keep_hours(0), "`keep_hours`"),
            (SnapshotOptions::new().keep_hours(30).keep_days(29), "`keep_days`"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(error.is_config() && error.message().contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_noted_in_an_hour_comes_to_one() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let read = |time, current| Some(reading(at(time), Usage { current, limit: Limit::of(9) }));
        let first = Noted { at: at("2024-01-01T05:10:00Z"), refusals: 1, read: None };
        let mut all = first;
        all.merge(&Noted { at: at("2024-01-01T05:20:00Z"), refusals: 0, read: read("2024-01-01T05:20:00Z", 7) });
        all.merge(&Noted { at: at("2024-01-01T05:30:00Z"), refusals: 2, read: read("2024-01-01T05:30:00Z", 3) });
        all.merge(&Noted { at: at("2024-01-01T05:15:00Z"), ..first });
        let snapshot = all.read.unwrap();
        assert_eq!((all.at, all.refusals), (at("2024-01-01T05:30:00Z"), 4));
        assert_eq!((snapshot.min, snapshot.last, snapshot.max, snapshot.refusals), (3, 3, 7, 0));
    }
}
