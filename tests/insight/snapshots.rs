//! Who takes snapshots, and what is kept of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use sqlx::{AssertSqlSafe, query_as};
use tokio::runtime::{Builder, Runtime};
use tower_quota::{
    Actor, ClosureUsage, Decision, Demand, Granularity, Limit, LimitSet, Provisioning, Quota, ResourceCatalog,
    Snapshot, SnapshotOptions, SqlTable, SqliteStore, SqliteUsage, TemporaryOverride, WorkspaceFormat,
};

use crate::host::{Looks, Place, ROOT, both, catalog, until};

fn hourly() -> SnapshotOptions {
    SnapshotOptions::new()
}

/// A process of its own, as far as one can be killed within another: its runtime ends, whatever its tasks are at.
async fn process(place: &Place, options: &SnapshotOptions, looks: &Arc<Looks>) -> (Runtime, Quota) {
    let (place, options, looks) = (place.clone(), options.clone(), Arc::clone(looks));
    let begun = tokio::task::spawn_blocking(move || {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let quota = runtime.block_on(async { place.reopened().await.quota(Some(options), &looks).await });
        (runtime, quota)
    });
    begun.await.unwrap()
}

/// A row of the table: whose, of what, and the snapshot by its numbers.
type Row = (String, String, i64, String, i64, i64, i64, i64, i64, i64);

/// Snapshots by their granularity, key and start.
type Kept = BTreeMap<(String, String, String, i64), (i64, i64, i64, i64, i64, i64)>;

/// All that is there.
async fn kept(place: &Place) -> Kept {
    let all = AssertSqlSafe(
        r#"SELECT "workspaceId", "resourceType", "start", "granularity", "at", "last", "min", "max", "limit", "refusals"
           FROM "QuotaSnapshot""#,
    );
    let rows: Vec<Row> = match place {
        Place::Sqlite(pool, _) => query_as(all).fetch_all(pool).await.unwrap(),
        Place::Postgres(pool, _) => query_as(all).fetch_all(pool).await.unwrap(),
    };
    rows.into_iter()
        .map(|(w, r, start, g, at, last, min, max, limit, n)| ((g, w, r, start), (at, last, min, max, limit, n)))
        .collect()
}

async fn hours(place: &Place) -> i64 {
    place.number(r#"SELECT count(*) FROM "QuotaSnapshot" WHERE "granularity" = 'hour'"#).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_replicas_looks_at_all_workspaces() {
    let place = Place::postgres().await;
    place.insert("Segment", "acme", 3).await;
    place.insert("User", "globex", 2).await;
    // It has a record, and no rows.
    let quota = place.quota(None, &Arc::default()).await;
    quota.record(&quota.workspace("idle").unwrap()).await.unwrap();
    drop(quota);
    let host = place.settled(hourly()).await;
    assert_eq!(host.looks(), 1);
    let kept: Vec<_> = kept(&place).await.into_iter().map(|((g, w, r, _), (_, last, ..))| (g, w, r, last)).collect();
    let row =
        |workspace: &str, resource: &str, last| ("hour".to_owned(), workspace.to_owned(), resource.to_owned(), last);
    assert_eq!(
        kept,
        [
            row("acme", "segments", 3),
            row("acme", "users", 0),
            row("globex", "segments", 0),
            row("globex", "users", 2),
            row("idle", "segments", 0),
            row("idle", "users", 0),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_takes_over_when_one_dies_in_the_midst() {
    let place = Place::postgres().await;
    place.insert("Segment", "acme", 3).await;
    let options = hourly().take_over_after(Duration::from_secs(1));
    let looks = Arc::new(Looks::default());
    looks.hangs.store(true, Ordering::SeqCst);
    let (first, quota) = process(&place, &options, &looks).await;
    until("it looks", async || looks.begun.load(Ordering::SeqCst) == 1).await;
    let second = place.start(options).await;
    let held = async || place.number(r#"SELECT "claimedUntil" FROM "QuotaTask""#).await;
    let since = held().await;
    // For longer than it would have without a sign of life.
    until("it has kept its turn", async || held().await > since + 2000).await;
    assert_eq!(second.looks(), 0);
    std::mem::forget(quota);
    first.shutdown_background();
    until("another looks", async || hours(&place).await == 2).await;
    assert_eq!(second.looks(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_ends_while_the_host_lists_its_workspaces() {
    let place = Place::sqlite().await;
    // Snapshots list them, and so do thresholds.
    for (options, lists) in [(None, 1), (Some(hourly()), 2)] {
        let looks = Arc::new(Looks::default());
        looks.hangs.store(true, Ordering::SeqCst);
        looks.sweeps.store(true, Ordering::SeqCst);
        let quota = place.quota(options, &looks).await;
        until("all are listing", async || looks.begun.load(Ordering::SeqCst) == lists).await;
        drop(quota);
        // It waits until nobody has the file.
        drop(place.quota(None, &Arc::default()).await);
    }
}

both!(a_recount_is_kept, place, {
    let host = place.settled(hourly()).await;
    assert_eq!(hours(&place).await, 0);
    place.insert("Segment", "acme", 4).await;
    host.send(0, ROOT, "POST", "/api/workspaces/acme/quota/recalculate", None).await.expect(200);
    until("it is kept", async || host.today("acme").await["last"] == 4).await;
    place.run(r#"DELETE FROM "Segment""#.to_owned()).await;
    host.send(0, ROOT, "POST", "/api/workspaces/acme/quota/recalculate", None).await.expect(200);
    until("it is kept", async || host.today("acme").await["last"] == 0).await;
    let today = host.today("acme").await;
    assert_eq!(
        (&today["min"], &today["max"], &today["limit"], &today["refusals"]),
        (&json!(0), &json!(4), &json!(5), &json!(0))
    );
    assert_eq!(host.looks(), 1, "nobody looked at all of them for that");
});

both!(refusals_are_counted_whoever_refuses, place, {
    let host = place.settled(hourly()).await;
    host.limit("acme", 2).await;
    for turn in 0..2 {
        assert_eq!(host.create(turn, "acme").await, 201);
    }
    for turn in 0..5 {
        assert_eq!(host.create(turn, "acme").await, 429);
    }
    until("they are written", async || host.today("acme").await["refusals"] == 5).await;
    let today = host.today("acme").await;
    assert_eq!((&today["last"], &today["limit"], &today["percent"]), (&json!(2), &json!(2), &json!(100)));
});

both!(what_a_cap_refuses_counts_with_the_rows_of_the_workspace_itself, place, {
    let host = place.settled(hourly()).await;
    host.put("/api/workspaces/top/quota/settings", json!({"caps": {"segments": 2}})).await;
    host.put("/api/workspaces/acme/quota/settings", json!({"parent": "top"})).await;
    host.put("/api/workspaces/other/quota/settings", json!({"parent": "top"})).await;
    assert_eq!((host.create(0, "acme").await, host.create(0, "other").await), (201, 201));
    assert_eq!(host.create(0, "acme").await, 429);
    until("it is written", async || host.today("acme").await["refusals"] == 1).await;
    let today = host.today("acme").await;
    assert_eq!((&today["last"], &today["limit"]), (&json!(1), &json!(5)));
});

both!(the_last_refusals_are_written_in_a_shutdown, place, {
    let host = place.settled(hourly()).await;
    host.limit("acme", 0).await;
    let quota = host.processes.last().unwrap().quota.clone();
    let (acme, segments) = (quota.workspace("acme").unwrap(), quota.catalog().by_name("segments").unwrap().id());
    for _ in 0..3 {
        let decision = quota.reserve(&acme, &[Demand::one(segments)]).await.unwrap();
        assert!(matches!(decision, Decision::Refused(_)));
    }
    quota.shutdown(Duration::from_secs(10)).await.unwrap();
    assert_eq!(place.number(r#"SELECT CAST(sum("refusals") AS BIGINT) FROM "QuotaSnapshot""#).await, 3);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_in_which_old_hours_can_not_be_merged_is_done_all_the_same() {
    let place = Place::sqlite().await;
    old_hours(&place, 1, 1).await;
    let before = hours(&place).await;
    let refuse = r#"CREATE TRIGGER "held" BEFORE DELETE ON "QuotaSnapshot" BEGIN SELECT RAISE(ABORT, 'held'); END"#;
    place.run(refuse.to_owned()).await;
    place.insert("Segment", "acme", 1).await;
    // It waits until the next turn is an hour later.
    let host = place.settled(hourly()).await;
    assert_eq!(hours(&place).await, before + 2);
    drop(host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_a_workspace_that_is_gone_are_not_kept_for_the_next_of_that_name() {
    let Place::Sqlite(pool, directory) = Place::sqlite().await else { panic!() };
    let place = Place::Sqlite(pool.clone(), directory);
    let quota = Quota::builder(catalog())
        .store(SqliteStore::new(pool.clone(), &catalog()).await.unwrap())
        .usage(SqliteUsage::builder(pool, &catalog()).build().unwrap())
        .provisioning(Provisioning::Explicit)
        .snapshots(hourly())
        .build()
        .unwrap();
    let (admin, any) = (quota.admin(Actor::library()), tower_quota::Expect::Anything);
    let (top, acme) = (quota.workspace("top").unwrap(), quota.workspace("acme").unwrap());
    let cap = tower_quota::PolicyChange::new().cap("segments", Limit::of(0));
    admin.configure(&top, cap, &any).await.unwrap();
    let child = tower_quota::PolicyChange::new().parent(top.clone());
    admin.configure(&acme, child.clone(), &any).await.unwrap();
    let segments = quota.catalog().by_name("segments").unwrap().id();
    // A cap refuses: of the workspace itself nothing was counted.
    let decision = quota.reserve(&acme, &[Demand::one(segments)]).await.unwrap();
    assert!(matches!(decision, Decision::Refused(_)));
    admin.delete_workspace(&acme, &any).await.unwrap();
    let refusals = async || place.number(r#"SELECT coalesce(sum("refusals"), 0) FROM "QuotaSnapshot""#).await;
    let before = refusals().await;
    // What is noted is written now, and could not be.
    quota.shutdown(Duration::from_secs(10)).await.unwrap();
    admin.configure(&acme, child, &any).await.unwrap();
    quota.shutdown(Duration::from_secs(10)).await.unwrap();
    assert_eq!(refusals().await, before);
}

both!(a_workspace_that_was_emptied_has_one_more_snapshot, place, {
    place.insert("Segment", "acme", 3).await;
    let quota = place.quota(None, &Arc::default()).await;
    quota.take_snapshots().await.unwrap();
    // Around the engine, and there is no record of it.
    place.run(r#"DELETE FROM "Segment""#.to_owned()).await;
    assert_eq!(quota.take_snapshots().await.unwrap().workspaces, 1);
    assert_eq!(place.number(r#"SELECT "last" FROM "QuotaSnapshot" WHERE "resourceType" = 'segments'"#).await, 0);
    assert_eq!(quota.take_snapshots().await.unwrap().workspaces, 0);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_spell_a_workspace_in_another_way_are_none_of_it() {
    let Place::Sqlite(pool, directory) = Place::sqlite().await else { panic!() };
    let place = Place::Sqlite(pool.clone(), directory);
    place.insert("Segment", "acme", 3).await;
    place.insert("Segment", "ACME", 2).await;
    let quota = Quota::builder(catalog())
        .store(SqliteStore::new(pool.clone(), &catalog()).await.unwrap())
        .usage(SqliteUsage::builder(pool, &catalog()).build().unwrap())
        .workspace_format(WorkspaceFormat::Lowercase)
        .snapshots(None)
        .build()
        .unwrap();
    let acme = quota.workspace("Acme").unwrap();
    quota.take_snapshots().await.unwrap();
    let counted = quota.usage(&acme).await.unwrap()[0].current;
    let kept = place.number(r#"SELECT "max" FROM "QuotaSnapshot" WHERE "resourceType" = 'segments'"#).await;
    assert_eq!((counted, kept), (3, 3));
}

both!(limits_are_those_in_force, place, {
    for workspace in ["nothing-set", "acme", "planned", "child", "overridden"] {
        place.insert("Segment", workspace, 1).await;
    }
    let quota = place.quota(None, &Arc::default()).await;
    let admin = quota.admin(Actor::new("ann", "test"));
    let segments = quota.catalog().by_name("segments").unwrap().id();
    let any = tower_quota::Expect::Anything;
    let id = |name: &str| quota.workspace(name).unwrap();
    admin.put_plan("pro", &LimitSet::new().with(segments, Limit::of(200)), &any).await.unwrap();
    let plan = |name| tower_quota::PolicyChange::new().plan(name);
    admin.configure(&id("planned"), plan("pro"), &any).await.unwrap();
    admin.set_limits(&id("acme"), &LimitSet::new().with(segments, Limit::Unlimited), &any, None).await.unwrap();
    let share = tower_quota::PolicyChange::new().parent(id("planned")).share("segments", 10);
    admin.configure(&id("child"), share, &any).await.unwrap();
    let (now, hour) = (Timestamp::now(), SignedDuration::from_hours(1));
    let temporary = TemporaryOverride::new("segments", Limit::of(77), now - hour, now + hour, "sale");
    admin.add_override(&id("overridden"), temporary).await.unwrap();
    quota.take_snapshots().await.unwrap();
    let limits: BTreeMap<_, _> = kept(&place)
        .await
        .into_iter()
        .filter(|((_, _, resource, _), _)| resource == "segments")
        .map(|((_, w, ..), row)| (w, row.4))
        .collect();
    let expected = [("acme", -1), ("child", 20), ("nothing-set", 5), ("overridden", 77), ("planned", 200)];
    assert_eq!(limits, expected.map(|(name, limit)| (name.to_owned(), limit)).into());
});

/// Hours of long ago, as they were taken then.
async fn old_hours(place: &Place, workspaces: usize, days: i64) -> Vec<(String, Snapshot)> {
    let mut all = Vec::new();
    let first = Granularity::Day.start(Timestamp::now() - SignedDuration::from_hours(24 * (20 + days)));
    for workspace in 0..workspaces {
        for hour in 0..24 * days {
            // Some hours are missing, and numbers go up and down.
            if (hour * 7 + i64::try_from(workspace).unwrap()) % 5 == 0 {
                continue;
            }
            let rows = u64::try_from(hour * hour % 97 + 1).unwrap();
            let at = first + SignedDuration::from_mins(60 * hour + hour % 60);
            let limit = if hour % 11 == 0 { Limit::Unlimited } else { Limit::of(u32::try_from(hour).unwrap()) };
            let refusals = u64::try_from(hour % 3).unwrap();
            let snapshot = Snapshot { at, last: rows, min: rows / 2, max: rows * 2, limit, refusals };
            all.push((format!("w{workspace}"), snapshot));
        }
    }
    let row = |(workspace, of): &(String, Snapshot)| {
        let limit = of.limit.rows().map_or(-1, |rows| i64::try_from(rows).unwrap());
        let start = Granularity::Hour.start(of.at).as_millisecond();
        format!(
            "('{workspace}', 'segments', {start}, 'hour', {}, {}, {}, {}, {limit}, {})",
            of.at.as_millisecond(),
            of.last,
            of.min,
            of.max,
            of.refusals
        )
    };
    for some in all.chunks(400) {
        let rows: Vec<_> = some.iter().map(row).collect();
        let into = r#"INSERT INTO "QuotaSnapshot" ("workspaceId", "resourceType", "start", "granularity", "at", "last", "min", "max", "limit", "refusals")"#;
        place.run(format!("{into} VALUES {}", rows.join(", "))).await;
    }
    all
}

/// The days of some hours, as [`Snapshot::merge`] has them.
fn merged(hours: &[(String, Snapshot)]) -> Kept {
    let mut days: BTreeMap<(String, Timestamp), Snapshot> = BTreeMap::new();
    for (workspace, hour) in hours {
        let day = days.entry((workspace.clone(), Granularity::Day.start(hour.at)));
        day.and_modify(|day| day.merge(hour)).or_insert(*hour);
    }
    let number = |of: u64| i64::try_from(of).unwrap();
    days.into_iter()
        .map(|((workspace, start), of)| {
            let limit = of.limit.rows().map_or(-1, number);
            let key = ("day".to_owned(), workspace, "segments".to_owned(), start.as_millisecond());
            (key, (of.at.as_millisecond(), number(of.last), number(of.min), number(of.max), limit, number(of.refusals)))
        })
        .collect()
}

both!(hours_become_the_days_that_a_merge_makes_of_them_and_old_days_go, place, {
    let hours_of_old = old_hours(&place, 3, 40).await;
    // The days before: one is too old, one isn't.
    for days in [501, 499] {
        let start = Granularity::Day.start(Timestamp::now() - SignedDuration::from_hours(24 * days)).as_millisecond();
        place.run(format!(r#"INSERT INTO "QuotaSnapshot" VALUES ('old', 'segments', {start}, 'day', {start}, {days}, 1, 600, 9, 0)"#)).await;
    }
    let host = place.settled(hourly()).await;
    let mut all = kept(&place).await;
    let old: Vec<_> = all.extract_if(.., |(_, workspace, ..), _| workspace == "old").map(|(_, row)| row.1).collect();
    assert_eq!(old, [499]);
    assert_eq!(all, merged(&hours_of_old));
    drop(host);
});

/// Kills the process that merges, again and again.
async fn crash_while_merging(place: Place) {
    let hours_of_old = old_hours(&place, 12, 60).await;
    let options = hourly().take_over_after(Duration::from_secs(1));
    for round in 0..6_u64 {
        place.run(r#"UPDATE "QuotaTask" SET "nextAt" = 0, "claimedUntil" = 0"#.to_owned()).await;
        let before = hours(&place).await;
        let (runtime, quota) = process(&place, &options, &Arc::default()).await;
        until("something was merged", async || hours(&place).await < before || before == 0).await;
        thread::sleep(Duration::from_millis(round * 3));
        std::mem::forget(quota);
        runtime.shutdown_background();
    }
    until("all is merged", async || {
        let quota = place.reopened().await.quota(Some(options.clone()), &Arc::default()).await;
        place.run(r#"UPDATE "QuotaTask" SET "nextAt" = 0, "claimedUntil" = 0"#.to_owned()).await;
        until("a turn", async || place.number(r#"SELECT max("nextAt") FROM "QuotaTask""#).await > 0).await;
        drop(quota);
        hours(&place).await == 0
    })
    .await;
    assert_eq!(kept(&place).await, merged(&hours_of_old));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_hours_are_merged_loses_and_doubles_nothing() {
    crash_while_merging(Place::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_workspaces_can_not_be_listed_those_in_memory_are_counted() {
    let Place::Sqlite(pool, _directory) = Place::sqlite().await else { panic!() };
    let store = SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
    let usage = ClosureUsage::new(|_, resource: tower_quota::ResourceType, _| async move {
        Ok::<_, std::io::Error>(if resource.name() == "segments" { 3 } else { 0 })
    });
    let quota = Quota::builder(catalog()).store(store).usage(usage).snapshots(None).build().unwrap();
    let summary = quota.take_snapshots().await.unwrap();
    assert_eq!((summary.workspaces, summary.snapshots), (0, 0));
    quota.usage(&quota.workspace("acme").unwrap()).await.unwrap();
    let summary = quota.take_snapshots().await.unwrap();
    assert_eq!((summary.workspaces, summary.snapshots), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_workspaces_with_eight_types_take_a_bounded_number_of_statements() {
    let Place::Sqlite(pool, _directory) = Place::sqlite().await else { panic!() };
    let (catalog, workspaces) = (ResourceCatalog::default(), 10_000);
    sqlx::raw_sql(AssertSqlSafe(format!(
        r#"CREATE TABLE "All" ("kind" TEXT NOT NULL, "workspaceId" TEXT NOT NULL, PRIMARY KEY ("kind", "workspaceId"));
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {workspaces})
        INSERT INTO "All" SELECT k.value, 'w' || i FROM n, json_each('{}') k;
        INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt", "maxSegments")
        SELECT DISTINCT lower(hex(randomblob(16))), "workspaceId", 1, '2024-01-01T00:00:00Z', '2024-01-01T00:00:00Z', 7 FROM "All"
        WHERE "kind" = 'segments'"#,
        json!(catalog.iter().map(|resource| resource.name()).collect::<Vec<_>>())
    )))
    .execute(&pool)
    .await
    .unwrap();
    let store = SqliteStore::new(pool.clone(), &catalog).await.unwrap();
    let tables = catalog.iter().map(|resource| {
        let filter = format!("\"kind\" = '{}'", resource.name());
        (resource.name().to_owned(), SqlTable::new("All").filter(filter))
    });
    let usage = SqliteUsage::builder(pool.clone(), &catalog).tables(tables).build().unwrap();
    let quota = Quota::builder(catalog.clone()).store(store).usage(usage).snapshots(None).build().unwrap();
    let begun = std::time::Instant::now();
    let summary = quota.take_snapshots().await.unwrap();
    println!("{summary:?} in {:?}", begun.elapsed());
    // 500 readings a statement, of 500 workspaces at a time.
    assert_eq!((summary.workspaces, summary.snapshots, summary.batches), (workspaces, workspaces * 8, 160));
    let limits =
        r#"SELECT count(*) FROM "QuotaSnapshot" WHERE "resourceType" = 'segments' AND "limit" = 7 AND "last" = 1"#;
    let seven: i64 = sqlx::query_scalar(limits).fetch_one(&pool).await.unwrap();
    assert_eq!(u64::try_from(seven).unwrap(), workspaces);
}
