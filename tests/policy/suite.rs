//! What a limit goes through in its life. Each test has a host to itself; what several of its processes can do is done at
//! them in turn.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower_quota::EnforcementMode;

use crate::host::{ADMIN, Host, MEMBER, ROOT, STRANGER, until};

const ACME: &str = "/api/workspaces/acme/quota";

fn after(time: Duration) -> String {
    (Timestamp::now() + time).to_string()
}

/// Creators that go on until they are told to stop; answers how many rows they made.
struct Burst {
    running: JoinSet<()>,
    over: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
}

impl Burst {
    fn start(host: &Arc<Host>, workspace: &'static str) -> Self {
        let (over, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut running = JoinSet::new();
        for turn in 0..8 {
            let (host, over, made) = (Arc::clone(host), Arc::clone(&over), Arc::clone(&made));
            running.spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    match host.create(turn, workspace).await.status {
                        201 => {
                            made.fetch_add(1, Ordering::SeqCst);
                        }
                        429 => tokio::time::sleep(Duration::from_millis(10)).await,
                        503 => {}
                        other => panic!("{other}"),
                    }
                }
            });
        }
        Self { running, over, made }
    }

    fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    async fn end(mut self) -> u64 {
        self.over.store(true, Ordering::SeqCst);
        while let Some(ended) = self.running.join_next().await {
            ended.unwrap();
        }
        self.made.load(Ordering::SeqCst)
    }
}

pub(crate) async fn an_explanation_names_what_wins(host: Host) {
    let sources = |explained: &Value| {
        let steps = explained["trace"].as_array().unwrap();
        let steps: Vec<_> = steps.iter().map(|step| (step["source"].clone(), step["limit"].clone())).collect();
        (explained["limit"].clone(), json!(steps))
    };
    let default = json!(["default", 5]);
    assert_eq!(sources(&host.explained("acme").await), (json!(5), json!([default])));

    host.limit("parent", 70).await;
    host.settings("acme", json!({"parent": "parent", "shares": {"segments": 15}})).await;
    let inherited = json!(["inherited", 10]);
    let explained = host.explained("acme").await;
    assert_eq!(sources(&explained), (json!(10), json!([inherited, default])));
    let step = &explained["trace"][0];
    assert_eq!((&step["parent"], &step["percent"], &step["parentLimit"]), (&json!("parent"), &json!(15), &json!(70)));

    host.put("/api/plans/pro", json!({"limits": {"maxSegments": 20}})).await.expect(200);
    host.settings("acme", json!({"plan": "pro"})).await;
    let plan = json!(["plan", 20]);
    assert_eq!(sources(&host.explained("acme").await), (json!(20), json!([plan, inherited, default])));

    host.limit("acme", 30).await;
    let own = json!(["override", 30]);
    assert_eq!(sources(&host.explained("acme").await), (json!(30), json!([own, plan, inherited, default])));

    let until = after(Duration::from_secs(600));
    let temporary = json!({"resourceType": "segments", "limit": null, "expiresAt": until, "reason": "a launch"});
    host.post(ADMIN, &format!("{ACME}/overrides"), temporary).await.expect(201);
    let explained = host.explained("acme").await;
    let temporary = json!(["temporaryOverride", null]);
    assert_eq!(sources(&explained), (json!(null), json!([temporary, own, plan, inherited, default])));
    assert_eq!(explained["trace"][0]["reason"], "a launch");

    // A limit that was set is taken back.
    let path = format!("{ACME}/limits/segments");
    host.delete(&path).await.expect(200);
    assert_eq!(sources(&host.explained("acme").await).1, json!([temporary, plan, inherited, default]));
    // Nobody asks, nobody is told.
    assert!(host.get(ROOT, ACME).await.expect(200).body.get("explain").is_none());
}

pub(crate) async fn a_plan_is_in_force_at_once(host: Host) {
    let plan = "/api/plans/starter";
    let made = host.put(plan, json!({"limits": {"maxSegments": 3}})).await.expect(200);
    assert_eq!((made.tag.as_deref(), &made.body["plan"]["version"]), (Some("\"1\""), &json!(1)));
    for workspace in ["acme", "globex"] {
        host.settings(workspace, json!({"plan": "starter"})).await;
        host.admits(workspace, 3).await;
    }
    host.put(plan, json!({"limits": {"maxSegments": 6}})).await.expect(200);
    for workspace in ["acme", "globex"] {
        // The process that was told goes by it at once; the others as soon as they hear of it, and grant nothing by the old.
        until("the other one hears of it", async || host.create(1, workspace).await.status == 201).await;
        host.admits(workspace, 2).await;
    }
    let read = host.get(MEMBER, plan).await.expect(200).body;
    assert_eq!((&read["plan"]["limits"], &read["plan"]["version"]), (&json!({"maxSegments": 6}), &json!(2)));
    assert_eq!(host.get(MEMBER, "/api/plans").await.expect(200).body["plans"], json!([read["plan"]]));
    // What was read may be sent back, and changes nothing.
    let back = host.put(plan, read["plan"].clone()).await.expect(200);
    assert_eq!(back.tag.as_deref(), Some("\"2\""));
    let other = host.send_to(0, ROOT, "PUT", plan, Some("\"1\""), Some(json!({"limits": {}}))).await;
    other.refused(412, "PRECONDITION_FAILED");
    let member = host.send_to(0, MEMBER, "PUT", plan, None, Some(json!({"limits": {}}))).await;
    member.refused(403, "INSUFFICIENT_PERMISSIONS");
}

pub(crate) async fn a_plan_that_changes_under_load_keeps_its_promise(host: Host) {
    let plan = |limit: u64| json!({"limits": {"maxSegments": limit}});
    host.put("/api/plans/p", plan(40)).await.expect(200);
    host.settings("acme", json!({"plan": "p"})).await;
    let host = Arc::new(host);
    let burst = Burst::start(&host, "acme");
    until("some are made", async || burst.made() >= 10).await;
    host.put("/api/plans/p", plan(60)).await.expect(200);
    until("more are made than the old plan had", async || burst.made() > 45).await;
    host.put("/api/plans/p", plan(30)).await.expect(200);
    let made = burst.end().await;
    let rows = host.rows("acme").await;
    assert_eq!(rows, made);
    assert!((46..=60).contains(&rows), "{rows}");
    // All are above the limit by now: nothing more comes in, and what was there stays.
    host.admits("acme", 0).await;
    assert_eq!(host.rows("acme").await, rows);
    host.delete_rows("acme", rows - 28).await;
    host.admits("acme", 2).await;
}

pub(crate) async fn a_plan_is_not_deleted_from_under_a_workspace(host: Host) {
    host.put("/api/plans/p", json!({"limits": {"maxSegments": 1}})).await.expect(200);
    host.settings("acme", json!({"plan": "p"})).await;
    let message = host.delete("/api/plans/p").await.refused(412, "PRECONDITION_FAILED");
    assert!(message.starts_with("1 workspaces have plan"), "{message}");
    host.settings("acme", json!({"plan": null})).await;
    host.delete("/api/plans/p").await.expect(200);
    host.delete("/api/plans/p").await.refused(404, "NOT_FOUND");
    host.get(ROOT, "/api/plans/p").await.refused(404, "NOT_FOUND");
    assert_eq!(host.limit_at(0, "acme").await, 5);
}

pub(crate) async fn a_share_follows_the_parent(host: Host) {
    host.limit("top", 1000).await;
    host.settings("middle", json!({"parent": "top", "shares": {"segments": 33}})).await;
    host.settings("leaf", json!({"parent": "middle", "shares": {"segments": 1}})).await;
    // 330, and 3.3.
    host.admits("leaf", 3).await;
    host.limit("top", 2000).await;
    until("the other one hears of it", async || host.create(1, "leaf").await.status == 201).await;
    host.admits("leaf", 2).await;
    // An override of an ancestor counts as well, and so does its plan.
    let path = "/api/workspaces/top/quota/overrides";
    let limit =
        json!({"resourceType": "segments", "limit": 3000, "expiresAt": after(Duration::from_secs(600)), "reason": "x"});
    host.post(ROOT, path, limit).await.expect(201);
    assert_eq!(host.limit_at(0, "leaf").await, 9);
    host.settings("leaf", json!({"parent": null})).await;
    assert_eq!(host.limit_at(0, "leaf").await, 5);
}

pub(crate) async fn a_parent_that_is_lowered_below_use_lets_nothing_more_in(host: Host) {
    host.limit("top", 20).await;
    for child in ["one", "two"] {
        host.settings(child, json!({"parent": "top", "shares": {"segments": 50}})).await;
        for turn in 0..8 {
            assert_eq!(host.create(turn, child).await.status, 201);
        }
    }
    host.limit("top", 10).await;
    for child in ["one", "two"] {
        host.admits(child, 0).await;
        assert_eq!(host.rows(child).await, 8);
        host.delete_rows(child, 4).await;
        host.admits(child, 1).await;
    }
}

pub(crate) async fn parents_that_make_no_tree_are_refused_with_the_path(host: Host) {
    host.limit("top", 10).await;
    for at in 0..8 {
        let parent = if at == 0 { "top".to_owned() } else { format!("w{}", at - 1) };
        host.settings(&format!("w{at}"), json!({"parent": parent})).await;
    }
    let put = async |workspace: &str, parent: &str| {
        let path = format!("/api/workspaces/{workspace}/quota/settings");
        host.put(&path, json!({ "parent": parent })).await.refused(400, "INVALID_REQUEST")
    };
    assert!(put("w3", "w3").await.contains("w3 -> w3"));
    let message = put("top", "w2").await;
    assert!(message.contains("top -> w2 -> w1 -> w0 -> top"), "{message}");
    let message = put("w8", "w7").await;
    assert!(message.contains("at most 8") && message.contains("w8 -> w7 -> w6"), "{message}");
    // A tree that would be too deep below the one that is moved.
    host.settings("other", json!({"parent": null})).await;
    let message = put("top", "other").await;
    assert!(message.contains("there would be 9"), "{message}");
    assert!(put("w1", "nobody").await.contains("there is no workspace \"nobody\""));
    // Two that would each be the other's parent: one of them comes first.
    host.settings("a", json!({})).await;
    host.settings("b", json!({})).await;
    let (one, other) = tokio::join!(
        host.send_to(0, ROOT, "PUT", "/api/workspaces/a/quota/settings", None, Some(json!({"parent": "b"}))),
        host.send_to(1, ROOT, "PUT", "/api/workspaces/b/quota/settings", None, Some(json!({"parent": "a"}))),
    );
    assert_eq!(BTreeSet::from([one.status, other.status]), BTreeSet::from([200, 400]));
    // Nor can it take it away from below one, whose cap would be of no use then.
    host.settings("child", json!({"parent": "top"})).await;
    let path = "/api/workspaces/child/quota";
    for parent in [json!(null), json!("acme")] {
        let body = json!({ "parent": parent });
        let left = host.send_to(0, ADMIN, "PUT", &format!("{path}/settings"), None, Some(body)).await;
        left.refused(403, "INSUFFICIENT_PERMISSIONS");
    }
    host.send_to(0, ADMIN, "DELETE", path, None, None).await.refused(403, "INSUFFICIENT_PERMISSIONS");
    host.send_to(0, ADMIN, "PUT", &format!("{path}/settings"), None, Some(json!({"mode": "warn"}))).await.expect(200);
    // An admin of one workspace can't put it below one that isn't its own.
    let path = format!("{ACME}/settings");
    host.send_to(0, ADMIN, "PUT", &path, None, Some(json!({"parent": "top"})))
        .await
        .refused(403, "INSUFFICIENT_PERMISSIONS");
}

pub(crate) async fn an_override_reverts_by_itself_in_the_midst_of_a_burst(host: Host) {
    let host = Arc::new(host);
    let burst = Burst::start(&host, "acme");
    until("the limit is used up", async || burst.made() == 5).await;
    let until_when = after(Duration::from_millis(1500));
    let temporary = json!({"resourceType": "segments", "limit": 1000, "expiresAt": until_when, "reason": "a launch"});
    host.post(ADMIN, &format!("{ACME}/overrides"), temporary).await.expect(201);
    until("more than the limit is made", async || burst.made() > 8).await;
    until("it has reverted everywhere", async || {
        let mut limits = Vec::new();
        for replica in 0..host.replicas() {
            limits.push(host.limit_at(replica, "acme").await);
        }
        limits.iter().all(|limit| *limit == 5)
    })
    .await;
    assert!(Timestamp::now() >= until_when.parse().unwrap());
    until("it is told", async || host.told("acme", "override_expired").await == 1).await;
    let made = burst.end().await;
    assert_eq!(host.rows("acme").await, made);
    host.admits("acme", 0).await;
    assert_eq!(host.rows("acme").await, made);
    let entries = host.audited("acme").await;
    let expired = entries.iter().find(|entry| entry["action"] == "override_expired").unwrap();
    assert_eq!((&expired["actor"], &expired["resourceType"]), (&json!("engine"), &json!("segments")));
    assert_eq!(expired["at"].as_str().unwrap()[..19], until_when[..19]);
    assert_eq!(host.get(MEMBER, &format!("{ACME}/overrides")).await.expect(200).body["overrides"], json!([]));
}

pub(crate) async fn an_override_is_ended_by_hand(host: Host) {
    let path = format!("{ACME}/overrides");
    let temporary = |resource: &str, from: u64, to: u64| {
        let (from, to) = (after(Duration::from_secs(from)), after(Duration::from_secs(to)));
        json!({"resourceType": resource, "limit": 7, "startsAt": from, "expiresAt": to, "reason": "a trial"})
    };
    let first = host.post(ADMIN, &path, temporary("segments", 0, 600)).await.expect(201).body["override"].clone();
    assert_eq!(first["createdBy"], "ada");
    host.admits("acme", 7).await;
    // At the same time there is one for each type, and at other times there may be others.
    let message = host.post(ADMIN, &path, temporary("segments", 300, 900)).await.refused(400, "INVALID_REQUEST");
    assert!(message.contains("overlaps") && message.contains(first["id"].as_str().unwrap()), "{message}");
    host.post(ADMIN, &path, temporary("users", 300, 900)).await.expect(201);
    host.post(ADMIN, &path, temporary("segments", 601, 900)).await.expect(201);
    assert_eq!(host.get(MEMBER, &path).await.expect(200).body["overrides"].as_array().unwrap().len(), 3);

    let one = format!("{path}/{}", first["id"].as_str().unwrap());
    host.delete(&one).await.expect(200);
    host.delete(&one).await.refused(404, "NOT_FOUND");
    host.delete(&format!("{path}/7")).await.refused(404, "NOT_FOUND");
    assert_eq!(host.limit_at(0, "acme").await, 5);
    host.delete_rows("acme", 3).await;
    host.admits("acme", 1).await;
    assert_eq!(host.told("acme", "override_ended").await, 1);
}

fn grace(duration: u64) -> Value {
    json!({"grace": {"enabled": true, "percentage": 45, "duration": duration, "resources": ["segments"]}})
}

pub(crate) async fn grace_is_shared_audited_and_armed_again_only_below_the_limit(host: Host) {
    host.settings("acme", grace(3600)).await;
    for turn in 0..5 {
        let made = host.create(turn, "acme").await.expect(201);
        assert_eq!(made.warning, None);
    }
    assert_eq!(host.told("acme", "grace_started").await, 0);
    // Two more: 45 % of 5 is 2.25.
    for turn in 5..7 {
        let made = host.create(turn, "acme").await.expect(201);
        assert!(made.warning.is_some_and(|warning| warning.contains("limit=5")));
    }
    host.admits("acme", 0).await;
    assert_eq!((host.told("acme", "grace_started").await, host.told("acme", "grace_used").await), (1, 2));
    let settings = host.get(MEMBER, &format!("{ACME}/settings")).await.expect(200).body["settings"].clone();
    assert_eq!(settings["graceUses"]["segments"]["percentage"], 45);
    assert_eq!(host.explained("acme").await["grace"]["limit"], 7);

    // At the limit it isn't armed again, below it is.
    host.delete_rows("acme", 2).await;
    until("one more by grace", async || host.create(0, "acme").await.status == 201).await;
    assert_eq!(host.told("acme", "grace_rearmed").await, 0);
    host.delete_rows("acme", 4).await;
    until("below the limit", async || host.create(0, "acme").await.status == 201).await;
    until("it is armed", async || {
        host.create(1, "acme").await;
        host.told("acme", "grace_rearmed").await == 1
    })
    .await;
    host.delete_rows("acme", host.rows("acme").await).await;
    until("all of it can be used again", async || {
        host.create(1, "acme").await;
        host.rows("acme").await == 7
    })
    .await;
    host.admits("acme", 0).await;
    assert_eq!(host.told("acme", "grace_started").await, 2);
}

pub(crate) async fn grace_ends_in_the_midst_of_a_burst(host: Host) {
    host.limit("acme", 20).await;
    host.settings("acme", grace(2)).await;
    let host = Arc::new(host);
    let burst = Burst::start(&host, "acme");
    until("grace is used up", async || burst.made() == 29).await;
    until("grace is over", async || {
        let settings = host.get(ROOT, &format!("{ACME}/settings")).await.expect(200).body["settings"].clone();
        let ends: Timestamp = settings["graceUses"]["segments"]["endsAt"].as_str().unwrap().parse().unwrap();
        ends <= Timestamp::now() && host.limit_at(1, "acme").await == 20
    })
    .await;
    // What was made by it stays; what is deleted of that doesn't come back.
    host.delete_rows("acme", 3).await;
    host.admits("acme", 0).await;
    assert_eq!(burst.end().await, 29);
    assert_eq!(host.rows("acme").await, 26);
    assert_eq!(host.told("acme", "grace_started").await, 1);
    host.delete_rows("acme", 7).await;
    // One up to the limit, and grace begins anew.
    until("grace is armed again and used", async || {
        host.create(0, "acme").await;
        host.told("acme", "grace_started").await == 2
    })
    .await;
    assert_eq!(host.told("acme", "grace_rearmed").await, 1);
}

pub(crate) async fn strict_has_no_grace(host: Host) {
    host.settings("acme", grace(3600)).await;
    host.settings("acme", json!({"mode": "strict"})).await;
    host.admits("acme", 5).await;
    assert_eq!(host.told("acme", "grace_started").await, 0);
    host.settings("acme", json!({"mode": null})).await;
    until("the other one hears of it", async || host.create(1, "acme").await.status == 201).await;
    // It has begun, and doesn't count any more.
    host.settings("acme", json!({"modes": {"segments": "strict"}})).await;
    until("the other one hears of it", async || {
        let answer = host.create(1, "acme").await;
        answer.status == 429 && answer.body["details"]["limit"] == 5
    })
    .await;
    host.admits("acme", 0).await;
}

/// Each in a workspace of its own, where two segments are in flight: the limit becomes 0, or the cap.
pub(crate) async fn what_is_lowered_in_strict_is_answered_when_nothing_more_can_come(host: Host) {
    let host = Arc::new(host);
    for plan in ["p", "q"] {
        host.put(&format!("/api/plans/{plan}"), json!({"limits": {"maxSegments": 9}})).await.expect(200);
    }
    host.limit("top", 9).await;
    host.limit("above", 1000).await;
    for (workspace, settings) in [
        ("limit", json!({})),
        ("bulk", json!({})),
        ("planned", json!({"plan": "p"})),
        ("other-plan", json!({"plan": "q"})),
        ("share", json!({"parent": "top", "shares": {"segments": 100}})),
        ("capped", json!({})),
        ("below", json!({"parent": "above"})),
        ("moved", json!({})),
    ] {
        host.settings(workspace, settings).await;
        host.settings(workspace, json!({"mode": "strict"})).await;
    }
    host.settings("above", json!({"mode": "strict"})).await;
    host.settings("full", json!({"caps": {"segments": 1}, "mode": "strict"})).await;
    host.create(0, "full").await.expect(201);
    let settings = |workspace: &str| format!("/api/workspaces/{workspace}/quota/settings");
    let none = json!({"maxSegments": 0});
    let ways = [
        ("limit", "/api/workspaces/limit/quota".to_owned(), none.clone()),
        ("bulk", "/api/system/quotas".to_owned(), json!({"workspaces": ["bulk"], "limits": none})),
        ("planned", "/api/plans/p".to_owned(), json!({"limits": none})),
        ("other-plan", settings("other-plan"), json!({"plan": "none"})),
        ("share", "/api/workspaces/top/quota".to_owned(), none.clone()),
        ("capped", settings("capped"), json!({"caps": {"segments": 0}})),
        ("below", settings("above"), json!({"caps": {"segments": 0}})),
        ("moved", settings("moved"), json!({"parent": "full"})),
    ];
    host.put("/api/plans/none", json!({"limits": none})).await.expect(200);
    for (workspace, path, body) in ways {
        let flying = crate::caps::held(&host, 0, workspace, 2).await;
        let answer = {
            let (host, body) = (Arc::clone(&host), body.clone());
            tokio::spawn(async move { host.send_to(1, ROOT, "PUT", &path, None, Some(body)).await })
        };
        if host.replicas() == 1 {
            // Nobody can take units from a handler in the same process: it is waited for.
            until("it is in force", async || !crate::caps::fits(&host, 0, workspace, 1).await).await;
            assert!(!answer.is_finished(), "{workspace}");
            assert!(host.insert(workspace, &flying.fence()).await);
            flying.post();
            answer.await.unwrap().expect(200);
            assert_eq!(host.rows(workspace).await, 1, "{workspace}");
        } else {
            answer.await.unwrap().expect(200);
            assert!(!host.insert(workspace, &flying.fence()).await, "{workspace}");
            flying.void();
            assert_eq!(host.rows(workspace).await, 0, "{workspace}");
        }
        // At once where there is nothing to wait for, and it can be used again.
        host.settings(workspace, json!({"plan": null, "parent": null, "caps": {"segments": 7}})).await;
        host.limit(workspace, 3).await;
        let rows = usize::try_from(host.rows(workspace).await).unwrap();
        until("there is room again", async || crate::caps::fits(&host, 0, workspace, 3 - rows as u64).await).await;
        host.admits(workspace, 3 - rows).await;
    }
    // In other modes what was admitted before may still become rows.
    let flying = crate::caps::held(&host, 0, "acme", 1).await;
    host.limit("acme", 0).await;
    assert!(host.insert("acme", &flying.fence()).await);
    flying.post();
}

pub(crate) async fn modes_of_workspaces_and_types_go_over_the_mode_of_all(host: Host) {
    host.settings("acme", json!({"mode": "warn"})).await;
    for turn in 0..7 {
        let made = host.create(turn, "acme").await.expect(201);
        // In this mode nobody waits for what another process has in store: it may warn early.
        assert!(turn < 5 && host.replicas() > 1 || made.warning.is_some() == (turn >= 5), "{turn}");
    }
    let validate = async || host.post(MEMBER, &format!("{ACME}/validate"), json!({"resourceType": "segments"})).await;
    assert_eq!(validate().await.expect(200).body["wouldExceed"], true);
    host.admits("globex", 5).await;

    host.settings("acme", json!({"modes": {"segments": "enforce"}})).await;
    until("the other one hears of it", async || host.create(1, "acme").await.status == 429).await;
    host.admits("acme", 0).await;
    validate().await.refused(429, "QUOTA_EXCEEDED");

    host.settings("acme", json!({"mode": "enforce", "modes": {"segments": "off"}})).await;
    until("the other one hears of it", async || host.create(1, "acme").await.status == 201).await;
    assert_eq!(host.create(0, "acme").await.expect(201).warning, None);
    // What came in meanwhile is in the books.
    host.settings("acme", json!({"modes": {"segments": null}})).await;
    until("the other one hears of it", async || host.create(1, "acme").await.status == 429).await;
    host.admits("acme", 0).await;

    // Of one type everywhere, in each process.
    let mode = json!({"types": {"segments": "warn"}});
    for replica in 0..host.replicas() {
        let path = "/api/system/config/quota-enforcement";
        let answer = host.send_to(replica, ROOT, "PUT", path, None, Some(mode.clone())).await.expect(200);
        assert_eq!(answer.body["types"], json!({"segments": "warn"}));
    }
    assert!(host.create(0, "globex").await.expect(201).warning.is_some());
    host.create(0, "acme").await.refused(429, "QUOTA_EXCEEDED");
    // When all is off, it is.
    for quota in &host.quotas {
        quota.set_mode(EnforcementMode::Off);
    }
    assert_eq!(host.create(0, "acme").await.status, 201);
    assert_eq!(host.told("acme", "mode_set").await, 5);
}

pub(crate) async fn a_request_is_decided_once_and_raises_the_limit(host: Host) {
    let path = format!("{ACME}/requests");
    let wish = json!({"resourceType": "segments", "amount": 4, "reason": "a new market"});
    host.post(STRANGER, &path, wish.clone()).await.refused(403, "INSUFFICIENT_PERMISSIONS");
    let request = host.post(MEMBER, &path, wish.clone()).await.expect(201).body["request"].clone();
    assert_eq!((&request["status"], &request["requestedBy"]), (&json!("pending"), &json!("mel")));
    let one = format!("{path}/{}", request["id"].as_str().unwrap());
    for token in [MEMBER, ADMIN] {
        assert_eq!(host.get(token, &path).await.expect(200).body["requests"], json!([request]));
    }
    host.post(MEMBER, &format!("{one}/approve"), json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS");
    // Of another workspace there is no such request.
    let other = format!("/api/workspaces/child/quota/requests/{}/approve", request["id"].as_str().unwrap());
    host.post(ADMIN, &other, json!({})).await.refused(404, "NOT_FOUND");

    // Several decide at once: one of them does.
    let host = Arc::new(host);
    let mut deciding = JoinSet::new();
    for turn in 0..6 {
        let (host, one) = (Arc::clone(&host), one.clone());
        deciding.spawn(async move {
            let path = format!("{one}/approve");
            host.send_to(turn, ADMIN, "POST", &path, None, Some(json!({"note": "granted"}))).await.status
        });
    }
    let mut statuses = deciding.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412, 412, 412, 412, 412]);
    host.admits("acme", 9).await;
    let approved = host.get(MEMBER, &path).await.expect(200).body["requests"][0].clone();
    assert_eq!(
        (&approved["status"], &approved["decidedBy"], &approved["note"]),
        (&json!("approved"), &json!("ada"), &json!("granted"))
    );
    for end in ["approve", "deny", "withdraw"] {
        host.post(ADMIN, &format!("{one}/{end}"), json!({})).await.refused(412, "PRECONDITION_FAILED");
    }

    let second = host.post(MEMBER, &path, wish.clone()).await.expect(201).body["request"]["id"].clone();
    host.post(ADMIN, &format!("{path}/{}/deny", second.as_str().unwrap()), json!({"note": "no"})).await.expect(200);
    let third = host.post(ADMIN, &path, wish).await.expect(201).body["request"]["id"].clone();
    let third = format!("{path}/{}/withdraw", third.as_str().unwrap());
    host.post(MEMBER, &third, json!({})).await.refused(404, "NOT_FOUND");
    host.post(ADMIN, &third, json!({})).await.expect(200);
    host.admits("acme", 0).await;
    let pending = host.get(ROOT, "/api/system/quota-requests?status=pending").await.expect(200);
    assert_eq!(pending.body["requests"], json!([]));
    let page = host.get(ROOT, "/api/system/quota-requests?limit=2").await.expect(200).body;
    assert_eq!(page["requests"].as_array().unwrap().len(), 2);
    let rest = format!("/api/system/quota-requests?limit=2&cursor={}", page["next"].as_str().unwrap());
    let rest = host.get(ROOT, &rest).await.expect(200).body;
    assert_eq!((&rest["requests"], &rest["next"]), (&json!([approved]), &Value::Null));
    for _ in 0..100 {
        host.post(MEMBER, &path, json!({"resourceType": "segments", "amount": 1, "reason": "x"})).await.expect(201);
    }
    let more = host.post(MEMBER, &path, json!({"resourceType": "segments", "amount": 1, "reason": "x"})).await;
    assert!(more.refused(400, "INVALID_REQUEST").contains("withdraw"));
}

pub(crate) async fn a_request_may_be_approved_for_a_time(host: Host) {
    let path = format!("{ACME}/requests");
    let wish = json!({"resourceType": "segments", "amount": 2, "reason": "a fair"});
    let request = host.post(MEMBER, &path, wish).await.expect(201).body["request"]["id"].clone();
    let approve = format!("{path}/{}/approve", request.as_str().unwrap());
    let past = json!({"expiresAt": "2024-01-01T00:00:00Z"});
    host.post(ADMIN, &approve, past).await.refused(400, "INVALID_REQUEST");
    let soon = after(Duration::from_secs(2));
    host.post(ADMIN, &approve, json!({ "expiresAt": soon })).await.expect(200);
    assert_eq!(host.limit_at(0, "acme").await, 7);
    until("it is over", async || host.limit_at(0, "acme").await == 5 && host.limit_at(1, "acme").await == 5).await;
    assert!(Timestamp::now() >= soon.parse().unwrap());
    host.admits("acme", 5).await;
}

pub(crate) async fn an_approval_and_a_put_are_one_after_the_other(host: Host) {
    let path = format!("{ACME}/requests");
    for round in 0..12 {
        host.limit("acme", 50).await;
        let wish = json!({"resourceType": "segments", "amount": 5, "reason": "more"});
        let request = host.post(MEMBER, &path, wish).await.expect(201).body["request"]["id"].clone();
        let approve = format!("{path}/{}/approve", request.as_str().unwrap());
        let (approved, put) = tokio::join!(
            host.send_to(round, ADMIN, "POST", &approve, None, Some(json!({}))),
            host.send_to(round + 1, ADMIN, "PUT", ACME, None, Some(json!({"maxSegments": 10}))),
        );
        assert_eq!((approved.status, put.status), (200, 200));
        let limit = host.limit_at(0, "acme").await;
        assert!(limit == 10 || limit == 15, "{limit}");
        // Each was told in turn, and took what the one before had left.
        let entries = host.audited("acme").await;
        let set: Vec<_> = entries.iter().filter(|entry| entry["action"] == "limit_set").collect();
        for pair in set.windows(2) {
            assert_eq!(pair[0]["new"], pair[1]["old"]);
        }
        assert_eq!(set.last().unwrap()["new"], limit);
    }
}

pub(crate) async fn the_audit_log_is_paged_filtered_and_only_added_to(host: Host) {
    let path = format!("{ACME}/audit");
    for limit in 10..35 {
        let body = json!({"maxSegments": limit, "maxUsers": limit, "reason": format!("step {limit}")});
        host.put(ACME, body).await.expect(200);
    }
    let since = Timestamp::now();
    host.settings("acme", json!({"plan": null, "mode": "warn", "reason": "a trial"})).await;
    host.limit("globex", 7).await;

    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = host.get(ADMIN, &format!("{path}?limit=7{cursor}")).await.expect(200).body;
        // New entries come before the first page, and are in none that follows.
        host.limit("acme", 100 + entries.len() as u64).await;
        entries.extend(page["entries"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(entries.len(), 51);
    let seqs: BTreeSet<_> = entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs.len(), 51);
    let last = entries.last().unwrap();
    let first = json!({"actor": "root", "origin": "test", "action": "limit_set", "workspaceId": "acme", "old": "unset", "new": 10,
                       "reason": "step 10"});
    for (field, value) in first.as_object().unwrap() {
        assert_eq!(&last[field], value, "{field}");
    }
    let users = host.get(ADMIN, &format!("{path}?resourceType=users")).await.expect(200).body;
    assert_eq!(users["entries"].as_array().unwrap().len(), 25);
    let later =
        host.get(ADMIN, &format!("{path}?since={since}&until={}", after(Duration::from_secs(60)))).await.expect(200);
    let later = later.body["entries"].as_array().unwrap().clone();
    assert_eq!(later.last().unwrap()["action"], "mode_set");
    assert!(
        host.get(ADMIN, &format!("{path}?until=2024-01-01T00:00:00Z")).await.expect(200).body["entries"] == json!([])
    );
    let all = host.get(ROOT, "/api/system/quota-audit?workspaceId=globex").await.expect(200).body;
    assert_eq!(all["entries"][0]["new"], 7);

    host.get(ADMIN, "/api/system/quota-audit").await.refused(403, "INSUFFICIENT_PERMISSIONS");
    host.get(MEMBER, &path).await.refused(403, "INSUFFICIENT_PERMISSIONS");
    for bad in ["?limit=0", "?limit=1001", "?cursor=x", "?since=yesterday", "?page=2", "?limit=1&limit=2"] {
        host.get(ADMIN, &format!("{path}{bad}")).await.refused(400, "INVALID_REQUEST");
    }
    host.get(ADMIN, &format!("{path}?resourceType=cats")).await.refused(400, "INVALID_RESOURCE_TYPE");
    for change in [r#"UPDATE "QuotaAudit" SET "actor" = 'nobody'"#, r#"DELETE FROM "QuotaAudit""#] {
        let error = host.rows.run(change.to_owned()).await.unwrap_err().to_string();
        assert!(error.contains("only added to"), "{error}");
    }
}

pub(crate) async fn a_recount_with_drift_is_audited(host: Host) {
    for turn in 0..4 {
        host.create(turn, "acme").await.expect(201);
    }
    let recalculate = format!("{ACME}/recalculate");
    host.post(ADMIN, &recalculate, json!({})).await.expect(200);
    assert_eq!(host.told("acme", "recount_drift").await, 0);
    host.delete_rows("acme", 3).await;
    // To be told is not to have it corrected.
    for _ in 0..2 {
        let told = host.post(ADMIN, &format!("{recalculate}?dryRun=true"), json!({})).await.expect(200).body;
        let drift = json!([{"resourceType": "segments", "cached": 4, "actual": 1, "drift": -3}]);
        assert_eq!((&told["corrections"], &told["usage"]["segments"]), (&drift, &json!(1)));
    }
    assert_eq!(host.told("acme", "recount_drift").await, 0);
    let answer = host.post(ADMIN, &recalculate, json!({})).await.expect(200).body;
    assert_eq!(answer["corrections"][0]["drift"], -3);
    let entries = host.audited("acme").await;
    let drift = entries.iter().find(|entry| entry["action"] == "recount_drift").unwrap();
    assert_eq!((&drift["old"], &drift["new"], &drift["actor"]), (&json!(4), &json!(1), &json!("ada")));
}

pub(crate) async fn creations_in_flight_are_no_drift(host: Host) {
    host.put(ACME, json!({"maxSegments": 100_000})).await.expect(200);
    let host = Arc::new(host);
    let recalculate = format!("{ACME}/recalculate");
    host.post(ADMIN, &recalculate, json!({})).await.expect(200);
    let look = async || {
        let told = host.post(ADMIN, &format!("{recalculate}?dryRun=true"), json!({})).await.expect(200).body;
        assert_eq!(told["corrections"], json!([]), "{told}");
        told["usage"]["segments"].as_u64().unwrap()
    };
    let burst = Burst::start(&host, "acme");
    for _ in 0..20 {
        let before = burst.made();
        look().await;
        until("more rows are made", async || burst.made() > before).await;
    }
    let made = burst.end().await;
    assert_eq!(look().await, made);
}

pub(crate) async fn many_workspaces_are_set_at_once_or_none(host: Host) {
    let path = "/api/system/quotas";
    let names: Vec<_> = (0..200).map(|at| format!("w{at}")).collect();
    let body = |names: &[String]| json!({"workspaces": names, "limits": {"maxSegments": 2}, "reason": "the new offer"});
    host.admits("w7", 5).await;
    assert_eq!(host.put(path, body(&names)).await.expect(200).body["updated"], 200);
    host.admits("w7", 0).await;
    host.admits("w199", 2).await;
    assert_eq!(host.audited("w0").await.last().unwrap()["reason"], "the new offer");

    let mut bad = names.clone();
    bad.push(String::new());
    let message =
        host.put(path, json!({"workspaces": bad, "limits": {"maxSegments": 9}})).await.refused(400, "INVALID_REQUEST");
    assert!(message.contains("`workspaces`"), "{message}");
    for body in [
        json!({"workspaces": [], "limits": {"maxSegments": 9}}),
        json!({"workspaces": vec!["w0"; 1], "limits": {"maxSegments": -9}}),
        json!({"workspaces": "w0", "limits": {"maxSegments": 9}}),
        json!({"workspaces": ["w0"]}),
        json!({"workspaces": (0..1001).map(|at| format!("x{at}")).collect::<Vec<_>>(), "limits": {"maxSegments": 9}}),
    ] {
        host.put(path, body).await.refused(400, "INVALID_REQUEST");
    }
    assert_eq!(host.limit_at(0, "w0").await, 2);
    let by = host.send_to(0, ADMIN, "PUT", path, None, Some(body(&names[..1]))).await;
    by.refused(403, "INSUFFICIENT_PERMISSIONS");
}

pub(crate) async fn changes_of_another_version_change_nothing(host: Host) {
    let tag = host.get(ROOT, ACME).await.expect(200).tag.unwrap();
    let settings = format!("{ACME}/settings");
    let changed = host.send_to(0, ROOT, "PUT", &settings, Some(&tag), Some(json!({"mode": "warn"}))).await.expect(200);
    // A limit, a setting, and a limit that is taken back: all of them are of one record.
    for (method, path, body) in [
        ("PUT", ACME, Some(json!({"maxSegments": 9}))),
        ("PUT", settings.as_str(), Some(json!({"mode": "off"}))),
        ("DELETE", "/api/workspaces/acme/quota/limits/segments", None),
        ("DELETE", ACME, None),
    ] {
        host.send_to(0, ROOT, method, path, Some(&tag), body).await.refused(412, "PRECONDITION_FAILED");
    }
    let now = host.get(ROOT, &settings).await.expect(200);
    assert_eq!((&now.tag, &now.body["settings"]["mode"]), (&changed.tag, &json!("warn")));
    host.send_to(0, ROOT, "PUT", ACME, now.tag.as_deref(), Some(json!({"maxSegments": 9}))).await.expect(200);
}

pub(crate) async fn bad_input_changes_nothing(host: Host) {
    host.limit("acme", 9).await;
    let before = host.get(ROOT, &format!("{ACME}/settings")).await.expect(200);
    let log = host.audited("acme").await;
    let settings = format!("{ACME}/settings");
    let (overrides, requests) = (format!("{ACME}/overrides"), format!("{ACME}/requests"));
    let soon = after(Duration::from_secs(600));
    let temporary = |change: Value| {
        let mut body = json!({"resourceType": "segments", "limit": 7, "expiresAt": soon, "reason": "x"});
        for (field, value) in change.as_object().unwrap() {
            body[field] = value.clone();
        }
        body
    };
    for (method, path, body, code) in [
        ("PUT", &settings, json!({"shares": {"segments": 101}}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"shares": {"segments": -1}}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"shares": {"segments": 1.5}}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"shares": {"cats": 10}}), "INVALID_RESOURCE_TYPE"),
        ("PUT", &settings, json!({"shares": 10}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"caps": {"segments": -5}}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"plan": "gold"}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"plan": 5}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"parent": "nobody"}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"parent": "acme"}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"mode": "loose"}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"modes": {"segments": true}}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"grace": {"enabled": true}}), "INVALID_REQUEST"),
        (
            "PUT",
            &settings,
            json!({"grace": {"enabled": true, "percentage": 10, "duration": 0, "resources": []}}),
            "INVALID_REQUEST",
        ),
        (
            "PUT",
            &settings,
            json!({"grace": {"enabled": true, "percentage": 10, "duration": 1, "resources": ["cats"]}}),
            "INVALID_RESOURCE_TYPE",
        ),
        ("PUT", &settings, json!({"mode": "warn", "colour": 1}), "INVALID_REQUEST"),
        ("PUT", &settings, json!({"mode": "warn", "reason": ""}), "INVALID_REQUEST"),
        ("POST", &overrides, temporary(json!({"expiresAt": "2024-01-01T00:00:00Z"})), "INVALID_REQUEST"),
        ("POST", &overrides, temporary(json!({"expiresAt": "tomorrow"})), "INVALID_REQUEST"),
        ("POST", &overrides, temporary(json!({"startsAt": "2999-01-01T00:00:00Z"})), "INVALID_REQUEST"),
        ("POST", &overrides, temporary(json!({"limit": -1})), "INVALID_REQUEST"),
        ("POST", &overrides, temporary(json!({"reason": " "})), "INVALID_REQUEST"),
        ("POST", &overrides, temporary(json!({"resourceType": "cats"})), "INVALID_RESOURCE_TYPE"),
        ("POST", &requests, json!({"resourceType": "segments", "amount": -1, "reason": "x"}), "INVALID_REQUEST"),
        ("POST", &requests, json!({"resourceType": "segments", "amount": 0, "reason": "x"}), "INVALID_REQUEST"),
        ("POST", &requests, json!({"resourceType": "segments", "amount": i64::MAX, "reason": "x"}), "INVALID_REQUEST"),
        ("POST", &requests, json!({"resourceType": "segments", "amount": 1}), "INVALID_REQUEST"),
        ("POST", &requests, json!({"resourceType": "cats", "amount": 1, "reason": "x"}), "INVALID_RESOURCE_TYPE"),
    ] {
        let answer = host.send_to(0, ROOT, method, path, None, Some(body.clone())).await;
        assert_eq!((answer.status, answer.body["error"].as_str()), (400, Some(code)), "{body}: {}", answer.body);
    }
    for bad in ["a%20plan", "-p", "%C3%A4", &"x".repeat(64)] {
        host.put(&format!("/api/plans/{bad}"), json!({"limits": {}})).await.refused(400, "INVALID_REQUEST");
    }
    host.put("/api/plans/p", json!({"limits": {"maxCats": 1}})).await.refused(400, "INVALID_RESOURCE_TYPE");
    assert_eq!(host.get(ROOT, "/api/plans").await.expect(200).body["plans"], json!([]));
    let now = host.get(ROOT, &settings).await.expect(200);
    assert_eq!((now.tag, now.body), (before.tag, before.body));
    assert_eq!(host.audited("acme").await, log);
}

pub(crate) async fn a_deleted_workspace_is_back_at_the_defaults(host: Host) {
    host.limit("top", 9).await;
    host.settings("acme", json!({"parent": "top", "shares": {"segments": 100}})).await;
    let message = host.delete("/api/workspaces/top/quota").await.refused(412, "PRECONDITION_FAILED");
    assert!(message.contains("1 workspaces are below"), "{message}");
    host.admits("acme", 9).await;
    host.delete(ACME).await.expect(200);
    host.delete(ACME).await.refused(404, "QUOTA_NOT_FOUND");
    host.delete_rows("acme", 6).await;
    host.admits("acme", 2).await;
    assert_eq!(host.told("acme", "workspace_deleted").await, 1);
    host.delete("/api/workspaces/top/quota").await.expect(200);
}

pub(crate) async fn what_was_begun_goes_on_after_a_restart(host: Host) {
    host.settings("acme", grace(3600)).await;
    for turn in 0..6 {
        host.create(turn, "acme").await.expect(201);
    }
    let temporary =
        json!({"resourceType": "users", "limit": 7, "expiresAt": after(Duration::from_secs(2)), "reason": "x"});
    host.post(ROOT, &format!("{ACME}/overrides"), temporary).await.expect(201);
    let started = host.get(ROOT, &format!("{ACME}/settings")).await.expect(200).body["settings"]["graceUses"].clone();
    let host = host.restarted().await;
    host.admits("acme", 1).await;
    let settings = host.get(ROOT, &format!("{ACME}/settings")).await.expect(200).body["settings"].clone();
    assert_eq!((&settings["graceUses"], host.told("acme", "grace_started").await), (&started, 1));
    until("the override has reverted", async || host.told("acme", "override_expired").await == 1).await;
    assert_eq!(host.get(ROOT, ACME).await.expect(200).body["quota"]["maxUsers"], 100);
}

pub(crate) async fn limits_are_imported_by_usage_in_batches_and_never_lowered(host: Host) {
    // w0 has a row, w1 two, and so on; one has a limit that is higher, one that is lower, one a plan; and one id is none.
    for at in 0..25_u64 {
        for row in 0..=at {
            let sql = format!(r#"INSERT INTO "Segment" VALUES ('{at}-{row}', 'w{at:02}')"#);
            host.rows.run(sql).await.unwrap();
        }
    }
    host.rows.run(r#"INSERT INTO "Segment" VALUES ('x', '')"#.to_owned()).await.unwrap();
    host.rows.run(r#"INSERT INTO "User" VALUES ('u', 'w03')"#.to_owned()).await.unwrap();
    host.limit("w10", 100).await;
    host.limit("w11", 3).await;
    // What is in force for a time only is no limit that is there.
    let temporary =
        json!({"resourceType": "segments", "limit": 900, "expiresAt": after(Duration::from_secs(600)), "reason": "x"});
    host.post(ROOT, "/api/workspaces/w24/quota/overrides", temporary).await.expect(201);
    host.put("/api/plans/p", json!({"limits": {"maxSegments": 1000}})).await.expect(200);
    host.settings("w12", json!({"plan": "p"})).await;
    let (path, log) = ("/api/system/quota-import", host.audited("w05").await);

    let look = host.post(ROOT, path, json!({})).await.expect(200).body;
    let summary = json!({"workspaces": 26, "set": 23, "raised": 1, "lowered": 0, "kept": 2, "invalid": 1, "invalidIds": [""],
                         "after": "w24", "done": true});
    assert_eq!(look["summary"], summary);
    assert_eq!(look["proposals"].as_array().unwrap().len(), 26);
    // Nothing is done by looking.
    assert_eq!((host.limit_at(0, "w05").await, host.audited("w05").await), (json!(5), log));

    // It is broken off after ten batches, and goes on there, at whichever process.
    let part = json!({"apply": true, "batch": 2, "floor": 3});
    let first = host.post(ROOT, path, part.clone()).await.expect(200).body["summary"].clone();
    assert_eq!((&first["workspaces"], &first["done"], &first["after"]), (&json!(20), &json!(false), &json!("w18")));
    let rest = host.send_to(1, ROOT, "POST", path, None, Some(part)).await.expect(200).body["summary"].clone();
    assert_eq!((&rest["workspaces"], &rest["done"]), (&json!(26), &json!(true)));
    for (workspace, limit) in
        [("w00", 3), ("w05", 8), ("w10", 100), ("w11", 15), ("w12", 1000), ("w23", 29), ("w24", 900)]
    {
        assert_eq!(host.limit_at(0, workspace).await, limit, "{workspace}");
        assert!(host.told(workspace, "imported").await <= 2);
    }
    let told = host.audited("w05").await;
    let told =
        told.iter().find(|entry| entry["action"] == "imported" && entry["resourceType"] == "segments").unwrap().clone();
    assert_eq!((&told["old"], &told["new"], &told["reason"]), (&json!("unset"), &json!(8), &json!("6 rows")));
    let w24 = host.get(ROOT, "/api/workspaces/w24/quota?explain=true").await.expect(200).body;
    assert_eq!(w24["explain"]["segments"]["trace"][1], json!({"source": "override", "limit": 30}));
    // What came in force binds at once.
    host.admits("w05", 2).await;

    // Lowered only where that is told.
    let lower = json!({"apply": true, "allowLowering": true, "percent": 100});
    host.post(ROOT, path, lower).await.expect(200);
    assert_eq!((host.limit_at(0, "w10").await, host.limit_at(0, "w12").await), (json!(11), json!(13)));
    for bad in [
        json!({"percent": 0}),
        json!({"floor": -1}),
        json!({"apply": "yes"}),
        json!({"batch": 0}),
        json!({"factor": 2}),
    ] {
        host.post(ROOT, path, bad).await.refused(400, "INVALID_REQUEST");
    }
    host.post(ADMIN, path, json!({})).await.refused(403, "INSUFFICIENT_PERMISSIONS");
}

pub(crate) async fn two_runs_of_one_import_at_once_set_each_limit_once(host: Host) {
    const WORKSPACES: usize = 40;
    for at in 0..WORKSPACES {
        host.rows.run(format!(r#"INSERT INTO "Segment" VALUES ('{at}', 'w{at:02}')"#)).await.unwrap();
    }
    let host = Arc::new(host);
    let mut running = JoinSet::new();
    for run in 0..4 {
        let host = Arc::clone(&host);
        running.spawn(async move {
            loop {
                let body = json!({"apply": true, "batch": 1});
                let answer = host.send_to(run, ROOT, "POST", "/api/system/quota-import", None, Some(body)).await;
                match answer.status {
                    200 if answer.body["summary"]["done"] == true => return,
                    200 => {}
                    // The other one was first.
                    412 => {}
                    _ => panic!("{}: {}", answer.status, answer.body),
                }
            }
        });
    }
    running.join_all().await;
    for at in 0..WORKSPACES {
        let workspace = format!("w{at:02}");
        assert_eq!((host.limit_at(0, &workspace).await, host.told(&workspace, "imported").await), (json!(2), 1));
    }
}

pub(crate) async fn the_road_from_warn_to_strict_tells_what_it_would_refuse(host: Host) {
    let path = "/api/system/quota-readiness";
    for turn in 0..4 {
        host.create(turn, "acme").await.expect(201);
    }
    let ready = host.get(ROOT, path).await.expect(200).body;
    assert_eq!((&ready["workspaces"], &ready["wouldRefuse"]), (&json!(1), &json!(false)));
    host.settings("globex", json!({"mode": "warn"})).await;
    for turn in 0..7 {
        host.create(turn, "globex").await.expect(201);
    }
    // The next step is none for who has a mode of its own.
    let ready = host.get(ROOT, path).await.expect(200).body;
    assert_eq!((&ready["wouldRefuse"], &ready["types"]["segments"]["exempt"]), (&json!(false), &json!(1)));
    host.create(0, "acme").await.expect(201);
    host.settings("globex", json!({"mode": null})).await;
    let ready = host.get(ROOT, path).await.expect(200).body;
    assert_eq!(ready["wouldRefuse"], true);
    let worst =
        json!([{"workspaceId": "globex", "usage": 7, "limit": 5}, {"workspaceId": "acme", "usage": 5, "limit": 5}]);
    let caps = json!({"reached": 0, "worst": []});
    let told = json!({"full": 1, "over": 1, "exempt": 0, "worst": worst, "caps": caps});
    assert_eq!(ready["types"]["segments"], told);
    let least = host.get(ROOT, &format!("{path}?limit=1")).await.expect(200).body;
    assert_eq!(least["types"]["segments"]["worst"], json!([worst[0]]));
    // A type that has a mode of its own everywhere.
    let mode = |mode: Value| json!({"types": {"segments": mode}});
    let enforcement = "/api/system/config/quota-enforcement";
    host.put(enforcement, mode(json!("warn"))).await.expect(200);
    let exempt = host.get(ROOT, path).await.expect(200).body;
    assert_eq!((&exempt["wouldRefuse"], &exempt["types"]["segments"]["exempt"]), (&json!(false), &json!(2)));
    host.put(enforcement, mode(json!(null))).await.expect(200);

    // Nothing is there yet, and nothing may be.
    host.limit("empty", 0).await;
    host.settings("empty", json!({"mode": "warn"})).await;
    let exempt = host.get(ROOT, path).await.expect(200).body;
    assert_eq!((&exempt["workspaces"], &exempt["types"]["segments"]["exempt"]), (&json!(2), &json!(1)));
    host.settings("empty", json!({"mode": null})).await;
    let ready = host.get(ROOT, path).await.expect(200).body["types"]["segments"].clone();
    assert_eq!(
        (&ready["full"], &ready["worst"][2]),
        (&json!(2), &json!({"workspaceId": "empty", "usage": 0, "limit": 0}))
    );

    // Caps: rows of all below count, and who is exempt is not refused by one either.
    for (workspace, cap) in [("top", 12), ("free", 0), ("loose", 13)] {
        host.settings(workspace, json!({"caps": {"segments": cap}})).await;
        host.limit(workspace, 1000).await;
    }
    for workspace in ["acme", "globex"] {
        host.settings(workspace, json!({"parent": "top"})).await;
    }
    host.settings("free", json!({"mode": "off"})).await;
    let caps = async || host.get(ROOT, path).await.expect(200).body["types"]["segments"]["caps"].clone();
    assert_eq!(caps().await, json!({"reached": 1, "worst": [{"workspaceId": "top", "usage": 12, "limit": 12}]}));
    for workspace in ["acme", "globex", "top"] {
        host.settings(workspace, json!({"mode": "warn"})).await;
    }
    assert_eq!(caps().await, json!({"reached": 0, "worst": []}));
}

pub(crate) async fn a_shadow_tells_what_it_would_refuse_and_refuses_nothing(host: Host) {
    let path = "/api/system/quota-shadow";
    host.get(ROOT, path).await.refused(404, "NOT_FOUND");
    host.put(path, json!({"limits": {"maxSegments": 3}, "workspaces": ["acme"]})).await.expect(200);
    for workspace in ["acme", "globex"] {
        for _ in 0..5 {
            host.create(0, workspace).await.expect(201);
        }
    }
    // What is refused now would have been, too.
    host.create(0, "acme").await.refused(429, "QUOTA_EXCEEDED");
    let report = host.get(ROOT, path).await.expect(200).body;
    assert_eq!(report["evaluated"], 6);
    let of = report["workspaces"][0].clone();
    assert_eq!(report["wouldRefuse"], 3, "{report}");
    assert_eq!((&of["workspaceId"], &of["refusals"], &of["limit"]), (&json!("acme"), &json!(3), &json!(3)));
    assert_eq!(host.delete(path).await.expect(200).body, report);
    host.delete(path).await.refused(404, "NOT_FOUND");
    host.put(path, json!({"limits": {}})).await.refused(400, "INVALID_REQUEST");
    host.put(path, json!({"limits": {"maxCats": 1}})).await.refused(400, "INVALID_RESOURCE_TYPE");
}

pub(crate) async fn a_cleanup_takes_the_newest_rows_in_strict_alone(host: Host) {
    host.settings("acme", json!({"mode": "warn"})).await;
    for turn in 0..12 {
        host.create(turn, "acme").await.expect(201);
        host.create(turn, "globex").await;
    }
    let path = format!("{ACME}/cleanup");
    let real = json!({"resourceType": "segments", "dryRun": false, "batch": 3});
    let look = host.post(ADMIN, &path, json!({"resourceType": "segments"})).await.expect(200).body;
    assert_eq!((&look["dryRun"], &look["above"], &look["removed"]), (&json!(true), &json!(7), &json!(0)));
    let message = host.post(ADMIN, &path, real.clone()).await.refused(400, "INVALID_REQUEST");
    assert!(message.contains("only removed in mode strict"), "{message}");
    assert_eq!(host.rows("acme").await, 12);

    host.settings("acme", json!({"mode": "strict"})).await;
    let done = host.post(ADMIN, &path, real.clone()).await.expect(200).body;
    assert_eq!((&done["policy"], &done["above"], &done["removed"]), (&json!("archive"), &json!(7), &json!(7)));
    // The newest, as was told before.
    assert_eq!(done["rows"], look["rows"]);
    assert_eq!((host.rows("acme").await, host.rows("globex").await), (5, 5));
    assert_eq!(host.rows_in("QuotaArchive", "acme").await, 7);
    let entries = host.audited("acme").await;
    let batches: Vec<_> = entries.iter().filter(|entry| entry["action"] == "cleanup").collect();
    let told: Vec<_> = batches.iter().flat_map(|entry| entry["new"]["rows"].as_array().unwrap().clone()).collect();
    assert_eq!((batches.len(), &json!(told)), (3, &done["rows"]));
    // Done is done.
    assert_eq!(host.post(ADMIN, &path, real).await.expect(200).body["removed"], 0);
    host.admits("acme", 0).await;
    // Of a type without a policy, rows are only reported.
    host.put(ACME, json!({"maxUsers": 0})).await.expect(200);
    let users = host.post(ADMIN, &path, json!({"resourceType": "users", "dryRun": false})).await;
    assert!(users.refused(400, "INVALID_REQUEST").contains("newest_first"));
    host.post(MEMBER, &path, json!({"resourceType": "segments"})).await.refused(403, "INSUFFICIENT_PERMISSIONS");
    host.post(ADMIN, &path, json!({"resourceType": "segments", "policy": "delete"}))
        .await
        .refused(400, "INVALID_REQUEST");
}
