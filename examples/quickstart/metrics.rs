//! What the engine does, as Prometheus reads it: `GET /metrics`.

use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder};
use tower_quota::DECISION_SECONDS_BUCKETS;

/// How often the exporter sorts what was measured into its buckets, where nobody asks for it.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder, which has to be there before the engine is built, and answers the route that tells what it knows.
///
/// The route asks for no token: it tells of no workspace. Where it is open to all, put it on an address of its own.
pub(crate) fn install() -> Result<Router, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    let recorder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &DECISION_SECONDS_BUCKETS)?;
    let handle = recorder.install_recorder()?;
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
    Ok(Router::new().route("/metrics", get(render)))
}
