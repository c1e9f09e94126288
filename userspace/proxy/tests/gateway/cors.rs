//! Cross-origin requests.

use headgate_model::edge::{Cors, CorsList, CorsOrigin, CorsOrigins, HostMode};
use http::Method;

use crate::{
    client::{Got, ask, get},
    setup::{RouteExt, Setup, route},
};

fn origin(scheme: &str, wildcard: Option<HostMode>, host: &str) -> CorsOrigin {
    CorsOrigin {
        scheme: format!("{scheme}://"),
        wildcard,
        host: host.into(),
    }
}

fn cors(origins: CorsOrigins) -> Cors {
    Cors {
        origins,
        methods: CorsList::Listed("GET, OPTIONS".into()),
        headers: CorsList::Listed("x-header-1, x-header-2".into()),
        expose: Some("x-header-3, x-header-4".into()),
        credentials: false,
        max_age_s: 5,
    }
}

async fn setup(cors: Cors) -> Setup {
    Setup::routes(vec![route("web").policy(|policy| policy.cors = Some(cors))]).await
}

async fn preflight(setup: &Setup, origin: &str, method: &str, headers: Option<&str>) -> Got {
    let mut asked = ask(Method::OPTIONS, "a.test", "/")
        .header("origin", origin)
        .header("access-control-request-method", method);
    if let Some(headers) = headers {
        asked = asked.header("access-control-request-headers", headers);
    }
    setup.send(80, asked).await
}

fn allowed<'a>(got: &'a Got, what: &str) -> Option<&'a str> {
    got.header(&format!("access-control-{what}"))
}

#[tokio::test]
async fn g87_g88_g91_preflights_are_answered_without_the_backend() {
    let listed = CorsOrigins::Listed(vec![origin("https", None, "www.foo.com")]);
    let setup = setup(cors(listed)).await;
    let got = preflight(&setup, "https://www.foo.com", "GET", Some("x-header-1")).await;
    assert_eq!(got.status, 204);
    for (what, expected) in [
        ("allow-origin", Some("https://www.foo.com")),
        ("allow-methods", Some("GET, OPTIONS")),
        ("allow-headers", Some("x-header-1, x-header-2")),
        ("expose-headers", Some("x-header-3, x-header-4")),
        ("max-age", Some("5")),
        ("allow-credentials", None),
    ] {
        assert_eq!(allowed(&got, what), expected, "{what}");
    }
    assert_eq!(got.header("vary"), Some("Origin"));
    let got = preflight(&setup, "https://evil.com", "GET", None).await;
    assert_eq!(got.status, 204);
    let names = got.headers.keys().map(http::HeaderName::as_str);
    assert!(!names.into_iter().any(|name| name.starts_with("access-")));
    assert_eq!(setup.hits("web"), 0);
    // Without a method that is asked for it is a request as any other.
    let plain = ask(Method::OPTIONS, "a.test", "/").header("origin", "https://www.foo.com");
    assert_eq!(setup.send(80, plain).await.by(), "web");
}

#[tokio::test]
async fn g88_requests_of_other_origins_go_on_without_headers_of_cors() {
    let listed = CorsOrigins::Listed(vec![origin("https", None, "www.foo.com")]);
    let setup = setup(cors(listed)).await;
    for (origin, expected) in [
        ("https://www.foo.com", Some("https://www.foo.com")),
        ("https://evil.com", None),
    ] {
        let got = setup
            .send(80, get("a.test", "/").header("origin", origin))
            .await;
        assert_eq!(got.by(), "web");
        assert_eq!(allowed(&got, "allow-origin"), expected);
        assert_eq!(
            allowed(&got, "expose-headers").is_some(),
            expected.is_some()
        );
        assert_eq!(got.header("vary"), Some("Origin"));
    }
}

#[tokio::test]
async fn g89_origins_match_by_scheme_wildcard_and_port() {
    let suffix = Some(HostMode::Suffix);
    let listed = CorsOrigins::Listed(vec![
        origin("https", suffix, "bar.com"),
        origin("https", suffix, "port.com:8443"),
        origin("http", None, "plain.com"),
        origin("http", suffix, ":8080"),
    ]);
    let setup = setup(cors(listed)).await;
    for (page, is_allowed) in [
        ("https://a.bar.com", true),
        ("https://a.b.bar.com", true),
        ("https://a.bar.com:443", true),
        ("https://bar.com", false),
        ("https://xbar.com", false),
        ("http://a.bar.com", false),
        ("https://a.bar.com:8443", false),
        ("https://a.bar.com.evil.com", false),
        ("https://a.port.com:8443", true),
        ("https://a.port.com", false),
        ("http://plain.com", true),
        ("http://plain.com:80", true),
        ("http://plain.com:443", false),
        ("https://plain.com", false),
        ("http://any.example:8080", true),
        ("http://any.example", false),
        ("null", false),
    ] {
        let got = preflight(&setup, page, "GET", None).await;
        let expected = is_allowed.then_some(page);
        assert_eq!(allowed(&got, "allow-origin"), expected, "{page}");
    }
    let setup = self::setup(cors(CorsOrigins::Each)).await;
    for page in ["https://a.com", "http://a.com:8080", "null"] {
        let got = preflight(&setup, page, "GET", None).await;
        assert_eq!(allowed(&got, "allow-origin"), Some(page));
    }
}

#[tokio::test]
async fn g90_g91_wildcards_are_what_was_asked_for() {
    for credentials in [true, false] {
        let all = Cors {
            methods: CorsList::Asked,
            headers: CorsList::Asked,
            credentials,
            max_age_s: 3600,
            ..cors(CorsOrigins::Each)
        };
        let setup = setup(all).await;
        let page = "https://a.com";
        let got = preflight(&setup, page, "PUT", Some("x-a, x-b")).await;
        assert_eq!(allowed(&got, "allow-origin"), Some(page));
        assert_eq!(allowed(&got, "allow-methods"), Some("PUT"));
        assert_eq!(allowed(&got, "allow-headers"), Some("x-a, x-b"));
        assert_eq!(allowed(&got, "max-age"), Some("3600"));
        let expected = credentials.then_some("true");
        assert_eq!(allowed(&got, "allow-credentials"), expected);
        let got = preflight(&setup, page, "PUT", None).await;
        assert_eq!(allowed(&got, "allow-headers"), None);
    }
    let none = Cors {
        methods: CorsList::Listed(String::new()),
        headers: CorsList::Listed(String::new()),
        ..cors(CorsOrigins::Each)
    };
    let got = preflight(&setup(none).await, "https://a.com", "GET", Some("x-a")).await;
    assert_eq!(allowed(&got, "allow-origin"), Some("https://a.com"));
    assert_eq!(allowed(&got, "allow-methods"), None);
    assert_eq!(allowed(&got, "allow-headers"), None);
}
