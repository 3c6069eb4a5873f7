//! What the metrics tell of what there is at a time: looked at every second, off the path of requests.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Inner;
use super::tenant::Tenant;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// How often the outbox is, in looks: it is in a database that all processes share.
const OUTBOX_EVERY: u64 = 5;

/// Looks for as long as there is an engine; into the outbox, too, where this process `delivers`.
pub(super) async fn measure(quota: Weak<Inner>, delivers: bool) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut busy = HashMap::new();
    for look in 0_u64.. {
        ticks.tick().await;
        let Some(quota) = quota.upgrade() else { return };
        quota.metrics.flush();
        quota.measure_holdings(&mut busy);
        if delivers && look % OUTBOX_EVERY == 0 {
            quota.measure_outbox().await;
        }
    }
}

impl Inner {
    /// `busy` are the workspaces that had requests in flight when last looked at, by where they are in memory.
    fn measure_holdings(&self, busy: &mut HashMap<usize, Arc<Tenant>>) {
        // Of all others it is known that they have none: nobody has looked them up since.
        let place = |tenant: &Arc<Tenant>| Arc::as_ptr(tenant).addr();
        busy.extend(self.tenants.take_busy().into_iter().map(|tenant| (place(&tenant), tenant)));
        let mut reserved = vec![0_u64; self.catalog.len()];
        busy.retain(|_, tenant| {
            // What those may become who went out of use for others is in the books of those, and what counts for a subtree counts
            // for a workspace, too.
            if tenant.id.top().is_some() || tenant.retired() && !tenant.leased {
                return false;
            }
            for (index, key) in tenant.keys() {
                reserved[index] = reserved[index].saturating_add(key.cell.in_flight());
            }
            !tenant.is_idle()
        });
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let replicas = self.replica.as_ref().map_or(1, |replica| replica.peers());
        self.metrics.holds(count(self.tenants.len()), &reserved, count(self.tenants.leases()), replicas);
    }

    async fn measure_outbox(&self) {
        let Some(events) = self.store.inner().events() else { return };
        // A failure is told of by itself.
        if let Ok((pending, dead)) = self.within("read the outbox", || events.depth()).await {
            self.metrics.outbox(pending, dead);
        }
    }
}
