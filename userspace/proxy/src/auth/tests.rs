//! Tests of all checks together, and helpers for tests of single checks.

use std::mem;

use axum::Router;
use base64::{Engine, engine::general_purpose::STANDARD};
use headgate_model::edge::{Auth, Basic, Hidden, PathMatch};
use http::{
    HeaderName, Request, Response,
    request::{Builder, Parts},
};
use tokio::net::TcpListener;

use crate::{body::Body, reach::Reach};

use super::{AuthInput, Authenticator};
use crate::tls::facts::Handshake;

pub(super) fn authenticator(auth: Auth) -> Authenticator {
    Authenticator::new(&[auth], &Reach::everything()).unwrap()
}

pub(super) fn request(target: &str) -> Builder {
    Request::get(target).header("host", "shop.example")
}

pub(super) fn basic_header(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// The request that backends get, or the response that refuses it.
pub(super) async fn authorize(
    guard: &Authenticator,
    request: &mut Builder,
) -> Result<Parts, Response<Body>> {
    pass(guard, mem::take(request), &Handshake::default()).await
}

/// The status for a request with a bearer token. Accepted tokens are of the user `ada`.
pub(super) async fn status_with_token(guard: &Authenticator, token: &str) -> u16 {
    let mut builder = request("/").header("authorization", format!("Bearer {token}"));
    match authorize(guard, &mut builder).await {
        Ok(parts) => {
            assert_eq!(parts.headers["x-auth-user"], "ada");
            200
        }
        Err(refused) => refused.status().as_u16(),
    }
}

/// Serves on a free port and returns the URL.
pub(super) async fn serve(service: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, service).await });
    format!("http://{address}")
}

/// A URL without a listener. The kernel does not assign port 1 to others.
pub(super) const NOWHERE: &str = "http://127.0.0.1:1";

pub(super) async fn pass(
    guard: &Authenticator,
    request: Builder,
    tls: &Handshake,
) -> Result<Parts, Response<Body>> {
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let path = parts.uri.path().to_owned();
    let target = parts.uri.path_and_query().unwrap().to_string();
    let input = AuthInput {
        address: "192.0.2.1".parse().unwrap(),
        host: "shop.example",
        path: &path,
        target: &target,
        is_https: true,
        rule: &PathMatch::Prefix(String::new()),
        tls,
    };
    guard.authorize(&mut parts, &input).await?;
    Ok(parts)
}

#[tokio::test]
async fn l71_auth_headers_of_clients_are_stripped_in_every_spelling() {
    let users = [(
        "ada".into(),
        Hidden("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=".into()),
    )]
    .into();
    let guard = authenticator(Auth::Basic(Basic {
        realm: "r".into(),
        users,
    }));
    let mut forged = request("/")
        .header("x-auth-user", "root")
        .header("X_Auth_User", "root")
        .header("x-auth_user", "root")
        .header("x-other", "kept")
        .header("authorization", basic_header("ada", "secret"));
    let parts = authorize(&guard, &mut forged).await.unwrap();
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "host", "x-auth-user", "x-other"]);
    assert_eq!(parts.headers["x-auth-user"], "ada");
}

#[tokio::test]
async fn l72_auth_with_invalid_settings_refuses_all_requests() {
    let denied = authorize(&Authenticator::closed(), &mut request("/"))
        .await
        .unwrap_err();
    assert_eq!(denied.status(), 503);
    let users = [("ada".into(), Hidden("plain".into()))].into();
    let auth = Auth::Basic(Basic {
        realm: "r".into(),
        users,
    });
    assert!(Authenticator::new(&[auth], &Reach::everything()).is_err());
}
