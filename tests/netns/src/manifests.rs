//! The example: a Service and its endpoints.

/// A Service `web` with every kind of frontend, over TCP and UDP and both families.
pub const SERVICE: &str = include_str!("../../../deploy/examples/web.yaml");

/// EndpointSlices of `web` for the pods with these nodes and numbers, as `Cluster` makes them.
pub fn slices(pods: &[(u8, u8)]) -> String {
    let mut text = String::new();
    for (name, family, pattern) in [
        ("web-ipv4", "IPv4", "10.244.{node}.{host}"),
        ("web-ipv6", "IPv6", "fd44:{node}::{host}"),
    ] {
        text += &format!(
            "---\n\
             apiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\n\
             metadata:\n  name: {name}\n  labels:\n    kubernetes.io/service-name: web\n\
             addressType: {family}\n\
             ports:\n- {{name: http, port: 9376}}\n- {{name: echo, protocol: UDP, port: 9376}}\n\
             endpoints:\n"
        );
        if pods.is_empty() {
            text.truncate(text.len() - 1);
            text += " []\n";
        }
        for (node, pod) in pods {
            let address = pattern
                .replace("{node}", &node.to_string())
                .replace("{host}", &(pod + 1).to_string());
            text += &format!(
                "- addresses: ['{address}']\n  nodeName: n{node}\n  conditions: {{ready: true}}\n"
            );
        }
    }
    text
}
