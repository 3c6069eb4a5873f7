//! Who is told, and what became of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Error;

/// The target of a delivery by e-mail before it is known who gets it.
pub(crate) const EMAIL: &str = "email";

/// What a webhook is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// `quota.warning`: a limit comes near.
    #[serde(rename = "quota.warning")]
    Warning,
    /// `quota.exceeded`: a limit is reached.
    #[serde(rename = "quota.exceeded")]
    Exceeded,
    /// `quota.test`: somebody wants to see whether events arrive. Sent whatever an endpoint's filter says.
    #[serde(rename = "quota.test")]
    Test,
}

impl EventKind {
    /// Those that an endpoint can ask for.
    pub const FILTERS: [Self; 2] = [Self::Warning, Self::Exceeded];

    /// As it is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "quota.warning",
            Self::Exceeded => "quota.exceeded",
            Self::Test => "quota.test",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::FILTERS.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let [warning, exceeded] = Self::FILTERS;
            Error::invalid(format!("there is no event {name:?}: the events are {warning} and {exceeded}"))
        })
    }
}

/// Whether an endpoint is sent anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EndpointStatus {
    /// It is, unless it is paused.
    Active,
    /// It isn't: somebody, or its answer 410, has said so.
    Disabled,
}

/// A key that deliveries are signed with. Its text is told to nobody but who made the endpoint.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SigningSecret {
    pub(crate) secret: String,
    /// `None` for the current one: those before it sign, too, until then.
    pub(crate) until: Option<Timestamp>,
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningSecret").field("until", &self.until).finish_non_exhaustive()
    }
}

/// Where events are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Endpoint {
    /// Its id.
    pub id: Uuid,
    /// Of which workspace's events it is told; `None` for those of all.
    pub workspace_id: Option<String>,
    /// Where requests go.
    pub url: String,
    /// What it is told of.
    pub events: Vec<EventKind>,
    /// What it is for.
    pub description: String,
    /// Whether it is sent anything.
    pub status: EndpointStatus,
    /// How many deliveries have failed since the last that didn't.
    pub failures: u32,
    /// It has failed too often, or asked to be left alone, and is sent nothing before this.
    pub paused_until: Option<Timestamp>,
    /// When it was made (UTC).
    pub created_at: Timestamp,
    /// When it was last changed by somebody (UTC).
    pub updated_at: Timestamp,
    // Whoever shows an endpoint doesn't show these.
    #[serde(skip)]
    pub(crate) secrets: Vec<SigningSecret>,
}

impl Endpoint {
    /// How many failures in a row pause an endpoint.
    const PATIENCE: u32 = 5;

    pub(crate) fn wants(&self, event: EventKind) -> bool {
        self.status == EndpointStatus::Active && self.events.contains(&event)
    }

    /// What signs a request, the current key first.
    #[cfg_attr(not(feature = "webhooks"), allow(dead_code, reason = "for webhooks"))]
    pub(crate) fn signing(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let valid = move |secret: &&SigningSecret| secret.until.is_none_or(|until| now < until);
        self.secrets.iter().filter(valid).map(|secret| secret.secret.as_str())
    }

    /// A delivery has succeeded; whether that changes anything.
    pub(crate) fn succeeded(&mut self) -> bool {
        let changes = self.failures > 0 || self.paused_until.is_some();
        self.failures = 0;
        self.paused_until = None;
        changes
    }

    /// A delivery has failed. The pause doubles with each from the fifth on, from a minute to an hour, and is as long as the
    /// endpoint has `asked` for at least.
    pub(crate) fn failed(&mut self, now: Timestamp, asked: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.checked_sub(Self::PATIENCE);
        let pause = doublings.map(|doublings| Duration::from_secs(60 * 2_u64.saturating_pow(doublings).min(60)));
        let until = pause.max(asked).and_then(|pause| now.checked_add(pause).ok());
        self.paused_until = self.paused_until.max(until);
    }
}

/// An endpoint as it is kept: with its secrets.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptEndpoint {
    #[serde(flatten)]
    endpoint: Endpoint,
    secrets: Vec<SigningSecret>,
}

impl KeptEndpoint {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self { secrets: endpoint.secrets.clone(), endpoint: endpoint.clone() }
    }
}

impl From<KeptEndpoint> for Endpoint {
    fn from(kept: KeptEndpoint) -> Self {
        Self { secrets: kept.secrets, ..kept.endpoint }
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeliveryStatus {
    /// It is to be made, or to be tried again.
    Pending,
    /// It has been made.
    Delivered,
    /// It could not be made, and is not tried again unless somebody says so.
    Dead,
}

impl DeliveryStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::Dead];

    /// As it is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl FromStr for DeliveryStatus {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == name)
            .ok_or_else(|| Error::invalid(format!("{name:?} is none of pending, delivered and dead")))
    }
}

/// One try to make a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Attempt {
    /// When it was begun (UTC).
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Whether it has succeeded.
    pub ok: bool,
    /// What was answered, or what went wrong.
    pub result: String,
}

/// A notice on its way to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// Its id.
    pub id: Uuid,
    /// What is told. Over all tries it is the same, and the `webhook-id`.
    pub notice: Uuid,
    /// An endpoint's id, or an e-mail address.
    pub target: String,
    /// What becomes of it.
    pub status: DeliveryStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next (UTC), as long as it is pending.
    pub next_at: Timestamp,
    /// The last tries, the latest last.
    pub log: Vec<Attempt>,
    /// What is told, as JSON.
    pub body: String,
}

impl Delivery {
    /// How many tries are kept.
    pub(crate) const LOGGED: usize = 20;
}

/// Which deliveries are asked for.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DeliveryFilter {
    /// Those to this endpoint or address.
    pub target: Option<String>,
    /// Those in this state.
    pub status: Option<DeliveryStatus>,
    /// Those made before the one with this id.
    pub before: Option<Uuid>,
    /// At most so many.
    pub limit: usize,
}

/// Some deliveries, the newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeliveryPage {
    /// The deliveries.
    pub deliveries: Vec<Delivery>,
    /// The `before` of the next page; `None` where there is none.
    pub next: Option<Uuid>,
}

/// A delivery that one worker has for a time.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub(crate) delivery: Delivery,
    /// To whom; `None` for e-mail.
    pub(crate) endpoint: Option<Endpoint>,
    /// By which it is known that it is still this worker's.
    pub(crate) claim: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            id: Uuid::nil(),
            workspace_id: None,
            url: "https://example.com".to_owned(),
            events: EventKind::FILTERS.into(),
            description: String::new(),
            status: EndpointStatus::Active,
            failures: 0,
            paused_until: None,
            created_at: now(),
            updated_at: now(),
            secrets: vec![SigningSecret { secret: "whsec_abc".to_owned(), until: None }],
        }
    }

    #[test]
    fn an_endpoint_that_fails_is_paused_for_longer_and_longer() {
        let (now, mut endpoint) = (now(), endpoint());
        let mut minutes = Vec::new();
        for _ in 0..100 {
            endpoint.failed(now, None);
            minutes.push(endpoint.paused_until.map_or(0, |until| (until.as_second() - now.as_second()) / 60));
        }
        assert_eq!(minutes[..12], [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(minutes[99], 60);
        assert!(endpoint.succeeded() && !endpoint.succeeded());
        endpoint.failed(now, None);
        assert_eq!((endpoint.failures, endpoint.paused_until), (1, None));
    }

    #[test]
    fn an_endpoint_is_left_alone_for_as_long_as_it_asks() {
        let (now, mut endpoint) = (now(), endpoint());
        let until = |seconds| Some(now.checked_add(Duration::from_secs(seconds)).unwrap());
        endpoint.failed(now, Some(Duration::from_secs(90)));
        assert_eq!(endpoint.paused_until, until(90));
        // What comes after it, without a wish of its own or with a lesser one, doesn't shorten that.
        endpoint.failed(now, None);
        endpoint.failed(now, Some(Duration::from_secs(1)));
        assert_eq!(endpoint.paused_until, until(90));
        endpoint.failed(now, None);
        endpoint.failed(now, None);
        assert_eq!((endpoint.failures, endpoint.paused_until), (5, until(90)));
        endpoint.failed(now, Some(Duration::from_secs(1)));
        assert_eq!(endpoint.paused_until, until(120));
    }

    #[test]
    fn secrets_are_kept_and_not_shown() {
        let endpoint = endpoint();
        assert!(!format!("{endpoint:?}").contains("abc"));
        assert!(!serde_json::to_string(&endpoint).unwrap().contains("abc"));
        let kept = serde_json::to_string(&KeptEndpoint::of(&endpoint)).unwrap();
        assert_eq!(Endpoint::from(serde_json::from_str::<KeptEndpoint>(&kept).unwrap()), endpoint);
    }
}
