//! Decisions by themselves, beside what else would be asked of the database.

use std::rc::Rc;
use std::time::Instant;

use sqlx::{ConnectOptions, PgConnection, query, query_scalar};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tower_quota::{Decision, Demand, Quota, WorkspaceId};

use crate::host::{LARGE, Replica};
use crate::inserts::limit;
use crate::rounds::{Pace, Ratios, Rounds, Variant};
use crate::support::database::Database;

/// Decisions in one workspace at once.
const CALLERS: usize = 16;
/// How many decisions of ours stand beside one update: they would be over before they had begun.
const MORE: u64 = 2_000;
const HOT: Pace = Pace { rounds: 20, batch: 256 };
const SINGLE: Pace = Pace { rounds: 40, batch: 32 };
const FULL: [(u32, &str, &str); 2] =
    [(50, "refusal", "bounded_count"), (1000, "refusal_at_1000", "bounded_count_of_1000")];

pub(crate) fn ratios(url: &str, replicas: &[Replica], ratios: &mut Ratios) {
    let mut database = Database::postgres(url);
    database.run(r#"INSERT INTO "Counter" VALUES ('hot'), ('cold')"#.to_owned());

    let mut hot = [updates(url, &replicas[0]), decisions(replicas)];
    let rounds = Rounds::of(&mut hot, HOT);
    println!("\none hot workspace: decisions per second, median of {} rounds", HOT.rounds);
    for name in ["one_row", "hot_workspace"] {
        println!("  {name:<24} {:>12.0}", 1e9 / rounds.median(name));
    }
    ratios.push("hot_workspace", rounds.ratio("one_row", "hot_workspace"));

    let single = Rc::new(Single::new(url, &replicas[0]));
    let mut variants = vec![single.conditional_update(), single.cold_key()];
    for (rows, refusal, count) in FULL {
        let workspace = format!("full-{rows}");
        database.run(format!(
            r#"INSERT INTO "Segment" SELECT gen_random_uuid(), '{workspace}' FROM generate_series(1, {rows})"#
        ));
        limit(&replicas[0], &workspace, rows);
        variants.push(single.refusal(refusal, &workspace));
        variants.push(single.bounded_count(count, &workspace, rows));
    }
    database.run("ANALYZE".to_owned());
    let rounds = Rounds::of(&mut variants, SINGLE);
    println!("\none after the other: microseconds, median of {} rounds", SINGLE.rounds);
    for variant in &variants {
        println!("  {:<24} {:>12.1}", variant.name, rounds.median(variant.name) / 1e3);
    }
    ratios.push("cold_key", rounds.ratio("cold_key", "conditional_update"));
    for (_, refusal, count) in FULL {
        ratios.push(refusal, rounds.ratio(refusal, count));
    }
}

const UPDATE: &str = r#"UPDATE "Counter" SET "rows" = "rows" + 1 WHERE "workspaceId" = $1 AND "rows" < $2"#;

async fn update(connection: &mut PgConnection, workspace: &str) {
    let updated = query(UPDATE).bind(workspace).bind(LARGE).execute(connection).await.unwrap();
    assert_eq!(updated.rows_affected(), 1);
}

fn connect(url: &str, runtime: &Handle) -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    runtime.block_on(options.connect()).unwrap()
}

/// Connections that all count up one row.
fn updates(url: &str, replica: &Replica) -> Variant {
    let runtime = replica.runtime.handle().clone();
    let mut connections: Vec<_> = (0..CALLERS).map(|_| connect(url, &runtime)).collect();
    Variant::new("one_row", move |updates| {
        let each = updates / CALLERS as u64;
        let start = Instant::now();
        let mut running = JoinSet::new();
        for mut connection in connections.drain(..) {
            let work = async move {
                for _ in 0..each {
                    update(&mut connection, "hot").await;
                }
                connection
            };
            running.spawn_on(work, &runtime);
        }
        connections = runtime.block_on(running.join_all());
        start.elapsed()
    })
}

fn segment(quota: &Quota) -> Demand {
    Demand::one(quota.catalog().by_name("segments").unwrap().id())
}

/// As many callers, at all replicas in turn.
fn decisions(replicas: &[Replica]) -> Variant {
    let replicas: Vec<_> =
        replicas.iter().map(|replica| (replica.quota.clone(), replica.runtime.handle().clone())).collect();
    Variant::new("hot_workspace", move |decisions| {
        let each = decisions * MORE / CALLERS as u64;
        let start = Instant::now();
        let mut running = JoinSet::new();
        for (quota, runtime) in replicas.iter().cycle().take(CALLERS) {
            let quota = quota.clone();
            let work = async move {
                let (hot, segment) = (quota.workspace("hot").unwrap(), segment(&quota));
                for _ in 0..each {
                    match quota.reserve(&hot, &[segment]).await.unwrap() {
                        Decision::Admitted(reservation) => reservation.post(),
                        Decision::Refused(refusal) => panic!("{refusal:?}"),
                    }
                }
            };
            running.spawn_on(work, runtime);
        }
        replicas[0].1.block_on(running.join_all());
        start.elapsed() / u32::try_from(MORE).unwrap()
    })
}

/// One caller, who waits for each answer.
struct Single {
    url: String,
    quota: Quota,
    runtime: Handle,
}

impl Single {
    fn new(url: &str, replica: &Replica) -> Self {
        Self { url: url.to_owned(), quota: replica.quota.clone(), runtime: replica.runtime.handle().clone() }
    }

    fn conditional_update(&self) -> Variant {
        let runtime = self.runtime.clone();
        let mut connection = connect(&self.url, &runtime);
        Variant::new("conditional_update", move |updates| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..updates {
                    update(&mut connection, "cold").await;
                }
                start.elapsed()
            })
        })
    }

    /// The first decisions of workspaces that no replica knows.
    fn cold_key(&self) -> Variant {
        let (quota, runtime) = (self.quota.clone(), self.runtime.clone());
        let mut next = 0;
        Variant::new("cold_key", move |decisions| {
            let names = next..next + decisions;
            next += decisions;
            let workspaces: Vec<_> = names.map(|number| quota.workspace(&format!("cold-{number}")).unwrap()).collect();
            runtime.block_on(async {
                let start = Instant::now();
                for workspace in &workspaces {
                    assert!(matches!(decide(&quota, workspace).await, Decision::Admitted(_)));
                }
                start.elapsed()
            })
        })
    }

    fn refusal(&self, name: &'static str, workspace: &str) -> Variant {
        let (quota, runtime) = (self.quota.clone(), self.runtime.clone());
        let workspace = quota.workspace(workspace).unwrap();
        Variant::new(name, move |decisions| {
            runtime.block_on(async {
                let start = Instant::now();
                for _ in 0..decisions {
                    assert!(matches!(decide(&quota, &workspace).await, Decision::Refused(_)));
                }
                start.elapsed()
            })
        })
    }

    fn bounded_count(&self, name: &'static str, workspace: &str, rows: u32) -> Variant {
        let runtime = self.runtime.clone();
        let mut connection = connect(&self.url, &runtime);
        let workspace = workspace.to_owned();
        Variant::new(name, move |counts| {
            runtime.block_on(async {
                let sql = r#"SELECT count(*) FROM (SELECT FROM "Segment" WHERE "workspaceId" = $1 LIMIT $2) AS "some""#;
                let start = Instant::now();
                for _ in 0..counts {
                    let count = query_scalar(sql).bind(&workspace).bind(i64::from(rows) + 1);
                    let counted: i64 = count.fetch_one(&mut connection).await.unwrap();
                    assert_eq!(counted, i64::from(rows));
                }
                start.elapsed()
            })
        })
    }
}

async fn decide(quota: &Quota, workspace: &WorkspaceId) -> Decision {
    quota.reserve(workspace, &[segment(quota)]).await.unwrap()
}
