//! The Kubernetes API: whether it is reachable, grants what the agent needs, and has the same time.

use std::net::IpAddr;

use anyhow::{Context, Result};
use http::{Request, header::DATE};
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::{Node, Service},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    client::Body,
};
use tokio::{runtime, time::timeout};

use super::{Finding, TIMEOUT};
use crate::view::in_one_line;

const ABOUT: &str = "API";
/// Larger differences make servers refuse tokens as expired or not valid yet.
const SKEW_S: i64 = 30;

/// What the ClusterRole in `deploy/` allows: group, resource, verbs.
const PERMISSIONS: [(&str, &str, &[&str]); 5] = [
    ("", "services", &["get", "list", "watch"]),
    (
        "discovery.k8s.io",
        "endpointslices",
        &["get", "list", "watch"],
    ),
    ("", "nodes", &["list", "watch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
    ("events.k8s.io", "events", &["create"]),
];

pub(super) fn examine(node: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let cure = "check KUBECONFIG, or KUBERNETES_SERVICE_HOST and the service account; use --no-api if \
                the agent reads manifests";
    let result = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            runtime.block_on(async {
                let all = ask(node, &mut findings);
                let silent = || format!("no answer within {} s", TIMEOUT.as_secs());
                timeout(TIMEOUT, all).await.with_context(silent)?
            })
        });
    if let Err(error) = result {
        findings.push(Finding::error(ABOUT, in_one_line(&error), cure));
    }
    findings
}

async fn ask(node: Option<&str>, findings: &mut Vec<Finding>) -> Result<()> {
    let config = Config::infer().await.context("not configured")?;
    let server = config.cluster_url.clone();
    let client = Client::try_from(config).context("not configured")?;
    let version = client.apiserver_version().await;
    let version = version.with_context(|| format!("{server} cannot be reached"))?;
    findings.push(Finding::ok(
        ABOUT,
        format!("{server} is {}", version.git_version),
    ));
    permissions(&client, findings).await?;
    clock(&client, findings).await?;
    own_service(&client, server.host().unwrap_or_default(), findings).await;
    if let Some(name) = node {
        own_node(&client, name, findings).await;
    }
    Ok(())
}

async fn permissions(client: &Client, findings: &mut Vec<Finding>) -> Result<()> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource, verbs) in PERMISSIONS {
        for verb in verbs {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(group.into()),
                        resource: Some(resource.into()),
                        verb: Some((*verb).into()),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = api.create(&PostParams::default(), &review).await;
            let answer = answer.context("cannot check the permissions")?;
            if !answer.status.is_some_and(|status| status.allowed) {
                missing.push(format!("{verb} {resource}"));
            }
        }
    }
    findings.push(match missing.is_empty() {
        true => Finding::ok(ABOUT, "the ClusterRole allows what the agent needs"),
        false => Finding::error(
            ABOUT,
            format!("the ClusterRole does not allow: {}", missing.join(", ")),
            "kubectl apply -f deploy/base/rbac.yaml",
        ),
    });
    Ok(())
}

async fn clock(client: &Client, findings: &mut Vec<Finding>) -> Result<()> {
    let request = Request::get("/version").body(Body::empty())?;
    let answer = client.send(request).await?;
    let date = answer
        .headers()
        .get(DATE)
        .and_then(|date| date.to_str().ok());
    let Some(there) =
        date.and_then(|date| rfc2822::DateTimeParser::new().parse_timestamp(date).ok())
    else {
        return Ok(());
    };
    let skew_s = Timestamp::now().duration_since(there).as_secs();
    findings.push(match skew_s.abs() <= SKEW_S {
        true => Finding::ok("clock", "same time as the API server"),
        false => Finding::error(
            "clock",
            format!("differs by {} s from the API server's", skew_s.abs()),
            "run a time service such as chrony",
        ),
    });
    Ok(())
}

/// The agent must not reach the API by the Service `kubernetes`, which works only once the agent has
/// programmed it.
async fn own_service(client: &Client, host: &str, findings: &mut Vec<Finding>) {
    let api: Api<Service> = Api::namespaced(client.clone(), "default");
    let Ok(Some(service)) = api.get_opt("kubernetes").await else {
        return;
    };
    let ips = service
        .spec
        .and_then(|spec| spec.cluster_ips)
        .unwrap_or_default();
    let is_ip = |ip: &String| ip.parse::<IpAddr>().ok() == host.parse().ok();
    if host.parse::<IpAddr>().is_ok() && ips.iter().any(is_ip) {
        findings.push(Finding::error(
            ABOUT,
            format!("{host} is the cluster IP of Service default/kubernetes, which the agent must program first"),
            "set KUBERNETES_SERVICE_HOST to an address of the control plane",
        ));
    }
}

async fn own_node(client: &Client, name: &str, findings: &mut Vec<Finding>) {
    let api: Api<Node> = Api::all(client.clone());
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let Ok(nodes) = api.list(&params).await else {
        return;
    };
    findings.push(match nodes.items.is_empty() {
        false => Finding::ok(ABOUT, format!("node {name} is known")),
        true => Finding::warning(
            ABOUT,
            format!("the API has no node {name}: endpoints on it count as those of other nodes"),
            "set --node-name, or NODE_NAME, to the name that `kubectl get nodes` shows",
        ),
    });
}
