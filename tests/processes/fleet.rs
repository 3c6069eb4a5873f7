//! Several processes on one database, and a storm of requests that goes on while things happen to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Answered, Connection, request, together};
use crate::support::database::Database;
use crate::support::quickstart::{ADMIN, Quickstart, create, is_final_among_others, name, segments, set_quota};
use crate::support::random::Random;
use crate::support::until;

/// How often a status was answered.
pub(crate) type Tally = BTreeMap<u16, usize>;

/// What can't be checked is refused: a host that lets it pass promises nothing.
const VARIABLES: [(&str, &str); 2] = [("QUOTA_ENFORCEMENT_MODE", "strict"), ("RUST_LOG", "off")];

pub(crate) fn start_one(url: &str) -> Quickstart {
    Quickstart::on(url, &VARIABLES)
}

/// So many processes on a database that notes how many rows it ever had.
pub(crate) fn start(url: &str, processes: usize) -> (Vec<Quickstart>, Database) {
    let started: Vec<_> = thread::scope(|scope| {
        let starting: Vec<_> = (0..processes).map(|_| scope.spawn(|| start_one(url))).collect();
        starting.into_iter().map(|starting| starting.join().unwrap()).collect()
    });
    let mut database = Database::postgres(url);
    database.watch("Segment");
    (started, database)
}

pub(crate) fn limit(server: &Quickstart, workspace: &str, limit: i64) {
    set_quota(&mut server.connect(), workspace, &json!({ "maxSegments": limit }));
}

/// Waits until each process admits requests again.
#[track_caller]
pub(crate) fn all_serve_again(servers: &[Quickstart], workspace: &str) {
    for (at, server) in servers.iter().enumerate() {
        let mut connection = server.connect();
        until("it serves again", || match create(&mut connection, workspace, &format!("again {at}")).status {
            201 => true,
            500 | 503 => false,
            status => panic!("{status}"),
        });
    }
}

/// All of the limit can be used, from any one process, and then no more from any other.
#[track_caller]
pub(crate) fn all_can_be_used(servers: &[Quickstart], database: &mut Database, workspace: &str, limit: i64) {
    servers[0].fill(workspace, limit);
    for server in servers {
        let mut connection = server.connect();
        until("a refusal for good", || {
            let answer = create(&mut connection, workspace, "one too many");
            // Where many tests share the machine, a statement may take longer than its time-out.
            ![500, 503].contains(&answer.status) && is_final_among_others(&answer)
        });
    }
    assert_eq!(database.rows("Segment", workspace), limit);
    assert_eq!(database.peak("Segment", workspace), limit, "there were more rows than the limit at some time");
}

/// So many creations, which are sent and not answered yet.
pub(crate) fn send(server: &Quickstart, workspace: &str, creations: usize, named: &str) -> Vec<Connection> {
    let send = |at| {
        let mut connection = server.connect();
        let body = name(&format!("{named} {at}"));
        connection.send_raw(&request("POST", &segments(workspace), Some(ADMIN), &[], &body)).unwrap();
        connection
    };
    (0..creations).map(send).collect()
}

/// How many sessions wait for a lock in a statement like this.
pub(crate) fn waiting(database: &mut Database, statement: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1";
    database.number(sql.to_owned(), statement)
}

/// The number of an advisory lock.
const HELD: i64 = 10;

/// Makes `COMMIT`s of a table's rows of a workspace wait while they are held.
pub(crate) fn make_commits_wait(database: &mut Database, table: &str, workspace: &str) {
    database.run(format!(
        r#"CREATE FUNCTION "held"() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN
             PERFORM pg_advisory_xact_lock_shared({HELD});
             RETURN NULL;
           END $body$;
           CREATE CONSTRAINT TRIGGER "held" AFTER INSERT ON "{table}" DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW WHEN (NEW."workspaceId" = '{workspace}') EXECUTE FUNCTION "held"()"#
    ));
}

pub(crate) fn hold_commits(database: &mut Database) {
    database.run(format!("SELECT pg_advisory_lock({HELD})"));
}

pub(crate) fn let_commits_go(database: &mut Database) {
    database.run(format!("SELECT pg_advisory_unlock({HELD})"));
}

/// What may become of a request in a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// It is admitted or refused by the limit.
    Fair,
    /// Its process may die: then there is no answer.
    Crashes,
    /// The database may fail: then a server error is an answer, too.
    Faults,
}

/// Connections that create and delete rows of one workspace, at all processes.
pub(crate) struct Storm<'a> {
    pub(crate) workspace: &'a str,
    pub(crate) connections: usize,
    pub(crate) weather: Weather,
    pub(crate) seed: u64,
    pub(crate) round: usize,
}

/// Where requests are sent, as by a load balancer: a place is locked while a request is under way there.
pub(crate) struct Addresses(Vec<RwLock<SocketAddr>>);

impl Addresses {
    pub(crate) fn of(servers: &[Quickstart]) -> Self {
        Self(servers.iter().map(|server| RwLock::new(server.address)).collect())
    }

    /// Where requests go that are for this place.
    pub(crate) fn at(&self, place: usize) -> SocketAddr {
        *self.0[place].read().unwrap()
    }

    /// Sends what comes from now on to another process, and waits until nothing is under way to the one before.
    pub(crate) fn replace(&self, place: usize, server: &Quickstart) {
        *self.0[place].write().unwrap() = server.address;
    }
}

/// The end of the storm, however it came.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Storm<'_> {
    /// Rages for as long as `during` takes, which is told how many requests were answered.
    pub(crate) fn rage(&self, addresses: &Addresses, during: impl FnOnce(&Answered)) -> Tally {
        let (over, answered) = (AtomicBool::new(false), Answered::default());
        let tallies = thread::scope(|scope| {
            let storm = scope.spawn(|| {
                together(self.connections, self.seed, self.round, |thread, random| {
                    self.connection(thread, random, addresses, &over, &answered)
                })
            });
            let end = Over(&over);
            during(&answered);
            drop(end);
            storm.join().unwrap()
        });
        let mut tally = Tally::new();
        for (status, answers) in tallies.into_iter().flatten() {
            *tally.entry(status).or_default() += answers;
        }
        println!("{}: {tally:?}", self.workspace);
        tally
    }

    fn connection(
        &self,
        thread: usize,
        random: &mut Random,
        addresses: &Addresses,
        over: &AtomicBool,
        answered: &Answered,
    ) -> Tally {
        let place = &addresses.0[thread % addresses.0.len()];
        let mut tally = Tally::new();
        let mut rows: Vec<String> = Vec::new();
        let mut connection: Option<(SocketAddr, Connection)> = None;
        for at in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let address = place.read().unwrap();
            let open = connection.take().filter(|(to, _)| *to == *address).map(|(_, open)| open);
            let Some(mut open) = open.or_else(|| self.open(thread, *address, &mut rows)) else {
                // Nobody listens there at present.
                drop(address);
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let row = if random.below(2) == 0 { rows.pop() } else { None };
            let answer = match &row {
                Some(row) => open.try_send("DELETE", row, ""),
                None => {
                    let name = name(&format!("{thread}/{}/{at}", self.round));
                    open.try_send("POST", &segments(self.workspace), &name)
                }
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    assert_ne!(self.weather, Weather::Fair, "{error}");
                    continue;
                }
            };
            match answer.status {
                201 => rows.push(path_of(self.workspace, &answer.json())),
                204 => {}
                // It was deleted when the answer was lost.
                404 if self.weather != Weather::Fair => {}
                429 => {
                    is_final_among_others(&answer);
                }
                500 | 503 if self.weather == Weather::Faults => rows.extend(row),
                _ => panic!("{answer}"),
            }
            *tally.entry(answer.status).or_default() += 1;
            answered.one();
            connection = Some((*address, open));
        }
        tally
    }

    /// A connection, and what there is of its rows now.
    fn open(&self, thread: usize, address: SocketAddr, rows: &mut Vec<String>) -> Option<Connection> {
        let mut open = Connection::open(address).ok()?.with_token(ADMIN);
        let listed = open.try_send("GET", &segments(self.workspace), "").ok()?;
        if listed.status == 200 {
            let mine = format!("{thread}/");
            let listed = listed.json();
            let listed = listed.as_array().unwrap().iter();
            let listed = listed.filter(|row| row["name"].as_str().unwrap().starts_with(&mine));
            *rows = listed.map(|row| path_of(self.workspace, row)).collect();
        }
        Some(open)
    }
}

/// Which connection of the storm made a row. It is at the process of that number, of as many as there are.
pub(crate) fn thread_of(name: &str) -> usize {
    name.split('/').next().unwrap().parse().unwrap()
}

fn path_of(workspace: &str, row: &serde_json::Value) -> String {
    format!("{}/{}", segments(workspace), row["id"].as_str().unwrap())
}
