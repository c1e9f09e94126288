//! The running controller.

use anyhow::Result;
use axum::{Router, http::StatusCode, routing::get};
use headgate_control::{
    ControllerOptions, ControllerStatus, kube as kube_source, lead, run_controller,
};
use headgate_model::{NamespacedName, gateway::GatewayOptions};
use headgate_proxy::{check_authorities, check_certificate};
use tokio::sync::{mpsc, oneshot, watch};

use super::{args::ControllerArgs, metrics};
use crate::{
    api_servers,
    http::{self, health},
    process,
};

/// Events of the source that wait for the loop.
const EVENTS: usize = 1024;

pub(crate) fn run(args: &ControllerArgs) -> Result<()> {
    process::start_log(args.log_format);
    // The Lease is renewed while statuses are compared.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(args))
}

async fn serve(args: &ControllerArgs) -> Result<()> {
    let signal = process::stop_signal()?;
    let client = api_servers::client(None).await?;
    let (sender, events) = mpsc::channel(EVENTS);
    let (status, statuses) = watch::channel(ControllerStatus::default());
    let (leads, leading) = watch::channel(false);
    let (version, versions) = watch::channel(None);
    let lease = NamespacedName::new(&args.namespace, &args.lease);
    let metrics = {
        let (statuses, leading) = (statuses.clone(), leading.clone());
        move || metrics::text(&statuses.borrow(), *leading.borrow())
    };
    let options = ControllerOptions {
        gateways: GatewayOptions {
            controller: args.gateway_controller.clone(),
            pools: args.pools.clone(),
            check_certificate,
            check_authorities,
            auth_local: args.auth_local_networks.clone(),
            ..GatewayOptions::default()
        },
        proxy_namespace: args.namespace.clone(),
        proxy_selector: args.proxy_selector.clone(),
        agent_selector: Some(args.agent_selector.clone()).filter(|selector| !selector.is_empty()),
    };
    println!("ready: {} waits for the Lease {lease}", args.identity);
    let (stop, stopped) = oneshot::channel::<()>();
    let election = tokio::spawn({
        let (client, identity) = (client.clone(), args.identity.clone());
        async move {
            // The sender is dropped when nothing is written any more.
            let stopped = async { drop(stopped.await) };
            lead(client, &lease, &identity, leads, stopped).await;
        }
    });
    let controller = run_controller(
        client.clone(),
        options,
        events,
        versions,
        leading,
        status,
        signal,
    );
    let result = tokio::select! {
        () = controller => Ok(()),
        () = kube_source::follow_verdicts(client.clone(), sender) => Err("the source ended"),
        () = kube_source::follow_bundle_version(client.clone(), version) => Err("the source ended"),
        () = http::serve(args.healthz_bind_address, probes(statuses.clone())) => Ok(()),
        () = http::serve(args.metrics_bind_address, health::metrics(metrics)) => Ok(()),
    };
    drop(stop);
    election.await?;
    result.map_err(anyhow::Error::msg)
}

/// `/livez`, and `/readyz`: whether all objects were listed. A replica that waits for the Lease is ready as well.
fn probes(statuses: watch::Receiver<ControllerStatus>) -> Router {
    let ready = move || async move {
        let status = statuses.borrow();
        match (&status.source.disconnected, status.is_synced) {
            (_, true) => (StatusCode::OK, "ready\n".to_owned()),
            (Some(error), false) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            (None, false) => {
                let reason = "the source is not completely listed yet\n";
                (StatusCode::SERVICE_UNAVAILABLE, reason.to_owned())
            }
        }
    };
    Router::new()
        .route("/livez", get("alive\n"))
        .route("/readyz", get(ready))
}
