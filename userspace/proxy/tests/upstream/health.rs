//! Active health checks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use headgate_model::edge::{Probe, UpstreamPolicy};
use headgate_proxy::{Body, EndpointHealth};
use http::Response;

use crate::{
    server::Server,
    setup::{Setup, until},
};

fn probing() -> UpstreamPolicy {
    UpstreamPolicy {
        probe: Some(Probe {
            path: "/healthz".into(),
            interval: Duration::from_millis(2),
            timeout: Duration::from_secs(10),
        }),
        ..UpstreamPolicy::default()
    }
}

/// Responds to health checks with the status in `status`, and counts them in `probes`.
async fn probed(status: &Arc<AtomicU16>, probes: &Arc<AtomicUsize>) -> Server {
    let (status, probes) = (status.clone(), probes.clone());
    Server::http(move |request| {
        let status = match request.uri().path() {
            "/healthz" => {
                probes.fetch_add(1, SeqCst);
                status.load(SeqCst)
            }
            _ => 200,
        };
        async move {
            let response = Response::builder().status(status);
            response.body(Body::from("probed".to_owned())).unwrap()
        }
    })
    .await
}

#[tokio::test]
async fn l38_health_checks_take_an_endpoint_out_and_bring_it_back() {
    let (status, probes) = (Arc::new(AtomicU16::new(200)), Arc::default());
    let server = probed(&status, &probes).await;
    let others = [Server::named("other").await, Server::named("other").await];
    let addresses = [server.address, others[0].address, others[1].address];
    let setup = Setup::new(probing(), &addresses);
    let health = || {
        let endpoints = setup.state().endpoints;
        let endpoint = endpoints
            .into_iter()
            .find(|one| one.address == server.address);
        endpoint.unwrap().health
    };
    until(|| probes.load(SeqCst) > 3).await;
    assert_eq!(health(), EndpointHealth::Healthy);

    status.store(404, SeqCst);
    until(|| health() != EndpointHealth::Healthy).await;
    let reason = "/healthz: status 404".to_owned();
    assert_eq!(health(), EndpointHealth::Unhealthy { reason });
    for _ in 0..10 {
        assert_eq!(setup.read("/").await.1, "other");
    }

    status.store(399, SeqCst);
    until(|| health() == EndpointHealth::Healthy).await;
    let mut texts = Vec::new();
    for _ in 0..3 {
        texts.push(setup.read("/").await.1);
    }
    assert!(texts.contains(&"probed".to_owned()), "{texts:?}");
    let state = setup.state();
    assert!(
        state.endpoints.iter().all(|one| one.in_flight == 0),
        "{state:?}"
    );
    assert_eq!(
        state.endpoints.iter().map(|one| one.requests).sum::<u64>(),
        13
    );
}

#[tokio::test]
async fn l38_health_checks_end_with_the_upstream() {
    let (status, probes) = (Arc::new(AtomicU16::new(200)), Arc::default());
    let server = probed(&status, &probes).await;
    let setup = Setup::new(probing(), &[server.address]);
    until(|| probes.load(SeqCst) > 0).await;
    let weak = Arc::downgrade(&setup.upstream);
    setup.upstreams.retain(|_| false);
    drop(setup);
    until(|| weak.strong_count() == 0).await;
}
