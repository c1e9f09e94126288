//! A small OpenID provider for tests. It logs in every browser as [`USER`], without a password, and
//! can be set to misbehave ([`Fault`]).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a provider that fails fails its test")]

mod endpoints;
mod tokens;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    routing::{get, post},
};
use jsonwebtoken::{EncodingKey, jwk::Jwk};
use tokio::net::TcpListener;

/// The user of every login.
pub const USER: &str = "ada";
/// The id of the registered client.
pub const CLIENT: &str = "shop";
/// The client's secret.
pub const SECRET: &str = "pass:word";

/// A way to misbehave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    #[default]
    None,
    /// Tokens are for another client.
    Audience,
    /// Tokens name another issuer.
    Issuer,
    /// Tokens have the nonce of another login.
    Nonce,
    /// Tokens are expired.
    Expired,
    /// Tokens are signed with a key that is not in the key set.
    Key,
    /// Users refuse the login.
    Refused,
    /// Userinfo is about another user.
    Userinfo,
    /// Refresh tokens are refused.
    Refresh,
}

/// A running provider. Clones are the same provider.
#[derive(Clone, Debug)]
pub struct Idp(Arc<IdpState>);

#[derive(Debug)]
struct IdpState {
    issuer: String,
    keys: [(EncodingKey, Jwk); 2],
    fault: Mutex<Fault>,
    /// The lifetime of tokens, in seconds.
    lifetime_s: AtomicI64,
    /// Logins by authorization code.
    codes: Mutex<HashMap<String, Login>>,
    /// Valid refresh tokens.
    refresh_tokens: Mutex<Vec<String>>,
    logins: AtomicUsize,
    refreshes: AtomicUsize,
}

#[derive(Debug)]
struct Login {
    nonce: String,
    challenge: String,
    redirect: String,
}

impl Idp {
    /// Starts a provider on a free port of loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let idp = Self(Arc::new(IdpState {
            issuer: format!("http://{}", listener.local_addr().unwrap()),
            keys: [tokens::key("first"), tokens::key("first")],
            fault: Mutex::default(),
            lifetime_s: AtomicI64::new(300),
            codes: Mutex::default(),
            refresh_tokens: Mutex::default(),
            logins: AtomicUsize::default(),
            refreshes: AtomicUsize::default(),
        }));
        let service = Router::new()
            .route(
                "/.well-known/openid-configuration",
                get(endpoints::configuration),
            )
            .route("/authorize", get(endpoints::authorize))
            .route("/token", post(endpoints::token))
            .route("/keys", get(endpoints::keys))
            .route("/userinfo", get(endpoints::userinfo))
            .route("/introspect", post(endpoints::introspect))
            .route("/logout", get(|| async { "logged out at the provider" }))
            .with_state(idp.clone());
        tokio::spawn(async move { axum::serve(listener, service).await });
        idp
    }

    /// The issuer URL.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// Misbehaves in this way from now on.
    pub fn set_fault(&self, fault: Fault) {
        *self.0.fault.lock().unwrap() = fault;
    }

    /// Sets the lifetime of new tokens, in seconds; negative for expired tokens.
    pub fn set_lifetime(&self, seconds: i64) {
        self.0.lifetime_s.store(seconds, Ordering::SeqCst);
    }

    /// An id token of [`USER`], without a login.
    pub fn id_token(&self) -> String {
        tokens::id_token(self, None)
    }

    /// The number of logins.
    pub fn logins(&self) -> usize {
        self.0.logins.load(Ordering::SeqCst)
    }

    /// The number of refreshes.
    pub fn refreshes(&self) -> usize {
        self.0.refreshes.load(Ordering::SeqCst)
    }

    fn has(&self, fault: Fault) -> bool {
        *self.0.fault.lock().unwrap() == fault
    }
}
