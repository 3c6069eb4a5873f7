//! Changes of more than limits, in a SQL database.

use std::sync::Arc;

use sqlx::Transaction;
use uuid::Uuid;

use super::sql::{Records, failed, stored};
use super::sql_texts::{Texts, audit_values, document, json, refused, text};
use super::{QuotaRecord, StoreTransaction, now, sql_tally};
use crate::BoxFuture;
use crate::error::Error;
use crate::policy::{AuditEntry, IncreaseRequest, Lineage, Plan};
#[cfg(feature = "postgres")]
use crate::sql::Trouble;
use crate::sql::{Statement, Value};
use crate::workspace::WorkspaceId;

pub(super) struct SqlTransaction<DB: Records> {
    transaction: Transaction<'static, DB>,
    texts: Arc<Texts<DB>>,
}

impl<DB: Records> SqlTransaction<DB> {
    pub(super) fn new(transaction: Transaction<'static, DB>, texts: Arc<Texts<DB>>) -> Self {
        Self { transaction, texts }
    }

    async fn rows(&mut self, statement: Statement<'_>) -> Result<Vec<DB::Row>, Error> {
        DB::rows(&mut self.transaction, statement).await.map_err(refused::<DB>)
    }

    async fn run(&mut self, sql: impl Into<Arc<str>>, values: Vec<Value<'_>>) -> Result<(), Error> {
        self.rows(Statement::once(sql, values)).await.map(drop)
    }

    /// The first column of the first row.
    async fn one(&mut self, sql: String, values: Vec<Value<'_>>) -> Result<Option<String>, Error> {
        let rows = self.rows(Statement::once(sql, values)).await?;
        rows.first().map(|row| text::<DB>(row, 0)).transpose()
    }

    async fn record_or_insert(&mut self, workspace: &WorkspaceId) -> Result<(QuotaRecord, bool), Error> {
        let texts = Arc::clone(&self.texts);
        let lock = Statement::recurring(&texts.lock, vec![Value::Text(workspace.as_str())]);
        let rows =
            DB::rows(&mut self.transaction, lock).await.map_err(|error| failed::<DB>("reading", workspace, error))?;
        if let Some(row) = rows.first() {
            return Ok((texts.record(workspace, row)?, false));
        }
        let (id, time) = (Uuid::now_v7().to_string(), now().to_string());
        let values = vec![Value::Text(&id), Value::Text(workspace.as_str()), Value::Text(&time)];
        let insert = Statement::recurring(&texts.provision, values);
        let rows =
            DB::rows(&mut self.transaction, insert).await.map_err(|error| failed::<DB>("making", workspace, error))?;
        let row = rows.first().ok_or_else(|| failed::<DB>("making", workspace, sqlx::Error::RowNotFound))?;
        let record = texts.record(workspace, row)?;
        // Another may have made it a moment ago.
        let made = record.id.to_string() == id;
        Ok((record, made))
    }

    async fn write(&mut self, record: &QuotaRecord) -> Result<(), Error> {
        let texts = Arc::clone(&self.texts);
        let mut values = vec![
            Value::Text(record.workspace.as_str()),
            Value::Number(i64::try_from(record.version).unwrap_or(i64::MAX)),
            Value::Owned(record.updated_at.to_string()),
            Value::Text(record.plan.as_deref().unwrap_or_default()),
            Value::Text(record.parent.as_ref().map_or("", WorkspaceId::as_str)),
        ];
        for resource in texts.catalog.iter() {
            values.push(match record.limits.get(resource.id()) {
                Some(limit) => Value::Number(stored(limit)?),
                None => Value::Null,
            });
        }
        values.push(Value::Owned(json(&record.settings)?));
        self.rows(Statement::recurring(&texts.save, values)).await.map(drop)
    }

    async fn kept_plan(&mut self, name: &str) -> Result<Option<String>, Error> {
        let plan = format!(r#"SELECT {} FROM "QuotaPlan" WHERE "name" = $1{}"#, DB::DOCUMENT, DB::LOCKED);
        self.one(plan, vec![Value::Text(name)]).await
    }

    /// Deletes rows of a table; a row for each, with its id where it is an endpoint's.
    async fn removed(&mut self, table: &str, column: &str, value: &str) -> Result<Vec<DB::Row>, Error> {
        let returned = if table == "QuotaEndpoint" { "id" } else { column };
        let delete = format!(r#"DELETE FROM "{table}" WHERE "{column}" = $1 RETURNING "{returned}""#);
        let deleted = DB::rows(&mut self.transaction, Statement::once(delete, vec![Value::Text(value)])).await;
        deleted.map_err(|error| match DB::trouble(&error) {
            #[cfg(feature = "postgres")]
            Some(Trouble::Denied) => Error::unavailable(
                "a workspace can't be deleted: the role needs GRANT SELECT, DELETE ON \"WorkspaceQuota\", \"QuotaThreshold\", \
                 \"QuotaEndpoint\", \"QuotaDelivery\", \"QuotaContact\", \"QuotaSnapshot\", \"QuotaOverview\" from their owner",
            )
            .with_source(error),
            _ => refused::<DB>(error),
        })
    }

    async fn add_to_audit(&mut self, entry: &AuditEntry) -> Result<(), Error> {
        let values = audit_values(entry).map(Value::Owned).into();
        let texts = Arc::clone(&self.texts);
        self.rows(Statement::recurring(&texts.audit, values)).await.map(drop)
    }
}

impl<DB: Records> StoreTransaction for SqlTransaction<DB> {
    fn record<'a>(&'a mut self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<(QuotaRecord, bool), Error>> {
        Box::pin(self.record_or_insert(workspace))
    }

    fn lineage<'a>(&'a mut self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Lineage, Error>> {
        Box::pin(async move {
            let texts = Arc::clone(&self.texts);
            let rows = self.rows(Statement::recurring(&texts.lineage, vec![Value::Text(workspace.as_str())])).await?;
            texts.kin(workspace, &rows)
        })
    }

    fn members<'a>(
        &'a mut self,
        workspace: &'a WorkspaceId,
    ) -> BoxFuture<'a, Result<Vec<(WorkspaceId, usize)>, Error>> {
        Box::pin(async move {
            if let Some(lock) = DB::LOCK_PARENTS {
                self.run(lock, Vec::new()).await?;
            }
            let texts = Arc::clone(&self.texts);
            let rows = self.rows(Statement::recurring(&texts.members, vec![Value::Text(workspace.as_str())])).await?;
            texts.members(&rows)
        })
    }

    fn in_order<'a>(&'a mut self, workspaces: Vec<WorkspaceId>) -> BoxFuture<'a, Result<Vec<WorkspaceId>, Error>> {
        Box::pin(async move {
            let Some(sorted) = DB::SORTED else { return Ok(workspaces) };
            let ids: Vec<_> = workspaces.iter().map(WorkspaceId::as_str).collect();
            let rows = self.rows(Statement::once(sorted, vec![Value::Owned(json(&ids)?)])).await?;
            rows.iter().map(|row| Ok(WorkspaceId::canonical(&text::<DB>(row, 0)?))).collect()
        })
    }

    fn save<'a>(&'a mut self, record: &'a QuotaRecord) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.write(record))
    }

    fn remove<'a>(
        &'a mut self,
        workspace: &'a WorkspaceId,
    ) -> BoxFuture<'a, Result<Vec<(&'static str, usize)>, Error>> {
        Box::pin(async move {
            self.removed("WorkspaceQuota", "workspaceId", workspace.as_str()).await?;
            // Whoever is called so next has nothing to do with this one. Marks before endpoints, and these before their
            // deliveries, as by whoever tells of a threshold: so neither waits for the other.
            let marks = self.removed("QuotaThreshold", "workspaceId", workspace.as_str()).await?;
            let endpoints = self.removed("QuotaEndpoint", "workspaceId", workspace.as_str()).await?;
            let mut deliveries = 0;
            for row in &endpoints {
                deliveries += self.removed("QuotaDelivery", "target", &text::<DB>(row, 0)?).await?.len();
            }
            let contacts = self.removed("QuotaContact", "workspaceId", workspace.as_str()).await?;
            let snapshots = self.removed("QuotaSnapshot", "workspaceId", workspace.as_str()).await?;
            self.removed("QuotaOverview", "workspaceId", workspace.as_str()).await?;
            Ok(vec![
                ("thresholds", marks.len()),
                ("endpoints", endpoints.len()),
                ("deliveries", deliveries),
                ("contacts", contacts.len()),
                ("snapshots", snapshots.len()),
            ])
        })
    }

    fn plan<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Result<Option<Plan>, Error>> {
        Box::pin(async move {
            let kept = self.kept_plan(name).await?;
            kept.map(|kept| self.texts.plan(name, &kept)).transpose()
        })
    }

    fn save_plan<'a>(&'a mut self, plan: &'a Plan) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let before = self.kept_plan(&plan.name).await?;
            let document = self.texts.plan_document(plan, before.as_deref())?;
            let save = format!(
                r#"INSERT INTO "QuotaPlan" ("name", "document") VALUES ($1, $2{})
ON CONFLICT ("name") DO UPDATE SET "document" = excluded."document""#,
                DB::AS_JSON
            );
            self.run(save, vec![Value::Text(&plan.name), Value::Owned(document)]).await
        })
    }

    fn remove_plan<'a>(&'a mut self, name: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.run(r#"DELETE FROM "QuotaPlan" WHERE "name" = $1"#, vec![Value::Text(name)]))
    }

    fn assigned<'a>(&'a mut self, plan: &'a str) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let assigned = r#"SELECT CAST(count(*) AS TEXT) FROM "WorkspaceQuota" WHERE "plan" = $1"#;
            let assigned = self.one(assigned.to_owned(), vec![Value::Text(plan)]).await?;
            Ok(assigned.and_then(|assigned| assigned.parse().ok()).unwrap_or_default())
        })
    }

    fn request(&mut self, id: Uuid) -> BoxFuture<'_, Result<Option<IncreaseRequest>, Error>> {
        Box::pin(async move {
            let (json, uuid, locked) = (DB::DOCUMENT, DB::AS_UUID, DB::LOCKED);
            let request = format!(r#"SELECT {json} FROM "QuotaRequest" WHERE "id" = $1{uuid}{locked}"#);
            let kept = self.one(request, vec![Value::Owned(id.to_string())]).await?;
            kept.map(|kept| document(&kept)).transpose()
        })
    }

    fn save_request<'a>(&'a mut self, request: &'a IncreaseRequest) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let save = format!(
                r#"INSERT INTO "QuotaRequest" ("id", "workspaceId", "status", "document") VALUES ($1{}, $2, $3, $4{})
ON CONFLICT ("id") DO UPDATE SET "status" = excluded."status", "document" = excluded."document""#,
                DB::AS_UUID,
                DB::AS_JSON
            );
            let values = vec![
                Value::Owned(request.id.to_string()),
                Value::Text(&request.workspace_id),
                Value::Text(request.status.as_str()),
                Value::Owned(json(request)?),
            ];
            self.run(save, values).await
        })
    }

    fn set_tally<'a>(
        &'a mut self,
        workspace: &'a WorkspaceId,
        resource: &'a str,
        rows: u64,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            if let Some(forget) = DB::FORGET {
                // The books first, as whoever posts.
                self.run(forget, vec![Value::Text(workspace.as_str()), Value::Text(resource)]).await?;
            }
            let before = DB::rows(&mut self.transaction, sql_tally::read(workspace, resource)).await;
            let before = before.and_then(|rows| sql_tally::number::<DB>(&rows)).map_err(sql_tally::failed::<DB>)?;
            let set = DB::rows(&mut self.transaction, sql_tally::write(workspace, resource, rows)).await;
            set.map(|_| before).map_err(sql_tally::failed::<DB>)
        })
    }

    fn audit<'a>(&'a mut self, entry: &'a AuditEntry) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.add_to_audit(entry))
    }

    fn progress<'a>(&'a mut self, work: &'a str) -> BoxFuture<'a, Result<Option<String>, Error>> {
        let progress = format!(r#"SELECT "progress" FROM "QuotaProgress" WHERE "work" = $1{}"#, DB::LOCKED);
        Box::pin(self.one(progress, vec![Value::Text(work)]))
    }

    fn save_progress<'a>(&'a mut self, work: &'a str, progress: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        let save = r#"INSERT INTO "QuotaProgress" ("work", "progress") VALUES ($1, $2)
ON CONFLICT ("work") DO UPDATE SET "progress" = excluded."progress""#;
        Box::pin(self.run(save, vec![Value::Text(work), Value::Text(progress)]))
    }

    fn commit(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async move { self.transaction.commit().await.map_err(refused::<DB>) })
    }
}
