//! Log-in at an OpenID provider: authorization code with PKCE (RFC 7636), and a session in a cookie.
//!
//! ```text
//! no session ─► provider ─► callback: code for tokens ─► session ─► where the user wanted to go
//!                                                     over ─► refresh, or the provider again
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use headgate_model::ingress::Oidc;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::{answer, body::Body, fetch::Fetch, message::parameters};

use super::{
    Checked, Client,
    cache::Cache,
    claims::{self, now},
    failed,
    provider::{Provider, Tokens},
    session::{Seal, ended, random_text, take},
    target, unauthorized,
};

const SESSION: &str = "__Host-headgate-session";
const LOGIN: &str = "__Host-headgate-login";
/// How long a log-in may take.
const LOGIN_TIME: Duration = Duration::from_secs(600);
/// How long what a provider says about itself is believed.
const FRESH: Duration = Duration::from_secs(3600);
/// How long one that did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a refreshed session is given to requests that still have the older cookie.
const REMEMBERED: Duration = Duration::from_secs(60);

/// When a provider was looked for last, and what was found.
type Look = (Instant, Result<Arc<Provider>, String>);

/// A provider, and what sessions are kept with.
pub(super) struct OidcCheck {
    rule: Oidc,
    fetch: Fetch,
    seal: Seal,
    provider: Mutex<Option<Look>>,
    /// By the tokens that were given for them, which are good once only.
    refreshed: Cache<Session>,
    refreshing: Mutex<()>,
}

/// A log-in in progress.
#[derive(Serialize, Deserialize)]
struct Login {
    state: String,
    nonce: String,
    verifier: String,
    /// Path and query to come back to.
    back: String,
    ends: u64,
}

/// A user that logged in.
#[derive(Clone, Serialize, Deserialize)]
struct Session {
    user: Map<String, Value>,
    ends: u64,
    refresh: Option<String>,
}

impl OidcCheck {
    pub(super) fn new(rule: &Oidc) -> Result<Self> {
        Ok(Self {
            fetch: Fetch::new(rule.issuer.authorities.as_deref())?,
            seal: Seal::new(&rule.cookie_key.0, &[&rule.issuer.url, &rule.client_id])?,
            provider: Mutex::default(),
            refreshed: Cache::new()?,
            refreshing: Mutex::default(),
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts, client: &Client<'_>) -> Checked {
        if !client.is_https {
            // No browser would send a session.
            return Err(answer::error(StatusCode::BAD_REQUEST, "log-in needs HTTPS"));
        }
        let passed = self.answer(parts, client).await;
        passed.unwrap_or_else(|error| Err(failed("the OpenID provider", &error)))
    }

    async fn answer(&self, parts: &mut Parts, client: &Client<'_>) -> Result<Checked> {
        if client.path == self.rule.callback {
            return Ok(Err(self.callback(parts, client).await?));
        }
        if client.path == self.rule.logout {
            return Ok(Err(self.logout(parts, client).await));
        }
        let session: Option<Session> = self.seal.open(&parts.headers, SESSION);
        let (session, cookie) = match session {
            Some(session) if now().as_secs() < session.ends => (session, None),
            Some(session) => match self.refresh(&session).await? {
                Some(session) => {
                    let cookie = self.session_cookie(&session);
                    (session, cookie)
                }
                None => return Ok(Err(self.login(parts, client).await?)),
            },
            None => return Ok(Err(self.login(parts, client).await?)),
        };
        take(&mut parts.headers, &[SESSION, LOGIN]);
        claims::tell_all(
            &mut parts.headers,
            &Value::Object(session.user),
            &self.rule.headers,
        );
        Ok(Ok(cookie.into_iter().collect()))
    }

    /// What is known of the provider. Whoever needs it first finds it, the others wait.
    async fn provider(&self) -> Result<Arc<Provider>> {
        let mut known = self.provider.lock().await;
        match &*known {
            Some((since, Ok(provider))) if since.elapsed() < FRESH => return Ok(provider.clone()),
            Some((since, Err(why))) if since.elapsed() < PAUSE => bail!("{why}"),
            _ => {}
        }
        let found = Provider::find(&self.rule, &self.fetch).await;
        let found = found.map(Arc::new).map_err(|error| format!("{error:#}"));
        *known = Some((Instant::now(), found.clone()));
        found.map_err(|why| anyhow!("{why}"))
    }

    /// Sends a user to the provider; a program gets 401, since it cannot log in.
    async fn login(&self, parts: &Parts, client: &Client<'_>) -> Result<Response<Body>> {
        if !is_navigation(parts) {
            let mut response = unauthorized("Bearer");
            set_cookies(response.headers_mut(), [ended(SESSION)]);
            return Ok(response);
        }
        let provider = self.provider().await?;
        let login = Login {
            state: random_text()?,
            nonce: random_text()?,
            verifier: random_text()?,
            back: target(parts).into(),
            ends: (now() + LOGIN_TIME).as_secs(),
        };
        let Some(cookie) = self.seal.cookie(LOGIN, &login) else {
            return Ok(answer::error(
                StatusCode::URI_TOO_LONG,
                "the target is too long",
            ));
        };
        let challenge = digest(&SHA256, login.verifier.as_bytes());
        let mut scope = String::from("openid");
        for more in &self.rule.scopes {
            scope = format!("{scope} {more}");
        }
        let place = with_query(
            &provider.found.authorization_endpoint,
            &[
                ("response_type", "code"),
                ("client_id", &self.rule.client_id),
                ("redirect_uri", &self.redirect_uri(parts, client)),
                ("scope", &scope),
                ("state", &login.state),
                ("nonce", &login.nonce),
                ("code_challenge", &URL_SAFE_NO_PAD.encode(challenge)),
                ("code_challenge_method", "S256"),
            ],
        );
        let mut response = answer::redirect(302, &place);
        set_cookies(response.headers_mut(), [Some(cookie), ended(SESSION)]);
        Ok(response)
    }

    fn redirect_uri(&self, parts: &Parts, client: &Client<'_>) -> String {
        let origin = client.origin(parts);
        format!("{origin}{}", self.rule.callback)
    }

    /// A user comes back from the provider.
    async fn callback(&self, parts: &Parts, client: &Client<'_>) -> Result<Response<Body>> {
        let query = |name| {
            let mut values = parameters(parts.uri.query(), name);
            let value = values.next();
            value.filter(|_| values.next().is_none())
        };
        let login: Option<Login> = self.seal.open(&parts.headers, LOGIN);
        let login = login.filter(|login| now().as_secs() < login.ends);
        let login = login.zip(query("state")).filter(|(login, state)| {
            verify_slices_are_equal(login.state.as_bytes(), state.as_bytes()).is_ok()
        });
        let Some((login, _)) = login else {
            return Ok(answer::error(
                StatusCode::BAD_REQUEST,
                "this is no log-in of ours",
            ));
        };
        let Some(code) = query("code") else {
            return Ok(denied());
        };
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &*code),
            ("redirect_uri", &self.redirect_uri(parts, client)),
            ("code_verifier", &login.verifier),
        ];
        let provider = self.provider().await?;
        let Some(tokens) = provider.exchange(&self.rule, &self.fetch, &form).await? else {
            return Ok(denied());
        };
        let Some(user) = provider.user(&tokens, Some(&login.nonce)).await? else {
            return Ok(denied());
        };
        let session = self.session(&provider, tokens, user).await?;
        let Some(cookie) = self.session_cookie(&session) else {
            let why = "too much is known about the user";
            return Ok(answer::error(StatusCode::INTERNAL_SERVER_ERROR, why));
        };
        // With the host in front: a path such as `//other.example` is another host by itself.
        let back = format!("{}{}", client.origin(parts), login.back);
        let mut response = answer::redirect(302, &back);
        set_cookies(response.headers_mut(), [Some(cookie), ended(LOGIN)]);
        Ok(response)
    }

    async fn session(
        &self,
        provider: &Provider,
        tokens: Tokens,
        mut user: Value,
    ) -> Result<Session> {
        let mut wanted = self.rule.headers.values();
        if wanted.any(|claim| user.get(claim).is_none()) {
            provider.complete(&self.fetch, &tokens, &mut user).await?;
        }
        let ends = claims::end(&user).unwrap_or_default();
        Ok(Session {
            user: self.wanted(user),
            ends,
            refresh: tokens.refresh_token,
        })
    }

    /// What backends get, and no more: cookies are short.
    fn wanted(&self, user: Value) -> Map<String, Value> {
        let Value::Object(mut user) = user else {
            return Map::new();
        };
        user.retain(|name, _| {
            name == "sub" || self.rule.headers.values().any(|claim| claim == name)
        });
        user
    }

    /// Without what it could be refreshed with if that is too long for a cookie.
    fn session_cookie(&self, session: &Session) -> Option<HeaderValue> {
        let shorter = || Session {
            refresh: None,
            ..session.clone()
        };
        let cookie = self.seal.cookie(SESSION, session);
        cookie.or_else(|| self.seal.cookie(SESSION, &shorter()))
    }

    /// A session that goes on, if the provider wants it to.
    async fn refresh(&self, old: &Session) -> Result<Option<Session>> {
        let Some(token) = &old.refresh else {
            return Ok(None);
        };
        // One asks, those that come with it get the same.
        let _turn = self.refreshing.lock().await;
        let proof = [token.as_bytes()];
        if let Some(known) = self.refreshed.get(&proof) {
            return Ok(Some(known));
        }
        let provider = self.provider().await?;
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token.as_str()),
        ];
        let Some(tokens) = provider.exchange(&self.rule, &self.fetch, &form).await? else {
            return Ok(None);
        };
        let Some(mut next) = self.renewed(&provider, old, &tokens).await? else {
            return Ok(None);
        };
        next.refresh = tokens.refresh_token.or_else(|| old.refresh.clone());
        self.refreshed.insert(&proof, next.clone(), REMEMBERED);
        Ok(Some(next))
    }

    /// The same user with a later end; a token that tells of another one is none (Core, 12.2).
    async fn renewed(
        &self,
        provider: &Provider,
        old: &Session,
        tokens: &Tokens,
    ) -> Result<Option<Session>> {
        let mut next = old.clone();
        if !tokens.has_user() {
            let rest = Duration::from_secs(tokens.expires_in.unwrap_or_default());
            next.ends = (now() + rest).as_secs();
            return Ok(Some(next));
        }
        let user = provider.user(tokens, None).await?;
        let same = user.filter(|user| user.get("sub") == old.user.get("sub"));
        Ok(same.map(|user| {
            next.ends = claims::end(&user).unwrap_or_default();
            next.user.extend(self.wanted(user));
            next
        }))
    }

    /// Ends a session here, and at the provider if it has a way to.
    async fn logout(&self, parts: &Parts, client: &Client<'_>) -> Response<Body> {
        let provider = self.provider().await.ok();
        let place = provider
            .as_ref()
            .and_then(|provider| provider.found.end_session_endpoint.as_ref());
        let mut response = match place {
            Some(place) => {
                let back = format!("{}/", client.origin(parts));
                let query = [
                    ("client_id", self.rule.client_id.as_str()),
                    ("post_logout_redirect_uri", &back),
                ];
                answer::redirect(302, &with_query(place, &query))
            }
            None => Response::new(String::from("logged out\n").into()),
        };
        set_cookies(response.headers_mut(), [ended(SESSION), ended(LOGIN)]);
        response
    }
}

/// Whether somebody opens a page, and not a page asks for something.
fn is_navigation(parts: &Parts) -> bool {
    let mode = parts.headers.get("sec-fetch-mode");
    parts.method == Method::GET && mode.is_none_or(|mode| mode == "navigate")
}

fn denied() -> Response<Body> {
    answer::error(StatusCode::FORBIDDEN, "the log-in failed")
}

fn set_cookies<const N: usize>(headers: &mut HeaderMap, cookies: [Option<HeaderValue>; N]) {
    for cookie in cookies.into_iter().flatten() {
        headers.append(header::SET_COOKIE, cookie);
    }
}

fn with_query(place: &str, query: &[(&str, &str)]) -> String {
    let mark = if place.contains('?') { '&' } else { '?' };
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    format!("{place}{mark}{query}")
}
