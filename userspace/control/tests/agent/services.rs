//! The rules of the Service API, from both sources: the maps of the agent on node `n1`.

use headgate_control::Served;
use headgate_model::{Actual, FrontendKind};
use tokio::time::timeout;

use crate::{
    memory::{PATIENCE, node},
    source::{Agent, Source, service, slice},
};

/// Runs a case on manifests, and on an API server whose watches break often.
macro_rules! on_both_sources {
    ($($name:ident;)+) => {
        mod manifests {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::source::Agent::on_manifests().await).await;
            })+
        }
        mod api {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::source::Agent::on_api().await).await;
            })+
        }
    };
}

on_both_sources! {
    s02_headless_and_external_names_program_nothing;
    s03_labels_assign_services_and_slices_to_other_proxies;
    s04_slices_are_joined_each_endpoint_once;
    s05_ports_are_joined_by_name_and_protocol;
    s06_endpoints_on_the_node_itself_are_refused;
    s07_no_order_of_events_leaves_stray_entries;
    s08_a_second_family_can_be_added_later;
    s09_change_of_type_and_ports_moves_frontends;
    s12_load_balancer_addresses_by_mode;
    s14_load_balancer_without_node_ports;
    s15_external_ips_but_not_the_nodes_own;
    s17_older_service_wins_and_the_next_takes_over;
    s17_an_address_in_another_form_is_the_same;
    s21_s23_local_policies;
    s22_health_check_counts_ready_endpoints_of_the_node;
    s25_hints_are_followed_if_all_have_them;
    s26_hints_do_not_count_under_local_policy;
    s30_s31_s32_endpoints_by_readiness;
    s50_sctp_is_refused_by_name;
    s60_a_node_that_is_being_removed_is_reported;
    s140_where_a_backend_is_is_each_services_statement;
    s142_endpoints_without_a_node;
    s151_source_ranges_restrict_their_family;
    s91_an_address_assigned_by_the_cluster_cannot_be_an_external_ip;
    s91_addresses_that_every_node_has_cannot_be_a_services;
}

const PORT: &str = "{name: '', port: 8080}";

fn line(frontend: &str, kind: &str, backends: &str) -> String {
    format!("tcp {frontend} {kind} in[{backends}] out[{backends}]\n")
}

fn web(spec: &str) -> String {
    service("web", &format!("clusterIP: 10.96.0.1, {spec}"))
}

fn pods(endpoints: &str) -> String {
    slice("web-1", "web", PORT, endpoints)
}

async fn s02_headless_and_external_names_program_nothing(mut agent: Agent) {
    let text = service("headless", "clusterIP: None, ports: [{port: 80}]")
        + &service("external", "type: ExternalName, externalName: example.com")
        + &web("ports: [{port: 80}]");
    agent.write("a.yaml", &text).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    assert_eq!(agent.refusals(), "");
}

async fn s03_labels_assign_services_and_slices_to_other_proxies(mut agent: Agent) {
    let text = web("ports: [{port: 80}]");
    agent.write("web.yaml", &text).await;
    let label =
        |text: &str, label: &str| text.replace("metadata: {", &format!("metadata: {{{label}"));
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    let other = label(
        &text,
        "labels: {service.kubernetes.io/service-proxy-name: other}, ",
    );
    agent.write("web.yaml", &other).await;
    agent.holds("").await;
    agent.write("web.yaml", &text).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    let endpoints = pods("{addresses: [10.244.1.2], nodeName: n1}");
    let headless = endpoints.replace("labels: {", "labels: {service.kubernetes.io/headless: '', ");
    let served = line("10.96.0.1:80", "ClusterIp", "10.244.1.2:8080@here");
    agent.write("pods.yaml", &endpoints).await;
    agent.holds(&served).await;
    agent.write("pods.yaml", &headless).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    agent.write("pods.yaml", &endpoints).await;
    agent.holds(&served).await;
    let others = endpoints.replace(
        "labels: {",
        "labels: {service.kubernetes.io/service-proxy-name: other, ",
    );
    agent.write("pods.yaml", &others).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
}

async fn s04_slices_are_joined_each_endpoint_once(mut agent: Agent) {
    agent.write("web.yaml", &web("ports: [{port: 80}]")).await;
    let text = slice(
        "a",
        "web",
        PORT,
        "{addresses: [10.244.1.2]}, {addresses: [10.244.1.3]}",
    ) + &slice(
        "b",
        "web",
        PORT,
        "{addresses: [10.244.1.3]}, {addresses: [10.244.1.4]}",
    ) + &slice("c", "web", PORT, "{addresses: ['fd44::2']}")
        + &slice("d", "other", PORT, "{addresses: [10.244.1.5]}");
    agent.write("slices.yaml", &text).await;
    let three = "10.244.1.2:8080@outside 10.244.1.3:8080@outside 10.244.1.4:8080@outside";
    agent.holds(&line("10.96.0.1:80", "ClusterIp", three)).await;
    let moved = text.replace(
        "kubernetes.io/service-name: other",
        "kubernetes.io/service-name: web",
    );
    agent.write("slices.yaml", &moved).await;
    let four = format!("{three} 10.244.1.5:8080@outside");
    agent.holds(&line("10.96.0.1:80", "ClusterIp", &four)).await;
    agent.write("slices.yaml", &text).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", three)).await;
}

async fn s05_ports_are_joined_by_name_and_protocol(mut agent: Agent) {
    let ports = "ports: [{name: http, port: 80, targetPort: web}, {name: dns, port: 53, protocol: UDP}, \
                 {name: dns-tcp, port: 53}, {name: idle, port: 99}]";
    let text = web(ports)
        + &slice(
            "a",
            "web",
            "{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}",
            "{addresses: [10.244.1.2]}",
        )
        + &slice(
            "b",
            "web",
            "{name: http, port: 9090}, {name: dns-tcp, port: 5354}",
            "{addresses: [10.244.1.3]}",
        );
    agent.write("web.yaml", &text).await;
    let udp =
        "udp 10.96.0.1:53 ClusterIp in[10.244.1.2:5353@outside] out[10.244.1.2:5353@outside]\n";
    let expected = line("10.96.0.1:53", "ClusterIp", "10.244.1.3:5354@outside")
        + udp
        + &line(
            "10.96.0.1:80",
            "ClusterIp",
            "10.244.1.2:8080@outside 10.244.1.3:9090@outside",
        )
        + &line("10.96.0.1:99", "ClusterIp", "");
    agent.holds(&expected).await;
}

async fn s06_endpoints_on_the_node_itself_are_refused(mut agent: Agent) {
    agent.write("web.yaml", &web("ports: [{port: 80}]")).await;
    agent
        .write("pods.yaml", &pods("{addresses: [192.0.2.1]}"))
        .await;
    agent
        .holds(&line("10.96.0.1:80", "ClusterIp", "192.0.2.1:8080@outside"))
        .await;
    if let Source::Api(_) = &agent.source {
        // The API server refuses them.
        return;
    }
    let bad = "{addresses: [127.0.0.1]}, {addresses: [169.254.1.1]}, {addresses: [224.0.0.1]}";
    agent.write("pods.yaml", &pods(bad)).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    for (index, address) in ["127.0.0.1", "169.254.1.1", "224.0.0.1"].iter().enumerate() {
        let complaint = format!(
            "EndpointSlice default/web-1: endpoints[{index}].addresses[0]: {address} is not an address"
        );
        agent.complains(&complaint).await;
    }
}

async fn s07_no_order_of_events_leaves_stray_entries(mut agent: Agent) {
    let endpoints = pods("{addresses: [10.244.1.2], nodeName: n1}");
    agent.write("pods.yaml", &endpoints).await;
    agent.write("web.yaml", &web("ports: [{port: 80}]")).await;
    let here = "10.244.1.2:8080@here";
    agent.holds(&line("10.96.0.1:80", "ClusterIp", here)).await;
    agent.write("pods.yaml", "").await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    agent.write("web.yaml", "").await;
    agent.holds("").await;
    let again = service("web", "clusterIP: 10.96.0.2, ports: [{port: 81}]");
    agent.write("web.yaml", &again).await;
    agent.holds(&line("10.96.0.2:81", "ClusterIp", "")).await;
    agent.write("pods.yaml", &endpoints).await;
    agent.holds(&line("10.96.0.2:81", "ClusterIp", here)).await;
    let mut agent = agent.restart().await;
    agent.holds(&line("10.96.0.2:81", "ClusterIp", here)).await;
    agent.write("web.yaml", "").await;
    agent.holds("").await;
    agent.write("pods.yaml", "").await;
    let actual = agent.maps.borrow().clone();
    assert!(
        actual.backends.is_empty() && actual.services.is_empty() && actual.addresses.is_empty()
    );
}

async fn s08_a_second_family_can_be_added_later(mut agent: Agent) {
    let one = web("ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, ports: [{port: 80}]");
    let both = service(
        "web",
        "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1'], ipFamilies: [IPv4, IPv6], \
         ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]",
    );
    let endpoints = pods("{addresses: [10.244.1.2]}")
        + &slice("web-6", "web", PORT, "{addresses: ['fd44::2']}");
    agent.write("pods.yaml", &endpoints).await;
    agent.write("web.yaml", &one).await;
    let v4 = line("10.96.0.1:80", "ClusterIp", "10.244.1.2:8080@outside");
    agent.holds(&v4).await;
    agent.write("web.yaml", &both).await;
    let v6 = line("[fd96::1]:80", "ClusterIp", "[fd44::2]:8080@outside");
    let v6 = v6
        .replace("[[", "[")
        .replace("in[fd44::2]", "in[fd44::2")
        .replace("out[fd44::2]", "out[fd44::2");
    agent.holds(&(v4 + &v6)).await;
}

async fn s09_change_of_type_and_ports_moves_frontends(mut agent: Agent) {
    let spec = |text: &str| web(text);
    agent
        .write(
            "web.yaml",
            &spec("type: NodePort, ports: [{port: 80, nodePort: 30080}]"),
        )
        .await;
    // The Service has IPv4 alone, and so has its node port.
    let node_ports = |port: u16| line(&format!("192.168.50.1:{port}"), "NodePort", "");
    agent
        .holds(&(line("10.96.0.1:80", "ClusterIp", "") + &node_ports(30080)))
        .await;
    agent
        .write(
            "web.yaml",
            &spec("type: NodePort, ports: [{port: 81, nodePort: 30081}]"),
        )
        .await;
    agent
        .holds(&(line("10.96.0.1:81", "ClusterIp", "") + &node_ports(30081)))
        .await;
    agent
        .write(
            "web.yaml",
            &spec("type: ClusterIP, ports: [{port: 81, protocol: UDP}]"),
        )
        .await;
    agent
        .holds(&line("10.96.0.1:81", "ClusterIp", "").replace("tcp", "udp"))
        .await;
    agent
        .write(
            "web.yaml",
            &service("web", "type: ExternalName, externalName: example.com"),
        )
        .await;
    agent.holds("").await;
    agent.write("web.yaml", &spec("ports: [{port: 80}]")).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
}

/// A LoadBalancer without node ports whose status is this.
fn balanced(spec: &str, ingress: &str) -> String {
    web(&format!(
        "type: LoadBalancer, allocateLoadBalancerNodePorts: false, {spec} ports: [{{port: 80}}]"
    )) + &format!("status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n")
}

async fn s12_load_balancer_addresses_by_mode(mut agent: Agent) {
    let ingress = "{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, \
                   {ip: 203.0.113.3, ipMode: Proxy}, {hostname: lb.example.com}";
    agent.write("web.yaml", &balanced("", ingress)).await;
    let expected = line("10.96.0.1:80", "ClusterIp", "")
        + &line("203.0.113.1:80", "LoadBalancer", "")
        + &line("203.0.113.2:80", "LoadBalancer", "");
    agent.holds(&expected).await;
}

async fn s14_load_balancer_without_node_ports(mut agent: Agent) {
    let text = balanced("loadBalancerClass: example.com/other,", "{ip: 203.0.113.1}");
    agent.write("web.yaml", &text).await;
    let expected =
        line("10.96.0.1:80", "ClusterIp", "") + &line("203.0.113.1:80", "LoadBalancer", "");
    agent.holds(&expected).await;
}

async fn s15_external_ips_but_not_the_nodes_own(mut agent: Agent) {
    let text = web("externalIPs: [198.51.100.1, 192.168.50.1], ports: [{port: 80}]");
    agent.write("web.yaml", &text).await;
    let cluster_ip = line("10.96.0.1:80", "ClusterIp", "");
    agent
        .holds(&(cluster_ip.clone() + &line("198.51.100.1:80", "ExternalIp", "")))
        .await;
    let own = "Service default/web: spec.externalIPs: 192.168.50.1 is an address of this node";
    agent.complains(own).await;
    // A virtual address that moves between nodes (VRRP) is served where it is now, too.
    let mut addresses = node().addresses;
    addresses.push("198.51.100.1".parse().unwrap());
    agent.set_node(headgate_model::Node {
        addresses,
        ..node()
    });
    let virtual_ip = line("198.51.100.1:80", "ExternalIp", "");
    agent.holds(&(cluster_ip.clone() + &virtual_ip)).await;
    agent.set_node(headgate_model::Node {
        serves_external_ips: false,
        ..node()
    });
    agent.holds(&cluster_ip).await;
    agent
        .complains("198.51.100.1: external IPs are disabled on this node")
        .await;
}

async fn s17_older_service_wins_and_the_next_takes_over(mut agent: Agent) {
    let claim = |name: &str, created: &str, number: u8| {
        let spec = format!(
            "clusterIP: 10.96.0.{number}, externalIPs: [198.51.100.1], ports: [{{port: 80}}]"
        );
        service(name, &spec).replace(
            "metadata: {",
            &format!("metadata: {{creationTimestamp: '{created}', "),
        )
    };
    let endpoints = slice("old-1", "old", PORT, "{addresses: [10.244.1.2]}")
        + &slice("new-1", "new", PORT, "{addresses: [10.244.1.3]}");
    agent.write("pods.yaml", &endpoints).await;
    agent
        .write("old.yaml", &claim("old", "2026-01-01T00:00:00Z", 2))
        .await;
    if let Source::Api(_) = &agent.source {
        // The server sets creation times, in whole seconds.
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }
    agent
        .write("new.yaml", &claim("new", "2026-02-01T00:00:00Z", 1))
        .await;
    let [old, new] = ["10.244.1.2:8080@outside", "10.244.1.3:8080@outside"];
    let expected = line("10.96.0.1:80", "ClusterIp", new)
        + &line("10.96.0.2:80", "ClusterIp", old)
        + &line("198.51.100.1:80", "ExternalIp", old);
    agent.holds(&expected).await;
    let lost = "Service default/new: spec.externalIPs: tcp 198.51.100.1:80 belongs to default/old";
    agent.complains(lost).await;
    agent.write("old.yaml", "").await;
    let expected =
        line("10.96.0.1:80", "ClusterIp", new) + &line("198.51.100.1:80", "ExternalIp", new);
    agent.holds(&expected).await;
}

/// An IPv4-mapped IPv6 address does not take an address from its owner or from the node.
async fn s17_an_address_in_another_form_is_the_same(mut agent: Agent) {
    agent.write("a.yaml", &web("ports: [{port: 80}]")).await;
    let thief = service(
        "z-thief",
        "clusterIP: 10.96.0.2, externalIPs: ['::ffff:10.96.0.1', '::ffff:192.168.50.1'], ports: [{port: 80}]",
    );
    agent.write("z.yaml", &thief).await;
    let endpoints = "{addresses: ['::ffff:10.244.1.2']}, {addresses: ['::ffff:127.0.0.1']}";
    agent
        .write("pods.yaml", &slice("z-1", "z-thief", PORT, endpoints))
        .await;
    let expected = line("10.96.0.1:80", "ClusterIp", "")
        + &line("10.96.0.2:80", "ClusterIp", "10.244.1.2:8080@outside");
    agent.holds(&expected).await;
    agent
        .complains("tcp 10.96.0.1:80 belongs to default/web")
        .await;
    agent
        .complains("192.168.50.1 is an address of this node")
        .await;
    agent
        .complains("127.0.0.1 is not an address of a Service or an endpoint")
        .await;
}

async fn s21_s23_local_policies(mut agent: Agent) {
    let text = web(
        "type: NodePort, externalTrafficPolicy: Local, internalTrafficPolicy: Local, \
         ports: [{port: 80, nodePort: 30080}]",
    );
    let both = "{addresses: [10.244.1.2], nodeName: n1}, {addresses: [10.244.2.2], nodeName: n2}";
    agent.write("web.yaml", &text).await;
    agent.write("pods.yaml", &pods(both)).await;
    let [here, there] = ["10.244.1.2:8080@here", "10.244.2.2:8080@there"];
    let expected = line("10.96.0.1:80", "ClusterIp", here)
        + &format!("tcp 192.168.50.1:30080 NodePort in[{here} {there}] out[{here}]\n");
    agent.holds(&expected).await;
    agent
        .write(
            "pods.yaml",
            &pods("{addresses: [10.244.2.2], nodeName: n2}"),
        )
        .await;
    let expected = line("10.96.0.1:80", "ClusterIp", "")
        + &format!("tcp 192.168.50.1:30080 NodePort in[{there}] out[]\n");
    agent.holds(&expected).await;
}

async fn s22_health_check_counts_ready_endpoints_of_the_node(mut agent: Agent) {
    let text = balanced(
        "externalTrafficPolicy: Local, healthCheckNodePort: 30999,",
        "{ip: 203.0.113.1}",
    );
    let counts = |endpoints: &'static str| (pods(endpoints), text.clone());
    for (endpoints, expected) in [
        (
            "{addresses: [10.244.1.2], nodeName: n1}, {addresses: [10.244.1.3], nodeName: n1}, \
             {addresses: [10.244.2.2], nodeName: n2}",
            2,
        ),
        (
            "{addresses: [10.244.1.2], nodeName: n1, conditions: {ready: false}}",
            0,
        ),
    ] {
        let (pods, text) = counts(endpoints);
        agent.write("web.yaml", &text).await;
        agent.write("pods.yaml", &pods).await;
        let is_so = agent.status.wait_for(|status| {
            let checks: Vec<_> = status.health_checks.values().collect();
            matches!(checks[..], [check] if check.port == 30999 && check.local_endpoints == expected)
        });
        let result = tokio::time::timeout(crate::memory::PATIENCE, is_so).await;
        assert!(result.is_ok(), "{expected} endpoints");
    }
    agent.write("web.yaml", "").await;
    let is_so = agent
        .status
        .wait_for(|status| status.health_checks.is_empty());
    assert!(
        tokio::time::timeout(crate::memory::PATIENCE, is_so)
            .await
            .is_ok()
    );
}

fn zone(zone: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\n\
         metadata: {{name: n1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
    )
}

const HINTED: &str = "{addresses: [10.244.1.2], hints: {forZones: [{name: a}]}}, \
                      {addresses: [10.244.1.3], hints: {forZones: [{name: b}]}}";

async fn s25_hints_are_followed_if_all_have_them(mut agent: Agent) {
    let frontend = |backends: &str| line("10.96.0.1:80", "ClusterIp", backends);
    let [a, b] = ["10.244.1.2:8080@outside", "10.244.1.3:8080@outside"];
    let text = web("trafficDistribution: PreferClose, ports: [{port: 80}]");
    agent.write("web.yaml", &text).await;
    agent.write("pods.yaml", &pods(HINTED)).await;
    agent.holds(&frontend(&format!("{a} {b}"))).await;
    for (name, backends) in [
        ("a", a.to_owned()),
        ("b", b.to_owned()),
        ("c", format!("{a} {b}")),
    ] {
        agent.write("node.yaml", &zone(name)).await;
        agent.holds(&frontend(&backends)).await;
    }
    agent.write("node.yaml", &zone("a")).await;
    agent.holds(&frontend(a)).await;
    let one_without = HINTED.replace(", hints: {forZones: [{name: b}]}", "");
    agent.write("pods.yaml", &pods(&one_without)).await;
    agent.holds(&frontend(&format!("{a} {b}"))).await;
    let by_node = "{addresses: [10.244.1.2], hints: {forZones: [{name: a}], forNodes: [{name: n2}]}}, \
                   {addresses: [10.244.1.3], hints: {forZones: [{name: b}], forNodes: [{name: n1}]}}";
    agent.write("pods.yaml", &pods(by_node)).await;
    agent.holds(&frontend(b)).await;
}

async fn s26_hints_do_not_count_under_local_policy(mut agent: Agent) {
    agent.write("node.yaml", &zone("b")).await;
    let text = web("internalTrafficPolicy: Local, sessionAffinity: ClientIP, ports: [{port: 80}]");
    agent.write("web.yaml", &text).await;
    let local = HINTED.replace("], hints", "], nodeName: n1, hints");
    agent.write("pods.yaml", &pods(&local)).await;
    let both = "10.244.1.2:8080@here 10.244.1.3:8080@here";
    agent.holds(&line("10.96.0.1:80", "ClusterIp", both)).await;
    let actual = agent.maps.borrow().clone();
    let timeouts: Vec<u32> = actual
        .services
        .values()
        .map(|(_, spec)| spec.affinity_timeout_s)
        .collect();
    assert_eq!(timeouts, [10_800], "the default of the API");
}

async fn s30_s31_s32_endpoints_by_readiness(mut agent: Agent) {
    let frontend = |backends: &str| line("10.96.0.1:80", "ClusterIp", backends);
    let endpoint = |last: u8, conditions: &str| {
        format!("{{addresses: [10.244.1.{last}], conditions: {{{conditions}}}}}, ")
    };
    agent
        .write(
            "web.yaml",
            &web("publishNotReadyAddresses: true, ports: [{port: 80}]"),
        )
        .await;
    let leaving = endpoint(3, "ready: false, serving: true, terminating: true")
        + &endpoint(4, "ready: false, serving: false, terminating: true")
        + &endpoint(5, "ready: false");
    // `ready` defaults to true.
    agent
        .write("pods.yaml", &pods(&(endpoint(2, "") + &leaving)))
        .await;
    agent.holds(&frontend("10.244.1.2:8080@outside")).await;
    agent.write("pods.yaml", &pods(&leaving)).await;
    agent.holds(&frontend("10.244.1.3:8080@outside")).await;
    agent
        .write("pods.yaml", &pods(&endpoint(5, "ready: false")))
        .await;
    agent.holds(&frontend("")).await;
    // With `publishNotReadyAddresses` an endpoint is ready in its slice.
    agent
        .write(
            "pods.yaml",
            &pods(&endpoint(5, "ready: true, serving: false")),
        )
        .await;
    agent.holds(&frontend("10.244.1.5:8080@outside")).await;
}

async fn s50_sctp_is_refused_by_name(mut agent: Agent) {
    let text = web("ports: [{name: a, port: 80}, {name: b, port: 81, protocol: SCTP}]");
    agent.write("web.yaml", &text).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    let complaint = "Service default/web: spec.ports[1].protocol: protocol SCTP is not supported";
    agent.complains(complaint).await;
}

async fn s60_a_node_that_is_being_removed_is_reported(mut agent: Agent) {
    agent.write("node.yaml", &zone("a")).await;
    let taint = "spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}\n";
    agent.write("node.yaml", &(zone("a") + taint)).await;
    let leaves = agent.status.wait_for(|status| status.node.is_leaving);
    assert!(
        tokio::time::timeout(crate::memory::PATIENCE, leaves)
            .await
            .is_ok()
    );
    agent.write("node.yaml", &zone("a")).await;
    let stays = agent.status.wait_for(|status| !status.node.is_leaving);
    assert!(
        tokio::time::timeout(crate::memory::PATIENCE, stays)
            .await
            .is_ok()
    );
}

async fn s140_where_a_backend_is_is_each_services_statement(mut agent: Agent) {
    let port = "ports: [{port: 80}]";
    agent.write("web.yaml", &web(port)).await;
    let liar = service("liar", &format!("clusterIP: 10.96.0.66, {port}"));
    agent.write("liar.yaml", &liar).await;
    let there = "{addresses: [10.244.2.2], nodeName: n2}";
    agent.write("pods.yaml", &pods(there)).await;
    // A slice of another Service names the same pod, and this node.
    let here = "{addresses: [10.244.2.2], nodeName: n1}";
    let lie = slice("liar-1", "liar", PORT, here);
    agent.write("lie.yaml", &lie).await;
    let web_line = line("10.96.0.1:80", "ClusterIp", "10.244.2.2:8080@there");
    let liar_line = |backends| line("10.96.0.66:80", "ClusterIp", backends);
    let both = web_line.clone() + &liar_line("10.244.2.2:8080@here");
    agent.holds(&both).await;
    agent.write("lie.yaml", "").await;
    agent.holds(&(web_line + &liar_line(""))).await;
    // The slices of one Service disagree: this node counts before another one, as with kube-proxy.
    let text = pods(there) + &slice("web-2", "web", PORT, here);
    agent.write("pods.yaml", &text).await;
    let web_line = line("10.96.0.1:80", "ClusterIp", "10.244.2.2:8080@here");
    agent.holds(&(web_line + &liar_line(""))).await;
}

async fn s142_endpoints_without_a_node(mut agent: Agent) {
    let spec = "externalTrafficPolicy: Local, type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    agent.write("web.yaml", &web(spec)).await;
    // An address of this node, and one that may be anywhere.
    let endpoints = "{addresses: [192.168.50.1]}, {addresses: [192.0.2.9]}";
    agent.write("pods.yaml", &pods(endpoints)).await;
    let all = "192.0.2.9:8080@outside 192.168.50.1:8080@here";
    // `Local` asks for the node's name, as with kube-proxy.
    let node_port = format!("tcp 192.168.50.1:30080 NodePort in[{all}] out[]\n");
    let held = line("10.96.0.1:80", "ClusterIp", all) + &node_port;
    agent.holds(&held).await;
    // What this node holds is here, whatever a slice says.
    let named = endpoints.replace("50.1]", "50.1], nodeName: n2");
    agent.write("pods.yaml", &pods(&named)).await;
    agent.holds(&held).await;
}

async fn s151_source_ranges_restrict_their_family(mut agent: Agent) {
    let mut cases = vec![
        ("0.0.0.0/0", [true, false]),
        ("'::/0'", [false, true]),
        ("10.0.0.0/8, 'fd00::/8'", [true, true]),
    ];
    if let Source::Manifests(_) = &agent.source {
        // The API server refuses them.
        cases.push(("10.0.0.0/33", [true, true]));
        cases.push(("10.0.0.0/8, 'fd00::/200'", [true, true]));
    }
    for (ranges, expected) in cases {
        let spec =
            format!("clusterIPs: [10.96.0.1, 'fd96::1'], loadBalancerSourceRanges: [{ranges}],");
        let text = balanced(&spec, "{ip: 203.0.113.1}, {ip: '2001:db8::1'}");
        agent.write("web.yaml", &text).await;
        let restricted = |actual: &Actual| {
            let frontends = actual.frontends.iter();
            let of_balancer = frontends.filter(|(_, spec)| spec.kind == FrontendKind::LoadBalancer);
            of_balancer
                .map(|(_, spec)| spec.is_restricted)
                .collect::<Vec<_>>()
        };
        let is_so = agent.maps.wait_for(|actual| restricted(actual) == expected);
        assert!(timeout(PATIENCE, is_so).await.is_ok(), "{ranges}");
    }
}

/// A Service that names the address of a later Service does not get it by being older.
async fn s91_an_address_assigned_by_the_cluster_cannot_be_an_external_ip(mut agent: Agent) {
    let external = "externalIPs: [10.96.0.1, 203.0.113.1], ports: [{port: 80}, {port: 81}]"
        .replace("{port: 80}", "{name: a, port: 80}")
        .replace("{port: 81}", "{name: b, port: 81}");
    let thief = service("thief", &format!("clusterIP: 10.96.0.2, {external}"));
    let thief = thief.replace(
        "metadata: {",
        "metadata: {creationTimestamp: '2026-01-01T00:00:00Z', ",
    );
    agent.write("a.yaml", &thief).await;
    let own = line("10.96.0.2:80", "ClusterIp", "") + &line("10.96.0.2:81", "ClusterIp", "");
    let taken = |address: &str, port: u16| line(&format!("{address}:{port}"), "ExternalIp", "");
    let [one, two] = ["10.96.0.1", "203.0.113.1"];
    let before = taken(one, 80) + &taken(one, 81) + &own + &taken(two, 80) + &taken(two, 81);
    agent.holds(&before).await;
    let spec = "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]";
    let balancer = web(spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}\n";
    agent.write("web.yaml", &balancer).await;
    let after = line("10.96.0.1:80", "ClusterIp", "")
        + &taken(one, 81)
        + &own
        + &line("203.0.113.1:80", "LoadBalancer", "")
        + &taken(two, 81);
    agent.holds(&after).await;
    for address in [one, two] {
        let lost = format!("spec.externalIPs: tcp {address}:80 belongs to default/web");
        agent.complains(&lost).await;
    }
    // A Service that names its own address twice is in conflict with no other.
    agent.write("a.yaml", "").await;
    let spec = "type: LoadBalancer, allocateLoadBalancerNodePorts: false, externalIPs: [203.0.113.1], ports: [{port: 80}]";
    let twice = web(spec) + "status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}\n";
    agent.write("web.yaml", &twice).await;
    let rest = line("10.96.0.1:80", "ClusterIp", "") + &line("203.0.113.1:80", "LoadBalancer", "");
    agent.holds(&rest).await;
    agent.is_content().await;
}

async fn s91_addresses_that_every_node_has_cannot_be_a_services(mut agent: Agent) {
    let bad = ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0"];
    let ips: Vec<String> = bad.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
    let spec = "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]";
    let status = format!(
        "status: {{loadBalancer: {{ingress: [{}]}}}}\n",
        ips.join(", ")
    );
    agent.write("web.yaml", &(web(spec) + &status)).await;
    agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
    for (index, address) in bad.iter().enumerate() {
        let complaint = format!(
            "Service default/web: status.loadBalancer.ingress[{index}]: {address} is not an address"
        );
        agent.complains(&complaint).await;
    }
    if let Source::Manifests(_) = &agent.source {
        // The API server refuses these.
        let spec = format!(
            "externalIPs: ['{}'], ports: [{{port: 80}}]",
            bad.join("', '")
        );
        agent.write("web.yaml", &web(&spec)).await;
        agent.holds(&line("10.96.0.1:80", "ClusterIp", "")).await;
        agent
            .complains("spec.externalIPs[1]: 169.254.169.254 is not an address")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s169_agent_beside_another_proxy_serves_only_its_services() {
    let named = |name: &str, number: u8, metadata: &str| {
        let spec = format!("clusterIP: 10.96.0.{number}, ports: [{{port: 80}}]");
        service(name, &spec).replace("metadata: {", &format!("metadata: {{{metadata}"))
    };
    const LABEL: &str = "service.kubernetes.io/service-proxy-name";
    let text = "---\nkind: Namespace\napiVersion: v1\nmetadata: {name: canary}\n".to_owned()
        + &named("plain", 1, "")
        + &named("ours", 2, &format!("labels: {{{LABEL}: headgate}}, "))
        + &named("theirs", 3, &format!("labels: {{{LABEL}: other}}, "))
        + &named("near", 4, "namespace: canary, ");
    for (proxy_name, namespaces, wanted) in [
        (None, "", vec![1, 4]),
        (Some("headgate"), "", vec![2]),
        (None, "canary", vec![4]),
        (None, "canary,default", vec![1, 4]),
        (Some("headgate"), "canary", vec![]),
    ] {
        for source in [Source::manifests(), Source::api().await] {
            let namespaces = namespaces.split_terminator(',');
            let served = Served {
                proxy_name: proxy_name.map(Into::into),
                namespaces: namespaces.map(Into::into).collect(),
            };
            let mut agent = Agent::serving(source, Actual::default(), served).await;
            agent.write("all.yaml", &text).await;
            let line = |number: &u8| line(&format!("10.96.0.{number}:80"), "ClusterIp", "");
            agent
                .holds(&wanted.iter().map(line).collect::<String>())
                .await;
        }
    }
}
