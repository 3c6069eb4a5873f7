//! Counts where nobody can read the tables: asked over HTTP, or kept by the ledger alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod crashes;
mod host;
mod http;
mod setup;
mod suite;
mod upstream;

/// Runs the suite on hosts that `$start` makes.
macro_rules! conforms {
    ($module:ident, $start:expr) => {
        conforms!(
            $module,
            $start,
            a_crowd_makes_exactly_as_many_rows_as_the_limit_says,
            a_deletion_makes_room,
            deletions_of_what_is_not_there_are_never_less_than_nothing,
            deletions_of_what_never_came_to_be_are_forgotten_with_it,
            what_failed_makes_no_row_and_what_nobody_knows_does,
            a_tally_that_is_set_counts,
            deletions_of_before_a_tally_was_set_do_not_come_off_it,
            a_storm_of_creations_and_deletions_ends_with_what_there_is,
            an_edit_is_asked_for_over_http,
            types_without_a_limit_are_tallied_too,
            caps_are_kept,
            a_restart_knows_what_there_was,
            workspaces_are_listed,
        );
    };
    ($module:ident, $start:expr, $($test:ident,)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::suite::$test($start.await).await;
                }
            )+
        }
    };
}

conforms!(own_books_on_sqlite, crate::host::Host::sqlite());
conforms!(own_books_on_postgres, crate::host::Host::postgres(0));
conforms!(one_replica, crate::host::Host::postgres(1));
conforms!(two_replicas, crate::host::Host::postgres(2));
