//! Notices and deliveries in a SQL database. One worker at a time has a delivery: by a claim that ends with a time of the
//! database's clock.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::Transaction;
use uuid::Uuid;

use super::events::{Channels, EventStore, Judge, OfKey, Settled, Standing};
use super::sql::{Records, SqlStore};
use super::sql_texts::{Query, Texts, audit_values, document, json, refused, text};
use crate::BoxFuture;
use crate::error::Error;
use crate::events::{
    Claimed, Delivery, DeliveryFilter, DeliveryPage, DeliveryStatus, EMAIL, Endpoint, EndpointStatus, KeptEndpoint,
    Marks, Notice, Threshold,
};
use crate::policy::AuditEntry;
use crate::sql::{Statement, Value};
use crate::workspace::WorkspaceId;

const WEBHOOK: &str = "webhook";

/// How many workspaces one statement asks for.
const AT_ONCE: usize = 500;

/// What a delivery is read from, its endpoint last: see `delivery`.
const DELIVERIES: &str = r#"SELECT d."id", d."noticeId", d."target", d."status", d."attempts", d."nextAt", d."log", n."body",
coalesce(e."document", '')
FROM "QuotaDelivery" d JOIN "QuotaNotice" n ON n."id" = d."noticeId" LEFT JOIN "QuotaEndpoint" e ON e."id" = d."target" AND d."channel" = 'webhook'"#;
const ENDPOINT: usize = 8;

/// What a statement on these tables fails with.
fn failed<DB: Records>(error: sqlx::Error) -> Error {
    match DB::trouble(&error) {
        #[cfg(feature = "postgres")]
        Some(crate::sql::Trouble::Denied) => Error::unavailable(
            "the database of the notices fails: the role needs GRANT SELECT, INSERT, UPDATE, DELETE ON \"QuotaThreshold\", \
             \"QuotaNotice\", \"QuotaDelivery\", \"QuotaEndpoint\", \"QuotaContact\" and GRANT SELECT ON \"_tower_quota_key\" from \
             their owner",
        )
        .with_source(error),
        _ => refused::<DB>(error),
    }
}

pub(super) fn millis(time: Duration) -> Value<'static> {
    Value::Number(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

fn flag(set: bool) -> Value<'static> {
    Value::Number(i64::from(set))
}

pub(super) fn number<DB: Records>(row: &DB::Row, column: usize) -> Result<i64, Error> {
    Ok(DB::number(row, column).map_err(refused::<DB>)?.unwrap_or_default())
}

fn id<DB: Records>(row: &DB::Row, column: usize) -> Result<Uuid, Error> {
    let raw = text::<DB>(row, column)?;
    Uuid::try_parse(&raw).map_err(|error| Error::unavailable(format!("{raw:?} is no id")).with_source(error))
}

fn delivery<DB: Records>(row: &DB::Row) -> Result<Delivery, Error> {
    Ok(Delivery {
        id: id::<DB>(row, 0)?,
        notice: id::<DB>(row, 1)?,
        target: text::<DB>(row, 2)?,
        status: text::<DB>(row, 3)?.parse()?,
        attempts: u32::try_from(number::<DB>(row, 4)?).unwrap_or(u32::MAX),
        next_at: Timestamp::from_millisecond(number::<DB>(row, 5)?).unwrap_or_default(),
        log: document(&text::<DB>(row, 6)?)?,
        body: text::<DB>(row, 7)?,
    })
}

fn endpoint_of(kept: &str) -> Result<Endpoint, Error> {
    Ok(document::<KeptEndpoint>(kept)?.into())
}

/// The endpoint that a row has as its first column.
fn endpoint_in<DB: Records>(row: &DB::Row) -> Result<Endpoint, Error> {
    endpoint_of(&text::<DB>(row, 0)?)
}

/// A transaction on these tables.
struct Change<DB: Records>(Transaction<'static, DB>);

impl<DB: Records> Change<DB> {
    async fn rows(&mut self, sql: String, values: Vec<Value<'_>>) -> Result<Vec<DB::Row>, Error> {
        DB::rows(&mut self.0, Statement::once(sql, values)).await.map_err(failed::<DB>)
    }

    async fn audit(&mut self, texts: &Texts<DB>, entry: &AuditEntry) -> Result<(), Error> {
        let values = audit_values(entry).map(Value::Owned).into();
        DB::rows(&mut self.0, Statement::recurring(&texts.audit, values)).await.map(drop).map_err(refused::<DB>)
    }

    async fn commit(self) -> Result<(), Error> {
        self.0.commit().await.map_err(failed::<DB>)
    }

    async fn add_notice(
        &mut self,
        id: Uuid,
        workspace: &str,
        resource: &str,
        event: &str,
        body: &str,
    ) -> Result<(), Error> {
        let insert = format!(
            r#"INSERT INTO "QuotaNotice" ("id", "workspaceId", "resourceType", "event", "body", "at")
VALUES ($1, $2, $3, $4, $5, {})"#,
            DB::NOW
        );
        let values = vec![
            Value::Owned(id.to_string()),
            Value::Text(workspace),
            Value::Text(resource),
            Value::Text(event),
            Value::Text(body),
        ];
        self.rows(insert, values).await.map(drop)
    }

    async fn add_delivery(&mut self, notice: Uuid, channel: &str, target: &str) -> Result<(), Error> {
        let insert = format!(
            r#"INSERT INTO "QuotaDelivery" ("id", "noticeId", "channel", "target", "status", "attempts", "nextAt")
VALUES ($1, $2, $3, $4, '{}', 0, {})"#,
            DeliveryStatus::Pending.as_str(),
            DB::NOW
        );
        let values = vec![
            Value::Owned(Uuid::now_v7().to_string()),
            Value::Owned(notice.to_string()),
            Value::Text(channel),
            Value::Text(target),
        ];
        self.rows(insert, values).await.map(drop)
    }

    async fn endpoint(&mut self, id: &str) -> Result<Option<Endpoint>, Error> {
        let select = format!(r#"SELECT "document" FROM "QuotaEndpoint" WHERE "id" = $1{}"#, DB::LOCKED);
        let rows = self.rows(select, vec![Value::Text(id)]).await?;
        rows.first().map(endpoint_in::<DB>).transpose()
    }

    async fn save_endpoint(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let save = r#"INSERT INTO "QuotaEndpoint" ("id", "workspaceId", "active", "pausedUntil", "document")
VALUES ($1, nullif($2, ''), CAST($3 AS BIGINT), CAST($4 AS BIGINT), $5)
ON CONFLICT ("id") DO UPDATE SET "workspaceId" = excluded."workspaceId", "active" = excluded."active",
"pausedUntil" = excluded."pausedUntil", "document" = excluded."document""#;
        let values = vec![
            Value::Owned(endpoint.id.to_string()),
            Value::Text(endpoint.workspace_id.as_deref().unwrap_or_default()),
            flag(endpoint.status == EndpointStatus::Active),
            Value::Number(endpoint.paused_until.map_or(0, Timestamp::as_millisecond)),
            Value::Owned(json(&KeptEndpoint::of(endpoint))?),
        ];
        self.rows(save.to_owned(), values).await.map(drop)
    }

    /// The deliveries of a notice that was added.
    async fn tell(&mut self, notice: &Notice, endpoints: &[Endpoint], email: bool) -> Result<(), Error> {
        let event = notice.threshold.event();
        let body = notice.body();
        self.add_notice(notice.id, notice.workspace.as_str(), &notice.resource_type, event.as_str(), &body).await?;
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.wants(event)) {
            self.add_delivery(notice.id, WEBHOOK, &endpoint.id.to_string()).await?;
        }
        if email && notice.threshold >= Threshold::Critical {
            self.add_delivery(notice.id, EMAIL, EMAIL).await?;
        }
        Ok(())
    }
}

impl<DB: Records> SqlStore<DB> {
    async fn events_change(&self) -> Result<Change<DB>, Error> {
        self.prepare().await?;
        DB::change(self.pool()).await.map(Change).map_err(failed::<DB>)
    }

    async fn events_read(&self, sql: String, values: Vec<Value<'_>>) -> Result<Vec<DB::Row>, Error> {
        self.fetch(Statement::once(sql, values), failed::<DB>).await
    }

    /// What `select`, up to a list of workspaces, finds of all of them.
    async fn of_workspaces(&self, select: &str, workspaces: &[&str]) -> Result<Vec<DB::Row>, Error> {
        let mut all = Vec::new();
        for some in workspaces.chunks(AT_ONCE) {
            let list: Vec<_> = (1..=some.len()).map(|parameter| format!("${parameter}")).collect();
            let values = some.iter().map(|workspace| Value::Text(workspace)).collect();
            all.extend(self.events_read(format!("{select}({})", list.join(", ")), values).await?);
        }
        Ok(all)
    }

    async fn take(&self, what: Channels, lease: Duration, limit: usize) -> Result<Vec<Claimed>, Error> {
        let claim = Uuid::now_v7();
        let now = DB::NOW;
        let due = format!(
            r#"FROM "QuotaDelivery" d
  WHERE d."status" = '{pending}' AND d."nextAt" <= {now} AND d."claimedUntil" <= {now} AND (
    d."channel" = '{EMAIL}' AND CAST($1 AS BIGINT) = 1 OR d."channel" = '{WEBHOOK}' AND CAST($2 AS BIGINT) = 1 AND EXISTS (
      SELECT 1 FROM "QuotaEndpoint" e WHERE e."id" = d."target" AND e."active" = 1 AND e."pausedUntil" <= {now}))
    AND NOT EXISTS (SELECT 1 FROM "QuotaDelivery" o WHERE o."target" = d."target" AND o."claimedUntil" > {now})"#,
            pending = DeliveryStatus::Pending.as_str(),
        );
        let channels = || vec![flag(what.email), flag(what.webhooks)];
        // Most of the time nothing is due: then nobody waits for a lock, nor for whoever holds one.
        if self.events_read(format!("SELECT 1 {due} LIMIT 1"), channels()).await?.is_empty() {
            return Ok(Vec::new());
        }
        let mut change = self.events_change().await?;
        // Else two workers, neither of which sees what the other takes, could have the same recipient at the same time.
        if let Some(lock) = DB::LOCK_CLAIMS {
            change.rows(lock.to_owned(), Vec::new()).await?;
        }
        let take = format!(
            r#"UPDATE "QuotaDelivery" SET "claim" = $3, "claimedUntil" = {now} + CAST($4 AS BIGINT), "attempts" = "attempts" + 1
WHERE "id" IN (SELECT d."id" {due} ORDER BY d."nextAt", d."id" LIMIT CAST($5 AS BIGINT){})
RETURNING "id""#,
            DB::UNCLAIMED,
        );
        let mut values = channels();
        values.extend([
            Value::Owned(claim.to_string()),
            millis(lease),
            Value::Number(i64::try_from(limit).unwrap_or(i64::MAX)),
        ]);
        if change.rows(take, values).await?.is_empty() {
            return Ok(Vec::new());
        }
        let taken = format!(r#"{DELIVERIES} WHERE d."claim" = $1 ORDER BY d."id""#);
        let rows = change.rows(taken, vec![Value::Owned(claim.to_string())]).await?;
        change.commit().await?;
        let claimed = |row: &DB::Row| {
            let endpoint = text::<DB>(row, ENDPOINT)?;
            let endpoint = if endpoint.is_empty() { None } else { Some(endpoint_of(&endpoint)?) };
            Ok(Claimed { delivery: delivery::<DB>(row)?, endpoint, claim })
        };
        rows.iter().map(claimed).collect()
    }

    async fn end(&self, claimed: &Claimed, settled: Settled) -> Result<bool, Error> {
        let mut change = self.events_change().await?;
        let now = DB::NOW;
        let target = &claimed.delivery.target;
        // Before the delivery: who deletes an endpoint has it first as well, and neither waits for the other.
        let kept = match settled.endpoint {
            Standing::Same => None,
            _ => change.endpoint(target).await?,
        };
        let update = format!(
            r#"UPDATE "QuotaDelivery" SET "status" = $3, "nextAt" = {now} + CAST($4 AS BIGINT), "log" = $5, "claim" = '',
"claimedUntil" = 0 WHERE "id" = $1 AND "claim" = $2 RETURNING {now}"#
        );
        let values = vec![
            Value::Owned(claimed.delivery.id.to_string()),
            Value::Owned(claimed.claim.to_string()),
            Value::Text(settled.status.as_str()),
            millis(settled.again_in),
            Value::Owned(json(&settled.log(&claimed.delivery))?),
        ];
        let rows = change.rows(update, values).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        let at = Timestamp::from_millisecond(number::<DB>(row, 0)?).unwrap_or_else(|_| Timestamp::now());
        if let Some(mut endpoint) = kept {
            let changed = match settled.endpoint {
                Standing::Works => endpoint.succeeded(),
                Standing::Same => false,
                Standing::Fails { pause } => {
                    endpoint.failed(at, pause);
                    true
                }
                Standing::Gone => {
                    endpoint.status = EndpointStatus::Disabled;
                    let dead = format!(
                        r#"UPDATE "QuotaDelivery" SET "status" = '{}', "nextAt" = {now} WHERE "target" = $1 AND "status" = '{}'"#,
                        DeliveryStatus::Dead.as_str(),
                        DeliveryStatus::Pending.as_str()
                    );
                    change.rows(dead, vec![Value::Text(target)]).await?;
                    true
                }
            };
            if changed {
                change.save_endpoint(&endpoint).await?;
            }
        }
        change.commit().await?;
        Ok(true)
    }
}

impl<DB: Records> EventStore for SqlStore<DB> {
    fn marks<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<OfKey<Marks>>, Error>> {
        Box::pin(async move {
            let select =
                r#"SELECT "workspaceId", "resourceType", "marks" FROM "QuotaThreshold" WHERE "workspaceId" IN "#;
            let rows = self.of_workspaces(select, workspaces).await?;
            let marks = |row| Ok((text::<DB>(row, 0)?, text::<DB>(row, 1)?, document(&text::<DB>(row, 2)?)?));
            rows.iter().map(marks).collect()
        })
    }

    fn reached<'a>(&'a self, after: &'a str, limit: usize) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(async move {
            let select = r#"SELECT DISTINCT "workspaceId" FROM "QuotaThreshold"
WHERE "workspaceId" > $1 AND "marks" LIKE '%"reached":true%' ORDER BY "workspaceId" LIMIT CAST($2 AS BIGINT)"#;
            let values = vec![Value::Text(after), Value::Number(i64::try_from(limit).unwrap_or(i64::MAX))];
            let rows = self.events_read(select.to_owned(), values).await?;
            rows.iter().map(|row| text::<DB>(row, 0)).collect()
        })
    }

    fn books<'a>(&'a self, workspaces: &'a [&'a str]) -> BoxFuture<'a, Result<Vec<OfKey<u64>>, Error>> {
        Box::pin(async move {
            let Some(select) = DB::BOOKS else { return Ok(Vec::new()) };
            let rows = self.of_workspaces(select, workspaces).await?;
            let books = |row| {
                let rows = u64::try_from(number::<DB>(row, 2)?).unwrap_or_default();
                Ok((text::<DB>(row, 0)?, text::<DB>(row, 1)?, rows))
            };
            rows.iter().map(books).collect()
        })
    }

    fn judge<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a str,
        email: bool,
        judge: &'a Judge<'a>,
    ) -> BoxFuture<'a, Result<(Marks, Vec<Notice>), Error>> {
        Box::pin(async move {
            let mut change = self.events_change().await?;
            let key = || vec![Value::Text(workspace.as_str()), Value::Text(resource)];
            let insert = r#"INSERT INTO "QuotaThreshold" ("workspaceId", "resourceType", "marks") VALUES ($1, $2, $3)
ON CONFLICT ("workspaceId", "resourceType") DO NOTHING"#;
            let mut values = key();
            values.push(Value::Owned(json(&Marks::default())?));
            change.rows(insert.to_owned(), values).await?;
            let select = format!(
                r#"SELECT "marks" FROM "QuotaThreshold" WHERE "workspaceId" = $1 AND "resourceType" = $2{}"#,
                DB::LOCKED
            );
            let rows = change.rows(select, key()).await?;
            let before: Marks = rows.first().map(|row| document(&text::<DB>(row, 0)?)).transpose()?.unwrap_or_default();
            let mut marks = before;
            let notices = judge(&mut marks);
            if marks == before {
                return Ok((marks, Vec::new()));
            }
            let update = r#"UPDATE "QuotaThreshold" SET "marks" = $3 WHERE "workspaceId" = $1 AND "resourceType" = $2"#;
            let mut values = key();
            values.push(Value::Owned(json(&marks)?));
            change.rows(update.to_owned(), values).await?;
            if !notices.is_empty() {
                // One that is deleted meanwhile waits, and takes along what is added here: nobody would ever deliver it.
                let endpoints = format!(
                    r#"SELECT "document" FROM "QuotaEndpoint"
WHERE "active" = 1 AND ("workspaceId" IS NULL OR "workspaceId" = $1) ORDER BY "id"{}"#,
                    DB::SHARED
                );
                let rows = change.rows(endpoints, vec![Value::Text(workspace.as_str())]).await?;
                let endpoints = rows.iter().map(endpoint_in::<DB>).collect::<Result<Vec<_>, _>>()?;
                let contacts = r#"SELECT 1 FROM "QuotaContact" WHERE "workspaceId" = $1 LIMIT 1"#;
                let contacts = change.rows(contacts.to_owned(), vec![Value::Text(workspace.as_str())]).await?;
                let email = email || !contacts.is_empty();
                for notice in &notices {
                    change.tell(notice, &endpoints, email).await?;
                }
            }
            change.commit().await?;
            Ok((marks, notices))
        })
    }

    fn endpoints(&self) -> BoxFuture<'_, Result<Vec<Endpoint>, Error>> {
        Box::pin(async move {
            let rows = self
                .events_read(r#"SELECT "document" FROM "QuotaEndpoint" ORDER BY "id""#.to_owned(), Vec::new())
                .await?;
            rows.iter().map(endpoint_in::<DB>).collect()
        })
    }

    fn endpoint(&self, id: Uuid) -> BoxFuture<'_, Result<Option<Endpoint>, Error>> {
        Box::pin(async move {
            let select = r#"SELECT "document" FROM "QuotaEndpoint" WHERE "id" = $1"#;
            let rows = self.events_read(select.to_owned(), vec![Value::Owned(id.to_string())]).await?;
            rows.first().map(endpoint_in::<DB>).transpose()
        })
    }

    fn add_endpoint<'a>(&'a self, endpoint: &'a Endpoint, entry: &'a AuditEntry) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut change = self.events_change().await?;
            change.save_endpoint(endpoint).await?;
            change.audit(&self.texts, entry).await?;
            change.commit().await
        })
    }

    fn change_endpoint<'a>(
        &'a self,
        id: Uuid,
        change: &'a (dyn Fn(&mut Endpoint) + Send + Sync),
        entry: &'a (dyn Fn(&Endpoint) -> AuditEntry + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<Endpoint>, Error>> {
        Box::pin(async move {
            let mut transaction = self.events_change().await?;
            let Some(mut endpoint) = transaction.endpoint(&id.to_string()).await? else { return Ok(None) };
            change(&mut endpoint);
            transaction.save_endpoint(&endpoint).await?;
            transaction.audit(&self.texts, &entry(&endpoint)).await?;
            transaction.commit().await?;
            Ok(Some(endpoint))
        })
    }

    fn remove_endpoint<'a>(&'a self, id: Uuid, entry: &'a AuditEntry) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let mut change = self.events_change().await?;
            let id = || vec![Value::Owned(id.to_string())];
            let remove = r#"DELETE FROM "QuotaEndpoint" WHERE "id" = $1 RETURNING "id""#;
            if change.rows(remove.to_owned(), id()).await?.is_empty() {
                return Ok(false);
            }
            change.rows(r#"DELETE FROM "QuotaDelivery" WHERE "target" = $1"#.to_owned(), id()).await?;
            change.audit(&self.texts, entry).await?;
            change.commit().await?;
            Ok(true)
        })
    }

    fn add_event<'a>(
        &'a self,
        event: &'a str,
        body: &'a str,
        endpoint: &'a Endpoint,
    ) -> BoxFuture<'a, Result<Option<Uuid>, Error>> {
        Box::pin(async move {
            let mut change = self.events_change().await?;
            if change.endpoint(&endpoint.id.to_string()).await?.is_none() {
                return Ok(None);
            }
            let notice = Uuid::now_v7();
            let workspace = endpoint.workspace_id.as_deref().unwrap_or_default();
            change.add_notice(notice, workspace, "", event, body).await?;
            change.add_delivery(notice, WEBHOOK, &endpoint.id.to_string()).await?;
            change.commit().await?;
            Ok(Some(notice))
        })
    }

    fn claim(&self, what: Channels, lease: Duration, limit: usize) -> BoxFuture<'_, Result<Vec<Claimed>, Error>> {
        Box::pin(self.take(what, lease, limit))
    }

    fn settle<'a>(&'a self, claimed: &'a Claimed, settled: Settled) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(self.end(claimed, settled))
    }

    fn release<'a>(&'a self, claimed: &'a Claimed) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let release = r#"UPDATE "QuotaDelivery" SET "attempts" = "attempts" - 1, "claim" = '', "claimedUntil" = 0
WHERE "id" = $1 AND "claim" = $2"#;
            let values = vec![Value::Owned(claimed.delivery.id.to_string()), Value::Owned(claimed.claim.to_string())];
            self.run(Statement::once(release, values), failed::<DB>).await.map(drop)
        })
    }

    fn address<'a>(&'a self, claimed: &'a Claimed, emails: &'a [String]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut change = self.events_change().await?;
            let delete = r#"DELETE FROM "QuotaDelivery" WHERE "id" = $1 AND "claim" = $2 RETURNING "id""#;
            let values = vec![Value::Owned(claimed.delivery.id.to_string()), Value::Owned(claimed.claim.to_string())];
            if !change.rows(delete.to_owned(), values).await?.is_empty() {
                for email in emails {
                    change.add_delivery(claimed.delivery.notice, EMAIL, email).await?;
                }
            }
            change.commit().await
        })
    }

    fn deliveries<'a>(&'a self, filter: &'a DeliveryFilter) -> BoxFuture<'a, Result<DeliveryPage, Error>> {
        Box::pin(async move {
            let mut query = Query::new(DELIVERIES.to_owned());
            query.add(r#"d."target" = "#, filter.target.as_deref().map(Value::Text), "");
            query.add(r#"d."status" = "#, filter.status.map(|status| Value::Text(status.as_str())), "");
            query.add(r#"d."id" < "#, filter.before.map(|id| Value::Owned(id.to_string())), "");
            let query = query.end(r#"ORDER BY d."id" DESC"#, filter.limit.saturating_add(1));
            let rows = self.fetch(query, failed::<DB>).await?;
            let mut deliveries = rows.iter().map(delivery::<DB>).collect::<Result<Vec<_>, _>>()?;
            let more = deliveries.len() > filter.limit;
            deliveries.truncate(filter.limit);
            let next = deliveries.last().filter(|_| more).map(|delivery| delivery.id);
            Ok(DeliveryPage { deliveries, next })
        })
    }

    fn replay<'a>(&'a self, target: &'a str, delivery: Uuid) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let pending = DeliveryStatus::Pending.as_str();
            let replay = format!(
                r#"UPDATE "QuotaDelivery" SET "status" = '{pending}', "attempts" = 0, "nextAt" = {}
WHERE "id" = $1 AND "target" = $2 AND "status" <> '{pending}' RETURNING "id""#,
                DB::NOW
            );
            let values = vec![Value::Owned(delivery.to_string()), Value::Text(target)];
            Ok(!self.run(Statement::once(replay, values), failed::<DB>).await?.is_empty())
        })
    }

    fn depth(&self) -> BoxFuture<'_, Result<(u64, u64), Error>> {
        Box::pin(async move {
            let count = |status: DeliveryStatus| {
                format!(r#"SELECT count(*) FROM "QuotaDelivery" d WHERE d."status" = '{}'"#, status.as_str())
            };
            let select = format!(
                r#"SELECT ({} AND NOT EXISTS (SELECT 1 FROM "QuotaEndpoint" e WHERE e."id" = d."target" AND e."active" = 0)),
({})"#,
                count(DeliveryStatus::Pending),
                count(DeliveryStatus::Dead)
            );
            let rows = self.events_read(select, Vec::new()).await?;
            let Some(row) = rows.first() else { return Ok((0, 0)) };
            let count = |column| Ok::<_, Error>(u64::try_from(number::<DB>(row, column)?).unwrap_or_default());
            Ok((count(0)?, count(1)?))
        })
    }

    fn purge(&self, delivered: Duration, dead: Duration, limit: usize) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let now = DB::NOW;
            let [pending, done, given_up] =
                [DeliveryStatus::Pending, DeliveryStatus::Delivered, DeliveryStatus::Dead].map(DeliveryStatus::as_str);
            // What somebody is at is left for the next time, so that nobody waits for anybody here.
            let old = |status| {
                format!(
                    r#"(SELECT d."id" FROM "QuotaDelivery" d
WHERE d."status" = '{status}' AND d."nextAt" < {now} - CAST($1 AS BIGINT)
ORDER BY d."nextAt" LIMIT CAST($2 AS BIGINT){})"#,
                    DB::UNCLAIMED
                )
            };
            let delete =
                |status| format!(r#"DELETE FROM "QuotaDelivery" WHERE "id" IN {} RETURNING "id""#, old(status));
            let stuck = format!(
                r#"UPDATE "QuotaDelivery" SET "status" = '{given_up}', "nextAt" = {now} WHERE "id" IN {} RETURNING "id""#,
                old(pending)
            );
            let notices = format!(
                r#"DELETE FROM "QuotaNotice" WHERE "id" IN (SELECT n."id" FROM "QuotaNotice" n
WHERE n."at" < {now} - CAST($1 AS BIGINT)
AND NOT EXISTS (SELECT 1 FROM "QuotaDelivery" d WHERE d."noticeId" = n."id")
ORDER BY n."at" LIMIT CAST($2 AS BIGINT)) RETURNING "id""#
            );
            let steps = [(stuck, delivered), (delete(done), delivered), (delete(given_up), dead), (notices, delivered)];
            let mut more = false;
            for (step, age) in steps {
                let values = vec![millis(age), Value::Number(i64::try_from(limit).unwrap_or(i64::MAX))];
                more |= self.run(Statement::once(step, values), failed::<DB>).await?.len() >= limit;
            }
            Ok(more)
        })
    }

    fn contacts<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(async move {
            let select = r#"SELECT "email" FROM "QuotaContact" WHERE "workspaceId" = $1 ORDER BY "email""#;
            let rows = self.events_read(select.to_owned(), vec![Value::Text(workspace.as_str())]).await?;
            rows.iter().map(|row| text::<DB>(row, 0)).collect()
        })
    }

    fn set_contacts<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        emails: &'a [String],
        entry: &'a AuditEntry,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut change = self.events_change().await?;
            let delete = r#"DELETE FROM "QuotaContact" WHERE "workspaceId" = $1"#;
            change.rows(delete.to_owned(), vec![Value::Text(workspace.as_str())]).await?;
            for email in emails {
                let insert =
                    r#"INSERT INTO "QuotaContact" ("workspaceId", "email") VALUES ($1, $2) ON CONFLICT DO NOTHING"#;
                change.rows(insert.to_owned(), vec![Value::Text(workspace.as_str()), Value::Text(email)]).await?;
            }
            change.audit(&self.texts, entry).await?;
            change.commit().await
        })
    }
}
