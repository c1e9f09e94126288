//! Copies of requests for a mirror. They delay nothing: a copy that does not keep up is given up.

use std::{
    mem,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body_util::channel::{Channel, Sender};
use hyper::body::{Body as _, Frame};
use tracing::debug;

use crate::{
    body::{Body, BodyError},
    call::{Call, Client},
    message::without_body,
    observed::{FrameObserver, Observed, PolledFrame},
    upstream::PickInput,
};

/// Frames of a body that wait for the mirror, of 32 KiB at most.
const MAX_WAITING: usize = 64;

/// Sends a copy of some requests.
pub(crate) fn mirror(call: &Call, client: &Client, request: &mut Request<Body>) {
    let Some((upstream, percent)) = &call.route.mirror else {
        return;
    };
    if fastrand::u8(..100) >= *percent {
        return;
    }
    let mut copy = without_body(request);
    if !request.body().is_end_stream() {
        let (sender, receiver) = Channel::new(MAX_WAITING);
        let body = mem::replace(request.body_mut(), Body::empty());
        *request.body_mut() = Body::boxed(copied(body, sender));
        *copy.body_mut() = Body::boxed(receiver);
    }
    let (upstream, ends) = (upstream.clone(), (client.peer, client.local));
    let (client, timeouts) = (call.client, call.route.policy().timeouts);
    tokio::spawn(async move {
        let picked = upstream.pick(&PickInput::new(client, &copy), &[]);
        if let Ok(pick) = picked {
            let sent = upstream.send(&pick, copy, &timeouts, Some(ends)).await;
            if let Err(error) = sent {
                debug!("a copy was not sent: {error}");
            }
        }
    });
}

fn copied(body: Body, copy: Sender<Bytes, BodyError>) -> Observed<Body, Copier> {
    Observed::new(body, Copier(Some(copy)))
}

/// Copies the frames of a body as they pass. Where the body breaks off, the copy does.
#[derive(Debug)]
struct Copier(Option<Sender<Bytes, BodyError>>);

impl Copier {
    fn pass_on(&mut self, frame: &Frame<Bytes>) {
        let data = frame.data_ref().cloned().map(Frame::data);
        let copied = data.or_else(|| frame.trailers_ref().cloned().map(Frame::trailers));
        if let (Some(copy), Some(frame)) = (&mut self.0, copied)
            && copy.try_send(frame).is_err()
        {
            self.give_up("the mirror does not keep up");
        }
    }

    fn give_up(&mut self, why: &str) {
        if let Some(copy) = self.0.take() {
            copy.abort(why.into());
        }
    }
}

impl FrameObserver<Body> for Copier {
    fn observe(
        &mut self,
        _body: &Body,
        polled: PolledFrame<BodyError>,
        _context: &mut Context<'_>,
    ) -> PolledFrame<BodyError> {
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => self.pass_on(frame),
            Poll::Ready(Some(Err(_))) => self.give_up("the body broke off"),
            Poll::Ready(None) => self.0 = None,
        }
        polled
    }

    fn end(&mut self, body: &Body) {
        if !body.is_end_stream() {
            self.give_up("the body was not read to its end");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn frames(count: usize) -> Body {
        let frame = || Ok(Frame::data(Bytes::from_static(b"x")));
        Body::boxed(StreamBody::new(futures::stream::iter(
            std::iter::repeat_with(frame).take(count),
        )))
    }

    #[tokio::test]
    async fn l74_a_copy_that_does_not_keep_up_delays_nothing() {
        for (count, is_whole) in [(MAX_WAITING, true), (MAX_WAITING + 1, false)] {
            let (sender, receiver) = Channel::new(MAX_WAITING);
            let sent = copied(frames(count), sender).collect().await.unwrap();
            assert_eq!(sent.to_bytes().len(), count);
            assert_eq!(receiver.collect().await.is_ok(), is_whole);
        }
    }

    #[tokio::test]
    async fn l74_a_body_that_is_not_read_to_its_end_has_no_whole_copy() {
        let (sender, receiver) = Channel::new(MAX_WAITING);
        let mut body = copied(frames(2), sender);
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert!(receiver.collect().await.is_err());
    }
}
