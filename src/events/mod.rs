//! What is told when a limit comes near: thresholds and notices, and the ways by which these leave the process.
//!
//! Nothing here remembers anything or tries twice: an attempt to deliver has an `Outcome`, and the engine, which keeps the
//! deliveries, decides what comes next.

#[cfg(feature = "webhooks")]
mod address;
#[cfg(feature = "email")]
mod contacts;
mod delivery;
#[cfg(feature = "email")]
mod email;
#[cfg(feature = "email")]
mod mail;
#[cfg(any(feature = "webhooks", feature = "email"))]
mod outcome;
#[cfg(feature = "webhooks")]
mod secret;
mod threshold;
#[cfg(feature = "webhooks")]
mod webhook;

#[cfg(feature = "email")]
pub use contacts::AdminContacts;
#[cfg(feature = "webhooks")]
pub(crate) use delivery::SigningSecret;
pub use delivery::{
    Attempt, Delivery, DeliveryFilter, DeliveryPage, DeliveryStatus, Endpoint, EndpointStatus, EventKind,
};
pub(crate) use delivery::{Claimed, EMAIL, KeptEndpoint};
#[cfg(feature = "email")]
pub use email::EmailOptions;
#[cfg(feature = "email")]
pub(crate) use email::{Mailer, check_address, recipient};
#[cfg(feature = "email")]
pub(crate) use mail::{Mail, NoticeMail};
#[cfg(any(feature = "webhooks", feature = "email"))]
pub(crate) use outcome::Outcome;
#[cfg(feature = "webhooks")]
pub use secret::WebhookSecret;
pub(crate) use threshold::Marks;
pub use threshold::{Notice, Threshold, Thresholds};
#[cfg(feature = "webhooks")]
pub(crate) use webhook::WebhookClient;
#[cfg(feature = "webhooks")]
pub use webhook::WebhookOptions;
