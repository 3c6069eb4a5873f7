//! Replicas behind a pooler that hands out a connection per transaction.

use crate::host::{Replica, create, database, fill};
use crate::support::client::together;
use crate::support::pooler::Pooler;
use crate::support::postgres::shared;
use crate::support::random::Random;

const CONNECTIONS: usize = 24;

#[test]
fn limits_are_exact_and_units_come_back() {
    let pooler = Pooler::start(shared());
    let direct = shared().database();
    let mut database = database(&direct);
    database.watch("Segment");
    let url = pooler.url(&direct);
    let replica = |_| Replica::with(&url, |ledger| ledger.listens(false), |builder| builder);
    let replicas: Vec<_> = (0..3).map(replica).collect();
    for (round, limit) in [50, 1, 200].into_iter().enumerate() {
        let workspace = format!("round-{round}");
        replicas[round].set_limit(&workspace, limit);
        let answers = together(CONNECTIONS, 0, round, |number, _: &mut Random| {
            let mut connection = replicas[number % replicas.len()].connect();
            (0..20).map(|_| create(&mut connection, &workspace).status).collect::<Vec<_>>()
        });
        assert!(answers.iter().flatten().all(|status| [201, 429].contains(status)), "{answers:?}");
        fill(&replicas, &mut database, &workspace, i64::from(limit));
        assert_eq!(database.peak("Segment", &workspace), i64::from(limit));
    }
    // Rows that are deleted can be made anew anywhere.
    database.run(r#"DELETE FROM "Segment" WHERE "workspaceId" = 'round-0'"#.to_owned());
    fill(&replicas, &mut database, "round-0", 50);
}
