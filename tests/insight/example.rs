//! `examples/history`, as its users run it: a process.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::example;

#[test]
fn the_example_tells_of_its_history() {
    let output = Command::new(example("history")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<_> = printed.split("\n# curl ").skip(1).map(|call| call.split_once('\n').unwrap().1).collect();
    let [analytics, report, csv] = answers[..] else { panic!("{printed}") };

    let analytics: Value = serde_json::from_str(analytics).unwrap();
    let trends = analytics["trends"].as_array().unwrap();
    assert_eq!(trends.len(), 14, "{analytics}");
    // The last is of today: rows that are there now, users of a weekend.
    assert_eq!(trends[13]["usage"], json!({"segments": 45, "users": 550, "journeys": 12}));
    let carried = trends.iter().filter(|of| of["carried"] == json!(["journeys"])).count();
    assert_eq!(carried, 5, "{analytics}");
    let forecast = &analytics["forecast"];
    // Five more, at one in two days.
    let days = forecast["segments"]["daysUntilLimit"].as_u64().unwrap();
    assert!((8..=12).contains(&days) && forecast["segments"]["reason"].is_null(), "{forecast}");
    assert_eq!(forecast["journeys"]["reason"], "noGrowth", "{forecast}");

    let report: Value = serde_json::from_str(report).unwrap();
    let last = |name: &str| {
        let rows = report["rows"].as_array().unwrap();
        rows.iter().find(|row| row["resourceType"] == name).unwrap()["last"].clone()
    };
    assert_eq!(["segments", "users", "journeys"].map(last), [json!(45), json!(550), json!(12)]);
    let mut csv = csv::Reader::from_reader(csv.trim_end().as_bytes());
    assert!(csv.headers().unwrap().iter().any(|name| name == "resourceType"));
    assert_eq!(csv.records().map(Result::unwrap).count(), 3);
}
