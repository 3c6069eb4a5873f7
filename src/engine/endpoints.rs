//! Who is told: endpoints, their deliveries, and contacts.

#[cfg(any(feature = "webhooks", feature = "email"))]
use uuid::Uuid;

use super::{Admin, Quota};
use crate::error::Error;
#[cfg(any(feature = "webhooks", feature = "email"))]
use crate::events::{DeliveryFilter, DeliveryPage};
use crate::policy::{AuditAction, AuditEntry};
#[cfg(any(feature = "webhooks", feature = "email"))]
use crate::resource::shown;
use crate::store::{EventStore, QuotaStore};
#[cfg(feature = "email")]
use crate::workspace::WorkspaceId;

#[cfg(feature = "webhooks")]
mod webhooks {
    use jiff::{SignedDuration, Timestamp};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::events::{Endpoint, EndpointStatus, EventKind, SigningSecret, WebhookSecret};
    use crate::store::now;

    /// What is changed of an endpoint.
    ///
    /// ```
    /// use tower_quota::{EndpointChange, EventKind};
    ///
    /// let change = EndpointChange::default().events([EventKind::Exceeded]).active(true);
    /// ```
    #[derive(Debug, Clone, Default)]
    #[must_use]
    pub struct EndpointChange {
        url: Option<String>,
        events: Option<Vec<EventKind>>,
        description: Option<String>,
        active: Option<bool>,
    }

    impl EndpointChange {
        /// Where requests go.
        pub fn url(mut self, url: impl Into<String>) -> Self {
            self.url = Some(url.into());
            self
        }

        /// What it is told of.
        pub fn events(mut self, events: impl IntoIterator<Item = EventKind>) -> Self {
            self.events = Some(events.into_iter().collect());
            self
        }

        /// What it is for.
        pub fn description(mut self, description: impl Into<String>) -> Self {
            self.description = Some(description.into());
            self
        }

        /// Whether it is sent anything. To turn it on also ends a pause.
        pub fn active(mut self, active: bool) -> Self {
            self.active = Some(active);
            self
        }

        fn apply(&self, endpoint: &mut Endpoint) {
            let Self { url, events, description, active } = self.clone();
            endpoint.url = url.unwrap_or_else(|| std::mem::take(&mut endpoint.url));
            endpoint.events = events.unwrap_or_else(|| std::mem::take(&mut endpoint.events));
            endpoint.description = description.unwrap_or_else(|| std::mem::take(&mut endpoint.description));
            match active {
                Some(true) => {
                    endpoint.status = EndpointStatus::Active;
                    endpoint.succeeded();
                }
                Some(false) => endpoint.status = EndpointStatus::Disabled,
                None => {}
            }
            endpoint.updated_at = now();
        }
    }

    /// How long a key that was replaced still signs.
    const ROTATION: SignedDuration = SignedDuration::from_hours(24);

    /// The longest description, in bytes.
    const DESCRIPTION: usize = 500;

    /// The most endpoints that there can be: each notice looks at all of them.
    const ENDPOINTS: usize = 1000;

    fn no_endpoint(id: Uuid) -> Error {
        Error::not_found(format!("there is no endpoint {id}"))
    }

    impl Quota {
        /// All endpoints, the oldest first.
        ///
        /// # Errors
        ///
        /// [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
        pub async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
            let events = self.events()?;
            self.0.within("read the endpoints", || events.endpoints()).await
        }

        /// One endpoint.
        ///
        /// # Errors
        ///
        /// [`Error::is_not_found`], [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
        pub async fn endpoint(&self, id: Uuid) -> Result<Endpoint, Error> {
            let events = self.events()?;
            self.0.within("read an endpoint", || events.endpoint(id)).await?.ok_or_else(|| no_endpoint(id))
        }
    }

    impl Admin {
        /// Adds an endpoint for the events of one workspace, or of all; with `secret`, or with one that is made here and told
        /// by [`WebhookSecret::expose`] only now.
        ///
        /// # Errors
        ///
        /// [`Error::is_invalid`] for a URL that isn't http or https, or leads to a private address, and where there are too
        /// many; [`Error::is_config`] where [`webhooks`](crate::QuotaBuilder::webhooks) was not called, or the store
        /// keeps no notices; [`Error::is_unavailable`].
        pub async fn add_endpoint(
            &self,
            workspace: Option<&crate::WorkspaceId>,
            url: impl Into<String>,
            change: EndpointChange,
            secret: Option<WebhookSecret>,
        ) -> Result<(Endpoint, WebhookSecret), Error> {
            let change = change.url(url);
            self.check(&change).await?;
            let secret = match secret {
                Some(secret) => secret,
                None => WebhookSecret::generate()?,
            };
            let mut endpoint = Endpoint {
                id: Uuid::now_v7(),
                workspace_id: workspace.map(|workspace| workspace.as_str().to_owned()),
                url: String::new(),
                events: EventKind::FILTERS.into(),
                description: String::new(),
                status: EndpointStatus::Active,
                failures: 0,
                paused_until: None,
                created_at: now(),
                updated_at: now(),
                secrets: vec![SigningSecret { secret: secret.expose(), until: None }],
            };
            change.apply(&mut endpoint);
            if self.quota.endpoints().await?.len() >= ENDPOINTS {
                return Err(Error::invalid(format!("there are {ENDPOINTS} endpoints already: delete one first")));
            }
            let (events, quota) = (self.quota.events()?, &self.quota.0);
            let entry = self.entry_of(&endpoint, AuditAction::EndpointAdded);
            quota.within("add an endpoint", || events.add_endpoint(&endpoint, &entry)).await?;
            Ok((endpoint, secret))
        }

        /// Changes an endpoint.
        ///
        /// # Errors
        ///
        /// As [`add_endpoint`](Self::add_endpoint); [`Error::is_not_found`].
        pub async fn change_endpoint(&self, id: Uuid, change: &EndpointChange) -> Result<Endpoint, Error> {
            self.check(change).await?;
            self.put_right(id, &|endpoint| change.apply(endpoint)).await
        }

        /// Gives an endpoint a new secret. Until a day from now, the one before signs as well.
        ///
        /// # Errors
        ///
        /// [`Error::is_not_found`], [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
        pub async fn rotate_secret(
            &self,
            id: Uuid,
            secret: Option<WebhookSecret>,
        ) -> Result<(Endpoint, WebhookSecret), Error> {
            let secret = match secret {
                Some(secret) => secret,
                None => WebhookSecret::generate()?,
            };
            let now = Timestamp::now();
            let until = now.checked_add(ROTATION).unwrap_or(Timestamp::MAX);
            let rotate = |endpoint: &mut Endpoint| {
                // One before it: what was replaced twice is of no use to anybody.
                endpoint.secrets.truncate(1);
                endpoint.secrets.iter_mut().for_each(|before| before.until = Some(until));
                endpoint.secrets.insert(0, SigningSecret { secret: secret.expose(), until: None });
            };
            Ok((self.put_right(id, &rotate).await?, secret))
        }

        /// Deletes an endpoint, with its deliveries.
        ///
        /// # Errors
        ///
        /// [`Error::is_not_found`], [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
        pub async fn remove_endpoint(&self, id: Uuid) -> Result<(), Error> {
            let endpoint = self.quota.endpoint(id).await?;
            let (events, entry) = (self.quota.events()?, self.entry_of(&endpoint, AuditAction::EndpointRemoved));
            let removed = self.quota.0.within("delete an endpoint", || events.remove_endpoint(id, &entry)).await?;
            if removed { Ok(()) } else { Err(no_endpoint(id)) }
        }

        /// Sends an endpoint an event `quota.test`, whatever it is told of; answers the notice's id.
        ///
        /// # Errors
        ///
        /// [`Error::is_not_found`], [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
        pub async fn test_endpoint(&self, id: Uuid) -> Result<Uuid, Error> {
            let endpoint = self.quota.endpoint(id).await?;
            let event = EventKind::Test.as_str();
            let body = json!({
                "event": event, "workspace_id": endpoint.workspace_id, "timestamp": format!("{:.0}", now()), "data": {},
            });
            let (events, body, quota) = (self.quota.events()?, body.to_string(), &self.quota.0);
            let notice = quota.within("send a test", || events.add_event(event, &body, &endpoint)).await?;
            let notice = notice.ok_or_else(|| no_endpoint(id))?;
            quota.told.notify_one();
            Ok(notice)
        }

        async fn check(&self, change: &EndpointChange) -> Result<(), Error> {
            let client = self.quota.0.webhooks.as_ref();
            let client = client.ok_or_else(|| {
                Error::config("nothing delivers webhooks: call `webhooks` on the builder of the quota")
            })?;
            if let Some(url) = &change.url {
                client.check(url).await?;
            }
            if change.events.as_ref().is_some_and(Vec::is_empty) {
                return Err(Error::invalid("an endpoint is told of one event at least; to stop it, disable it"));
            }
            match &change.description {
                Some(text) if text.len() > DESCRIPTION => {
                    Err(Error::invalid(format!("the description has {DESCRIPTION} bytes at most")))
                }
                _ => Ok(()),
            }
        }

        async fn put_right(&self, id: Uuid, change: &(dyn Fn(&mut Endpoint) + Send + Sync)) -> Result<Endpoint, Error> {
            let (events, quota) = (self.quota.events()?, &self.quota.0);
            let entry = |endpoint: &Endpoint| self.entry_of(endpoint, AuditAction::EndpointChanged);
            let changed = quota.within("change an endpoint", || events.change_endpoint(id, change, &entry)).await?;
            quota.told.notify_one();
            changed.ok_or_else(|| no_endpoint(id))
        }

        fn entry_of(&self, endpoint: &Endpoint, action: AuditAction) -> AuditEntry {
            let seen = json!({
                "id": endpoint.id, "url": endpoint.url, "events": endpoint.events, "status": endpoint.status,
            });
            let entry = AuditEntry::new(&self.actor, action).change(json!(null), seen);
            match &endpoint.workspace_id {
                Some(workspace) => entry.workspace(workspace),
                None => entry,
            }
        }
    }
}

#[cfg(feature = "webhooks")]
pub use webhooks::EndpointChange;

impl Quota {
    fn events(&self) -> Result<&dyn EventStore, Error> {
        self.0
            .store
            .inner()
            .events()
            .ok_or_else(|| Error::config("this store keeps no notices: they need a SqliteStore or a PostgresStore"))
    }

    /// How many deliveries are still to be made, and how many were given up and can be replayed. What waits for an endpoint
    /// that somebody has disabled is neither.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
    pub async fn outbox_depth(&self) -> Result<(u64, u64), Error> {
        let events = self.events()?;
        self.0.within("read the outbox", || events.depth()).await
    }
}

#[cfg(any(feature = "webhooks", feature = "email"))]
impl Quota {
    /// Deliveries, the newest first.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
    pub async fn deliveries(&self, filter: &DeliveryFilter) -> Result<DeliveryPage, Error> {
        let events = self.events()?;
        self.0.within("read the deliveries", || events.deliveries(filter)).await
    }
}

#[cfg(any(feature = "webhooks", feature = "email"))]
impl Admin {
    /// Makes a delivery once more that has ended, with all its tries. Its `target` is an endpoint's id or an e-mail address,
    /// as in [`Delivery::target`](crate::Delivery::target).
    ///
    /// # Errors
    ///
    /// [`Error::is_not_found`] where the target has no such delivery, or it has not ended; [`Error::is_config`] where the
    /// store keeps no notices; [`Error::is_unavailable`].
    pub async fn replay(&self, target: &str, delivery: Uuid) -> Result<(), Error> {
        let (events, quota) = (self.quota.events()?, &self.quota.0);
        if !quota.within("replay a delivery", || events.replay(target, delivery)).await? {
            return Err(Error::not_found(format!("{} has no delivery {delivery} that has ended", shown(target))));
        }
        quota.told.notify_one();
        Ok(())
    }
}

#[cfg(feature = "email")]
impl Quota {
    /// The e-mail addresses of a workspace's admins, as they were set.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] where the store keeps no notices, [`Error::is_unavailable`].
    pub async fn contacts(&self, workspace: &WorkspaceId) -> Result<Vec<String>, Error> {
        let events = self.events()?;
        self.0.within("read the contacts", || events.contacts(workspace)).await
    }
}

#[cfg(feature = "email")]
impl Admin {
    /// The most addresses of a workspace.
    pub const MOST_CONTACTS: usize = 20;

    /// Sets the e-mail addresses of a workspace's admins, in the place of those that there are.
    ///
    /// # Errors
    ///
    /// [`Error::is_invalid`] for what is no address, or too many; [`Error::is_config`] where the store keeps no notices;
    /// [`Error::is_unavailable`].
    pub async fn set_contacts(&self, workspace: &WorkspaceId, emails: &[String]) -> Result<(), Error> {
        if emails.len() > Self::MOST_CONTACTS {
            return Err(Error::invalid(format!("a workspace has {} addresses at most", Self::MOST_CONTACTS)));
        }
        for email in emails {
            crate::events::check_address(email)?;
        }
        let (events, quota) = (self.quota.events()?, &self.quota.0);
        let entry = AuditEntry::new(&self.actor, AuditAction::ContactsSet)
            .workspace(workspace.as_str())
            .change(serde_json::json!(null), serde_json::json!(emails));
        quota.within("set the contacts", || events.set_contacts(workspace, emails, &entry)).await
    }
}
