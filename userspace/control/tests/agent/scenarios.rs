//! Manifests in, maps out: each case is a folder of manifests, and what the agent of node `n1` makes
//! of it.

use std::{fs, path::Path};

use headgate_control::{Inputs, Reconciler, Status, manifests, run};
use headgate_model::Actual;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::memory::{Memory, PATIENCE, dump, node};

/// A running loop over a folder.
struct Agent {
    folder: tempfile::TempDir,
    maps: watch::Receiver<Actual>,
    status: watch::Receiver<Status>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Agent {
    async fn start(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self::over(folder, Actual::default()).await
    }

    async fn over(folder: tempfile::TempDir, actual: Actual) -> Self {
        let (published, maps) = watch::channel(actual.clone());
        let node = node();
        let (_nodes, nodes) = watch::channel(node.clone());
        let reconciler = Reconciler::new(Memory { actual, published }, node).unwrap();
        let (sender, events) = mpsc::channel(64);
        let (status_sender, mut status) = watch::channel(Status::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let path = folder.path().to_owned();
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            let source = manifests::follow(path, "n1", sender);
            let (_audits, audits) = mpsc::channel(1);
            let inputs = Inputs {
                events,
                nodes,
                audits,
            };
            tokio::select! {
                () = run(reconciler, inputs, status_sender, stopped) => {}
                result = source => result.unwrap(),
            }
        });
        let is_synced = status.wait_for(|status| status.is_synced);
        timeout(PATIENCE, is_synced).await.unwrap().unwrap();
        Self {
            folder,
            maps,
            status,
            stop,
            task,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file and waits until something came of it.
    async fn write(&mut self, name: &str, text: &str) {
        self.status.mark_unchanged();
        let temporary = self.path().join(format!(".{name}"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path().join(name)).unwrap();
        timeout(PATIENCE, self.status.changed())
            .await
            .unwrap()
            .unwrap();
    }

    fn dump(&self) -> String {
        dump(&self.maps.borrow())
    }

    fn refusals(&self) -> String {
        let status = self.status.borrow();
        status
            .refusals
            .iter()
            .map(|refusal| format!("{refusal}\n"))
            .collect()
    }

    async fn stop(self) -> (tempfile::TempDir, Actual) {
        self.stop.send(()).unwrap();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        let actual = self.maps.borrow().clone();
        (self.folder, actual)
    }
}

const WEB: &str = "
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  clusterIPs: [10.96.0.1, 'fd96::1']
  ports: [{name: http, port: 80, nodePort: 30080}]
";

const WEB_V4: &str = "
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.244.1.2], nodeName: n1}
- {addresses: [10.244.2.2], nodeName: n2, conditions: {ready: true}}
- {addresses: [10.244.2.3], nodeName: n2, conditions: {ready: false}}
- {addresses: [127.0.0.1], nodeName: n1}
";

#[tokio::test]
async fn local_policy_serves_outside_from_this_node() {
    let agent = Agent::start(&[("web.yaml", WEB), ("slices.yaml", WEB_V4)]).await;
    assert_eq!(
        agent.dump(),
        "tcp 10.96.0.1:80 ClusterIp in[10.244.1.2:8080@here 10.244.2.2:8080@there] \
         out[10.244.1.2:8080@here 10.244.2.2:8080@there]\n\
         tcp 192.168.50.1:30080 NodePort in[10.244.1.2:8080@here 10.244.2.2:8080@there] \
         out[10.244.1.2:8080@here]\n\
         tcp [fd50::1]:30080 NodePort in[] out[]\n\
         tcp [fd96::1]:80 ClusterIp in[] out[]\n"
    );
    assert_eq!(
        agent.refusals(),
        "EndpointSlice default/web-4: endpoints[3].addresses[0]: 127.0.0.1 is no address of an \
         endpoint\n"
    );
}

#[tokio::test]
async fn terminating_endpoints_serve_when_nothing_else_does() {
    let service =
        "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let slice = |ready: bool| {
        format!(
            "kind: EndpointSlice\nmetadata: {{name: a, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n\
             - {{addresses: [10.0.0.1], conditions: {{ready: {ready}}}}}\n\
             - {{addresses: [10.0.0.2], conditions: {{ready: false, serving: true, terminating: true}}}}\n\
             - {{addresses: [10.0.0.3], conditions: {{ready: false, serving: false, terminating: true}}}}\n"
        )
    };
    let mut agent = Agent::start(&[("web.json", service), ("slice.yml", &slice(true))]).await;
    let line = |pods: &str| format!("tcp 10.96.0.1:80 ClusterIp in[{pods}] out[{pods}]\n");
    assert_eq!(agent.dump(), line("10.0.0.1:8080@there"));
    agent.write("slice.yml", &slice(false)).await;
    assert_eq!(agent.dump(), line("10.0.0.2:8080@there"));
}

#[tokio::test]
async fn what_programs_nothing_programs_nothing() {
    let text = "
kind: List
items:
- {kind: Service, metadata: {name: headless}, spec: {clusterIP: None, ports: [{port: 80}]}}
- {kind: Service, metadata: {name: external}, spec: {type: ExternalName, externalName: example.com}}
- kind: Service
  metadata: {name: other, labels: {service.kubernetes.io/service-proxy-name: other}}
  spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}
- {kind: Deployment, metadata: {name: web}, spec: {}}
";
    let agent = Agent::start(&[("list.yaml", text)]).await;
    assert_eq!((agent.dump().as_str(), agent.refusals().as_str()), ("", ""));
}

#[tokio::test]
async fn bad_input_is_named_and_the_rest_stands() {
    let service = |ports: &str| {
        format!(
            "kind: Service\nmetadata: {{name: web}}\nspec:\n  clusterIP: 10.96.0.1\n  ports: {ports}\n"
        )
    };
    let mut agent = Agent::start(&[("web.yaml", &service("[{port: 80}]"))]).await;
    let good = agent.dump();
    assert_eq!(good, "tcp 10.96.0.1:80 ClusterIp in[] out[]\n");
    for (text, complaint) in [
        (service("[{port: 80"), "web.yaml: document 1"),
        (
            service("[{port: 80, prot: TCP}]"),
            "unknown field spec.ports.0.prot",
        ),
        (service("[{port: eighty}]"), "Service default/web: "),
    ] {
        agent.write("web.yaml", &text).await;
        assert_eq!(agent.dump(), good, "{complaint}");
        assert!(agent.refusals().contains(complaint), "{}", agent.refusals());
    }
    agent
        .write(
            "web.yaml",
            &service("[{port: 80}, {name: zero, port: 0}, {name: s, port: 9, protocol: SCTP}]"),
        )
        .await;
    assert_eq!(agent.dump(), good);
    assert_eq!(
        agent.refusals(),
        "Service default/web: spec.ports[1].port: 0 is not a port (1 to 65535)\n\
         Service default/web: spec.ports[2].protocol: protocol SCTP is not supported\n"
    );
}

#[tokio::test]
async fn restart_keeps_ids_and_makes_up_for_what_it_missed() {
    let agent = Agent::start(&[("web.yaml", WEB), ("slices.yaml", WEB_V4)]).await;
    let (folder, before) = agent.stop().await;
    fs::write(
        folder.path().join("slices.yaml"),
        WEB_V4.replace("10.244.1.2", "10.244.1.9"),
    )
    .unwrap();
    let agent = Agent::over(folder, before.clone()).await;
    let after = agent.maps.borrow().clone();
    for (key, (id, _)) in &before.services {
        assert_eq!(after.services[key].0, *id, "id of {key}");
    }
    assert!(
        agent.dump().contains("out[10.244.1.9:8080@here]"),
        "{}",
        agent.dump()
    );
    fs::remove_file(agent.path().join("web.yaml")).unwrap();
    let mut maps = agent.maps.clone();
    let is_empty = maps.wait_for(|actual| *actual == Actual::default());
    timeout(PATIENCE, is_empty).await.unwrap().unwrap();
}
