//! Request bodies that are read before the inner service sees them.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use super::body::ResponseBody;
use crate::body;
use crate::problem::Problem;

type BoxError = Box<dyn StdError + Send + Sync>;

/// How a [`QuotaLayer`](crate::QuotaLayer) treats request bodies; the type parameter of the layer and its service.
///
/// Implemented by [`Untouched`], [`Replayed`] and, with feature `axum`, `AxumBody`.
pub trait BodyMode<B>: sealed::Sealed {
    /// The body that the inner service takes.
    type Body;

    /// Hands on a body that nobody read.
    fn pass(body: B) -> Self::Body;

    /// Hands on a request whose body nobody read.
    fn pass_request(request: Request<B>) -> Request<Self::Body>;

    /// Reads a body of at most `cap` bytes, and makes it whole again.
    ///
    /// # Errors
    ///
    /// 413 when it is longer, 400 when it breaks off.
    fn read(body: B, cap: usize) -> impl Future<Output = Result<(Bytes, Self::Body), Problem>> + Send;
}

/// The response bodies of a service behind a [`QuotaLayer`](crate::QuotaLayer), by the same types as [`BodyMode`].
pub trait ResponseMode<R>: sealed::Sealed {
    /// The body that leaves the layer.
    type Leaving;

    /// A body of the inner service's, as it is.
    fn passed(body: R) -> Self::Leaving;

    /// A body that the layer made or watches.
    fn made(body: ResponseBody<R>) -> Self::Leaving;
}

pub(super) mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Untouched {}
    impl Sealed for super::Replayed {}
    #[cfg(feature = "axum")]
    impl Sealed for super::AxumBody {}
}

/// Request bodies are never read, and keep their type.
#[derive(Debug, Clone, Copy)]
pub enum Untouched {}

/// Request bodies that a rule needs are read; the inner service takes a [`RequestBody`].
#[derive(Debug, Clone, Copy)]
pub enum Replayed {}

/// Request bodies that a rule needs are read; the inner service takes axum's own body type, and its responses leave the
/// layer with that type too.
#[cfg(feature = "axum")]
#[derive(Debug, Clone, Copy)]
pub enum AxumBody {}

impl<B: Send> BodyMode<B> for Untouched {
    type Body = B;

    fn pass(body: B) -> B {
        body
    }

    #[inline]
    fn pass_request(request: Request<B>) -> Request<B> {
        request
    }

    async fn read(body: B, _cap: usize) -> Result<(Bytes, B), Problem> {
        // `QuotaLayer::new` takes no map that asks for this; a rule that did would find all fields absent.
        Ok((Bytes::new(), body))
    }
}

impl<B> BodyMode<B> for Replayed
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    type Body = RequestBody<B>;

    fn pass(body: B) -> RequestBody<B> {
        RequestBody(Inner::Untouched(body))
    }

    fn pass_request(request: Request<B>) -> Request<RequestBody<B>> {
        request.map(Self::pass)
    }

    async fn read(body: B, cap: usize) -> Result<(Bytes, RequestBody<B>), Problem> {
        let whole = body::read(body, cap).await?;
        let trailers = whole.trailers().cloned();
        let data = whole.to_bytes();
        Ok((data.clone(), RequestBody(Inner::Replayed { data: Some(data).filter(|data| !data.is_empty()), trailers })))
    }
}

#[cfg(feature = "axum")]
impl BodyMode<axum::body::Body> for AxumBody {
    type Body = axum::body::Body;

    fn pass(body: axum::body::Body) -> axum::body::Body {
        body
    }

    #[inline]
    fn pass_request(request: Request<axum::body::Body>) -> Request<axum::body::Body> {
        request
    }

    async fn read(body: axum::body::Body, cap: usize) -> Result<(Bytes, axum::body::Body), Problem> {
        let (data, body) = Replayed::read(body, cap).await?;
        Ok((data, axum::body::Body::new(body)))
    }
}

impl<R> ResponseMode<R> for Untouched {
    type Leaving = ResponseBody<R>;

    fn passed(body: R) -> ResponseBody<R> {
        ResponseBody::passed(body)
    }

    fn made(body: ResponseBody<R>) -> ResponseBody<R> {
        body
    }
}

impl<R> ResponseMode<R> for Replayed {
    type Leaving = ResponseBody<R>;

    fn passed(body: R) -> ResponseBody<R> {
        ResponseBody::passed(body)
    }

    fn made(body: ResponseBody<R>) -> ResponseBody<R> {
        body
    }
}

/// axum boxes all bodies but its own, so that a body of another type would cost each response an allocation.
#[cfg(feature = "axum")]
impl<R> ResponseMode<R> for AxumBody
where
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Leaving = axum::body::Body;

    fn passed(body: R) -> axum::body::Body {
        axum::body::Body::new(body)
    }

    fn made(body: ResponseBody<R>) -> axum::body::Body {
        axum::body::Body::new(body)
    }
}

/// The request body of an inner service behind [`QuotaLayer::reading_bodies`](crate::QuotaLayer::reading_bodies):
/// the same bytes and trailers, whether they were read before or not.
#[pin_project]
pub struct RequestBody<B>(#[pin] Inner<B>);

#[pin_project(project = InnerProjection)]
enum Inner<B> {
    Untouched(#[pin] B),
    Replayed { data: Option<Bytes>, trailers: Option<HeaderMap> },
}

impl<B: Body<Data = Bytes>> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(match self.project().0.project() {
            InnerProjection::Untouched(body) => ready!(body.poll_frame(context)),
            InnerProjection::Replayed { data, trailers } => {
                data.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers)).map(Ok)
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Untouched(body) => body.is_end_stream(),
            Inner::Replayed { data, trailers } => data.is_none() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Untouched(body) => body.size_hint(),
            Inner::Replayed { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX)))
            }
        }
    }
}

impl<B> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}
