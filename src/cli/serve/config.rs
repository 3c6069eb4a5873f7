//! What can be written into the configuration, as it is written.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use tower_quota::{EnforcementMode, OnFailure};
use tracing_subscriber::filter::LevelFilter;

/// The file. Whatever may be wrong beside its type is `Spanned`, so that it can be told where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default = "listen", deserialize_with = "address")]
    pub(super) listen: SocketAddr,
    pub(super) mode: Option<EnforcementMode>,
    pub(super) rules: Option<PathBuf>,
    #[serde(default = "yes")]
    pub(super) standard_types: bool,
    #[serde(default)]
    pub(super) database: Database,
    #[serde(default)]
    pub(super) rows: Rows,
    pub(super) probe: Option<Spanned<Probe>>,
    #[serde(default)]
    pub(super) resource: Vec<Spanned<Resource>>,
    #[serde(default)]
    pub(super) token: Vec<Spanned<Token>>,
    #[serde(default)]
    pub(super) api: Api,
    #[serde(default)]
    pub(super) dashboard: Dashboard,
    #[serde(default)]
    pub(super) metrics: Metrics,
    #[serde(default)]
    pub(super) log: Log,
    pub(super) tls: Option<Spanned<Tls>>,
    pub(super) gateway: Option<Gateway>,
    pub(super) authz: Option<Authz>,
    pub(super) thresholds: Option<Spanned<Thresholds>>,
    pub(super) webhooks: Option<Webhooks>,
    pub(super) smtp: Option<Smtp>,
    #[serde(default)]
    pub(super) snapshots: Snapshots,
    #[serde(default)]
    pub(super) shutdown: Shutdown,
}

/// Where records are kept.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Database {
    pub(super) url: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) pooler: bool,
}

/// Where the rows are that are counted.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Rows {
    pub(super) url: Option<Spanned<String>>,
}

/// The API that is asked over HTTP for rows that aren't in a table.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probe {
    pub(super) url: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Spanned<String>>,
    #[serde(default = "five")]
    pub(super) timeout_seconds: Seconds,
    #[serde(default = "one_mebibyte")]
    pub(super) body_cap: usize,
    pub(super) root_certificate: Option<PathBuf>,
}

/// How the rows of one resource type are counted: in a table, over HTTP, or by the ledger alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) name: String,
    pub(super) table: Option<String>,
    pub(super) workspace_column: Option<String>,
    pub(super) workspace_type: Option<String>,
    pub(super) filter: Option<String>,
    pub(super) http: Option<Spanned<CountUrl>>,
    #[serde(default)]
    pub(super) ledger: bool,
    /// Where it is asked whether a row exists, by column.
    #[serde(default)]
    pub(super) exists: BTreeMap<String, Spanned<ExistsUrl>>,
}

impl Resource {
    /// Whether something is said of a table.
    pub(super) fn has_table(&self) -> bool {
        let columns = [&self.workspace_column, &self.workspace_type, &self.filter];
        self.table.is_some() || columns.into_iter().any(Option::is_some)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CountUrl {
    pub(super) url: String,
    pub(super) pointer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExistsUrl {
    pub(super) url: String,
    pub(super) pointer: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub(super) name: String,
    pub(super) secret: Spanned<String>,
    pub(super) role: Role,
    pub(super) workspaces: Option<Vec<String>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Admin,
    Member,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    pub(super) path: Spanned<Place>,
}

impl Default for Api {
    fn default() -> Self {
        Self { path: Spanned::new(0..0, Place("/api".to_owned())) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Dashboard {
    pub(super) enabled: bool,
    pub(super) path: Spanned<Place>,
}

impl Default for Dashboard {
    fn default() -> Self {
        Self { enabled: true, path: Spanned::new(0..0, Place("/dashboard".to_owned())) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub(super) enabled: bool,
    pub(super) path: Spanned<Place>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true, path: Spanned::new(0..0, Place("/metrics".to_owned())) }
    }
}

/// A plain path, at which something is mounted.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Place(String);

impl Place {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether what is asked for at `self` would be looked for below `other`, too.
    pub(super) fn is_at_or_below(&self, other: &str) -> bool {
        self.0.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
        let named = |part: &str| !part.is_empty() && part.chars().all(plain);
        match path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(named)) {
            true => Ok(Self(path)),
            false => Err(format!("{path:?} is no plain path: write one such as \"/api\"")),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Log {
    pub(super) level: Level,
    pub(super) format: Format,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

#[derive(Deserialize, Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// Another API that the rules are enforced in front of.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    pub(super) upstream: Spanned<String>,
    #[serde(default = "gateway_listen", deserialize_with = "address")]
    pub(super) listen: SocketAddr,
    #[serde(default)]
    pub(super) http2: bool,
    #[serde(default)]
    pub(super) host: Host,
    #[serde(default)]
    pub(super) trusted_proxies: Vec<Network>,
    #[serde(default = "five")]
    pub(super) connect_timeout_seconds: Seconds,
    #[serde(default = "sixty")]
    pub(super) response_timeout_seconds: Seconds,
    #[serde(default = "sixty")]
    pub(super) idle_timeout_seconds: Seconds,
    #[serde(default = "five_minutes")]
    pub(super) body_timeout_seconds: Seconds,
    #[serde(default = "four")]
    pub(super) keep_alive_seconds: Seconds,
    pub(super) health_path: Option<Place>,
    #[serde(default = "five")]
    pub(super) health_every_seconds: Seconds,
    #[serde(default = "two_minutes")]
    pub(super) longest_request_seconds: Spanned<Seconds>,
    #[serde(default)]
    pub(super) first_count_after_seconds: Wait,
    #[serde(default)]
    pub(super) rate_limit_headers: bool,
    #[serde(default)]
    pub(super) on_failure: Failing,
    pub(super) root_certificate: Option<PathBuf>,
    pub(super) tls: Option<Spanned<Tls>>,
    #[serde(default)]
    pub(super) claim: Vec<Spanned<Claim>>,
}

/// Whose the requests of some rules are, where only a key that comes with them says so.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    pub(super) rules: Vec<String>,
    #[serde(default = "authorization")]
    pub(super) header: String,
    #[serde(default)]
    pub(super) scheme: Scheme,
    pub(super) sql: String,
    #[serde(default = "thirty")]
    pub(super) keep_seconds: Seconds,
}

/// What a header with a key has beside it.
#[derive(Deserialize, Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    /// Nothing.
    #[default]
    Plain,
    /// A name and a password (RFC 7617).
    Basic,
    /// A token (RFC 6750).
    Bearer,
}

/// Answers to proxies that ask before they forward a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authz {
    #[serde(default = "authz_listen", deserialize_with = "address")]
    pub(super) listen: SocketAddr,
    pub(super) nginx_path: Option<Spanned<Place>>,
    #[serde(default = "thirty")]
    pub(super) longest_request_seconds: Seconds,
    #[serde(default)]
    pub(super) first_count_after_seconds: Wait,
    #[serde(default)]
    pub(super) rate_limit_headers: bool,
    #[serde(default)]
    pub(super) on_failure: Failing,
}

/// By what name the upstream is called.
#[derive(Deserialize, Clone, Copy, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Host {
    #[default]
    Client,
    Upstream,
}

/// What becomes of requests while nothing can be decided.
#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum Failing {
    #[default]
    Open,
    Closed,
}

impl From<Failing> for OnFailure {
    fn from(failing: Failing) -> Self {
        match failing {
            Failing::Open => Self::Open,
            Failing::Closed => Self::Closed,
        }
    }
}

/// At which usage notices are given; those of a type count instead of those of all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Thresholds {
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    pub(super) warning: Option<u32>,
    pub(super) critical: Option<u32>,
    pub(super) exceeded: Option<u32>,
    pub(super) rearm_below: Option<u32>,
    pub(super) min_interval_seconds: Option<Wait>,
    #[serde(default)]
    pub(super) of: BTreeMap<String, Spanned<Percents>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Percents {
    pub(super) warning: u32,
    pub(super) critical: u32,
    pub(super) exceeded: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Webhooks {
    #[serde(default = "yes")]
    pub(super) allow_http: bool,
    #[serde(default)]
    pub(super) allow_networks: Vec<Network>,
    pub(super) root_certificate: Option<PathBuf>,
    #[serde(default = "fifteen")]
    pub(super) timeout_seconds: Seconds,
}

/// A network or an address, checked where it stands.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Network(pub(super) String);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(network: String) -> Result<Self, String> {
        match network.parse::<IpNet>().is_ok() || network.parse::<std::net::IpAddr>().is_ok() {
            true => Ok(Self(network)),
            false => Err(format!("{network:?} is no network: write one such as \"10.1.0.0/16\"")),
        }
    }
}

/// A length of time that is not nothing.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "i64")]
pub(super) struct Seconds(pub(super) u64);

impl TryFrom<i64> for Seconds {
    type Error = String;

    fn try_from(seconds: i64) -> Result<Self, String> {
        match u64::try_from(seconds) {
            Ok(whole @ 1..=86_400) => Ok(Self(whole)),
            _ => Err(format!("{seconds} is out of range: write whole seconds, from 1 to 86400")),
        }
    }
}

impl From<Seconds> for std::time::Duration {
    fn from(seconds: Seconds) -> Self {
        Self::from_secs(seconds.0)
    }
}

/// A length of time that may be nothing.
#[derive(Deserialize, Clone, Copy, Default)]
#[serde(try_from = "i64")]
pub(super) struct Wait(u64);

impl TryFrom<i64> for Wait {
    type Error = String;

    fn try_from(seconds: i64) -> Result<Self, String> {
        let whole = u64::try_from(seconds);
        whole.map(Self).map_err(|_| format!("{seconds} is out of range: write whole seconds, of 0 or more"))
    }
}

impl From<Wait> for std::time::Duration {
    fn from(wait: Wait) -> Self {
        Self::from_secs(wait.0)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Smtp {
    pub(super) url: Spanned<String>,
    pub(super) from: Spanned<String>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) password: Option<Spanned<String>>,
    pub(super) root_certificate: Option<PathBuf>,
    #[serde(default = "fifteen")]
    pub(super) timeout_seconds: Seconds,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Snapshots {
    pub(super) enabled: bool,
    pub(super) every_seconds: Seconds,
    pub(super) keep_hours_for_days: Spanned<u32>,
    pub(super) keep_days: Spanned<u32>,
}

impl Default for Snapshots {
    fn default() -> Self {
        let days = |days| Spanned::new(0..0, days);
        Self { enabled: true, every_seconds: Seconds(3600), keep_hours_for_days: days(14), keep_days: days(500) }
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shutdown {
    pub(super) drain_seconds: Wait,
    pub(super) patience_seconds: Seconds,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { drain_seconds: Wait::default(), patience_seconds: Seconds(30) }
    }
}

fn address<'de, D: Deserializer<'de>>(written: D) -> Result<SocketAddr, D::Error> {
    /// Takes it from a text, and says what it is where something else stands there.
    struct Address;

    impl Visitor<'_> for Address {
        type Value = SocketAddr;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address and port such as \"127.0.0.1:8080\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<SocketAddr, E> {
            text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }

    written.deserialize_str(Address)
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn gateway_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8081))
}

fn authz_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8082))
}

fn authorization() -> String {
    "authorization".to_owned()
}

fn four() -> Seconds {
    Seconds(4)
}

fn five() -> Seconds {
    Seconds(5)
}

fn thirty() -> Seconds {
    Seconds(30)
}

fn sixty() -> Seconds {
    Seconds(60)
}

fn five_minutes() -> Seconds {
    Seconds(300)
}

fn two_minutes() -> Spanned<Seconds> {
    Spanned::new(0..0, Seconds(120))
}

fn yes() -> bool {
    true
}

fn one_mebibyte() -> usize {
    1 << 20
}

fn fifteen() -> Seconds {
    Seconds(15)
}
