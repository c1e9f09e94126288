//! TLS of clients and of backends.

use std::collections::BTreeSet;

use headgate_model::{
    edge::{ClientCheck, SubjectName, Trust, UpstreamTls},
    gateway::{Resolved, RouteKind},
};

use crate::{
    build::{Cluster, cluster, condition, listener, name, route},
    request::{find, get},
};

const CA: &str = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n";

impl Cluster {
    fn config_map(&mut self, text: &str, data: &str) {
        let data = [("ca.crt".to_owned(), data.to_owned())].into();
        self.objects.config_maps.insert(name(text), data);
    }
}

/// A Gateway with HTTPS at ports 443 and 8443, and HTTP at 80.
fn gateway(tls: &str) -> Cluster {
    let https = "protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}";
    let mut cluster = cluster(&format!(
        "
kind: Gateway
metadata: {{name: web}}
spec:
  gatewayClassName: headgate
  tls: {{{tls}}}
  listeners:
  - {{name: a, port: 443, {https}}}
  - {{name: b, port: 8443, {https}}}
  - {{name: c, port: 80, protocol: HTTP}}
"
    ));
    for (name, text) in [
        ("ca", CA),
        ("team/ca", CA),
        ("odd", "no certificate"),
        ("bad", CA),
    ] {
        cluster.config_map(name, text);
    }
    cluster.config_map("bad", &CA.replace('x', "bad"));
    cluster.options.check_authorities = |pem| match pem.windows(3).any(|part| part == b"bad") {
        true => Err("malformed".into()),
        false => Ok(()),
    };
    cluster
}

/// What each served port asks of clients.
fn checks(resolved: &Resolved) -> Vec<(u16, Option<ClientCheck>)> {
    let ports = resolved.gateways.iter();
    let checks = ports.flat_map(|(port, listeners)| {
        let listeners = listeners.listeners.iter();
        listeners.map(|one| (port.port, one.client_check.clone()))
    });
    checks.collect()
}

fn required() -> Option<ClientCheck> {
    Some(ClientCheck::Required(format!("{CA}\n").into_bytes().into()))
}

fn map(text: &str) -> String {
    format!("{{group: '', kind: ConfigMap, name: {text}}}")
}

#[test]
fn g104_g105_client_certificates_by_port() {
    let valid = |mode: &str| {
        format!(
            "{{validation: {{caCertificateRefs: [{}]{mode}}}}}",
            map("ca")
        )
    };
    let all = format!("frontend: {{default: {}}}", valid(""));
    let resolved = gateway(&all).resolve();
    assert_eq!(
        checks(&resolved),
        [(80, None), (443, required()), (8443, required())]
    );
    let but_one = format!(
        "frontend: {{default: {}, perPort: [{{port: 8443, tls: {{}}}}]}}",
        valid("")
    );
    assert_eq!(
        checks(&gateway(&but_one).resolve()),
        [(80, None), (443, required()), (8443, None)]
    );
    let one = format!(
        "frontend: {{default: {{}}, perPort: [{{port: 443, tls: {}}}]}}",
        valid("")
    );
    assert_eq!(
        checks(&gateway(&one).resolve()),
        [(80, None), (443, required()), (8443, None)]
    );
}

#[test]
fn g106_insecure_fallback_asks_and_is_shown_in_the_status() {
    let rules = |mode: &str| {
        format!(
            "frontend: {{default: {{validation: {{caCertificateRefs: [{}], mode: {mode}}}}}}}",
            map("ca")
        )
    };
    let resolved = gateway(&rules("AllowInsecureFallback")).resolve();
    assert_eq!(checks(&resolved)[1], (443, Some(ClientCheck::Asked)));
    let shown = |resolved: &Resolved| {
        let conditions = &resolved.verdicts[&name("web")].conditions;
        condition(conditions, "InsecureFrontendValidationMode")
    };
    assert_eq!(shown(&resolved), "True/ConfigurationChanged");
    assert_eq!(shown(&gateway(&rules("AllowValidOnly")).resolve()), "");
    let resolved = gateway(&rules("Guess")).resolve();
    assert_eq!(
        listener(&resolved, "web", "a", "Accepted"),
        "False/UnsupportedValue"
    );
}

#[test]
fn g107_authorities_that_are_not_valid_close_the_port() {
    for (references, resolved_refs, accepted) in [
        (
            map("no"),
            "False/InvalidCACertificateRef",
            "False/NoValidCACertificate",
        ),
        (
            map("odd"),
            "False/InvalidCACertificateRef",
            "False/NoValidCACertificate",
        ),
        (
            map("bad"),
            "False/InvalidCACertificateRef",
            "False/NoValidCACertificate",
        ),
        (
            "{group: '', kind: Secret, name: ca}".into(),
            "False/InvalidCACertificateKind",
            "False/NoValidCACertificate",
        ),
        (
            "{group: '', kind: ConfigMap, name: ca, namespace: team}".into(),
            "False/RefNotPermitted",
            "False/NoValidCACertificate",
        ),
        (
            format!("{}, {}", map("no"), map("ca")),
            "False/InvalidCACertificateRef",
            "True/Accepted",
        ),
    ] {
        let rules = format!(
            "frontend: {{default: {{}}, perPort: [{{port: 443, tls: {{validation: {{caCertificateRefs: [{references}]}}}}}}]}}"
        );
        let mut cluster = gateway(&rules);
        let resolved = cluster.resolve();
        let of = |resolved: &Resolved, type_: &str| listener(resolved, "web", "a", type_);
        assert_eq!(of(&resolved, "ResolvedRefs"), resolved_refs, "{references}");
        assert_eq!(of(&resolved, "Accepted"), accepted, "{references}");
        let is_accepted = accepted.starts_with("True");
        let programmed = of(&resolved, "Programmed");
        assert_eq!(programmed.starts_with("True"), is_accepted, "{references}");
        let ports: Vec<u16> = checks(&resolved).iter().map(|(port, _)| *port).collect();
        assert_eq!(ports.contains(&443), is_accepted, "{references}");
        // Other ports stay as they are.
        assert_eq!(
            listener(&resolved, "web", "b", "Programmed"),
            "True/Programmed"
        );
        // With a grant the reference to the other namespace is valid.
        cluster.add(
            "
kind: ReferenceGrant
metadata: {name: g, namespace: team}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}]
  to: [{group: '', kind: ConfigMap}]
",
        );
        let is_granted = references.contains("team");
        let now = of(&cluster.resolve(), "Accepted");
        assert_eq!(now.starts_with("True"), is_accepted || is_granted);
    }
}

/// A Gateway, a route of it to `web`, and policies.
fn with_policies(gateway: &str, policies: &str) -> Cluster {
    let mut cluster = self::gateway(gateway);
    cluster.add(
        "
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}
",
    );
    cluster.add(policies);
    cluster
}

/// A policy for `web`.
fn policy(name: &str, age: i64, section: &str, validation: &str) -> String {
    format!(
        "
---
kind: BackendTLSPolicy
metadata: {{name: {name}, creationTimestamp: {age}}}
spec:
  targetRefs: [{{group: '', kind: Service, name: web{section}}}]
  validation: {{hostname: {name}.example, {validation}}}
"
    )
}

/// The TLS of requests to `web`, or `None` if they get an error.
fn tls(resolved: &Resolved) -> Option<UpstreamTls> {
    let route = find(resolved, &get("h", "/")).unwrap();
    let key = route.targets[0].target.upstream()?;
    assert!(key.policy.protocol.is_tls());
    Some(key.policy.tls.clone())
}

fn outcome(resolved: &Resolved, policy: &str) -> [String; 2] {
    let verdict = &resolved.backend_tls[&name(policy)];
    assert_eq!(verdict.ancestors.len(), 1, "{policy}");
    let (parent, conditions) = &verdict.ancestors[0];
    assert_eq!(parent.to_string(), "Gateway default/web");
    ["Accepted", "ResolvedRefs"].map(|type_| condition(conditions, type_))
}

const FINE: [&str; 2] = ["True/Accepted", "True/ResolvedRefs"];

fn by_ca(ca: &str) -> String {
    format!("caCertificateRefs: [{}]", map(ca))
}

#[test]
fn g110_g113_g115_what_policies_verify() {
    let names =
        "subjectAltNames: [{type: Hostname, hostname: a.b}, {type: URI, uri: 'spiffe://a/b'}]";
    let both = vec![
        SubjectName::Dns("a.b".into()),
        SubjectName::Uri("spiffe://a/b".into()),
    ];
    let authorities = Trust::Authorities(format!("{CA}\n").into_bytes().into());
    for (validation, trust, expected_names) in [
        (by_ca("ca"), authorities.clone(), vec![]),
        (
            "wellKnownCACertificates: System".into(),
            Trust::System,
            vec![],
        ),
        (format!("{}, {names}", by_ca("ca")), authorities, both),
    ] {
        let resolved = with_policies("", &policy("p", 1, "", &validation)).resolve();
        assert_eq!(outcome(&resolved, "p"), FINE, "{validation}");
        let tls = tls(&resolved).unwrap();
        assert_eq!((tls.trust, tls.names), (trust, expected_names));
        assert_eq!(tls.name.as_deref(), Some("p.example"));
    }
}

#[test]
fn g112_g115_policies_that_cannot_be_followed_send_nothing() {
    let invalid = [
        "False/NoValidCACertificate",
        "False/InvalidCACertificateRef",
    ];
    for (validation, expected) in [
        (by_ca("no"), invalid),
        (by_ca("odd"), invalid),
        (by_ca("bad"), invalid),
        (
            "caCertificateRefs: [{group: '', kind: Secret, name: ca}]".into(),
            ["False/NoValidCACertificate", "False/InvalidKind"],
        ),
        (
            "wellKnownCACertificates: Mine".into(),
            ["False/Invalid", "True/ResolvedRefs"],
        ),
        (
            format!("{}, subjectAltNames: [{{type: Email}}]", by_ca("ca")),
            ["False/Invalid", "True/ResolvedRefs"],
        ),
        (
            format!("{}, subjectAltNames: [{{type: URI}}]", by_ca("ca")),
            ["False/Invalid", "True/ResolvedRefs"],
        ),
    ] {
        let mut cluster = with_policies("", &policy("p", 1, "", &validation));
        let resolved = cluster.resolve();
        assert_eq!(outcome(&resolved, "p"), expected, "{validation}");
        assert_eq!(tls(&resolved), None, "{validation}");
        // The ConfigMap is corrected.
        for name in ["no", "odd", "bad"] {
            cluster.config_map(name, CA);
        }
        let is_corrected = expected == invalid;
        assert_eq!(
            tls(&cluster.resolve()).is_some(),
            is_corrected,
            "{validation}"
        );
    }
}

#[test]
fn g111_the_older_policy_wins() {
    let ca = by_ca("ca");
    let one = |name: &str, age: i64, section: &str| policy(name, age, section, &ca);
    let section = ", sectionName: http";
    const LOST: [&str; 2] = ["False/Conflicted", "True/ResolvedRefs"];
    for (policies, a, b, winner) in [
        (one("a", 1, "") + &one("b", 2, ""), FINE, LOST, "a"),
        (one("a", 2, "") + &one("b", 1, ""), LOST, FINE, "b"),
        (one("a", 1, "") + &one("b", 1, ""), FINE, LOST, "a"),
        (
            one("a", 2, section) + &one("b", 1, section),
            LOST,
            FINE,
            "b",
        ),
        (one("a", 1, "") + &one("b", 2, section), FINE, FINE, "b"),
        // One that wins and is invalid does not give way.
        (
            policy("a", 1, "", &by_ca("no")) + &one("b", 2, ""),
            [
                "False/NoValidCACertificate",
                "False/InvalidCACertificateRef",
            ],
            LOST,
            "",
        ),
    ] {
        let resolved = with_policies("", &policies).resolve();
        assert_eq!(outcome(&resolved, "a"), a, "{policies}");
        assert_eq!(outcome(&resolved, "b"), b, "{policies}");
        let name = tls(&resolved).and_then(|tls| tls.name).unwrap_or_default();
        assert_eq!(name.trim_end_matches(".example"), winner, "{policies}");
    }
}

#[test]
fn g111_a_policy_for_several_services_is_refused_where_it_lost() {
    let ca = by_ca("ca");
    let two = format!(
        "
---
kind: BackendTLSPolicy
metadata: {{name: b, creationTimestamp: 2}}
spec:
  targetRefs: [{{group: '', kind: Service, name: web}}, {{group: '', kind: Service, name: api}}]
  validation: {{hostname: b.example, {ca}}}
"
    );
    let mut cluster = with_policies("", &(policy("a", 1, "", &ca) + &two));
    for (gateway, services) in [("other", &["api"][..]), ("third", &["api", "web"])] {
        let backends = services.iter();
        let backends = backends.map(|name| format!("{{name: {name}, port: 80}}"));
        let backends: Vec<String> = backends.collect();
        cluster.add(&format!(
            "
kind: Gateway
metadata: {{name: {gateway}}}
spec: {{gatewayClassName: headgate, listeners: [{{name: a, port: 80, protocol: HTTP}}]}}
---
kind: HTTPRoute
metadata: {{name: {gateway}}}
spec: {{parentRefs: [{{name: {gateway}}}], rules: [{{backendRefs: [{}]}}]}}
",
            backends.join(", ")
        ));
    }
    let resolved = cluster.resolve();
    let accepted = |policy: &str| -> Vec<(String, String, String)> {
        let ancestors = resolved.backend_tls[&name(policy)].ancestors.iter();
        let accepted = ancestors.map(|(parent, conditions)| {
            let one = conditions.iter().find(|one| one.type_ == "Accepted");
            let reason = condition(conditions, "Accepted");
            (parent.name.clone(), reason, one.unwrap().message.clone())
        });
        accepted.collect()
    };
    let is_fine = |name: &str| (name.into(), "True/Accepted".into(), String::new());
    let lost = |name: &str, also: &str| {
        let message = format!(
            "BackendTLSPolicy default/a is for Service default/web as well, and comes first{also}"
        );
        (name.into(), "False/Conflicted".into(), message)
    };
    assert_eq!(accepted("a"), [is_fine("third"), is_fine("web")]);
    let also = "; it is followed for Service default/api";
    assert_eq!(
        accepted("b"),
        [is_fine("other"), lost("third", also), lost("web", "")]
    );
    let listeners = resolved.gateways.values().flat_map(|port| &port.listeners);
    let upstreams = listeners.flat_map(|listener| listener.upstreams());
    let names: BTreeSet<_> = upstreams
        .map(|key| (key.service.name.as_str(), key.policy.tls.name.as_deref()))
        .collect();
    let expected = [("api", Some("b.example")), ("web", Some("a.example"))];
    assert_eq!(names, BTreeSet::from(expected));
}

#[test]
fn l195_a_policy_is_judged_for_each_target() {
    let target =
        |name: &str, port: &str| format!("{{group: '', kind: Service, name: {name}{port}}}");
    let (http, other) = (", sectionName: http", ", sectionName: other");
    let refused = |cluster: &Cluster| -> Vec<(String, String)> {
        let resolved = cluster.resolve();
        let (_, conditions) = &resolved.backend_tls[&name("young")].ancestors[0];
        let one = conditions
            .iter()
            .find(|one| one.type_ == "Accepted")
            .unwrap();
        let parts = one.message.split("; ").map(str::to_owned);
        let used = tls(&resolved).and_then(|tls| tls.name).unwrap_or_default();
        parts
            .map(|part| {
                (
                    format!("{} {used}", condition(conditions, "Accepted")),
                    part,
                )
            })
            .collect()
    };
    let older = "BackendTLSPolicy default/old is for Service default/web as well, and comes first";
    for (targets, state, message) in [
        // The same target again is no conflict.
        (
            vec![target("web", http), target("web", http)],
            "True/Accepted young.example",
            vec![""],
        ),
        (
            vec![target("web", ""), target("web", http)],
            "False/Conflicted young.example",
            vec![older, "it is followed for Service default/web port http"],
        ),
        (
            vec![target("web", http), target("web", other)],
            "False/TargetNotFound young.example",
            vec![
                "Service default/web has no port other",
                "it is followed for Service default/web port http",
            ],
        ),
        (
            vec![target("web", "")],
            "False/Conflicted old.example",
            vec![older],
        ),
    ] {
        let ca = by_ca("ca");
        let young = policy("young", 2, "", &ca).replace(&target("web", ""), &targets.join(", "));
        let cluster = with_policies("", &(policy("old", 1, "", &ca) + &young));
        let expected = message
            .iter()
            .map(|text| (state.to_owned(), (*text).to_owned()));
        assert_eq!(
            refused(&cluster),
            expected.collect::<Vec<_>>(),
            "{targets:?}"
        );
    }
    // A Service that routes name and that does not exist.
    let mut cluster = with_policies("", &policy("young", 2, "", &by_ca("ca")));
    cluster.services.remove(&name("web"));
    let missing = "there is no Service default/web".to_owned();
    assert_eq!(
        refused(&cluster),
        [("False/TargetNotFound ".to_owned(), missing)]
    );
}

#[test]
fn g114_ancestors_are_gateways_whose_routes_use_the_service() {
    let mut cluster = with_policies("", &policy("p", 1, "", &by_ca("ca")));
    assert_eq!(outcome(&cluster.resolve(), "p"), FINE);
    for (number, rules) in [
        "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}}}]}",
        "{backendRefs: [{name: api, port: 80}]}",
    ]
    .iter()
    .enumerate()
    {
        cluster.add(&format!(
            "
kind: Gateway
metadata: {{name: g{number}}}
spec: {{gatewayClassName: headgate, listeners: [{{name: a, port: 80, protocol: HTTP}}]}}
---
kind: HTTPRoute
metadata: {{name: r{number}}}
spec: {{parentRefs: [{{name: g{number}}}], rules: [{rules}]}}
"
        ));
    }
    let resolved = cluster.resolve();
    let ancestors = &resolved.backend_tls[&name("p")].ancestors;
    let names: Vec<&str> = ancestors.iter().map(|(parent, _)| &*parent.name).collect();
    assert_eq!(names, ["g0", "web"]);
    cluster.objects.http_routes.clear();
    assert!(
        cluster.resolve().backend_tls[&name("p")]
            .ancestors
            .is_empty()
    );
}

#[test]
fn g116_grpc_routes_and_tls_routes_heed_policies() {
    let mut cluster = with_policies("", &policy("p", 1, "", &by_ca("ca")));
    cluster.add(
        "
kind: Gateway
metadata: {name: tls}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: a, port: 443, hostname: a.example, protocol: TLS, tls: {certificateRefs: [{name: tls}]}}
  - {name: b, port: 443, hostname: b.example, protocol: TLS, tls: {mode: Passthrough}}
---
kind: TLSRoute
metadata: {name: t}
spec:
  parentRefs: [{name: tls}]
  hostnames: ['*.example']
  rules: [{backendRefs: [{name: web, port: 80}]}]
",
    );
    let resolved = cluster.resolve();
    let port = resolved
        .gateways
        .iter()
        .find(|(port, _)| port.gateway.name == "tls");
    for listener in &port.unwrap().1.listeners {
        let streams = listener.streams.as_ref().unwrap();
        let stream = streams.hosts.values().next().unwrap();
        let key = stream.upstreams().next().unwrap();
        assert_eq!(key.policy.protocol.is_tls(), streams.is_decrypted);
    }
}

#[test]
fn g116_tls_routes_say_where_a_policy_cannot_be_followed() {
    let mut cluster = with_policies("", &policy("p", 1, "", &by_ca("no")));
    for (gateway, mode) in [("decrypted", "Terminate"), ("passed", "Passthrough")] {
        cluster.add(&format!(
            "
kind: Gateway
metadata: {{name: {gateway}}}
spec:
  gatewayClassName: headgate
  listeners:
  - {{name: a, port: 443, protocol: TLS, tls: {{mode: {mode}, certificateRefs: [{{name: tls}}]}}}}
"
        ));
    }
    cluster.add(
        "
kind: TLSRoute
metadata: {name: t}
spec:
  parentRefs: [{name: decrypted}, {name: passed}]
  hostnames: ['*.example']
  rules: [{backendRefs: [{name: web, port: 80}]}]
",
    );
    let resolved = cluster.resolve();
    let resolved_refs = |kind: RouteKind, name: &str| -> Vec<String> {
        let parents = route(&resolved, kind, name).parents.iter();
        let texts = parents.map(|(_, conditions)| condition(conditions, "ResolvedRefs"));
        texts.collect()
    };
    let broken = "False/UnsupportedProtocol";
    assert_eq!(resolved_refs(RouteKind::Http, "r"), [broken]);
    assert_eq!(
        resolved_refs(RouteKind::Tls, "t"),
        [broken, "True/ResolvedRefs"]
    );
    let ancestors = &resolved.backend_tls[&name("p")].ancestors;
    let names: Vec<&str> = ancestors.iter().map(|(parent, _)| &*parent.name).collect();
    assert_eq!(names, ["decrypted", "web"]);
}

#[test]
fn g117_the_gateway_shows_its_certificate_to_backends() {
    let secret = |more: &str| format!("backend: {{clientCertificateRef: {{name: tls{more}}}}}");
    let shown = |cluster: &Cluster| {
        let resolved = cluster.resolve();
        let conditions = &resolved.verdicts[&name("web")].conditions;
        assert_eq!(condition(conditions, "Accepted"), "True/Accepted");
        let identity = tls(&resolved).unwrap().identity;
        (condition(conditions, "ResolvedRefs"), identity.is_some())
    };
    let policies = policy("p", 1, "", &by_ca("ca"));
    for (gateway, reason, has_identity) in [
        ("".into(), "", false),
        (secret(""), "True/ResolvedRefs", true),
        (secret("x"), "False/InvalidClientCertificateRef", false),
        (
            secret(", kind: ConfigMap"),
            "False/InvalidClientCertificateRef",
            false,
        ),
        (secret(", namespace: team"), "False/RefNotPermitted", false),
    ] {
        let cluster = with_policies(&gateway, &policies);
        assert_eq!(shown(&cluster), (reason.into(), has_identity), "{gateway}");
    }
    // Another Gateway with the same route does not show it.
    let mut cluster = with_policies(&secret(""), &policies);
    cluster.add(
        "
kind: Gateway
metadata: {name: other}
spec: {gatewayClassName: headgate, listeners: [{name: a, port: 80, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: web}, {name: other}], rules: [{backendRefs: [{name: web, port: 80}]}]}
",
    );
    let resolved = cluster.resolve();
    assert_eq!(route(&resolved, RouteKind::Http, "r").parents.len(), 2);
    for (port, listeners) in &resolved.gateways {
        for listener in &listeners.listeners {
            for key in listener.upstreams() {
                let has_identity = key.policy.tls.identity.is_some();
                assert_eq!(has_identity, port.gateway.name == "web");
            }
        }
    }
}
