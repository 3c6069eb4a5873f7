//! Whether thresholds are reached where nobody is at work: rows of a process that died before it looked, or that were made
//! around the engine, and limits that are others' affair.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::{Inner, RETRY};
use crate::decision::Usage;
use crate::error::Error;
use crate::events::Marks;
use crate::mode::EnforcementMode;
use crate::store::QuotaStore;
use crate::usage::UsagePages;

/// When all workspaces are looked at, in use or not. It takes its time, and workspaces in use don't wait for it.
pub(super) struct Sweeps {
    due: Option<Instant>,
    running: JoinSet<Result<(), Error>>,
}

impl Sweeps {
    /// The first is not before transactions have ended that a process before this one may have left.
    pub(super) fn of(quota: &Inner) -> Self {
        Self { due: quota.config.sweep_every.map(|_| quota.first_count), running: JoinSet::new() }
    }

    /// Begins what is due, and takes note of what has ended.
    pub(super) fn go_on(&mut self, quota: &Arc<Inner>) {
        while let Some(ended) = self.running.try_join_next() {
            self.ended(quota, ended);
        }
        if !self.running.is_empty() || quota.config.sweep_every.is_none() {
            return;
        }
        let asked = quota.sweep.swap(false, Ordering::Relaxed);
        if asked || self.due.is_some_and(|due| due <= Instant::now()) {
            self.due = None;
            self.running.spawn(Arc::clone(quota).sweep());
        }
    }

    fn ended(&mut self, quota: &Inner, ended: Result<Result<(), Error>, JoinError>) {
        let now = Instant::now();
        self.due = match ended {
            Ok(Ok(())) => quota.config.sweep_every.map(|every| now + every),
            Ok(Err(error)) if error.is_config() => {
                tracing::info!(error = %error, "thresholds are looked at only where workspaces are in use");
                None
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "the thresholds of all workspaces can't be looked at now");
                Some(now + RETRY * 10)
            }
            Err(panic) => {
                tracing::error!(error = %panic, "the thresholds of all workspaces could not be looked at");
                Some(now + RETRY * 10)
            }
        };
    }
}

impl Inner {
    /// All workspaces are to be looked at soon.
    pub(super) fn sweep_soon(&self) {
        self.sweep.store(true, Ordering::Relaxed);
    }

    /// Has those workspaces looked at that don't seem to be where their marks say.
    async fn sweep(self: Arc<Self>) -> Result<(), Error> {
        let (Some(thresholds), Some(events)) = (&self.config.thresholds, self.store.inner().events()) else {
            return Ok(());
        };
        if self.mode() == EnforcementMode::Off {
            return Ok(());
        }
        let mut pages = UsagePages::new(Arc::clone(&self.usage), &self.catalog);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                return Ok(());
            }
            let parsed = |raw: &str| self.config.workspace_format.parse(raw).ok();
            let page: Vec<_> = page.iter().filter_map(|usage| Some((parsed(&usage.workspace)?, &usage.rows))).collect();
            let names: Vec<_> = page.iter().map(|(workspace, _)| workspace.as_str()).collect();
            let marks = self.within("read thresholds", || events.marks(&names)).await?;
            let marks: HashMap<_, _> =
                marks.into_iter().map(|(workspace, resource, marks)| ((workspace, resource), marks)).collect();
            for (workspace, rows) in &page {
                let lineage = self.within("read the record", || self.store.inner().lineage(workspace)).await?;
                let now = Timestamp::now();
                let differ = self.catalog.iter().zip(*rows).zip(thresholds).any(|((resource, rows), thresholds)| {
                    let usage = Usage { current: *rows, limit: lineage.limit(resource, now) };
                    let key = (workspace.as_str().to_owned(), resource.name().to_owned());
                    let marks = marks.get(&key).copied().unwrap_or_else(Marks::default);
                    thresholds.differ(&marks, usage, now)
                });
                if differ {
                    self.look_again(workspace);
                }
            }
        }
    }
}
