//! What there is at a time.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tower_quota::{ClosureUsage, MemoryStore, Quota, Settling};

use crate::host::{Host, catalog, until};
use crate::support::exported::Recorder;

const RESERVED: &str = r#"tower_quota_reserved_units{resource_type="segments"}"#;
const STRANDED: &str = r#"tower_quota_stranded_units{resource_type="segments"}"#;
const WORKSPACES: &str = "tower_quota_workspaces";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_are_in_flight_until_they_end_and_stranded_until_they_are_settled() {
    let gate = Arc::new(Semaphore::new(0));
    let passes = Arc::clone(&gate);
    let settling = Settling::barrier(move || {
        let passes = Arc::clone(&passes);
        async move { passes.acquire().await.map(|permit| permit.forget()) }
    });
    let host = Host::with(|builder| builder.settling(settling), |layer| layer).await;
    host.limit("acme", 10).await;
    let (two, one) = (host.reserve("acme", 2).await, host.reserve("acme", 1).await);
    host.tells(RESERVED, 3.0).await;
    one.void();
    host.tells(RESERVED, 2.0).await;
    assert_eq!(host.told.value(STRANDED), 0.0);
    drop(two);
    // A handler that fails may have made its row.
    assert_eq!(host.send(http::Method::POST, "/acme/segments", "fails").await, 500);
    host.tells(STRANDED, 3.0).await;
    host.tells(RESERVED, 3.0).await;
    // One that refuses has not.
    assert_eq!(host.send(http::Method::POST, "/acme/segments", "refuses").await, 409);
    gate.add_permits(10);
    host.tells(STRANDED, 0.0).await;
    host.tells(RESERVED, 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workspaces_are_those_of_all_engines_and_go_with_them() {
    let told = Recorder::new();
    let engine = || {
        let usage = ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(0) });
        told.told_by(|| Quota::builder(catalog()).store(MemoryStore::new()).usage(usage).build()).unwrap()
    };
    let (first, second) = (engine(), engine());
    for name in ["a", "b", "c"] {
        first.usage(&first.workspace(name).unwrap()).await.unwrap();
    }
    second.usage(&second.workspace("a").unwrap()).await.unwrap();
    let tells = async |value: f64| until("all are told", async || told.value(WORKSPACES) == value).await;
    tells(4.0).await;
    drop(first);
    tells(1.0).await;
    drop(second);
    tells(0.0).await;
    // One process is one replica, and has nothing on lease.
    assert_eq!((told.value("tower_quota_replicas"), told.value("tower_quota_leases")), (1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_admitted_last_is_told_when_the_engine_goes() {
    let told = Recorder::new();
    let usage = ClosureUsage::new(|_, _, _| async { Ok::<_, std::io::Error>(0) });
    let builder = Quota::builder(catalog()).store(MemoryStore::new()).usage(usage);
    let quota = told.told_by(|| builder.build()).unwrap();
    let (acme, segments) = (quota.workspace("acme").unwrap(), quota.catalog().by_name("segments").unwrap().id());
    for _ in 0..3 {
        let decision = quota.reserve(&acme, &[tower_quota::Demand::one(segments)]).await.unwrap();
        let tower_quota::Decision::Admitted(reservation) = decision else { panic!("{decision:?}") };
        reservation.void();
    }
    drop(quota);
    until("all are told", async || told.value(&crate::host::decisions("admitted")) == 3.0).await;
}
