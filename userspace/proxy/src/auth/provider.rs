//! An OpenID provider (OpenID Connect Core and Discovery).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use headgate_model::ingress::{Claims, Oidc};
use http::{Request, Response, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::Value;

use crate::fetch::Fetch;

use super::{
    claims,
    keys::{KeySet, Keys},
};

/// By how much clocks may differ.
const LEEWAY: Duration = Duration::from_secs(60);

/// What a provider says about itself.
pub(super) struct Provider {
    pub(super) found: Found,
    keys: Keys,
    rule: Claims,
}

/// Its configuration (Discovery, 3).
#[derive(Deserialize)]
pub(super) struct Found {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    pub(super) end_session_endpoint: Option<String>,
}

/// What is given for a code (Core, 3.1.3.3).
#[derive(Deserialize)]
pub(super) struct Tokens {
    id_token: Option<String>,
    access_token: Option<String>,
    pub(super) refresh_token: Option<String>,
    pub(super) expires_in: Option<u64>,
}

impl Tokens {
    pub(super) fn has_user(&self) -> bool {
        self.id_token.is_some()
    }
}

impl Provider {
    pub(super) async fn find(rule: &Oidc, fetch: &Fetch) -> Result<Self> {
        let issuer = rule.issuer.url.trim_end_matches('/');
        let answer = fetch
            .get(&format!("{issuer}/.well-known/openid-configuration"))
            .await?;
        let found: Found = serde_json::from_value(answer).context("it lacks an endpoint")?;
        // Or anybody's configuration would do (Discovery, 4.3).
        ensure!(
            found.issuer.trim_end_matches('/') == issuer,
            "it is {}",
            found.issuer
        );
        let endpoints = [
            Some(&found.authorization_endpoint),
            Some(&found.token_endpoint),
            Some(&found.jwks_uri),
            found.userinfo_endpoint.as_ref(),
            found.end_session_endpoint.as_ref(),
        ];
        let is_secure =
            |url: &&String| url.starts_with("https://") || issuer.starts_with("http://");
        let is_fit = endpoints.into_iter().flatten().all(|url| is_secure(&url));
        ensure!(is_fit, "an endpoint is not https");
        Ok(Self {
            keys: Keys::Set(KeySet::new(found.jwks_uri.clone(), fetch.clone()).into()),
            rule: Claims {
                issuer: Some(found.issuer.clone()),
                audiences: vec![rule.client_id.clone()],
                leeway: LEEWAY,
                ..Claims::default()
            },
            found,
        })
    }

    /// Gives a code or an older token for tokens. `None` if they are not taken.
    pub(super) async fn exchange(
        &self,
        rule: &Oidc,
        fetch: &Fetch,
        form: &[(&str, &str)],
    ) -> Result<Option<Tokens>> {
        let encode = |text: &[u8]| form_urlencoded::byte_serialize(text).collect::<String>();
        let user = encode(rule.client_id.as_bytes());
        let password = encode(&rule.client_secret.0);
        let credentials = STANDARD.encode(format!("{user}:{password}"));
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let request = Request::post(&self.found.token_endpoint)
            .header(header::AUTHORIZATION, format!("Basic {credentials}"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Full::from(body))?;
        let response: Response<Bytes> = fetch.send(request).await?;
        if response.status() == http::StatusCode::BAD_REQUEST {
            return Ok(None);
        }
        let status = response.status();
        ensure!(status.is_success(), "the token endpoint answered {status}");
        let tokens = serde_json::from_slice(response.body());
        tokens
            .context("the token endpoint sent no tokens")
            .map(Some)
    }

    /// Who logged in, if the token is the provider's, for us and of this log-in (Core, 3.1.3.7).
    pub(super) async fn user(&self, tokens: &Tokens, nonce: Option<&str>) -> Result<Option<Value>> {
        let Some(token) = &tokens.id_token else {
            return Ok(None);
        };
        let opened = self.keys.open(token).await?;
        Ok(opened.filter(|token| self.is_ours(token, nonce)))
    }

    fn is_ours(&self, token: &Value, nonce: Option<&str>) -> bool {
        let text = |name: &str| token.get(name).and_then(Value::as_str);
        let client = self.rule.audiences.first().map(String::as_str);
        claims::check(token, &self.rule).is_ok()
            && text("sub").is_some()
            && token.get("azp").is_none_or(|azp| azp.as_str() == client)
            && nonce.is_none_or(|nonce| text("nonce") == Some(nonce))
    }

    /// Adds what the provider tells about a user apart from the token (Core, 5.3).
    pub(super) async fn complete(
        &self,
        fetch: &Fetch,
        tokens: &Tokens,
        user: &mut Value,
    ) -> Result<()> {
        let (Some(place), Some(token)) = (&self.found.userinfo_endpoint, &tokens.access_token)
        else {
            return Ok(());
        };
        let request = Request::get(place).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let told = fetch.json(request.body(Full::default())?).await?;
        // Of somebody else, perhaps (Core, 5.3.2).
        ensure!(
            told.get("sub") == user.get("sub"),
            "userinfo is about another user"
        );
        if let (Some(user), Some(told)) = (user.as_object_mut(), told.as_object()) {
            for (name, value) in told {
                user.entry(name).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }
}
