//! Devices that packets come from and leave by, packet by packet. The kernel's part is tried in network namespaces.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use headgate_abi::{
    AddressEntry, BackendEntry, FrontendFlags, FrontendKey, FrontendKind, PodSockets, Port,
    Protocol, Reason, SourceEntry,
};
use headgate_datapath::{
    Hook, NextHop, Route, RouteResult,
    socket::{Decision, Destination, translate},
};
use headgate_packets::{Builder, Host, describe, is_checksum_right};

use super::{
    dsr,
    services::{CLUSTER_IP, Walks, address, state},
};

/// Bytes of an Ethernet header.
const LINK: usize = 14;

fn route(result: RouteResult, ifindex: u32) -> Route {
    Route {
        result,
        next_hop: NextHop {
            ifindex,
            destination: [1; 6],
            source: [3; 6],
        },
        mtu: 1500,
    }
}

#[test]
fn s160_source_is_the_address_of_the_device_that_packets_leave_by() {
    let mut state = state();
    let own = SourceEntry {
        v4: address("10.9.0.1"),
        ..SourceEntry::default()
    };
    state.sources = [(7, own), (8, SourceEntry::default())].into();
    let known = "10.9.0.1";
    let default = "192.168.50.1";
    for (result, device, wanted) in [
        (RouteResult::NextHop, 7, known),
        (RouteResult::Neighbour, 7, known),
        // A device without address of the family, and one that the agent does not know.
        (RouteResult::NextHop, 8, default),
        (RouteResult::NextHop, 9, default),
        // Then the kernel does not name the device.
        (RouteResult::Stack, 7, default),
    ] {
        let mut host = Host::new(state.clone());
        host.route = route(result, device);
        let client = Builder::new("198.51.100.7:1000", "10.96.0.10:82");
        let outcome = host.run_tc(Hook::External, &client.tcp("S", b""));
        assert_eq!(outcome.reason, Reason::ToBackend);
        let text = describe(&outcome.frame);
        assert!(text.contains(&format!("{wanted} ")), "{device}: {text}");
        assert!(is_checksum_right(&outcome.frame));
        // Replies come to that address.
        let port = u16::from_be_bytes([outcome.frame[34], outcome.frame[35]]);
        let reply = Builder::new("10.244.2.2:9376", &format!("{wanted}:{port}"));
        let outcome = host.run_tc(Hook::External, &reply.tcp("SA", b""));
        assert_eq!(outcome.reason, Reason::ToClient);
    }
}

#[test]
fn s161_frames_without_link_header_have_the_same_outcome() {
    let v4 = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
    let v6 = Builder::new("[2001:db8::7]:1000", "[fd96::10]:53");
    let far = Builder::new("198.51.100.7:1000", "10.96.0.10:82");
    let backend = Builder::new("10.244.1.2:9376", "198.51.100.7:1000");
    let frames = [
        (Hook::External, v4.tcp("S", b"")),
        (Hook::External, v4.tcp("A", b"hello")),
        (Hook::Egress, backend.tcp("SA", b"")),
        (Hook::External, v6.udp(b"question")),
        (Hook::External, far.tcp("S", b"")),
        // Refused.
        (
            Hook::External,
            Builder::new("198.51.100.7:1000", "10.96.0.10:9").tcp("S", b""),
        ),
        (
            Hook::External,
            Builder::new("198.51.100.7:1000", "10.96.0.10:9").udp(b"x"),
        ),
        (
            Hook::External,
            Builder::new("[2001:db8::7]:1", "[fd96::10]:9").udp(b"x"),
        ),
        // Of no Service.
        (
            Hook::External,
            Builder::new("198.51.100.7:1000", "10.1.1.1:80").tcp("S", b""),
        ),
    ];
    for result in [
        RouteResult::Stack,
        RouteResult::NextHop,
        RouteResult::Neighbour,
    ] {
        let (mut with, mut without) = (Host::new(state()), Host::new(state()));
        with.route = route(result, 2);
        without.route = with.route;
        for (hook, frame) in &frames {
            let wanted = with.run_tc(*hook, frame);
            let found = without.run_l3(*hook, frame);
            assert_eq!((found.action, found.reason), (wanted.action, wanted.reason));
            assert_eq!(
                found.frame[LINK..],
                wanted.frame[LINK..],
                "{}",
                describe(frame)
            );
            // Only a frame that leaves by another device gets link addresses.
            let is_untouched = found.frame[..12] == frame[..12];
            let is_sent = wanted.action == "redirect" && result == RouteResult::NextHop;
            assert_eq!(is_untouched, !is_sent, "{}", describe(frame));
        }
        assert_eq!(with.connections, without.connections);
    }
}

#[test]
fn s162_pod_behind_a_device_that_is_taken_for_external_reaches_itself() {
    let mut host = Host::new(state());
    host.route = route(RouteResult::Neighbour, 2);
    let pod = Builder::new("10.244.1.2:1000", "10.96.0.10:80");
    let outcome = host.run_tc(Hook::External, &pod.tcp("S", b""));
    assert_eq!(
        (outcome.action, outcome.reason),
        ("redirect", Reason::ToBackend)
    );
    let text = describe(&outcome.frame);
    assert!(text.contains("192.168.50.1 "), "{text}");
}

#[test]
fn s160_outer_source_is_the_address_of_the_device_that_packets_leave_by() {
    let mut state = dsr::state(1);
    let own = SourceEntry {
        v4: address("10.9.0.1"),
        v6: address("fd09::1"),
    };
    state.sources = [(7, own)].into();
    let mut host = Host::new(state);
    for (device, v4, v6) in [(7, "10.9.0.1", "fd09::1"), (8, "192.168.50.1", "fd50::1")] {
        host.route = route(RouteResult::NextHop, device);
        for (client, node_port, at, wanted) in [
            ("192.168.50.100:40000", "192.168.50.1:30080", 26, v4),
            ("[fd50::100]:40000", "[fd50::1]:30080", 22, v6),
        ] {
            let frame = Builder::new(client, node_port).tcp("S", b"");
            let outcome = host.run_tc(Hook::External, &frame);
            assert_eq!(outcome.reason, Reason::Encapsulated);
            let wanted: std::net::IpAddr = wanted.parse().unwrap();
            let wanted = match wanted {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            assert_eq!(outcome.frame[at..at + wanted.len()], wanted, "{client}");
        }
    }
}

fn destination(port: u16, is_node: bool) -> Destination {
    Destination {
        address: address(CLUSTER_IP),
        port: Port::new(port),
        protocol: Protocol::TCP,
        netns: 7,
        is_node,
        last: (0, BackendEntry::default()),
    }
}

/// NodeLocal DNSCache adds the cluster IP of the DNS Service to a device of the node.
#[test]
fn s167_cluster_ip_that_the_node_holds_is_left_to_its_process() {
    let mut state = state();
    state
        .addresses
        .insert(address(CLUSTER_IP), AddressEntry::NODE);
    let mut walks = Walks::with("s167", state);
    let client = Builder::new("10.244.1.9:1000", "10.96.0.10:80");
    for frame in [
        client.tcp("S", b""),
        Builder::new("10.244.1.9:1000", "10.96.0.10:53").udp(b"question"),
        // Another port may be one of the process as well.
        Builder::new("10.244.1.9:1000", "10.96.0.10:8080").tcp("S", b""),
    ] {
        for hook in [Hook::External, Hook::Pod] {
            let outcome = walks.run_tc(hook, &frame);
            assert_eq!((outcome.action, outcome.reason), ("pass", Reason::NotOurs));
        }
    }
    for is_node in [true, false] {
        let decision = translate(&mut walks.host, &destination(80, is_node), 0);
        assert_eq!(decision, Decision::Leave);
    }
    // Its answers need no note.
    walks.run_tc(Hook::Egress, &client.reversed().tcp("SA", b""));
    assert!(walks.host.connections.is_empty());
    // A node port is on an address of the node as well, and served.
    let key = FrontendKey::new(address(CLUSTER_IP), Port::new(80), Protocol::TCP);
    let of_node = FrontendFlags::of_kind(FrontendKind::NodePort);
    let mut state = walks.host.state.clone();
    state.add_frontend(key, 1, of_node, AddressEntry::NODE);
    let mut host = Host::new(state);
    let outcome = host.run_tc(Hook::External, &client.tcp("S", b""));
    assert_eq!(outcome.reason, Reason::ToBackend);
}

#[test]
fn s168_sockets_of_pods_can_be_left_to_the_packet_path() {
    let mut state = state();
    state.config.leaves_pods = PodSockets::ALL;
    let mut host = Host::new(state);
    assert_eq!(
        translate(&mut host, &destination(80, false), 0),
        Decision::Leave
    );
    let decision = translate(&mut host, &destination(80, true), 0);
    assert!(matches!(decision, Decision::Backend { .. }), "{decision:?}");
    let pod = Builder::new("10.244.1.9:1000", "10.96.0.10:80").tcp("S", b"");
    assert_eq!(host.run_tc(Hook::Pod, &pod).reason, Reason::ToBackend);
}

#[test]
fn s178_pods_that_have_opted_out_are_left_to_the_packet_path() {
    let mut state = state();
    state.config.leaves_pods = PodSockets::OPTED_OUT;
    let mut host = Host::new(state);
    for (has_opted_out, is_node, is_left) in [
        (false, false, false),
        (true, false, true),
        // Its packets pass no device of a pod.
        (true, true, false),
    ] {
        host.has_opted_out = has_opted_out;
        let decision = translate(&mut host, &destination(80, is_node), 0);
        assert_eq!(
            decision == Decision::Leave,
            is_left,
            "{has_opted_out} {is_node}"
        );
    }
    host.state.config.leaves_pods = PodSockets::NONE;
    host.has_opted_out = true;
    let decision = translate(&mut host, &destination(80, false), 0);
    assert_ne!(decision, Decision::Leave, "the option is off");
}

#[test]
fn s174_replies_are_routed_here_where_rules_route_pods_by_source() {
    for (routes_replies, action, reason) in [
        (0, "pass", Reason::AtEgress),
        (1, "redirect", Reason::ToClient),
    ] {
        let mut state = state();
        state.config.routes_replies = routes_replies;
        let mut host = Host::new(state);
        let client = Builder::new("198.51.100.7:1000", "10.96.0.10:80");
        assert_eq!(
            host.run_tc(Hook::External, &client.tcp("S", b"")).reason,
            Reason::ToBackend
        );
        host.route = route(RouteResult::Neighbour, 2);
        let reply = Builder::new("10.244.1.2:9376", "198.51.100.7:1000").tcp("SA", b"");
        let outcome = host.run_tc(Hook::Pod, &reply);
        assert_eq!((outcome.action, outcome.reason), (action, reason));
        if routes_replies == 1 {
            // By the address that the client knows.
            let asked = host.asked.get().unwrap();
            assert_eq!(asked.source, address("10.96.0.10"));
        }
    }
}
