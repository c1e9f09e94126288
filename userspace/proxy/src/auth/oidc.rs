//! Login at an OpenID provider: authorization code flow with PKCE (RFC 7636), and a session cookie.
//!
//! ```text
//! no session ─► provider ─► callback: code for tokens ─► session ─► the requested page
//!                                                expired session ─► refresh, or the provider again
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
use headgate_model::edge::Oidc;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use crate::{answer, body::Body, fetch::Fetch, message::parameters, reach::Reach};

use super::{
    AuthInput, CheckResult, bearer,
    cache::Cache,
    claims::{self, now},
    provider::{Provider, Tokens},
    service_failed,
    session::{CookieCipher, expired, random_text, remove_cookies},
    target, unauthorized,
};

const SESSION: &str = "__Host-headgate-session";
const LOGIN: &str = "__Host-headgate-login";
/// How long a login may take.
const LOGIN_TIME: Duration = Duration::from_secs(600);
/// How long a provider's metadata is used before it is fetched again.
const FRESH: Duration = Duration::from_secs(3600);
/// How long after a failure the provider is not asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// How long requests with the old cookie get the refreshed session.
const CACHE_TIME: Duration = Duration::from_secs(60);

/// The time of the last discovery, and its result.
type CachedProvider = (Instant, Result<Arc<Provider>, String>);

/// Logs users in and keeps their sessions.
pub(super) struct OidcCheck {
    rule: Oidc,
    fetch: Fetch,
    cipher: CookieCipher,
    provider: Mutex<Option<CachedProvider>>,
    /// Refreshed sessions by refresh token, which providers may accept only once.
    refreshed: Cache<Session>,
    refreshing: Mutex<()>,
}

/// A login in progress.
#[derive(Serialize, Deserialize)]
struct Login {
    state: String,
    nonce: String,
    verifier: String,
    /// Path and query to return to.
    back: String,
    /// In seconds since 1970.
    ends: u64,
}

/// The session of a user.
#[derive(Clone, Serialize, Deserialize)]
struct Session {
    user: Map<String, Value>,
    /// In seconds since 1970.
    ends: u64,
    refresh: Option<String>,
}

impl OidcCheck {
    pub(super) fn new(rule: &Oidc, reach: &Reach) -> Result<Self> {
        Ok(Self {
            fetch: Fetch::new(rule.issuer.authorities.as_deref(), reach)?,
            cipher: CookieCipher::new(&rule.cookie_key.0, &[&rule.issuer.url, &rule.client_id])?,
            provider: Mutex::default(),
            refreshed: Cache::new()?,
            refreshing: Mutex::default(),
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts, input: &AuthInput<'_>) -> CheckResult {
        if !input.is_https {
            // Browsers send `Secure` cookies only over HTTPS.
            let why = "login requires HTTPS";
            return Err(answer::error(StatusCode::BAD_REQUEST, why));
        }
        let checked = self.check(parts, input).await;
        checked.unwrap_or_else(|error| Err(service_failed("the OpenID provider", &error)))
    }

    async fn check(&self, parts: &mut Parts, input: &AuthInput<'_>) -> Result<CheckResult> {
        if input.path == self.rule.callback {
            return Ok(Err(self.callback(parts, input).await?));
        }
        if input.path == self.rule.logout {
            return Ok(Err(self.logout(parts, input).await));
        }
        let session: Option<Session> = self.cipher.open(&parts.headers, SESSION);
        let (session, cookie) = match session {
            Some(session) if now().as_secs() < session.ends => (session, None),
            Some(session) => match self.refresh(&session).await? {
                Some(session) => {
                    let cookie = self.session_cookie(&session);
                    (session, cookie)
                }
                None => return Ok(Err(self.login(parts, input).await?)),
            },
            None => return Ok(Err(self.login(parts, input).await?)),
        };
        remove_cookies(&mut parts.headers, &[SESSION, LOGIN]);
        claims::set_claims(
            &mut parts.headers,
            &Value::Object(session.user),
            &self.rule.headers,
        );
        Ok(Ok(cookie.into_iter().collect()))
    }

    /// The provider, discovered by one request at a time while the others wait.
    async fn provider(&self) -> Result<Arc<Provider>> {
        let mut cached = self.provider.lock().await;
        match &*cached {
            Some((since, Ok(provider))) if since.elapsed() < FRESH => return Ok(provider.clone()),
            Some((since, Err(why))) if since.elapsed() < RETRY_PAUSE => bail!("{why}"),
            _ => {}
        }
        let found = Provider::discover(&self.rule, &self.fetch).await;
        let found = found.map(Arc::new).map_err(|error| format!("{error:#}"));
        *cached = Some((Instant::now(), found.clone()));
        found.map_err(|why| anyhow!("{why}"))
    }

    /// Redirects a browser to the provider. Scripts and programs cannot log in and get 401.
    async fn login(&self, parts: &Parts, input: &AuthInput<'_>) -> Result<Response<Body>> {
        if !is_navigation(parts) {
            let mut response = unauthorized(bearer::CHALLENGE);
            set_cookies(response.headers_mut(), [expired(SESSION)]);
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
        let Some(cookie) = self.cipher.cookie(LOGIN, &login) else {
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
        let url = with_query(
            &provider.metadata.authorization_endpoint,
            &[
                ("response_type", "code"),
                ("client_id", &self.rule.client_id),
                ("redirect_uri", &self.redirect_uri(parts, input)),
                ("scope", &scope),
                ("state", &login.state),
                ("nonce", &login.nonce),
                ("code_challenge", &URL_SAFE_NO_PAD.encode(challenge)),
                ("code_challenge_method", "S256"),
            ],
        );
        let mut response = answer::redirect(302, &url);
        set_cookies(response.headers_mut(), [Some(cookie), expired(SESSION)]);
        Ok(response)
    }

    fn redirect_uri(&self, parts: &Parts, input: &AuthInput<'_>) -> String {
        let origin = input.origin(parts);
        format!("{origin}{}", self.rule.callback)
    }

    /// Ends a login: the user returns from the provider.
    async fn callback(&self, parts: &Parts, input: &AuthInput<'_>) -> Result<Response<Body>> {
        let query = |name| {
            let mut values = parameters(parts.uri.query(), name);
            let value = values.next();
            value.filter(|_| values.next().is_none())
        };
        let login: Option<Login> = self.cipher.open(&parts.headers, LOGIN);
        let login = login.filter(|login| now().as_secs() < login.ends);
        let login = login.zip(query("state")).filter(|(login, state)| {
            verify_slices_are_equal(login.state.as_bytes(), state.as_bytes()).is_ok()
        });
        let Some((login, _)) = login else {
            return Ok(answer::error(
                StatusCode::BAD_REQUEST,
                "unknown or expired login",
            ));
        };
        let Some(code) = query("code") else {
            return Ok(login_failed());
        };
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &*code),
            ("redirect_uri", &self.redirect_uri(parts, input)),
            ("code_verifier", &login.verifier),
        ];
        let provider = self.provider().await?;
        let Some(tokens) = provider.exchange(&self.rule, &self.fetch, &form).await? else {
            return Ok(login_failed());
        };
        let Some(user) = provider.user(&tokens, Some(&login.nonce)).await? else {
            return Ok(login_failed());
        };
        let session = self.new_session(&provider, tokens, user).await?;
        let Some(cookie) = self.session_cookie(&session) else {
            let why = "the claims of the user do not fit into a cookie";
            return Ok(answer::error(StatusCode::INTERNAL_SERVER_ERROR, why));
        };
        // With the host, because `//other.example` as a relative URL would name another host.
        let back = format!("{}{}", input.origin(parts), login.back);
        let mut response = answer::redirect(302, &back);
        set_cookies(response.headers_mut(), [Some(cookie), expired(LOGIN)]);
        Ok(response)
    }

    async fn new_session(
        &self,
        provider: &Provider,
        tokens: Tokens,
        mut user: Value,
    ) -> Result<Session> {
        let mut wanted = self.rule.headers.values();
        if wanted.any(|claim| user.get(claim).is_none()) {
            provider
                .add_userinfo(&self.fetch, &tokens, &mut user)
                .await?;
        }
        let ends = claims::expiry(&user).unwrap_or_default();
        Ok(Session {
            user: self.select_claims(user),
            ends,
            refresh: tokens.refresh_token,
        })
    }

    /// The claims that backends get: more might not fit into a cookie.
    fn select_claims(&self, user: Value) -> Map<String, Value> {
        let Value::Object(mut user) = user else {
            return Map::new();
        };
        user.retain(|name, _| {
            name == "sub" || self.rule.headers.values().any(|claim| claim == name)
        });
        user
    }

    /// The session's cookie; without the refresh token if that does not fit.
    fn session_cookie(&self, session: &Session) -> Option<HeaderValue> {
        let shorter = || Session {
            refresh: None,
            ..session.clone()
        };
        let cookie = self.cipher.cookie(SESSION, session);
        cookie.or_else(|| self.cipher.cookie(SESSION, &shorter()))
    }

    /// A refreshed session; `None` if it has no refresh token or the provider refuses it.
    async fn refresh(&self, old: &Session) -> Result<Option<Session>> {
        let Some(token) = &old.refresh else {
            return Ok(None);
        };
        // One request refreshes, concurrent ones get its result from the cache.
        let _refreshing = self.refreshing.lock().await;
        let credential = [token.as_bytes()];
        if let Some(session) = self.refreshed.get(&credential) {
            return Ok(Some(session));
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
        self.refreshed.insert(&credential, next.clone(), CACHE_TIME);
        Ok(Some(next))
    }

    /// The session with a later end. `None` if the new id token is of another user (Core, 12.2).
    async fn renewed(
        &self,
        provider: &Provider,
        old: &Session,
        tokens: &Tokens,
    ) -> Result<Option<Session>> {
        let mut next = old.clone();
        if !tokens.has_id_token() {
            let rest = Duration::from_secs(tokens.expires_in.unwrap_or_default());
            next.ends = (now() + rest).as_secs();
            return Ok(Some(next));
        }
        let user = provider.user(tokens, None).await?;
        let same = user.filter(|user| user.get("sub") == old.user.get("sub"));
        Ok(same.map(|user| {
            next.ends = claims::expiry(&user).unwrap_or_default();
            next.user.extend(self.select_claims(user));
            next
        }))
    }

    /// Ends a session here, and at the provider if it has an end session endpoint.
    async fn logout(&self, parts: &Parts, input: &AuthInput<'_>) -> Response<Body> {
        let provider = self.provider().await.ok();
        let endpoint = provider
            .as_ref()
            .and_then(|provider| provider.metadata.end_session_endpoint.as_ref());
        let mut response = match endpoint {
            Some(endpoint) => {
                let back = format!("{}/", input.origin(parts));
                let query = [
                    ("client_id", self.rule.client_id.as_str()),
                    ("post_logout_redirect_uri", &back),
                ];
                answer::redirect(302, &with_query(endpoint, &query))
            }
            None => Response::new(String::from("logged out\n").into()),
        };
        set_cookies(response.headers_mut(), [expired(SESSION), expired(LOGIN)]);
        response
    }
}

/// Whether a browser opens a page, as opposed to a script that sends a request.
fn is_navigation(parts: &Parts) -> bool {
    let mode = parts.headers.get("sec-fetch-mode");
    parts.method == Method::GET && mode.is_none_or(|mode| mode == "navigate")
}

fn login_failed() -> Response<Body> {
    answer::error(StatusCode::FORBIDDEN, "login failed")
}

fn set_cookies<const N: usize>(headers: &mut HeaderMap, cookies: [Option<HeaderValue>; N]) {
    for cookie in cookies.into_iter().flatten() {
        headers.append(header::SET_COOKIE, cookie);
    }
}

fn with_query(url: &str, query: &[(&str, &str)]) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    format!("{url}{mark}{query}")
}
