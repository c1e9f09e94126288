//! Ingresses, and what `headgate migrate --to gateway` makes of them: both are served by one proxy, and requests get
//! the same answers.

use std::{collections::BTreeSet, net::SocketAddr};

use headgate_model::{
    NamespacedName,
    edge::Scheme,
    ingress::{Migration, to_gateway},
};
use http::{Method, Request};
use tokio::net::TcpListener;

use crate::{
    client::{Got, send_to},
    manifests::Read,
    setup::Setup,
};

const OBJECTS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
";

fn service(namespace: &str, name: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{ports: [{{name: web, port: 80}}]}}
"
    )
}

/// An Ingress: hosts with paths, each `TYPE PATH SERVICE`, and its annotations of ingress-nginx.
fn ingress(name: &str, rules: &[(&str, &[&str])], annotations: &[&str], rest: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let rules = rules.iter().map(|(host, paths)| {
        let paths = paths.iter().map(|path| {
            let [kind, path, service] = path.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{path}")
            };
            let backend = format!("{{service: {{name: {service}, port: {{name: web}}}}}}");
            format!("{{path: '{path}', pathType: {kind}, backend: {backend}}}")
        });
        let paths: Vec<String> = paths.collect();
        format!(
            "{{host: '{host}', http: {{paths: [{}]}}}}",
            paths.join(", ")
        )
    });
    let rules: Vec<String> = rules.collect();
    let annotations = annotations
        .iter()
        .map(|text| format!("    nginx.ingress.kubernetes.io/{text}\n"));
    let annotations: String = annotations.collect();
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {name}
  namespace: {namespace}
  annotations:
{annotations}    other: ''
spec:
  rules: [{}]
{rest}
",
        rules.join(", ")
    )
    .replace("host: ''", "host: null")
}

/// What is made of Ingresses, as manifests.
fn migrated(read: &Read) -> (Migration, String) {
    let gateway = NamespacedName::new("edge", "ingress");
    let made = to_gateway(&read.objects, &gateway, "headgate");
    let documents = made.documents.iter();
    let documents = documents.map(|one| format!("---\n{}", yaml_serde::to_string(one).unwrap()));
    let text = documents.collect();
    (made, text)
}

struct Both {
    setup: Setup,
    ingress: SocketAddr,
}

impl Both {
    /// Serves Ingresses, and what is made of them.
    async fn new(ingresses: &str, others: &str) -> Self {
        let read = Read::new(&format!("{ingresses}{others}"));
        let (_, made) = migrated(&read);
        let moved = Read::new(&format!("{OBJECTS}{others}{made}"));
        let mut setup = Setup::new();
        setup.edge.ingress = read.ingress();
        setup.add_gateways(&moved);
        setup.serve().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ingress = listener.local_addr().unwrap();
        let proxy = setup.proxy.clone();
        tokio::spawn(async move {
            proxy
                .listen(listener, Scheme::Http, std::future::pending())
                .await;
        });
        Self { setup, ingress }
    }

    /// The answers of the Ingresses and of the Gateway.
    async fn ask(&self, request: &Asked<'_>) -> [String; 2] {
        let addresses = [self.ingress, self.setup.address(80)];
        let mut answers = Vec::new();
        for address in addresses {
            let body = vec![b'x'; request.body].into();
            let mut built = Request::builder()
                .method(request.method.clone())
                .uri(request.target)
                .header("host", request.host);
            for (name, value) in request.headers {
                built = built.header(*name, *value);
            }
            let got = send_to(address, built.body(body).unwrap()).await.unwrap();
            answers.push(text(&got, request.host));
        }
        answers.try_into().unwrap()
    }
}

struct Asked<'a> {
    method: Method,
    host: &'a str,
    target: &'a str,
    headers: &'a [(&'a str, &'a str)],
    body: usize,
}

/// What counts of an answer: the status, where a redirect leads, headers of policies, and what the backend got.
fn text(got: &Got, host: &str) -> String {
    let location = got.header("location").unwrap_or_default();
    // An address or a path: both lead there.
    let location = location
        .strip_prefix(&format!("http://{host}"))
        .unwrap_or(location);
    let names = [
        "access-control-allow-methods",
        "access-control-allow-credentials",
        "strict-transport-security",
        "www-authenticate",
        "x-own",
    ];
    let headers: Vec<String> = names
        .iter()
        .filter_map(|name| Some(format!("{name}={}", got.header(name)?)))
        .collect();
    let backend = match got.status.is_success() && !got.body.is_empty() {
        true => {
            let echo = got.echo();
            let seen =
                ["host", "x-forwarded-prefix"].map(|name| echo.header(name).unwrap_or_default());
            format!("{} {} {seen:?}", echo.backend, echo.target)
        }
        false => String::new(),
    };
    format!("{} {location} {headers:?} {backend}", got.status.as_u16())
}

const HASHES: &str = "---
apiVersion: v1
kind: Secret
metadata: {name: users, namespace: shop}
stringData: {ca.crt: '-', auth: 'anna:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ='}
";

/// A certificate that is not used by these requests.
fn certificate(name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["tls.test".to_owned()]).unwrap();
    let indent = |text: String| text.replace('\n', "\n    ");
    format!(
        "---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: shop}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
    {}
  tls.key: |
    {}
",
        indent(made.cert.pem()),
        indent(made.signing_key.serialize_pem())
    )
}

fn corpus() -> String {
    [
        ingress(
            "shop/plain",
            &[
                (
                    "plain.test",
                    &[
                        "Exact /exact web",
                        "Prefix /exact api",
                        "Prefix /api api",
                        "Prefix /api/v2/ old",
                    ],
                ),
                ("other.test", &["ImplementationSpecific / api"]),
                ("*.wild.test", &["Prefix / old"]),
            ],
            &[],
            "",
        ),
        ingress("shop/any", &[("", &["Prefix /any web"])], &[], ""),
        ingress(
            "shop/default",
            &[("default.test", &["Prefix /a web"])],
            &[],
            "  defaultBackend: {service: {name: old, port: {number: 80}}}",
        ),
        ingress(
            "shop/regex",
            &[("regex.test", &["ImplementationSpecific /item/[0-9]+ web"])],
            &["use-regex: 'true'"],
            "",
        ),
        ingress(
            "shop/strip",
            &[("strip.test", &["ImplementationSpecific /app(/|$)(.*) web"])],
            &["rewrite-target: /$2", "x-forwarded-prefix: /app"],
            "",
        ),
        ingress(
            "shop/groups",
            &[(
                "groups.test",
                &["ImplementationSpecific /(old|new)/(.*) web"],
            )],
            &["rewrite-target: /$2/$1"],
            "",
        ),
        ingress(
            "shop/full",
            &[("full.test", &["Prefix /from web"])],
            &["rewrite-target: /to"],
            "",
        ),
        ingress(
            "shop/moved",
            &[("moved.test", &["Prefix / web"])],
            &["permanent-redirect: https://new.test$request_uri"],
            "",
        ),
        ingress(
            "shop/temporal",
            &[("temporal.test", &["Prefix / web"])],
            &["temporal-redirect: https://new.test/there"],
            "",
        ),
        ingress(
            "shop/root",
            &[("root.test", &["Prefix / web"])],
            &["app-root: /start"],
            "",
        ),
        ingress(
            "shop/tls",
            &[("tls.test", &["Prefix /shop web"])],
            &["denylist-source-range: 192.0.2.0/24"],
            "  tls: [{hosts: [tls.test], secretName: cert}]",
        ),
        ingress(
            "shop/cors",
            &[("cors.test", &["Prefix / web"])],
            &[
                "enable-cors: 'true'",
                "cors-allow-origin: 'https://a.test'",
                "cors-allow-methods: 'GET, PUT'",
            ],
            "",
        ),
        ingress(
            "shop/auth",
            &[("auth.test", &["Prefix / web"])],
            &[
                "auth-type: basic",
                "auth-secret: users",
                "auth-realm: Staff",
            ],
            "",
        ),
        ingress(
            "shop/deny",
            &[("deny.test", &["Prefix / web"])],
            &["whitelist-source-range: 192.0.2.0/24"],
            "",
        ),
        ingress(
            "shop/size",
            &[("size.test", &["Prefix / web"])],
            &["proxy-body-size: '8'"],
            "",
        ),
        ingress(
            "shop/vhost",
            &[("vhost.test", &["Prefix / web"])],
            &["upstream-vhost: inner.test"],
            "",
        ),
        ingress(
            "shop/main",
            &[(
                "canary.test",
                &["Prefix / web", "Prefix /cookie web", "Prefix /all web"],
            )],
            &[],
            "",
        ),
        ingress(
            "shop/canary",
            &[("canary.test", &["Prefix / api"])],
            &["canary: 'true'", "canary-by-header: X-Canary"],
            "",
        ),
        ingress(
            "shop/canary-cookie",
            &[("canary.test", &["Prefix /cookie api"])],
            &[
                "canary: 'true'",
                "canary-by-header: X-Canary",
                "canary-by-header-value: yes-please",
                "canary-by-cookie: pick",
            ],
            "",
        ),
        ingress(
            "shop/canary-all",
            &[("canary.test", &["Prefix /all api"])],
            &["canary: 'true'", "canary-weight: '100'"],
            "",
        ),
        ingress(
            "team/theirs",
            &[("theirs.test", &["Prefix / theirs"])],
            &[],
            "",
        ),
    ]
    .concat()
}

#[tokio::test]
async fn l191_what_is_made_of_ingresses_answers_as_they_do() {
    let mut others = [
        service("shop", "web"),
        service("shop", "api"),
        service("shop", "old"),
    ]
    .concat();
    others += &service("team", "theirs");
    others += HASHES;
    others += &certificate("cert");
    let both = Both::new(&corpus(), &others).await;
    let basic: &[(&str, &str)] = &[("authorization", "Basic YW5uYTpzZWNyZXQ=")];
    let origin: &[(&str, &str)] = &[("origin", "https://a.test")];
    let preflight: &[(&str, &str)] = &[
        ("origin", "https://a.test"),
        ("access-control-request-method", "PUT"),
    ];
    let other: &[(&str, &str)] = &[("origin", "https://b.test")];
    let always: &[(&str, &str)] = &[("x-canary", "always")];
    let never: &[(&str, &str)] = &[("x-canary", "never"), ("cookie", "pick=always")];
    let value: &[(&str, &str)] = &[("x-canary", "yes-please")];
    let cookie: &[(&str, &str)] = &[("cookie", "a=b; pick=always; c=d")];
    let no_cookie: &[(&str, &str)] = &[("cookie", "pick=never")];
    let none: &[(&str, &str)] = &[];
    let get = [
        ("plain.test", "/exact", none),
        ("plain.test", "/exact/", none),
        ("plain.test", "/exact/a?b=c", none),
        ("plain.test", "/api", none),
        ("plain.test", "/api/v2", none),
        ("plain.test", "/api/v2/x", none),
        ("plain.test", "/apiece", none),
        ("plain.test", "/API", none),
        ("plain.test", "/any", none),
        ("plain.test", "/a/../api", none),
        ("plain.test", "//api", none),
        ("plain.test", "/%61pi", none),
        ("plain.test:8080", "/api", none),
        ("PLAIN.test", "/api", none),
        ("other.test", "/", none),
        ("other.test", "/x", none),
        ("a.wild.test", "/x", none),
        ("wild.test", "/any", none),
        ("unknown.test", "/any/x", none),
        ("unknown.test", "/", none),
        ("default.test", "/a", none),
        ("default.test", "/b", none),
        ("default.test", "/", none),
        ("regex.test", "/item/12", none),
        ("regex.test", "/ITEM/12/more", none),
        ("regex.test", "/item/x", none),
        ("strip.test", "/app", none),
        ("strip.test", "/app/", none),
        ("strip.test", "/app/x/y?q=1", none),
        ("strip.test", "/apple", none),
        ("groups.test", "/old/a/b", none),
        ("groups.test", "/new/", none),
        ("groups.test", "/none/a", none),
        ("full.test", "/from/x?y=z", none),
        ("full.test", "/FROM", none),
        ("full.test", "/x", none),
        ("moved.test", "/a?b=c", none),
        ("temporal.test", "/a", none),
        ("root.test", "/", none),
        ("root.test", "/start", none),
        ("tls.test", "/shop/a?b=c", none),
        ("tls.test", "/other", none),
        ("cors.test", "/", origin),
        ("cors.test", "/", other),
        ("cors.test", "/", none),
        ("auth.test", "/", none),
        ("auth.test", "/", basic),
        ("deny.test", "/", none),
        ("vhost.test", "/", none),
        ("theirs.test", "/", none),
        ("canary.test", "/", none),
        ("canary.test", "/", always),
        ("canary.test", "/", never),
        ("canary.test", "/cookie", none),
        ("canary.test", "/cookie", value),
        ("canary.test", "/cookie", cookie),
        ("canary.test", "/cookie", no_cookie),
        ("canary.test", "/cookie", always),
        ("canary.test", "/all", none),
    ];
    let mut different = Vec::new();
    let mut statuses = BTreeSet::new();
    let asked = get.iter().map(|(host, target, headers)| Asked {
        method: Method::GET,
        host,
        target,
        headers,
        body: 0,
    });
    let more = [
        (Method::OPTIONS, "cors.test", "/", preflight, 0),
        (Method::POST, "size.test", "/", none, 8),
        (Method::POST, "size.test", "/", none, 9),
    ];
    let more = more
        .into_iter()
        .map(|(method, host, target, headers, body)| Asked {
            method,
            host,
            target,
            headers,
            body,
        });
    for request in asked.chain(more) {
        let [ingress, gateway] = both.ask(&request).await;
        statuses.insert(ingress[..3].to_owned());
        if ingress != gateway {
            let Asked {
                method,
                host,
                target,
                headers,
                ..
            } = &request;
            different.push(format!(
                "{method} {host}{target} {headers:?}:\n  {ingress}\n  {gateway}"
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    // The limit that every Ingress has.
    let ports = both.setup.edge.gateways.values();
    let listeners = ports.flat_map(|port| &port.listeners);
    let hosts = listeners.flat_map(|listener| listener.hosts.get("other.test"));
    let limits = hosts.flat_map(|host| &host.routes);
    let limits: Vec<_> = limits.map(|route| route.policy.limits.body_bytes).collect();
    assert_eq!(limits, [Some(1 << 20)]);
    // The corpus has answers of all kinds.
    let expected = [
        "200", "204", "301", "302", "308", "401", "403", "404", "413",
    ];
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn l192_what_has_no_equal_is_left_out_and_named() {
    let cases = [
        (
            "auth-tls-secret: users",
            "NOT PRINTED: certificates of clients",
        ),
        ("auth-url: nonsense", "NOT PRINTED: it is closed"),
        ("auth-snippet: deny all;", "NOT PRINTED: it is closed"),
        (
            "temporal-redirect: https://a.test/$arg_x",
            "NOT PRINTED: its redirect",
        ),
        ("from-to-www-redirect: 'true'", "from-to-www-redirect"),
        ("backend-protocol: GRPC", "appProtocol: kubernetes.io/h2c"),
        (
            "backend-protocol: HTTPS",
            "certificates of backends are always verified",
        ),
    ];
    for (annotation, expected) in cases {
        let text = ingress(
            "shop/one",
            &[("a.test", &["Prefix / web"])],
            &[annotation],
            "",
        );
        let read = Read::new(&format!("{text}{}{HASHES}", service("shop", "web")));
        let (made, text) = migrated(&read);
        let notes: Vec<String> = made.notes.iter().map(ToString::to_string).collect();
        let is_named = notes.iter().any(|note| note.contains(expected));
        assert!(is_named, "{annotation}: {notes:?}");
        let is_left_out = expected.starts_with("NOT PRINTED");
        assert_eq!(made.lacks_ingress(), is_left_out, "{annotation}");
        assert_eq!(
            !text.contains("kind: HTTPRoute"),
            is_left_out,
            "{annotation}"
        );
    }
}
