//! Objects of the Gateway API, and of the core API those that only it uses.

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug};

use headgate_model::{
    NamespacedName,
    gateway::{
        AUTHORITIES_KEY,
        object::{
            BackendTlsPolicySpec, Change, GROUP, GatewayClassSpec, GatewayClassStatus, GatewaySpec,
            GatewayStatus, GrpcRouteSpec, HttpRouteSpec, L4RouteSpec, ListenerSetSpec,
            ListenerSetStatus, Meta, Object as Judged, POLICY_GROUP, PolicyStatus,
            ReferenceGrantSpec, RoutePolicyDocument, RouteStatus, TlsRouteSpec,
        },
    },
};
use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::core::v1::{ConfigMap, Namespace},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use serde::{Deserialize, de::DeserializeOwned};

use super::{Object, Refusals};
use crate::source::event::{Event, Interest, Kind};

/// A kind of custom resource.
pub(crate) trait CustomKind: Clone + Debug + Default + Send + Sync + 'static {
    /// `spec`.
    type Spec: Clone + Debug + DeserializeOwned + Send + Sync;
    /// `status`; empty for kinds without.
    type Status: Clone + Debug + Default + DeserializeOwned + Send + Sync;
    /// Whether it has namespaces.
    type Scope;
    /// Its kind.
    const KIND: Kind;
    /// Its API group.
    const GROUP: &'static str = GROUP;
    /// Its name in paths.
    const PLURAL: &'static str;
    /// The version that is read.
    const VERSION: &'static str;

    /// The change of the object of this name.
    fn change(name: NamespacedName, object: Option<Judged<Self::Spec, Self::Status>>) -> Change;
}

/// A custom resource, as the API server has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound = "")]
pub(crate) struct Custom<K: CustomKind> {
    /// `apiVersion`; read so that it is not an unknown field.
    #[serde(rename = "apiVersion")]
    _version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Option<K::Spec>,
    #[serde(default)]
    status: K::Status,
}

// A derived one would ask for `spec` to have a default.
impl<K: CustomKind> Default for Custom<K> {
    fn default() -> Self {
        Self {
            _version: None,
            _kind: None,
            metadata: ObjectMeta::default(),
            spec: None,
            status: K::Status::default(),
        }
    }
}

impl<K: CustomKind> kube::Resource for Custom<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        K::KIND.gateway_name().unwrap_or_default().into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        K::GROUP.into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        K::VERSION.into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        K::PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<K: CustomKind> Object for Custom<K> {
    const KIND: Kind = K::KIND;

    fn event(&self, name: NamespacedName, _interest: Interest, refusals: &mut Refusals) -> Event {
        let spec = self.spec.clone().ok_or_else(|| "is missing".to_owned());
        let object = refusals.keep("spec", spec).map(|spec| Judged {
            meta: Meta {
                name: name.clone(),
                uid: self.metadata.uid.clone().unwrap_or_default(),
                version: self.resource_version().unwrap_or_default(),
                generation: self.metadata.generation.unwrap_or_default(),
                created_s: self.creation_timestamp().map(|time| time.0.as_second()),
            },
            spec,
            status: self.status.clone(),
        });
        Event::Gateway(K::change(name, object).into())
    }
}

/// Defines a kind of custom resource.
macro_rules! custom {
    ($kind:ident, $plural:literal, $version:literal, $spec:ty, $status:ty, $scope:ty, $key:expr) => {
        #[doc = concat!("A ", stringify!($kind), ".")]
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct $kind;

        impl CustomKind for $kind {
            type Spec = $spec;
            type Status = $status;
            type Scope = $scope;
            const KIND: Kind = Kind::$kind;
            const PLURAL: &'static str = $plural;
            const VERSION: &'static str = $version;

            fn change(name: NamespacedName, object: Option<Judged<$spec, $status>>) -> Change {
                let key: fn(NamespacedName) -> _ = $key;
                Change::$kind(key(name), object)
            }
        }
    };
    ($kind:ident, $plural:literal, $version:literal, $spec:ty, $status:ty) => {
        custom!(
            $kind,
            $plural,
            $version,
            $spec,
            $status,
            NamespaceResourceScope,
            |name| name
        );
    };
}

custom!(
    GatewayClass,
    "gatewayclasses",
    "v1",
    GatewayClassSpec,
    GatewayClassStatus,
    ClusterResourceScope,
    |name| name.name.clone()
);
custom!(Gateway, "gateways", "v1", GatewaySpec, GatewayStatus);
custom!(
    ListenerSet,
    "listenersets",
    "v1",
    ListenerSetSpec,
    ListenerSetStatus
);
custom!(HttpRoute, "httproutes", "v1", HttpRouteSpec, RouteStatus);
custom!(GrpcRoute, "grpcroutes", "v1", GrpcRouteSpec, RouteStatus);
custom!(TlsRoute, "tlsroutes", "v1", TlsRouteSpec, RouteStatus);
custom!(TcpRoute, "tcproutes", "v1", L4RouteSpec, RouteStatus);
custom!(UdpRoute, "udproutes", "v1", L4RouteSpec, RouteStatus);
custom!(
    ReferenceGrant,
    "referencegrants",
    // Storage version of the CRD, which older ones have as well.
    "v1beta1",
    ReferenceGrantSpec,
    ()
);
custom!(
    BackendTlsPolicy,
    "backendtlspolicies",
    "v1",
    BackendTlsPolicySpec,
    PolicyStatus
);

/// A RoutePolicy.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoutePolicy;

impl CustomKind for RoutePolicy {
    type Spec = RoutePolicyDocument;
    type Status = PolicyStatus;
    type Scope = NamespaceResourceScope;
    const KIND: Kind = Kind::RoutePolicy;
    const GROUP: &'static str = POLICY_GROUP;
    const PLURAL: &'static str = "routepolicies";
    const VERSION: &'static str = "v1alpha1";

    fn change(
        name: NamespacedName,
        object: Option<Judged<RoutePolicyDocument, PolicyStatus>>,
    ) -> Change {
        Change::RoutePolicy(name, object)
    }
}

impl Object for Namespace {
    const KIND: Kind = Kind::Namespace;

    fn event(&self, name: NamespacedName, _interest: Interest, _refusals: &mut Refusals) -> Event {
        let labels: BTreeMap<String, String> = self.labels().clone();
        Event::Gateway(Change::Namespace(name.name.clone(), Some(labels)).into())
    }
}

impl Object for ConfigMap {
    const KIND: Kind = Kind::ConfigMap;

    fn event(&self, name: NamespacedName, _interest: Interest, _refusals: &mut Refusals) -> Event {
        // A ConfigMap may have a megabyte of what nothing here reads.
        let read = self.data.as_ref();
        let read = read.and_then(|data| data.get_key_value(AUTHORITIES_KEY));
        let read = read.map(|(key, text)| (key.clone(), text.clone()));
        Event::Gateway(Change::ConfigMap(name, Some(read.into_iter().collect())).into())
    }
}
