//! What keeps it from starting.

use std::net::TcpListener;

use crate::host::Folder;
use crate::support::quickstart::Server;
use crate::support::until;

#[test]
fn a_port_that_is_taken() {
    let folder = Folder::new(Server::Sqlite);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    folder.change("127.0.0.1:0", &address.to_string());
    let told = folder.refused(&[], 6);
    assert!(told.contains(&format!("can't listen on {address}")) && told.contains("another program"), "{told}");
}

#[test]
fn a_gateway_without_an_upstream() {
    let folder = Folder::new(Server::Sqlite);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    folder.append(&format!("[gateway]\nlisten = \"127.0.0.1:0\"\nupstream = \"http://127.0.0.1:{port}\"\n"));
    // It may come later: the service is there.
    let service = folder.start();
    service.front().send("GET", "/anything", "").refused(502, "BAD_GATEWAY");
    // Its own port may be taken as well.
    folder.change("127.0.0.1:0\"\nupstream", &format!("{}\"\nupstream", service.gateway.unwrap()));
    let told = folder.refused(&[], 6);
    assert!(told.contains(&format!("can't listen on {}", service.gateway.unwrap())), "{told}");
}

#[test]
fn a_second_one_on_a_sqlite_file() {
    let folder = Folder::new(Server::Sqlite);
    let service = folder.start();
    let told = folder.refused(&[], 2);
    assert!(told.contains("another process") && told.contains("quota.db-quota-lock"), "{told}");
    assert_eq!(service.probe("/readyz"), Some(200));
}

#[test]
fn a_database_that_does_not_answer() {
    let folder = Folder::new(Server::Sqlite);
    // A port at which nobody listens any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    folder.change(&folder.url, &format!("postgres://somebody@127.0.0.1:{port}/quotas"));
    let told = folder.refused(&[], 3);
    assert!(told.contains(&format!("127.0.0.1:{port}")) && told.contains("see that the database runs"), "{told}");
}

#[test]
fn until_the_database_answers_it_lives_and_is_not_ready() {
    let folder = Folder::new(Server::Sqlite);
    // One that takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    folder.change(&folder.url, &format!("postgres://somebody@127.0.0.1:{port}/quotas"));
    let mut service = folder.start_unready();
    assert_eq!(service.probe("/livez"), Some(200));
    let mut connection = service.connect();
    let answer = connection.send("GET", "/readyz", "").expect(503);
    assert_eq!(answer.text(), "the service is starting\n");
    connection.send("GET", "/api/plans", "").refused(503, "QUOTA_UNAVAILABLE");
    service.signal("TERM");
    assert_eq!(service.end().code(), Some(0), "{}", service.log());
}

#[test]
fn a_table_that_is_not_there() {
    let folder = Folder::new(Server::Sqlite);
    let resource = "[[resource]]\nname = \"segments\"\ntable = \"Segmnt\"\n";
    folder.append(resource);
    let told = folder.refused(&[], 2);
    assert!(told.contains("no such table; run the host's migrations, or name another `table`"), "{told}");
    assert_eq!(told.matches("no such table: Segmnt").count(), 1, "{told}");
    let hint = "hint: where rows are, `table`, `workspace_column` and `workspace_type` of the type's [[resource]] tell";
    assert!(told.contains(hint), "{told}");

    folder.change(resource, "[[resource]]\nname = \"segments\"\nworkspace_column = \"tenant\"\n");
    let told = folder.refused(&[], 2);
    assert!(told.contains("a column is missing; set `workspace_column`") && told.contains(hint), "{told}");
}

#[test]
fn a_workspace_column_of_another_type() {
    let folder = Folder::new(Server::Postgres);
    folder.database().run(r#"ALTER TABLE "Segment" ADD COLUMN "owner" UUID"#.to_owned());
    folder.append("[[resource]]\nname = \"segments\"\nworkspace_column = \"owner\"\n");
    let told = folder.refused(&[], 2);
    assert!(told.contains("a column isn't text; set `workspace_type`"), "{told}");
}

#[test]
fn the_log_can_be_json() {
    let folder = Folder::new(Server::Sqlite);
    folder.append("[log]\nformat = \"json\"\n");
    let mut service = folder.start();
    service.signal("TERM");
    service.end();
    until("lines are there", || service.log().lines().count() >= 2);
    for line in service.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
}
