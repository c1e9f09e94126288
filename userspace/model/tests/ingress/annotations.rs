use headgate_model::edge::{Policy, Trust, UpstreamPolicy};
use headgate_model::ingress::{ANNOTATIONS, Ingress, Routes};

use crate::build::{
    Build, Prefix, annotation, fields, find, get, ingress, name, objects, refusals, routes_of,
    secret,
};

pub(crate) fn site(notes: &[(&str, &str)]) -> Ingress {
    let site = ingress("a").rule("foo.com", Prefix, "/", "web");
    notes
        .iter()
        .fold(site, |site, (key, value)| site.note(key, value))
}

pub(crate) fn policy(routes: &Routes) -> &Policy {
    &find(routes, &get("foo.com", "/")).unwrap().policy
}

pub(crate) fn upstream(routes: &Routes) -> &UpstreamPolicy {
    &routes.listener.upstreams().next().unwrap().policy
}

/// Not a number, a word, a list, a pattern or a line of a header.
const BAD: &str = "(\n\u{1}";

#[test]
fn l16_an_invalid_value_is_refused_by_its_key_and_a_guard_closes() {
    for known in ANNOTATIONS.iter() {
        if known.meaning.starts_with("has no effect") {
            continue;
        }
        let nginx = known.is_nginx.then(|| known.name.to_owned());
        for key in nginx.into_iter().chain([format!("/{}", known.name)]) {
            let routes = routes_of([site(&[(&key, BAD)])]);
            let field = format!("metadata.annotations[{}]", annotation(&key));
            assert_eq!(fields(&routes), [&*field]);
            let closed = policy(&routes).closed.as_deref();
            assert_eq!(closed.is_some(), known.is_guard, "{key}");
        }
    }
}

#[test]
fn l16_a_guard_without_a_value_closes() {
    for known in ANNOTATIONS.iter().filter(|known| known.is_guard) {
        let routes = routes_of([site(&[(&format!("/{}", known.name), " ")])]);
        assert!(policy(&routes).closed.is_some(), "{}", known.name);
    }
}

#[test]
fn l16_an_unknown_annotation_is_refused_by_its_key() {
    for key in [
        "/limit-rp",
        "/",
        "limit-rp",
        "configuration-snippet",
        "server-snippet",
        "stream-snippet",
        "modsecurity-snippet",
        // Only with the prefix of Headgate.
        "compress",
        "mirror-service",
    ] {
        let routes = routes_of([site(&[(key, "true")])]);
        let expected = format!(
            "Ingress default/a: metadata.annotations[{}]: is not supported: ",
            annotation(key)
        );
        let [refusal] = &refusals(&routes)[..] else {
            panic!("{key}: {:?}", routes.refusals);
        };
        assert!(refusal.starts_with(&expected), "{refusal}");
        assert_eq!(policy(&routes).closed, None, "{key}");
    }
}

#[test]
fn l16_annotations_with_other_prefixes_are_ignored() {
    let mut asking = site(&[]);
    for key in [
        "cert-manager.io/cluster-issuer",
        "kubernetes.io/tls-acme",
        "auth-url",
    ] {
        asking.annotations.insert(key.into(), "x".into());
    }
    let routes = routes_of([asking]);
    assert!(routes.refusals.is_empty());
    assert_eq!(*policy(&routes), Policy::default());
}

#[test]
fn l16_unsupported_authentication_closes() {
    for key in [
        "auth-url",
        "auth-type",
        "auth-secret",
        "auth-tls-secret",
        "auth-snippet",
        "satisfy",
        "/auth-url",
        "/auth-anything",
    ] {
        let routes = routes_of([site(&[(key, "x")])]);
        assert!(policy(&routes).closed.is_some(), "{key}");
        let field = format!("metadata.annotations[{}]", annotation(key));
        assert_eq!(fields(&routes), [&*field]);
    }
}

#[test]
fn l16_characters_that_end_a_line_or_header_are_refused() {
    for (key, value) in [
        ("upstream-vhost", "a\r\nX-Admin: 1"),
        ("x-forwarded-prefix", "/a\nX: 1"),
        ("permanent-redirect", "https://a.com/\r\nSet-Cookie: a=b"),
        ("app-root", "/a\0b"),
        ("rewrite-target", "/a\u{7f}"),
        ("session-cookie-name", "a=b; Domain"),
        ("session-cookie-path", "/;Domain=com"),
        ("session-cookie-domain", "a.com;"),
        ("cors-allow-headers", "X-A\r\nX-B"),
        ("canary-by-header-value", "a\u{1}b"),
        ("/hsts", "max-age=1\nX: 1"),
        ("/response-headers", "X-A: a\rb"),
        ("/response-headers", "X A: a"),
        ("/response-headers", "Content-Length: 0"),
        ("/request-headers", "Transfer-Encoding: chunked"),
        ("/request-headers", "Host: a.com"),
        ("/mirror-service", "web\n:80"),
        ("/mirror-service", "team/web:80"),
        ("/weights", "a\nb=1"),
    ] {
        let routes = routes_of([site(&[(key, value)])]);
        let field = format!("metadata.annotations[{}]", annotation(key));
        assert_eq!(fields(&routes), [&*field], "{key} {value:?}");
    }
}

#[test]
fn l16_a_missing_reference_is_refused_by_its_key() {
    for (notes, key) in [
        (&[("/mirror-service", "missing:80")][..], "/mirror-service"),
        (&[("proxy-ssl-secret", "gone")][..], "proxy-ssl-secret"),
        (&[("/proxy-ssl-secret", "gone")][..], "/proxy-ssl-secret"),
        (&[("proxy-ssl-verify", "on")][..], "proxy-ssl-verify"),
    ] {
        // Occurs at each host, but is refused once.
        let routes = routes_of([site(notes).rule("bar.com", Prefix, "/", "web")]);
        let field = format!("metadata.annotations[{}]", annotation(key));
        assert_eq!(fields(&routes), [&*field]);
        let is_guard = key.ends_with("secret") || key.ends_with("verify");
        assert_eq!(policy(&routes).closed.is_some(), is_guard, "{key}");
        assert_eq!(policy(&routes).mirrors, []);
    }
}

#[test]
fn l16_verified_backends_need_a_ca() {
    let verified = site(&[("proxy-ssl-verify", "on"), ("proxy-ssl-secret", "s")]);
    for (keys, closes) in [
        (&["ca.crt", "tls.crt", "tls.key"][..], false),
        (&["ca.crt"], false),
        (&["tls.crt", "tls.key"], true),
    ] {
        let mut objects = objects([verified.clone()]);
        objects.secrets.insert(name("s"), secret(keys));
        let routes = headgate_model::ingress::routes(&objects, &Default::default());
        assert_eq!(policy(&routes).closed.is_some(), closes, "{keys:?}");
        let tls = &upstream(&routes).tls;
        assert_eq!(tls.trust != Trust::Unverified, !closes);
        assert_eq!(tls.identity.is_some(), !closes && keys.len() == 3);
    }
}

#[test]
fn l17_the_prefix_of_headgate_replaces_that_of_ingress_nginx() {
    let routes = routes_of([site(&[
        ("proxy-body-size", "1k"),
        ("/proxy-body-size", "2k"),
        ("allowlist-source-range", "10.0.0.0/8"),
        ("/allowlist-source-range", "192.0.2.0/24"),
        ("proxy-next-upstream", "http_502"),
        ("/proxy-next-upstream", "error http_503"),
    ])]);
    let policy = policy(&routes);
    assert_eq!(policy.limits.body_bytes, Some(2048));
    let allow = policy.sources.allow.clone();
    assert_eq!(allow, Some(vec!["192.0.2.0/24".parse().unwrap()]));
    assert_eq!(policy.retry.on_codes, [503]);
    assert!(!policy.retry.on_timeout);
    assert!(routes.refusals.is_empty());
}

#[test]
fn l17_a_replaced_annotation_is_not_read() {
    let one = routes_of([site(&[("limit-rps", BAD), ("/limit-rps", "5")])]);
    assert!(one.refusals.is_empty());
    assert_eq!(policy(&one).closed, None);
    let other = routes_of([site(&[("limit-rps", "5"), ("/limit-rps", BAD)])]);
    assert!(policy(&other).closed.is_some());
    assert!(policy(&other).limits.rates.is_empty());
}

#[test]
fn l17_the_newer_name_of_the_allow_list_wins() {
    let new = ("allowlist-source-range", "10.0.0.0/8");
    let old = ("whitelist-source-range", "192.0.2.0/24");
    for (notes, expected) in [(&[new, old][..], new.1), (&[old], old.1)] {
        let routes = routes_of([site(notes)]);
        let allow = policy(&routes).sources.allow.clone();
        assert_eq!(allow, Some(vec![expected.parse().unwrap()]));
    }
}
