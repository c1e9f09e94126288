//! Annotations about authentication: the proofs that they demand, and that invalid ones close the
//! Ingress.

use std::collections::BTreeMap;

use headgate_model::{
    NamespacedName,
    edge::{Auth, Policy, PortName, Secret},
    ingress::{
        Ingress, IngressBackend, IngressOptions, IngressPath, IngressRule, Objects, PathType,
        Routes, routes,
    },
};

const CLASS: &str = "ours";

fn ingress(name: &str, host: &str, path: &str, annotations: &[(&str, &str)]) -> Ingress {
    let backend = IngressBackend::Service {
        name: "web".into(),
        port: PortName::Number(80),
    };
    let path = IngressPath {
        path: path.into(),
        path_type: PathType::Prefix,
        backend,
    };
    let full = |name: &str| match name.contains('/') {
        true => name.to_owned(),
        false => format!("nginx.ingress.kubernetes.io/{name}"),
    };
    Ingress {
        name: NamespacedName::new("shop", name),
        created_s: Some(name.len() as i64),
        annotations: annotations
            .iter()
            .map(|(name, value)| (full(name), (*value).into()))
            .collect(),
        class: Some(CLASS.into()),
        default_backend: None,
        rules: vec![IngressRule {
            host: host.into(),
            paths: vec![path],
        }],
        tls: Vec::new(),
    }
}

fn secret(pairs: &[(&str, &str)]) -> Secret {
    let data = pairs
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()));
    Secret {
        type_: "Opaque".into(),
        data: data.collect(),
    }
}

fn read(ingresses: Vec<Ingress>) -> Routes {
    let name = |name: &str| NamespacedName::new("shop", name);
    let class = headgate_model::ingress::IngressClass {
        controller: IngressOptions::default().controller,
        is_default: false,
        parameters: None,
    };
    let secrets = [
        (
            name("users"),
            secret(&[("auth", "ada:$apr1$a$b\n# bob\n\neve:{SHA}x\nada:no\n")]),
        ),
        (
            name("map"),
            secret(&[("ada", "hash-of-ada\n"), ("bob", "hash-of-bob")]),
        ),
        (
            name("client"),
            secret(&[
                ("client-id", "id"),
                ("client-secret", "s"),
                ("cookie-key", "0123456789abcdef0123456789abcdef"),
            ]),
        ),
        (
            name("short"),
            secret(&[
                ("client-id", "id"),
                ("client-secret", "s"),
                ("cookie-key", "short"),
            ]),
        ),
        (name("shared"), secret(&[("secret", "s")])),
        (name("paseto"), secret(&[("public", "k4.public.x")])),
        (name("ca"), secret(&[("ca.crt", "PEM")])),
        (name("other-ca"), secret(&[("ca.crt", "PEM 2")])),
        (name("empty"), secret(&[])),
        (
            NamespacedName::new("bank", "users"),
            secret(&[("auth", "ada:x")]),
        ),
    ];
    let objects = Objects {
        ingresses: ingresses
            .into_iter()
            .map(|one| (one.name.clone(), one))
            .collect(),
        classes: BTreeMap::from([(CLASS.into(), class)]),
        secrets: secrets.into(),
        ..Objects::default()
    };
    routes(&objects, &IngressOptions::default())
}

/// The policy of annotations, and their refusals.
fn policy(annotations: &[(&str, &str)]) -> (Policy, Vec<String>) {
    let routes = read(vec![ingress("web", "a.b", "/", annotations)]);
    let refusals = routes
        .refusals
        .iter()
        .filter(|refusal| refusal.field.contains("annotations"));
    let fields = refusals.map(|refusal| refusal.field.clone()).collect();
    let policy = (*routes.listener.hosts["a.b"].routes[0].policy).clone();
    (policy, fields)
}

#[test]
fn l60_auth_users_are_read_from_files_and_maps() {
    let (file, wrong) = policy(&[
        ("auth-type", "basic"),
        ("auth-secret", "users"),
        ("auth-realm", "shop"),
    ]);
    assert_eq!((file.closed, wrong), (None, vec![]));
    let [Auth::Basic(basic)] = &file.auth[..] else {
        panic!("{:?}", file.auth)
    };
    assert_eq!(basic.users.keys().collect::<Vec<_>>(), ["ada", "eve"]);
    assert_eq!(basic.users["ada"].0, b"$apr1$a$b", "the first line counts");
    assert_eq!(basic.realm, "shop");
    let shown = format!("{:?}", file.auth);
    assert!(!shown.contains("apr1"), "{shown}");

    let (map, _) = policy(&[
        ("auth-type", "basic"),
        ("auth-secret", "shop/map"),
        ("auth-secret-type", "auth-map"),
    ]);
    let [Auth::Basic(basic)] = &map.auth[..] else {
        panic!("{:?}", map.auth)
    };
    assert_eq!(basic.users["ada"].0, b"hash-of-ada");
}

#[test]
fn l72_invalid_auth_closes_and_is_refused_by_name() {
    let oidc = ("headgate.io/auth-type", "oidc");
    let ldap = [
        ("headgate.io/auth-type", "ldap"),
        ("headgate.io/auth-server", "ldap://d"),
    ];
    for (annotations, field) in [
        (
            &[("auth-type", "digest"), ("auth-secret", "users")][..],
            "auth-type",
        ),
        (&[("auth-type", "basic")], "auth-secret"),
        (&[("auth-secret", "users")], "auth-secret"),
        (
            &[("auth-type", "basic"), ("auth-secret", "none")],
            "auth-secret",
        ),
        (
            &[("auth-type", "basic"), ("auth-secret", "bank/users")],
            "auth-secret",
        ),
        (
            &[("auth-type", "basic"), ("auth-secret", "map")],
            "auth-secret",
        ),
        (
            &[
                ("auth-type", "basic"),
                ("auth-secret", "users"),
                ("auth-realm", "a\"b"),
            ],
            "auth-realm",
        ),
        (&[("auth-url", "ftp://a/")], "auth-url"),
        (&[("auth-url", "http://a/\nb")], "auth-url"),
        (&[("auth-url", "http://$http_host/")], "auth-url"),
        (&[("auth-signin", "https://a/")], "auth-url"),
        (
            &[("auth-url", "http://a/"), ("auth-snippet", "x")],
            "auth-snippet",
        ),
        (
            &[("auth-url", "http://a/"), ("auth-proxy-set-headers", "x")],
            "auth-proxy-set-headers",
        ),
        (&[("auth-tls-secret", "empty")], "auth-tls-secret"),
        (&[("auth-tls-verify-client", "on")], "auth-tls-secret"),
        (
            &[("auth-tls-secret", "ca"), ("auth-tls-verify-depth", "0")],
            "auth-tls-verify-depth",
        ),
        (
            &[("auth-tls-secret", "ca"), ("auth-tls-match-cn", "CN=(")],
            "auth-tls-match-cn",
        ),
        (&[("headgate.io/auth-type", "jwt")], "auth-server"),
        (
            &[("headgate.io/auth-type", "jwt"), ("auth-secret", "empty")],
            "auth-secret",
        ),
        (
            &[
                ("headgate.io/auth-type", "paseto"),
                ("auth-secret", "shared"),
            ],
            "auth-secret",
        ),
        (&[oidc, ("auth-secret", "client")], "auth-issuer"),
        (
            &[
                oidc,
                ("auth-secret", "short"),
                ("headgate.io/auth-issuer", "https://i"),
            ],
            "auth-secret",
        ),
        (&ldap, "auth-ldap-user"),
        (
            &[ldap[0], ldap[1], ("headgate.io/auth-ldap-user", "uid=x")],
            "auth-ldap-user",
        ),
        (
            &[("headgate.io/auth-claim-headers", "sub=Authorization")],
            "auth-claim-headers",
        ),
        (&[("headgate.io/auth-new", "x")], "auth-new"),
    ] {
        let (policy, fields) = policy(annotations);
        assert!(policy.closed.is_some(), "{annotations:?}");
        assert!(
            fields.iter().any(|found| found.contains(field)),
            "{annotations:?}: {fields:?}"
        );
    }
}

#[test]
fn l61_auth_url_may_contain_the_host_of_a_rule_of_one_host() {
    let annotations = [
        ("auth-url", "https://$host/oauth2/auth"),
        ("auth-signin", "https://$host/start?rd=$escaped_request_uri"),
    ];
    for (host, is_open) in [("a.b", true), ("*.a.b", false), ("", false)] {
        let routes = read(vec![ingress("web", host, "/", &annotations)]);
        let policy = &routes.listener.hosts[host].routes[0].policy;
        assert_eq!(policy.closed.is_none(), is_open, "{host}");
        let Auth::External(external) = &policy.auth[0] else {
            panic!("{policy:?}")
        };
        let url = external.url.to_string();
        assert!(!is_open || url == "https://a.b/oauth2/auth");
    }
}

#[test]
fn l63_client_certificates_apply_to_all_routes_of_a_host() {
    let ours = [
        ("auth-tls-secret", "ca"),
        ("auth-tls-match-cn", "CN=(ada|bob)"),
    ];
    let routes = read(vec![
        ingress("a", "a.b", "/", &ours),
        ingress("bb", "a.b", "/open", &[]),
        ingress("ccc", "a.b", "/.well-known/acme-challenge/x", &[]),
        ingress("dddd", "a.b", "/other", &[("auth-tls-secret", "other-ca")]),
        ingress(
            "eeeee",
            "b.b",
            "/",
            &[("auth-tls-secret", "ca"), ("auth-tls-verify-client", "off")],
        ),
    ]);
    assert!(routes.listener.hosts["a.b"].asks_certificate);
    assert!(!routes.listener.hosts["b.b"].asks_certificate);
    let demands = |name: &str| {
        let mut all = routes.listener.hosts["a.b"].routes.iter();
        let route = all.find(|route| route.origin.name.name == name).unwrap();
        (route.policy.auth.len(), route.policy.closed.is_some())
    };
    assert_eq!(demands("a"), (1, false));
    assert_eq!(demands("bb"), (1, false));
    assert_eq!(
        demands("ccc"),
        (0, false),
        "who solves challenges has no certificate yet"
    );
    assert_eq!(
        demands("dddd"),
        (1, true),
        "another authority than the older Ingress"
    );
}

#[test]
fn l73_passthrough_does_not_bypass_auth() {
    let (policy, fields) = policy(&[
        ("auth-type", "basic"),
        ("auth-secret", "users"),
        ("ssl-passthrough", "true"),
    ]);
    assert!(policy.closed.is_some());
    assert!(fields[0].contains("ssl-passthrough"), "{fields:?}");
}
