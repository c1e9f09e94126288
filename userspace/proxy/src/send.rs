//! Sends a request to an endpoint, and retries it if that is allowed.

use std::{sync::Arc, time::Instant};

use headgate_model::ingress::Retry;
use http::{Method, Request, Response, StatusCode};
use tracing::debug;

use crate::{
    access_log::Delivery,
    answer,
    body::Body,
    call::Call,
    client::Client,
    message::copy,
    upstream::{ErrorKind, NoEndpoint, Pick, PickInput, SendError, Upstream},
};

/// Why no endpoint answered.
pub(crate) enum Failure {
    NoEndpoint(NoEndpoint),
    Send(SendError),
}

impl Failure {
    pub(crate) fn response(&self) -> Response<Body> {
        match self {
            Self::NoEndpoint(why) => {
                answer::error(StatusCode::SERVICE_UNAVAILABLE, &why.to_string())
            }
            Self::Send(error) if error.kind == ErrorKind::Timeout => answer::error(
                StatusCode::GATEWAY_TIMEOUT,
                "the endpoint did not respond in time",
            ),
            Self::Send(error) if error.kind == ErrorKind::Body => {
                answer::error(StatusCode::BAD_REQUEST, "the request body ended early")
            }
            Self::Send(_) => answer::error(StatusCode::BAD_GATEWAY, "the endpoint failed"),
        }
    }
}

/// Sends a request to an endpoint, and to others if the failure allows a retry. The endpoint depends on what
/// the client `asked`, as in nginx, and not on what the backend gets.
pub(crate) async fn send(
    upstream: &Arc<Upstream>,
    call: &Call,
    client: &Client,
    asked: &PickInput<'_>,
    mut request: Box<Request<Body>>,
) -> Result<(Response<Body>, Pick, Delivery), Failure> {
    let begin = Instant::now();
    let policy = call.route.policy();
    let ends = Some((client.peer, client.local));
    let mut tried = Vec::new();
    loop {
        let pick = upstream.pick(asked, &tried);
        let pick = pick.map_err(Failure::NoEndpoint)?;
        tried.push(pick.address());
        if let Some(trace) = &call.trace {
            trace.begin_attempt(upstream, &pick, request.headers_mut());
        }
        let is_last = tried.len() >= policy.retry.tries as usize;
        let may_repeat = !is_last && may_repeat(request.method(), &policy.retry);
        // An error gives back a request that is in memory; a response does not.
        let needs_spare = may_repeat && !policy.retry.on_codes.is_empty();
        let is_short = needs_spare && request.body().in_memory().is_some();
        let spare = is_short.then(|| copy(&request));
        let sent = upstream.send(&pick, request, &policy.timeouts, ends).await;
        if let Some(trace) = &call.trace {
            trace.record_result(&sent);
        }
        request = match sent {
            Ok(response) => {
                let is_bad = policy.retry.on_codes.contains(&response.status().as_u16());
                match spare.filter(|_| is_bad && upstream.has_other(&tried)) {
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
                    ErrorKind::Timeout => policy.retry.on_timeout && upstream.has_other(&tried),
                    _ => policy.retry.on_error,
                };
                let again = error.request.take();
                let is_allowed = is_retried && !is_last && (may_repeat || !error.is_sent);
                match again.filter(|_| is_allowed) {
                    Some(again) => again,
                    None => return Err(Failure::Send(error)),
                }
            }
        };
    }
}

/// Whether requests with a method may be sent again after an endpoint may have acted on them.
pub(crate) fn may_repeat(method: &Method, retry: &Retry) -> bool {
    let is_idempotent = method.is_safe() || matches!(*method, Method::PUT | Method::DELETE);
    is_idempotent || retry.non_idempotent
}
