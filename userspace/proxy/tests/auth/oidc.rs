//! Login at an OpenID provider, by a client that follows redirects and stores cookies.

use std::sync::Arc;

use headgate_idp::{CLIENT, Fault, Idp, SECRET};
use headgate_model::edge::{Auth, Claims, Hidden, Introspection, Jwt, JwtKeys, Oidc, Server};
use reqwest::{Client, Response, redirect::Policy};
use tokio_rustls::rustls::{ClientConfig, crypto::aws_lc_rs};

use crate::setup::{HOSTS, Setup, request};

const SESSION: &str = "__Host-headgate-session";

struct World {
    idp: Idp,
    setup: Setup,
}

impl World {
    async fn new() -> Self {
        let idp = Idp::start().await;
        let issuer = Server {
            url: idp.issuer().into(),
            authorities: None,
        };
        let setup = Setup::new(Auth::Oidc(Oidc {
            issuer,
            client_id: CLIENT.into(),
            client_secret: Hidden(SECRET.into()),
            cookie_key: Hidden(vec![7; 32]),
            scopes: vec!["email".into()],
            callback: "/oauth2/callback".into(),
            logout: "/oauth2/logout".into(),
            headers: [("x-auth-email".into(), "email".into())].into(),
        }));
        Self {
            idp,
            setup: setup.await,
        }
    }

    fn browser(&self, redirects: Policy) -> Client {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.setup.roots.clone())
            .with_no_client_auth();
        Client::builder()
            .tls_backend_preconfigured(tls)
            .resolve(HOSTS[0], self.setup.https)
            .cookie_store(true)
            .redirect(redirects)
            .build()
            .unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", HOSTS[0], self.setup.https.port())
    }

    async fn get(&self, browser: &Client, path: &str) -> Response {
        browser.get(self.url(path)).send().await.unwrap()
    }
}

fn follow() -> Policy {
    Policy::limited(10)
}

/// `Set-Cookie` of this name.
fn cookie(response: &Response, name: &str) -> String {
    let all = response.headers().get_all("set-cookie").iter();
    let mut texts = all.map(|value| value.to_str().unwrap().to_owned());
    texts
        .find(|text| text.starts_with(&format!("{name}=")))
        .unwrap()
}

#[tokio::test]
async fn l70_auth_user_logs_in_once_and_has_a_session() {
    let world = World::new().await;
    let browser = world.browser(follow());
    let first = world.get(&browser, "/cart?a=b&c=%2F").await;
    assert_eq!(first.url().as_str(), world.url("/cart?a=b&c=%2F"));
    let headers: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&first.bytes().await.unwrap()).unwrap();
    assert_eq!(headers["x-auth-user"], "ada");
    assert_eq!(headers["x-auth-email"], "ada@shop.example", "from userinfo");
    assert!(
        !headers.contains_key("cookie"),
        "session cookies do not reach backends"
    );
    for _ in 0..3 {
        assert_eq!(world.get(&browser, "/").await.status(), 200);
    }
    assert_eq!((world.idp.logins(), world.setup.hits()), (1, 4));
}

#[tokio::test]
async fn l70_auth_login_counts_only_in_the_browser_that_began_it() {
    let world = World::new().await;
    let browser = world.browser(Policy::none());
    let sent = world.get(&browser, "/").await;
    assert_eq!(sent.status(), 302);
    let login = cookie(&sent, "__Host-headgate-login");
    assert!(
        login.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"),
        "{login}"
    );
    let location = sent.headers()["location"].to_str().unwrap();
    for part in [
        "code_challenge_method=S256",
        "nonce=",
        "state=",
        "response_type=code",
        "scope=openid+email",
    ] {
        assert!(location.contains(part), "{location}");
    }
    let back = browser.get(location).send().await.unwrap();
    let back = back.headers()["location"].to_str().unwrap().to_owned();

    // Another browser has not begun this login.
    let other = world.browser(Policy::none());
    assert_eq!(other.get(&back).send().await.unwrap().status(), 400);
    let forged = back.replace("state=", "state=x");
    assert_eq!(browser.get(&forged).send().await.unwrap().status(), 400);
    let done = browser.get(&back).send().await.unwrap();
    assert_eq!(done.status(), 302);
    let session = cookie(&done, SESSION);
    assert!(
        session.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"),
        "{session}"
    );
    // Codes and logins are valid once.
    assert_eq!(browser.get(&back).send().await.unwrap().status(), 400);

    let (pair, _) = session.split_once(';').unwrap();
    let changed = pair.replacen("session=", "session=A", 1);
    for (cookie, expected) in [(pair, 200), (&*changed, 302)] {
        let builder = request("/").header("cookie", cookie);
        assert_eq!(world.setup.get(builder).await.status(), expected);
    }
    assert_eq!(world.setup.hits(), 1);
}

#[tokio::test]
async fn l70_auth_tokens_of_another_login_are_refused() {
    let world = World::new().await;
    for (fault, expected) in [
        (Fault::Audience, 403),
        (Fault::Issuer, 403),
        (Fault::Nonce, 403),
        (Fault::Expired, 403),
        (Fault::Key, 403),
        (Fault::Refused, 403),
        (Fault::Userinfo, 503),
    ] {
        world.idp.set_fault(fault);
        let browser = world.browser(follow());
        assert_eq!(
            world.get(&browser, "/").await.status(),
            expected,
            "{fault:?}"
        );
        assert_eq!(world.setup.hits(), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn l70_auth_session_is_refreshed_at_the_provider() {
    let world = World::new().await;
    // Expired, but within the accepted clock difference.
    world.idp.set_lifetime(-1);
    let browser = world.browser(Policy::none());
    let mut next = world.url("/");
    let old = loop {
        let sent = browser.get(&next).send().await.unwrap();
        next = sent.headers()["location"].to_str().unwrap().into();
        if sent.headers().get_all("set-cookie").iter().any(|cookie| {
            let text = cookie.to_str().unwrap();
            text.starts_with(SESSION) && !text.contains("Max-Age=0")
        }) {
            break cookie(&sent, SESSION);
        }
    };
    world.idp.set_lifetime(300);
    let (old, _) = old.split_once(';').unwrap();
    // Two concurrent requests have the old session; its refresh token is valid once.
    let builder = || request("/").header("cookie", old);
    let (one, other) = tokio::join!(world.setup.get(builder()), world.setup.get(builder()));
    assert_eq!(
        (one.status(), other.status()),
        (http::StatusCode::OK, http::StatusCode::OK)
    );
    assert!(
        one.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .starts_with(SESSION)
    );
    assert_eq!(world.idp.refreshes(), 1);

    let logins = world.idp.logins();
    assert_eq!(world.get(&browser, "/").await.status(), 200);
    assert_eq!(world.get(&browser, "/").await.status(), 200);
    assert_eq!((world.idp.refreshes(), world.idp.logins()), (1, logins));
}

#[tokio::test]
async fn l70_auth_session_ends_if_the_provider_refuses_a_refresh() {
    let world = World::new().await;
    world.idp.set_lifetime(-1);
    world.idp.set_fault(Fault::Refresh);
    let browser = world.browser(follow());
    // Each new session is expired already, so the browser is redirected in a loop.
    let lost = browser.get(world.url("/")).send().await.unwrap_err();
    assert!(lost.is_redirect(), "{lost}");
    assert!(world.idp.logins() > 1);
    assert_eq!((world.idp.refreshes(), world.setup.hits()), (0, 0));
}

#[tokio::test]
async fn l70_auth_login_returns_to_the_host_where_it_began() {
    let world = World::new().await;
    let browser = world.browser(follow());
    for path in [
        "//other.example/",
        "/\\other.example",
        "/a?next=https://other.example",
    ] {
        let done = world.browser(follow()).get(world.url(path)).send().await;
        let host = done.unwrap().url().host_str().unwrap().to_owned();
        assert_eq!(host, HOSTS[0], "{path}");
    }
    let parameter = "/oauth2/callback?rd=https://other.example&code=x&state=y";
    assert_eq!(world.get(&browser, parameter).await.status(), 400);
}

#[tokio::test]
async fn l70_auth_logout_ends_the_session_here_and_at_the_provider() {
    let world = World::new().await;
    let browser = world.browser(follow());
    world.get(&browser, "/").await;
    let out = world.get(&browser, "/oauth2/logout").await;
    assert!(out.url().as_str().starts_with(world.idp.issuer()));
    assert_eq!(out.text().await.unwrap(), "logged out at the provider");
    let hits = world.setup.hits();
    let waiting = browser.get(world.url("/")).header("sec-fetch-mode", "cors");
    assert_eq!(
        waiting.send().await.unwrap().status(),
        401,
        "scripts cannot log in"
    );
    assert_eq!(
        browser.post(world.url("/")).send().await.unwrap().status(),
        401
    );
    assert_eq!(
        world.setup.plain(request("/")).await.status(),
        400,
        "no session without TLS"
    );
    assert_eq!(world.setup.hits(), hits);
}

#[tokio::test]
async fn l66_l67_auth_tokens_of_a_provider_are_accepted_without_login() {
    let idp = Idp::start().await;
    let at = |path: &str| Server {
        url: format!("{}{path}", idp.issuer()),
        authorities: None,
    };
    let opaque = Setup::new(Auth::Introspection(Introspection {
        server: at("/introspect"),
        client_id: CLIENT.into(),
        client_secret: Hidden(SECRET.into()),
        scopes: Vec::new(),
        claims: Claims::default(),
    }));
    let opaque = opaque.await;
    for (token, expected) in [("access", 200), ("other", 401)] {
        let builder = request("/").header("authorization", format!("Bearer {token}"));
        assert_eq!(opaque.get(builder).await.status(), expected, "{token}");
    }
    let signed = Setup::new(Auth::Jwt(Jwt {
        keys: JwtKeys::Url(at("/keys")),
        claims: Claims {
            issuer: Some(idp.issuer().into()),
            audiences: vec![CLIENT.into()],
            ..Claims::default()
        },
    }));
    let signed = signed.await;
    for (fault, expected) in [
        (Fault::None, 200),
        (Fault::Key, 401),
        (Fault::Audience, 401),
        (Fault::Issuer, 401),
        (Fault::Expired, 401),
    ] {
        idp.set_fault(fault);
        let builder = request("/").header("authorization", format!("Bearer {}", idp.id_token()));
        assert_eq!(signed.get(builder).await.status(), expected, "{fault:?}");
    }
}
