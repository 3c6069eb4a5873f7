//! How a limit comes to be: what was set for a workspace, its plan, its parents, and what wins. Pure values.

mod audit;
mod grace;
mod lineage;
mod plan;
mod request;
mod settings;

pub use audit::{Actor, AuditAction, AuditEntry, AuditFilter, AuditPage};
pub use grace::{Grace, GraceUse};
pub(crate) use lineage::{Above, Resolution, raised};
pub use lineage::{CapOver, Kin, LimitSource, Lineage, Trace, TraceStep};
pub use plan::Plan;
pub use request::{IncreaseRequest, RequestStatus};
pub use settings::{Settings, TemporaryOverride};

/// How many ancestors a workspace may have.
pub(crate) const MAX_ANCESTORS: usize = 8;

/// `percent` of `whole`, rounded down; all of a limit that is none is none, nothing of it is nothing.
pub(crate) fn percent_of(whole: crate::Limit, percent: u32) -> crate::Limit {
    match whole.rows() {
        Some(rows) => {
            let part = u128::from(rows) * u128::from(percent) / 100;
            let part = u64::try_from(part).unwrap_or(u64::MAX).min(crate::Limit::MAX);
            crate::Limit::finite(part).unwrap_or(crate::Limit::Unlimited)
        }
        None if percent == 0 => crate::Limit::of(0),
        None => crate::Limit::Unlimited,
    }
}
