//! What became of workspaces in a period.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use jiff::civil::Date;

use super::{Inner, Quota};
use crate::error::Error;
use crate::insight::{Granularity, Period, ReportRow};
use crate::workspace::WorkspaceId;

/// How many workspaces are read at once, unless [`ReportPages::page`] says otherwise.
const PAGE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// A report on all workspaces of which there are snapshots, in the order of the bytes of their ids, a page of them at a time:
/// see [`Quota::reports`].
pub struct ReportPages {
    quota: Arc<Inner>,
    period: Period,
    date: Date,
    page: NonZeroUsize,
    /// The last that was read.
    after: Option<String>,
}

impl fmt::Debug for ReportPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportPages")
            .field("period", &self.period)
            .field("date", &self.date)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl Quota {
    /// What became of a workspace in the period that holds `date`: a row for each resource type, in the catalog's order.
    ///
    /// Usage, limits and refusals are those of the snapshots of that time: see
    /// [`QuotaBuilder::snapshots`](crate::QuotaBuilder::snapshots). Uses of grace and changes of limits are those of the audit
    /// log. There, a plan or a parent that a workspace got counts as a change of each type; what was changed of the plan or of
    /// the parent itself doesn't count.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] where the store keeps no snapshots; [`Error::is_unavailable`].
    pub async fn report(&self, workspace: &WorkspaceId, period: Period, date: Date) -> Result<Vec<ReportRow>, Error> {
        self.0.report_rows(&[workspace.as_str()], period, date).await
    }

    /// The same of all workspaces of which there ever was a snapshot, a page at a time.
    ///
    /// ```
    /// use jiff::civil::date;
    /// use tower_quota::{Error, Period, Quota, ReportRow};
    ///
    /// async fn write(quota: &Quota) -> Result<Vec<u8>, Error> {
    ///     let mut pages = quota.reports(Period::Monthly, date(2024, 1, 31))?;
    ///     let mut csv = ReportRow::csv_header()?;
    ///     while let Some(rows) = pages.next().await? {
    ///         csv.extend(ReportRow::csv(&rows)?);
    ///     }
    ///     Ok(csv)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] where the store keeps no snapshots.
    pub fn reports(&self, period: Period, date: Date) -> Result<ReportPages, Error> {
        self.0.kept_snapshots()?;
        Ok(ReportPages { quota: Arc::clone(&self.0), period, date, page: PAGE, after: None })
    }
}

impl ReportPages {
    /// How many workspaces are read at once, of up to 1000; 100 where nothing is said.
    #[must_use]
    pub fn page(mut self, workspaces: NonZeroUsize) -> Self {
        self.page = workspaces.min(NonZeroUsize::MIN.saturating_add(999));
        self
    }

    /// The rows of the next workspaces; `None` when there are no more. Memory doesn't grow with their number.
    ///
    /// # Errors
    ///
    /// [`Error::is_unavailable`]. The next call goes on where this one failed.
    pub async fn next(&mut self) -> Result<Option<Vec<ReportRow>>, Error> {
        let store = self.quota.kept_snapshots()?;
        let list = || store.workspaces(self.after.as_deref(), self.page.get());
        let mut workspaces = self.quota.within("list workspaces", list).await?;
        let names: Vec<_> = workspaces.iter().map(String::as_str).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let rows = self.quota.report_rows(&names, self.period, self.date).await?;
        self.after = workspaces.pop();
        Ok(Some(rows))
    }
}

impl Inner {
    async fn report_rows(&self, workspaces: &[&str], period: Period, date: Date) -> Result<Vec<ReportRow>, Error> {
        let (start, end) = period.range(date);
        let (from, until) = Granularity::Day.range(start, end)?;
        let store = self.kept_snapshots()?;
        let totals = self.within("read snapshots", || store.totals(workspaces, from, until)).await?;
        let audited = self.within("read the audit log", || store.audited(workspaces, from, until)).await?;
        let totals: HashMap<_, _> = totals
            .iter()
            .map(|(workspace, resource, total)| ((workspace.as_str(), resource.as_str()), total))
            .collect();
        let mut times: HashMap<_, u64> = HashMap::new();
        for of in &audited {
            *times.entry((of.workspace.as_str(), of.resource.as_deref(), of.grace)).or_default() += of.times;
        }
        let mut rows = Vec::with_capacity(workspaces.len() * self.catalog.len());
        for workspace in workspaces {
            let id = WorkspaceId::canonical(workspace);
            for resource in self.catalog.iter().map(|resource| resource.name()) {
                let mut row = ReportRow::new(id.clone(), resource, period, date);
                if let Some(total) = totals.get(&(*workspace, resource)) {
                    row = row.with_usage(total);
                }
                let times = |resource, grace| times.get(&(*workspace, resource, grace)).copied().unwrap_or_default();
                row.grace_uses = Some(times(Some(resource), true));
                row.limit_changes = Some(times(Some(resource), false) + times(None, false));
                rows.push(row);
            }
        }
        Ok(rows)
    }
}
