//! The main job, on embedded SQLite or on Postgres: a multi-tenant API that can't hold one row too many.
//!
//! `cargo run --example quickstart`, then try the four lines that it prints. With `--features insight` there are two more, for
//! usage over time. With `--features metrics`, `GET /metrics` tells Prometheus what the engine does; with `openapi` there is a page
//! to browse the quota API at `/api/docs`, and with `dashboard` a dashboard at `/dashboard`.
//!
//! | variable | default |
//! |---|---|
//! | `LISTEN_ADDR` | `127.0.0.1:3000` |
//! | `DATABASE_URL` | a fresh SQLite file in a temporary folder; `postgres://user:password@host/database` works, too |
//! | `QUOTA_ENFORCEMENT_MODE` | `enforce` |
//! | `QUOTA_CLEANUP` | none: what a cleanup does to rows above the limit, such as `segments=archive,users=delete`; else it reports them |
//! | `QUOTA_ROUTES` | the file [`routes.toml`](routes.toml) beside this one; another of its kind may declare more types, or fewer |
//! | `QUOTA_ADMIN_TOKEN` | `admin-token` |
//! | `QUOTA_MEMBER_TOKENS` | `acme-token=acme,globex-token=globex` |
//! | `QUOTA_WEBHOOK_NETWORKS` | nothing; networks that webhooks may go to beside the public internet, such as `127.0.0.0/8` |
//! | `QUOTA_SMTP_URL` | nothing; where e-mails are sent through, such as `smtp://localhost:1025` |
//! | `QUOTA_SMTP_FROM` | `Quotas <quotas@example.com>` |
//!
//! The last three need `--features webhooks,email`, and send what limits that come near give rise to. To try it, have something
//! listen on port 9000, start this with `QUOTA_WEBHOOK_NETWORKS=127.0.0.0/8`, and make an endpoint; then fill a limit:
//!
//! ```sh
//! curl http://127.0.0.1:3000/api/system/webhooks -H 'authorization: Bearer admin-token' -d '{"url": "http://127.0.0.1:9000/"}'
//! ```
//!
//! For e-mail, `PUT /api/workspaces/acme/quota/contacts` with `{"emails": ["ada@example.com"]}` says who is written to.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use sqlx::{PgPool, SqlitePool};
use tokio::net::TcpListener;
use tower_quota::{
    AuthLayer, CleanupPolicy, PostgresLedger, PostgresStore, PostgresUsage, Quota, QuotaApi, QuotaLayer,
    ResourceCatalog, RouteMap, Settling, SqlTable, SqliteStore, SqliteUsage, StaticTokens,
};

use crate::database::Database;

mod database;
mod host;
#[cfg(feature = "metrics")]
mod metrics;
mod warnings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();

    let folder = tempfile::tempdir()?;
    let database_url = setting("DATABASE_URL", &format!("sqlite://{}", folder.path().join("quickstart.db").display()));
    let admin_token = setting("QUOTA_ADMIN_TOKEN", "admin-token");
    let member_tokens = setting("QUOTA_MEMBER_TOKENS", "acme-token=acme,globex-token=globex");
    let tokens = Arc::new(tokens(&admin_token, &member_tokens)?);

    // The host: its own tables, its own routes.
    let database = Database::open(&database_url).await?;

    #[cfg(feature = "metrics")]
    let metrics = metrics::install()?;

    // The quota: which types there are, where limits are kept, how rows are counted.
    let routes = match env::var("QUOTA_ROUTES") {
        Ok(path) => fs::read_to_string(&path).map_err(|error| format!("QUOTA_ROUTES: {path}: {error}"))?,
        Err(_) => include_str!("routes.toml").to_owned(),
    };
    let routes = RouteMap::with_types_from_toml(&routes, ResourceCatalog::builder())?;
    let catalog = routes.catalog().clone();
    // The file names the tables of the types that it declares.
    let eight = ResourceCatalog::default();
    let tables = host::COLLECTIONS.into_iter().filter(|(_, resource, _)| eight.by_name(resource).is_ok());
    // Ids are in the order of time: a cleanup takes the newest rows.
    let tables = tables.map(|(_, resource, table)| (resource, SqlTable::new(table).newest_first("id", "id")));
    let policies = policies(&setting("QUOTA_CLEANUP", ""))?;
    let quota = Quota::builder(catalog.clone());
    let quota = match &database {
        Database::Sqlite { writer, readers } => {
            let on = |pool: &SqlitePool| SqliteUsage::builder(pool.clone(), &catalog).tables(tables.clone()).build();
            let (usage, cleanup) = (on(readers)?, on(writer)?);
            usage.check().await?;
            // All writes go through one connection: whoever gets it next knows that what was sent before has ended.
            let writer = writer.clone();
            let settling = Settling::barrier(move || {
                let writer = writer.clone();
                async move { writer.acquire().await.map(drop) }
            });
            let store = SqliteStore::connect(&database_url, &catalog).await?;
            quota.store(store).usage(usage).cleanup(cleanup, policies).settling(settling)
        }
        Database::Postgres(pool) => {
            let on = |pool: &PgPool| PostgresUsage::builder(pool.clone(), &catalog).tables(tables.clone()).build();
            let (usage, cleanup) = (on(pool)?, on(pool)?);
            usage.check().await?;
            // Any number of processes may run: they share what the limits leave. All transactions that make rows fence.
            let store = PostgresStore::connect(&database_url, &catalog).await?;
            let ledger = PostgresLedger::new(&store).fenced();
            quota.store(store).usage(usage).cleanup(cleanup, policies).ledger(ledger)
        }
    };
    // For the sake of whoever looks after a minute: an hour is the default.
    #[cfg(feature = "insight")]
    let quota = quota.snapshots(tower_quota::SnapshotOptions::new().every(Duration::from_secs(60)));
    let quota = warnings::with_outlets(quota)?.build()?;

    let app = Router::new()
        .merge(host::routes(database))
        .layer(QuotaLayer::for_axum(quota.clone(), routes)?)
        .layer(AuthLayer::new(Arc::clone(&tokens)))
        .nest(
            "/api",
            QuotaApi::new(quota.clone(), Arc::clone(&tokens)).origin(|request| client("api", request)).into_router(),
        );
    // Of two routers, the second's fallback counts: the one that has the layer around it.
    #[cfg(feature = "metrics")]
    let app = metrics.merge(app);
    #[cfg(feature = "dashboard")]
    let app = {
        let dashboard = tower_quota::Dashboard::new(quota.clone(), tokens);
        let dashboard = dashboard.origin(|request| client("dashboard", request)).into_router();
        let slash = axum::routing::get(|| async { axum::response::Redirect::permanent("/dashboard") });
        app.nest("/dashboard", dashboard).route("/dashboard/", slash)
    };
    let app = app.into_make_service_with_connect_info::<SocketAddr>();

    let listener = TcpListener::bind(setting("LISTEN_ADDR", "127.0.0.1:3000")).await?;
    print_introduction(&format!("http://{}", listener.local_addr()?), &admin_token, &member_tokens, &quota);
    axum::serve(listener, app).with_graceful_shutdown(told_to_go()).await?;
    quota.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}

/// From where a request came, for the audit log: nothing stands in front of this server.
fn client(through: &str, request: &Parts) -> String {
    let peer = request.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or_else(|| through.to_owned(), |ConnectInfo(peer)| format!("{through} {}", peer.ip()))
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// `token=workspace` pairs, with commas between them; a token may stand in several.
fn tokens(admin: &str, members: &str) -> Result<StaticTokens, Box<dyn Error>> {
    let mut workspaces: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in members.split(',').filter(|pair| !pair.is_empty()) {
        let (token, workspace) = pair
            .split_once('=')
            .ok_or_else(|| format!("QUOTA_MEMBER_TOKENS: write token=workspace,token=workspace; got {pair:?}"))?;
        workspaces.entry(token).or_default().push(workspace);
    }
    let builder = StaticTokens::builder().admin(admin);
    let builder = workspaces.into_iter().fold(builder, |tokens, (token, workspaces)| tokens.member(token, workspaces));
    Ok(builder.build()?)
}

/// `type=policy` pairs, with commas between them.
fn policies(pairs: &str) -> Result<Vec<(String, CleanupPolicy)>, Box<dyn Error>> {
    let known = [CleanupPolicy::Report, CleanupPolicy::Archive, CleanupPolicy::Delete];
    let policy = |pair: &str| {
        let (resource, named) = pair.split_once('=')?;
        let policy = known.into_iter().find(|policy| policy.as_str() == named)?;
        Some((resource.to_owned(), policy))
    };
    let pairs = pairs.split(',').filter(|pair| !pair.is_empty());
    let wrong = |pair: &str| format!("QUOTA_CLEANUP: write type=report, type=archive or type=delete; got {pair:?}");
    pairs.map(|pair| policy(pair).ok_or_else(|| wrong(pair).into())).collect()
}

fn print_introduction(address: &str, admin: &str, members: &str, quota: &Quota) {
    let (token, workspace) = members.split(',').next().and_then(|pair| pair.split_once('=')).unwrap_or((admin, "acme"));
    println!("listening on {address}, mode {}", quota.mode());
    println!("admin token: {admin}");
    println!("member tokens: {members}");
    println!();
    println!("# create a segment");
    println!(
        "curl -i {address}/api/workspaces/{workspace}/segments -H 'authorization: Bearer {token}' -d '{{\"name\": \"Big spenders\"}}' -H 'content-type: application/json'"
    );
    println!("# see the quota");
    println!("curl -i {address}/api/workspaces/{workspace}/quota -H 'authorization: Bearer {token}'");
    println!("# lower the limit to what is there");
    println!(
        "curl -i -X PUT {address}/api/workspaces/{workspace}/quota -H 'authorization: Bearer {admin}' -d '{{\"maxSegments\": 1}}'"
    );
    println!("# one too many: 429");
    println!(
        "curl -i {address}/api/workspaces/{workspace}/segments -H 'authorization: Bearer {token}' -d '{{\"name\": \"One too many\"}}' -H 'content-type: application/json'"
    );
    #[cfg(feature = "insight")]
    {
        println!("# usage over time, and when it will reach the limit");
        println!("curl -i {address}/api/workspaces/{workspace}/quota/analytics -H 'authorization: Bearer {token}'");
        println!("# what became of it today");
        println!(
            "curl -i '{address}/api/workspaces/{workspace}/quota/report?format=csv&period=daily' -H 'authorization: Bearer {token}'"
        );
    }
    #[cfg(feature = "dashboard")]
    {
        println!("# look at it in a browser, and sign in with a token");
        println!("{address}/dashboard");
    }
}

/// Ctrl-C, or what service managers send.
async fn told_to_go() {
    // Without a handler for it, a signal ends the process the hard way.
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
