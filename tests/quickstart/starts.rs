//! Processes that start beside others, and what they are told.

use std::process::Command;
use std::thread;

use crate::process::{Quickstart, command, create, file, is_final, set_quota};
use crate::support::postgres;

/// What a process says that ends at once.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{errors}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("listening"));
    errors
}

#[test]
fn a_second_process_on_one_sqlite_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let mut first = Quickstart::on(&file(&path), &[]);
    let errors = refused(command(&file(&path), &[]));
    for says in [path.to_str().unwrap(), "another process", "run one", "Postgres"] {
        assert!(errors.contains(says), "{says}: {errors}");
    }
    // The first goes on.
    set_quota(&mut first.connect(), "acme", &serde_json::json!({ "maxSegments": 1 }));
    create(&mut first.connect(), "acme", "one").expect(201);
    // Its end is the end of its lock, also after `kill -9`.
    first.kill();
    let second = Quickstart::on(&file(&path), &[]);
    assert!(is_final(&create(&mut second.connect(), "acme", "one too many")));
}

#[test]
fn several_processes_start_at_once_on_an_empty_postgres_database() {
    let url = postgres::shared().database();
    let servers = thread::scope(|scope| {
        let starting: Vec<_> = (0..6).map(|_| scope.spawn(|| Quickstart::on(&url, &[]))).collect();
        starting.into_iter().map(|starting| starting.join().unwrap()).collect::<Vec<_>>()
    });
    for server in &servers {
        create(&mut server.connect(), "acme", &format!("by {}", server.address)).expect(201);
    }
    assert_eq!(servers[0].database().rows("Segment", "acme"), 6);
}

#[test]
fn an_absent_postgres_database_is_told_at_the_start() {
    let url = postgres::shared().url_of("postgres", "absent");
    let errors = refused(command(&url, &[]));
    assert!(errors.contains("absent"), "{errors}");
}

#[test]
fn a_cleanup_that_is_none_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let url = file(&folder.path().join("quickstart.db"));
    for (policies, says) in [
        ("segments", "QUOTA_CLEANUP: write type=report, type=archive or type=delete"),
        ("segments=archive,users=burn", "users=burn"),
        ("cats=delete", "the cleanup: "),
    ] {
        let errors = refused(command(&url, &[("QUOTA_CLEANUP", policies)]));
        assert!(errors.contains(says), "{says}: {errors}");
    }
}
