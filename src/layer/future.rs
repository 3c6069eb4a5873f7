//! The layer's response future.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use pin_project::pin_project;

use super::body::ResponseBody;
use super::outcome::Pending;

type Decided<B, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<B>>, E>> + Send>>;

/// The future of a [`QuotaService`](crate::QuotaService)'s response.
#[pin_project]
pub struct ResponseFuture<F, B, E>(#[pin] State<F, B, E>);

#[pin_project(project = StateProjection)]
enum State<F, B, E> {
    /// Nothing to charge.
    Passed(#[pin] F),
    /// Admitted without waiting.
    Admitted {
        // Declared first: a dropped handler drops its transaction before its units are called abandoned.
        #[pin]
        inner: F,
        pending: Option<Pending>,
    },
    /// The decision takes the body, a look-up or a count.
    Deciding(Decided<B, E>),
    /// Answered by the layer. Empty once it has been.
    Answered(Option<Response<Bytes>>),
}

impl<F, B, E> ResponseFuture<F, B, E> {
    pub(super) fn passed(inner: F) -> Self {
        Self(State::Passed(inner))
    }

    pub(super) fn admitted(inner: F, pending: Pending) -> Self {
        Self(State::Admitted { inner, pending: Some(pending) })
    }

    pub(super) fn deciding(decided: Decided<B, E>) -> Self {
        Self(State::Deciding(decided))
    }

    pub(super) fn answered(response: Response<Bytes>) -> Self {
        Self(State::Answered(Some(response)))
    }
}

impl<F, B, E> Future for ResponseFuture<F, B, E>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().0.project() {
            StateProjection::Passed(inner) => Poll::Ready(Ok(ready!(inner.poll(context))?.map(ResponseBody::passed))),
            StateProjection::Admitted { inner, pending } => {
                let response = ready!(inner.poll(context));
                let pending = pending.take();
                Poll::Ready(match (response, pending) {
                    (Ok(response), Some(pending)) => Ok(pending.settle(response)),
                    (Ok(response), None) => Ok(response.map(ResponseBody::passed)),
                    // The inner service failed: `pending` is dropped, its units are abandoned.
                    (Err(error), _) => Err(error),
                })
            }
            StateProjection::Deciding(decided) => decided.as_mut().poll(context),
            StateProjection::Answered(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response.map(ResponseBody::answer))),
                // Polled after its end, which a future may answer as it likes.
                None => Poll::Pending,
            },
        }
    }
}

impl<F, B, E> fmt::Debug for ResponseFuture<F, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
