//! What `deploy/` gives the agent is enough: its role at the API, its capabilities.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod common;

use std::sync::{Arc, Mutex};

use common::{cluster_without_agents, names, on, pods_over_http};
use headgate_apiserver::{ASSETS, Attributes, TestServer};
use headgate_netns::{SERVICE, slices};
use k8s_openapi::api::{apps::v1::DaemonSet, rbac::v1::ClusterRole};
use serde::{Deserialize, de::DeserializeOwned};

const RBAC: &str = include_str!("../../../deploy/base/rbac.yaml");
const DAEMONSET: &str = include_str!("../../../deploy/base/daemonset.yaml");

/// The object of a kind in a text, every field of which the API has.
fn object<K: DeserializeOwned>(text: &str, kind: &str) -> K {
    let documents = serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| serde_yaml_ng::Value::deserialize(document).unwrap());
    let mut wanted = documents.filter(|document| document["kind"].as_str() == Some(kind));
    let mut unknown = Vec::new();
    let object = serde_ignored::deserialize(wanted.next().unwrap(), |path| {
        unknown.push(path.to_string());
    });
    assert!(unknown.is_empty(), "the API has no {unknown:?}");
    object.unwrap()
}

/// Whether a role allows a request.
fn allows(role: &ClusterRole, request: &Attributes) -> bool {
    let has = |list: &Option<Vec<String>>, value: &String| {
        list.as_ref().is_some_and(|list| list.contains(value))
    };
    role.rules.iter().flatten().any(|rule| {
        has(&rule.api_groups, &request.group)
            && has(&rule.resources, &request.resource)
            && rule.verbs.contains(&request.verb)
            && request.subresource.is_none()
    })
}

#[test]
fn agent_gets_along_with_its_role_and_capabilities() {
    const NAME: &str = "agent_gets_along_with_its_role_and_capabilities";
    if std::env::var_os(ASSETS).is_some() {
        println!("SKIPPED: {NAME}: the role is enforced by the stand-in alone");
        return;
    }
    let Some(mut cluster) = cluster_without_agents("deploy", 1, 1) else {
        return;
    };
    let role: ClusterRole = object(RBAC, "ClusterRole");
    let asked = Arc::new(Mutex::new(Vec::<Attributes>::new()));
    let (log, enforced) = (asked.clone(), role.clone());
    cluster
        .serve_api_to(Some(Arc::new(move |request: &Attributes| {
            log.lock().unwrap().push(request.clone());
            allows(&enforced, request)
        })))
        .unwrap();
    let Some(TestServer::StandIn(api)) = &cluster.api else {
        unreachable!("the stand-in runs unless the real one is named");
    };
    // An external IP of the node itself is refused, so an Event is written.
    let node_ip = cluster.nodes[0].v4;
    let service = SERVICE.replace("  type: ", &format!("  externalIPs: [{node_ip}]\n  type: "));
    api.apply_yaml(&service).unwrap();
    api.apply_yaml(&slices(&[(1, 1)])).unwrap();

    let daemonset: DaemonSet = object(DAEMONSET, "DaemonSet");
    let pod = daemonset.spec.unwrap().template.spec.unwrap();
    let context = pod.containers[0].security_context.clone().unwrap();
    let added = context.capabilities.unwrap().add.unwrap();
    let capabilities: Vec<String> = added
        .iter()
        .map(|name| format!("+{}", name.to_lowercase()))
        .collect();
    cluster
        .start_agent_as(0, &format!("-all,{}", capabilities.join(",")), &[])
        .unwrap();
    let target = on(node_ip, 30080);
    assert_eq!(pods_over_http(&cluster.client, target), names(&["web-1-1"]));
    let has_written = || {
        let asked = asked.lock().unwrap();
        asked
            .iter()
            .any(|request| request.resource == "events" && request.verb == "create")
    };
    common::eventually("an Event is written", has_written);
    let asked = asked.lock().unwrap().clone();
    let refused: Vec<_> = asked
        .iter()
        .filter(|request| !allows(&role, request))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    let log = cluster.nodes[0].agent.as_ref().unwrap().log();
    assert!(
        !log.contains("ERROR") && !log.contains("disconnected"),
        "{log}"
    );
    // Nothing is allowed that was not asked for.
    for rule in role.rules.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in rule
                .verbs
                .iter()
                .filter(|verb| *verb != "get" && *verb != "patch")
            {
                let is_used = asked
                    .iter()
                    .any(|request| request.resource == *resource && request.verb == *verb);
                assert!(is_used, "{verb} {resource} is not used");
            }
        }
    }
}
