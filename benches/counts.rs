//! Counts in a real SQLite file, and requests of workspaces that have as many rows.

use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::{Layer, service_fn};
use tower_quota::{
    EnforcementMode, MemoryStore, Quota, ResourceType, SqlTable, SqliteUsage, UsageSource, WorkspaceFormat, WorkspaceId,
};

use crate::rounds::{FAST, Ratios, Rounds, Variant, median};
use crate::setup::{Caller, Shape, answer_created, catalog, large, layer};

/// Rows in a workspace, and the name of the variant.
const SIZES: [(u64, &str); 4] = [(50, "50_rows"), (1_000, "1k_rows"), (100_000, "100k_rows"), (1_000_000, "1m_rows")];
/// How far a decision counts at the default limit.
const BOUND: u64 = 51;

pub(crate) struct Rows {
    runtime: Rc<Runtime>,
    usage: SqliteUsage,
    pool: SqlitePool,
    segments: ResourceType,
    _directory: TempDir,
}

/// The workspace with so many rows: a UUID, as the others are.
fn workspace(rows: u64) -> WorkspaceId {
    let id = format!("0190163d-8694-739b-aea5-{rows:012}");
    WorkspaceFormat::Verbatim.parse(&id).expect("an id")
}

pub(crate) fn prepare(runtime: &Rc<Runtime>) -> Rows {
    runtime.block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let options = SqliteConnectOptions::new()
            .filename(directory.path().join("rows.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await.expect("a database");
        let create = r#"CREATE TABLE "segments" ("id" INTEGER PRIMARY KEY, "workspaceId" TEXT NOT NULL, "name" TEXT NOT NULL);
            CREATE INDEX "segments_workspace" ON "segments" ("workspaceId");"#;
        sqlx::raw_sql(create).execute(&pool).await.expect("a table");
        for (rows, _) in SIZES {
            let fill = r#"WITH RECURSIVE "n" ("i") AS (SELECT 1 UNION ALL SELECT "i" + 1 FROM "n" WHERE "i" < $2)
                INSERT INTO "segments" ("workspaceId", "name") SELECT $1, 'Segment ' || "i" FROM "n""#;
            let query = sqlx::query(fill).bind(workspace(rows).as_str().to_owned());
            query.bind(i64::try_from(rows).expect("fits")).execute(&pool).await.expect("rows");
        }
        let catalog = catalog(large());
        let usage = usage(&pool);
        let segments = catalog.by_name("segments").expect("a type");
        Rows { runtime: Rc::clone(runtime), usage, pool, segments: segments.as_ref().clone(), _directory: directory }
    })
}

fn usage(pool: &SqlitePool) -> SqliteUsage {
    // All types are in one table: it is their number of rows that matters here.
    let catalog = catalog(large());
    let all = catalog.iter().map(|resource| resource.name().to_owned());
    let builder = SqliteUsage::builder(pool.clone(), &catalog);
    all.fold(builder, |builder, name| builder.table(name, SqlTable::new("segments"))).build().expect("a usage source")
}

impl Rows {
    async fn count(&self, workspace: &WorkspaceId, at_most: Option<u64>) -> Duration {
        let start = Instant::now();
        let rows = self.usage.count(workspace, &self.segments, at_most).await.expect("a count");
        black_box(rows);
        start.elapsed()
    }

    pub(crate) fn report(&self, criterion: &mut Criterion) {
        for (kind, at_most) in [("count_to_decide", Some(BOUND)), ("count_all", None)] {
            let mut group = criterion.benchmark_group(kind);
            group.sample_size(10);
            for (rows, name) in SIZES {
                let workspace = workspace(rows);
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    bencher.iter_custom(|counts| {
                        self.runtime.block_on(async {
                            let mut time = Duration::ZERO;
                            for _ in 0..counts {
                                time += self.count(&workspace, at_most).await;
                            }
                            time
                        })
                    });
                });
            }
            group.finish();
        }
    }

    pub(crate) fn ratios(&self, ratios: &mut Ratios) {
        println!("\ncounts: microseconds, median");
        for (rows, name) in SIZES {
            let workspace = workspace(rows);
            let median_of = |at_most, times: usize| {
                let counts = async {
                    let mut taken = Vec::with_capacity(times);
                    for _ in 0..times {
                        taken.push(self.count(&workspace, at_most).await.as_secs_f64() * 1e6);
                    }
                    median(taken)
                };
                self.runtime.block_on(counts)
            };
            let (bounded, full) = (median_of(Some(BOUND), 200), median_of(None, 20));
            println!("  {name:<10} to decide {bounded:>9.1}   all {full:>9.1}");
            ratios.push(format!("count_to_decide_vs_count_all_{name}"), bounded / full);
        }

        let mut variants = self.admissions();
        let rounds = Rounds::of(&mut variants, FAST);
        println!("\nadmitted, with so many rows: nanoseconds per request, median");
        for (_, name) in SIZES {
            println!("  {name:<10} {:>9.1}", rounds.median(name));
        }
        for (_, name) in &SIZES[1..] {
            ratios.push(format!("admitted_{name}_vs_50_rows"), rounds.median(name) / rounds.median(SIZES[0].1));
        }
    }

    /// Admitted requests by the rows that their workspaces have.
    fn admissions(&self) -> Vec<Variant> {
        let _inside = self.runtime.enter();
        let quota = Quota::builder(catalog(large()))
            .store(MemoryStore::new())
            .usage(usage(&self.pool))
            .mode(EnforcementMode::Enforce)
            .build()
            .expect("a quota");
        let layer = layer(&quota);
        let variants = SIZES.iter().map(|(rows, name)| {
            let service = layer.layer(service_fn(answer_created));
            let workspace = workspace(*rows).as_str().to_owned();
            let mut caller = Caller { service, shape: Shape::Create, workspace };
            let runtime = Rc::clone(&self.runtime);
            assert!(runtime.block_on(caller.first()).is_success(), "the first request is admitted by a count");
            Variant::new(name, move |requests| runtime.block_on(caller.batch(requests)))
        });
        variants.collect()
    }
}
