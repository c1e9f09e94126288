//! Asks endpoints whether they are well.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::future::join_all;
use headgate_model::ingress::{Probe, Timeouts};
use http::{HeaderValue, Request, header::USER_AGENT};
use http_body_util::{BodyExt, Limited};
use tokio::time::{sleep, timeout};

use super::{Upstream, endpoint::Endpoint, error::Late, exchange::exchange};
use crate::{Body, body::BodyError};

/// Bytes of an answer that are read.
const LONGEST_BODY: usize = 1 << 20;

/// Asks the endpoints of an upstream, if its policy says so and as long as it is there.
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
        let asked = endpoints.iter().map(|endpoint| async {
            let asked = timeout(probe.timeout, ask(&upstream, endpoint, &probe)).await;
            let result = asked.unwrap_or_else(|_| Err(Late("answer").into()));
            endpoint.probed(result.map_err(|error| format!("{}: {error}", probe.path)));
        });
        join_all(asked).await;
    }
}

/// So that nodes do not ask an endpoint all at once.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

async fn ask(upstream: &Upstream, endpoint: &Endpoint, probe: &Probe) -> Result<(), BodyError> {
    let mut request = Request::get(&probe.path).body(Body::empty())?;
    let name = HeaderValue::from_static("headgate-probe");
    request.headers_mut().insert(USER_AGENT, name);
    let timeouts = Timeouts {
        connect: probe.timeout,
        read: probe.timeout,
        send: probe.timeout,
    };
    let answer = exchange(&upstream.dialer, endpoint, request.into(), &timeouts, None).await;
    let response = answer.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    if status >= 400 {
        return Err(format!("status {status}").into());
    }
    // A connection whose answer was read can be kept.
    let mut body = response.into_body();
    Limited::new(&mut body, LONGEST_BODY).collect().await?;
    body.end(endpoint);
    Ok(())
}
