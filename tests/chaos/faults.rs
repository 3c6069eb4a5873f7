//! Counts that fail, hang and panic: never a 429 by a fault, and nothing is stuck afterwards.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use tower_quota::{BoxFuture, EnforcementMode, Error, ResourceType, SqliteUsage, UsageSource, WorkspaceId};

use crate::host::{Host, LIMIT, create, upsert};
use crate::support::client::{Answer, together};

/// Counts well, or as ordered.
struct Faulty {
    rows: SqliteUsage,
    order: Arc<Order>,
}

#[derive(Default)]
struct Order {
    fault: AtomicU8,
    /// With several faults in turn, which is next.
    calls: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Fault {
    None,
    Fails,
    Hangs,
    Panics,
    /// Each of them in turn.
    Mixed,
}

const FAULTS: [Fault; 4] = [Fault::Fails, Fault::Hangs, Fault::Panics, Fault::Mixed];

impl Order {
    fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    async fn obey(&self) -> Result<(), Error> {
        let turn = self.calls.fetch_add(1, Ordering::SeqCst) % 4;
        let all = [Fault::None, Fault::Fails, Fault::Hangs, Fault::Panics];
        let fault = match self.fault.load(Ordering::SeqCst) {
            4 => all[turn],
            fault => all[usize::from(fault)],
        };
        match fault {
            Fault::None | Fault::Mixed => Ok(()),
            Fault::Fails => Err(Error::unavailable("no route").with_source(io::Error::other("no route"))),
            Fault::Hangs => std::future::pending().await,
            Fault::Panics => panic!("the count panics"),
        }
    }
}

impl UsageSource for Faulty {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            self.order.obey().await?;
            self.rows.count(workspace, resource, at_most).await
        })
    }

    fn existing<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        column: &'a str,
        values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            self.order.obey().await?;
            self.rows.existing(workspace, resource, column, values).await
        })
    }
}

fn host(mode: EnforcementMode) -> (Host, Arc<Order>) {
    let order = Arc::new(Order::default());
    let faulty = Arc::clone(&order);
    let host = Host::start(
        |rows| Faulty { rows, order: faulty },
        |builder, pools| builder.mode(mode).settling(pools.barrier()).io_timeout(Duration::from_millis(250)),
    );
    (host, order)
}

/// So many creations on 16 connections; the statuses of all answers.
fn storm(host: &Host, rule: &str, workspace: &str, each: usize) -> Vec<Answer> {
    let answers = together(16, 0, 0, |_, _| {
        let mut connection = host.connect();
        (0..each).map(|_| create(&mut connection, "calm", rule, workspace, "done")).collect::<Vec<_>>()
    });
    answers.into_iter().flatten().collect()
}

#[track_caller]
fn all_are(answers: &[Answer], statuses: &[u16]) {
    for answer in answers {
        assert!(statuses.contains(&answer.status), "{answer}");
        if answer.status == 503 {
            answer.refused(503, "QUOTA_UNAVAILABLE");
            assert!(answer.header("retry-after").is_some(), "{answer}");
        }
    }
}

#[test]
fn enforce_lets_requests_pass_that_nobody_can_decide_about() {
    let (host, order) = host(EnforcementMode::Enforce);
    for fault in FAULTS {
        let workspace = format!("open-{fault:?}");
        order.set(fault);
        // No count at all, ever. Nobody is refused, and the rows are made.
        all_are(&storm(&host, "direct", &workspace, 2), &[201]);
        all_are(&[upsert(&mut host.connect(), &workspace, &format!("by id {fault:?}"))], &[200]);
        order.set(Fault::None);
        // What passed is in the books, as soon as there are any.
        assert_eq!(host.database().rows("Segment", &workspace), 33);
        host.fill(&workspace);
        // At the limit a failing count lets pass what a count would have refused: the policy says so.
        order.set(fault);
        if fault != Fault::Mixed {
            all_are(&storm(&host, "direct", &workspace, 1), &[201]);
        }
        order.set(Fault::None);
        all_are(&storm(&host, "direct", &workspace, 2), &[429]);
    }
}

#[test]
fn a_rule_that_is_closed_refuses_with_503() {
    let (host, order) = host(EnforcementMode::Enforce);
    for fault in FAULTS {
        let workspace = format!("closed-{fault:?}");
        order.set(fault);
        let answers = storm(&host, "closed", &workspace, 2);
        all_are(&answers, if fault == Fault::Mixed { &[201, 503] } else { &[503] });
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!(usize::try_from(host.database().rows("Segment", &workspace)).unwrap(), made);
        order.set(Fault::None);
        all_are(&storm(&host, "closed", &workspace, 1), &[201]);
        host.fill(&workspace);
        order.set(fault);
        all_are(&storm(&host, "closed", &workspace, 1), if fault == Fault::Mixed { &[429, 503] } else { &[503] });
        order.set(Fault::None);
        all_are(&storm(&host, "closed", &workspace, 1), &[429]);
        assert_eq!(host.database().peak("Segment", &workspace), LIMIT);
    }
}

#[test]
fn strict_refuses_with_503() {
    let (host, order) = host(EnforcementMode::Strict);
    for fault in FAULTS {
        let workspace = format!("strict-{fault:?}");
        order.set(fault);
        let allowed: &[u16] = if fault == Fault::Mixed { &[201, 503] } else { &[503] };
        all_are(&storm(&host, "direct", &workspace, 1), allowed);
        let answer = upsert(&mut host.connect(), &workspace, &format!("by id {fault:?}"));
        all_are(&[answer], if fault == Fault::Mixed { &[200, 503] } else { &[503] });
        order.set(Fault::None);
        host.fill(&workspace);
        order.set(fault);
        all_are(&storm(&host, "direct", &workspace, 1), if fault == Fault::Mixed { &[429, 503] } else { &[503] });
        order.set(Fault::None);
        all_are(&storm(&host, "direct", &workspace, 1), &[429]);
        assert_eq!(host.database().peak("Segment", &workspace), LIMIT);
    }
}

#[test]
fn warn_lets_everything_pass() {
    let (host, order) = host(EnforcementMode::Warn);
    for fault in FAULTS {
        let workspace = format!("warn-{fault:?}");
        order.set(fault);
        all_are(&storm(&host, "direct", &workspace, 2), &[201]);
        all_are(&storm(&host, "closed", &workspace, 2), &[201]);
        all_are(&[upsert(&mut host.connect(), &workspace, &format!("by id {fault:?}"))], &[200]);
        order.set(Fault::None);
        let answers = storm(&host, "direct", &workspace, 1);
        all_are(&answers, &[201]);
        assert!(
            answers.iter().all(|answer| answer.header("quota-warning").is_some()),
            "over the limit, and no warning"
        );
    }
}

#[test]
fn units_already_counted_are_handed_out_without_a_count() {
    let (host, order) = host(EnforcementMode::Strict);
    let mut connection = host.connect();
    create(&mut connection, "calm", "direct", "acme", "done").expect(201);
    for fault in FAULTS {
        order.set(fault);
        for rule in ["direct", "reading", "closed"] {
            create(&mut connection, "calm", rule, "acme", "done").expect(201);
        }
    }
    assert_eq!(host.database().rows("Segment", "acme"), 13);
}
