//! What decisions are made by, for whoever asks why.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::Level;

use super::Inner;
use super::reservation::{Reservation, Unit};
use super::tenant::Limits;
use crate::decision::{DecisionReceipt, Demand, Evidence};
use crate::ledger::Standing;
use crate::limit::Limit;
use crate::workspace::WorkspaceId;

impl Inner {
    /// Logs what a reservation was granted by, where anybody listens; answers it where it is `wanted`.
    // Both are rare: without them, nothing is looked up.
    #[inline]
    pub(crate) fn explain(&self, reservation: &Reservation, wanted: bool) -> Option<Box<DecisionReceipt>> {
        if self.shadowing.load(Ordering::Relaxed) {
            self.shadow_granted(reservation);
        }
        if !wanted && !tracing::enabled!(target: DecisionReceipt::TARGET, Level::DEBUG) {
            return None;
        }
        let receipt = self.receipt(reservation)?;
        receipt.log();
        wanted.then(|| Box::new(receipt))
    }

    /// What a reservation was granted by; `None` where it is for no new rows.
    pub(crate) fn receipt(&self, reservation: &Reservation) -> Option<DecisionReceipt> {
        let standings = reservation.units().iter().filter_map(Unit::standing);
        let standings: Vec<_> = standings.filter(|(tenant, ..)| tenant.id.top().is_none()).collect();
        let (tenant, ..) = standings.first()?;
        let workspace = tenant.id.clone();
        let mut evidence: Vec<_> = standings
            .into_iter()
            .map(|(tenant, demand, standing)| {
                let limits = tenant.limits();
                // A key is in use before its limits are known, for requests that pass undecided.
                let unknown = limits.is_none();
                let evidence = self.evidence(limits, demand, standing);
                if unknown { Evidence { limit: None, ..evidence } } else { evidence }
            })
            .collect();
        evidence.sort_unstable_by_key(|evidence| evidence.resource.id());
        Some(DecisionReceipt { workspace, admitted: true, promise: self.promise(), evidence })
    }

    /// What a demand was refused by: the books of `of`.
    pub(crate) fn refusal_receipt(&self, of: &WorkspaceId, demand: Demand, standing: Standing) -> DecisionReceipt {
        let limits = self.tenants.get(of.as_str()).and_then(|tenant| tenant.limits());
        let evidence = vec![self.evidence(limits, demand, standing)];
        DecisionReceipt {
            workspace: of.top().unwrap_or_else(|| of.clone()),
            admitted: false,
            promise: self.promise(),
            evidence,
        }
    }

    fn evidence(&self, limits: Option<Limits>, demand: Demand, standing: Standing) -> Evidence {
        let in_force = |limits: &Limits| limits.by_resource[demand.resource.index()].rows() == standing.limit;
        let of_record = limits.filter(|limits| limits.record.is_some() && in_force(limits));
        Evidence {
            resource: Arc::clone(self.catalog.get(demand.resource)),
            requested: demand.units,
            limit: Some(standing.limit.map_or(Ok(Limit::Unlimited), Limit::finite).unwrap_or(Limit::Unlimited)),
            limit_version: of_record.map(|limits| limits.version),
            counted: standing.counted,
            posted: standing.posted,
            leased: standing.reserved,
            count_age: standing.counted.map(|_| self.clock.since(standing.counted_at)),
        }
    }
}
