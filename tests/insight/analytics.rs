//! What is told of usage over time, and of what is to come.

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use serde_json::{Value, json};
use tower_quota::{Actor, Granularity, Limit, Snapshot, SnapshotOptions};

use crate::host::{ADMIN, Host, MEMBER, Place, ROOT, STRANGER, both, snapshot, until};

fn today() -> Date {
    Offset::UTC.to_datetime(Timestamp::now()).date()
}

fn ago(days: i64) -> Date {
    today() - Span::new().days(days)
}

/// The answer for a query, at the member of the workspace.
async fn asked(host: &Host, query: &str) -> Value {
    host.get(MEMBER, &format!("/api/workspaces/acme/quota/analytics?{query}")).await.expect(200).json()
}

both!(buckets_have_the_usage_at_their_end_and_gaps_are_carried_and_marked, place, {
    let host = place.start(None).await;
    let history = [
        snapshot("2024-01-29T08:00:00Z", 1, 3, 4),
        snapshot("2024-01-31T08:00:00Z", 2, 5, 9),
        snapshot("2024-01-31T20:00:00Z", 2, 7, 7),
        snapshot("2024-02-04T10:00:00Z", 2, 2, 7),
    ];
    host.import("acme", Granularity::Day, &history).await;
    // Each of them tells of two refusals. Where nothing was read, nothing is known to have been refused.
    let point = |day: &str, segments: u64, refusals: u64| {
        let carried = if refusals == 0 { json!(["segments"]) } else { json!([]) };
        let refusals = if refusals == 0 { json!({}) } else { json!({"segments": refusals}) };
        json!({"date": day, "usage": {"segments": segments}, "refusals": refusals, "carried": carried})
    };
    let days = asked(&host, "startDate=2024-01-28&endDate=2024-02-02&granularity=day").await;
    assert_eq!(
        days["trends"],
        json!([
            // Nothing is known of the first day.
            point("2024-01-29", 3, 2),
            point("2024-01-30", 3, 0),
            point("2024-01-31", 7, 4),
            point("2024-02-01", 7, 0),
            point("2024-02-02", 7, 0),
        ])
    );
    assert_eq!(
        (&days["workspaceId"], &days["startDate"], &days["endDate"], &days["granularity"], &days["timeZone"]),
        (&json!("acme"), &json!("2024-01-28"), &json!("2024-02-02"), &json!("day"), &json!("UTC"))
    );
    // A day is the default, and what was before the range is carried into it.
    assert_eq!(
        asked(&host, "startDate=2024-02-01&endDate=2024-02-01").await["trends"],
        json!([point("2024-02-01", 7, 0)])
    );
    let weeks = asked(&host, "startDate=2024-01-30&endDate=2024-02-10&granularity=week").await;
    assert_eq!(weeks["trends"], json!([point("2024-01-29", 2, 8), point("2024-02-05", 2, 0)]));
    let months = asked(&host, "startDate=2024-01-30&endDate=2024-03-01&granularity=month").await;
    let expected = [point("2024-01-01", 7, 6), point("2024-02-01", 2, 2), point("2024-03-01", 2, 0)];
    assert_eq!(months["trends"], json!(expected));
    let hours = asked(&host, "startDate=2024-01-31&endDate=2024-01-31&granularity=hour").await;
    let hours = hours["trends"].as_array().unwrap();
    assert_eq!(hours.len(), 24);
    assert_eq!(hours[19], point("2024-01-31T19:00:00Z", 3, 0));
    assert_eq!(hours[20], point("2024-01-31T20:00:00Z", 7, 4));
    // A history that ended long ago has no future, but what there is now has.
    let forecast = &days["forecast"]["segments"];
    assert_eq!(forecast["reason"], "tooLittleHistory", "{forecast}");
});

both!(the_present_is_counted_and_the_future_is_left_out, place, {
    let host = place.start(None).await;
    place.insert("Segment", "acme", 2).await;
    let today = today().to_string();
    let range = |granularity| format!("startDate={}&endDate={}&granularity={granularity}", ago(0), ago(-40));
    let days = asked(&host, &range("day")).await;
    assert_eq!(
        days["trends"],
        json!([{"date": today, "usage": {"segments": 2, "users": 0}, "refusals": {}, "carried": []}])
    );
    let hours = asked(&host, &range("hour").replace(&ago(-40).to_string(), &ago(-1).to_string())).await;
    assert_eq!(hours["trends"].as_array().unwrap().len(), 1);
    assert_eq!(asked(&host, &format!("startDate={}&endDate={}", ago(-3), ago(-9))).await["trends"], json!([]));
    // The last 30 days by default.
    host.import("acme", Granularity::Day, &[snapshot(&format!("{}T10:00:00Z", ago(60)), 1, 1, 1)]).await;
    let default = asked(&host, "").await;
    assert_eq!((&default["startDate"], &default["endDate"]), (&json!(ago(29)), &json!(today)));
    let trends = default["trends"].as_array().unwrap();
    assert_eq!(
        (trends.len(), &trends[28]["usage"]["segments"], &trends[29]["usage"]["segments"]),
        (30, &json!(1), &json!(2))
    );
    let until = asked(&host, &format!("endDate={}", ago(5))).await;
    assert_eq!((&until["startDate"], &until["endDate"]), (&json!(ago(34)), &json!(ago(5))));
});

both!(a_forecast_tells_when_or_why_not, place, {
    let host = place.start(None).await;
    host.limit("acme", 50).await;
    // One more each day, and 30 today.
    let line: Vec<_> = (1..=29)
        .map(|days| snapshot(&format!("{}T23:30:00Z", ago(days)), 0, 30 - u64::try_from(days).unwrap(), 30))
        .collect();
    host.import("acme", Granularity::Day, &line).await;
    place.insert("Segment", "acme", 30).await;
    let forecast = asked(&host, "").await["forecast"].clone();
    let segments = &forecast["segments"];
    assert_eq!(
        (&segments["projectedDate"], &segments["daysUntilLimit"], &segments["reason"]),
        (&json!(ago(-20)), &json!(20), &Value::Null),
        "{segments}"
    );
    let rate = segments["growthRate"].as_f64().unwrap();
    assert!((rate - 1.0 / 30.0).abs() < 1e-3, "{rate}");
    let day = |name: &str| segments[name].as_str().unwrap().parse::<Date>().unwrap();
    assert!(day("earliest") <= ago(-20) && ago(-20) <= day("latest"), "{segments}");
    assert_eq!(forecast["users"]["reason"], "tooLittleHistory");
    assert_eq!(forecast["users"]["daysUntilLimit"], Value::Null);
    host.put("/api/workspaces/acme/quota", json!({"maxSegments": null})).await;
    assert_eq!(asked(&host, "").await["forecast"]["segments"]["reason"], "noLimit");
    host.limit("acme", 30).await;
    let at = asked(&host, "").await["forecast"]["segments"].clone();
    assert_eq!(
        (&at["reason"], &at["projectedDate"], &at["daysUntilLimit"]),
        (&json!("atLimit"), &json!(ago(0)), &json!(0))
    );
});

both!(who_may_see_the_workspace_may_see_its_history, place, {
    let host = place.start(None).await;
    for path in ["analytics", "report"] {
        for token in [MEMBER, ADMIN, ROOT] {
            host.get(token, &format!("/api/workspaces/acme/quota/{path}")).await.expect(200);
        }
        let path = format!("/api/workspaces/acme/quota/{path}");
        host.get(STRANGER, &path).await.refused(403, "INSUFFICIENT_PERMISSIONS");
        host.get("nobody", &path).await.refused(401, "UNAUTHENTICATED");
        host.send(0, ROOT, "POST", &path, None).await.refused(405, "METHOD_NOT_ALLOWED");
    }
    for token in [MEMBER, ADMIN, STRANGER] {
        host.get(token, "/api/system/quota-report").await.refused(403, "INSUFFICIENT_PERMISSIONS");
    }
    host.get("nobody", "/api/system/quota-report").await.refused(401, "UNAUTHENTICATED");
    host.get(ROOT, "/api/system/quota-report").await.expect(200);
});

both!(bad_input_is_told_what_to_write_instead, place, {
    let host = place.start(None).await;
    for (query, says) in [
        ("startDate=yesterday", "`startDate` is a day such as 2024-01-31; got \"yesterday\""),
        ("endDate=2024-02-30", "`endDate` is a day such as 2024-01-31"),
        ("startDate=2024-01-01T00:00:00Z", "`startDate` is a day such as 2024-01-31"),
        ("startDate=20240101", "`startDate` is a day such as 2024-01-31"),
        ("startDate=", "`startDate` is a day such as 2024-01-31"),
        ("startDate=2024-01-01&startDate=2024-01-02", "`startDate` is given twice"),
        ("startDate=2024-02-01&endDate=2024-01-01", "name the earlier day first"),
        ("startDate=9999-01-01", "name the earlier day first"),
        ("startDate=2010-01-01&endDate=2020-01-01", "ask for granularity `week`"),
        ("startDate=2024-01-01&endDate=2024-03-01&granularity=hour", "ask for granularity `day`"),
        ("startDate=0001-01-01&endDate=9999-12-31&granularity=month", "ask for fewer days"),
        ("granularity=minute", "write hour, day, week or month"),
        ("granularity=Day", "write hour, day, week or month"),
        ("from=2024-01-01", "unknown parameter \"from\": the query has `startDate`, `endDate` and `granularity`"),
    ] {
        let path = format!("/api/workspaces/acme/quota/analytics?{query}");
        let message = host.get(MEMBER, &path).await.refused(400, "INVALID_REQUEST");
        assert!(message.contains(says), "{query}: {message}");
    }
    for (query, says) in [
        ("format=xml", "`format` can't be \"xml\": write csv or json"),
        ("format=CSV", "write csv or json"),
        ("period=yearly", "write daily, weekly or monthly"),
        ("date=31.01.2024", "`date` is a day such as 2024-01-31"),
        ("period=daily&period=daily", "`period` is given twice"),
        ("startDate=2024-01-01", "unknown parameter \"startDate\": the query has `format`, `period` and `date`"),
    ] {
        for path in ["workspaces/acme/quota/report", "system/quota-report"] {
            let message = host.get(ROOT, &format!("/api/{path}?{query}")).await.refused(400, "INVALID_REQUEST");
            assert!(message.contains(says), "{query}: {message}");
        }
    }
});

both!(a_day_that_comes_in_takes_the_place_of_its_hours, place, {
    let host = place.start(SnapshotOptions::new()).await;
    let day = Granularity::Day.start(Timestamp::now() - Span::new().hours(48));
    let at = |hours: i64| (day + Span::new().hours(hours)).to_string();
    // From the first hour to the last; and those beside them, which stay.
    let hours: Vec<_> = [-1, 0, 8, 23, 24].map(|hour| snapshot(&at(hour), 1, 1, 9)).into();
    host.import("acme", Granularity::Hour, &hours).await;
    host.import("globex", Granularity::Hour, &hours).await;
    host.import("acme", Granularity::Day, &[snapshot(&at(20), 3, 4, 5)]).await;
    let date = Granularity::Day.label(day);
    for (workspace, expected) in [("acme", [3, 4, 5, 2]), ("globex", [1, 1, 9, 6])] {
        let path = format!("/api/workspaces/{workspace}/quota/report?period=daily&date={date}");
        let report = host.get(ROOT, &path).await.expect(200).json();
        let row = &report["rows"][0];
        assert_eq!(
            [&row["min"], &row["last"], &row["max"], &row["refusals"]],
            [0, 1, 2, 3].map(|of| json!(expected[of])).each_ref(),
            "{workspace}"
        );
    }
    let hours = r#"SELECT count(*) FROM "QuotaSnapshot" WHERE "granularity" = 'hour' AND "max" = 9"#;
    assert_eq!(place.number(hours).await, 2 + 5);
});

both!(history_comes_in_as_a_whole_and_again_without_harm, place, {
    let host = place.start(SnapshotOptions::new().keep_days(20 * 366)).await;
    let (acme, catalog) = (host.quota().workspace("acme").unwrap(), host.quota().catalog().clone());
    let segments = catalog.by_name("segments").unwrap().id();
    let admin = host.quota().admin(Actor::new("ann", "test"));
    let good = snapshot("2024-01-30T08:00:00Z", 1, 2, 3);
    for _ in 0..2 {
        host.import("acme", Granularity::Day, &[good, snapshot("2024-01-30T09:00:00Z", 2, 5, 6)]).await;
    }
    let rows = host.get(MEMBER, "/api/workspaces/acme/quota/report?period=daily&date=2024-01-30").await.json();
    let row = &rows["rows"][0];
    assert_eq!(
        [&row["min"], &row["last"], &row["max"], &row["refusals"]],
        [&json!(1), &json!(5), &json!(6), &json!(4)]
    );
    let audited = host.get(ADMIN, "/api/workspaces/acme/quota/audit").await.json();
    let entry = &audited["entries"][0];
    let told = json!({"workspaces": 1, "snapshots": 1, "granularity": "day"});
    assert_eq!(
        (&entry["action"], &entry["actor"], &entry["new"]),
        (&json!("snapshots_imported"), &json!("ann"), &told)
    );
    let future = (Timestamp::now() + Span::new().hours(2)).to_string();
    let bad: [(Granularity, Snapshot, &str); 7] = [
        (Granularity::Week, good, "snapshots are kept by the hour and by the day"),
        (Granularity::Month, good, "instead of a month"),
        (Granularity::Day, Snapshot { min: 3, ..good }, "min <= last <= max"),
        (Granularity::Day, Snapshot { max: u64::MAX, ..good }, "2^63-1"),
        (Granularity::Day, snapshot(&future, 1, 1, 1), "a snapshot is of the past"),
        (Granularity::Hour, good, "bring in what is older by the day"),
        (Granularity::Day, snapshot("1999-12-31T08:00:00Z", 1, 1, 1), "what is older would be deleted"),
    ];
    for (granularity, bad, says) in bad {
        let fine = snapshot("2024-01-31T08:00:00Z", 1, 1, 1);
        let history = [(acme.clone(), segments, fine), (acme.clone(), segments, bad)];
        let error = admin.import_snapshots(granularity, &history).await.unwrap_err();
        assert!(error.is_invalid() && error.message().contains(says), "{error}");
    }
    let many = vec![(acme.clone(), segments, good); 10_001];
    let error = admin.import_snapshots(Granularity::Day, &many).await.unwrap_err();
    assert!(error.is_invalid() && error.message().contains("up to 10000"), "{error}");
    let count = r#"SELECT count(*) FROM "QuotaSnapshot" WHERE "granularity" = 'day'"#;
    assert_eq!(place.number(count).await, 1, "nothing of what was refused is there");
    // By the hour, as long as hours are kept.
    let recent = snapshot(&(Timestamp::now() - Span::new().hours(30)).to_string(), 4, 4, 4);
    host.import("acme", Granularity::Hour, &[Snapshot { limit: Limit::Unlimited, ..recent }]).await;
    until("it is there", async || {
        place.number(r#"SELECT count(*) FROM "QuotaSnapshot" WHERE "limit" = -1 AND "last" = 4"#).await == 1
    })
    .await;
});
