//! What every listing of all workspaces promises. Each test has a host to itself.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tower_quota::{Limit, ResourceCatalog, ResourceSpec, SqlTable, UsagePages, UsageSource};

use crate::counts::{Host, segments};

const TYPES: [(&str, &str); 3] = [("journeys", "maxJourneys"), ("hooks", "maxHooks"), ("audiences", "maxAudiences")];

fn catalog() -> ResourceCatalog {
    let specs = TYPES.map(|(name, field)| ResourceSpec::new(name, field, Limit::of(1)));
    specs.into_iter().fold(ResourceCatalog::empty(), |builder, spec| builder.resource(spec)).build().unwrap()
}

/// Three tables, of which one is filtered.
struct Listed<H> {
    host: H,
    usage: Arc<dyn UsageSource>,
    rows: BTreeMap<String, Vec<u64>>,
}

impl<H: Host> Listed<H> {
    async fn start(host: H) -> Self {
        let collated = H::COLLATED;
        host.run(&format!(
            r#"CREATE TABLE "Journey" ("workspaceId" TEXT, "archived" INTEGER);
               CREATE INDEX "JourneyByWorkspace" ON "Journey" ("workspaceId");
               CREATE TABLE "Hook" ("tenant" {collated}, "archived" INTEGER);
               CREATE TABLE "Audience" ("workspaceId" VARCHAR(99), "archived" INTEGER);
               INSERT INTO "Journey" VALUES (NULL, 0), (NULL, 0);
               INSERT INTO "Hook" VALUES ('only archived', 1), ('acme', 1)"#
        ))
        .await;
        let tables = [
            SqlTable::new("Journey"),
            SqlTable::new("Hook").workspace_column("tenant").filter(r#""archived" = 0 OR "Hook"."archived" = 7"#),
            SqlTable::new("Audience"),
        ];
        let usage = host.usage_of(&catalog(), TYPES.map(|(name, _)| name).into_iter().zip(tables)).unwrap();
        Self { host, usage, rows: BTreeMap::new() }
    }

    async fn insert(&mut self, workspace: &str, rows: [u64; 3]) {
        let id = workspace.replace('\'', "''");
        for (table, rows) in ["Journey", "Hook", "Audience"].into_iter().zip(rows) {
            for _ in 0..rows {
                self.host.run(&format!(r#"INSERT INTO "{table}" VALUES ('{id}', 0)"#)).await;
            }
        }
        let all = self.rows.entry(workspace.to_owned()).or_insert_with(|| vec![0; 3]);
        all.iter_mut().zip(rows).for_each(|(all, rows)| *all += rows);
    }

    fn pages(&self, page: usize) -> UsagePages<Arc<dyn UsageSource>> {
        UsagePages::new(Arc::clone(&self.usage), &catalog()).page(NonZeroUsize::new(page).unwrap())
    }

    fn behind(&self, workspace: &str) -> Vec<(String, Vec<u64>)> {
        let behind = self.rows.iter().filter(|(listed, _)| listed.as_str() > workspace);
        behind.map(|(workspace, rows)| (workspace.clone(), rows.clone())).collect()
    }
}

async fn batch(pages: &mut UsagePages<Arc<dyn UsageSource>>) -> Vec<(String, Vec<u64>)> {
    let batch = pages.next().await.unwrap();
    batch.into_iter().map(|usage| (usage.workspace, usage.rows)).collect()
}

async fn all(mut pages: UsagePages<Arc<dyn UsageSource>>, page: usize) -> Vec<(String, Vec<u64>)> {
    let mut all = Vec::new();
    loop {
        let batch = batch(&mut pages).await;
        assert!(all.len() % page == 0 || batch.is_empty(), "only the last is not full");
        if batch.is_empty() {
            return all;
        }
        all.extend(batch);
    }
}

pub(crate) async fn all_workspaces_are_listed_by_their_bytes(host: impl Host) {
    let mut listed = Listed::start(host).await;
    assert_eq!(all(listed.pages(3), 3).await, []);
    // In another order by every collation that has one of its own.
    let ids = [
        "acme",
        "Acme",
        "ACME",
        "a-b",
        "ab",
        "a_b",
        "a b",
        "a'b",
        "a\"b",
        "a'; DROP TABLE \"Journey\"; --",
        "É",
        "é",
        "e",
        "日本語 🦀",
        "～",
        "Z",
        "z",
        "10",
        "9",
        "%",
        "$1",
        " ",
    ];
    for (at, id) in (0..).zip(ids) {
        listed.insert(id, [at % 3, (at + 1) % 2, at % 2 * 2]).await;
    }
    for page in [1, 2, 3, 22, 1000] {
        assert_eq!(all(listed.pages(page), page).await, listed.behind(""), "{page}");
    }
    for after in ids.into_iter().chain(["", "b", "🦀", "only archived"]) {
        assert_eq!(all(listed.pages(4).after(after), 4).await, listed.behind(after), "{after}");
    }
}

pub(crate) async fn rows_may_be_written_meanwhile(host: impl Host) {
    let mut listed = Listed::start(host).await;
    for id in ["b", "d", "f", "h", "j", "l"] {
        listed.insert(id, [1, 2, 0]).await;
    }
    let mut pages = listed.pages(2);
    assert_eq!(batch(&mut pages).await, [("b".to_owned(), vec![1, 2, 0]), ("d".to_owned(), vec![1, 2, 0])]);
    // Behind what was read of any type, and before that.
    for id in ["a", "d", "k", "m"] {
        listed.insert(id, [1, 1, 1]).await;
    }
    listed
        .host
        .run(r#"DELETE FROM "Journey" WHERE "workspaceId" = 'h'; DELETE FROM "Hook" WHERE "tenant" = 'h'"#)
        .await;
    listed.rows.remove("h");
    let mut rest = Vec::new();
    loop {
        let batch = batch(&mut pages).await;
        if batch.is_empty() {
            break;
        }
        rest.extend(batch);
    }
    // Of the third type, nothing had been read yet but its end.
    let expected = [("f", [1, 2, 0]), ("j", [1, 2, 0]), ("k", [1, 1, 0]), ("l", [1, 2, 0]), ("m", [1, 1, 0])];
    assert_eq!(rest, expected.map(|(id, rows)| (id.to_owned(), rows.to_vec())));
    assert_eq!(all(listed.pages(2), 2).await, listed.behind(""), "the next run sees all");
}

pub(crate) async fn workspaces_that_are_no_texts_are_listed_by_their_texts(host: impl Host) {
    host.run(r#"CREATE TABLE "Numbered" ("workspaceId" BIGINT); INSERT INTO "Numbered" VALUES (9), (10), (100), (NULL), (10)"#)
        .await;
    let usage = host.usage(SqlTable::new("Numbered")).unwrap();
    let catalog = crate::counts::metered();
    for page in [1, 2, 9] {
        let pages = UsagePages::new(Arc::clone(&usage), &catalog).page(NonZeroUsize::new(page).unwrap());
        let expected = [("10", 2), ("100", 1), ("9", 1)].map(|(id, rows)| (id.to_owned(), vec![rows, 0]));
        assert_eq!(all(pages, page).await, expected);
    }
}

pub(crate) async fn what_cannot_be_listed_is_an_error(host: impl Host) {
    let catalog = crate::counts::metered();
    for (table, says) in [
        (SqlTable::new("Sgement"), "no such table"),
        (SqlTable::new("Segment").workspace_column("workspace"), "a column is missing"),
        (segments().filter(r#""archvied" = 0"#), "a column is missing"),
    ] {
        let usage = host.usage(table).unwrap();
        for after in [None, Some("a")] {
            let error = usage.page(catalog.by_name("segments").unwrap(), after, 5).await.unwrap_err();
            assert!(error.is_unavailable() && error.message().contains(says), "{error}");
        }
    }
    let usage = host.usage(segments()).unwrap();
    let error = usage.page(ResourceCatalog::default().by_name("journeys").unwrap(), None, 5).await.unwrap_err();
    assert!(error.is_config(), "{error}");
    host.close().await;
    let mut pages = UsagePages::new(usage, &catalog);
    assert!(pages.next().await.unwrap_err().is_unavailable());
}
