//! Processes that are killed in the midst of it: `examples/in_front.rs`, in front of an API that goes on.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Connection;
use crate::support::random::{Random, seed};
use crate::support::{example, postgres, until};
use crate::upstream::Upstream;

const LIMIT: usize = 100;
const SEGMENTS: &str = "/workspaces/acme/segments";

/// Killed when it is dropped.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(upstream: &Upstream, database: &str) -> Self {
        let mut child = Command::new(example("in_front"))
            .env_clear()
            .envs([("UPSTREAM_URL", upstream.url().as_str()), ("DATABASE_URL", database)])
            .envs([("ADMIN_TOKEN", "s3cret"), ("PORT", "0")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            panic!("it doesn't start: {line:?}");
        };
        thread::spawn(move || output.read_to_end(&mut Vec::new()));
        Self { child, address }
    }

    /// As by `kill -9`.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn admin(&self) -> Connection {
        Connection::open(self.address).unwrap().with_token("s3cret")
    }

    /// Rows by the ledger.
    fn tally(&self) -> u64 {
        let status = self.admin().send("GET", "/quota/workspaces/acme/quota", "").expect(200).json();
        status["usage"]["segments"].as_u64().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Creates and deletes until it is told to stop, at processes that come and go.
fn work(upstream: &Upstream, addresses: &[Mutex<SocketAddr>], stop: &AtomicBool, mut random: Random) {
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let address = *addresses[random.below(addresses.len())].lock().unwrap();
        let Ok(mut open) = connection.take().map_or_else(|| Connection::open(address), Ok) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let answer = match (random.below(5), upstream.rows.any("acme", "segments")) {
            (0 | 1, Some(id)) => open.try_send("DELETE", &format!("{SEGMENTS}/{id}"), ""),
            _ => open.try_send("POST", SEGMENTS, ""),
        };
        if let Ok(answer) = answer {
            assert!([201, 204, 404, 429, 502, 503].contains(&answer.status), "{answer}");
            // Now and then to another process.
            connection = (random.below(8) > 0).then_some(open);
        }
    }
}

fn storm(upstream: &Upstream, database: &str, processes: usize) {
    let mut running: Vec<_> = (0..processes).map(|_| Process::start(upstream, database)).collect();
    let limit = json!({"maxSegments": LIMIT}).to_string();
    running[0].admin().send("PUT", "/quota/workspaces/acme/quota", &limit).expect(200);
    let addresses: Vec<_> = running.iter().map(|process| Mutex::new(process.address)).collect();
    let (stop, seed) = (AtomicBool::new(false), seed());
    let made = || upstream.rows.made("acme", "segments");
    thread::scope(|scope| {
        for client in 0..8 {
            let (addresses, stop, random) = (&addresses, &stop, Random::new(seed, &[client]));
            scope.spawn(move || work(upstream, addresses, stop, random));
        }
        // Whatever happens, the others end.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        for round in 0..4 {
            let before = made();
            until("rows are made", || made() > before + 40);
            let which = round % processes;
            running[which].kill();
            running[which] = Process::start(upstream, database);
            *addresses[which].lock().unwrap() = running[which].address;
        }
        let before = made();
        until("rows are made after the last one", || made() > before + 10);
    });

    // Never one too many, by what the API itself has seen.
    let most = upstream.rows.most("acme", "segments");
    assert!(most <= LIMIT, "{most}");
    let there = upstream.rows.count("acme", "segments");
    until("all is told", || running.iter().all(|process| process.tally() >= there as u64));

    // What it believes in too many, an import corrects.
    let correct = json!({"rows": {"segments": there}, "reason": "counted"}).to_string();
    let mut admin = running[0].admin();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // Units of those that were killed may be given up only now.
        admin.send("PUT", "/quota/workspaces/acme/quota/tally", &correct).expect(200);
        let mut refused = 0;
        let here = upstream.rows.count("acme", "segments");
        for turn in here..LIMIT {
            let process = &running[turn % processes];
            let status = Connection::open(process.address).unwrap().send("POST", SEGMENTS, "").status;
            refused += usize::from(status != 201);
        }
        if refused == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "not all can be used: {refused}");
        for _ in here..upstream.rows.count("acme", "segments") {
            let id = upstream.rows.any("acme", "segments").unwrap();
            upstream.rows.remove("acme", "segments", &id);
        }
    }
    assert_eq!(upstream.rows.count("acme", "segments"), LIMIT);
    for process in &running {
        Connection::open(process.address).unwrap().send("POST", SEGMENTS, "").refused(429, "QUOTA_EXCEEDED");
    }
}

#[test]
fn one_process_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    storm(&Upstream::start(), &format!("sqlite://{}", folder.path().join("quota.db").display()), 1);
}

#[test]
fn two_processes_on_postgres() {
    storm(&Upstream::start(), &postgres::shared().database(), 2);
}
