//! What stands between a client's connection and the server that serves it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use http::{Request, Response, StatusCode};
use pin_project::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::Service;

use super::forwarded::ClientConnection;
use super::framing::{Framing, Verdict};

/// What is read in place of what two readers might part over, before the end: hyper refuses its first byte in a head and
/// between chunks, and a field with it. The others have it look at a head, which it does once that seems to have an end.
const REFUSED: &[u8] = b"\0\n\n";

impl ClientConnection {
    /// Guards a connection that a server is about to serve with `service`, whatever the server itself would let pass.
    ///
    /// Of HTTP/1.1, what two readers might take for two things never gets to the service: a `Content-Length` beside a
    /// `Transfer-Encoding` or another one, and a line that doesn't end in CRLF. In a head, the server is made to answer 400 to
    /// it, after all that was asked before, and to close the connection; a body breaks off there. Bodies are passed as they
    /// come, and so are HTTP/2 and what a connection is upgraded to.
    ///
    /// Requests have this connection in their extensions then.
    ///
    /// ```
    /// use std::net::SocketAddr;
    ///
    /// use hyper_util::rt::{TokioExecutor, TokioIo};
    /// use hyper_util::server::conn::auto;
    /// use hyper_util::service::TowerToHyperService;
    /// use tokio::net::TcpStream;
    /// use tower_quota::{ClientConnection, Gateway};
    ///
    /// async fn serve(stream: TcpStream, peer: SocketAddr, gateway: Gateway) {
    ///     let (stream, service) = ClientConnection::new(peer).guard(stream, gateway);
    ///     let http = auto::Builder::new(TokioExecutor::new());
    ///     let service = TowerToHyperService::new(service);
    ///     if let Err(error) = http.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
    ///         eprintln!("a connection has broken off: {error}");
    ///     }
    /// }
    /// ```
    pub fn guard<I, S>(self, stream: I, service: S) -> (GuardedStream<I>, GuardedService<S>) {
        let answers = Arc::default();
        let service = GuardedService { service, connection: self, answers: Arc::clone(&answers) };
        (GuardedStream { stream, framing: Framing::new(), answers, ahead: Vec::new(), end: None }, service)
    }
}

/// What is known of the answers on a connection.
#[derive(Debug, Default)]
struct Answers(Mutex<Answered>);

#[derive(Debug, Default)]
struct Answered {
    requests: u64,
    /// The last of them was that the protocol changes.
    switches: bool,
    /// Who waits for an answer.
    reader: Option<Waker>,
}

impl Answers {
    fn state(&self) -> MutexGuard<'_, Answered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, status: StatusCode) {
        let mut state = self.state();
        state.requests += 1;
        state.switches = status == StatusCode::SWITCHING_PROTOCOLS;
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
    }

    /// Whether the protocol changes with the answer to the last request, whose number it is.
    fn poll(&self, request: u64, context: &Context<'_>) -> Poll<bool> {
        let mut state = self.state();
        if state.requests < request {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(state.switches)
    }
}

/// A client's connection, as [`ClientConnection::guard`] has it.
#[derive(Debug)]
pub struct GuardedStream<I> {
    stream: I,
    framing: Framing,
    answers: Arc<Answers>,
    /// What was read, and may be another protocol's.
    ahead: Vec<u8>,
    /// What there is still to read, once it is not what the client sends.
    end: Option<&'static [u8]>,
}

impl<I: AsyncRead + Unpin> GuardedStream<I> {
    /// Reads on while nobody knows what it is that comes, if only to learn that the client has hung up; but once at most.
    fn read_ahead(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            self.ahead.extend_from_slice(&buffer.filled()[before..]);
            buffer.set_filled(before);
            if self.ahead.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for GuardedStream<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(end) = &mut this.end {
            give(end, buffer);
            return Poll::Ready(Ok(()));
        }
        if let Some(request) = this.framing.asked() {
            match this.answers.poll(request, context) {
                Poll::Ready(switches) => this.framing.answered(switches),
                Poll::Pending => return this.read_ahead(context, buffer),
            }
        }
        let before = buffer.filled().len();
        if this.ahead.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        } else {
            let rest = this.ahead.split_off(this.ahead.len().min(buffer.remaining()));
            buffer.put_slice(&mem::replace(&mut this.ahead, rest));
        }
        let come = &buffer.filled()[before..];
        match this.framing.follow(come) {
            Verdict::Passed => {}
            Verdict::Asks(end) => {
                this.ahead.splice(..0, come[end..].iter().copied());
                buffer.set_filled(before + end);
            }
            Verdict::Refused(at) => {
                buffer.set_filled(before + at);
                give(this.end.insert(REFUSED), buffer);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads as much as there is room for.
fn give(bytes: &mut &'static [u8], buffer: &mut ReadBuf<'_>) {
    let (now, later) = bytes.split_at(bytes.len().min(buffer.remaining()));
    buffer.put_slice(now);
    *bytes = later;
}

impl<I: AsyncWrite + Unpin> AsyncWrite for GuardedStream<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The service of a client's connection, as [`ClientConnection::guard`] has it.
#[derive(Debug, Clone)]
pub struct GuardedService<S> {
    service: S,
    connection: ClientConnection,
    answers: Arc<Answers>,
}

impl<S, B, R> Service<Request<B>> for GuardedService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = GuardedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.connection);
        GuardedFuture { answer: self.service.call(request), answers: Arc::clone(&self.answers) }
    }
}

/// The answer of a [`GuardedService`].
#[derive(Debug)]
#[pin_project]
pub struct GuardedFuture<F> {
    #[pin]
    answer: F,
    answers: Arc<Answers>,
}

impl<F, R, E> Future for GuardedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        // The client hears of it later than this.
        if let Ok(response) = &answer {
            this.answers.add(response.status());
        }
        Poll::Ready(answer)
    }
}
