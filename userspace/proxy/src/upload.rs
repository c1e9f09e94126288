//! Bodies of requests, with their limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use headgate_model::edge::RouteKind;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame};

use crate::{
    answer,
    body::{Body, BodyError},
    call::{Call, TOO_LARGE},
    client::Client,
    headers,
    observed::{FrameObserver, Observed, PolledFrame},
    received::Received,
    send::may_repeat,
    serving::ServedRoute,
    upstream::IdleTimeout,
};

/// A body of a request. It fails once it is too large, or once the client is silent for too long
/// before there is a response. After the head of the response the client may be silent, as in gRPC.
pub(crate) type Upload = Observed<Received, UploadLimits>;

/// The limits of a body.
#[derive(Debug)]
pub(crate) struct UploadLimits {
    /// In bytes; `None` if the size is not limited.
    remaining: Option<u64>,
    /// Whose reserved headers trailers must not have.
    route: Arc<ServedRoute>,
    /// `None` if the client may be silent.
    silence: Option<IdleTimeout>,
    end: Arc<UploadEnd>,
    /// Cleared once the whole body was read.
    is_unread: Arc<AtomicBool>,
}

/// How a body ended.
#[derive(Debug, Default)]
pub(crate) struct UploadEnd {
    is_exceeded: AtomicBool,
    is_late: AtomicBool,
    is_answered: AtomicBool,
}

impl UploadEnd {
    /// Whether it was too large.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.is_exceeded.load(Ordering::Relaxed)
    }

    /// Whether the client was silent for too long.
    pub(crate) fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// The response to a request whose body did not arrive.
    pub(crate) fn response(&self) -> Response<Body> {
        let (status, why) = match (self.is_exceeded(), self.is_late()) {
            (true, _) => (StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE),
            (false, true) => (
                StatusCode::REQUEST_TIMEOUT,
                "the request body did not arrive in time",
            ),
            (false, false) => (StatusCode::BAD_REQUEST, "the request body ended early"),
        };
        answer::error(status, why)
    }

    /// The head of the response is here: the client may be silent from now on.
    pub(crate) fn answer(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }
}

/// Longest body that is kept for another try, in bytes.
const MAX_KEPT: u64 = 64 << 10;

/// Returns the body of a request with the limits of its route.
pub(crate) fn upload(
    body: Received,
    call: &Call,
    longest: Duration,
    end: &Arc<UploadEnd>,
    client: &Client,
) -> Body {
    match body.is_end_stream() {
        true => Body::empty(),
        false => {
            let (route, is_unread) = (call.route.clone(), client.is_unread.clone());
            // A call may be silent on both sides.
            let is_call = route.model().origin.kind == RouteKind::GrpcRoute;
            let longest = (!is_call).then_some(longest);
            let upload = Upload::limited(body, route, longest, end.clone(), is_unread);
            Body::boxed(upload)
        }
    }
}

/// Reads a short body of a request that may be repeated (RFC 9110, 9.2.2), so that it can be sent again.
///
/// # Errors
///
/// Fails if the body does not arrive.
pub(crate) async fn keep_if_short(
    body: Body,
    call: &Call,
    method: &Method,
) -> Result<Body, BodyError> {
    let retry = &call.route.policy().retry;
    let size = body.size_hint().exact();
    let is_short = !body.is_end_stream() && size.is_some_and(|size| size <= MAX_KEPT);
    match is_short && retry.tries > 1 && may_repeat(method, retry) {
        true => Ok(body.collect().await?.to_bytes().into()),
        false => Ok(body),
    }
}

impl Upload {
    /// Limits a body to the size that its route allows, and to silences of `longest`, if it is given.
    fn limited(
        body: Received,
        route: Arc<ServedRoute>,
        longest: Option<Duration>,
        end: Arc<UploadEnd>,
        is_unread: Arc<AtomicBool>,
    ) -> Self {
        let limits = UploadLimits {
            remaining: route.policy().limits.body_bytes,
            route,
            silence: longest.map(IdleTimeout::new),
            end,
            is_unread,
        };
        Self::new(body, limits)
    }
}

impl UploadLimits {
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if self.end.is_answered.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let Some(silence) = &mut self.silence else {
            return Poll::Pending;
        };
        ready!(silence.poll_elapsed(context));
        self.end.is_late.store(true, Ordering::Relaxed);
        Poll::Ready("the client is silent".into())
    }

    /// Removes what trailers must not have.
    fn clean(&self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        if let Some(trailers) = frame.trailers_mut() {
            headers::clean_trailers(trailers, |name| self.route.reserves(name));
        }
        frame
    }

    /// Counts the bytes of a frame. Returns `None` if they exceed the limit.
    fn count(&mut self, frame: &Frame<Bytes>) -> Option<()> {
        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.checked_sub(len)?;
        }
        Some(())
    }
}

impl FrameObserver<Received> for UploadLimits {
    fn observe(
        &mut self,
        body: &Received,
        polled: PolledFrame<BodyError>,
        context: &mut Context<'_>,
    ) -> PolledFrame<BodyError> {
        let Poll::Ready(frame) = polled else {
            return self.poll_silence(context).map(|error| Some(Err(error)));
        };
        if let Some(silence) = &mut self.silence {
            silence.reset();
        }
        if frame.is_none() || body.is_end_stream() {
            self.is_unread.store(false, Ordering::Relaxed);
        }
        if let Some(Ok(frame)) = &frame
            && self.count(frame).is_none()
        {
            self.end.is_exceeded.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err("the request body is too large".into())));
        }
        let cleaned = |frame| self.clean(frame);
        Poll::Ready(frame.map(|frame| frame.map(cleaned)))
    }
}
