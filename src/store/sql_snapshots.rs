//! Usage over time in a SQL database.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::Transaction;
use uuid::Uuid;

use super::events::OfKey;
use super::snapshots::Audited;
use super::sql::{Records, SqlStore, UNLIMITED, stored};
use super::sql_events::{millis, number};
use super::sql_texts::{WORKSPACE, audit_values, moment, refused, text};
use super::{QuotaRecord, Reading, SnapshotStore, Turn};
use crate::BoxFuture;
use crate::error::Error;
use crate::insight::{Granularity, Snapshot};
use crate::limit::Limit;
use crate::policy::{AuditAction, AuditEntry};
use crate::sql::{Statement, Value};
use crate::workspace::WorkspaceId;

/// How many readings one statement writes: SQLite takes 32766 parameters, and each reading has nine.
const AT_ONCE: usize = 500;

/// Milliseconds of a day of UTC.
const DAY: i64 = 24 * 3600 * 1000;

/// Of how many days one statement deletes the hours: what is between `OR`s can't be nested that deep.
const DAYS_AT_ONCE: usize = 100;

const TASK: &str = "snapshots";

/// The columns that `snapshot` takes, from the one on that it is told.
const READ: &str = r#""at", "last", "min", "max", "limit", "refusals""#;

/// What changes a limit of a workspace, as the audit log has it. A request that is approved is there as what it does.
const CHANGES: [AuditAction; 8] = [
    AuditAction::LimitSet,
    AuditAction::Imported,
    AuditAction::OverrideCreated,
    AuditAction::OverrideEnded,
    AuditAction::OverrideExpired,
    AuditAction::ShareSet,
    AuditAction::PlanAssigned,
    AuditAction::ParentSet,
];

/// What a statement on these tables fails with.
fn failed<DB: Records>(error: sqlx::Error) -> Error {
    match DB::trouble(&error) {
        #[cfg(feature = "postgres")]
        Some(crate::sql::Trouble::Denied) => Error::unavailable(
            "the database of the snapshots fails: the role needs GRANT SELECT, INSERT, UPDATE, DELETE ON \
             \"QuotaSnapshot\", \"QuotaTask\" from their owner",
        )
        .with_source(error),
        _ => refused::<DB>(error),
    }
}

fn time(at: Timestamp) -> Value<'static> {
    Value::Number(at.as_millisecond())
}

fn count(rows: u64) -> Value<'static> {
    Value::Number(i64::try_from(rows).unwrap_or(i64::MAX))
}

/// `$1, $2` and so on.
fn list(first: usize, values: usize) -> String {
    let parameters: Vec<_> = (first..first + values).map(|parameter| format!("${parameter}")).collect();
    parameters.join(", ")
}

fn names<'a>(names: &[&'a str]) -> Vec<Value<'a>> {
    names.iter().map(|name| Value::Text(name)).collect()
}

fn action(action: AuditAction) -> String {
    serde_json::to_value(action).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn snapshot<DB: Records>(row: &DB::Row, first: usize) -> Result<Snapshot, Error> {
    let number = |column| number::<DB>(row, first + column);
    let rows = |column| Ok::<_, Error>(u64::try_from(number(column)?).unwrap_or_default());
    Ok(Snapshot {
        at: Timestamp::from_millisecond(number(0)?).unwrap_or_default(),
        last: rows(1)?,
        min: rows(2)?,
        max: rows(3)?,
        limit: match number(4)? {
            UNLIMITED => Limit::Unlimited,
            _ => Limit::finite(rows(4)?)?,
        },
        refusals: rows(5)?,
    })
}

/// The statement that writes readings of one granularity: over what is there of their buckets, or merged with it, as
/// [`Snapshot::merge`] does it.
fn write<'a>(granularity: Granularity, readings: &[Reading<'a>], merged: bool) -> Result<Statement<'a>, Error> {
    let mut rows = Vec::with_capacity(readings.len());
    let mut values = Vec::new();
    for Reading { workspace, resource, snapshot } in readings {
        let first = values.len() + 1;
        rows.push(format!("({}, '{granularity}')", list(first, 9)));
        values.extend([
            Value::Text(workspace),
            Value::Text(resource),
            time(granularity.start(snapshot.at)),
            time(snapshot.at),
            count(snapshot.last),
            count(snapshot.min),
            count(snapshot.max),
            Value::Number(stored(snapshot.limit)?),
            count(snapshot.refusals),
        ]);
    }
    let set = if merged {
        let when = |condition: &str, column: &str| {
            format!(
                r#""{column}" = CASE WHEN {condition} THEN excluded."{column}" ELSE "QuotaSnapshot"."{column}" END"#
            )
        };
        let later = r#"excluded."at" >= "QuotaSnapshot"."at""#;
        [
            when(later, "at"),
            when(later, "last"),
            when(later, "limit"),
            when(r#"excluded."min" < "QuotaSnapshot"."min""#, "min"),
            when(r#"excluded."max" > "QuotaSnapshot"."max""#, "max"),
            r#""refusals" = "QuotaSnapshot"."refusals" + excluded."refusals""#.to_owned(),
        ]
    } else {
        ["at", "last", "limit", "min", "max", "refusals"].map(|column| format!(r#""{column}" = excluded."{column}""#))
    };
    let sql = format!(
        r#"INSERT INTO "QuotaSnapshot"
("workspaceId", "resourceType", "start", "at", "last", "min", "max", "limit", "refusals", "granularity")
VALUES {}
ON CONFLICT ("workspaceId", "resourceType", "start", "granularity") DO UPDATE SET {}"#,
        rows.join(", "),
        set.join(", ")
    );
    Ok(Statement::once(sql, values))
}

/// The statement that deletes the hours of some days.
fn hours_of<'a>(days: &[Reading<'a>]) -> Statement<'a> {
    let mut of = Vec::with_capacity(days.len());
    let mut values = Vec::new();
    for Reading { workspace, resource, snapshot } in days {
        let (first, day) = (values.len() + 1, Granularity::Day.start(snapshot.at));
        of.push(format!(
            r#""workspaceId" = ${first} AND "resourceType" = ${} AND "start" >= CAST(${} AS BIGINT) AND "start" < CAST(${} AS BIGINT)"#,
            first + 1,
            first + 2,
            first + 3
        ));
        values.extend([
            Value::Text(workspace),
            Value::Text(resource),
            time(day),
            Value::Number(day.as_millisecond() + DAY),
        ]);
    }
    let hour = Granularity::Hour;
    let sql = format!(r#"DELETE FROM "QuotaSnapshot" WHERE "granularity" = '{hour}' AND ({})"#, of.join(" OR "));
    Statement::once(sql, values)
}

/// Deletes some rows of a granularity that begin before a time; `$1` and `$2` are the time and how many.
fn delete(granularity: Granularity, returning: &str) -> String {
    format!(
        r#"DELETE FROM "QuotaSnapshot" WHERE ("workspaceId", "resourceType", "start", "granularity") IN (
  SELECT "workspaceId", "resourceType", "start", "granularity" FROM "QuotaSnapshot"
  WHERE "granularity" = '{granularity}' AND "start" < CAST($1 AS BIGINT) ORDER BY "start" LIMIT CAST($2 AS BIGINT))
RETURNING {returning}"#
    )
}

impl<DB: Records> SqlStore<DB> {
    async fn snapshots_change(&self) -> Result<Transaction<'static, DB>, Error> {
        self.prepare().await?;
        DB::change(self.pool()).await.map_err(failed::<DB>)
    }

    async fn snapshots_read(&self, sql: String, values: Vec<Value<'_>>) -> Result<Vec<DB::Row>, Error> {
        self.fetch(Statement::once(sql, values), failed::<DB>).await
    }

    async fn merge_hours(&self, before: Timestamp, limit: usize) -> Result<usize, Error> {
        let mut change = self.snapshots_change().await?;
        let delete = delete(Granularity::Hour, &format!(r#""workspaceId", "resourceType", {READ}"#));
        let values = vec![time(before), count(limit as u64)];
        let rows = DB::rows(&mut change, Statement::once(delete, values)).await.map_err(failed::<DB>)?;
        // In the order of time, whatever the order of the rows is.
        let mut hours = Vec::with_capacity(rows.len());
        for row in &rows {
            hours.push((text::<DB>(row, 0)?, text::<DB>(row, 1)?, snapshot::<DB>(row, 2)?));
        }
        hours.sort_unstable_by_key(|(_, _, snapshot)| snapshot.at);
        let mut days: BTreeMap<_, Snapshot> = BTreeMap::new();
        for (workspace, resource, hour) in &hours {
            days.entry((workspace, resource, Granularity::Day.start(hour.at)))
                .and_modify(|day| day.merge(hour))
                .or_insert(*hour);
        }
        let days: Vec<_> = days
            .iter()
            .map(|((workspace, resource, _), snapshot)| Reading { workspace, resource, snapshot: *snapshot })
            .collect();
        for some in days.chunks(AT_ONCE) {
            DB::rows(&mut change, write(Granularity::Day, some, true)?).await.map_err(failed::<DB>)?;
        }
        change.commit().await.map_err(failed::<DB>)?;
        Ok(hours.len())
    }
}

impl<DB: Records> SnapshotStore for SqlStore<DB> {
    fn add<'a>(&'a self, readings: &'a [Reading<'a>]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            for some in readings.chunks(AT_ONCE) {
                self.run(write(Granularity::Hour, some, true)?, failed::<DB>).await?;
            }
            #[cfg(feature = "dashboard")]
            if let Err(error) = super::OverviewStore::note(self, &super::overview::read(readings)).await {
                // The readings are kept, and must not be added again.
                tracing::warn!(error = %error, "how full workspaces are can't be noted now");
            }
            Ok(())
        })
    }

    fn replace<'a>(
        &'a self,
        granularity: Granularity,
        readings: &'a [Reading<'a>],
        entry: &'a AuditEntry,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut change = self.snapshots_change().await?;
            if granularity == Granularity::Day {
                for some in readings.chunks(DAYS_AT_ONCE) {
                    DB::rows(&mut change, hours_of(some)).await.map_err(failed::<DB>)?;
                }
            }
            for some in readings.chunks(AT_ONCE) {
                DB::rows(&mut change, write(granularity, some, false)?).await.map_err(failed::<DB>)?;
            }
            let values = audit_values(entry).into_iter().map(Value::Owned).collect();
            let audit = Statement::recurring(&self.texts.audit, values);
            DB::rows(&mut change, audit).await.map_err(refused::<DB>)?;
            change.commit().await.map_err(failed::<DB>)
        })
    }

    fn series<'a>(
        &'a self,
        workspace: &'a str,
        from: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<(String, Snapshot)>, Error>> {
        Box::pin(async move {
            let select = format!(
                r#"SELECT "resourceType", {READ} FROM "QuotaSnapshot" s
WHERE "workspaceId" = $1 AND "start" < CAST($3 AS BIGINT) AND ("start" >= CAST($2 AS BIGINT) OR "start" = (
  SELECT max(b."start") FROM "QuotaSnapshot" b
  WHERE b."workspaceId" = s."workspaceId" AND b."resourceType" = s."resourceType" AND b."start" < CAST($2 AS BIGINT)))
ORDER BY "at""#
            );
            let rows = self.snapshots_read(select, vec![Value::Text(workspace), time(from), time(until)]).await?;
            rows.iter().map(|row| Ok((text::<DB>(row, 0)?, snapshot::<DB>(row, 1)?))).collect()
        })
    }

    fn workspaces<'a>(&'a self, after: Option<&'a str>, limit: usize) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(async move {
            // From one to the next, past all that there is of each.
            let select = r#"WITH RECURSIVE w("id", "n") AS (
  SELECT (SELECT min("workspaceId") FROM "QuotaSnapshot" WHERE "workspaceId" > $1), 1
  UNION ALL
  SELECT (SELECT min(s."workspaceId") FROM "QuotaSnapshot" s WHERE s."workspaceId" > w."id"), w."n" + 1
  FROM w WHERE w."id" IS NOT NULL AND w."n" < CAST($2 AS BIGINT)
)
SELECT "id" FROM w WHERE "id" IS NOT NULL ORDER BY "n""#;
            let values = vec![Value::Text(after.unwrap_or_default()), count(limit as u64)];
            let rows = self.snapshots_read(select.to_owned(), values).await?;
            rows.iter().map(|row| text::<DB>(row, 0)).collect()
        })
    }

    fn totals<'a>(
        &'a self,
        workspaces: &'a [&'a str],
        from: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<OfKey<Snapshot>>, Error>> {
        Box::pin(async move {
            let select = format!(
                r#"SELECT "workspaceId", "resourceType", {READ} FROM (
  SELECT "workspaceId", "resourceType", "at", "last", min("min") OVER p AS "min", max("max") OVER p AS "max", "limit",
    CAST(sum("refusals") OVER p AS BIGINT) AS "refusals",
    row_number() OVER (PARTITION BY "workspaceId", "resourceType" ORDER BY "at" DESC) AS "n"
  FROM "QuotaSnapshot"
  WHERE "start" >= CAST($1 AS BIGINT) AND "start" < CAST($2 AS BIGINT) AND "workspaceId" IN ({})
  WINDOW p AS (PARTITION BY "workspaceId", "resourceType")
) t WHERE "n" = 1"#,
                list(3, workspaces.len())
            );
            let mut values = vec![time(from), time(until)];
            values.extend(names(workspaces));
            let rows = self.snapshots_read(select, values).await?;
            rows.iter().map(|row| Ok((text::<DB>(row, 0)?, text::<DB>(row, 1)?, snapshot::<DB>(row, 2)?))).collect()
        })
    }

    fn audited<'a>(
        &'a self,
        workspaces: &'a [&'a str],
        from: Timestamp,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Audited>, Error>> {
        Box::pin(async move {
            let grace = action(AuditAction::GraceUsed);
            let changes: Vec<_> = CHANGES.into_iter().map(|change| format!("'{}'", action(change))).collect();
            let select = format!(
                r#"SELECT "workspaceId", "resourceType", "grace", count(*) FROM (
  SELECT "workspaceId", coalesce("resourceType", '') AS "resourceType",
    CAST(CASE WHEN "action" = '{grace}' THEN 1 ELSE 0 END AS BIGINT) AS "grace"
  FROM "QuotaAudit"
  WHERE "at" >= $1{time} AND "at" < $2{time} AND "action" IN ('{grace}', {}) AND "workspaceId" IN ({})
) a GROUP BY "workspaceId", "resourceType", "grace""#,
                changes.join(", "),
                list(3, workspaces.len()),
                time = DB::AS_TIME,
            );
            let mut values = vec![Value::Owned(moment(from)), Value::Owned(moment(until))];
            values.extend(names(workspaces));
            let rows = self.snapshots_read(select, values).await?;
            let audited = |row| {
                Ok(Audited {
                    workspace: text::<DB>(row, 0)?,
                    resource: Some(text::<DB>(row, 1)?).filter(|name| !name.is_empty()),
                    grace: number::<DB>(row, 2)? == 1,
                    times: u64::try_from(number::<DB>(row, 3)?).unwrap_or_default(),
                })
            };
            rows.iter().map(audited).collect()
        })
    }

    fn records_of<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<QuotaRecord>, Error>> {
        Box::pin(async move {
            let list = list(1, workspaces.len());
            let select =
                format!(r#"SELECT {} FROM "WorkspaceQuota" WHERE "workspaceId" IN ({list})"#, self.texts.columns);
            let rows = self.fetch(Statement::once(select, names(workspaces)), refused::<DB>).await?;
            let record = |row| self.texts.record(&WorkspaceId::canonical(&text::<DB>(row, WORKSPACE)?), row);
            rows.iter().map(record).collect()
        })
    }

    fn read_since<'a>(
        &'a self,
        workspaces: &'a [&'a str],
        since: Timestamp,
        types: usize,
    ) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(async move {
            let select = format!(
                r#"SELECT "workspaceId" FROM "QuotaSnapshot"
WHERE "granularity" = '{}' AND "start" >= CAST($1 AS BIGINT) AND "at" >= CAST($2 AS BIGINT) AND "workspaceId" IN ({})
GROUP BY "workspaceId" HAVING count(DISTINCT "resourceType") >= CAST($3 AS BIGINT)"#,
                Granularity::Hour,
                list(4, workspaces.len())
            );
            let mut values = vec![time(Granularity::Hour.start(since)), time(since), count(types as u64)];
            values.extend(names(workspaces));
            let rows = self.snapshots_read(select, values).await?;
            rows.iter().map(|row| text::<DB>(row, 0)).collect()
        })
    }

    fn take_turn(&self, lease: Duration) -> BoxFuture<'_, Result<Turn, Error>> {
        Box::pin(async move {
            let now = DB::NOW;
            let wait = format!(
                r#"SELECT CASE WHEN "claimedUntil" > "nextAt" THEN "claimedUntil" ELSE "nextAt" END - {now}
FROM "QuotaTask" WHERE "task" = $1"#
            );
            let rows = self.snapshots_read(wait, vec![Value::Text(TASK)]).await?;
            let wait = rows.first().map(|row| number::<DB>(row, 0)).transpose()?.unwrap_or_default();
            if let Some(wait) = u64::try_from(wait).ok().filter(|wait| *wait > 0) {
                return Ok(Turn::In(Duration::from_millis(wait)));
            }
            let turn = Uuid::now_v7();
            let take = format!(
                r#"INSERT INTO "QuotaTask" ("task", "claim", "claimedUntil", "nextAt")
VALUES ($1, $2, {now} + CAST($3 AS BIGINT), 0)
ON CONFLICT ("task") DO UPDATE SET "claim" = excluded."claim", "claimedUntil" = excluded."claimedUntil"
WHERE "QuotaTask"."claimedUntil" <= {now} AND "QuotaTask"."nextAt" <= {now}
RETURNING "task""#
            );
            let values = vec![Value::Text(TASK), Value::Owned(turn.to_string()), millis(lease)];
            let taken = !self.run(Statement::once(take, values), failed::<DB>).await?.is_empty();
            // Another was faster, who may be done in a moment.
            Ok(if taken { Turn::Mine(turn) } else { Turn::In(Duration::from_secs(1)) })
        })
    }

    fn keep_turn(&self, turn: Uuid, lease: Duration) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let keep = format!(
                r#"UPDATE "QuotaTask" SET "claimedUntil" = {} + CAST($3 AS BIGINT)
WHERE "task" = $1 AND "claim" = $2 RETURNING "task""#,
                DB::NOW
            );
            let values = vec![Value::Text(TASK), Value::Owned(turn.to_string()), millis(lease)];
            Ok(!self.run(Statement::once(keep, values), failed::<DB>).await?.is_empty())
        })
    }

    fn end_turn(&self, turn: Uuid, done: Option<Duration>) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let mut values = vec![Value::Text(TASK), Value::Owned(turn.to_string())];
            let next = match done {
                Some(every) => {
                    values.extend([millis(every), millis(every / 2)]);
                    let (every, half) = ("CAST($3 AS BIGINT)", "CAST($4 AS BIGINT)");
                    format!("({} + {half}) / {every} * {every} + {half}", DB::NOW)
                }
                None => r#""nextAt""#.to_owned(),
            };
            let end = format!(
                r#"UPDATE "QuotaTask" SET "claim" = '', "claimedUntil" = 0, "nextAt" = {next}
WHERE "task" = $1 AND "claim" = $2 RETURNING "task""#
            );
            Ok(!self.run(Statement::once(end, values), failed::<DB>).await?.is_empty())
        })
    }

    fn condense(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(self.merge_hours(before, limit))
    }

    fn forget(&self, before: Timestamp, limit: usize) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move {
            let delete = delete(Granularity::Day, r#""start""#);
            let values = vec![time(before), count(limit as u64)];
            Ok(self.run(Statement::once(delete, values), failed::<DB>).await?.len())
        })
    }
}
