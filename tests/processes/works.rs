//! Works of many transactions, an import and a cleanup, whose process is killed in the midst of them, also between a
//! `COMMIT` and its end. Another process finishes them: nothing is lost, nothing is done twice.

use std::io;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fleet::{hold_commits, let_commits_go, make_commits_wait, waiting};
use crate::support::client::{Connection, request};
use crate::support::database::Database;
use crate::support::postgres::shared;
use crate::support::quickstart::{ADMIN, Quickstart, file, set_quota};
use crate::support::random::{Random, seed};
use crate::support::until;

const VARIABLES: [(&str, &str); 3] =
    [("QUOTA_ENFORCEMENT_MODE", "strict"), ("QUOTA_CLEANUP", "segments=archive,users=delete"), ("RUST_LOG", "off")];

/// A database that outlives its processes.
struct Place {
    url: String,
    // Held until the test is over.
    _folder: Option<TempDir>,
}

impl Place {
    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { url: file(&folder.path().join("quickstart.db")), _folder: Some(folder) }
    }

    fn postgres() -> Self {
        Self { url: shared().database(), _folder: None }
    }

    fn start(&self) -> Quickstart {
        Quickstart::on(&self.url, &VARIABLES)
    }

    fn database(&self) -> Database {
        match self.url.strip_prefix("sqlite://") {
            Some(path) => Database::open(Path::new(path)),
            None => Database::postgres(&self.url),
        }
    }
}

/// What a request asks for, and what tells how far it has come.
struct Work {
    path: &'static str,
    body: Value,
    /// A number that changes with each of its transactions, and by how much.
    progress: String,
    at_once: i64,
}

impl Work {
    /// Asks until all is done, or its process is gone; answers what was said last.
    fn ask(&self, connection: &mut Connection) -> io::Result<Value> {
        loop {
            let answer = connection.try_send("POST", self.path, &self.body.to_string())?;
            if answer.status == 503 {
                // It waits for what the one before it has begun.
                continue;
            }
            let body = answer.expect(200).json();
            if body["summary"]["done"] != json!(false) {
                return Ok(body);
            }
        }
    }

    /// Its process is killed again and again, each time as soon as it is seen to have come further, and so before it has heard
    /// so itself, if it can be; the last one finishes it.
    fn is_killed_again_and_again(&self, place: &Place) -> Value {
        const KILLS: usize = 6;
        let mut random = Random::new(seed(), &[KILLS]);
        let mut database = place.database();
        for _ in 0..KILLS {
            let mut server = place.start();
            let mut progress = || database.number(self.progress.clone(), "%");
            let enough = progress() + self.at_once * i64::try_from(1 + random.below(8)).unwrap();
            let mut connection = server.connect();
            thread::scope(|scope| {
                let working = scope.spawn(move || self.ask(&mut connection));
                until("it comes further", || progress() >= enough || working.is_finished());
                server.kill();
                assert!(working.join().unwrap().is_err(), "it was done before it could be killed");
            });
        }
        self.ask(&mut place.start().connect()).unwrap()
    }

    /// Its process is killed while a transaction of it commits, which ends well all the same: while another process asks for
    /// the same already.
    fn is_killed_at_its_commit(
        &self,
        place: &Place,
        server: &mut Quickstart,
        workspace: &str,
        waits_for: &str,
    ) -> Value {
        let (mut gate, mut database) = (place.database(), place.database());
        make_commits_wait(&mut gate, "QuotaAudit", workspace);
        hold_commits(&mut gate);
        let mut unanswered = server.connect();
        let body = self.body.to_string();
        unanswered.send_raw(&request("POST", self.path, Some(ADMIN), &[], &body)).unwrap();
        until("it commits", || waiting(&mut database, "COMMIT") == 1);
        server.kill();
        let next = place.start();
        thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask(&mut next.connect()).unwrap());
            until("the other one waits for it", || waiting(&mut database, waits_for) == 1);
            let_commits_go(&mut gate);
            asking.join().unwrap()
        })
    }
}

const WORKSPACES: usize = 300;

fn import() -> Work {
    let body = json!({"apply": true, "batch": 3});
    let progress = r#"SELECT count(*) FROM "WorkspaceQuota" WHERE "workspaceId" LIKE $1"#.to_owned();
    Work { path: "/api/system/quota-import", body, progress, at_once: 3 }
}

/// Each has 1 to 7 segments, and two of three have users.
fn make_rows(database: &mut Database) {
    let mut rows = [Vec::new(), Vec::new()];
    for at in 0..WORKSPACES {
        for (rows, count) in rows.iter_mut().zip([at % 7 + 1, at % 3]) {
            rows.extend((0..count).map(|row| format!("('{at} {row}', 'w{at:03}', '{row}')")));
        }
    }
    for (table, rows) in ["Segment", "User"].into_iter().zip(rows) {
        database.run(format!(r#"INSERT INTO "{table}" VALUES {}"#, rows.join(", ")));
    }
}

/// Each limit was set once, and each is told once.
#[track_caller]
fn all_are_imported_once(database: &mut Database, answer: &Value) {
    let limits = WORKSPACES + WORKSPACES / 3 * 2;
    let summary = &answer["summary"];
    let expected = json!({"workspaces": WORKSPACES, "set": limits, "raised": 0, "lowered": 0, "kept": 0, "invalid": 0,
                          "invalidIds": [], "after": format!("w{:03}", WORKSPACES - 1), "done": true});
    assert_eq!(*summary, expected);
    let mut number = |sql: &str| usize::try_from(database.number(sql.to_owned(), "w%")).unwrap();
    // Rounded up, six fifths of what there is.
    let right = |field: &str, table: &str| {
        format!(
            r#"SELECT count(*) FROM "WorkspaceQuota" q WHERE "workspaceId" LIKE $1 AND "version" = 1 AND "{field}" =
               ((SELECT count(*) FROM "{table}" r WHERE r."workspaceId" = q."workspaceId") * 6 + 4) / 5"#
        )
    };
    assert_eq!(number(&right("maxSegments", "Segment")), WORKSPACES);
    assert_eq!(number(&right("maxUsers", "User")), WORKSPACES / 3 * 2);
    let told = r#"FROM "QuotaAudit" WHERE "action" = 'imported' AND "workspaceId" LIKE $1"#;
    assert_eq!(number(&format!("SELECT count(*) {told}")), limits);
    let keys = format!(r#"SELECT count(*) FROM (SELECT DISTINCT "workspaceId", "resourceType" {told}) AS "keys""#);
    assert_eq!(number(&keys), limits);
}

fn an_import_is_killed(place: &Place) {
    let mut first = place.start();
    make_rows(&mut place.database());
    first.kill();
    let answer = import().is_killed_again_and_again(place);
    all_are_imported_once(&mut place.database(), &answer);
}

#[test]
fn an_import_that_is_killed_on_sqlite_goes_on_where_it_was() {
    an_import_is_killed(&Place::sqlite());
}

#[test]
fn an_import_that_is_killed_on_postgres_goes_on_where_it_was() {
    an_import_is_killed(&Place::postgres());
}

#[test]
fn an_import_whose_batch_is_committed_after_its_death_goes_on_behind_it() {
    let place = Place::postgres();
    let mut server = place.start();
    make_rows(&mut place.database());
    let answer = import().is_killed_at_its_commit(&place, &mut server, "w010", r#"%"QuotaProgress"%"#);
    all_are_imported_once(&mut place.database(), &answer);
}

const ROWS: usize = 300;
const KEPT: usize = 40;
const BATCH: usize = 3;

/// A table, the type of its rows, and whether those that are removed are archived.
struct Rows {
    table: &'static str,
    resource: &'static str,
    archived: bool,
}

const SEGMENTS: Rows = Rows { table: "Segment", resource: "segments", archived: true };
const USERS: Rows = Rows { table: "User", resource: "users", archived: false };

impl Rows {
    fn cleanup(&self) -> Work {
        let body = json!({"resourceType": self.resource, "dryRun": false, "batch": BATCH});
        let progress = format!(r#"SELECT -count(*) FROM "{}" WHERE "workspaceId" LIKE $1"#, self.table);
        Work { path: "/api/workspaces/acme/quota/cleanup", body, progress, at_once: i64::try_from(BATCH).unwrap() }
    }

    /// Rows of which most are above the limit, and those of somebody else.
    fn make(&self, place: &Place) -> Quickstart {
        let server = place.start();
        let row = |workspace: &str, at: usize| format!("('{workspace} {at:03}', '{workspace}', 'row {at}')");
        let rows: Vec<_> = (0..ROWS).flat_map(|at| [row("acme", at), row("other", at)]).collect();
        place.database().run(format!(r#"INSERT INTO "{}" VALUES {}"#, self.table, rows.join(", ")));
        set_quota(&mut server.connect(), "acme", &json!({"maxSegments": KEPT, "maxUsers": KEPT}));
        server
    }

    /// The oldest are left; each of the others was removed in one batch that tells of it, and was archived once if at all.
    #[track_caller]
    fn are_cleaned_once(&self, database: &mut Database) {
        let id = |at: usize| format!("acme {at:03}");
        let ids = |range: std::ops::Range<usize>| range.map(id).collect::<Vec<_>>();
        let left = format!(r#"SELECT "id" FROM "{}" WHERE "workspaceId" = $1 ORDER BY "id""#, self.table);
        assert_eq!(database.texts(left, "acme"), ids(0..KEPT));
        assert_eq!(database.rows(self.table, "other"), i64::try_from(ROWS).unwrap());

        let told = r#"SELECT CAST("new" AS TEXT) FROM "QuotaAudit" WHERE "action" = 'cleanup' AND "workspaceId" = $1"#;
        let told = database.texts(told.to_owned(), "acme").into_iter();
        let batches: Vec<Value> = told.map(|told| serde_json::from_str(&told).unwrap()).collect();
        let mut removed = Vec::new();
        for batch in &batches {
            let rows = batch["rows"].as_array().unwrap();
            assert!((1..=BATCH).contains(&rows.len()), "{batch}");
            removed.extend(rows.iter().map(|row| row.as_str().unwrap().to_owned()));
        }
        removed.sort_unstable();
        assert_eq!(removed, ids(KEPT..ROWS));

        let archive = r#"SELECT CAST("row" AS TEXT) FROM "QuotaArchive" WHERE "workspaceId" = $1"#;
        let archive = database.texts(archive.to_owned(), "acme").into_iter();
        let mut archive: Vec<Value> = archive.map(|row| serde_json::from_str(&row).unwrap()).collect();
        archive.sort_by_key(|row| row["id"].as_str().unwrap().to_owned());
        let row = |at| json!({"id": id(at), "workspaceId": "acme", "name": format!("row {at}")});
        let all: Vec<_> = if self.archived { (KEPT..ROWS).map(row).collect() } else { Vec::new() };
        assert_eq!(archive, all);
    }
}

fn a_cleanup_is_killed(rows: &Rows, place: &Place) {
    rows.make(place).kill();
    let done = rows.cleanup().is_killed_again_and_again(place);
    assert!(done["removed"].as_u64().unwrap() < u64::try_from(ROWS - KEPT).unwrap(), "{done}");
    rows.are_cleaned_once(&mut place.database());
}

#[test]
fn a_cleanup_that_is_killed_on_sqlite_archives_each_row_once() {
    a_cleanup_is_killed(&SEGMENTS, &Place::sqlite());
}

#[test]
fn a_cleanup_that_is_killed_on_postgres_archives_each_row_once() {
    a_cleanup_is_killed(&SEGMENTS, &Place::postgres());
}

#[test]
fn a_cleanup_that_is_killed_on_sqlite_deletes_no_row_too_many() {
    a_cleanup_is_killed(&USERS, &Place::sqlite());
}

#[test]
fn a_cleanup_that_is_killed_on_postgres_deletes_no_row_too_many() {
    a_cleanup_is_killed(&USERS, &Place::postgres());
}

#[test]
fn a_cleanup_whose_batch_is_committed_after_its_death_goes_on_behind_it() {
    for rows in [SEGMENTS, USERS] {
        let place = Place::postgres();
        let mut server = rows.make(&place);
        rows.cleanup().is_killed_at_its_commit(&place, &mut server, "acme", "%pg_advisory_xact_lock(hashtextextended%");
        rows.are_cleaned_once(&mut place.database());
    }
}
