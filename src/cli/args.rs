//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use jiff::civil::Date;
use jiff::{Span, SpanRelativeTo, Timestamp};
use tower_quota::client::ReportFormat;
use tower_quota::{EnforcementMode, Period};

use crate::failure::Failure;
use crate::limits::Written;
use crate::output::{Format, Output, to_stderr, to_stdout};

/// What is called.
pub(crate) struct Called {
    pub(crate) server: Server,
    pub(crate) output: Output,
    pub(crate) limits: Written,
    pub(crate) command: Command,
}

const AFTER: &str = "\
Profiles:
  A TOML file, `$XDG_CONFIG_HOME/quotactl/config.toml` (or `~/.config/…`), which only its owner may read (mode 0600):

    [profile.default]
    url = \"https://example.com/api\"
    token_file = \"/run/secrets/quota\"     # or: token = \"…\"

  A flag counts more than the environment, and that more than a profile. Without `--profile`, the one called `default` is \
used, where there is one.

Tokens:
  What stands on a command line can be read by all users of the machine, and is kept in the shell's history: rather give a \
token in QUOTA_TOKEN, in a file (`--token-file FILE`), on the standard input (`--token-file -`) or in a profile.

Exit codes:
  0  done
  1  refused: over the limit, or a check has failed
  2  usage: an option, a file or a value makes no sense
  3  the server can't be reached, or can't answer now
  4  not permitted: no token, one that the server doesn't know, or one without the right
  5  no such thing, or another state than was expected (`--if-match`, a request that is decided)
  6  anything else";

const LIMITS: &str = "\
Limits:
  --max-<TYPE> <N|unlimited>         A limit, for each type that the server has: --max-segments 100, --max-custom-metrics 5
  --limit-field <FIELD>=<N|unlimited>  The same by the name of its field, where that doesn't begin with `max`";

#[cfg(feature = "serve")]
const SERVE: &str = "\
Signals:
  SIGHUP           read the configuration anew: tokens, mode, level of the log, certificates, rules of the gateway and
                   of [authz], [[gateway.claim]], times of the shutdown
  SIGTERM, SIGINT  take no more connections, finish what is under way, and end with exit code 0

Paths:
  /livez           200 as long as the process lives
  /readyz          200 while it can answer; 503 while it starts or ends, or its store doesn't answer";

/// Quotas of workspaces, from a terminal: reads and sets limits over the HTTP API of tower-quota.
#[derive(Debug, Parser)]
#[command(name = "quotactl", version, after_help = AFTER, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

/// Where the server is, and who calls.
#[derive(Debug, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Server {
    /// The API's URL, or QUOTA_URL; without a path, `/api` is added
    #[arg(long, global = true)]
    pub(crate) url: Option<String>,
    /// The bearer token, or QUOTA_TOKEN; better given otherwise, see below
    #[arg(long, global = true, hide_default_value = true)]
    pub(crate) token: Option<String>,
    /// A file that has the token; `-` for the standard input
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub(crate) token_file: Option<PathBuf>,
    /// The profile that has URL and token
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// The file of profiles
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Root certificates in PEM that are trusted beside the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) root_certificate: Option<PathBuf>,
    /// How long a call may take
    #[arg(long, global = true, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Limits and usage of a workspace
    Status(Of),
    /// Set limits of a workspace
    #[command(after_help = LIMITS)]
    Update(Update),
    /// Ask whether a creation would be admitted; exit code 1 where it would be refused
    Validate(Validate),
    /// Count the rows of a workspace anew
    Recalculate(Recalculate),
    /// What usage was, by day, week or month
    Report(Report),
    /// How usage develops, and when it will reach the limits
    Analytics(Analytics),
    /// Limits and usage of a workspace, live
    Monitor(Monitor),
    /// Named sets of limits
    #[command(subcommand)]
    Plans(Plans),
    /// For a time, a little more than the limit
    #[command(subcommand)]
    Grace(Grace),
    /// Limits that are in force for a time
    #[command(subcommand)]
    Override(Overrides),
    /// Requests for more
    #[command(subcommand)]
    Requests(Requests),
    /// Who changed what
    Audit(Audit),
    /// Endpoints that are told when a limit comes near
    #[command(subcommand)]
    Webhooks(Webhooks),
    /// How strictly limits are enforced
    #[command(subcommand)]
    Mode(Mode),
    /// Limits by what workspaces have, where there were none
    #[command(subcommand)]
    Migrate(Migrate),
    /// Rows above a limit: told, or with `--apply` archived or deleted, as the server was set up
    Cleanup(Cleanup),
    /// Rows of types that the ledger alone counts
    #[command(subcommand)]
    Tally(Tally),
    /// Try limits out: what would they refuse?
    #[command(subcommand)]
    Shadow(Shadow),
    /// Files of rules, without a server
    #[command(subcommand)]
    Routes(Routes),
    /// Look for what keeps limits from being enforced; exit code 1 where something does
    Doctor(Doctor),
    /// Serve the API, dashboard, metrics and a gateway, on SQLite or Postgres
    #[cfg(feature = "serve")]
    Serve(Serve),
    /// A script with which a shell completes command lines
    Completions {
        /// Of which shell
        shell: Shell,
    },
}

/// One workspace.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// The workspace
    #[arg(long, short, value_name = "ID")]
    pub(crate) workspace: String,
}

/// One workspace, or all.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct OfAny {
    /// The workspace
    #[arg(long, short, value_name = "ID")]
    pub(crate) workspace: Option<String>,
    /// All workspaces
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    pub(crate) of: Of,
    /// Only as long as the record has this entity tag, as `status` shows it
    #[arg(long, value_name = "TAG")]
    pub(crate) if_match: Option<String>,
    /// Why, for the audit log
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) of: Of,
    /// The resource type
    #[arg(long, value_name = "TYPE")]
    pub(crate) resource: String,
    /// How many rows
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) increment: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Recalculate {
    #[command(flatten)]
    pub(crate) of: Of,
    /// Only tell which counts are wrong
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    pub(crate) of: OfAny,
    /// How it is written
    #[arg(long, default_value = "csv", value_parser = named::<ReportFormat>([("csv", ReportFormat::Csv), ("json", ReportFormat::Json)]))]
    pub(crate) format: ReportFormat,
    /// How long its periods are
    #[arg(long, default_value = "monthly", value_parser = named(Period::ALL.map(|period| (period.as_str(), period))))]
    pub(crate) period: Period,
    /// The file that it is written to; the standard output where none is named
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Analytics {
    #[command(flatten)]
    pub(crate) of: Of,
    /// The first day; 30 days ago where none is named
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub(crate) start: Option<Date>,
    /// The last day; today where none is named
    #[arg(long, value_name = "DATE", value_parser = date, requires = "start")]
    pub(crate) end: Option<Date>,
    /// How fine
    #[arg(long, value_parser = ["hour", "day", "week", "month"])]
    pub(crate) granularity: Option<String>,
    /// Show the forecast alone
    #[arg(long)]
    pub(crate) forecast: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Monitor {
    #[command(flatten)]
    pub(crate) of: Of,
    /// How often the server is asked
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(crate) refresh: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plans {
    /// All plans
    List,
    /// One plan
    Show {
        /// Its name
        name: String,
    },
    /// Make a plan, or replace its limits
    #[command(after_help = LIMITS)]
    Set {
        /// Its name
        name: String,
        /// Only as long as the plan has this version
        #[arg(long, value_name = "VERSION")]
        if_match: Option<String>,
    },
    /// Delete a plan that no workspace has
    Delete {
        /// Its name
        name: String,
    },
    /// Give a workspace a plan
    Assign {
        /// The plan's name
        #[arg(required_unless_present = "none", conflicts_with = "none")]
        name: Option<String>,
        /// Take its plan from the workspace
        #[arg(long)]
        none: bool,
        #[command(flatten)]
        of: Of,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Grace {
    /// The grace of a workspace
    Show(Of),
    /// Set the grace of a workspace
    Set {
        #[command(flatten)]
        of: Of,
        /// How much over the limit, in percent of it
        #[arg(long, value_name = "N")]
        percentage: u32,
        /// For how long from the first overrun, such as 24h or 7d
        #[arg(long, value_parser = span)]
        duration: Duration,
        /// The resource types that have it; all where none is named
        #[arg(long = "resource", value_name = "TYPE", value_delimiter = ',')]
        resources: Vec<String>,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
    },
    /// No grace for a workspace
    Off(Of),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Overrides {
    /// Those of a workspace
    List(Of),
    /// Make one
    Add {
        #[command(flatten)]
        of: Of,
        /// The resource type
        #[arg(long, value_name = "TYPE")]
        resource: String,
        /// The limit meanwhile
        #[arg(long, value_name = "N|unlimited", value_parser = crate::limits::read)]
        limit: tower_quota::Limit,
        /// Until when: a time such as 2026-01-31T10:00:00Z, or from now on, such as 7d
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Timestamp,
        /// From when on; now where nothing is said
        #[arg(long, value_name = "TIME", value_parser = moment)]
        from: Option<Timestamp>,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// End one before its time
    Remove {
        #[command(flatten)]
        of: Of,
        /// Its id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Requests {
    /// Those of a workspace, or of all
    List {
        #[command(flatten)]
        of: OfAny,
        /// Only those that stand so
        #[arg(long, value_parser = named(tower_quota::RequestStatus::ALL.map(|status| (status.as_str(), status))))]
        status: Option<tower_quota::RequestStatus>,
        #[command(flatten)]
        page: Page,
    },
    /// Ask for more
    Make {
        #[command(flatten)]
        of: Of,
        /// The resource type
        #[arg(long, value_name = "TYPE")]
        resource: String,
        /// By how many rows the limit is to grow
        #[arg(long, value_name = "N")]
        amount: u64,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// Raise the limit as was asked for
    Approve {
        #[command(flatten)]
        of: Of,
        /// The request's id
        id: String,
        /// What to tell whoever asked
        #[arg(long)]
        note: Option<String>,
        /// Until when: a time, or from now on, such as 30d; for good where nothing is said
        #[arg(long, value_name = "TIME", value_parser = moment)]
        until: Option<Timestamp>,
    },
    /// Leave the limit as it is
    Deny {
        #[command(flatten)]
        of: Of,
        /// The request's id
        id: String,
        /// What to tell whoever asked
        #[arg(long)]
        note: Option<String>,
    },
    /// Take a request back
    Withdraw {
        #[command(flatten)]
        of: Of,
        /// The request's id
        id: String,
    },
}

/// A page of a list.
#[derive(Debug, Args)]
pub(crate) struct Page {
    /// At most so many
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1000))]
    pub(crate) count: Option<u32>,
    /// Where to go on: what the page before ended with
    #[arg(long)]
    pub(crate) cursor: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(crate) of: OfAny,
    /// Only this resource type
    #[arg(long, value_name = "TYPE")]
    pub(crate) resource: Option<String>,
    /// Not before: a time such as 2026-01-31T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Timestamp>,
    /// Before
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<Timestamp>,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Webhooks {
    /// All endpoints
    List,
    /// Make one; its secret is shown this once
    Add {
        /// Where requests go
        endpoint: String,
        /// Only events of this workspace; of all where none is named
        #[arg(long, short, value_name = "ID")]
        workspace: Option<String>,
        #[command(flatten)]
        change: WebhookFields,
        /// A file that has the secret (`whsec_…`), `-` for the standard input; the server makes one where none is named
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// One endpoint
    Show {
        /// Its id
        id: String,
    },
    /// Change one
    Update {
        /// Its id
        id: String,
        /// Where requests go
        #[arg(long)]
        endpoint: Option<String>,
        #[command(flatten)]
        change: WebhookFields,
    },
    /// Delete one
    Delete {
        /// Its id
        id: String,
    },
    /// Give one a new secret, which is shown this once; the old one signs for a day more
    Secret {
        /// Its id
        id: String,
        /// A file that has the secret (`whsec_…`), `-` for the standard input; the server makes one where none is named
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Send `quota.test` to one
    Test {
        /// Its id
        id: String,
    },
    /// What was sent to one, the newest first
    Deliveries {
        /// Its id
        id: String,
        /// Only those that stand so
        #[arg(long, value_parser = named(tower_quota::DeliveryStatus::ALL.map(|status| (status.as_str(), status))))]
        status: Option<tower_quota::DeliveryStatus>,
        #[command(flatten)]
        page: Page,
    },
    /// Send one again
    Replay {
        /// The endpoint's id
        id: String,
        /// The delivery's id
        delivery: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WebhookFields {
    /// What it is told of; all where nothing is said
    #[arg(long = "event", value_name = "EVENT", value_delimiter = ',', value_parser = ["quota.warning", "quota.exceeded"])]
    pub(crate) events: Vec<String>,
    /// What it is for
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Whether it is sent anything
    #[arg(long, value_name = "true|false")]
    pub(crate) active: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tally {
    /// Set how many rows a workspace has
    Set {
        #[command(flatten)]
        of: Of,
        /// The resource type
        #[arg(long, value_name = "TYPE")]
        resource: String,
        /// How many
        rows: u64,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
    },
    /// Set those of many workspaces, from lines of `workspace,type,count` or of {"workspace": …, "type": …, "count": …}
    Import {
        /// The file; `-` for the standard input
        file: PathBuf,
        /// Begin behind this line: where a run that was broken off has come to
        #[arg(long, value_name = "LINE", default_value_t = 0)]
        after: u64,
        /// Why, for the audit log
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Mode {
    /// The mode in force, and what is promised of limits
    Show {
        /// That of a workspace
        #[arg(long, short, value_name = "ID")]
        workspace: Option<String>,
    },
    /// Set the mode of all, of a workspace, of a resource type, or of both
    Set {
        /// off, warn, enforce, strict; or inherit, for that of all
        #[arg(value_parser = named([
            ("off", Some(EnforcementMode::Off)), ("warn", Some(EnforcementMode::Warn)),
            ("enforce", Some(EnforcementMode::Enforce)), ("strict", Some(EnforcementMode::Strict)), ("inherit", None),
        ]))]
        mode: ModeOrInherit,
        /// Of this workspace
        #[arg(long, short, value_name = "ID")]
        workspace: Option<String>,
        /// Of this resource type
        #[arg(long, value_name = "TYPE")]
        resource: Option<String>,
        /// Why, for the audit log
        #[arg(long, requires = "workspace")]
        reason: Option<String>,
    },
}

/// A name of its own, since clap takes an `Option` for an argument that may be left out.
pub(crate) type ModeOrInherit = std::option::Option<EnforcementMode>;

#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Which limits workspaces would get, and whom enforcement would refuse
    Analyze {
        #[command(flatten)]
        how: Import,
        /// How many proposals to show
        #[arg(long, value_name = "N", default_value_t = 20)]
        show: usize,
    },
    /// Set those limits; a run that broke off goes on where it was
    Apply {
        #[command(flatten)]
        how: Import,
        /// The name of the run
        #[arg(long, default_value = "import")]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Limits in percent of usage, rounded up
    #[arg(long, value_name = "N", default_value_t = 120)]
    pub(crate) percent: u32,
    /// The least limit
    #[arg(long, value_name = "N")]
    pub(crate) floor: Option<u64>,
    /// Lower limits that are there, too
    #[arg(long)]
    pub(crate) allow_lowering: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Cleanup {
    #[command(flatten)]
    pub(crate) of: Of,
    /// The resource type
    #[arg(long, value_name = "TYPE")]
    pub(crate) resource: String,
    /// Remove them, and not only tell
    #[arg(long)]
    pub(crate) apply: bool,
    /// How many rows are removed in one transaction
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=10_000))]
    pub(crate) batch: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Shadow {
    /// Begin, instead of what was tried out before
    #[command(after_help = LIMITS)]
    Start {
        /// In this workspace alone; may be given several times
        #[arg(long = "workspace", short, value_name = "ID")]
        workspaces: Vec<String>,
    },
    /// What they would have refused so far
    Show,
    /// End it, and show what they would have refused
    Stop,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Routes {
    /// Read a file, and show its rules
    Check {
        #[command(flatten)]
        rules: Rules,
    },
    /// Which rule a request falls under, for whom, and what it is charged
    Explain {
        #[command(flatten)]
        rules: Rules,
        /// The request's method
        #[arg(value_parser = method)]
        method: http::Method,
        /// Its path, with the query
        path: String,
        /// Its body: JSON, `@FILE`, or `-` for the standard input
        body: Option<String>,
        /// A header of it, `name: value`; may be given several times
        #[arg(long = "header", short = 'H', value_name = "HEADER")]
        headers: Vec<String>,
        /// The workspace by which the host's own code claims it (`WorkspaceClaim`)
        #[arg(long, value_name = "ID")]
        claim: Option<String>,
    },
}

/// A file of rules.
#[derive(Debug, Args)]
pub(crate) struct Rules {
    /// The file: TOML, or JSON where its name ends so
    pub(crate) file: PathBuf,
    /// A resource type that the program declares, beside the eight; may be given several times
    #[arg(long = "resource", value_name = "TYPE")]
    pub(crate) resources: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Look at this workspace, too
    #[arg(long, short, value_name = "ID")]
    pub(crate) workspace: Option<String>,
    /// The file of rules: has each resource type a rule that creates it?
    #[arg(long, value_name = "FILE")]
    pub(crate) routes: Option<PathBuf>,
    /// A resource type that the program declares, beside the eight and those of the file; may be given several times
    #[arg(long = "resource", value_name = "TYPE", requires = "routes")]
    pub(crate) resources: Vec<String>,
}

/// The service.
#[cfg(feature = "serve")]
#[derive(Debug, Args)]
#[command(after_help = SERVE, disable_help_subcommand = true)]
pub(crate) struct Serve {
    /// The configuration, in TOML
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Only read it and what it refers to, and tell whether all makes sense; no database is asked
    #[arg(long)]
    pub(crate) check: bool,
}

/// A parser of one of some names.
fn named<T: Clone + Send + Sync + 'static>(
    values: impl IntoIterator<Item = (&'static str, T)>,
) -> impl clap::builder::TypedValueParser<Value = T> {
    use clap::builder::TypedValueParser;
    let values: Vec<_> = values.into_iter().collect();
    let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
    clap::builder::PossibleValuesParser::new(names).try_map(move |name| {
        let known = values.iter().find(|(known, _)| *known == name);
        known.map(|(_, value)| value.clone()).ok_or("no such name")
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "write seconds, from 0.1 to 86400".into())
}

/// A length of time such as `24h`; a day has 24 hours.
fn span(text: &str) -> Result<Duration, String> {
    let read = text.parse::<Span>().and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
    let duration = read.ok().and_then(|duration| Duration::try_from(duration).ok());
    duration
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a length of time such as 90m, 24h or 7d".into())
}

fn time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "write a time such as 2026-01-31T10:00:00Z".into())
}

fn date(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| "write a date such as 2026-01-31".into())
}

fn method(text: &str) -> Result<http::Method, String> {
    if text.bytes().any(|letter| letter.is_ascii_lowercase()) {
        return Err(format!("methods are told apart by capitals, too: write {}", text.to_uppercase()));
    }
    text.parse().map_err(|_| "write a method such as POST".into())
}

/// A time, or a length of time from now on.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = time(text) {
        return Ok(time);
    }
    let after = span(text).map_err(|_| "write a time such as 2026-01-31T10:00:00Z, or one from now on, such as 7d")?;
    Timestamp::now().checked_add(after).map_err(|_| "that is later than times go".into())
}

/// The commands as clap knows them, with the one option that most of them have.
pub(crate) fn command() -> clap::Command {
    let output = Arg::new("format")
        .long("output")
        .value_name("FORMAT")
        .value_parser(value_parser!(Format))
        .default_value("table")
        .help("How the result is shown");
    with(Cli::command(), &output)
}

/// Adds an option to all commands that show a result and don't call something else so.
fn with(command: clap::Command, output: &Arg) -> clap::Command {
    if command.has_subcommands() {
        return command.mut_subcommands(|below| with(below, output));
    }
    match command.get_name() {
        "report" | "monitor" | "completions" | "serve" => command,
        _ => command.arg(output.clone()),
    }
}

/// Why there is nothing to run.
pub(crate) enum Told {
    Clap(clap::Error),
    Failure(Failure),
}

impl From<Failure> for Told {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Called, Told> {
    let (limits, arguments) = Written::take(arguments)?;
    let mut matches = command().try_get_matches_from(arguments).map_err(Told::Clap)?;
    let mut leaf = &matches;
    while let Some((_, below)) = leaf.subcommand() {
        leaf = below;
    }
    let format = leaf.try_get_one::<Format>("format").ok().flatten().copied().unwrap_or_default();
    let Cli { server, command } = Cli::from_arg_matches_mut(&mut matches).map_err(Told::Clap)?;
    match command {
        Command::Update(_) | Command::Plans(Plans::Set { .. }) | Command::Shadow(Shadow::Start { .. }) => {
            limits.some()?
        }
        _ => limits.none()?,
    }
    Ok(Called { server, output: Output { format }, limits, command })
}

/// Tells why there is nothing to run, and how the process ends.
pub(crate) fn tell(told: &Told) -> ExitCode {
    match told {
        Told::Failure(failure) => failure.tell(),
        Told::Clap(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                match to_stdout(error.render().to_string().as_bytes()) {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(failure) => failure.tell(),
                }
            }
            _ => {
                to_stderr(error.render().to_string().trim_end());
                ExitCode::from(2)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_together() {
        command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        assert_eq!(span("24h").unwrap(), Duration::from_secs(86_400));
        assert_eq!(span("7d").unwrap(), Duration::from_secs(7 * 86_400));
        for wrong in ["", "0s", "-1h", "x", "7"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
        assert_eq!(moment("2026-01-31T10:00:00Z").unwrap().to_string(), "2026-01-31T10:00:00Z");
        assert!(moment("1h").unwrap() > Timestamp::now() && moment("never").is_err());
        assert!(seconds("0").is_err() && seconds("nan").is_err() && seconds("0.5").is_ok());
    }
}
