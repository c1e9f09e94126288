//! The settings of RoutePolicies. Each field has the meaning of an annotation of Ingresses, and is read by the same
//! function.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::Value;

use crate::{
    edge::{Auth, PathMatch, Route, Target, UpstreamPolicy},
    ingress::{Context, Given, Settings, read_given, with_cookie_path},
};

/// A setting: a field of `spec`, which one policy decides as a whole.
pub(super) struct Section {
    pub(super) name: &'static str,
    fields: &'static [PolicyField],
    apply: fn(&Values, &mut Route) -> Result<(), String>,
}

/// A field of a RoutePolicy with the meaning of an annotation.
#[derive(Clone, Copy, Debug)]
pub struct PolicyField {
    /// Its path in `spec`.
    pub path: &'static str,
    /// Name of the annotation.
    pub annotation: &'static str,
    /// The value of the annotation, if the field is an object that only has to be there.
    pub value: Option<&'static str>,
}

const fn field(path: &'static str, annotation: &'static str) -> PolicyField {
    PolicyField {
        path,
        annotation,
        value: None,
    }
}

const fn kind(path: &'static str, annotation: &'static str, value: &'static str) -> PolicyField {
    PolicyField {
        value: Some(value),
        ..field(path, annotation)
    }
}

/// All settings.
pub(super) const SECTIONS: &[Section] = &[
    Section {
        name: "sources",
        fields: &[
            field("sources.allow", "allowlist-source-range"),
            field("sources.deny", "denylist-source-range"),
        ],
        apply: |values, route| {
            policy(route).sources = values.settings.policy.sources.clone();
            Ok(())
        },
    },
    Section {
        name: "authentication",
        fields: &[
            kind("authentication.basic", "auth-type", "basic"),
            field("authentication.basic.secret", "auth-secret"),
            field("authentication.basic.format", "auth-secret-type"),
            field("authentication.basic.realm", "auth-realm"),
            kind("authentication.hmac", "auth-type", "hmac"),
            field("authentication.hmac.secret", "auth-secret"),
            field("authentication.hmac.leeway", "auth-leeway"),
            kind("authentication.apiKey", "auth-type", "api-key"),
            field("authentication.apiKey.secret", "auth-secret"),
            field("authentication.apiKey.header", "auth-key-header"),
            field("authentication.apiKey.query", "auth-key-query"),
            kind("authentication.jwt", "auth-type", "jwt"),
            field("authentication.jwt.secret", "auth-secret"),
            field("authentication.jwt.server", "auth-server"),
            field("authentication.jwt.issuer", "auth-issuer"),
            field("authentication.jwt.audiences", "auth-audience"),
            field("authentication.jwt.leeway", "auth-leeway"),
            field("authentication.jwt.claimHeaders", "auth-claim-headers"),
            kind("authentication.introspection", "auth-type", "introspection"),
            field("authentication.introspection.secret", "auth-secret"),
            field("authentication.introspection.server", "auth-server"),
            field("authentication.introspection.issuer", "auth-issuer"),
            field("authentication.introspection.audiences", "auth-audience"),
            field("authentication.introspection.scopes", "auth-scopes"),
            field("authentication.introspection.leeway", "auth-leeway"),
            field(
                "authentication.introspection.claimHeaders",
                "auth-claim-headers",
            ),
            kind("authentication.ldap", "auth-type", "ldap"),
            field("authentication.ldap.server", "auth-server"),
            field("authentication.ldap.starttls", "auth-ldap-starttls"),
            field("authentication.ldap.user", "auth-ldap-user"),
            field("authentication.ldap.base", "auth-ldap-base"),
            field("authentication.ldap.filter", "auth-ldap-filter"),
            field("authentication.ldap.secret", "auth-secret"),
            field("authentication.ldap.realm", "auth-realm"),
            kind("authentication.paseto", "auth-type", "paseto"),
            field("authentication.paseto.secret", "auth-secret"),
            field("authentication.paseto.issuer", "auth-issuer"),
            field("authentication.paseto.audiences", "auth-audience"),
            field("authentication.paseto.leeway", "auth-leeway"),
            field("authentication.paseto.claimHeaders", "auth-claim-headers"),
            kind("authentication.oidc", "auth-type", "oidc"),
            field("authentication.oidc.secret", "auth-secret"),
            field("authentication.oidc.issuer", "auth-issuer"),
            field("authentication.oidc.scopes", "auth-scopes"),
            field("authentication.oidc.callbackPath", "auth-callback-path"),
            field("authentication.oidc.logoutPath", "auth-logout-path"),
            field("authentication.oidc.claimHeaders", "auth-claim-headers"),
            field("authentication.caSecret", "auth-ca-secret"),
            field("authentication.external.url", "auth-url"),
            field("authentication.external.method", "auth-method"),
            field("authentication.external.signin", "auth-signin"),
            field(
                "authentication.external.signinParameter",
                "auth-signin-redirect-param",
            ),
            field(
                "authentication.external.responseHeaders",
                "auth-response-headers",
            ),
            field(
                "authentication.external.requestRedirect",
                "auth-request-redirect",
            ),
        ],
        apply: |values, route| {
            let auth = values.settings.policy.auth.clone();
            policy(route).auth = auth;
            Ok(())
        },
    },
    Section {
        name: "limits",
        fields: &[
            field("limits.requestsPerSecond", "limit-rps"),
            field("limits.requestsPerMinute", "limit-rpm"),
            field("limits.burstMultiplier", "limit-burst-multiplier"),
            field("limits.connections", "limit-connections"),
            field("limits.exempt", "limit-allowlist"),
        ],
        apply: |values, route| {
            let given = &values.settings.policy.limits;
            let limits = &mut policy(route).limits;
            limits.rates.clone_from(&given.rates);
            limits.concurrent = given.concurrent;
            limits.exempt.clone_from(&given.exempt);
            Ok(())
        },
    },
    Section {
        name: "maxBodySize",
        fields: &[field("maxBodySize", "proxy-body-size")],
        apply: |values, route| {
            policy(route).limits.body_bytes = values.settings.policy.limits.body_bytes;
            Ok(())
        },
    },
    Section {
        name: "affinity",
        fields: &[
            kind("affinity.cookie", "affinity", "cookie"),
            field("affinity.cookie.name", "session-cookie-name"),
            field("affinity.cookie.path", "session-cookie-path"),
            field("affinity.cookie.domain", "session-cookie-domain"),
            field("affinity.cookie.maxAgeSeconds", "session-cookie-max-age"),
            field("affinity.cookie.sameSite", "session-cookie-samesite"),
            field("affinity.cookie.secure", "session-cookie-secure"),
        ],
        apply: |values, route| {
            let given = with_cookie_path(&values.settings.upstream, &route.path);
            upstreams(route, |upstream| upstream.sticky.clone_from(&given.sticky));
            Ok(())
        },
    },
    Section {
        name: "loadBalancing",
        fields: &[
            field("loadBalancing.algorithm", "load-balance"),
            field("loadBalancing.hashBy", "upstream-hash-by"),
        ],
        apply: |values, route| {
            let given = &values.settings.upstream.balance;
            upstreams(route, |upstream| upstream.balance.clone_from(given));
            Ok(())
        },
    },
    Section {
        name: "healthCheck",
        fields: &[
            field("healthCheck.path", "health-check-path"),
            field("healthCheck.interval", "health-check-interval"),
            field("healthCheck.timeout", "health-check-timeout"),
        ],
        apply: |values, route| {
            let given = &values.settings.upstream.probe;
            upstreams(route, |upstream| upstream.probe.clone_from(given));
            Ok(())
        },
    },
    Section {
        name: "timeouts",
        fields: &[
            field("timeouts.connect", "proxy-connect-timeout"),
            field("timeouts.read", "proxy-read-timeout"),
            field("timeouts.send", "proxy-send-timeout"),
        ],
        apply: |values, route| {
            let given = values.settings.policy.timeouts;
            let timeouts = &mut policy(route).timeouts;
            if values.has("proxy-connect-timeout") {
                timeouts.connect = given.connect;
            }
            if values.has("proxy-read-timeout") {
                timeouts.read = given.read;
            }
            if values.has("proxy-send-timeout") {
                timeouts.send = given.send;
            }
            Ok(())
        },
    },
    Section {
        name: "retry",
        fields: &[
            field("retry.when", "proxy-next-upstream"),
            field("retry.tries", "proxy-next-upstream-tries"),
        ],
        apply: |values, route| {
            policy(route).retry = values.settings.policy.retry.clone();
            Ok(())
        },
    },
    Section {
        name: "rewriteTarget",
        fields: &[field("rewriteTarget", "rewrite-target")],
        apply: |values, route| {
            if matches!(route.path, PathMatch::Prefix(_)) {
                return Err("needs paths of type RegularExpression or Exact".into());
            }
            let rewrite = values.settings.policy.rewrite.clone();
            policy(route).rewrite = rewrite;
            Ok(())
        },
    },
    Section {
        name: "hsts",
        fields: &[field("hsts", "hsts")],
        apply: |values, route| {
            policy(route).hsts.clone_from(&values.settings.policy.hsts);
            Ok(())
        },
    },
    Section {
        name: "compress",
        fields: &[field("compress", "compress")],
        apply: |values, route| {
            policy(route).compress = values.settings.policy.compress;
            Ok(())
        },
    },
];

/// Returns the fields of settings, each with the annotation that has the same meaning. A field that only has to be
/// there has the value of the annotation as well.
pub fn policy_fields() -> impl Iterator<Item = PolicyField> {
    SECTIONS.iter().flat_map(|section| section.fields).copied()
}

/// The settings of a policy for one section.
#[derive(Debug)]
pub(super) struct Values {
    settings: Settings,
    /// Names of annotations whose meaning has a value.
    given: BTreeSet<&'static str>,
}

impl Values {
    fn has(&self, annotation: &str) -> bool {
        self.given.contains(annotation)
    }
}

impl Section {
    /// Reads what `spec` has for the section; `None` if it has nothing.
    ///
    /// # Errors
    ///
    /// The first field that is invalid, and the reason.
    pub(super) fn read(
        &self,
        spec: &Value,
        context: &Context<'_>,
    ) -> Option<Result<Values, String>> {
        spec.get(self.name).filter(|value| !value.is_null())?;
        Some(self.values(spec, context))
    }

    fn values(&self, spec: &Value, context: &Context<'_>) -> Result<Values, String> {
        let mut given = Vec::new();
        let mut names = BTreeSet::new();
        for field in self.fields {
            let (parent, _) = field.path.rsplit_once('.').unwrap_or_default();
            // Also of a field that is not set, for what is said about it.
            if !parent.is_empty() && at(spec, parent).is_none() {
                continue;
            }
            let path = format!("spec.{}", field.path);
            let value = at(spec, field.path);
            let text = match (value, field.value) {
                (None, _) => None,
                (Some(_), Some(text)) => Some(text.to_owned()),
                (Some(value), None) => {
                    let text = text(value, field.annotation);
                    Some(text.map_err(|reason| format!("{path}: {reason}"))?)
                }
            };
            if text.is_some() && !names.insert(field.annotation) {
                let reason = "only one of the ways of authentication can be given besides external";
                return Err(format!("{path}: {reason}"));
            }
            if text.is_some() || !names.contains(field.annotation) {
                given.push(Given {
                    name: field.annotation,
                    field: path,
                    text,
                });
            }
        }
        if names.is_empty() {
            return Err(format!("spec.{}: is empty", self.name));
        }
        let settings = read_given(context, given)?;
        if self.name == "authentication" && settings.policy.auth.is_empty() {
            return Err("spec.authentication: requires nothing".into());
        }
        let has_host = |auth: &Auth| {
            let Auth::External(external) = auth else {
                return false;
            };
            external.url.authority().variables().next().is_some()
        };
        if settings.policy.auth.iter().any(has_host) {
            // The client would choose the service that checks it.
            let reason = "$host cannot be before the path";
            return Err(format!("spec.authentication.external.url: {reason}"));
        }
        Ok(Values {
            settings,
            given: names,
        })
    }

    /// Applies the section to a route.
    ///
    /// # Errors
    ///
    /// Why the route cannot have it.
    pub(super) fn apply(&self, values: &Values, route: &mut Route) -> Result<(), String> {
        (self.apply)(values, route).map_err(|reason| format!("spec.{}: {reason}", self.name))
    }
}

fn policy(route: &mut Route) -> &mut crate::edge::Policy {
    Arc::make_mut(&mut route.policy)
}

/// Changes how requests are sent to the backends of a route.
fn upstreams(route: &mut Route, change: impl Fn(&mut UpstreamPolicy)) {
    for weighted in &mut route.targets {
        if let Target::Upstream(key) = &mut weighted.target {
            change(Arc::make_mut(&mut key.policy));
        }
    }
}

/// The value at a path; `null` counts as absent.
fn at<'a>(spec: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = spec;
    for name in path.split('.') {
        value = value.get(name)?;
    }
    (!value.is_null()).then_some(value)
}

/// A value as the text of an annotation.
fn text(value: &Value, annotation: &str) -> Result<String, String> {
    // The separator would make two items of one.
    let separator = match annotation {
        "proxy-next-upstream" => " ",
        _ => ",",
    };
    let item = |value: &Value| match value {
        Value::String(text) if text.contains(separator) => {
            Err(format!("`{text}` has `{separator}`"))
        }
        Value::String(text) => Ok(text.clone()),
        other => Err(format!("{other} is not a text")),
    };
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(values) => {
            let items: Vec<String> = values.iter().map(item).collect::<Result<_, _>>()?;
            Ok(items.join(separator))
        }
        Value::Object(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| {
                if key.contains(['=', ',']) {
                    return Err(format!("`{key}` has `=` or `,`"));
                }
                Ok(format!("{key}={}", item(value)?))
            });
            let pairs: Vec<String> = pairs.collect::<Result<_, _>>()?;
            Ok(pairs.join(separator))
        }
        other => Ok(other.to_string()),
    }
}
