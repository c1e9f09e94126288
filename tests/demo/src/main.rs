//! `headgate-demo`: a cluster of network namespaces on this machine, with real traffic.
//!
//! A newcomer sees its output first, so each part says in a sentence what it does.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use headgate_netns::{
    Certificate, Cluster, GATEWAY, INGRESSES, LISTENERS, Load, Netns, Node, PROXY_USER, SERVICE,
    Tally, binary, connections, get, slices, udp,
};
use nix::unistd::geteuid;
use serde_json::Value;

#[derive(Parser)]
struct Options {
    /// Leave the cluster up and print commands to explore it
    #[arg(long)]
    keep: bool,
    /// Remove a cluster that was left up
    #[arg(long)]
    down: bool,
}

const PREFIX: &str = "hgdemo";
const NODES: u8 = 3;
const PODS: u8 = 2;
const REQUESTS: usize = 60;
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const BALANCER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The hosts of the example Ingresses.
const SHOP: &str = "shop.example.com";
const API: &str = "api.example.com";
/// The address and the host of the Gateway.
const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
const GATEWAY_HOST: &str = "shop.example.org";
/// The address and the port of the Gateway whose listeners the kernel serves.
const LINES_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 21);
const LINES_PORT: u16 = 9000;
/// What a controller makes for a Gateway, for the proxy of one node.
const GATEWAY_SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: gateway-shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  ports: [{name: http, port: 80}]
status: {loadBalancer: {ingress: [{ip: VIP}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: gateway-shop
  labels: {kubernetes.io/service-name: gateway-shop}
addressType: IPv4
ports: [{name: http, port: TARGET}]
endpoints: [{addresses: [NODE], nodeName: n1}]
";
/// How long each part under load lasts.
const ACT: Duration = Duration::from_secs(2);

fn heading(text: &str) {
    println!("\n== {text}");
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(
        geteuid().is_root(),
        "the demo makes network namespaces: run it as root"
    );
    if options.down {
        return Cluster::sweep(PREFIX);
    }
    println!(
        "A small cluster on this machine, with real traffic. Nodes, pods and a client outside are \
         network\nnamespaces; Services and Ingresses come from manifests instead of a Kubernetes API. This takes less \
         than a\nminute."
    );
    let mut pods: Vec<(u8, u8)> = (1..=NODES)
        .flat_map(|node| (1..=PODS).map(move |pod| (node, pod)))
        .collect();
    let mut cluster = start_cluster(&pods)?;
    show_paths(&cluster)?;
    show_ingress(&mut cluster)?;
    show_gateway(&cluster)?;
    show_listeners(&cluster)?;
    let lost = scale_down(&cluster, &mut pods)? + replace_agent(&mut cluster)?;
    show_state(&cluster.nodes[0])?;

    heading("Result");
    println!(
        "{lost} requests were lost while a pod left and while an agent was killed and replaced."
    );
    match options.keep {
        true => print_commands(&cluster)?,
        false => println!(
            "The cluster is removed. Try next:\n  \
             cargo xtask demo --keep   leaves it up, and prints commands to explore it\n  \
             cargo xtask test          runs the tests of this tree\n  \
             deploy/README.md          shows how to install Headgate in a Kubernetes cluster"
        ),
    }
    if options.keep {
        cluster.keep();
    }
    ensure!(lost == 0, "{lost} requests were lost");
    Ok(())
}

/// Makes the cluster and starts an agent on every node.
fn start_cluster(pods: &[(u8, u8)]) -> Result<Cluster> {
    heading("The cluster");
    Cluster::sweep(PREFIX)?;
    let mut cluster = Cluster::new(PREFIX, NODES, PODS)?;
    cluster.write("web.yaml", SERVICE)?;
    cluster.write("web-endpoints.yaml", &slices(pods))?;
    for index in 0..NODES.into() {
        cluster.start_agent_with(index, &["--proxy-user", PROXY_USER])?;
    }
    cluster.client.batch(&format!(
        "route add {BALANCER}/32 via {}",
        cluster.nodes[0].v4
    ))?;
    println!(
        "{NODES} nodes with {PODS} pods each. An agent on every node programs the kernel.\n\
         Service `web` has port 80 and {} pods: web-1-2 is pod 2 on node n1.",
        pods.len()
    );
    Ok(cluster)
}

/// Removes a pod from the Service under load; returns the number of lost requests.
fn scale_down(cluster: &Cluster, pods: &mut Vec<(u8, u8)>) -> Result<usize> {
    heading("Under load, one pod leaves the Service");
    let load = start_load(cluster);
    thread::sleep(ACT);
    pods.pop();
    cluster.write("web-endpoints.yaml", &slices(pods))?;
    thread::sleep(ACT / 10);
    let removed = format!("web-{NODES}-{PODS}");
    let before = load.tally().of(&removed);
    thread::sleep(ACT);
    println!(
        "{removed} answered {before} requests before it left, and {} after",
        load.tally().of(&removed) - before
    );
    Ok(finish(load))
}

/// Kills an agent under load and starts another one; returns the number of lost requests.
fn replace_agent(cluster: &mut Cluster) -> Result<usize> {
    heading("Under load, the agent of n1 is killed and started again");
    let load = start_load(cluster);
    thread::sleep(ACT / 2);
    cluster.nodes[0]
        .agent
        .take()
        .context("n1 has no agent")?
        .kill()?;
    println!("Killed: the programs and maps stay in the kernel and forward the traffic.");
    thread::sleep(ACT);
    cluster.start_agent_with(0, &["--proxy-user", PROXY_USER])?;
    println!("Started: the new agent takes the maps over.");
    thread::sleep(ACT / 2);
    Ok(finish(load))
}

/// Prints what the commands of an operator show.
fn show_state(node: &Node) -> Result<()> {
    heading("What the commands of an operator show on n1");
    for words in ["services", "backends"] {
        let mut show = std::process::Command::new(binary("headgate")?);
        show.arg("--pins").arg(&node.pins).arg(words);
        println!("$ headgate {words}");
        let status = show.status()?;
        ensure!(status.success(), "headgate {words}: {status}");
    }
    Ok(())
}

/// Prints commands that explore the cluster.
fn print_commands(cluster: &Cluster) -> Result<()> {
    let node = &cluster.nodes[0];
    let headgate = binary("headgate")?;
    let headgate = headgate.display();
    let enter = |netns: &Netns| format!("nsenter --net={}", netns.path().display());
    println!(
        "The cluster stays up. Try as root:\n  \
         export HEADGATE_PINS={}\n  \
         {} {headgate} status\n  \
         {headgate} conntrack\n  \
         {headgate} top\n  \
         {} curl {}:30080\n  \
         {} {headgate} explain request http://{API}/v1/users\n\
         Or edit the manifests in {}: the agents follow.\n\
         Remove the cluster: cargo xtask demo --down",
        node.pins.display(),
        enter(&node.netns),
        enter(&cluster.client),
        node.v4,
        enter(&node.netns),
        cluster.manifests().display()
    );
    Ok(())
}

/// Sends requests over every path to the Service, and prints the pods that answered.
fn show_paths(cluster: &Cluster) -> Result<()> {
    heading("Every path to the Service");
    println!(
        "{REQUESTS} requests over each path. A row shows how many each pod answered. The programs \
         translate a\nClusterIP at the socket where they know the process, and else packet by packet."
    );
    let node = &cluster.nodes[0];
    let pod = &node.pods[0].netns;
    let http = |from: &Netns, address: IpAddr, port| {
        let address = SocketAddr::new(address, port);
        from.run(move || tally((0..REQUESTS).map(|_| get(address).map(|answer| answer.pod))))
    };
    print_path(
        "NodePort, IPv4",
        &http(&cluster.client, node.v4.into(), 30080)?,
    );
    print_path(
        "NodePort, IPv6",
        &http(&cluster.client, node.v6.into(), 30080)?,
    );
    print_path("LoadBalancer", &http(&cluster.client, BALANCER.into(), 80)?);
    print_path(
        "ClusterIP from a pod (packets)",
        &http(pod, CLUSTER_IP.into(), 80)?,
    );
    let url = format!("http://{CLUSTER_IP}/");
    let by_socket = tally((0..REQUESTS).map(|_| {
        let mut curl = pod.command("curl", Some(&node.cgroup));
        let output = curl.args(["--silent", "--max-time", "3", &url]).output()?;
        let body = String::from_utf8_lossy(&output.stdout).into_owned();
        let name = body.split('"').find(|word| word.starts_with("web-"));
        name.map(String::from)
            .ok_or_else(|| io::Error::other(format!("curl: {}", output.status)))
    }))?;
    print_path("ClusterIP from a pod (socket)", &by_socket);
    let address = SocketAddr::from((node.v4, 30007));
    let datagrams = cluster
        .client
        .run(move || tally((0..REQUESTS).map(|_| udp(address).map(|(answer, _)| answer.pod))))?;
    print_path("NodePort, UDP", &datagrams);
    Ok(())
}

/// Starts a proxy on every node, and sends requests to the first one with curl.
fn show_ingress(cluster: &mut Cluster) -> Result<()> {
    heading("Ingress: two hosts, TLS and paths");
    println!(
        "An L7 proxy on every node serves two Ingresses. Each row: a request from outside, the \
         HTTP version,\nthe status, and the redirect or the pod that answered."
    );
    let certificate = Certificate::new(&[SHOP])?;
    let authority = cluster.manifests().with_file_name("authority.pem");
    fs::write(&authority, &certificate.authority)?;
    cluster.write("secret.yaml", &certificate.secret("shop-tls"))?;
    cluster.write("ingress.yaml", INGRESSES)?;
    for index in 0..NODES.into() {
        cluster.start_proxy(index, &["--access-log", "off"])?;
    }
    let node = &cluster.nodes[0];
    for (title, url) in [
        (
            "HTTPS, certificate verified",
            format!("https://{SHOP}/cart"),
        ),
        ("HTTP to a host with TLS", format!("http://{SHOP}/cart")),
        ("path rewritten to /users", format!("http://{API}/v1/users")),
        ("path without a rule", format!("http://{API}/v2")),
    ] {
        let mut curl = cluster.client.command("curl", None);
        curl.args(["--silent", "--max-time", "5", "--noproxy", "*", "--cacert"])
            .arg(&authority)
            .args([
                "--write-out",
                " %{http_version} %{http_code} %{redirect_url}",
            ]);
        for at in [
            format!("{SHOP}:443"),
            format!("{SHOP}:80"),
            format!("{API}:80"),
        ] {
            curl.args(["--resolve", &format!("{at}:{}", node.v4)]);
        }
        let output = curl.arg(&url).output().context("curl")?;
        ensure!(output.status.success(), "curl {url}: {}", output.status);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, result) = text.rsplit_once(['\n', '}']).unwrap_or(("", &text));
        let pod = body.split('"').find(|word| word.starts_with("web-"));
        let answer = format!("{} {}", result.trim(), pod.unwrap_or_default());
        println!("{title:<32} {url:<34} HTTP/{}", answer.trim_end());
    }
    Ok(())
}

/// Sends requests with curl to a Gateway: by weight, by header, and redirected.
fn show_gateway(cluster: &Cluster) -> Result<()> {
    heading("Gateway API: weights, a header and a redirect");
    let node = &cluster.nodes[0];
    let canary = (NODES, PODS);
    let slices = slices(&[canary]).replace("web", "canary");
    cluster.write("canary-endpoints.yaml", &slices)?;
    cluster.write("gateway.yaml", GATEWAY)?;
    let mut show = std::process::Command::new(binary("headgate")?);
    show.args(["gateways", "-o", "json", "--source"]);
    let listeners = show.arg(cluster.manifests()).output()?;
    let listeners: Value = serde_json::from_slice(&listeners.stdout)?;
    let port = &listeners["items"][0]["target_port"];
    ensure!(port.is_u64(), "the Gateway is not served: {listeners}");
    let gateway = GATEWAY_SERVICE
        .replace("VIP", &GATEWAY_IP.to_string())
        .replace("TARGET", &port.to_string())
        .replace("NODE", &node.v4.to_string());
    cluster.write("gateway-service.yaml", &gateway)?;
    let route = format!("route add {GATEWAY_IP}/32 via {}", node.v4);
    cluster.client.batch(&route)?;
    println!(
        "The same proxies serve a Gateway and an HTTPRoute. Of ten requests nine are for web, and one for canary, \
         whose\nonly pod is web-{NODES}-{PODS}. In a cluster the Gateway's Service has its address; here the demo \
         makes one."
    );
    let curl = |options: &[&str], path: &str| -> Result<String> {
        let mut curl = cluster.client.command("curl", None);
        curl.args([
            "--silent",
            "--max-time",
            "9",
            "--retry",
            "9",
            "--retry-all-errors",
        ])
        .args(["--noproxy", "*", "--resolve"])
        .arg(format!("{GATEWAY_HOST}:80:{GATEWAY_IP}"))
        .args(options)
        .arg(format!("http://{GATEWAY_HOST}{path}"));
        let output = curl.output().context("curl")?;
        ensure!(output.status.success(), "curl {path}: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let pods = |text: &str| {
        let names = text.split('"').filter(|word| word.starts_with("web-"));
        tally(names.map(|name| Ok(name.to_owned())))
    };
    curl(&["--fail"], "/")?;
    print_path("by weight", &pods(&curl(&[], "/cart?[1-100]")?)?);
    let group = ["--header", "x-group: testers"];
    print_path(
        "with x-group: testers",
        &pods(&curl(&group, "/cart?[1-20]")?)?,
    );
    let redirect = [
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code} to %{redirect_url}",
    ];
    println!("{:<32} {}", "/old/shoes", curl(&redirect, "/old/shoes")?);
    Ok(())
}

/// Opens connections and sends datagrams to a Gateway whose routes the kernel serves.
fn show_listeners(cluster: &Cluster) -> Result<()> {
    heading("Gateway API: a TCPRoute and a UDPRoute, in the kernel");
    // In a cluster the controller writes it.
    let status = format!("status: {{addresses: [{{type: IPAddress, value: {LINES_IP}}}]}}\n");
    cluster.write("listeners.yaml", &format!("{LISTENERS}{status}"))?;
    let route = format!("route add {LINES_IP}/32 via {}", cluster.nodes[0].v4);
    cluster.client.batch(&route)?;
    println!(
        "No proxy is between: the agents put the weights of the routes into the tables of the kernel. Of ten \
         connections\nseven are for web, and three for canary."
    );
    let to = SocketAddr::from((LINES_IP, LINES_PORT));
    let ask = |send: fn(SocketAddr) -> io::Result<String>| {
        let answers = move || tally((0..REQUESTS).map(|_| send(to)));
        cluster.client.run(answers)
    };
    let is_served = move || get(to).is_ok();
    while !cluster.client.run(is_served) {
        thread::sleep(ACT / 100);
    }
    print_path("TCPRoute", &ask(|to| Ok(get(to)?.pod))?);
    print_path("UDPRoute", &ask(|to| Ok(udp(to)?.0.pod))?);
    Ok(())
}

type Answers = BTreeMap<String, usize>;

fn tally(answers: impl Iterator<Item = io::Result<String>>) -> Result<Answers> {
    let mut tally = Answers::new();
    for pod in answers {
        *tally.entry(pod?).or_default() += 1;
    }
    Ok(tally)
}

fn print_path(path: &str, answers: &Answers) {
    let pods: Vec<String> = answers
        .iter()
        .map(|(pod, count)| format!("{pod} {count:>3}"))
        .collect();
    println!("{path:<32} {}", pods.join("   "));
}

/// Starts a client that opens one connection after another.
fn start_load(cluster: &Cluster) -> Load {
    let address = SocketAddr::from((cluster.nodes[0].v4, 30080));
    Load::new().with(&cluster.client, Duration::ZERO, connections(address))
}

/// Prints the answers; returns the number of lost requests.
fn finish(load: Load) -> usize {
    let tally: Tally = load.finish().into_iter().sum();
    let (answered, lost) = (tally.answered(), tally.lost.len());
    print_path(&format!("{answered} answered, {lost} lost"), &tally.answers);
    lost
}
