//! Creations over HTTP, at two replicas.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tower_quota::{Expect, Limit, LimitSet};

use crate::host::{LARGE, Replica};
use crate::rounds::{Pace, Ratios, Rounds, Variant};
use crate::support::client::{Connection, request, together};
use crate::support::database::Database;

const VARIANTS: [&str; 7] = ["insert_only", "naive", "fused", "three_commits", "ours", "ours_in_one", "ours_unfenced"];
const CONNECTIONS: usize = 16;
const WORKSPACES: u64 = 64;
/// A fifth of a second for each variant in a round.
const PACE: Pace = Pace { rounds: 40, batch: 1024 };
/// How many workspaces are filled by more requests than their limit.
const STORMS: usize = 5;
const STORM_LIMIT: u32 = 50;

/// Connections to all replicas in turn, which are kept open.
struct Clients(Vec<Mutex<Connection>>);

impl Clients {
    fn connect(replicas: &[Replica]) -> Self {
        let addresses = replicas.iter().map(|replica| replica.address).cycle().take(CONNECTIONS);
        Self(addresses.map(|address| Mutex::new(Connection::open(address).unwrap())).collect())
    }

    /// The statuses of so many requests, and the time for them.
    fn send(&self, requests: u64, path: impl Fn(u64) -> String + Sync) -> (BTreeMap<u16, u64>, Duration) {
        let next = AtomicU64::new(0);
        let start = Instant::now();
        let statuses = together(CONNECTIONS, 0, 0, |number, _| {
            let mut connection = self.0[number].lock().unwrap();
            let mut statuses = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return statuses;
                }
                connection.send_raw(&request("POST", &path(number), None, &[], "")).unwrap();
                statuses.push(connection.read().unwrap().status);
            }
        });
        let time = start.elapsed();
        let mut tally = BTreeMap::new();
        for status in statuses.into_iter().flatten() {
            *tally.entry(status).or_default() += 1;
        }
        (tally, time)
    }
}

pub(crate) fn ratios(url: &str, replicas: &[Replica], ratios: &mut Ratios) {
    let mut database = Database::postgres(url);
    let clients = Rc::new(Clients::connect(replicas));
    let mut variants: Vec<_> = VARIANTS.into_iter().map(|name| variant(&mut database, &clients, name)).collect();
    let rounds = Rounds::of(&mut variants, PACE);
    println!(
        "\ncreations over HTTP, {CONNECTIONS} connections, {WORKSPACES} workspaces: per second, median of {} rounds",
        PACE.rounds
    );
    for name in VARIANTS {
        println!("  {name:<14} {:>9.0}", 1e9 / rounds.median(name));
    }
    for name in &VARIANTS[1..] {
        ratios.push(format!("{name}_vs_insert_only"), 1.0 / rounds.ratio(name, "insert_only"));
    }
    storms(&mut database, &clients, &replicas[0]);
}

fn variant(database: &mut Database, clients: &Rc<Clients>, name: &'static str) -> Variant {
    let workspaces = format!("generate_series(0, {}) AS n", WORKSPACES - 1);
    database.run(format!(r#"INSERT INTO "Counter" SELECT '{name}-' || n FROM {workspaces}"#));
    let clients = Rc::clone(clients);
    let mut sent = 0;
    Variant::new(name, move |requests| {
        let first = sent;
        sent += requests;
        let path = |number| format!("/{name}/{LARGE}/{name}-{}", (first + number) % WORKSPACES);
        let (tally, time) = clients.send(requests, path);
        assert_eq!(tally, BTreeMap::from([(201, requests)]), "{name}");
        time
    })
}

/// How many rows come to exist at a limit, when twice as many requests come at once.
fn storms(database: &mut Database, clients: &Clients, replica: &Replica) {
    println!("\nrows at a limit of {STORM_LIMIT}, when {} requests come at once:", 4 * STORM_LIMIT);
    for name in ["naive", "fused", "ours", "ours_in_one"] {
        let rows = (0..STORMS).map(|storm| {
            let workspace = format!("{name}-storm-{storm}");
            database.run(format!(r#"INSERT INTO "Counter" VALUES ('{workspace}')"#));
            if name.starts_with("ours") {
                limit(replica, &workspace, STORM_LIMIT);
            }
            clients.send(4 * u64::from(STORM_LIMIT), |_| format!("/{name}/{STORM_LIMIT}/{workspace}"));
            database.rows("Segment", &workspace)
        });
        let rows: Vec<_> = rows.collect();
        println!("  {name:<14} {rows:?}");
        assert!(name == "naive" || rows.iter().all(|rows| *rows == i64::from(STORM_LIMIT)), "{name} is not exact");
    }
}

pub(crate) fn limit(replica: &Replica, workspace: &str, limit: u32) {
    let workspace = replica.quota.workspace(workspace).unwrap();
    let segments = replica.quota.catalog().by_name("segments").unwrap().id();
    let changes = LimitSet::new().with(segments, Limit::of(limit));
    replica.runtime.block_on(replica.quota.update_limits(&workspace, &changes, &Expect::Anything)).unwrap();
}
