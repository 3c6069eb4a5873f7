//! A client of the HTTP API (feature `client`): what `quotactl` is made with.
//!
//! It is a module of its own, since it sees everything from the other side of the wire: its [`NamedPlan`] is what a server
//! tells of a plan, whose resource types the client need not know.
//!
//! ```no_run
//! use tower_quota::Limit;
//! use tower_quota::client::{Named, QuotaClient};
//!
//! # async fn example(token: String) -> Result<(), tower_quota::client::ClientError> {
//! let client = QuotaClient::builder("https://example.com/api").token(token).build()?;
//! let status = client.quota("acme").await?;
//! println!("{} of {} segments", status.usage.get("segments").unwrap_or(&0), status.quota.limits.get("maxSegments").unwrap());
//! // Only if nobody has changed the record since.
//! let limits: Named<Limit> = [("maxSegments", Limit::of(100))].into_iter().collect();
//! match client.set_limits("acme", &limits, status.etag.as_deref(), None).await {
//!     Ok(update) => println!("{:?}", update.warnings),
//!     Err(error) if error.is_conflict() => println!("somebody was faster"),
//!     Err(error) => return Err(error),
//! }
//! // Would five more pass?
//! if let Err(error) = client.validate("acme", "segments", 5).await {
//!     let refused = error.quota_exceeded().ok_or(error.to_string());
//!     println!("{refused:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is sent again
//!
//! A `GET` when no answer came, or a 503 with `Retry-After`; a conditional update (`If-Match`) when it never reached the
//! server, or was answered so. Twice at most, and never after a time-out. All else is sent once: nobody but the caller knows
//! whether it may be done twice.
//!
//! # Connections
//!
//! HTTP/1.1, with rustls and the system's root certificates for `https`. Redirects are not followed, and proxies of the
//! environment not used. A client keeps its connections; clone it rather than to make another.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

mod answers;
mod error;
mod operations;
mod transport;

pub use answers::{
    Analytics, AuditList, CleanupResult, CountDrift, DeliveryList, Enforcement, Explained, Health, ImportProposal,
    ImportStep, Named, NamedPlan, QuotaStatus, QuotaUpdate, ReadinessReport, Recalculation, RequestList, ShadowOf,
    ShadowStatus, Trend, TypeCounts, TypeForecast, Validation, Webhook, WebhookDelivery, WorkspaceQuota,
    WorkspaceSettings,
};
pub use error::{ClientError, QuotaExceeded};
pub use operations::{AuditQuery, ImportStart, ReportFormat, SettingsChange, TrendQuery, WebhookChange};

use transport::Transport;

/// A client of the HTTP API. Cloning is cheap, and clones share connections.
#[derive(Clone)]
pub struct QuotaClient {
    transport: Arc<Transport>,
}

impl QuotaClient {
    /// A client of the API that is mounted at `url`, such as `https://example.com/api`. A URL without any path means `/api`
    /// there; one that ends in a slash, the root.
    pub fn builder(url: impl Into<String>) -> QuotaClientBuilder {
        QuotaClientBuilder {
            url: url.into(),
            token: None,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            roots: Vec::new(),
        }
    }

    /// The URL of the API, without a slash at its end.
    pub fn url(&self) -> &str {
        self.transport.base()
    }
}

impl fmt::Debug for QuotaClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuotaClient").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// Makes a [`QuotaClient`].
#[derive(Clone)]
pub struct QuotaClientBuilder {
    url: String,
    token: Option<String>,
    timeout: Duration,
    connect_timeout: Duration,
    roots: Vec<Vec<u8>>,
}

impl QuotaClientBuilder {
    /// The bearer token of all calls.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How long a call may take, from the connection to the end of the answer; 30 s where nothing is said. A call that is
    /// sent again has this time each time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long a connection may take; 5 s where nothing is said.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Root certificates in PEM, one or several, that are trusted beside those of the system.
    #[must_use]
    pub fn root_certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [Invalid](ClientError::is_invalid) when the URL, the token or a certificate can't be used.
    pub fn build(self) -> Result<QuotaClient, ClientError> {
        Ok(QuotaClient { transport: Arc::new(Transport::new(self)?) })
    }
}

impl fmt::Debug for QuotaClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All but the token.
        f.debug_struct("QuotaClientBuilder")
            .field("url", &self.url)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
