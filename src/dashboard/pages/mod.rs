//! The pages.

pub(super) mod audit;
pub(super) mod bar;
pub(super) mod layout;
pub(super) mod modes;
pub(super) mod plans;
pub(super) mod requests;
pub(super) mod sign_in;
#[cfg(feature = "webhooks")]
pub(super) mod webhooks;
pub(super) mod workspace;
pub(super) mod workspaces;
