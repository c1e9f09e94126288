//! The gate as a whole, and what tests of its parts have in common.

use std::mem;

use axum::Router;
use base64::{Engine, engine::general_purpose::STANDARD};
use headgate_model::ingress::{Auth, Basic, Hidden};
use http::{
    HeaderName, Request, Response,
    request::{Builder, Parts},
};
use tokio::net::TcpListener;

use crate::body::Body;

use super::{Authenticator, Client, Tls};

pub(super) fn authenticator(auth: Auth) -> Authenticator {
    Authenticator::new(&[auth]).unwrap()
}

pub(super) fn request(target: &str) -> Builder {
    Request::get(target).header("host", "shop.example")
}

pub(super) fn basic_header(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// What backends get, or the client does instead.
pub(super) async fn authorize(
    gate: &Authenticator,
    request: &mut Builder,
) -> Result<Parts, Response<Body>> {
    pass(gate, mem::take(request), &Tls::default()).await
}

/// A service on a port of its own.
pub(super) async fn serve(service: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, service).await });
    format!("http://{address}")
}

/// An address where nobody answers, and whose port nobody is given.
pub(super) const NOWHERE: &str = "http://127.0.0.1:1";

pub(super) async fn pass(
    gate: &Authenticator,
    request: Builder,
    tls: &Tls,
) -> Result<Parts, Response<Body>> {
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let path = parts.uri.path().to_owned();
    let client = Client {
        address: "192.0.2.1".parse().unwrap(),
        host: "shop.example",
        path: &path,
        is_https: true,
        tls,
    };
    gate.authorize(&mut parts, &client).await?;
    Ok(parts)
}

#[tokio::test]
async fn l71_auth_headers_of_clients_are_stripped_in_every_spelling() {
    let users = [(
        "ada".into(),
        Hidden("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=".into()),
    )]
    .into();
    let gate = authenticator(Auth::Basic(Basic {
        realm: "r".into(),
        users,
    }));
    let mut told = request("/")
        .header("x-auth-user", "root")
        .header("X_Auth_User", "root")
        .header("x-auth_user", "root")
        .header("x-other", "kept")
        .header("authorization", basic_header("ada", "secret"));
    let parts = authorize(&gate, &mut told).await.unwrap();
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "host", "x-auth-user", "x-other"]);
    assert_eq!(parts.headers["x-auth-user"], "ada");
}

#[tokio::test]
async fn l72_auth_that_cannot_be_used_lets_nothing_through() {
    let denied = authorize(&Authenticator::closed(), &mut request("/"))
        .await
        .unwrap_err();
    assert_eq!(denied.status(), 503);
    let users = [("ada".into(), Hidden("plain".into()))].into();
    let auth = Auth::Basic(Basic {
        realm: "r".into(),
        users,
    });
    assert!(Authenticator::new(&[auth]).is_err());
}
