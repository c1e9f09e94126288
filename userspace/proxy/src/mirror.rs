//! Copies of requests for a mirror. They delay nothing: a copy that is too slow is aborted.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::channel::{Channel, Sender};
use hyper::body::{Body as _, Frame};
use tokio::{sync::Semaphore, time::timeout};
use tracing::debug;

use crate::{
    body::{Body, BodyError},
    call::Call,
    client::Client,
    message::copy,
    observed::{FrameObserver, Observed, PolledFrame},
    upstream::{PickInput, Upstream},
};

/// Capacity of the queue for the mirror, in frames of at most 32 KiB.
const MAX_WAITING: usize = 64;

/// The longest time for a copy and the head of its response, whatever the timeouts of the route are.
const LONGEST: Duration = Duration::from_secs(60);

/// Copies that may be on their way at once, of all routes. Further ones are left out.
static COPIES: Semaphore = Semaphore::const_new(1024);

/// Sends copies of a request to the mirrors of its route, to each for its share of the requests.
pub(crate) fn mirror(call: &Call, client: &Client, request: &mut Request<Body>) {
    for (upstream, share) in &call.route.mirrors {
        if fastrand::u32(..share.whole.max(1)) < share.part {
            send_copy(upstream, call, client, request);
        }
    }
}

fn send_copy(upstream: &Arc<Upstream>, call: &Call, client: &Client, request: &mut Request<Body>) {
    let Ok(permit) = COPIES.try_acquire() else {
        debug!(upstream = %upstream.key(), "request not mirrored: too many copies");
        return;
    };
    let mut copy = copy(request);
    if request.body().in_memory().is_none() {
        let (sender, receiver) = Channel::new(MAX_WAITING);
        let body = mem::replace(request.body_mut(), Body::empty());
        *request.body_mut() = Body::boxed(copied(body, sender));
        *copy.body_mut() = Body::boxed(receiver);
    }
    let (upstream, ends) = (upstream.clone(), (client.peer, client.local));
    let (client, timeouts) = (call.origin.client, call.route.policy().timeouts);
    tokio::spawn(async move {
        let _permit = permit;
        let picked = upstream.pick(&PickInput::new(client, &copy), &[]);
        if let Ok(pick) = picked {
            let sent = upstream.send(&pick, copy, &timeouts, Some(ends));
            match timeout(LONGEST, sent).await {
                Ok(Ok(_discarded)) => {}
                Ok(Err(error)) => {
                    debug!(upstream = %upstream.key(), %error, "mirrored request failed");
                }
                Err(_elapsed) => debug!(upstream = %upstream.key(), "the mirror does not answer"),
            }
        }
    });
}

fn copied(body: Body, copy: Sender<Bytes, BodyError>) -> Observed<Body, Copier> {
    Observed::new(body, Copier(Some(copy)))
}

/// Copies the frames of a body as they pass. If the body fails, the copy fails.
#[derive(Debug)]
struct Copier(Option<Sender<Bytes, BodyError>>);

impl Copier {
    fn copy(&mut self, frame: &Frame<Bytes>) {
        let data = frame.data_ref().cloned().map(Frame::data);
        let copied = data.or_else(|| frame.trailers_ref().cloned().map(Frame::trailers));
        if let (Some(copy), Some(frame)) = (&mut self.0, copied)
            && copy.try_send(frame).is_err()
        {
            self.abort("the mirror is too slow");
        }
    }

    fn abort(&mut self, why: &str) {
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
            Poll::Ready(Some(Ok(frame))) => self.copy(frame),
            Poll::Ready(Some(Err(_))) => self.abort("the body failed"),
            Poll::Ready(None) => self.0 = None,
        }
        polled
    }

    fn end(&mut self, body: &Body) {
        if !body.is_end_stream() {
            self.abort("the body was not read to its end");
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
    async fn l74_a_slow_copy_delays_nothing() {
        for (count, is_whole) in [(MAX_WAITING, true), (MAX_WAITING + 1, false)] {
            let (sender, receiver) = Channel::new(MAX_WAITING);
            let sent = copied(frames(count), sender).collect().await.unwrap();
            assert_eq!(sent.to_bytes().len(), count);
            assert_eq!(receiver.collect().await.is_ok(), is_whole);
        }
    }

    #[tokio::test]
    async fn l74_copy_of_a_partly_read_body_fails() {
        let (sender, receiver) = Channel::new(MAX_WAITING);
        let mut body = copied(frames(2), sender);
        body.frame().await.unwrap().unwrap();
        drop(body);
        assert!(receiver.collect().await.is_err());
    }
}
