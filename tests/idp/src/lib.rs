//! A small OpenID provider for tests: everybody who comes is logged in as [`USER`], and it can be
//! told to do wrong.
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

/// Who logs in.
pub const USER: &str = "ada";
/// The client that is known.
pub const CLIENT: &str = "shop";
/// Its password.
pub const SECRET: &str = "pass:word";

/// What it does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Tokens are for another client.
    Audience,
    /// Tokens are made by somebody else.
    Issuer,
    /// Tokens are of another log-in.
    Nonce,
    /// Tokens are over.
    Expired,
    /// Tokens are signed with a key that is not in the set.
    Key,
    /// Users do not want to.
    Refused,
    /// What it says about the user is about another one.
    Userinfo,
    /// Older tokens are not taken.
    Refresh,
}

/// A provider that runs.
#[derive(Clone, Debug)]
pub struct Idp(Arc<State>);

#[derive(Debug)]
struct State {
    issuer: String,
    keys: [(EncodingKey, Jwk); 2],
    fault: Mutex<Fault>,
    /// How long tokens are good, in seconds.
    life: AtomicI64,
    /// Codes, and the log-ins that they are for.
    codes: Mutex<HashMap<String, Login>>,
    /// Tokens that can be refreshed, once each.
    refresh: Mutex<Vec<String>>,
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
    /// Starts one on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let idp = Self(Arc::new(State {
            issuer: format!("http://{}", listener.local_addr().unwrap()),
            keys: [tokens::key("first"), tokens::key("first")],
            fault: Mutex::default(),
            life: AtomicI64::new(300),
            codes: Mutex::default(),
            refresh: Mutex::default(),
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

    /// Its address.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// Does this wrong from now on.
    pub fn set_fault(&self, fault: Fault) {
        *self.0.fault.lock().unwrap() = fault;
    }

    /// Makes tokens that are good for so many seconds from now on.
    pub fn set_life(&self, seconds: i64) {
        self.0.life.store(seconds, Ordering::SeqCst);
    }

    /// A token of [`USER`], without a log-in.
    pub fn id_token(&self) -> String {
        tokens::id_token(self, None)
    }

    /// How often somebody logged in.
    pub fn logins(&self) -> usize {
        self.0.logins.load(Ordering::SeqCst)
    }

    /// How often tokens were refreshed.
    pub fn refreshes(&self) -> usize {
        self.0.refreshes.load(Ordering::SeqCst)
    }

    fn has(&self, fault: Fault) -> bool {
        *self.0.fault.lock().unwrap() == fault
    }
}
