//! What every count over a host's own tables promises. Each test has a host to itself.

use std::sync::Arc;

use tower_quota::{Cleanup, Error, Limit, ResourceCatalog, ResourceSpec, SqlTable, UsageSource};

use crate::workspace;

/// `Segment`: 2000 rows of acme named s0 to s1999, every tenth archived; 3 of another workspace.
pub(crate) const TABLES: &str = r#"
CREATE TABLE "Segment" ("id" INTEGER PRIMARY KEY, "ws" TEXT, "name" TEXT, "archived" INTEGER, "a`b""c" TEXT);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1999)
INSERT INTO "Segment" SELECT i, 'acme', 's' || i, CASE i % 10 WHEN 0 THEN 1 ELSE 0 END, 'say "x"' FROM n;
INSERT INTO "Segment" VALUES
    (5001, 'other', 'o1', 0, ''), (5002, 'other', 'o2', 0, ''), (5003, 'other', 's1', 0, '');
CREATE TABLE "CustomMetric" ("workspaceId" TEXT);
"#;

/// A database with these tables.
pub(crate) trait Host {
    /// Filters that only this dialect understands, and how many of acme's rows they leave.
    const FILTERS: &'static [(&'static str, u64)];

    async fn start() -> Self;

    /// How a column of text is declared that isn't ordered, or compared, by its bytes.
    const COLLATED: &'static str;

    /// Counts the types of a catalog in these tables.
    fn usage_of(
        &self,
        catalog: &ResourceCatalog,
        tables: impl IntoIterator<Item = (&'static str, SqlTable)>,
    ) -> Result<Arc<dyn UsageSource>, Error>;

    /// Counts segments in this table. The other type has its own.
    fn usage(&self, table: SqlTable) -> Result<Arc<dyn UsageSource>, Error> {
        self.usage_of(&metered(), [("segments", table)])
    }

    /// The migration that makes the archive.
    const ARCHIVE: &'static str;

    /// A type of bytes, some of them, and what the archive has for them.
    const BYTES: [&'static str; 3];

    /// Removes segments of this table.
    fn cleanup(&self, table: SqlTable) -> Result<Arc<dyn Cleanup>, Error>;

    /// The texts that a query has in its one column.
    async fn texts(&self, sql: &str) -> Vec<String>;

    /// Has the database check the queries.
    async fn check(&self, table: SqlTable) -> Result<(), Error>;

    /// What a set-up without tables of its own says.
    fn unmapped(&self) -> Error;

    async fn run(&self, sql: &str);

    async fn close(&self);
}

pub(crate) fn metered() -> ResourceCatalog {
    ResourceCatalog::empty()
        .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(50)))
        .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)).table("CustomMetric"))
        .build()
        .unwrap()
}

pub(crate) fn segments() -> SqlTable {
    SqlTable::new("Segment").workspace_column("ws")
}

pub(crate) async fn count(usage: &dyn UsageSource, id: &str, at_most: Option<u64>) -> Result<u64, Error> {
    usage.count(&workspace(id), metered().by_name("segments").unwrap(), at_most).await
}

pub(crate) async fn counts_are_of_one_workspace_and_may_stop_early(host: impl Host) {
    let usage = host.usage(segments()).unwrap();
    host.check(segments()).await.unwrap();
    for (at_most, rows) in
        [(None, 2000), (Some(0), 0), (Some(51), 51), (Some(2000), 2000), (Some(9999), 2000), (Some(u64::MAX), 2000)]
    {
        assert_eq!(count(&*usage, "acme", at_most).await.unwrap(), rows, "{at_most:?}");
    }
    assert_eq!(count(&*usage, "other", None).await.unwrap(), 3);
    assert_eq!(count(&*usage, "none", None).await.unwrap(), 0);
    let metrics = metered();
    let metrics = metrics.by_name("customMetrics").unwrap();
    assert_eq!(usage.count(&workspace("acme"), metrics, None).await.unwrap(), 0);
    host.run(r#"INSERT INTO "CustomMetric" VALUES ('acme')"#).await;
    assert_eq!(usage.count(&workspace("acme"), metrics, None).await.unwrap(), 1);
}

pub(crate) async fn a_filter_narrows_the_count<H: Host>(host: H) {
    let common = [
        (r#""archived" = 0"#, 1800),
        (r#""Segment"."archived" = 1 OR "name" = 's1'"#, 201),
        ("archived = 0 AND name <> 'it''s -- \"archived\"'", 1800),
        (r#""a`b""c" = 'say "x"'"#, 2000),
        (r#"EXISTS (SELECT 1 FROM "Segment" AS "o" WHERE "o"."ws" = 'other' AND "o"."name" = "Segment"."name")"#, 1),
    ];
    for (filter, rows) in common.iter().chain(H::FILTERS) {
        let usage = host.usage(segments().filter(*filter)).unwrap();
        assert_eq!(count(&*usage, "acme", None).await.unwrap(), *rows, "{filter}");
    }
}

pub(crate) async fn what_cannot_be_counted_is_an_error_and_never_zero(host: impl Host) {
    for (table, says) in [
        (SqlTable::new("Sgement"), "no such table"),
        (SqlTable::new("Segment").workspace_column("workspace"), "a column is missing"),
        // SQLite on its own would compare the text 'archvied' with 0, and find that no row is counted.
        (segments().filter(r#""archvied" = 0"#), "a column is missing"),
        (segments().filter("archvied = 0"), "a column is missing"),
    ] {
        let usage = host.usage(table.clone()).unwrap();
        let counted = count(&*usage, "acme", None).await.unwrap_err();
        let checked = host.check(table).await.unwrap_err();
        assert!(counted.is_unavailable() && checked.is_config(), "{counted:?} {checked:?}");
        for error in [counted, checked] {
            assert!(error.message().contains(says), "{error}");
            assert!(error.message().contains("segments") && error.message().contains("table \"S"), "{error}");
        }
    }

    let usage = host.usage(segments()).unwrap();
    let values = ["s1".to_owned()];
    let (catalog, acme) = (metered(), workspace("acme"));
    let segments = catalog.by_name("segments").unwrap();
    let error = usage.existing(&acme, segments, "title", &values).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("a column is missing"), "{error}");
    let error = usage.existing(&acme, segments, "name\" --", &values).await.unwrap_err();
    assert!(error.is_config(), "{error}");
    let larger = ResourceCatalog::default();
    let unknown = usage.count(&acme, larger.by_name("journeys").unwrap(), None).await.unwrap_err();
    assert!(unknown.is_config(), "{unknown}");
    host.close().await;
    assert!(count(&*usage, "acme", None).await.unwrap_err().is_unavailable());
}

pub(crate) async fn an_incomplete_mapping_is_told_at_the_start(host: impl Host) {
    let error = host.unmapped();
    assert!(error.is_config() && error.message().contains("no table is known for segments"), "{error}");
    for (table, says) in [
        (SqlTable::new("a\"b"), "not an identifier"),
        (SqlTable::new("a").workspace_column("b c"), "not an identifier"),
        (segments().filter("name = 'x)"), "quote is not closed"),
        (segments().filter("1 -- all"), "comments"),
        (segments().filter("1 /* all */"), "comments"),
    ] {
        let Err(error) = host.usage(table) else { panic!("{says}") };
        assert!(error.is_config() && error.message().contains(says), "{error}");
    }
}

pub(crate) async fn existing_rows_are_found_among_thousands_of_values(host: impl Host) {
    let usage = host.usage(segments().filter("\"archived\" = 0")).unwrap();
    let (catalog, acme) = (metered(), workspace("acme"));
    let segments = catalog.by_name("segments").unwrap();
    // From s1000 to s2999: every tenth is archived, the second half isn't there. Names of other workspaces don't
    // count, and a value may be asked for twice.
    let mut values: Vec<String> = (1000..3000).map(|number| format!("s{number}")).collect();
    values.extend(["o1", "s1", "s1", "S1", "' OR 1 = 1 --", "s1\0"].map(str::to_owned));
    let mut expected: Vec<bool> = (1000..3000).map(|number| number % 10 != 0 && number < 2000).collect();
    expected.extend([false, true, true, false, false, false]);
    assert_eq!(usage.existing(&acme, segments, "name", &values).await.unwrap(), expected);

    let ids = ["1", "01", "10", "1.0", "5001", "x"].map(str::to_owned);
    let found = usage.existing(&acme, segments, "id", &ids).await.unwrap();
    assert_eq!(found, [true, false, false, false, false, false]);
    assert!(usage.existing(&acme, segments, "id", &[]).await.unwrap().is_empty());

    // Those that are archived, too, but none of other workspaces.
    expected.splice(..2000, (1000..3000).map(|number| number < 2000));
    assert_eq!(usage.existing_or_uncounted(&acme, segments, "name", &values).await.unwrap(), expected);
    let error = usage.existing_or_uncounted(&acme, segments, "na me", &values).await.unwrap_err();
    assert!(error.is_config());
}

/// Runs these on a host.
macro_rules! counts {
    ($host:ty) => {
        counts!(
            $host,
            counts,
            counts_are_of_one_workspace_and_may_stop_early,
            a_filter_narrows_the_count,
            what_cannot_be_counted_is_an_error_and_never_zero,
            an_incomplete_mapping_is_told_at_the_start,
            existing_rows_are_found_among_thousands_of_values,
        );
        counts!(
            $host,
            cleanup,
            the_newest_go_first_and_what_is_kept_stays,
            the_archive_has_the_whole_row,
            what_is_given_up_in_the_middle_is_all_or_nothing,
            what_fails_in_the_middle_changes_nothing,
            several_at_once_never_leave_less_than_is_kept,
            rows_that_others_refer_to_stay,
            what_cannot_be_cleaned_up_is_an_error,
        );
        counts!(
            $host,
            pages,
            all_workspaces_are_listed_by_their_bytes,
            rows_may_be_written_meanwhile,
            workspaces_that_are_no_texts_are_listed_by_their_texts,
            what_cannot_be_listed_is_an_error,
        );
    };
    ($host:ty, $suite:ident, $($test:ident,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                crate::$suite::$test(<$host as crate::counts::Host>::start().await).await;
            }
        )+
    };
}
pub(crate) use counts;

/// The methods that are the same with any pool.
macro_rules! host {
    ($usage:ty) => {
        fn usage_of(
            &self,
            catalog: &ResourceCatalog,
            tables: impl IntoIterator<Item = (&'static str, SqlTable)>,
        ) -> Result<Arc<dyn UsageSource>, Error> {
            Ok(Arc::new(<$usage>::builder(self.pool.clone(), catalog).tables(tables).build()?))
        }

        fn cleanup(&self, table: SqlTable) -> Result<Arc<dyn Cleanup>, Error> {
            Ok(Arc::new(<$usage>::builder(self.pool.clone(), &metered()).table("segments", table).build()?))
        }

        async fn texts(&self, sql: &str) -> Vec<String> {
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_all(&self.pool).await.unwrap()
        }

        async fn check(&self, table: SqlTable) -> Result<(), Error> {
            let usage = <$usage>::builder(self.pool.clone(), &metered()).table("segments", table).build()?;
            // In a task, as hosts do: the future is `Send`.
            tokio::spawn(async move { usage.check().await }).await.unwrap()
        }

        fn unmapped(&self) -> Error {
            let builder = <$usage>::builder(self.pool.clone(), &metered());
            let error = builder.clone().without("segments").table("journeys", segments()).build().unwrap_err();
            assert!(error.is_config() && error.message().contains("unknown resource type"), "{error}");
            builder.build().unwrap_err()
        }

        async fn run(&self, sql: &str) {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
        }

        async fn close(&self) {
            self.pool.close().await;
        }
    };
}
pub(crate) use host;
