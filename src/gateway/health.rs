//! Whether the upstream is well, by asking it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;

/// How many failures in a row it takes: one alone may be the network's.
const FAILURES: u32 = 2;

/// What is known of an upstream's health.
#[derive(Debug, Default)]
pub(super) struct Health {
    down: AtomicBool,
    asked: AtomicBool,
}

impl Health {
    pub(super) fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Whether nobody asks the upstream yet, and the caller now has to see to it.
    pub(super) fn begins(&self) -> bool {
        !self.asked.load(Ordering::Relaxed) && !self.asked.swap(true, Ordering::Relaxed)
    }
}

/// Asks the upstream time and again, until its gateway is gone.
pub(super) async fn watch(shared: Weak<Shared>, path: Arc<str>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let why = match timeout(every, ask(&shared, &path)).await {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some(format!("it has not answered within {every:?}")),
        };
        failures = if why.is_some() { failures + 1 } else { 0 };
        let down = failures >= FAILURES;
        match (shared.health.down.swap(down, Ordering::Relaxed), down) {
            (false, true) => tracing::error!(why, "the upstream is down"),
            (true, false) => tracing::info!("the upstream is up again"),
            _ => {}
        }
    }
}

async fn ask(shared: &Shared, path: &str) -> Result<(), String> {
    let request = shared.target.probe(path).map_err(|error| error.to_string())?;
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let response = shared.upstream.send(request.map(|()| body)).await.map_err(|failure| failure.to_string())?;
    let status = response.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("it answers with {status}")),
    }
}
