//! The table of resources. Everything else in this crate is generic over it.

use std::borrow::Cow;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event as EventsEvent;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, ServiceCIDR};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The properties of a resource of the API.
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
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
    pub(crate) fields: &'static [&'static str],
    /// Name of the table that stores it. Two versions of one kind share a table.
    pub(crate) table: &'static str,
    decode: fn(Value) -> Result<Decoded, String>,
}

/// An object after decoding with its type: only known fields are left.
pub(crate) struct Decoded {
    pub(crate) object: Value,
    /// Paths of the fields that were dropped.
    pub(crate) unknown: Vec<String>,
}

fn decode<T: DeserializeOwned + Serialize>(value: Value) -> Result<Decoded, String> {
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
    const fn of<T>(singular: &'static str, short_names: &'static [&'static str]) -> Self
    where
        T: k8s_openapi::Resource + DeserializeOwned + Serialize,
    {
        Self {
            group: T::GROUP,
            version: T::VERSION,
            kind: T::KIND,
            plural: T::URL_PATH_SEGMENT,
            singular,
            short_names,
            namespaced: true,
            status: false,
            status_at_creation: false,
            generation: false,
            create_on_update: false,
            unconditional_update: true,
            returns_deleted: false,
            fields: &[],
            table: T::URL_PATH_SEGMENT,
            decode: decode::<T>,
        }
    }

    const fn cluster_wide(mut self) -> Self {
        self.namespaced = false;
        self
    }

    const fn with_status(mut self) -> Self {
        self.status = true;
        self
    }

    const fn keeping_status_at_creation(mut self) -> Self {
        self.status_at_creation = true;
        self
    }

    const fn with_generation(mut self) -> Self {
        self.generation = true;
        self
    }

    const fn created_by_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    const fn only_conditional_update(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    const fn returning_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }

    const fn selectable_by(mut self, fields: &'static [&'static str]) -> Self {
        self.fields = fields;
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

    /// Checks the types of fields and drops unknown fields.
    pub(crate) fn decode(&self, object: Value) -> Result<Decoded, String> {
        (self.decode)(object)
    }
}

/// Every resource served.
pub(crate) static RESOURCES: &[Resource] = &[
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
];

/// The resource at `/apis/<group>/<version>/<plural>`.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES
        .iter()
        .find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The resource of an object, from its `apiVersion` and `kind`.
pub(crate) fn of_object(object: &Value) -> Option<&'static Resource> {
    let api_version = object["apiVersion"].as_str()?;
    let kind = object["kind"].as_str()?;
    RESOURCES
        .iter()
        .find(|r| r.kind == kind && r.api_version() == api_version)
}

/// Group and version pairs, each once, the core group first.
pub(crate) fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut seen = Vec::new();
    for resource in RESOURCES {
        let gv = (resource.group, resource.version);
        if !seen.contains(&gv) {
            seen.push(gv);
        }
    }
    seen
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
    fn both_event_versions_share_a_table() {
        let core = find("", "v1", "events").unwrap();
        let new = find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(core.table, new.table);
    }
}
