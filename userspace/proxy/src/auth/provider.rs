//! The client of an OpenID provider (OpenID Connect Core 1.0 and Discovery 1.0).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use headgate_model::edge::{Claims, Oidc};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::Value;

use crate::fetch::Fetch;

use super::{
    claims,
    keys::{KeySet, Keys},
    oauth,
};

/// The accepted difference between clocks.
const LEEWAY: Duration = Duration::from_secs(60);

/// A discovered provider.
pub(super) struct Provider {
    pub(super) metadata: ProviderMetadata,
    keys: Keys,
    rule: Claims,
}

/// The metadata of a provider (Discovery, 3).
#[derive(Deserialize)]
pub(super) struct ProviderMetadata {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
    pub(super) end_session_endpoint: Option<String>,
}

/// The token response (Core, 3.1.3.3).
#[derive(Deserialize)]
pub(super) struct Tokens {
    id_token: Option<String>,
    access_token: Option<String>,
    pub(super) refresh_token: Option<String>,
    pub(super) expires_in: Option<u64>,
}

impl Tokens {
    pub(super) fn has_id_token(&self) -> bool {
        self.id_token.is_some()
    }
}

impl Provider {
    /// Fetches and checks the metadata of the issuer.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be fetched, lacks an endpoint, names another issuer, or has an endpoint
    /// without TLS although the issuer has TLS.
    pub(super) async fn discover(rule: &Oidc, fetch: &Fetch) -> Result<Self> {
        let issuer = rule.issuer.url.trim_end_matches('/');
        let response = fetch
            .get(&format!("{issuer}/.well-known/openid-configuration"))
            .await?;
        let metadata: ProviderMetadata =
            serde_json::from_value(response).context("metadata lacks an endpoint")?;
        // Otherwise the metadata of any issuer would be accepted (Discovery, 4.3).
        ensure!(
            metadata.issuer.trim_end_matches('/') == issuer,
            "metadata is of the issuer {}",
            metadata.issuer
        );
        let endpoints = [
            Some(&metadata.authorization_endpoint),
            Some(&metadata.token_endpoint),
            Some(&metadata.jwks_uri),
            metadata.userinfo_endpoint.as_ref(),
            metadata.end_session_endpoint.as_ref(),
        ];
        let is_secure =
            |url: &&String| url.starts_with("https://") || issuer.starts_with("http://");
        let are_secure = endpoints.into_iter().flatten().all(|url| is_secure(&url));
        ensure!(are_secure, "an endpoint is not https");
        Ok(Self {
            keys: Keys::Set(KeySet::new(metadata.jwks_uri.clone(), fetch.clone()).into()),
            rule: Claims {
                issuer: Some(metadata.issuer.clone()),
                audiences: vec![rule.client_id.clone()],
                leeway: LEEWAY,
                ..Claims::default()
            },
            metadata,
        })
    }

    /// Exchanges a code or a refresh token for tokens. `None` if the provider refuses it.
    ///
    /// # Errors
    ///
    /// Fails if the provider does not respond as specified.
    pub(super) async fn exchange(
        &self,
        rule: &Oidc,
        fetch: &Fetch,
        form: &[(&str, &str)],
    ) -> Result<Option<Tokens>> {
        let url = &self.metadata.token_endpoint;
        let request = oauth::post_form(url, &rule.client_id, &rule.client_secret, form)?;
        let response = fetch.send(request).await?;
        let status = response.status();
        if status == StatusCode::BAD_REQUEST {
            return Ok(None);
        }
        ensure!(status.is_success(), "the token endpoint sent {status}");
        let tokens = serde_json::from_slice(response.body());
        tokens
            .context("the token endpoint sent no tokens")
            .map(Some)
    }

    /// The claims of the id token, if it is signed by the provider, for us and of this login (Core,
    /// 3.1.3.7).
    ///
    /// # Errors
    ///
    /// Fails if the provider's keys cannot be fetched.
    pub(super) async fn user(&self, tokens: &Tokens, nonce: Option<&str>) -> Result<Option<Value>> {
        let Some(token) = &tokens.id_token else {
            return Ok(None);
        };
        let verified = self.keys.verify(token).await?;
        Ok(verified.filter(|token| self.is_ours(token, nonce)))
    }

    fn is_ours(&self, token: &Value, nonce: Option<&str>) -> bool {
        let text = |name: &str| token.get(name).and_then(Value::as_str);
        let client = self.rule.audiences.first().map(String::as_str);
        claims::check(token, &self.rule).is_ok()
            && text("sub").is_some()
            && token.get("azp").is_none_or(|azp| azp.as_str() == client)
            && nonce.is_none_or(|nonce| text("nonce") == Some(nonce))
    }

    /// Adds the claims of the userinfo endpoint (Core, 5.3) that the id token lacks.
    ///
    /// # Errors
    ///
    /// Fails if the endpoint does not respond, or with the claims of another user.
    pub(super) async fn add_userinfo(
        &self,
        fetch: &Fetch,
        tokens: &Tokens,
        user: &mut Value,
    ) -> Result<()> {
        let (Some(url), Some(token)) = (&self.metadata.userinfo_endpoint, &tokens.access_token)
        else {
            return Ok(());
        };
        let request = Request::get(url).header(header::AUTHORIZATION, format!("Bearer {token}"));
        let claims = fetch.json(request.body(Full::default())?).await?;
        // Required by Core, 5.3.2.
        ensure!(
            claims.get("sub") == user.get("sub"),
            "userinfo is about another user"
        );
        if let (Some(user), Some(claims)) = (user.as_object_mut(), claims.as_object()) {
            for (name, value) in claims {
                user.entry(name).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }
}
