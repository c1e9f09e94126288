//! Nodes.

use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;

use crate::source::event::NodeState;

const ZONE: &str = "topology.kubernetes.io/zone";
/// Set when the cluster autoscaler is about to remove the node.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Zone and state of a Node.
pub(super) fn node(object: &core::Node) -> NodeState {
    let taints = object.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let is_tainted = taints.is_some_and(|taints| {
        let mut keys = taints.iter().map(|taint| taint.key.as_str());
        keys.any(|key| key == LEAVING_TAINT)
    });
    NodeState {
        zone: object.labels().get(ZONE).cloned(),
        is_leaving: is_tainted || object.metadata.deletion_timestamp.is_some(),
    }
}
