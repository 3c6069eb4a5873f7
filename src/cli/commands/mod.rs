//! The commands: each asks the server, and shows the answer.

mod doctor;
mod insight;
mod operate;
mod policy;
mod quota;
pub(crate) mod routes;
mod tally;
mod webhooks;

use std::io::{self, IsTerminal, Write};

use clap_complete::generate;
use serde::Serialize;
use tower_quota::Limit;
use tower_quota::client::{Named, QuotaClient};

use crate::args::{Called, Command, Overrides, Requests, Webhooks, command};
use crate::connect;
use crate::failure::{Failure, Outcome};
use crate::limits::Written;
use crate::monitor;
use crate::output::{Cell, Output, Shown, Tone, to_stdout};

pub(crate) use policy::action;
pub(crate) use quota::rows;

/// What commands work with.
pub(crate) struct Context {
    client: QuotaClient,
    output: Output,
    limits: Written,
}

pub(crate) async fn run(called: Called) -> Result<Outcome, Failure> {
    let Called { server, output, limits, command } = called;
    // What needs no server is not to fail for want of one.
    let command = match command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            generate(shell, &mut self::command(), "quotactl", &mut script);
            return to_stdout(&script).map(|()| Outcome::Done);
        }
        Command::Routes(routes) => return routes::run(output, routes).await,
        #[cfg(feature = "serve")]
        Command::Serve(serve) => return crate::serve::run(serve).await,
        command => command,
    };
    let context = Context { client: connect::client(&server)?, output, limits };
    let there = listed_by(&command);
    carry_out(context, command).await.map_err(|failure| failure.look_up(there))
}

/// What tells which things there are of those that a command names.
fn listed_by(command: &Command) -> Option<String> {
    Some(match command {
        Command::Plans(_) => "`quotactl plans list` shows those that there are".to_owned(),
        Command::Override(Overrides::Remove { of, .. }) => {
            format!("`quotactl override list --workspace {}` shows those that there are", of.workspace)
        }
        Command::Requests(Requests::Approve { of, .. } | Requests::Deny { of, .. } | Requests::Withdraw { of, .. }) => {
            format!("`quotactl requests list --workspace {}` shows those that there are", of.workspace)
        }
        Command::Webhooks(Webhooks::Replay { id, .. }) => {
            format!(
                "`quotactl webhooks list` shows the endpoints, and `quotactl webhooks deliveries {id}` what went there"
            )
        }
        Command::Webhooks(_) => "`quotactl webhooks list` shows those that there are".to_owned(),
        Command::Shadow(_) => "`quotactl shadow start --max-…` tries some out".to_owned(),
        _ => return None,
    })
}

async fn carry_out(context: Context, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Status(of) => quota::status(&context, &of.workspace).await,
        Command::Update(update) => quota::update(&context, update).await,
        Command::Validate(asked) => quota::validate(&context, asked).await,
        Command::Recalculate(asked) => quota::recalculate(&context, asked).await,
        Command::Cleanup(cleanup) => quota::cleanup(&context, cleanup).await,
        Command::Report(report) => insight::report(&context, report).await,
        Command::Analytics(asked) => insight::analytics(&context, asked).await,
        Command::Monitor(asked) => monitor::run(context.client, asked).await,
        Command::Plans(plans) => policy::plans(&context, plans).await,
        Command::Grace(grace) => policy::grace(&context, grace).await,
        Command::Override(overrides) => policy::overrides(&context, overrides).await,
        Command::Requests(requests) => policy::requests(&context, requests).await,
        Command::Audit(audit) => policy::audit(&context, audit).await,
        Command::Webhooks(webhooks) => webhooks::run(&context, webhooks).await,
        Command::Mode(mode) => operate::mode(&context, mode).await,
        Command::Migrate(migrate) => operate::migrate(&context, migrate).await,
        Command::Tally(tally) => tally::run(&context, tally).await,
        Command::Shadow(shadow) => operate::shadow(&context, shadow).await,
        Command::Doctor(doctor) => doctor::run(&context, doctor).await,
        Command::Completions { .. } | Command::Routes(_) => Ok(Outcome::Done),
        #[cfg(feature = "serve")]
        Command::Serve(_) => Ok(Outcome::Done),
    }
}

impl Context {
    fn show(&self, shown: &Shown) -> Result<Outcome, Failure> {
        self.output.show(shown).map(|()| Outcome::Done)
    }

    /// Shows that something is done: a sentence for people.
    fn done(&self, json: &impl Serialize, sentence: impl Into<String>) -> Result<Outcome, Failure> {
        let mut shown = Shown::table(json, [])?;
        shown.note(sentence);
        self.show(&shown)
    }
}

/// How usage in percent of its limit is meant.
pub(crate) fn tone(percent: u64) -> Tone {
    match percent {
        0..90 => Tone::Good,
        90..100 => Tone::Warning,
        _ => Tone::Bad,
    }
}

/// A list of limits, as in `maxSegments 100, maxUsers unlimited`.
fn listed(limits: &Named<Limit>) -> String {
    limits.iter().map(|(field, limit)| format!("{field} {limit}")).collect::<Vec<_>>().join(", ")
}

/// A line that tells how far something long has come, where somebody looks on.
pub(crate) struct Progress(bool);

impl Progress {
    fn new() -> Self {
        Self(io::stderr().is_terminal())
    }

    fn tell(&self, line: &str) {
        if self.0 {
            // Where it is closed meanwhile, nobody looks on any more.
            let _ = write!(io::stderr(), "\r\x1b[K{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.tell("");
    }
}

/// Tells where a list that is cut goes on.
fn more(shown: &mut Shown, next: Option<&str>) {
    if let Some(next) = next {
        shown.note(format!("more with: --cursor {next}"));
    }
}

/// What is there, or a dash.
fn or_dash(value: Option<&str>) -> Cell {
    Cell::text(value.unwrap_or("-"))
}
