//! Listeners and their connections: HTTP/1.1 and HTTP/2, in the clear or with TLS.

use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::Service;
use tower_quota::ClientConnection;

use super::taken::{Offers, Taken};

/// How long a client may take to say what it wants, to agree on how to encrypt that, and for the next bytes of a body.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait where the system has no more connections to give.
const PAUSE: Duration = Duration::from_millis(100);

/// The certificate in force; `None` in the clear.
pub(super) type Certificate = watch::Receiver<Option<Arc<ServerConfig>>>;

/// What can be served: it is always ready, and never fails.
pub(super) trait App:
    Service<Request<Incoming>, Response = Response<Self::Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;
}

impl<S, B> App for S
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    type Body = B;
}

/// Takes connections until `stop` says so; tells then what is left to do. A client that takes nothing of what it is sent for as
/// long as `reading` is left, and over HTTP/2 one that takes nothing of one response, with all others.
pub(super) async fn accept(
    listener: TcpListener,
    app: impl App,
    certificate: Certificate,
    reading: Duration,
    mut stop: watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => return connections,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Without it answers are only slower.
                let _ = stream.set_nodelay(true);
                let mut stream = TimeoutStream::new(stream);
                stream.set_write_timeout(Some(reading));
                let tls = certificate.borrow().clone();
                connections.spawn(connection(Box::pin(stream), peer, tls, app.clone(), reading, stop.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be taken");
                sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    peer: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    app: impl App,
    reading: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let client = ClientConnection::new(peer);
    let Some(tls) = tls else { return serve(stream, client, app, reading, stop).await };
    let agreed = tokio::select! {
        agreed = timeout(PATIENCE, TlsAcceptor::from(tls).accept(stream)) => agreed,
        // It has asked for nothing yet.
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match agreed {
        Ok(Ok(stream)) => serve(stream, client.encrypted(true), app, reading, stop).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
        Err(_) => tracing::debug!(%peer, "no TLS in time"),
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    client: ClientConnection,
    app: impl App,
    reading: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let offers = Arc::new(Offers::default());
    let offered = Arc::clone(&offers);
    let asked = Arc::new(AtomicBool::new(false));
    let asks = Arc::clone(&asked);
    let (stream, app) = client.guard(stream, app);
    let service = service_fn(move |request: Request<Incoming>| {
        asks.store(true, Ordering::Relaxed);
        // Over HTTP/1.1 the stream's time-out sees it.
        let offers = (request.version() == Version::HTTP_2).then(|| Arc::clone(&offered));
        let answer = app.clone().call(request);
        async move { answer.await.map(|response| response.map(|body| Taken::new(body, offers))) }
    });
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(PATIENCE).keep_alive_timeout(PATIENCE);
    let mut connection = pin!(http.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let peer = client.address();
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
        () = silence(&asked) => return tracing::debug!(%peer, "no request in time"),
        () = offers.left_for(reading) => return tracing::debug!(%peer, "a response is not taken"),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, error, "a connection has broken off");
    }
}

/// Ends where nothing was asked in time: until the version of HTTP is known, no other time-out counts.
async fn silence(asked: &AtomicBool) {
    sleep(PATIENCE).await;
    if asked.load(Ordering::Relaxed) {
        pending::<()>().await;
    }
}
