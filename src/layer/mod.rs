//! The middleware: [`QuotaLayer`] around a service. Its prose is at the type, which is what readers of the docs see.

mod answer;
mod body;
mod future;
mod outcome;
mod request_body;
mod service;

#[cfg(feature = "gateway")]
pub(crate) use answer::ErrorForm;
pub use answer::RefusalResponse;
pub use body::ResponseBody;
pub use future::ResponseFuture;
pub use outcome::RowOutcome;
#[cfg(feature = "axum")]
pub use request_body::AxumBody;
pub use request_body::{BodyMode, Replayed, RequestBody, ResponseMode, Untouched};
pub use service::{QuotaLayer, QuotaService};
