//! Bodies on their way through, in either direction.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep, sleep};

use crate::BoxFuture;
use crate::error::Error;

/// How far a request has come that is being sent.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When a piece of the body was last taken from the client.
    last: Instant,
    /// The upstream would take more of the body than the client has sent.
    awaits_client: bool,
    failed: Option<ClientFailure>,
    /// The response has ended: nobody needs what is left of the body.
    answered: bool,
    /// Who sends the body, to be told so.
    sender: Option<Waker>,
}

/// Why the client's body has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientFailure {
    TooSlow,
    BrokenOff,
}

impl Progress {
    pub(super) fn new() -> Arc<Self> {
        let last = Instant::now();
        Arc::new(Self(Mutex::new(State { last, awaits_client: false, failed: None, answered: false, sender: None })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn client_failure(&self) -> Option<ClientFailure> {
        self.state().failed
    }

    /// Whether the response has ended; wakes who asks when it does.
    fn is_answered(&self, context: &Context<'_>) -> bool {
        let mut state = self.state();
        if !state.sender.as_ref().is_some_and(|sender| sender.will_wake(context.waker())) {
            state.sender = Some(context.waker().clone());
        }
        state.answered
    }

    /// Returns when for so long nothing was left to do but for the upstream.
    pub(super) async fn stalled_for(&self, time: Duration) {
        loop {
            let since = {
                let state = self.state();
                if state.awaits_client { Instant::now() } else { state.last }
            };
            if since.elapsed() >= time {
                return;
            }
            tokio::time::sleep_until(since + time).await;
        }
    }
}

/// Ends what is left of a request when its response has ended.
struct Exchange(Arc<Progress>);

impl Drop for Exchange {
    fn drop(&mut self) {
        let sender = {
            let mut state = self.0.state();
            state.answered = true;
            state.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }
}

/// Ends a wait that has become too long. It is measured only while somebody waits: a receiver that is slow in taking
/// pieces is no fault of their sender.
#[pin_project]
struct Patience {
    time: Duration,
    #[pin]
    sleep: Option<Sleep>,
}

impl Patience {
    fn new(time: Duration) -> Self {
        Self { time, sleep: None }
    }

    /// Whether what is awaited is too late by now.
    fn is_over(self: Pin<&mut Self>, context: &mut Context<'_>) -> bool {
        let mut this = self.project();
        if this.sleep.is_none() {
            this.sleep.set(Some(sleep(*this.time)));
        }
        this.sleep.as_pin_mut().is_some_and(|sleep| sleep.poll(context).is_ready())
    }

    fn begin_anew(self: Pin<&mut Self>) {
        self.project().sleep.set(None);
    }
}

/// The client's body, on its way to the upstream.
#[pin_project]
pub(super) struct Upload<B> {
    /// Until it has ended, the client isn't asked for its body.
    wanted: Option<BoxFuture<'static, ()>>,
    #[pin]
    body: B,
    #[pin]
    patience: Patience,
    progress: Arc<Progress>,
}

impl<B> Upload<B> {
    pub(super) fn new(
        body: B,
        wanted: Option<BoxFuture<'static, ()>>,
        idle_timeout: Duration,
        progress: Arc<Progress>,
    ) -> Self {
        Self { wanted, body, patience: Patience::new(idle_timeout), progress }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut this = self.project();
        if this.progress.is_answered(context) {
            return Poll::Ready(Some(Err(Error::unavailable(
                "the upstream has answered without the rest of the body",
            ))));
        }
        if let Some(wanted) = this.wanted {
            ready!(wanted.as_mut().poll(context));
            *this.wanted = None;
        }
        let frame = match this.body.poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending if this.patience.as_mut().is_over(context) => {
                this.progress.state().failed = Some(ClientFailure::TooSlow);
                return Poll::Ready(Some(Err(Error::unavailable("the client is too slow in sending its body"))));
            }
            Poll::Pending => {
                this.progress.state().awaits_client = true;
                return Poll::Pending;
            }
        };
        this.patience.begin_anew();
        {
            let mut state = this.progress.state();
            (state.last, state.awaits_client) = (Instant::now(), false);
        }
        let broken = |error| {
            this.progress.state().failed = Some(ClientFailure::BrokenOff);
            Error::unavailable("the client's body broke off").with_source(error)
        };
        Poll::Ready(frame.map(|frame| frame.map_err(broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a [`Gateway`](crate::Gateway)'s response: the upstream's as it comes, or the gateway's own answer.
///
/// It ends in an error where the upstream breaks off or falls silent, so that no client takes what it has for all.
#[pin_project]
pub struct GatewayBody(#[pin] Inner);

#[pin_project(project = InnerProjection)]
enum Inner {
    Upstream {
        #[pin]
        body: Incoming,
        #[pin]
        patience: Patience,
        _exchange: Exchange,
    },
    Answer(#[pin] Full<Bytes>),
}

impl GatewayBody {
    pub(super) fn upstream(body: Incoming, idle_timeout: Duration, progress: Arc<Progress>) -> Self {
        Self(Inner::Upstream { body, patience: Patience::new(idle_timeout), _exchange: Exchange(progress) })
    }

    pub(super) fn answer(data: Bytes) -> Self {
        Self(Inner::Answer(Full::new(data)))
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.project().0.project() {
            InnerProjection::Upstream { body, mut patience, .. } => match body.poll_frame(context) {
                Poll::Pending if patience.as_mut().is_over(context) => {
                    Poll::Ready(Some(Err(Error::unavailable("the upstream has fallen silent in its response"))))
                }
                Poll::Pending => Poll::Pending,
                Poll::Ready(frame) => {
                    patience.begin_anew();
                    let broken = |error| Error::unavailable("the upstream's response broke off").with_source(error);
                    Poll::Ready(frame.map(|frame| frame.map_err(broken)))
                }
            },
            InnerProjection::Answer(body) => body.poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Upstream { body, .. } => body.is_end_stream(),
            Inner::Answer(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Upstream { body, .. } => body.size_hint(),
            Inner::Answer(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for GatewayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayBody").finish_non_exhaustive()
    }
}
