//! The rows of a report, in JSON and CSV.

use std::borrow::Cow;

use jiff::civil::Date;
use serde::{Serialize, Serializer};

use crate::decision::Usage;
use crate::error::Error;
use crate::insight::{Period, Snapshot};
use crate::limit::Limit;
use crate::workspace::WorkspaceId;

/// What became of one resource type of a workspace in one period. What isn't known is `None`: `null` in JSON, an empty
/// cell in CSV.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ReportRow {
    /// Whose usage it is.
    #[serde(rename = "workspaceId", serialize_with = "as_text")]
    pub workspace: WorkspaceId,
    /// How long the period is.
    pub period: Period,
    /// Its first day, in UTC.
    pub start: Date,
    /// Its last day, in UTC.
    pub end: Date,
    /// Of what.
    pub resource_type: String,
    /// The fewest rows.
    pub min: Option<u64>,
    /// The most rows.
    pub max: Option<u64>,
    /// Rows at the end, or as last read.
    pub last: Option<u64>,
    /// The limit at that time. No limit is written like one that isn't known; `percent` tells them apart.
    pub limit: Option<Limit>,
    /// `last` in whole percent of the limit, rounded down; 0 without a limit.
    pub percent: Option<u64>,
    /// Creations that were refused.
    pub refusals: Option<u64>,
    /// Creations that were over the limit and had grace.
    pub grace_uses: Option<u64>,
    /// How often the limit was changed.
    pub limit_changes: Option<u64>,
}

impl ReportRow {
    const COLUMNS: [&str; 13] = [
        "workspaceId",
        "period",
        "start",
        "end",
        "resourceType",
        "min",
        "max",
        "last",
        "limit",
        "percent",
        "refusals",
        "graceUses",
        "limitChanges",
    ];

    /// A row for the period that holds `date`, of which nothing is known yet.
    pub fn new(workspace: WorkspaceId, resource_type: impl Into<String>, period: Period, date: Date) -> Self {
        let (start, end) = period.range(date);
        Self {
            workspace,
            period,
            start,
            end,
            resource_type: resource_type.into(),
            min: None,
            max: None,
            last: None,
            limit: None,
            percent: None,
            refusals: None,
            grace_uses: None,
            limit_changes: None,
        }
    }

    /// The same row with what `snapshot`, of the whole period, says of usage, limit and refusals.
    #[must_use]
    pub fn with_usage(self, snapshot: &Snapshot) -> Self {
        Self {
            min: Some(snapshot.min),
            max: Some(snapshot.max),
            last: Some(snapshot.last),
            limit: Some(snapshot.limit),
            percent: Some(Usage { current: snapshot.last, limit: snapshot.limit }.percent()),
            refusals: Some(snapshot.refusals),
            ..self
        }
    }

    /// The first line of a CSV report: the names of the columns, which are those of JSON.
    ///
    /// # Errors
    ///
    /// None that are known: the line is written to memory.
    pub fn csv_header() -> Result<Vec<u8>, Error> {
        write(|csv| csv.write_record(Self::COLUMNS))
    }

    /// The lines of `rows` in a CSV report, after [`ReportRow::csv_header`] and the lines of earlier rows.
    ///
    /// They are as in RFC 4180, with CRLF. Text that a spreadsheet would take for a formula has an apostrophe in front.
    ///
    /// # Errors
    ///
    /// None that are known: the lines are written to memory.
    pub fn csv<'a>(rows: impl IntoIterator<Item = &'a Self>) -> Result<Vec<u8>, Error> {
        write(|csv| rows.into_iter().try_for_each(|row| csv.write_record(row.cells().iter().map(Cow::as_ref))))
    }

    fn cells(&self) -> [Cow<'_, str>; Self::COLUMNS.len()] {
        [
            harmless(self.workspace.as_str()),
            self.period.as_str().into(),
            self.start.to_string().into(),
            self.end.to_string().into(),
            harmless(&self.resource_type),
            number(self.min),
            number(self.max),
            number(self.last),
            number(self.limit.and_then(Limit::rows)),
            number(self.percent),
            number(self.refusals),
            number(self.grace_uses),
            number(self.limit_changes),
        ]
    }
}

/// What `fill` writes.
fn write(fill: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> Result<Vec<u8>, Error> {
    let mut csv = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let failed = || Error::unavailable("the report couldn't be written");
    fill(&mut csv).map_err(|error| failed().with_source(error))?;
    csv.into_inner().map_err(|error| failed().with_source(error.into_error()))
}

fn number(number: Option<u64>) -> Cow<'static, str> {
    number.map_or(Cow::Borrowed(""), |number| number.to_string().into())
}

/// A text that no spreadsheet takes for a formula, whoever chose it: it would run with the rights of who opens the
/// report.
fn harmless(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\0']) { format!("'{text}").into() } else { text.into() }
}

fn as_text<S: Serializer>(workspace: &WorkspaceId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(workspace.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::WorkspaceFormat;

    fn row(workspace: &str) -> ReportRow {
        let workspace = WorkspaceFormat::Verbatim.parse(workspace).unwrap();
        ReportRow::new(workspace, "segments", Period::Monthly, jiff::civil::date(2024, 2, 10))
    }

    fn full() -> ReportRow {
        let snapshot = Snapshot {
            at: "2024-02-29T23:00:00Z".parse().unwrap(),
            last: 45,
            min: 40,
            max: 47,
            limit: Limit::of(50),
            refusals: 3,
        };
        ReportRow { grace_uses: Some(1), limit_changes: Some(2), ..row("acme").with_usage(&snapshot) }
    }

    fn read(csv: &[u8]) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(csv);
        reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn lines_are_those_of_rfc_4180() {
        let mut csv = ReportRow::csv_header().unwrap();
        csv.extend(ReportRow::csv(&[full(), row("globex")]).unwrap());
        csv.extend(ReportRow::csv(&[row("initech")]).unwrap());
        assert_eq!(
            String::from_utf8(csv).unwrap(),
            "workspaceId,period,start,end,resourceType,min,max,last,limit,percent,refusals,graceUses,limitChanges\r\n\
             acme,monthly,2024-02-01,2024-02-29,segments,40,47,45,50,90,3,1,2\r\n\
             globex,monthly,2024-02-01,2024-02-29,segments,,,,,,,,\r\n\
             initech,monthly,2024-02-01,2024-02-29,segments,,,,,,,,\r\n"
        );
        assert_eq!(ReportRow::csv(&[]).unwrap(), b"");
    }

    #[test]
    fn json_says_the_same_under_the_same_names() {
        let json = serde_json::to_string(&full()).unwrap();
        assert_eq!(
            json,
            r#"{"workspaceId":"acme","period":"monthly","start":"2024-02-01","end":"2024-02-29","resourceType":"segments","min":40,"max":47,"last":45,"limit":50,"percent":90,"refusals":3,"graceUses":1,"limitChanges":2}"#
        );
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
        let mut columns = ReportRow::COLUMNS;
        columns.sort_unstable();
        assert!(fields.keys().eq(columns));
    }

    #[test]
    fn without_a_limit_percent_is_0_and_not_unknown() {
        let snapshot = Snapshot {
            at: "2024-02-29T23:00:00Z".parse().unwrap(),
            last: u64::MAX,
            min: 0,
            max: u64::MAX,
            limit: Limit::Unlimited,
            refusals: 0,
        };
        let row = row("acme").with_usage(&snapshot);
        let cells = read(&ReportRow::csv([&row]).unwrap()).remove(0);
        assert_eq!(cells[5..], ["0", "18446744073709551615", "18446744073709551615", "", "0", "0", "", ""]);
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!((&json["limit"], &json["percent"]), (&serde_json::Value::Null, &serde_json::json!(0)));
    }

    #[test]
    fn what_a_spreadsheet_would_run_is_text() {
        let nasty = [
            "=HYPERLINK(\"https://example.com\",\"x\")",
            "+1",
            "-2+3+cmd|' /C calc'!A0",
            "@SUM(1,2)",
            "a,b",
            "say \"hi\"",
            "'quoted'",
            " =1",
            "naïve ☃",
        ];
        let rows: Vec<_> = nasty.iter().map(|workspace| row(workspace)).collect();
        let csv = ReportRow::csv(&rows).unwrap();
        let expected =
            nasty.map(|id| if id.starts_with(['=', '+', '-', '@']) { format!("'{id}") } else { id.to_owned() });
        assert!(read(&csv).iter().map(|cells| &cells[0]).eq(&expected));
        assert!(read(&csv).iter().all(|cells| cells.len() == ReportRow::COLUMNS.len()));

        // No workspace id has these; the names of types come from the host.
        for first in ["\t", "\r", "\n", "\0", "="] {
            let name = format!("{first}1\r\n2");
            let row = ReportRow { resource_type: name.clone(), ..row("acme") };
            assert_eq!(read(&ReportRow::csv([&row]).unwrap())[0][4], format!("'{name}"));
        }
        assert_eq!(serde_json::to_value(&rows[1]).unwrap()["workspaceId"], "+1", "JSON needs nothing of the kind");
    }
}
