//! What every removal of rows above a limit promises. Each test has a host to itself.

use std::collections::{BTreeSet, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_quota::{Cleaned, Cleanup, CleanupPolicy, Error, Excess, SqlTable};

use crate::counts::{Host, metered, segments};
use crate::workspace;

const POLICIES: [CleanupPolicy; 2] = [CleanupPolicy::Archive, CleanupPolicy::Delete];

/// Rows of acme, of which a number are filtered, and 3 of another workspace; and the archive.
pub(crate) fn table() -> SqlTable {
    SqlTable::new("Event").workspace_column("ws").filter(r#""hidden" = 0"#).newest_first("made", "id")
}

/// `rows` that count, each newer than the one before; the newest of all don't count.
pub(crate) async fn fill(host: &impl Host, rows: u32) {
    host.run(
        r#"CREATE TABLE "Event" ("id" INTEGER PRIMARY KEY, "ws" TEXT, "made" TEXT, "hidden" INTEGER);
           CREATE TABLE "Log" ("entry" TEXT NOT NULL)"#,
    )
    .await;
    let counted = (1..=rows).map(|id| format!("({id}, 'acme', '2026-01-01T00:00:{id:04}Z', 0)"));
    let others = (1..=3).flat_map(|at| {
        [format!("({}, 'acme', '2999', 1)", 10_000 + at), format!("({}, 'other', '2999', 0)", 20_000 + at)]
    });
    let values: Vec<String> = counted.chain(others).collect();
    host.run(&format!(r#"INSERT INTO "Event" VALUES {}"#, values.join(", "))).await;
}

pub(crate) async fn clean(
    cleanup: &dyn Cleanup,
    keep: u64,
    at_most: u64,
    policy: CleanupPolicy,
) -> Result<Cleaned, Error> {
    let (acme, catalog) = (workspace("acme"), metered());
    let excess = Excess::new(&acme, catalog.by_name("segments").unwrap(), keep, at_most);
    cleanup.clean(excess.policy(policy)).await
}

/// With an entry in `"Log"`.
pub(crate) async fn clean_and_log(cleanup: &dyn Cleanup, keep: u64, at_most: u64) -> Result<Cleaned, Error> {
    let (acme, catalog) = (workspace("acme"), metered());
    let excess = Excess::new(&acme, catalog.by_name("segments").unwrap(), keep, at_most);
    let record =
        |cleaned: &Cleaned| vec![(r#"INSERT INTO "Log" VALUES ($1)"#.to_owned(), vec![cleaned.rows.join(" ")])];
    cleanup.clean(excess.policy(CleanupPolicy::Archive).record(&record)).await
}

/// The ids of acme's rows that count.
pub(crate) async fn left(host: &impl Host) -> Vec<u32> {
    let ids = host
        .texts(r#"SELECT CAST("id" AS TEXT) FROM "Event" WHERE "ws" = 'acme' AND "hidden" = 0 ORDER BY "Event"."id""#)
        .await;
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

/// The ids in the archive, in the order in which they came there; and those in the log.
pub(crate) async fn archived(host: &impl Host) -> (Vec<u32>, Vec<u32>) {
    let rows = host.texts(r#"SELECT CAST("row" AS TEXT) FROM "QuotaArchive" ORDER BY "id""#).await;
    let id = |row: &String| {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        assert_eq!((row["ws"].as_str(), row["hidden"].as_i64()), (Some("acme"), Some(0)));
        u32::try_from(row["id"].as_u64().unwrap()).unwrap()
    };
    let logged = host.texts(r#"SELECT "entry" FROM "Log""#).await;
    let logged = logged.iter().flat_map(|entry| entry.split(' ')).map(|id| id.parse().unwrap());
    (rows.iter().map(id).collect(), logged.collect())
}

fn owned(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

async fn others_are_untouched(host: &impl Host) {
    let others = host.texts(r#"SELECT "ws" FROM "Event" WHERE "ws" = 'other' OR "hidden" = 1"#).await;
    assert_eq!(others.len(), 6);
}

pub(crate) async fn the_newest_go_first_and_what_is_kept_stays<H: Host>(host: H) {
    for policy in POLICIES {
        fill(&host, 10).await;
        host.run(H::ARCHIVE).await;
        // Two that are as new as the newest, and two that nobody knows the age of.
        host.run(
            r#"INSERT INTO "Event" VALUES (12, 'acme', '2026-01-01T00:00:0010Z', 0), (11, 'acme', '2026-01-01T00:00:0010Z', 0),
               (101, 'acme', NULL, 0), (100, 'acme', NULL, 0)"#,
        )
        .await;
        let cleanup = host.cleanup(table()).unwrap();
        let order = ["12", "11", "10", "9", "8", "7", "6", "5", "4", "3", "2", "1", "101", "100"];
        for (keep, at_most) in
            [(0, 100), (0, 3), (13, 5), (14, 5), (99, 5), (5, 0), (u64::MAX, u64::MAX), (0, u64::MAX)]
        {
            let told = clean(&*cleanup, keep, at_most, CleanupPolicy::Report).await.unwrap();
            let above = 14_u64.saturating_sub(keep);
            let expected = &order[..usize::try_from(above.min(at_most)).unwrap()];
            assert_eq!((told.above, &*told.rows), (above, owned(expected).as_slice()), "{keep}, {at_most}");
        }
        assert_eq!(left(&host).await.len(), 14, "a report changes nothing");
        for (at, batch) in (0..).zip(order[..12].chunks(5)) {
            let cleaned = clean(&*cleanup, 2, 5, policy).await.unwrap();
            assert_eq!((cleaned.above, cleaned.rows), (12 - 5 * at, owned(batch)));
        }
        let cleaned = clean(&*cleanup, 2, 5, policy).await.unwrap();
        assert_eq!((cleaned.above, cleaned.rows), (0, Vec::new()));
        assert_eq!(left(&host).await, [100, 101]);
        let kept = if policy == CleanupPolicy::Archive { 12 } else { 0 };
        assert_eq!(archived(&host).await.0.len(), kept);
        // More than one statement can name.
        let more: Vec<String> = (1000..2500).map(|id| format!("({id}, 'acme', '2027', 0)")).collect();
        host.run(&format!(r#"INSERT INTO "Event" VALUES {}"#, more.join(", "))).await;
        let cleaned = clean(&*cleanup, 7, 100_000, policy).await.unwrap();
        assert_eq!((cleaned.above, cleaned.rows.len(), &*cleaned.rows[0]), (1495, 1495, "2499"));
        assert_eq!(left(&host).await, [100, 101, 1000, 1001, 1002, 1003, 1004]);
        others_are_untouched(&host).await;
        host.run(r#"DROP TABLE "Event"; DROP TABLE "Log"; DROP TABLE "QuotaArchive""#).await;
    }
}

pub(crate) async fn the_archive_has_the_whole_row<H: Host>(host: H) {
    let [bytes, value, archived] = H::BYTES;
    host.run(H::ARCHIVE).await;
    host.run(&format!(
        r#"CREATE TABLE "Segment2" ("id" VARCHAR(40) PRIMARY KEY, "workspaceId" TEXT, "made" INTEGER, "raw" {bytes},
             "big" BIGINT, "real" DOUBLE PRECISION, "o'd""d" TEXT, "none" TEXT, "Segment2" INTEGER);
           INSERT INTO "Segment2" VALUES ('it''s "1"', 'acme', 1, {value}, 9007199254740993, 0.1, 'a"b''c
\n é 日本', NULL, 7);
           UPDATE "Segment2" SET "real" = "real" + 0.2;
           INSERT INTO "Segment2" VALUES ('2', 'acme', 0, NULL, -9223372036854775807, 1e300, '', '', 8)"#
    ))
    .await;
    let cleanup = host.cleanup(SqlTable::new("Segment2").newest_first("made", "id")).unwrap();
    let cleaned = clean(&*cleanup, 0, 9, CleanupPolicy::Archive).await.unwrap();
    assert_eq!(cleaned.rows, ["it's \"1\"", "2"]);
    let rows = host.texts(r#"SELECT CAST("row" AS TEXT) FROM "QuotaArchive""#).await;
    let row = rows.iter().find(|row| row.contains("it's")).unwrap();
    assert!(row.contains("9007199254740993") && row.contains("0.30000000000000004"), "{row}");
    let row: serde_json::Value = serde_json::from_str(row).unwrap();
    assert_eq!(row.as_object().unwrap().len(), 9, "{row}");
    assert_eq!((&row["id"], &row["workspaceId"], &row["made"]), (&"it's \"1\"".into(), &"acme".into(), &1.into()));
    assert_eq!(row["raw"], serde_json::from_str::<serde_json::Value>(archived).unwrap());
    assert_eq!((row["o'd\"d"].as_str(), &row["none"]), (Some("a\"b'c\n\\n é 日本"), &serde_json::Value::Null));
    let other = rows.iter().find(|row| !row.contains("it's")).unwrap();
    let other: serde_json::Value = serde_json::from_str(other).unwrap();
    assert_eq!((&other["big"], &other["real"]), (&(-9223372036854775807_i64).into(), &1e300.into()));
    assert_eq!((&other["raw"], &other["none"], &other["Segment2"]), (&serde_json::Value::Null, &"".into(), &8.into()));
    let names = r#"SELECT "workspaceId" || ' ' || "resourceType" FROM "QuotaArchive""#;
    assert_eq!(host.texts(names).await, ["acme segments"; 2]);
    let times = host.texts(r#"SELECT CAST("archivedAt" AS TEXT) FROM "QuotaArchive""#).await;
    assert!(times.iter().all(|time| time.starts_with("20") && time.len() >= 19), "{times:?}");
}

/// Is polled so many times, and then dropped, in the middle of whatever it was at.
struct GivenUp<F> {
    work: Pin<Box<F>>,
    polls: u32,
}

impl<T, F: Future<Output = T>> Future for GivenUp<F> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        self.work.as_mut().poll(context).map(Some)
    }
}

pub(crate) async fn what_is_given_up_in_the_middle_is_all_or_nothing<H: Host>(host: H) {
    const ROWS: u32 = 400;
    fill(&host, ROWS).await;
    host.run(H::ARCHIVE).await;
    let cleanup = host.cleanup(table()).unwrap();
    let mut ended = 0;
    for polls in 1.. {
        let work = Box::pin(clean_and_log(&*cleanup, 10, 3));
        if let Some(cleaned) = (GivenUp { work, polls }).await {
            assert_eq!(cleaned.unwrap().rows.len(), 3);
            ended += 1;
        }
        let ((moved, logged), left) = (archived(&host).await, left(&host).await);
        assert_eq!(moved.len() + left.len(), ROWS as usize, "after {polls}");
        assert_eq!(moved.len() % 3, 0);
        assert_eq!(moved.iter().chain(&left).collect::<HashSet<_>>().len(), ROWS as usize);
        assert_eq!(moved.iter().collect::<BTreeSet<_>>(), logged.iter().collect::<BTreeSet<_>>());
        // Whether it takes a few polls more is up to the machine.
        if ended == 5 {
            break;
        }
    }
    others_are_untouched(&host).await;
}

pub(crate) async fn what_fails_in_the_middle_changes_nothing<H: Host>(host: H) {
    fill(&host, 20).await;
    host.run(H::ARCHIVE).await;
    let cleanup = host.cleanup(table()).unwrap();
    let (acme, catalog) = (workspace("acme"), metered());
    let excess = Excess::new(&acme, catalog.by_name("segments").unwrap(), 10, 4).policy(CleanupPolicy::Archive);
    let fails = |_: &Cleaned| {
        let insert = |value: &str| (format!(r#"INSERT INTO "Log" VALUES ({value})"#), Vec::new());
        vec![insert("'1'"), insert("NULL")]
    };
    let error = cleanup.clean(excess.record(&fails)).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("recording"), "{error}");
    let at_work = Arc::clone(&cleanup);
    let panics = tokio::spawn(async move {
        let (acme, catalog) = (workspace("acme"), metered());
        let excess = Excess::new(&acme, catalog.by_name("segments").unwrap(), 10, 4).policy(CleanupPolicy::Delete);
        at_work.clean(excess.record(&|_| panic!("in the middle"))).await
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert_eq!(archived(&host).await, (vec![], vec![]));
    assert_eq!(left(&host).await.len(), 20);
    clean_and_log(&*cleanup, 10, 4).await.unwrap();
    let (mut moved, logged) = archived(&host).await;
    moved.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!((moved, logged), (vec![20, 19, 18, 17], vec![20, 19, 18, 17]));
    // Nothing to remove, nothing to record.
    cleanup
        .clean(
            Excess::new(&acme, catalog.by_name("segments").unwrap(), 16, 4)
                .policy(CleanupPolicy::Delete)
                .record(&fails),
        )
        .await
        .unwrap();
}

pub(crate) async fn several_at_once_never_leave_less_than_is_kept<H: Host>(host: H) {
    fill(&host, 200).await;
    host.run(H::ARCHIVE).await;
    let cleanup = host.cleanup(table()).unwrap();
    let cleaners = (0..4).map(|_| {
        let cleanup = Arc::clone(&cleanup);
        tokio::spawn(async move {
            let mut removed = Vec::new();
            loop {
                let rows = clean_and_log(&*cleanup, 10, 7).await.unwrap().rows;
                if rows.is_empty() {
                    return removed;
                }
                removed.extend(rows);
            }
        })
    });
    let mut removed: Vec<u32> = Vec::new();
    for cleaner in cleaners.collect::<Vec<_>>() {
        removed.extend(cleaner.await.unwrap().iter().map(|id| id.parse::<u32>().unwrap()));
    }
    removed.sort_unstable();
    assert_eq!(left(&host).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(removed, (11..=200).collect::<Vec<_>>());
    let (mut moved, mut logged) = archived(&host).await;
    moved.sort_unstable();
    logged.sort_unstable();
    assert_eq!((&moved, &logged), (&removed, &removed));
    others_are_untouched(&host).await;
}

pub(crate) async fn rows_that_others_refer_to_stay<H: Host>(host: H) {
    host.run(H::ARCHIVE).await;
    // Told by the statement, and told only by the commit.
    for deferred in ["", "DEFERRABLE INITIALLY DEFERRED"] {
        fill(&host, 6).await;
        host.run(&format!(
            r#"CREATE TABLE "Child" ("event" INTEGER REFERENCES "Event" ("id") {deferred}); INSERT INTO "Child" VALUES (5)"#
        ))
        .await;
        let cleanup = host.cleanup(table()).unwrap();
        for policy in POLICIES {
            let error = clean(&*cleanup, 2, 3, policy).await.unwrap_err();
            assert!(error.is_config() && error.message().contains("rows of other tables refer to them"), "{error}");
            assert_eq!(left(&host).await.len(), 6);
            assert_eq!(archived(&host).await, (vec![], vec![]));
        }
        // Where nothing refers to it, it goes.
        assert_eq!(clean(&*cleanup, 2, 1, CleanupPolicy::Delete).await.unwrap().rows, ["6"]);
        host.run(r#"DROP TABLE "Child"; DROP TABLE "Event"; DROP TABLE "Log""#).await;
    }
}

pub(crate) async fn what_cannot_be_cleaned_up_is_an_error<H: Host>(host: H) {
    fill(&host, 6).await;
    let cleanup = host.cleanup(table()).unwrap();
    let error = clean(&*cleanup, 2, 3, CleanupPolicy::Archive).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("\"QuotaArchive\" is missing"), "{error}");
    host.run(H::ARCHIVE).await;

    let error = clean(&*host.cleanup(segments()).unwrap(), 2, 3, CleanupPolicy::Report).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("newest_first"), "{error}");
    for (order, id, says) in [("made\"", "id", "the order column"), ("made", "i d", "the id column")] {
        let Err(error) = host.cleanup(table().newest_first(order, id)) else { panic!("{says}") };
        assert!(error.is_config() && error.message().contains(says), "{error}");
    }
    for (order, id, policy) in [
        ("age", "id", CleanupPolicy::Report),
        ("age", "id", CleanupPolicy::Delete),
        ("made", "key", CleanupPolicy::Archive),
    ] {
        let error = clean(&*host.cleanup(table().newest_first(order, id)).unwrap(), 2, 3, policy).await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains("a column is missing"), "{error}");
    }
    // What identifies several rows is no id: more would go than is above.
    for policy in POLICIES {
        let cleanup = host.cleanup(table().newest_first("made", "ws")).unwrap();
        let error = clean(&*cleanup, 2, 3, policy).await.unwrap_err();
        assert!(error.is_config() && error.message().contains("an id of its own"), "{error}");
    }
    assert_eq!((left(&host).await.len(), archived(&host).await), (6, (vec![], vec![])));
    host.close().await;
    assert!(clean(&*cleanup, 2, 3, CleanupPolicy::Delete).await.unwrap_err().is_unavailable());
}
