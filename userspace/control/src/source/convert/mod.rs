//! Converts Kubernetes objects to the model. Invalid fields are refused; the rest of the object
//! stays in effect.

mod gateway;
mod ingress;
mod names;
mod node;
mod service;
mod slice;

use std::{fmt::Debug, net::IpAddr};

use headgate_model::{NamespacedName, ObjectName, Protocol, Refusal};
use k8s_openapi::api::{
    core::v1::{Node, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use crate::source::event::{Event, Interest, Kind, Served};

pub(crate) use {
    gateway::{
        BackendTlsPolicy, Custom, CustomKind, Gateway, GatewayClass, GrpcRoute, HttpRoute,
        ListenerSet, ReferenceGrant, RoutePolicy, TcpRoute, TlsRoute, UdpRoute,
    },
    ingress::SKIPPED_SECRETS,
    names::host,
};

pub(super) const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Label of headless Services and their slices.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Collects refusals of one object.
pub(crate) struct Refusals {
    object: ObjectName,
    pub(crate) list: Vec<Refusal>,
}

impl Refusals {
    pub(crate) fn new(object: ObjectName) -> Self {
        Self {
            object,
            list: Vec::new(),
        }
    }

    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.list
            .push(Refusal::new(self.object.clone(), field, reason));
    }

    fn keep<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|reason| self.add(field, reason)).ok()
    }
}

/// An object as the API has it.
pub(crate) trait Object:
    kube::Resource<DynamicType = ()> + Clone + Debug + Default + DeserializeOwned + Send + 'static
{
    /// Its kind.
    const KIND: Kind;

    /// Converts the object of this name.
    fn event(&self, name: NamespacedName, interest: Interest, refusals: &mut Refusals) -> Event;

    /// Converts it to what routes see, where that is not all of it.
    fn upstream(&self, _name: &NamespacedName, _interest: Interest) -> Option<Event> {
        None
    }
}

impl Object for Service {
    const KIND: Kind = Kind::Service;

    fn event(&self, name: NamespacedName, interest: Interest, refusals: &mut Refusals) -> Event {
        match interest {
            Interest::Services | Interest::Listeners => {
                let service = service::service(self, name.clone(), refusals);
                Event::Service(name, service)
            }
            Interest::Ingress | Interest::Gateways | Interest::Verdicts => {
                Event::Upstream(name, Some(service::upstream(self, refusals)))
            }
        }
    }

    fn upstream(&self, name: &NamespacedName, interest: Interest) -> Option<Event> {
        let is_other = interest == Interest::Listeners;
        is_other.then(|| {
            // The same fields are refused of both.
            let refusals = &mut Refusals::new(Self::KIND.object(name));
            Event::Upstream(name.clone(), Some(service::upstream(self, refusals)))
        })
    }
}

impl Object for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn event(&self, name: NamespacedName, interest: Interest, refusals: &mut Refusals) -> Event {
        let slice = slice::slice(self, &name.namespace, interest, refusals);
        Event::Slice(name, slice)
    }
}

impl Object for Node {
    const KIND: Kind = Kind::Node;

    fn event(&self, _name: NamespacedName, _interest: Interest, _refusals: &mut Refusals) -> Event {
        Event::Node(node::node(self))
    }
}

impl Object for Ingress {
    const KIND: Kind = Kind::Ingress;

    fn event(&self, name: NamespacedName, _interest: Interest, refusals: &mut Refusals) -> Event {
        let ingress = ingress::ingress(self, name.clone(), refusals);
        Event::Ingress(name, Some(ingress))
    }
}

impl Object for IngressClass {
    const KIND: Kind = Kind::IngressClass;

    fn event(&self, name: NamespacedName, _interest: Interest, refusals: &mut Refusals) -> Event {
        Event::IngressClass(name.name.clone(), ingress::class(self, refusals))
    }
}

impl Object for Secret {
    const KIND: Kind = Kind::Secret;

    fn event(&self, name: NamespacedName, _interest: Interest, _refusals: &mut Refusals) -> Event {
        Event::Secret(name, ingress::secret(self))
    }
}

/// The events of an object of this name. An agent balances no Service, and uses no slice, that is not in `served`.
pub(crate) fn events<K: Object>(
    object: &K,
    name: NamespacedName,
    interest: Interest,
    served: &Served,
) -> Vec<Event> {
    let object_name = K::KIND.object(&name);
    let mut refusals = Refusals::new(object_name.clone());
    let upstream = object.upstream(&name, interest);
    let mut event = object.event(name.clone(), interest, &mut refusals);
    let proxy_name = object.labels().get(PROXY_NAME);
    let is_for_agent = matches!(interest, Interest::Services | Interest::Listeners);
    let is_other = is_for_agent && !served.has(&name.namespace, proxy_name.map(String::as_str));
    match &mut event {
        Event::Service(_, service) if is_other => *service = None,
        Event::Slice(_, slice) if is_other => *slice = None,
        _ => {}
    }
    // What is not used is not refused.
    if matches!(event, Event::Service(_, None) | Event::Slice(_, None)) {
        refusals.list.clear();
    }
    let mut events = vec![event];
    events.extend(upstream);
    events.push(Event::Refused(object_name, refusals.list));
    events
}

/// Namespace and name; objects without namespace are in `default`.
pub(crate) fn name(object: &impl ResourceExt) -> NamespacedName {
    let namespace = object.namespace().unwrap_or_else(|| "default".into());
    NamespacedName::new(&namespace, &object.name_any())
}

fn protocol(text: Option<&str>) -> Result<Protocol, String> {
    match text {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some(other) => Err(format!("protocol {other} is not supported")),
    }
}

/// Whether a port can be a backend of an Ingress.
fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("TCP"))
}

/// Parses an address that means the same on every machine. A loopback or link-local address would
/// be a process of the node itself (CVE-2021-25737) or the metadata server of its cloud.
///
/// An IPv4-mapped IPv6 address is returned as IPv4: both are the same on the wire.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_loopback() || address.is_multicast() || address.is_unspecified() || is_link_local
    {
        return Err(format!(
            "{address} is not an address of a Service or an endpoint"
        ));
    }
    Ok(address)
}

fn port_number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(number) if number != 0 => Ok(number),
        _ => Err(format!("{number} is not a port (1 to 65535)")),
    }
}
