//! Definitions of custom resources come, change and go while clients watch.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use headgate_apiserver::{GATEWAY_API_CRDS, Options};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, PostParams, WatchEvent, WatchParams};
use kube::{Api, Error};
use serde_json::{Value, json};

use crate::custom::{gateway, gateways};
use crate::{client, start, start_with};

const DEFINITION: &str = "gateways.gateway.networking.k8s.io";
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

fn listener() -> Value {
    json!({"name": "http", "port": 80, "protocol": "HTTP"})
}

/// Events of a watch until it ends, as type and name.
async fn rest(
    events: impl futures::Stream<Item = kube::Result<WatchEvent<DynamicObject>>>,
) -> Vec<(&'static str, String)> {
    let named = events.map_ok(|event| match event {
        WatchEvent::Added(object) => ("ADDED", object.metadata.name.unwrap_or_default()),
        WatchEvent::Modified(object) => ("MODIFIED", object.metadata.name.unwrap_or_default()),
        WatchEvent::Deleted(object) => ("DELETED", object.metadata.name.unwrap_or_default()),
        WatchEvent::Bookmark(_) => ("BOOKMARK", String::new()),
        WatchEvent::Error(error) => ("ERROR", error.message.clone()),
    });
    let all = tokio::time::timeout(Duration::from_secs(60), named.try_collect());
    all.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_watch_works_from_the_definition_to_its_deletion() {
    let server = start().await;
    let api: Api<DynamicObject> = Api::default_namespaced_with(client(&server).await, &gateways());
    let refused = api.watch(&WatchParams::default(), "0").await.err();
    assert!(
        matches!(&refused, Some(Error::Api(error)) if error.code == 404),
        "{refused:?}"
    );

    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    let events = api.watch(&WatchParams::default(), "0").await.unwrap();
    api.create(&PostParams::default(), &gateway("a", &listener()))
        .await
        .unwrap();
    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    server
        .delete::<CustomResourceDefinition>("", DEFINITION)
        .unwrap();
    let events = rest(events.boxed()).await;
    assert_eq!(events, [("ADDED", "a".into()), ("DELETED", "a".into())]);
    let listed = api.list(&Default::default()).await;
    assert!(matches!(listed, Err(Error::Api(error)) if error.code == 404));

    // Objects of the definition before do not come back.
    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    assert!(
        api.list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_changed_definition_closes_watches_and_keeps_objects() {
    let server = start().await;
    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    let api: Api<DynamicObject> = Api::default_namespaced_with(client(&server).await, &gateways());
    api.create(&PostParams::default(), &gateway("a", &listener()))
        .await
        .unwrap();
    let events = api.watch(&WatchParams::default(), "0").await.unwrap();
    let mut definition: CustomResourceDefinition = server.get("", DEFINITION).unwrap();
    definition.metadata = kube::api::ObjectMeta {
        name: definition.metadata.name,
        annotations: definition.metadata.annotations,
        ..Default::default()
    };
    definition.spec.versions[0].subresources = None;
    server.apply(&definition).unwrap();
    assert_eq!(rest(events.boxed()).await, [("ADDED", "a".into())]);

    // Without the subresource, the status is a part of the object.
    let mut changed = api.get("a").await.unwrap();
    changed.data["status"] = json!({"addresses": [{"value": "192.0.2.1"}]});
    let changed = api
        .replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    assert_eq!(changed.data["status"]["addresses"][0]["value"], "192.0.2.1");
    assert_eq!(changed.metadata.generation, Some(2));
    let mut applied = serde_json::to_value(gateway("a", &listener())).unwrap();
    applied["status"] = json!({"addresses": [{"value": "192.0.2.2"}]});
    let applied = server.apply_value(applied).unwrap();
    assert_eq!(applied["status"]["addresses"][0]["value"], "192.0.2.2");
    assert_eq!(applied["metadata"]["generation"], 3);
    let definition: CustomResourceDefinition = server.get("", DEFINITION).unwrap();
    assert_eq!(definition.metadata.generation, Some(2));
}

#[tokio::test]
async fn an_object_with_a_finalizer_holds_its_definition() {
    let server = start().await;
    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    let api: Api<DynamicObject> = Api::default_namespaced_with(client(&server).await, &gateways());
    let mut held = gateway("a", &listener());
    held.metadata.finalizers = Some(vec!["example.org/hold".into()]);
    api.create(&PostParams::default(), &held).await.unwrap();
    server
        .delete::<CustomResourceDefinition>("", DEFINITION)
        .unwrap();
    let definition: CustomResourceDefinition = server.get("", DEFINITION).unwrap();
    let conditions = definition.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|one| one.type_ == "Terminating"));
    let created = api
        .create(&PostParams::default(), &gateway("b", &listener()))
        .await;
    assert!(matches!(created, Err(Error::Api(error)) if error.code == 405));

    let mut held = api.get("a").await.unwrap();
    assert!(held.metadata.deletion_timestamp.is_some());
    assert_eq!(held.metadata.generation, Some(2));
    held.metadata.finalizers = None;
    api.replace("a", &PostParams::default(), &held)
        .await
        .unwrap();
    assert!(
        server
            .get::<CustomResourceDefinition>("", DEFINITION)
            .is_none()
    );
    let got = api.get("a").await;
    assert!(matches!(got, Err(Error::Api(error)) if error.code == 404));
}

#[tokio::test]
async fn invalid_definitions_are_refused() {
    let server = start().await;
    let valid = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                          "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    for (pointer, value, expected) in [
        (
            "/metadata/name",
            json!("thing.example.org"),
            r#"metadata.name: Invalid value: "thing.example.org": must be spec.names.plural+"."+spec.group"#,
        ),
        (
            "/spec/scope",
            json!("Global"),
            r#"spec.scope: Unsupported value: "Global": supported values: "Cluster", "Namespaced""#,
        ),
        (
            "/spec/versions/0/storage",
            json!(false),
            "must have exactly one version marked as storage version",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema",
            json!(null),
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/pattern",
            json!("("),
            "spec.versions[0].schema.openAPIV3Schema: Invalid value",
        ),
        (
            "/spec/group",
            json!("things.k8s.io"),
            "metadata.annotations[api-approved.kubernetes.io]: Required value",
        ),
    ] {
        let mut invalid = valid.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        invalid.pointer_mut(parent).unwrap()[field] = value;
        let refused = server.apply_value(invalid).unwrap_err();
        assert_eq!(refused.code, 422, "{refused}");
        assert!(refused.message.contains(expected), "{refused}");
    }
    let stored = server.apply_value(valid).unwrap();
    assert_eq!(stored["spec"]["names"]["listKind"], "ThingList");
    assert_eq!(stored["status"]["acceptedNames"]["singular"], "thing");
    assert_eq!(stored["status"]["storedVersions"], json!(["v1"]));
    // The schema of the root knows no `spec`.
    let thing = json!({"apiVersion": "example.org/v1", "kind": "Thing",
                       "metadata": {"name": "a"}, "spec": {}});
    let refused = server.apply_value(thing).unwrap_err();
    assert!(
        refused.message.contains(r#"unknown field "spec""#),
        "{refused}"
    );
}

#[tokio::test]
async fn garbage_is_collected_on_request() {
    for collects_garbage in [false, true] {
        let server = start_with(Options {
            collects_garbage,
            ..Options::default()
        })
        .await;
        server.apply_yaml(GATEWAY_API_CRDS).unwrap();
        let api: Api<DynamicObject> =
            Api::default_namespaced_with(client(&server).await, &gateways());
        let owner = api
            .create(&PostParams::default(), &gateway("a", &listener()))
            .await
            .unwrap();
        let other = api
            .create(&PostParams::default(), &gateway("b", &listener()))
            .await
            .unwrap();
        let reference = |owner: &DynamicObject| {
            json!({"apiVersion": GATEWAY_API, "kind": "Gateway",
                   "name": owner.metadata.name, "uid": owner.metadata.uid})
        };
        for (name, owners) in [
            ("one", json!([reference(&owner)])),
            ("both", json!([reference(&owner), reference(&other)])),
            ("free", json!([])),
        ] {
            server
                .apply_value(json!({
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": name, "ownerReferences": owners},
                    "spec": {"ports": [{"port": 80}]},
                }))
                .unwrap();
        }
        let left = || {
            let named = |name: &&str| server.get::<Service>("default", name).is_some();
            ["one", "both", "free"]
                .into_iter()
                .filter(named)
                .collect::<Vec<_>>()
        };
        api.delete("a", &DeleteParams::default()).await.unwrap();
        let expected: &[&str] = if collects_garbage {
            &["both", "free"]
        } else {
            &["one", "both", "free"]
        };
        assert_eq!(left(), expected);
        server
            .delete_value(GATEWAY_API, "Gateway", "default", "b")
            .unwrap();
        let expected = if collects_garbage {
            &["free"]
        } else {
            expected
        };
        assert_eq!(left(), expected);
    }
}
