//! For a log or a pipe: a line for each resource type and reading.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::sleep;
use tower_quota::client::QuotaClient;

use super::Sample;
use crate::commands::rows;
use crate::failure::{Failure, Outcome};
use crate::output::{is_read, plain, warn};

pub(super) async fn run(
    client: &QuotaClient,
    workspace: &str,
    first: Sample,
    refresh: Duration,
) -> Result<Outcome, Failure> {
    let mut sample = Some(first);
    loop {
        if let Some(sample) = sample.take()
            && !is_read(told(&sample).as_bytes())?
        {
            return Ok(Outcome::Done);
        }
        sleep(refresh).await;
        match Sample::take(client, workspace).await {
            Ok(taken) => sample = Some(taken),
            Err(error) => warn(&error.to_string()),
        }
    }
}

fn told(sample: &Sample) -> String {
    let (mut lines, now) = (String::new(), Timestamp::now());
    for row in rows(&sample.status) {
        let percent = row.usage.percent();
        let state = match percent {
            0..90 => "ok",
            90..95 => "warning",
            95..100 => "critical",
            _ => "exceeded",
        };
        let (current, limit, resource) = (row.usage.current, row.usage.limit, plain(row.resource));
        let refused = sample.refused(row.resource).map(|many| format!(" {many} refused")).unwrap_or_default();
        // Writing to a string can't fail.
        let _ = writeln!(lines, "{now:.0} {resource} {current}/{limit} {percent}% {state}{refused}");
    }
    lines
}
