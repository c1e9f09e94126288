//! The resources that a server serves. Everything else in this crate is generic over them.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event as EventsEvent;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, ServiceCIDR};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::custom::Custom;

/// The properties of a resource of the API.
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: Cow<'static, [&'static str]>,
    pub(crate) namespaced: bool,
    /// It has a `/status` subresource, so that the main resource ignores `status`.
    pub(crate) status: bool,
    /// A status given at creation is kept (nodes register with theirs).
    pub(crate) status_at_creation: bool,
    /// `metadata.generation` is maintained. The API does so for some kinds only.
    pub(crate) generation: bool,
    /// PUT to a name that does not exist creates it.
    pub(crate) create_on_update: bool,
    /// PUT without a resourceVersion is accepted.
    pub(crate) unconditional_update: bool,
    /// DELETE answers with the object instead of a Status.
    pub(crate) returns_deleted: bool,
    /// Field selectors besides `metadata.name` and `metadata.namespace`.
    pub(crate) fields: Cow<'static, [&'static str]>,
    /// Name of the table that stores it, unique in a server. The versions of one kind share a table. That of
    /// a custom resource is named like its CustomResourceDefinition.
    pub(crate) table: &'static str,
    pub(crate) types: Types,
}

/// The types of the fields of a resource.
pub(crate) enum Types {
    BuiltIn(fn(Value) -> Result<Decoded, String>),
    Custom(Custom),
}

/// An object after decoding with its type: only known fields are left.
pub(crate) struct Decoded {
    pub(crate) object: Value,
    /// Paths of the fields that were dropped.
    pub(crate) unknown: Vec<String>,
}

pub(crate) fn decode<T: DeserializeOwned + Serialize>(value: Value) -> Result<Decoded, String> {
    let mut unknown = Vec::new();
    let typed: T = serde_ignored::deserialize(value, |path| {
        // Optional fields show up as `?` segments of the path, which the API does not print.
        unknown.push(path.to_string().replace(".?", ""));
    })
    .map_err(|e| e.to_string())?;
    let object = serde_json::to_value(typed).map_err(|e| e.to_string())?;
    Ok(Decoded { object, unknown })
}

impl Resource {
    fn of<T>(singular: &'static str, short_names: &'static [&'static str]) -> Self
    where
        T: k8s_openapi::Resource + DeserializeOwned + Serialize,
    {
        Self {
            group: T::GROUP,
            version: T::VERSION,
            kind: T::KIND,
            plural: T::URL_PATH_SEGMENT,
            singular,
            short_names: Cow::Borrowed(short_names),
            namespaced: true,
            status: false,
            status_at_creation: false,
            generation: false,
            create_on_update: false,
            unconditional_update: true,
            returns_deleted: false,
            fields: Cow::Borrowed(&[]),
            table: T::URL_PATH_SEGMENT,
            types: Types::BuiltIn(decode::<T>),
        }
    }

    fn cluster_wide(mut self) -> Self {
        self.namespaced = false;
        self
    }

    fn with_status(mut self) -> Self {
        self.status = true;
        self
    }

    fn keeping_status_at_creation(mut self) -> Self {
        self.status_at_creation = true;
        self
    }

    fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }

    fn created_by_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    fn only_conditional_update(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    fn returning_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }

    fn selectable_by(mut self, fields: &'static [&'static str]) -> Self {
        self.fields = Cow::Borrowed(fields);
        self
    }

    /// `v1` or `discovery.k8s.io/v1`.
    pub(crate) fn api_version(&self) -> Cow<'static, str> {
        if self.group.is_empty() {
            Cow::Borrowed(self.version)
        } else {
            Cow::Owned(format!("{}/{}", self.group, self.version))
        }
    }

    /// The name of an object in messages: `services "web"`, `endpointslices.discovery.k8s.io "web-1"`.
    pub(crate) fn named(&self, name: &str) -> String {
        if self.group.is_empty() {
            format!("{} \"{name}\"", self.plural)
        } else {
            format!("{}.{} \"{name}\"", self.plural, self.group)
        }
    }

    /// What a CustomResourceDefinition says about it, if one defines it.
    pub(crate) fn custom(&self) -> Option<&Custom> {
        match &self.types {
            Types::BuiltIn(_) => None,
            Types::Custom(custom) => Some(custom),
        }
    }

    /// Groups of resources that `kubectl get` knows by one name.
    pub(crate) fn categories(&self) -> &[String] {
        self.custom().map_or(&[], |custom| &custom.categories)
    }

    /// Checks the types of fields and drops unknown fields.
    pub(crate) fn decode(&self, object: Value) -> Result<Decoded, String> {
        match &self.types {
            Types::BuiltIn(decode) => decode(object),
            Types::Custom(custom) => custom.decode(object),
        }
    }
}

/// A string that lives as long as the process. Names of custom resources are made so: keys of objects hold
/// names of tables, and are cheap to copy. Each name is leaked once, and a test server sees few of them.
pub(crate) fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let name: &'static str = Box::leak(name.into());
    names.insert(name);
    name
}

/// The resources that a server serves: the built-in ones, and those that CustomResourceDefinitions add.
#[derive(Clone)]
pub(crate) struct Resources(Vec<Arc<Resource>>);

impl Resources {
    pub(crate) fn built_in() -> Self {
        Self(BUILT_IN.clone())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.iter()
    }

    /// The resource at `/apis/<group>/<version>/<plural>`.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.of(group, version).find(|r| r.plural == plural)
    }

    /// The resource of an object, from its `apiVersion` and `kind`.
    pub(crate) fn of_object(&self, object: &Value) -> Option<&Arc<Resource>> {
        self.of_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)
    }

    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.iter()
            .find(|r| r.kind == kind && r.api_version() == api_version)
    }

    /// The resources of a group and version.
    pub(crate) fn of(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.iter()
            .filter(move |r| r.group == group && r.version == version)
    }

    /// Groups with their versions, the core group first, and the preferred version of a group first.
    pub(crate) fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        for resource in &self.0 {
            match groups
                .iter_mut()
                .find(|(group, _)| *group == resource.group)
            {
                None => groups.push((resource.group, vec![resource.version])),
                Some((_, versions)) if versions.contains(&resource.version) => {}
                Some((_, versions)) => versions.push(resource.version),
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|version| Reverse(maturity(version)));
        }
        groups
    }

    /// Whether it serves this very resource. A changed definition replaces its resources.
    pub(crate) fn serves(&self, resource: &Arc<Resource>) -> bool {
        self.iter().any(|served| Arc::ptr_eq(served, resource))
    }

    /// Replaces the resources of a table. Those of a custom resource come after the built-in ones.
    pub(crate) fn replace(&mut self, table: &str, by: Vec<Resource>) {
        self.0.retain(|resource| resource.table != table);
        self.0.extend(by.into_iter().map(Arc::new));
    }
}

/// The order of versions: `v2`, `v1`, `v1beta2`, `v1beta1`, `v1alpha1`, then others.
fn maturity(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let (stage, major, minor) = if let Some((major, minor)) = rest.split_once("beta") {
        (1, major, minor)
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (0, major, minor)
    } else {
        (2, rest, "0")
    };
    Some((stage, major.parse().ok()?, minor.parse().ok()?))
}

static BUILT_IN: LazyLock<Vec<Arc<Resource>>> =
    LazyLock::new(|| built_in().into_iter().map(Arc::new).collect());

fn built_in() -> Vec<Resource> {
    vec![
        Resource::of::<Service>("service", &["svc"])
            .with_status()
            .created_by_update()
            .returning_deleted()
            .selectable_by(&["spec.clusterIP", "spec.type"]),
        Resource::of::<Node>("node", &["no"])
            .cluster_wide()
            .with_status()
            .keeping_status_at_creation()
            .selectable_by(&["spec.unschedulable"]),
        Resource::of::<Namespace>("namespace", &["ns"])
            .cluster_wide()
            .with_status()
            .selectable_by(&["status.phase"]),
        Resource::of::<Pod>("pod", &["po"])
            .with_status()
            .with_generation()
            .returning_deleted()
            .selectable_by(&["spec.nodeName", "status.phase", "status.podIP"]),
        Resource::of::<Endpoints>("endpoints", &["ep"]).created_by_update(),
        Resource::of::<ConfigMap>("configmap", &["cm"]),
        Resource::of::<Secret>("secret", &[]).selectable_by(&["type"]),
        Resource::of::<Event>("event", &["ev"])
            .created_by_update()
            .selectable_by(&[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "reason",
                "type",
            ]),
        Resource::of::<EventsEvent>("event", &["ev"])
            .created_by_update()
            .selectable_by(&["regarding.kind", "regarding.name", "reason", "type"]),
        Resource::of::<EndpointSlice>("endpointslice", &[]).with_generation(),
        Resource::of::<Ingress>("ingress", &["ing"])
            .with_status()
            .with_generation(),
        Resource::of::<IngressClass>("ingressclass", &[])
            .cluster_wide()
            .with_generation(),
        Resource::of::<ServiceCIDR>("servicecidr", &[]).cluster_wide(),
        Resource::of::<Lease>("lease", &[])
            .created_by_update()
            .only_conditional_update(),
        Resource::of::<CustomResourceDefinition>("customresourcedefinition", &["crd", "crds"])
            .cluster_wide()
            .with_status()
            .with_generation(),
    ]
}

/// A built-in resource.
#[cfg(test)]
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
    Resources::built_in().find(group, version, plural).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_are_dropped_and_named_by_path() {
        let service = find("", "v1", "services").unwrap();
        let decoded = service
            .decode(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
                "spec": {"ports": [{"port": 80, "portt": 1}]},
            }))
            .unwrap();
        assert_eq!(decoded.unknown, ["spec.ports.0.portt"]);
        assert_eq!(decoded.object["spec"]["ports"], json!([{"port": 80}]));
    }

    #[test]
    fn wrong_type_is_an_error() {
        let service = find("", "v1", "services").unwrap();
        let refused = service.decode(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
            "spec": {"ports": [{"port": "eighty"}]},
        }));
        assert!(refused.is_err());
    }

    #[test]
    fn mature_versions_are_preferred() {
        let mut versions = [
            "v1alpha1", "other", "v1beta2", "v2", "v10", "v1beta10", "v1",
        ];
        versions.sort_by_key(|version| Reverse(maturity(version)));
        assert_eq!(
            versions,
            [
                "v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "other"
            ]
        );
    }

    #[test]
    fn both_event_versions_share_a_table() {
        let core = find("", "v1", "events").unwrap();
        let new = find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(core.table, new.table);
    }
}
