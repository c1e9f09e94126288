//! The endpoints of the provider.

use std::{collections::HashMap, sync::atomic::Ordering};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand,
};
use axum::{
    Form, Json,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use crate::{CLIENT, Fault, Idp, Login, SECRET, USER, tokens};

type Fields = HashMap<String, String>;

pub(crate) async fn configuration(State(idp): State<Idp>) -> Json<Value> {
    let at = |path: &str| format!("{}{path}", idp.issuer());
    Json(json!({
        "issuer": idp.issuer(),
        "authorization_endpoint": at("/authorize"),
        "token_endpoint": at("/token"),
        "jwks_uri": at("/keys"),
        "userinfo_endpoint": at("/userinfo"),
        "introspection_endpoint": at("/introspect"),
        "end_session_endpoint": at("/logout"),
    }))
}

pub(crate) async fn keys(State(idp): State<Idp>) -> Json<Value> {
    let (_, public) = &idp.0.keys[0];
    Json(json!({ "keys": [public] }))
}

/// Redirects the browser back with a code, without asking for a password.
pub(crate) async fn authorize(State(idp): State<Idp>, Query(fields): Query<Fields>) -> Response {
    let is_valid = fields
        .get("client_id")
        .is_some_and(|client| client == CLIENT)
        && fields
            .get("response_type")
            .is_some_and(|kind| kind == "code")
        && fields
            .get("code_challenge_method")
            .is_some_and(|method| method == "S256")
        && fields
            .get("scope")
            .is_some_and(|scope| scope.split(' ').any(|one| one == "openid"))
        && fields
            .get("redirect_uri")
            .is_some_and(|uri| uri.starts_with("https://shop.example:"));
    if !is_valid {
        return (StatusCode::BAD_REQUEST, format!("{fields:?}")).into_response();
    }
    let redirect = fields["redirect_uri"].clone();
    let state = form_urlencoded::byte_serialize(fields["state"].as_bytes()).collect::<String>();
    if idp.has(Fault::Refused) {
        let back = format!("{redirect}?error=access_denied&state={state}");
        return Redirect::to(&back).into_response();
    }
    idp.0.logins.fetch_add(1, Ordering::SeqCst);
    let (code, login) = (
        secret(),
        Login {
            nonce: fields["nonce"].clone(),
            challenge: fields["code_challenge"].clone(),
            redirect: redirect.clone(),
        },
    );
    idp.0.codes.lock().unwrap().insert(code.clone(), login);
    Redirect::to(&format!("{redirect}?code={code}&state={state}")).into_response()
}

pub(crate) async fn token(
    State(idp): State<Idp>,
    headers: HeaderMap,
    Form(fields): Form<Fields>,
) -> Response {
    if !is_client(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let nonce = match fields.get("grant_type").map(String::as_str) {
        Some("authorization_code") => redeem(&idp, &fields).map(Some),
        Some("refresh_token") => refresh(&idp, &fields).then_some(None),
        _ => None,
    };
    let Some(nonce) = nonce else {
        let error = json!({"error": "invalid_grant"});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    };
    let next = secret();
    idp.0.refresh_tokens.lock().unwrap().push(next.clone());
    Json(json!({
        "token_type": "Bearer",
        "access_token": "access",
        "id_token": tokens::id_token(&idp, nonce.as_deref()),
        "refresh_token": next,
        "expires_in": 300,
    }))
    .into_response()
}

/// Redeems a code for the nonce of its login. A code is valid once (RFC 6749, 4.1.2), with its verifier
/// (RFC 7636, 4.6).
fn redeem(idp: &Idp, fields: &Fields) -> Option<String> {
    let login = idp.0.codes.lock().unwrap().remove(fields.get("code")?)?;
    let verifier = digest(&SHA256, fields.get("code_verifier")?.as_bytes());
    let is_same = login.challenge == URL_SAFE_NO_PAD.encode(verifier);
    (is_same && login.redirect == *fields.get("redirect_uri")?).then_some(login.nonce)
}

fn refresh(idp: &Idp, fields: &Fields) -> bool {
    let mut known = idp.0.refresh_tokens.lock().unwrap();
    let found = known
        .iter()
        .position(|token| Some(token) == fields.get("refresh_token"));
    let Some(found) = found.filter(|_| !idp.has(Fault::Refresh)) else {
        return false;
    };
    known.remove(found);
    idp.0.refreshes.fetch_add(1, Ordering::SeqCst);
    true
}

pub(crate) async fn userinfo(State(idp): State<Idp>, headers: HeaderMap) -> Response {
    if headers
        .get("authorization")
        .is_none_or(|token| token != "Bearer access")
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let user = if idp.has(Fault::Userinfo) {
        "eve"
    } else {
        USER
    };
    Json(json!({"sub": user, "email": "ada@shop.example"})).into_response()
}

pub(crate) async fn introspect(headers: HeaderMap, Form(fields): Form<Fields>) -> Response {
    if !is_client(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let is_active = fields.get("token").is_some_and(|token| token == "access");
    let claims = match is_active {
        true => json!({"active": true, "sub": USER, "exp": tokens::now() + 300}),
        false => json!({"active": false}),
    };
    Json(claims).into_response()
}

/// Checks the client's id and secret, both form-encoded (RFC 6749, 2.3.1).
fn is_client(headers: &HeaderMap) -> bool {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = format!("{}:{}", encode(CLIENT), encode(SECRET));
    let expected = format!("Basic {}", STANDARD.encode(pair));
    headers
        .get("authorization")
        .is_some_and(|found| *found == *expected)
}

fn secret() -> String {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).unwrap();
    URL_SAFE_NO_PAD.encode(bytes)
}
