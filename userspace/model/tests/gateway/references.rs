use headgate_model::gateway::{Referent, Referrer, permits};

use crate::build::{cluster, name};

#[test]
fn g57_a_grant_lets_any_of_its_sources_refer_to_any_of_its_targets() {
    let cluster = cluster(
        "
kind: ReferenceGrant
metadata: {name: a, namespace: team}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}
  - {group: gateway.networking.k8s.io, kind: Gateway, namespace: other}
  to:
  - {group: '', kind: Service, name: web}
  - {group: '', kind: Secret}
---
kind: ReferenceGrant
metadata: {name: b, namespace: shop}
spec:
  from: [{group: '', kind: HTTPRoute, namespace: default}]
  to: [{group: '', kind: Service}]
",
    );
    const GROUP: &str = "gateway.networking.k8s.io";
    for (group, kind, namespace, to, target, expected) in [
        (GROUP, "HTTPRoute", "default", "Service", "team/web", true),
        (GROUP, "HTTPRoute", "default", "Secret", "team/any", true),
        (GROUP, "Gateway", "other", "Service", "team/web", true),
        (GROUP, "HTTPRoute", "default", "Service", "team/api", false),
        (
            GROUP,
            "HTTPRoute",
            "default",
            "ConfigMap",
            "team/web",
            false,
        ),
        (GROUP, "HTTPRoute", "other", "Service", "team/web", false),
        (GROUP, "Gateway", "default", "Service", "team/web", false),
        (GROUP, "GRPCRoute", "default", "Service", "team/web", false),
        // The group of the source is not that of the route.
        (GROUP, "HTTPRoute", "default", "Service", "shop/web", false),
        // The grant is in another namespace than the target.
        (GROUP, "HTTPRoute", "default", "Service", "tea/web", false),
        (GROUP, "HTTPRoute", "default", "Service", "teams/web", false),
        // No grant is needed in one namespace.
        (GROUP, "GRPCRoute", "shop", "Service", "shop/web", true),
    ] {
        let from = Referrer {
            group,
            kind,
            namespace,
        };
        let name = name(target);
        let to = Referent {
            group: "",
            kind: to,
            name: &name,
        };
        let permitted = permits(&cluster.objects.grants, from, to);
        assert_eq!(permitted, expected, "{from:?} {to:?}");
    }
}
