//! How notices leave the process: deliveries are taken from the database, made, and told of.

use std::sync::Arc;

use super::Inner;
use crate::error::Error;

#[cfg(any(feature = "webhooks", feature = "email"))]
mod retries;
#[cfg(any(feature = "webhooks", feature = "email"))]
mod worker;

#[cfg(any(feature = "webhooks", feature = "email"))]
pub use retries::DeliveryRetries;

/// How notices are to be delivered.
#[derive(Default)]
pub(super) struct OutletOptions {
    #[cfg(any(feature = "webhooks", feature = "email"))]
    pub(super) retries: DeliveryRetries,
    #[cfg(feature = "webhooks")]
    pub(super) webhooks: Option<crate::WebhookOptions>,
    #[cfg(feature = "email")]
    pub(super) email: Option<crate::EmailOptions>,
    #[cfg(feature = "email")]
    pub(super) contacts: Option<Arc<dyn crate::AdminContacts>>,
}

/// How notices are delivered.
pub(super) struct Outlets {
    #[cfg(any(feature = "webhooks", feature = "email"))]
    pub(super) retries: DeliveryRetries,
    #[cfg(feature = "webhooks")]
    pub(super) webhooks: Option<crate::events::WebhookClient>,
    #[cfg(feature = "email")]
    pub(super) email: Option<crate::events::Mailer>,
    #[cfg(feature = "email")]
    pub(super) contacts: Option<Arc<dyn crate::AdminContacts>>,
}

impl Outlets {
    #[cfg_attr(
        not(any(feature = "webhooks", feature = "email")),
        expect(unused_variables, clippy::unnecessary_wraps, clippy::needless_pass_by_value, reason = "there are none")
    )]
    pub(super) fn open(options: OutletOptions, kept: bool) -> Result<Self, Error> {
        let outlets = Self {
            #[cfg(any(feature = "webhooks", feature = "email"))]
            retries: options.retries,
            #[cfg(feature = "webhooks")]
            webhooks: options.webhooks.map(|options| crate::events::WebhookClient::new(&options)).transpose()?,
            #[cfg(feature = "email")]
            email: options.email.map(|options| crate::events::Mailer::new(&options)).transpose()?,
            #[cfg(feature = "email")]
            contacts: options.contacts,
        };
        #[cfg(any(feature = "webhooks", feature = "email"))]
        if outlets.any() && !kept {
            return Err(Error::config(
                "notices are kept in the database of a SqliteStore or a PostgresStore, and this store is another",
            ));
        }
        Ok(outlets)
    }

    /// Delivers for as long as there is an engine.
    #[cfg_attr(
        not(any(feature = "webhooks", feature = "email")),
        expect(unused_variables, reason = "there is nothing to do")
    )]
    pub(super) fn start(self, quota: &Arc<Inner>) {
        #[cfg(any(feature = "webhooks", feature = "email"))]
        if self.any() {
            quota.runtime.spawn(worker::work(Arc::downgrade(quota), self));
        }
    }

    /// Whether there are any.
    #[cfg(any(feature = "webhooks", feature = "email"))]
    pub(super) fn any(&self) -> bool {
        let channels = self.channels();
        channels.webhooks || channels.email
    }

    #[cfg(not(any(feature = "webhooks", feature = "email")))]
    #[cfg_attr(
        not(feature = "metrics"),
        expect(dead_code, reason = "there is nothing to deliver, nor to be told of it")
    )]
    pub(super) fn any(&self) -> bool {
        false
    }
}
