//! The layer's response body.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::outcome::{Pending, RowOutcome, grpc_outcome};

/// The response body behind a [`QuotaLayer`](crate::QuotaLayer): the inner service's, or the layer's own answer.
#[pin_project]
pub struct ResponseBody<B>(#[pin] Inner<B>);

#[pin_project(project = InnerProjection)]
enum Inner<B> {
    Passed(#[pin] B),
    /// A gRPC response whose trailers tell the outcome.
    Watched {
        // Declared first: what the inner service still holds goes before its units are called abandoned.
        #[pin]
        body: B,
        pending: Option<Pending>,
    },
    Answer(Option<Bytes>),
}

impl<B> ResponseBody<B> {
    pub(super) fn passed(body: B) -> Self {
        Self(Inner::Passed(body))
    }

    pub(super) fn watched(body: B, pending: Pending) -> Self {
        Self(Inner::Watched { body, pending: Some(pending) })
    }
}

/// An answer in place of the inner service's.
impl<B> From<Bytes> for ResponseBody<B> {
    fn from(data: Bytes) -> Self {
        Self(Inner::Answer(Some(data).filter(|data| !data.is_empty())))
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project().0.project() {
            InnerProjection::Passed(body) => body.poll_frame(context),
            InnerProjection::Watched { body, pending } => {
                let frame = ready!(body.poll_frame(context));
                if let Some(Ok(frame)) = &frame
                    && let Some(trailers) = frame.trailers_ref()
                    && let Some(pending) = pending.take()
                {
                    pending.end(grpc_outcome(trailers).unwrap_or(RowOutcome::Unknown));
                }
                Poll::Ready(frame)
            }
            InnerProjection::Answer(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Passed(body) => body.is_end_stream(),
            // Trailers must be asked for even where the server could do without them.
            Inner::Watched { body, pending } => pending.is_none() && body.is_end_stream(),
            Inner::Answer(data) => data.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Passed(body) | Inner::Watched { body, .. } => body.size_hint(),
            Inner::Answer(data) => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)))
            }
        }
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Inner::Passed(_) => "Passed",
            Inner::Watched { .. } => "Watched",
            Inner::Answer(_) => "Answer",
        };
        f.debug_tuple("ResponseBody").field(&kind).finish()
    }
}
