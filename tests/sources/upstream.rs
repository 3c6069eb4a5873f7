//! An API whose rows nobody else can read, on a real socket.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

/// Ends when it is dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) rows: Arc<Rows>,
    _runtime: Option<Runtime>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // It may be dropped in another runtime, where nothing may be waited for.
        if let Some(runtime) = self._runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Default)]
pub(crate) struct Rows {
    of: Mutex<BTreeMap<(String, String), Kept>>,
    /// What is answered to all that reads, whatever there is.
    said: Mutex<Option<Said>>,
    /// What was read: target and `authorization`.
    pub(crate) read: Mutex<Vec<(String, Option<String>)>>,
}

#[derive(Default, Clone)]
struct Kept {
    ids: BTreeSet<String>,
    most: usize,
    made: usize,
}

#[derive(Clone)]
pub(crate) enum Said {
    Answer(u16, Vec<u8>),
    /// Nothing, ever.
    Silence,
    /// A body that never ends.
    Dribble,
}

impl Rows {
    fn kept<T>(&self, workspace: &str, resource: &str, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(self.of.lock().unwrap().entry((workspace.to_owned(), resource.to_owned())).or_default())
    }

    pub(crate) fn insert(&self, workspace: &str, resource: &str, id: &str) {
        self.kept(workspace, resource, |kept| {
            kept.made += usize::from(kept.ids.insert(id.to_owned()));
            kept.most = kept.most.max(kept.ids.len());
        });
    }

    pub(crate) fn remove(&self, workspace: &str, resource: &str, id: &str) -> bool {
        self.kept(workspace, resource, |kept| kept.ids.remove(id))
    }

    pub(crate) fn any(&self, workspace: &str, resource: &str) -> Option<String> {
        self.kept(workspace, resource, |kept| kept.ids.first().cloned())
    }

    pub(crate) fn count(&self, workspace: &str, resource: &str) -> usize {
        self.kept(workspace, resource, |kept| kept.ids.len())
    }

    /// The most that there ever were.
    pub(crate) fn most(&self, workspace: &str, resource: &str) -> usize {
        self.kept(workspace, resource, |kept| kept.most)
    }

    /// How many were ever made.
    pub(crate) fn made(&self, workspace: &str, resource: &str) -> usize {
        self.kept(workspace, resource, |kept| kept.made)
    }

    pub(crate) fn say(&self, said: impl Into<Option<Said>>) {
        *self.said.lock().unwrap() = said.into();
    }
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let rows = Arc::new(Rows::default());
        let app = Router::new()
            .route("/workspaces/{ws}/{type}", get(list).post(create))
            .route("/workspaces/{ws}/{type}/{id}", put(replace).get(read).delete(delete))
            .with_state(Arc::clone(&rows));
        let (tell, told) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        Self { address: told.recv().unwrap(), rows, _runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn said(rows: &Rows, uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    rows.read.lock().unwrap().push((uri.to_string(), authorization));
    let said = rows.said.lock().unwrap().clone()?;
    Some(match said {
        Said::Answer(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Said::Silence => std::future::pending().await,
        Said::Dribble => Body::new(Dribble).into_response(),
    })
}

/// Sends the beginning of an answer, and then nothing.
struct Dribble;

impl http_body::Body for Dribble {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

type At<T> = (State<Arc<Rows>>, Path<T>);

async fn list(
    State(rows): State<Arc<Rows>>,
    Path((workspace, resource)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Some(said) = said(&rows, &uri, &headers).await {
        return said;
    }
    let ids: Vec<Value> = rows.kept(&workspace, &resource, |kept| kept.ids.iter().map(|id| json!(id)).collect());
    axum::Json(json!({"total": ids.len(), "items": ids})).into_response()
}

async fn create((State(rows), Path((workspace, resource))): At<(String, String)>) -> Response {
    // As long as a database would take.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let id = Uuid::now_v7().to_string();
    rows.insert(&workspace, &resource, &id);
    (StatusCode::CREATED, axum::Json(json!({"id": id}))).into_response()
}

async fn replace((State(rows), Path((workspace, resource, id))): At<(String, String, String)>) -> StatusCode {
    rows.insert(&workspace, &resource, &id);
    StatusCode::OK
}

async fn delete((State(rows), Path((workspace, resource, id))): At<(String, String, String)>) -> StatusCode {
    match rows.remove(&workspace, &resource, &id) {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::NOT_FOUND,
    }
}

async fn read(
    State(rows): State<Arc<Rows>>,
    Path((workspace, resource, id)): Path<(String, String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Some(said) = said(&rows, &uri, &headers).await {
        return said;
    }
    match rows.kept(&workspace, &resource, |kept| kept.ids.contains(&id)) {
        true => axum::Json(json!({"id": id})).into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    }
}
