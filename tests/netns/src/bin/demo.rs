//! `headgate-demo`: a cluster of network namespaces on this machine, with real traffic.

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
    Certificate, Cluster, INGRESSES, Load, Netns, PROXY_USER, SERVICE, Tally, binary, connections,
    get, slices, udp,
};
use nix::unistd::geteuid;

#[derive(Parser)]
struct Options {
    /// Leave the cluster up and print how to look around
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
/// The hosts of the example.
const SHOP: &str = "shop.example.com";
const API: &str = "api.example.com";
/// How long each act under load lasts.
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
    heading(&format!(
        "a cluster of {NODES} nodes with {PODS} pods each, and a client outside"
    ));
    Cluster::sweep(PREFIX)?;
    let mut cluster = Cluster::new(PREFIX, NODES, PODS)?;
    cluster.write("web.yaml", SERVICE)?;
    let mut pods: Vec<(u8, u8)> = (1..=NODES)
        .flat_map(|node| (1..=PODS).map(move |pod| (node, pod)))
        .collect();
    cluster.write("web-endpoints.yaml", &slices(&pods))?;
    for index in 0..NODES.into() {
        cluster.start_agent_with(index, &["--proxy-user", PROXY_USER])?;
    }
    cluster.client.batch(&format!(
        "route add {BALANCER}/32 via {}",
        cluster.nodes[0].v4
    ))?;
    println!("Service web: port 80 -> 9376 on {} pods", pods.len());

    heading(&format!(
        "{REQUESTS} requests over each path, and the pods that answered"
    ));
    show_paths(&cluster)?;

    heading("Ingress: two hosts, TLS and paths, from outside");
    show_ingress(&mut cluster)?;

    heading("under load: a pod is scaled away");
    let load = start_load(&cluster);
    thread::sleep(ACT);
    pods.pop();
    cluster.write("web-endpoints.yaml", &slices(&pods))?;
    thread::sleep(ACT / 10);
    let removed = format!("web-{NODES}-{PODS}");
    let before = load.tally().of(&removed);
    thread::sleep(ACT);
    println!(
        "{removed} answered {before} requests, and {} after it left",
        load.tally().of(&removed) - before
    );
    let mut lost = finish(load);

    heading("under load: the agent of n1 is killed, and started again");
    let load = start_load(&cluster);
    thread::sleep(ACT / 2);
    cluster.nodes[0]
        .agent
        .take()
        .context("n1 has no agent")?
        .kill()?;
    println!("killed");
    thread::sleep(ACT);
    cluster.start_agent_with(0, &["--proxy-user", PROXY_USER])?;
    println!("started");
    thread::sleep(ACT / 2);
    lost += finish(load);

    heading("what n1 says of it");
    for words in ["services", "backends"] {
        let mut show = std::process::Command::new(binary("headgate")?);
        show.arg("--pins").arg(&cluster.nodes[0].pins).arg(words);
        println!("$ headgate {words}");
        let status = show.status()?;
        ensure!(status.success(), "headgate {words}: {status}");
    }
    println!("requests lost: {lost}");
    if options.keep {
        println!("\nThe cluster stays. Look around:");
        println!(
            "  target/release/headgate --pins {} status",
            cluster.nodes[0].pins.display()
        );
        println!(
            "  target/release/headgate --pins {} conntrack",
            cluster.nodes[0].pins.display()
        );
        println!(
            "  nsenter --net={} curl {}:30080",
            cluster.client.path().display(),
            cluster.nodes[0].v4
        );
        println!("  edit the manifests in {}", cluster.manifests().display());
        println!("Remove it: cargo xtask demo --down");
        cluster.keep();
    }
    ensure!(lost == 0, "{lost} requests were lost");
    Ok(())
}

fn show_paths(cluster: &Cluster) -> Result<()> {
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
        "ClusterIP from a pod, by packet",
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
    print_path("ClusterIP from a pod, by socket", &by_socket);
    let address = SocketAddr::from((node.v4, 30007));
    let datagrams = cluster
        .client
        .run(move || tally((0..REQUESTS).map(|_| udp(address).map(|(answer, _)| answer.pod))))?;
    print_path("NodePort, UDP", &datagrams);
    Ok(())
}

/// Serves the example by proxies on every node, and asks the first one with curl.
fn show_ingress(cluster: &mut Cluster) -> Result<()> {
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
        ("HTTPS, certificate checked", format!("https://{SHOP}/cart")),
        ("HTTP where there is TLS", format!("http://{SHOP}/cart")),
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
        println!(
            "{title:<32} {url:<34} HTTP/{} {}",
            result.trim(),
            pod.unwrap_or_default()
        );
    }
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

/// New connections, one after another.
fn start_load(cluster: &Cluster) -> Load {
    let address = SocketAddr::from((cluster.nodes[0].v4, 30080));
    Load::new().with(&cluster.client, Duration::ZERO, connections(address))
}

/// Prints what was answered, and returns how many requests were not.
fn finish(load: Load) -> usize {
    let tally: Tally = load.finish().into_iter().sum();
    let (answered, lost) = (tally.answered(), tally.lost.len());
    print_path(
        &format!("{answered} answered, {lost} lost:"),
        &tally.answers,
    );
    lost
}
