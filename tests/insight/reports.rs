//! What became of workspaces in a period.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::date;
use serde_json::{Value, json};
use tower_quota::{Granularity, MemoryStore, Period, Quota, SnapshotOptions};

use crate::host::{Host, MEMBER, Place, ROOT, both, catalog, snapshot, until};

/// The cells of a CSV report, after the names of their columns.
fn cells(csv: &[u8]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_reader(csv);
    let names = reader.headers().unwrap().iter().map(str::to_owned).collect();
    (names, reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect())
}

both!(a_report_says_what_became_of_a_workspace, place, {
    let host = place.start(None).await;
    let history = [
        snapshot("2024-01-31T08:00:00Z", 9, 9, 9),
        snapshot("2024-02-01T08:00:00Z", 2, 3, 9),
        snapshot("2024-02-29T08:00:00Z", 5, 45, 47),
        snapshot("2024-03-01T08:00:00Z", 1, 1, 100),
    ];
    host.import("acme", Granularity::Day, &history).await;
    let path = "/api/workspaces/acme/quota/report?period=monthly&date=2024-02-10";
    let json = host.get(MEMBER, &format!("{path}&format=json")).await.expect(200);
    assert_eq!((json.media_type.as_str(), &json.disposition), ("application/json", &None));
    let segments = json!({
        "workspaceId": "acme", "period": "monthly", "start": "2024-02-01", "end": "2024-02-29", "resourceType": "segments",
        "min": 2, "max": 47, "last": 45, "limit": 50, "percent": 90, "refusals": 4, "graceUses": 0, "limitChanges": 0,
    });
    let users = json!({
        "workspaceId": "acme", "period": "monthly", "start": "2024-02-01", "end": "2024-02-29", "resourceType": "users",
        "min": null, "max": null, "last": null, "limit": null, "percent": null, "refusals": null, "graceUses": 0,
        "limitChanges": 0,
    });
    let expected = json!({
        "period": "monthly", "start": "2024-02-01", "end": "2024-02-29", "timeZone": "UTC", "rows": [segments, users],
    });
    assert_eq!(json.json(), expected);
    let csv = host.get(MEMBER, &format!("{path}&format=csv")).await.expect(200);
    assert_eq!(csv.media_type, "text/csv; charset=utf-8; header=present");
    let file = "attachment; filename=\"quota-report-acme-monthly-2024-02-01.csv\"";
    assert_eq!(csv.disposition.as_deref(), Some(file));
    let (names, rows) = cells(&csv.body);
    assert_eq!(names[..3], ["workspaceId", "period", "start"]);
    assert_eq!(rows[0][4..], ["segments", "2", "47", "45", "50", "90", "4", "0", "0"]);
    assert_eq!(rows[1][4..], ["users", "", "", "", "", "", "", "0", "0"]);
    // Weeks begin on Monday, and a day is one day.
    for (query, start, end, last) in [
        ("period=weekly&date=2024-02-04", "2024-01-29", "2024-02-04", json!(3)),
        ("period=daily&date=2024-02-29", "2024-02-29", "2024-02-29", json!(45)),
        ("period=daily&date=2024-02-28", "2024-02-28", "2024-02-28", Value::Null),
    ] {
        let report = host.get(MEMBER, &format!("/api/workspaces/acme/quota/report?{query}")).await.expect(200).json();
        assert_eq!((&report["start"], &report["end"], &report["rows"][0]["last"]), (&json!(start), &json!(end), &last));
    }
    let rows = host.quota().report(&host.quota().workspace("acme").unwrap(), Period::Daily, date(2024, 2, 29)).await;
    assert_eq!(rows.unwrap()[0].max, Some(47));
});

both!(grace_and_changes_of_limits_are_told, place, {
    let host = place.settled(SnapshotOptions::new()).await;
    host.limit("acme", 1).await;
    host.limit("acme", 2).await;
    // No change.
    host.limit("acme", 2).await;
    let grace = json!({"enabled": true, "percentage": 100, "duration": 86400, "resources": ["segments"]});
    host.put("/api/workspaces/acme/quota/settings", json!({ "grace": grace })).await;
    for turn in 0..4 {
        assert_eq!(host.create(turn, "acme").await, 201);
    }
    assert_eq!(host.create(0, "acme").await, 429);
    // Each type may have another limit by it.
    host.put("/api/plans/pro", json!({"limits": {"maxSegments": 9}})).await;
    host.put("/api/workspaces/acme/quota/settings", json!({"plan": "pro"})).await;
    until("the refusal is written", async || host.today("acme").await["refusals"] == 1).await;
    let report = host.get(MEMBER, "/api/workspaces/acme/quota/report?period=daily").await.expect(200).json();
    let (segments, users) = (&report["rows"][0], &report["rows"][1]);
    let used = segments["graceUses"].as_u64().unwrap();
    let audited = host.get(ROOT, "/api/workspaces/acme/quota/audit?limit=1000").await.json();
    let told = audited["entries"].as_array().unwrap().iter().filter(|entry| entry["action"] == "grace_used").count();
    assert!(used >= 2 && used == u64::try_from(told).unwrap(), "{segments}: {told}");
    assert_eq!(
        (&segments["limitChanges"], &users["limitChanges"], &users["graceUses"]),
        (&json!(3), &json!(1), &json!(0))
    );
    // The limit in force, with grace.
    assert_eq!((&segments["last"], &segments["limit"]), (&json!(4), &json!(4)));
});

both!(names_that_a_spreadsheet_would_run_are_text, place, {
    let host = place.start(None).await;
    let nasty = ["=HYPERLINK(\"x\",\"y\")", "+1", "-2+3", "@SUM(1)", "a,\"b\"", "naïve ☃"];
    for name in nasty {
        host.import(name, Granularity::Day, &[snapshot("2024-02-01T08:00:00Z", 1, 1, 1)]).await;
    }
    let csv = host.get(ROOT, "/api/system/quota-report?format=csv&date=2024-02-01").await.expect(200);
    assert_eq!(csv.disposition.unwrap(), "attachment; filename=\"quota-report-all-monthly-2024-02-01.csv\"");
    let (_, rows) = cells(&csv.body);
    let mut told: Vec<_> = rows.iter().filter(|row| row[4] == "segments").map(|row| row[0].clone()).collect();
    let mut expected =
        nasty.map(|id| if id.starts_with(['=', '+', '-', '@']) { format!("'{id}") } else { id.to_owned() });
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    let path = "/api/workspaces/%3DHYPERLINK%28%22x%22%2C%22y%22%29/quota/report?format=csv&date=2024-02-01";
    let csv = host.get(ROOT, path).await.expect(200);
    assert_eq!(
        csv.disposition.unwrap(),
        "attachment; filename=\"quota-report-_HYPERLINK__x___y__-monthly-2024-02-01.csv\""
    );
    assert_eq!(cells(&csv.body).1[0][0], "'=HYPERLINK(\"x\",\"y\")");
});

/// So many workspaces with a snapshot of segments on the first of February.
async fn fill(place: &Place, workspaces: usize) {
    let at = "2024-02-01T00:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
    let numbers = match place {
        Place::Sqlite(..) => {
            format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {workspaces})")
        }
        Place::Postgres(..) => format!("WITH n(i) AS (SELECT generate_series(1, {workspaces}))"),
    };
    // SQLite has its WITH before INSERT as well.
    place
        .run(format!(
            r#"{numbers} INSERT INTO "QuotaSnapshot" SELECT 'w' || i, 'segments', {at}, 'day', {at}, i, i, i, 50, 0 FROM n"#
        ))
        .await;
}

/// Where the rows of a report on all workspaces are.
fn workspaces(report: &Value) -> Vec<String> {
    let rows = report["rows"].as_array().unwrap().iter().filter(|row| row["resourceType"] == "segments");
    rows.map(|row| row["workspaceId"].as_str().unwrap().to_owned()).collect()
}

both!(a_report_on_all_has_each_workspace_once_in_the_order_of_bytes, place, {
    let host = place.start(None).await;
    let empty = host.get(ROOT, "/api/system/quota-report?date=2024-02-01").await.expect(200).json();
    assert_eq!(empty["rows"], json!([]));
    assert_eq!(cells(&host.get(ROOT, "/api/system/quota-report?format=csv").await.expect(200).body).1.len(), 0);
    fill(&place, 1234).await;
    let report = host.get(ROOT, "/api/system/quota-report?date=2024-02-01").await.expect(200);
    assert_eq!(report.media_type, "application/json");
    let mut expected: Vec<_> = (1..=1234).map(|number| format!("w{number}")).collect();
    expected.sort();
    assert_eq!(workspaces(&report.json()), expected);
    let (_, rows) = cells(&host.get(ROOT, "/api/system/quota-report?format=csv&date=2024-02-01").await.body);
    let last: Vec<_> = rows.iter().filter(|row| row[4] == "segments").map(|row| format!("w{}", row[7])).collect();
    assert_eq!(last, expected);
    let mut pages = host.quota().reports(Period::Monthly, date(2024, 2, 1)).unwrap();
    let first = pages.next().await.unwrap().unwrap();
    assert_eq!(first.len(), 200, "two types of a hundred workspaces");
});

/// Reads a response to its end, or to where it breaks off.
async fn read(mut response: reqwest::Response) -> Result<usize, reqwest::Error> {
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await? {
        bytes += chunk.len();
    }
    Ok(bytes)
}

async fn broken_off(host: &Host, place: &Place, format: &str) {
    let path = format!("/api/system/quota-report?date=2024-02-01&format={format}");
    let whole = read(host.open(0, ROOT, "GET", &path, None).await).await.unwrap();
    // The head has come; nobody reads on, so that the rest is not even made yet.
    let response = host.open(0, ROOT, "GET", &path, None).await;
    assert_eq!(response.status(), 200);
    place.run(r#"ALTER TABLE "QuotaSnapshot" RENAME TO "Gone""#.to_owned()).await;
    let error = read(response).await.expect_err("it seems to be whole");
    assert!(error.is_body() || error.is_decode() || error.is_request(), "{error:?}");
    assert!(whole > 10_000_000, "more than what sockets hold: {whole}");
    // What can't even begin is an error like any other.
    host.get(ROOT, &path).await.refused(503, "QUOTA_UNAVAILABLE");
    place.run(r#"ALTER TABLE "Gone" RENAME TO "QuotaSnapshot""#.to_owned()).await;
    read(host.open(0, ROOT, "GET", &path, None).await).await.unwrap();
}

both!(a_report_that_breaks_off_does_not_end_as_if_it_were_whole, place, {
    let host = place.start(None).await;
    fill(&place, 100_000).await;
    tokio::time::timeout(Duration::from_secs(300), broken_off(&host, &place, "json")).await.unwrap();
});

#[tokio::test]
async fn a_store_without_a_place_for_snapshots_is_told() {
    let usage = tower_quota::ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(0) });
    let quota = Quota::builder(catalog()).store(MemoryStore::new()).usage(usage).build().unwrap();
    let acme = quota.workspace("acme").unwrap();
    let day = date(2024, 2, 1);
    let errors = [
        quota.analytics(&acme, day, day, Granularity::Day).await.map(drop).unwrap_err(),
        quota.report(&acme, Period::Daily, day).await.map(drop).unwrap_err(),
        quota.reports(Period::Daily, day).map(drop).unwrap_err(),
        quota.take_snapshots().await.map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_config() && error.message().contains("SqliteStore or a PostgresStore"), "{error}");
    }
}
