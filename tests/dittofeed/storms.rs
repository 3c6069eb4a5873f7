//! 64 connections at once, on two gateways: of each resource type as many rows as the limit says, and never one more.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::host::Stand;
use crate::rows::COUNTED;
use crate::support::client::together;
use crate::support::random::{Random, seed};
use crate::support::until;

const CONNECTIONS: usize = 64;

struct Storm {
    limit: &'static str,
    table: &'static str,
    counted: &'static str,
    path: &'static str,
    delete: Option<&'static str>,
}

const STORMS: [Storm; 6] = [
    Storm {
        limit: "maxSegments",
        table: "Segment",
        counted: COUNTED,
        path: "/api/segments",
        delete: Some("/api/segments"),
    },
    Storm {
        limit: "maxJourneys",
        table: "Journey",
        counted: COUNTED,
        path: "/api/admin/journeys",
        delete: Some("/api/journeys"),
    },
    Storm {
        limit: "maxBroadcasts",
        table: "Broadcast",
        counted: r#""archived" IS NOT TRUE"#,
        path: "/api/broadcasts/v2",
        delete: None,
    },
    Storm {
        limit: "maxComputedProperties",
        table: "UserProperty",
        counted: COUNTED,
        path: "/api/user-properties/",
        delete: Some("/api/user-properties"),
    },
    Storm {
        limit: "maxEmailTemplates",
        table: "MessageTemplate",
        counted: COUNTED,
        path: "/api/content/templates",
        delete: Some("/api/content/templates"),
    },
    Storm {
        limit: "maxSubscriptionGroups",
        table: "SubscriptionGroup",
        counted: "true",
        path: "/api/subscription-groups",
        delete: Some("/api/subscription-groups"),
    },
];

#[test]
fn as_many_creations_succeed_as_there_is_room_for() {
    const LIMIT: usize = 20;
    let seed = seed();
    let stand = Stand::start(seed, &[]);
    for (round, storm) in STORMS.iter().enumerate() {
        let workspace = stand.workspace(&[(storm.limit, LIMIT as u64)]);
        let answers = together(CONNECTIONS, seed, round, |thread, _| {
            let mut client = stand.connect(thread);
            [0, 1].map(|number| {
                let name = format!("{thread}-{number}");
                workspace.send(&mut client, "PUT", storm.path, &json!({"name": name})).status
            })
        });
        let answers: Vec<_> = answers.into_iter().flatten().collect();
        let created = answers.iter().filter(|status| **status == 200).count();
        assert!(answers.iter().all(|status| [200, 429].contains(status)), "{} {answers:?}", storm.table);
        assert_eq!((created, workspace.rows(storm.table, storm.counted)), (LIMIT, LIMIT as i64), "{}", storm.table);
    }
}

#[test]
fn creations_edits_and_deletions_at_once() {
    const LIMIT: i64 = 24;
    const STEPS: usize = 6;
    let seed = seed();
    let stand = Stand::start(seed, &[]);
    for (round, storm) in STORMS.iter().enumerate() {
        stand.database().watch_where(storm.table, storm.counted);
        let workspace = stand.workspace(&[(storm.limit, LIMIT as u64)]);
        let mut client = stand.connect(0);
        let kept: Vec<String> = (0..4).map(|number| format!("kept-{number}")).collect();
        for name in &kept {
            workspace.send(&mut client, "PUT", storm.path, &json!({"name": name})).expect(200);
        }
        let (created, deleted) = (AtomicUsize::new(0), AtomicUsize::new(0));
        together(CONNECTIONS, seed, round, |thread, random: &mut Random| {
            let mut client = stand.connect(thread);
            let mut own: Vec<String> = Vec::new();
            for step in 0..STEPS {
                match random.below(4) {
                    0 => {
                        let name = &kept[random.below(kept.len())];
                        // Whatever others are doing, an edit passes.
                        workspace.send(&mut client, "PUT", storm.path, &json!({"name": name})).expect(200);
                    }
                    1 if storm.delete.is_some() && !own.is_empty() => {
                        let (id, path) = (own.swap_remove(random.below(own.len())), storm.delete.unwrap());
                        workspace.send(&mut client, "DELETE", path, &json!({"id": id})).expect(204);
                        deleted.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {
                        let name = format!("{thread}-{step}");
                        let answer = workspace.send(&mut client, "PUT", storm.path, &json!({"name": name}));
                        if answer.status == 429 {
                            continue;
                        }
                        own.push(answer.expect(200).json()["id"].as_str().unwrap().to_owned());
                        created.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let rows = workspace.rows(storm.table, storm.counted);
        let expected = kept.len() + created.into_inner() - deleted.into_inner();
        assert_eq!(rows, i64::try_from(expected).unwrap(), "{}", storm.table);
        assert!(stand.database().peak(storm.table, &workspace.id) <= LIMIT, "{}", storm.table);
        // To the last unit, and no further.
        for number in rows..LIMIT {
            let body = json!({"name": format!("last-{number}")});
            until("there is room", || workspace.send(&mut client, "PUT", storm.path, &body).status == 200);
        }
        workspace.send(&mut client, "PUT", storm.path, &json!({"name": "more"})).refused(429, "QUOTA_EXCEEDED");
        assert_eq!(workspace.rows(storm.table, storm.counted), LIMIT);
    }
}

#[test]
fn flips_of_internal_rows_at_once() {
    let seed = seed();
    let stand = Stand::start(seed, &[]);
    for (round, storm) in
        STORMS.iter().filter(|storm| ["Segment", "MessageTemplate"].contains(&storm.table)).enumerate()
    {
        const LIMIT: usize = 10;
        stand.database().watch_where(storm.table, storm.counted);
        let workspace = stand.workspace(&[(storm.limit, LIMIT as u64)]);
        let mut client = stand.connect(0);
        for thread in 0..CONNECTIONS {
            let body = json!({"name": thread.to_string(), "resourceType": "Internal"});
            workspace.send(&mut client, "PUT", storm.path, &body).expect(200);
        }
        let flipped = together(CONNECTIONS, seed, round, |thread, _| {
            let body = json!({"name": thread.to_string(), "resourceType": "Declarative"});
            workspace.send(&mut stand.connect(thread), "PUT", storm.path, &body).status
        });
        assert_eq!(flipped.iter().filter(|status| **status == 200).count(), LIMIT, "{flipped:?}");
        assert_eq!(workspace.rows(storm.table, storm.counted), LIMIT as i64);
        assert!(stand.database().peak(storm.table, &workspace.id) <= LIMIT as i64);
    }
}

#[test]
fn users_come_from_everywhere_at_once() {
    const LIMIT: i64 = 40;
    let seed = seed();
    let stand = Stand::start(seed, &[]);
    let workspace = stand.workspace(&[("maxUsers", LIMIT as u64)]);
    let key = workspace.write_key();
    let headers = [("authorization", key.as_str())];
    let statuses = together(CONNECTIONS, seed, 0, |thread, random| {
        let mut client = stand.connect(thread);
        let mut statuses = Vec::new();
        for _ in 0..4 {
            // Some of them are the users of others, too.
            let mut user = || format!("u{}", random.below(120));
            let several = json!({"batch": [{"userId": user()}, {"anonymousId": user()}, {"type": "group", "userId": user(), "groupId": user()}]});
            let answer = match thread % 3 {
                0 => client.send("POST", "/api/public/apps/batch", &headers, &several.to_string()),
                1 => client.send("POST", "/api/public/apps/track", &headers, &json!({"userId": user()}).to_string()),
                _ => {
                    let body = json!({"userIds": [user(), user()]});
                    workspace.send(&mut client, "POST", "/api/segments/manual-segment/update", &body)
                }
            };
            statuses.push(answer.status);
        }
        statuses
    });
    assert!(statuses.iter().flatten().all(|status| [200, 204, 429].contains(status)), "{statuses:?}");
    assert!(workspace.rows("ColumnStoreUser", "true") <= LIMIT);
    let mut client = stand.connect(0);
    let mut track = |user: &str| {
        client.send("POST", "/api/public/apps/track", &headers, &json!({"userId": user}).to_string()).status
    };
    let mut number = 0;
    while workspace.rows("ColumnStoreUser", "true") < LIMIT {
        number += 1;
        until("there is room", || track(&format!("last-{number}")) == 204);
    }
    assert_eq!((track("more"), track("last-1").min(429)), (429, if number > 0 { 204 } else { 429 }));
    assert_eq!(workspace.rows("ColumnStoreUser", "true"), LIMIT);
}
