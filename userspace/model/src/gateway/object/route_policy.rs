//! RoutePolicies (`headgate.io/v1alpha1`): what Headgate does with requests of routes beyond the Gateway API.

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::GROUP;

/// The API group of RoutePolicies.
pub const POLICY_GROUP: &str = "headgate.io";

/// Defines a part of a RoutePolicy. A field that it does not have is an error.
macro_rules! part {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }
    };
}

part! {
    /// Settings for requests of routes. Of the settings for a request, each one is from the most specific policy that
    /// has it: for the rule, the route, the listener, the Gateway.
    RoutePolicySpec {
        /// Routes that the policy is for, in its namespace.
        #[schemars(length(min = 1, max = 16))]
        target_refs: Vec<RoutePolicyTarget>,
        /// Clients by address; others get 403.
        sources: Option<SourcesPolicy>,
        /// What requests must prove: that of `external`, and one of the others.
        authentication: Option<AuthenticationPolicy>,
        /// Limits of each client address, on each node and for each rule; further requests get 503.
        limits: Option<LimitsPolicy>,
        /// Largest body of a request, such as `8m`; larger ones get 413. `0` for no limit.
        max_body_size: Option<String>,
        /// Pins clients to endpoints.
        affinity: Option<AffinityPolicy>,
        /// How endpoints are chosen.
        load_balancing: Option<LoadBalancingPolicy>,
        /// Health checks of endpoints, by each node.
        health_check: Option<HealthCheckPolicy>,
        /// Timeouts of endpoints, such as `5s`.
        timeouts: Option<TimeoutsPolicy>,
        /// When another endpoint is tried.
        retry: Option<RetryPolicy>,
        /// Path that endpoints get, perhaps with a query; or an address that clients are redirected to. `$1` to `$9`
        /// are groups of the path, which must be of type RegularExpression.
        rewrite_target: Option<String>,
        /// `Strict-Transport-Security` of responses over HTTPS.
        hsts: Option<String>,
        /// Whether responses are compressed for clients that accept it.
        compress: Option<bool>,
    }
}

part! {
    /// What a policy is for.
    #[derive(PartialOrd, Ord)]
    RoutePolicyTarget {
        /// `gateway.networking.k8s.io`.
        #[schemars(extend("enum" = [GROUP]))]
        group: String,
        /// Kind.
        kind: TargetKind,
        /// Name.
        name: String,
        /// Name of a listener of the Gateway, or of a rule of the route; all if not given.
        section_name: Option<String>,
    }
}

/// Kinds that policies are for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
pub enum TargetKind {
    /// All HTTPRoutes and GRPCRoutes of a Gateway.
    Gateway,
    /// An HTTPRoute.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// A GRPCRoute.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
}

impl TargetKind {
    /// Returns the kind as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
        }
    }
}

impl fmt::Display for RoutePolicyTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind.as_str(), self.name)?;
        match (&self.section_name, self.kind) {
            (Some(section), TargetKind::Gateway) => write!(out, " listener {section}"),
            (Some(section), _) => write!(out, " rule {section}"),
            (None, _) => Ok(()),
        }
    }
}

part! {
    /// Clients by address.
    SourcesPolicy {
        /// Networks whose clients are admitted; all if not given.
        allow: Option<Vec<String>>,
        /// Networks whose clients are rejected, even if `allow` has them.
        deny: Option<Vec<String>>,
    }
}

part! {
    /// Proofs. Secrets are in the namespace of the policy.
    AuthenticationPolicy {
        /// Name and password (RFC 7617).
        basic: Option<BasicAuth>,
        /// Signatures with shared secrets (`draft-cavage-http-signatures`).
        hmac: Option<HmacAuth>,
        /// API keys.
        api_key: Option<ApiKeyAuth>,
        /// JSON Web Tokens (RFC 7519).
        jwt: Option<JwtAuth>,
        /// Tokens that their issuer reports as active (RFC 7662).
        introspection: Option<IntrospectionAuth>,
        /// Name and password that a directory accepts (RFC 4513).
        ldap: Option<LdapAuth>,
        /// PASETO of version 4.
        paseto: Option<PasetoAuth>,
        /// Log-in at an OpenID provider.
        oidc: Option<OidcAuth>,
        /// The decision of another service.
        external: Option<ExternalAuthPolicy>,
        /// Secret whose `ca.crt` verifies the servers that are asked, instead of the system's authorities.
        ca_secret: Option<String>,
    }
}

part! {
    /// Name and password.
    BasicAuth {
        /// Secret with the users.
        secret: String,
        /// `auth-file`: key `auth` of the Secret is an `htpasswd` file (default); `auth-map`: each key is a user.
        #[schemars(extend("enum" = ["auth-file", "auth-map"]))]
        format: Option<String>,
        /// Realm that is shown to users at log-in.
        realm: Option<String>,
    }
}

part! {
    /// Signatures with shared secrets.
    HmacAuth {
        /// Secret with a shared secret for each user.
        secret: String,
        /// Allowed difference between `Date` and now; `300s` if not given.
        leeway: Option<String>,
    }
}

part! {
    /// API keys.
    ApiKeyAuth {
        /// Secret with a key for each consumer.
        secret: String,
        /// Header with the key; `X-API-Key` if not given.
        header: Option<String>,
        /// Query parameter that may have the key instead.
        query: Option<String>,
    }
}

part! {
    /// JSON Web Tokens.
    JwtAuth {
        /// Secret with `secret`, or `public.pem`.
        secret: Option<String>,
        /// Address of the key set, instead of `secret`.
        server: Option<String>,
        /// Required issuer.
        issuer: Option<String>,
        /// Accepted audiences; any if not given.
        audiences: Option<Vec<String>>,
        /// Allowed difference of clocks; `60s` if not given.
        leeway: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// Tokens that their issuer reports as active.
    IntrospectionAuth {
        /// Secret with `client-id` and `client-secret`.
        secret: String,
        /// Address of the introspection endpoint.
        server: String,
        /// Required issuer.
        issuer: Option<String>,
        /// Accepted audiences; any if not given.
        audiences: Option<Vec<String>>,
        /// Required scopes.
        scopes: Option<Vec<String>>,
        /// Allowed difference of clocks; `60s` if not given.
        leeway: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// Name and password that a directory accepts.
    LdapAuth {
        /// Address: `ldap://` or `ldaps://`.
        server: String,
        /// STARTTLS over `ldap://`.
        starttls: Option<bool>,
        /// DN of a user's entry, with `{user}`.
        user: Option<String>,
        /// Base DN of the search for users, instead of `user`.
        base: Option<String>,
        /// Filter of the search; `(uid={user})` if not given.
        filter: Option<String>,
        /// Secret with `bind-dn` and `bind-password` for the search.
        secret: Option<String>,
        /// Realm that is shown to users at log-in.
        realm: Option<String>,
    }
}

part! {
    /// PASETO of version 4.
    PasetoAuth {
        /// Secret with `public`, or `local`.
        secret: String,
        /// Required issuer.
        issuer: Option<String>,
        /// Accepted audiences; any if not given.
        audiences: Option<Vec<String>>,
        /// Allowed difference of clocks; `60s` if not given.
        leeway: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// Log-in at an OpenID provider.
    OidcAuth {
        /// Secret with `client-id`, `client-secret` and `cookie-key` (at least 32 bytes).
        secret: String,
        /// Address of the provider.
        issuer: String,
        /// Requested scopes.
        scopes: Option<Vec<String>>,
        /// Path that users return to after log-in; `/oauth2/callback` if not given.
        callback_path: Option<String>,
        /// Path that logs users out; `/oauth2/logout` if not given.
        logout_path: Option<String>,
        /// Headers for backends by the claim that they are set from.
        claim_headers: Option<BTreeMap<String, String>>,
    }
}

part! {
    /// A service that checks each request.
    ExternalAuthPolicy {
        /// Address; 2xx admits a request, 401 and 403 reject it. Path and query may have variables of nginx.
        url: String,
        /// Method of the request to it; GET if not given.
        method: Option<String>,
        /// Address that clients are redirected to (302) if it answers 401.
        signin: Option<String>,
        /// Query parameter of `signin` with the address to return to; `rd` if not given.
        signin_parameter: Option<String>,
        /// Headers of its response that backends get.
        response_headers: Option<Vec<String>>,
        /// Value of `X-Auth-Request-Redirect` in the request to it.
        request_redirect: Option<String>,
    }
}

part! {
    /// Limits of each client address.
    LimitsPolicy {
        /// Requests per second.
        #[schemars(range(min = 1))]
        requests_per_second: Option<u32>,
        /// Requests per minute.
        #[schemars(range(min = 1))]
        requests_per_minute: Option<u32>,
        /// Requests that may come at once beyond the first, as a multiple of the rate; 5 if not given.
        #[schemars(range(min = 1))]
        burst_multiplier: Option<u32>,
        /// Concurrent requests.
        #[schemars(range(min = 1))]
        connections: Option<u32>,
        /// Networks whose clients are not limited.
        exempt: Option<Vec<String>>,
    }
}

part! {
    /// Pins clients to endpoints.
    AffinityPolicy {
        /// A cookie that names the endpoint.
        cookie: CookieAffinity,
    }
}

part! {
    /// A cookie that names an endpoint.
    CookieAffinity {
        /// Name; `INGRESSCOOKIE` if not given.
        name: Option<String>,
        /// Path; that of the match if not given.
        path: Option<String>,
        /// Domain.
        domain: Option<String>,
        /// Lifetime in seconds; until the browser is closed if not given.
        max_age_seconds: Option<u32>,
        /// `SameSite`.
        #[schemars(extend("enum" = ["Strict", "Lax", "None"]))]
        same_site: Option<String>,
        /// Whether it is sent over HTTPS only.
        secure: Option<bool>,
    }
}

part! {
    /// How endpoints are chosen.
    LoadBalancingPolicy {
        /// `round_robin`, `least_conn`, `random`, `ewma` or `ip_hash`.
        #[schemars(extend("enum" = ["round_robin", "least_conn", "random", "ewma", "ip_hash"]))]
        algorithm: Option<String>,
        /// Requests with the same values go to the same endpoint: variables such as `$remote_addr`.
        hash_by: Option<String>,
    }
}

part! {
    /// Health checks.
    HealthCheckPolicy {
        /// Path; a status below 400 is healthy.
        path: String,
        /// Interval; `10s` if not given.
        interval: Option<String>,
        /// Timeout; `2s` if not given.
        timeout: Option<String>,
    }
}

part! {
    /// Timeouts of endpoints.
    TimeoutsPolicy {
        /// For a connection.
        connect: Option<String>,
        /// Between two reads.
        read: Option<String>,
        /// Between two writes.
        send: Option<String>,
    }
}

part! {
    /// When another endpoint is tried.
    RetryPolicy {
        /// `error`, `timeout`, `http_502` and other codes, `non_idempotent`, or `off`.
        when: Vec<String>,
        /// Total number of endpoints that are tried; 3 if not given.
        #[schemars(range(min = 1))]
        tries: Option<u32>,
    }
}

/// `spec` of a RoutePolicy as it was read. One that cannot be understood is kept, because it closes what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutePolicyDocument {
    /// Targets that can be understood.
    pub targets: Vec<RoutePolicyTarget>,
    /// Settings, or why they cannot be understood.
    pub spec: Result<RoutePolicySpec, String>,
}

impl<'de> Deserialize<'de> for RoutePolicyDocument {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let targets = value.get("targetRefs").and_then(Value::as_array);
        let targets = targets.into_iter().flatten().filter_map(|target| {
            // Unknown fields do not matter: the target is named.
            let text = |field: &str| Some(target.get(field)?.as_str()?.to_owned());
            Some(RoutePolicyTarget {
                group: text("group")?,
                kind: TargetKind::deserialize(target.get("kind")?).ok()?,
                name: text("name")?,
                section_name: text("sectionName").filter(|name| !name.is_empty()),
            })
        });
        Ok(Self {
            targets: targets.collect(),
            spec: RoutePolicySpec::deserialize(value).map_err(|error| format!("spec: {error}")),
        })
    }
}

/// Returns the CustomResourceDefinition of RoutePolicies, made from their type.
pub fn route_policy_crd() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let spec = settings
        .into_generator()
        .into_root_schema_for::<RoutePolicySpec>();
    let mut spec = Schema::to_value(spec);
    make_structural(&mut spec);
    let condition = json!({
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {"type": "string"},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "format": "int64"},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "reason": {"type": "string"},
            "message": {"type": "string"},
        },
    });
    let texts = ["group", "kind", "namespace", "name", "sectionName"];
    let texts = texts.map(|name| (name.to_owned(), json!({"type": "string"})));
    let mut reference: serde_json::Map<String, Value> = texts.into_iter().collect();
    reference.insert("port".into(), json!({"type": "integer", "format": "int32"}));
    let status = json!({
        "type": "object",
        "description": "By Gateway: whether the policy is served.",
        "properties": {"ancestors": {"type": "array", "maxItems": 16, "items": {
            "type": "object",
            "required": ["ancestorRef", "controllerName"],
            "properties": {
                "ancestorRef": {"type": "object", "required": ["name"], "properties": reference},
                "controllerName": {"type": "string"},
                "conditions": {
                    "type": "array",
                    "items": condition,
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                },
            },
        }}},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "routepolicies.headgate.io",
            "labels": {"gateway.networking.k8s.io/policy": "Inherited"},
        },
        "spec": {
            "group": POLICY_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "RoutePolicy",
                "listKind": "RoutePolicyList",
                "plural": "routepolicies",
                "singular": "routepolicy",
                "categories": ["gateway-api"],
            },
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{
                    "name": "Age",
                    "type": "date",
                    "jsonPath": ".metadata.creationTimestamp",
                }],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "Access rules and other settings for requests of routes.",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                        "status": status,
                    },
                }},
            }],
        },
    })
}

/// Makes a JSON schema structural, as definitions of custom resources need it. The API server keeps unknown fields:
/// if it removed one, a policy would be served without the guard that the field asks for.
fn make_structural(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    fields.remove("title");
    let is_null = |one: &Value| one.is_null() || one.get("type") == Some(&json!("null"));
    // An optional field may be absent; `null` is the same.
    if let Some(Value::Array(types)) = fields.get("type") {
        let mut types = types.iter().filter(|one| **one != json!("null"));
        let type_ = types.next().cloned().unwrap_or_default();
        fields.insert("type".into(), type_);
    }
    if let Some(Value::Array(mut all)) = fields.remove("anyOf") {
        all.retain(|one| !is_null(one));
        if let Some(Value::Object(one)) = all.pop() {
            for (key, value) in one {
                fields.entry(key).or_insert(value);
            }
            fields.remove("title");
        }
    }
    if let Some(Value::Array(all)) = fields.remove("oneOf") {
        let values = all.iter().filter_map(|one| one.get("const").cloned());
        let values: Vec<Value> = values.collect();
        fields.insert("type".into(), json!("string"));
        fields.insert("enum".into(), values.into());
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if fields.get("format") == Some(&json!("uint32")) {
        fields.insert("format".into(), json!("int64"));
        fields.insert("maximum".into(), json!(u32::MAX));
    }
    if fields.contains_key("properties") {
        fields.remove("additionalProperties");
        fields.insert("x-kubernetes-preserve-unknown-fields".into(), json!(true));
    }
    for key in ["items", "additionalProperties"] {
        fields.get_mut(key).into_iter().for_each(make_structural);
    }
    let properties = fields.get_mut("properties").and_then(Value::as_object_mut);
    for (_, schema) in properties.into_iter().flatten() {
        make_structural(schema);
    }
}
