//! Guards that are not read: annotations of other controllers.

use super::OWN;

/// A controller other than ingress-nginx.
#[derive(Debug)]
pub struct Controller {
    /// Its name.
    pub name: &'static str,
    /// What its annotations begin with.
    pub prefixes: &'static [&'static str],
    /// What the names of its guards begin with, after the prefix.
    guards: &'static [&'static str],
}

/// Other controllers whose annotations are known.
const CONTROLLERS: &[Controller] = &[
    Controller {
        name: "Traefik",
        prefixes: &["traefik.ingress.kubernetes.io/"],
        guards: &[
            "router.middlewares",
            "router.tls.options",
            "auth",
            "whitelist",
        ],
    },
    Controller {
        name: "Kong",
        prefixes: &[
            "konghq.com/",
            "configuration.konghq.com",
            "plugins.konghq.com",
        ],
        guards: &["plugins", ""],
    },
    Controller {
        name: "HAProxy",
        prefixes: &["haproxy.org/", "haproxy.com/"],
        guards: &[
            "allow-list",
            "deny-list",
            "whitelist",
            "blacklist",
            "auth",
            "client-ca",
            "rate-limit",
            "src-ip-header",
            "request-capture",
            "backend-config-snippet",
            "frontend-config-snippet",
        ],
    },
    Controller {
        name: "HAProxy Ingress",
        prefixes: &["haproxy-ingress.github.io/"],
        guards: &[
            "allowlist",
            "denylist",
            "whitelist",
            "auth",
            "oauth",
            "limit-",
            "waf",
            "config-",
        ],
    },
    Controller {
        name: "NGINX Ingress Controller of F5",
        prefixes: &["nginx.org/", "nginx.com/"],
        guards: &[
            "basic-auth",
            "jwt",
            "policies",
            "limit-req",
            "server-snippets",
            "location-snippets",
            "rate-limiting",
        ],
    },
    Controller {
        name: "AWS Load Balancer Controller",
        prefixes: &["alb.ingress.kubernetes.io/"],
        guards: &[
            "auth",
            "inbound-cidrs",
            "waf",
            "mutual-authentication",
            "shield",
        ],
    },
    Controller {
        name: "Azure Application Gateway",
        prefixes: &["appgw.ingress.kubernetes.io/"],
        guards: &["waf-policy", "use-private-ip"],
    },
    Controller {
        name: "Google Cloud",
        prefixes: &[
            "networking.gke.io/",
            "cloud.google.com/",
            "ingress.gcp.kubernetes.io/",
        ],
        guards: &["v1beta1.FrontendConfig", "armor"],
    },
    Controller {
        name: "APISIX",
        prefixes: &["k8s.apisix.apache.org/"],
        guards: &[
            "auth",
            "allowlist",
            "blocklist",
            "plugin-config",
            "http-allow",
            "http-block",
            "csrf",
        ],
    },
    Controller {
        name: "Skipper",
        prefixes: &["zalando.org/"],
        guards: &["skipper-filter", "skipper-predicate", "ratelimit"],
    },
    Controller {
        name: "Contour",
        prefixes: &["projectcontour.io/", "contour.heptio.com/"],
        guards: &[],
    },
    Controller {
        name: "Istio",
        prefixes: &["istio.io/"],
        guards: &[],
    },
    Controller {
        name: "a controller of an older Ingress API",
        prefixes: &["ingress.kubernetes.io/"],
        guards: &[
            "auth",
            "allowlist",
            "whitelist",
            "denylist",
            "blacklist",
            "limit-",
        ],
    },
];

/// Returns the controller that an annotation is of, and whether it is a guard of it. `None` for those of
/// ingress-nginx, of Headgate and of what is no controller.
pub fn other_controller(key: &str) -> Option<(&'static Controller, bool)> {
    if key.starts_with(OWN) {
        return None;
    }
    CONTROLLERS.iter().find_map(|controller| {
        let mut prefixes = controller.prefixes.iter();
        let name = prefixes.find_map(|prefix| key.strip_prefix(prefix))?;
        let mut guards = controller.guards.iter();
        let is_guard = guards.any(|start| match start.is_empty() {
            true => name.is_empty(),
            false => name.starts_with(start),
        });
        Some((controller, is_guard))
    })
}
