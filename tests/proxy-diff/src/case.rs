//! Ingresses and requests, from `cases.yaml`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{BACKEND, BACKEND_PORT, HASHED, MANY, Request, Transport, hash, http2};

/// An Ingress with a host of its own, and requests for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Name of the Ingress, and first label of its host.
    pub name: String,
    /// Annotations, without their prefix.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Rules of the host; `/` of type Prefix if empty.
    #[serde(default)]
    pub paths: Vec<Rule>,
    /// Whether `spec.tls` names the host.
    #[serde(default)]
    pub tls: bool,
    /// Key `auth` of the Secret `NAME-auth`.
    pub htpasswd: Option<String>,
    /// Requests besides those that every case gets.
    #[serde(default)]
    pub requests: Vec<String>,
}

/// A path of a rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its text.
    pub path: String,
    /// Its type.
    #[serde(default = "prefix", rename = "type")]
    pub path_type: String,
}

fn prefix() -> String {
    "Prefix".into()
}

impl Case {
    /// The host of its rules.
    pub fn host(&self) -> String {
        format!("{}.test", self.name)
    }

    /// An annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// Whether an annotation is `true`.
    pub fn is_on(&self, name: &str) -> bool {
        self.annotation(name) == Some("true")
    }

    /// The path of its first rule up to the first character that is special in a regular expression.
    fn start(&self) -> &str {
        let path = self.paths.first().map_or("/", |rule| &rule.path);
        let end = path.find(|c: char| "([.*?+|$^\\".contains(c));
        path[..end.unwrap_or(path.len())].trim_end_matches('/')
    }
}

/// All cases.
///
/// # Errors
///
/// If the file cannot be read.
pub fn cases() -> Result<Vec<Case>> {
    let mut cases: Vec<Case> =
        yaml_serde::from_str(include_str!("../cases.yaml")).context("cases.yaml")?;
    for case in &mut cases {
        if case.paths.is_empty() {
            case.paths.push(Rule {
                path: "/".into(),
                path_type: prefix(),
            });
        }
    }
    Ok(cases)
}

/// The objects of all cases, for `--source`.
pub fn manifests(cases: &[Case]) -> String {
    let mut objects = vec![
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": "headgate"}, "spec": {"controller": "headgate.io/ingress"},
        }),
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "backend"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "backend", "labels": {"kubernetes.io/service-name": "backend"}},
            "ports": [{"port": BACKEND_PORT}], "endpoints": [{"addresses": [BACKEND]}],
        }),
    ];
    let many = MANY.map(|address| json!({"addresses": [address]}));
    objects.push(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "many"},
        "spec": {"clusterIP": "10.96.0.2", "ports": [{"port": 80}]},
    }));
    objects.push(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "many", "labels": {"kubernetes.io/service-name": "many"}},
        "ports": [{"port": BACKEND_PORT}], "endpoints": many,
    }));
    for (index, value) in HASHED.iter().enumerate() {
        objects.push(hashed(index, value));
    }
    for case in cases {
        objects.push(ingress(case));
        if let Some(users) = &case.htpasswd {
            objects.push(json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": format!("{}-auth", case.name)}, "stringData": {"auth": users},
            }));
        }
    }
    objects
        .iter()
        .map(|object| format!("{object}\n---\n"))
        .collect()
}

/// An Ingress whose endpoint is chosen by a hash.
fn hashed(index: usize, value: &str) -> Value {
    let backend = json!({"service": {"name": "many", "port": {"number": 80}}});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {
            "name": format!("hash{index}"),
            "annotations": {"nginx.ingress.kubernetes.io/upstream-hash-by": value},
        },
        "spec": {
            "ingressClassName": "headgate",
            "rules": [{
                "host": hash::host(index),
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            }],
        },
    })
}

fn ingress(case: &Case) -> Value {
    let paths: Vec<Value> = case
        .paths
        .iter()
        .map(|rule| {
            json!({
                "path": rule.path, "pathType": rule.path_type,
                "backend": {"service": {"name": "backend", "port": {"number": 80}}},
            })
        })
        .collect();
    let annotations: BTreeMap<String, &String> = case
        .annotations
        .iter()
        .map(|(name, text)| (format!("nginx.ingress.kubernetes.io/{name}"), text))
        .collect();
    let tls = match case.tls {
        true => json!([{"hosts": [case.host()], "secretName": "tls"}]),
        false => json!([]),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": case.name, "annotations": annotations},
        "spec": {
            "ingressClassName": "headgate", "tls": tls,
            "rules": [{"host": case.host(), "http": {"paths": paths}}],
        },
    })
}

/// Requests that every case gets; `{p}` is the start of its first path.
const EVERY: &[&str] = &[
    "GET {p}",
    "GET {p}/",
    "GET {p}x",
    "GET {p}/a/b?x=1&y=%20z&empty=",
    "GET {p}/a?",
    "GET {p}//a",
    "GET {p}/./a/../b",
    "GET {p}/%2e%2e/b",
    "GET {p}/a%2Fb",
    "GET {p}/a%20b%C3%A4",
    "GET {p}/a;v=1,b=(c)",
    "GET /other",
    "HEAD {p}/",
    "POST {p}/form | Content-Type: application/x-www-form-urlencoded | = a=1&b=2",
    "PUT {p}/chunks | Transfer-Encoding: chunked | = 3\\r\\nabc\\r\\n0\\r\\n\\r\\n",
    "OPTIONS {p}/ | Origin: https://app.example.com | Access-Control-Request-Method: PUT",
    "GET {p}/ | Origin: https://app.example.com | Cookie: session=1",
    "GET {p}/ | X-Forwarded-For: 203.0.113.7 | X-Forwarded-Proto: https | X-Forwarded-Host: evil.test | X-Forwarded-Port: 444",
    "GET {p}/ | X-Real-IP: 203.0.113.7 | X-Request-ID: 0123456789abcdef0123456789abcdef | Proxy: evil",
    "GET {p}/ | Connection: close, X-Drop | X-Drop: 1 | Keep-Alive: timeout=5 | TE: trailers",
    "GET {p}/ | Cookie: a=1; b=2 | X-Two: 1 | X-Two: 2 | under_score: 1",
    "GET {p}/ | Accept-Encoding: gzip",
    "GET {p}/ | Host: {H}",
    "GET {p}/ | Host: {h}:80",
    "GET http://{h}{p}/absolute?x",
    "GET {p}/ | X-Answer: 404",
    "GET {p}/ | X-Answer: 204",
    "GET {p}/ | X-Answer: 302",
    "GET {p}/ | X-Answer: chunked",
    "GET {p}/ | X-Answer: cookies",
    "GET {p}/ | X-Answer: cors",
];

/// The requests of a case, over HTTP/1.1 and HTTP/2, and over HTTPS if it has a certificate.
///
/// # Errors
///
/// If a request cannot be parsed.
pub fn requests(case: &Case) -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    let own = case.requests.iter().map(String::as_str);
    for text in EVERY.iter().copied().chain(own) {
        for transport in [Transport::Http, Transport::Https, Transport::Http2] {
            let request = request(case, text, transport).with_context(|| text.to_owned())?;
            let can_be_sent = match transport {
                Transport::Http => true,
                Transport::Https => case.tls,
                Transport::Http2 => http2::has(&request),
            };
            if can_be_sent {
                requests.push(request);
            }
        }
    }
    Ok(requests)
}

/// Parses `METHOD TARGET | Name: value | = body`.
fn request(case: &Case, text: &str, transport: Transport) -> Result<Request> {
    let host = case.host();
    let text = text
        .replace("{p}", case.start())
        .replace("{h}", &host)
        .replace("{H}", &host.to_uppercase());
    let mut parts = text.split(" | ");
    let (method, target) = parts
        .next()
        .and_then(|line| line.split_once(' '))
        .context("line")?;
    let target = if target.is_empty() { "/" } else { target };
    let (mut headers, mut body) = (Vec::new(), String::new());
    for part in parts {
        match part.strip_prefix("= ") {
            Some(text) => body = text.replace("\\r\\n", "\r\n"),
            None => match part.split_once(": ") {
                Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
                None => bail!("no header: {part}"),
            },
        }
    }
    ensure!(!method.is_empty(), "no method");
    let has = |wanted: &str| {
        headers
            .iter()
            .any(|(name, _): &(String, String)| name.eq_ignore_ascii_case(wanted))
    };
    let (has_host, is_chunked) = (has("host"), has("transfer-encoding"));
    if !has_host {
        headers.insert(0, ("Host".into(), host.clone()));
    }
    if !body.is_empty() && !is_chunked {
        headers.push(("Content-Length".into(), body.len().to_string()));
    }
    Ok(Request {
        name: text.clone(),
        host,
        transport,
        method: method.into(),
        target: target.into(),
        headers,
        body,
    })
}
