//! The listener and its connections, in the clear or with TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::app::Peer;

/// How long a client may take to say what it wants, and to agree on how to encrypt that.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait where the system has no more connections to give.
const PAUSE: Duration = Duration::from_millis(100);

/// The certificate in force; `None` in the clear.
pub(super) type Certificate = watch::Receiver<Option<Arc<ServerConfig>>>;

/// Takes connections until `stop` says so; tells then what is left to do.
pub(super) async fn accept(
    listener: TcpListener,
    app: Router,
    certificate: Certificate,
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
                let tls = certificate.borrow().clone();
                connections.spawn(connection(stream, peer, tls, app.clone(), stop.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    app: Router,
    mut stop: watch::Receiver<bool>,
) {
    // Without it answers are only slower.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return serve(stream, peer, app, stop).await };
    let agreed = tokio::select! {
        agreed = timeout(PATIENCE, TlsAcceptor::from(tls).accept(stream)) => agreed,
        // It has asked for nothing yet.
        _ = stop.wait_for(|stop| *stop) => return,
    };
    match agreed {
        Ok(Ok(stream)) => serve(stream, peer, app, stop).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS"),
        Err(_) => tracing::debug!(%peer, "no TLS in time"),
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    app: Router,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        // A router is always ready.
        app.clone().call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection has broken off");
    }
}
