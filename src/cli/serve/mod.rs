//! `quotactl serve`: the API as a service of its own, beside the programs that enforce the limits; or with a gateway that
//! enforces them in front of another API.

mod app;
mod authz;
mod claims;
mod config;
mod file;
mod front;
mod http;
mod setup;
mod signals;
mod taken;
mod telemetry;

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tower_quota::{
    Gateway, ModeSource, PostgresLedger, PostgresStore, Quota, QuotaBuilder, Settling, SqliteStore, UsageByType,
};

use self::app::{Gate, Tokens};
use self::authz::Authz;
use self::claims::Claims;
use self::front::{Front, Rules};
use self::setup::{Kind, Rows, Setup};
use self::signals::{Signal, Signals};
use self::telemetry::Log;
use crate::args::Serve;
use crate::failure::{Failure, Outcome};
use crate::output::to_stdout;

/// How long what the engine has on lease, and hasn't written yet, may take to be given back and written.
const FAREWELL: Duration = Duration::from_secs(10);

pub(crate) async fn run(called: Serve) -> Result<Outcome, Failure> {
    let setup = Setup::read(&called.config)?;
    if called.check {
        let (types, rules) = (setup.map.catalog().len(), setup.map.rules().len());
        let tokens = setup.config.token.len();
        let told =
            format!("{} is good: resource types {types}, rules {rules}, tokens {tokens}\n", called.config.display());
        return to_stdout(told.as_bytes()).map(|()| Outcome::Done);
    }
    let log = Log::install(&setup.config)?;
    // Before anything else, that none is missed.
    let signals = Signals::listen().map_err(|error| Failure::other(format!("no signal can be heard: {error}")))?;
    let listener = bind("listening", setup.config.listen, setup.tls.is_some()).await?;
    let in_front = match &setup.gateway {
        Some(gateway) => Some(bind("gateway listening", gateway.listen, gateway.tls.is_some()).await?),
        None => None,
    };
    let asked = match &setup.config.authz {
        Some(authz) => Some(bind("authz listening", authz.listen, false).await?),
        None => None,
    };
    let metrics = telemetry::metrics(&setup.config)?;

    let gate = Arc::new(Gate::default());
    let (certificate, certificates) = watch::channel(setup.tls.clone());
    let (stop, stopped) = watch::channel(false);
    let accepting =
        http::accept(listener, app::outer(Arc::clone(&gate)), certificates, http::PATIENCE, stopped.clone());
    let accepting = vec![tokio::spawn(accepting)];

    let tokens = Arc::new(Tokens::new(setup.tokens.clone()));
    let (quota, front, authz) = (None, None, None);
    let mut service = Service { setup, log, tokens, certificate, gate, quota, front, authz, accepting, signals };
    let ran = service.run(&called.config, metrics, in_front, asked, stopped).await;

    service.gate.close();
    let shutdown = service.setup.config.shutdown;
    if service.quota.is_some() && ran.is_ok() {
        tokio::time::sleep(shutdown.drain_seconds.into()).await;
    }
    stop.send_replace(true);
    let all = async {
        for accepting in service.accepting {
            if let Ok(mut connections) = accepting.await {
                while connections.join_next().await.is_some() {}
            }
        }
    };
    if tokio::time::timeout(shutdown.patience_seconds.into(), all).await.is_err() {
        tracing::warn!("requests are cut off: they took longer than `shutdown.patience_seconds`");
    }
    if let Some(quota) = &service.quota
        && let Err(error) = quota.shutdown(FAREWELL).await
    {
        tracing::warn!(%error, "the quota engine has ended early");
    }
    ran?;
    tracing::info!("ended as told");
    Ok(Outcome::Done)
}

async fn bind(what: &str, address: SocketAddr, encrypted: bool) -> Result<TcpListener, Failure> {
    let listening = async {
        let listener = TcpListener::bind(address).await?;
        Ok::<_, io::Error>((listener.local_addr()?, listener))
    };
    let (address, listener) = listening.await.map_err(|error| {
        let failure = Failure::other(format!("can't listen on {address}: {error}"));
        match error.kind() {
            io::ErrorKind::AddrInUse => failure.hint("another program does: end it, or write another `listen`"),
            io::ErrorKind::PermissionDenied => failure.hint("ports below 1024 need a right of their own"),
            _ => failure.hint("`listen` is an address of this machine, or 0.0.0.0 for all, and a port"),
        }
    })?;
    let scheme = if encrypted { "https" } else { "http" };
    to_stdout(format!("{what} on {scheme}://{address}\n").as_bytes())?;
    Ok(listener)
}

/// What runs.
struct Service {
    setup: Setup,
    log: Log,
    tokens: Arc<Tokens>,
    certificate: watch::Sender<Option<Arc<rustls::ServerConfig>>>,
    gate: Arc<Gate>,
    quota: Option<Quota>,
    front: Option<InForce>,
    /// What answers proxies, by the rules in force.
    authz: Option<watch::Sender<axum::Router>>,
    /// What takes connections, and tells in the end which are left.
    accepting: Vec<JoinHandle<JoinSet<()>>>,
    signals: Signals,
}

/// What can change of a gateway while it runs.
struct InForce {
    rules: watch::Sender<Rules>,
    certificate: watch::Sender<Option<Arc<rustls::ServerConfig>>>,
}

impl Service {
    /// Starts, and goes on until it is told to stop.
    async fn run(
        &mut self,
        config: &Path,
        metrics: Option<axum::Router>,
        in_front: Option<TcpListener>,
        asked: Option<TcpListener>,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let quota = tokio::select! {
            started = start(&self.setup) => started?,
            () = self.signals.stop() => return Ok(()),
        };
        let app = app::inner(&self.setup.config, &quota, Arc::clone(&self.tokens), metrics);
        self.gate.open(quota.clone(), app);
        // Until now, connections to it have been waiting.
        if let Some(listener) = in_front {
            self.stand_in_front(&quota, listener, stopped.clone())?;
        }
        if let Some(listener) = asked {
            self.answer_proxies(&quota, listener, stopped)?;
        }
        tracing::info!(mode = %quota.mode(), promise = ?quota.promise(), "ready");
        self.quota = Some(quota.clone());
        while self.signals.next().await == Signal::Reload {
            match Setup::read(config) {
                Ok(setup) => self.change(&quota, setup).await,
                Err(failure) => tracing::error!(%failure, "the configuration stays as it was"),
            }
        }
        Ok(())
    }

    /// Takes requests to the API behind this.
    fn stand_in_front(
        &mut self,
        quota: &Quota,
        listener: TcpListener,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let Some(gateway) = &self.setup.gateway else { return Ok(()) };
        let claims = Claims::new(&gateway.claims, &gateway.keys);
        let rules = gateway.rules(quota, &self.setup.map, claims).map_err(|error| failed(&error))?;
        let proxy = Gateway::new(gateway.options.clone()).map_err(|error| failed(&error))?;
        let (rules, in_force) = watch::channel(rules);
        let patience = gateway.idle_timeout;
        let (certificate, certificates) = watch::channel(gateway.tls.clone());
        let accepting = http::accept(listener, Front::new(in_force, proxy, patience), certificates, patience, stopped);
        self.accepting.push(tokio::spawn(accepting));
        self.front = Some(InForce { rules, certificate });
        Ok(())
    }

    /// Takes questions of proxies.
    fn answer_proxies(
        &mut self,
        quota: &Quota,
        listener: TcpListener,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        let Some(authz) = &self.setup.config.authz else { return Ok(()) };
        let answers = authz::router(authz, quota, &self.setup.map).map_err(|error| failed(&error))?;
        let (rules, in_force) = watch::channel(answers);
        let (_, in_the_clear) = watch::channel(None);
        let accepting = http::accept(listener, Authz::new(in_force), in_the_clear, http::PATIENCE, stopped);
        self.accepting.push(tokio::spawn(accepting));
        self.authz = Some(rules);
        Ok(())
    }

    /// Puts in force what can change while it runs.
    async fn change(&mut self, quota: &Quota, new: Setup) {
        let claims = match self.claims(&new).await {
            Ok(claims) => claims,
            Err(failure) => return tracing::error!(%failure, "the configuration stays as it was"),
        };
        for name in self.setup.fixed_that_differ(&new) {
            tracing::warn!(%name, "this can't change while it runs, and stays as it was: start again");
        }
        self.tokens.replace(new.tokens.clone());
        self.log.set_level(new.config.log.level);
        if let (Some(_), Some(tls)) = (&self.setup.tls, &new.tls) {
            self.certificate.send_replace(Some(Arc::clone(tls)));
        }
        self.change_front(quota, &new, claims);
        self.change_authz(quota, &new);
        self.change_mode(quota, &new);
        tracing::info!(
            tokens = new.config.token.len(),
            rules = new.map.rules().len(),
            "the configuration is read anew"
        );
        let (tokens, mode, log) = (new.tokens, new.config.mode, new.config.log.level);
        self.setup.tokens = tokens;
        self.setup.config.mode = mode;
        self.setup.config.log.level = log;
        self.setup.config.shutdown = new.config.shutdown;
    }

    /// The claims of `new`, looked up where the rows are since the start. Those that are the same keep the keys that they know.
    async fn claims(&self, new: &Setup) -> Result<Option<Claims>, Failure> {
        let (Some(front), Some(before), Some(after)) = (&self.front, &self.setup.gateway, &new.gateway) else {
            return Ok(None);
        };
        if before.claims == after.claims {
            return Ok(Some(front.rules.borrow().claims.clone()));
        }
        let claims = Claims::new(&after.claims, &before.keys);
        check(&claims).await.map(|()| Some(claims))
    }

    fn change_front(&mut self, quota: &Quota, new: &Setup, claims: Option<Claims>) {
        let (Some(front), Some(before), Some(after), Some(claims)) =
            (&self.front, &mut self.setup.gateway, &new.gateway, claims)
        else {
            return;
        };
        if let (Some(_), Some(tls)) = (&before.tls, &after.tls) {
            front.certificate.send_replace(Some(Arc::clone(tls)));
        }
        match before.rules(quota, &new.map, claims) {
            Ok(rules) => {
                front.rules.send_replace(rules);
                before.claims.clone_from(&after.claims);
            }
            Err(error) => tracing::warn!(%error, "the rules stay as they were"),
        }
    }

    fn change_authz(&self, quota: &Quota, new: &Setup) {
        let (Some(rules), Some(authz)) = (&self.authz, &self.setup.config.authz) else { return };
        match authz::router(authz, quota, &new.map) {
            Ok(answers) => drop(rules.send_replace(answers)),
            Err(error) => tracing::warn!(%error, "proxies are answered by the rules of before"),
        }
    }

    fn change_mode(&self, quota: &Quota, new: &Setup) {
        let (before, after) = (self.setup.config.mode, new.config.mode);
        if before == after {
            return;
        }
        // What the file said last is not what somebody set over the API.
        let set_over_api = quota.mode_source() == ModeSource::Runtime && Some(quota.mode()) != before;
        match after {
            Some(mode) if !set_over_api => quota.set_mode(mode),
            Some(_) => {
                tracing::warn!(mode = %quota.mode(), "the mode was set over the API, and stays so: set it there")
            }
            None => {
                tracing::warn!(mode = %quota.mode(), "the configuration has no `mode` any more: it stays until the next start")
            }
        }
    }
}

/// Connects to the databases, and builds the engine.
async fn start(setup: &Setup) -> Result<Quota, Failure> {
    let catalog = setup.map.catalog();
    let builder = Quota::builder(catalog.clone());
    let builder = match Kind::of(&setup.database) {
        Some(Kind::Postgres) => {
            let store = PostgresStore::connect(&setup.database, catalog).await.map_err(|error| failed(&error))?;
            let ledger = PostgresLedger::new(&store).listens(!setup.config.database.pooler);
            let ledger = match setup.longest_request() {
                Some(longest) => ledger.longest_handler(longest),
                // It makes no rows, so that there is nothing to fence.
                None => ledger.fenced(),
            };
            builder.store(store).ledger(ledger)
        }
        _ => {
            let store = SqliteStore::connect(&setup.database, catalog).await.map_err(|error| failed(&error))?;
            // What was granted before is known to nobody; in Postgres, leases tell.
            let authz = setup.config.authz.as_ref().map(|authz| authz.first_count_after_seconds);
            let gateway = setup.config.gateway.as_ref().map(|gateway| gateway.first_count_after_seconds);
            let wait = authz.map(Duration::from).max(gateway.map(Duration::from)).unwrap_or_default();
            builder.store(store).first_count_after(wait)
        }
    };
    let mut usage = match &setup.rows {
        Rows::Sqlite(counts) => {
            let counts = counts.clone().build().map_err(|error| failed(&error))?;
            counts.check().await.map_err(|error| uncountable(&error))?;
            UsageByType::new().others(counts)
        }
        Rows::Postgres(counts) => {
            let counts = counts.clone().build().map_err(|error| failed(&error))?;
            counts.check().await.map_err(|error| uncountable(&error))?;
            UsageByType::new().others(counts)
        }
    };
    if let Some(gateway) = &setup.gateway {
        check(&Claims::new(&gateway.claims, &gateway.keys)).await?;
    }
    if let Some(probes) = &setup.probes {
        let asked = Arc::new(probes.usage.clone().build().map_err(|error| failed(&error))?);
        usage = probes.types.iter().fold(usage, |usage, name| usage.with(name, Arc::clone(&asked)));
    }
    let builder = builder.usage(usage).tally(&setup.tallied);
    with_options(builder, setup).build().map_err(|error| failed(&error))
}

fn with_options(mut builder: QuotaBuilder, setup: &Setup) -> QuotaBuilder {
    builder = builder.snapshots(setup.snapshots.clone()).thresholds(setup.thresholds.all.clone());
    builder = builder.metrics(setup.config.metrics.enabled);
    for (name, thresholds) in &setup.thresholds.of {
        builder = builder.thresholds_of(name, thresholds.clone());
    }
    if let Some(longest) = setup.longest_request() {
        builder = builder.settling(Settling::After(longest));
    }
    if let Some(format) = setup.map.workspace_format() {
        builder = builder.workspace_format(format);
    }
    if let Some(mode) = setup.config.mode {
        builder = builder.mode(mode);
    }
    if let Some(options) = &setup.webhooks {
        builder = builder.webhooks(options.clone());
    }
    if let Some(options) = &setup.email {
        builder = builder.email(options.clone());
    }
    builder
}

/// Has the database run what looks up keys.
async fn check(claims: &Claims) -> Result<(), Failure> {
    let checked = claims.check().await;
    checked.map_err(|error| Failure::unavailable(format!("a [[gateway.claim]] can't be looked up: {error}")))
}

/// Why rows can't be counted: the database, or what the configuration says of it.
fn uncountable(error: &tower_quota::Error) -> Failure {
    let failure = failed(error);
    match error.is_config() {
        true => failure
            .hint("where rows are, `table`, `workspace_column` and `workspace_type` of the type's [[resource]] tell"),
        false => failure,
    }
}

/// Why the service doesn't start, with what the database said.
fn failed(error: &tower_quota::Error) -> Failure {
    let mut message = error.to_string();
    for cause in std::iter::successors(error.source(), |&error| error.source()) {
        let cause = cause.to_string();
        // The driver's error repeats what the one behind it says.
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    match error.is_unavailable() {
        true => Failure::unavailable(message).hint("see that the database runs, and that its URL is right"),
        false => Failure::usage(message),
    }
}
