//! The API behind the gateways, which makes whatever row it is asked for.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

/// Serves until the runtime is dropped.
pub(crate) fn start(database: &str) -> (Runtime, SocketAddr) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let address = runtime.block_on(async {
        // A statement that hangs must end before the gateways take it that nothing comes of it any more.
        let options = PgPoolOptions::new().max_connections(24).acquire_timeout(Duration::from_secs(2));
        let options = options.after_connect(|connection, _| {
            Box::pin(async move { sqlx::query("SET statement_timeout = '3s'").execute(connection).await.map(drop) })
        });
        let rows = options.connect(database).await.unwrap();
        let app = Router::new()
            .route("/workspaces/{ws}/segments", post(create).delete(remove))
            .route("/health", get(|| async { "well" }))
            .with_state(rows);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        address
    });
    (runtime, address)
}

async fn create(State(rows): State<PgPool>, Path(workspace): Path<String>) -> StatusCode {
    let insert = sqlx::query(r#"INSERT INTO "Segment" ("id", "workspaceId") VALUES ($1, $2)"#);
    match insert.bind(Uuid::now_v7().to_string()).bind(workspace).execute(&rows).await {
        Ok(_) => StatusCode::CREATED,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn remove(State(rows): State<PgPool>, Path(workspace): Path<String>) -> StatusCode {
    let oldest = sqlx::query(
        r#"DELETE FROM "Segment" WHERE "id" = (
             SELECT "id" FROM "Segment" WHERE "workspaceId" = $1 ORDER BY "id" LIMIT 1 FOR UPDATE SKIP LOCKED)"#,
    );
    match oldest.bind(workspace).execute(&rows).await {
        Ok(done) if done.rows_affected() == 0 => StatusCode::NOT_FOUND,
        Ok(_) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
