//! How often replicas ask the database until a limit is used up.

use std::thread;
use std::time::{Duration, Instant};

use tower_quota::{Decision, Demand};

use crate::host::{Replica, make_tables};
use crate::inserts::limit;
use crate::round_trips::{RoundTrips, drain};
use crate::support::postgres::shared;

const LIMIT: u32 = 10_000;
const REPLICAS: [u32; 5] = [1, 2, 4, 8, 16];

/// As it stands in `ARCHITECTURE.md`.
pub(crate) fn table() {
    println!("\nround trips until a limit of {LIMIT} is used up (to ask, to tell)\n");
    println!("| replicas | N·log2(L/N) | simulated | measured |");
    println!("|---|---|---|---|");
    for replicas in REPLICAS {
        let expected = f64::from(replicas) * f64::from(LIMIT / replicas).log2();
        let simulated = told(drain(replicas.into(), LIMIT.into()));
        let measured = told(measure(replicas));
        println!("| {replicas} | {expected:.0} | {simulated} | {measured} |");
    }
}

fn told(RoundTrips { asks, flushes }: RoundTrips) -> String {
    format!("{} ({asks} + {flushes})", asks + flushes)
}

/// Real replicas, each with one caller that creates rows until it is refused.
fn measure(replicas: u32) -> RoundTrips {
    let url = shared().database();
    let mut database = make_tables(&url);
    let track = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET track_functions = pl', current_database()); END $$";
    database.run(track.to_owned());
    // None is told of by a sign of life: how many of those there are is a question of time.
    let slow = Duration::from_secs(600);
    let replicas: Vec<_> =
        (0..replicas).map(|_| Replica::with(&url, |ledger| ledger.fenced().time_to_live(slow))).collect();
    limit(&replicas[0], "drained", LIMIT);
    thread::scope(|scope| {
        for replica in &replicas {
            scope.spawn(|| replica.runtime.block_on(create_all(replica)));
        }
    });
    assert_eq!(database.rows("Segment", "drained"), i64::from(LIMIT));
    drop(replicas);
    // Sessions count their calls when they end.
    let deadline = Instant::now() + Duration::from_secs(60);
    let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                  AND $1 <> ''";
    while database.number(others.to_owned(), "drained") > 0 {
        assert!(Instant::now() < deadline, "sessions never end");
        thread::sleep(Duration::from_millis(10));
    }
    let mut calls = |function: &str| {
        let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_user_functions WHERE funcname = $1";
        database.number(calls.to_owned(), function).unsigned_abs()
    };
    RoundTrips { asks: calls("_tower_quota_ask"), flushes: calls("_tower_quota_flush") }
}

async fn create_all(replica: &Replica) {
    let quota = &replica.quota;
    let drained = quota.workspace("drained").unwrap();
    let segment = Demand::one(quota.catalog().by_name("segments").unwrap().id());
    loop {
        match quota.reserve(&drained, &[segment]).await.unwrap() {
            Decision::Admitted(reservation) => {
                let insert = r#"INSERT INTO "Segment" VALUES (gen_random_uuid(), 'drained')"#;
                sqlx::query(insert).execute(&replica.pool).await.unwrap();
                reservation.post();
            }
            Decision::Refused(refusal) if refusal.reserved.is_some() => {}
            Decision::Refused(_) => return,
        }
    }
}
