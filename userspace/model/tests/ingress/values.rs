//! Valid values of annotations.

use std::time::Duration;

use headgate_model::edge::{
    Balance, CorsList, CorsOrigin, CorsOrigins, HashBy, HeaderEdit, HostMode, Policy, Rate, Resend,
    Retry, Share, Template, UpstreamPolicy, UpstreamProtocol,
};
use headgate_model::ingress::ANNOTATIONS;

use crate::{
    annotations::{policy, site, upstream},
    build::{name, routes_of},
};

fn policy_of(notes: &[(&str, &str)]) -> Policy {
    let routes = routes_of([site(notes)]);
    assert!(routes.refusals.is_empty(), "{:?}", routes.refusals);
    policy(&routes).clone()
}

fn upstream_of(notes: &[(&str, &str)]) -> UpstreamPolicy {
    let routes = routes_of([site(notes)]);
    assert!(routes.refusals.is_empty(), "{:?}", routes.refusals);
    upstream(&routes).clone()
}

#[test]
fn l19_names_are_in_the_table_once() {
    let mut names: Vec<_> = ANNOTATIONS.iter().map(|known| known.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn l19_limits_are_by_second_and_minute_with_a_burst() {
    let rate = |requests, seconds, burst| Rate {
        requests,
        period: Duration::from_secs(seconds),
        burst,
    };
    let of = |notes: &[(&str, &str)]| policy_of(notes).limits;
    let notes = [("limit-rps", "2"), ("limit-rpm", "30")];
    assert_eq!(of(&notes).rates, [rate(2, 1, 10), rate(30, 60, 150)]);
    let burst = ("limit-burst-multiplier", "1");
    assert_eq!(of(&[notes[0], burst]).rates, [rate(2, 1, 2)]);
    let rest = of(&[("limit-connections", "7"), ("limit-whitelist", "10.0.0.1")]);
    assert_eq!(rest.concurrent, Some(7));
    assert_eq!(rest.exempt, ["10.0.0.1/32".parse().unwrap()]);
    assert_eq!(rest.body_bytes, Some(1 << 20));
    assert_eq!(of(&[("proxy-body-size", "0")]).body_bytes, None);
}

#[test]
fn l19_cors_has_the_defaults_of_ingress_nginx() {
    let on = ("enable-cors", "true");
    assert_eq!(policy_of(&[("cors-max-age", "5")]).cors, None);
    let cors = policy_of(&[on]).cors.unwrap();
    assert!(cors.origins == CorsOrigins::All && !cors.credentials);
    assert_eq!(cors.max_age_s, 1_728_000);
    let methods = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
    assert_eq!(cors.methods, CorsList::Listed(methods.into()));
    let origins = |text| {
        policy_of(&[on, ("cors-allow-origin", text)])
            .cors
            .unwrap()
            .origins
    };
    let origin = |is_wildcard: bool, host: &str| CorsOrigin {
        scheme: "https://".into(),
        wildcard: is_wildcard.then_some(HostMode::OneLabel),
        host: host.into(),
    };
    assert_eq!(
        origins("https://a.com:8443, HTTPS://*.B.com"),
        CorsOrigins::Listed(vec![origin(false, "a.com:8443"), origin(true, "b.com")])
    );
    assert_eq!(origins("https://a.com, *"), CorsOrigins::All);
}

#[test]
fn l19_cookies_have_attributes() {
    assert_eq!(upstream_of(&[("session-cookie-path", "/x")]).sticky, None);
    let on = ("affinity", "cookie");
    let sticky = upstream_of(&[on]).sticky.unwrap();
    assert_eq!(sticky.name, "INGRESSCOOKIE");
    assert_eq!((&*sticky.path, &*sticky.attributes), ("/", "; HttpOnly"));
    let sticky = upstream_of(&[
        on,
        ("affinity-mode", "persistent"),
        ("session-cookie-name", "route"),
        ("session-cookie-path", "/x"),
        ("session-cookie-domain", "foo.com"),
        ("session-cookie-max-age", "60"),
        ("session-cookie-samesite", "Lax"),
        ("session-cookie-secure", "true"),
    ]);
    let sticky = sticky.sticky.unwrap();
    assert_eq!(sticky.name, "route");
    assert_eq!(sticky.path, "/x");
    assert_eq!(
        sticky.attributes,
        "; Domain=foo.com; Max-Age=60; SameSite=Lax; Secure; HttpOnly"
    );
}

#[test]
fn l19_balance_annotations_are_read() {
    for (value, expected) in [
        ("round_robin", Balance::RoundRobin),
        ("least_conn", Balance::LeastConnections),
        ("random", Balance::Random),
        ("ewma", Balance::LeastTime),
        ("ip_hash", Balance::Hash(HashBy::Source)),
    ] {
        assert_eq!(upstream_of(&[("load-balance", value)]).balance, expected);
    }
    for (value, expected) in [
        ("$remote_addr", HashBy::Source),
        ("$binary_remote_addr", HashBy::Source),
        ("$request_uri", HashBy::Uri),
        ("$uri", HashBy::Path),
        ("$args", HashBy::Args),
        (
            "${request_uri}-x$host",
            HashBy::Several(vec![HashBy::Uri, HashBy::Host]),
        ),
        (
            "$uri$is_args$args",
            HashBy::Several(vec![HashBy::Path, HashBy::Args, HashBy::Args]),
        ),
        ("$host", HashBy::Host),
        ("$http_host", HashBy::Host),
        ("$http_x_user_id", HashBy::Header("x-user-id".into())),
        ("$cookie_session", HashBy::Cookie("session".into())),
        ("$arg_q", HashBy::Query("q".into())),
    ] {
        let notes = [("upstream-hash-by", value), ("load-balance", "ewma")];
        assert_eq!(upstream_of(&notes).balance, Balance::Hash(expected));
    }
    for value in ["x", "$host$request_method", "$host$", "$nothing"] {
        let routes = routes_of([site(&[("upstream-hash-by", value)])]);
        assert_eq!(routes.refusals.len(), 1, "{value}");
        assert_eq!(upstream(&routes).balance, Balance::RoundRobin, "{value}");
    }
}

#[test]
fn l19_protocols_are_those_of_ingress_nginx_and_http2() {
    for (value, expected) in [
        ("HTTP", UpstreamProtocol::Http),
        ("https", UpstreamProtocol::Https),
        ("HTTP2", UpstreamProtocol::Http2),
        ("GRPC", UpstreamProtocol::Grpc),
        ("GRPCS", UpstreamProtocol::Grpcs),
    ] {
        let upstream = upstream_of(&[("backend-protocol", value)]);
        assert_eq!(upstream.protocol, expected);
    }
}

#[test]
fn l19_probes_and_outliers_have_times() {
    assert_eq!(upstream_of(&[("/health-check-timeout", "1s")]).probe, None);
    let probe = upstream_of(&[("/health-check-path", "/ok")]).probe.unwrap();
    assert_eq!(probe.path, "/ok");
    assert_eq!(probe.interval, Duration::from_secs(10));
    assert_eq!(probe.timeout, Duration::from_secs(2));
    let upstream = upstream_of(&[
        ("/outlier-failures", "0"),
        ("/outlier-ejection", "500ms"),
        ("/slow-start", "1m"),
        ("/max-requests", "9"),
        ("/proxy-protocol", "true"),
    ]);
    assert_eq!(upstream.outlier.failures, 0);
    assert_eq!(upstream.outlier.ejection, Duration::from_millis(500));
    assert_eq!(upstream.slow_start, Duration::from_secs(60));
    assert_eq!(upstream.concurrent, Some(9));
    assert!(upstream.proxy_protocol);
}

#[test]
fn l19_retry_annotations_are_read() {
    let of = |value| policy_of(&[("proxy-next-upstream", value)]).retry;
    let none = Retry {
        on_error: false,
        on_timeout: false,
        ..Retry::default()
    };
    assert_eq!(of("off"), none);
    assert_eq!(of("error off"), none);
    assert_eq!(
        of("timeout http_502 non_idempotent"),
        Retry {
            on_timeout: true,
            on_codes: vec![502],
            resend: Resend::Always,
            ..none
        }
    );
    let all = "error timeout invalid_header http_502 non_idempotent";
    assert_eq!(
        of(all),
        Retry {
            on_error: true,
            on_timeout: true,
            on_codes: vec![502],
            resend: Resend::Always,
            ..none
        }
    );
    let bad = routes_of([site(&[("proxy-next-upstream", "off invalid_head")])]);
    assert_eq!(
        policy(&bad).retry,
        Retry::default(),
        "a list with an invalid word is refused as a whole"
    );
}

#[test]
fn l19_headers_are_set_and_removed() {
    let notes = [
        ("/request-headers", "X-A: a:b\n\nX-B:\n"),
        ("/response-headers", "Server: us"),
    ];
    let policy = policy_of(&notes);
    let set = |name: &str, value: &str| HeaderEdit::Set(name.into(), value.into());
    assert_eq!(
        policy.request_headers,
        [set("x-a", "a:b"), HeaderEdit::Remove("x-b".into())]
    );
    assert_eq!(policy.response_headers, [set("server", "us")]);
}

#[test]
fn l19_a_mirror_gets_all_or_a_part() {
    let mirror = ("/mirror-service", "api:80");
    let of = |notes: &[(&str, &str)]| policy_of(notes).mirrors.remove(0);
    assert_eq!(of(&[mirror]).share, Share::percent(100));
    assert_eq!(
        of(&[mirror, ("/mirror-percent", "5")]).share,
        Share::percent(5)
    );
    assert_eq!(of(&[mirror]).upstream.to_string(), "default/api:80");
    let mut team = site(&[mirror]);
    team.name = name("team/a");
    let routes = routes_of([team]);
    let mirror = &policy(&routes).mirrors[0];
    assert_eq!(mirror.upstream.to_string(), "team/api:80");
}

#[test]
fn l19_other_annotations_are_read() {
    let policy = policy_of(&[
        ("upstream-vhost", "Inner.svc:8080"),
        ("x-forwarded-prefix", "/p"),
        ("/compress", "true"),
        ("enable-access-log", "false"),
        ("enable-opentelemetry", "false"),
        ("opentelemetry-trust-incoming-span", "false"),
        ("proxy-connect-timeout", "1"),
        ("proxy-read-timeout", "2m"),
        ("proxy-send-timeout", "3s"),
        ("proxy-buffering", "anything"),
    ]);
    assert_eq!(policy.host, Some(Template::plain("Inner.svc:8080")));
    assert_eq!(policy.forwarded_prefix, Some(Template::plain("/p")));
    assert!(policy.compress && !policy.access_log);
    assert!(!policy.traces && !policy.trusts_traces);
    assert!(Policy::default().traces && Policy::default().trusts_traces);
    assert_eq!(policy.timeouts.connect, Duration::from_secs(1));
    assert_eq!(policy.timeouts.read, Duration::from_secs(120));
    assert_eq!(policy.timeouts.send, Duration::from_secs(3));
}
