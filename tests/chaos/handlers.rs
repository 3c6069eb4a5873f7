//! Handlers that end in every way there is.

use std::collections::BTreeMap;
use std::time::Duration;

use tower_quota::Settling;

use crate::host::{CARELESS, Host, LIMIT, PLACES, RULES, WELL_BEHAVED, request};
use crate::support::client::together;
use crate::support::random::{Random, seed};

const CONNECTIONS: usize = 64;

struct Storm<'s> {
    fates: &'s [&'s str],
    /// A client that hangs up has its handler cut off anywhere.
    hang_up: bool,
    each: usize,
}

impl Storm<'_> {
    /// Random requests over all connections at once; tells how often which status was the answer.
    fn run(&self, host: &Host, workspace: &str, seed: u64, round: usize) -> BTreeMap<u16, usize> {
        let answers = together(CONNECTIONS, seed, round, |_, random: &mut Random| {
            let mut connection = host.connect();
            let mut statuses = Vec::new();
            for _ in 0..self.each {
                // More is made than is deleted, but not by much, so that the limit is always near.
                let method = if random.below(5) < 2 { "DELETE" } else { "POST" };
                let rule = if method == "DELETE" { "direct" } else { random.pick(RULES) };
                let fate = if random.below(3) == 0 { *random.pick(self.fates) } else { "done" };
                // Where it can hang there must be a time-out, which may cut off any other handler too.
                let cut = fate.starts_with("hang") || self.hang_up && random.below(8) == 0;
                let place = if cut { *random.pick(PLACES) } else { "calm" };
                let bytes = request(method, place, rule, workspace, fate, random.below(600));
                if self.hang_up && random.below(6) == 0 {
                    connection.send_raw(&bytes[..bytes.len() - random.below(2) * random.below(bytes.len())]).unwrap();
                    connection = host.connect();
                    continue;
                }
                connection.send_raw(&bytes).unwrap();
                statuses.push(connection.read().unwrap().status);
            }
            statuses
        });
        let mut tally = BTreeMap::new();
        for status in answers.into_iter().flatten() {
            *tally.entry(status).or_default() += 1;
        }
        tally
    }
}

fn rounds(host: &Host, storm: &Storm<'_>, rounds: usize) {
    let seed = seed();
    let mut database = host.database();
    let mut tally: BTreeMap<u16, usize> = BTreeMap::new();
    let mut full = 0;
    for round in 0..rounds {
        let workspace = format!("round-{round}");
        for (status, answers) in storm.run(host, &workspace, seed, round) {
            *tally.entry(status).or_default() += answers;
        }
        full += usize::from(database.peak("Segment", &workspace) == LIMIT);
        assert!(database.peak("Segment", &workspace) <= LIMIT, "{workspace}: {tally:?}");
        host.fill(&workspace);
        assert_eq!(database.peak("Segment", &workspace), LIMIT, "{workspace}");
    }
    println!("{tally:?}; the storm reached the limit in {full} of {rounds} rounds");
    assert!(full * 2 > rounds && tally.contains_key(&429), "the storm is too weak to tell anything");
}

#[test]
fn rows_never_exceed_the_limit_whatever_handlers_do() {
    let host = Host::start(|usage| usage, |builder, pools| builder.settling(pools.barrier()));
    let fates = [WELL_BEHAVED, CARELESS].concat();
    rounds(&host, &Storm { fates: &fates, hang_up: true, each: 24 }, 20);
}

#[test]
fn a_settling_time_is_enough_for_handlers_that_end_with_their_transactions() {
    let settling = Settling::After(Duration::from_millis(200));
    let host = Host::start(|usage| usage, |builder, _| builder.settling(settling));
    rounds(&host, &Storm { fates: WELL_BEHAVED, hang_up: false, each: 24 }, 10);
}
