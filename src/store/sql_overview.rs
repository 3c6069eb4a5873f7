//! How full workspaces are, in a SQL database.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::overview::{Fullness, Overview, OverviewStore, Wanted};
use super::sql::{Records, SqlStore};
use super::sql_events::number;
use super::sql_texts::{document, json, refused, text};
use crate::BoxFuture;
use crate::decision::Usage;
use crate::error::Error;
use crate::limit::Limit;
use crate::sql::{Statement, Value};

/// How many workspaces one statement is about.
const AT_ONCE: usize = 500;

const COLUMNS: &str = r#"SELECT "workspaceId", "at", "usage" FROM "QuotaOverview""#;

/// Usage and limit by resource type, as they are kept.
type Kept = BTreeMap<String, (u64, Limit)>;

/// What a statement on this table fails with.
fn failed<DB: Records>(error: sqlx::Error) -> Error {
    match DB::trouble(&error) {
        #[cfg(feature = "postgres")]
        Some(crate::sql::Trouble::Denied) => Error::unavailable(
            "the list of workspaces fails: the role needs GRANT SELECT, INSERT, UPDATE ON \"QuotaOverview\" from its \
             owner",
        )
        .with_source(error),
        _ => refused::<DB>(error),
    }
}

fn rank(percent: u64) -> i64 {
    i64::try_from(percent).map_or(-i64::MAX, |percent| -percent)
}

/// `$1, $2` and so on.
fn list(first: usize, values: usize) -> String {
    let parameters: Vec<_> = (first..first + values).map(|parameter| format!("${parameter}")).collect();
    parameters.join(", ")
}

fn overview<DB: Records>(row: &DB::Row) -> Result<Overview, Error> {
    let kept: Kept = document(&text::<DB>(row, 2)?)?;
    Ok(Overview {
        workspace: text::<DB>(row, 0)?,
        at: Timestamp::from_millisecond(number::<DB>(row, 1)?).unwrap_or_default(),
        usage: kept.into_iter().map(|(name, (current, limit))| (name, Usage { current, limit })).collect(),
    })
}

/// Conditions of a SELECT, and what they bind.
#[derive(Default)]
struct Conditions<'a> {
    sql: Vec<String>,
    values: Vec<Value<'a>>,
}

impl<'a> Conditions<'a> {
    /// The place of a value in the statement.
    fn bind(&mut self, value: Value<'a>) -> String {
        self.values.push(value);
        format!("${}", self.values.len())
    }

    fn number(&mut self, value: i64) -> String {
        format!("CAST({} AS BIGINT)", self.bind(Value::Number(value)))
    }

    fn fullness(&mut self, fullness: Fullness) {
        let (from, below) = fullness.bounds();
        if from > 0 {
            let most = self.number(rank(from));
            self.sql.push(format!(r#""rank" <= {most}"#));
        }
        if let Some(below) = below {
            let least = self.number(rank(below));
            self.sql.push(format!(r#""rank" > {least}"#));
        }
    }

    fn text(&mut self, wanted: &str) {
        let mut pattern = String::from("%");
        for letter in wanted.to_ascii_lowercase().chars() {
            if matches!(letter, '%' | '_' | '\\') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern.push('%');
        let pattern = self.bind(Value::Owned(pattern));
        self.sql.push(format!(r#"lower("workspaceId") LIKE {pattern} ESCAPE '\'"#));
    }

    fn end(mut self, select: &str, order: &str, limit: usize) -> Statement<'a> {
        let conditions = if self.sql.is_empty() { String::new() } else { format!(" WHERE {}", self.sql.join(" AND ")) };
        let limit = self.number(i64::try_from(limit).unwrap_or(i64::MAX));
        Statement::once(format!("{select}{conditions}{order} LIMIT {limit}"), self.values)
    }
}

/// The statement that reads a page: from where the one before has ended, by an index, however many there are before it.
fn select(wanted: &Wanted) -> Statement<'_> {
    let mut conditions = Conditions::default();
    conditions.fullness(wanted.fullness);
    if let Some(text) = &wanted.text {
        conditions.text(text);
    }
    let order = if wanted.by_name { r#""workspaceId""# } else { r#""rank", "workspaceId""# };
    match &wanted.after {
        Some((_, id)) if wanted.by_name => {
            let id = conditions.bind(Value::Text(id));
            conditions.sql.push(format!(r#""workspaceId" > {id}"#));
        }
        Some((percent, id)) => {
            let (rank, id) = (conditions.number(rank(*percent)), conditions.bind(Value::Text(id)));
            conditions.sql.push(format!(r#"("rank", "workspaceId") > ({rank}, {id})"#));
        }
        None => {}
    }
    conditions.end(COLUMNS, &format!(" ORDER BY {order}"), wanted.limit)
}

impl<DB: Records> SqlStore<DB> {
    async fn overviews_of(&self, workspaces: &[&str]) -> Result<Vec<Overview>, Error> {
        let mut found = Vec::new();
        for some in workspaces.chunks(AT_ONCE) {
            let ids = list(1, some.len());
            let select = format!(r#"{COLUMNS} WHERE "workspaceId" IN ({ids}) ORDER BY "workspaceId""#);
            let values = some.iter().map(|id| Value::Text(id)).collect();
            let rows = self.fetch(Statement::once(select, values), failed::<DB>).await?;
            found.extend(rows.iter().map(overview::<DB>).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(found)
    }

    /// What is kept once `seen` is taken in. What another process takes in at the same moment may be lost: it is seen again.
    async fn noted(&self, seen: &[Overview]) -> Result<BTreeMap<String, Overview>, Error> {
        let ids: Vec<_> = seen.iter().map(|seen| seen.workspace.as_str()).collect();
        let mut noted: BTreeMap<_, _> =
            self.overviews_of(&ids).await?.into_iter().map(|known| (known.workspace.clone(), known)).collect();
        for seen in seen {
            noted
                .entry(seen.workspace.clone())
                .and_modify(|known| {
                    known.at = known.at.max(seen.at);
                    known.usage.extend(seen.usage.iter().map(|(name, usage)| (name.clone(), *usage)));
                })
                .or_insert_with(|| seen.clone());
        }
        for known in noted.values_mut() {
            // A type that the catalog has lost would keep the workspace where it was for ever.
            known.usage.retain(|name, _| self.texts.catalog.by_name(name).is_ok());
        }
        Ok(noted)
    }
}

impl<DB: Records> OverviewStore for SqlStore<DB> {
    fn note<'a>(&'a self, seen: &'a [Overview]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            for some in seen.chunks(AT_ONCE) {
                let (mut rows, mut values) = (Vec::new(), Vec::new());
                // In one order, so that no two processes wait for each other.
                for known in self.noted(some).await?.into_values() {
                    let first = values.len() + 1;
                    rows.push(format!(
                        "(${first}, CAST(${} AS BIGINT), CAST(${} AS BIGINT), ${})",
                        first + 1,
                        first + 2,
                        first + 3
                    ));
                    let kept: Kept =
                        known.usage.iter().map(|(name, usage)| (name.clone(), (usage.current, usage.limit))).collect();
                    let (rank, at) = (rank(known.percent()), known.at.as_millisecond());
                    values.extend([
                        Value::Owned(known.workspace),
                        Value::Number(rank),
                        Value::Number(at),
                        Value::Owned(json(&kept)?),
                    ]);
                }
                let note = format!(
                    r#"INSERT INTO "QuotaOverview" ("workspaceId", "rank", "at", "usage") VALUES {}
ON CONFLICT ("workspaceId") DO UPDATE SET "rank" = excluded."rank", "at" = excluded."at", "usage" = excluded."usage"
WHERE excluded."at" >= "QuotaOverview"."at""#,
                    rows.join(", ")
                );
                self.run(Statement::once(note, values), failed::<DB>).await?;
            }
            Ok(())
        })
    }

    fn page<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Vec<Overview>, Error>> {
        Box::pin(async move {
            let rows = self.fetch(select(wanted), failed::<DB>).await?;
            rows.iter().map(overview::<DB>).collect()
        })
    }

    fn overviews<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<Overview>, Error>> {
        Box::pin(self.overviews_of(workspaces))
    }

    fn crowd(&self, fullness: Fullness, most: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move {
            let mut conditions = Conditions::default();
            conditions.fullness(fullness);
            let some = conditions.end(r#"SELECT "rank" FROM "QuotaOverview""#, "", most);
            let count = Statement { sql: format!("SELECT count(*) FROM ({}) AS c", some.sql).into(), ..some };
            let rows = self.fetch(count, failed::<DB>).await?;
            let count = rows.first().map(|row| number::<DB>(row, 0)).transpose()?;
            Ok(usize::try_from(count.unwrap_or_default()).unwrap_or_default())
        })
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use sqlx::Sqlite;

    use super::*;
    use crate::resource::ResourceCatalog;
    use crate::sql::Dialect;
    use crate::store::SqliteStore;

    /// A page is read from where the one before has ended, however many there are before it and behind it.
    #[tokio::test]
    async fn pages_are_read_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("quota.db").display());
        let store = SqliteStore::connect(&url, &ResourceCatalog::default()).await.unwrap();
        let many = r#"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999)
            INSERT INTO "QuotaOverview" SELECT printf('w%06d', i), -(i % 100), 0, '{}' FROM n"#;
        let mut connection = store.pool().acquire().await.unwrap();
        Sqlite::script(&mut connection, many).await.unwrap();
        let after = Some((50, "w000050".to_owned()));
        for (fullness, by_name, after) in [
            (Fullness::Any, false, None),
            (Fullness::Any, false, after.clone()),
            (Fullness::Any, true, after.clone()),
            (Fullness::Near, false, after.clone()),
            (Fullness::Full, false, after),
        ] {
            let wanted = Wanted { fullness, by_name, text: None, after, limit: 51 };
            let page = select(&wanted);
            let explain = Statement { sql: format!("EXPLAIN QUERY PLAN {}", page.sql).into(), ..page };
            let plan = Sqlite::rows(&mut connection, explain).await.unwrap();
            let plan: Vec<_> = plan.iter().map(|row| Sqlite::text(row, 3).unwrap()).collect();
            let [step] = &plan[..] else { panic!("{wanted:?}: {plan:?}") };
            // Without a place to begin at, it begins where the index does.
            let begins = if wanted.after.is_some() { "SEARCH" } else { "SCAN" };
            assert!(step.starts_with(begins) && step.contains("USING INDEX"), "{wanted:?}: {step}");
        }
    }
}
