//! Another service decides about each request, as in ingress-nginx (`auth-url`).

use anyhow::{Context, Result};
use bytes::Bytes;
use headgate_model::ingress::External;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    answer,
    body::Body,
    fetch::Fetch,
    headers::{self, insert},
};

use super::{Checked, Client, failed, spelling, strip, target};

/// What stays as it is in a parameter (RFC 3986, 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What the service is told about the request. Nothing of it is believed from clients.
const TOLD: [&str; 11] = [
    "forwarded",
    "x-auth-request-redirect",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-uri",
    "x-original-method",
    "x-original-url",
    "x-real-ip",
];

/// What is about a body or a copy of it: the question has none.
const ABOUT_BODIES: [HeaderName; 9] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::EXPECT,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
];

/// A service, and how to ask it.
pub(super) struct ExternalCheck {
    rule: External,
    url: Uri,
    method: Option<Method>,
    fetch: Fetch,
    /// Headers of answers that backends get.
    passed: Vec<HeaderName>,
}

impl ExternalCheck {
    pub(super) fn new(rule: &External) -> Result<Self> {
        let method = rule.method.as_deref().map(str::parse);
        let names = rule.response_headers.iter();
        Ok(Self {
            url: rule.url.parse().context("auth-url is no address")?,
            method: method.transpose().context("auth-method is no method")?,
            fetch: Fetch::new(rule.authorities.as_deref())?,
            passed: names.map(|name| name.parse()).collect::<Result<_, _>>()?,
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts, client: &Client<'_>) -> Checked {
        let question = self.question(parts, client);
        let answer = match self.fetch.send(question).await {
            Ok(answer) => answer,
            Err(error) => return Err(failed("auth-url", &error)),
        };
        let cookies = answer.headers().get_all(header::SET_COOKIE);
        let cookies: Vec<HeaderValue> = cookies.iter().cloned().collect();
        match answer.status() {
            status if status.is_success() => {
                self.tell(&mut parts.headers, answer.headers());
                Ok(cookies)
            }
            StatusCode::UNAUTHORIZED if self.rule.signin.is_some() => {
                let mut response = answer::redirect(302, &self.signin(parts, client));
                for cookie in cookies {
                    response.headers_mut().append(header::SET_COOKIE, cookie);
                }
                Err(response)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(denial(answer)),
            status => {
                let error = anyhow::anyhow!("{} answered {status}", self.url);
                Err(failed("auth-url", &error))
            }
        }
    }

    fn question(&self, parts: &Parts, client: &Client<'_>) -> Request<Full<Bytes>> {
        let mut question = Request::new(Full::default());
        *question.uri_mut() = self.url.clone();
        *question.method_mut() = self.method.as_ref().unwrap_or(&parts.method).clone();
        let fields = question.headers_mut();
        fields.clone_from(&parts.headers);
        headers::strip_hop_by_hop(fields);
        for name in &ABOUT_BODIES {
            fields.remove(name);
        }
        strip(fields, &TOLD.map(String::from));
        let path = target(parts);
        let redirect = self.rule.redirect.as_deref().unwrap_or(path);
        let address = client.address.to_string();
        let mut tell = |name, value: &str| insert(fields, HeaderName::from_static(name), value);
        tell("x-original-url", &client.url(parts));
        tell("x-original-method", parts.method.as_str());
        tell("x-auth-request-redirect", redirect);
        tell("x-real-ip", &address);
        tell("x-forwarded-for", &address);
        tell("x-forwarded-method", parts.method.as_str());
        tell("x-forwarded-proto", client.scheme());
        tell("x-forwarded-host", &client.authority(parts));
        tell("x-forwarded-uri", path);
        question
    }

    /// Backends get what the service says, and what clients said of it in no spelling.
    fn tell(&self, request: &mut HeaderMap, answer: &HeaderMap) {
        for name in &self.passed {
            strip(request, &[spelling(name.as_str())]);
            for value in answer.get_all(name) {
                request.append(name, value.clone());
            }
        }
    }

    /// Where clients log in, with the address to come back to unless it says that already.
    fn signin(&self, parts: &Parts, client: &Client<'_>) -> String {
        let signin = self.rule.signin.as_deref().unwrap_or_default();
        let escaped = escape(target(parts));
        let signin = signin
            .replace("$escaped_request_uri", &escaped)
            .replace("$scheme", client.scheme())
            .replace("$host", client.host)
            .replace("$request_uri", target(parts));
        let parameter = &self.rule.signin_parameter;
        let query = signin.split_once('?').map(|(_, query)| query);
        let names = query.into_iter().flat_map(|query| query.split('&'));
        let mut names = names.filter_map(|pair| pair.split('=').next());
        if names.any(|name| name == parameter) {
            return signin;
        }
        let mark = if query.is_some() { '&' } else { '?' };
        let back = escape(&client.url(parts));
        format!("{signin}{mark}{parameter}={back}")
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// What the service answers, as its own answer.
fn denial(answer: Response<Bytes>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body.into())
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::Request as Asked, routing::any};
    use headgate_model::ingress::{Auth, External};
    use http::{HeaderMap, Response, StatusCode};

    use crate::fetch::Fetch;

    use super::super::tests::{NOWHERE, authenticator, authorize, request, serve};

    fn rule(url: String) -> External {
        External {
            url,
            method: None,
            signin: None,
            signin_parameter: "rd".into(),
            response_headers: vec!["x-user".into(), "authorization".into()],
            redirect: None,
            authorities: None,
        }
    }

    /// Answers as the path of the request says that it decides about, and tells what it was asked.
    async fn oracle(asked: Asked) -> Response<String> {
        let told = |name: &str| {
            asked
                .headers()
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
        };
        let status: u16 = told("x-forwarded-uri")[1..4].parse().unwrap();
        let seen = [
            asked.method().as_str(),
            told("x-original-url"),
            told("x-original-method"),
            told("x-real-ip"),
            told("x-auth-request-redirect"),
            told("cookie"),
            told("x_original_url"),
        ];
        Response::builder()
            .status(status)
            .header("x-user", "ada")
            .header("x-private", "not for backends")
            .header("x-seen", seen.join("|"))
            .header("set-cookie", "session=new")
            .header("www-authenticate", "Custom")
            .body("no entry".to_owned())
            .unwrap()
    }

    async fn service() -> String {
        serve(Router::new().fallback(any(oracle))).await
    }

    #[tokio::test]
    async fn l61_auth_service_lets_through_or_denies() {
        let mut rule = rule(service().await + "/check?a=b");
        rule.response_headers.push("x-seen".into());
        let gate = authenticator(Auth::External(rule));
        let mut asked = request("/200/x?y=z")
            .method("POST")
            .header("cookie", "a=1")
            .header("content-length", "5")
            .header("authorization", "Bearer for-the-service")
            .header("x-user", "root")
            .header("X_User", "root")
            .header("x_original_url", "https://elsewhere/");
        let parts = authorize(&gate, &mut asked).await.unwrap();
        assert_eq!(parts.headers["x-user"], "ada");
        assert!(!parts.headers.contains_key("x_user"), "in no spelling");
        assert!(!parts.headers.contains_key("x-private"));
        assert!(
            !parts.headers.contains_key("authorization"),
            "the service gave none"
        );
        assert_eq!(
            parts.headers["x-seen"],
            "POST|https://shop.example/200/x?y=z|POST|192.0.2.1|/200/x?y=z|a=1|"
        );
        for (path, status) in [
            ("/401", 401),
            ("/403", 403),
            ("/302", 503),
            ("/404", 503),
            ("/500", 503),
        ] {
            let denied = authorize(&gate, &mut request(path)).await.unwrap_err();
            assert_eq!(denied.status(), status, "{path}");
            let is_passed = matches!(status, 401 | 403);
            assert_eq!(denied.headers().contains_key("www-authenticate"), is_passed);
            assert_eq!(denied.headers().contains_key("set-cookie"), is_passed);
        }
    }

    #[tokio::test]
    async fn l61_auth_service_that_does_not_answer_lets_nothing_through() {
        let gate = authenticator(Auth::External(rule(NOWHERE.into())));
        let denied = authorize(&gate, &mut request("/200")).await.unwrap_err();
        assert_eq!(denied.status(), 503);
    }

    #[tokio::test]
    async fn l61_auth_signin_gets_the_address_to_come_back_to() {
        let mut rule = rule(service().await);
        for (signin, expected) in [
            (
                "https://login.example/",
                "https://login.example/?rd=https%3A%2F%2Fshop.example%2F401%3Fa%3Db",
            ),
            (
                "https://$host/in?x=y",
                "https://shop.example/in?x=y&rd=https%3A%2F%2Fshop.example%2F401%3Fa%3Db",
            ),
            (
                "$scheme://l/?rd=$escaped_request_uri",
                "https://l/?rd=%2F401%3Fa%3Db",
            ),
        ] {
            rule.signin = Some(signin.into());
            let gate = authenticator(Auth::External(rule.clone()));
            let sent = authorize(&gate, &mut request("/401?a=b"))
                .await
                .unwrap_err();
            assert_eq!(sent.status(), 302);
            assert_eq!(sent.headers()["location"], expected);
            assert_eq!(sent.headers()["set-cookie"], "session=new");
            // Whoever is known and may not gets no other by logging in.
            let denied = authorize(&gate, &mut request("/403")).await.unwrap_err();
            assert_eq!(denied.status(), 403);
        }
    }

    /// As oauth2-proxy: a cookie says who came back from `/start`.
    fn oauth() -> Router {
        async fn auth(headers: HeaderMap) -> (StatusCode, [(&'static str, &'static str); 1]) {
            let is_known = headers
                .get("cookie")
                .is_some_and(|cookie| cookie == "_oauth=ada");
            let status = if is_known {
                StatusCode::ACCEPTED
            } else {
                StatusCode::UNAUTHORIZED
            };
            (status, [("x-user", "ada")])
        }
        async fn start(asked: Asked) -> Response<String> {
            let query = form_urlencoded::parse(asked.uri().query().unwrap().as_bytes());
            let (_, back) = query.into_iter().find(|(name, _)| name == "rd").unwrap();
            let sent = Response::builder().status(302).header("location", &*back);
            sent.header("set-cookie", "_oauth=ada")
                .body(String::new())
                .unwrap()
        }
        Router::new()
            .route("/auth", any(auth))
            .route("/start", any(start))
    }

    #[tokio::test]
    async fn l62_auth_with_a_sign_in_service_comes_back_with_a_cookie() {
        let service = serve(oauth()).await;
        let mut rule = rule(format!("{service}/auth"));
        rule.signin = Some(format!("{service}/start"));
        let gate = authenticator(Auth::External(rule));
        let sent = authorize(&gate, &mut request("/cart?a=b&c=d"))
            .await
            .unwrap_err();
        assert_eq!(sent.status(), 302);

        let browser = Fetch::new(None).unwrap();
        let signin = http::Request::get(sent.headers()["location"].to_str().unwrap());
        let back = browser
            .send(signin.body(Default::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(
            back.headers()["location"],
            "https://shop.example/cart?a=b&c=d"
        );
        let cookie = &back.headers()["set-cookie"];
        let mut again = request("/cart?a=b&c=d").header("cookie", cookie);
        let parts = authorize(&gate, &mut again).await.unwrap();
        assert_eq!(parts.headers["x-user"], "ada");
        let mut forged = request("/cart").header("cookie", "_oauth=eve");
        assert_eq!(
            authorize(&gate, &mut forged).await.unwrap_err().status(),
            302
        );
    }
}
