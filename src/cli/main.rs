//! `quotactl`: quotas from a terminal, over the HTTP API.
//!
//! It uses the library as any other crate would: `tower_quota::client` for what a server knows, and `RouteMap` for files of
//! rules.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its terminal")]

use std::process::ExitCode;

mod args;
mod commands;
mod connect;
mod failure;
mod limits;
mod monitor;
mod output;
#[cfg(feature = "serve")]
mod serve;

use failure::{Failure, Outcome};

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args_os()) {
        Ok(called) => run(called),
        Err(told) => return args::tell(&told),
    };
    match outcome {
        Ok(outcome) => outcome.code(),
        Err(failure) => failure.tell(),
    }
}

fn run(called: args::Called) -> Result<Outcome, Failure> {
    let mut builder = match &called.command {
        #[cfg(feature = "serve")]
        args::Command::Serve(_) => tokio::runtime::Builder::new_multi_thread(),
        // One thread is enough: a call waits for the server, and the screen for a key.
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("the system gives no event loop: {error}")))?;
    let outcome = runtime.block_on(Box::pin(commands::run(called)));
    // A look-up of a name that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    outcome
}
