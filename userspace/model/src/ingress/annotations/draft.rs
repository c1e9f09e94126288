//! The values of annotations, one by one, and the settings that they make together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ipnet::IpNet;

use crate::NamespacedName;

use super::super::{IngressPath, reach};
use crate::edge::{
    Balance, CanaryRule, Condition, Cors, CorsList, CorsOrigin, CorsOrigins, HashBy, Limits,
    Pattern, Policy, Probe, Rate, Redirect, Secret, Sticky, Template, Text, Trust, UpstreamPolicy,
    UpstreamProtocol,
};

use super::auth_draft::AuthDraft;

/// `Access-Control-Max-Age` of ingress-nginx: 20 days.
const CORS_MAX_AGE_S: u32 = 1_728_000;
const CORS_METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const CORS_HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,\
                            Cache-Control,Content-Type,Range,Authorization";
/// `limit-burst-multiplier` of ingress-nginx.
const BURST: u32 = 5;
const STICKY_COOKIE: &str = "INGRESSCOOKIE";

/// The values of annotations so far.
#[derive(Debug, Default)]
pub(in super::super) struct Draft {
    /// The fields that have the values, by the name of the annotation.
    pub(super) fields: BTreeMap<&'static str, String>,
    pub(super) policy: Policy,
    pub(super) upstream: UpstreamPolicy,
    pub(super) ssl_redirect: Option<bool>,
    pub(super) force_ssl_redirect: bool,
    pub(super) permanent_redirect: Option<Template>,
    pub(super) permanent_code: Option<u16>,
    pub(super) temporal_redirect: Option<Template>,
    pub(super) temporal_code: Option<u16>,
    pub(super) www_redirect: bool,
    pub(super) use_regex: bool,
    /// `rewrite-target` as it was written.
    pub(super) rewrite_target: Option<String>,
    pub(super) aliases: Vec<String>,
    pub(super) allow: Option<Vec<IpNet>>,
    pub(super) whitelist: Option<Vec<IpNet>>,
    pub(super) exempt: Option<Vec<IpNet>>,
    pub(super) per_second: Option<u32>,
    pub(super) per_minute: Option<u32>,
    pub(super) burst: Option<u32>,
    pub(super) cors: CorsDraft,
    pub(super) is_canary: bool,
    pub(super) canary_weight: Option<u32>,
    pub(super) canary_total: Option<u32>,
    pub(super) canary_header: Option<String>,
    pub(super) canary_value: Option<Text>,
    pub(super) canary_cookie: Option<String>,
    pub(super) conditions: Vec<Condition>,
    pub(super) passthrough: bool,
    pub(super) mirror: Option<(String, u16)>,
    pub(super) mirror_percent: Option<u8>,
    pub(super) error_codes: Option<Vec<u16>>,
    pub(super) error_backend: Option<String>,
    pub(super) cookie: CookieDraft,
    pub(super) hash: Option<HashBy>,
    pub(super) tls_secret: Option<(Option<String>, String)>,
    pub(super) tls_verify: bool,
    pub(super) tls_name: Option<String>,
    pub(super) auth: AuthDraft,
    pub(super) probe_path: Option<String>,
    pub(super) probe_interval: Option<Duration>,
    pub(super) probe_timeout: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct CorsDraft {
    pub(super) is_on: bool,
    pub(super) origins: Vec<CorsOrigin>,
    pub(super) methods: Option<String>,
    pub(super) headers: Option<String>,
    pub(super) expose: Option<String>,
    pub(super) credentials: Option<bool>,
    pub(super) max_age_s: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct CookieDraft {
    pub(super) is_on: bool,
    pub(super) name: Option<String>,
    pub(super) path: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) max_age_s: Option<u32>,
    pub(super) expires_s: Option<u32>,
    pub(super) same_site: Option<String>,
    pub(super) secure: bool,
}

/// Objects that values may refer to.
pub(crate) struct Context<'a> {
    pub(crate) secrets: &'a BTreeMap<NamespacedName, Secret>,
    /// Namespace of the object that has the values.
    pub(crate) namespace: &'a str,
    /// Networks of the node that authentication services may be in.
    pub(crate) auth_local: &'a [IpNet],
}

/// The settings of an Ingress, or of another object whose fields have the same meaning.
#[derive(Debug)]
pub(crate) struct Settings {
    fields: BTreeMap<&'static str, String>,
    pub(crate) policy: Policy,
    pub(crate) upstream: Arc<UpstreamPolicy>,
    /// Whether HTTP is redirected if the host has a certificate.
    pub(in super::super) ssl_redirect: bool,
    pub(in super::super) force_ssl_redirect: bool,
    pub(in super::super) www_redirect: bool,
    pub(in super::super) use_regex: bool,
    /// `rewrite-target` as it was written, even if it is invalid.
    pub(in super::super) rewrite_target: Option<String>,
    pub(in super::super) aliases: Vec<String>,
    pub(in super::super) canary: Option<Vec<CanaryRule>>,
    pub(in super::super) conditions: Vec<Condition>,
    pub(in super::super) passthrough: bool,
    /// Status codes, and the Service with pages for them.
    pub(in super::super) error_pages: Option<(Vec<u16>, String)>,
    /// Service, port and percentage of requests that are copied.
    pub(in super::super) mirror: Option<(String, u16, u8)>,
}

impl Settings {
    /// Whether a path is rewritten. One that is equal to `rewrite-target` is not, as in ingress-nginx.
    pub(in super::super) fn rewrites(&self, path: &IngressPath) -> bool {
        let target = self.rewrite_target.as_deref();
        target.is_some_and(|target| target != path.path)
    }

    /// The field of an annotation, with the prefix that the Ingress uses.
    pub(in super::super) fn field(&self, name: &str) -> String {
        field(&self.fields, name)
    }
}

fn field(fields: &BTreeMap<&'static str, String>, name: &str) -> String {
    let field = fields.get(name).cloned();
    field.unwrap_or_else(|| super::field(name))
}

impl Draft {
    /// Rejects every request from now on.
    pub(super) fn close(&mut self, reason: String) {
        self.policy.closed.get_or_insert(reason);
    }

    /// Combines the values. Calls `complain` with each invalid field and the reason.
    pub(in super::super) fn finish(
        mut self,
        context: &Context<'_>,
        complain: &mut dyn FnMut(String, String),
    ) -> Settings {
        if let Err((name, reason)) = self.finish_requests() {
            complain(field(&self.fields, name), reason);
        }
        if let Err((name, reason)) = self.finish_upstream_tls(context) {
            // A backend that cannot be verified is not trusted.
            self.close(format!("{name}: {reason}"));
            complain(field(&self.fields, name), reason);
        }
        self.finish_upstream();
        if self.error_codes.is_some() && self.error_backend.is_none() {
            let name = "custom-http-errors";
            complain(field(&self.fields, name), "needs default-backend".into());
        }
        self.finish_auth(context, complain);
        let percent = self.mirror_percent.unwrap_or(100);
        Settings {
            ssl_redirect: self.ssl_redirect.unwrap_or(true),
            force_ssl_redirect: self.force_ssl_redirect,
            www_redirect: self.www_redirect,
            use_regex: self.use_regex,
            canary: self.is_canary.then(|| self.canary_rules()),
            rewrite_target: self.rewrite_target,
            aliases: self.aliases,
            conditions: self.conditions,
            passthrough: self.passthrough,
            error_pages: self
                .error_backend
                .map(|service| (self.error_codes.unwrap_or_default(), service)),
            mirror: self.mirror.map(|(service, port)| (service, port, percent)),
            policy: self.policy,
            upstream: Arc::new(self.upstream),
            fields: self.fields,
        }
    }

    /// Returns the name of an annotation that has no effect, with the reason, as error.
    fn finish_requests(&mut self) -> Result<(), (&'static str, String)> {
        let permanent = (self.permanent_redirect.take(), self.permanent_code, 301);
        let temporal = (self.temporal_redirect.take(), self.temporal_code, 302);
        // A temporary redirect wins, as in ingress-nginx.
        let redirects = [temporal, permanent].into_iter();
        self.policy.redirect = redirects
            .filter_map(|(location, code, default)| {
                Some(Redirect::Location {
                    location: location?,
                    code: code.unwrap_or(default),
                })
            })
            .next();
        self.policy.sources.allow = self.allow.take().or(self.whitelist.take());
        self.policy.limits = Limits {
            rates: self.rates(),
            ..std::mem::take(&mut self.policy.limits)
        };
        if let Some(exempt) = self.exempt.take() {
            self.policy.limits.exempt = exempt;
        }
        let cors = std::mem::take(&mut self.cors);
        let is_for_all = cors.origins.is_empty();
        self.policy.cors = cors.is_on.then(|| Cors {
            origins: match is_for_all {
                true => CorsOrigins::All,
                false => CorsOrigins::Listed(cors.origins),
            },
            methods: CorsList::Listed(cors.methods.unwrap_or_else(|| CORS_METHODS.into())),
            headers: CorsList::Listed(cors.headers.unwrap_or_else(|| CORS_HEADERS.into())),
            expose: cors.expose,
            // Otherwise every page could read what the client's cookies protect.
            credentials: !is_for_all && cors.credentials.unwrap_or(true),
            max_age_s: cors.max_age_s.unwrap_or(CORS_MAX_AGE_S),
        });
        match cors.is_on && is_for_all && cors.credentials == Some(true) {
            true => Err((
                "cors-allow-credentials",
                "needs origins in cors-allow-origin: browsers reject credentials for every origin"
                    .into(),
            )),
            false => Ok(()),
        }
    }

    fn finish_auth(&mut self, context: &Context<'_>, complain: &mut dyn FnMut(String, String)) {
        let made = std::mem::take(&mut self.auth).finish(context);
        let checked = made.and_then(|made| {
            let mut each = made.iter();
            each.try_for_each(|one| reach::check(one, context.auth_local))?;
            Ok(made)
        });
        match checked {
            Ok(auth) => self.policy.auth = auth,
            Err((name, reason)) => {
                self.close(format!("{name}: {reason}"));
                complain(field(&self.fields, name), reason);
            }
        }
        if self.passthrough && (!self.policy.auth.is_empty() || self.policy.closed.is_some()) {
            // Connections that are not decrypted cannot be checked.
            self.passthrough = false;
            let reason = "connections that are not decrypted cannot be checked";
            self.close(format!("ssl-passthrough: {reason}"));
            complain(field(&self.fields, "ssl-passthrough"), reason.into());
        }
    }

    fn rates(&self) -> Vec<Rate> {
        let periods = [(self.per_second, 1), (self.per_minute, 60)];
        let rates = periods.into_iter().filter_map(|(requests, seconds)| {
            let requests = requests?;
            Some(Rate {
                requests,
                period: Duration::from_secs(seconds),
                burst: requests.saturating_mul(self.burst.unwrap_or(BURST)),
            })
        });
        rates.collect()
    }

    fn finish_upstream(&mut self) {
        let cookie = std::mem::take(&mut self.cookie);
        self.upstream.sticky = cookie.is_on.then(|| Sticky {
            attributes: cookie.attributes(),
            path: cookie.path.unwrap_or_default(),
            secret: String::new(),
            name: cookie.name.unwrap_or_else(|| STICKY_COOKIE.into()),
        });
        if let Some(by) = self.hash.take() {
            self.upstream.balance = Balance::Hash(by);
        }
        self.upstream.probe = self.probe_path.take().map(|path| Probe {
            path,
            interval: self.probe_interval.unwrap_or(Duration::from_secs(10)),
            timeout: self.probe_timeout.unwrap_or(Duration::from_secs(2)),
        });
    }

    /// Returns the name of an invalid annotation, with the reason, as error.
    fn finish_upstream_tls(&mut self, context: &Context<'_>) -> Result<(), (&'static str, String)> {
        const SECRET: &str = "proxy-ssl-secret";
        let tls = &mut self.upstream.tls;
        tls.name = self.tls_name.take();
        let Some((namespace, name)) = self.tls_secret.take() else {
            return match self.tls_verify {
                true => Err((
                    "proxy-ssl-verify",
                    format!("needs {SECRET}, a Secret with ca.crt"),
                )),
                false => Ok(()),
            };
        };
        let secret = context.secret(namespace.as_deref(), &name);
        let secret = secret.map_err(|reason| (SECRET, reason))?;
        if self.tls_verify {
            let authorities = secret.data.get("ca.crt");
            let missing = || (SECRET, format!("Secret {name} has no ca.crt"));
            tls.trust = Trust::Authorities(authorities.ok_or_else(missing)?.as_slice().into());
        }
        if let (Some(chain), Some(key)) = (secret.data.get("tls.crt"), secret.data.get("tls.key")) {
            tls.identity = Some((chain.clone(), key.clone()));
        }
        Ok(())
    }

    /// The rules in the order of precedence: header, cookie, weight.
    fn canary_rules(&mut self) -> Vec<CanaryRule> {
        let value = self.canary_value.take();
        let header = self.canary_header.take();
        let header = header.map(|name| CanaryRule::Header(name, value));
        let cookie = self.canary_cookie.take().map(CanaryRule::Cookie);
        let total = self.canary_total.unwrap_or(100);
        let weight = self.canary_weight.map(|weight| CanaryRule::Weight {
            weight: weight.min(total),
            total,
        });
        [header, cookie, weight].into_iter().flatten().collect()
    }

    pub(super) fn set_protocol(&mut self, protocol: UpstreamProtocol) {
        self.upstream.protocol = protocol;
    }
}

impl CookieDraft {
    fn attributes(&self) -> String {
        let mut text = String::new();
        if let Some(domain) = &self.domain {
            text += &format!("; Domain={domain}");
        }
        if let Some(seconds) = self.max_age_s.or(self.expires_s) {
            text += &format!("; Max-Age={seconds}");
        }
        if let Some(same_site) = &self.same_site {
            text += &format!("; SameSite={same_site}");
        }
        if self.secure {
            text += "; Secure";
        }
        text + "; HttpOnly"
    }
}

impl Context<'_> {
    /// A Secret in the namespace of the object; others are refused.
    pub(super) fn secret(&self, namespace: Option<&str>, name: &str) -> Result<&Secret, String> {
        let own = self.namespace;
        if namespace.is_some_and(|namespace| namespace != own) {
            return Err(format!("only Secrets of namespace {own} can be used"));
        }
        let key = NamespacedName::new(own, name);
        let found = self.secrets.get(&key);
        found.ok_or_else(|| format!("there is no Secret {key}"))
    }
}

/// `NAME VALUE`, `NAME ~ PATTERN` or `NAME` in each line.
pub(super) fn named_texts(text: &str) -> Result<Vec<(String, Text)>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let named = |line: &str| {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        Ok((super::values::token(name)?, text_match(rest.trim())?))
    };
    let named: Vec<_> = lines.map(named).collect::<Result<_, String>>()?;
    super::values::not_empty(named)
}

/// `~ PATTERN`, values separated by `|`, or nothing.
pub(super) fn text_match(text: &str) -> Result<Text, String> {
    if let Some(pattern) = text.strip_prefix('~') {
        return Pattern::whole(pattern.trim()).map(Text::Regex);
    }
    let values: Vec<String> = text.split('|').map(|value| value.trim().into()).collect();
    Ok(match text.is_empty() {
        true => Text::Any,
        false => Text::OneOf(values),
    })
}

/// Weights by name: `a=3, b=1`.
pub(super) fn weights(text: &str) -> Result<BTreeMap<String, u32>, String> {
    let weight = |item: &str| {
        let (name, weight) = item
            .split_once('=')
            .ok_or(format!("`{item}` is not NAME=WEIGHT"))?;
        let name = super::values::plain_name(name.trim())?;
        Ok((name, super::values::positive(weight.trim())?))
    };
    super::values::list(text).map(weight).collect()
}
