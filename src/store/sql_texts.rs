//! What is said to a SQL database, and how its answers are read.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use uuid::Uuid;

use super::QuotaRecord;
use super::sql::{Records, UNLIMITED};
use crate::error::Error;
use crate::limit::{Limit, LimitSet};
use crate::policy::{AuditEntry, Kin, Lineage, MAX_ANCESTORS, Plan};
use crate::resource::ResourceCatalog;
use crate::sql::{Statement, Trouble, Value, quoted};
use crate::workspace::WorkspaceId;

/// The column of a record that says whose it is.
pub(super) const WORKSPACE: usize = 4;
const PLAN: usize = 5;
const PARENT: usize = 6;
const SETTINGS: usize = 7;
const LIMITS: usize = 8;

/// Statements whose text depends on nothing but the dialect and the catalog.
pub(super) struct Texts<DB> {
    pub(super) catalog: ResourceCatalog,
    /// Every column that makes up a record, in the order in which `record` takes them.
    pub(super) columns: String,
    pub(super) load: Arc<str>,
    pub(super) lock: Arc<str>,
    pub(super) provision: Arc<str>,
    pub(super) lineage: Arc<str>,
    pub(super) members: Arc<str>,
    pub(super) save: Arc<str>,
    /// Adds an entry of `audit_values` to the audit log.
    pub(super) audit: Arc<str>,
    dialect: PhantomData<fn() -> DB>,
}

/// A plan, as it is kept. Limits of types that the catalog doesn't have stay.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PlanDocument {
    version: u64,
    pub(super) limits: BTreeMap<String, Limit>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<DB: Records> Texts<DB> {
    pub(super) fn new(catalog: &ResourceCatalog) -> Self {
        let (uuid, time, json) = (DB::AS_UUID, DB::AS_TIME, DB::AS_JSON);
        let settings = DB::DOCUMENT.replace("document", "settings");
        let mut columns =
            format!(r#"{}, "workspaceId", coalesce("plan", ''), coalesce("parent", ''), {settings}"#, DB::READ);
        let mut set = String::new();
        for (parameter, resource) in (6_usize..).zip(catalog.iter()) {
            let field = quoted(resource.limit_field());
            columns.push_str(&format!(", {field}"));
            set.push_str(&format!(", {field} = CAST(${parameter} AS BIGINT)"));
        }
        let plan = format!(r#"coalesce((SELECT {} FROM "QuotaPlan" p WHERE p."name" = kin."plan"), '')"#, DB::DOCUMENT);
        Self {
            load: format!(r#"SELECT {columns} FROM "WorkspaceQuota" WHERE "workspaceId" = $1"#).into(),
            lock: format!(r#"SELECT {columns} FROM "WorkspaceQuota" WHERE "workspaceId" = $1{}"#, DB::LOCKED).into(),
            // A conflicting row would not be returned by DO NOTHING, but is by an update that changes nothing.
            provision: format!(
                r#"INSERT INTO "WorkspaceQuota" ("id", "workspaceId", "version", "createdAt", "updatedAt")
VALUES ($1{uuid}, $2, 1, $3{time}, $3{time})
ON CONFLICT ("workspaceId") DO UPDATE SET "workspaceId" = excluded."workspaceId"
RETURNING {columns}"#
            )
            .into(),
            lineage: format!(
                r#"WITH RECURSIVE kin AS (
  SELECT q.*, 0 AS "_depth" FROM "WorkspaceQuota" q WHERE q."workspaceId" = $1
  UNION ALL
  SELECT q.*, kin."_depth" + 1 FROM kin JOIN "WorkspaceQuota" q ON q."workspaceId" = kin."parent"
  WHERE kin."_depth" < {MAX_ANCESTORS}
)
SELECT {columns}, {plan} FROM kin ORDER BY "_depth""#
            )
            .into(),
            members: format!(
                r#"WITH RECURSIVE below("id", "depth") AS (
  SELECT CAST($1 AS TEXT), 0
  UNION ALL
  SELECT q."workspaceId", b."depth" + 1 FROM below b JOIN "WorkspaceQuota" q ON q."parent" = b."id"
  WHERE b."depth" <= {MAX_ANCESTORS}
)
SELECT "id", CAST("depth" AS BIGINT) FROM below"#
            )
            .into(),
            save: format!(
                r#"UPDATE "WorkspaceQuota" SET "version" = CAST($2 AS BIGINT), "updatedAt" = $3{time},
"plan" = nullif($4, ''), "parent" = nullif($5, ''){set}, "settings" = ${}{json}
WHERE "workspaceId" = $1"#,
                6 + catalog.len()
            )
            .into(),
            audit: format!(
                r#"INSERT INTO "QuotaAudit" ("at", "actor", "origin", "action", "workspaceId", "resourceType", "old", "new", "reason")
VALUES ($1{time}, $2, $3, $4, nullif($5, ''), nullif($6, ''), $7{json}, $8{json}, nullif($9, ''))"#
            )
            .into(),
            columns,
            catalog: catalog.clone(),
            dialect: PhantomData,
        }
    }

    pub(super) fn record(&self, workspace: &WorkspaceId, row: &DB::Row) -> Result<QuotaRecord, Error> {
        self.read(workspace, row).map_err(|cause| {
            Error::unavailable(format!(
                "the quota record of workspace {workspace:?} can't be read: put its row in \"WorkspaceQuota\" right"
            ))
            .with_source(cause)
        })
    }

    fn read(&self, workspace: &WorkspaceId, row: &DB::Row) -> Result<QuotaRecord, Box<dyn StdError + Send + Sync>> {
        let mut limits = LimitSet::new();
        for (column, resource) in (LIMITS..).zip(self.catalog.iter()) {
            match DB::number(row, column)? {
                None => {}
                Some(UNLIMITED) => limits.set(resource.id(), Limit::Unlimited),
                Some(rows) => limits.set(resource.id(), Limit::finite(u64::try_from(rows)?)?),
            }
        }
        let mut record = QuotaRecord::new(
            Uuid::try_parse(&DB::text(row, 0)?)?,
            workspace.clone(),
            u64::try_from(DB::number(row, 1)?.unwrap_or_default())?,
            limits,
            DB::text(row, 2)?.parse()?,
            DB::text(row, 3)?.parse()?,
        );
        let named = |column| DB::text(row, column).map(|name| Some(name).filter(|name| !name.is_empty()));
        record.plan = named(PLAN)?.map(Into::into);
        record.parent = named(PARENT)?.map(|parent| WorkspaceId::canonical(&parent));
        record.settings = serde_json::from_str(&DB::text(row, SETTINGS)?)?;
        Ok(record)
    }

    /// The rows of `lineage`.
    pub(super) fn kin(&self, workspace: &WorkspaceId, rows: &[DB::Row]) -> Result<Lineage, Error> {
        let kin = rows.iter().enumerate().map(|(depth, row)| {
            let id = if depth == 0 { workspace.clone() } else { WorkspaceId::canonical(&text::<DB>(row, WORKSPACE)?) };
            let record = self.record(&id, row)?;
            let document = text::<DB>(row, LIMITS + self.catalog.len())?;
            let plan = match &record.plan {
                Some(name) if !document.is_empty() => Some(self.plan(name, &document)?),
                _ => None,
            };
            Ok(Kin::new(record, plan))
        });
        kin.collect::<Result<_, _>>().map(Lineage::new)
    }

    /// The rows of `members`: who, and how far below.
    pub(super) fn members(&self, rows: &[DB::Row]) -> Result<Vec<(WorkspaceId, usize)>, Error> {
        let member = |row: &DB::Row| {
            let depth = DB::number(row, 1).map_err(refused::<DB>)?.unwrap_or_default();
            Ok((WorkspaceId::canonical(&text::<DB>(row, 0)?), usize::try_from(depth).unwrap_or(usize::MAX)))
        };
        rows.iter().map(member).collect()
    }

    pub(super) fn plan(&self, name: &str, kept: &str) -> Result<Plan, Error> {
        let PlanDocument { version, limits, created_at, updated_at } = document(kept)?;
        let known =
            limits.iter().filter_map(|(field, limit)| Some((self.catalog.by_limit_field(field).ok()?.id(), *limit)));
        Ok(Plan::new(name.into(), version, known.collect(), created_at, updated_at))
    }

    /// A plan as it is to be kept, where it was kept as `before`.
    pub(super) fn plan_document(&self, plan: &Plan, before: Option<&str>) -> Result<String, Error> {
        let mut limits = match before {
            Some(before) => document::<PlanDocument>(before)?.limits,
            None => BTreeMap::new(),
        };
        limits.retain(|field, _| self.catalog.by_limit_field(field).is_err());
        limits.extend(plan.limits.iter().map(|(id, limit)| (self.catalog.get(id).limit_field().to_owned(), limit)));
        let (version, created_at, updated_at) = (plan.version, plan.created_at, plan.updated_at);
        json(&PlanDocument { version, limits, created_at, updated_at })
    }
}

/// A SELECT with conditions, as far as they are asked for.
pub(super) struct Query<'a> {
    sql: String,
    values: Vec<Value<'a>>,
}

impl<'a> Query<'a> {
    pub(super) fn new(sql: String) -> Self {
        Self { sql, values: Vec::new() }
    }

    /// The condition of a value, if there is one.
    pub(super) fn add(&mut self, condition: &str, value: Option<Value<'a>>, cast: &str) {
        let Some(value) = value else { return };
        let word = if self.values.is_empty() { "WHERE" } else { "AND" };
        self.values.push(value);
        self.sql.push_str(&format!(" {word} {condition}${}{cast}", self.values.len()));
    }

    pub(super) fn end(mut self, order: &str, limit: usize) -> Statement<'a> {
        self.values.push(Value::Number(i64::try_from(limit).unwrap_or(i64::MAX)));
        Statement::once(format!("{} {order} LIMIT ${}", self.sql, self.values.len()), self.values)
    }
}

/// The columns that `audit_entry` takes.
pub(super) fn audit_columns<DB: Records>() -> String {
    let (before, after) = DB::TIME_AS;
    let json = |column| DB::DOCUMENT.replace("document", column);
    format!(
        r#"SELECT "seq", {before}"at"{after}, "actor", "origin", "action", coalesce("workspaceId", ''), coalesce("resourceType", ''),
{}, {}, coalesce("reason", '') FROM "QuotaAudit""#,
        json("old"),
        json("new")
    )
}

pub(super) fn audit_entry<DB: Records>(row: &DB::Row) -> Result<AuditEntry, Error> {
    let broken = |cause: Box<dyn StdError + Send + Sync>| {
        Error::unavailable("an entry of \"QuotaAudit\" can't be read").with_source(cause)
    };
    let read = || -> Result<AuditEntry, Box<dyn StdError + Send + Sync>> {
        let named = |column| DB::text(row, column).map(|name| Some(name).filter(|name| !name.is_empty()));
        Ok(AuditEntry {
            seq: u64::try_from(DB::number(row, 0)?.unwrap_or_default())?,
            at: DB::text(row, 1)?.parse()?,
            actor: DB::text(row, 2)?,
            origin: DB::text(row, 3)?,
            action: serde_json::from_value(Json::String(DB::text(row, 4)?))?,
            workspace_id: named(5)?,
            resource_type: named(6)?,
            old: serde_json::from_str(&DB::text(row, 7)?)?,
            new: serde_json::from_str(&DB::text(row, 8)?)?,
            reason: named(9)?,
        })
    };
    read().map_err(broken)
}

/// What the parameters of the statement that adds it to the audit log stand for.
pub(super) fn audit_values(entry: &AuditEntry) -> [String; 9] {
    let action = serde_json::to_value(entry.action).ok();
    let named = |name: &Option<String>| name.clone().unwrap_or_default();
    [
        moment(entry.at),
        entry.actor.clone(),
        entry.origin.clone(),
        action.as_ref().and_then(Json::as_str).unwrap_or_default().to_owned(),
        named(&entry.workspace_id),
        named(&entry.resource_type),
        entry.old.to_string(),
        entry.new.to_string(),
        named(&entry.reason),
    ]
}

/// A time as text of one length, which SQL can compare.
pub(super) fn moment(at: Timestamp) -> String {
    format!("{at:.3}")
}

pub(super) fn text<DB: Records>(row: &DB::Row, column: usize) -> Result<String, Error> {
    DB::text(row, column).map_err(refused::<DB>)
}

pub(super) fn document<T: DeserializeOwned>(kept: &str) -> Result<T, Error> {
    serde_json::from_str(kept)
        .map_err(|error| Error::unavailable("a document of the quota tables can't be read").with_source(error))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::unavailable("a document can't be written").with_source(error))
}

/// A statement on plans, requests or the audit log has failed.
pub(super) fn refused<DB: Records>(error: sqlx::Error) -> Error {
    let fix = match DB::trouble(&error) {
        Some(Trouble::NoTable | Trouble::NoColumn) => ": its tables are gone or altered; restore them from a backup",
        #[cfg(feature = "postgres")]
        Some(Trouble::ReadOnly) => ": the server is read-only; connect to the primary",
        #[cfg(feature = "postgres")]
        Some(Trouble::Denied) => {
            ": the role needs GRANT SELECT, INSERT, UPDATE, DELETE ON \"WorkspaceQuota\", \"QuotaPlan\", \"QuotaRequest\", \
             \"QuotaProgress\" and SELECT, INSERT ON \"QuotaAudit\" from their owner"
        }
        _ => "",
    };
    Error::unavailable(format!("the database of the quota records fails{fix}")).with_source(error)
}
