//! Somebody's endpoint: an HTTP server that answers as it is told, and remembers what it got.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) struct Receiver {
    pub(crate) url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Vec<Request>>,
    replies: Mutex<VecDeque<Reply>>,
    takes: Mutex<Duration>,
    at_once: Mutex<(usize, usize)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    headers: HeaderMap,
    pub(crate) body: String,
}

/// What it answers; 204 where nobody has said anything.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Status(StatusCode, Option<(header::HeaderName, String)>),
    Hang,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Status(StatusCode::from_u16(status).unwrap(), None)
    }

    pub(crate) fn retry_after(seconds: u64) -> Self {
        Self::Status(StatusCode::TOO_MANY_REQUESTS, Some((header::RETRY_AFTER, seconds.to_string())))
    }

    pub(crate) fn redirect() -> Self {
        Self::Status(StatusCode::FOUND, Some((header::LOCATION, "http://127.0.0.1:1/".to_owned())))
    }
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        let app = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shared, server }
    }

    pub(crate) fn answer(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.replies.lock().unwrap().extend(replies);
    }

    /// How long each answer takes from now on.
    pub(crate) fn take(&self, time: Duration) {
        *self.shared.takes.lock().unwrap() = time;
    }

    /// How many requests were there at the same time, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.at_once.lock().unwrap().1
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.requests().iter().map(Request::body).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A request that is not answered yet.
struct Present<'a>(&'a Shared);

impl<'a> Present<'a> {
    fn new(shared: &'a Shared) -> Self {
        let (now, most) = &mut *shared.at_once.lock().unwrap();
        *now += 1;
        *most = (*most).max(*now);
        Self(shared)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.at_once.lock().unwrap().0 -= 1;
    }
}

async fn receive(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> Response {
    shared.received.lock().unwrap().push(Request { headers, body });
    let _present = Present::new(&shared);
    let takes = *shared.takes.lock().unwrap();
    if !takes.is_zero() {
        tokio::time::sleep(takes).await;
    }
    let reply = shared.replies.lock().unwrap().pop_front();
    match reply {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(Reply::Status(status, None)) => status.into_response(),
        Some(Reply::Status(status, Some(header))) => (status, [header]).into_response(),
        Some(Reply::Hang) => pending().await,
    }
}

impl Request {
    pub(crate) fn body(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> String {
        self.headers[name].to_str().unwrap().to_owned()
    }

    /// Each of the keys has signed it, as another implementation has it.
    #[track_caller]
    pub(crate) fn verify(&self, secrets: &[&str]) {
        for secret in secrets {
            Webhook::new(secret).unwrap().verify(self.body.as_bytes(), &self.headers).unwrap();
        }
    }

    #[track_caller]
    pub(crate) fn does_not_verify(&self, secret: &str) {
        Webhook::new(secret).unwrap().verify(self.body.as_bytes(), &self.headers).unwrap_err();
    }
}
