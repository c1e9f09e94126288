//! The processing of a Service that is written: defaults, fields carried over from the old object,
//! addresses and node ports, and validation.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::allocation::{Allocations, family};
use crate::error::Cause;
use crate::storage::Key;
use crate::validation::{is_dns1035_label, is_dns1123_label, is_dns1123_subdomain};

/// Completes `service` in place. Returns the causes why it cannot be stored; empty if it is valid.
pub(crate) fn admit(
    key: &Key,
    service: &mut Value,
    old: Option<&Value>,
    allocations: &Allocations,
) -> Vec<Cause> {
    if !service["spec"].is_object() {
        service["spec"] = json!({});
    }
    set_defaults(&mut service["spec"]);
    if let Some(old) = old {
        carry_over(&mut service["spec"], &old["spec"]);
    }
    let mut causes = check(service, old);
    // The allocators need a valid Service.
    if causes.is_empty() {
        causes.extend(assign_addresses(key, &mut service["spec"], allocations));
    }
    if causes.is_empty() {
        causes.extend(assign_node_ports(key, &mut service["spec"], allocations));
    }
    causes
}

fn text<'a>(spec: &'a Value, field: &str) -> &'a str {
    spec[field].as_str().unwrap_or_default()
}

fn is_external_name(spec: &Value) -> bool {
    text(spec, "type") == "ExternalName"
}

fn is_headless(spec: &Value) -> bool {
    text(spec, "clusterIP") == "None"
}

/// Whether the type is reachable from outside of the cluster.
fn is_external(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn needs_health_check_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn drop_field(spec: &mut Value, field: &str) {
    if let Some(spec) = spec.as_object_mut() {
        spec.remove(field);
    }
}

fn default_field(spec: &mut Value, field: &str, value: Value) {
    if spec[field].is_null() {
        spec[field] = value;
    }
}

fn set_defaults(spec: &mut Value) {
    default_field(spec, "type", json!("ClusterIP"));
    default_field(spec, "sessionAffinity", json!("None"));
    match text(spec, "sessionAffinity") {
        "None" => drop_field(spec, "sessionAffinityConfig"),
        "ClientIP" if spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].is_null() => {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10_800}});
        }
        _ => {}
    }
    if !is_external_name(spec) {
        default_field(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    let has_external_ips = spec["externalIPs"]
        .as_array()
        .is_some_and(|a| !a.is_empty());
    if is_external(spec) || has_external_ips {
        default_field(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if text(spec, "type") == "LoadBalancer" {
        default_field(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        default_field(port, "protocol", json!("TCP"));
        let same = port["port"].clone();
        if port["targetPort"].is_null() || port["targetPort"] == json!(0) {
            port["targetPort"] = same;
        }
    }
    // A client may give only one of the two; they always agree in the stored object.
    let single = spec["clusterIP"].clone();
    let list_is_empty = spec["clusterIPs"].as_array().is_none_or(Vec::is_empty);
    if list_is_empty && !single.is_null() && single != json!("") {
        spec["clusterIPs"] = json!([single]);
    }
}

/// Keeps fields that an update does not mention, and drops those that the new type does not have.
fn carry_over(spec: &mut Value, old: &Value) {
    if !is_external_name(spec) && !is_external_name(old) {
        let list_is_empty = spec["clusterIPs"].as_array().is_none_or(Vec::is_empty);
        if text(spec, "clusterIP").is_empty() && list_is_empty {
            spec["clusterIP"] = old["clusterIP"].clone();
            spec["clusterIPs"] = old["clusterIPs"].clone();
        } else if spec["clusterIPs"].as_array().map(Vec::len) == Some(1)
            && spec["clusterIP"] == old["clusterIP"]
            && spec["ipFamilyPolicy"].is_null()
        {
            spec["clusterIPs"] = old["clusterIPs"].clone();
        }
        default_field(spec, "ipFamilies", old["ipFamilies"].clone());
        default_field(spec, "ipFamilyPolicy", old["ipFamilyPolicy"].clone());
    }
    if is_external_name(spec) && !is_external_name(old) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if spec[field] == old[field] {
                drop_field(spec, field);
            }
        }
    }
    let old_ports = old["ports"].as_array().cloned().unwrap_or_default();
    let (was_external, external) = (is_external(old), is_external(spec));
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        let before = old_ports
            .iter()
            .find(|o| o["port"] == port["port"] && o["protocol"] == port["protocol"]);
        let Some(before) = before else { continue };
        let unset = port["nodePort"].as_u64().is_none_or(|p| p == 0);
        if external && unset && !before["nodePort"].is_null() {
            port["nodePort"] = before["nodePort"].clone();
        } else if was_external && !external && port["nodePort"] == before["nodePort"] {
            drop_field(port, "nodePort");
        }
    }
    if needs_health_check_port(old) {
        if needs_health_check_port(spec) {
            default_field(
                spec,
                "healthCheckNodePort",
                old["healthCheckNodePort"].clone(),
            );
        } else if spec["healthCheckNodePort"] == old["healthCheckNodePort"] {
            drop_field(spec, "healthCheckNodePort");
        }
    }
    if was_external && !external && spec["externalTrafficPolicy"] == old["externalTrafficPolicy"] {
        drop_field(spec, "externalTrafficPolicy");
    }
    if text(old, "type") == "LoadBalancer" && text(spec, "type") != "LoadBalancer" {
        drop_field(spec, "allocateLoadBalancerNodePorts");
    }
}

fn choose(causes: &mut Vec<Cause>, spec: &Value, field: &str, choices: &[&str]) {
    let value = &spec[field];
    if !value.is_null() && !choices.iter().any(|c| value == c) {
        causes.push(Cause::not_supported(
            format!("spec.{field}"),
            value,
            choices,
        ));
    }
}

fn check(service: &Value, old: Option<&Value>) -> Vec<Cause> {
    let spec = &service["spec"];
    let mut causes = Vec::new();
    let name = &service["metadata"]["name"];
    if !name.as_str().is_some_and(is_dns1035_label) {
        causes.push(Cause::invalid(
            "metadata.name",
            name,
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
        ));
    }
    choose(
        &mut causes,
        spec,
        "type",
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    choose(&mut causes, spec, "sessionAffinity", &["ClientIP", "None"]);
    choose(
        &mut causes,
        spec,
        "internalTrafficPolicy",
        &["Cluster", "Local"],
    );
    choose(
        &mut causes,
        spec,
        "externalTrafficPolicy",
        &["Cluster", "Local"],
    );
    choose(
        &mut causes,
        spec,
        "ipFamilyPolicy",
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
    );
    let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if timeout.as_i64().is_some_and(|t| !(1..=86_400).contains(&t)) {
        causes.push(Cause::invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            timeout,
            "must be greater than 0 and less than 86400",
        ));
    }
    for (index, address) in spec["externalIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if address
            .as_str()
            .and_then(|a| a.parse::<IpAddr>().ok())
            .is_none()
        {
            causes.push(Cause::invalid(
                format!("spec.externalIPs[{index}]"),
                address,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
        }
    }
    if is_external_name(spec) {
        check_external_name(spec, &mut causes);
    } else {
        check_cluster_ips(spec, old.map(|o| &o["spec"]), &mut causes);
        check_ports(spec, &mut causes);
    }
    if let Some(old) = old.map(|old| &old["spec"]) {
        check_class(spec, old, &mut causes);
    }
    causes
}

/// The class of a load balancer stays as long as the Service has one.
fn check_class(spec: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let is_balanced = |spec: &Value| spec["type"] == "LoadBalancer";
    let (before, class) = (&old["loadBalancerClass"], &spec["loadBalancerClass"]);
    if is_balanced(old) && is_balanced(spec) && before != class {
        let field = "spec.loadBalancerClass";
        causes.push(Cause::invalid(field, class, "may not change once set"));
    }
}

fn check_external_name(spec: &Value, causes: &mut Vec<Cause>) {
    let name = text(spec, "externalName");
    if name.is_empty() {
        causes.push(Cause::required("spec.externalName", ""));
    } else if !is_dns1123_subdomain(name.trim_end_matches('.')) {
        causes.push(Cause::invalid(
            "spec.externalName",
            &spec["externalName"],
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'",
        ));
    }
    if !text(spec, "clusterIP").is_empty() {
        causes.push(Cause::invalid(
            "spec.clusterIPs",
            &spec["clusterIP"],
            "may not be set for ExternalName services",
        ));
    }
}

fn check_cluster_ips(spec: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let ips = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
    if let Some(first) = ips.first()
        && !text(spec, "clusterIP").is_empty()
        && *first != spec["clusterIP"]
    {
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            first,
            "first value must match `clusterIP`",
        ));
    }
    for (index, ip) in ips.iter().enumerate() {
        let valid = ip == "None" || ip.as_str().is_some_and(|a| a.parse::<IpAddr>().is_ok());
        if !valid {
            causes.push(Cause::invalid(
                format!("spec.clusterIPs[{index}]"),
                ip,
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ));
        }
    }
    if is_external(spec) && is_headless(spec) {
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIP"],
            "may not be set to 'None' for LoadBalancer services",
        ));
    }
    let families = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        if family != "IPv4" && family != "IPv6" {
            causes.push(Cause::not_supported(
                format!("spec.ipFamilies[{index}]"),
                family,
                &["IPv4", "IPv6"],
            ));
        } else if families[..index].contains(family) {
            causes.push(Cause::duplicate(
                format!("spec.ipFamilies[{index}]"),
                family,
            ));
        }
    }
    let Some(old) = old.filter(|old| !is_external_name(old)) else {
        return;
    };
    let kept = text(old, "clusterIP");
    if !kept.is_empty() && spec["clusterIPs"][0] != old["clusterIP"] {
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIPs"],
            "may not change once set",
        ));
    }
    if !kept.is_empty() && spec["ipFamilies"][0] != old["ipFamilies"][0] {
        causes.push(Cause::invalid(
            "spec.ipFamilies[0]",
            &spec["ipFamilies"],
            "may not change once set",
        ));
    }
}

fn check_ports(spec: &Value, causes: &mut Vec<Cause>) {
    let ports = spec["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) {
        causes.push(Cause::required("spec.ports", ""));
    }
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(at("name"), ""));
            }
        } else if !is_dns1123_label(name) {
            causes.push(Cause::invalid(
                at("name"),
                &port["name"],
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            ));
        } else if ports[..index].iter().any(|p| p["name"] == port["name"]) {
            causes.push(Cause::duplicate(at("name"), &port["name"]));
        }
        let is_port = |value: &Value| value.as_i64().is_some_and(|p| (1..=65_535).contains(&p));
        if !is_port(&port["port"]) {
            causes.push(Cause::invalid(
                at("port"),
                &port["port"],
                "must be between 1 and 65535, inclusive",
            ));
        }
        if port["targetPort"].is_number() && !is_port(&port["targetPort"]) {
            causes.push(Cause::invalid(
                at("targetPort"),
                &port["targetPort"],
                "must be between 1 and 65535, inclusive",
            ));
        }
        if !["TCP", "UDP", "SCTP"]
            .iter()
            .any(|p| port["protocol"] == *p)
        {
            causes.push(Cause::not_supported(
                at("protocol"),
                &port["protocol"],
                &["SCTP", "TCP", "UDP"],
            ));
        }
        let node_port = port["nodePort"].as_u64().unwrap_or(0);
        if node_port != 0 && !is_external(spec) {
            causes.push(Cause {
                reason: "FieldValueForbidden",
                field: at("nodePort"),
                message: format!(
                    "Forbidden: may not be used when `type` is '{}'",
                    text(spec, "type")
                ),
            });
        }
        let same = |p: &Value| p["port"] == port["port"] && p["protocol"] == port["protocol"];
        if ports[..index].iter().any(same) {
            let mut shown = json!({"port": port["port"], "protocol": port["protocol"]});
            if !port["name"].is_null() {
                shown["name"] = port["name"].clone();
            }
            causes.push(Cause::duplicate(format!("spec.ports[{index}]"), &shown));
        }
    }
}

/// The families of the Service, in order, from its policy, its addresses and the cluster.
fn settle_families(spec: &mut Value, allocations: &Allocations) -> Result<Vec<String>, Cause> {
    let cluster = allocations.families();
    let given: Vec<IpAddr> = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect();
    let mut families: Vec<String> = spec["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| f.as_str().map(str::to_owned))
        .collect();
    for (index, address) in given.iter().enumerate() {
        match families.get(index) {
            None => families.push(family(*address).to_owned()),
            Some(wanted) if wanted != family(*address) => {
                return Err(Cause::invalid(
                    format!("spec.clusterIPs[{index}]"),
                    &json!(address.to_string()),
                    &format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`"),
                ));
            }
            Some(_) => {}
        }
    }
    let headless_by_hand = is_headless(spec)
        && spec["selector"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty);
    if spec["ipFamilyPolicy"].is_null() {
        let both = families.len() > 1 || headless_by_hand;
        spec["ipFamilyPolicy"] = json!(if both {
            "RequireDualStack"
        } else {
            "SingleStack"
        });
    }
    if families.is_empty() {
        families.extend(cluster.first().map(|f| (*f).to_owned()));
    }
    match text(spec, "ipFamilyPolicy") {
        "SingleStack" => families.truncate(1),
        policy => {
            let can = cluster.len() > 1 || headless_by_hand;
            if policy == "RequireDualStack" && !can {
                return Err(Cause::invalid(
                    "spec.ipFamilyPolicy",
                    &spec["ipFamilyPolicy"],
                    "this cluster is not configured for dual-stack services",
                ));
            }
            if can && families.len() == 1 {
                let other = if families[0] == "IPv4" {
                    "IPv6"
                } else {
                    "IPv4"
                };
                families.push(other.to_owned());
            }
        }
    }
    for (index, family) in families.iter().enumerate() {
        if !cluster.contains(&family.as_str()) && !headless_by_hand {
            return Err(Cause::invalid(
                format!("spec.ipFamilies[{index}]"),
                &json!(family),
                "not configured on this cluster",
            ));
        }
    }
    Ok(families)
}

fn assign_addresses(key: &Key, spec: &mut Value, allocations: &Allocations) -> Option<Cause> {
    if is_external_name(spec) {
        return None;
    }
    let families = match settle_families(spec, allocations) {
        Ok(families) => families,
        Err(cause) => return Some(cause),
    };
    spec["ipFamilies"] = json!(families);
    if is_headless(spec) {
        spec["clusterIPs"] = json!(["None"]);
        return None;
    }
    let given = spec["clusterIPs"].as_array().cloned().unwrap_or_default();
    let mut addresses = Vec::new();
    for (index, family) in families.iter().enumerate() {
        let at = format!("spec.clusterIPs[{index}]");
        let asked = given
            .get(index)
            .and_then(|a| a.as_str()?.parse::<IpAddr>().ok());
        let address = match asked {
            Some(address) => {
                let range = allocations.range(family);
                let why = match range {
                    Some(range) if !range.contains(&address) => format!(
                        "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
                    ),
                    _ if !allocations.address_is_free(address, key) => {
                        format!("failed to allocate IP {address}: provided IP is already allocated")
                    }
                    _ => String::new(),
                };
                if !why.is_empty() {
                    return Some(Cause::invalid("spec.clusterIPs", &spec["clusterIPs"], &why));
                }
                address
            }
            None => match allocations.next_address(family) {
                Some(address) => address,
                None => {
                    return Some(Cause::invalid(
                        at,
                        &Value::Null,
                        "failed to allocate IP: range is full",
                    ));
                }
            },
        };
        addresses.push(address.to_string());
    }
    spec["clusterIP"] = json!(addresses.first());
    spec["clusterIPs"] = json!(addresses);
    None
}

fn assign_node_ports(key: &Key, spec: &mut Value, allocations: &Allocations) -> Option<Cause> {
    let range = allocations.node_ports().clone();
    let refused = |field: String, port: &Value| {
        let number = port.as_u64().and_then(|p| u16::try_from(p).ok());
        let why = match number {
            Some(number) if !range.contains(&number) => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            ),
            Some(number) if allocations.port_is_free(number, key) => return None,
            Some(_) => "provided port is already allocated".to_owned(),
            None => "must be between 1 and 65535, inclusive".to_owned(),
        };
        Some(Cause::invalid(field, port, &why))
    };
    let by_itself = text(spec, "type") == "NodePort"
        || (text(spec, "type") == "LoadBalancer"
            && spec["allocateLoadBalancerNodePorts"] != json!(false));
    let mut picked: Vec<u16> = Vec::new();
    let is_set = |port: &Value| port.as_u64().is_some_and(|p| p != 0);
    let ports = spec["ports"].as_array().cloned().unwrap_or_default();
    // Requested ports come first, so that an automatic pick does not take one of them.
    for (index, port) in ports.iter().enumerate() {
        if is_set(&port["nodePort"]) {
            let field = format!("spec.ports[{index}].nodePort");
            if let Some(cause) = refused(field, &port["nodePort"]) {
                return Some(cause);
            }
            picked.extend(
                port["nodePort"]
                    .as_u64()
                    .and_then(|p| u16::try_from(p).ok()),
            );
        }
    }
    let health = spec["healthCheckNodePort"].clone();
    if is_set(&health) {
        if !needs_health_check_port(spec) {
            return Some(Cause::invalid(
                "spec.healthCheckNodePort",
                &health,
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ));
        }
        if let Some(cause) = refused("spec.healthCheckNodePort".to_owned(), &health) {
            return Some(cause);
        }
        picked.extend(health.as_u64().and_then(|p| u16::try_from(p).ok()));
    }
    let mut next = |field: String| {
        let port = allocations.next_port(&picked).ok_or_else(|| {
            Cause::invalid(
                field,
                &json!(0),
                "failed to allocate a nodePort: range is full",
            )
        })?;
        picked.push(port);
        Ok(json!(port))
    };
    for (index, port) in spec["ports"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if by_itself && !is_set(&port["nodePort"]) {
            match next(format!("spec.ports[{index}].nodePort")) {
                Ok(number) => port["nodePort"] = number,
                Err(cause) => return Some(cause),
            }
        }
    }
    if needs_health_check_port(spec) && !is_set(&health) {
        match next("spec.healthCheckNodePort".to_owned()) {
            Ok(number) => spec["healthCheckNodePort"] = number,
            Err(cause) => return Some(cause),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(ranges: &[&str]) -> Allocations {
        let ranges: Vec<_> = ranges.iter().map(|r| r.parse().unwrap()).collect();
        Allocations::new(&ranges, 30000..=30010)
    }

    fn dual() -> Allocations {
        cluster(&["10.96.0.0/16", "fd00:10:96::/112"])
    }

    fn key() -> Key {
        Key {
            table: "services",
            namespace: "default".to_owned(),
            name: "web".to_owned(),
        }
    }

    fn admitted(spec: Value, old: Option<&Value>, cluster: &Allocations) -> Value {
        let mut service = json!({"metadata": {"name": "web"}, "spec": spec});
        let causes = admit(&key(), &mut service, old, cluster);
        assert_eq!(causes, []);
        service
    }

    fn fields_refused(spec: Value, old: Option<&Value>) -> Vec<String> {
        let mut service = json!({"metadata": {"name": "web"}, "spec": spec});
        let causes = admit(&key(), &mut service, old, &dual());
        causes.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn a_plain_service_gets_defaults_and_an_address() {
        let spec = &admitted(json!({"ports": [{"port": 80}]}), None, &dual())["spec"];
        assert_eq!(spec["type"], "ClusterIP");
        assert_eq!(spec["clusterIP"], "10.96.0.1");
        assert_eq!(spec["clusterIPs"], json!(["10.96.0.1"]));
        assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
        assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
        assert_eq!(spec["internalTrafficPolicy"], "Cluster");
        assert_eq!(
            spec["ports"],
            json!([{"port": 80, "protocol": "TCP", "targetPort": 80}])
        );
    }

    #[test]
    fn dual_stack_follows_policy_and_order() {
        let port = json!([{"port": 80}]);
        let both = admitted(
            json!({"ports": port, "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}),
            None,
            &dual(),
        );
        assert_eq!(
            both["spec"]["clusterIPs"],
            json!(["fd00:10:96::1", "10.96.0.1"])
        );
        let single = admitted(
            json!({"ports": port, "ipFamilyPolicy": "PreferDualStack"}),
            None,
            &cluster(&["10.96.0.0/16"]),
        );
        assert_eq!(single["spec"]["clusterIPs"], json!(["10.96.0.1"]));
        let down = admitted(
            json!({"ports": port, "ipFamilyPolicy": "SingleStack",
                   "clusterIP": "fd00:10:96::1", "clusterIPs": ["fd00:10:96::1", "10.96.0.1"],
                   "ipFamilies": ["IPv6", "IPv4"]}),
            Some(&both),
            &dual(),
        );
        assert_eq!(down["spec"]["clusterIPs"], json!(["fd00:10:96::1"]));
        assert_eq!(down["spec"]["ipFamilies"], json!(["IPv6"]));
    }

    #[test]
    fn requiring_two_families_of_one_is_refused() {
        let mut service = json!({"metadata": {"name": "web"},
            "spec": {"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack"}});
        let causes = admit(&key(), &mut service, None, &cluster(&["10.96.0.0/16"]));
        assert_eq!(causes[0].field, "spec.ipFamilyPolicy");
    }

    #[test]
    fn load_balancer_with_local_policy_gets_node_and_health_ports() {
        let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                          "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30000}]});
        let spec = &admitted(spec, None, &dual())["spec"];
        assert_eq!(spec["ports"][0]["nodePort"], 30001);
        assert_eq!(spec["ports"][1]["nodePort"], 30000);
        assert_eq!(spec["healthCheckNodePort"], 30002);
    }

    #[test]
    fn an_update_keeps_what_it_does_not_mention_and_loses_what_its_type_forbids() {
        let old = admitted(
            json!({"type": "NodePort", "ports": [{"port": 80}]}),
            None,
            &dual(),
        );
        let kept = admitted(
            json!({"type": "NodePort", "ports": [{"port": 80}]}),
            Some(&old),
            &dual(),
        );
        assert_eq!(kept["spec"]["clusterIP"], old["spec"]["clusterIP"]);
        assert_eq!(kept["spec"]["ports"], old["spec"]["ports"]);
        let mut spec = old["spec"].clone();
        spec["type"] = json!("ClusterIP");
        let plain = admitted(spec, Some(&old), &dual());
        assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
        assert!(plain["spec"]["externalTrafficPolicy"].is_null());
    }

    #[test]
    fn external_name_has_no_address() {
        let spec = json!({"type": "ExternalName", "externalName": "example.com"});
        let spec = &admitted(spec, None, &dual())["spec"];
        assert!(spec["clusterIP"].is_null());
        assert!(spec["ipFamilies"].is_null());
    }

    #[test]
    fn mistakes_are_named_by_field() {
        let ok = json!([{"port": 80}]);
        for (spec, field) in [
            (json!({}), "spec.ports"),
            (json!({"ports": [{"port": 0}]}), "spec.ports[0].port"),
            (
                json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
                "spec.ports[0].protocol",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                "spec.ports[0].nodePort",
            ),
            (
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}),
                "spec.ports[0].nodePort",
            ),
            (json!({"ports": ok, "type": "Magic"}), "spec.type"),
            (
                json!({"ports": ok, "clusterIP": "10.97.0.1"}),
                "spec.clusterIPs",
            ),
            (
                json!({"ports": ok, "clusterIP": "ten"}),
                "spec.clusterIPs[0]",
            ),
            (
                json!({"ports": ok, "ipFamilies": ["IPv5"]}),
                "spec.ipFamilies[0]",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName"),
        ] {
            assert!(
                fields_refused(spec.clone(), None)
                    .iter()
                    .any(|f| f == field),
                "{spec} should be refused for {field}, was: {:?}",
                fields_refused(spec.clone(), None)
            );
        }
    }

    #[test]
    fn the_cluster_address_cannot_be_changed() {
        let old = admitted(json!({"ports": [{"port": 80}]}), None, &dual());
        let refused = fields_refused(
            json!({"ports": [{"port": 80}], "clusterIP": "10.96.0.9"}),
            Some(&old),
        );
        assert_eq!(refused, ["spec.clusterIPs[0]"]);
    }
}
