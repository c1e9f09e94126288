//! Active health checks.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::join_all;
use headgate_model::edge::{Probe, Timeouts};
use http::{HeaderValue, Request, header::USER_AGENT};
use http_body_util::{BodyExt, Limited};
use tokio::time::{sleep, timeout};

use super::{Upstream, endpoint::Endpoint, error::TimedOut, exchange::exchange};
use crate::body::{Body, BodyError};

/// The longest response body that is read, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Spawns the task that checks the endpoints of an upstream, if its policy has health checks. The task
/// ends with the upstream.
pub(super) fn start(upstream: &Arc<Upstream>) {
    if let Some(probe) = upstream.key.policy.probe.clone() {
        tokio::spawn(run(Arc::downgrade(upstream), probe));
    }
}

async fn run(upstream: Weak<Upstream>, probe: Probe) {
    loop {
        sleep(jittered(probe.interval)).await;
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let endpoints = upstream.endpoints();
        let checks = endpoints.iter().map(|endpoint| async {
            let checked = timeout(probe.timeout, check(&upstream, endpoint, &probe)).await;
            let result = checked.unwrap_or_else(|_| Err(TimedOut("response").into()));
            endpoint.record_probe(result.map_err(|error| format!("{}: {error}", probe.path)));
        });
        join_all(checks).await;
    }
}

/// The interval, randomly up to 10 % shorter or longer, so that nodes do not all check at once.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

async fn check(upstream: &Upstream, endpoint: &Endpoint, probe: &Probe) -> Result<(), BodyError> {
    let mut request = Request::get(&probe.path).body(Body::empty())?;
    let name = HeaderValue::from_static("headgate-probe");
    request.headers_mut().insert(USER_AGENT, name);
    let timeouts = Timeouts {
        connect: probe.timeout,
        read: probe.timeout,
        send: probe.timeout,
        ..Timeouts::default()
    };
    let sent = exchange(
        &upstream.dialer,
        endpoint,
        request.into(),
        (&timeouts, None),
        None,
    )
    .await;
    let response = sent.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    if status >= 400 {
        return Err(format!("status {status}").into());
    }
    // The connection can be pooled only once the whole body is read.
    let mut body = response.into_body();
    Limited::new(&mut body, MAX_BODY).collect().await?;
    body.end(endpoint);
    Ok(())
}
