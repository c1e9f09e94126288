//! RoutePolicies, from manifests to responses.

use headgate_model::{NamespacedName, edge::GatewayPort};
use headgate_proxy::ExplainRequest;
use http::{HeaderMap, Method, Request, uri::PathAndQuery};

use crate::{client::get, manifests::Read, setup::Setup};

const SITE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: shop}
spec:
  gatewayClassName: headgate
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: main}]
  rules:
  - {name: staff, matches: [{path: {type: PathPrefix, value: /staff}}], backendRefs: [{name: web, port: 80}]}
  - {name: few, matches: [{path: {type: PathPrefix, value: /few}}], backendRefs: [{name: web, port: 80}]}
  - {name: far, matches: [{path: {type: PathPrefix, value: /far}}], backendRefs: [{name: web, port: 80}]}
  - {name: bad, matches: [{path: {type: PathPrefix, value: /bad}}], backendRefs: [{name: web, port: 80}]}
  - {name: old, matches: [{path: {type: RegularExpression, value: '/old/(.*)'}}], backendRefs: [{name: web, port: 80}]}
  - {backendRefs: [{name: web, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: users, namespace: shop}
stringData: {auth: 'anna:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ='}
";

/// A policy for a listener or a rule, named after that.
fn policy(kind: &str, name: &str, section: &str, settings: &str) -> String {
    format!(
        "---
apiVersion: headgate.io/v1alpha1
kind: RoutePolicy
metadata: {{name: for-{section}, namespace: shop}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}, sectionName: {section}}}]
  {settings}
"
    )
}

#[tokio::test]
async fn l190_policies_guard_the_routes_of_gateways() {
    let text = [
        SITE.to_owned(),
        policy(
            "Gateway",
            "main",
            "http",
            "maxBodySize: '4'\n  affinity: {cookie: {name: pin}}",
        ),
        policy(
            "HTTPRoute",
            "web",
            "staff",
            "authentication: {basic: {secret: users}}",
        ),
        policy(
            "HTTPRoute",
            "web",
            "few",
            "limits: {requestsPerMinute: 1, burstMultiplier: 1}",
        ),
        policy(
            "HTTPRoute",
            "web",
            "far",
            "sources: {allow: [192.0.2.0/24]}",
        ),
        policy(
            "HTTPRoute",
            "web",
            "bad",
            "authentication: {basic: {secret: gone}}",
        ),
        policy("HTTPRoute", "web", "old", "rewriteTarget: /new/$1"),
    ];
    let mut setup = Setup::new();
    setup.add_gateways(&Read::new(&text.concat()));
    setup.serve().await;
    let status = async |path: &str| setup.send(80, get("a.test", path)).await.status.as_u16();
    assert_eq!(status("/staff").await, 401);
    // anna:secret
    let known = get("a.test", "/staff").header("authorization", "Basic YW5uYTpzZWNyZXQ=");
    assert_eq!(setup.send(80, known).await.status, 200);
    assert_eq!(status("/far").await, 403);
    assert_eq!(status("/bad").await, 503);
    let mut few = Vec::new();
    for _ in 0..3 {
        few.push(status("/few").await);
    }
    assert_eq!(few, [200, 200, 503]);
    let rewritten = setup.send(80, get("a.test", "/old/a?b=c")).await.echo();
    assert_eq!(rewritten.target, "/new/a?b=c");
    // The policy of the listener holds for all of them.
    let plain = setup.send(80, get("a.test", "/")).await;
    let cookie = plain.header("set-cookie").unwrap();
    assert!(cookie.starts_with("pin="), "{cookie}");
    let large = Request::post("/").header("host", "a.test");
    let large = setup.send_body(80, large.body("12345".into()).unwrap());
    assert_eq!(large.await.unwrap().status, 413);
    // Operators see where it is from.
    let explained = setup.proxy.explain(&ExplainRequest {
        host: "a.test".into(),
        path: PathAndQuery::from_static("/bad"),
        method: Method::GET,
        headers: HeaderMap::new(),
        client: "192.0.2.7".parse().unwrap(),
        is_tls: false,
        gateway: Some(GatewayPort {
            gateway: NamespacedName::new("shop", "main"),
            port: 80,
        }),
    });
    let steps = explained.steps.join("\n");
    for part in [
        "settings of RoutePolicy shop/for-http: maxBodySize, affinity",
        "settings of RoutePolicy shop/for-bad: authentication",
        "closed: RoutePolicy shop/for-bad: spec.authentication.basic.secret: there is no Secret shop/gone",
    ] {
        assert!(steps.contains(part), "{part} is not in\n{steps}");
    }
}

/// A route with a limit at two Gateways, the second of which has two listeners.
const LIMITED: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.io/gateway}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main, namespace: shop}
spec:
  gatewayClassName: headgate
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: shop}
spec:
  gatewayClassName: headgate
  listeners: [{name: a, port: 81, protocol: HTTP}, {name: b, port: 82, protocol: HTTP}, {name: c, port: 83, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: main}, {name: other}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: headgate.io/v1alpha1
kind: RoutePolicy
metadata: {name: main, namespace: shop}
spec:
  targetRefs:
  - {group: gateway.networking.k8s.io, kind: Gateway, name: main}
  - {group: gateway.networking.k8s.io, kind: Gateway, name: other}
  limits: {requestsPerMinute: 1, burstMultiplier: 2}
---
apiVersion: headgate.io/v1alpha1
kind: RoutePolicy
metadata: {name: more, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: other, sectionName: c}]
  limits: {requestsPerMinute: 1, burstMultiplier: 1}
";

#[tokio::test]
async fn l199_each_gateway_counts_the_requests_of_a_route_alone() {
    let mut setup = Setup::new();
    setup.add_gateways(&Read::new(LIMITED));
    setup.serve().await;
    let status = async |port: u16| setup.send(port, get("a.test", "/")).await.status.as_u16();
    assert_eq!(
        [
            status(80).await,
            status(80).await,
            status(80).await,
            status(80).await
        ],
        [200, 200, 200, 503]
    );
    // The listeners of another Gateway have one budget of their own.
    assert_eq!(
        [
            status(81).await,
            status(82).await,
            status(81).await,
            status(82).await
        ],
        [200, 200, 200, 503]
    );
    // One with other limits counts alone.
    assert_eq!(
        [status(83).await, status(83).await, status(83).await],
        [200, 200, 503]
    );
    // A change of the route resets no count.
    let changed = LIMITED.replace("rules: [{", "rules: [{matches: [{path: {value: /}}], ");
    setup.add_gateways(&Read::new(&changed));
    setup.serve().await;
    for port in [80, 81, 82, 83] {
        assert_eq!(
            setup.send(port, get("a.test", "/")).await.status,
            503,
            "{port}"
        );
    }
}
