//! Who changed what.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who makes a change, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    subject: Arc<str>,
    origin: Arc<str>,
}

impl Actor {
    /// `subject`, by way of `origin`: for example `ann`, by way of `api 192.0.2.7`.
    pub fn new(subject: impl Into<Arc<str>>, origin: impl Into<Arc<str>>) -> Self {
        Self { subject: subject.into(), origin: origin.into() }
    }

    /// The host's code, where nobody is named.
    pub fn library() -> Self {
        Self::new("library", "library")
    }

    /// The engine itself.
    pub(crate) fn engine() -> Self {
        Self::new("engine", "engine")
    }

    /// Who.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// From where.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AuditAction {
    /// A limit was set, or taken back.
    LimitSet,
    /// A plan was made.
    PlanCreated,
    /// The limits of a plan were changed.
    PlanChanged,
    /// A plan was deleted.
    PlanDeleted,
    /// A workspace got another plan, or none.
    PlanAssigned,
    /// A workspace got another parent, or none.
    ParentSet,
    /// The share of the parent's limit was set.
    ShareSet,
    /// The cap of a workspace and all below it was set.
    CapSet,
    /// An enforcement mode was set.
    ModeSet,
    /// A temporary override was made.
    OverrideCreated,
    /// A temporary override was ended before its time.
    OverrideEnded,
    /// A temporary override came to its end.
    OverrideExpired,
    /// The grace of a workspace was set.
    GraceSet,
    /// Grace began with a first overrun.
    GraceStarted,
    /// A row was allowed by grace.
    GraceUsed,
    /// Usage fell below the limit: grace can begin anew.
    GraceRearmed,
    /// More was asked for.
    RequestMade,
    /// A request was approved.
    RequestApproved,
    /// A request was denied.
    RequestDenied,
    /// A request was withdrawn.
    RequestWithdrawn,
    /// A recount found another number than was believed.
    RecountDrift,
    /// The rows of a type that the ledger alone counts were set.
    TallySet,
    /// Rows above a limit were archived or deleted.
    Cleanup,
    /// A limit was imported from usage.
    Imported,
    /// The record of a workspace was deleted.
    WorkspaceDeleted,
    /// An endpoint for events was added.
    EndpointAdded,
    /// An endpoint was changed, or got a new secret.
    EndpointChanged,
    /// An endpoint was deleted.
    EndpointRemoved,
    /// The e-mail addresses of a workspace's admins were set.
    ContactsSet,
    /// Snapshots of usage were brought in from elsewhere.
    SnapshotsImported,
}

/// One change. Entries are never altered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its place in the log; 0 before it is there.
    #[serde(default)]
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// From where.
    pub origin: String,
    /// What was done.
    pub action: AuditAction,
    /// To which workspace.
    pub workspace_id: Option<String>,
    /// To which resource type.
    pub resource_type: Option<String>,
    /// What there was before.
    pub old: Value,
    /// What there is now.
    pub new: Value,
    /// Why.
    pub reason: Option<String>,
}

impl AuditEntry {
    /// An entry of now.
    pub fn new(actor: &Actor, action: AuditAction) -> Self {
        Self {
            seq: 0,
            at: Timestamp::now(),
            actor: actor.subject().to_owned(),
            origin: actor.origin().to_owned(),
            action,
            workspace_id: None,
            resource_type: None,
            old: Value::Null,
            new: Value::Null,
            reason: None,
        }
    }

    /// About this workspace.
    #[must_use]
    pub fn workspace(mut self, workspace: &str) -> Self {
        self.workspace_id = Some(workspace.to_owned());
        self
    }

    /// About this resource type.
    #[must_use]
    pub fn resource(mut self, resource: &str) -> Self {
        self.resource_type = Some(resource.to_owned());
        self
    }

    /// What there was, and what there is.
    #[must_use]
    pub fn change(mut self, old: impl Into<Value>, new: impl Into<Value>) -> Self {
        (self.old, self.new) = (old.into(), new.into());
        self
    }

    /// Why.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.reason = reason.into();
        self
    }
}

/// Which entries to list; all where nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct AuditFilter {
    /// About this workspace.
    pub workspace: Option<String>,
    /// About this resource type.
    pub resource: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// Older than the entry with this `seq`.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

/// Some entries, the newest first.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins ([`AuditFilter::before`]); `None` at the end.
    pub next: Option<u64>,
}
