//! The example `quickstart`, as a process, over real sockets, on a real SQLite file or a real Postgres server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

use support::quickstart as process;

/// Runs tests on each database.
macro_rules! everywhere {
    ($($test:ident,)+) => {
        mod sqlite {
            $(
                #[test]
                fn $test() {
                    super::$test(crate::process::Server::Sqlite);
                }
            )+
        }

        mod postgres {
            $(
                #[test]
                fn $test() {
                    super::$test(crate::process::Server::Postgres);
                }
            )+
        }
    };
}

mod input;
mod limits;
mod paths;
mod starts;
mod storms;
mod types;
