//! Makes manifests: real ones with values replaced, removed or added, and some with changed bytes.

use fastrand::Rng;
use headgate_model::ingress::FOREIGN;
use yaml_serde::{Mapping, Value};

use crate::input::{mutate, one};

const REAL: &str = include_str!("real.yaml");

/// Texts that are easily misread.
const TEXTS: [&str; 34] = [
    "",
    " ",
    "None",
    "Local",
    "Cluster",
    "ClientIP",
    "UDP",
    "SCTP",
    "web",
    "http",
    "n1",
    "a.test",
    "*.a.test",
    "*",
    "-",
    "a..b",
    "/",
    "/../x",
    "^(/x)(.*)$",
    "(",
    "$1",
    "10.96.0.1",
    "::1",
    "::ffff:10.96.0.1",
    "127.0.0.1",
    "0.0.0.0/0",
    "300.1.1.1/33",
    "fd00::/129",
    "true",
    "9e99",
    "a\nb: c",
    "\u{0}",
    "é\u{202e}",
    "18446744073709551616",
];
const NUMBERS: [i64; 10] = [0, 1, -1, 53, 80, 30_080, 65_535, 65_536, i64::MIN, i64::MAX];
/// Names of annotations, with either prefix.
const ANNOTATIONS: [&str; 40] = [
    "affinity",
    "allowlist-source-range",
    "app-root",
    "auth-realm",
    "auth-secret",
    "auth-tls-secret",
    "auth-type",
    "auth-url",
    "backend-protocol",
    "canary",
    "canary-by-cookie",
    "canary-by-header",
    "canary-by-header-pattern",
    "canary-weight",
    "canary-weight-total",
    "cors-allow-origin",
    "denylist-source-range",
    "enable-cors",
    "from-to-www-redirect",
    "health-check-path",
    "limit-connections",
    "limit-rpm",
    "limit-rps",
    "load-balance",
    "match-headers",
    "match-method",
    "match-query",
    "match-source",
    "mirror-percent",
    "permanent-redirect",
    "proxy-body-size",
    "proxy-next-upstream",
    "proxy-read-timeout",
    "request-headers",
    "rewrite-target",
    "server-alias",
    "session-cookie-path",
    "ssl-passthrough",
    "upstream-hash-by",
    "use-regex",
];

pub(super) fn manifest(rng: &mut Rng) -> Vec<u8> {
    let real: Vec<&str> = REAL.split("---\n").collect();
    let mut text = String::new();
    for _ in 0..rng.usize(1..4) {
        let mut object: Value = yaml_serde::from_str(one::<&str>(rng, &real)).expect("a manifest");
        for _ in 0..rng.usize(..4) {
            annotate(rng, &mut object);
        }
        for _ in 0..rng.usize(..5) {
            change(rng, &mut object, 0);
        }
        text.push_str("---\n");
        text.push_str(&yaml_serde::to_string(&object).unwrap_or_default());
    }
    let mut bytes = text.into_bytes();
    if rng.u8(..8) == 0 {
        mutate(rng, &mut bytes);
    }
    bytes
}

/// Adds an annotation to an Ingress.
fn annotate(rng: &mut Rng, object: &mut Value) {
    let is_ingress = object.get("kind").and_then(Value::as_str) == Some("Ingress");
    let annotations = object
        .get_mut("metadata")
        .and_then(|metadata| metadata.get_mut("annotations")?.as_mapping_mut());
    let (true, Some(annotations)) = (is_ingress, annotations) else {
        return;
    };
    let foreign = one(rng, FOREIGN).names;
    let name = match rng.u8(..8) {
        0 => one(rng, foreign),
        _ => one(rng, &ANNOTATIONS),
    };
    let prefix = one(rng, &["nginx.ingress.kubernetes.io/", "headgate.io/"]);
    let mut value = *one(rng, &TEXTS);
    let number = one(rng, &NUMBERS).to_string();
    if rng.bool() {
        value = &number;
    }
    annotations.insert(format!("{prefix}{name}").into(), value.into());
}

/// Descends to a random place, and changes the value there.
fn change(rng: &mut Rng, value: &mut Value, depth: usize) {
    let goes_down = depth < 3 || rng.u8(..4) != 0;
    match value {
        Value::Mapping(mapping) if goes_down && !mapping.is_empty() => {
            let at = rng.usize(..mapping.len());
            if rng.u8(..12) == 0 {
                let key = mapping.keys().nth(at).cloned();
                drop(key.and_then(|key| mapping.remove(&key)));
            } else if let Some(inner) = mapping.values_mut().nth(at) {
                change(rng, inner, depth + 1);
            }
        }
        Value::Sequence(items) if goes_down && !items.is_empty() => {
            let at = rng.usize(..items.len());
            match rng.u8(..12) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => change(rng, &mut items[at], depth + 1),
            }
        }
        _ => *value = any(rng),
    }
}

fn any(rng: &mut Rng) -> Value {
    match rng.u8(..10) {
        0 => Value::Null,
        1 => Value::Bool(rng.bool()),
        2 => Value::Sequence(vec![(*one(rng, &TEXTS)).into()]),
        3 => Value::Mapping(Mapping::from_iter([(
            "x".into(),
            (*one(rng, &TEXTS)).into(),
        )])),
        4..7 => (*one(rng, &NUMBERS)).into(),
        _ => (*one(rng, &TEXTS)).into(),
    }
}
