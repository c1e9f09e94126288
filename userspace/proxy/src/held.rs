//! What a request holds until its response is sent.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::task::yield_now;

use crate::{
    access_log::Entry,
    body::{Body, BodyError},
    budget::{Budget, Turn},
    headers,
    observed::{FrameObserver, PolledFrame},
    serving::ServedRoute,
};

/// Keeps `G` while the body of a response is sent, then writes the request to the access log.
#[derive(Debug)]
pub(crate) struct Held<G> {
    bytes: u64,
    entry: Option<Box<Entry>>,
    /// Of an HTTP/2 connection.
    budget: Option<(Arc<Budget>, Turn)>,
    route: Option<Arc<ServedRoute>>,
    failure: Option<Failure>,
    _held: G,
}

/// Why a body ended early, and when its reader learns it: the HTTP library drops the head of a response, and
/// what it has read of the body, if the body fails before they are sent.
struct Failure {
    error: BodyError,
    sending: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Failure({})", self.error)
    }
}

impl<G> Held<G> {
    pub(crate) fn new(
        held: G,
        entry: Option<Box<Entry>>,
        budget: Option<Arc<Budget>>,
        route: Option<Arc<ServedRoute>>,
    ) -> Self {
        Self {
            bytes: 0,
            entry,
            budget: budget.map(|budget| (budget.clone(), budget.offer())),
            route,
            failure: None,
            _held: held,
        }
    }

    /// Counts bytes of the body that are sent already.
    pub(crate) fn after(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    fn pass(&mut self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        if let (Some(trailers), Some(route)) = (frame.trailers_mut(), &self.route) {
            let edits = &route.policy().response_headers;
            headers::clean_trailers(trailers, |name| headers::edits(edits, name));
        }
        let Some((budget, _)) = &self.budget else {
            return frame;
        };
        frame.map_data(|data| budget.count(data))
    }
}

impl<G> FrameObserver<Body> for Held<G> {
    fn observe(
        &mut self,
        _body: &Body,
        polled: PolledFrame<BodyError>,
        context: &mut Context<'_>,
    ) -> PolledFrame<BodyError> {
        let polled = match polled {
            Poll::Ready(Some(Err(error))) if self.failure.is_none() => {
                self.failure = Some(Failure {
                    error,
                    sending: Box::pin(yield_now()),
                });
                Poll::Pending
            }
            polled => polled,
        };
        if let Some((_, turn)) = &self.budget {
            turn.pass_to(polled.is_ready());
        }
        if let Some(failure) = &mut self.failure {
            ready!(failure.sending.as_mut().poll(context));
            let error = std::mem::replace(&mut failure.error, "the response has ended".into());
            return Poll::Ready(Some(Err(error)));
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled.map(|frame| frame.map(|frame| frame.map(|frame| self.pass(frame))))
    }

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some((budget, turn)) = &self.budget else {
            return Poll::Ready(());
        };
        let polled = budget.poll(context);
        if polled.is_pending() {
            // For the other responses.
            turn.pass_to(false);
        }
        polled
    }

    fn end(&mut self, _body: &Body) {
        if let Some(entry) = &self.entry {
            entry.write(self.bytes);
        }
    }
}
