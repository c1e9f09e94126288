//! Discovery: versions, groups, resources, and the minimum of OpenAPI.
//!
//! The OpenAPI v3 documents contain no schemas. They state that every PATCH takes `fieldValidation` and
//! `dryRun`: `kubectl apply` checks this before it leaves validation to the server. They do not offer
//! strategic merge, so that kubectl uses its built-in types.

use serde_json::{Value, json};

use crate::negotiate::accepted;
use crate::resource::{Resource, Resources};

/// The Kubernetes release that is imitated.
pub(crate) const MINOR: &str = "36";

pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": MINOR,
        "gitVersion": format!("v1.{MINOR}.0+headgate-stand-in"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// The media type of aggregated discovery, if the client prefers it to the classic documents.
pub(crate) fn wants_aggregated(accept: &str) -> Option<&'static str> {
    accepted(accept)
        .iter()
        .filter(|range| range.parameter("as") == Some("APIGroupDiscoveryList"))
        .find_map(|range| match range.parameter("v") {
            Some("v2") => {
                Some("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
            }
            _ => None,
        })
}

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// `/api` or `/apis` in the aggregated form.
pub(crate) fn aggregated(resources: &Resources, core: bool) -> Value {
    let version = |group: &str, version: &str| {
        let served: Vec<Value> = resources
            .of(group, version)
            .map(|resource| aggregated_resource(resource))
            .collect();
        json!({"version": version, "resources": served, "freshness": "Current"})
    };
    let items: Vec<Value> = resources
        .groups()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions.iter().map(|v| version(group, v)).collect();
            json!({
                "metadata": {"name": group, "creationTimestamp": null},
                "versions": versions,
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let mut document = json!({
        "resource": resource.plural,
        "responseKind": kind,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": VERBS,
        "shortNames": resource.short_names,
        "categories": resource.categories(),
    });
    if resource.status {
        document["subresources"] =
            json!([{"subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS}]);
    }
    document
}

/// `/api`.
pub(crate) fn core_versions() -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })
}

fn api_group(group: &str, versions: &[&str]) -> Value {
    let entries: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": entries, "preferredVersion": entries.first()})
}

/// `/apis`.
pub(crate) fn group_list(resources: &Resources) -> Value {
    let groups: Vec<Value> = resources
        .groups()
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| api_group(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub(crate) fn group(resources: &Resources, name: &str) -> Option<Value> {
    let groups = resources.groups();
    let (group, versions) = groups.iter().find(|(group, _)| *group == name)?;
    let mut document = api_group(group, versions);
    document["kind"] = json!("APIGroup");
    document["apiVersion"] = json!("v1");
    Some(document)
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub(crate) fn resource_list(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let mut listed = Vec::new();
    for resource in resources.of(group, version) {
        listed.push(json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": VERBS,
            "shortNames": resource.short_names,
            "categories": resource.categories(),
        }));
        if resource.status {
            listed.push(json!({
                "name": format!("{}/status", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": STATUS_VERBS,
            }));
        }
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    (!listed.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": listed,
        })
    })
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn group_versions(resources: &Resources) -> impl Iterator<Item = (&'static str, &'static str)> {
    let groups = resources.groups().into_iter();
    groups.flat_map(|(group, versions)| versions.into_iter().map(move |version| (group, version)))
}

/// `/openapi/v3`.
pub(crate) fn openapi_v3_index(resources: &Resources) -> Value {
    let paths: serde_json::Map<String, Value> = group_versions(resources)
        .map(|(group, version)| {
            let root = root(group, version);
            let url = format!("/openapi/v3/{root}?hash=0");
            (root, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": format!("v1.{MINOR}.0")})
}

/// `/openapi/v2`: present, and empty.
pub(crate) fn openapi_v2() -> Value {
    json!({"swagger": "2.0", "info": info(), "paths": {}, "definitions": {}})
}

/// `/openapi/v3/<root>`.
pub(crate) fn openapi_v3(resources: &Resources, wanted: &str) -> Option<Value> {
    let (group, version) =
        group_versions(resources).find(|(group, version)| root(group, version) == wanted)?;
    let mut paths = serde_json::Map::new();
    for resource in resources.of(group, version) {
        let scope = if resource.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let path = format!("/{wanted}{scope}/{}/{{name}}", resource.plural);
        let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
        let content = json!({
            "application/json-patch+json": {},
            "application/merge-patch+json": {},
        });
        let patch = json!({
            "operationId": format!("patch{}", resource.kind),
            "parameters": [query("dryRun"), query("fieldManager"), query("fieldValidation")],
            "requestBody": {"content": content},
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-action": "patch",
            "x-kubernetes-group-version-kind":
                {"group": group, "version": version, "kind": resource.kind},
        });
        paths.insert(path, json!({ "patch": patch }));
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths,
        "components": {"schemas": {}},
    }))
}
