//! Notices of limits that come near, while those who tell of them are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::fleet::Addresses;
use crate::support::client::Connection;
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::quickstart::{ADMIN, Quickstart, file, is_final_among_others, name, set_quota};
use crate::support::random::{Random, seed};
use crate::support::receiver::{Receiver, Reply};
use crate::support::{smtp, until};

/// A process that may send webhooks to this machine. What it is told of proxies is not to be listened to.
fn start(url: &str) -> Quickstart {
    let proxy = "http://127.0.0.1:1";
    let variables = [
        ("QUOTA_ENFORCEMENT_MODE", "strict"),
        ("QUOTA_WEBHOOK_NETWORKS", "127.0.0.0/8"),
        ("RUST_LOG", "off"),
        ("http_proxy", proxy),
        ("HTTP_PROXY", proxy),
        ("ALL_PROXY", proxy),
    ];
    Quickstart::on(url, &variables)
}

/// Somebody who is told of everything.
struct Told {
    _runtime: Runtime,
    receiver: Receiver,
    secret: String,
}

impl Told {
    fn by(server: &Quickstart) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let receiver = runtime.block_on(Receiver::start());
        let endpoint = json!({ "url": receiver.url }).to_string();
        let made = server.connect().send("POST", "/api/system/webhooks", &endpoint).expect(201).json();
        Self { _runtime: runtime, receiver, secret: made["webhook"]["secret"].as_str().unwrap().to_owned() }
    }

    /// The ids by which it was told of each threshold, of which each was signed.
    fn ids(&self) -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut ids = BTreeMap::<_, BTreeSet<_>>::new();
        for request in self.receiver.requests() {
            request.verify(&[&self.secret]);
            let body = request.body();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let key = (text(&body["workspace_id"]), text(&body["data"]["threshold"]));
            ids.entry(key).or_default().insert(request.header("webhook-id"));
        }
        ids
    }

    /// What it was told of a workspace, in order and each thing once: rows and threshold.
    fn of(&self, workspace: &str) -> Vec<(u64, String)> {
        let mut told = Vec::new();
        for body in self.receiver.bodies().iter().filter(|body| body["workspace_id"] == workspace) {
            let data = &body["data"];
            let one = (data["current_usage"].as_u64().unwrap(), data["threshold"].as_str().unwrap().to_owned());
            if !told.contains(&one) {
                told.push(one);
            }
        }
        told
    }
}

fn all_at(rows: u64) -> [(u64, String); 3] {
    ["warning", "critical", "exceeded"].map(|threshold| (rows, threshold.to_owned()))
}

fn count(database: &mut Database, of: &str) -> i64 {
    // The query has a parameter, and no use for it.
    database.number(format!(r#"SELECT count(*) FROM {of} AND $1 = '' "#), "")
}

/// What is told when a lease of a dead worker has to end first.
fn until_late(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes rows of a workspace until there are as many as its limit allows, whoever of the processes is there.
fn fill(addresses: &Addresses, workspace: &str, random: &mut Random, answered: &AtomicUsize) {
    let path = format!("/api/workspaces/{workspace}/subscription-groups");
    let mut connection: Option<(SocketAddr, Connection)> = None;
    for at in 0.. {
        let address = addresses.at(random.below(2));
        let open = connection.take().filter(|(to, _)| *to == address).map(|(_, open)| open);
        let Some(mut open) = open.or_else(|| Connection::open(address).ok()) else {
            // Nobody listens there at present.
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        open = open.with_token(ADMIN);
        let Ok(answer) = open.try_send("POST", &path, &name(&format!("{at}"))) else { continue };
        answered.fetch_add(1, Ordering::Relaxed);
        match answer.status {
            201 => {}
            429 if is_final_among_others(&answer) => return,
            // Units of a process that was killed come back a little later.
            429 | 500 | 503 => thread::sleep(Duration::from_millis(5)),
            _ => panic!("{answer}"),
        }
        connection = Some((address, open));
    }
}

#[test]
fn processes_that_are_killed_in_a_storm_lose_no_notice_and_tell_none_by_two_names() {
    const KILLS: usize = 8;
    const FILLERS: usize = 6;
    let seed = seed();
    let url = shared().database();
    let mut servers = [start(&url), start(&url)];
    let told = Told::by(&servers[0]);
    told.receiver.take(Duration::from_millis(3));
    let addresses = Addresses::of(&servers);
    let (next, answered, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let (mut database, mut random) = (Database::postgres(&url), Random::new(seed, &[KILLS]));
    let workspaces = thread::scope(|scope| {
        for filler in 0..FILLERS {
            let (next, answered, over, addresses) = (&next, &answered, &over, &addresses);
            scope.spawn(move || {
                let mut random = Random::new(seed, &[KILLS, filler]);
                while !over.load(Ordering::Relaxed) {
                    let workspace = format!("storm-{}", next.fetch_add(1, Ordering::Relaxed));
                    fill(addresses, &workspace, &mut random, answered);
                }
            });
        }
        for kill in 0..KILLS {
            match kill % 3 {
                0 => until("rows near their limit that nobody has told of", || {
                    count(
                        &mut database,
                        r#"(SELECT "workspaceId" FROM "SubscriptionGroup" GROUP BY 1 HAVING count(*) >= 9) s WHERE NOT EXISTS
                           (SELECT FROM "QuotaNotice" n WHERE n."workspaceId" = s."workspaceId")"#,
                    ) > 0
                }),
                1 => until("a delivery that somebody is at", || {
                    count(&mut database, r#""QuotaDelivery" WHERE "status" = 'pending' AND "claim" <> ''"#) > 0
                }),
                _ => {
                    let enough = answered.load(Ordering::Relaxed) + random.below(200);
                    until("a moment of no meaning", || answered.load(Ordering::Relaxed) >= enough);
                }
            }
            // One of them, or both, so that nobody is there who has seen what they did.
            let dying = if kill % 4 == 3 { 0..2 } else { [0..1, 1..2][random.below(2)].clone() };
            servers[dying.clone()].iter_mut().for_each(Quickstart::kill);
            for place in dying {
                servers[place] = start(&url);
                addresses.replace(place, &servers[place]);
            }
        }
        over.store(true, Ordering::Relaxed);
        next.load(Ordering::Relaxed)
    });
    // Whoever has begun one fills it to its end, and nobody asks for anything from then on.
    let workspaces = next.load(Ordering::Relaxed).max(workspaces);
    let notices = i64::try_from(3 * workspaces).unwrap();
    until_late("all are told of", || count(&mut database, r#""QuotaNotice" WHERE true"#) == notices);
    until_late("all are delivered", || {
        count(&mut database, r#""QuotaDelivery" WHERE "status" = 'delivered'"#) == notices
    });
    let ids = told.ids();
    println!("{workspaces} workspaces, {} requests", told.receiver.requests().len());
    assert_eq!(i64::try_from(ids.len()).unwrap(), notices);
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    let different: BTreeSet<_> = ids.values().flatten().collect();
    assert_eq!(different.len(), ids.len());
    assert_eq!(count(&mut database, r#""QuotaNotice" WHERE true"#), notices);
}

/// A batch that goes from 10 to 100 % in one request, whose process is killed as soon as it has answered.
fn a_batch_whose_process_is_killed(url: &str) {
    let mut server = start(url);
    let told = Told::by(&server);
    let mut connection = server.connect();
    set_quota(&mut connection, "acme", &json!({ "maxUsers": 20 }));
    let users = |from: usize, to: usize| {
        let users: Vec<_> = (from..to).map(|at| json!({ "name": format!("user {at}") })).collect();
        json!({ "users": users }).to_string()
    };
    let path = "/api/workspaces/acme/users/batch";
    connection.send("POST", path, &users(0, 2)).expect(201);
    connection.send("POST", path, &users(2, 20)).expect(201);
    server.kill();
    // Nobody asks the next one for anything of the workspace.
    let _server = start(url);
    until("all three are told", || told.receiver.bodies().len() >= 3);
    assert_eq!(told.of("acme"), all_at(20));
    assert!(told.ids().values().all(|ids| ids.len() == 1), "{:?}", told.ids());
}

#[test]
fn a_batch_whose_process_is_killed_at_once_is_told_of_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    a_batch_whose_process_is_killed(&file(&folder.path().join("quickstart.db")));
}

#[test]
fn a_batch_whose_process_is_killed_at_once_is_told_of_on_postgres() {
    a_batch_whose_process_is_killed(&shared().database());
}

#[test]
fn what_a_process_was_delivering_when_it_was_killed_is_delivered_by_another() {
    let url = shared().database();
    let mut server = start(&url);
    let told = Told::by(&server);
    told.receiver.answer([Reply::Hang]);
    let mut connection = server.connect();
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 1 }));
    connection.send("POST", "/api/workspaces/acme/segments", &name("the only one")).expect(201);
    until("it is being delivered", || told.receiver.bodies().len() == 1);
    server.kill();
    let _another = start(&url);
    let mut database = Database::postgres(&url);
    until_late("all are delivered", || count(&mut database, r#""QuotaDelivery" WHERE "status" = 'delivered'"#) == 3);
    assert_eq!(told.of("acme"), all_at(1));
    assert_eq!(told.receiver.requests().len(), 4);
    assert!(told.ids().values().all(|ids| ids.len() == 1), "{:?}", told.ids());
}

#[test]
fn admins_are_written_to_by_a_process() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut mails = runtime.block_on(smtp::Server::start(json!({})));
    let smtp_url = format!("smtp://localhost:{}", mails.port);
    let url = shared().database();
    let server = Quickstart::on(&url, &[("QUOTA_SMTP_URL", smtp_url.as_str()), ("RUST_LOG", "off")]);
    let mut connection = server.connect();
    let contacts = "/api/workspaces/acme/quota/contacts";
    connection.send("PUT", contacts, &json!({ "emails": ["ada@example.com"] }).to_string()).expect(200);
    set_quota(&mut connection, "acme", &json!({ "maxSegments": 1 }));
    connection.send("POST", "/api/workspaces/acme/segments", &name("the only one")).expect(201);
    let subjects = ["critical", "exceeded"]
        .map(|threshold| format!("Segment quota {threshold} in workspace acme: 1 of 1 (100 %)"));
    for subject in subjects {
        let mail = runtime.block_on(mails.received());
        assert_eq!(mail.headers("subject"), [subject]);
        assert_eq!(mail.to, ["ada@example.com"]);
        assert_eq!(mail.from, "quotas@example.com");
    }
}
