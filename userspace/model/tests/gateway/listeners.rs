use headgate_model::gateway::RouteKind;

use crate::build::{attached, cluster, condition, listener, name};

/// A Gateway `web` with these listeners.
fn gateway(listeners: &str) -> String {
    format!(
        "
kind: Gateway
metadata: {{name: web}}
spec:
  gatewayClassName: headgate
  allowedListeners: {{namespaces: {{from: All}}}}
  listeners: [{listeners}]
"
    )
}

/// Conditions `Accepted` and `Conflicted` of each listener of the Gateway `web`.
fn outcomes(listeners: &str) -> Vec<String> {
    let resolved = cluster(&gateway(listeners)).resolve();
    let verdicts = &resolved.verdicts[&name("web")].listeners;
    let texts = verdicts.iter().map(|one| {
        let both = ["Accepted", "Conflicted"].map(|type_| condition(&one.conditions, type_));
        both.join(" ")
    });
    texts.collect()
}

const FINE: &str = "True/Accepted False/NoConflicts";
const PROTOCOL: &str = "False/ProtocolConflict True/ProtocolConflict";
const HOSTNAME: &str = "False/HostnameConflict True/HostnameConflict";

const HTTP: &str = "{name: a, port: 80, protocol: HTTP, hostname: a.example}";
const TLS: &str = "tls: {mode: Terminate, certificateRefs: [{name: tls}]}";

#[test]
fn g28_g31_protocols_that_cannot_share_a_port_are_all_refused() {
    let https = format!("{{name: b, port: 80, protocol: HTTPS, hostname: b.example, {TLS}}}");
    let tls = "{name: c, port: 80, protocol: TLS, hostname: c.example, tls: {mode: Passthrough}}";
    let tcp = "{name: d, port: 80, protocol: TCP}";
    let udp = "{name: e, port: 80, protocol: UDP}";
    let other_tcp = "{name: f, port: 80, protocol: TCP}";
    let other_udp = "{name: g, port: 80, protocol: UDP}";
    for (one, other, expected) in [
        (HTTP, &https[..], PROTOCOL),
        (HTTP, tls, PROTOCOL),
        (HTTP, tcp, PROTOCOL),
        (&https[..], tcp, PROTOCOL),
        (tls, tcp, PROTOCOL),
        (tcp, other_tcp, PROTOCOL),
        (udp, other_udp, PROTOCOL),
        (&https[..], tls, FINE),
        (HTTP, udp, FINE),
        (tcp, udp, FINE),
    ] {
        let both = format!("{one}, {other}");
        assert_eq!(outcomes(&both), [expected, expected], "{both}");
    }
    // A listener of another port is not part of the conflict.
    let three = format!("{HTTP}, {tcp}, {{name: z, port: 81, protocol: HTTP}}");
    assert_eq!(outcomes(&three), [PROTOCOL, PROTOCOL, FINE]);
}

#[test]
fn g29_g31_host_names_twice_at_a_port_are_all_refused() {
    let same = "{name: b, port: 80, protocol: HTTP, hostname: A.EXAMPLE}";
    let wide = "{name: c, port: 80, protocol: HTTP, hostname: '*.example'}";
    let all = "{name: d, port: 80, protocol: HTTP}";
    let empty = "{name: e, port: 80, protocol: HTTP, hostname: ''}";
    let three = format!("{HTTP}, {same}, {wide}");
    assert_eq!(outcomes(&three), [HOSTNAME, HOSTNAME, FINE]);
    let three = format!("{HTTP}, {all}, {empty}");
    assert_eq!(outcomes(&three), [FINE, HOSTNAME, HOSTNAME]);
    let passed =
        "{name: b, port: 443, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}}";
    let https = format!("{{name: a, port: 443, protocol: HTTPS, hostname: a.example, {TLS}}}");
    assert_eq!(
        outcomes(&format!("{https}, {passed}")),
        [HOSTNAME, HOSTNAME]
    );
}

#[test]
fn g30_a_conflicted_listener_serves_nothing() {
    let mut cluster = cluster(&gateway(&format!(
        "{HTTP}, {{name: b, port: 80, protocol: HTTP, hostname: a.example}}, {{name: c, port: 81, protocol: HTTP}}"
    )));
    cluster.add(
        "
kind: HTTPRoute
metadata: {name: web}
spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}
",
    );
    let resolved = cluster.resolve();
    let programmed = listener(&resolved, "web", "a", "Programmed");
    assert_eq!(programmed, "False/HostnameConflict");
    let ports: Vec<u16> = resolved.gateways.keys().map(|port| port.port).collect();
    assert_eq!(ports, [81]);
    // G24: routes are counted all the same.
    assert_eq!(attached(&resolved, "web", "a"), 1);
}

/// A ListenerSet with one listener.
fn set(name: &str, created: i64, listener: &str) -> String {
    format!(
        "
---
kind: ListenerSet
metadata: {{name: {name}, namespace: team, creationTimestamp: {created}}}
spec:
  parentRef: {{name: web, namespace: default}}
  listeners: [{listener}]
"
    )
}

#[test]
fn g32_g33_g36_g38_the_gateway_wins_over_sets_and_older_sets_over_younger_ones() {
    let of = |host: &str| format!("{{name: x, port: 80, protocol: HTTP, hostname: {host}}}");
    let sets = [
        // Loses against the Gateway.
        set("lost", 1, &of("a.example")),
        set("older", 2, &of("b.example")),
        // Loses against the older one.
        set("younger", 3, &of("b.example")),
        // Of one age: by name.
        set("m", 4, &of("c.example")),
        set("n", 4, &of("c.example")),
        // Another protocol, older than those that win: it loses against the Gateway.
        set("tcp", 0, "{name: x, port: 80, protocol: TCP}"),
    ];
    let text = gateway(HTTP) + &sets.concat();
    let resolved = cluster(&text).resolve();
    let outcome = |set: &str, type_: &str| {
        let verdict = &resolved.listener_sets[&name(&format!("team/{set}"))];
        condition(&verdict.conditions, type_)
    };
    for (set, accepted) in [
        ("lost", false),
        ("older", true),
        ("younger", false),
        ("m", true),
        ("n", false),
        ("tcp", false),
    ] {
        let expected = match accepted {
            true => ["True/Accepted", "True/Programmed"],
            false => ["False/ListenersNotValid"; 2],
        };
        let both = ["Accepted", "Programmed"].map(|type_| outcome(set, type_));
        assert_eq!(both, expected, "{set}");
    }
    assert_eq!(
        listener(&resolved, "web", "a", "Conflicted"),
        "False/NoConflicts"
    );
    let verdict = &resolved.verdicts[&name("web")];
    assert_eq!(verdict.listener_sets, 2);
}

#[test]
fn g33_listeners_that_conflict_within_a_set_are_refused_and_no_others() {
    let pair = "{name: x, port: 80, protocol: HTTP, hostname: b.example}, \
                {name: y, port: 80, protocol: HTTP, hostname: b.example}, \
                {name: z, port: 80, protocol: HTTP, hostname: c.example}";
    let text = gateway(HTTP) + &set("pair", 1, pair);
    let resolved = cluster(&text).resolve();
    let verdict = &resolved.listener_sets[&name("team/pair")];
    let accepted = verdict.listeners.iter();
    let accepted: Vec<String> = accepted
        .map(|one| condition(&one.conditions, "Accepted"))
        .collect();
    let conflict = "False/HostnameConflict";
    assert_eq!(accepted, [conflict, conflict, "True/Accepted"]);
    assert_eq!(
        condition(&verdict.conditions, "Accepted"),
        "True/ListenersNotValid"
    );
}

#[test]
fn g34_g35_sets_need_leave_of_the_gateway() {
    for (allowed, accepted) in [
        ("", "False/NotAllowed"),
        ("allowedListeners: {}", "False/NotAllowed"),
        (
            "allowedListeners: {namespaces: {from: None}}",
            "False/NotAllowed",
        ),
        (
            "allowedListeners: {namespaces: {from: Same}}",
            "False/NotAllowed",
        ),
        (
            "allowedListeners: {namespaces: {from: All}}",
            "True/Accepted",
        ),
        (
            "allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: shop}}}}",
            "True/Accepted",
        ),
        (
            "allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: core}}}}",
            "False/NotAllowed",
        ),
    ] {
        let text = gateway(HTTP).replace("allowedListeners: {namespaces: {from: All}}", allowed);
        let listener = "{name: x, port: 80, protocol: HTTP}";
        let resolved = cluster(&(text + &set("more", 1, listener))).resolve();
        let verdict = &resolved.listener_sets[&name("team/more")];
        assert_eq!(
            condition(&verdict.conditions, "Accepted"),
            accepted,
            "{allowed}"
        );
        let programmed = condition(&verdict.conditions, "Programmed");
        let expected = accepted.replace("True/Accepted", "True/Programmed");
        assert_eq!(programmed, expected, "{allowed}");
    }
}

#[test]
fn g37_a_set_of_a_gateway_that_is_not_accepted_waits() {
    let text = gateway(HTTP).replace(
        "  listeners:",
        "  infrastructure: {parametersRef: {group: a, kind: B, name: c}}\n  listeners:",
    );
    let set_of =
        |text: &str| text.to_owned() + &set("more", 1, "{name: x, port: 81, protocol: HTTP}");
    let resolved = cluster(&set_of(&text)).resolve();
    let verdict = &resolved.listener_sets[&name("team/more")];
    assert_eq!(
        condition(&verdict.conditions, "Accepted"),
        "False/ParentNotAccepted"
    );
    assert!(resolved.gateways.is_empty());
    // The parent of another controller: nothing is written.
    let text = gateway(HTTP).replace("gatewayClassName: headgate", "gatewayClassName: other");
    let resolved = cluster(&set_of(&text)).resolve();
    assert!(resolved.listener_sets.is_empty() && resolved.verdicts.is_empty());
}

#[test]
fn g15_g17_a_gateway_is_accepted_with_a_valid_listener() {
    let odd = "{name: b, port: 81, protocol: example.com/FTP}";
    let accepted = |text: &str| {
        let resolved = cluster(text).resolve();
        condition(&resolved.verdicts[&name("web")].conditions, "Accepted")
    };
    assert_eq!(accepted(&gateway(HTTP)), "True/Accepted");
    let some = format!("{HTTP}, {odd}");
    assert_eq!(accepted(&gateway(&some)), "True/ListenersNotValid");
    assert_eq!(accepted(&gateway(odd)), "False/ListenersNotValid");
    let parameters = gateway(HTTP).replace(
        "  listeners:",
        "  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: c}}\n  listeners:",
    );
    assert_eq!(accepted(&parameters), "False/InvalidParameters");
}

#[test]
fn g132_a_type_of_address_that_is_not_known_refuses_the_gateway() {
    for (type_, accepted) in [
        ("", "True/Accepted"),
        ("type: IPAddress, ", "True/Accepted"),
        ("type: Hostname, ", "False/UnsupportedAddress"),
        ("type: NamedAddress, ", "False/UnsupportedAddress"),
    ] {
        let addresses = format!("  addresses: [{{{type_}value: x}}]\n  listeners:");
        let text = gateway(HTTP).replace("  listeners:", &addresses);
        let resolved = cluster(&text).resolve();
        let found = condition(&resolved.verdicts[&name("web")].conditions, "Accepted");
        assert_eq!(found, accepted, "{type_}");
        assert_eq!(
            resolved.gateways.is_empty(),
            accepted.starts_with("False"),
            "{type_}"
        );
    }
}

#[test]
fn g16_a_gateway_without_address_is_not_programmed() {
    let cluster = cluster(&gateway(HTTP));
    let resolved = cluster.resolve_with(&Default::default());
    let verdict = &resolved.verdicts[&name("web")];
    let programmed = condition(&verdict.conditions, "Programmed");
    assert_eq!(programmed, "False/AddressNotAssigned");
    assert_eq!(
        listener(&resolved, "web", "a", "Programmed"),
        "False/Pending"
    );
    let resolved = cluster.resolve();
    let verdict = &resolved.verdicts[&name("web")];
    assert_eq!(
        condition(&verdict.conditions, "Programmed"),
        "True/Programmed"
    );
    assert_eq!(
        listener(&resolved, "web", "a", "Programmed"),
        "True/Programmed"
    );
}

#[test]
fn g18_each_listener_has_all_conditions_in_the_order_of_the_spec() {
    let resolved = cluster(&gateway(&format!(
        "{{name: z, port: 81, protocol: HTTP}}, {HTTP}"
    )))
    .resolve();
    let listeners = &resolved.verdicts[&name("web")].listeners;
    let names: Vec<&str> = listeners.iter().map(|one| &*one.name).collect();
    assert_eq!(names, ["z", "a"]);
    for one in listeners {
        let types: Vec<&str> = one.conditions.iter().map(|one| one.type_).collect();
        assert_eq!(
            types,
            ["Accepted", "Conflicted", "ResolvedRefs", "Programmed"]
        );
    }
}

#[test]
fn g19_g20_g21_kinds_follow_from_the_protocol() {
    use RouteKind::{Grpc, Http, Tcp, Tls, Udp};
    const GOOD: &str = "True/ResolvedRefs";
    const BAD: &str = "False/InvalidRouteKinds";
    for (protocol, allowed, kinds, resolved_refs) in [
        ("protocol: HTTP", "", &[Http, Grpc][..], GOOD),
        (
            "protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}",
            "",
            &[Http, Grpc],
            GOOD,
        ),
        ("protocol: TLS, tls: {mode: Passthrough}", "", &[Tls], GOOD),
        ("protocol: TCP", "", &[Tcp], GOOD),
        ("protocol: UDP", "", &[Udp], GOOD),
        ("protocol: odd", "", &[], GOOD),
        ("protocol: HTTP", "{kind: HTTPRoute}", &[Http], GOOD),
        (
            "protocol: HTTP",
            "{kind: GRPCRoute}, {kind: HTTPRoute}",
            &[Grpc, Http],
            GOOD,
        ),
        (
            "protocol: HTTP",
            "{kind: HTTPRoute}, {kind: OtherRoute}",
            &[Http],
            BAD,
        ),
        ("protocol: HTTP", "{kind: TCPRoute}", &[], BAD),
        (
            "protocol: HTTP",
            "{group: other, kind: HTTPRoute}",
            &[],
            BAD,
        ),
        (
            "protocol: TLS, tls: {mode: Passthrough}",
            "{kind: HTTPRoute}",
            &[],
            BAD,
        ),
        (
            "protocol: TLS, tls: {mode: Passthrough}",
            "{kind: TLSRoute}, {kind: HTTPRoute}",
            &[Tls],
            BAD,
        ),
    ] {
        let listener_text =
            format!("{{name: a, port: 80, {protocol}, allowedRoutes: {{kinds: [{allowed}]}}}}");
        let resolved = cluster(&gateway(&listener_text)).resolve();
        let verdict = &resolved.verdicts[&name("web")].listeners[0];
        assert_eq!(verdict.kinds, kinds, "{listener_text}");
        let found = condition(&verdict.conditions, "ResolvedRefs");
        assert_eq!(found, resolved_refs, "{listener_text}");
        let accepted = condition(&verdict.conditions, "Accepted");
        let expected = match protocol.contains("odd") {
            true => "False/UnsupportedProtocol",
            false => "True/Accepted",
        };
        assert_eq!(accepted, expected, "{listener_text}");
    }
}

#[test]
fn g22_g23_certificates_must_exist_and_be_permitted() {
    let grant = |to: &str| {
        format!(
            "
---
kind: ReferenceGrant
metadata: {{name: a, namespace: team}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}}]
  to: [{{group: '', kind: Secret{to}}}]
"
        )
    };
    let other =
        "---\nkind: Secret\nmetadata: {name: tls, namespace: team}\ndata: {tls.crt: a, tls.key: b}";
    let with_other = |text: String| text + other;
    const GOOD: &str = "True/ResolvedRefs True/Programmed";
    const BAD: &str = "False/InvalidCertificateRef False/Invalid";
    const FORBIDDEN: &str = "False/RefNotPermitted False/Invalid";
    for (references, more, expected) in [
        ("{name: tls}", String::new(), GOOD),
        ("{name: missing}", String::new(), BAD),
        ("", String::new(), BAD),
        ("{group: example.com, name: tls}", String::new(), BAD),
        ("{kind: ConfigMap, name: tls}", String::new(), BAD),
        (
            "{name: half}",
            "---\nkind: Secret\nmetadata: {name: half}\ndata: {tls.crt: a}".into(),
            BAD,
        ),
        (
            "{name: odd}",
            "---\nkind: Secret\nmetadata: {name: odd}\ndata: {tls.crt: odd, tls.key: a}".into(),
            BAD,
        ),
        (
            "{name: tls, namespace: team}",
            other.to_owned().replacen("---", "\n---", 1),
            FORBIDDEN,
        ),
        ("{name: missing, namespace: team}", String::new(), FORBIDDEN),
        ("{name: tls, namespace: team}", with_other(grant("")), GOOD),
        (
            "{name: tls, namespace: team}",
            with_other(grant(", name: tls")),
            GOOD,
        ),
        (
            "{name: tls, namespace: team}",
            with_other(grant(", name: b")),
            FORBIDDEN,
        ),
    ] {
        let listeners = format!(
            "{{name: a, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{references}]}}}}, \
             {{name: b, port: 80, protocol: HTTP}}"
        );
        let mut cluster = cluster(&(gateway(&listeners) + &more));
        cluster.options.check_certificate = |certificate| match &certificate.chain[..] {
            b"odd" => Err("odd".into()),
            _ => Ok(()),
        };
        let resolved = cluster.resolve();
        let both =
            ["ResolvedRefs", "Programmed"].map(|type_| listener(&resolved, "web", "a", type_));
        assert_eq!(both.join(" "), expected, "{references} {more}");
        // The other listener is served, and the Gateway is accepted.
        assert_eq!(
            listener(&resolved, "web", "b", "Programmed"),
            "True/Programmed"
        );
        let serves = resolved.gateways.keys().any(|port| port.port == 443);
        assert_eq!(serves, expected == GOOD, "{references}");
    }
}

#[test]
fn g18_of_listeners_with_one_name_the_first_counts() {
    let other = "{name: a, port: 81, protocol: HTTP}";
    let resolved = cluster(&gateway(&format!("{HTTP}, {other}"))).resolve();
    assert_eq!(resolved.verdicts[&name("web")].listeners.len(), 1);
    let ports: Vec<u16> = resolved.gateways.keys().map(|port| port.port).collect();
    assert_eq!(ports, [80]);
}

#[test]
fn g25_a_port_that_does_not_exist_is_refused() {
    for port in ["0", "-1", "65536"] {
        let odd = format!("{{name: b, port: {port}, protocol: HTTP}}");
        let two = outcomes(&format!("{HTTP}, {odd}, {odd}"));
        assert_eq!(two[0], FINE);
        assert_eq!(two[1], "False/PortUnavailable False/NoConflicts", "{port}");
    }
}

#[test]
fn g36_g42_references_of_a_set_are_its_own() {
    let https = |reference: &str| {
        format!("{{name: x, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{reference}]}}}}")
    };
    let grant = |kind: &str| {
        format!(
            "
---
kind: ReferenceGrant
metadata: {{name: {kind}, namespace: default}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: team}}]
  to: [{{group: '', kind: Secret}}]
"
        )
    };
    let own = "---\nkind: Secret\nmetadata: {name: own, namespace: team}\ndata: {tls.crt: a, tls.key: b}\n";
    for (reference, more, expected) in [
        ("{name: own}", own.to_owned(), "True/ResolvedRefs"),
        (
            "{name: tls, namespace: default}",
            String::new(),
            "False/RefNotPermitted",
        ),
        (
            "{name: tls, namespace: default}",
            grant("Gateway"),
            "False/RefNotPermitted",
        ),
        (
            "{name: tls, namespace: default}",
            grant("ListenerSet"),
            "True/ResolvedRefs",
        ),
    ] {
        let text = gateway(HTTP) + &set("more", 1, &https(reference)) + &more;
        let resolved = cluster(&text).resolve();
        let set = &resolved.listener_sets[&name("team/more")];
        assert_eq!(
            condition(&set.listeners[0].conditions, "ResolvedRefs"),
            expected,
            "{reference} {more}"
        );
        // Its only listener is valid, or the set is not.
        let expected = match expected {
            "True/ResolvedRefs" => ["True/Accepted", "True/Programmed"],
            _ => ["False/ListenersNotValid"; 2],
        };
        let both = ["Accepted", "Programmed"].map(|type_| condition(&set.conditions, type_));
        assert_eq!(both, expected, "{reference} {more}");
        let sets = usize::from(both[0] == "True/Accepted");
        assert_eq!(resolved.verdicts[&name("web")].listener_sets, sets);
    }
}

#[test]
fn g104_client_certificates_that_cannot_be_checked_close_the_listener() {
    let validation = "validation: {caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}";
    let listeners = format!(
        "{{name: a, port: 443, protocol: HTTPS, hostname: a, {TLS}}}, \
         {{name: b, port: 444, protocol: HTTPS, {TLS}}}, {{name: c, port: 80, protocol: HTTP}}"
    );
    for (frontend, closed) in [
        (format!("default: {{{validation}}}"), [true, true, false]),
        (
            format!("default: {{}}, perPort: [{{port: 444, tls: {{{validation}}}}}]"),
            [false, true, false],
        ),
        (
            format!("default: {{{validation}}}, perPort: [{{port: 444, tls: {{}}}}]"),
            [true, false, false],
        ),
    ] {
        let text = gateway(&listeners).replace(
            "  listeners:",
            &format!("  tls: {{frontend: {{{frontend}}}}}\n  listeners:"),
        );
        let resolved = cluster(&text).resolve();
        let served =
            [443, 444, 80].map(|wanted| resolved.gateways.keys().any(|one| one.port == wanted));
        assert_eq!(served, closed.map(|closed| !closed), "{frontend}");
    }
}
