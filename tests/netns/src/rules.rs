//! Services as manifests for headgate, and as the rules that kube-proxy 1.33 writes for them in its modes
//! `nftables` and `iptables`, chain by chain (`pkg/proxy/nftables/proxier.go`,
//! `pkg/proxy/iptables/proxier.go`).

use std::{
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
};

use crate::netns::Netns;
use anyhow::{Context, Result, ensure};

/// A family of addresses, which has rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its name in rules of nftables.
    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    /// Addresses of pods. Other clients of a cluster IP are masqueraded.
    const fn pods(self) -> &'static str {
        match self {
            Self::V4 => "10.244.0.0/16",
            Self::V6 => "fd44::/16",
        }
    }

    /// Addresses of Services.
    const fn services(self) -> &'static str {
        match self {
            Self::V4 => "10.96.0.0/12",
            Self::V6 => "fd96::/112",
        }
    }
}

/// One port of a Service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its cluster IP.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its node port, if it has one.
    pub node_port: Option<u16>,
    /// Its endpoints.
    pub endpoints: Vec<SocketAddr>,
}

impl Service {
    /// A service without clients, with two endpoints; each number gives another one.
    pub fn filler(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let endpoint = |network| ([10, network, high, low], 8080).into();
        Self {
            name: format!("filler-{number}"),
            address: Ipv4Addr::new(10, 97, high, low).into(),
            port: 80,
            protocol: "tcp",
            node_port: None,
            endpoints: vec![endpoint(245), endpoint(246)],
        }
    }
}

/// Manifests of services of IPv4 and endpoint slices. An endpoint `10.244.N.x` is on node `nN`.
pub fn manifests(services: &[Service]) -> String {
    let mut text = String::new();
    for service in services {
        let Service {
            name,
            address,
            port,
            ..
        } = service;
        let protocol = service.protocol.to_uppercase();
        let (kind, node_port) = match service.node_port {
            Some(port) => ("NodePort", format!(", nodePort: {port}")),
            None => ("ClusterIP", String::new()),
        };
        let target = service.endpoints.first().map_or(80, SocketAddr::port);
        let endpoints: Vec<String> = service
            .endpoints
            .iter()
            .map(|endpoint| {
                let address = endpoint.ip().to_string();
                let node = address.split('.').nth(2).unwrap_or_default();
                format!("{{addresses: [{address}], nodeName: n{node}}}")
            })
            .collect();
        let _infallible = write!(
            text,
            "---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: {kind}, \
             clusterIP: {address}, ports: [{{port: {port}, protocol: {protocol}, \
             targetPort: {target}{node_port}}}]}}}}\n\
             ---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, \
             labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, \
             ports: [{{port: {target}, protocol: {protocol}}}], endpoints: [{}]}}\n",
            endpoints.join(", ")
        );
    }
    text
}

/// Commands for `nft -f` on a node with this address, for the services of its family.
pub fn nftables(services: &[Service], node: IpAddr) -> String {
    let family = Family::of(node);
    let (ip, services_of_cluster) = (family.name(), family.services());
    let address = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let mut text = format!(
        "add table {ip} kube-proxy\n\
         add set {ip} kube-proxy cluster-ips {{ type {address} ; }}\n\
         add set {ip} kube-proxy nodeport-ips {{ type {address} ; }}\n\
         add map {ip} kube-proxy firewall-ips {{ type {address} . inet_proto . inet_service : verdict ; }}\n\
         add map {ip} kube-proxy no-endpoint-nodeports {{ type inet_proto . inet_service : verdict ; }}\n\
         add map {ip} kube-proxy no-endpoint-services {{ type {address} . inet_proto . inet_service : verdict ; }}\n\
         add map {ip} kube-proxy service-ips {{ type {address} . inet_proto . inet_service : verdict ; }}\n\
         add map {ip} kube-proxy service-nodeports {{ type inet_proto . inet_service : verdict ; }}\n\
         add chain {ip} kube-proxy cluster-ips-check\n\
         add chain {ip} kube-proxy filter-prerouting-pre-dnat {{ type filter hook prerouting priority -110 ; }}\n\
         add chain {ip} kube-proxy filter-output-pre-dnat {{ type filter hook output priority -110 ; }}\n\
         add chain {ip} kube-proxy filter-forward {{ type filter hook forward priority 0 ; }}\n\
         add chain {ip} kube-proxy filter-input {{ type filter hook input priority 0 ; }}\n\
         add chain {ip} kube-proxy filter-output {{ type filter hook output priority 0 ; }}\n\
         add chain {ip} kube-proxy firewall-check\n\
         add chain {ip} kube-proxy mark-for-masquerade\n\
         add chain {ip} kube-proxy masquerading\n\
         add chain {ip} kube-proxy nat-output {{ type nat hook output priority -100 ; }}\n\
         add chain {ip} kube-proxy nat-postrouting {{ type nat hook postrouting priority 100 ; }}\n\
         add chain {ip} kube-proxy nat-prerouting {{ type nat hook prerouting priority -100 ; }}\n\
         add chain {ip} kube-proxy nodeport-endpoints-check\n\
         add chain {ip} kube-proxy services\n\
         add chain {ip} kube-proxy service-endpoints-check\n\
         add rule {ip} kube-proxy cluster-ips-check {ip} daddr @cluster-ips reject\n\
         add rule {ip} kube-proxy cluster-ips-check {ip} daddr {{ {services_of_cluster} }} drop\n\
         add rule {ip} kube-proxy filter-prerouting-pre-dnat ct state new jump firewall-check\n\
         add rule {ip} kube-proxy filter-forward ct state new jump service-endpoints-check\n\
         add rule {ip} kube-proxy filter-forward ct state new jump cluster-ips-check\n\
         add rule {ip} kube-proxy filter-input ct state new jump nodeport-endpoints-check\n\
         add rule {ip} kube-proxy filter-input ct state new jump service-endpoints-check\n\
         add rule {ip} kube-proxy filter-output ct state new jump service-endpoints-check\n\
         add rule {ip} kube-proxy filter-output-pre-dnat ct state new jump firewall-check\n\
         add rule {ip} kube-proxy filter-output ct state new jump cluster-ips-check\n\
         add rule {ip} kube-proxy firewall-check {ip} daddr . meta l4proto . th dport vmap @firewall-ips\n\
         add rule {ip} kube-proxy mark-for-masquerade mark set mark or 0x4000\n\
         add rule {ip} kube-proxy masquerading mark and 0x4000 == 0 return\n\
         add rule {ip} kube-proxy masquerading mark set mark xor 0x4000\n\
         add rule {ip} kube-proxy masquerading masquerade fully-random\n\
         add rule {ip} kube-proxy nat-output jump services\n\
         add rule {ip} kube-proxy nat-postrouting jump masquerading\n\
         add rule {ip} kube-proxy nat-prerouting jump services\n\
         add rule {ip} kube-proxy nodeport-endpoints-check {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports\n\
         add rule {ip} kube-proxy services {ip} daddr . meta l4proto . th dport vmap @service-ips\n\
         add rule {ip} kube-proxy services {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n\
         add rule {ip} kube-proxy service-endpoints-check {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services\n\
         add element {ip} kube-proxy nodeport-ips {{ {node} }}\n"
    );
    let mut elements = String::new();
    for (number, service) in of(family, services) {
        add_nftables(&mut text, &mut elements, number, service);
    }
    text + &elements
}

/// The services of a family, numbered.
fn of(family: Family, services: &[Service]) -> impl Iterator<Item = (usize, &Service)> {
    let services = services.iter().enumerate();
    services.filter(move |(_, service)| Family::of(service.address) == family)
}

/// Adds the chains and rules of a service to `text`, and its map elements to `elements`.
fn add_nftables(text: &mut String, elements: &mut String, number: usize, service: &Service) {
    let Service {
        name,
        address,
        port,
        protocol,
        node_port,
        endpoints,
    } = service;
    let family = Family::of(*address);
    let (ip, pods) = (family.name(), family.pods());
    let id = format!("{number:08}-default/{name}/{protocol}/");
    let chain = format!("service-{id}");
    let mut choices = Vec::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let source = endpoint.ip();
        // A name has no colon.
        let named = source.to_string().replace(':', ".");
        let chain = format!("endpoint-{id}__{named}/{}", endpoint.port());
        choices.push(format!("{index} : goto {chain}"));
        *text += &format!(
            "add chain {ip} kube-proxy {chain}\n\
             add rule {ip} kube-proxy {chain} {ip} saddr {source} jump mark-for-masquerade\n\
             add rule {ip} kube-proxy {chain} meta l4proto {protocol} dnat to {endpoint}\n"
        );
    }
    *text += &format!(
        "add chain {ip} kube-proxy {chain}\n\
         add rule {ip} kube-proxy {chain} {ip} daddr {address} {ip} saddr != {pods} jump mark-for-masquerade\n\
         add rule {ip} kube-proxy {chain} numgen random mod {} vmap {{ {} }}\n",
        endpoints.len(),
        choices.join(" , ")
    );
    *elements += &format!(
        "add element {ip} kube-proxy cluster-ips {{ {address} }}\n\
         add element {ip} kube-proxy service-ips {{ {address} . {protocol} . {port} : goto {chain} }}\n"
    );
    if let Some(node_port) = node_port {
        let external = format!("external-{id}");
        *text += &format!(
            "add chain {ip} kube-proxy {external}\n\
             add rule {ip} kube-proxy {external} jump mark-for-masquerade\n\
             add rule {ip} kube-proxy {external} goto {chain}\n"
        );
        *elements += &format!(
            "add element {ip} kube-proxy service-nodeports {{ {protocol} . {node_port} : goto {external} }}\n"
        );
    }
}

/// The parts of the table `nat` that services add to.
#[derive(Default)]
struct Nat {
    chains: String,
    /// Rules of the chain `KUBE-SERVICES`.
    services: String,
    /// Rules of the chain `KUBE-NODEPORTS`.
    node_ports: String,
    /// Rules of the chains of services and endpoints.
    rules: String,
}

impl Nat {
    fn add(&mut self, number: usize, service: &Service) {
        let Service {
            name,
            address,
            port,
            protocol,
            node_port,
            endpoints,
        } = service;
        let pods = Family::of(*address).pods();
        let svc = format!("KUBE-SVC-{number:016}");
        let comment = format!("-m comment --comment \"default/{name}\"");
        let matching = format!("-m {protocol} -p {protocol}");
        let to_service = format!("{comment} {matching} -d {address} --dport {port}");
        self.chains += &format!(":{svc} - [0:0]\n");
        self.services += &format!("-A KUBE-SERVICES {to_service} -j {svc}\n");
        self.rules += &format!("-A {svc} {to_service} ! -s {pods} -j KUBE-MARK-MASQ\n");
        if let Some(node_port) = node_port {
            let ext = format!("KUBE-EXT-{number:016}");
            self.chains += &format!(":{ext} - [0:0]\n");
            self.node_ports +=
                &format!("-A KUBE-NODEPORTS {comment} {matching} --dport {node_port} -j {ext}\n");
            self.rules += &format!("-A {ext} {comment} -j KUBE-MARK-MASQ\n-A {ext} -j {svc}\n");
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let sep = format!("KUBE-SEP-{:016}", number << 8 | index);
            let left = endpoints.len() - index;
            let random = match left {
                1 => String::new(),
                _ => format!(
                    "-m statistic --mode random --probability {:.10} ",
                    1.0 / left as f64
                ),
            };
            self.chains += &format!(":{sep} - [0:0]\n");
            self.rules += &format!(
                "-A {svc} {comment} {random}-j {sep}\n\
                 -A {sep} {comment} -s {} -j KUBE-MARK-MASQ\n\
                 -A {sep} {comment} {matching} -j DNAT --to-destination {endpoint}\n",
                endpoint.ip()
            );
        }
    }
}

/// Input of `iptables-restore` or `ip6tables-restore`, for the services of the family.
pub fn iptables(services: &[Service], family: Family) -> String {
    let mut nat = Nat::default();
    for (number, service) in of(family, services) {
        nat.add(number, service);
    }
    let Nat {
        chains,
        services,
        node_ports,
        rules,
    } = nat;
    format!(
        "*filter\n\
         :KUBE-EXTERNAL-SERVICES - [0:0]\n\
         :KUBE-FORWARD - [0:0]\n\
         :KUBE-NODEPORTS - [0:0]\n\
         :KUBE-PROXY-FIREWALL - [0:0]\n\
         :KUBE-SERVICES - [0:0]\n\
         -A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
         -A INPUT -j KUBE-NODEPORTS\n\
         -A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
         -A FORWARD -j KUBE-FORWARD\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
         -A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL\n\
         -A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n\
         *nat\n\
         :KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-NODEPORTS - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n\
         :KUBE-SERVICES - [0:0]\n\
         {chains}\
         -A PREROUTING -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-SERVICES\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         {services}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         {node_ports}{rules}\
         COMMIT\n"
    )
}

/// Loads commands of nft(8), as those of [`nftables`].
pub fn load_nftables(netns: &Netns, text: &str) -> Result<()> {
    feed(netns, "nft", &["-f", "-"], text)
}

/// Loads input of [`iptables`].
pub fn load_iptables(netns: &Netns, family: Family, text: &str) -> Result<()> {
    let program = match family {
        Family::V4 => "iptables-legacy-restore",
        Family::V6 => "ip6tables-legacy-restore",
    };
    feed(netns, program, &[], text)
}

fn feed(netns: &Netns, program: &str, words: &[&str], text: &str) -> Result<()> {
    let mut child = netns
        .command(program, None)
        .args(words)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.to_owned())?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let written = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {error}");
    Ok(written?)
}
