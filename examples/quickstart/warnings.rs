//! Where notices of limits that come near are sent, as the environment says.

use std::env;
use std::error::Error;

use tower_quota::QuotaBuilder;

#[cfg(all(feature = "webhooks", feature = "email"))]
pub(crate) fn with_outlets(mut quota: QuotaBuilder) -> Result<QuotaBuilder, Box<dyn Error>> {
    use tower_quota::{EmailOptions, WebhookOptions};

    if let Ok(networks) = env::var("QUOTA_WEBHOOK_NETWORKS") {
        let networks = networks.split(',').map(str::trim).filter(|network| !network.is_empty());
        quota = quota.webhooks(WebhookOptions::new().allow_networks(networks));
    }
    if let Ok(url) = env::var("QUOTA_SMTP_URL") {
        let from = env::var("QUOTA_SMTP_FROM").unwrap_or_else(|_| "Quotas <quotas@example.com>".to_owned());
        quota = quota.email(EmailOptions::smtp(url, from));
    }
    Ok(quota)
}

#[cfg(not(all(feature = "webhooks", feature = "email")))]
pub(crate) fn with_outlets(quota: QuotaBuilder) -> Result<QuotaBuilder, Box<dyn Error>> {
    for name in ["QUOTA_WEBHOOK_NETWORKS", "QUOTA_SMTP_URL"] {
        if env::var_os(name).is_some() {
            return Err(format!("{name} is set: build with --features webhooks,email").into());
        }
    }
    Ok(quota)
}
