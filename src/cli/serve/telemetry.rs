//! The log, whose level changes while it runs; and the metrics.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::header;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tower_quota::DECISION_SECONDS_BUCKETS;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::config::{Config, Format, Level};
use crate::failure::Failure;

/// How often the exporter sorts what was measured into its buckets, where nobody asks for it.
const UPKEEP: Duration = Duration::from_secs(5);

/// What is logged.
pub(super) struct Log(reload::Handle<Targets, Registry>);

/// What this program does, at `level`; what others do for it, where it goes wrong.
fn targets(level: Level) -> Targets {
    let level = LevelFilter::from(level);
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets([("tower_quota", level), ("quotactl", level)])
}

impl Log {
    pub(super) fn install(config: &Config) -> Result<Self, Failure> {
        let (filter, handle) = reload::Layer::new(targets(config.log.level));
        let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
        let lines = match config.log.format {
            Format::Text => lines.boxed(),
            Format::Json => lines.json().boxed(),
        };
        let installed = tracing_subscriber::registry().with(filter).with(lines).try_init();
        installed.map_err(|error| Failure::other(format!("nothing can be logged: {error}")))?;
        Ok(Self(handle))
    }

    pub(super) fn set_level(&self, level: Level) {
        if let Err(error) = self.0.reload(targets(level)) {
            tracing::error!(%error, "the level of the log stays as it was");
        }
    }
}

/// Installs the recorder, which has to be there before the engine is built, and answers the route that tells what it knows.
pub(super) fn metrics(config: &Config) -> Result<Option<Router>, Failure> {
    if !config.metrics.enabled {
        return Ok(None);
    }
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(seconds, &DECISION_SECONDS_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder);
    let handle = recorder.map_err(|error| Failure::other(format!("nothing can be measured: {error}")))?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    let render = move || {
        let text = handle.render();
        async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    Ok(Some(Router::new().route(config.metrics.path.get_ref().as_str(), get(render))))
}
