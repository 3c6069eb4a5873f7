//! Processes that are replaced one after the other while requests go on.

use std::net::TcpStream;

use crate::fleet::{
    Addresses, Storm, Weather, all_can_be_used, hold_commits, let_commits_go, limit, make_commits_wait, send, start,
    start_one, waiting,
};
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::random::seed;
use crate::support::until;

#[test]
fn a_rolling_restart_fails_no_request_and_leaves_nothing_behind() {
    const LIMIT: i64 = 30;
    const UNDER_WAY: usize = 4;
    let seed = seed();
    let url = shared().database();
    let (mut servers, mut database) = start(&url, 3);
    limit(&servers[0], "rolling", LIMIT);
    let mut gate = Database::postgres(&url);
    make_commits_wait(&mut gate, "Segment", "waiting");
    let addresses = Addresses::of(&servers);
    let storm = Storm { workspace: "rolling", connections: 24, weather: Weather::Fair, seed, round: 0 };
    let tally = storm.rage(&addresses, |answered| {
        for (place, signal) in ["INT", "TERM", "INT"].into_iter().enumerate() {
            answered.wait_for_more(100);
            let mut leaving = std::mem::replace(&mut servers[place], start_one(&url));
            // As a load balancer does: nothing new is sent to one that is about to go.
            addresses.replace(place, &servers[place]);
            hold_commits(&mut gate);
            let under_way = send(&leaving, "waiting", UNDER_WAY, &format!("at {place}"));
            let all = i64::try_from(UNDER_WAY).unwrap();
            until("requests are under way", || waiting(&mut database, "COMMIT") == all);
            leaving.signal(signal);
            until("it takes no more", || TcpStream::connect(leaving.address).is_err());
            let_commits_go(&mut gate);
            for mut connection in under_way {
                connection.read().unwrap().expect(201);
            }
            assert!(leaving.ended().success());
        }
        answered.wait_for_more(100);
    });
    assert!(tally[&201] > 0 && tally[&204] > 0, "{tally:?}");
    all_can_be_used(&servers, &mut database, "rolling", LIMIT);
    for server in &mut servers {
        server.signal("TERM");
        assert!(server.ended().success());
    }
    for table in ["_tower_quota_replica", "_tower_quota_lease", "_tower_quota_ended"] {
        let left = format!(r#"SELECT count(*) FROM "{table}" WHERE $1 <> ''"#);
        assert_eq!(database.number(left, table), 0, "{table}");
    }
}
