//! The configuration, once all that it says is found to make sense.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use lettre::message::Mailbox;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Postgres, Sqlite};
use toml::{Spanned, Table, Value};
use tower_quota::{
    EmailOptions, Gateway, GatewayOptions, HttpUsage, HttpUsageBuilder, MappedRule, OnFailure, PostgresUsage,
    Principal, Quota, QuotaLayer, ResourceCatalog, ResourceType, RouteMap, SnapshotOptions, SqlTable, SqlUsageBuilder,
    SqliteUsage, StaticTokens, Thresholds, WebhookOptions,
};
use url::Url;

use super::claims::{Claimed, Claims, Pool};
use super::config::{self, Claim, Config, CountUrl, ExistsUrl, Host, Resource, Role, Smtp, Tls, Webhooks};
use super::file::{File, Secret};
use super::front::Rules;
use crate::commands::routes;
use crate::connect;
use crate::failure::Failure;

/// How long a count waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Counts are rare, and one at a time for each workspace.
const CONNECTIONS: u32 = 4;

/// What to do.
pub(super) struct Setup {
    pub(super) config: Config,
    /// The same as it was written, to see what another changes.
    written: Table,
    pub(super) database: String,
    pub(super) rows: Rows,
    /// What is asked over HTTP.
    pub(super) probes: Option<Probes>,
    /// The resource types that the ledger alone counts.
    pub(super) tallied: Vec<String>,
    pub(super) map: RouteMap,
    pub(super) tokens: StaticTokens,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) gateway: Option<InFront>,
    pub(super) thresholds: Notices,
    pub(super) webhooks: Option<WebhookOptions>,
    pub(super) email: Option<EmailOptions>,
    pub(super) snapshots: Option<SnapshotOptions>,
    /// What stands elsewhere, and can't be changed while it runs.
    referred: Vec<(&'static str, String)>,
}

/// How rows are counted; it can be built.
pub(super) enum Rows {
    Sqlite(SqlUsageBuilder<Sqlite>),
    Postgres(SqlUsageBuilder<Postgres>),
}

/// What is in front of another API.
pub(super) struct InFront {
    pub(super) options: GatewayOptions,
    pub(super) listen: SocketAddr,
    /// Its own, or that of the service.
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) idle_timeout: Duration,
    pub(super) longest_request: Duration,
    pub(super) rate_limit_headers: bool,
    pub(super) on_failure: OnFailure,
    pub(super) claims: Vec<Claimed>,
    /// Where their keys are.
    pub(super) keys: Pool,
}

impl InFront {
    /// The rules, and the claims of them, as they are put in front of the API.
    ///
    /// # Errors
    ///
    /// Where they are of other resource types than `quota`.
    pub(super) fn rules(&self, quota: &Quota, map: &RouteMap, claims: Claims) -> Result<Rules, tower_quota::Error> {
        let layer = QuotaLayer::reading_bodies(quota.clone(), map.clone())?;
        let layer = layer.rate_limit_headers(self.rate_limit_headers).on_failure(self.on_failure);
        Ok(Rules { quota: quota.clone(), layer, routes: map.clone(), claims })
    }
}

/// What is asked over HTTP, of which resource types; it can be built.
pub(super) struct Probes {
    pub(super) usage: HttpUsageBuilder,
    pub(super) types: Vec<String>,
}

/// At which usage notices are given.
pub(super) struct Notices {
    /// `None` turns them off.
    pub(super) all: Option<Thresholds>,
    pub(super) of: Vec<(String, Thresholds)>,
}

/// What a URL is of.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    pub(super) fn of(url: &str) -> Option<Self> {
        match url.split_once(':')?.0 {
            "sqlite" => Some(Self::Sqlite),
            "postgres" | "postgresql" => Some(Self::Postgres),
            _ => None,
        }
    }
}

impl Setup {
    /// Reads the configuration and all that it refers to. No database is asked.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let file = File::read(path)?;
        let config: Config = file.parse()?;
        let mut secrets = Secrets { file: &file, written: false, referred: Vec::new() };

        let database = match &config.database.url {
            Some(url) => secrets.url("database.url", url)?,
            None => secrets.variable("database.url", "DATABASE_URL")?,
        };
        let rows = config.rows.url.as_ref().map(|url| secrets.url("rows.url", url)).transpose()?;
        let span = |url: &Option<Spanned<String>>| url.as_ref().map_or(0..0, Spanned::span);
        let scheme = |url: &str, at| {
            Kind::of(url).ok_or_else(|| {
                file.wrong(
                    at,
                    "this is no URL of a database: write sqlite:///path/to/quota.db or postgres://user@host/database",
                )
            })
        };
        scheme(&database, span(&config.database.url))?;
        let kind =
            rows.as_deref().map_or_else(|| scheme(&database, 0..0), |url| scheme(url, span(&config.rows.url)))?;

        let map = map(&file, &config)?;
        let tables = tables(&file, &config, map.catalog())?;
        let rows_at = if rows.is_some() { span(&config.rows.url) } else { span(&config.database.url) };
        let rows_url = rows.as_deref().unwrap_or(&database);
        let rows = counts(&file, kind, rows_url, &rows_at, map.catalog(), &tables)?;
        let probes = probes(&file, &config, map.catalog(), &mut secrets)?;
        lookups(&file, &config, &map)?;
        let tallied = config.resource.iter().map(Spanned::get_ref).filter(|of| of.ledger).map(|of| of.name.clone());
        let tallied = tallied.collect();
        let tokens = tokens(&file, &config, &map, &mut secrets)?;
        let tls = config.tls.as_ref().map(|tls| tls_of(&file, tls)).transpose()?;
        let gateway = match &config.gateway {
            Some(written) => {
                let (claims, keys) = (claims(&file, &written.claim, &map)?, keys(&file, kind, rows_url, &rows_at)?);
                Some(in_front(&file, written, tls.as_ref(), &map, claims, keys)?)
            }
            None => None,
        };
        places(&file, &config)?;
        if let Some(written) = &config.authz {
            super::authz::check(&file, written, &map)?;
            if let Some(tallied) = config.resource.iter().find(|of| of.get_ref().ledger) {
                let message = "with [authz] the ledger alone can't count: a proxy that asks doesn't tell how requests end. \
                               Write where the rows are, `table` or `http`";
                return Err(file.wrong(tallied.span(), message));
            }
        }
        let thresholds = thresholds(&file, &config, map.catalog())?;
        let webhooks = config.webhooks.as_ref().map(|webhooks| webhooks_of(&file, webhooks)).transpose()?;
        let email = config.smtp.as_ref().map(|smtp| email(&file, smtp, &mut secrets)).transpose()?;
        let snapshots = snapshots(&file, &config)?;
        if secrets.written {
            file.private()?;
        }
        let (mut written, referred): (Table, _) = (file.parse()?, secrets.referred);
        // Unlike all else of it, they change with the rules.
        if let Some(Value::Table(gateway)) = written.get_mut("gateway") {
            gateway.remove("claim");
        }
        Ok(Self {
            config,
            written,
            database,
            rows,
            probes,
            tallied,
            map,
            tokens,
            tls,
            gateway,
            thresholds,
            webhooks,
            email,
            snapshots,
            referred,
        })
    }

    /// How long after it has passed a request may make rows, where requests pass here.
    pub(super) fn longest_request(&self) -> Option<Duration> {
        let forwarded = self.gateway.as_ref().map(|gateway| gateway.longest_request);
        let asked = self.config.authz.as_ref().map(|authz| authz.longest_request_seconds.into());
        forwarded.max(asked)
    }

    /// What `other` has differently that can't be changed while it runs.
    pub(super) fn fixed_that_differ(&self, other: &Self) -> Vec<String> {
        let live = |key: &str| matches!(key, "token" | "mode" | "shutdown" | "tls" | "log" | "rules");
        let keys: HashSet<_> = self.written.keys().chain(other.written.keys()).filter(|key| !live(key)).collect();
        let differs = |key: &&String| self.written.get(key.as_str()) != other.written.get(key.as_str());
        let mut differ: Vec<_> = keys.into_iter().filter(differs).cloned().collect();
        let elsewhere = self.referred.iter().filter(|one| !other.referred.contains(one));
        differ.extend(elsewhere.map(|(name, _)| (*name).to_owned()));
        if self.config.log.format != other.config.log.format {
            differ.push("log.format".to_owned());
        }
        if self.tls.is_some() != other.tls.is_some() {
            differ.push("tls".to_owned());
        }
        let types = |setup: &Self| setup.map.catalog().iter().map(|of| ResourceType::clone(of)).collect::<Vec<_>>();
        if types(self) != types(other) || self.map.workspace_format() != other.map.workspace_format() {
            differ.push("the resource types and the `workspace_format` of `rules`".to_owned());
        }
        differ.sort();
        differ.dedup();
        differ
    }
}

/// What is secret, and where it was found.
struct Secrets<'a> {
    file: &'a File,
    /// One stands in the configuration itself.
    written: bool,
    referred: Vec<(&'static str, String)>,
}

impl Secrets<'_> {
    fn keep(&mut self, name: &'static str, secret: Secret) -> String {
        self.written |= secret.written;
        self.referred.push((name, secret.value.clone()));
        secret.value
    }

    fn url(&mut self, name: &'static str, written: &Spanned<String>) -> Result<String, Failure> {
        let secret = self.file.url(written)?;
        Ok(self.keep(name, secret))
    }

    fn text(&mut self, name: &'static str, written: &Spanned<String>) -> Result<String, Failure> {
        let secret = self.file.secret(written)?;
        Ok(self.keep(name, secret))
    }

    fn variable(&mut self, name: &'static str, named: &str) -> Result<String, Failure> {
        let value = std::env::var(named).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
            self.file.wrong_in_all(&format!("no database is named: write `url` in [database], or set {named}"))
        })?;
        Ok(self.keep(name, Secret { value, written: false }))
    }
}

/// The rules, and with them the resource types.
fn map(file: &File, config: &Config) -> Result<RouteMap, Failure> {
    let types = || if config.standard_types { ResourceCatalog::builder() } else { ResourceCatalog::empty() };
    let read = match &config.rules {
        Some(rules) => return routes::read(&file.beside(rules), types()),
        None => types().build().and_then(|catalog| RouteMap::builder(&catalog).build()),
    };
    read.map_err(|error| {
        file.wrong_in_all(&format!("{}: declare resource types in a file that `rules` names", error.message()))
    })
}

/// A table, and where it is written; `None` for a type whose rows are in none.
type Placed = (Option<SqlTable>, Range<usize>);

fn tables(file: &File, config: &Config, catalog: &ResourceCatalog) -> Result<BTreeMap<String, Placed>, Failure> {
    let mut known: BTreeMap<String, Placed> = BTreeMap::new();
    for entry in &config.resource {
        let (at, written) = (entry.span(), entry.get_ref());
        let resource = catalog.by_name(&written.name).map_err(|error| file.wrong(at.clone(), error.message()))?;
        let add = |known: &mut BTreeMap<String, Placed>, table| match known
            .insert(written.name.clone(), (table, at.clone()))
        {
            None => Ok(()),
            Some(_) => Err(file.wrong(at.clone(), &format!("{} is there twice", resource.name()))),
        };
        if written.http.is_some() || written.ledger {
            if written.has_table() || written.http.is_some() && written.ledger {
                let message = format!(
                    "{} is counted in more than one way: write one of `table`, `http` and `ledger = true`",
                    resource.name()
                );
                return Err(file.wrong(at.clone(), &message));
            }
            add(&mut known, None)?;
            continue;
        }
        let name = written.table.as_deref().or(resource.table()).ok_or_else(|| {
            file.wrong(
                at.clone(),
                &format!("no table is known for {}: write `table = \"…\"`, `http` or `ledger = true`", resource.name()),
            )
        })?;
        if let Some(exists) = written.exists.values().next() {
            let message = format!(
                "whether a row of {} exists its table tells: leave `exists` out, or count it by `http` or `ledger`",
                resource.name()
            );
            return Err(file.wrong(exists.span(), &message));
        }
        let mut table = SqlTable::new(name);
        if let Some(column) = &written.workspace_column {
            table = table.workspace_column(column);
        }
        if let Some(kind) = &written.workspace_type {
            table = table.workspace_type(kind);
        }
        if let Some(filter) = &written.filter {
            table = table.filter(filter);
        }
        add(&mut known, Some(table))?;
    }
    let homeless = |of: &&Arc<ResourceType>| of.table().is_none() && !known.contains_key(of.name());
    let homeless: Vec<_> = catalog.iter().filter(homeless).map(|of| of.name()).collect();
    if let Some(first) = homeless.first() {
        let message = format!(
            "no table is known for {}: add a [[resource]] with `name = \"{first}\"` and `table = \"…\"` (or `http`, or `ledger = \
             true`) for each, or write `standard_types = false` where only the types of `rules` are limited",
            homeless.join(", ")
        );
        return Err(file.wrong_in_all(&message));
    }
    Ok(known)
}

/// Counts on connections that are opened when they are needed.
fn counts(
    file: &File,
    kind: Kind,
    url: &str,
    at: &Range<usize>,
    catalog: &ResourceCatalog,
    placed: &BTreeMap<String, Placed>,
) -> Result<Rows, Failure> {
    let tables = || placed.iter().filter_map(|(name, (table, _))| Some((name.clone(), table.clone()?)));
    let elsewhere = || placed.iter().filter(|(_, (table, _))| table.is_none()).map(|(name, _)| name.clone());
    // The one that is wrong is so among others that aren't.
    let wrong = |error: tower_quota::Error, is_wrong: &dyn Fn(Vec<(String, SqlTable)>) -> bool| {
        let alone = |wanted: &str| {
            let others =
                tables().map(|(name, table)| if name == wanted { (name, table) } else { (name, SqlTable::new("T")) });
            is_wrong(others.collect())
        };
        match placed.iter().find(|(name, _)| alone(name)) {
            Some((_, (_, at))) => file.wrong(at.clone(), error.message()),
            None => file.wrong_in_all(error.message()),
        }
    };
    let no_url = |error: sqlx::Error| file.wrong(at.clone(), &format!("the URL of the rows can't be read: {error}"));
    match kind {
        Kind::Sqlite => {
            let options = url.parse::<SqliteConnectOptions>().map_err(no_url)?.read_only(true).busy_timeout(PATIENCE);
            let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
            let none = SqliteUsage::builder(pool.connect_lazy_with(options), catalog);
            let none = elsewhere().fold(none, SqlUsageBuilder::without);
            let counts = none.clone().tables(tables());
            let built = counts.clone().build();
            built.map_err(|error| wrong(error, &|tables| none.clone().tables(tables).build().is_err()))?;
            Ok(Rows::Sqlite(counts))
        }
        Kind::Postgres => {
            let options = url.parse::<PgConnectOptions>().map_err(no_url)?;
            let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
            let none = PostgresUsage::builder(pool.connect_lazy_with(options), catalog);
            let none = elsewhere().fold(none, SqlUsageBuilder::without);
            let counts = none.clone().tables(tables());
            let built = counts.clone().build();
            built.map_err(|error| wrong(error, &|tables| none.clone().tables(tables).build().is_err()))?;
            Ok(Rows::Postgres(counts))
        }
    }
}

/// Checks that rows that rules look up can be found where they are in no table.
fn lookups(file: &File, config: &Config, map: &RouteMap) -> Result<(), Failure> {
    for rule in map.rules() {
        for (resource, column) in rule.lookups() {
            let name = map.catalog().get(resource).name();
            let of = config.resource.iter().find(|of| of.get_ref().name == name);
            let of = of.filter(|of| of.get_ref().ledger || of.get_ref().http.is_some());
            if let Some(of) = of.filter(|of| !of.get_ref().exists.contains_key(column)) {
                let message = format!(
                    "the rule {:?} looks {name} up by {column:?}, which are in no table: add `exists.{column} = {{ url = \"…\" }}`",
                    rule.name()
                );
                return Err(file.wrong(of.span(), &message));
            }
        }
    }
    Ok(())
}

/// What is asked over HTTP.
fn probes(
    file: &File,
    config: &Config,
    catalog: &ResourceCatalog,
    secrets: &mut Secrets<'_>,
) -> Result<Option<Probes>, Failure> {
    let asked = |of: &&Spanned<Resource>| of.get_ref().http.is_some() || !of.get_ref().exists.is_empty();
    let asked: Vec<_> = config.resource.iter().filter(asked).collect();
    let written = match (&config.probe, asked.first()) {
        (Some(written), _) => written,
        (None, None) => return Ok(None),
        (None, Some(first)) => {
            let message = "`http` and `exists` need the API that is to be asked: add [probe] with its `url`";
            return Err(file.wrong(first.span(), message));
        }
    };
    let (at, probe) = (written.span(), written.get_ref());
    let mut usage =
        HttpUsage::builder(probe.url.as_str(), catalog).timeout(probe.timeout_seconds.into()).body_cap(probe.body_cap);
    for (name, value) in &probe.headers {
        let wrong =
            |error: &dyn std::fmt::Display| file.wrong(value.span(), &format!("{name:?} is no header: {error}"));
        let text = secrets.text("probe.headers", value)?;
        usage = usage.header(
            HeaderName::try_from(name.as_str()).map_err(|error| wrong(&error))?,
            HeaderValue::try_from(text).map_err(|error| wrong(&error))?,
        );
    }
    if let Some(path) = &probe.root_certificate {
        usage = usage.root_certificate_pem(certificate(file, path)?);
    }
    // Each by itself, to know which one is wrong.
    let built = |usage: &HttpUsageBuilder, at: Range<usize>| match usage.clone().build() {
        Ok(_) => Ok(()),
        Err(error) => Err(file.wrong(at, error.message())),
    };
    built(&usage, at)?;
    for of in asked.iter().map(|of| of.get_ref()) {
        if let Some(count) = &of.http {
            let CountUrl { url, pointer } = count.get_ref();
            usage = usage.count(of.name.as_str(), url.as_str(), pointer.as_str());
            built(&usage, count.span())?;
        }
        for (column, exists) in &of.exists {
            let ExistsUrl { url, pointer } = exists.get_ref();
            usage = usage.exists(of.name.as_str(), column.as_str(), url.as_str(), pointer.as_deref());
            built(&usage, exists.span())?;
        }
    }
    Ok(Some(Probes { usage, types: asked.iter().map(|of| of.get_ref().name.clone()).collect() }))
}

fn tokens(file: &File, config: &Config, map: &RouteMap, secrets: &mut Secrets<'_>) -> Result<StaticTokens, Failure> {
    let format = map.workspace_format().unwrap_or_default();
    let mut builder = StaticTokens::builder();
    for entry in &config.token {
        let (at, token) = (entry.span(), entry.get_ref());
        let wrong = |message: &str| file.wrong(at.clone(), &format!("token {:?}: {message}", token.name));
        let canonical = |workspace: &String| match format.parse(workspace) {
            Ok(workspace) => Ok(workspace.as_str().to_owned()),
            Err(error) => Err(wrong(&format!("{workspace:?} is no workspace: {}", error.message()))),
        };
        let workspaces = token.workspaces.as_ref().map(|ids| ids.iter().map(canonical).collect::<Result<Vec<_>, _>>());
        let principal = match (token.role, workspaces.transpose()?) {
            (_, Some(workspaces)) if workspaces.is_empty() => return Err(wrong("`workspaces` is empty: name one")),
            (Role::Admin, None) => Principal::admin(token.name.as_str()),
            (Role::Admin, Some(workspaces)) => Principal::admin_of(token.name.as_str(), workspaces),
            (Role::Member, Some(workspaces)) => Principal::member(token.name.as_str(), workspaces),
            (Role::Member, None) => return Err(wrong("a member has `workspaces`: name them")),
        };
        let secret = file.secret(&token.secret)?;
        secrets.written |= secret.written;
        builder = builder.token(secret.value, principal);
        // Each by itself, to know which one is wrong.
        builder.clone().build().map_err(|error| file.wrong(token.secret.span(), error.message()))?;
    }
    if config.token.is_empty() {
        return Err(file.wrong_in_all(
            "nobody could call the API: add a [[token]] with `name`, `secret = \"env:…\"` and `role = \"admin\"`",
        ));
    }
    builder.build().map_err(|error| file.wrong_in_all(error.message()))
}

fn tls_of(file: &File, tls: &Spanned<Tls>) -> Result<Arc<ServerConfig>, Failure> {
    let (at, written) = (tls.span(), tls.get_ref());
    let (certificate, key) = (file.beside(&written.certificate), file.beside(&written.key));
    let wrong = |path: &Path, error: &dyn std::fmt::Display| {
        file.wrong(at.clone(), &format!("{} can't be used: {error}", path.display()))
    };
    connect::private(&key).map_err(|failure| failure.at(&file.wrong(at.clone(), "")))?;
    let chain = CertificateDer::pem_file_iter(&certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong(&certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| wrong(&key, &error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    let mut config = config.map_err(|error| wrong(&certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Checks that no two things are at one path.
fn places(file: &File, config: &Config) -> Result<(), Failure> {
    let served = [
        ("the API is", &config.api.path, true),
        ("the dashboard is", &config.dashboard.path, config.dashboard.enabled),
        ("the metrics are", &config.metrics.path, config.metrics.enabled),
    ];
    for (index, (what, place, enabled)) in served.iter().enumerate() {
        for probe in super::app::PROBES {
            if place.get_ref().is_at_or_below(probe) {
                return Err(file.wrong(place.span(), &format!("{probe} is taken: it tells how the service is")));
            }
        }
        for (other_what, other, other_enabled) in &served[..index] {
            let (path, other_path) = (place.get_ref(), other.get_ref());
            let clash = path.is_at_or_below(other_path.as_str()) || other_path.is_at_or_below(path.as_str());
            if *enabled && *other_enabled && clash {
                // One at least is written: where it is the default that is in the way, the other one can move.
                let (moves, (taken_by, taken)) = match place.span().is_empty() {
                    true => (other, (what, path)),
                    false => (place, (other_what, other_path)),
                };
                let message =
                    format!("{taken_by} at {}: this needs a path that is neither above nor below it", taken.as_str());
                return Err(file.wrong(moves.span(), &message));
            }
        }
    }
    Ok(())
}

fn thresholds(file: &File, config: &Config, catalog: &ResourceCatalog) -> Result<Notices, Failure> {
    let Some(written) = &config.thresholds else {
        return Ok(Notices { all: Some(Thresholds::default()), of: Vec::new() });
    };
    let (at, written) = (written.span(), written.get_ref());
    let build = |at: Range<usize>, [warning, critical, exceeded]: [u32; 3]| {
        let mut built =
            Thresholds::new(warning, critical, exceeded).map_err(|error| file.wrong(at, error.message()))?;
        if let Some(points) = written.rearm_below {
            built = built.rearm_below(points);
        }
        if let Some(seconds) = written.min_interval_seconds {
            built = built.min_interval(seconds.into());
        }
        Ok::<_, Failure>(built)
    };
    let or = |percent: Option<u32>, usual: u32| percent.unwrap_or(usual);
    let all = [or(written.warning, 90), or(written.critical, 95), or(written.exceeded, 100)];
    let all = Some(build(at, all)?).filter(|_| written.enabled);
    let of = written.of.iter().map(|(name, percents)| {
        let at = percents.span();
        catalog.by_name(name).map_err(|error| file.wrong(at.clone(), error.message()))?;
        let percents = percents.get_ref();
        Ok((name.clone(), build(at, [percents.warning, percents.critical, percents.exceeded])?))
    });
    Ok(Notices { all, of: of.collect::<Result<_, Failure>>()? })
}

/// Where keys are looked up, on connections that are opened when they are needed.
fn keys(file: &File, kind: Kind, rows: &str, at: &Range<usize>) -> Result<Pool, Failure> {
    let no_url = |error: sqlx::Error| file.wrong(at.clone(), &format!("the URL of the rows can't be read: {error}"));
    Ok(match kind {
        Kind::Sqlite => {
            let options = rows.parse::<SqliteConnectOptions>().map_err(no_url)?.read_only(true).busy_timeout(PATIENCE);
            let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
            Pool::Sqlite(pool.connect_lazy_with(options))
        }
        Kind::Postgres => {
            let options = rows.parse::<PgConnectOptions>().map_err(no_url)?;
            let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(PATIENCE);
            Pool::Postgres(pool.connect_lazy_with(options))
        }
    })
}

/// Which rules' requests come with a key.
fn claims(file: &File, written: &[Spanned<Claim>], map: &RouteMap) -> Result<Vec<Claimed>, Failure> {
    let (mut claims, mut known) = (Vec::new(), HashSet::new());
    for entry in written {
        let (at, claim) = (entry.span(), entry.get_ref());
        let wrong = |message: &str| file.wrong(at.clone(), message);
        let header = claim.header.parse::<HeaderName>();
        let header = header.map_err(|_| wrong(&format!("{:?} is no name of a header", claim.header)))?;
        match (claim.sql.contains("$1"), claim.sql.contains("$2"), claim.scheme.has_password()) {
            (true, true, true) | (true, false, false) => {}
            (_, _, true) => {
                return Err(wrong("with the scheme basic, `sql` goes by both the name, `$1`, and the password, `$2`"));
            }
            (_, _, false) => return Err(wrong("`sql` goes by the key, `$1`, and by nothing else")),
        }
        if claim.rules.is_empty() {
            return Err(wrong("`rules` is empty: name those whose requests come with such a key"));
        }
        for name in &claim.rules {
            match map.rules().find(|rule| rule.name() == name) {
                Some(rule) if rule.takes_claims() => {}
                Some(_) => {
                    return Err(wrong(&format!("rule {name:?} takes no claim: add \"extension\" to its `workspace`")));
                }
                None => return Err(wrong(&format!("there is no rule {name:?} in `rules`"))),
            }
            if !known.insert(name) {
                return Err(wrong(&format!("rule {name:?} has two claims")));
            }
        }
        claims.push(Claimed {
            rules: claim.rules.clone(),
            header,
            scheme: claim.scheme,
            sql: claim.sql.clone(),
            keep: claim.keep_seconds.into(),
        });
    }
    Ok(claims)
}

fn in_front(
    file: &File,
    written: &config::Gateway,
    tls: Option<&Arc<ServerConfig>>,
    map: &RouteMap,
    claims: Vec<Claimed>,
    keys: Pool,
) -> Result<InFront, Failure> {
    let mut options = GatewayOptions::upstream(written.upstream.get_ref())
        .http2(written.http2)
        .upstream_host(written.host == Host::Upstream)
        .trusted_proxies(written.trusted_proxies.iter().map(|network| network.0.as_str()))
        .connect_timeout(written.connect_timeout_seconds.into())
        .response_timeout(written.response_timeout_seconds.into())
        .idle_timeout(written.idle_timeout_seconds.into())
        .body_timeout(written.body_timeout_seconds.into())
        .keep_alive(written.keep_alive_seconds.into());
    if let Some(path) = &written.health_path {
        options = options.health(path.as_str(), written.health_every_seconds.into());
    }
    if let Some(path) = &written.root_certificate {
        options = options.root_certificate_pem(certificate(file, path)?);
    }
    Gateway::new(options.clone()).map_err(|error| file.wrong(written.upstream.span(), error.message()))?;
    let longest = *written.longest_request_seconds.get_ref();
    let late = map.rules().filter_map(MappedRule::late_rows).max().unwrap_or_default().as_secs();
    let awaited = (written.connect_timeout_seconds.0 + written.response_timeout_seconds.0).saturating_add(late);
    if longest.0 < awaited {
        let of_rules = if late > 0 { " and the longest `late_rows_seconds` of a rule" } else { "" };
        let message = format!(
            "`longest_request_seconds` is no less than `connect_timeout_seconds` and `response_timeout_seconds`{of_rules} \
             together, {awaited}: a request that is waited for may still make rows"
        );
        return Err(file.wrong(written.longest_request_seconds.span(), &message));
    }
    let own = written.tls.as_ref().map(|tls| tls_of(file, tls)).transpose()?;
    Ok(InFront {
        options,
        listen: written.listen,
        tls: own.or_else(|| tls.cloned()),
        idle_timeout: written.idle_timeout_seconds.into(),
        longest_request: longest.into(),
        rate_limit_headers: written.rate_limit_headers,
        on_failure: written.on_failure.into(),
        claims,
        keys,
    })
}

fn certificate(file: &File, path: &Path) -> Result<Vec<u8>, Failure> {
    let path = file.beside(path);
    fs::read(&path).map_err(|error| Failure::unreadable(&path, &error))
}

fn webhooks_of(file: &File, written: &Webhooks) -> Result<WebhookOptions, Failure> {
    let networks = written.allow_networks.iter().map(|network| network.0.as_str());
    let mut options = WebhookOptions::new()
        .timeout(written.timeout_seconds.into())
        .allow_http(written.allow_http)
        .allow_networks(networks);
    if let Some(path) = &written.root_certificate {
        options = options.root_certificate_pem(certificate(file, path)?);
    }
    Ok(options)
}

fn email(file: &File, written: &Smtp, secrets: &mut Secrets<'_>) -> Result<EmailOptions, Failure> {
    let url = secrets.url("smtp.url", &written.url)?;
    if !Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "smtp" | "smtps") && url.has_host()) {
        return Err(file.wrong(written.url.span(), "this is no URL of a mail server: write smtps://mail.example.com"));
    }
    let from = written.from.get_ref();
    if from.parse::<Mailbox>().is_err() {
        let message = format!("{from:?} is no e-mail address: write one such as Quotas <quotas@example.com>");
        return Err(file.wrong(written.from.span(), &message));
    }
    let mut options = EmailOptions::smtp(url, from).timeout(written.timeout_seconds.into());
    match (&written.user, &written.password) {
        (Some(user), Some(password)) => {
            let user = file.secret(user)?.value;
            options = options.credentials(user, secrets.text("smtp.password", password)?);
        }
        (None, None) => {}
        (Some(one), None) | (None, Some(one)) => {
            return Err(file.wrong(one.span(), "[smtp] has both of `user` and `password`, or none"));
        }
    }
    if let Some(path) = &written.root_certificate {
        options = options.root_certificate_pem(certificate(file, path)?);
    }
    Ok(options)
}

fn snapshots(file: &File, config: &Config) -> Result<Option<SnapshotOptions>, Failure> {
    const MOST: u32 = 100 * 366;
    let written = &config.snapshots;
    let (hours, days) = (*written.keep_hours_for_days.get_ref(), *written.keep_days.get_ref());
    if hours == 0 {
        return Err(file.wrong(written.keep_hours_for_days.span(), "`keep_hours_for_days` is 1 at least"));
    }
    if !(hours..=MOST).contains(&days) {
        let message = format!("`keep_days` is from `keep_hours_for_days`, {hours}, up to {MOST}; got {days}");
        return Err(file.wrong(written.keep_days.span(), &message));
    }
    let options = SnapshotOptions::new().every(written.every_seconds.into()).keep_hours(hours).keep_days(days);
    Ok(Some(options).filter(|_| written.enabled))
}
