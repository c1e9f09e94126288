//! An agent on either source: a folder of manifests, or an API server with faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use headgate_apiserver::{ApiServer, Options};
use headgate_control::{
    Inputs, Interest, Outputs, Reconciler, Served, Status, kube as api, manifests, report, run,
};
use headgate_model::{Actual, Node, gateway::GatewayOptions};
use k8s_openapi::api::{
    core::v1::{Node as ApiNode, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, Config};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::memory::{PATIENCE, PublishedMaps, dump, node};

/// The source of the agent.
pub(crate) enum Source {
    Manifests(tempfile::TempDir),
    Api(ApiServer),
}

/// A running loop over a source.
pub(crate) struct Agent {
    pub(crate) source: Source,
    pub(crate) maps: watch::Receiver<Actual>,
    pub(crate) status: watch::Receiver<Status>,
    nodes: watch::Sender<Node>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    /// Objects by file.
    files: BTreeMap<String, BTreeSet<(String, String)>>,
    writes: usize,
}

impl Source {
    pub(crate) fn manifests() -> Self {
        Self::Manifests(tempfile::tempdir().unwrap())
    }

    pub(crate) async fn api() -> Self {
        let options = Options {
            tls: false,
            kubernetes_service: false,
            bookmark_interval: Duration::from_millis(500),
            service_cidrs: vec![
                "10.96.0.0/16".parse().unwrap(),
                "fd96::/112".parse().unwrap(),
            ],
            ..Options::default()
        };
        let server = ApiServer::start(options).await.unwrap();
        Self::Api(server)
    }
}

impl Agent {
    pub(crate) async fn on_manifests() -> Self {
        Self::over(Source::manifests(), Actual::default()).await
    }

    pub(crate) async fn on_api() -> Self {
        Self::over(Source::api().await, Actual::default()).await
    }

    pub(crate) async fn over(source: Source, actual: Actual) -> Self {
        Self::serving(source, actual, Served::default()).await
    }

    pub(crate) async fn serving(source: Source, actual: Actual, served: Served) -> Self {
        Self::interested(source, actual, served, Interest::Services).await
    }

    /// On this source, with TCP and UDP listeners of Gateways.
    pub(crate) async fn with_gateways(source: Source) -> Self {
        Self::interested(
            source,
            Actual::default(),
            Served::default(),
            Interest::Listeners,
        )
        .await
    }

    async fn interested(
        source: Source,
        actual: Actual,
        served: Served,
        interest: Interest,
    ) -> Self {
        let (published, maps) = watch::channel(actual.clone());
        let node = node();
        let (nodes, node_changes) = watch::channel(node.clone());
        let mut reconciler = Reconciler::new(PublishedMaps { actual, published }, node).unwrap();
        if interest == Interest::Listeners {
            reconciler = reconciler.with_gateways(GatewayOptions::default());
        }
        let (sender, events) = mpsc::channel(64);
        let (status_sender, mut status) = watch::channel(Status::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let follow: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = match &source {
            Source::Manifests(folder) => {
                let path = folder.path().to_owned();
                Box::pin(async move {
                    manifests::follow(path, "n1", served, interest, sender)
                        .await
                        .unwrap()
                })
            }
            Source::Api(server) => {
                let mut config = Config::new(server.url().parse().unwrap());
                // Longer than the interval of bookmarks, short enough to notice a stalled watch.
                config.read_timeout = Some(Duration::from_secs(2));
                let client = Client::try_from(config).unwrap();
                let statuses = status.clone();
                Box::pin(async move {
                    tokio::join!(
                        api::follow(client.clone(), "n1", &served, interest, sender),
                        report(client, "n1", statuses)
                    );
                })
            }
        };
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            let (_audits, audits) = mpsc::channel(1);
            let inputs = Inputs {
                events,
                nodes: node_changes,
                audits,
            };
            let outputs = Outputs {
                status: status_sender,
                passes: mpsc::unbounded_channel().0,
            };
            tokio::select! {
                () = run(reconciler, inputs, outputs, stopped) => {}
                () = follow => {}
            }
        });
        let is_synced = status.wait_for(|status| status.is_synced);
        timeout(PATIENCE, is_synced).await.unwrap().unwrap();
        Self {
            source,
            maps,
            status,
            nodes,
            stop: Some(stop),
            task,
            files: BTreeMap::new(),
            writes: 0,
        }
    }

    /// Stops the loop and starts another one on the same maps.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            source,
            maps,
            stop,
            task,
            files,
            writes,
            ..
        } = self;
        stop.unwrap().send(()).unwrap();
        timeout(PATIENCE, task).await.unwrap().unwrap();
        let actual = maps.borrow().clone();
        Self {
            files,
            writes,
            ..Self::over(source, actual).await
        }
    }

    /// The API server.
    pub(crate) fn api(&self) -> &ApiServer {
        match &self.source {
            Source::Api(server) => server,
            Source::Manifests(_) => panic!("it runs on manifests"),
        }
    }

    pub(crate) fn set_node(&self, node: Node) {
        self.nodes.send_replace(node);
    }

    /// Replaces the content of a file by `text`. Objects that it no longer has are deleted.
    pub(crate) async fn write(&mut self, file: &str, text: &str) {
        self.writes += 1;
        match &self.source {
            Source::Manifests(folder) => {
                let temporary = folder.path().join(format!(".{file}"));
                fs::write(&temporary, text).unwrap();
                fs::rename(temporary, folder.path().join(file)).unwrap();
            }
            Source::Api(server) => {
                // None of these faults may make a difference.
                match self.writes % 4 {
                    0 => server.drop_watches(),
                    1 => server.expire_watches(),
                    2 => server.set_delay(Duration::from_millis(20)),
                    _ => {
                        server.stop().await;
                        server.compact(server.version());
                    }
                }
                let objects = objects(text);
                let before = self.files.insert(file.into(), objects.clone());
                for (kind, name) in before.unwrap_or_default().difference(&objects) {
                    match kind.as_str() {
                        "Service" => server.delete::<Service>("default", name).unwrap(),
                        "EndpointSlice" => server.delete::<EndpointSlice>("default", name).unwrap(),
                        kind if kind != "Node" => {
                            let api = "gateway.networking.k8s.io/v1";
                            server.delete_value(api, kind, "default", name).unwrap();
                        }
                        _ => server.delete::<ApiNode>("", name).unwrap(),
                    }
                }
                server.apply_yaml(text).unwrap();
                server.resume().await.unwrap();
                server.set_delay(Duration::ZERO);
            }
        }
    }

    /// Waits until the maps have this content.
    pub(crate) async fn holds(&mut self, expected: &str) {
        let is_so = self.maps.wait_for(|actual| dump(actual) == expected);
        let result = timeout(PATIENCE, is_so).await.is_ok();
        let now = dump(&self.maps.borrow());
        assert!(
            result,
            "expected\n{expected}have\n{now}refusals\n{}",
            self.refusals()
        );
    }

    /// Waits until the maps have frontends that begin with these lines, beside others.
    pub(crate) async fn has(&mut self, lines: &[String]) {
        let is_so = |actual: &Actual| {
            let dump = dump(actual);
            lines.iter().all(|line| dump.contains(line.as_str()))
        };
        let result = timeout(PATIENCE, self.maps.wait_for(is_so)).await.is_ok();
        let now = dump(&self.maps.borrow());
        assert!(result, "expected\n{}have\n{now}", lines.concat());
    }

    /// Waits until no frontend of the maps has this text.
    pub(crate) async fn lacks(&mut self, text: &str) {
        let is_so = |actual: &Actual| !dump(actual).contains(text);
        let result = timeout(PATIENCE, self.maps.wait_for(is_so)).await.is_ok();
        assert!(result, "{text} in\n{}", dump(&self.maps.borrow()));
    }

    /// Waits until a refusal contains this text.
    pub(crate) async fn complains(&mut self, text: &str) {
        let says = |status: &Status| {
            let mut refusals = status.refusals.iter();
            refusals.any(|refusal| refusal.to_string().contains(text))
        };
        let result = timeout(PATIENCE, self.status.wait_for(says)).await.is_ok();
        assert!(result, "expected `{text}` in\n{}", self.refusals());
    }

    /// Waits until nothing is refused.
    pub(crate) async fn is_content(&mut self) {
        let is_so = self.status.wait_for(|status| status.refusals.is_empty());
        let result = timeout(PATIENCE, is_so).await.is_ok();
        assert!(result, "{}", self.refusals());
    }

    pub(crate) fn refusals(&self) -> String {
        let status = self.status.borrow();
        let lines = status.refusals.iter().map(|refusal| format!("{refusal}\n"));
        lines.collect()
    }
}

/// Kinds and names of the objects in a text.
fn objects(text: &str) -> BTreeSet<(String, String)> {
    let field = |value: &yaml_serde::Value| value.as_str().unwrap().to_owned();
    yaml_serde::Deserializer::from_str(text)
        .map(|document| yaml_serde::Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .map(|document| {
            (
                field(&document["kind"]),
                field(&document["metadata"]["name"]),
            )
        })
        .collect()
}

/// A Service with this spec, in YAML's flow style.
pub(crate) fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// A slice of a service.
pub(crate) fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    let family = if endpoints.contains("::") {
        "IPv6"
    } else {
        "IPv4"
    };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         ports: [{ports}]\nendpoints: [{endpoints}]\n"
    )
}
