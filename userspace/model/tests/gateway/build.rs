//! Objects from manifests, as the API server has them.

use std::{collections::BTreeMap, sync::Arc};

use headgate_model::{
    NamespacedName,
    edge::{Secret, Services, UpstreamPort, UpstreamService},
    gateway::{
        Addresses, GatewayOptions, Resolved, Resolver, RouteKind, RouteVerdict, Servers, Verdict,
        World,
        object::{Meta, Object, Objects, StatusAddress},
        resolve,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use yaml_serde::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document<S, T> {
    metadata: Metadata,
    spec: S,
    #[serde(default)]
    status: T,
}

/// A part of `metadata`; the creation time is in seconds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    generation: i64,
    creation_timestamp: Option<i64>,
}

pub(crate) fn name(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    NamespacedName::new(namespace, name)
}

/// An object; panics if it has a field that its type does not have.
pub(crate) fn object<S: DeserializeOwned, T: DeserializeOwned + Default>(
    value: Value,
) -> Object<S, T> {
    let mut unknown = Vec::new();
    let decoded = serde_ignored::deserialize(value, |path| {
        let path = path.to_string();
        // The header of every object.
        if !["apiVersion", "kind"].contains(&path.as_str()) {
            unknown.push(path);
        }
    });
    let Document {
        metadata,
        spec,
        status,
    }: Document<S, T> = decoded.unwrap();
    assert!(unknown.is_empty(), "unknown fields {unknown:?}");
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    Object {
        meta: Meta {
            name: NamespacedName::new(namespace, &metadata.name),
            uid: metadata.uid,
            version: String::new(),
            generation: metadata.generation,
            created_s: metadata.creation_timestamp,
        },
        spec,
        status,
    }
}

/// The objects of manifests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    pub(crate) objects: Objects,
    pub(crate) secrets: BTreeMap<NamespacedName, Secret>,
    pub(crate) services: Services,
    pub(crate) options: GatewayOptions,
    pub(crate) servers: Servers,
}

/// The objects of a manifest, with a GatewayClass `headgate` of ours, the namespaces `default` and `team`, a
/// Secret `tls` with a certificate, and Services `web`, `api` and `old` with port 80 in both.
pub(crate) fn cluster(text: &str) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.add(
        "
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
kind: Namespace
metadata: {name: default, labels: {team: core}}
---
kind: Namespace
metadata: {name: team, labels: {team: shop}}
---
kind: Secret
metadata: {name: tls}
data: {tls.crt: chain, tls.key: key}
",
    );
    for namespace in ["default", "team"] {
        for short in ["web", "api", "old"] {
            cluster.add_service(&format!("{namespace}/{short}"), None);
        }
    }
    cluster.add(text);
    cluster
}

impl Cluster {
    /// A Service with port 80.
    pub(crate) fn add_service(&mut self, text: &str, app_protocol: Option<&str>) {
        let service = UpstreamService {
            uid: "4c1e".into(),
            ports: vec![UpstreamPort {
                name: "http".into(),
                port: 80,
                app_protocol: app_protocol.map(Into::into),
            }],
            udp_ports: Vec::new(),
            cluster_ips: Vec::new(),
            is_external: false,
        };
        self.services.insert(name(text), service);
    }

    /// The verdicts and routes; every Gateway has an address.
    pub(crate) fn resolve(&self) -> Resolved {
        self.resolve_again(&mut Resolver::default())
    }

    /// The same, by a resolver that knows what was there before.
    pub(crate) fn resolve_again(&self, resolver: &mut Resolver) -> Resolved {
        let mut addresses = Addresses::default();
        for gateway in self.objects.gateways.keys() {
            let address = StatusAddress {
                type_: "IPAddress".into(),
                value: "192.0.2.1".into(),
            };
            addresses.set(gateway.clone(), vec![address], None);
        }
        resolver.resolve(&self.world(&addresses))
    }

    pub(crate) fn resolve_with(&self, addresses: &Addresses) -> Resolved {
        resolve(&self.world(addresses))
    }

    fn world<'a>(&'a self, addresses: &'a Addresses) -> World<'a> {
        World {
            objects: &self.objects,
            secrets: &self.secrets,
            services: &self.services,
            addresses,
            servers: &self.servers,
            options: &self.options,
        }
    }

    pub(crate) fn add(&mut self, text: &str) {
        for document in yaml_serde::Deserializer::from_str(text) {
            let value = Value::deserialize(document).unwrap();
            if !value.is_null() {
                self.add_object(value);
            }
        }
    }

    fn add_object(&mut self, value: Value) {
        let kind = value
            .get("kind")
            .and_then(Value::as_str)
            .unwrap()
            .to_owned();
        let metadata = value.get("metadata").unwrap().clone();
        let text = |field: &str| metadata.get(field).and_then(Value::as_str);
        let short = text("name").unwrap().to_owned();
        let name = NamespacedName::new(text("namespace").unwrap_or("default"), &short);
        let objects = &mut self.objects;
        macro_rules! put {
            ($map:ident) => {
                drop(objects.$map.insert(name, object(value)))
            };
        }
        match kind.as_str() {
            "GatewayClass" => drop(objects.classes.insert(short, object(value))),
            "Gateway" => put!(gateways),
            "ListenerSet" => put!(listener_sets),
            "HTTPRoute" => drop(objects.http_routes.insert(name, Arc::new(object(value)))),
            "GRPCRoute" => drop(objects.grpc_routes.insert(name, Arc::new(object(value)))),
            "TLSRoute" => put!(tls_routes),
            "TCPRoute" => put!(tcp_routes),
            "UDPRoute" => put!(udp_routes),
            "ReferenceGrant" => put!(grants),
            "BackendTLSPolicy" => put!(backend_tls),
            "RoutePolicy" => put!(route_policies),
            "Namespace" => {
                let labels = metadata.get("labels").cloned().unwrap_or_default();
                let labels = yaml_serde::from_value(labels).unwrap();
                objects.namespaces.insert(short, labels);
            }
            "Secret" => {
                let data = value.get("data").cloned().unwrap_or_default();
                let data: BTreeMap<String, String> = yaml_serde::from_value(data).unwrap();
                let data = data.into_iter().map(|(key, text)| (key, text.into_bytes()));
                let secret = Secret {
                    type_: "kubernetes.io/tls".into(),
                    data: data.collect(),
                };
                self.secrets.insert(name, secret);
            }
            other => panic!("unknown kind {other}"),
        }
    }
}

/// Status and reason of a condition, as `True/Accepted`.
pub(crate) fn condition(conditions: &[Verdict], type_: &str) -> String {
    let found = conditions.iter().find(|one| one.type_ == type_);
    found.map_or_else(String::new, |one| {
        let status = if one.is_true { "True" } else { "False" };
        format!("{status}/{}", one.reason)
    })
}

/// A condition of a listener of a Gateway, and the number of its routes.
pub(crate) fn listener(resolved: &Resolved, gateway: &str, listener: &str, type_: &str) -> String {
    let verdict = &resolved.verdicts[&name(gateway)];
    let mut listeners = verdict.listeners.iter();
    let found = listeners.find(|one| one.name == listener).unwrap();
    condition(&found.conditions, type_)
}

/// The number of routes of a listener of a Gateway.
pub(crate) fn attached(resolved: &Resolved, gateway: &str, listener: &str) -> usize {
    let verdict = &resolved.verdicts[&name(gateway)];
    let mut listeners = verdict.listeners.iter();
    listeners
        .find(|one| one.name == listener)
        .unwrap()
        .attached_routes
}

pub(crate) fn route<'a>(resolved: &'a Resolved, kind: RouteKind, route: &str) -> &'a RouteVerdict {
    &resolved.routes[&(kind, name(route))]
}

/// A condition of an HTTPRoute at each of its parents.
pub(crate) fn http(resolved: &Resolved, name: &str, type_: &str) -> Vec<String> {
    let parents = &route(resolved, RouteKind::Http, name).parents;
    let texts = parents
        .iter()
        .map(|(_, conditions)| condition(conditions, type_));
    texts.collect()
}
