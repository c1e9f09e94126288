//! Sends a request to an endpoint, and retries it if that is allowed.

use std::{sync::Arc, time::Duration};

use headgate_model::edge::{Resend, Retry, RouteKind};
use http::{Method, Request, Response, StatusCode};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::{
    access_log::Delivery,
    answer,
    body::Body,
    call::Call,
    client::Client,
    direct::FirstTry,
    message::copy,
    upstream::{ErrorKind, NoEndpoint, Pick, PickInput, SendError, Upstream},
};

/// Why no endpoint answered.
pub(crate) enum Failure {
    NoEndpoint(NoEndpoint),
    /// The time for all tries is over.
    Late,
    /// The last error, and whether the route is of a Gateway.
    Send(SendError, bool),
}

impl Failure {
    pub(crate) fn response(&self) -> Response<Body> {
        match self {
            Self::NoEndpoint(why) => {
                answer::error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string())
            }
            Self::Late => late(),
            Self::Send(error, _) if error.kind == ErrorKind::Timeout => late(),
            Self::Send(error, _) if error.kind == ErrorKind::Body => {
                answer::error(StatusCode::BAD_REQUEST, "the request body ended early")
            }
            Self::Send(error, true) if error.kind == ErrorKind::Connect => {
                answer::error(StatusCode::SERVICE_UNAVAILABLE, "the endpoint failed")
            }
            Self::Send(..) => answer::error(StatusCode::BAD_GATEWAY, "the endpoint failed"),
        }
    }
}

fn late() -> Response<Body> {
    let why = "the endpoint did not respond in time";
    answer::error(StatusCode::GATEWAY_TIMEOUT, why)
}

/// Sends a request to an endpoint, and to others if the failure allows a retry. The endpoint depends on what
/// the client `asked`, as in nginx, and not on what the backend gets.
pub(crate) async fn send(
    upstream: &Arc<Upstream>,
    call: &Call,
    client: &Client,
    asked: &PickInput<'_>,
    mut request: Box<Request<Body>>,
    mut first: Option<Box<FirstTry>>,
) -> Result<(Response<Body>, Pick, Delivery), Failure> {
    let begin = first
        .as_ref()
        .map_or_else(Instant::now, |first| first.begin);
    let policy = call.route.policy();
    let retry = &policy.retry;
    let end = policy.timeouts.total.map(|total| call.begin + total);
    let is_of_gateway = (*call.route).as_ref().origin.kind != RouteKind::Ingress;
    let ends = Some((client.peer, client.local));
    let mut tried = Vec::new();
    let has_next = |tried: &[_]| retry.same_endpoint || upstream.has_other(tried);
    loop {
        let mut timeouts = policy.timeouts;
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Failure::Late);
        }
        timeouts.per_try = [timeouts.per_try, left].into_iter().flatten().min();
        let (pick, tried_already) = match first.take() {
            Some(first) => (first.pick, Some(first.result)),
            None => {
                let pick = upstream.pick(asked, &tried);
                (pick.map_err(Failure::NoEndpoint)?, None)
            }
        };
        tried.push(pick.address());
        if let Some(trace) = &call.trace {
            trace.begin_attempt(upstream, &pick, request.headers_mut());
        }
        let is_last = tried.len() >= retry.tries as usize;
        let may_repeat = !is_last && may_repeat(request.method(), retry);
        // An error gives back a request that is in memory; a response and the end of a try do not.
        let is_kept = retry.on_codes.is_empty() && timeouts.per_try.is_none();
        let needs_spare = may_repeat && !is_kept;
        let is_short = needs_spare && request.body().in_memory().is_some();
        let mut spare = is_short.then(|| copy(&request));
        let sent = match tried_already {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(SendError {
                request: Some(request),
                ..error
            }),
            None => upstream.send(&pick, request, &timeouts, ends).await,
        };
        if let Some(trace) = &call.trace {
            trace.record_result(&sent);
        }
        request = match sent {
            Ok(response) => {
                let is_bad = retry.on_codes.contains(&response.status().as_u16());
                match spare.filter(|_| is_bad && has_next(&tried)) {
                    Some(spare) => spare,
                    None => {
                        let sent = Delivery {
                            upstream: upstream.clone(),
                            endpoint: pick.address(),
                            tries: tried.len(),
                            took: begin.elapsed(),
                        };
                        return Ok((response, pick, sent));
                    }
                }
            }
            Err(mut error) => {
                debug!(upstream = %upstream.key(), endpoint = %pick.address(), %error, "request failed");
                let is_retried = match error.kind {
                    // An endpoint that is slow would only be slow again.
                    ErrorKind::Timeout => retry.on_timeout && has_next(&tried),
                    _ => retry.on_error,
                };
                let again = error.request.take().or_else(|| spare.take());
                let is_allowed = is_retried && !is_last && (may_repeat || !error.is_sent);
                match again.filter(|_| is_allowed) {
                    Some(again) => again,
                    None => return Err(Failure::Send(error, is_of_gateway)),
                }
            }
        };
        wait(retry.backoff, end).await;
    }
}

/// Waits before the next try, at most until `end`.
async fn wait(backoff: Duration, end: Option<Instant>) {
    if !backoff.is_zero() {
        let next = Instant::now() + backoff;
        sleep_until(end.map_or(next, |end| end.min(next))).await;
    }
}

/// Whether requests with a method may be sent again after an endpoint may have acted on them.
pub(crate) fn may_repeat(method: &Method, retry: &Retry) -> bool {
    match retry.resend {
        Resend::Never => false,
        Resend::Idempotent => method.is_safe() || matches!(*method, Method::PUT | Method::DELETE),
        Resend::Always => true,
    }
}
