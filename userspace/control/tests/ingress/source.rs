//! The loop on either source: a folder of manifests, or an API server with faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use headgate_apiserver::{ApiServer, Options};
use headgate_control::{Event, IngressStatus, Interest, kube as api, manifests, run_ingress};
use headgate_model::ingress::IngressOptions;
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{Client, Config};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::server::{PATIENCE, Received, Server};

/// The source of the loop.
pub(crate) enum Source {
    Manifests(tempfile::TempDir),
    Api(ApiServer),
}

impl Source {
    pub(crate) fn manifests() -> Self {
        Self::Manifests(tempfile::tempdir().unwrap())
    }

    pub(crate) async fn api(options: Options) -> Self {
        let options = Options {
            tls: false,
            kubernetes_service: false,
            ..options
        };
        Self::Api(ApiServer::start(options).await.unwrap())
    }

    /// Sends the objects to a receiver.
    pub(crate) fn follow(
        &self,
        namespaces: &BTreeSet<String>,
        interest: Interest,
    ) -> mpsc::Receiver<Event> {
        let (sender, events) = mpsc::channel(64);
        match self {
            Self::Manifests(folder) => {
                let follow =
                    manifests::follow_ingresses(folder.path().to_owned(), interest, sender);
                tokio::spawn(async move { follow.await.unwrap() });
            }
            Self::Api(server) => {
                let (client, namespaces) = (client(server), namespaces.clone());
                tokio::spawn(async move {
                    api::follow_ingresses(client, &namespaces, interest, sender).await;
                });
            }
        }
        events
    }

    /// Every event until every kind is listed.
    pub(crate) async fn list(&self) -> Vec<Event> {
        self.list_for(Interest::Ingress).await
    }

    pub(crate) async fn list_for(&self, interest: Interest) -> Vec<Event> {
        let mut events = self.follow(&BTreeSet::new(), interest);
        let mut missing = BTreeSet::from_iter(interest.kinds());
        let mut received = Vec::new();
        while !missing.is_empty() {
            let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
            if let Event::Listed(kind) = &event {
                missing.remove(kind);
            }
            received.push(event);
        }
        received
    }
}

/// A client of an API server.
pub(crate) fn client(server: &ApiServer) -> Client {
    let config = Config::new(server.url().parse().unwrap());
    Client::try_from(config).unwrap()
}

/// A running loop over a source.
pub(crate) struct Proxy {
    pub(crate) source: Source,
    pub(crate) received: watch::Receiver<Received>,
    pub(crate) status: watch::Receiver<IngressStatus>,
    task: JoinHandle<()>,
    /// Objects by file.
    files: BTreeMap<String, BTreeSet<(String, String)>>,
    writes: usize,
}

impl Proxy {
    pub(crate) async fn on_manifests() -> Self {
        Self::over(Source::manifests(), BTreeSet::new()).await
    }

    pub(crate) async fn on_api() -> Self {
        Self::over(Source::api(Options::default()).await, BTreeSet::new()).await
    }

    pub(crate) async fn over(source: Source, namespaces: BTreeSet<String>) -> Self {
        let events = source.follow(&namespaces, Interest::Ingress);
        let options = IngressOptions {
            namespaces,
            ..IngressOptions::default()
        };
        let (sender, received) = watch::channel(Received::default());
        let (status_sender, mut status) = watch::channel(IngressStatus::default());
        let run = run_ingress(
            events,
            options.into(),
            Server(sender),
            status_sender,
            std::future::pending(),
        );
        let task = tokio::spawn(run);
        let is_synced = status.wait_for(|status| status.is_synced);
        timeout(PATIENCE, is_synced).await.unwrap().unwrap();
        Self {
            source,
            received,
            status,
            task,
            files: BTreeMap::new(),
            writes: 0,
        }
    }

    /// Stops the loop and starts another one.
    pub(crate) async fn restart(self) -> Self {
        self.task.abort();
        Self {
            files: self.files,
            writes: self.writes,
            ..Self::over(self.source, BTreeSet::new()).await
        }
    }

    /// The API server.
    pub(crate) fn api(&self) -> &ApiServer {
        match &self.source {
            Source::Api(server) => server,
            Source::Manifests(_) => panic!("it runs on manifests"),
        }
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
                    delete(server, kind, name);
                }
                server.apply_yaml(text).unwrap();
                server.resume().await.unwrap();
                server.set_delay(Duration::ZERO);
            }
        }
    }

    /// Waits until the routes are these.
    pub(crate) async fn serves(&mut self, expected: &str) {
        let is_so = self
            .received
            .wait_for(|received| received.dump() == expected);
        let result = timeout(PATIENCE, is_so).await.is_ok();
        let now = self.received.borrow().dump();
        assert!(
            result,
            "expected\n{expected}have\n{now}refusals\n{}",
            self.refusals()
        );
    }

    /// Waits until the refusals are these, one for each line.
    pub(crate) async fn refuses(&mut self, expected: &str) {
        let is_so = |status: &IngressStatus| lines(status) == expected;
        let result = timeout(PATIENCE, self.status.wait_for(is_so)).await.is_ok();
        assert!(result, "expected\n{expected}have\n{}", self.refusals());
    }

    /// Waits until a refusal contains this text.
    pub(crate) async fn complains(&mut self, text: &str) {
        let says = |status: &IngressStatus| lines(status).contains(text);
        let result = timeout(PATIENCE, self.status.wait_for(says)).await.is_ok();
        assert!(result, "expected `{text}` in\n{}", self.refusals());
    }

    pub(crate) fn refusals(&self) -> String {
        lines(&self.status.borrow())
    }
}

fn lines(status: &IngressStatus) -> String {
    let lines = status.refusals.iter().map(|refusal| format!("{refusal}\n"));
    lines.collect()
}

fn delete(server: &ApiServer, kind: &str, name: &str) {
    match kind {
        "Service" => server.delete::<Service>("default", name),
        "EndpointSlice" => server.delete::<EndpointSlice>("default", name),
        "Ingress" => server.delete::<Ingress>("default", name),
        "IngressClass" => server.delete::<IngressClass>("", name),
        "Secret" => server.delete::<Secret>("default", name),
        _ => panic!("{kind}"),
    }
    .unwrap();
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

/// A class of this controller.
pub(crate) fn class(name: &str, controller: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}}}\n\
         spec: {{controller: {controller}}}\n"
    )
}

/// The class that is ours.
pub(crate) fn our_class() -> String {
    class("headgate", "headgate.io/ingress")
}

/// An Ingress of our class with this spec, in YAML's flow style.
pub(crate) fn ingress(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\n\
         spec: {{ingressClassName: headgate, {spec}}}\n"
    )
}

/// A rule that sends everything to port 80 of a Service.
pub(crate) fn rule(host: &str, service: &str) -> String {
    rule_at(host, "/", service)
}

/// A rule that sends what is below a path to port 80 of a Service.
pub(crate) fn rule_at(host: &str, path: &str, service: &str) -> String {
    format!(
        "{{host: '{host}', http: {{paths: [{{path: '{path}', pathType: Prefix, \
         backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}}}"
    )
}

/// A Service with this spec.
pub(crate) fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

/// A slice of a Service's only port, with these addresses.
pub(crate) fn slice(name: &str, service: &str, addresses: &str) -> String {
    let addresses = addresses.split_whitespace();
    let endpoints: Vec<String> = addresses
        .map(|address| format!("{{addresses: [{address}]}}"))
        .collect();
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         ports: [{{name: '', port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// A Secret of a type with a certificate of this text.
pub(crate) fn secret(name: &str, type_: &str, certificate: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {type_}\n\
         stringData: {{tls.crt: {certificate}, tls.key: key}}\n"
    )
}

/// Service `name` with one endpoint.
pub(crate) fn web(name: &str, address: &str) -> String {
    service(name, "ports: [{port: 80}]") + &slice(&format!("{name}-1"), name, address)
}
