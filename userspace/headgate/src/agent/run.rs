//! The running agent: a source, the maps, and the loop between them.

use std::{cell::RefCell, future::pending, path::Path, rc::Rc, time::Duration};

use anyhow::{Result, bail};
use headgate_control::{
    Inputs, Interest, Outputs, Reconciler, Status, kube as kube_source, manifests, report,
    run as reconcile,
};
use headgate_dataplane::{Error, MapWriter, Maps, StateFile};
use headgate_model::Node;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    time::sleep,
};
use tracing::{error, info, warn};

use super::{
    args::AgentArgs,
    config::{AgentConfig, NodeConfig},
    hooks::Hooks,
    memory,
    node::{self, Facts},
    opted_out, ranges,
    takeover::{self, TakingOver},
};
#[cfg(feature = "page")]
use crate::http::page;
use crate::{
    api_servers,
    http::{self, health, metrics::Metrics},
    kube_proxy, process,
    view::{AgentState, STATE_INTERVAL},
};

/// How often the agent checks that its programs are attached.
const REVIEW_INTERVAL: Duration = Duration::from_secs(60);
/// Delay before devices are read, or programs attached, again after an error.
const RETRY: Duration = Duration::from_secs(5);
/// Events of the source that wait for the loop.
const EVENTS: usize = 1024;

type Statuses = watch::Receiver<Status>;

pub(crate) fn run(pins: &Path, args: AgentArgs) -> Result<()> {
    process::start_log(args.common.log_format);
    process::raise_descriptor_limit();
    memory::return_at_once();
    // One thread is enough, and network namespaces are a property of threads.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(AgentConfig::new(pins, args)?))
}

async fn serve(config: AgentConfig) -> Result<()> {
    let AgentConfig {
        node: node_config,
        datapath,
        hooks,
        api,
    } = config;
    let (pins, cgroup) = (hooks.pins.clone(), hooks.cgroup.clone());
    let first = node::read(&node_config.selection)?;
    // Beside kube-proxy, its rules are no leftovers.
    if !node_config.served.is_part() {
        for leftover in kube_proxy::find().leftovers {
            warn!(%leftover, "kube-proxy left rules: `headgate replace-kube-proxy` removes them");
        }
    }
    let (seed, maglev_size) = (datapath.seed, datapath.maglev_size);
    let most_map_bytes = datapath.most_map_bytes;
    // The loop that writes the maps and the one that attaches programs share the thread, and never hold it over a wait.
    let hooks = Rc::new(RefCell::new(Hooks::load(hooks, datapath, &first)?));
    let takeover = TakingOver::begin(&pins)?;
    let writer = MapWriter::new(Maps::open_writable(&pins)?, seed, maglev_size);
    let growing = hooks.clone();
    let writer = writer.growing(move |sizes| {
        let grown = growing.borrow_mut().grow(sizes);
        grown.map_err(|error| Error::Grow(error.into()))
    });

    let (nodes, node) = watch::channel(node_config.node(&first));
    let (publish, facts) = watch::channel(first);
    let (status, statuses) = watch::channel(Status::default());
    let (sender, events) = mpsc::channel(EVENTS);
    let (audit, audits) = mpsc::channel(1);
    let (passes, passed) = mpsc::unbounded_channel();
    let hangups = Notify::new();
    let mut reconciler = Reconciler::new(writer, node.borrow().clone())?;
    if let Some(options) = &node_config.gateways {
        reconciler = reconciler.with_gateways(options.clone());
    }
    let inputs = Inputs {
        events,
        nodes: node.clone(),
        audits,
    };
    let outputs = Outputs { status, passes };
    let state = StateFile::open(&pins)?;
    let metrics = Metrics::new(&pins, api.max_series, most_map_bytes, statuses.clone());
    #[cfg(feature = "page")]
    let page = page::serve_if(api.page, &pins, &node_config.name);
    #[cfg(not(feature = "page"))]
    let page = pending::<()>();

    tokio::select! {
        () = reconcile(reconciler, inputs, outputs, process::stop_signal()?) => {
            info!("stopped; the kernel keeps balancing with the last state");
            Ok(())
        }
        () = node::follow(&node_config.selection, publish) => Ok(()),
        () = follow_devices(&hooks, &node_config, facts, &nodes, &hangups) => Ok(()),
        result = follow_source(&node_config, sender, statuses.clone()) => {
            result.and_then(|()| bail!("the source ended"))
        }
        result = ranges::follow(&node_config, &pins, statuses.clone()) => result,
        result = opted_out::follow(&node_config, &cgroup, &pins) => result,
        result = takeover::follow(takeover, statuses.clone()) => result,
        result = forward_hangups(audit, &hangups) => result,
        () = announce(statuses.clone()) => Ok(()),
        () = metrics.clone().follow(passed) => Ok(()),
        result = write_state(state, &node_config.name, most_map_bytes, statuses.clone()) => result,
        () = health::probes(api.healthz, statuses.clone(), metrics.clone()) => Ok(()),
        () = http::serve(api.metrics, health::metrics(move || metrics.text()).merge(health::proxy_mode())) => Ok(()),
        () = health::node_ports(statuses, node) => Ok(()),
        () = page => Ok(()),
    }
}

/// Sends the loop what the Kubernetes API or the folder of manifests holds.
async fn follow_source(
    config: &NodeConfig,
    sender: mpsc::Sender<headgate_control::Event>,
    statuses: Statuses,
) -> Result<()> {
    let interest = match config.gateways {
        Some(_) => Interest::Listeners,
        None => Interest::Services,
    };
    match &config.source {
        Some(folder) => {
            let served = config.served.clone();
            manifests::follow(folder.clone(), &config.name, served, interest, sender).await
        }
        None => {
            let file = config.api_servers_file.as_deref();
            let client = api_servers::client(file).await?;
            let remember = async {
                if let Some(file) = file {
                    api_servers::remember(client.clone(), file).await;
                }
            };
            tokio::join!(
                kube_source::follow(
                    client.clone(),
                    &config.name,
                    &config.served,
                    interest,
                    sender
                ),
                report(client.clone(), &config.name, statuses),
                remember,
            );
            Ok(())
        }
    }
}

/// Keeps the programs attached as devices and addresses change, after SIGHUP, and once a minute. An
/// error is logged, and the work repeated: attached programs continue.
async fn follow_devices(
    hooks: &RefCell<Hooks>,
    config: &NodeConfig,
    mut facts: watch::Receiver<Facts>,
    nodes: &watch::Sender<Node>,
    hangups: &Notify,
) {
    let mut is_failing = false;
    loop {
        let pause = match is_failing {
            true => RETRY,
            false => REVIEW_INTERVAL,
        };
        let changed = tokio::select! {
            changed = facts.changed() => changed.map(|()| true),
            () = hangups.notified() => Ok(false),
            () = sleep(pause) => Ok(false),
        };
        let Ok(is_changed) = changed else {
            return;
        };
        let now = facts.borrow_and_update().clone();
        if is_changed {
            nodes.send_replace(config.node(&now));
        }
        let result = match is_changed || is_failing {
            true => hooks.borrow_mut().follow(&now),
            false => hooks.borrow_mut().review(&now),
        };
        if let Err(error) = &result
            && !is_failing
        {
            let error = format!("{error:#}");
            error!(error, "cannot attach programs; trying again");
        }
        is_failing = result.is_err();
    }
}

/// Prints a line once the maps are in sync.
async fn announce(mut statuses: Statuses) {
    if let Ok(status) = statuses.wait_for(|status| status.is_synced).await {
        println!(
            "ready: {} services, {} frontends",
            status.services, status.frontends
        );
    }
    pending().await
}

/// Writes the state of the agent to its map, for commands that run when the agent may be gone.
async fn write_state(
    mut file: StateFile,
    node: &str,
    most_map_bytes: u64,
    mut statuses: Statuses,
) -> Result<()> {
    loop {
        let state = AgentState::new(&statuses.borrow_and_update(), node, most_map_bytes);
        file.write(&state.text()?)?;
        tokio::select! {
            changed = statuses.changed() => changed?,
            () = sleep(STATE_INTERVAL) => {}
        }
    }
}

/// SIGHUP starts an audit of the maps, and a check of what is attached.
async fn forward_hangups(audit: mpsc::Sender<()>, hooks: &Notify) -> Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    while hangups.recv().await.is_some() && audit.send(()).await.is_ok() {
        hooks.notify_one();
    }
    Ok(())
}
