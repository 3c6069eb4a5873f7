//! What the ledger alone keeps. Each test has a host to itself; what several of its replicas do is done at them in turn.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower_quota::{Actor, Decision, Demand, Expect, ImportOptions, Limit, LimitSet, PolicyChange, Promise};

use crate::host::{Host, acme, audited, segments};

const CREATED: StatusCode = StatusCode::CREATED;
const REFUSED: StatusCode = StatusCode::TOO_MANY_REQUESTS;

/// Tries until it holds.
async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn a_crowd_makes_exactly_as_many_rows_as_the_limit_says(host: Host) {
    host.limit(Limit::of(50)).await;
    let host = Arc::new(host);
    let mut crowd = JoinSet::new();
    for number in 0..16 {
        let host = Arc::clone(&host);
        crowd.spawn(async move {
            for _ in 0..6 {
                let status = host.replica(number).create("done").await;
                assert!([CREATED, REFUSED].contains(&status), "{status}");
            }
        });
    }
    crowd.join_all().await;
    assert_eq!(host.rows(), 50);
    assert_eq!(host.replicas[0].quota.promise(), Promise::Bounded);
}

pub(crate) async fn a_deletion_makes_room(host: Host) {
    host.admits(5).await;
    for turn in 0..4 {
        let id = host.upstream.rows.any("acme", "segments").unwrap();
        let replica = host.replica(turn);
        assert_eq!(replica.delete(&id).await, StatusCode::NO_CONTENT);
        assert_eq!(replica.delete(&id).await, StatusCode::NOT_FOUND);
        // Where it was deleted there is room at once; elsewhere in a moment.
        match turn {
            0 | 1 => assert_eq!(replica.create("done").await, CREATED),
            _ => until("there is room", || async { host.replica(turn + 1).create("done").await == CREATED }).await,
        }
        host.admits(0).await;
    }
    let quota = &host.replicas[0].quota;
    host.upstream.rows.remove("acme", "segments", &host.upstream.rows.any("acme", "segments").unwrap());
    quota.deleted(&acme(quota), &[Demand::one(segments(quota))]).unwrap();
    assert_eq!(host.replicas[0].create("done").await, CREATED);
    host.admits(0).await;
    assert_eq!((host.rows(), host.upstream.rows.most("acme", "segments")), (5, 5));
}

pub(crate) async fn deletions_of_what_is_not_there_are_never_less_than_nothing(host: Host) {
    host.set(1).await;
    for _ in 0..3 {
        assert_eq!(host.replicas[0].delete("nothing").await, StatusCode::NO_CONTENT);
    }
    until("they are told", || async { host.replicas[0].usage().await == 0 }).await;
    // What has to be told is told before it grants anything.
    host.admits(5).await;
}

pub(crate) async fn deletions_of_what_never_came_to_be_are_forgotten_with_it(mut host: Host) {
    host.set(1).await;
    let quota = host.replicas[0].quota.clone();
    let acme = acme(&quota);
    let one = Demand::one(segments(&quota));
    let Decision::Admitted(reservation) = quota.reserve(&acme, &[one]).await.unwrap() else { panic!("refused") };
    // The one that there is; and one that may be what the reservation is of.
    quota.deleted(&acme, &[one, one]).unwrap();
    until("they are told", || async { host.replicas[0].usage().await == 0 }).await;
    reservation.void();
    drop(quota);
    if host.shares() {
        // The database knows that it can't be any more once the units are back.
        host.restart().await;
    }
    host.admits(5).await;
}

pub(crate) async fn what_failed_makes_no_row_and_what_nobody_knows_does(host: Host) {
    host.limit(Limit::of(2)).await;
    for turn in 0..4 {
        assert_eq!(host.replica(turn).create("conflict").await, StatusCode::CONFLICT);
    }
    assert_eq!(host.replicas[0].create("error before").await, StatusCode::INTERNAL_SERVER_ERROR);
    host.admits(1).await;
    assert_eq!(host.set(1).await, 2);
    host.admits(1).await;
    // Nor does a deletion free one of which nobody knows whether it came to pass.
    for turn in 0..4 {
        assert_eq!(host.replica(turn).delete("error before").await, StatusCode::INTERNAL_SERVER_ERROR);
    }
    host.admits(0).await;
}

pub(crate) async fn a_tally_that_is_set_counts(host: Host) {
    assert_eq!(host.set(3).await, 0);
    assert_eq!(host.replicas[0].usage().await, 3);
    host.admits(2).await;
    assert_eq!(host.set(4).await, 5);
    host.admits(1).await;
    // The same again changes nothing.
    assert_eq!((host.set(5).await, host.set(5).await), (5, 5));
    host.admits(0).await;
    let quota = &host.replicas[0].quota;
    let told = audited(quota, "tally_set").await;
    let expected = [(5, 5), (5, 5), (5, 4), (0, 3)].map(|(old, new)| (json!(old), json!(new)));
    assert_eq!(told, expected);

    let admin = quota.admin(Actor::library());
    let journeys = quota.catalog().by_name("journeys").unwrap().id();
    let set = |rows: Vec<_>| {
        let admin = &admin;
        async move { admin.set_tally(&acme(quota), &rows, None).await.unwrap_err() }
    };
    let one = (segments(quota), 1);
    for (rows, says) in [
        (vec![(journeys, 1)], "journeys is not counted by the ledger alone"),
        (vec![], "no resource type is named"),
        (vec![one, one], "segments is named twice"),
        (vec![(segments(quota), u64::MAX)], "the rows of segments"),
        (vec![one, (journeys, 1)], "journeys is not counted"),
    ] {
        let error = set(rows).await;
        assert!(error.is_invalid() && error.message().contains(says), "{error}");
    }
    host.admits(0).await;
}

pub(crate) async fn deletions_of_before_a_tally_was_set_do_not_come_off_it(mut host: Host) {
    // Whether a deletion is told of before the tally is set is a race, which some lose.
    let workspaces: Vec<_> = (0..50).map(|number| format!("workspace-{number}")).collect();
    for workspace in &workspaces {
        let quota = &host.replicas[0].quota;
        let (admin, workspace) = (quota.admin(Actor::library()), quota.workspace(workspace).unwrap());
        quota.deleted(&workspace, &[Demand::one(segments(quota))]).unwrap();
        admin.set_tally(&workspace, &[(segments(quota), 5)], None).await.unwrap();
    }
    // By now all are told.
    host.restart().await;
    let quota = &host.replicas[0].quota;
    for workspace in &workspaces {
        let check = quota.check(&quota.workspace(workspace).unwrap(), Demand::one(segments(quota))).await.unwrap();
        assert_eq!(check.usage.current, 5, "{workspace}");
    }
}

pub(crate) async fn a_storm_of_creations_and_deletions_ends_with_what_there_is(host: Host) {
    host.limit(Limit::of(20)).await;
    let host = Arc::new(host);
    let mut crowd = JoinSet::new();
    for number in 0..12 {
        let host = Arc::clone(&host);
        crowd.spawn(async move {
            for turn in 0..40 {
                let replica = host.replica(number + turn);
                if turn % 3 == 2
                    && let Some(id) = host.upstream.rows.any("acme", "segments")
                {
                    let status = replica.delete(&id).await;
                    assert!([StatusCode::NO_CONTENT, StatusCode::NOT_FOUND].contains(&status), "{status}");
                    continue;
                }
                let status = replica.create("done").await;
                assert!([CREATED, REFUSED].contains(&status), "{status}");
            }
        });
    }
    crowd.join_all().await;
    assert!(host.upstream.rows.most("acme", "segments") <= 20);
    let there = host.rows();
    for replica in &host.replicas {
        until("what there is is known", || async { replica.usage().await == there as u64 }).await;
    }
    host.admits(20 - there).await;
}

pub(crate) async fn an_edit_is_asked_for_over_http(host: Host) {
    host.admits(5).await;
    let id = host.upstream.rows.any("acme", "segments").unwrap();
    for replica in &host.replicas {
        assert_eq!(replica.upsert(&id).await, StatusCode::OK);
        assert_eq!(replica.upsert("new").await, REFUSED);
    }
    assert_eq!(host.replicas[0].delete(&id).await, StatusCode::NO_CONTENT);
    assert_eq!(host.replicas[0].upsert("new").await, StatusCode::OK);
    host.admits(0).await;
    assert_eq!(host.rows(), 5);
}

pub(crate) async fn types_without_a_limit_are_tallied_too(host: Host) {
    host.limit(Limit::Unlimited).await;
    for turn in 0..30 {
        assert_eq!(host.replica(turn).create("done").await, CREATED);
    }
    until("all are known", || async { host.replicas[0].usage().await == 30 }).await;
    host.limit(Limit::of(31)).await;
    host.admits(1).await;
}

pub(crate) async fn caps_are_kept(host: Host) {
    let quota = &host.replicas[0].quota;
    let admin = quota.admin(Actor::library());
    let top = quota.workspace("top").unwrap();
    let cap = PolicyChange::new().cap("segments", Limit::of(7));
    admin.configure(&top, cap, &Expect::Anything).await.unwrap();
    for member in ["one", "two"] {
        let member = quota.workspace(member).unwrap();
        let below = PolicyChange::new().parent(top.clone());
        admin.configure(&member, below, &Expect::Anything).await.unwrap();
        quota
            .update_limits(&member, &LimitSet::new().with(segments(quota), Limit::of(5)), &Expect::Anything)
            .await
            .unwrap();
    }
    let mut created = 0;
    for turn in 0..20 {
        let status = host.replica(turn).create_in(["one", "two"][turn / 2 % 2]).await;
        created += usize::from(status == CREATED);
    }
    let rows = |workspace| host.upstream.rows.count(workspace, "segments");
    assert_eq!((created, rows("one") + rows("two")), (7, 7));
}

pub(crate) async fn a_restart_knows_what_there_was(mut host: Host) {
    host.limit(Limit::of(100)).await;
    for turn in 0..30 {
        assert_eq!(host.replica(turn).create("done").await, CREATED);
    }
    for _ in 0..5 {
        let id = host.upstream.rows.any("acme", "segments").unwrap();
        assert_eq!(host.replicas[0].delete(&id).await, StatusCode::NO_CONTENT);
    }
    host.restart().await;
    assert_eq!(host.replicas[0].usage().await, 25);
    host.admits(75).await;
    host.restart().await;
    host.admits(0).await;
}

pub(crate) async fn workspaces_are_listed(host: Host) {
    for (turn, workspace) in ["b", "a", "c"].into_iter().enumerate() {
        assert_eq!(host.replica(turn).create_in(workspace).await, CREATED);
    }
    // That one can't list what another source counts is told.
    let error = host.replicas[0].quota.admin(Actor::library()).import(ImportOptions::new()).await.unwrap().next().await;
    let error = error.unwrap_err();
    assert!(error.is_config() && error.message().contains("that have journeys can't be listed"), "{error}");
}
