//! What a store keeps of notices and of their deliveries.

use std::time::Duration;

use uuid::Uuid;

use crate::BoxFuture;
use crate::error::Error;
use crate::events::{
    Attempt, Claimed, Delivery, DeliveryFilter, DeliveryPage, DeliveryStatus, Endpoint, Marks, Notice,
};
use crate::policy::AuditEntry;
use crate::workspace::WorkspaceId;

/// A workspace, a resource type, and something of it.
pub(super) type OfKey<T> = (String, String, T);

/// Keeps notices and deliveries, in the database of the quota records.
///
/// Not for others to implement: it grows with what there is to be told.
pub trait EventStore: Send + Sync {
    /// Which thresholds are reached in some workspaces, where any ever were.
    fn marks<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<OfKey<Marks>>, Error>>;

    /// Workspaces behind `after` in which any threshold is reached, in the order of the database.
    fn reached<'a>(&'a self, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<String>, Error>>;

    /// Rows by the books that several processes share, where there are such.
    fn books<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<OfKey<u64>>, Error>>;

    /// Has `judge` change the marks of a key, and keeps what is to be told of it, with a delivery for each recipient, in the
    /// same transaction. Nobody else changes them meanwhile. Answers them as they are then.
    ///
    /// Admins are written to where there are contacts of the workspace, or with `email`.
    fn judge<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a str,
        email: bool,
        judge: &'a Judge<'a>,
    ) -> BoxFuture<'a, Result<(Marks, Vec<Notice>), Error>>;

    /// All endpoints, the oldest first.
    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Endpoint>, Error>>;

    /// An endpoint.
    fn endpoint(&self, id: Uuid) -> BoxFuture<'_, Result<Option<Endpoint>, Error>>;

    /// Adds an endpoint, and tells it in the audit log, in one transaction.
    fn add_endpoint<'a>(&'a self, endpoint: &'a Endpoint, entry: &'a AuditEntry) -> BoxFuture<'a, Result<(), Error>>;

    /// Changes an endpoint, and tells it in the audit log with what `entry` makes of it, in one transaction; `None` where
    /// there is none.
    fn change_endpoint<'a>(
        &'a self,
        id: Uuid,
        change: &'a (dyn Fn(&mut Endpoint) + Send + Sync),
        entry: &'a (dyn Fn(&Endpoint) -> AuditEntry + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<Endpoint>, Error>>;

    /// Deletes an endpoint and its deliveries, and tells it in the audit log, in one transaction; whether it was there.
    fn remove_endpoint<'a>(&'a self, id: Uuid, entry: &'a AuditEntry) -> BoxFuture<'a, Result<bool, Error>>;

    /// Adds an event that is for one endpoint only; `None` where there is none any more.
    fn add_event<'a>(
        &'a self,
        event: &'a str,
        body: &'a str,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Option<Uuid>, Error>>;

    /// Takes deliveries that are due: nobody else gets them for the time of `lease`.
    fn claim(&self, what: Channels, lease: Duration, limit: usize) -> BoxFuture<'_, Result<Vec<Claimed>, Error>>;

    /// Tells what became of a delivery; whether it still was this worker's.
    fn settle<'a>(&'a self, claimed: &'a Claimed, settled: Settled) -> BoxFuture<'a, Result<bool, Error>>;

    /// Gives a delivery back that was not tried.
    fn release<'a>(&'a self, claimed: &'a Claimed) -> BoxFuture<'a, Result<(), Error>>;

    /// Puts a delivery to each of some addresses in the place of one whose recipients weren't known.
    fn address<'a>(&'a self, claimed: &'a Claimed, emails: &'a [String]) -> BoxFuture<'a, Result<(), Error>>;

    /// Deliveries, the newest first.
    fn deliveries<'a>(&'a self, filter: &'a DeliveryFilter) -> BoxFuture<'a, Result<DeliveryPage, Error>>;

    /// Makes a delivery once more; whether there is one that has ended.
    fn replay<'a>(&'a self, target: &'a str, delivery: Uuid) -> BoxFuture<'a, Result<bool, Error>>;

    /// How many deliveries are pending, but for those to disabled endpoints, and dead.
    fn depth(&self) -> BoxFuture<'_, Result<(u64, u64), Error>>;

    /// Deletes what ended longer ago than this, and its notices. What has been due for as long as what was
    /// delivered is kept, and was not even tried, is given up. At most `limit` of each at a time; whether there may be more.
    fn purge(&self, delivered: Duration, dead: Duration, limit: usize) -> BoxFuture<'_, Result<bool, Error>>;

    /// The e-mail addresses of a workspace's admins.
    fn contacts<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<String>, Error>>;

    /// Replaces them, and tells it in the audit log, in one transaction.
    fn set_contacts<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        emails: &'a [String],
        entry: &'a AuditEntry,
    ) -> BoxFuture<'a, Result<(), Error>>;
}

/// Changes marks, and answers what is to be told.
pub(super) type Judge<'a> = dyn Fn(&mut Marks) -> Vec<Notice> + Send + Sync + 'a;

/// How a worker can deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    pub(crate) webhooks: bool,
    pub(crate) email: bool,
}

/// What became of a delivery.
#[derive(Debug)]
pub struct Settled {
    pub(crate) status: DeliveryStatus,
    /// When it is tried again, where it is pending.
    pub(crate) again_in: Duration,
    pub(crate) attempt: Attempt,
    pub(crate) endpoint: Standing,
}

impl Settled {
    /// The log of a delivery with this attempt.
    pub(crate) fn log(&self, delivery: &Delivery) -> Vec<Attempt> {
        let mut log = delivery.log.clone();
        log.push(self.attempt.clone());
        log.drain(..log.len().saturating_sub(Delivery::LOGGED));
        log
    }
}

/// What a delivery says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Same,
    /// It works.
    Works,
    /// It doesn't, and may have asked to be left alone for a time.
    Fails { pause: Option<Duration> },
    /// It is not to be asked again.
    Gone,
}
