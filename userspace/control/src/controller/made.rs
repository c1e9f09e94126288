//! The Service and the EndpointSlices of a Gateway.

use std::{collections::BTreeMap, str::SplitWhitespace};

use headgate_model::{
    Family, NamespacedName, Protocol,
    gateway::{Infrastructure, object::GROUP, port_name},
};
use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use serde_json::{Value, json};

use super::proxies::ProxyEndpoint;

/// Label of Services that the controller made, with its value.
pub(super) const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "headgate");
/// Label of EndpointSlices that the controller made, with its value.
pub(super) const SLICE_MANAGED: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "headgate.io");
/// Class of Services whose addresses are those of a pool, so that no other load balancer takes them.
pub(super) const POOL_CLASS: &str = "headgate.io/gateway-pool";
/// Annotation with the controller that made an object.
const CONTROLLER: &str = "headgate.io/controller";
/// Annotations with the names of the labels and annotations that the Gateway asks for: show which were taken away.
const APPLIED_LABELS: &str = "headgate.io/applied-labels";
const APPLIED_ANNOTATIONS: &str = "headgate.io/applied-annotations";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Largest number of endpoints in an EndpointSlice.
const LARGEST: usize = 1000;

/// The Service of a Gateway that serves a port. `wanted` is an address that the Gateway asks for and a load
/// balancer of the cluster should give; `has_pool` says that we give addresses.
pub(super) fn service(
    made: &Infrastructure,
    controller: &str,
    has_pool: bool,
    wanted: Option<&str>,
) -> Service {
    let proxied = made.ports.iter();
    let proxied = proxied.map(|(port, target)| (Protocol::Tcp, *port, *target));
    // No slice has these: agents send their connections to the backends of routes.
    let routed = made.kernel_ports.iter();
    let routed = routed.map(|(protocol, port)| (*protocol, *port, *port));
    let ports = proxied
        .chain(routed)
        .map(|(protocol, port, target)| ServicePort {
            name: Some(port_name(protocol, port)),
            port: i32::from(port),
            target_port: Some(IntOrString::Int(i32::from(target))),
            protocol: Some(protocol.to_string().to_uppercase()),
            ..ServicePort::default()
        });
    Service {
        metadata: metadata(made, controller, &made.service.name, MANAGED),
        spec: Some(ServiceSpec {
            type_: Some("LoadBalancer".into()),
            // The proxy of the node that gets a connection serves it, and sees the client's address.
            external_traffic_policy: Some("Local".into()),
            ip_family_policy: Some("PreferDualStack".into()),
            // Other load balancers may need node ports.
            allocate_load_balancer_node_ports: has_pool.then_some(false),
            load_balancer_class: has_pool.then(|| POOL_CLASS.into()),
            load_balancer_ip: wanted.map(Into::into),
            ports: Some(ports.collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The proxies as endpoints, by family.
pub(super) struct Endpoints([(&'static str, Vec<Endpoint>); 2]);

impl Endpoints {
    pub(super) fn new(proxies: &[ProxyEndpoint]) -> Self {
        let of = |family: Family| {
            let here = proxies.iter();
            let here = here.filter(|proxy| Family::of(proxy.address) == family);
            here.map(endpoint).collect()
        };
        Self([("IPv4", of(Family::V4)), ("IPv6", of(Family::V6))])
    }
}

fn endpoint(proxy: &ProxyEndpoint) -> Endpoint {
    Endpoint {
        addresses: vec![proxy.address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(proxy.is_ready()),
            serving: Some(proxy.is_serving),
            terminating: Some(proxy.is_terminating),
        }),
        node_name: Some(proxy.node.clone()),
        ..Endpoint::default()
    }
}

/// An EndpointSlice of a Gateway.
pub(super) struct Slice<'a> {
    pub(super) name: NamespacedName,
    address_type: &'static str,
    endpoints: &'a [Endpoint],
    ports: &'a [EndpointPort],
}

impl Slice<'_> {
    /// Whether this is there.
    pub(super) fn is(&self, found: &EndpointSlice, metadata: &ObjectMeta) -> bool {
        has_metadata(&found.metadata, metadata)
            && found.endpoints.as_deref() == Some(self.endpoints)
            // The API server leaves an empty list out: a Gateway that the kernel alone serves.
            && found.ports.as_deref().unwrap_or_default() == self.ports
    }

    pub(super) fn object(&self, metadata: ObjectMeta) -> EndpointSlice {
        EndpointSlice {
            metadata,
            address_type: self.address_type.into(),
            endpoints: Some(self.endpoints.to_vec()),
            ports: Some(self.ports.to_vec()),
        }
    }

    pub(super) fn metadata(&self, made: &Infrastructure, controller: &str) -> ObjectMeta {
        let mut metadata = metadata(made, controller, &self.name.name, SLICE_MANAGED);
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(SERVICE_NAME.into(), made.service.name.clone());
        metadata
    }
}

/// The ports of EndpointSlices of a Gateway.
pub(super) fn slice_ports(made: &Infrastructure) -> Vec<EndpointPort> {
    let ports = made.ports.iter().map(|(port, target)| EndpointPort {
        name: Some(port_name(Protocol::Tcp, *port)),
        port: Some(i32::from(*target)),
        protocol: Some("TCP".into()),
        ..EndpointPort::default()
    });
    ports.collect()
}

/// The EndpointSlices of a Gateway.
pub(super) fn slices<'a>(
    made: &Infrastructure,
    endpoints: &'a Endpoints,
    ports: &'a [EndpointPort],
) -> Vec<Slice<'a>> {
    let mut slices = Vec::new();
    for (address_type, endpoints) in &endpoints.0 {
        for (number, endpoints) in endpoints.chunks(LARGEST).enumerate() {
            let family = address_type.to_lowercase();
            let name = format!("{}-{family}-{number}", made.service.name);
            slices.push(Slice {
                name: NamespacedName::new(&made.service.namespace, &name),
                address_type,
                endpoints,
                ports,
            });
        }
    }
    slices
}

/// The Service of an EndpointSlice, by the name that [`slices`] gives it.
pub(super) fn service_of(slice: &NamespacedName) -> Option<NamespacedName> {
    let service = slice.name.rsplitn(3, '-').nth(2)?;
    Some(NamespacedName::new(&slice.namespace, service))
}

/// Metadata of an object that is made for a Gateway. Our labels win over those of the Gateway.
fn metadata(
    made: &Infrastructure,
    controller: &str,
    name: &str,
    managed: (&str, &str),
) -> ObjectMeta {
    let names = |texts: &BTreeMap<String, String>| {
        let names: Vec<&str> = texts.keys().map(String::as_str).collect();
        names.join(" ")
    };
    let (mut labels, mut annotations) = (made.labels.clone(), made.annotations.clone());
    annotations.insert(APPLIED_LABELS.into(), names(&made.labels));
    annotations.insert(APPLIED_ANNOTATIONS.into(), names(&made.annotations));
    annotations.insert(CONTROLLER.into(), controller.into());
    labels.insert(managed.0.into(), managed.1.into());
    let (gateway, uid) = &made.owner;
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(made.service.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations),
        owner_references: Some(vec![OwnerReference {
            api_version: format!("{GROUP}/v1"),
            kind: "Gateway".into(),
            name: gateway.name.clone(),
            uid: uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

/// The Gateway that this controller made an object for, with its `uid`.
pub(super) fn owner<'a>(
    metadata: &'a ObjectMeta,
    controller: &str,
) -> Option<(NamespacedName, &'a str)> {
    let made_by = metadata.annotations.as_ref()?.get(CONTROLLER)?;
    let mut owners = metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| {
        let group = owner.api_version.split('/').next();
        owner.kind == "Gateway" && group == Some(GROUP) && owner.controller == Some(true)
    })?;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let gateway = NamespacedName::new(namespace, &owner.name);
    (made_by == controller).then_some((gateway, &owner.uid))
}

/// Whether a Service has another class than it should have, which the API server does not let change.
pub(super) fn has_other_class(found: &Service, wanted: &Service) -> bool {
    let class = |service: &Service| {
        let spec = service.spec.as_ref();
        spec.and_then(|spec| spec.load_balancer_class.clone())
    };
    class(found) != class(wanted)
}

/// Whether a Service has what it should have.
pub(super) fn has_all(found: &Service, wanted: &Service) -> bool {
    let (Some(found_spec), Some(spec)) = (&found.spec, &wanted.spec) else {
        return false;
    };
    let ports = |spec: &ServiceSpec| -> Vec<ServicePort> {
        let ports = spec.ports.iter().flatten().cloned();
        let ports = ports.map(|one| ServicePort {
            node_port: None,
            ..one
        });
        ports.collect()
    };
    let is_given =
        spec.load_balancer_ip.is_none() || found_spec.load_balancer_ip == spec.load_balancer_ip;
    has_metadata(&found.metadata, &wanted.metadata)
        && found_spec.type_ == spec.type_
        && found_spec.external_traffic_policy == spec.external_traffic_policy
        && is_given
        && ports(found_spec) == ports(spec)
}

/// A merge patch that gives a Service what it should have. Node ports stay.
pub(super) fn service_patch(found: &Service, wanted: Service) -> Value {
    let known = found.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let mut spec = wanted.spec.unwrap_or_default();
    for port in spec.ports.iter_mut().flatten() {
        let mut known = known.into_iter().flatten();
        let known = known.find(|known| known.port == port.port && known.protocol == port.protocol);
        port.node_port = known.and_then(|known| known.node_port);
    }
    // Decided once.
    spec.ip_family_policy = None;
    json!({"metadata": metadata_patch(&found.metadata, &wanted.metadata), "spec": spec})
}

/// A merge patch that makes an EndpointSlice as it should be.
pub(super) fn slice_patch(found: &EndpointSlice, wanted: &EndpointSlice) -> Value {
    json!({
        "metadata": metadata_patch(&found.metadata, &wanted.metadata),
        "endpoints": wanted.endpoints,
        "ports": wanted.ports,
    })
}

/// Labels and annotations of others stay; those that the Gateway no longer asks for go.
fn metadata_patch(found: &ObjectMeta, wanted: &ObjectMeta) -> Value {
    let applied = |annotation: &str| {
        let names = found.annotations.as_ref();
        let names = names.and_then(|names| names.get(annotation));
        names.map_or("", String::as_str).split_whitespace()
    };
    let patch = |applied: SplitWhitespace<'_>, wanted: &Option<BTreeMap<String, String>>| {
        let gone = applied.map(|name| (name.to_owned(), Value::Null));
        let mut patch: serde_json::Map<String, Value> = gone.collect();
        let wanted = wanted.iter().flatten();
        patch.extend(wanted.map(|(name, text)| (name.clone(), text.clone().into())));
        patch
    };
    json!({
        "resourceVersion": found.resource_version,
        "labels": patch(applied(APPLIED_LABELS), &wanted.labels),
        "annotations": patch(applied(APPLIED_ANNOTATIONS), &wanted.annotations),
    })
}

fn has_metadata(found: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    type Texts = Option<BTreeMap<String, String>>;
    let has = |found: &Texts, wanted: &Texts| {
        let value = |name: &String| found.as_ref().and_then(|found| found.get(name));
        let mut wanted = wanted.iter().flatten();
        wanted.all(|(name, text)| value(name) == Some(text))
    };
    has(&found.labels, &wanted.labels) && has(&found.annotations, &wanted.annotations)
}
