//! Every ledger keeps the same promises: the process' own books, over either database, and those of a `PostgresLedger`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod host;
mod suite;

/// Runs the suite on hosts that `$start` makes.
macro_rules! conforms {
    ($module:ident, $start:expr) => {
        conforms!(
            $module,
            $start,
            as_many_are_admitted_as_the_limit_says,
            a_crowd_makes_exactly_as_many_rows_as_the_limit_says,
            a_batch_is_admitted_whole_or_not_at_all,
            several_keys_are_admitted_all_or_none,
            a_refusal_counts_the_rows_that_there_are,
            what_makes_no_row_gives_its_unit_back,
            what_nobody_tells_of_is_settled_in_the_end,
            an_edit_passes_at_the_limit,
            a_changed_limit_binds_everywhere,
            zero_admits_nothing_and_unlimited_all,
            a_workspace_that_was_forgotten_is_counted_again,
            modes_say_what_happens_at_the_limit,
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
