//! An API server with the CRDs of the Gateway API, and controllers.

use std::time::Duration;

use headgate_apiserver::{ApiServer, Authorize, GATEWAY_API_CRDS, Options};
use headgate_control::{ControllerOptions, ControllerStatus, kube as source, run_controller};
use headgate_model::gateway::GatewayOptions;
use kube::{
    Api, Client, Config,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Timeout of every wait; far longer than any of them takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster.
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
}

/// A controller that writes.
pub(crate) struct Controller {
    pub(crate) status: watch::Receiver<ControllerStatus>,
    _tasks: JoinSet<()>,
    _leads: watch::Sender<bool>,
}

impl Cluster {
    /// Two proxies and an agent, without the CRDs.
    pub(crate) async fn bare() -> Self {
        Self::authorized(None).await
    }

    async fn authorized(authorize: Option<Authorize>) -> Self {
        let options = Options {
            tls: false,
            kubernetes_service: false,
            authorize,
            ..Options::default()
        };
        let server = ApiServer::start(options).await.unwrap();
        let cluster = Self { server };
        cluster.apply(PODS);
        cluster
    }

    /// With a class and the Service `web`.
    pub(crate) async fn new() -> Self {
        Self::with(None).await
    }

    /// The same, with an API server that refuses requests.
    pub(crate) async fn with(authorize: Option<Authorize>) -> Self {
        let cluster = Self::authorized(authorize).await;
        cluster.apply(GATEWAY_API_CRDS);
        cluster.apply(OBJECTS);
        cluster
    }

    pub(crate) fn apply(&self, text: &str) {
        self.server.apply_yaml(text).unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::try_from(Config::new(self.server.url().parse().unwrap())).unwrap()
    }

    /// Starts a controller that gives addresses of 192.0.2.0/29.
    pub(crate) fn start(&self) -> Controller {
        self.start_with(&["192.0.2.0/29"])
    }

    pub(crate) fn start_with(&self, pools: &[&str]) -> Controller {
        self.start_as(GatewayOptions::default(), pools)
    }

    pub(crate) fn start_as(&self, gateways: GatewayOptions, pools: &[&str]) -> Controller {
        let client = self.client();
        let options = ControllerOptions {
            gateways: GatewayOptions {
                pools: pools.iter().map(|pool| pool.parse().unwrap()).collect(),
                ..gateways
            },
            proxy_namespace: "kube-system".into(),
            proxy_selector: "app.kubernetes.io/component=proxy".into(),
            agent_selector: Some("app.kubernetes.io/component=agent".into()),
        };
        let (sender, events) = mpsc::channel(64);
        let (version, versions) = watch::channel(None);
        let (leads, leading) = watch::channel(true);
        let (status, statuses) = watch::channel(ControllerStatus::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(source::follow_verdicts(client.clone(), sender));
        tasks.spawn(source::follow_bundle_version(client.clone(), version));
        let forever = std::future::pending();
        tasks.spawn(run_controller(
            client, options, events, versions, leading, status, forever,
        ));
        Controller {
            status: statuses,
            _tasks: tasks,
            _leads: leads,
        }
    }

    /// The API of a kind, by `group/version/kind`.
    pub(crate) fn api(&self, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), "default", &resource(kind))
    }

    /// The API of a kind without namespaces.
    pub(crate) fn cluster_api(&self, kind: &str) -> Api<DynamicObject> {
        Api::all_with(self.client(), &resource(kind))
    }

    /// An object; `Null` if it is not there.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Value {
        let found = self.api(kind).get_opt(name).await.unwrap();
        serde_json::to_value(found).unwrap()
    }

    /// Waits until an object is as a function says.
    pub(crate) async fn wait(&self, kind: &str, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let object = self.get(kind, name).await;
                if is(&object) {
                    return object;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(object) => object,
            Err(_) => panic!("{kind} {name}: {:#}", self.get(kind, name).await),
        }
    }

    /// Waits until a condition of a Gateway is, for example, `True/Programmed`.
    pub(crate) async fn gateway_is(&self, name: &str, type_: &str, expected: &str) -> Value {
        self.wait(GATEWAY, name, |gateway| {
            condition(&gateway["status"]["conditions"], type_) == expected
        })
        .await
    }

    /// Waits until the first parent of a route has a condition.
    pub(crate) async fn route_is(&self, name: &str, type_: &str, expected: &str) -> Value {
        self.wait(ROUTE, name, |route| {
            condition(&route["status"]["parents"][0]["conditions"], type_) == expected
        })
        .await
    }
}

fn resource(kind: &str) -> ApiResource {
    let mut parts = kind.split('/');
    let mut part = || parts.next().unwrap_or_default();
    ApiResource::from_gvk(&GroupVersionKind::gvk(part(), part(), part()))
}

impl Controller {
    /// Waits until nothing is to be written any more.
    pub(crate) async fn settle(&mut self) {
        sleep(Duration::from_millis(300)).await;
        let is_done = self
            .status
            .wait_for(|status| status.is_synced && status.pending == 0);
        timeout(PATIENCE, is_done).await.unwrap().unwrap();
    }
}

pub(crate) const GATEWAY: &str = "gateway.networking.k8s.io/v1/Gateway";
pub(crate) const ROUTE: &str = "gateway.networking.k8s.io/v1/HTTPRoute";
pub(crate) const SERVICE: &str = "/v1/Service";
pub(crate) const SLICE: &str = "discovery.k8s.io/v1/EndpointSlice";

/// A condition as `True/Accepted`.
pub(crate) fn condition(conditions: &Value, type_: &str) -> String {
    let mut all = conditions.as_array().into_iter().flatten();
    let found = all.find(|one| one["type"] == type_);
    found.map_or_else(String::new, |one| {
        let text = |field: &str| one[field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("status"), text("reason"))
    })
}

/// A Gateway with one listener.
pub(crate) fn gateway(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec:
  gatewayClassName: headgate
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
---
"
    )
}

/// A route of a Gateway to the Service `web`.
pub(crate) fn route(name: &str, gateway: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: default}}
spec:
  parentRefs: [{{name: {gateway}}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
---
"
    )
}

/// A class of another controller.
pub(crate) const OTHER_CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
";

const OBJECTS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{port: 80, targetPort: 8080}]}
";

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: proxy-a, namespace: kube-system, labels: {app.kubernetes.io/component: proxy}}
spec: {nodeName: node-a, containers: [{name: proxy, image: headgate, args: [proxy, --gateways]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: proxy-b, namespace: kube-system, labels: {app.kubernetes.io/component: proxy}}
spec: {nodeName: node-b, containers: [{name: proxy, image: headgate, args: [proxy, --gateways]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-a, namespace: kube-system, labels: {app.kubernetes.io/component: agent}}
spec: {nodeName: node-a, containers: [{name: agent, image: headgate, args: [agent, --gateways]}]}
";
