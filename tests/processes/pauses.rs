//! Processes that stand still for longer than their units are theirs, and then go on as if nothing had happened.

use std::env;
use std::io::{BufRead, BufReader, Read, stdin};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::fleet::{
    all_can_be_used, hold_commits, let_commits_go, limit, make_commits_wait, send, start, start_one, waiting,
};
use crate::support::client::Connection;
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::proxy::{Mode, Proxy};
use crate::support::quickstart::{create, create_all, is_final_among_others, signal};
use crate::support::replica::{self, Replica};
use crate::support::until;

const LIMIT: i64 = 12;
const BEFORE: usize = 4;
const MEANWHILE: usize = 3;

#[test]
fn a_process_that_stands_still_makes_no_row_too_many_where_its_transactions_fence() {
    let url = shared().database();
    let (others, mut database) = start(&url, 1);
    let proxy = Proxy::start(shared().socket());
    let paused = start_one(&proxy.url(&url));
    // Where requests are when their process stops: not yet in a transaction; in one that fenced, and has no row yet; in
    // one that is committed without its knowing.
    let workspaces = ["admitted", "fenced", "committed"];
    for workspace in workspaces {
        limit(&others[0], workspace, LIMIT);
        create_all(&mut paused.connect(), workspace, (0..BEFORE).map(|at| format!("before {at}")));
    }
    let meanwhile = i64::try_from(MEANWHILE).unwrap();

    let mut gate = Database::postgres(&url);
    make_commits_wait(&mut gate, "Segment", "committed");
    hold_commits(&mut gate);
    let committed = send(&paused, "committed", MEANWHILE, "meanwhile");
    until("all commits wait", || waiting(&mut database, "COMMIT") == meanwhile);
    // Names are unique: whoever wants one that is not committed yet waits for its fate.
    let mut names = Database::postgres(&url);
    let taken = |at| format!("('by the test {at}', 'fenced', 'meanwhile {at}')");
    let taken: Vec<_> = (0..MEANWHILE).map(taken).collect();
    names.run(format!(r#"BEGIN; INSERT INTO "Segment" VALUES {}"#, taken.join(", ")));
    let fenced = send(&paused, "fenced", MEANWHILE, "meanwhile");
    until("all inserts wait", || waiting(&mut database, r#"INSERT INTO "Segment"%"#) == meanwhile);
    proxy.set_for(Mode::Delay, b"BEGIN\0");
    let admitted = send(&paused, "admitted", MEANWHILE, "meanwhile");
    until("all transactions are about to begin", || proxy.caught() == MEANWHILE);

    paused.signal("STOP");
    let_commits_go(&mut gate);
    names.run("ROLLBACK".to_owned());
    // The others get all of its units.
    for workspace in workspaces {
        all_can_be_used(&others, &mut database, workspace, LIMIT);
    }
    paused.signal("CONT");
    proxy.set(Mode::Pass);
    for (requests, status) in [(admitted, 500), (fenced, 500), (committed, 201)] {
        for mut connection in requests {
            connection.read().unwrap().expect(status);
        }
    }
    for workspace in workspaces {
        assert_eq!(database.rows("Segment", workspace), LIMIT);
        assert_eq!(database.peak("Segment", workspace), LIMIT);
    }
    // It takes part again.
    database.run(r#"DELETE FROM "Segment" WHERE "name" LIKE 'before %'"#.to_owned());
    let mut connection = paused.connect();
    until("it serves again", || create(&mut connection, "admitted", "by the one that stood still").status == 201);
}

#[test]
fn a_process_that_stands_still_makes_no_row_above_a_limit_that_was_lowered_meanwhile() {
    let url = shared().database();
    let (others, mut database) = start(&url, 1);
    let proxy = Proxy::start(shared().socket());
    let paused = start_one(&proxy.url(&url));
    limit(&others[0], "lowered", LIMIT);
    create_all(&mut paused.connect(), "lowered", (0..BEFORE).map(|at| format!("before {at}")));
    proxy.set_for(Mode::Delay, b"BEGIN\0");
    let admitted = send(&paused, "lowered", MEANWHILE, "meanwhile");
    until("all transactions are about to begin", || proxy.caught() == MEANWHILE);
    paused.signal("STOP");
    // It is answered while the one that stands still could go on as if nothing had happened.
    let before = i64::try_from(BEFORE).unwrap();
    limit(&others[0], "lowered", before - 1);
    paused.signal("CONT");
    proxy.set(Mode::Pass);
    for mut connection in admitted {
        connection.read().unwrap().expect(500);
    }
    let mut connection = paused.connect();
    for at in 0..10 {
        let answer = create(&mut connection, "lowered", &format!("after {at}"));
        assert!([429, 500, 503].contains(&answer.status), "{answer}");
    }
    assert_eq!(database.rows("Segment", "lowered"), before);
}

/// The test's own binary again, as a process whose handlers don't fence. Killed when it is dropped.
struct Unfenced {
    process: Child,
    address: SocketAddr,
}

const DATABASE: &str = "TEST_UNFENCED_DATABASE";

#[test]
#[ignore = "it is the process that another test starts"]
fn unfenced_host() {
    let Ok(url) = env::var(DATABASE) else { return };
    let host = Replica::unfenced(&url, &url, |books| books.longest_handler(Duration::from_millis(250)), |quota| quota);
    println!("listening on {}", host.address);
    // As long as its test runs.
    let _ = stdin().read(&mut [0]);
}

impl Unfenced {
    fn start(url: &str) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "pauses::unfenced_host", "--ignored", "--nocapture"])
            .env(DATABASE, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.split_once("listening on ")?.1.parse().ok());
        // A process whose output nobody reads would end at what it says next.
        thread::spawn(move || lines.count());
        Self { process, address: address.expect("it listens") }
    }

    fn connect(&self) -> Connection {
        Connection::open(self.address).unwrap()
    }

    fn breaches(&self) -> String {
        self.connect().send("GET", "/breaches", "").expect(200).text()
    }
}

impl Drop for Unfenced {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn rows_too_many_of_a_process_that_stood_still_are_told_where_its_transactions_do_not_fence() {
    const LIMIT: i64 = 50;
    let url = shared().database();
    let mut database = replica::database(&url);
    let (paused, other) = (Unfenced::start(&url), Unfenced::start(&url));
    for _ in 0..BEFORE {
        replica::create(&mut paused.connect(), "acme").expect(201);
    }
    let mut gate = Database::postgres(&url);
    gate.run(format!("SELECT pg_advisory_lock({})", replica::HELD));
    let mut late: Vec<_> = (0..MEANWHILE).map(|_| paused.connect()).collect();
    for connection in &mut late {
        connection.send_raw(&replica::creation("acme", "held")).unwrap();
    }
    let meanwhile = i64::try_from(MEANWHILE).unwrap();
    until("all handlers wait", || waiting(&mut database, "%pg_advisory_xact_lock_shared%") == meanwhile);
    signal(&paused.process, "STOP");
    gate.run(format!("SELECT pg_advisory_unlock({})", replica::HELD));
    let mut connection = other.connect();
    until("the other one has used all units", || {
        let answer = replica::create(&mut connection, "acme");
        answer.status != 201 && is_final_among_others(&answer)
    });
    assert_eq!(database.rows("Segment", "acme"), LIMIT);
    assert_eq!(other.breaches(), "0");
    signal(&paused.process, "CONT");
    for mut connection in late {
        connection.read().unwrap().expect(201);
    }
    assert_eq!(database.rows("Segment", "acme"), LIMIT + meanwhile);
    // The next count finds them.
    assert!(is_final_among_others(&replica::create(&mut connection, "acme")));
    assert_eq!(other.breaches(), MEANWHILE.to_string());
    assert_eq!(paused.breaches(), "0");
}
