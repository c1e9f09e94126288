//! Tables for `kubectl get`: objects as rows, with the columns of the API.

use std::borrow::Cow;

use jsonpath_rust::JsonPath as _;
use serde_json::{Value, json};

use crate::negotiate::{RowObject, metadata_of};
use crate::resource::Resource;

/// A column, and how it is filled.
pub(crate) struct Column {
    name: Cow<'static, str>,
    /// 0 is always shown, 1 only by `-o wide`.
    priority: u8,
    cell: Cell,
}

enum Cell {
    BuiltIn(fn(&Value) -> String),
    /// The first value at a JSON path (RFC 9535).
    Path {
        path: String,
        is_date: bool,
    },
}

const fn column(name: &'static str, cell: fn(&Value) -> String) -> Column {
    Column {
        name: Cow::Borrowed(name),
        priority: 0,
        cell: Cell::BuiltIn(cell),
    }
}

const fn wide(name: &'static str, cell: fn(&Value) -> String) -> Column {
    Column {
        name: Cow::Borrowed(name),
        priority: 1,
        cell: Cell::BuiltIn(cell),
    }
}

impl Column {
    /// The columns of a version of a CustomResourceDefinition.
    pub(crate) fn of_version(version: &Value) -> Vec<Self> {
        let columns = items(&version["additionalPrinterColumns"]);
        let mut all = vec![NAME];
        all.extend(columns.map(|column| {
            Self {
                name: Cow::Owned(text(&column["name"])),
                priority: column["priority"]
                    .as_u64()
                    .map_or(0, |number| u8::from(number > 0)),
                cell: Cell::Path {
                    path: format!("${}", text(&column["jsonPath"])),
                    is_date: column["type"] == "date",
                },
            }
        }));
        if all.len() == 1 {
            all.push(AGE);
        }
        all
    }

    fn cell(&self, object: &Value) -> String {
        match &self.cell {
            Cell::BuiltIn(cell) => cell(object),
            Cell::Path { path, is_date } => match object.query(path).as_deref() {
                Ok([value, ..]) if *is_date => age(value),
                Ok([value, ..]) => text(value),
                Ok([]) | Err(_) => String::new(),
            },
        }
    }
}

const NAME: Column = column("Name", |o| text(&o["metadata"]["name"]));
const AGE: Column = column("Age", |o| age(&o["metadata"]["creationTimestamp"]));

static GENERIC: &[Column] = &[NAME, AGE];
static SERVICES: &[Column] = &[
    NAME,
    column("Type", |o| text(&o["spec"]["type"])),
    column("Cluster-IP", |o| or_none(text(&o["spec"]["clusterIPs"][0]))),
    column("External-IP", external_ip),
    column("Port(s)", service_ports),
    AGE,
    wide("Selector", |o| or_none(pairs(&o["spec"]["selector"]))),
];
static ENDPOINT_SLICES: &[Column] = &[
    NAME,
    column("AddressType", |o| text(&o["addressType"])),
    column("Ports", |o| {
        let port = |p: &Value| or(text(&p["port"]), "*");
        or(some_of(each(&o["ports"], port)), "<unset>")
    }),
    column("Endpoints", |o| {
        let all = items(&o["endpoints"]).flat_map(|e| each(&e["addresses"], text));
        or(some_of(all.collect()), "<unset>")
    }),
    AGE,
];
static ENDPOINTS: &[Column] = &[NAME, column("Endpoints", endpoints), AGE];
static NODES: &[Column] = &[
    NAME,
    column("Status", node_status),
    column("Roles", node_roles),
    AGE,
    column("Version", |o| {
        text(&o["status"]["nodeInfo"]["kubeletVersion"])
    }),
    wide("Internal-IP", |o| node_address(o, "InternalIP")),
    wide("External-IP", |o| node_address(o, "ExternalIP")),
    wide("OS-Image", |o| node_info(o, "osImage")),
    wide("Kernel-Version", |o| node_info(o, "kernelVersion")),
    wide("Container-Runtime", |o| {
        node_info(o, "containerRuntimeVersion")
    }),
];
static NAMESPACES: &[Column] = &[NAME, column("Status", |o| text(&o["status"]["phase"])), AGE];
static PODS: &[Column] = &[
    NAME,
    column("Ready", |o| {
        let ready = items(&o["status"]["containerStatuses"]).filter(|c| c["ready"] == json!(true));
        format!(
            "{}/{}",
            ready.count(),
            items(&o["spec"]["containers"]).count()
        )
    }),
    column("Status", |o| text(&o["status"]["phase"])),
    column("Restarts", |o| {
        let restarts = items(&o["status"]["containerStatuses"]);
        let sum: i64 = restarts.filter_map(|c| c["restartCount"].as_i64()).sum();
        sum.to_string()
    }),
    AGE,
    wide("IP", |o| or_none(text(&o["status"]["podIP"]))),
    wide("Node", |o| or_none(text(&o["spec"]["nodeName"]))),
];
static CONFIG_MAPS: &[Column] = &[NAME, column("Data", data_count), AGE];
static SECRETS: &[Column] = &[
    NAME,
    column("Type", |o| text(&o["type"])),
    column("Data", data_count),
    AGE,
];
static INGRESSES: &[Column] = &[
    NAME,
    column("Class", |o| or_none(text(&o["spec"]["ingressClassName"]))),
    column("Hosts", |o| {
        let hosts: Vec<String> = each(&o["spec"]["rules"], |r| text(&r["host"]));
        or(
            some_of(hosts.into_iter().filter(|h| !h.is_empty()).collect()),
            "*",
        )
    }),
    column("Address", |o| ingress_points(o).join(",")),
    column("Ports", |o| {
        let tls = items(&o["spec"]["tls"]).next().is_some();
        if tls { "80, 443" } else { "80" }.to_owned()
    }),
    AGE,
];
static INGRESS_CLASSES: &[Column] = &[
    NAME,
    column("Controller", |o| text(&o["spec"]["controller"])),
    column("Parameters", |o| {
        let parameters = &o["spec"]["parameters"];
        let name = text(&parameters["name"]);
        if name.is_empty() {
            return "<none>".to_owned();
        }
        format!("{}/{name}", text(&parameters["kind"]))
    }),
    AGE,
];
static LEASES: &[Column] = &[
    NAME,
    column("Holder", |o| text(&o["spec"]["holderIdentity"])),
    AGE,
];
static EVENTS: &[Column] = &[
    column("Last Seen", |o| {
        let seen = [
            &o["lastTimestamp"],
            &o["deprecatedLastTimestamp"],
            &o["eventTime"],
        ];
        let seen = seen.into_iter().find(|t| t.is_string());
        age(seen.unwrap_or(&Value::Null))
    }),
    column("Type", |o| text(&o["type"])),
    column("Reason", |o| text(&o["reason"])),
    column("Object", |o| {
        let about = ["involvedObject", "regarding"]
            .into_iter()
            .find(|f| o[f].is_object());
        let about = &o[about.unwrap_or_default()];
        format!(
            "{}/{}",
            text(&about["kind"]).to_lowercase(),
            text(&about["name"])
        )
    }),
    column("Message", |o| {
        or(text(&o["message"]), o["note"].as_str().unwrap_or_default())
    }),
    wide("Name", |o| text(&o["metadata"]["name"])),
];

fn columns(resource: &Resource) -> &[Column] {
    if let Some(custom) = resource.custom() {
        return &custom.columns;
    }
    match resource.table {
        "services" => SERVICES,
        "endpointslices" => ENDPOINT_SLICES,
        "endpoints" => ENDPOINTS,
        "nodes" => NODES,
        "namespaces" => NAMESPACES,
        "pods" => PODS,
        "configmaps" => CONFIG_MAPS,
        "secrets" => SECRETS,
        "ingresses" => INGRESSES,
        "ingressclasses" => INGRESS_CLASSES,
        "leases" => LEASES,
        "events" => EVENTS,
        _ => GENERIC,
    }
}

/// A `meta.k8s.io/v1` Table. Later events of a watch leave the columns out.
pub(crate) fn render(
    resource: &Resource,
    objects: Vec<Value>,
    metadata: &Value,
    rows: RowObject,
    with_columns: bool,
) -> Value {
    let columns = columns(resource);
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let cells: Vec<String> = columns.iter().map(|c| c.cell(&object)).collect();
            match rows {
                RowObject::None => json!({"cells": cells}),
                RowObject::Metadata => json!({"cells": cells, "object": metadata_of(object)}),
                RowObject::Object => json!({"cells": cells, "object": object}),
            }
        })
        .collect();
    let mut table = json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": null,
        "rows": rows,
    });
    if with_columns {
        table["columnDefinitions"] = columns
            .iter()
            .map(|c| {
                json!({
                    "name": c.name,
                    "type": "string",
                    "format": if c.name == "Name" { "name" } else { "" },
                    "description": "",
                    "priority": c.priority,
                })
            })
            .collect();
    }
    table
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn or(text: String, otherwise: &str) -> String {
    if text.is_empty() {
        otherwise.to_owned()
    } else {
        text
    }
}

fn or_none(text: String) -> String {
    or(text, "<none>")
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn each(list: &Value, cell: impl Fn(&Value) -> String) -> Vec<String> {
    items(list).map(cell).collect()
}

/// The first three items, and the number of further ones.
fn some_of(all: Vec<String>) -> String {
    let more = all.len().saturating_sub(3);
    let shown = all[..all.len() - more].join(",");
    if more == 0 {
        shown
    } else {
        format!("{shown} + {more} more...")
    }
}

fn pairs(map: &Value) -> String {
    let pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    pairs.join(",")
}

fn data_count(object: &Value) -> String {
    let count = |field: &str| object[field].as_object().map_or(0, serde_json::Map::len);
    (count("data") + count("binaryData")).to_string()
}

fn ingress_points(object: &Value) -> Vec<String> {
    each(&object["status"]["loadBalancer"]["ingress"], |point| {
        or(
            text(&point["ip"]),
            point["hostname"].as_str().unwrap_or_default(),
        )
    })
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let mut addresses = each(&spec["externalIPs"], text);
    match spec["type"].as_str() {
        Some("ExternalName") => text(&spec["externalName"]),
        Some("LoadBalancer") => {
            addresses.splice(0..0, ingress_points(service));
            or(addresses.join(","), "<pending>")
        }
        _ => or_none(addresses.join(",")),
    }
}

fn service_ports(service: &Value) -> String {
    let ports = each(&service["spec"]["ports"], |port| {
        let node_port = match port["nodePort"].as_u64() {
            Some(number) if number != 0 => format!(":{number}"),
            _ => String::new(),
        };
        format!("{}{node_port}/{}", port["port"], text(&port["protocol"]))
    });
    or_none(ports.join(","))
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in items(&object["subsets"]) {
        for address in items(&subset["addresses"]) {
            for port in items(&subset["ports"]) {
                all.push(format!("{}:{}", text(&address["ip"]), port["port"]));
            }
        }
    }
    or_none(some_of(all))
}

fn node_status(node: &Value) -> String {
    let ready = items(&node["status"]["conditions"]).find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| c["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == json!(true) {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    or_none(roles.join(","))
}

fn node_address(node: &Value, kind: &str) -> String {
    let found = items(&node["status"]["addresses"]).find(|a| a["type"] == kind);
    or_none(found.map(|a| text(&a["address"])).unwrap_or_default())
}

fn node_info(node: &Value, field: &str) -> String {
    or(text(&node["status"]["nodeInfo"][field]), "<unknown>")
}

fn age(timestamp: &Value) -> String {
    let then = timestamp
        .as_str()
        .and_then(|t| t.parse::<jiff::Timestamp>().ok());
    match then {
        Some(then) => duration(jiff::Timestamp::now().as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A duration as the API shows ages: with a second unit while the first is small.
fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |a: i64, unit: &str, b: i64, small: &str| {
        if b == 0 {
            format!("{a}{unit}")
        } else {
            format!("{a}{unit}{b}{small}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, "y", days % 365, "d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Resources, find};

    #[test]
    fn ages_read_as_kubectl_shows_them() {
        for (seconds, expected) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (100_000, "27h"),
            (200_000, "2d7h"),
            (1_000_000, "11d"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn a_service_row_has_what_kubectl_prints() {
        let services = find("", "v1", "services").unwrap();
        let service = json!({
            "metadata": {"name": "web", "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "selector": {"app": "web"},
                     "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]},
        });
        let table = render(&services, vec![service], &json!({}), RowObject::None, true);
        let cells = &table["rows"][0]["cells"];
        assert_eq!(cells[1], "LoadBalancer");
        assert_eq!(cells[2], "10.96.0.1");
        assert_eq!(cells[3], "<pending>");
        assert_eq!(cells[4], "80:30080/TCP");
        assert_eq!(cells[6], "app=web");
        assert_eq!(table["columnDefinitions"][6]["priority"], 1);
    }

    #[test]
    fn columns_of_a_definition_show_the_first_value_at_their_path() {
        let columns = Column::of_version(&json!({"additionalPrinterColumns": [
            {"name": "Class", "type": "string", "jsonPath": ".spec.class"},
            {"name": "Address", "type": "string", "jsonPath": ".status.addresses[*].value"},
            {"name": "Ready", "type": "string", "priority": 1,
             "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ]}));
        let object = json!({
            "metadata": {"name": "a", "creationTimestamp": jiff::Timestamp::now().to_string()},
            "spec": {"class": "c"},
            "status": {"addresses": [{"value": "10.0.0.1"}, {"value": "10.0.0.2"}],
                       "conditions": [{"type": "Other", "status": "False"},
                                      {"type": "Ready", "status": "True"}]},
        });
        let cells: Vec<String> = columns.iter().map(|c| c.cell(&object)).collect();
        assert_eq!(cells[..4], ["a", "c", "10.0.0.1", "True"]);
        assert!(cells[4].ends_with('s'), "{cells:?}");
        assert_eq!(columns[3].priority, 1);
        let empty: Vec<String> = columns.iter().map(|c| c.cell(&json!({}))).collect();
        assert_eq!(empty, [""; 5]);
        let names: Vec<String> = Column::of_version(&json!({}))
            .iter()
            .map(|c| c.name.to_string())
            .collect();
        assert_eq!(names, ["Name", "Age"]);
    }

    #[test]
    fn an_empty_object_of_any_kind_has_a_row() {
        for resource in Resources::built_in().iter() {
            let table = render(
                resource,
                vec![json!({})],
                &json!({}),
                RowObject::Metadata,
                true,
            );
            let cells = table["rows"][0]["cells"].as_array().unwrap().len();
            assert_eq!(cells, table["columnDefinitions"].as_array().unwrap().len());
        }
    }
}
