//! Requests of an OAuth client (RFC 6749).

use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use headgate_model::edge::Hidden;
use http::{Request, header};
use http_body_util::Full;

/// A POST of a form to an endpoint of the issuer, authenticated with the client's id and secret.
///
/// # Errors
///
/// Fails if `url` is not a URL.
pub(super) fn post_form(
    url: &str,
    client_id: &str,
    client_secret: &Hidden,
    form: &[(&str, &str)],
) -> Result<Request<Full<Bytes>>> {
    let encode = |text: &[u8]| form_urlencoded::byte_serialize(text).collect::<String>();
    // Both are form-encoded first (RFC 6749, 2.3.1).
    let (user, password) = (encode(client_id.as_bytes()), encode(&client_secret.0));
    let credentials = STANDARD.encode(format!("{user}:{password}"));
    let body = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    let request = Request::post(url)
        .header(header::AUTHORIZATION, format!("Basic {credentials}"))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::ACCEPT, "application/json");
    Ok(request.body(body.into())?)
}
