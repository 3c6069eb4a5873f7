//! The operations on usage over time.

use std::mem;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
#[cfg(feature = "openapi")]
use http::StatusCode;
use http::{HeaderValue, header};
use http_body_util::channel::{Channel, Sender};
use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use serde::{Serialize, Serializer};
#[cfg(feature = "openapi")]
use serde_json::json;

use super::Api;
use super::extract::{Operator, Pairs, Reader};
use super::failure::Failure;
#[cfg(feature = "openapi")]
use super::openapi::{
    Operation,
    schema::{self, list, named, object, one_of},
};
use super::operate::beyond;
use crate::engine::{Analytics, ReportPages};
use crate::error::Error;
use crate::insight::{Forecast, Granularity, Period, ReportRow};
use crate::problem::{ErrorCode, Problem};
use crate::resource::shown;

/// How many days analytics have where nothing is said.
const DAYS: i64 = 30;

/// How many pages of a report wait for a slow client.
const AHEAD: usize = 1;

/// Where the days of all answers begin and end.
const TIME_ZONE: &str = "UTC";

fn today() -> Date {
    Offset::UTC.to_datetime(Timestamp::now()).date()
}

/// A day as clients write it, and nothing else that may be read as one.
fn take_date(pairs: &mut Pairs, name: &str) -> Result<Option<Date>, Problem> {
    let read = |text: String| {
        let date = text.parse().ok().filter(|_| text.len() == "2024-01-31".len());
        date.ok_or_else(|| {
            let message = format!("`{name}` is a day such as 2024-01-31; got {}", shown(&text));
            Problem::new(ErrorCode::InvalidRequest, message)
        })
    };
    pairs.take(name)?.map(read).transpose()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AnalyticsAnswer<'a> {
    workspace_id: &'a str,
    start_date: Date,
    end_date: Date,
    granularity: Granularity,
    time_zone: &'static str,
    trends: Vec<Bucket<'a>>,
    forecast: ByName<'a, Forecast>,
}

#[derive(Serialize)]
struct Bucket<'a> {
    date: String,
    /// Rows at its end.
    usage: ByName<'a, u64>,
    /// Creations that were refused, of the types of which any were.
    refusals: ByName<'a, u64>,
    /// Types of which nothing was read in it: their usage is what was known before.
    carried: Vec<&'a str>,
}

/// An object with a field for each resource type, in the catalog's order.
struct ByName<'a, T>(Vec<(&'a str, T)>);

impl<T: Serialize> Serialize for ByName<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

describe!(analytics, |it| {
    it.is("analytics", "Insight", "Tells how usage went, and when it will reach the limits")
        .about(
            "Both dates are inclusive, and days of UTC; up to 1000 buckets, and the last 30 days where they are left out. \
            `refusals` has the creations that were refused in a bucket, by the types of which any were. \
            `carried` names the types of which nothing was read in a bucket, so that their usage is what was known before. \
            A forecast has a `reason` where it tells of no day to come.",
        )
        .query("startDate", date(), "The first day.")
        .query("endDate", date(), "The last day.")
        .query("granularity", one_of(Granularity::ALL.map(Granularity::as_str)), "How long buckets are; `day` by default.")
        .answers(
            StatusCode::OK,
            "Usage at the end of each bucket, and forecasts by resource type.",
            object([
                ("workspaceId", named("WorkspaceId")),
                ("startDate", date()),
                ("endDate", date()),
                ("granularity", one_of(Granularity::ALL.map(Granularity::as_str))),
                ("timeZone", one_of(["UTC"])),
                ("trends", list(named("Trend"))),
                ("forecast", named("Forecasts")),
            ]),
            json!({
                "workspaceId": "acme", "startDate": "2024-01-01", "endDate": "2024-01-01", "granularity": "day",
                "timeZone": "UTC",
                "trends": [{
                    "date": "2024-01-01", "usage": {"segments": 30, "users": 500}, "refusals": {"segments": 2},
                    "carried": ["users"],
                }],
                "forecast": {"segments": {
                    "projectedDate": "2024-02-15", "daysUntilLimit": 45, "growthRate": 0.02,
                    "earliest": "2024-02-09", "latest": "2024-02-27", "reason": null,
                }},
            }),
        )
});

pub(super) async fn analytics(State(api): State<Api>, reader: Reader, mut pairs: Pairs) -> Result<Response, Failure> {
    let (start, end) = (take_date(&mut pairs, "startDate")?, take_date(&mut pairs, "endDate")?);
    let granularity = pairs.take("granularity")?.map(|name| name.parse::<Granularity>()).transpose()?;
    pairs.finish("`startDate`, `endDate` and `granularity`")?;
    let granularity = granularity.unwrap_or_default();
    let end = end.unwrap_or_else(today);
    let start = start.unwrap_or_else(|| end.saturating_sub(Span::new().days(DAYS - 1)));
    let analytics = api.quota().analytics(&reader.workspace, start, end, granularity).await.map_err(beyond)?;
    let answer = AnalyticsAnswer {
        workspace_id: reader.workspace.as_str(),
        start_date: start,
        end_date: end,
        granularity,
        time_zone: TIME_ZONE,
        trends: trends(&analytics, granularity),
        forecast: ByName(analytics.types.iter().map(|of| (of.resource.name(), of.forecast)).collect()),
    };
    Ok(Json(answer).into_response())
}

/// By bucket, what is there by type.
fn trends(analytics: &Analytics, granularity: Granularity) -> Vec<Bucket<'_>> {
    let points = analytics.types.iter().map(|of| (of.resource.name(), of.trend.iter().peekable()));
    let mut points: Vec<_> = points.collect();
    let mut trends = Vec::new();
    // Each type has all buckets from its first one on.
    while let Some(start) = points.iter_mut().filter_map(|(_, points)| points.peek().map(|point| point.start)).min() {
        let (mut usage, mut refusals, mut carried) = (Vec::new(), Vec::new(), Vec::new());
        for (name, points) in &mut points {
            let Some(point) = points.next_if(|point| point.start == start) else { continue };
            usage.push((*name, point.snapshot.last));
            if point.snapshot.refusals > 0 {
                refusals.push((*name, point.snapshot.refusals));
            }
            if point.carried {
                carried.push(*name);
            }
        }
        trends.push(Bucket {
            date: granularity.label(start),
            usage: ByName(usage),
            refusals: ByName(refusals),
            carried,
        });
    }
    trends
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
}

/// What a report is asked for.
struct Asked {
    format: Format,
    period: Period,
    date: Date,
}

impl Asked {
    fn take(mut pairs: Pairs) -> Result<Self, Problem> {
        let format = match pairs.take("format")?.as_deref() {
            None | Some("json") => Format::Json,
            Some("csv") => Format::Csv,
            Some(other) => {
                let message = format!("`format` can't be {}: write csv or json", shown(other));
                return Err(Problem::new(ErrorCode::InvalidRequest, message));
            }
        };
        let period = pairs.take("period")?.map(|name| name.parse::<Period>()).transpose();
        let period = period.map_err(|error| Problem::from(&error))?.unwrap_or(Period::Monthly);
        let date = take_date(&mut pairs, "date")?.unwrap_or_else(today);
        pairs.finish("`format`, `period` and `date`")?;
        Ok(Self { format, period, date })
    }

    /// What comes before the first row.
    fn head(&self) -> Result<Vec<u8>, Error> {
        let (start, end) = self.period.range(self.date);
        match self.format {
            Format::Csv => ReportRow::csv_header(),
            Format::Json => Ok(format!(
                r#"{{"period":"{}","start":"{start}","end":"{end}","timeZone":"{TIME_ZONE}","rows":["#,
                self.period
            )
            .into_bytes()),
        }
    }

    /// Some rows, and whether they are the first.
    fn rows(&self, rows: &[ReportRow], first: bool) -> Result<Vec<u8>, Error> {
        match self.format {
            Format::Csv => ReportRow::csv(rows),
            Format::Json => {
                let mut json = Vec::new();
                for (at, row) in rows.iter().enumerate() {
                    if at > 0 || !first {
                        json.push(b',');
                    }
                    serde_json::to_writer(&mut json, row)
                        .map_err(|error| Error::unavailable("a report can't be written").with_source(error))?;
                }
                Ok(json)
            }
        }
    }

    fn tail(&self) -> &'static [u8] {
        match self.format {
            Format::Csv => b"",
            Format::Json => b"]}",
        }
    }

    /// The answer; a file with `of` in its name where it is one.
    fn answer(&self, of: &str, body: Body) -> Response {
        match self.format {
            Format::Json => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Format::Csv => {
                let start = self.period.range(self.date).0;
                let name: String = of.chars().take(64).map(|c| if plain(c) { c } else { '_' }).collect();
                let name = format!(r#"attachment; filename="quota-report-{name}-{}-{start}.csv""#, self.period);
                let name = HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("attachment"));
                let media_type = HeaderValue::from_static("text/csv; charset=utf-8; header=present");
                ([(header::CONTENT_TYPE, media_type), (header::CONTENT_DISPOSITION, name)], body).into_response()
            }
        }
    }
}

/// What every file system takes, and no shell reads as anything else.
fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

describe!(report, |it| super::describe_report(it.is(
    "report",
    "Insight",
    "Tells what became of a workspace in a period"
)));

/// What both reports have.
#[cfg(feature = "openapi")]
fn describe_report(operation: &mut Operation) {
    operation
        .about("`format=csv` answers with a file as in RFC 4180, whose columns are the fields of `rows`.")
        .query("format", one_of(["csv", "json"]), "`json` by default.")
        .query("period", one_of(Period::ALL.map(Period::as_str)), "`monthly` by default.")
        .query("date", schema::date(), "A day of the period, in UTC; today by default.")
        .answers(
            StatusCode::OK,
            "A row for each resource type. What isn't known is null.",
            object([
                ("period", one_of(Period::ALL.map(Period::as_str))),
                ("start", schema::date()),
                ("end", schema::date()),
                ("timeZone", one_of([TIME_ZONE])),
                ("rows", list(named("ReportRow"))),
            ]),
            json!({
                "period": "monthly", "start": "2024-01-01", "end": "2024-01-31", "timeZone": TIME_ZONE,
                "rows": [{
                    "workspaceId": "acme", "period": "monthly", "start": "2024-01-01", "end": "2024-01-31",
                    "resourceType": "segments", "min": 30, "max": 45, "last": 45, "limit": 50, "percent": 90,
                    "refusals": 0, "graceUses": 0, "limitChanges": 1,
                }],
            }),
        )
        .or_text("text/csv");
}

pub(super) async fn report(State(api): State<Api>, reader: Reader, pairs: Pairs) -> Result<Response, Failure> {
    let asked = Asked::take(pairs)?;
    let rows = api.quota().report(&reader.workspace, asked.period, asked.date).await.map_err(beyond)?;
    let mut body = asked.head()?;
    body.extend(asked.rows(&rows, true)?);
    body.extend(asked.tail());
    Ok(asked.answer(reader.workspace.as_str(), Body::from(body)))
}

describe!(system_report, |it| super::describe_report(it.is(
    "systemReport",
    "Insight",
    "Tells what became of all workspaces in a period"
)));

/// The report on all workspaces, a page at a time, as fast as the client takes it.
pub(super) async fn system_report(State(api): State<Api>, _: Operator, pairs: Pairs) -> Result<Response, Failure> {
    let asked = Asked::take(pairs)?;
    let mut pages = api.quota().reports(asked.period, asked.date).map_err(beyond)?;
    // What can't even begin is an error like any other.
    let first = pages.next().await?;
    let (mut sender, body) = Channel::<Bytes, Error>::new(AHEAD);
    let answer = asked.answer("all", Body::new(body));
    tokio::spawn(async move {
        if let Err(error) = send(&asked, first, pages, &mut sender).await {
            tracing::error!(error = %error, "a report broke off");
            // The client is not to take what it has for all.
            sender.abort(error);
        }
    });
    Ok(answer)
}

async fn send(
    asked: &Asked,
    mut page: Option<Vec<ReportRow>>,
    mut pages: ReportPages,
    sender: &mut Sender<Bytes, Error>,
) -> Result<(), Error> {
    let mut bytes = asked.head()?;
    let mut first = true;
    while let Some(rows) = page {
        bytes.extend(asked.rows(&rows, first)?);
        first = false;
        if sender.send_data(mem::take(&mut bytes).into()).await.is_err() {
            // Nobody takes it any more.
            return Ok(());
        }
        page = pages.next().await?;
    }
    bytes.extend(asked.tail());
    if !bytes.is_empty() {
        // Whether or not somebody takes it.
        let _ = sender.send_data(bytes.into()).await;
    }
    Ok(())
}
