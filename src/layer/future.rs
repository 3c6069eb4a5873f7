//! The layer's response future.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use pin_project::pin_project;

use super::body::ResponseBody;
use super::outcome::Pending;
use super::request_body::ResponseMode;

type Decided<L, E> = Pin<Box<dyn Future<Output = Result<Response<L>, E>> + Send>>;

/// The future of a [`QuotaService`](crate::QuotaService)'s response.
#[pin_project]
pub struct ResponseFuture<F, M, B, E>
where
    M: ResponseMode<B>,
{
    #[pin]
    state: State<F, M::Leaving, E>,
    mode: PhantomData<fn(B) -> M>,
}

#[pin_project(project = StateProjection, project_replace = Replaced)]
enum State<F, L, E> {
    /// Nothing to charge.
    Passed(#[pin] F),
    /// Admitted without waiting.
    Admitted {
        // Declared first: a dropped handler drops its transaction before its units are called abandoned.
        #[pin]
        inner: F,
        pending: Pending,
    },
    /// The decision takes the body, a look-up or a count.
    Deciding(Decided<L, E>),
    /// Answered by the layer. Empty once it has been.
    Answered(Option<Response<Bytes>>),
}

impl<F, M: ResponseMode<B>, B, E> ResponseFuture<F, M, B, E> {
    pub(super) fn passed(inner: F) -> Self {
        Self::new(State::Passed(inner))
    }

    pub(super) fn admitted(inner: F, pending: Pending) -> Self {
        Self::new(State::Admitted { inner, pending })
    }

    pub(super) fn deciding(decided: Decided<M::Leaving, E>) -> Self {
        Self::new(State::Deciding(decided))
    }

    pub(super) fn answered(response: Response<Bytes>) -> Self {
        Self::new(State::Answered(Some(response)))
    }

    fn new(state: State<F, M::Leaving, E>) -> Self {
        Self { state, mode: PhantomData }
    }
}

impl<F, M, B, E> Future for ResponseFuture<F, M, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
    M: ResponseMode<B>,
{
    type Output = Result<Response<M::Leaving>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        match state.as_mut().project() {
            StateProjection::Passed(inner) => Poll::Ready(Ok(ready!(inner.poll(context))?.map(M::passed))),
            StateProjection::Admitted { inner, .. } => {
                let response = ready!(inner.poll(context));
                // Drops what is left of the handler, and with it a transaction, before the units end.
                let Replaced::Admitted { pending, .. } = state.project_replace(State::Answered(None)) else {
                    return Poll::Pending;
                };
                // Where the inner service failed, `pending` is dropped: its units are abandoned.
                Poll::Ready(Ok(pending.settle::<M, B>(response?)))
            }
            StateProjection::Deciding(decided) => decided.as_mut().poll(context),
            StateProjection::Answered(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(|data| M::made(ResponseBody::from(data))))),
                // Polled after its end, which a future may answer as it likes.
                None => Poll::Pending,
            },
        }
    }
}

impl<F, M: ResponseMode<B>, B, E> fmt::Debug for ResponseFuture<F, M, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
