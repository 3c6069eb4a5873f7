//! What every ledger promises. Each test has a host to itself; what several of its replicas do is done at them in turn.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower_quota::{Decision, Demand, EnforcementMode, Fence, Limit, Quota};

use crate::host::{CAPACITY, Host, Replica, new_id};

const CREATED: StatusCode = StatusCode::CREATED;
const REFUSED: StatusCode = StatusCode::TOO_MANY_REQUESTS;

impl Host {
    fn replica(&self, turn: usize) -> &Replica {
        &self.replicas[turn % self.replicas.len()]
    }

    /// So many can be created, and no more anywhere.
    async fn admits(&self, workspace: &str, rows: usize) {
        for turn in 0..rows {
            assert_eq!(self.replica(turn).create(workspace, "done").await, CREATED, "{turn} of {rows}");
        }
        for replica in &self.replicas {
            assert_eq!(replica.create(workspace, "done").await, REFUSED);
        }
    }

    async fn rows(&self, workspace: &str) -> i64 {
        self.rows.count("Segment", workspace).await
    }
}

fn demand(quota: &Quota, resource: &str, units: u64) -> Demand {
    Demand::new(quota.catalog().by_name(resource).unwrap().id(), units)
}

/// Reserves, makes the rows and posts; answers whether it was admitted.
async fn batch(host: &Host, turn: usize, units: u64, users: u64) -> bool {
    let quota = &host.replica(turn).quota;
    let demands = [demand(quota, "segments", units), demand(quota, "users", users)];
    match quota.reserve(&quota.workspace("acme").unwrap(), &demands).await.unwrap() {
        Decision::Admitted(reservation) => {
            let made = [("Segment", units), ("User", users)];
            for (table, rows) in made {
                for _ in 0..rows {
                    assert!(host.rows.insert(table, "acme", &new_id(), &reservation.fence()).await);
                }
            }
            reservation.post();
            true
        }
        Decision::Refused(refusal) => {
            assert_eq!(refusal.reserved, None, "{refusal:?}");
            false
        }
    }
}

pub(crate) async fn as_many_are_admitted_as_the_limit_says(host: Host) {
    host.limit("acme", "segments", Limit::of(7)).await;
    host.admits("acme", 7).await;
    assert_eq!(host.rows("acme").await, 7);
    host.admits("other", 5).await;
}

pub(crate) async fn a_crowd_makes_exactly_as_many_rows_as_the_limit_says(host: Host) {
    let host = Arc::new(host);
    for limit in [1, 50] {
        let workspace = format!("crowd-{limit}");
        host.limit(&workspace, "segments", Limit::of(limit)).await;
        let mut crowd = JoinSet::new();
        for number in 0..16 {
            let (host, workspace) = (Arc::clone(&host), workspace.clone());
            crowd.spawn(async move {
                for _ in 0..6 {
                    let status = host.replica(number).create(&workspace, "done").await;
                    assert!([CREATED, REFUSED].contains(&status), "{status}");
                }
            });
        }
        crowd.join_all().await;
        assert_eq!(host.rows(&workspace).await, i64::from(limit));
    }
}

pub(crate) async fn a_batch_is_admitted_whole_or_not_at_all(host: Host) {
    assert!(batch(&host, 0, 3, 0).await);
    for turn in 0..2 {
        assert!(!batch(&host, turn, 3, 0).await);
    }
    assert!(batch(&host, 1, 2, 0).await);
    assert!(!batch(&host, 0, 1, 0).await);
    assert_eq!(host.rows("acme").await, 5);
}

pub(crate) async fn several_keys_are_admitted_all_or_none(host: Host) {
    assert!(batch(&host, 0, 1, 1).await);
    for turn in 0..4 {
        assert!(!batch(&host, turn, 1, 1).await);
    }
    assert_eq!((host.rows("acme").await, host.rows.count("User", "acme").await), (1, 1));
    // What was refused holds nothing.
    host.admits("acme", 4).await;
}

pub(crate) async fn a_refusal_counts_the_rows_that_there_are(host: Host) {
    host.admits("acme", 5).await;
    host.rows.delete("Segment", "acme").await;
    host.admits("acme", 5).await;
    host.rows.delete("Segment", "acme").await;
    for _ in 0..5 {
        assert!(host.rows.insert("Segment", "acme", &new_id(), &Fence::default()).await);
    }
    // What is on lease may still be handed out, until a count tells.
    host.replicas[0].quota.recount(&host.replicas[0].quota.workspace("acme").unwrap()).await.unwrap();
    host.admits("acme", 0).await;
}

pub(crate) async fn what_makes_no_row_gives_its_unit_back(host: Host) {
    host.limit("acme", "segments", Limit::of(1)).await;
    for turn in 0..6 {
        assert_eq!(host.replica(turn).create("acme", "conflict").await, StatusCode::CONFLICT);
    }
    host.admits("acme", 1).await;
}

pub(crate) async fn what_nobody_tells_of_is_settled_in_the_end(host: Host) {
    host.limit("acme", "segments", Limit::of(5)).await;
    for (turn, fate) in ["error before", "panic", "error after"].into_iter().enumerate() {
        assert_eq!(host.replica(turn).create("acme", fate).await, StatusCode::INTERNAL_SERVER_ERROR, "{fate}");
    }
    // Each leaves a row when it has come to where it hangs.
    for (turn, (fate, sign)) in [("hang before", "User"), ("hang after", "Segment")].into_iter().enumerate() {
        let before = host.rows.count(sign, "acme").await;
        let begun = async {
            while host.rows.count(sign, "acme").await == before {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            status = host.replica(turn).create("acme", fate) => panic!("{fate}: {status}"),
            begun = timeout(Duration::from_secs(30), begun) => begun.expect("it never begins"),
        }
    }
    assert_eq!(host.rows("acme").await, 2);
    let deadline = Instant::now() + Duration::from_secs(30);
    for turn in 0.. {
        if host.replica(turn).create("acme", "done").await == CREATED && host.rows("acme").await == 5 {
            break;
        }
        assert!(Instant::now() < deadline, "units never come back");
    }
    host.admits("acme", 0).await;
}

pub(crate) async fn an_edit_passes_at_the_limit(host: Host) {
    host.limit("acme", "segments", Limit::of(2)).await;
    assert_eq!(host.replica(0).upsert("acme", "common").await, StatusCode::OK);
    host.admits("acme", 1).await;
    for replica in &host.replicas {
        assert_eq!(replica.upsert("acme", "common").await, StatusCode::OK);
        assert_eq!(replica.upsert("acme", "another").await, REFUSED);
    }
    assert_eq!(host.rows("acme").await, 2);
}

pub(crate) async fn a_changed_limit_binds_everywhere(host: Host) {
    for (limit, more) in [(4, 4), (8, 4), (6, 0), (9, 1)] {
        host.limit("acme", "segments", Limit::of(limit)).await;
        for _ in 0..more {
            assert_eq!(host.replica(1).create("acme", "done").await, CREATED, "limit {limit}");
        }
        host.admits("acme", 0).await;
    }
    assert_eq!(host.rows("acme").await, 9);
}

pub(crate) async fn zero_admits_nothing_and_unlimited_all(host: Host) {
    host.limit("acme", "segments", Limit::of(0)).await;
    host.admits("acme", 0).await;
    host.limit("acme", "segments", Limit::finite(Limit::MAX).unwrap()).await;
    assert_eq!(host.replica(0).create("acme", "done").await, CREATED);
    host.limit("acme", "segments", Limit::Unlimited).await;
    for turn in 1..20 {
        assert_eq!(host.replica(turn).create("acme", "done").await, CREATED);
    }
    host.limit("acme", "segments", Limit::of(20)).await;
    host.admits("acme", 0).await;
}

pub(crate) async fn a_workspace_that_was_forgotten_is_counted_again(host: Host) {
    for turn in 0..4 {
        assert_eq!(host.replica(turn).create("acme", "done").await, CREATED);
    }
    for number in 0..3 * CAPACITY {
        for replica in &host.replicas {
            assert_eq!(replica.create(&format!("other-{number}"), "done").await, CREATED);
        }
    }
    // Around the layer: only a count can tell.
    assert!(host.rows.insert("Segment", "acme", &new_id(), &Fence::default()).await);
    host.admits("acme", 0).await;
}

pub(crate) async fn modes_say_what_happens_at_the_limit(host: Host) {
    let set = |mode| host.replicas.iter().for_each(|replica| replica.quota.set_mode(mode));
    set(EnforcementMode::Strict);
    host.admits("acme", 5).await;
    for mode in [EnforcementMode::Warn, EnforcementMode::Off] {
        set(mode);
        for replica in &host.replicas {
            assert_eq!(replica.create("acme", "done").await, CREATED, "{mode}");
        }
    }
    set(EnforcementMode::Enforce);
    host.admits("acme", 0).await;
    assert_eq!(host.rows("acme").await, 5 + 2 * i64::try_from(host.replicas.len()).unwrap());
}
