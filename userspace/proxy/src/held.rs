//! What a request holds until its response is sent.

use std::task::{Context, Poll};

use crate::{
    access_log::Entry,
    body::{Body, BodyError},
    observed::{FrameObserver, PolledFrame},
};

/// Keeps `G` while the body of a response is sent, then writes the request to the access log.
#[derive(Debug)]
pub(crate) struct Held<G> {
    bytes: u64,
    entry: Option<Box<Entry>>,
    _held: G,
}

impl<G> Held<G> {
    pub(crate) fn new(held: G, entry: Option<Box<Entry>>) -> Self {
        Self {
            bytes: 0,
            entry,
            _held: held,
        }
    }
}

impl<G> FrameObserver<Body> for Held<G> {
    fn observe(
        &mut self,
        _body: &Body,
        polled: PolledFrame<BodyError>,
        _context: &mut Context<'_>,
    ) -> PolledFrame<BodyError> {
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn end(&mut self, _body: &Body) {
        if let Some(entry) = &self.entry {
            entry.write(self.bytes);
        }
    }
}
