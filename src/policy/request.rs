//! Requests for more.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Somebody's wish for a higher limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct IncreaseRequest {
    /// Its id (a UUID of version 7).
    pub id: Uuid,
    /// For which workspace.
    pub workspace_id: String,
    /// Of which resource type.
    pub resource_type: String,
    /// By how many rows the limit is to grow.
    pub amount: u64,
    /// Why.
    pub reason: String,
    /// Where it stands.
    pub status: RequestStatus,
    /// Who made it.
    pub requested_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Who decided.
    pub decided_by: Option<String>,
    /// When.
    pub decided_at: Option<Timestamp>,
    /// What they said.
    pub note: Option<String>,
    /// Until when it was approved; `None` for good.
    pub expires_at: Option<Timestamp>,
}

/// Where a request stands. From `pending` it goes to one of the others, and stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RequestStatus {
    /// Nobody has decided yet.
    Pending,
    /// The limit was raised.
    Approved,
    /// It wasn't.
    Denied,
    /// Whoever asked needs it no more.
    Withdrawn,
}

impl RequestStatus {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Approved, Self::Denied, Self::Withdrawn];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Withdrawn => "withdrawn",
        }
    }
}
