//! Responses that a client doesn't take. Over HTTP/1.1 its connection stands still then, which the connection's own time-out sees;
//! over HTTP/2 it may leave single ones lying for ever, and with them what the upstream holds for them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, sleep_until};

/// The responses of a connection that have more for the client than it takes.
#[derive(Default)]
pub(super) struct Offers(Mutex<Offered>);

#[derive(Default)]
struct Offered {
    next: u64,
    /// By their numbers: since when.
    since: HashMap<u64, Instant>,
}

impl Offers {
    fn offered(&self) -> MutexGuard<'_, Offered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when one of them has been left lying for so long.
    pub(super) async fn left_for(&self, time: Duration) {
        loop {
            let oldest = self.offered().since.values().min().copied();
            let end = oldest.unwrap_or_else(Instant::now) + time;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// A response in its place among the others of its connection.
struct Offer {
    offers: Arc<Offers>,
    number: u64,
}

impl Offer {
    fn new(offers: Arc<Offers>) -> Self {
        let number = {
            let mut offered = offers.offered();
            offered.next += 1;
            offered.next
        };
        Self { offers, number }
    }

    /// There is more for the client, from now on.
    fn waits(&self) {
        self.offers.offered().since.insert(self.number, Instant::now());
    }

    /// The client is not what is waited for.
    fn is_taken(&self) {
        self.offers.offered().since.remove(&self.number);
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.is_taken();
    }
}

/// The body of a response. The server asks for its next piece once the client has taken what was before.
#[pin_project]
pub(super) struct Taken<B> {
    #[pin]
    body: B,
    offer: Option<Offer>,
}

impl<B> Taken<B> {
    /// With the other responses of its connection, where it has to be seen whether it is taken.
    pub(super) fn new(body: B, offers: Option<Arc<Offers>>) -> Self {
        let offer = offers.map(Offer::new);
        if let Some(offer) = &offer {
            offer.waits();
        }
        Self { body, offer }
    }
}

impl<B: Body> Body for Taken<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = this.body.poll_frame(context);
        if let Some(offer) = this.offer {
            match &frame {
                Poll::Ready(Some(Ok(_))) => offer.waits(),
                _ => offer.is_taken(),
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
