//! Many requests at once, at all replicas.

use std::collections::BTreeMap;

use crate::host::{Replica, create, create_somehow, database, fill};
use crate::support::client::together;
use crate::support::postgres::shared;
use crate::support::random::{Random, seed};

const CONNECTIONS: usize = 48;

#[test]
fn three_replicas_store_exactly_as_many_rows_as_the_limit_says() {
    let url = shared().database();
    let mut database = database(&url);
    let replicas: Vec<_> = (0..3).map(|_| Replica::start(&url)).collect();
    for (round, limit) in [50, 1, 7, 1000, 50].into_iter().enumerate() {
        let workspace = format!("round-{round}");
        replicas[round % 3].set_limit(&workspace, limit);
        let answers = together(CONNECTIONS, 0, round, |number, _: &mut Random| {
            let mut connection = replicas[number % replicas.len()].connect();
            (0..40).map(|_| create(&mut connection, &workspace).status).collect::<Vec<_>>()
        });
        let mut tally = BTreeMap::new();
        for status in answers.into_iter().flatten() {
            *tally.entry(status).or_insert(0) += 1;
        }
        println!("limit {limit}: {tally:?}");
        assert!(tally.keys().all(|status| [201, 429].contains(status)), "{tally:?}");
        assert_eq!(database.rows("Segment", &workspace), i64::from(limit));
        assert_eq!(tally[&201], limit);
    }
}

#[test]
fn rows_never_exceed_the_limit_whatever_handlers_do() {
    let url = shared().database();
    let mut database = database(&url);
    database.watch("Segment");
    let replicas: Vec<_> = (0..2).map(|_| Replica::start(&url)).collect();
    let seed = seed();
    for round in 0..5 {
        let workspace = format!("round-{round}");
        together(CONNECTIONS / 2, seed, round, |number, random: &mut Random| {
            let replica = &replicas[number % replicas.len()];
            let mut connection = replica.connect();
            for _ in 0..8 {
                create_somehow(replica, &mut connection, &workspace, random);
            }
        });
        assert!(database.peak("Segment", &workspace) <= 50);
        fill(&replicas, &mut database, &workspace, 50);
        assert_eq!(database.peak("Segment", &workspace), 50);
    }
}
