//! A soak test: see `soak.sh`.
//!
//! Some workspaces keep their limit: none of them may ever have more rows than that, as the database itself notes at each
//! commit. The limits of the others change all the time: they may never have more than the highest. In the end each workspace
//! is filled up, and must have exactly as many rows as its limit: one less would be a unit that was lost.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what can't be set up has nothing to tell"
)]

mod gateway;
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../replicas/support.rs"]
mod support;
mod upstream;

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use self::gateway::Gateway;
use self::support::client::Connection;
use self::support::database::Database;
use self::support::postgres::{Durability, Server};
use self::support::random::Random;

const WORKSPACES: usize = 8;
/// So many of them keep their limit.
const STEADY: usize = 4;
const LIMIT: usize = 100;
const HIGHEST: usize = 150;
const GATEWAYS: usize = 3;
const CLIENTS: usize = 32;
const SECONDS: u64 = 600;
/// How many percent memory may have grown by, from the second quarter to the last, for an allocator's sake.
const SLACK: u64 = 10;

/// What the clients were told, by status; 0 for connections that broke off.
type Told = BTreeMap<u16, u64>;

/// What all threads share.
struct Soak {
    fronts: Vec<SocketAddr>,
    told: Mutex<Told>,
    /// Nanoseconds from one request of a client to its next; 0 for as many as it can make.
    pace: AtomicU64,
    asked: AtomicU64,
    over: AtomicBool,
}

fn main() -> ExitCode {
    // Not under `cargo test`, which doesn't say `--bench`.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let seconds = env::var("SOAK_SECONDS").map_or(SECONDS, |seconds| seconds.parse().expect("a number of seconds"));
    let server = Server::start(Durability::Full);
    let url = server.database();
    Database::postgres(&url).run(
        r#"CREATE TABLE "Segment" ("id" text PRIMARY KEY, "workspaceId" text NOT NULL);
           CREATE INDEX "byWorkspace" ON "Segment" ("workspaceId")"#
            .to_owned(),
    );
    Database::postgres(&url).watch("Segment");
    let (_runtime, upstream) = upstream::start(&url);
    let folder = tempfile::tempdir().unwrap();
    let start = |number| RwLock::new(Gateway::start(folder.path(), number, &url, upstream));
    let gateways: Vec<_> = (0..GATEWAYS).map(start).collect();
    for number in 0..WORKSPACES {
        set_limit(&gateways[0], number, LIMIT).expect("a limit");
    }

    let soak = Soak {
        fronts: gateways.iter().map(|gateway| gateway.read().unwrap().front).collect(),
        told: Mutex::default(),
        pace: AtomicU64::new(0),
        asked: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let seed = support::random::seed();
    let memory = thread::scope(|scope| {
        for number in 0..CLIENTS {
            let soak = &soak;
            scope.spawn(move || client(soak, Random::new(seed, &[number])));
        }
        // Not counted: connections and caches fill up.
        thread::sleep(Duration::from_secs(5));
        let most = rate(&soak, Duration::from_secs(10));
        let pace = most * 0.8;
        println!("at most {most:.0} requests/s; from now on {pace:.0}");
        let between = Duration::from_secs_f64(CLIENTS as f64 / pace);
        soak.pace.store(between.as_nanos().try_into().unwrap(), Ordering::Relaxed);
        soak.told.lock().unwrap().clear();
        let memory = trouble(&soak, &server, &gateways, Duration::from_secs(seconds), Random::new(seed, &[CLIENTS]));
        soak.over.store(true, Ordering::Relaxed);
        memory
    });
    let told = soak.told.lock().unwrap().clone();
    println!("answers by status, 0 for connections that broke off: {told:?}");
    verdict(&url, &gateways, &memory)
}

fn name(number: usize) -> String {
    format!("soak-{number}")
}

fn set_limit(gateway: &RwLock<Gateway>, number: usize, limit: usize) -> Option<()> {
    let path = format!("/api/workspaces/{}/quota", name(number));
    let body = format!(r#"{{"maxSegments": {limit}}}"#);
    let answer = gateway.read().unwrap().admin().try_send("PUT", &path, &body).ok()?;
    (answer.status == 200).then_some(())
}

/// Requests per second, as it goes now.
fn rate(soak: &Soak, during: Duration) -> f64 {
    let (before, begun) = (soak.asked.load(Ordering::Relaxed), Instant::now());
    thread::sleep(during);
    (soak.asked.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
}

/// One connection after the other, to any gateway: it creates, deletes, and asks for what no rule is for.
fn client(soak: &Soak, mut random: Random) {
    let mut connection: Option<Connection> = None;
    let mut next = Instant::now();
    while !soak.over.load(Ordering::Relaxed) {
        let pace = soak.pace.load(Ordering::Relaxed);
        if pace > 0 {
            next += Duration::from_nanos(pace);
            // What a restart has cost is not made up for.
            next = next.max(Instant::now() - Duration::from_secs(1));
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let segments = format!("/workspaces/{}/segments", name(random.below(WORKSPACES)));
        let (method, path) = match random.below(10) {
            0..5 => ("POST", segments.as_str()),
            5..8 => ("DELETE", segments.as_str()),
            _ => ("GET", "/health"),
        };
        let mut open = || Connection::open(*random.pick(&soak.fronts));
        let asked = connection.take().map_or_else(&mut open, Ok).and_then(|mut opened| {
            let answer = opened.try_send(method, path, "")?;
            Ok((answer, opened))
        });
        let status = match asked {
            Ok((answer, opened)) => {
                connection = Some(opened).filter(|_| answer.keeps_alive());
                answer.status
            }
            Err(_) => {
                thread::sleep(Duration::from_millis(20));
                0
            }
        };
        soak.asked.fetch_add(1, Ordering::Relaxed);
        *soak.told.lock().unwrap().entry(status).or_default() += 1;
    }
}

/// Changes limits and restarts what can be restarted, until the time is over. The first gateway stays: its memory is told, in
/// KiB, second by second.
fn trouble(
    soak: &Soak,
    server: &Server,
    gateways: &[RwLock<Gateway>],
    during: Duration,
    mut random: Random,
) -> Vec<u64> {
    let begun = Instant::now();
    let mut memory = Vec::new();
    let (mut changes, mut restarts, mut kills, mut databases) = (0, 0, 0, 0);
    for second in 1_u64.. {
        thread::sleep((begun + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        if begun.elapsed() >= during {
            break;
        }
        memory.push(gateways[0].read().unwrap().memory());
        let (number, limit) = (STEADY + random.below(WORKSPACES - STEADY), random.below(HIGHEST + 1));
        changes += usize::from(set_limit(&gateways[0], number, limit).is_some());
        if second % 20 == 0 {
            let kill = second % 60 == 0;
            let other = 1 + random.below(GATEWAYS - 1);
            gateways[other].write().unwrap().restart(kill);
            if kill { kills += 1 } else { restarts += 1 }
        }
        if second % 90 == 45 {
            server.restart_immediate();
            databases += 1;
        }
        if second % 60 == 0 {
            let asked = soak.asked.load(Ordering::Relaxed);
            println!("{second} s: {asked} requests, {} KiB, limits changed {changes} times", memory[memory.len() - 1]);
        }
    }
    println!(
        "{} s: limits changed {changes} times; gateways restarted {restarts} times and killed {kills} times; database crashed {databases} times",
        begun.elapsed().as_secs()
    );
    memory
}

/// Fills each workspace up, and tells how all of it ended.
fn verdict(url: &str, gateways: &[RwLock<Gateway>], memory: &[u64]) -> ExitCode {
    let mut database = Database::postgres(url);
    for number in STEADY..WORKSPACES {
        set_limit(&gateways[0], number, HIGHEST).expect("a limit");
    }
    let (mut over, mut lost) = (0, 0);
    for number in 0..WORKSPACES {
        let (workspace, limit) = (name(number), if number < STEADY { LIMIT } else { HIGHEST });
        let mut connection = Connection::open(gateways[number % GATEWAYS].read().unwrap().front).unwrap();
        let segments = format!("/workspaces/{workspace}/segments");
        // Units of gateways that were killed come back once no row can come of them any more.
        let deadline = Instant::now() + Duration::from_secs(60);
        while database.rows("Segment", &workspace) < limit as i64 && Instant::now() < deadline {
            if connection.send("POST", &segments, "").status != 201 {
                thread::sleep(Duration::from_millis(200));
            }
        }
        let refused = connection.send("POST", &segments, "").status;
        assert_eq!(refused, 429, "{workspace} is full");
        let (rows, peak) = (database.rows("Segment", &workspace), database.peak("Segment", &workspace));
        println!("{workspace}: limit {limit}, most rows ever {peak}, rows once it is filled up {rows}");
        over += (peak - limit as i64).max(0);
        lost += (limit as i64 - rows).max(0);
    }
    let held =
        || gateways.iter().map(|gateway| gateway.read().unwrap().metric("tower_quota_reserved_units")).sum::<f64>();
    // Gauges are brought up to date by the second.
    let deadline = Instant::now() + Duration::from_secs(15);
    while held() > 0.0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(200));
    }
    let held = held();
    let quarter = (memory.len() / 4).max(1);
    let mean = |of: &[u64]| of.iter().sum::<u64>() / of.len().max(1) as u64;
    let (early, late) =
        (mean(&memory[quarter..(2 * quarter).min(memory.len())]), mean(&memory[memory.len() - quarter..]));
    println!("rows over a limit: {over}");
    println!("units lost: {lost}; in flight at the end: {held}");
    println!(
        "memory of the gateway that was never restarted: {early} KiB in the second quarter, {late} KiB in the last"
    );
    let flat = late <= early + early * SLACK / 100;
    if over == 0 && lost == 0 && held == 0.0 && flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
