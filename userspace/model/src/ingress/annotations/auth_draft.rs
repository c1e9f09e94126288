//! The values of annotations about authentication, and the proofs that they make together.

use std::{collections::BTreeMap, time::Duration};

use crate::NamespacedName;

use crate::edge::{
    ApiKey, Auth, Basic, Claims, ClientCertificates, External, Hidden, Hmac, Introspection, Jwt,
    JwtKeys, Ldap, LdapEntry, Oidc, Paseto, PasetoKey, Pattern, Secret, Server, Template, Verify,
};

use super::{Context, values::url};

/// Default of `auth-realm`.
const REALM: &str = "Authentication Required";
/// Least length of the key that encrypts cookies, in bytes.
const MIN_COOKIE_KEY: usize = 32;

/// Namespace, if there is one, and name.
type Name = (Option<String>, String);
/// An invalid annotation, and the reason.
type Wrong = (&'static str, String);

/// Value of `auth-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Basic,
    Hmac,
    ApiKey,
    Jwt,
    Introspection,
    Ldap,
    Paseto,
    Oidc,
}

/// The values of annotations so far.
#[derive(Debug, Default)]
pub(super) struct AuthDraft {
    pub(super) kind: Option<Kind>,
    pub(super) secret: Option<Name>,
    pub(super) is_map: bool,
    pub(super) realm: Option<String>,
    pub(super) server: Option<String>,
    pub(super) ca_secret: Option<Name>,
    pub(super) issuer: Option<String>,
    pub(super) audiences: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) leeway: Option<Duration>,
    pub(super) claim_headers: BTreeMap<String, String>,
    pub(super) key_header: Option<String>,
    pub(super) key_query: Option<String>,
    pub(super) ldap_user: Option<String>,
    pub(super) ldap_base: Option<String>,
    pub(super) ldap_filter: Option<String>,
    pub(super) starttls: bool,
    pub(super) callback: Option<String>,
    pub(super) logout: Option<String>,
    pub(super) url: Option<Template>,
    pub(super) method: Option<String>,
    pub(super) signin: Option<Template>,
    pub(super) signin_parameter: Option<String>,
    pub(super) response_headers: Vec<String>,
    pub(super) redirect: Option<Template>,
    pub(super) tls_secret: Option<Name>,
    /// `Some(None)` is `off`.
    pub(super) tls_verify: Option<Option<Verify>>,
    pub(super) tls_depth: Option<u32>,
    pub(super) tls_pass: bool,
    pub(super) tls_name: Option<Pattern>,
    pub(super) tls_error_page: Option<Template>,
}

impl AuthDraft {
    /// Everything that a request must prove, in the order of the checks.
    pub(super) fn finish(self, context: &Context<'_>) -> Result<Vec<Auth>, Wrong> {
        let authorities = self.authorities(context).map_err(wrong("auth-ca-secret"))?;
        let certificate = self.certificate(context)?.map(Auth::Certificate);
        let external = self.external(&authorities)?.map(Auth::External);
        let credential = self.credential(context, authorities)?;
        let all = [certificate, external, credential].into_iter();
        Ok(all.flatten().collect())
    }

    fn authorities(&self, context: &Context<'_>) -> Result<Option<Vec<u8>>, String> {
        let Some(name) = &self.ca_secret else {
            return Ok(None);
        };
        let secret = find(context, name)?;
        Ok(Some(value(secret, "ca.crt")?.to_vec()))
    }

    fn certificate(&self, context: &Context<'_>) -> Result<Option<ClientCertificates>, Wrong> {
        let verify = match (&self.tls_secret, self.tls_verify) {
            (None, Some(None)) | (Some(_), Some(None)) => return Ok(None),
            (None, None) if self.tls_name.is_none() => return Ok(None),
            (None, _) => return Err(("auth-tls-secret", "is not set".into())),
            (Some(_), verify) => verify.flatten().unwrap_or(Verify::Required),
        };
        let made = self.client_certificates(context, verify);
        made.map_err(wrong("auth-tls-secret"))
    }

    fn client_certificates(
        &self,
        context: &Context<'_>,
        verify: Verify,
    ) -> Result<Option<ClientCertificates>, String> {
        let Some(name) = &self.tls_secret else {
            return Ok(None);
        };
        let secret = find(context, name)?;
        Ok(Some(ClientCertificates {
            secret: NamespacedName::new(context.namespace, &name.1),
            authorities: value(secret, "ca.crt")?.to_vec(),
            revoked: secret.data.get("ca.crl").cloned(),
            verify,
            depth: self.tls_depth.unwrap_or(1),
            name: self.tls_name.clone(),
            is_passed: self.tls_pass,
            error_page: self.tls_error_page.clone(),
        }))
    }

    fn external(&self, authorities: &Option<Vec<u8>>) -> Result<Option<External>, Wrong> {
        let Some(url) = &self.url else {
            let is_alone = self.signin.is_some() || !self.response_headers.is_empty();
            return match is_alone {
                true => Err(("auth-url", "is not set".into())),
                false => Ok(None),
            };
        };
        let parameter = self.signin_parameter.as_deref().unwrap_or("rd");
        Ok(Some(External {
            url: url.clone(),
            method: self.method.clone(),
            signin: self.signin.clone(),
            signin_parameter: parameter.into(),
            response_headers: self.response_headers.clone(),
            redirect: self.redirect.clone(),
            authorities: authorities.clone(),
        }))
    }

    fn credential(
        self,
        context: &Context<'_>,
        authorities: Option<Vec<u8>>,
    ) -> Result<Option<Auth>, Wrong> {
        let Some(kind) = self.kind else {
            let alone = [
                ("auth-secret", self.secret.is_some()),
                ("auth-server", self.server.is_some()),
            ];
            return match alone.iter().find(|(_, is_there)| *is_there) {
                Some((name, _)) => Err((name, "needs auth-type".into())),
                None => Ok(None),
            };
        };
        let secret = self.secret.as_ref().map(|name| find(context, name));
        let secret = secret.transpose().map_err(wrong("auth-secret"))?;
        let needed = || secret.ok_or(("auth-secret", "is not set".to_owned()));
        let auth = match kind {
            Kind::Basic => self.basic(needed()?).map_err(wrong("auth-secret"))?,
            Kind::Hmac => Auth::Hmac(Hmac {
                users: each(needed()?).map_err(wrong("auth-secret"))?,
                skew: self.leeway.unwrap_or(Duration::from_secs(300)),
            }),
            Kind::ApiKey => Auth::ApiKey(ApiKey {
                consumers: each(needed()?).map_err(wrong("auth-secret"))?,
                header: self.key_header.unwrap_or_else(|| "x-api-key".into()),
                query: self.key_query,
            }),
            Kind::Jwt => self.jwt(secret, authorities)?,
            Kind::Introspection => self.introspection(needed()?, authorities)?,
            Kind::Ldap => self.ldap(secret, authorities)?,
            Kind::Paseto => self.paseto(needed()?).map_err(wrong("auth-secret"))?,
            Kind::Oidc => self.oidc(needed()?, authorities)?,
        };
        Ok(Some(auth))
    }

    fn basic(self, secret: &Secret) -> Result<Auth, String> {
        let users = match self.is_map {
            true => each(secret)?,
            false => htpasswd(&text(secret, "auth")?)?,
        };
        Ok(Auth::Basic(Basic {
            realm: self.realm.unwrap_or_else(|| REALM.into()),
            users,
        }))
    }

    fn claims(&self) -> Claims {
        Claims {
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            leeway: self.leeway.unwrap_or(Duration::from_secs(60)),
            headers: self.claim_headers.clone(),
        }
    }

    fn asked(&self, schemes: &[&str], authorities: Option<Vec<u8>>) -> Result<Server, Wrong> {
        let server = self.server.as_deref().ok_or("is not set".to_owned());
        let url = server.and_then(|server| url(server, schemes));
        let url = url.map_err(wrong("auth-server"))?;
        Ok(Server { url, authorities })
    }

    fn jwt(self, secret: Option<&Secret>, authorities: Option<Vec<u8>>) -> Result<Auth, Wrong> {
        let keys = match secret {
            Some(_) if self.server.is_some() => {
                return Err(("auth-server", "auth-secret already has the keys".into()));
            }
            Some(secret) => jwt_keys(secret).map_err(wrong("auth-secret"))?,
            None => JwtKeys::Url(self.asked(&["http", "https"], authorities)?),
        };
        let claims = self.claims();
        Ok(Auth::Jwt(Jwt { keys, claims }))
    }

    fn introspection(self, secret: &Secret, authorities: Option<Vec<u8>>) -> Result<Auth, Wrong> {
        let hidden = |key| hidden(secret, key).map_err(wrong("auth-secret"));
        Ok(Auth::Introspection(Introspection {
            server: self.asked(&["http", "https"], authorities)?,
            client_id: text(secret, "client-id").map_err(wrong("auth-secret"))?,
            client_secret: hidden("client-secret")?,
            claims: self.claims(),
            scopes: self.scopes,
        }))
    }

    fn ldap(self, secret: Option<&Secret>, authorities: Option<Vec<u8>>) -> Result<Auth, Wrong> {
        let server = self.asked(&["ldap", "ldaps"], authorities)?;
        if self.starttls && !server.url.starts_with("ldap://") {
            let reason = "needs an address that begins with ldap://";
            return Err(("auth-ldap-starttls", reason.into()));
        }
        let bind = secret.map(|secret| {
            let name = text(secret, "bind-dn")?;
            Ok::<_, String>((name, hidden(secret, "bind-password")?))
        });
        let bind = bind.transpose().map_err(wrong("auth-secret"))?;
        let entry = match (self.ldap_user, self.ldap_base) {
            (Some(template), None) => LdapEntry::Template(template),
            (None, Some(base)) => LdapEntry::Search {
                base,
                filter: self.ldap_filter.unwrap_or_else(|| "(uid={user})".into()),
                bind,
            },
            _ => {
                let reason = "either this or auth-ldap-base must be set";
                return Err(("auth-ldap-user", reason.into()));
            }
        };
        Ok(Auth::Ldap(Ldap {
            server,
            starttls: self.starttls,
            entry,
            realm: self.realm.unwrap_or_else(|| REALM.into()),
        }))
    }

    fn paseto(self, secret: &Secret) -> Result<Auth, String> {
        let key = match (secret.data.get("public"), secret.data.get("local")) {
            (Some(_), None) => PasetoKey::Public(text(secret, "public")?),
            (None, Some(_)) => PasetoKey::Local(hidden(secret, "local")?),
            _ => return Err("must have one of the keys `public` and `local`".into()),
        };
        let claims = self.claims();
        Ok(Auth::Paseto(Paseto { key, claims }))
    }

    fn oidc(self, secret: &Secret, authorities: Option<Vec<u8>>) -> Result<Auth, Wrong> {
        let issuer = self.issuer.as_deref().ok_or("is not set".to_owned());
        let issuer = issuer.and_then(|issuer| url(issuer, &["http", "https"]));
        let hidden = |key| hidden(secret, key).map_err(wrong("auth-secret"));
        let cookie_key = hidden("cookie-key")?;
        if cookie_key.0.len() < MIN_COOKIE_KEY {
            let reason = format!("cookie-key is shorter than {MIN_COOKIE_KEY} bytes");
            return Err(("auth-secret", reason));
        }
        Ok(Auth::Oidc(Oidc {
            issuer: Server {
                url: issuer.map_err(wrong("auth-issuer"))?,
                authorities,
            },
            client_id: text(secret, "client-id").map_err(wrong("auth-secret"))?,
            client_secret: hidden("client-secret")?,
            cookie_key,
            scopes: self.scopes,
            callback: self.callback.unwrap_or_else(|| "/oauth2/callback".into()),
            logout: self.logout.unwrap_or_else(|| "/oauth2/logout".into()),
            headers: self.claim_headers,
        }))
    }
}

fn wrong(annotation: &'static str) -> impl Fn(String) -> Wrong {
    move |reason| (annotation, reason)
}

fn find<'a>(context: &'a Context<'_>, (namespace, name): &Name) -> Result<&'a Secret, String> {
    context.secret(namespace.as_deref(), name)
}

fn value<'a>(secret: &'a Secret, key: &str) -> Result<&'a [u8], String> {
    let value = secret.data.get(key).filter(|value| !value.is_empty());
    value
        .map(Vec::as_slice)
        .ok_or_else(|| format!("the Secret has no {key}"))
}

/// The text of a key, without the line break that editors add at its end.
fn text(secret: &Secret, key: &str) -> Result<String, String> {
    let text = str::from_utf8(value(secret, key)?);
    let text = text.map_err(|error| format!("{key}: {error}"))?;
    Ok(text.trim_end().into())
}

fn hidden(secret: &Secret, key: &str) -> Result<Hidden, String> {
    let value = value(secret, key)?.trim_ascii_end();
    match value.is_empty() {
        true => Err(format!("{key} is empty")),
        false => Ok(Hidden(value.into())),
    }
}

/// A user for each key.
fn each(secret: &Secret) -> Result<BTreeMap<String, Hidden>, String> {
    let pairs = secret.data.keys();
    let users: BTreeMap<String, Hidden> = pairs
        .map(|key| Ok((key.clone(), hidden(secret, key)?)))
        .collect::<Result<_, String>>()?;
    match users.is_empty() {
        true => Err("the Secret is empty".into()),
        false => Ok(users),
    }
}

/// Lines `user:hash`. As in Apache the first line of a user counts.
fn htpasswd(text: &str) -> Result<BTreeMap<String, Hidden>, String> {
    let mut users = BTreeMap::new();
    let lines = text.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (user, hash) = line.split_once(':').ok_or("a line of auth has no `:`")?;
        let hash = Hidden(hash.into());
        users.entry(user.to_owned()).or_insert(hash);
    }
    match users.is_empty() {
        true => Err("auth has no users".into()),
        false => Ok(users),
    }
}

fn jwt_keys(secret: &Secret) -> Result<JwtKeys, String> {
    match (secret.data.get("secret"), secret.data.get("public.pem")) {
        (Some(_), None) => Ok(JwtKeys::Shared(hidden(secret, "secret")?)),
        (None, Some(public)) => Ok(JwtKeys::Public(public.clone())),
        _ => Err("must have one of the keys `secret` and `public.pem`".into()),
    }
}
