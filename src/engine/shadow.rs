//! What other limits would have refused of the traffic that there is.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use super::reservation::Unit;
use super::{Inner, Quota, Reservation};
use crate::decision::Refusal;
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::resource::{ResourceId, ResourceType};
use crate::workspace::WorkspaceId;

/// How many workspaces and resource types are counted apart.
const MOST: usize = 10_000;

/// Limits that are tried out: see [`Quota::start_shadow`].
#[derive(Debug)]
pub(crate) struct Shadow {
    since: Timestamp,
    limits: LimitSet,
    /// All workspaces where it is `None`.
    only: Option<HashSet<WorkspaceId>>,
    evaluated: AtomicU64,
    refused: AtomicU64,
    by_key: Mutex<HashMap<(WorkspaceId, ResourceId), (u64, u64)>>,
}

/// What limits that are tried out would have refused so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShadowReport {
    /// Since when they are tried out.
    pub since: Timestamp,
    /// Creations that were looked at.
    pub evaluated: u64,
    /// Of them, those that would have been refused.
    pub would_refuse: u64,
    /// Of which workspaces, most refusals first.
    pub workspaces: Vec<ShadowRefusals>,
}

/// The same of one resource type of a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShadowRefusals {
    /// Whose creations.
    pub workspace: WorkspaceId,
    /// Of what.
    pub resource: Arc<ResourceType>,
    /// How many would have been refused.
    pub refusals: u64,
    /// Rows and units in flight at the last of them, its own included.
    pub usage: u64,
    /// The limit that is tried out.
    pub limit: Limit,
}

impl Shadow {
    fn see(&self, workspace: &WorkspaceId, resource: ResourceId, usage: u64) {
        let Some(limit) = self.limits.get(resource) else { return };
        if self.only.as_ref().is_some_and(|only| !only.contains(workspace)) {
            return;
        }
        self.evaluated.fetch_add(1, Ordering::Relaxed);
        if limit.rows().is_none_or(|limit| usage <= limit) {
            return;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (workspace.clone(), resource);
        if by_key.len() < MOST || by_key.contains_key(&key) {
            let (refusals, last) = by_key.entry(key).or_default();
            *refusals += 1;
            *last = usage;
        }
    }
}

impl Inner {
    /// Looks at what was granted as limits that are tried out would have. What was granted under a cap counts once.
    #[cold]
    pub(super) fn shadow_granted(&self, reservation: &Reservation) {
        let Some(shadow) = self.shadow() else { return };
        let own =
            reservation.units().iter().filter_map(Unit::standing).filter(|(tenant, ..)| tenant.id.top().is_none());
        for (tenant, demand, _) in own {
            let used = tenant.key(demand.resource).map_or(0, |key| key.cell.used());
            shadow.see(&tenant.id, demand.resource, used);
        }
    }

    /// The same of what was refused.
    #[cold]
    pub(super) fn shadow_refused(&self, refusal: &Refusal) {
        // What a cap refuses tells nothing of the workspace's own rows.
        let Some(shadow) = self.shadow().filter(|_| refusal.cap.is_none()) else { return };
        let usage =
            refusal.current_usage.saturating_add(refusal.reserved.unwrap_or(0)).saturating_add(refusal.requested);
        shadow.see(&refusal.workspace, refusal.resource.id(), usage);
    }

    fn shadow(&self) -> Option<Arc<Shadow>> {
        self.shadow.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Quota {
    /// Tries limits out on the traffic from now on, without enforcing them: in all workspaces, or in some. It takes the place of
    /// what was tried out before.
    ///
    /// It is this process that looks, at the traffic that it has; each replica has a report of its own. Its units in flight
    /// count as rows; what other replicas did since they last spoke to the ledger doesn't. Requests that a cap refuses are
    /// left out.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for no limits.
    pub fn start_shadow(&self, limits: LimitSet, only: Option<HashSet<WorkspaceId>>) -> Result<(), Error> {
        if limits.is_empty() {
            return Err(Error::invalid("there are no limits to be tried out: name one at least"));
        }
        let shadow = Shadow {
            since: Timestamp::now(),
            limits,
            only,
            evaluated: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            by_key: Mutex::default(),
        };
        *self.0.shadow.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(shadow));
        self.0.shadowing.store(true, Ordering::Release);
        Ok(())
    }

    /// What limits that are tried out would have refused; names up to `most` workspaces. `None` where none are.
    pub fn shadow(&self, most: usize) -> Option<ShadowReport> {
        let shadow = self.0.shadow()?;
        let by_key = shadow.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals = |((workspace, resource), (refusals, usage)): (&(WorkspaceId, ResourceId), &(u64, u64))| {
            let limit = shadow.limits.get(*resource)?;
            let resource = Arc::clone(self.0.catalog.get(*resource));
            Some(ShadowRefusals { workspace: workspace.clone(), resource, refusals: *refusals, usage: *usage, limit })
        };
        let mut workspaces: Vec<_> = by_key.iter().filter_map(refusals).collect();
        workspaces
            .sort_by(|one, other| other.refusals.cmp(&one.refusals).then_with(|| one.workspace.cmp(&other.workspace)));
        workspaces.truncate(most);
        Some(ShadowReport {
            since: shadow.since,
            evaluated: shadow.evaluated.load(Ordering::Relaxed),
            would_refuse: shadow.refused.load(Ordering::Relaxed),
            workspaces,
        })
    }

    /// Tries limits out no longer; answers what they would have refused.
    pub fn stop_shadow(&self, most: usize) -> Option<ShadowReport> {
        let report = self.shadow(most);
        self.0.shadowing.store(false, Ordering::Release);
        *self.0.shadow.write().unwrap_or_else(PoisonError::into_inner) = None;
        report
    }
}
