//! The middleware: [`QuotaLayer`] around a service.
//!
//! A request that the route map doesn't map goes straight to the inner service. One that it maps is resolved into a
//! workspace and charges; the engine reserves the units; the inner service runs; and its response settles the units:
//!
//! | response | units |
//! |---|---|
//! | 2xx; for gRPC, status `OK` | posted: the rows exist |
//! | 4xx but 408 and 499; for gRPC, a status that says the request was refused | given back |
//! | anything else; an error, a panic, a dropped request | unknown: settled later, see [`Settling`](crate::Settling) |
//!
//! # Where to put it
//!
//! From the outside in: trace, catch-panic, CORS, time-out, authentication, body limit, **quota**, handler. The layer
//! believes the workspace that the request names; if authentication puts a [`Principal`](crate::Principal) into the
//! request's extensions, the layer also refuses what that principal may not access.
//!
//! # Bodies
//!
//! Rules can go by the request's body. It is then read, up to the rule's cap, and handed on byte for byte. Since that
//! changes the body's type for the inner service, it has a constructor of its own:
//!
//! | constructor | the inner service takes | for |
//! |---|---|---|
//! | [`QuotaLayer::new`] | `Request<B>` | maps without body rules, any server |
//! | [`QuotaLayer::for_axum`] | `Request<axum::body::Body>` | axum (feature `axum`) |
//! | [`QuotaLayer::reading_bodies`] | `Request<RequestBody<B>>` | any other server |

mod answer;
mod body;
mod future;
mod outcome;
mod request_body;
mod service;

pub use answer::RefusalResponse;
pub use body::ResponseBody;
pub use future::ResponseFuture;
#[cfg(feature = "axum")]
pub use request_body::AxumBody;
pub use request_body::{BodyMode, Replayed, RequestBody, ResponseMode, Untouched};
pub use service::{QuotaLayer, QuotaService};
