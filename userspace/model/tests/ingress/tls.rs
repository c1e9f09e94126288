use headgate_model::ingress::{Ingress, IngressOptions, Objects, Routes, routes};

use crate::build::{
    Build, Prefix, answer, fields, find, get, ingress, name, objects, refusals, routes_of, secret,
};

const BOTH: [&str; 2] = ["tls.crt", "tls.key"];

fn site(text: &str) -> Ingress {
    ingress(text).rule("foo.com", Prefix, "/", "web")
}

fn world(ingresses: impl IntoIterator<Item = Ingress>, secrets: &[&str]) -> Objects {
    let mut objects = objects(ingresses);
    for text in secrets {
        objects.secrets.insert(name(text), secret(&BOTH));
    }
    objects
}

fn read(objects: &Objects) -> Routes {
    routes(objects, &IngressOptions::default())
}

/// Host and Secret of each certificate.
fn shown(routes: &Routes) -> Vec<String> {
    let certificates = routes.listener.certificates.iter();
    let text = |(host, certificate): (&String, _)| format!("{host}={certificate:?}");
    certificates.map(text).collect()
}

#[test]
fn l10_a_secret_is_for_the_hosts_that_are_named_or_those_of_the_rules() {
    let two = || site("a").rule("*.bar.com", Prefix, "/", "web");
    let of = |ingress: Ingress| shown(&read(&world([ingress], &["s"])));
    assert_eq!(
        of(two().tls(&["x.com", "*.y.com"], "s")),
        [
            "*.y.com=Certificate(default/s)",
            "x.com=Certificate(default/s)"
        ]
    );
    assert_eq!(
        of(two().tls(&[], "s")),
        [
            "*.bar.com=Certificate(default/s)",
            "foo.com=Certificate(default/s)"
        ]
    );
    assert_eq!(
        of(ingress("a").rest("web").tls(&[], "s")),
        ["=Certificate(default/s)"]
    );
}

#[test]
fn l10_a_certificate_is_chain_and_key_of_the_secret() {
    let routes = read(&world([site("a").tls(&["foo.com"], "s")], &["s"]));
    let certificate = &routes.listener.certificates["foo.com"];
    assert_eq!(certificate.chain, b"tls.crt");
    assert_eq!(certificate.key, b"tls.key");
}

#[test]
fn l10_the_oldest_wins_a_host_and_the_other_is_refused() {
    let sites = [
        site("a").created(2).tls(&["foo.com"], "new"),
        ingress("b").created(1).tls(&["foo.com"], "old"),
        ingress("c").created(3).tls(&["foo.com"], "old"),
    ];
    let routes = read(&world(sites, &["new", "old"]));
    assert_eq!(shown(&routes), ["foo.com=Certificate(default/old)"]);
    assert_eq!(
        refusals(&routes),
        ["Ingress default/a: spec.tls[0].hosts: \
          host `foo.com` has the certificate of default/old"]
    );
}

#[test]
fn l10_a_missing_or_incomplete_secret_is_refused_and_other_hosts_stay() {
    let asking = site("a")
        .tls(&["foo.com"], "gone")
        .tls(&["a.com"], "no-key")
        .tls(&["b.com"], "s");
    let mut objects = world([asking], &["s"]);
    let half = secret(&["tls.crt"]);
    objects.secrets.insert(name("no-key"), half);
    let routes = read(&objects);
    assert_eq!(shown(&routes), ["b.com=Certificate(default/s)"]);
    assert_eq!(answer(&routes, "foo.com", "/"), "web");
    assert_eq!(
        refusals(&routes),
        [
            "Ingress default/a: spec.tls[0].secretName: there is no Secret default/gone",
            "Ingress default/a: spec.tls[1].secretName: Secret default/no-key has no tls.key",
        ]
    );
}

#[test]
fn l10_a_secret_of_another_namespace_cannot_be_used() {
    for text in ["s", "team/s"] {
        let objects = world([site("a").tls(&["foo.com"], text)], &["team/s"]);
        let routes = read(&objects);
        assert!(routes.listener.certificates.is_empty());
        assert_eq!(fields(&routes), ["spec.tls[0].secretName"]);
    }
    let verified = site("a")
        .note("proxy-ssl-secret", "team/s")
        .note("backend-protocol", "HTTPS");
    let routes = read(&world([verified], &["team/s", "s"]));
    let policy = &find(&routes, &get("foo.com", "/")).unwrap().policy;
    assert!(policy.closed.is_some());
}

#[test]
fn l10_the_default_certificate_is_that_of_the_command_line() {
    let with = |secret: &str| {
        let options = IngressOptions {
            default_certificate: Some(name(secret)),
            ..IngressOptions::default()
        };
        routes(&world([site("a")], &["team/s"]), &options)
    };
    let found = with("team/s").listener.default_certificate.unwrap();
    assert_eq!(format!("{found:?}"), "Certificate(team/s)");
    let missing = with("gone");
    assert!(missing.listener.default_certificate.is_none());
    assert_eq!(
        refusals(&missing),
        ["Secret default/gone: --default-certificate: there is no Secret default/gone"]
    );
}

fn to_https(routes: &Routes, host: &str) -> bool {
    find(routes, &get(host, "/")).unwrap().policy.to_https
}

#[test]
fn l11_http_is_redirected_where_the_host_has_tls() {
    let hosts = || {
        site("a")
            .rule("a.bar.com", Prefix, "/", "web")
            .rule("plain.com", Prefix, "/", "web")
    };
    // The entry may be of another Ingress, and without a Secret.
    let mut other = ingress("b").tls(&["*.bar.com"], "s");
    other.tls[0].secret = None;
    let routes = routes_of([hosts().tls(&["foo.com"], "s"), other]);
    assert!(to_https(&routes, "foo.com"));
    assert!(to_https(&routes, "a.bar.com"));
    assert!(!to_https(&routes, "plain.com"));
}

#[test]
fn l11_the_redirect_can_be_turned_off_and_forced() {
    for (key, value, with_tls, without) in [
        ("ssl-redirect", "false", false, false),
        ("ssl-redirect", "true", true, false),
        ("force-ssl-redirect", "true", true, true),
        ("force-ssl-redirect", "false", true, false),
    ] {
        let asking = || site("a").note(key, value);
        let secure = routes_of([asking().tls(&["foo.com"], "s")]);
        assert_eq!(to_https(&secure, "foo.com"), with_tls, "{key} {value}");
        let plain = routes_of([asking()]);
        assert_eq!(to_https(&plain, "foo.com"), without, "{key} {value}");
    }
}
