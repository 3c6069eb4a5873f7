//! How full workspaces are, to list them by: what the watch of thresholds sees anyway, and what somebody looks at.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::watch::Seen;
use super::{Inner, Quota};
use crate::decision::Usage;
use crate::error::Error;
use crate::events::{Threshold, Thresholds};
use crate::resource::ResourceId;
use crate::store::{Fullness, Overview, OverviewStore, QuotaRecord, QuotaStore, Wanted};
use crate::workspace::WorkspaceId;

/// How often a workspace is noted at most.
const EVERY: Duration = Duration::from_secs(3);

/// How many are noted at once: the rest is for the next time.
const AT_ONCE: usize = 500;

/// What is to be noted of a workspace.
#[derive(Debug)]
pub(super) struct Figures {
    /// By resource type, where anything is known.
    usage: Box<[Option<Usage>]>,
    changed: bool,
    noted: Option<Instant>,
}

impl Figures {
    pub(super) fn new(resources: usize) -> Self {
        Self { usage: vec![None; resources].into(), changed: false, noted: None }
    }

    pub(super) fn take(&mut self, resource: ResourceId, usage: Usage) {
        self.changed |= self.usage[resource.index()].replace(usage) != Some(usage);
    }

    fn is_due(&self, now: Instant) -> bool {
        self.changed && self.noted.is_none_or(|noted| now.duration_since(noted) >= EVERY)
    }

    /// Whether there is something that has not been noted yet.
    pub(super) fn waits(&self) -> bool {
        self.changed
    }
}

impl Inner {
    /// Notes what has changed, in the store that keeps it.
    pub(super) async fn note_figures(&self, seen: &mut HashMap<WorkspaceId, Seen>, now: Instant) {
        let Some(store) = self.store.inner().overview() else {
            seen.values_mut().for_each(|known| known.figures.changed = false);
            return;
        };
        let at = Timestamp::now();
        let mut due = Vec::new();
        for (workspace, known) in seen.iter_mut().filter(|(_, known)| known.figures.is_due(now)).take(AT_ONCE) {
            (known.figures.changed, known.figures.noted) = (false, Some(now));
            due.push(self.overview_of(workspace, &known.figures.usage, at));
        }
        if due.is_empty() {
            return;
        }
        if let Err(error) = self.within("note how full workspaces are", || store.note(&due)).await {
            // It is noted again with the next change, and with the next snapshot.
            tracing::debug!(error = %error, "how full workspaces are can't be noted now");
        }
    }

    fn overview_of(&self, workspace: &WorkspaceId, usage: &[Option<Usage>], at: Timestamp) -> Overview {
        let known = self
            .catalog
            .iter()
            .zip(usage)
            .filter_map(|(resource, usage)| Some((resource.name().to_owned(), (*usage)?)));
        Overview { workspace: workspace.as_str().to_owned(), at, usage: known.collect() }
    }
}

impl Quota {
    fn overviews(&self) -> Result<&dyn OverviewStore, Error> {
        self.0.store.inner().overview().ok_or_else(|| {
            Error::config("this store keeps no list of workspaces: that needs a SqliteStore or a PostgresStore")
        })
    }

    /// Some workspaces, by how full they were when they were last looked at.
    pub(crate) async fn overview(&self, wanted: &Wanted) -> Result<Vec<Overview>, Error> {
        let store = self.overviews()?;
        self.0.within("list workspaces", || store.page(wanted)).await
    }

    /// What is known of these workspaces, by their ids.
    pub(crate) async fn overview_of(&self, workspaces: &[&str]) -> Result<BTreeMap<String, Overview>, Error> {
        let store = self.overviews()?;
        let known = self.0.within("list workspaces", || store.overviews(workspaces)).await?;
        Ok(known.into_iter().map(|known| (known.workspace.clone(), known)).collect())
    }

    /// How many workspaces are that full, counted up to `most`.
    pub(crate) async fn crowd(&self, fullness: Fullness, most: usize) -> Result<usize, Error> {
        let store = self.overviews()?;
        self.0.within("count workspaces", || store.crowd(fullness, most)).await
    }

    /// The record of a workspace, where there is one: to look at it makes none.
    pub(crate) async fn record_if_any(&self, workspace: &WorkspaceId) -> Result<Option<QuotaRecord>, Error> {
        Ok(self.0.reread(workspace).await?.record().cloned())
    }

    /// From which percentages on a resource type is told to be nearly full, and to be full.
    pub(crate) fn threshold_percents(&self, resource: ResourceId) -> [u32; 3] {
        let of = |thresholds: &Thresholds| Threshold::ALL.map(|threshold| thresholds.percent(threshold));
        match &self.0.config.thresholds {
            Some(thresholds) => of(&thresholds[resource.index()]),
            None => of(&Thresholds::default()),
        }
    }

    /// Live counts beside the limits in force, which are noted where they are not what was known.
    pub(crate) async fn look(&self, workspace: &WorkspaceId) -> Result<Vec<Usage>, Error> {
        let usage = self.usage(workspace).await?;
        if self.0.store.inner().overview().is_some() {
            let seen: Vec<_> = usage.iter().copied().map(Some).collect();
            let seen = self.0.overview_of(workspace, &seen, Timestamp::now());
            let known = self.overview_of(&[workspace.as_str()]).await?;
            if known.get(workspace.as_str()).is_none_or(|known| known.usage != seen.usage) {
                let store = self.overviews()?;
                let seen = [seen];
                self.0.within("note how full a workspace is", || store.note(&seen)).await?;
            }
        }
        Ok(usage)
    }
}
