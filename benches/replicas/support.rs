//! What the tests have.

#[path = "../../tests/support/client.rs"]
pub(crate) mod client;
#[path = "../../tests/support/database.rs"]
pub(crate) mod database;
#[path = "../../tests/support/postgres.rs"]
pub(crate) mod postgres;
#[path = "../../tests/support/random.rs"]
pub(crate) mod random;
