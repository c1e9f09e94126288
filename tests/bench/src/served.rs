//! Time from a change at the API until a proxy serves it, among many Ingresses or Gateways. The API server is the
//! stand-in, in the process of the benchmark; agent, proxy and controller are processes of their own.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use headgate_apiserver::{ApiServer, GATEWAY_API_CRDS, TestServer};
use headgate_netns::{Certificate, Cluster, Netns, PROXY_USER, Process, binary};
use reqwest::{Client, StatusCode, header::LOCATION, redirect::Policy};
use serde_json::{Value, json};
use tokio::{runtime::Builder, time::sleep};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    Options, Report, Table,
    control::{median, target},
};

const INGRESSES: u32 = 5_000;
const GATEWAYS: u32 = 1_000;
const ROUTES: u32 = 10_000;
/// Changes of each kind, one after the other.
const CHANGES: u32 = 20;
/// Longest time until a change is served, or everything is at first.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two requests that look for a change.
const LOOK: Duration = Duration::from_millis(1);

const TARGET_SERVED_MS: f64 = 200.0;
const TARGET_STATUS_MS: f64 = 1_000.0;

const GROUP: &str = "gateway.networking.k8s.io/v1";
const CLASSES: &str = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: headgate}
spec: {controller: headgate.io/ingress}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
";

/// Runs the benchmark.
pub fn run(options: &Options, report: &mut Report) -> Result<()> {
    let titles = [
        format!("until a change is served, {INGRESSES} Ingresses"),
        format!("until a change is served, {GATEWAYS} Gateways with {ROUTES} routes"),
    ];
    let measured: [fn(&str) -> Result<Table>; 2] = [ingresses, gateways];
    for (title, measure) in titles.iter().zip(measured) {
        if options.wants(title) {
            report.add(measure(title)?);
        }
    }
    Ok(())
}

/// A cluster of one node with an agent and an API server.
fn cluster() -> Result<Cluster> {
    let mut cluster = Cluster::new("hgbs", 1, 1)?;
    cluster.serve_api()?;
    for text in [GATEWAY_API_CRDS, CLASSES] {
        api(&cluster)?.apply_yaml(text)?;
    }
    cluster.start_agent_with(0, &["--proxy-user", PROXY_USER])?;
    Ok(cluster)
}

fn api(cluster: &Cluster) -> Result<&ApiServer> {
    match &cluster.api {
        Some(TestServer::StandIn(server)) => Ok(server),
        _ => bail!("only the stand-in of the API server can be measured"),
    }
}

fn ingresses(title: &str) -> Result<Table> {
    let mut cluster = cluster()?;
    let certificate = || Certificate::new(&["*.example.com"]);
    let first = certificate()?;
    let server = api(&cluster)?;
    for number in 0..INGRESSES {
        server.apply_value(service(number))?;
        server.apply_value(slice(number, false))?;
        server.apply_yaml(&first.secret(&name(number)))?;
        server.apply_value(ingress(number, ""))?;
    }
    cluster.start_proxy(0, &[])?;
    let address = SocketAddr::from((cluster.nodes[0].v4, 443));
    let seen = |number: u32, certificate: &Certificate, is_seen: fn(&Answer) -> bool| {
        let look = Look {
            url: format!("https://{}/", host(number)),
            address,
            authority: Some(certificate.authority.clone()),
        };
        look.until(&cluster.client, is_seen)
    };
    seen(INGRESSES - 1, &first, |_| true)?;

    let server = api(&cluster)?;
    let [mut slices, mut routes, mut certificates] = [const { Vec::new() }; 3];
    for number in 0..CHANGES {
        let begin = Instant::now();
        server.apply_value(slice(number, true))?;
        seen(number, &first, |answer| answer.status == StatusCode::OK)?;
        slices.push(milliseconds(begin));

        let begin = Instant::now();
        server.apply_value(ingress(number, "https://moved.example.com/"))?;
        seen(number, &first, |answer| {
            answer.location.starts_with("https://moved")
        })?;
        routes.push(milliseconds(begin));

        let next = certificate()?;
        let begin = Instant::now();
        server.apply_yaml(&next.secret(&name(number)))?;
        seen(number, &next, |_| true)?;
        certificates.push(milliseconds(begin));
    }
    let mut table = table(title);
    add(&mut table, "an EndpointSlice", &slices, TARGET_SERVED_MS);
    add(&mut table, "a route", &routes, TARGET_SERVED_MS);
    add(&mut table, "a certificate", &certificates, TARGET_SERVED_MS);
    Ok(table)
}

fn gateways(title: &str) -> Result<Table> {
    let mut cluster = cluster()?;
    let server = api(&cluster)?;
    for number in 0..GATEWAYS {
        server.apply_value(gateway(number))?;
    }
    for number in 0..ROUTES {
        server.apply_value(route(number, "/first"))?;
    }
    cluster.start_proxy(0, &["--gateways"])?;
    let _controller = controller(&cluster)?;
    let server = api(&cluster)?;
    let begin = Instant::now();
    while !is_written(server, ROUTES - 1) || target_port(server, GATEWAYS - 1).is_none() {
        ensure!(begin.elapsed() < PATIENCE, "no statuses at first");
        std::thread::sleep(LOOK);
    }
    let all = milliseconds(begin);

    let [mut served, mut written] = [const { Vec::new() }; 2];
    for number in 0..CHANGES {
        let port = target_port(server, number % GATEWAYS).context("no target port")?;
        let look = Look {
            url: format!("http://{}:{port}/", host(number)),
            address: SocketAddr::from((cluster.nodes[0].v4, port)),
            authority: None,
        };
        let begin = Instant::now();
        server.apply_value(route(number, "/second"))?;
        look.until(&cluster.client, |answer| {
            answer.location.ends_with("/second")
        })?;
        served.push(milliseconds(begin));
        while !is_written(server, number) {
            ensure!(begin.elapsed() < PATIENCE, "no status of route {number}");
            std::thread::sleep(LOOK);
        }
        written.push(milliseconds(begin));
    }
    let mut table = table(title);
    add(&mut table, "a route", &served, TARGET_SERVED_MS);
    add(
        &mut table,
        "the status of a route",
        &written,
        TARGET_STATUS_MS,
    );
    table.add("all statuses and Services at first", &[all]);
    Ok(table)
}

fn controller(cluster: &Cluster) -> Result<Process> {
    let mut command = cluster.client.command(binary("headgate")?, None);
    command
        .args(["controller", "--identity", "bench"])
        .args(["--namespace", "kube-system"])
        .args(["--address-pool", "192.0.0.0/20"])
        .args(["--healthz-bind-address", "127.0.0.1:0"])
        .args(["--metrics-bind-address", "127.0.0.1:0"])
        .env("KUBECONFIG", cluster.kubeconfig());
    Process::start(command, "ready")
}

/// What an answer shows of the configuration.
struct Answer {
    status: StatusCode,
    location: String,
}

/// Requests that look for a change, each on a connection of its own.
struct Look {
    url: String,
    address: SocketAddr,
    /// The only authority that is trusted, PEM.
    authority: Option<String>,
}

impl Look {
    /// Sends requests until the answer is the one.
    fn until(self, from: &Netns, is_seen: fn(&Answer) -> bool) -> Result<()> {
        from.run(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(self.repeat(is_seen))
        })
    }

    async fn repeat(&self, is_seen: fn(&Answer) -> bool) -> Result<()> {
        let url = reqwest::Url::parse(&self.url)?;
        let host = url.host_str().context("no host")?;
        let mut roots = RootCertStore::empty();
        if let Some(authority) = &self.authority {
            roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .resolve(host, self.address)
            .tls_backend_preconfigured(tls)
            .build()?;
        let begin = Instant::now();
        let mut last = None;
        while begin.elapsed() < PATIENCE {
            match client.get(url.clone()).send().await {
                Ok(response) => {
                    let location = response.headers().get(LOCATION);
                    let location = location.and_then(|value| value.to_str().ok());
                    let answer = Answer {
                        status: response.status(),
                        location: location.unwrap_or_default().into(),
                    };
                    if is_seen(&answer) {
                        return Ok(());
                    }
                }
                Err(error) => last = Some(error),
            }
            sleep(LOOK).await;
        }
        bail!("{url}: the change is not served; last error: {last:?}")
    }
}

fn table(title: &str) -> Table {
    let how = format!("{CHANGES} changes, one after the other, from before the stand-in writes");
    Table::new(title, "ms", &how, "")
}

fn add(table: &mut Table, name: &str, samples: &[f64], most: f64) {
    table.add(name, samples);
    table.note(target(median(samples.to_vec()), most, "ms"));
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn name(number: u32) -> String {
    format!("n{number}")
}

fn host(number: u32) -> String {
    format!("n{number}.example.com")
}

fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name(number), "namespace": "default"},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80, "targetPort": 9376}]},
    })
}

/// The slice of a Service: empty, or with the pod of the cluster.
fn slice(number: u32, has_endpoint: bool) -> Value {
    let endpoint =
        json!({"addresses": ["10.244.1.2"], "conditions": {"ready": true}, "nodeName": "n1"});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name(number), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name(number)},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9376}],
        "endpoints": has_endpoint.then_some(endpoint).as_slice(),
    })
}

/// An Ingress over TLS that forwards to its Service, or redirects.
fn ingress(number: u32, redirect: &str) -> Value {
    let service = json!({"name": name(number), "port": {"number": 80}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": {"service": service}});
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name(number), "namespace": "default"},
        "spec": {
            "ingressClassName": "headgate",
            "tls": [{"hosts": [host(number)], "secretName": name(number)}],
            "rules": [{"host": host(number), "http": {"paths": [path]}}],
        },
    });
    if !redirect.is_empty() {
        object["metadata"]["annotations"] = json!({"headgate.io/permanent-redirect": redirect});
    }
    object
}

fn gateway(number: u32) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "Gateway",
        "metadata": {"name": name(number), "namespace": "default"},
        "spec": {
            "gatewayClassName": "headgate",
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    })
}

/// An HTTPRoute of one of the Gateways, which redirects to this path.
fn route(number: u32, path: &str) -> Value {
    let path = json!({"type": "ReplaceFullPath", "replaceFullPath": path});
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"path": path}});
    json!({
        "apiVersion": GROUP, "kind": "HTTPRoute",
        "metadata": {"name": name(number), "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": name(number % GATEWAYS)}],
            "hostnames": [host(number)],
            "rules": [{"filters": [redirect]}],
        },
    })
}

/// Whether the status of a route is that of its present generation.
fn is_written(server: &ApiServer, number: u32) -> bool {
    let route = server.get_value(GROUP, "HTTPRoute", "default", &name(number));
    let route = route.unwrap_or_default();
    let observed = route.pointer("/status/parents/0/conditions/0/observedGeneration");
    observed.is_some_and(|generation| *generation == route["metadata"]["generation"])
}

/// The port at which proxies serve a Gateway, once the controller has made its Service.
fn target_port(server: &ApiServer, number: u32) -> Option<u16> {
    let service = format!("gateway-{}", name(number));
    let service = server.get_value("v1", "Service", "default", &service)?;
    let port = service.pointer("/spec/ports/0/targetPort")?.as_u64()?;
    port.try_into().ok()
}
