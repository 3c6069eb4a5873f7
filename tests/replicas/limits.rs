//! Limits and units move between replicas.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use sqlx::query;
use tower_quota::{
    Actor, Decision, Demand, EnforcementMode, Expect, Limit, LimitSet, PolicyChange, Promise, QuotaBuilder,
};

use crate::host::{Replica, create, creation, database, fill, start, upsert};
use crate::support::postgres::shared;
use crate::support::until;

#[test]
fn no_unit_lies_idle_where_nobody_needs_it() {
    let url = shared().database();
    let mut database = database(&url);
    let (_replicas, mut connections) = start(&url, 3);
    // Each has some in store after a few.
    for turn in 0..30 {
        create(&mut connections[turn % 3], "acme").expect(201);
    }
    for _ in 30..50 {
        create(&mut connections[0], "acme").expect(201);
    }
    let refused = create(&mut connections[0], "acme");
    refused.refused(429, "QUOTA_EXCEEDED");
    assert_eq!(refused.json()["details"]["currentUsage"], 50);
    assert_eq!(refused.json()["details"].get("reserved"), None);
    assert_eq!(database.rows("Segment", "acme"), 50);
    // What is deleted around the layer can be created anew, anywhere.
    database.run(r#"DELETE FROM "Segment" WHERE "id" IN (SELECT "id" FROM "Segment" LIMIT 3)"#.to_owned());
    for connection in &mut connections {
        create(connection, "acme").expect(201);
    }
    create(&mut connections[1], "acme").refused(429, "QUOTA_EXCEEDED");
}

#[test]
fn a_receipt_tells_of_all_replicas() {
    let url = shared().database();
    database(&url);
    let (replicas, mut connections) = start(&url, 2);
    create(&mut connections[1], "acme").expect(201);
    replicas[0].set_limit("acme", 40);
    let quota = &replicas[0].quota;
    let (acme, segments) = (quota.workspace("acme").unwrap(), quota.catalog().by_name("segments").unwrap().id());
    let decision = replicas[0].runtime.block_on(quota.reserve(&acme, &[Demand::new(segments, 3)])).unwrap();
    let Decision::Admitted(reservation) = decision else { panic!("{decision:?}") };
    let receipt = quota.receipt(&reservation).unwrap();
    assert!(receipt.admitted && receipt.promise == Promise::Exact);
    let evidence = &receipt.evidence[0];
    assert_eq!((evidence.requested, evidence.limit), (3, Some(Limit::of(40))));
    assert_eq!((evidence.counted, evidence.limit_version), (Some(1), Some(1)));
    // Its own units, and what both have in store.
    assert!(evidence.leased >= 3 && evidence.leased < 40, "{receipt:?}");
    reservation.void();
}

#[test]
fn it_works_without_notices() {
    let url = shared().database();
    database(&url);
    let replica = |_| Replica::with(&url, |ledger| ledger.listens(false), |builder| builder);
    let replicas: Vec<_> = (0..2).map(replica).collect();
    let mut connections: Vec<_> = replicas.iter().map(Replica::connect).collect();
    for turn in 0..20 {
        create(&mut connections[turn % 2], "acme").expect(201);
    }
    for _ in 20..50 {
        create(&mut connections[0], "acme").expect(201);
    }
    create(&mut connections[1], "acme").refused(429, "QUOTA_EXCEEDED");
}

#[test]
fn edits_pass_at_the_limit_and_hold_their_rows() {
    let url = shared().database();
    let mut database = database(&url);
    let (replicas, mut connections) = start(&url, 2);
    replicas[0].set_limit("acme", 3);
    upsert(&mut connections[0], "acme", "common").expect(200);
    create(&mut connections[1], "acme").expect(201);
    create(&mut connections[1], "acme").expect(201);
    for connection in &mut connections {
        upsert(connection, "acme", "common").expect(200);
        upsert(connection, "acme", "another").refused(429, "QUOTA_EXCEEDED");
    }
    assert_eq!(database.rows("Segment", "acme"), 3);
}

#[test]
fn a_request_that_waits_gets_what_is_given_back_elsewhere() {
    let url = shared().database();
    let mut database = database(&url);
    let replicas: Vec<_> = (0..2)
        .map(|_| Replica::with(&url, |ledger| ledger, |builder| builder.max_wait(Duration::from_secs(30))))
        .collect();
    replicas[0].set_limit("acme", 1);
    let mut holder = replicas[0].connect();
    holder.send_raw(&creation("acme", "hang before")).unwrap();
    let leased = r#"SELECT coalesce(sum("leased"), 0)::bigint FROM "_tower_quota_key" WHERE "workspace" = $1"#;
    until("the unit is taken", || database.number(leased.to_owned(), "acme") == 1);
    let mut waiter = replicas[1].connect();
    waiter.send_raw(&creation("acme", "done")).unwrap();
    let claims = r#"SELECT count("claim") FROM "_tower_quota_key" WHERE "workspace" = $1"#;
    until("somebody waits for it", || database.number(claims.to_owned(), "acme") == 1);
    drop(holder);
    waiter.read().unwrap().expect(201);
}

#[test]
fn a_replica_that_shuts_down_leaves_nothing_behind() {
    let url = shared().database();
    let mut database = database(&url);
    let (replicas, mut connections) = start(&url, 2);
    for _ in 0..20 {
        create(&mut connections[0], "acme").expect(201);
    }
    replicas[0].runtime.block_on(replicas[0].quota.shutdown(Duration::from_secs(10))).unwrap();
    let left = r#"SELECT count(*) FROM "_tower_quota_lease" WHERE "workspace" = $1"#;
    assert_eq!(database.number(left.to_owned(), "acme"), 0);
    for _ in 20..50 {
        create(&mut connections[1], "acme").expect(201);
    }
    create(&mut connections[1], "acme").refused(429, "QUOTA_EXCEEDED");
}

#[test]
fn a_replica_that_dies_loses_its_units_to_the_others() {
    let url = shared().database();
    let mut database = database(&url);
    let replicas: Vec<_> = (0..2).map(|_| Replica::start(&url)).collect();
    let mut dying = replicas[0].connect();
    for _ in 0..10 {
        create(&mut dying, "acme").expect(201);
    }
    let mut replicas = replicas;
    // Without a word, as if killed.
    let dead = replicas.remove(0);
    dead.runtime.shutdown_background();
    fill(&replicas, &mut database, "acme", 50);
}

#[test]
fn rows_that_are_counted_elsewhere_are_counted_between_two_calls() {
    let (url, elsewhere) = (shared().database(), shared().database());
    database(&url);
    // The books are in one database, and the rows in another.
    let mut rows = database(&elsewhere);
    let replica = |_| Replica::unfenced(&url, &elsewhere, |ledger| ledger, |builder| builder);
    let replicas: Vec<_> = (0..2).map(replica).collect();
    let mut connections: Vec<_> = replicas.iter().map(Replica::connect).collect();
    replicas[0].set_limit("acme", 9);
    for turn in 0..9 {
        create(&mut connections[turn % 2], "acme").expect(201);
    }
    for connection in &mut connections {
        create(connection, "acme").refused(429, "QUOTA_EXCEEDED");
    }
    rows.run(r#"DELETE FROM "Segment" WHERE "id" IN (SELECT "id" FROM "Segment" LIMIT 2)"#.to_owned());
    fill(&replicas, &mut rows, "acme", 9);
}

#[test]
fn a_role_without_rights_is_told_which_it_needs() {
    let url = shared().database();
    let mut database = database(&url);
    // The owner makes the tables.
    drop(Replica::start(&url));
    let role = "keeper_of_limits";
    database.run(format!(
        r#"CREATE ROLE {role} LOGIN;
           GRANT SELECT, INSERT ON "Segment" TO {role};
           GRANT SELECT, INSERT, UPDATE ON "WorkspaceQuota" TO {role};
           GRANT SELECT ON "_tower_quota_migrations", "QuotaPlan" TO {role}"#
    ));
    let theirs = url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let replica = Replica::start(&theirs);
    let acme = replica.quota.workspace("acme").unwrap();
    let one = Demand::one(replica.quota.catalog().by_name("segments").unwrap().id());
    let error = replica.runtime.block_on(replica.quota.reserve(&acme, &[one])).unwrap_err();
    let message = error.to_string();
    assert!(error.is_unavailable() && message.contains("GRANT SELECT, INSERT, UPDATE, DELETE ON"), "{message}");
    let tables = message.split(" ON ").nth(1).and_then(|rest| rest.split(" to the role").next()).unwrap();
    database.run(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role}"));
    let mut connection = replica.connect();
    until("the rights are noticed", || replica.runtime.block_on(replica.quota.reserve(&acme, &[one])).is_ok());
    create(&mut connection, "acme").expect(201);
}

#[test]
fn a_late_replica_makes_nothing_above_a_limit_that_was_lowered_in_strict() {
    let url = shared().database();
    let mut database = database(&url);
    let strict = |builder: QuotaBuilder| builder.mode(EnforcementMode::Strict).max_wait(Duration::from_millis(200));
    let prompt = Replica::with(&url, |ledger| ledger, strict);
    // It hears of a change when it asks again, and not before.
    let late = Replica::with(&url, |ledger| ledger.listens(false), strict);
    let mut connection = late.connect();
    let rest = r#"SELECT coalesce(sum("granted" - "posted" - "returned"), 0)::bigint FROM "_tower_quota_lease"
                  WHERE "workspace" = $1"#;
    let mut made = 0;
    while made < 10 || database.number(rest.to_owned(), "acme") < 3 {
        create(&mut connection, "acme").expect(201);
        made += 1;
    }
    // One that was admitted, and has not begun.
    let mut admitted = late.connect();
    admitted.send_raw(&creation("acme", "wait")).unwrap();
    until("it is admitted", || late.gate.waiting.load(Ordering::Relaxed) == 1);
    prompt.set_limit("acme", 5);
    late.gate.turns.add_permits(1);
    assert_eq!(admitted.read().unwrap().status, 503);
    for _ in 0..20 {
        let answer = create(&mut connection, "acme");
        assert!([429, 503].contains(&answer.status), "{answer}");
    }
    assert_eq!(database.rows("Segment", "acme"), made);
    // It takes part again, under the new limit.
    database.run(r#"DELETE FROM "Segment""#.to_owned());
    until("it serves again", || create(&mut connection, "acme").status == 201);
    fill(&[prompt, late], &mut database, "acme", 5);
}

#[test]
fn a_transaction_that_holds_on_to_its_units_commits_before_a_lowered_limit_is_answered_in_strict() {
    let url = shared().database();
    let mut database = database(&url);
    let strict = |builder: QuotaBuilder| builder.mode(EnforcementMode::Strict).max_wait(Duration::from_millis(200));
    let (one, other) = (Replica::with(&url, |ledger| ledger, strict), Replica::with(&url, |ledger| ledger, strict));
    let quota = &other.quota;
    let (acme, segments) = (quota.workspace("acme").unwrap(), quota.catalog().by_name("segments").unwrap().id());
    let (reservation, mut transaction) = other.runtime.block_on(async {
        let decision = quota.reserve(&acme, &[Demand::new(segments, 1)]).await.unwrap();
        let Decision::Admitted(reservation) = decision else { panic!("{decision:?}") };
        let mut transaction = other.pool.begin().await.unwrap();
        reservation.fence().hold(&mut *transaction).await.unwrap();
        (reservation, transaction)
    });
    thread::scope(|scope| {
        let answered = scope.spawn(|| one.set_limit("acme", 0));
        let ended = r#"SELECT count(*) FROM "_tower_quota_lease" WHERE "workspace" = $1 AND NOT "live""#;
        until("its lease has ended", || database.number(ended.to_owned(), "acme") == 1);
        assert!(!answered.is_finished());
        other.runtime.block_on(async {
            let insert = query(r#"INSERT INTO "Segment" VALUES ('one', 'acme')"#);
            insert.execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
        });
        answered.join().unwrap();
    });
    reservation.post();
    assert_eq!(database.rows("Segment", "acme"), 1);
    fill(&[one, other], &mut database, "acme", 1);
}

#[test]
fn a_plan_that_is_lowered_in_strict_waits_for_grants_that_have_read_its_limits() {
    let url = shared().database();
    let (mut database, mut host) = (database(&url), database(&url));
    let strict = |builder: QuotaBuilder| builder.mode(EnforcementMode::Strict).max_wait(Duration::from_millis(200));
    let (one, other) = (Replica::with(&url, |ledger| ledger, strict), Replica::with(&url, |ledger| ledger, strict));
    let segments = one.quota.catalog().by_name("segments").unwrap().id();
    let put_plan = |name: &str, limit| {
        let (admin, limits) = (one.quota.admin(Actor::library()), LimitSet::new().with(segments, Limit::of(limit)));
        one.runtime.block_on(admin.put_plan(name, &limits, &Expect::Anything)).unwrap();
    };
    // Its books are there already, or are opened by the grant.
    for (workspace, known) in [("acme", true), ("globex", false)] {
        put_plan(workspace, 10);
        let id = one.quota.workspace(workspace).unwrap();
        let assigned = PolicyChange::new().plan(workspace);
        let admin = one.quota.admin(Actor::library());
        one.runtime.block_on(admin.configure(&id, assigned, &Expect::Anything)).unwrap();
        if known {
            create(&mut one.connect(), workspace).expect(201);
            // No lease is there that could be waited for instead.
            database.run(
                r#"DELETE FROM "_tower_quota_lease"; UPDATE "_tower_quota_key" SET "counted" = NULL, "leased" = 0"#
                    .to_owned(),
            );
        }
        // The grant is held up where it counts.
        host.run(r#"BEGIN; LOCK TABLE "Segment" IN ACCESS EXCLUSIVE MODE"#.to_owned());
        let mut admitted = other.connect();
        admitted.send_raw(&creation(workspace, "wait")).unwrap();
        let waiting = r#"SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND wait_event_type = 'Lock' AND $1 <> ''"#;
        until("it counts", || database.number(waiting.to_owned(), workspace) > 0);
        let begun = other.gate.waiting.load(Ordering::Relaxed);
        let rows = thread::scope(|scope| {
            let lowered = scope.spawn(|| put_plan(workspace, 0));
            let behind = r#"SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_activity grants
                            ON grants.pid = ANY(pg_blocking_pids(a.pid)) AND grants.wait_event_type = 'Lock'
                            WHERE a.datname = current_database() AND $1 <> ''"#;
            until("it is waited for", || lowered.is_finished() || database.number(behind.to_owned(), workspace) > 0);
            assert!(!lowered.is_finished(), "{workspace}: answered while a grant by the old limit is under way");
            host.run("ROLLBACK".to_owned());
            lowered.join().unwrap();
            database.rows("Segment", workspace)
        });
        until("it is admitted", || other.gate.waiting.load(Ordering::Relaxed) > begun);
        other.gate.turns.add_permits(1);
        assert_eq!(admitted.read().unwrap().status, 503, "{workspace}");
        assert_eq!(database.rows("Segment", workspace), rows, "{workspace}");
    }
}

#[test]
fn a_limit_is_lowered_in_strict_whatever_the_workspace_is_called() {
    let url = shared().database();
    database(&url);
    let replica = Replica::with(&url, |ledger| ledger, |builder| builder.mode(EnforcementMode::Strict));
    for name in ["{types}", "{plan}", "{moved}", "{workspaces}", "it's {0} $1"] {
        let id = replica.quota.workspace(name).unwrap();
        let segments = replica.quota.catalog().by_name("segments").unwrap().id();
        let one = [Demand::one(segments)];
        replica.runtime.block_on(replica.quota.reserve(&id, &one)).unwrap();
        replica.set_limit(name, 0);
        let refused = replica.runtime.block_on(replica.quota.reserve(&id, &one)).unwrap();
        assert!(!matches!(refused, Decision::Admitted(_)), "{refused:?}");
    }
}

#[test]
fn a_plan_that_is_put_again_after_a_503_is_waited_for_again() {
    let url = shared().database();
    let mut database = database(&url);
    let strict = |builder: QuotaBuilder| builder.mode(EnforcementMode::Strict).max_wait(Duration::from_millis(200));
    let one = Replica::with(&url, |ledger| ledger, |builder| strict(builder).io_timeout(Duration::from_secs(2)));
    let other = Replica::with(&url, |ledger| ledger, strict);
    let (acme, segments) =
        (one.quota.workspace("acme").unwrap(), one.quota.catalog().by_name("segments").unwrap().id());
    let put_plan = |limit| {
        let (admin, limits) = (one.quota.admin(Actor::library()), LimitSet::new().with(segments, Limit::of(limit)));
        one.runtime.block_on(admin.put_plan("pro", &limits, &Expect::Anything))
    };
    put_plan(10).unwrap();
    let admin = one.quota.admin(Actor::library());
    one.runtime.block_on(admin.configure(&acme, PolicyChange::new().plan("pro"), &Expect::Anything)).unwrap();
    let (reservation, mut transaction) = other.runtime.block_on(async {
        let decision = other.quota.reserve(&acme, &[Demand::new(segments, 1)]).await.unwrap();
        let Decision::Admitted(reservation) = decision else { panic!("{decision:?}") };
        let mut transaction = other.pool.begin().await.unwrap();
        reservation.fence().hold(&mut *transaction).await.unwrap();
        (reservation, transaction)
    });
    let answers = [put_plan(0), put_plan(0)];
    other.runtime.block_on(async {
        query(r#"INSERT INTO "Segment" VALUES ('one', 'acme')"#).execute(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
    });
    reservation.post();
    for answer in answers {
        assert!(answer.as_ref().is_err_and(|error| error.is_unavailable()), "{answer:?}");
    }
    until("nothing more can come", || put_plan(0).is_ok());
    assert_eq!(database.rows("Segment", "acme"), 1);
}

#[test]
fn what_lowers_nothing_takes_no_units_in_strict() {
    let url = shared().database();
    database(&url);
    let soon = |builder: QuotaBuilder| builder.max_wait(Duration::from_millis(200));
    let (one, other) = (Replica::with(&url, |ledger| ledger, soon), Replica::with(&url, |ledger| ledger, soon));
    let (acme, segments) =
        (one.quota.workspace("acme").unwrap(), one.quota.catalog().by_name("segments").unwrap().id());
    let decision = other.runtime.block_on(other.quota.reserve(&acme, &[Demand::new(segments, 2)])).unwrap();
    let Decision::Admitted(reservation) = decision else { panic!("{decision:?}") };
    // Not waited for in this mode: they may become rows above the limit.
    one.set_limit("acme", 0);
    let admin = one.quota.admin(Actor::library());
    let strict = PolicyChange::new().mode(EnforcementMode::Strict);
    one.runtime.block_on(admin.configure(&acme, strict, &Expect::Anything)).unwrap();
    one.set_limit("acme", 1);
    other.runtime.block_on(async {
        let mut transaction = other.pool.begin().await.unwrap();
        reservation.fence().hold(&mut *transaction).await.unwrap();
        transaction.rollback().await.unwrap();
    });
    // What is said again may not have been waited for to the end.
    one.set_limit("acme", 1);
    other.runtime.block_on(async {
        let mut transaction = other.pool.begin().await.unwrap();
        reservation.fence().hold(&mut *transaction).await.unwrap_err();
    });
    reservation.void();
}
