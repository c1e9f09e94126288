//! Whether proxies and agents serve Gateways: what the arguments in their pods say.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Largest number of pods that a message names.
const NAMED: usize = 3;
/// Flags of proxies and agents: that they serve Gateways, and those of which controller if not of the default one.
const GATEWAYS: &str = "--gateways";
const CONTROLLER: &str = "--gateway-controller";
const DEFAULT_CONTROLLER: &str = "headgate.io/gateway";

/// Whether the process of a pod serves the Gateways of a controller.
pub(super) fn serves_gateways(pod: &Pod, controller: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let words = containers.flat_map(|one| one.command.iter().chain(&one.args).flatten());
    let words: Vec<&str> = words.map(String::as_str).collect();
    let value = words.iter().enumerate().find_map(|(index, word)| {
        let rest = word.strip_prefix(CONTROLLER)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(value),
            None if rest.is_empty() => words.get(index + 1).copied(),
            None => None,
        }
    });
    words.contains(&GATEWAYS) && value.unwrap_or(DEFAULT_CONTROLLER) == controller
}

/// Whether the process of a pod runs, or is going to.
pub(super) fn is_alive(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Why proxies serve no Gateway: none of their pods does.
pub(super) fn proxies_problem<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    selector: &str,
    controller: &str,
) -> Option<String> {
    let (all, lacking) = counted(pods, controller);
    (lacking.len() == all).then(|| problem("a proxy", &lacking, selector))
}

/// Why agents do not serve Gateways on every node: one of their pods does not. Any node may get a connection.
pub(super) fn agents_problem<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    selector: &str,
    controller: &str,
) -> Option<String> {
    let (all, lacking) = counted(pods, controller);
    (all == 0 || !lacking.is_empty()).then(|| problem("an agent", &lacking, selector))
}

/// The number of pods that run, and those of them that do not serve Gateways.
fn counted<'a>(pods: impl Iterator<Item = &'a Pod>, controller: &str) -> (usize, Vec<&'a Pod>) {
    let pods: Vec<&Pod> = pods.filter(|pod| is_alive(pod)).collect();
    let lacking = pods.iter().copied();
    let lacking = lacking.filter(|pod| !serves_gateways(pod, controller));
    (pods.len(), lacking.collect())
}

fn problem(what: &str, lacking: &[&Pod], selector: &str) -> String {
    if lacking.is_empty() {
        return format!("there is no pod of {what} ({selector})");
    }
    let named = lacking.iter().take(NAMED).map(|pod| pod.name_any());
    let named = named.collect::<Vec<_>>().join(", ");
    let rest = match lacking.len().saturating_sub(NAMED) {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("pods of {what} run without {GATEWAYS} for this controller: {named}{rest}")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, PodSpec};

    use super::*;

    fn pod(args: &[&str]) -> Pod {
        let container = Container {
            args: Some(args.iter().map(|text| (*text).to_owned()).collect()),
            ..Container::default()
        };
        Pod {
            spec: Some(PodSpec {
                containers: vec![container],
                ..PodSpec::default()
            }),
            ..Pod::default()
        }
    }

    #[test]
    fn flags_say_whose_gateways_are_served() {
        let ours = "headgate.io/gateway";
        let serves = |args: &[&str], controller| serves_gateways(&pod(args), controller);
        assert!(serves(&["agent", "--gateways"], ours));
        assert!(!serves(&["agent"], ours));
        assert!(!serves(
            &["agent", "--gateway-controller=a.example/b"],
            ours
        ));
        assert!(!serves(&["agent", "--gateways"], "a.example/b"));
        let args = ["agent", "--gateways", "--gateway-controller", "a.example/b"];
        assert!(serves(&args, "a.example/b"));
        assert!(!serves(&args, ours));
        let args = ["agent", "--gateway-controller=a.example/b", "--gateways"];
        assert!(serves(&args, "a.example/b"));
    }
}
