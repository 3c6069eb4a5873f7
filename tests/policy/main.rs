//! The life of a limit, through the HTTP API: on SQLite, and on two replicas that share a Postgres database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod caps;
mod elsewhere;
mod host;
mod suite;

/// Runs tests of a suite on hosts that `$start` makes.
macro_rules! lives {
    ($module:ident, $start:expr, $suite:ident, $($test:ident,)+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    crate::$suite::$test($start.await).await;
                }
            )+
        }
    };
}

macro_rules! all_of_it {
    ($module:ident, $start:expr) => {
        lives!(
            $module,
            $start,
            suite,
            an_explanation_names_what_wins,
            a_plan_is_in_force_at_once,
            a_plan_that_changes_under_load_keeps_its_promise,
            a_plan_is_not_deleted_from_under_a_workspace,
            a_share_follows_the_parent,
            a_parent_that_is_lowered_below_use_lets_nothing_more_in,
            parents_that_make_no_tree_are_refused_with_the_path,
            an_override_reverts_by_itself_in_the_midst_of_a_burst,
            an_override_is_ended_by_hand,
            grace_is_shared_audited_and_armed_again_only_below_the_limit,
            grace_ends_in_the_midst_of_a_burst,
            strict_has_no_grace,
            what_is_lowered_in_strict_is_answered_when_nothing_more_can_come,
            modes_of_workspaces_and_types_go_over_the_mode_of_all,
            a_request_is_decided_once_and_raises_the_limit,
            a_request_may_be_approved_for_a_time,
            an_approval_and_a_put_are_one_after_the_other,
            the_audit_log_is_paged_filtered_and_only_added_to,
            a_recount_with_drift_is_audited,
            creations_in_flight_are_no_drift,
            many_workspaces_are_set_at_once_or_none,
            changes_of_another_version_change_nothing,
            bad_input_changes_nothing,
            a_deleted_workspace_is_back_at_the_defaults,
            limits_are_imported_by_usage_in_batches_and_never_lowered,
            two_runs_of_one_import_at_once_set_each_limit_once,
            the_road_from_warn_to_strict_tells_what_it_would_refuse,
            a_shadow_tells_what_it_would_refuse_and_refuses_nothing,
            a_cleanup_takes_the_newest_rows_in_strict_alone,
        );
    };
}

macro_rules! caps {
    ($module:ident, $start:expr) => {
        lives!(
            $module,
            $start,
            caps,
            a_storm_uses_caps_up_and_never_exceeds_one,
            a_refusal_by_a_cap_says_whose_it_is,
            a_cap_that_is_lowered_lets_nothing_more_in,
            several_types_under_caps_are_all_or_none,
            a_workspace_takes_its_requests_in_flight_along,
            a_cap_counts_what_was_in_flight_before_it,
            a_workspace_is_deleted_with_requests_in_flight,
            moves_in_the_midst_of_a_storm_leave_the_books_right,
        );
    };
}

all_of_it!(on_sqlite, crate::host::Host::sqlite());
all_of_it!(on_two_replicas, crate::host::Host::postgres(2));

caps!(caps_on_sqlite, crate::host::Host::sqlite());
caps!(caps_on_three_replicas, crate::host::Host::postgres(3));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_goes_on_after_a_restart() {
    crate::suite::what_was_begun_goes_on_after_a_restart(crate::host::Host::sqlite().await).await;
}

/// A record stays in the cache for longer than its workspace is in use.
#[tokio::test]
async fn a_change_of_a_parent_is_seen_by_who_was_put_out_of_use() {
    use tower_quota::{
        Actor, ClosureUsage, Expect, Limit, LimitSet, PolicyChange, Quota, ResourceCatalog, ResourceSpec, SqliteStore,
    };
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("quota.db").display());
    let segments = ResourceSpec::new("segments", "maxSegments", Limit::of(5));
    let catalog = ResourceCatalog::empty().resource(segments).build().unwrap();
    let usage = ClosureUsage::new(|_workspace, _resource, _at_most| async { Ok::<_, std::io::Error>(0) });
    let store = SqliteStore::connect(&url, &catalog).await.unwrap();
    let quota = Quota::builder(catalog).store(store).usage(usage).capacity(4).build().unwrap();
    let id = |name: &str| quota.workspace(name).unwrap();
    let limit = async |name: &str| quota.usage(&id(name)).await.unwrap()[0].limit;
    let admin = quota.admin(Actor::library());
    let of = |rows| LimitSet::new().with(quota.catalog().by_name("segments").unwrap().id(), Limit::of(rows));
    admin.set_limits(&id("top"), &of(100), &Expect::Anything, None).await.unwrap();
    admin.put_plan("p", &of(7), &Expect::Anything).await.unwrap();
    let below = PolicyChange::new().parent(id("top")).share("segments", 50);
    admin.configure(&id("child"), below, &Expect::Anything).await.unwrap();
    admin.configure(&id("planned"), PolicyChange::new().plan("p"), &Expect::Anything).await.unwrap();
    for round in 0..50 {
        assert_eq!((limit("child").await, limit("planned").await), (Limit::of(50), Limit::of(7)));
        limit(&format!("w{round}")).await;
    }
    for other in 0..20 {
        limit(&format!("v{other}")).await;
    }
    admin.set_limits(&id("top"), &of(200), &Expect::Anything, None).await.unwrap();
    assert_eq!(limit("child").await, Limit::of(100));
    for other in 0..20 {
        limit(&format!("u{other}")).await;
    }
    admin.put_plan("p", &of(9), &Expect::Anything).await.unwrap();
    assert_eq!(limit("planned").await, Limit::of(9));
}

/// Another collation than that of bytes, which is Rust's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_many_takes_them_in_the_order_of_the_database() {
    use crate::host::{Host, ROOT, until};
    use serde_json::json;
    use sqlx::{Connection, PgConnection, query, query_scalar};
    let english = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en'";
    let url = crate::support::postgres::shared().database_with(english);
    let host = Host::postgres_at(&url, 1).await;
    let names = ["B", "a"];
    for name in names {
        host.create(0, name).await.expect(201);
    }
    for (method, path, body) in [
        ("PUT", "/api/system/quotas", json!({"workspaces": names, "limits": {"maxSegments": 9}})),
        ("POST", "/api/system/quota-import", json!({"apply": true, "percent": 5000})),
    ] {
        // As the ledger does where it hears of many leases.
        let mut ledger = PgConnection::connect(&url).await.unwrap();
        let open = async |ledger: &mut PgConnection, name: &str| {
            query(r#"SELECT "_tower_quota_open"($1, 'segments')"#).bind(name.to_owned()).execute(ledger).await
        };
        query("BEGIN").execute(&mut ledger).await.unwrap();
        open(&mut ledger, "a").await.unwrap();
        let (changed, ()) = tokio::join!(host.send_to(0, ROOT, method, path, None, Some(body)), async {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            until("the change waits", async || {
                query_scalar::<_, i64>(waiting).fetch_one(&mut ledger).await.unwrap() > 0
            })
            .await;
            open(&mut ledger, "B").await.unwrap();
            query("COMMIT").execute(&mut ledger).await.unwrap();
        });
        changed.expect(200);
    }
    assert_eq!(host.limit_at(0, "B").await, 50);
}
