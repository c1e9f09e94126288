//! The Helm chart: it renders the same objects as the kustomize base, and its values are checked.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use gtmpl::{Context, FuncError, Template, Value as Go};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::IngressClass,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Environment variable with the path of a real `helm` to render with.
const HELM: &str = "HELM";
const TEMPLATES: [&str; 8] = [
    "rbac.yaml",
    "config.yaml",
    "daemonset.yaml",
    "proxy-rbac.yaml",
    "proxy-service.yaml",
    "proxy-daemonset.yaml",
    "gateway-rbac.yaml",
    "gateway-controller.yaml",
];

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn chart() -> PathBuf {
    deploy().join("helm/headgate")
}

fn default_values() -> Value {
    let text = fs::read_to_string(chart().join("values.yaml")).unwrap();
    yaml_serde::from_str(&text).unwrap()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn go(value: &Value) -> Go {
    match value {
        Value::Null => Go::NoValue,
        Value::Bool(is_set) => Go::from(*is_set),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Go::from(number),
            None => Go::from(number.as_f64().unwrap()),
        },
        Value::String(text) => Go::from(text.as_str()),
        Value::Array(items) => Go::Array(items.iter().map(go).collect()),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.clone(), go(value)));
            Go::Object(fields.collect::<HashMap<_, _>>())
        }
    }
}

fn plain(value: &Go) -> Value {
    match value {
        Go::Bool(is_set) => json!(is_set),
        Go::String(text) => json!(text),
        Go::Number(number) => json!(number.as_i64()),
        Go::Array(items) => items.iter().map(plain).collect(),
        Go::Object(fields) | Go::Map(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), plain(value)))
            .collect(),
        Go::Nil | Go::NoValue | Go::Function(_) => Value::Null,
    }
}

fn text(value: &Go) -> String {
    match value {
        Go::String(text) => text.clone(),
        other => other.to_string(),
    }
}

// The functions of Helm (not of Go templates) that the chart uses.

fn quote(words: &[Go]) -> Result<Go, FuncError> {
    Ok(Go::from(serde_json::to_string(&text(&words[0])).unwrap()))
}

fn to_string(words: &[Go]) -> Result<Go, FuncError> {
    Ok(Go::from(text(&words[0])))
}

fn default(words: &[Go]) -> Result<Go, FuncError> {
    let is_empty = matches!(&words[1], Go::Nil | Go::NoValue) || text(&words[1]).is_empty();
    Ok(words[usize::from(!is_empty)].clone())
}

fn to_yaml(words: &[Go]) -> Result<Go, FuncError> {
    let yaml = yaml_serde::to_string(&plain(&words[0])).unwrap();
    Ok(Go::from(yaml.trim_end()))
}

fn nindent(words: &[Go]) -> Result<Go, FuncError> {
    let Go::Number(width) = &words[0] else {
        return Err(FuncError::Generic("nindent needs a number".into()));
    };
    let margin = " ".repeat(width.as_u64().unwrap() as usize);
    let lines = text(&words[1]);
    let lines: Vec<String> = lines
        .lines()
        .map(|line| format!("{margin}{line}"))
        .collect();
    Ok(Go::from(format!("\n{}", lines.join("\n"))))
}

/// Renders the chart with the real `helm` if it is named, else with a library for Go templates.
fn render(values: &Value) -> String {
    if let Some(helm) = std::env::var_os(HELM) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, values.to_string()).unwrap();
        let mut command = Command::new(helm);
        command.args([
            "template",
            "headgate",
            "--namespace",
            "kube-system",
            "--values",
        ]);
        let output = command.arg(file.path()).arg(chart()).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return String::from_utf8(output.stdout).unwrap();
    }
    let mut merged = default_values();
    merge(&mut merged, values);
    let about: Value =
        yaml_serde::from_str(&fs::read_to_string(chart().join("Chart.yaml")).unwrap()).unwrap();
    let context = json!({
        "Values": merged,
        "Release": {"Namespace": "kube-system", "Name": "headgate"},
        "Chart": {"AppVersion": about["appVersion"]},
    });
    let mut documents = Vec::new();
    for name in TEMPLATES {
        let mut template = Template::default();
        template.add_funcs(&[
            ("quote", quote as gtmpl::Func),
            ("toString", to_string),
            ("default", default),
            ("toYaml", to_yaml),
            ("nindent", nindent),
        ]);
        let source = fs::read_to_string(chart().join("templates").join(name)).unwrap();
        template.parse(&source).unwrap();
        let rendered = template.render(&Context::from(go(&context)));
        documents.push(rendered.unwrap_or_else(|error| panic!("{name}: {error}")));
    }
    documents.join("\n---\n")
}

/// Objects by kind and name, but no definitions of custom resources: Helm makes those of `crds/` before all templates.
/// Fails if the API lacks a field.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents = yaml_serde::Deserializer::from_str(text)
        .map(|document| yaml_serde::Value::deserialize(document).unwrap())
        .filter(|document| !document.is_null() && document["kind"] != "CustomResourceDefinition");
    let checked = documents.map(|document| {
        let kind = document["kind"].as_str().unwrap().to_owned();
        let name = document["metadata"]["name"].as_str().unwrap();
        let key = format!("{kind}/{name}");
        let value = match kind.as_str() {
            "DaemonSet" => checked::<DaemonSet>(document),
            "ConfigMap" => checked::<ConfigMap>(document),
            "ServiceAccount" => checked::<ServiceAccount>(document),
            "ClusterRole" => checked::<ClusterRole>(document),
            "ClusterRoleBinding" => checked::<ClusterRoleBinding>(document),
            "Service" => checked::<Service>(document),
            "IngressClass" => checked::<IngressClass>(document),
            "Deployment" => checked::<Deployment>(document),
            "Role" => checked::<Role>(document),
            "RoleBinding" => checked::<RoleBinding>(document),
            "GatewayClass" => serde_json::to_value(document).unwrap(),
            other => panic!("unexpected kind {other}"),
        };
        (key, value)
    });
    checked.collect()
}

fn checked<K: DeserializeOwned + serde::Serialize>(document: yaml_serde::Value) -> Value {
    let mut unknown = Vec::new();
    let object: K =
        serde_ignored::deserialize(document, |path| unknown.push(path.to_string())).unwrap();
    assert!(unknown.is_empty(), "the API has no {unknown:?}");
    serde_json::to_value(object).unwrap()
}

fn complaints(values: &Value) -> Vec<String> {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap())
            .unwrap();
    let mut merged = default_values();
    merge(&mut merged, values);
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors = validator.iter_errors(&merged);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// The objects that kustomize builds from a folder; `None` if kubectl is missing.
fn kustomized(folder: &str) -> Option<BTreeMap<String, Value>> {
    let mut command = Command::new("kubectl");
    let output = command.arg("kustomize").arg(deploy().join(folder)).output();
    let Ok(output) = output else {
        println!("SKIPPED: {folder}: kubectl is not on the PATH");
        return None;
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    Some(objects(&String::from_utf8(output.stdout).unwrap()))
}

fn assert_renders(values: &Value, folder: &str, count: usize) {
    let Some(expected) = kustomized(folder) else {
        return;
    };
    let mut all = json!({"apiServer": {"host": "control-plane.invalid"}});
    merge(&mut all, values);
    let chart = objects(&render(&all));
    assert_eq!(expected.len(), count);
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&chart), names(&expected));
    for (name, object) in &expected {
        assert_eq!(Some(object), chart.get(name), "{name}");
    }
}

#[test]
fn chart_renders_the_same_as_the_kustomize_base() {
    assert_renders(&json!({}), "base", 5);
}

#[test]
fn chart_with_ingress_renders_the_same_as_its_overlay() {
    assert_renders(&json!({"ingress": {"enabled": true}}), "ingress", 11);
}

#[test]
fn chart_with_gateways_renders_the_same_as_its_overlay() {
    let values = json!({"ingress": {"enabled": true}, "gateway": {"enabled": true}});
    assert_renders(&values, "gateway", 22);
    let definitions = [chart().join("crds"), deploy().join("gateway")]
        .map(|folder| fs::read_to_string(folder.join("routepolicies.yaml")).unwrap());
    assert_eq!(definitions[0], definitions[1]);
}

#[test]
fn values_reach_the_controller() {
    let values = json!({
        "apiServer": {"host": "192.0.2.10"},
        "ingress": {"enabled": true},
        "gateway": {
            "enabled": true,
            "addressPools": ["192.0.2.0/24", "2001:db8::/120"],
            "replicas": 1,
            "extraArgs": ["--log-format=json"],
        },
    });
    assert_eq!(complaints(&values), Vec::<String>::new());
    let made = objects(&render(&values));
    let spec = &made["Deployment/headgate-controller"]["spec"];
    assert_eq!(spec["replicas"], 1);
    let words = [
        "controller",
        "--address-pool=192.0.2.0/24",
        "--address-pool=2001:db8::/120",
        "--log-format=json",
    ];
    let container = &spec["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(words));
    // No proxy would serve them.
    let alone = json!({"apiServer": {"host": "192.0.2.10"}, "gateway": {"enabled": true}});
    assert_ne!(complaints(&alone), Vec::<String>::new());
}

/// The pod can be replaced without a gap, and has no other rights than it needs.
#[test]
fn proxy_has_no_capabilities_and_hands_over() {
    let values = json!({"apiServer": {"host": "192.0.2.10"}, "ingress": {"enabled": true}});
    let objects = objects(&render(&values));
    let spec = &objects["DaemonSet/headgate-proxy"]["spec"];
    let rolling = json!({"maxSurge": 1, "maxUnavailable": 0});
    assert_eq!(spec["updateStrategy"]["rollingUpdate"], rolling);
    let pod = &spec["template"]["spec"];
    let user = json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "Unconfined"},
    });
    assert_eq!(pod["securityContext"], user);
    assert!(pod["terminationGracePeriodSeconds"].as_u64() > Some(31));
    let container = &pod["containers"][0];
    let context = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(container["securityContext"], context);
    // With a port of the node the second pod could not be scheduled, and the first pod would answer a
    // probe over the network.
    assert_eq!(container.get("ports"), None);
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["exec"]["command"][1], "probe", "{probe}");
    }
    let agent = &objects["DaemonSet/headgate"]["spec"]["template"]["spec"]["containers"][0];
    let has = |list: &Value, word: &str| list.as_array().unwrap().contains(&json!(word));
    assert!(has(&agent["args"], "--proxy-user=65532"));
    let added = &agent["securityContext"]["capabilities"]["add"];
    assert!(has(added, "CHOWN"), "{added}");
}

/// Agent and proxy use the network of the node, so only declared ports keep pods with the same hostPort away
/// from it. The agent's pod declares those of the proxy: with them a second proxy could not be scheduled.
#[test]
fn s153_ports_of_the_node_are_declared_to_the_scheduler() {
    let host = json!({"apiServer": {"host": "192.0.2.10"}});
    let with_ingress = json!({"apiServer": {"host": "192.0.2.10"}, "ingress": {"enabled": true}});
    let charts = [(host, "base"), (with_ingress, "ingress")];
    for (values, folder) in charts {
        let made = [Some(objects(&render(&values))), kustomized(folder)];
        for objects in made.into_iter().flatten() {
            let pod = &objects["DaemonSet/headgate"]["spec"]["template"]["spec"];
            assert_eq!(pod["hostNetwork"], true, "{folder}");
            let ports = pod["containers"][0]["ports"].as_array().unwrap();
            for port in ports {
                // On the network of the node both are the same (API of containers).
                assert_eq!(port["hostPort"], port["containerPort"], "{folder}");
            }
            let declared: Vec<_> = ports.iter().map(|port| &port["hostPort"]).collect();
            let expected = match folder {
                "base" => json!([10256]),
                _ => json!([10256, 80, 443]),
            };
            assert_eq!(json!(declared), expected, "{folder}");
        }
    }
}

#[test]
fn values_reach_the_proxy() {
    let values = json!({
        "apiServer": {"host": "192.0.2.10"},
        "image": {"repository": "registry.example.com/headgate", "tag": "9"},
        "ingress": {
            "enabled": true,
            "isDefault": true,
            "serviceAnnotations": {"example.com/pool": "public"},
            "metricsBindAddress": "0.0.0.0:10245",
            "otlpEndpoint": "http://collector.monitoring:4318",
            "traceSampleRate": 0.25,
            "extraArgs": ["--namespaces=shop"],
        },
    });
    assert_eq!(complaints(&values), Vec::<String>::new());
    let made = objects(&render(&values));
    let container = &made["DaemonSet/headgate-proxy"]["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example.com/headgate:9");
    let mut words = vec![
        "proxy",
        "--pins=/run/headgate/bpf",
        "--healthz-bind-address=/run/headgate/health/socket",
        "--publish-service=$(POD_NAMESPACE)/headgate-ingress",
        "--metrics-bind-address=0.0.0.0:10245",
        "--otlp-endpoint=http://collector.monitoring:4318",
        "--trace-sample-rate=0.25",
        "--namespaces=shop",
    ];
    assert_eq!(container["args"], json!(words));
    let annotations = json!({"example.com/pool": "public"});
    let service = &made["Service/headgate-ingress"];
    assert_eq!(service["metadata"]["annotations"], annotations);
    let class = &made["IngressClass/headgate"]["metadata"]["annotations"];
    let default = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    assert_eq!(*class, default);

    // With addresses of nodes there is no load balancer, so the chart renders no Service for it.
    let mut nodes = values.clone();
    let addresses = json!({"ingress": {"addresses": ["192.0.2.1", "192.0.2.2"]}});
    merge(&mut nodes, &addresses);
    assert_eq!(complaints(&nodes), Vec::<String>::new());
    let made = objects(&render(&nodes));
    let container = &made["DaemonSet/headgate-proxy"]["spec"]["template"]["spec"]["containers"][0];
    let published = ["--publish-address=192.0.2.1", "--publish-address=192.0.2.2"];
    words.splice(3..4, published);
    assert_eq!(container["args"], json!(words));
    assert_eq!(made.get("Service/headgate-ingress"), None);
}

#[test]
fn values_reach_the_agent() {
    let values = json!({
        "apiServer": {"host": "192.0.2.10", "port": 443},
        "image": {"repository": "registry.example.com/headgate", "tag": "9"},
        "imagePullSecrets": [{"name": "pull"}],
        "agent": {
            "devices": ["eth*", "bond0"],
            "nodePortAddresses": ["primary"],
            "forwarding": "dsr",
            "socketScope": "opt-out",
            "metricsBindAddress": "0.0.0.0:10249",
            "extraArgs": ["--no-external-ips"],
        },
        "privileged": true,
        "priorityClassName": "",
    });
    assert_eq!(complaints(&values), Vec::<String>::new());
    let objects = objects(&render(&values));
    let pod = &objects["DaemonSet/headgate"]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "registry.example.com/headgate:9");
    assert_eq!(
        container["args"],
        json!([
            "agent",
            "--cgroup=/run/headgate/cgroup",
            "--api-servers-file=/var/lib/headgate/api-servers",
            "--devices=eth*",
            "--devices=bond0",
            "--nodeport-addresses=primary",
            "--forwarding=dsr",
            "--socket-scope=opt-out",
            "--metrics-bind-address=0.0.0.0:10249",
            "--no-external-ips",
        ])
    );
    assert_eq!(
        container["securityContext"],
        json!({"privileged": true, "readOnlyRootFilesystem": true})
    );
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
    assert_eq!(pod.get("priorityClassName"), None);
    assert_eq!(
        objects["ConfigMap/headgate"]["data"],
        json!({"KUBERNETES_SERVICE_HOST": "192.0.2.10", "KUBERNETES_SERVICE_PORT": "443"})
    );
    // The agent reads labels of pods with this scope alone.
    let mut rules = objects["ClusterRole/headgate"]["rules"]
        .as_array()
        .unwrap()
        .iter();
    let pods = rules.find(|rule| rule["resources"] == json!(["pods"]));
    assert_eq!(pods.unwrap()["verbs"], json!(["list", "watch"]));
}

#[test]
fn bad_values_are_refused_by_name() {
    let host = json!({"apiServer": {"host": "192.0.2.10"}});
    assert_eq!(complaints(&host), Vec::<String>::new());
    for (values, complaint) in [
        (json!({}), "/apiServer/host"),
        (json!({"apiServer": {"port": 70000}}), "/apiServer/port"),
        (json!({"agents": {}}), "agents"),
        (json!({"agent": {"device": ["eth0"]}}), "device"),
        (
            json!({"agent": {"extraArgs": ["--a", "b"]}}),
            "/agent/extraArgs/1",
        ),
        (
            json!({"agent": {"forwarding": "direct"}}),
            "/agent/forwarding",
        ),
        (json!({"privileged": "yes"}), "/privileged"),
        (json!({"ingress": {"enabled": "yes"}}), "/ingress/enabled"),
        (json!({"ingress": {"default": true}}), "default"),
        (
            json!({"ingress": {"otlpEndpoint": "collector:4318"}}),
            "/ingress/otlpEndpoint",
        ),
        (
            json!({"ingress": {"traceSampleRate": 2}}),
            "/ingress/traceSampleRate",
        ),
        (
            json!({"ingress": {"extraArgs": ["shop"]}}),
            "/ingress/extraArgs/0",
        ),
        (
            json!({"ingress": {"serviceAnnotations": {"a": 1}}}),
            "/ingress/serviceAnnotations/a",
        ),
        (
            json!({"image": {"pullPolicy": "Sometimes"}}),
            "/image/pullPolicy",
        ),
    ] {
        let mut all = host.clone();
        if values != json!({}) {
            merge(&mut all, &values);
        } else {
            all = json!({});
        }
        let found = complaints(&all);
        assert!(
            found.iter().any(|line| line.contains(complaint)),
            "{values}: {found:?}"
        );
    }
}
