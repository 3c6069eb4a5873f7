//! One worker of a process: what it has taken, nobody else delivers until its lease is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
#[cfg(feature = "email")]
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Outlets;
use crate::engine::Inner;
use crate::error::Error;
use crate::events::{Attempt, Claimed, DeliveryStatus, Outcome};
#[cfg(feature = "email")]
use crate::events::{EMAIL, Mail, NoticeMail, recipient};
#[cfg(feature = "email")]
use crate::store::EventStore;
use crate::store::{Channels, Settled, Standing};

/// How often it is looked for what others have to be delivered, or what is to be tried again.
const POLL: Duration = Duration::from_secs(2);

/// How many deliveries are taken at once, and how many recipients are served at the same time.
const BATCH: usize = 64;
const RECIPIENTS: usize = 64;

/// How long what has ended is kept, and what nobody can try to deliver: its endpoint is disabled, or always paused.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
const DEAD_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// How many are deleted at a time, between deliveries: however much there is, it goes away.
const PURGED: usize = 1000;

/// What is left of a lease when an attempt ends that took as long as it may: to tell of it.
const TO_TELL: Duration = Duration::from_secs(5);

/// Delivers for as long as there is an engine.
pub(super) async fn work(quota: Weak<Inner>, outlets: Outlets) {
    let Some(told) = quota.upgrade().map(|quota| Arc::clone(&quota.told)) else { return };
    let outlets = Arc::new(outlets);
    let mut serving = JoinSet::new();
    let mut purged: Option<Instant> = None;
    let mut failing = false;
    loop {
        while serving.try_join_next().is_some() {}
        let more = {
            let Some(quota) = quota.upgrade() else { return };
            let mut older = false;
            let taken = take(&quota, &outlets, &mut serving).await;
            if let Err(error) = &taken
                && !failing
            {
                tracing::error!(error = %error, "notices can't be delivered now: their database doesn't answer");
            }
            failing = taken.is_err();
            if purged.is_none_or(|at| at.elapsed() >= PURGE_EVERY)
                && let Some(events) = quota.store.inner().events()
            {
                let old = quota.within("delete old deliveries", || events.purge(KEPT, DEAD_KEPT, PURGED)).await;
                if let Err(error) = &old {
                    tracing::warn!(error = %error, "deliveries of long ago could not be deleted");
                }
                older = old.unwrap_or(false);
                purged = (!older).then(Instant::now);
            }
            taken.unwrap_or(false) || older
        };
        if !more {
            // Whoever is served may leave others to be served.
            tokio::select! {
                _ = timeout(POLL, told.notified()) => {}
                Some(_) = serving.join_next() => {}
            }
        }
    }
}

/// Takes what is due and begins to deliver it; whether there may be more.
async fn take(quota: &Arc<Inner>, outlets: &Arc<Outlets>, serving: &mut JoinSet<()>) -> Result<bool, Error> {
    let Some(events) = quota.store.inner().events() else { return Ok(false) };
    if serving.len() >= RECIPIENTS {
        return Ok(false);
    }
    let until = Instant::now() + outlets.lease();
    let claim = || events.claim(outlets.channels(), outlets.lease(), BATCH);
    let claimed = quota.within("take deliveries", claim).await?;
    let more = claimed.len() == BATCH;
    // One recipient is told of one thing after the other, in order.
    let mut by_target = BTreeMap::<_, Vec<_>>::new();
    for claimed in claimed {
        by_target.entry(claimed.delivery.target.clone()).or_default().push(claimed);
    }
    for deliveries in by_target.into_values() {
        let (quota, outlets) = (Arc::downgrade(quota), Arc::clone(outlets));
        serving.spawn(async move { serve(&quota, &outlets, deliveries, until).await });
    }
    Ok(more)
}

/// Delivers to one recipient until something fails: what is left then is given back. The engine isn't held while something is
/// delivered, and may end: others go on when the leases are over.
async fn serve(quota: &Weak<Inner>, outlets: &Outlets, deliveries: Vec<Claimed>, until: Instant) {
    let mut works = true;
    for claimed in deliveries {
        let told = if works && Instant::now() + outlets.longest() + TO_TELL <= until {
            outlets.attempt(quota, &claimed).await
        } else {
            works = false;
            give_back(quota, &claimed).await.map(|given| given.map(|()| false))
        };
        match told {
            None => return,
            Some(Ok(delivered)) => works &= delivered,
            Some(Err(error)) => {
                // Its lease ends, and it is delivered once more.
                works = false;
                tracing::warn!(error = %error, delivery = %claimed.delivery.id, "what became of a delivery can't be told");
            }
        }
    }
}

async fn give_back(quota: &Weak<Inner>, claimed: &Claimed) -> Option<Result<(), Error>> {
    let quota = quota.upgrade()?;
    let events = quota.store.inner().events()?;
    Some(quota.within("give a delivery back", || events.release(claimed)).await)
}

impl Outlets {
    pub(super) fn channels(&self) -> Channels {
        Channels {
            #[cfg(feature = "webhooks")]
            webhooks: self.webhooks.is_some(),
            #[cfg(not(feature = "webhooks"))]
            webhooks: false,
            #[cfg(feature = "email")]
            email: self.email.is_some(),
            #[cfg(not(feature = "email"))]
            email: false,
        }
    }

    /// The longest that one attempt takes.
    fn longest(&self) -> Duration {
        let times = [
            #[cfg(feature = "webhooks")]
            self.webhooks.as_ref().map(crate::events::WebhookClient::timeout),
            #[cfg(feature = "email")]
            self.email.as_ref().map(crate::events::Mailer::timeout),
        ];
        times.into_iter().flatten().max().unwrap_or_default()
    }

    /// How long what was taken is nobody else's.
    fn lease(&self) -> Duration {
        self.longest() * 2 + TO_TELL
    }

    /// One attempt; whether it has succeeded. `None` when the engine is gone.
    async fn attempt(&self, quota: &Weak<Inner>, claimed: &Claimed) -> Option<Result<bool, Error>> {
        #[cfg(feature = "email")]
        if claimed.delivery.target == EMAIL {
            let quota = quota.upgrade()?;
            let events = quota.store.inner().events()?;
            return Some(self.address(&quota, events, claimed).await);
        }
        let (at, begun) = (Timestamp::now(), Instant::now());
        let outcome = self.deliver(quota, claimed, at).await;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let settled = self.settled(claimed, outcome, at, took_ms);
        let ok = settled.attempt.ok;
        let quota = quota.upgrade()?;
        let events = quota.store.inner().events()?;
        quota.metrics.delivered(claimed.endpoint.is_some(), settled.status);
        if settled.status == DeliveryStatus::Dead {
            let (delivery, target) = (&claimed.delivery.id, &claimed.delivery.target);
            tracing::error!(%delivery, target, result = settled.attempt.result, "a notice could not be delivered");
        }
        let told = quota.within("tell of a delivery", || events.settle(claimed, settled)).await;
        if let Ok(false) = told {
            tracing::warn!(delivery = %claimed.delivery.id, "a delivery took longer than its lease: it may be made twice");
        }
        Some(told.map(|_| ok))
    }

    async fn deliver(&self, quota: &Weak<Inner>, claimed: &Claimed, at: Timestamp) -> Outcome {
        let _ = (quota, at);
        #[cfg(feature = "webhooks")]
        if let (Some(endpoint), Some(client)) = (&claimed.endpoint, &self.webhooks) {
            let secrets = endpoint.signing(at).map(crate::WebhookSecret::parse).collect::<Result<Vec<_>, _>>();
            let id = claimed.delivery.notice.to_string();
            return match secrets {
                Ok(secrets) => client.send(&endpoint.url, &id, at, &claimed.delivery.body, &secrets).await,
                Err(error) => Outcome::rejected(error.message()),
            };
        }
        #[cfg(feature = "email")]
        if let (None, Some(mailer)) = (&claimed.endpoint, &self.email) {
            // Of an engine that is gone nothing is told either.
            let Some(mail) = quota.upgrade().and_then(|quota| mail(&quota, &claimed.delivery.body)) else {
                return Outcome::rejected("the notice can't be read");
            };
            return mailer.send(&claimed.delivery.target, &claimed.delivery.id.to_string(), &mail).await;
        }
        Outcome::rejected("its endpoint is gone")
    }

    fn settled(&self, claimed: &Claimed, outcome: Outcome, at: Timestamp, took_ms: u64) -> Settled {
        let (status, again_in, ok, result, endpoint) = match outcome {
            Outcome::Delivered { status } => (DeliveryStatus::Delivered, None, true, status, Standing::Works),
            Outcome::Gone { status } => (DeliveryStatus::Dead, None, false, status, Standing::Gone),
            Outcome::Rejected { error } => (DeliveryStatus::Dead, None, false, error, Standing::Fails { pause: None }),
            Outcome::Failed { error, retry_after } => {
                // Whatever else there is for this endpoint waits as well.
                let endpoint = Standing::Fails { pause: retry_after };
                match self.retries.after(claimed.delivery.attempts) {
                    Some(wait) => (DeliveryStatus::Pending, retry_after.max(Some(wait)), false, error, endpoint),
                    None => (DeliveryStatus::Dead, None, false, error, endpoint),
                }
            }
        };
        let endpoint = if claimed.endpoint.is_some() { endpoint } else { Standing::Same };
        Settled {
            status,
            again_in: again_in.unwrap_or_default(),
            attempt: Attempt { at, took_ms, ok, result },
            endpoint,
        }
    }

    /// Finds out to whom a notice goes by e-mail.
    #[cfg(feature = "email")]
    async fn address(&self, quota: &Inner, events: &dyn EventStore, claimed: &Claimed) -> Result<bool, Error> {
        let at = Timestamp::now();
        let emails = match notice(&claimed.delivery.body).and_then(|notice| quota.workspace_of(&notice)) {
            None => Ok(Vec::new()),
            Some(workspace) => {
                let look_up = async || match &self.contacts {
                    Some(contacts) => contacts.emails(&workspace).await,
                    None => events.contacts(&workspace).await,
                };
                quota.within("look up the admins of a workspace", look_up).await
            }
        };
        match emails.and_then(recipients) {
            Ok(emails) => {
                if emails.is_empty() {
                    tracing::info!(notice = %claimed.delivery.notice, "nobody is written to: no admin has an address");
                }
                quota.within("address a notice", || events.address(claimed, &emails)).await?;
                quota.told.notify_one();
                Ok(true)
            }
            Err(error) => {
                let settled = self.settled(claimed, Outcome::failed(error.message()), at, 0);
                quota.within("tell of a delivery", || events.settle(claimed, settled)).await.map(|_| false)
            }
        }
    }
}

/// Those of some addresses that can be written to, each once: a host's own code may know anything by that name.
#[cfg(feature = "email")]
fn recipients(mut emails: Vec<String>) -> Result<Vec<String>, Error> {
    let mut odd = None;
    emails.retain(|email| match recipient(email) {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(error = %error, "one of a workspace's admins can't be written to");
            odd = Some(error);
            false
        }
    });
    emails.sort();
    emails.dedup();
    match odd {
        Some(error) if emails.is_empty() => Err(error),
        _ => Ok(emails),
    }
}

#[cfg(feature = "email")]
fn notice(body: &str) -> Option<Value> {
    serde_json::from_str(body).ok()
}

/// The e-mail that tells what `body` tells.
#[cfg(feature = "email")]
fn mail(quota: &Inner, body: &str) -> Option<Mail> {
    let notice = notice(body)?;
    let data = &notice["data"];
    let resource_type = data["resource_type"].as_str()?;
    let label = quota.catalog.by_name(resource_type).map_or(resource_type, |resource| resource.label());
    Some(Mail::notice(NoticeMail {
        workspace: notice["workspace_id"].as_str()?,
        resource_label: label,
        resource_type,
        current_usage: data["current_usage"].as_u64()?,
        limit: data["limit"].as_u64()?,
        percent: data["percent_used"].as_u64()?,
        threshold: data["threshold"].as_str()?,
        at: notice["timestamp"].as_str()?.parse().ok()?,
        manage_url: None,
    }))
}

#[cfg(feature = "email")]
impl Inner {
    fn workspace_of(&self, notice: &Value) -> Option<crate::workspace::WorkspaceId> {
        self.workspace_format().parse(notice["workspace_id"].as_str()?).ok()
    }
}
