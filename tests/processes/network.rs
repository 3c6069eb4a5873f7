//! Processes that can't reach Postgres any more, in each of the ways in which a network fails.

use crate::fleet::{all_can_be_used, limit, send, start, start_one};
use crate::support::postgres::shared;
use crate::support::proxy::{Mode, Proxy};
use crate::support::quickstart::{create, create_all, is_final_among_others};
use crate::support::until;

const LIMIT: i64 = 12;

fn a_process_is_cut_off(by: Mode) {
    let url = shared().database();
    let (mut servers, mut database) = start(&url, 1);
    let proxy = Proxy::start(shared().socket());
    let cut_off = start_one(&proxy.url(&url));
    limit(&cut_off, "acme", LIMIT);
    create_all(&mut cut_off.connect(), "acme", (0..4).map(|at| format!("before {at}")));
    proxy.set(by);
    let under_way = send(&cut_off, "acme", 3, "meanwhile");
    // The others get its units, and by then it hands out none any more.
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
    create(&mut cut_off.connect(), "acme", "when others have its units").refused(503, "QUOTA_UNAVAILABLE");
    proxy.set(Mode::Pass);
    for mut connection in under_way {
        let answer = connection.read().unwrap();
        assert!([500, 503].contains(&answer.status), "{answer}");
    }
    // It serves again.
    database.run(r#"DELETE FROM "Segment" WHERE "name" LIKE 'before %'"#.to_owned());
    let mut connection = cut_off.connect();
    until("it serves again", || match create(&mut connection, "acme", "when it is back") {
        answer if answer.status == 201 => true,
        answer if answer.status == 429 => {
            assert!(!is_final_among_others(&answer), "{answer}");
            false
        }
        answer => {
            assert!([500, 503].contains(&answer.status), "{answer}");
            false
        }
    });
    servers.push(cut_off);
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
}

#[test]
fn what_it_sends_is_lost() {
    a_process_is_cut_off(Mode::Drop);
}

#[test]
fn what_it_sends_comes_too_late() {
    a_process_is_cut_off(Mode::Delay);
}

#[test]
fn its_connections_are_half_closed() {
    a_process_is_cut_off(Mode::HalfClose);
}

#[test]
fn its_connections_break() {
    a_process_is_cut_off(Mode::Reset);
}

#[test]
fn idle_units_are_found_when_all_notices_are_lost() {
    const LIMIT: i64 = 40;
    let url = shared().database();
    let (direct, mut database) = start(&url, 1);
    drop(direct);
    let proxies = [(); 2].map(|()| Proxy::start(shared().socket()));
    let servers: Vec<_> = proxies
        .iter()
        .map(|proxy| {
            proxy.set_for(Mode::Drop, b"LISTEN");
            let server = start_one(&proxy.url(&url));
            until("it listens in vain", || proxy.caught() == 1);
            server
        })
        .collect();
    limit(&servers[0], "acme", LIMIT);
    // Both have some in store after these.
    for at in 0..12 {
        create(&mut servers[at % 2].connect(), "acme", &format!("before {at}")).expect(201);
    }
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
    database.run(r#"DELETE FROM "Segment" WHERE "name" LIKE 'before %'"#.to_owned());
    all_can_be_used(&servers, &mut database, "acme", LIMIT);
}
