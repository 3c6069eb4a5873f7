//! Every store keeps the same promises, and counts are those of a real database.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tower_quota::{
    ClosureUsage, Error, Expect, Limit, LimitSet, MemoryStore, QuotaStore, ResourceCatalog, ResourceSpec, UsageSource,
    WorkspaceFormat, WorkspaceId,
};

fn catalog() -> ResourceCatalog {
    ResourceCatalog::builder()
        .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)).table("CustomMetric"))
        .build()
        .unwrap()
}

fn workspace(id: &str) -> WorkspaceId {
    WorkspaceFormat::Verbatim.parse(id).unwrap()
}

/// `{"maxSegments": 5}` as a set.
fn limits(catalog: &ResourceCatalog, entries: &[(&str, Limit)]) -> LimitSet {
    entries.iter().map(|(field, limit)| (catalog.by_limit_field(field).unwrap().id(), *limit)).collect()
}

/// What every store promises. Each test has a store to itself.
mod suite {
    use super::*;

    pub(crate) async fn provisioning_happens_once(store: Arc<dyn QuotaStore>) {
        let acme = workspace("acme");
        assert_eq!(store.load(&acme).await.unwrap(), None);
        let made = store.provision(&acme).await.unwrap();
        assert_eq!((made.version, &made.workspace, made.limits.is_empty()), (1, &acme, true));
        assert_eq!(made.id.get_version_num(), 7);
        assert_eq!(made.created_at, made.updated_at);
        assert_eq!(store.provision(&acme).await.unwrap(), made);
        assert_eq!(store.load(&acme).await.unwrap(), Some(made.clone()));
        let other = store.provision(&workspace("Acme")).await.unwrap();
        assert_ne!(other.id, made.id);
    }

    pub(crate) async fn provisioning_races_make_one_record(store: Arc<dyn QuotaStore>) {
        let tasks: Vec<_> = (0..32)
            .map(|_| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { store.provision(&workspace("acme")).await.unwrap() })
            })
            .collect();
        let record = store.provision(&workspace("acme")).await.unwrap();
        for task in tasks {
            assert_eq!(task.await.unwrap(), record);
        }
    }

    pub(crate) async fn an_update_leaves_other_limits_alone(store: Arc<dyn QuotaStore>) {
        let (catalog, acme) = (catalog(), workspace("acme"));
        let first = limits(&catalog, &[("maxUsers", Limit::of(5)), ("maxSegments", Limit::of(6))]);
        let made = store.update(&acme, &first, &Expect::Anything).await.unwrap();
        assert_eq!((made.version, &made.limits), (1, &first));

        let second = limits(&catalog, &[("maxSegments", Limit::of(7)), ("maxJourneys", Limit::Unlimited)]);
        let changed = store.update(&acme, &second, &Expect::Anything).await.unwrap();
        assert_eq!((changed.version, changed.id, changed.created_at), (2, made.id, made.created_at));
        assert!(changed.updated_at >= made.updated_at);
        let all = [("maxUsers", Limit::of(5)), ("maxSegments", Limit::of(7)), ("maxJourneys", Limit::Unlimited)];
        assert_eq!(changed.limits, limits(&catalog, &all));
        assert_eq!(store.load(&acme).await.unwrap(), Some(changed));
    }

    pub(crate) async fn every_limit_comes_back(store: Arc<dyn QuotaStore>) {
        let (catalog, acme) = (catalog(), workspace("acme"));
        let largest = Limit::finite(Limit::MAX).unwrap();
        for limit in [Limit::Unlimited, Limit::of(0), Limit::of(1), largest] {
            let all = catalog.iter().map(|resource| (resource.id(), limit)).collect();
            let changed = store.update(&acme, &all, &Expect::Anything).await.unwrap();
            assert_eq!(changed.limits, all);
            assert_eq!(store.load(&acme).await.unwrap().unwrap().limits, all);
        }
    }

    pub(crate) async fn conditions_guard_an_update(store: Arc<dyn QuotaStore>) {
        let (catalog, acme) = (catalog(), workspace("acme"));
        let changes = limits(&catalog, &[("maxUsers", Limit::of(5))]);
        let nothing = LimitSet::new();
        let one = Expect::Versions(vec![1]);

        for expect in [&Expect::Existing, &one] {
            for changes in [&changes, &nothing] {
                let error = store.update(&acme, changes, expect).await.unwrap_err();
                assert!(error.is_conflict(), "{error}");
                assert!(error.message().contains("acme"), "{error}");
                assert_eq!(store.load(&acme).await.unwrap(), None, "a condition that fails makes no record");
            }
        }

        store.provision(&acme).await.unwrap();
        assert_eq!(store.update(&acme, &changes, &one).await.unwrap().version, 2);
        let many: Vec<u64> = (10..40).chain([u64::MAX]).collect();
        for versions in [vec![1], vec![], vec![u64::MAX], many.clone()] {
            for changes in [&changes, &nothing] {
                let error = store.update(&acme, changes, &Expect::Versions(versions.clone())).await.unwrap_err();
                assert!(error.is_conflict(), "{error}");
                assert!(error.message().len() < 300, "{error}");
            }
        }
        assert_eq!(store.load(&acme).await.unwrap().unwrap().version, 2);
        let several = Expect::Versions(many.into_iter().chain([2]).collect());
        assert_eq!(store.update(&acme, &changes, &several).await.unwrap().version, 3);
        assert_eq!(store.update(&acme, &changes, &Expect::Existing).await.unwrap().version, 4);
    }

    pub(crate) async fn no_changes_no_new_version(store: Arc<dyn QuotaStore>) {
        let (acme, nothing) = (workspace("acme"), LimitSet::new());
        let made = store.update(&acme, &nothing, &Expect::Anything).await.unwrap();
        assert_eq!(made.version, 1);
        for expect in [Expect::Anything, Expect::Existing, Expect::Versions(vec![1])] {
            assert_eq!(store.update(&acme, &nothing, &expect).await.unwrap(), made);
        }
    }

    pub(crate) async fn concurrent_updates_all_count(store: Arc<dyn QuotaStore>) {
        let catalog = catalog();
        let tasks: Vec<_> = (0..32_u32)
            .map(|number| {
                let (store, types) = (Arc::clone(&store), catalog.clone());
                tokio::spawn(async move {
                    // The first of each nine tasks fight over one field, the others have one each of the rest.
                    let resource = types.iter().nth(number as usize % types.len()).unwrap().id();
                    let changes = LimitSet::new().with(resource, Limit::of(number));
                    store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap().version
                })
            })
            .collect();
        let mut versions = Vec::new();
        for task in tasks {
            versions.push(task.await.unwrap());
        }
        versions.sort_unstable();
        assert_eq!(versions, (1..=32).collect::<Vec<u64>>(), "each update has a version to itself");
        let record = store.load(&workspace("acme")).await.unwrap().unwrap();
        for (index, (resource, limit)) in record.limits.iter().enumerate() {
            assert_eq!(resource.index(), index);
            assert_eq!(usize::try_from(limit.rows().unwrap()).unwrap() % catalog.len(), index);
        }
        assert_eq!(record.limits.iter().count(), catalog.len(), "no field was lost");
    }

    pub(crate) async fn one_of_many_conditional_updates_wins(store: Arc<dyn QuotaStore>) {
        let catalog = catalog();
        store.provision(&workspace("acme")).await.unwrap();
        let tasks: Vec<_> = (0..32)
            .map(|number| {
                let (store, changes) = (Arc::clone(&store), limits(&catalog, &[("maxUsers", Limit::of(number))]));
                tokio::spawn(
                    async move { store.update(&workspace("acme"), &changes, &Expect::Versions(vec![1])).await },
                )
            })
            .collect();
        let mut won = Vec::new();
        for task in tasks {
            match task.await.unwrap() {
                Ok(record) => won.push(record),
                Err(error) => assert!(error.is_conflict(), "{error}"),
            }
        }
        assert_eq!(won.len(), 1);
        assert_eq!(store.load(&workspace("acme")).await.unwrap().unwrap(), won[0]);
    }

    pub(crate) async fn odd_workspace_ids_stay_apart(store: Arc<dyn QuotaStore>) {
        let catalog = catalog();
        let long = "é".repeat(127) + "x";
        let ids =
            ["a'; DROP TABLE \"WorkspaceQuota\"; --", "a\"b", "a'b", "%", "$1", "NULL", "日本語 🦀", &long, "1", "01"];
        assert_eq!(long.len(), WorkspaceId::MAX_LEN);
        for (id, limit) in ids.into_iter().zip(0..) {
            let changes = limits(&catalog, &[("maxUsers", Limit::of(limit))]);
            store.update(&workspace(id), &changes, &Expect::Anything).await.unwrap();
        }
        for (id, limit) in ids.into_iter().zip(0..) {
            let record = store.load(&workspace(id)).await.unwrap().unwrap();
            assert_eq!((record.version, record.workspace.as_str()), (1, id));
            assert_eq!(record.limits, limits(&catalog, &[("maxUsers", Limit::of(limit))]));
        }
    }

    pub(crate) async fn it_answers(store: Arc<dyn QuotaStore>) {
        store.ping().await.unwrap();
    }
}

/// Runs the suite on the stores that `$open` makes; it returns one and what must outlive it.
macro_rules! conforms {
    ($module:ident, $open:expr) => {
        conforms!(
            $module,
            $open,
            provisioning_happens_once,
            provisioning_races_make_one_record,
            an_update_leaves_other_limits_alone,
            every_limit_comes_back,
            conditions_guard_an_update,
            no_changes_no_new_version,
            concurrent_updates_all_count,
            one_of_many_conditional_updates_wins,
            odd_workspace_ids_stay_apart,
            it_answers,
        );
    };
    ($module:ident, $open:expr, $($test:ident,)+) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $test() {
                    let (store, _directory) = $open.await;
                    suite::$test(Arc::new(store)).await;
                }
            )+
        }
    };
}

conforms!(memory, async { (MemoryStore::new(), ()) });

#[tokio::test]
async fn a_closure_counts_and_looks_up() {
    let (catalog, acme) = (ResourceCatalog::default(), workspace("acme"));
    let segments = catalog.by_name("segments").unwrap();
    let usage = ClosureUsage::new(|workspace: WorkspaceId, resource, at_most| async move {
        match resource.name() {
            "segments" if workspace.as_str() == "acme" => Ok(at_most.unwrap_or(45)),
            "users" => Err(Box::<dyn std::error::Error + Send + Sync>::from(Error::config("no users here"))),
            _ => Err("the host is down".into()),
        }
    });
    assert_eq!(usage.count(&acme, segments, None).await.unwrap(), 45);
    assert_eq!(usage.count(&acme, segments, Some(7)).await.unwrap(), 7);
    let error = usage.count(&workspace("other"), segments, None).await.unwrap_err();
    assert!(error.is_unavailable());
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("the host is down"));
    let own = usage.count(&acme, catalog.by_name("users").unwrap(), None).await.unwrap_err();
    assert!(own.is_config(), "an error of this crate is passed on");

    let values = ["a".to_owned(), "b".to_owned()];
    let error = usage.existing(&acme, segments, "name", &values).await.unwrap_err();
    assert!(error.is_config() && error.message().contains("with_existing"), "{error}");
    let usage = usage.with_existing(|_, _, column, values| async move {
        assert_eq!(column, "name");
        Ok::<_, Error>(values.iter().filter(|value| *value != "short").map(|value| value == "b").collect())
    });
    assert_eq!(usage.existing(&acme, segments, "name", &values).await.unwrap(), [false, true]);
    let error = usage.existing(&acme, segments, "name", &["short".to_owned()]).await.unwrap_err();
    assert!(error.is_config(), "{error}");
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use std::path::Path;

    use sqlx::migrate::{Migration, MigrationType, Migrator};
    use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
    use sqlx::{Column, Row, SqlSafeStr};
    use tempfile::TempDir;
    use tower_quota::{SqlTable, SqliteStore, SqliteUsage};

    use super::*;

    fn url(directory: &TempDir) -> String {
        format!("sqlite://{}", directory.path().join("quota.db").display())
    }

    async fn own_file() -> (SqliteStore, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        (SqliteStore::connect(&url(&directory), &catalog()).await.unwrap(), directory)
    }

    /// A pool as a host makes it, in SQLite's default journal mode.
    async fn pool(path: &Path) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
        SqlitePool::connect_with(options).await.unwrap()
    }

    async fn hosts_file() -> (SqliteStore, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(&directory.path().join("host.db")).await;
        (SqliteStore::new(pool, &catalog()).await.unwrap(), directory)
    }

    /// As hosts do in their own tests.
    async fn hosts_memory() -> (SqliteStore, ()) {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        (SqliteStore::new(pool, &catalog()).await.unwrap(), ())
    }

    conforms!(own_file_conforms, own_file());
    conforms!(hosts_file_conforms, hosts_file());
    conforms!(hosts_memory_conforms, hosts_memory());

    async fn run(pool: &SqlitePool, sql: &'static str) {
        sqlx::raw_sql(sql).execute(pool).await.unwrap();
    }

    #[tokio::test]
    async fn the_guides_query_answers() {
        let (store, _directory) = own_file().await;
        let changes = limits(
            &catalog(),
            &[("maxSegments", Limit::of(75)), ("maxJourneys", Limit::Unlimited), ("maxCustomMetrics", Limit::of(0))],
        );
        let record = store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap();

        let query = r#"SELECT * FROM "WorkspaceQuota" WHERE "workspaceId" = 'acme';"#;
        let rows = sqlx::raw_sql(query).fetch_all(store.pool()).await.unwrap();
        assert_eq!(rows.len(), 1);
        let columns: Vec<&str> = rows[0].columns().iter().map(Column::name).collect();
        assert_eq!(columns[..5], ["id", "workspaceId", "version", "createdAt", "updatedAt"]);
        assert_eq!(columns.len(), 5 + catalog().len());
        assert_eq!(rows[0].get::<&str, _>("id"), record.id.to_string());
        assert_eq!(rows[0].get::<i64, _>("version"), 1);
        assert_eq!(rows[0].get::<i64, _>("maxSegments"), 75);
        assert_eq!(rows[0].get::<i64, _>("maxJourneys"), -1);
        assert_eq!(rows[0].get::<i64, _>("maxCustomMetrics"), 0);
        assert_eq!(rows[0].get::<Option<i64>, _>("maxUsers"), None);
        let updated_at: &str = rows[0].get("updatedAt");
        assert_eq!((updated_at.len(), &updated_at[10..11], &updated_at[19..]), (20, "T", "Z"));
    }

    #[tokio::test]
    async fn an_operator_can_only_write_limits() {
        let (store, _directory) = own_file().await;
        store.provision(&workspace("acme")).await.unwrap();
        for sql in [
            r#"UPDATE "WorkspaceQuota" SET "maxUsers" = -2"#,
            r#"UPDATE "WorkspaceQuota" SET "maxUsers" = 'many'"#,
            r#"UPDATE "WorkspaceQuota" SET "version" = 0"#,
        ] {
            assert!(sqlx::raw_sql(sql).execute(store.pool()).await.is_err(), "{sql}");
        }
        run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "maxUsers" = 12"#).await;
        let record = store.load(&workspace("acme")).await.unwrap().unwrap();
        assert_eq!(record.limits, limits(&catalog(), &[("maxUsers", Limit::of(12))]));

        run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "createdAt" = 'yesterday'"#).await;
        let error = store.load(&workspace("acme")).await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains("acme"), "{error}");
    }

    #[tokio::test]
    async fn the_time_of_change_never_goes_back() {
        let (store, _directory) = own_file().await;
        store.provision(&workspace("acme")).await.unwrap();
        run(store.pool(), r#"UPDATE "WorkspaceQuota" SET "updatedAt" = '2999-01-01T00:00:00Z'"#).await;
        let changes = limits(&catalog(), &[("maxUsers", Limit::of(1))]);
        for expect in [Expect::Anything, Expect::Existing] {
            let record = store.update(&workspace("acme"), &changes, &expect).await.unwrap();
            assert_eq!(record.updated_at.to_string(), "2999-01-01T00:00:00Z");
        }
    }

    #[tokio::test]
    async fn changes_of_a_larger_catalog_are_refused() {
        let (store, _directory) = own_file().await;
        let larger = ResourceCatalog::builder()
            .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)))
            .resource(ResourceSpec::new("webhooks", "maxWebhooks", Limit::of(20)))
            .build()
            .unwrap();
        let changes = limits(&larger, &[("maxWebhooks", Limit::of(1))]);
        let error = store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap_err();
        assert!(error.is_unknown_resource(), "{error}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_fresh_file_may_be_opened_twice_at_once() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let open = || {
                let url = url(&directory);
                tokio::spawn(async move { SqliteStore::connect(&url, &catalog()).await })
            };
            let (one, two, three) = (open(), open(), open());
            let (one, two, three) =
                (one.await.unwrap().unwrap(), two.await.unwrap().unwrap(), three.await.unwrap().unwrap());
            let made = one.provision(&workspace("acme")).await.unwrap();
            assert_eq!(two.load(&workspace("acme")).await.unwrap().unwrap(), made);
            assert_eq!(three.provision(&workspace("acme")).await.unwrap(), made);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn updates_through_several_stores_all_count() {
        let (one, directory) = own_file().await;
        let two = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap();
        let stores = [Arc::new(one), Arc::new(two)];
        let tasks: Vec<_> = (0..32)
            .map(|number| {
                let store = Arc::clone(&stores[number % 2]);
                let changes = limits(&catalog(), &[("maxUsers", Limit::of(7))]);
                tokio::spawn(async move { store.update(&workspace("acme"), &changes, &Expect::Anything).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(stores[0].load(&workspace("acme")).await.unwrap().unwrap().version, 32);
    }

    fn hosts_migrations() -> Migrator {
        let up = |version, sql: &'static str| {
            Migration::new(version, "host".into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        Migrator::with_migrations(vec![
            up(1, r#"CREATE TABLE "Segment" ("workspaceId" TEXT NOT NULL)"#),
            up(2, r#"ALTER TABLE "Segment" ADD COLUMN "name" TEXT"#),
        ])
    }

    #[tokio::test]
    async fn the_hosts_migrations_are_left_alone() {
        for host_first in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let pool = pool(&directory.path().join("host.db")).await;
            if host_first {
                hosts_migrations().run(&pool).await.unwrap();
            }
            SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
            hosts_migrations().run(&pool).await.unwrap();
            let store = SqliteStore::new(pool.clone(), &catalog()).await.unwrap();
            store.provision(&workspace("acme")).await.unwrap();

            let hosts: Vec<i64> =
                sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY 1").fetch_all(&pool).await.unwrap();
            assert_eq!(hosts, [1, 2]);
            let ours: Vec<i64> =
                sqlx::query_scalar("SELECT version FROM _tower_quota_migrations").fetch_all(&pool).await.unwrap();
            assert_eq!(ours, [1]);
        }
    }

    #[tokio::test]
    async fn a_newer_schema_is_refused() {
        let (store, directory) = own_file().await;
        run(store.pool(), "INSERT INTO _tower_quota_migrations VALUES (99, '2999-01-01T00:00:00Z')").await;
        let error = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap_err();
        assert!(error.is_config() && error.message().contains("schema version 99"), "{error}");
    }

    #[tokio::test]
    async fn a_table_of_the_host_is_not_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(&directory.path().join("host.db")).await;
        run(&pool, r#"CREATE TABLE "WorkspaceQuota" ("id" TEXT)"#).await;
        let error = SqliteStore::new(pool.clone(), &catalog()).await.unwrap_err();
        assert!(error.is_config() && error.message().contains("rename it"), "{error}");
        let columns: i64 = sqlx::query_scalar("SELECT count(*) FROM pragma_table_info('WorkspaceQuota')")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(columns, 1);
    }

    #[tokio::test]
    async fn types_come_and_go_and_data_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (small, large, acme) = (ResourceCatalog::default(), catalog(), workspace("acme"));
        let open = async |catalog: &ResourceCatalog| SqliteStore::connect(&url(&directory), catalog).await.unwrap();

        let users = [("maxUsers", Limit::of(5))];
        let made = open(&small).await.update(&acme, &limits(&small, &users), &Expect::Anything).await.unwrap();

        let store = open(&large).await;
        assert_eq!(store.load(&acme).await.unwrap().unwrap(), made);
        let metrics = limits(&large, &[("maxCustomMetrics", Limit::of(9))]);
        store.update(&acme, &metrics, &Expect::Versions(vec![1])).await.unwrap();

        let record = open(&small).await.load(&acme).await.unwrap().unwrap();
        assert_eq!((record.version, record.limits), (2, limits(&small, &users)));
        let record = open(&large).await.load(&acme).await.unwrap().unwrap();
        assert_eq!(record.limits, limits(&large, &[users[0], ("maxCustomMetrics", Limit::of(9))]));
    }

    #[tokio::test]
    async fn what_cannot_be_opened_says_how_to_fix_it() {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("notes.txt");
        std::fs::write(&text, "not a database, but long enough to be looked at: ".repeat(40)).unwrap();
        let missing = format!("sqlite://{}", directory.path().join("missing/quota.db").display());
        for (url, says) in [
            (missing.as_str(), "its directory must exist"),
            (&format!("sqlite://{}", text.display()), "something else"),
            (&format!("{}?mode=nonsense", url(&directory)), "is not the URL"),
            (&format!("{}?mode=ro", url(&directory)), "allowed to write"),
            ("sqlite::memory:", "MemoryStore"),
            ("sqlite://quota?mode=memory", "MemoryStore"),
            ("sqlite://", "MemoryStore"),
        ] {
            let error = SqliteStore::connect(url, &catalog()).await.unwrap_err();
            assert!(error.is_config() && error.message().contains(says), "{url}: {error:?}");
        }
    }

    #[tokio::test]
    async fn a_lost_table_or_pool_is_told() {
        let (store, directory) = own_file().await;
        run(store.pool(), r#"DROP TABLE "WorkspaceQuota""#).await;
        let changes = limits(&catalog(), &[("maxUsers", Limit::of(5))]);
        for error in [
            store.load(&workspace("acme")).await.unwrap_err(),
            store.provision(&workspace("acme")).await.unwrap_err(),
            store.update(&workspace("acme"), &changes, &Expect::Anything).await.unwrap_err(),
        ] {
            assert!(error.is_unavailable() && error.message().contains("is gone"), "{error}");
            assert!(std::error::Error::source(&error).is_some());
        }
        let error = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap_err();
        assert!(error.is_config() && error.message().contains("_tower_quota_migrations"), "{error}");
        run(store.pool(), "DROP TABLE _tower_quota_migrations").await;
        let again = SqliteStore::connect(&url(&directory), &catalog()).await.unwrap();
        assert_eq!(again.load(&workspace("acme")).await.unwrap(), None);

        store.ping().await.unwrap();
        store.pool().close().await;
        assert!(store.ping().await.unwrap_err().is_unavailable());
        assert!(store.load(&workspace("acme")).await.unwrap_err().is_unavailable());
    }

    /// `Segment`: 2000 rows of acme named s0 to s1999, every tenth archived; 3 of another workspace.
    async fn host() -> (SqlitePool, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let pool = pool(&directory.path().join("host.db")).await;
        run(
            &pool,
            r#"CREATE TABLE "Segment" ("id" INTEGER PRIMARY KEY, "ws" TEXT, "name" TEXT, "archived" INTEGER, "a`b""c" TEXT);
               WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1999)
               INSERT INTO "Segment" SELECT i, 'acme', 's' || i, i % 10 = 0, 'say "x"' FROM n;
               INSERT INTO "Segment" VALUES
                   (5001, 'other', 'o1', 0, ''), (5002, 'other', 'o2', 0, ''), (5003, 'other', 's1', 0, '');
               CREATE TABLE "CustomMetric" ("workspaceId" TEXT)"#,
        )
        .await;
        (pool, directory)
    }

    fn metered() -> ResourceCatalog {
        ResourceCatalog::empty()
            .resource(ResourceSpec::new("segments", "maxSegments", Limit::of(50)))
            .resource(ResourceSpec::new("customMetrics", "maxCustomMetrics", Limit::of(50)).table("CustomMetric"))
            .build()
            .unwrap()
    }

    fn segments_in(pool: &SqlitePool, table: SqlTable) -> SqliteUsage {
        SqliteUsage::builder(pool.clone(), &metered()).table("segments", table).build().unwrap()
    }

    fn segments() -> SqlTable {
        SqlTable::new("Segment").workspace_column("ws")
    }

    async fn count(usage: &SqliteUsage, id: &str, at_most: Option<u64>) -> Result<u64, Error> {
        usage.count(&workspace(id), metered().by_name("segments").unwrap(), at_most).await
    }

    #[tokio::test]
    async fn counts_are_of_one_workspace_and_may_stop_early() {
        let (pool, _directory) = host().await;
        let usage = Arc::new(segments_in(&pool, segments()));
        let checked = Arc::clone(&usage);
        tokio::spawn(async move { checked.check().await }).await.unwrap().unwrap();
        for (at_most, rows) in
            [(None, 2000), (Some(0), 0), (Some(51), 51), (Some(2000), 2000), (Some(9999), 2000), (Some(u64::MAX), 2000)]
        {
            assert_eq!(count(&usage, "acme", at_most).await.unwrap(), rows, "{at_most:?}");
        }
        assert_eq!(count(&usage, "other", None).await.unwrap(), 3);
        assert_eq!(count(&usage, "none", None).await.unwrap(), 0);
        let metrics = metered();
        let metrics = metrics.by_name("customMetrics").unwrap();
        assert_eq!(usage.count(&workspace("acme"), metrics, None).await.unwrap(), 0);
        run(&pool, r#"INSERT INTO "CustomMetric" VALUES ('acme')"#).await;
        assert_eq!(usage.count(&workspace("acme"), metrics, None).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_filter_narrows_the_count() {
        let (pool, _directory) = host().await;
        for (filter, rows) in [
            (r#""archived" = 0"#, 1800),
            (r#""Segment"."archived" = 1 OR "name" = 's1'"#, 201),
            ("archived = 0 AND name <> 'it''s -- \"archived\"'", 1800),
            (r#"[archived] = 1 AND `name` LIKE 's%'"#, 200),
            (r#""a`b""c" = 'say "x"'"#, 2000),
            (
                r#"EXISTS (SELECT 1 FROM "Segment" AS "o" WHERE "o"."ws" = 'other' AND "o"."name" = "Segment"."name")"#,
                1,
            ),
        ] {
            let usage = segments_in(&pool, segments().filter(filter));
            assert_eq!(count(&usage, "acme", None).await.unwrap(), rows, "{filter}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_counted_is_an_error_and_never_zero() {
        let (pool, _directory) = host().await;
        for (table, says) in [
            (SqlTable::new("Sgement"), "no such table"),
            (SqlTable::new("Segment").workspace_column("workspace"), "a column is missing"),
            // SQLite on its own would compare the text 'archvied' with 0, and find that no row is counted.
            (segments().filter(r#""archvied" = 0"#), "a column is missing"),
            (segments().filter("archvied = 0"), "a column is missing"),
        ] {
            let usage = segments_in(&pool, table);
            for error in [count(&usage, "acme", None).await.unwrap_err(), usage.check().await.unwrap_err()] {
                assert!(error.is_unavailable() && error.message().contains(says), "{error}");
                assert!(error.message().contains("segments") && error.message().contains("table \"S"), "{error}");
            }
        }

        let usage = SqliteUsage::builder(pool.clone(), &metered()).without("segments").build().unwrap();
        assert!(count(&usage, "acme", None).await.unwrap_err().is_config());
        let segments = segments_in(&pool, segments());
        let values = ["s1".to_owned()];
        let (catalog, acme) = (metered(), workspace("acme"));
        let resource = catalog.by_name("segments").unwrap();
        let error = segments.existing(&acme, resource, "title", &values).await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains("a column is missing"), "{error}");
        let error = segments.existing(&acme, resource, "name\" --", &values).await.unwrap_err();
        assert!(error.is_config(), "{error}");
        pool.close().await;
        assert!(count(&segments, "acme", None).await.unwrap_err().is_unavailable());
    }

    #[tokio::test]
    async fn an_incomplete_mapping_is_told_at_the_start() {
        let (pool, _directory) = host().await;
        let builder = || SqliteUsage::builder(pool.clone(), &metered());
        for (builder, says) in [
            (builder(), "no table is known for segments"),
            (builder().table("segments", SqlTable::new("Segment")).without("journeys"), "unknown resource type"),
            (builder().table("segments", SqlTable::new("a\"b")), "not an identifier"),
            (builder().table("segments", SqlTable::new("a").workspace_column("b c")), "not an identifier"),
            (builder().table("segments", segments().filter("name = 'x")), "quote is not closed"),
            (builder().table("segments", segments().filter("1 -- all")), "comments"),
            (builder().table("segments", segments().filter("1 /* all */")), "comments"),
        ] {
            let error = builder.build().unwrap_err();
            assert!(error.is_config() && error.message().contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn existing_rows_are_found_among_thousands_of_values() {
        let (pool, _directory) = host().await;
        let usage = segments_in(&pool, segments().filter("\"archived\" = 0"));
        let (catalog, acme) = (metered(), workspace("acme"));
        let resource = catalog.by_name("segments").unwrap();
        // From s1000 to s2999: every tenth is archived, the second half isn't there. Names of other workspaces don't
        // count, and a value may be asked for twice.
        let mut values: Vec<String> = (1000..3000).map(|number| format!("s{number}")).collect();
        values.extend(["o1", "s1", "s1", "S1", "' OR 1 = 1 --"].map(str::to_owned));
        let mut expected: Vec<bool> = (1000..3000).map(|number| number % 10 != 0 && number < 2000).collect();
        expected.extend([false, true, true, false, false]);
        assert_eq!(usage.existing(&acme, resource, "name", &values).await.unwrap(), expected);

        let ids = ["1", "01", "10", "1.0", "5001"].map(str::to_owned);
        let found = usage.existing(&acme, resource, "id", &ids).await.unwrap();
        assert_eq!(found, [true, false, false, false, false]);
        assert!(usage.existing(&acme, resource, "id", &[]).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_old_snapshot_is_never_counted() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::connect(&url(&directory), &metered()).await.unwrap();
        run(store.pool(), r#"CREATE TABLE "Segment" ("ws" TEXT); CREATE TABLE "CustomMetric" ("workspaceId" TEXT)"#)
            .await;
        let options = SqliteConnectOptions::new().filename(directory.path().join("quota.db"));
        let single = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
        let usage = segments_in(&single, segments());

        // A host that begins by hand and forgets the end leaves an old snapshot in its pool.
        run(&single, r#"BEGIN; SELECT count(*) FROM "Segment""#).await;
        run(store.pool(), r#"INSERT INTO "Segment" VALUES ('acme')"#).await;
        let error = count(&usage, "acme", None).await.unwrap_err();
        assert!(error.is_unavailable() && error.message().contains("transaction open"), "{error}");
        run(&single, "COMMIT").await;
        assert_eq!(count(&usage, "acme", None).await.unwrap(), 1);

        // One that drops its transaction leaves none.
        let mut transaction = single.begin().await.unwrap();
        sqlx::query(r#"SELECT count(*) FROM "Segment""#).execute(&mut *transaction).await.unwrap();
        drop(transaction);
        run(store.pool(), r#"INSERT INTO "Segment" VALUES ('acme')"#).await;
        assert_eq!(count(&usage, "acme", None).await.unwrap(), 2);
    }
}
