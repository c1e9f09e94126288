//! Custom resources: those of the Gateway API.

use headgate_apiserver::GATEWAY_API_CRDS;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Error};
use serde_json::{Value, json};

use crate::{Kubectl, client, start};

const EXAMPLE: &str = include_str!("../../../../deploy/examples/gateway.yaml");

pub(crate) fn gateways() -> ApiResource {
    let gateway = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway");
    ApiResource::from_gvk_with_plural(&gateway, "gateways")
}

/// A Gateway with one listener.
pub(crate) fn gateway(name: &str, listener: &Value) -> DynamicObject {
    DynamicObject::new(name, &gateways()).data(json!({
        "spec": {"gatewayClassName": "headgate", "listeners": [listener]},
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_definitions_and_their_objects() {
    let server = start().await;
    let Some(kubectl) = Kubectl::of(&server) else {
        return;
    };
    let applied = kubectl.apply(GATEWAY_API_CRDS).unwrap();
    assert_eq!(applied.matches(" created").count(), 10, "{applied}");
    let again = kubectl.apply(GATEWAY_API_CRDS).unwrap();
    assert_eq!(again.matches(" unchanged").count(), 10, "{again}");
    kubectl
        .run(&["wait", "--for=condition=Established", "crd", "--all"])
        .unwrap();

    let applied = kubectl.apply(EXAMPLE).unwrap();
    for name in ["gatewayclass", "gateway", "httproute"] {
        let kind = format!("{name}.gateway.networking.k8s.io/");
        assert!(applied.contains(&kind), "{applied}");
    }
    let table = kubectl.run(&["get", "gtw"]).unwrap();
    assert!(table.contains("PROGRAMMED"), "{table}");
    assert!(table.contains("headgate"), "{table}");
    let all = kubectl.run(&["get", "gateway-api", "-o", "name"]).unwrap();
    assert_eq!(all.lines().count(), 3, "{all}");
    let read =
        |words: &[&str]| -> Value { serde_json::from_str(&kubectl.run(words).unwrap()).unwrap() };
    let gateway = read(&[
        "get",
        "gateways.v1beta1.gateway.networking.k8s.io",
        "shop",
        "-ojson",
    ]);
    assert_eq!(gateway["apiVersion"], "gateway.networking.k8s.io/v1beta1");
    let listener = &gateway["spec"]["listeners"][0];
    assert_eq!(
        listener["allowedRoutes"],
        json!({"namespaces": {"from": "Same"}})
    );
    assert_eq!(gateway["status"]["conditions"][0]["reason"], "Pending");
    let route = read(&["get", "httproute", "shop", "-ojson"]);
    let rules = &route["spec"]["rules"];
    assert_eq!(
        rules[0]["matches"][0]["path"],
        json!({"type": "PathPrefix", "value": "/"})
    );
    assert_eq!(rules[1]["backendRefs"][0]["weight"], 1);

    let refused = kubectl
        .run(&[
            "patch",
            "gateway",
            "shop",
            "--type=strategic",
            "-p",
            r#"{"spec": {}}"#,
        ])
        .unwrap_err();
    assert!(
        refused.contains("strategic-merge-patch+json is not supported"),
        "{refused}"
    );
    kubectl
        .run(&[
            "patch",
            "gateway",
            "shop",
            "--type=merge",
            "-p",
            r#"{"metadata": {"labels": {"a": "b"}}}"#,
        ])
        .unwrap();
    kubectl
        .run(&[
            "patch",
            "gateway",
            "shop",
            "--type=json",
            "-p",
            r#"[{"op": "replace", "path": "/spec/listeners/0/port", "value": 81}]"#,
        ])
        .unwrap();
    let gateway = read(&["get", "gateway", "shop", "-ojson"]);
    assert_eq!(gateway["spec"]["listeners"][0]["port"], 81);
    assert_eq!(gateway["metadata"]["labels"]["a"], "b");
    assert_eq!(gateway["metadata"]["generation"], 2);

    kubectl
        .run(&["delete", "crd", "gateways.gateway.networking.k8s.io"])
        .unwrap();
    let gone = kubectl.run(&[
        "get",
        "--raw",
        "/apis/gateway.networking.k8s.io/v1/gateways",
    ]);
    assert!(gone.unwrap_err().contains("NotFound"));
    kubectl.run(&["get", "httproute", "shop"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_which_field_is_refused() {
    let server = start().await;
    let Some(kubectl) = Kubectl::of(&server) else {
        return;
    };
    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    for (from, to, expected) in [
        (
            "port: 80\n",
            "port: 70000\n",
            r#"The Gateway "shop" is invalid: spec.listeners[0].port: Invalid value: 70000: spec.listeners[0].port in body should be less than or equal to 65535"#,
        ),
        (
            "port: 80\n",
            "port: http\n",
            r#"spec.listeners[0].port: Invalid value: "string": spec.listeners[0].port in body must be of type integer: "string""#,
        ),
        (
            "    port: 80\n",
            "    prot: 80\n",
            r#"unknown field "spec.listeners[0].prot""#,
        ),
        (
            "gatewayClassName: headgate\n",
            "gatewayClassName: ''\n",
            r#"spec.gatewayClassName: Invalid value: "": spec.gatewayClassName in body should be at least 1 chars long"#,
        ),
        (
            "    protocol: HTTP\n",
            "",
            "spec.listeners[0].protocol: Required value",
        ),
        (
            "  listeners:\n",
            "  listeners:\n  - {name: http, port: 81, protocol: HTTP}\n",
            r#"spec.listeners[1]: Duplicate value: {"name":"http"}"#,
        ),
        (
            "type: PathPrefix",
            "type: Prefix",
            r#"spec.rules[2].matches[0].path.type: Unsupported value: "Prefix": supported values: "Exact", "PathPrefix", "RegularExpression""#,
        ),
    ] {
        assert!(EXAMPLE.contains(from), "{from}");
        let refused = kubectl.apply(&EXAMPLE.replace(from, to)).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    let misspelled = EXAMPLE.replace("hostname: '*", "hostnam: '*");
    let file = kubectl.0.path().join("manifest.yaml");
    std::fs::write(&file, misspelled).unwrap();
    let file = file.to_str().unwrap();
    kubectl
        .run(&["apply", "--validate=warn", "-f", file])
        .unwrap();
    let gateway = server
        .get_value("gateway.networking.k8s.io/v1", "Gateway", "default", "shop")
        .unwrap();
    assert_eq!(gateway["spec"]["listeners"][0]["hostnam"], Value::Null);
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let server = start().await;
    server.apply_yaml(GATEWAY_API_CRDS).unwrap();
    let api: Api<DynamicObject> = Api::default_namespaced_with(client(&server).await, &gateways());
    let listener = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let mut created = gateway("shop", &listener);
    created.data["status"] = json!({"addresses": [{"value": "192.0.2.1"}]});
    let created = api.create(&PostParams::default(), &created).await.unwrap();
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.data["status"]["addresses"], Value::Null);

    let status = json!({
        "status": {"addresses": [{"value": "192.0.2.1"}]},
        "spec": {"gatewayClassName": "other"},
        "metadata": {"labels": {"a": "b"}},
    });
    let patched = api
        .patch_status("shop", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    let address = json!([{"type": "IPAddress", "value": "192.0.2.1"}]);
    assert_eq!(patched.data["status"]["addresses"], address);
    assert_eq!(patched.data["spec"]["gatewayClassName"], "headgate");
    assert_eq!(patched.metadata.labels, None);
    assert_eq!(patched.metadata.generation, Some(1));

    let applied = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "shop"},
        "spec": {"gatewayClassName": "other", "listeners": [listener]},
        "status": {"addresses": []},
    });
    let applied = api
        .patch("shop", &PatchParams::apply("test"), &Patch::Apply(&applied))
        .await
        .unwrap();
    assert_eq!(applied.data["spec"]["gatewayClassName"], "other");
    assert_eq!(applied.data["status"]["addresses"], address);
    assert_eq!(applied.metadata.generation, Some(2));

    let refused = json!({"status": {"addresses": [{"value": 1}]}});
    let refused = api
        .patch_status("shop", &PatchParams::default(), &Patch::Merge(&refused))
        .await;
    let Err(Error::Api(refused)) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((refused.code, &*refused.reason), (422, "Invalid"));
    assert!(
        refused.message.contains("status.addresses[0].value"),
        "{refused:?}"
    );

    // An update needs the version that it replaces.
    let mut replaced = applied.clone();
    replaced.metadata = ObjectMeta {
        name: Some("shop".into()),
        ..ObjectMeta::default()
    };
    let refused = api.replace("shop", &PostParams::default(), &replaced).await;
    assert!(refused.unwrap_err().to_string().contains("resourceVersion"));
    api.replace("shop", &PostParams::default(), &applied)
        .await
        .unwrap();
}
