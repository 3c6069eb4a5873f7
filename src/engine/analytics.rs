//! What snapshots say of a workspace, and how they get there from elsewhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::snapshots::{ago, reading};
use super::{Admin, Quota};
use crate::decision::Usage;
use crate::error::Error;
use crate::insight::{Forecast, Granularity, Snapshot, TrendPoint, forecast, trend};
use crate::limit::Limit;
use crate::policy::{AuditAction, AuditEntry};
use crate::resource::{ResourceId, ResourceType};
use crate::store::Reading;
use crate::workspace::WorkspaceId;

/// How many days of history a forecast goes by.
const HISTORY: u32 = 400;

/// The most snapshots that are brought in at once.
const MOST_IMPORTED: usize = 10_000;

/// Usage of a workspace over time, and what is expected of it: see [`Quota::analytics`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Analytics {
    /// By resource type, in the catalog's order.
    pub types: Vec<TypeAnalytics>,
}

/// The same of one resource type.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TypeAnalytics {
    /// Of what.
    pub resource: Arc<ResourceType>,
    /// A point for each bucket of the range, but for those before the first snapshot and those in the future.
    pub trend: Vec<TrendPoint>,
    /// Rows that there are now, and the limit in force.
    pub usage: Usage,
    /// When these will meet.
    pub forecast: Forecast,
}

fn day(at: Timestamp) -> Date {
    Offset::UTC.to_datetime(at).date()
}

/// Usage at the end of each day, of snapshots in the order of time.
fn daily(snapshots: &[Snapshot]) -> Vec<(Date, u64)> {
    let days: BTreeMap<_, _> = snapshots.iter().map(|snapshot| (day(snapshot.at), snapshot.last)).collect();
    days.into_iter().collect()
}

impl Quota {
    /// How usage of a workspace went from `start` to `end` (both inclusive, days of UTC), and when it will reach the limits.
    ///
    /// Buckets are whole, and those in which nothing was read have what was known before, and say so. The bucket that holds
    /// the present moment has what is counted now. Of days that are not kept by the hour any more, the hour in which usage was
    /// read last has what is known of the day. Forecasts go by the last 400 days, whatever the range.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for a range that ends before it begins or has too many buckets; [`Error::is_config`] where the
    /// store keeps no snapshots; those of [`usage`](Self::usage).
    pub async fn analytics(
        &self,
        workspace: &WorkspaceId,
        start: Date,
        end: Date,
        granularity: Granularity,
    ) -> Result<Analytics, Error> {
        let (from, until) = granularity.range(start, end)?;
        let store = self.0.kept_snapshots()?;
        let usage = self.usage(workspace).await?;
        let now = Timestamp::now();
        let since = from.min(ago(now, HISTORY));
        let read = || store.series(workspace.as_str(), since, Timestamp::MAX);
        let mut by_type: HashMap<String, Vec<Snapshot>> = HashMap::new();
        for (resource, snapshot) in self.0.within("read snapshots", read).await? {
            by_type.entry(resource).or_default().push(snapshot);
        }
        // Nothing is known of what is to come.
        let until = until.min(now.checked_add(SignedDuration::from_nanos(1)).unwrap_or(now));
        let (mut types, mut histories) = (Vec::with_capacity(usage.len()), Vec::with_capacity(usage.len()));
        for (resource, usage) in self.0.catalog.iter().zip(usage) {
            let mut snapshots = by_type.remove(resource.name()).unwrap_or_default();
            histories.push((daily(&snapshots), usage));
            snapshots.push(reading(now, usage));
            // The clock of a process that wrote one may be ahead.
            snapshots.sort_by_key(|snapshot| snapshot.at);
            types.push((Arc::clone(resource), trend(&snapshots, granularity, from, until), usage));
        }
        let forecasts = self.forecasts(histories, day(now)).await?;
        let types = types.into_iter().zip(forecasts);
        let types =
            types.map(|((resource, trend, usage), forecast)| TypeAnalytics { resource, trend, usage, forecast });
        Ok(Analytics { types: types.collect() })
    }

    /// On a thread of their own: they compute for some milliseconds each, and wait for nothing.
    async fn forecasts(&self, histories: Vec<(Vec<(Date, u64)>, Usage)>, today: Date) -> Result<Vec<Forecast>, Error> {
        let broke_off = |error| Error::unavailable("a forecast broke off").with_source(error);
        let turn = Arc::clone(&self.0.snapshots.forecasts).acquire_owned().await;
        let turn = turn.map_err(|error| Error::unavailable("no forecasts are made").with_source(error))?;
        let forecasts = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let of = |(history, usage): (Vec<_>, Usage)| forecast(&history, usage.current, usage.limit, today);
            histories.into_iter().map(of).collect()
        });
        forecasts.await.map_err(broke_off)
    }
}

impl Admin {
    /// Brings in history from elsewhere, by the hour or by the day, up to 10,000 snapshots at once: all of them or none.
    ///
    /// Each takes the place of what there is of the same hour or day, a day also of its hours, so that a run that was broken off can be done again.
    /// Several of the same bucket are merged first, in the order of time. Limits and refusals are those of that time.
    ///
    /// ```
    /// use tower_quota::{Error, Granularity, Limit, Quota, Snapshot};
    ///
    /// /// 45 rows at the end of a day on which nothing else is known.
    /// async fn bring_in(quota: &Quota) -> Result<(), Error> {
    ///     let (acme, segments) = (quota.workspace("acme")?, quota.catalog().by_name("segments")?.id());
    ///     let at = "2024-01-30T23:59:59Z".parse().map_err(|_| Error::invalid("no time"))?;
    ///     let day = Snapshot { at, last: 45, min: 45, max: 45, limit: Limit::of(50), refusals: 0 };
    ///     let admin = quota.admin(tower_quota::Actor::new("ann", "migration"));
    ///     admin.import_snapshots(Granularity::Day, &[(acme, segments, day)]).await
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for weeks and months, for more than 10,000, for a snapshot in which `min`, `last` and `max` are not
    /// in this order or that lies in the future, and for one that is older than what is kept by the hour or by the day;
    /// [`Error::is_unknown_resource`]; [`Error::is_config`] where the store keeps no snapshots; [`Error::is_unavailable`].
    pub async fn import_snapshots(
        &self,
        granularity: Granularity,
        history: &[(WorkspaceId, ResourceId, Snapshot)],
    ) -> Result<(), Error> {
        let quota = &self.quota.0;
        let store = quota.kept_snapshots()?;
        if !matches!(granularity, Granularity::Hour | Granularity::Day) {
            return Err(Error::invalid(format!(
                "snapshots are kept by the hour and by the day; bring in the days instead of a {granularity}"
            )));
        }
        if history.len() > MOST_IMPORTED {
            return Err(Error::invalid(format!(
                "up to {MOST_IMPORTED} snapshots can be brought in at once; got {}",
                history.len()
            )));
        }
        let now = Timestamp::now();
        let oldest = match &quota.snapshots.options {
            None => Timestamp::MIN,
            Some(options) => options.kept_from(granularity, now),
        };
        let mut sorted: Vec<_> = history.iter().collect();
        sorted.sort_by_key(|(_, _, snapshot)| snapshot.at);
        let mut buckets: BTreeMap<_, Snapshot> = BTreeMap::new();
        for (workspace, resource, snapshot) in sorted {
            quota.catalog.check(*resource)?;
            let Snapshot { at, last, min, max, .. } = *snapshot;
            if !(min <= last && last <= max && max <= Limit::MAX) {
                return Err(Error::invalid(format!(
                    "a snapshot has min <= last <= max <= 2^63-1; got {min}, {last} and {max} at {at}"
                )));
            }
            if at > now {
                return Err(Error::invalid(format!("a snapshot is of the past; got {at}")));
            }
            if at < oldest {
                let instead = match granularity {
                    Granularity::Hour => "bring in what is older by the day",
                    _ => "what is older would be deleted at once",
                };
                return Err(Error::invalid(format!(
                    "a snapshot by the {granularity} is kept since {oldest}: {instead}; got {at}"
                )));
            }
            let bucket = (workspace, *resource, granularity.start(at));
            buckets.entry(bucket).and_modify(|bucket| bucket.merge(snapshot)).or_insert(*snapshot);
        }
        let workspaces: HashSet<_> = buckets.keys().map(|(workspace, ..)| workspace.as_str()).collect();
        let entry = AuditEntry::new(&self.actor, AuditAction::SnapshotsImported);
        let entry = match workspaces.iter().next() {
            Some(workspace) if workspaces.len() == 1 => entry.workspace(workspace),
            _ => entry,
        };
        let told = json!({"workspaces": workspaces.len(), "snapshots": buckets.len(), "granularity": granularity});
        let entry = entry.change(json!(null), told);
        let readings: Vec<_> = buckets
            .iter()
            .map(|((workspace, resource, _), snapshot)| Reading {
                workspace: workspace.as_str(),
                resource: quota.catalog.get(*resource).name(),
                snapshot: *snapshot,
            })
            .collect();
        quota.within("bring in snapshots", || store.replace(granularity, &readings, &entry)).await
    }
}
