//! What a granted demand is: units that are the caller's until it tells how they ended.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "postgres")]
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

use super::abandoned::Abandoned;
use super::tallies::Tally;
use super::tenant::{Key, Tenant};
use crate::decision::{Demand, Refusal};
#[cfg(feature = "postgres")]
use crate::fence;
use crate::ledger::Standing;
use crate::resource::ResourceId;
use crate::workspace::WorkspaceId;

/// Units of one key, held.
///
/// Ends exactly once: by one of its methods, or by being dropped, which gives the units back if nobody could have
/// used them yet, and hands them to the settling of abandoned units otherwise.
#[derive(Debug)]
pub(crate) struct Unit {
    // `None` once it has ended.
    tenant: Option<Arc<Tenant>>,
    resource: ResourceId,
    units: u64,
    kind: Kind,
    begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Rows to be created.
    Create,
    /// Rows that existed when their edit began.
    Edit,
    /// Rows that units of other books may become, in those that don't know of them.
    Owed,
}

impl Kind {
    /// The rows exist now, or may exist.
    pub(crate) fn post(self, key: &Key, units: u64) {
        if let (Self::Create, Some(tally)) = (self, &key.tally) {
            // First, so that a count sees what the books have.
            tally.post(units);
        }
        key.wake_if(match self {
            Self::Create | Self::Owed => key.cell.post(units),
            Self::Edit => key.cell.end_edit(units),
        });
    }

    /// Nobody will ever know what was done.
    pub(crate) fn lose(self, key: &Key, units: u64) {
        match self {
            Self::Create | Self::Owed => key.cell.lose(units),
            Self::Edit => key.cell.lose_edit(units),
        }
    }

    /// Nothing was done, and nothing can be done any more.
    fn void(self, key: &Key, units: u64) {
        key.wake_if(match self {
            Self::Create | Self::Owed => key.cell.give_back(units),
            Self::Edit => key.cell.end_edit(units),
        });
        if let (Self::Create, Some(tally)) = (self, &key.tally) {
            tally.void(units);
        }
    }
}

impl Unit {
    /// Takes `demand` from its key at once, if the pool holds enough, and the store knows of all rows that may come of it.
    #[inline]
    pub(crate) fn try_take(tenant: Arc<Tenant>, demand: Demand) -> Option<Self> {
        let Demand { resource, units } = demand;
        let key = tenant.key(resource)?;
        key.cell.try_take(units)?;
        // The key is looked up once: this is the hot path.
        let covered = key.tally.as_ref().is_none_or(|tally| {
            tally.take(units);
            tally.is_covered()
        });
        let unit = Self::new(tenant, resource, units);
        // Dropped, it goes back.
        covered.then_some(unit)
    }

    /// `units` that the caller has taken from the key.
    pub(crate) fn taken(tenant: Arc<Tenant>, resource: ResourceId, units: u64) -> Self {
        if let Some(tally) = tenant.key(resource).and_then(|key| key.tally.as_ref()) {
            tally.take(units);
        }
        Self::new(tenant, resource, units)
    }

    #[inline]
    fn new(tenant: Arc<Tenant>, resource: ResourceId, units: u64) -> Self {
        Self { tenant: Some(tenant), resource, units, kind: Kind::Create, begun: false }
    }

    /// An edit of `units` rows that the caller has begun. Those that turn out not to exist end it in part.
    pub(crate) fn edit(tenant: Arc<Tenant>, resource: ResourceId, units: u64) -> Self {
        Self { tenant: Some(tenant), resource, units, kind: Kind::Edit, begun: false }
    }

    /// `units` that requests of other books may still turn into rows.
    pub(crate) fn owed(tenant: Arc<Tenant>, resource: ResourceId, units: u64) -> Self {
        Self { tenant: Some(tenant), resource, units, kind: Kind::Owed, begun: false }
    }

    /// Where its rows are tallied, if this process does that.
    pub(super) fn tally(&self) -> Option<&Arc<Tally>> {
        let tenant = self.tenant.as_ref().filter(|_| self.kind == Kind::Create)?;
        tenant.key(self.resource)?.tally.as_ref()
    }

    /// Whether new rows may come of it.
    fn makes(&self) -> bool {
        self.kind == Kind::Create && self.units > 0
    }

    #[inline]
    pub(crate) fn resource(&self) -> ResourceId {
        self.resource
    }

    /// Whose it is; `None` once it has ended.
    pub(crate) fn tenant(&self) -> Option<&Arc<Tenant>> {
        self.tenant.as_ref()
    }

    /// Only `units` of the rows exist.
    pub(crate) fn shrink_to(&mut self, units: u64) {
        let missing = self.units.saturating_sub(units);
        if let Some(key) = self.tenant.as_ref().and_then(|tenant| tenant.key(self.resource)) {
            self.kind.void(key, missing);
        }
        self.units = units;
    }

    /// The limit in force, and how many units are left under it; `None` without a limit or once it has ended.
    pub(crate) fn room(&self) -> Option<(ResourceId, u64, u64)> {
        let standing = self.tenant.as_ref()?.key(self.resource)?.cell.standing();
        standing.counted?;
        Some((self.resource, standing.limit?, standing.remaining))
    }

    /// What it is of and where that stands, for new rows; `None` for edits, and once it has ended.
    pub(crate) fn standing(&self) -> Option<(&Tenant, Demand, Standing)> {
        let tenant = self.tenant.as_ref().filter(|_| self.kind == Kind::Create)?;
        let standing = tenant.key(self.resource)?.cell.standing();
        Some((tenant, Demand::new(self.resource, self.units), standing))
    }

    #[inline]
    fn end(&mut self, end: impl FnOnce(&Key)) {
        let Some(tenant) = self.tenant.take() else { return };
        if let Some(key) = tenant.key(self.resource) {
            end(key);
        }
    }

    #[inline]
    pub(crate) fn post(mut self) {
        let (units, kind) = (self.units, self.kind);
        self.end(|key| kind.post(key, units));
    }

    #[inline]
    fn void(mut self) {
        let (units, kind) = (self.units, self.kind);
        self.end(|key| kind.void(key, units));
    }

    /// `rows` of the units became rows; the others can't any more.
    fn post_some(&mut self, rows: u64) {
        let (rows, units, kind) = (rows.min(self.units), self.units, self.kind);
        self.end(|key| {
            kind.post(key, rows);
            kind.void(key, units - rows);
        });
    }
}

impl Drop for Unit {
    #[inline]
    fn drop(&mut self) {
        let (units, resource, kind) = (self.units, self.resource, self.kind);
        if !self.begun {
            return self.end(|key| kind.void(key, units));
        }
        let Some(tenant) = self.tenant.take() else { return };
        let outlet = Arc::clone(&tenant.outlet);
        outlet.abandon(Abandoned { tenant, resource, units, kind, since: Instant::now() });
    }
}

/// The units of a request, most often of one key.
#[derive(Debug, Default)]
pub(crate) enum Units {
    #[default]
    None,
    One(Unit),
    Many(Vec<Unit>),
}

impl Units {
    #[inline]
    pub(crate) fn push(&mut self, unit: Unit) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(unit),
            Self::One(first) => Self::Many(vec![first, unit]),
            Self::Many(mut units) => {
                units.push(unit);
                Self::Many(units)
            }
        };
    }

    pub(crate) fn as_slice(&self) -> &[Unit] {
        match self {
            Self::None => &[],
            Self::One(unit) => std::slice::from_ref(unit),
            Self::Many(units) => units,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Unit] {
        match self {
            Self::None => &mut [],
            Self::One(unit) => std::slice::from_mut(unit),
            Self::Many(units) => units,
        }
    }

    #[inline]
    fn for_each(self, mut end: impl FnMut(Unit)) {
        match self {
            Self::None => {}
            Self::One(unit) => end(unit),
            Self::Many(units) => units.into_iter().for_each(end),
        }
    }
}

/// Units that may be turned into rows.
///
/// It ends exactly once. [`post`](Self::post) it when the rows exist, [`void`](Self::void) it when no transaction that
/// would make them can still begin or commit. Dropped, its outcome is *unknown*: the units stay taken until the
/// engine's [`Settling`](crate::Settling) says that no abandoned transaction can commit any more, and a count then tells
/// how many rows there are. So a dropped reservation costs time, and never a row too many.
///
/// Drop the transaction before the reservation: declare the reservation first.
#[must_use = "a reservation that is dropped counts as abandoned"]
pub struct Reservation {
    units: Units,
    warnings: Box<[Refusal]>,
    /// By what fences of it are known as such; 0 before the first.
    #[cfg(feature = "postgres")]
    number: AtomicU64,
}

impl Reservation {
    /// The reservation of a request that needs none.
    pub(crate) fn nothing() -> Self {
        Self::of(Units::None)
    }

    #[inline]
    pub(crate) fn of(units: Units) -> Self {
        Self::warned(units, Box::default())
    }

    /// The reservation of a request that passes although some of it is over the limit.
    #[inline]
    pub(crate) fn warned(units: Units, warnings: Box<[Refusal]>) -> Self {
        Self {
            units,
            warnings,
            #[cfg(feature = "postgres")]
            number: AtomicU64::new(0),
        }
    }

    /// Holds some more units.
    pub(crate) fn and(mut self, units: Units) -> Self {
        units.for_each(|unit| self.units.push(unit));
        self
    }

    /// Gives back all but the units of `demands`, one for each resource type. `false`, and nothing happens, if they are
    /// too few.
    pub(crate) fn shrink_to(&mut self, demands: &[Demand]) -> bool {
        let held = |demand: &Demand| {
            self.units().iter().any(|unit| unit.resource == demand.resource && unit.units >= demand.units)
        };
        let enough = demands.iter().all(held);
        if enough {
            for unit in self.units.as_mut_slice() {
                let demand = demands.iter().find(|demand| demand.resource == unit.resource);
                unit.shrink_to(demand.map_or(0, |demand| demand.units));
            }
        }
        enough
    }

    /// From now on a transaction may make rows: to be dropped is no longer to be void.
    #[inline]
    pub(crate) fn begin(&mut self) {
        for unit in self.units.as_mut_slice() {
            unit.begun = true;
        }
    }

    /// All rows exist.
    #[inline]
    pub fn post(self) {
        self.units.for_each(Unit::post);
    }

    /// No row exists, and none can come to exist.
    #[inline]
    pub fn void(self) {
        self.units.for_each(Unit::void);
    }

    /// `rows` of `resource` exist, and no more can come to exist; call it for each resource type that was reserved,
    /// those that it was not called for end with the reservation.
    pub fn post_some(&mut self, resource: ResourceId, rows: u64) {
        for unit in self.units.as_mut_slice().iter_mut().filter(|unit| unit.resource == resource) {
            unit.post_some(rows);
        }
    }

    /// Whether units are on lease from another place.
    #[cfg(feature = "postgres")]
    #[inline]
    pub(crate) fn is_leased(&self) -> bool {
        self.units().first().and_then(|unit| unit.tenant.as_ref()).is_some_and(|tenant| tenant.leased)
    }

    /// What ties transactions that make the rows to the units; empty where units are not on lease.
    #[cfg(feature = "postgres")]
    pub fn fence(&self) -> crate::Fence {
        let units = self.units().iter().filter_map(|unit| {
            let lease = unit.tenant.as_ref()?.key(unit.resource)?.lease()?;
            let units = match unit.kind {
                Kind::Create | Kind::Owed => fence::Units { made: unit.units, edited: 0 },
                Kind::Edit => fence::Units { made: 0, edited: unit.units },
            };
            Some((lease, units))
        });
        crate::Fence::new(self.number(), units)
    }

    #[cfg(feature = "postgres")]
    fn number(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = self.number.load(Ordering::Relaxed);
        if number > 0 {
            return number;
        }
        let new = NEXT.fetch_add(1, Ordering::Relaxed);
        // Another thread may have numbered it meanwhile.
        self.number.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|first| first, |_| new)
    }

    /// Whether new rows of `resource` may come of it.
    pub(crate) fn makes(&self, resource: ResourceId) -> bool {
        self.units().iter().any(|unit| unit.resource == resource && unit.makes())
    }

    /// Whether new rows of anything may.
    pub(crate) fn makes_any(&self) -> bool {
        self.units().iter().any(Unit::makes)
    }

    /// What was over the limit, in a mode that lets it pass.
    pub fn warnings(&self) -> &[Refusal] {
        &self.warnings
    }

    pub(crate) fn units(&self) -> &[Unit] {
        self.units.as_slice()
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units: Vec<_> = self.units().iter().map(|unit| (unit.resource, unit.units)).collect();
        f.debug_struct("Reservation").field("units", &units).field("warnings", &self.warnings).finish()
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tenant").field(&self.id as &WorkspaceId).finish()
    }
}
