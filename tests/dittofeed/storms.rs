//! 64 connections at once, on two gateways: of each resource type as many rows as the limit says, and never one more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::host::{Client, Stand, Workspace};
use crate::rows::{COUNTED, UNARCHIVED};
use crate::support::client::together;
use crate::support::random::{Random, seed};
use crate::support::until;
use crate::users;

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
    Storm { limit: "maxBroadcasts", table: "Broadcast", counted: UNARCHIVED, path: "/api/broadcasts/v2", delete: None },
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
        stand.database().watch_where(storm.table, storm.counted);
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
        let rows = || usize::try_from(workspace.rows(storm.table, storm.counted)).unwrap();
        assert_eq!(rows(), created, "{}", storm.table);
        // On a busy machine the other gateway may hold the last units longer than a creation waits for them.
        let mut client = stand.connect(0);
        let mut create = |name: &str| workspace.send(&mut client, "PUT", storm.path, &json!({"name": name})).status;
        for number in created..LIMIT {
            until("there is room", || create(&format!("last-{number}")) == 200);
        }
        assert_eq!((rows(), create("more")), (LIMIT, 429), "{}", storm.table);
        assert!(stand.database().peak(storm.table, &workspace.id) <= LIMIT as i64, "{}", storm.table);
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

/// Sends what makes the rows of a name, and says how it was answered.
type Sender<'w> = Box<dyn Fn(&mut Client, &str) -> u16 + Sync + 'w>;

/// Another way to make what counts than the plain upsert.
struct Way<'w> {
    name: &'static str,
    table: &'static str,
    counted: &'static str,
    /// How many rows of a name come at once, all or none.
    units: usize,
    /// Whether the same name is an edit from then on, which costs nothing.
    edits: bool,
    send: Sender<'w>,
}

impl<'w> Way<'w> {
    const LIMIT: usize = 20;

    fn of_users(name: &'static str, units: usize, send: impl Fn(&mut Client, &str) -> u16 + Sync + 'w) -> Self {
        Self { name, table: users::TABLE, counted: "true", units, edits: true, send: Box::new(send) }
    }

    /// As many as there is room for come into being, whatever else is in the workspace; and edits pass all the while.
    fn storm(&self, stand: &Stand, workspace: &Workspace<'_>, seed: u64, round: usize) {
        let (table, way) = (self.table, self.name);
        stand.database().watch_where(table, self.counted);
        let mut client = stand.connect(0);
        let passed = |status: u16| [200, 204].contains(&status);
        if self.edits {
            assert!(passed((self.send)(&mut client, "kept")), "{way}");
        }
        let before = usize::try_from(workspace.rows(table, self.counted)).unwrap();
        let answers = together(CONNECTIONS, seed, round, |thread, _| {
            let mut client = stand.connect(thread);
            [0, 1].map(|number| {
                let status = (self.send)(&mut client, &format!("{thread}-{number}"));
                if self.edits {
                    let edited = (self.send)(&mut client, "kept");
                    assert!(passed(edited), "{way}: an edit was answered with {edited}");
                }
                status
            })
        });
        let answers: Vec<_> = answers.into_iter().flatten().collect();
        assert!(answers.iter().all(|status| passed(*status) || *status == 429), "{way} {answers:?}");
        let created = answers.iter().filter(|status| passed(**status)).count() * self.units;
        let rows = || usize::try_from(workspace.rows(table, self.counted)).unwrap();
        assert_eq!(rows(), before + created, "{way}");
        // On a busy machine the last units may be held, by an edit or by the other gateway, longer than a creation waits.
        for number in (rows()..Self::LIMIT).step_by(self.units) {
            until("there is room", || passed((self.send)(&mut client, &format!("last-{number}"))));
        }
        assert_eq!((rows(), (self.send)(&mut client, "more")), (Self::LIMIT, 429), "{way}");
        assert!(stand.database().peak(table, &workspace.id) <= Self::LIMIT as i64, "{way}");
    }
}

/// The limits of a workspace that has room for [`Way::LIMIT`] rows of one type, and for none of any other.
fn only(limit: &str) -> Vec<(&str, u64)> {
    let all = STORMS.iter().map(|storm| storm.limit).chain(["maxUsers"]);
    all.map(|other| (other, if other == limit { Way::LIMIT as u64 } else { 0 })).collect()
}

#[test]
fn copies_are_made_at_once() {
    let seed = seed();
    let stand = Stand::start(seed, &[]);
    for (round, storm) in STORMS.iter().enumerate() {
        let workspace = stand.workspace(&only(storm.limit));
        let original = json!({"name": "original"});
        workspace.send(&mut stand.connect(1), "PUT", storm.path, &original).expect(200);
        let copy = json!({"name": "original", "resourceType": storm.table});
        let way = Way {
            name: storm.table,
            table: storm.table,
            counted: storm.counted,
            units: 1,
            edits: false,
            send: Box::new(|client, _| workspace.send(client, "POST", "/api/resources/duplicate", &copy).status),
        };
        way.storm(&stand, &workspace, seed, round);
    }
}

#[test]
fn templates_are_reset_and_broadcasts_are_executed_and_unarchived_at_once() {
    let seed = seed();
    let stand = Stand::start(seed, &[]);

    let workspace = stand.workspace(&only("maxEmailTemplates"));
    let reset = Way {
        name: "reset",
        table: "MessageTemplate",
        counted: COUNTED,
        units: 1,
        edits: true,
        send: Box::new(|client, name| {
            workspace.send(client, "PUT", "/api/content/templates/reset", &json!({"name": name})).status
        }),
    };
    reset.storm(&stand, &workspace, seed, 0);

    // What comes with a broadcast is Internal, and there is no room for others.
    let workspace = stand.workspace(&only("maxBroadcasts"));
    let execute = Way {
        name: "execute",
        table: "Broadcast",
        counted: UNARCHIVED,
        units: 1,
        edits: false,
        send: Box::new(|client, name| {
            let mount = if name.ends_with('0') { "/api" } else { "/api/admin" };
            let body = json!({"broadcastName": name});
            workspace.send(client, "POST", &format!("{mount}/broadcasts/execute"), &body).status
        }),
    };
    execute.storm(&stand, &workspace, seed, 1);
    assert_eq!(workspace.rows("Journey", "true"), Way::LIMIT as i64);

    let workspace = stand.workspace(&only("maxBroadcasts"));
    let names = (0..CONNECTIONS).flat_map(|thread| [0, 1].map(|number| format!("{thread}-{number}")));
    let spare = (0..Way::LIMIT).map(|number| format!("last-{number}"));
    let names = names.chain(spare).chain(["kept".to_owned(), "more".to_owned()]);
    let archived = archived(&stand, &workspace, names);
    let unarchive = Way {
        name: "unarchive",
        table: "Broadcast",
        counted: UNARCHIVED,
        units: 1,
        edits: true,
        send: Box::new(|client, name| archive(&workspace, client, &archived[name], false)),
    };
    unarchive.storm(&stand, &workspace, seed, 2);
}

/// Makes archived broadcasts, and tells their ids by their names.
fn archived(stand: &Stand, workspace: &Workspace<'_>, names: impl Iterator<Item = String>) -> BTreeMap<String, String> {
    let ids: BTreeMap<_, _> = names.map(|name| (name, stand.uuid())).collect();
    let rows = ids.iter().map(|(name, id)| format!("('{id}', '{}', '{name}', true)", workspace.id));
    let rows = rows.collect::<Vec<_>>().join(", ");
    stand.database().run(format!(r#"INSERT INTO "Broadcast" ("id", "workspaceId", "name", "archived") VALUES {rows}"#));
    ids
}

fn archive(workspace: &Workspace<'_>, client: &mut Client, id: &str, archived: bool) -> u16 {
    let body = json!({"broadcastId": id, "archived": archived});
    workspace.send(client, "PUT", "/api/broadcasts/archive", &body).status
}

#[test]
fn broadcasts_are_archived_and_unarchived_at_once() {
    const LIMIT: i64 = 10;
    const STEPS: usize = 6;
    let seed = seed();
    let stand = Stand::start(seed, &[]);
    stand.database().watch_where("Broadcast", UNARCHIVED);
    let workspace = stand.workspace(&[("maxBroadcasts", LIMIT as u64)]);
    let ids = archived(&stand, &workspace, (0..40).map(|number| number.to_string()));
    let ids: Vec<_> = ids.into_values().collect();
    let unarchived = together(CONNECTIONS, seed, 0, |thread, random| {
        let mut client = stand.connect(thread);
        let mut unarchived = 0;
        for _ in 0..STEPS {
            let id = random.pick(&ids);
            if random.below(3) == 0 {
                assert_eq!(archive(&workspace, &mut client, id, true), 200);
                continue;
            }
            match archive(&workspace, &mut client, id, false) {
                200 => unarchived += 1,
                status => assert_eq!(status, 429),
            }
        }
        unarchived
    });
    assert!(unarchived.iter().sum::<usize>() > 0);
    assert!(workspace.rows("Broadcast", UNARCHIVED) <= LIMIT);
    // To the last unit, and no further.
    let mut client = stand.connect(0);
    let mut left = stand.database().texts(
        r#"SELECT "id"::text FROM "Broadcast" WHERE "workspaceId" = $1::uuid AND "archived""#.to_owned(),
        &workspace.id,
    );
    while workspace.rows("Broadcast", UNARCHIVED) < LIMIT {
        let id = left.pop().unwrap();
        until("there is room", || archive(&workspace, &mut client, &id, false) == 200);
    }
    for id in left {
        assert_eq!(archive(&workspace, &mut client, &id, false), 429);
    }
    assert_eq!(workspace.rows("Broadcast", UNARCHIVED), LIMIT);
    assert!(stand.database().peak("Broadcast", &workspace.id) <= LIMIT);
}

#[test]
fn users_come_by_each_way_at_once() {
    let seed = seed();
    let stand = Stand::start(seed, &[]);

    let workspace = stand.workspace(&only("maxUsers"));
    let assignments = Way::of_users("assignments", 2, |client, name| {
        let method = if name.ends_with('0') { "POST" } else { "PUT" };
        let both = [name.to_owned(), format!("{name} too")].map(|user| json!({"userId": user, "changes": {}}));
        let body = json!({"userUpdates": both});
        workspace.send(client, method, "/api/subscription-groups/assignments", &body).status
    });
    assignments.storm(&stand, &workspace, seed, 0);

    let workspace = stand.workspace(&only("maxUsers"));
    workspace.take_webhooks();
    let webhook = Way::of_users("webhook", 1, |client, name| {
        let mount = if name.ends_with('0') { "/api" } else { "/api/public" };
        let body = json!({"type": "track", "messageId": name, "userId": null, "anonymousId": name});
        workspace.webhook(client, &format!("{mount}/webhooks/segment"), &body.to_string()).status
    });
    webhook.storm(&stand, &workspace, seed, 1);

    let workspace = stand.workspace(&only("maxUsers"));
    let key = workspace.write_key();
    let group = Way::of_users("group", 2, |client, name| {
        let mount = if name.ends_with('0') { "/api" } else { "/api/admin" };
        let body = json!({"userId": name, "groupId": format!("group of {name}")});
        users::post(client, &format!("{mount}/public/apps/group"), &key, &body).status
    });
    group.storm(&stand, &workspace, seed, 2);
}

#[test]
fn files_are_uploaded_at_once() {
    const LIMIT: i64 = 40;
    let seed = seed();
    let stand = Stand::start(seed, &[]);
    stand.database().watch_where(users::TABLE, "true");
    let workspace = stand.workspace(&[("maxUsers", LIMIT as u64)]);
    let key = workspace.write_key();
    let uploaded = together(CONNECTIONS, seed, 0, |thread, random| {
        let mut client = stand.connect(thread);
        let mut uploaded = Vec::new();
        for file in 0..2 {
            let users: Vec<_> = (0..=random.below(4)).map(|user| format!("{thread}-{file}-{user}")).collect();
            let path = random.pick(&["/api/segments/upload-csv", "/api/subscription-groups/upload-csv"]);
            match users::upload(&mut client, &workspace, path, &users).status {
                200 => uploaded.extend(users),
                status => assert_eq!(status, 429),
            }
        }
        uploaded
    });
    // Whoever was let in is there in the end, and nobody else.
    let uploaded = uploaded.into_iter().flatten().count() as i64;
    assert!(0 < uploaded && uploaded <= LIMIT, "{uploaded}");
    until("the files are imported", || workspace.rows(users::TABLE, "true") == uploaded);
    // Once the units of their frames are free again, to the last unit and no further.
    let mut client = stand.connect(0);
    let mut identify = |user: &str| users::event(&mut client, "identify", &key, &json!({"userId": user})).status;
    for number in uploaded..LIMIT {
        until("there is room", || identify(&format!("last-{number}")) == 204);
    }
    assert_eq!(identify("more"), 429);
    assert_eq!(workspace.rows(users::TABLE, "true"), LIMIT);
    assert!(stand.database().peak(users::TABLE, &workspace.id) <= LIMIT);
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
            let several = json!({"batch": [
                {"type": "track", "userId": user()},
                {"type": "page", "anonymousId": user()},
                {"type": "group", "userId": user(), "groupId": user()},
            ]});
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
