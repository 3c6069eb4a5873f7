//! Caps on a workspace and all below it: on SQLite, and on three replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower_quota::{Decision, Demand, Reservation};

use crate::host::{Host, ROOT, until};

/// So many more segments can be created in all of the workspaces together, in turns, and then none in any of them.
async fn admits_together(host: &Host, workspaces: &[&str], rows: usize) {
    for turn in 0..rows {
        let made = host.create(turn, workspaces[turn % workspaces.len()]).await;
        assert_eq!(made.status, 201, "{turn} of {rows}: {}", made.body);
    }
    for workspace in workspaces {
        for replica in 0..host.replicas() {
            host.create(replica, workspace).await.refused(429, "QUOTA_EXCEEDED");
        }
    }
}

/// Takes units at one of the processes, and keeps them.
pub(crate) async fn held(host: &Host, replica: usize, workspace: &str, units: u64) -> Reservation {
    let quota = &host.quotas[replica % host.replicas()];
    let segments = quota.catalog().by_name("segments").unwrap().id();
    let id = quota.workspace(workspace).unwrap();
    match quota.reserve(&id, &[Demand::new(segments, units)]).await.unwrap() {
        Decision::Admitted(reservation) => reservation,
        Decision::Refused(refusal) => panic!("{refusal:?}"),
    }
}

/// Whether units would be admitted at one of the processes now.
pub(crate) async fn fits(host: &Host, replica: usize, workspace: &str, units: u64) -> bool {
    let quota = &host.quotas[replica % host.replicas()];
    let segments = quota.catalog().by_name("segments").unwrap().id();
    let id = quota.workspace(workspace).unwrap();
    match quota.reserve(&id, &[Demand::new(segments, units)]).await.unwrap() {
        Decision::Admitted(reservation) => {
            reservation.void();
            true
        }
        Decision::Refused(_) => false,
    }
}

async fn cap(host: &Host, workspace: &str, cap: Value) {
    host.settings(workspace, json!({"caps": {"segments": cap}})).await;
}

async fn below(host: &Host, workspace: &str, parent: &str) {
    host.limit(workspace, 1000).await;
    host.settings(workspace, json!({ "parent": parent })).await;
}

pub(crate) async fn a_storm_uses_caps_up_and_never_exceeds_one(host: Host) {
    cap(&host, "root", json!(60)).await;
    let mut leaves = Vec::new();
    for middle in 0..2 {
        below(&host, &format!("middle{middle}"), "root").await;
        cap(&host, &format!("middle{middle}"), json!(40)).await;
        for leaf in 0..10 {
            let leaf = format!("leaf{middle}-{leaf}");
            below(&host, &leaf, &format!("middle{middle}")).await;
            leaves.push(leaf);
        }
    }
    let (host, leaves) = (Arc::new(host), Arc::new(leaves));
    let of = async |prefix: &str| {
        let mut rows = 0;
        for leaf in leaves.iter().filter(|leaf| leaf.starts_with(prefix)) {
            rows += host.rows(leaf).await;
        }
        rows
    };
    for round in 0..3_usize {
        let mut storm = JoinSet::new();
        for creator in 0..64_usize {
            let (host, leaves) = (Arc::clone(&host), Arc::clone(&leaves));
            storm.spawn(async move {
                // All leaves in turn, until none has room.
                let mut full = 0;
                for turn in 0.. {
                    let leaf = &leaves[(creator * 7 + turn * 3 + round) % leaves.len()];
                    let answer = host.create(creator + turn, leaf).await;
                    match answer.status {
                        201 => full = 0,
                        // Others are at work: theirs may come back.
                        429 if answer.body["details"].get("reserved").is_some() => {}
                        429 => {
                            assert!(answer.body["details"]["cappedBy"].is_string(), "{}", answer.body);
                            full += 1;
                        }
                        503 => {}
                        other => panic!("{other}: {}", answer.body),
                    }
                    if full > leaves.len() {
                        break;
                    }
                }
            });
        }
        storm.join_all().await;
        let (first, second) = (of("leaf0").await, of("leaf1").await);
        assert_eq!(first + second, 60, "{first} + {second}");
        assert!(first <= 40 && second <= 40, "{first}, {second}");
        // The last unit, wherever it comes free, can be used at every process.
        for replica in 0..host.replicas() {
            let leaf = leaves[replica].as_str();
            let rows = host.rows(leaf).await;
            host.delete_rows(leaf, 1).await;
            if rows > 0 {
                host.create(replica, leaf).await.expect(201);
            }
            host.create(replica, leaf).await.refused(429, "QUOTA_EXCEEDED");
        }
        for leaf in leaves.iter() {
            host.delete_rows(leaf, host.rows(leaf).await).await;
        }
    }
}

pub(crate) async fn a_refusal_by_a_cap_says_whose_it_is(host: Host) {
    cap(&host, "root", json!(3)).await;
    below(&host, "leaf", "root").await;
    below(&host, "other", "root").await;
    admits_together(&host, &["leaf", "other", "root"], 3).await;
    let details = host.create(0, "leaf").await.body["details"].clone();
    let expected = json!({"resourceType": "segments", "currentUsage": 3, "limit": 3, "requested": 1, "remaining": 0, "cappedBy": "root"});
    assert_eq!(details, expected);
    let path = "/api/workspaces/leaf/quota/validate";
    let refused = host.post(ROOT, path, json!({"resourceType": "segments"})).await;
    refused.refused(429, "QUOTA_EXCEEDED");
    assert_eq!(refused.body["details"]["cappedBy"], "root");
    // A limit above the cap is shown as such.
    let caps = host.explained("leaf").await["caps"].clone();
    assert_eq!(caps, json!([{"workspaceId": "root", "cap": 3, "exceeded": true}]));
    let put = host.put("/api/workspaces/leaf/quota", json!({"maxSegments": 9})).await.expect(200);
    assert!(
        put.body["warnings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|warning| warning.as_str().unwrap().contains("cap of 3 on workspace root"))
    );
    // Of another type there is none.
    let users = host.send_to(0, ROOT, "POST", "/leaf/users", None, None).await;
    assert_eq!(users.status, 201);
}

pub(crate) async fn a_cap_that_is_lowered_lets_nothing_more_in(host: Host) {
    cap(&host, "root", json!(10)).await;
    for leaf in ["one", "two"] {
        below(&host, leaf, "root").await;
    }
    admits_together(&host, &["one", "two"], 10).await;
    cap(&host, "root", json!(6)).await;
    admits_together(&host, &["one", "two"], 0).await;
    host.delete_rows("one", 5).await;
    admits_together(&host, &["two", "one"], 1).await;
    cap(&host, "root", json!(null)).await;
    until("the cap is gone everywhere", async || {
        let mut made = true;
        for replica in 0..host.replicas() {
            made &= host.create(replica, "one").await.status == 201;
        }
        made
    })
    .await;
}

pub(crate) async fn several_types_under_caps_are_all_or_none(host: Host) {
    host.settings("root", json!({"caps": {"segments": 5, "users": 1}})).await;
    below(&host, "leaf", "root").await;
    host.send_to(0, ROOT, "POST", "/leaf/users", None, None).await.expect(201);
    for replica in 0..host.replicas() {
        let quota = &host.quotas[replica];
        let of = |name: &str| Demand::one(quota.catalog().by_name(name).unwrap().id());
        let decision = quota.reserve(&quota.workspace("leaf").unwrap(), &[of("segments"), of("users")]).await.unwrap();
        let Decision::Refused(refusal) = decision else { panic!("{decision:?}") };
        assert_eq!((refusal.resource.name(), refusal.cap.as_ref().unwrap().as_str()), ("users", "root"));
    }
    admits_together(&host, &["leaf"], 5).await;
}

pub(crate) async fn a_workspace_takes_its_requests_in_flight_along(host: Host) {
    cap(&host, "p", json!(10)).await;
    cap(&host, "q", json!(10)).await;
    for leaf in ["leaf", "other"] {
        below(&host, leaf, "p").await;
    }
    below(&host, "there", "q").await;
    for round in 0..4 {
        // Three units are in flight, of requests that began below the one; their workspace goes to the other.
        let mut flying = Vec::new();
        for replica in 0..3 {
            flying.push(held(&host, round + replica, "leaf", 1).await);
        }
        let (from, to) = if round % 2 == 0 { ("p", "q") } else { ("q", "p") };
        below(&host, "leaf", to).await;
        // What is left beside them, and no more, at any process.
        let before = host.rows("leaf").await + host.rows(if to == "q" { "there" } else { "other" }).await;
        let rest = 10 - before - 3;
        let resident = if to == "q" { "there" } else { "other" };
        for replica in 0..host.replicas() {
            assert!(!fits(&host, replica, resident, rest + 1).await, "{round}: {rest} + 1 at {replica}");
            assert!(fits(&host, replica, resident, rest).await, "{round}: {rest} at {replica}");
            assert!(!fits(&host, replica, "leaf", rest + 1).await);
        }
        // One makes its row, one doesn't, and of one nobody tells.
        let one = flying.pop().unwrap();
        assert!(host.insert("leaf", &one.fence()).await);
        one.post();
        flying.pop().unwrap().void();
        drop(flying);
        until("all that is left can be used", async || fits(&host, round, resident, rest + 2).await).await;
        for replica in 0..host.replicas() {
            assert!(!fits(&host, replica, resident, rest + 3).await);
        }
        // Where it comes from, it counts no more.
        let left = if from == "q" { "there" } else { "other" };
        let rows = host.rows(left).await;
        until("there is room where it was", async || fits(&host, round, left, 10 - rows).await).await;
    }
}

pub(crate) async fn a_cap_counts_what_was_in_flight_before_it(host: Host) {
    host.limit("root", 1000).await;
    below(&host, "leaf", "root").await;
    below(&host, "other", "root").await;
    let flying = [held(&host, 0, "leaf", 2).await, held(&host, 1, "leaf", 2).await];
    cap(&host, "root", json!(5)).await;
    for replica in 0..host.replicas() {
        assert!(!fits(&host, replica, "other", 2).await, "{replica}");
        assert!(fits(&host, replica, "other", 1).await, "{replica}");
    }
    for reservation in flying {
        for _ in 0..2 {
            assert!(host.insert("leaf", &reservation.fence()).await);
        }
        reservation.post();
    }
    until("the last can be used", async || host.create(0, "other").await.status == 201).await;
    admits_together(&host, &["leaf", "other"], 0).await;
    assert_eq!(host.rows("leaf").await + host.rows("other").await, 5);
}

pub(crate) async fn a_workspace_is_deleted_with_requests_in_flight(host: Host) {
    cap(&host, "root", json!(4)).await;
    for leaf in ["leaf", "other"] {
        below(&host, leaf, "root").await;
    }
    let flying = held(&host, 0, "leaf", 2).await;
    host.delete("/api/workspaces/leaf/quota").await.expect(200);
    // Its own limit is the default again, and what is in flight counts.
    for replica in 0..host.replicas() {
        assert!(!fits(&host, replica, "leaf", 4).await);
        until("it counts below no other", async || fits(&host, replica, "leaf", 3).await).await;
    }
    for _ in 0..2 {
        assert!(host.insert("leaf", &flying.fence()).await);
    }
    flying.post();
    until("all of the cap is there for the other", async || fits(&host, 0, "other", 4).await).await;
    host.admits("leaf", 3).await;
}

pub(crate) async fn moves_in_the_midst_of_a_storm_leave_the_books_right(host: Host) {
    for top in ["p", "q"] {
        cap(&host, top, json!(30)).await;
    }
    for (leaf, top) in [("leaf", "p"), ("here", "p"), ("there", "q")] {
        below(&host, leaf, top).await;
    }
    let (host, answers) = (Arc::new(host), Arc::new(AtomicUsize::new(0)));
    let mut storm = JoinSet::new();
    for creator in 0..12_usize {
        let (host, answers) = (Arc::clone(&host), Arc::clone(&answers));
        storm.spawn(async move {
            for turn in 0..40 {
                let workspace = ["leaf", "here", "there"][(creator + turn) % 3];
                let status = host.create(creator + turn, workspace).await.status;
                assert!([201, 429, 503].contains(&status), "{status}");
                answers.fetch_add(1, Ordering::SeqCst);
                if turn % 2 == 0 {
                    host.delete_rows(workspace, 1).await;
                }
            }
        });
    }
    for turn in 0..10 {
        until("the storm goes on", async || answers.load(Ordering::SeqCst) >= 40 * turn).await;
        let parent = if turn % 2 == 0 { "q" } else { "p" };
        let path = "/api/workspaces/leaf/quota/settings";
        host.send_to(turn, ROOT, "PUT", path, None, Some(json!({ "parent": parent }))).await.expect(200);
    }
    storm.join_all().await;
    // At rest: exactly what the caps leave can be made.
    for (top, members) in [("p", ["leaf", "here"].as_slice()), ("q", ["there"].as_slice())] {
        let mut rows = 0;
        for member in members {
            rows += host.rows(member).await;
        }
        // Those that came with the workspace may be more.
        let rest = 30_u64.saturating_sub(rows);
        println!("{rows} below {top}");
        if rest > 0 {
            until("units of before have come back", async || fits(&host, 0, members[0], rest).await).await;
        }
        admits_together(&host, members, usize::try_from(rest).unwrap()).await;
    }
}
