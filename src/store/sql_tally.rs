//! Tallies of rows, in a SQL database.

use super::TallyStore;
use super::sql::{Records, SqlStore};
use super::sql_texts::{Query, refused, text};
use crate::BoxFuture;
use crate::error::Error;
use crate::sql::{Statement, Value};
use crate::workspace::WorkspaceId;

/// What a statement on this table fails with.
pub(super) fn failed<DB: Records>(error: sqlx::Error) -> Error {
    match DB::trouble(&error) {
        #[cfg(feature = "postgres")]
        Some(crate::sql::Trouble::Denied) => Error::unavailable(
            "rows can't be tallied: the role needs GRANT SELECT, INSERT, UPDATE ON \"QuotaTally\" from its owner",
        )
        .with_source(error),
        _ => refused::<DB>(error),
    }
}

pub(super) fn read<'a>(workspace: &'a WorkspaceId, resource: &'a str) -> Statement<'a> {
    let read = r#"SELECT "rows" FROM "QuotaTally" WHERE "resource" = $1 AND "workspaceId" = $2"#;
    Statement::once(read, vec![Value::Text(resource), Value::Text(workspace.as_str())])
}

pub(super) fn write<'a>(workspace: &'a WorkspaceId, resource: &'a str, rows: u64) -> Statement<'a> {
    let write = r#"INSERT INTO "QuotaTally" ("resource", "workspaceId", "rows") VALUES ($1, $2, $3)
ON CONFLICT ("resource", "workspaceId") DO UPDATE SET "rows" = excluded."rows""#;
    let rows = Value::Number(i64::try_from(rows).unwrap_or(i64::MAX));
    Statement::once(write, vec![Value::Text(resource), Value::Text(workspace.as_str()), rows])
}

/// The number that was read; 0 where there was none, or less than that.
pub(super) fn number<DB: Records>(rows: &[DB::Row]) -> Result<u64, sqlx::Error> {
    let number = rows.first().map(|row| DB::number(row, 0)).transpose()?.flatten();
    Ok(number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0))
}

impl<DB: Records> TallyStore for SqlStore<DB> {
    fn tally<'a>(&'a self, workspace: &'a WorkspaceId, resource: &'a str) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let rows = self.fetch(read(workspace, resource), failed::<DB>).await?;
            number::<DB>(&rows).map_err(failed::<DB>)
        })
    }

    fn keep_tally<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a str,
        rows: u64,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.run(write(workspace, resource, rows), failed::<DB>).await.map(drop) })
    }

    fn tallied<'a>(
        &'a self,
        resource: &'a str,
        after: Option<&'a str>,
        at_most: usize,
    ) -> BoxFuture<'a, Result<Vec<(String, u64)>, Error>> {
        Box::pin(async move {
            let mut query = Query::new(r#"SELECT "workspaceId", "rows" FROM "QuotaTally""#.to_owned());
            query.add(r#""resource" = "#, Some(Value::Text(resource)), "");
            query.add(r#""workspaceId" > "#, after.map(Value::Text), "");
            query.add(r#""rows" >= "#, Some(Value::Number(1)), "");
            let rows = self.fetch(query.end(r#"ORDER BY "workspaceId""#, at_most), failed::<DB>).await?;
            let tally = |row: &DB::Row| {
                let rows = DB::number(row, 1).map_err(failed::<DB>)?.unwrap_or_default();
                Ok((text::<DB>(row, 0)?, rows.unsigned_abs()))
            };
            rows.iter().map(tally).collect()
        })
    }
}
