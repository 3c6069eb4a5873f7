//! What a request would create, for whom: route maps.

mod compile;
mod file;
mod map;
mod path;
mod quick;
mod resolve;
mod rule;
#[cfg(test)]
mod tests;

pub use compile::MappedRule;
pub use map::{RouteMap, RouteMapBuilder};
pub use path::{Decoding, PathReading};
pub use resolve::{Direct, Match, Resolved};
pub use rule::{
    Amount, Charge, OnFailure, Operation, Predicate, Probe, Rule, WorkspaceClaim, WorkspaceResolver, WorkspaceSource,
};
