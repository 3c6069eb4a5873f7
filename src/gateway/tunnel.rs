//! Connections that go on in another protocol.

use std::io;
use std::pin::pin;
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::time::timeout;

/// Carries bytes both ways, until either side has ended. The other then has `patience` for what is still to be said.
pub(super) async fn carry(client: OnUpgrade, upstream: OnUpgrade, patience: Duration) {
    let (client, upstream) = match tokio::try_join!(client, upstream) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "an upgrade came to nothing"),
    };
    if let Err(error) = both_ways(client, upstream, patience).await {
        tracing::debug!(%error, "an upgraded connection has broken off");
    }
}

async fn both_ways(client: Upgraded, upstream: Upgraded, patience: Duration) -> io::Result<()> {
    let (from_client, to_client) = split(TokioIo::new(client));
    let (from_upstream, to_upstream) = split(TokioIo::new(upstream));
    let mut up = pin!(one_way(from_client, to_upstream));
    let mut down = pin!(one_way(from_upstream, to_client));
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::select! {
        ended = up.as_mut() => ended.and(timeout(patience, down).await.map_err(late)?),
        ended = down.as_mut() => ended.and(timeout(patience, up).await.map_err(late)?),
    }
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    copy(&mut from, &mut to).await?;
    to.shutdown().await
}
