//! The ways by which notices leave the process: HTTP endpoints and e-mail.
//!
//! Nothing here remembers anything or tries twice: an attempt to deliver has an outcome, and whoever keeps the
//! deliveries decides what comes next.

#![cfg_attr(not(test), expect(dead_code, reason = "the deliveries are kept elsewhere"))]

#[cfg(feature = "webhooks")]
mod address;
#[cfg(feature = "email")]
mod contacts;
#[cfg(feature = "email")]
mod email;
#[cfg(feature = "email")]
mod mail;
mod outcome;
mod roots;
#[cfg(feature = "webhooks")]
mod secret;
#[cfg(feature = "webhooks")]
mod webhook;

#[cfg(feature = "email")]
pub use contacts::AdminContacts;
#[cfg(feature = "email")]
pub use email::EmailOptions;
#[cfg(feature = "webhooks")]
pub use secret::WebhookSecret;
#[cfg(feature = "webhooks")]
pub use webhook::WebhookOptions;
