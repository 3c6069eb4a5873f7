//! Bodies on their way through, in either direction.

use std::error::Error as StdError;
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

type BoxError = Box<dyn StdError + Send + Sync>;

/// How far a request has come that is being sent.
#[derive(Debug)]
pub(super) struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When a piece of the body was last taken from the client.
    last: Instant,
    /// Since when the upstream would take more of the body than the client has sent.
    awaits_client: Option<Instant>,
    /// For how long it would before, in all.
    awaited_client: Duration,
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
        Arc::new(Self(Mutex::new(State {
            last,
            awaits_client: None,
            awaited_client: Duration::ZERO,
            failed: None,
            answered: false,
            sender: None,
        })))
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
                if state.awaits_client.is_some() { Instant::now() } else { state.last }
            };
            if since.elapsed() >= time {
                return;
            }
            tokio::time::sleep_until(since + time).await;
        }
    }

    /// Returns when the client has been awaited for so long in all, whatever pieces it has sent meanwhile.
    pub(super) async fn client_awaited_for(&self, time: Duration) {
        loop {
            let awaited = {
                let state = self.state();
                state.awaited_client + state.awaits_client.map_or(Duration::ZERO, |since| since.elapsed())
            };
            let Some(left) = time.checked_sub(awaited).filter(|left| !left.is_zero()) else { return };
            sleep(left).await;
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

/// A body whose sender may pause for so long at most: then it ends in an error.
///
/// Only while somebody waits is the pause measured: a receiver that is slow in taking pieces is no fault of their sender. A
/// [`Gateway`](crate::Gateway) has this around the bodies that it forwards. Where a layer in front of it reads bodies first, they
/// want it there, too.
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use tower_quota::PacedBody;
///
/// fn paced<B>(request: Request<B>) -> Request<PacedBody<B>> {
///     request.map(|body| PacedBody::new(body, Duration::from_secs(60)))
/// }
/// ```
#[derive(Debug)]
#[pin_project]
pub struct PacedBody<B> {
    #[pin]
    body: B,
    longest_pause: Duration,
    #[pin]
    pause: Option<Sleep>,
}

/// The sender of a body was silent for too long.
#[derive(Debug)]
struct TooSlow;

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the next piece of the body has not come in time")
    }
}

impl StdError for TooSlow {}

impl<B> PacedBody<B> {
    /// `body`, whose next piece may take `longest_pause`.
    pub fn new(body: B, longest_pause: Duration) -> Self {
        Self { body, longest_pause, pause: None }
    }
}

impl<B> Body for PacedBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        if let Poll::Ready(frame) = this.body.poll_frame(context) {
            this.pause.set(None);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.pause.is_none() {
            this.pause.set(Some(sleep(*this.longest_pause)));
        }
        match this.pause.as_pin_mut().map(|pause| pause.poll(context)) {
            Some(Poll::Ready(())) => Poll::Ready(Some(Err(TooSlow.into()))),
            _ => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The client's body, on its way to the upstream.
#[pin_project]
pub(super) struct Upload<B> {
    /// Until it has ended, the client isn't asked for its body.
    wanted: Option<BoxFuture<'static, ()>>,
    #[pin]
    body: PacedBody<B>,
    progress: Arc<Progress>,
}

impl<B> Upload<B> {
    pub(super) fn new(
        body: B,
        wanted: Option<BoxFuture<'static, ()>>,
        idle_timeout: Duration,
        progress: Arc<Progress>,
    ) -> Self {
        Self { wanted, body: PacedBody::new(body, idle_timeout), progress }
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.project();
        if this.progress.is_answered(context) {
            return Poll::Ready(Some(Err(Error::unavailable(
                "the upstream has answered without the rest of the body",
            ))));
        }
        if let Some(wanted) = this.wanted {
            ready!(wanted.as_mut().poll(context));
            *this.wanted = None;
        }
        let frame = this.body.poll_frame(context);
        let mut state = this.progress.state();
        let now = Instant::now();
        if frame.is_pending() {
            state.awaits_client.get_or_insert(now);
            return Poll::Pending;
        }
        let awaited = state.awaits_client.take().map_or(Duration::ZERO, |since| now - since);
        state.awaited_client += awaited;
        state.last = now;
        let frame = ready!(frame);
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                let failure = if error.is::<TooSlow>() { ClientFailure::TooSlow } else { ClientFailure::BrokenOff };
                state.failed = Some(failure);
                Error::unavailable("the client's body broke off").with_source(error)
            })
        }))
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
        body: PacedBody<Incoming>,
        _exchange: Exchange,
    },
    Answer(#[pin] Full<Bytes>),
}

impl GatewayBody {
    pub(super) fn upstream(body: Incoming, idle_timeout: Duration, progress: Arc<Progress>) -> Self {
        Self(Inner::Upstream { body: PacedBody::new(body, idle_timeout), _exchange: Exchange(progress) })
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
            InnerProjection::Upstream { body, .. } => {
                let broken = |error| Error::unavailable("the upstream's response broke off").with_source(error);
                body.poll_frame(context).map_err(broken)
            }
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
