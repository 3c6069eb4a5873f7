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

use crate::error::Error;

/// Nothing, where the store keeps limits only: pages show what there is.
fn or_none<T: Default>(found: Result<T, Error>) -> Result<T, Error> {
    match found {
        Err(error) if error.is_config() => Ok(T::default()),
        found => found,
    }
}
