//! The authority in a Postgres database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::postgres::{PgListener, PgPool, PgRow};
use sqlx::{Postgres, Row};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    AHEAD_OF_TALLY, Above, Authority, Books, BooksMark, Changed, Heard, Introduction, LeaseOf, News, Notice, Peer,
    Reply, Times,
};
use crate::BoxFuture;
use crate::error::Error;
use crate::ledger::{Answer, Ask, Known};
use crate::mode::EnforcementMode;
use crate::resource::ResourceType;
use crate::sql::postgres::{array, literal, one_message, place, pool_options, quoted, texts, time_outs};
use crate::sql::{Dialect, Trouble};
use crate::store::PostgresStore;
use crate::usage::{CountSql, UsageSource};
use crate::workspace::WorkspaceId;

/// Beats, chores, and a few requests for units: those that wait for one key ask together.
const CONNECTIONS: u32 = 6;

/// How long a call may take that counts rows.
const LONGEST: Duration = Duration::from_secs(30);

/// The channel of all notices.
const CHANNEL: &str = "_tower_quota";

/// Keeps the limits of several processes together exactly, in a Postgres database.
///
/// Give it to [`QuotaBuilder::ledger`](crate::QuotaBuilder::ledger), together with the [`PostgresStore`] that it was
/// made of. Each process that does so is a *replica*: it has units on lease, hands them out without asking, and asks for
/// more when it runs out. A replica that doesn't show life loses its leases to the others.
#[derive(Debug, Clone)]
#[must_use]
pub struct PostgresLedger {
    pool: PgPool,
    times: Times,
    listens: bool,
}

impl PostgresLedger {
    /// The ledger in the database of `store`.
    ///
    /// It has up to seven connections of its own, so that it shows life even where the host has none to spare. Each of its
    /// calls is one message, so that a pooler may stand in between: see [`listens`](Self::listens).
    ///
    /// The role needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the tables `"_tower_quota_replica"`, `"_tower_quota_key"`,
    /// `"_tower_quota_lease"`, `"_tower_quota_ended"` and `"QuotaTally"`, which the store has made; a role that only fences `SELECT` and
    /// `UPDATE` on `"_tower_quota_lease"`.
    pub fn new(store: &PostgresStore) -> Self {
        let options = (*store.pool().connect_options()).clone();
        Self {
            pool: pool_options(CONNECTIONS).connect_lazy_with(options),
            times: Times {
                time_to_live: Duration::from_secs(4),
                longest_handler: Duration::from_secs(30),
                fenced: false,
            },
            listens: true,
        }
    }

    /// How long a replica that can't reach the database may still hand out units; four seconds by default. Units of a
    /// replica that was killed are free again after one and a quarter of it, and [`longest_handler`](Self::longest_handler)
    /// where handlers don't fence.
    pub fn time_to_live(mut self, time: Duration) -> Self {
        self.times.time_to_live = time;
        self
    }

    /// How long after its admission a request may still make rows, in a host whose handlers don't fence; thirty seconds by
    /// default. The database must enforce it, by its time-outs for a statement, a lock and an idle transaction.
    pub fn longest_handler(mut self, time: Duration) -> Self {
        self.times.longest_handler = time;
        self
    }

    /// Promises that every transaction that makes rows calls [`Fence::hold`](crate::Fence::hold) before it commits. Then
    /// limits are exact through any pause, crash and loss.
    pub fn fenced(mut self) -> Self {
        self.times.fenced = true;
        self
    }

    /// Whether to listen for notices of other replicas; yes by default. Without, or where they get lost, all works, but
    /// slower.
    ///
    /// Behind a pooler that hands out connections per transaction, such as PgBouncer, say no: the notices would come to
    /// whoever has the session by then, and break its connection. Handlers take
    /// [`Fence::hold_unprepared`](crate::Fence::hold_unprepared) then.
    pub fn listens(mut self, yes: bool) -> Self {
        self.listens = yes;
        self
    }

    pub(crate) fn open(self) -> (Arc<dyn Authority>, Times) {
        let authority = PostgresAuthority { pool: self.pool, listener: self.listens.then(Mutex::default) };
        (Arc::new(authority), self.times)
    }
}

struct PostgresAuthority {
    pool: PgPool,
    listener: Option<Mutex<Option<Listening>>>,
}

/// A listener, which sqlx lets go of only inside a runtime: wherever the engine is dropped, it is dropped in its own.
struct Listening {
    listener: Option<PgListener>,
    runtime: Handle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        self.listener.take();
    }
}

impl PostgresAuthority {
    /// One message, and one transaction: so a pooler may stand in between that hands out a connection for each, and loses
    /// what was prepared before. The server gives up when nobody may be waiting any more. All calls may be made twice.
    async fn call(&self, statement: String) -> Result<Vec<PgRow>, Error> {
        one_message(&self.pool, &format!("{}; {statement}", time_outs(LONGEST))).await.map_err(failed)
    }

    async fn ask(
        &self,
        of: LeaseOf<'_>,
        ask: &Ask,
        usage: &dyn UsageSource,
        counted: Option<(BooksMark, u64)>,
    ) -> Result<Reply, Error> {
        // Rows in another database are counted there, between two calls.
        let place = place(&self.pool.connect_options());
        let sql = usage.count_sql(of.resource).filter(|sql| sql.serves(&place));
        let tallied = sql.as_ref().is_some_and(CountSql::is_tally);
        let (bounded, all) = match (&sql, of.workspace.top()) {
            (None, _) => (None, None),
            (Some(sql), None) => (Some(sql.bounded().to_owned()), Some(sql.all().to_owned())),
            (Some(sql), Some(_)) => (Some(of_all_below(sql.bounded())), Some(of_all_below(sql.all()))),
        };
        let is_first = ask.seq <= 1;
        let arguments = [
            quoted(of.lease),
            quoted(of.replica),
            number(of.beats),
            literal(of.workspace.as_str()),
            literal(of.resource.name()),
            number(ask.totals.posted),
            number(ask.totals.returned),
            number(ask.totals.edits),
            number(ask.totals.edits_ended),
            number(ask.seq),
            number(ask.need),
            number(ask.queued),
            number(if tallied { ask.spare.min(AHEAD_OF_TALLY) } else { ask.spare }),
            number(of.replicas),
            ask.recount.to_string(),
            literal(of.resource.limit_field()),
            of.resource.default_limit().rows().map_or_else(|| "-1".to_owned(), number),
            optional(bounded.as_deref().map(literal)),
            optional(all.as_deref().map(literal)),
            optional(counted.map(|(mark, rows)| match mark.below {
                None => number(rows),
                Some(below) => format!(r#"CASE WHEN m."below" = {below} THEN {} END"#, number(rows)),
            })),
            optional(counted.map(|(mark, _)| number(mark.posts))),
            optional(counted.map(|(mark, _)| number(mark.edits_ended))),
            texts(of.charges.iter().map(WorkspaceId::as_str)),
            of.grace.to_string(),
        ];
        let ask = format!(r#""_tower_quota_ask"({})"#, arguments.join(", "));
        let ask = match of.workspace.top().filter(|_| sql.is_none()) {
            None => format!(r#"SELECT *, NULL::bigint AS "below" FROM {ask}"#),
            Some(top) => {
                let below = below(of.workspace, &top, of.resource);
                // The planner would look twice without the OFFSET.
                let nobody_moves = nobody_moves();
                format!(r#"{nobody_moves}; SELECT * FROM (SELECT {below} AS "below" OFFSET 0) AS m, LATERAL {ask}"#)
            }
        };
        // Before anything is posted there is something to add it to: whatever began the lease.
        let ask = if tallied && is_first && of.workspace.top().is_none() {
            format!("{}; {ask}", first_tally(of.workspace, of.resource))
        } else {
            ask
        };
        let rows = self.call(ask).await?;
        let row = rows.last().ok_or_else(|| failed(sqlx::Error::RowNotFound))?;
        reply(row).map_err(failed)
    }

    async fn flush(&self, news: &[News]) -> Result<Vec<Heard>, Error> {
        let arguments = [
            array(news.iter().map(|news| news.lease)),
            array(news.iter().map(|news| number(news.totals.posted))),
            array(news.iter().map(|news| number(news.totals.returned))),
            array(news.iter().map(|news| number(news.totals.edits))),
            array(news.iter().map(|news| number(news.totals.edits_ended))),
            array(news.iter().map(|news| news.waits)),
            array(news.iter().map(|news| news.ends)),
        ];
        let rows = self.call(format!(r#"SELECT * FROM "_tower_quota_flush"({})"#, arguments.join(", "))).await?;
        let heard = |row: &PgRow| {
            Ok(Heard {
                lease: row.try_get("lease")?,
                seq: units(row, "asked")?,
                granted: units(row, "answer")?,
                wanted: row.try_get("wanted")?,
            })
        };
        rows.iter().map(heard).collect::<Result<_, _>>().map_err(failed)
    }

    async fn books(&self, workspace: &WorkspaceId) -> Result<Vec<Books>, Error> {
        let workspace = literal(workspace.as_str());
        // What was counted in an earlier epoch is forgotten.
        let books = format!(
            r#"SELECT "resource", "counted" + "posted" AS "rows", "leased" + "carried" AS "reserved" FROM "_tower_quota_key"
               WHERE "workspace" = {workspace} AND "counted" IS NOT NULL AND "epoch" = "_tower_quota_epoch"()"#
        );
        let rows = self.call(books).await?;
        let of_key = |row: &PgRow| {
            let (rows, reserved) = (units(row, "rows")?, units(row, "reserved")?);
            Ok(Books { resource: row.try_get("resource")?, rows, reserved })
        };
        rows.iter().map(of_key).collect::<Result<_, _>>().map_err(failed)
    }

    async fn introductions(&self) -> Result<Vec<Introduction>, Error> {
        // Ids are in the order of time.
        let live = r#"SELECT "id", "config"::text AS "config",
                (extract(epoch FROM "joinedAt") * 1000)::bigint AS "joined_at",
                (extract(epoch FROM "seenAt") * 1000)::bigint AS "seen_at"
            FROM "_tower_quota_replica" WHERE "live" AND "epoch" = "_tower_quota_epoch"() ORDER BY "id""#;
        let rows = self.call(live.to_owned()).await?;
        let time = |row: &PgRow, column: &str| {
            let millisecond: Option<i64> = row.try_get(column)?;
            Ok::<_, sqlx::Error>(millisecond.and_then(|at| Timestamp::from_millisecond(at).ok()))
        };
        let introduction = |row: &PgRow| {
            let (joined_at, seen_at) = (time(row, "joined_at")?, time(row, "seen_at")?);
            Ok(Introduction { replica: row.try_get("id")?, joined_at, seen_at, config: row.try_get("config")? })
        };
        rows.iter().map(introduction).collect::<Result<_, _>>().map_err(failed)
    }

    async fn end(&self, leases: &[Uuid]) -> Result<u64, Error> {
        let leases = array(leases);
        self.call(format!(r#"SELECT "_tower_quota_kill"({leases})"#)).await?;
        let settled = self.call(format!(r#"SELECT "_tower_quota_settle"({leases}) AS "settled""#)).await?;
        settled.first().map_or(Ok(0), |row| units(row, "settled")).map_err(failed)
    }

    async fn above(&self, changed: &Changed, types: &[(&ResourceType, EnforcementMode)]) -> Result<Vec<Above>, Error> {
        let rows = self.call(above_limits(changed, types)).await?;
        let lease = |row: &PgRow| {
            let workspace = WorkspaceId::canonical(row.try_get("workspace")?);
            Ok(Above { lease: row.try_get("id")?, workspace, resource: row.try_get("resource")? })
        };
        rows.iter().map(lease).collect::<Result<_, _>>().map_err(failed)
    }

    /// Two transactions, and nothing else is locked while it is waited for first books: whoever opens some has others locked.
    async fn outlast(&self, changed: &Changed, types: &[(&ResourceType, EnforcementMode)]) -> Result<(), Error> {
        self.call(first_books(changed, types)).await?;
        self.call(known_books(changed, types)).await.map(drop)
    }

    async fn recall(&self, leases: &[Above]) -> Result<(), Error> {
        let keys: BTreeSet<_> = leases.iter().map(|of| format!("recall {} {}", of.resource, of.workspace)).collect();
        let keys = texts(keys.iter().map(String::as_str));
        self.call(format!("SELECT pg_notify('{CHANNEL}', of) FROM unnest({keys}) AS of")).await.map(drop)
    }

    async fn notice(&self) -> Result<Notice, Error> {
        let Some(listener) = &self.listener else { return std::future::pending().await };
        let mut listener = listener.lock().await;
        let Some(connected) = listener.as_mut().and_then(|listening| listening.listener.as_mut()) else {
            let new = PgListener::connect_with(&self.pool).await.map_err(failed)?;
            let listening = listener.insert(Listening { listener: Some(new), runtime: Handle::current() });
            let listens = match &mut listening.listener {
                Some(new) => new.listen(CHANNEL).await.map_err(failed),
                None => Ok(()),
            };
            if listens.is_err() {
                *listener = None;
            }
            return listens.map(|()| Notice::Lost);
        };
        match connected.try_recv().await {
            Ok(Some(notice)) => Ok(read_notice(notice.payload())),
            // It connects again by itself.
            Ok(None) => Ok(Notice::Lost),
            Err(error) => {
                *listener = None;
                Err(failed(error))
            }
        }
    }
}

impl Authority for PostgresAuthority {
    fn ask<'a>(
        &'a self,
        of: LeaseOf<'a>,
        ask: &'a Ask,
        usage: &'a dyn UsageSource,
        counted: Option<(BooksMark, u64)>,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(self.ask(of, ask, usage, counted))
    }

    fn flush<'a>(&'a self, news: &'a [News]) -> BoxFuture<'a, Result<Vec<Heard>, Error>> {
        Box::pin(self.flush(news))
    }

    fn deleted<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        rows: u64,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (name, whose, rows) = (literal(resource.name()), literal(workspace.as_str()), number(rows));
            let deleted = format!(r#"SELECT "_tower_quota_deleted"({whose}, {name}, {rows})"#);
            self.call(deleted).await.map(drop)
        })
    }

    fn books<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Vec<Books>, Error>> {
        Box::pin(self.books(workspace))
    }

    fn join<'a>(&'a self, replica: Uuid, config: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (me, config) = (quoted(replica), literal(config));
            let join = format!(
                r#"INSERT INTO "_tower_quota_replica" ("id", "config") VALUES ({me}, {config}) ON CONFLICT DO NOTHING"#
            );
            self.call(join).await.map(drop)
        })
    }

    fn introduce<'a>(&'a self, replica: Uuid, config: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (me, config) = (quoted(replica), literal(config));
            self.call(format!(r#"UPDATE "_tower_quota_replica" SET "config" = {config} WHERE "id" = {me}"#))
                .await
                .map(drop)
        })
    }

    fn introductions(&self) -> BoxFuture<'_, Result<Vec<Introduction>, Error>> {
        Box::pin(self.introductions())
    }

    fn leave(&self, replica: Uuid) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let me = quoted(replica);
            let leave = format!(
                r#"DELETE FROM "_tower_quota_replica" WHERE "id" = {me}
                   AND NOT EXISTS (SELECT FROM "_tower_quota_lease" WHERE "replica" = {me})"#
            );
            self.call(leave).await.map(drop)
        })
    }

    fn beat(&self, replica: Uuid) -> BoxFuture<'_, Result<Vec<Peer>, Error>> {
        Box::pin(async move {
            let rows = self.call(format!(r#"SELECT * FROM "_tower_quota_beat"({})"#, quoted(replica))).await?;
            let peer = |row: &PgRow| {
                Ok(Peer { replica: row.try_get("id")?, beats: units(row, "beats")?, live: row.try_get("live")? })
            };
            rows.iter().map(peer).collect::<Result<_, _>>().map_err(failed)
        })
    }

    fn bury<'a>(&'a self, replica: Uuid, beats: u64) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (replica, beats) = (quoted(replica), number(beats));
            let bury = format!(
                r#"UPDATE "_tower_quota_replica" SET "live" = false WHERE "id" = {replica} AND "beats" = {beats}"#
            );
            self.call(bury).await.map(drop)
        })
    }

    fn orphans(&self) -> BoxFuture<'_, Result<Vec<Uuid>, Error>> {
        Box::pin(async move {
            let orphans = r#"SELECT l."id" FROM "_tower_quota_lease" l WHERE NOT l."live" OR NOT EXISTS
                (SELECT FROM "_tower_quota_replica" r
                 WHERE r."id" = l."replica" AND r."live" AND r."epoch" = "_tower_quota_epoch"())"#;
            let rows = self.call(orphans.to_owned()).await?;
            rows.iter().map(|row| row.try_get("id")).collect::<Result<_, _>>().map_err(failed)
        })
    }

    fn end<'a>(&'a self, leases: &'a [Uuid]) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(self.end(leases))
    }

    fn above<'a>(
        &'a self,
        changed: &'a Changed,
        types: &'a [(&'a ResourceType, EnforcementMode)],
    ) -> BoxFuture<'a, Result<Vec<Above>, Error>> {
        Box::pin(self.above(changed, types))
    }

    fn outlast<'a>(
        &'a self,
        changed: &'a Changed,
        types: &'a [(&'a ResourceType, EnforcementMode)],
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.outlast(changed, types))
    }

    fn recall<'a>(&'a self, leases: &'a [Above]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.recall(leases))
    }

    fn notice(&self) -> BoxFuture<'_, Result<Notice, Error>> {
        Box::pin(self.notice())
    }
}

/// Makes a tally where there is none.
fn first_tally(workspace: &WorkspaceId, resource: &ResourceType) -> String {
    let (resource, workspace) = (literal(resource.name()), literal(workspace.as_str()));
    format!(r#"INSERT INTO "QuotaTally" VALUES ({resource}, {workspace}, 0) ON CONFLICT DO NOTHING"#)
}

/// The types and the mode of each, as a list of rows.
fn strictness(types: &[(&ResourceType, EnforcementMode)]) -> String {
    let row = |(resource, mode): &(&ResourceType, EnforcementMode)| {
        let default = resource.default_limit().rows().map_or_else(|| "-1".to_owned(), number);
        let (name, field) = (literal(resource.name()), literal(resource.limit_field()));
        format!("({name}, {field}, {default}::bigint, {})", literal(mode.as_str()))
    };
    types.iter().map(row).collect::<Vec<_>>().join(", ")
}

/// The workspaces and the plan that have changed, for a statement.
fn named(changed: &Changed) -> (String, String) {
    let workspaces = texts(changed.workspaces.iter().map(WorkspaceId::as_str));
    (workspaces, changed.plan.as_deref().map_or_else(|| "NULL::text".to_owned(), literal))
}

/// The workspaces whose limits a change is of consequence for, and in which mode each resource type is there.
fn touched(changed: &Changed, types: &[(&ResourceType, EnforcementMode)]) -> String {
    let ((workspaces, plan), types) = (named(changed), strictness(types));
    format!(
        r#"
WITH RECURSIVE types("resource", "field", "default", "strict") AS (VALUES {types}),
touched("id") AS (
  SELECT unnest({workspaces})
  UNION
  SELECT "workspaceId" FROM "WorkspaceQuota" WHERE "plan" = {plan}
  UNION
  SELECT q."workspaceId" FROM touched JOIN "WorkspaceQuota" q ON q."parent" = touched."id"
),
strict("id", "resource") AS (
  SELECT touched."id", t."resource" FROM touched CROSS JOIN types t
  LEFT JOIN "WorkspaceQuota" q ON q."workspaceId" = touched."id"
  WHERE coalesce(q."settings" -> 'modes' ->> t."resource", q."settings" ->> 'mode', t."strict") = 'strict'
)"#
    )
}

/// Waits for those who open books that nobody can see yet. Whoever opens some later goes by what is written now.
fn first_books(changed: &Changed, types: &[(&ResourceType, EnforcementMode)]) -> String {
    let touched = touched(changed, types);
    format!("{touched} SELECT pg_advisory_xact_lock({MOVES}) WHERE EXISTS (SELECT FROM strict)")
}

/// Waits for those who have such books locked, in the order of all.
fn known_books(changed: &Changed, types: &[(&ResourceType, EnforcementMode)]) -> String {
    let touched = touched(changed, types);
    format!(
        r#"{touched}
SELECT FROM "_tower_quota_key" k
JOIN (SELECT "id", "resource" FROM strict UNION ALL SELECT chr(31) || "id", "resource" FROM strict) AS books("workspace", "resource")
  USING ("workspace", "resource")
ORDER BY k."workspace", k."resource" FOR UPDATE OF k"#
    )
}

/// Leases of keys in mode `strict` whose bound is above the limit. In the books of a cap, units count as well that aren't charged
/// to them: see `_tower_quota_ask`. What was never counted may be any number of rows.
///
/// From the leases up where many may depend on what has changed: those with units left are few.
fn above_limits(changed: &Changed, types: &[(&ResourceType, EnforcementMode)]) -> String {
    let ((workspaces, plan), moved, types) = (named(changed), changed.moved, strictness(types));
    format!(
        r#"
WITH types("resource", "field", "default", "strict") AS (VALUES {types}),
caps("whose") AS (
  SELECT DISTINCT chr(31) || "_tower_quota_ancestors"("top") FROM unnest({workspaces}) AS "top" WHERE {moved}
),
units("whose", "lease", "charged") AS (
  SELECT l."workspace", l, true FROM unnest({workspaces}) AS "top" CROSS JOIN LATERAL "_tower_quota_members"("top") AS below("id")
  JOIN "_tower_quota_lease" l ON l."workspace" = below."id"
  UNION
  SELECT l."workspace", l, true FROM "_tower_quota_lease" l
  WHERE {plan} IS NOT NULL AND "_tower_quota_rest"(l) + l."edits" > l."editsEnded" AND left(l."workspace", 1) <> chr(31)
    AND {plan} IN (SELECT q."plan" FROM "_tower_quota_ancestors"(l."workspace") AS above("id")
                   JOIN "WorkspaceQuota" q ON q."workspaceId" = above."id")
  UNION
  SELECT caps."whose", l, true FROM caps JOIN "_tower_quota_lease" l ON l."workspace" = caps."whose"
  UNION
  SELECT caps."whose", l, false FROM caps JOIN "_tower_quota_lease" l ON caps."whose" <> ALL(l."charges")
  WHERE "_tower_quota_rest"(l) + l."edits" > l."editsEnded" AND left(l."workspace", 1) <> chr(31)
    AND substr(caps."whose", 2) IN (SELECT "_tower_quota_ancestors"(l."workspace"))
),
held AS (
  SELECT u."whose", u."charged", (u."lease").*, t."field", t."default",
    "_tower_quota_rest"(u."lease") + (u."lease")."edits" - (u."lease")."editsEnded" AS "rest"
  FROM units u JOIN types t ON t."resource" = (u."lease")."resource"
  LEFT JOIN "WorkspaceQuota" q ON q."workspaceId" = ltrim(u."whose", chr(31))
  WHERE coalesce(q."settings" -> 'modes' ->> t."resource", q."settings" ->> 'mode', t."strict") = 'strict'
),
bounds AS (
  SELECT h."whose", h."resource", k."counted" + k."posted" + k."carried" + k."leased"
      + coalesce(sum(h."rest") FILTER (WHERE NOT h."charged"), 0) AS "bound",
    "_tower_quota_limit"(h."whose", h."resource", h."field", h."default", false) AS "limit"
  FROM held h LEFT JOIN "_tower_quota_key" k ON k."workspace" = h."whose" AND k."resource" = h."resource"
  WHERE h."rest" > 0 GROUP BY h."whose", h."resource", h."field", h."default", k."workspace", k."resource"
)
SELECT h."id", h."workspace", h."resource" FROM held h JOIN bounds b USING ("whose", "resource")
WHERE h."rest" > 0 AND b."limit" >= 0 AND coalesce(b."bound" > b."limit", true)"#
    )
}

/// The lock of who comes to be below another workspace, and of books that are opened: see `LOCK_PARENTS` of the store.
const MOVES: i64 = 128_060_827_788_645;

/// Until the end of the transaction nobody comes to be below another workspace, or ceases to be. Whoever changes that waits
/// here, too.
fn nobody_moves() -> String {
    format!("SELECT FROM pg_advisory_xact_lock_shared({MOVES})")
}

/// Something that is another one as soon as rows of a workspace and all below it that were counted elsewhere may be too few:
/// where one has come that was not among those that were counted, if only to come back, or where what isn't charged to their
/// books has become a row meanwhile. The leases with that stay as they are until the end of the transaction.
fn below(books: &WorkspaceId, top: &WorkspaceId, resource: &ResourceType) -> String {
    let (books, top, resource) = (literal(books.as_str()), literal(top.as_str()), literal(resource.name()));
    let members = format!(r#"SELECT "_tower_quota_members"({top})"#);
    format!(
        r#"(SELECT hashtextextended(concat(
             (SELECT string_agg(concat(q."workspaceId", ' ', q.xmin), ',' ORDER BY q."workspaceId")
              FROM "WorkspaceQuota" q WHERE q."workspaceId" IN ({members})), '/',
             (SELECT string_agg(concat(o."id", ' ', o.version), ',' ORDER BY o."id")
              FROM (SELECT l."id", l.xmin AS version FROM "_tower_quota_lease" l
                    WHERE l."workspace" IN ({members}) AND l."resource" = {resource} AND {books} <> ALL(l."charges")
                    FOR SHARE SKIP LOCKED) AS o)), 0))"#
    )
}

/// The same count of a workspace and all below it, in one statement: rows that go from one to another are not missed.
fn of_all_below(count: &str) -> String {
    // A `$` stands in it before parameters only.
    let each = count.split("$1").enumerate().fold(String::new(), |sql, (at, piece)| {
        let other = piece.starts_with(|letter: char| letter.is_ascii_digit());
        match at {
            0 => piece.to_owned(),
            _ if other => format!("{sql}$1{piece}"),
            _ => format!(r#"{sql}member."id"{piece}"#),
        }
    });
    format!(
        r#"SELECT coalesce(sum(counted."rows"), 0)::bigint FROM "_tower_quota_members"($1) AS member("id"),
           LATERAL ({each}) AS counted("rows")"#
    )
}

fn reply(row: &PgRow) -> Result<Reply, sqlx::Error> {
    let verdict: &str = row.try_get("verdict")?;
    let limit = || Ok::<_, sqlx::Error>(u64::try_from(row.try_get::<i64, _>("limit")?).ok());
    Ok(match verdict {
        "dead" => Reply::Dead,
        "moved" => Reply::Moved,
        "count" => Reply::Count(BooksMark {
            posts: units(row, "posts")?,
            edits_ended: units(row, "edits_ended")?,
            limit: limit()?,
            below: row.try_get("below")?,
        }),
        verdict => Reply::Answer {
            answer: Answer {
                granted: units(row, "granted")?,
                waits: verdict == "blocked",
                counted: row.try_get("counted")?,
                known: Known {
                    // Nothing was counted yet where nothing was needed yet.
                    counted: row
                        .try_get::<Option<i64>, _>("rows")?
                        .and_then(|rows| u64::try_from(rows).ok())
                        .unwrap_or(0),
                    posted: units(row, "posted")?,
                    reserved: units(row, "reserved")?,
                    limit: limit()?,
                },
            },
            believed: row.try_get::<Option<i64>, _>("believed")?.and_then(|rows| u64::try_from(rows).ok()),
            breach: row.try_get::<Option<i64>, _>("breach")?.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0),
        },
    })
}

fn units(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number)
        .map_err(|error| sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(error) })
}

/// More than a database can hold is as good as unlimited.
fn number(units: u64) -> String {
    i64::try_from(units).unwrap_or(i64::MAX).to_string()
}

fn optional(value: Option<String>) -> String {
    value.unwrap_or_else(|| "NULL".to_owned())
}

fn failed(error: sqlx::Error) -> Error {
    let what = match Postgres::trouble(&error) {
        Some(Trouble::Denied) => {
            "the role may not use the ledger: have its owner run GRANT SELECT, INSERT, UPDATE, DELETE ON \
             \"_tower_quota_replica\", \"_tower_quota_key\", \"_tower_quota_lease\", \"_tower_quota_ended\", \"QuotaTally\" to the role"
        }
        Some(Trouble::ReadOnly) => "the ledger's server is read-only: connect to the primary",
        Some(Trouble::NoTable | Trouble::NoColumn | Trouble::OtherType) => {
            "the ledger's tables or functions (\"_tower_quota_…\") are gone or altered: restore them from a backup, or \
             stop all processes, drop them and \"WorkspaceQuota\" with \"_tower_quota_migrations\", and start again"
        }
        _ => "the ledger in Postgres doesn't answer",
    };
    Error::unavailable(what).with_source(error)
}

/// `recall RESOURCE WORKSPACE`, `free RESOURCE WORKSPACE`, `limits WORKSPACE`, `moved WORKSPACE` or `plan NAME`. What a newer version sends is as good as
/// lost.
fn read_notice(payload: &str) -> Notice {
    let key = |rest: &str| {
        let (resource, workspace) = rest.split_once(' ')?;
        Some((resource.to_owned(), workspace.to_owned()))
    };
    let read = payload.split_once(' ').and_then(|(kind, rest)| match kind {
        "recall" => key(rest).map(|(resource, workspace)| Notice::Recall { resource, workspace }),
        "free" => key(rest).map(|(resource, workspace)| Notice::Free { resource, workspace }),
        "limits" => Some(Notice::Limits { workspace: rest.to_owned() }),
        "moved" => Some(Notice::Moved { workspace: rest.to_owned() }),
        "plan" => Some(Notice::Plan { name: rest.to_owned() }),
        _ => None,
    });
    read.unwrap_or(Notice::Lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read() {
        let key = ("segments".to_owned(), "a b".to_owned());
        let (resource, workspace) = key.clone();
        assert_eq!(read_notice("recall segments a b"), Notice::Recall { resource, workspace });
        let (resource, workspace) = key;
        assert_eq!(read_notice("free segments a b"), Notice::Free { resource, workspace });
        assert_eq!(read_notice("limits a b"), Notice::Limits { workspace: "a b".to_owned() });
        assert_eq!(read_notice("moved a b"), Notice::Moved { workspace: "a b".to_owned() });
        assert_eq!(read_notice("plan pro"), Notice::Plan { name: "pro".to_owned() });
        for other in ["", "free", "free segments", "later x"] {
            assert_eq!(read_notice(other), Notice::Lost, "{other}");
        }
    }
}
