//! Usage over time: 90 days of history that is brought in from elsewhere, and what the HTTP API tells of it.
//!
//! `cargo run --example history --features insight`
//!
//! It makes up what a service might have noted before it had quotas: segments that grow, users that come and go by the
//! week, and journeys of which nothing was noted for a while. Then it asks its own API, over a real socket, for analytics of
//! the last two weeks and for a report on this month, as JSON and as CSV.

use std::error::Error;

use axum::Router;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sqlx::SqlitePool;
use tokio::net::TcpListener;
use tower_quota::{
    Actor, Granularity, Limit, Quota, QuotaApi, ResourceCatalog, ResourceId, ResourceSpec, Snapshot, SqliteStore,
    SqliteUsage, StaticTokens, WorkspaceId,
};

/// Snapshots, and whose they are.
type Days = Vec<(WorkspaceId, ResourceId, Snapshot)>;

/// Rows that there are on a day; `None` where nobody noted them.
type History = fn(u32) -> Option<u64>;

const DAYS: u32 = 90;
const TOKEN: &str = "acme-token";

/// What is limited: its name, limit field and table, the limit, and how many rows there were.
const TYPES: [(&str, &str, &str, u32, History); 3] = [
    ("segments", "maxSegments", "Segment", 50, |day| Some(u64::from(day) / 2)),
    ("users", "maxUsers", "User", 1000, |day| Some(400 + 2 * u64::from(day) - if day % 7 >= 5 { 30 } else { 0 })),
    ("journeys", "maxJourneys", "Journey", 20, |day| (!(78..=82).contains(&day)).then_some(12)),
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("history.db").display());
    let (pool, quota) = open(&url).await?;
    let acme = quota.workspace("acme")?;
    for (name, _, table, limit, history) in TYPES {
        let resource = quota.catalog().by_name(name)?.id();
        // By the day, up to yesterday; the engine takes snapshots from now on.
        let days = days(&acme, resource, limit, history)?;
        quota.admin(Actor::new("ann", "migration")).import_snapshots(Granularity::Day, &days).await?;
        let today = history(DAYS).unwrap_or_default();
        sqlx::query(sqlx::AssertSqlSafe(format!(
            r#"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {today})
            INSERT INTO "{table}" SELECT 'acme' FROM n"#
        )))
        .execute(&pool)
        .await?;
    }
    // It would be taken within the hour.
    quota.take_snapshots().await?;

    let tokens = StaticTokens::builder().member(TOKEN, ["acme"]).build()?;
    let app = Router::new().nest("/api", QuotaApi::new(quota, tokens).into_router());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let api = format!("http://{}/api/workspaces/acme/quota", listener.local_addr()?);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let start = Timestamp::now() - SignedDuration::from_hours(13 * 24);
    let start = Granularity::Day.label(Granularity::Day.start(start));
    ask(&format!("{api}/analytics?startDate={start}&granularity=day")).await?;
    ask(&format!("{api}/report?period=monthly")).await?;
    ask(&format!("{api}/report?period=monthly&format=csv")).await?;
    server.abort();
    Ok(())
}

/// The host's tables, and the engine on the same database.
async fn open(url: &str) -> Result<(SqlitePool, Quota), Box<dyn Error>> {
    let pool = SqlitePool::connect(url).await?;
    let mut catalog = ResourceCatalog::empty();
    for (name, field, table, limit, _) in TYPES {
        let create = format!(r#"CREATE TABLE "{table}" ("workspaceId" TEXT NOT NULL)"#);
        sqlx::query(sqlx::AssertSqlSafe(create)).execute(&pool).await?;
        catalog = catalog.resource(ResourceSpec::new(name, field, Limit::of(limit)).table(table));
    }
    let catalog = catalog.build()?;
    let store = SqliteStore::new(pool.clone(), &catalog).await?;
    let usage = SqliteUsage::builder(pool.clone(), &catalog).build()?;
    let quota = Quota::builder(catalog).store(store).usage(usage).build()?;
    Ok((pool, quota))
}

/// One snapshot for each day on which something was noted.
fn days(acme: &WorkspaceId, resource: ResourceId, limit: u32, history: History) -> Result<Days, Box<dyn Error>> {
    let today = Granularity::Day.start(Timestamp::now());
    let mut days = Vec::new();
    for day in 0..DAYS {
        let Some(rows) = history(day) else { continue };
        let at = today.checked_sub(SignedDuration::from_hours(24 * i64::from(DAYS - day) - 23))?;
        let snapshot = Snapshot { at, last: rows, min: rows, max: rows, limit: Limit::of(limit), refusals: 0 };
        days.push((acme.clone(), resource, snapshot));
    }
    Ok(days)
}

/// Asks the API, and prints what it answers.
async fn ask(url: &str) -> Result<(), Box<dyn Error>> {
    let response = reqwest::Client::new().get(url).bearer_auth(TOKEN).send().await?.error_for_status()?;
    println!("\n# curl -H 'authorization: Bearer {TOKEN}' '{url}'");
    let body = response.text().await?;
    match serde_json::from_str::<Value>(&body) {
        Ok(json) => println!("{}", compact(&json)?),
        Err(_) => println!("{body}"),
    }
    Ok(())
}

/// JSON with a line for each entry of its lists and objects.
fn compact(json: &Value) -> Result<String, serde_json::Error> {
    let lines = |entries: Vec<String>, [open, close]: [char; 2]| match entries.is_empty() {
        true => format!("{open}{close}"),
        false => format!("{open}\n    {}\n  {close}", entries.join(",\n    ")),
    };
    let named = |(name, value): (&String, &Value)| Ok(format!("{name:?}: {}", serde_json::to_string(value)?));
    let mut fields = Vec::new();
    for (name, value) in json.as_object().into_iter().flatten() {
        let value = match value {
            Value::Array(entries) => {
                lines(entries.iter().map(serde_json::to_string).collect::<Result<_, _>>()?, ['[', ']'])
            }
            Value::Object(entries) => lines(entries.iter().map(named).collect::<Result<_, _>>()?, ['{', '}']),
            value => serde_json::to_string(value)?,
        };
        fields.push(format!("  {name:?}: {value}"));
    }
    Ok(format!("{{\n{}\n}}", fields.join(",\n")))
}
