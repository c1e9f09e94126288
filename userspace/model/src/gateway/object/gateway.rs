//! GatewayClasses, Gateways and ListenerSets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    CertificateRef, Condition, LabelSelector, LocalRef, ObjectRef, Parameters, ParentRef,
    RouteGroupKind, shared::open_enum,
};

/// `spec` of a GatewayClass.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// The controller of its Gateways.
    pub controller_name: String,
    /// Parameters.
    pub parameters_ref: Option<Parameters>,
    /// A text for people.
    pub description: Option<String>,
}

/// `status` of a GatewayClass. This and other statuses are written with all their lists, so that a merge patch
/// (RFC 7396) replaces them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Features that the controller supports, in ascending order.
    pub supported_features: Vec<SupportedFeature>,
}

/// A feature.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SupportedFeature {
    /// Its name.
    pub name: String,
}

/// `spec` of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// The GatewayClass.
    pub gateway_class_name: String,
    /// Listeners.
    pub listeners: Vec<ListenerSpec>,
    /// Wanted addresses.
    #[serde(default)]
    pub addresses: Vec<GatewayAddress>,
    /// About objects that are made for the Gateway.
    pub infrastructure: Option<Infrastructure>,
    /// ListenerSets that may attach.
    pub allowed_listeners: Option<AllowedListeners>,
    /// TLS of all listeners, and towards backends.
    pub tls: Option<GatewayTls>,
    /// Routes without parents that attach (experimental channel).
    pub default_scope: Option<String>,
}

/// A wanted address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct GatewayAddress {
    /// Its type.
    #[serde(rename = "type", default = "ip_address")]
    pub type_: AddressType,
    /// The address; any of this type if not given.
    pub value: Option<String>,
}

fn ip_address() -> AddressType {
    AddressType::IpAddress
}

open_enum! {
    /// A type of address.
    AddressType {
        /// An IP address.
        IpAddress = "IPAddress",
        /// A DNS name.
        Hostname = "Hostname",
    }
}

/// About objects that are made for a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    /// Their labels.
    pub labels: BTreeMap<String, String>,
    /// Their annotations.
    pub annotations: BTreeMap<String, String>,
    /// Parameters.
    pub parameters_ref: Option<LocalRef>,
}

/// ListenerSets that may attach to a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AllowedListeners {
    /// By namespace; none if not given.
    pub namespaces: Option<ListenerNamespaces>,
}

/// Namespaces of ListenerSets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ListenerNamespaces {
    /// Which; none if not given.
    pub from: Option<FromNamespaces>,
    /// For `Selector`: by labels.
    pub selector: Option<LabelSelector>,
}

open_enum! {
    /// Namespaces.
    FromNamespaces {
        /// All.
        All = "All",
        /// Those that a selector selects by labels.
        Selector = "Selector",
        /// That of the object itself.
        Same = "Same",
        /// None.
        None = "None",
    }
}

/// TLS of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTls {
    /// Towards backends.
    pub backend: Option<BackendTls>,
    /// Towards clients.
    pub frontend: Option<FrontendTls>,
}

/// TLS towards backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTls {
    /// Certificate that the Gateway shows to backends.
    pub client_certificate_ref: Option<CertificateRef>,
}

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendTls {
    /// For ports that `per_port` does not name.
    pub default: ValidationTls,
    /// By port.
    #[serde(default)]
    pub per_port: Vec<PortTls>,
}

/// TLS towards clients of a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PortTls {
    /// The port.
    pub port: i32,
    /// Its rules.
    pub tls: ValidationTls,
}

/// How certificates of clients are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ValidationTls {
    /// The check; clients are not asked for a certificate if not given.
    pub validation: Option<FrontendValidation>,
}

/// How certificates of clients are checked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendValidation {
    /// CA certificates.
    pub ca_certificate_refs: Vec<ObjectRef>,
    /// What happens without a valid certificate.
    #[serde(default = "valid_only")]
    pub mode: FrontendValidationMode,
}

fn valid_only() -> FrontendValidationMode {
    FrontendValidationMode::AllowValidOnly
}

open_enum! {
    /// What happens without a valid certificate.
    FrontendValidationMode {
        /// The handshake fails.
        AllowValidOnly = "AllowValidOnly",
        /// The connection is accepted.
        AllowInsecureFallback = "AllowInsecureFallback",
    }
}

/// A listener of a Gateway or a ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSpec {
    /// Its name, unique in the object.
    pub name: String,
    /// Host names; all if not given or empty.
    pub hostname: Option<String>,
    /// The port.
    pub port: i32,
    /// The protocol.
    pub protocol: ListenerProtocol,
    /// TLS.
    pub tls: Option<ListenerTls>,
    /// Routes that may attach.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

open_enum! {
    /// The protocol of a listener.
    ListenerProtocol {
        /// HTTP without TLS.
        Http = "HTTP",
        /// HTTP over TLS.
        Https = "HTTPS",
        /// Bytes over TLS, or TLS that is not decrypted.
        Tls = "TLS",
        /// TCP.
        Tcp = "TCP",
        /// UDP.
        Udp = "UDP",
    }
}

/// TLS of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    /// Whether connections are decrypted.
    pub mode: Option<TlsMode>,
    /// Certificates.
    pub certificate_refs: Vec<CertificateRef>,
    /// Settings of single implementations.
    pub options: BTreeMap<String, String>,
}

open_enum! {
    /// Whether connections are decrypted.
    TlsMode {
        /// Decrypted by the Gateway.
        Terminate = "Terminate",
        /// Decrypted by the backend.
        Passthrough = "Passthrough",
    }
}

/// Routes that may attach to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AllowedRoutes {
    /// By namespace.
    pub namespaces: RouteNamespaces,
    /// By kind; all that the protocol can have if empty.
    pub kinds: Vec<RouteGroupKind>,
}

/// Namespaces of routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RouteNamespaces {
    /// Which; `Same` if not given.
    pub from: Option<FromNamespaces>,
    /// For `Selector`: by labels.
    pub selector: Option<LabelSelector>,
}

/// `spec` of a ListenerSet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerSetSpec {
    /// The Gateway.
    pub parent_ref: ParentRef,
    /// Listeners.
    pub listeners: Vec<ListenerSpec>,
}

/// `status` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayStatus {
    /// Its addresses.
    pub addresses: Vec<StatusAddress>,
    /// Number of ListenerSets that are accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached_listener_sets: Option<i32>,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
}

/// An address of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct StatusAddress {
    /// Its type.
    #[serde(rename = "type", default = "ip_address_text")]
    pub type_: String,
    /// The address.
    pub value: String,
}

fn ip_address_text() -> String {
    ip_address().as_str().into()
}

/// `status` of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Kinds of routes that it can have.
    #[serde(default)]
    pub supported_kinds: Vec<RouteGroupKind>,
    /// Number of routes that are accepted here.
    pub attached_routes: i32,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// `status` of a ListenerSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ListenerSetStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Its listeners.
    pub listeners: Vec<ListenerStatus>,
}
