//! External authentication: another service decides about each request, as in ingress-nginx (`auth-url`).

use anyhow::{Context, Result};
use bytes::Bytes;
use headgate_model::edge::External;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
    request::Parts,
};
use http_body_util::Full;

use crate::{
    answer,
    body::Body,
    fetch::Fetch,
    headers::{self, insert},
    reach::Reach,
    variables::escape,
};

use super::{AuthInput, CheckResult, service_failed, spelling, strip};

/// Headers that describe the request to the service. Those of clients are removed.
const REQUEST_HEADERS: [&str; 11] = [
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

/// Asks a service about each request.
pub(super) struct ExternalCheck {
    rule: External,
    /// If it has no variables.
    url: Option<Uri>,
    method: Method,
    fetch: Fetch,
    /// Headers of the service's response that backends get.
    response_headers: Vec<HeaderName>,
}

impl ExternalCheck {
    pub(super) fn new(rule: &External, reach: &Reach) -> Result<Self> {
        let method = rule.method.as_deref().map_or(Ok(Method::GET), str::parse);
        let names = rule.response_headers.iter();
        let has_variables = rule.url.variables().next().is_some();
        let url = (!has_variables).then(|| rule.url.to_string().parse());
        Ok(Self {
            url: url.transpose().context("auth-url is not a URL")?,
            method: method.context("auth-method is not a method")?,
            fetch: Fetch::new(rule.authorities.as_deref(), reach)?,
            response_headers: names.map(|name| name.parse()).collect::<Result<_, _>>()?,
            rule: rule.clone(),
        })
    }

    pub(super) async fn pass(&self, parts: &mut Parts, input: &AuthInput<'_>) -> CheckResult {
        let url = match &self.url {
            Some(url) => Ok(url.clone()),
            None => input
                .variables(parts)
                .render_escaped(&self.rule.url)
                .parse(),
        };
        let Ok(url) = url else {
            let why = "the request cannot be named to the authentication service";
            return Err(answer::error(StatusCode::BAD_REQUEST, why));
        };
        let subrequest = self.subrequest(url, parts, input);
        let response = match self.fetch.send(subrequest).await {
            Ok(response) => response,
            Err(error) => return Err(service_failed("auth-url", &error)),
        };
        let cookies = response.headers().get_all(header::SET_COOKIE);
        let cookies: Vec<HeaderValue> = cookies.iter().cloned().collect();
        match response.status() {
            status if status.is_success() => {
                self.set_headers(&mut parts.headers, response.headers());
                Ok(cookies)
            }
            StatusCode::UNAUTHORIZED if self.rule.signin.is_some() => {
                let mut response = answer::redirect(302, &self.signin(parts, input));
                for cookie in cookies {
                    response.headers_mut().append(header::SET_COOKIE, cookie);
                }
                Err(response)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(passed_on(response)),
            status => {
                let error = anyhow::anyhow!("{} sent {status}", self.rule.url);
                Err(service_failed("auth-url", &error))
            }
        }
    }

    fn subrequest(&self, url: Uri, parts: &Parts, input: &AuthInput<'_>) -> Request<Full<Bytes>> {
        let mut subrequest = Request::new(Full::default());
        *subrequest.uri_mut() = url;
        *subrequest.method_mut() = self.method.clone();
        let fields = subrequest.headers_mut();
        fields.clone_from(&parts.headers);
        headers::strip_hop_by_hop(fields);
        for name in headers::BODY_AND_CACHE.iter().chain([&header::HOST]) {
            fields.remove(name);
        }
        strip(fields, &REQUEST_HEADERS.map(String::from));
        let redirect = self.rule.redirect.as_ref();
        let redirect = redirect.map(|redirect| input.variables(parts).render(redirect));
        let address = input.address.to_string();
        let mut set = |name, value: &str| insert(fields, HeaderName::from_static(name), value);
        set("x-original-url", &input.url(parts));
        set("x-original-method", parts.method.as_str());
        set(
            "x-auth-request-redirect",
            redirect.as_deref().unwrap_or(input.target),
        );
        set("x-real-ip", &address);
        set("x-forwarded-for", &address);
        set("x-forwarded-method", parts.method.as_str());
        set("x-forwarded-proto", input.scheme());
        set("x-forwarded-host", input.authority(parts));
        set("x-forwarded-uri", input.target);
        subrequest
    }

    /// Copies headers of the service's response to the request. Those of clients are removed in every
    /// spelling.
    fn set_headers(&self, request: &mut HeaderMap, response: &HeaderMap) {
        for name in &self.response_headers {
            strip(request, &[spelling(name.as_str())]);
            for value in response.get_all(name) {
                request.append(name, value.clone());
            }
        }
    }

    /// The URL of the sign-in page, with the URL to return to unless it is there already.
    fn signin(&self, parts: &Parts, input: &AuthInput<'_>) -> String {
        let signin = self.rule.signin.as_ref();
        let signin = signin.map(|signin| input.variables(parts).render(signin));
        let signin = signin.unwrap_or_default();
        let parameter = &self.rule.signin_parameter;
        let query = signin.split_once('?').map(|(_, query)| query);
        let names = query.into_iter().flat_map(|query| query.split('&'));
        let mut names = names.filter_map(|pair| pair.split('=').next());
        if names.any(|name| name == parameter) {
            return signin;
        }
        let mark = if query.is_some() { '&' } else { '?' };
        let back = escape(&input.url(parts));
        format!("{signin}{mark}{parameter}={back}")
    }
}

/// The service's response for the client.
fn passed_on(response: Response<Bytes>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body.into())
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::Request as AxumRequest, routing::any};
    use headgate_model::edge::{Auth, External, Template};
    use http::{HeaderMap, Response, StatusCode};

    use crate::{fetch::Fetch, reach::Reach};

    use super::super::tests::{NOWHERE, authenticator, authorize, request, serve};

    fn rule(url: String) -> External {
        External {
            url: Template::parse(&url).unwrap(),
            method: None,
            signin: None,
            signin_parameter: "rd".into(),
            response_headers: vec!["x-user".into(), "authorization".into()],
            redirect: None,
            authorities: None,
        }
    }

    /// Responds with the status in the path of the checked request, and with what it received.
    async fn decide(received: AxumRequest) -> Response<String> {
        let header = |name: &str| {
            received
                .headers()
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
        };
        let status: u16 = header("x-forwarded-uri")[1..4].parse().unwrap();
        let seen = [
            received.method().as_str(),
            header("x-original-url"),
            header("x-original-method"),
            header("x-real-ip"),
            header("x-auth-request-redirect"),
            header("cookie"),
            header("x_original_url"),
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
        serve(Router::new().fallback(any(decide))).await
    }

    #[tokio::test]
    async fn l61_auth_service_accepts_or_refuses() {
        let mut rule = rule(service().await + "/check?a=b");
        rule.response_headers.push("x-seen".into());
        let guard = authenticator(Auth::External(rule));
        let mut builder = request("/200/x?y=z")
            .method("POST")
            .header("cookie", "a=1")
            .header("content-length", "5")
            .header("authorization", "Bearer for-the-service")
            .header("x-user", "root")
            .header("X_User", "root")
            .header("x_original_url", "https://elsewhere/");
        let parts = authorize(&guard, &mut builder).await.unwrap();
        assert_eq!(parts.headers["x-user"], "ada");
        assert!(
            !parts.headers.contains_key("x_user"),
            "removed in every spelling"
        );
        assert!(!parts.headers.contains_key("x-private"));
        assert!(
            !parts.headers.contains_key("authorization"),
            "the service sent none"
        );
        assert_eq!(
            parts.headers["x-seen"],
            "GET|https://shop.example/200/x?y=z|POST|192.0.2.1|/200/x?y=z|a=1|"
        );
        for (path, status) in [
            ("/401", 401),
            ("/403", 403),
            ("/302", 503),
            ("/404", 503),
            ("/500", 503),
        ] {
            let refused = authorize(&guard, &mut request(path)).await.unwrap_err();
            assert_eq!(refused.status(), status, "{path}");
            let is_passed = matches!(status, 401 | 403);
            assert_eq!(
                refused.headers().contains_key("www-authenticate"),
                is_passed
            );
            assert_eq!(refused.headers().contains_key("set-cookie"), is_passed);
        }
    }

    #[tokio::test]
    async fn l61_auth_unreachable_service_refuses_all_requests() {
        let guard = authenticator(Auth::External(rule(NOWHERE.into())));
        let refused = authorize(&guard, &mut request("/200")).await.unwrap_err();
        assert_eq!(refused.status(), 503);
    }

    #[tokio::test]
    async fn l61_auth_signin_gets_the_url_to_return_to() {
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
            // As Authelia's documentation has it.
            (
                "https://l/?rm=$request_method",
                "https://l/?rm=GET&rd=https%3A%2F%2Fshop.example%2F401%3Fa%3Db",
            ),
            (
                "https://$http_host/in?rd=$uri$is_args$args",
                "https://shop.example/in?rd=/401?a=b",
            ),
        ] {
            rule.signin = Some(Template::parse(signin).unwrap());
            let guard = authenticator(Auth::External(rule.clone()));
            let sent = authorize(&guard, &mut request("/401?a=b"))
                .await
                .unwrap_err();
            assert_eq!(sent.status(), 302);
            assert_eq!(sent.headers()["location"], expected);
            assert_eq!(sent.headers()["set-cookie"], "session=new");
            // 403: the user is known, so signing in does not help.
            let refused = authorize(&guard, &mut request("/403")).await.unwrap_err();
            assert_eq!(refused.status(), 403);
        }
    }

    /// A service like oauth2-proxy: `/start` sets a cookie that `/auth` accepts.
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
        async fn start(received: AxumRequest) -> Response<String> {
            let query = form_urlencoded::parse(received.uri().query().unwrap().as_bytes());
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
    async fn l62_auth_user_returns_from_the_sign_in_service_with_a_cookie() {
        let service = serve(oauth()).await;
        let mut rule = rule(format!("{service}/auth"));
        rule.signin = Some(Template::plain(format!("{service}/start")));
        let guard = authenticator(Auth::External(rule));
        let sent = authorize(&guard, &mut request("/cart?a=b&c=d"))
            .await
            .unwrap_err();
        assert_eq!(sent.status(), 302);

        let browser = Fetch::new(None, &Reach::everything()).unwrap();
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
        let parts = authorize(&guard, &mut again).await.unwrap();
        assert_eq!(parts.headers["x-user"], "ada");
        let mut forged = request("/cart").header("cookie", "_oauth=eve");
        assert_eq!(
            authorize(&guard, &mut forged).await.unwrap_err().status(),
            302
        );
    }
}
