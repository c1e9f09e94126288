use std::cmp::Reverse;

use headgate_model::edge::{Certificate, for_host};
use headgate_model::ingress::{
    Ingress, IngressBackend, IngressOptions, Objects, PathType, Routes, routes,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::build::{
    Build, Exact, NAMESPACES, Prefix, SERVICES, answer, ingress, name, objects, secret,
};

const HOSTS: [&str; 4] = ["foo.com", "bar.foo.com", "*.foo.com", ""];
const PATHS: [&str; 6] = ["/", "/a", "/a/", "/a/b", "/ab", "/a/b/"];
const ASKED: [&str; 5] = [
    "foo.com",
    "bar.foo.com",
    "x.foo.com",
    "y.x.foo.com",
    "other",
];

/// Annotations that affect more than their own routes.
const NOTES: [(&str, &str); 12] = [
    ("auth-tls-secret", "s"),
    ("/match-source", "0.0.0.0/0, ::/0"),
    ("permanent-redirect", "https://other.example/"),
    ("canary", "true"),
    ("ssl-passthrough", "true"),
    ("server-alias", "x.foo.com, y.x.foo.com"),
    ("from-to-www-redirect", "true"),
    ("use-regex", "true"),
    ("/mirror-service", "rest:80"),
    ("/match-method", "POST"),
    ("auth-url", "https://sso"),
    ("rewrite-target", "/x"),
];

prop_compose! {
    /// An Ingress of one of these namespaces, with rules for some of these hosts.
    fn any_ingress(namespaces: &'static [&'static str], hosts: &'static [&'static str])(
        namespace in select(namespaces),
        number in 0u8..6,
        created in 0i64..3,
        rules in vec((select(hosts), select(&[Exact, Prefix][..]), select(&PATHS[..]), select(&SERVICES[..])), 0..4),
        rest in proptest::option::of(select(&SERVICES[..])),
        tls in proptest::option::of(select(hosts)),
    ) -> Ingress {
        let mut made = ingress(&format!("{namespace}/i{number}")).created(created);
        for (host, path_type, path, service) in rules {
            made = made.rule(host, path_type, path, service);
        }
        // Without rules it is for every other host.
        if let Some(service) = rest.filter(|_| !made.rules.is_empty()) {
            made = made.rest(service);
        }
        match tls.filter(|_| !made.rules.is_empty()) {
            Some(host) => made.tls(&[host], "s"),
            None => made,
        }
    }
}

prop_compose! {
    fn annotated(namespaces: &'static [&'static str])(
        made in any_ingress(namespaces, &HOSTS),
        notes in vec(select(&NOTES[..]), 0..3),
    ) -> Ingress {
        notes.into_iter().fold(made, |made, (key, value)| made.note(key, value))
    }
}

fn world(ingresses: impl IntoIterator<Item = Ingress>) -> Objects {
    let mut objects = objects(ingresses);
    for namespace in NAMESPACES {
        let known = secret(&["tls.crt", "tls.key", "ca.crt"]);
        objects
            .secrets
            .insert(name(&format!("{namespace}/s")), known);
    }
    objects
}

fn read(objects: &Objects) -> Routes {
    routes(objects, &Default::default())
}

/// The certificate that clients of a host are shown, as the proxy finds it.
fn certificate<'a>(routes: &'a Routes, host: &str) -> Option<&'a Certificate> {
    let certificates = &routes.listener.certificates;
    let known = |host: &str| match certificates.get(host) {
        None => routes.listener.withheld.contains(host).then_some(None),
        known => Some(known),
    };
    let named = for_host(host, known).unwrap_or_else(|| certificates.get(""));
    named.map(|certificate| &**certificate)
}

/// Every answer, without the names of Ingresses.
fn answers(routes: &Routes) -> Vec<String> {
    let paths = ["/", "/a", "/a/", "/a/b/c", "/ab", "/c"];
    let each = ASKED.iter().flat_map(|host| paths.map(|path| (host, path)));
    each.map(|(host, path)| answer(routes, host, path))
        .collect()
}

/// The answer to a request, computed from the rules.
fn by_the_rules(ingresses: &[&Ingress], host: &str, path: &str) -> Option<String> {
    let has_rules = |host: &&str| {
        let mut rules = ingresses.iter().flat_map(|one| &one.rules);
        rules.any(|rule| rule.host == *host)
    };
    let wildcard = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    let mut keys = [Some(host), wildcard.as_deref()].into_iter().flatten();
    let key = keys.find(has_rules).unwrap_or("");
    let with_slash = |text: &str| format!("{}/", text.trim_end_matches('/'));
    let rules = ingresses
        .iter()
        .flat_map(|one| one.rules.iter().map(move |rule| (one, rule)));
    // A host belongs to the namespace of its oldest Ingress.
    let has_key = |one: &&&Ingress| one.rules.iter().any(|rule| rule.host == key);
    let oldest = ingresses.iter().filter(has_key);
    let owner = oldest.min_by_key(|one| (one.created_s, &one.name))?;
    let is_owners = |one: &Ingress| one.name.namespace == owner.name.namespace;
    let rules = rules.filter(|(one, rule)| rule.host == key && is_owners(one));
    let paths = rules.flat_map(|(one, rule)| rule.paths.iter().map(move |path| (one, path)));
    let matching = paths.filter(|(_, rule)| match rule.path_type {
        PathType::Exact => rule.path == path,
        _ => with_slash(path).starts_with(&with_slash(&rule.path)),
    });
    let best = matching.min_by_key(|(one, rule)| {
        let is_prefix = rule.path_type != Exact;
        (
            is_prefix,
            Reverse(rule.path.len()),
            one.created_s,
            &one.name,
        )
    });
    let of_hosts = ingresses.iter().filter(has_key);
    let of_hosts = of_hosts.filter(|one| is_owners(one));
    let rest = of_hosts.filter(|one| one.default_backend.is_some());
    let rest = rest.min_by_key(|one| (one.created_s, &one.name));
    let best = best.map(|(_, rule)| &rule.backend);
    match best.or(rest.and_then(|one| one.default_backend.as_ref()))? {
        IngressBackend::Service { name, .. } => Some(name.clone()),
        IngressBackend::Resource { .. } => None,
    }
}

proptest! {
    #[test]
    fn l04_answers_follow_from_the_rules(ingresses in vec(any_ingress(&NAMESPACES, &HOSTS), 0..6)) {
        let objects = world(ingresses);
        let routes = read(&objects);
        let known: Vec<&Ingress> = objects.ingresses.values().collect();
        for host in ASKED {
            for path in ["/", "/a", "/a/", "/a/b/c", "/ab", "/c"] {
                let expected = by_the_rules(&known, host, path);
                let expected = expected.unwrap_or_else(|| "404".into());
                prop_assert_eq!(answer(&routes, host, path), expected, "{} {}", host, path);
            }
        }
    }

    #[test]
    fn l04_names_matter_only_between_ingresses_of_one_age(ingresses in vec(annotated(&["default"]), 0..6)) {
        let named = |name_of: fn(usize) -> String| {
            let aged = ingresses.iter().enumerate().map(|(index, one)| Ingress {
                name: name(&name_of(index)),
                ..one.clone().created(index as i64)
            });
            read(&world(aged))
        };
        let (one, other) = (named(|index| format!("a{index}")), named(|index| format!("z{}", 9 - index)));
        prop_assert_eq!(answers(&one), answers(&other));
        prop_assert_eq!(one.refusals.len(), other.refusals.len());
        prop_assert_eq!(one.listener.certificates, other.listener.certificates);
        prop_assert_eq!(one.listener.passthrough, other.listener.passthrough);
    }

    #[test]
    fn l07_another_namespace_with_other_hosts_changes_nothing(
        ingresses in vec(annotated(&["default"]), 0..5),
        other in any_ingress(&["team"], &["other.com", "*.other.com"]),
        note in proptest::option::of(select(&["canary", "ssl-passthrough", "from-to-www-redirect", "use-regex"][..])),
    ) {
        let other = note.into_iter().fold(other, |other, key| other.note(key, "true"));
        let before = read(&world(ingresses.clone()));
        let after = read(&world(ingresses.into_iter().chain([other])));
        for (host, routes) in &before.listener.hosts {
            prop_assert_eq!(Some(routes), after.listener.hosts.get(host));
        }
        for host in ASKED {
            prop_assert_eq!(before.listener.hosts(host).next(), after.listener.hosts(host).next());
        }
        for (host, certificate) in &before.listener.certificates {
            prop_assert_eq!(Some(certificate), after.listener.certificates.get(host));
        }
        for (host, key) in &before.listener.passthrough {
            prop_assert_eq!(Some(key), after.listener.passthrough.get(host));
        }
        for refusal in &before.refusals {
            prop_assert!(after.refusals.contains(refusal));
        }
    }

    #[test]
    fn l94_a_younger_ingress_of_another_namespace_changes_nothing_of_a_host(
        ingresses in vec(annotated(&["default"]), 1..5),
        other in annotated(&["team"]),
        shares in any::<bool>(),
    ) {
        let options = IngressOptions { share_hosts: shares, ..IngressOptions::default() };
        let read = |ingresses: Vec<Ingress>| routes(&world(ingresses), &options);
        let both = ingresses.iter().cloned().chain([other.created(9)]).collect();
        let (before, after) = (read(ingresses), read(both));
        for (name, host) in &before.listener.hosts {
            let now = &after.listener.hosts[name];
            prop_assert_eq!(host.asks_certificate, now.asks_certificate);
            let (guests, own): (Vec<_>, Vec<_>) = now.routes.iter().cloned()
                .partition(|route| route.origin.name.namespace == "team");
            prop_assert_eq!(&host.routes, &own);
            prop_assert!(shares || guests.is_empty());
            prop_assert_eq!(certificate(&before, name), certificate(&after, name), "{}", name);
        }
        for (host, key) in &before.listener.passthrough {
            prop_assert_eq!(Some(key), after.listener.passthrough.get(host));
        }
    }

    #[test]
    fn l08_every_upstream_is_a_port_of_a_service(
        ingresses in vec(annotated(&NAMESPACES), 0..6),
        gone in vec(select(&SERVICES[..]), 0..3),
    ) {
        let mut objects = world(ingresses);
        for service in gone {
            objects.services.remove(&name(service));
        }
        let routes = read(&objects);
        for key in routes.listener.upstreams() {
            let service = objects.services.get(&key.service);
            let has_port = service.is_some_and(|service| service.ports.iter().any(|port| port.port == key.port));
            prop_assert!(has_port, "{}", key);
        }
    }
}
