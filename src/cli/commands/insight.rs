//! What was, and what will be.

use std::fs;

use tower_quota::client::TrendQuery;

use super::Context;
use crate::args::{Analytics, Report};
use crate::failure::{Failure, Outcome};
use crate::output::{Cell, Shown, Tone, to_stderr, to_stdout};

pub(super) async fn report(context: &Context, report: Report) -> Result<Outcome, Failure> {
    let Report { of, format, period, output } = report;
    let written = context.client.report(of.workspace.as_deref(), format, period).await?;
    match output {
        None => to_stdout(&written)?,
        Some(file) => {
            fs::write(&file, &written)
                .map_err(|error| Failure::usage(format!("{} can't be written: {error}", file.display())))?;
            to_stderr(&format!("{} bytes written to {}", written.len(), file.display()));
        }
    }
    Ok(Outcome::Done)
}

pub(super) async fn analytics(context: &Context, asked: Analytics) -> Result<Outcome, Failure> {
    let Analytics { of, start, end, granularity, forecast } = asked;
    let month = TrendQuery::last_days(30);
    let query = TrendQuery { start: start.or(month.start), end: end.or(month.end), granularity };
    let analytics = context.client.analytics(&of.workspace, &query).await?;
    let mut shown = if forecast {
        let header = ["resource", "limit reached", "days", "growth per day", "earliest", "latest", "reason"];
        let mut shown = Shown::table(&analytics.forecast, header)?;
        for (resource, forecast) in analytics.forecast.iter() {
            let soon = forecast.days_until_limit.is_some_and(|days| days <= 14);
            shown.row([
                Cell::text(resource),
                Cell::maybe(forecast.projected_date.as_deref()).tone(if soon { Tone::Warning } else { Tone::Plain }),
                Cell::number(forecast.days_until_limit.map(|days| days.to_string()).unwrap_or_default()),
                match forecast.growth_rate {
                    Some(rate) => Cell::percent(format!("{:.2}", rate * 100.0)),
                    None => Cell::number(""),
                },
                Cell::maybe(forecast.earliest.as_deref()),
                Cell::maybe(forecast.latest.as_deref()),
                Cell::maybe(forecast.reason.as_deref()),
            ]);
        }
        shown
    } else {
        let mut shown = Shown::table(&analytics, ["date", "resource", "used"])?;
        for trend in &analytics.trends {
            for (resource, used) in trend.usage.iter() {
                let used = used.map(|used| used.to_string()).unwrap_or_default();
                shown.row([Cell::text(&trend.date), Cell::text(resource), Cell::number(used)]);
            }
        }
        for (resource, forecast) in analytics.forecast.iter() {
            if let (Some(date), Some(days)) = (&forecast.projected_date, forecast.days_until_limit) {
                shown.note(format!("{resource}: the limit is reached on {date}, in {days} days"));
            }
        }
        shown
    };
    if analytics.trends.is_empty() {
        shown.note("nothing is known of these days");
    }
    context.show(&shown)
}
