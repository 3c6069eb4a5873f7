//! One request after the other: what is charged, what is refused, and what is not charged.

use serde_json::{Value, json};

use crate::process::{
    ACME, Quickstart, Server, create, create_all, created, file, is_final, list, name, quota, remaining, segments,
    set_quota,
};
use crate::support::client::{Answer, Connection, together};

const ENFORCEMENT: &str = "/api/system/config/quota-enforcement";

fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |at| format!("{prefix} {at}"))
}

fn upsert(connection: &mut Connection, workspace: &str, id: Option<&str>, name: &str) -> Answer {
    let body = match id {
        Some(id) => json!({ "workspaceId": workspace, "id": id, "name": name }),
        None => json!({ "workspaceId": workspace, "name": name }),
    };
    connection.send("PUT", "/api/segments", &body.to_string())
}

fn batch(connection: &mut Connection, workspace: &str, users: impl Iterator<Item = String>) -> Answer {
    let users: Vec<Value> = users.map(|name| json!({ "name": name })).collect();
    connection.send("POST", &format!("/api/workspaces/{workspace}/users/batch"), &json!({ "users": users }).to_string())
}

fn the_introduction_keeps_its_word(on: Server) {
    let server = Quickstart::start(on);
    let calls: Vec<&str> = server.introduction.lines().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(calls.len(), 4, "{}", server.introduction);
    let mut statuses = Vec::new();
    for call in calls {
        // What stands in single quotes, and the URL: all that the printed calls use of curl.
        let quoted: Vec<&str> = call.split('\'').skip(1).step_by(2).collect();
        let url = call.split(' ').find(|word| word.starts_with("http://")).unwrap();
        let path = url.strip_prefix(&format!("http://{}", server.address)).unwrap();
        let headers: Vec<(&str, &str)> = quoted
            .iter()
            .filter_map(|quoted| quoted.split_once(": "))
            .filter(|(name, _)| !name.starts_with('{'))
            .collect();
        let body = quoted.iter().find(|quoted| quoted.starts_with('{')).copied().unwrap_or_default();
        let method = match (call.contains("-X PUT"), body) {
            (true, _) => "PUT",
            (false, "") => "GET",
            _ => "POST",
        };
        let answer = server.anonymous().send_with(method, path, &headers, body);
        statuses.push(answer.status);
    }
    assert_eq!(statuses, [201, 200, 200, 429]);
}

fn all_eight_types_have_a_limit_of_their_own(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    let types = [
        ("users", "users", "maxUsers", "User"),
        ("segments", "segments", "maxSegments", "Segment"),
        ("journeys", "journeys", "maxJourneys", "Journey"),
        ("broadcasts", "broadcasts", "maxBroadcasts", "Broadcast"),
        ("computed-properties", "computedProperties", "maxComputedProperties", "Computed property"),
        ("audiences", "audiences", "maxAudiences", "Audience"),
        ("email-templates", "emailTemplates", "maxEmailTemplates", "Email template"),
        ("subscription-groups", "subscriptionGroups", "maxSubscriptionGroups", "Subscription group"),
    ];
    for (place, (collection, resource, field, label)) in types.into_iter().enumerate() {
        let limit = place + 1;
        set_quota(&mut connection, "acme", &json!({ field: limit }));
        let path = format!("/api/workspaces/acme/{collection}");
        for name in names("row", limit).map(|row| name(&row)) {
            connection.send("POST", &path, &name).expect(201);
        }
        let refused = connection.send("POST", &path, &name("one too many"));
        let expected = json!({
            "error": "QUOTA_EXCEEDED",
            "message": format!("{label} quota exceeded"),
            "details": { "resourceType": resource, "currentUsage": limit, "limit": limit, "requested": 1, "remaining": 0 },
        });
        assert_eq!((refused.status, refused.json()), (429, expected));
        assert_eq!(refused.header("content-type"), Some("application/json"));
        let problem = [("authorization", "Bearer admin-token"), ("accept", "application/problem+json")];
        let problem = server.anonymous().send_with("POST", &path, &problem, &name("one too many")).expect(429);
        assert_eq!(problem.header("content-type"), Some("application/problem+json"));
        assert_eq!((&problem.json()["status"], &problem.json()["error"]), (&json!(429), &json!("QUOTA_EXCEEDED")));
        let quota = quota(&mut connection, "acme");
        assert_eq!((&quota["usage"][resource], &quota["percentages"][resource]), (&json!(limit), &json!(100)));
        // Another workspace is not concerned.
        connection.send("POST", &format!("/api/workspaces/globex/{collection}"), &name("row")).expect(201);
    }
}

fn an_upsert_is_charged_only_for_a_new_row(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 3 }));
    let made = upsert(&mut connection, "acme", None, "made by name").expect(200).json();
    upsert(&mut connection, "acme", Some("my-id"), "made by id").expect(200);
    create_all(&mut connection, "acme", ["created".to_owned()]);
    // At the limit.
    for _ in 0..20 {
        assert_eq!(upsert(&mut connection, "acme", None, "made by name").expect(200).json(), made);
        let renamed = upsert(&mut connection, "acme", Some("my-id"), "renamed").expect(200).json();
        assert_eq!(renamed, json!({ "id": "my-id", "name": "renamed" }));
    }
    assert!(is_final(&upsert(&mut connection, "acme", None, "new name")));
    assert!(is_final(&upsert(&mut connection, "acme", Some("new-id"), "renamed too")));
    // An id that doesn't exist makes a row, whatever its name.
    assert!(is_final(&upsert(&mut connection, "acme", Some("new-id"), "created")));
    // The id of another workspace's row is none of this one's.
    upsert(&mut connection, "globex", Some("globex-id"), "globex").expect(200);
    assert!(is_final(&upsert(&mut connection, "acme", Some("globex-id"), "stolen")));
    assert_eq!(server.database().names("Segment", "acme"), ["created", "made by name", "renamed"]);
    // Far above the limit, too.
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 0 }));
    upsert(&mut connection, "acme", None, "made by name").expect(200);
    upsert(&mut connection, "acme", Some("my-id"), "made by id").expect(200);
    assert!(is_final(&upsert(&mut connection, "acme", None, "new name")));
    assert_eq!(server.database().rows("Segment", "acme"), 3);
}

fn a_batch_is_charged_as_a_whole(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    set_quota(&mut connection, "acme", &json!({ "maxUsers": 19 }));
    batch(&mut connection, "acme", names("first", 10)).expect(201);
    // Ten with nine free.
    let refused = batch(&mut connection, "acme", names("second", 10));
    assert!(is_final(&refused));
    let details = json!({ "resourceType": "users", "currentUsage": 10, "limit": 19, "requested": 10, "remaining": 9 });
    assert_eq!(refused.json()["details"], details);
    assert_eq!(server.database().rows("User", "acme"), 10);
    assert_eq!(remaining(&mut connection, "acme", "users"), 9);
    // Ten with ten free.
    set_quota(&mut connection, "acme", &json!({ "maxUsers": 20 }));
    assert_eq!(batch(&mut connection, "acme", names("second", 10)).expect(201).json().as_array().unwrap().len(), 10);
    assert_eq!(server.database().rows("User", "acme"), 20);
    // None costs nothing, at the limit too.
    batch(&mut connection, "acme", names("third", 0)).expect(201);
    assert!(is_final(&batch(&mut connection, "acme", names("third", 1))));
    // A batch that the host refuses is not charged: no row of it exists.
    set_quota(&mut connection, "acme", &json!({ "maxUsers": 30 }));
    let clash = (0..9).map(|at| format!("fourth {at}")).chain(["first 0".to_owned()]);
    for _ in 0..20 {
        batch(&mut connection, "acme", clash.clone()).expect(409);
    }
    batch(&mut connection, "acme", names("fourth", 10)).expect(201);
    assert_eq!(server.database().rows("User", "acme"), 30);
}

fn concurrent_batches_are_never_admitted_in_part(on: Server) {
    let server = Quickstart::start(on);
    let mut database = server.database();
    database.watch("User");
    for round in 0..5 {
        let workspace = format!("batches-{round}");
        set_quota(&mut server.connect(), &workspace, &json!({ "maxUsers": 95 }));
        let admitted = together(32, 0, round, |thread, _| {
            let mut connection = server.connect();
            let answers = (0..4).map(|at| batch(&mut connection, &workspace, names(&format!("{thread}/{at}"), 10)));
            answers.filter(created).count()
        });
        assert_eq!((admitted.iter().sum::<usize>(), database.rows("User", &workspace)), (9, 90), "{workspace}");
        // What is left is not lost.
        batch(&mut server.connect(), &workspace, names("rest", 5)).expect(201);
        assert!(is_final(&batch(&mut server.connect(), &workspace, names("more", 1))));
        assert_eq!(database.peak("User", &workspace), 95);
    }
}

fn who_may_not_is_not_charged(on: Server) {
    let server = Quickstart::start(on);
    let mut admin = server.connect();
    let mut acme = server.anonymous().with_token(ACME);
    let before = (quota(&mut admin, "globex"), remaining(&mut admin, "globex", "segments"));
    assert_eq!(before.1, 50);
    for _ in 0..60 {
        create(&mut acme, "globex", "intruder").refused(403, "INSUFFICIENT_PERMISSIONS");
        upsert(&mut acme, "globex", None, "intruder").refused(403, "INSUFFICIENT_PERMISSIONS");
    }
    for token in [None, Some("wrong"), Some("admin-token2")] {
        let mut stranger = server.anonymous();
        if let Some(token) = token {
            stranger = stranger.with_token(token);
        }
        create(&mut stranger, "globex", "intruder").refused(401, "UNAUTHENTICATED");
    }
    let after = (quota(&mut admin, "globex"), remaining(&mut admin, "globex", "segments"));
    assert_eq!(after, before);
    assert_eq!(server.database().rows("Segment", "globex"), 0);
    create_all(&mut admin, "globex", names("row", 50));
    assert!(is_final(&create(&mut admin, "globex", "one too many")));
}

fn two_workspaces_in_one_request_are_refused(on: Server) {
    let server = Quickstart::start(on);
    let mut admin = server.connect();
    let bearer = ("authorization", "Bearer admin-token");
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &Value| {
        let headers: Vec<_> = [bearer].into_iter().chain(headers.iter().copied()).collect();
        server.anonymous().send_with(method, path, &headers, &body.to_string())
    };
    let here = segments("acme");
    let plain = json!({ "name": "a" });
    let there = json!({ "name": "a", "workspaceId": "globex" });
    for answer in [
        send("POST", &here, &[], &there),
        send("POST", &here, &[("df-workspace-id", "globex")], &plain),
        send("POST", &here, &[("df-workspace-id", "acme"), ("df-workspace-id", "globex")], &plain),
        send("POST", &here, &[("df-workspace-id", "globex"), ("df-workspace-id", "acme")], &plain),
        send("POST", &here, &[("df-workspace-id", "acme")], &there),
        send("PUT", "/api/segments", &[("df-workspace-id", "acme")], &there),
        send("PUT", "/api/segments", &[("df-workspace-id", "acme"), ("df-workspace-id", "globex")], &plain),
    ] {
        answer.refused(400, "WORKSPACE_MISMATCH");
    }
    for (answer, missing) in [
        (send("PUT", "/api/segments", &[], &plain), "names no workspace"),
        (send("PUT", "/api/segments", &[], &json!({ "name": "a", "workspaceId": ["acme"] })), "string"),
        (send("PUT", "/api/segments", &[], &json!({ "name": "a", "workspaceId": null })), "names no workspace"),
        (send("PUT", "/api/segments", &[], &json!({ "name": "a", "workspaceId": "" })), "workspace"),
    ] {
        let message = answer.refused(400, "INVALID_REQUEST");
        assert!(message.contains(missing), "{message}");
    }
    // Two names of the same workspace are one.
    let agreeing = json!({ "name": "agreed", "workspaceId": "acme" });
    send("POST", &here, &[("df-workspace-id", "acme"), ("df-workspace-id", "acme")], &agreeing).expect(201);
    for (workspace, rows) in [("acme", 1), ("globex", 0)] {
        assert_eq!(server.database().rows("Segment", workspace), rows);
        assert_eq!(remaining(&mut admin, workspace, "segments"), 50 - rows);
    }
}

fn a_changed_limit_binds_at_once(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 2 }));
    create_all(&mut connection, "acme", names("a", 2));
    assert!(is_final(&create(&mut connection, "acme", "refused")));
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 4 }));
    create_all(&mut connection, "acme", names("b", 2));
    assert!(is_final(&create(&mut connection, "acme", "refused")));
    // Lowered below what is there: only new rows are refused.
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 1 }));
    let refused = create(&mut connection, "acme", "refused");
    assert!(is_final(&refused));
    let details = json!({ "resourceType": "segments", "currentUsage": 4, "limit": 1, "requested": 1, "remaining": 0 });
    assert_eq!(refused.json()["details"], details);
    // Unlimited, and back.
    set_quota(&mut connection, "acme", &json!({ "maxSegments": null }));
    create_all(&mut connection, "acme", names("c", 100));
    assert_eq!(remaining(&mut connection, "acme", "segments"), Value::Null);
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 104 }));
    assert!(is_final(&create(&mut connection, "acme", "refused")));
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 105 }));
    create_all(&mut connection, "acme", names("d", 1));
    // Lowered while units are free.
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 200 }));
    create_all(&mut connection, "acme", names("e", 1));
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 107 }));
    create_all(&mut connection, "acme", names("f", 1));
    assert!(is_final(&create(&mut connection, "acme", "refused")));
    // None at all.
    set_quota(&mut connection, "empty", &json!({ "maxSegments": 0 }));
    assert!(is_final(&create(&mut connection, "empty", "refused")));
    assert_eq!(server.database().rows("Segment", "empty"), 0);
}

fn a_limit_lowered_under_load_is_never_exceeded_again(on: Server) {
    let server = Quickstart::start(on);
    let mut database = server.database();
    database.watch("Segment");
    for round in 0..8 {
        let workspace = format!("lowered-{round}");
        set_quota(&mut server.connect(), &workspace, &json!({ "maxSegments": 100_000 }));
        // One of the threads lowers the limit in the midst of it all, and then lists what there is.
        let lowered = together(33, 0, round, |thread, _| {
            let mut connection = server.connect();
            if thread == 0 {
                while list(&mut connection, &workspace).len() < 40 {}
                set_quota(&mut connection, &workspace, &json!({ "maxSegments": 50 }));
                return Some(list(&mut connection, &workspace).len());
            }
            for at in 0..30 {
                let answer = create(&mut connection, &workspace, &format!("{thread}/{at}"));
                if answer.status != 201 {
                    is_final(&answer);
                }
            }
            None
        });
        let at_the_change = lowered.into_iter().flatten().next().unwrap();
        // At most what was granted before the change: one per connection.
        let peak = usize::try_from(database.peak("Segment", &workspace)).unwrap();
        println!("{workspace}: {at_the_change} rows when the limit was lowered to 50, {peak} in the end");
        assert!(peak <= 50.max(at_the_change + 32), "{peak} rows");
        assert!(is_final(&create(&mut server.connect(), &workspace, "late")));
    }
}

fn a_limit_raised_under_load_is_used_up_to_the_last_unit(on: Server) {
    let server = Quickstart::start(on);
    let mut database = server.database();
    database.watch("Segment");
    for round in 0..5 {
        let workspace = format!("raised-{round}");
        let raised = json!({ "maxSegments": 200 });
        set_quota(&mut server.connect(), &workspace, &json!({ "maxSegments": 10 }));
        together(33, 0, round, |thread, _| {
            let mut connection = server.connect();
            if thread == 0 {
                while list(&mut connection, &workspace).len() < 10 {}
                set_quota(&mut connection, &workspace, &raised);
                // Usable at once by whoever knows of it.
                return create(&mut connection, &workspace, "the first after").expect(201).status;
            }
            // Until nothing more is to be had under the raised limit.
            for at in 0.. {
                let answer = create(&mut connection, &workspace, &format!("{thread}/{at}"));
                if answer.status != 201 && is_final(&answer) && answer.json()["details"]["limit"] == 200 {
                    return answer.status;
                }
            }
            unreachable!()
        });
        assert_eq!((database.rows("Segment", &workspace), database.peak("Segment", &workspace)), (200, 200));
    }
}

fn failed_creations_cost_nothing(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    create_all(&mut connection, "acme", names("row", 49));
    // One unit is free, and stays free.
    together(8, 0, 0, |_, _| {
        let mut connection = server.connect();
        for _ in 0..25 {
            for (body, status) in [(name("row 0"), 409), (name(""), 400), (name(" "), 400), ("{}".to_owned(), 400)] {
                let answer = connection.send("POST", &segments("acme"), &body);
                // Another's failing creation may hold the unit for as long as it takes.
                if answer.status != status {
                    assert!(!is_final(&answer), "{answer}");
                }
            }
        }
    });
    for _ in 0..200 {
        create(&mut connection, "acme", "row 0").expect(409);
    }
    create(&mut connection, "acme", "the fiftieth").expect(201);
    assert!(is_final(&create(&mut connection, "acme", "one too many")));
    assert_eq!(server.database().rows("Segment", "acme"), 50);
}

fn a_deletion_frees_its_unit_at_once(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    create_all(&mut connection, "acme", names("row", 49));
    let mut last = create(&mut connection, "acme", "row").expect(201).json();
    for at in 0..50 {
        assert!(is_final(&create(&mut connection, "acme", "one too many")));
        let row = format!("{}/{}", segments("acme"), last["id"].as_str().unwrap());
        connection.send("DELETE", &row, "").expect(204);
        last = create(&mut connection, "acme", &format!("next {at}")).expect(201).json();
    }
    // Without a refusal in between, and on two connections.
    let mut other = server.connect();
    for at in 0..50 {
        let row = format!("{}/{}", segments("acme"), last["id"].as_str().unwrap());
        connection.send("DELETE", &row, "").expect(204);
        last = create(&mut other, "acme", &format!("last {at}")).expect(201).json();
    }
    // A deletion of nothing frees nothing.
    connection.send("DELETE", &format!("{}/nothing", segments("acme")), "").expect(404);
    assert!(is_final(&create(&mut connection, "acme", "one too many")));
    // A row that somebody else removed from the database is found, too.
    server.database().run(format!(r#"DELETE FROM "Segment" WHERE "id" = '{}'"#, last["id"].as_str().unwrap()));
    create(&mut connection, "acme", "in its place").expect(201);
    assert_eq!(list(&mut connection, "acme").len(), 50);
}

fn the_mode_comes_from_the_environment(on: Server) {
    let full = |server: &Quickstart| {
        let mut connection = server.connect();
        set_quota(&mut connection, "acme", &json!({ "maxSegments": 2 }));
        create_all(&mut connection, "acme", names("row", 2));
        let config = connection.send("GET", ENFORCEMENT, "").expect(200).json();
        (create(&mut connection, "acme", "over"), config["mode"].clone(), config["source"].clone())
    };
    for (mode, status, warns) in
        [("off", 201, false), ("warn", 201, true), ("enforce", 429, false), ("strict", 429, false)]
    {
        let server = Quickstart::with(on, &[("QUOTA_ENFORCEMENT_MODE", mode)]);
        assert!(server.introduction.lines().next().unwrap().ends_with(&format!("mode {mode}")));
        let (answer, found, source) = full(&server);
        assert_eq!(
            (answer.status, found.as_str(), source.as_str()),
            (status, Some(mode), Some("environment")),
            "{answer}"
        );
        let warning = answer.header("quota-warning");
        assert_eq!(warning.is_some(), warns, "{mode}: {answer}");
        if let Some(warning) = warning {
            assert_eq!(warning, "\"segments\";usage=2;limit=2");
        }
        // What no rule maps.
        let mut connection = server.connect();
        let unmapped = connection.send("POST", "/api/workspaces/acme/widgets", &name("widget"));
        if mode == "strict" {
            let message = unmapped.refused(400, "INVALID_RESOURCE_TYPE");
            assert!(message.contains("strict") && message.contains("subscriptionGroups"), "{message}");
            connection.send("PUT", "/api/secrets", "{}").refused(400, "INVALID_RESOURCE_TYPE");
            connection.send("GET", "/api/secrets", "").expect(404);
            connection.send("DELETE", "/api/secrets", "").expect(404);
            connection.send("POST", "/apis", "{}").expect(404);
        } else {
            assert_eq!(unmapped.status, 404, "{unmapped}");
        }
        // Where nothing is left to warn of, nothing is said.
        connection.send("POST", "/api/workspaces/acme/journeys", &name("journey")).expect(201);
    }
    let server = Quickstart::start(on);
    let (answer, found, source) = full(&server);
    assert!(is_final(&answer));
    assert_eq!((found, source), (json!("enforce"), json!("default")));
}

#[test]
fn a_bad_mode_ends_the_process_and_says_what_to_write() {
    for bad in ["", "Enforce", "on", "strict ", "warn,strict"] {
        let folder = tempfile::tempdir().unwrap();
        let output =
            crate::process::command(&file(&folder.path().join("q.db")), &[("QUOTA_ENFORCEMENT_MODE", bad)]).output();
        let output = output.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{bad:?}: {errors}");
        for mode in ["off", "warn", "enforce", "strict", "QUOTA_ENFORCEMENT_MODE"] {
            assert!(errors.contains(mode), "{bad:?}: {errors}");
        }
        assert!(!String::from_utf8_lossy(&output.stdout).contains("listening"));
    }
}

fn the_mode_changes_at_run_time(on: Server) {
    let server = Quickstart::start(on);
    let mut connection = server.connect();
    let set = |mode: &str| {
        let answer = server.connect().send("PUT", ENFORCEMENT, &json!({ "mode": mode }).to_string()).expect(200);
        assert_eq!((&answer.json()["mode"], &answer.json()["source"]), (&json!(mode), &json!("runtime")));
    };
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 2 }));
    create_all(&mut connection, "acme", names("row", 1));
    // Rows that come to exist unseen are counted before anything is granted.
    set("off");
    create_all(&mut connection, "acme", names("unseen", 5));
    set("enforce");
    let refused = create(&mut connection, "acme", "refused");
    assert!(is_final(&refused));
    assert_eq!(refused.json()["details"]["currentUsage"], 6);
    set("warn");
    let warned = create(&mut connection, "acme", "warned").expect(201);
    assert_eq!(warned.header("quota-warning"), Some("\"segments\";usage=6;limit=2"));
    set("strict");
    assert!(is_final(&create(&mut connection, "acme", "refused")));
    connection.send("POST", "/api/unmapped", "{}").refused(400, "INVALID_RESOURCE_TYPE");
    set("enforce");
    connection.send("POST", "/api/unmapped", "{}").expect(404);
    // Members may not, and nonsense is refused with the four names.
    let mut member = server.anonymous().with_token(ACME);
    member.send("PUT", ENFORCEMENT, r#"{"mode": "off"}"#).refused(403, "INSUFFICIENT_PERMISSIONS");
    let message = connection.send("PUT", ENFORCEMENT, r#"{"mode": "on"}"#).refused(400, "INVALID_REQUEST");
    assert!(["off", "warn", "enforce", "strict"].iter().all(|mode| message.contains(mode)), "{message}");
    assert!(is_final(&create(&mut connection, "acme", "refused")));
}

everywhere!(
    the_introduction_keeps_its_word,
    all_eight_types_have_a_limit_of_their_own,
    an_upsert_is_charged_only_for_a_new_row,
    a_batch_is_charged_as_a_whole,
    concurrent_batches_are_never_admitted_in_part,
    who_may_not_is_not_charged,
    two_workspaces_in_one_request_are_refused,
    a_changed_limit_binds_at_once,
    a_limit_lowered_under_load_is_never_exceeded_again,
    a_limit_raised_under_load_is_used_up_to_the_last_unit,
    failed_creations_cost_nothing,
    a_deletion_frees_its_unit_at_once,
    the_mode_comes_from_the_environment,
    the_mode_changes_at_run_time,
);
