//! Every store keeps the same promises, and counts are those of a real database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use tower_quota::{
    ClosureUsage, Error, Limit, LimitSet, MemoryStore, ResourceCatalog, ResourceSpec, UsageSource, WorkspaceFormat,
    WorkspaceId,
};

#[path = "../support/mod.rs"]
mod support;

mod suite;

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
                    crate::suite::$test(Arc::new(store)).await;
                }
            )+
        }
    };
}

#[cfg(feature = "postgres")]
mod backstop;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod cleanup;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod counts;
#[cfg(feature = "postgres")]
mod limits;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod pages;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod schema;
#[cfg(feature = "sqlite")]
mod sqlite;

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
