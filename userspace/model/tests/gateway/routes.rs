//! Rules of HTTPRoutes: which is chosen, and what it does.

use std::time::Duration;

use headgate_model::{
    edge::{
        CorsList, CorsOrigins, HeaderEdit, HostMode, PathChange, Policy, Redirect, Resend, Route,
        Scheme, Share, Target, Trust, UpstreamProtocol,
    },
    gateway::RouteKind,
};

use crate::build::{Cluster, cluster, condition, http, route};
use crate::request::{answer, find, get};

const GATEWAY: &str = "
kind: Gateway
metadata: {name: web}
spec: {gatewayClassName: headgate, listeners: [{name: a, port: 80, protocol: HTTP}]}
";

/// A Gateway with an HTTPRoute `r` with these rules.
fn with_rules(rules: &str) -> Cluster {
    let mut cluster = cluster(GATEWAY);
    cluster.add(&format!(
        "
kind: HTTPRoute
metadata: {{name: r, generation: 1, creationTimestamp: 10}}
spec: {{parentRefs: [{{name: web}}], rules: [{rules}]}}
"
    ));
    cluster
}

/// A backend by its short name.
fn to(service: &str) -> String {
    format!("backendRefs: [{{name: {service}, port: 80}}]")
}

/// The only route of a rule.
fn only(rule: &str) -> (Route, Cluster) {
    let cluster = with_rules(rule);
    let resolved = cluster.resolve();
    let route = find(&resolved, &get("h", "/")).unwrap();
    ((*route).clone(), cluster)
}

fn policy(filters: &str) -> Policy {
    let (route, _) = only(&format!("{{filters: [{filters}], {}}}", to("web")));
    (*route.policy).clone()
}

#[test]
fn g54_g55_g56_g59_references_that_are_not_valid() {
    for (reference, reason) in [
        ("{name: web, port: 80}", ""),
        ("{name: web, port: 80, kind: Pod}", "InvalidKind"),
        ("{name: web, port: 80, group: example.com}", "InvalidKind"),
        ("{name: no, port: 80}", "BackendNotFound"),
        ("{name: web, port: 81}", "BackendNotFound"),
        ("{name: web}", "BackendNotFound"),
        ("{name: web, port: 80, namespace: team}", "RefNotPermitted"),
        ("{name: no, port: 80, namespace: team}", "RefNotPermitted"),
        ("{name: away, port: 80}", "BackendNotFound"),
    ] {
        let mut cluster = with_rules(&format!("{{backendRefs: [{reference}]}}"));
        cluster.add_service("away", None);
        cluster
            .services
            .values_mut()
            .for_each(|service| service.is_external = false);
        let away = cluster
            .services
            .get_mut(&crate::build::name("away"))
            .unwrap();
        away.is_external = true;
        let resolved = cluster.resolve();
        let expected = match reason {
            "" => "True/ResolvedRefs".to_owned(),
            reason => format!("False/{reason}"),
        };
        assert_eq!(
            http(&resolved, "r", "ResolvedRefs"),
            [expected],
            "{reference}"
        );
        assert_eq!(
            http(&resolved, "r", "Accepted"),
            ["True/Accepted"],
            "{reference}"
        );
        let answer = answer(&resolved, &get("h", "/"));
        assert_eq!(
            answer,
            if reason.is_empty() { "web" } else { "500" },
            "{reference}"
        );
    }
}

#[test]
fn g58_a_grant_that_comes_or_goes_gives_or_ends_access() {
    let mut cluster = with_rules("{backendRefs: [{name: web, port: 80, namespace: team}]}");
    let state = |cluster: &Cluster| {
        let resolved = cluster.resolve();
        (
            answer(&resolved, &get("h", "/")),
            http(&resolved, "r", "ResolvedRefs")[0].clone(),
        )
    };
    let closed = ("500".to_owned(), "False/RefNotPermitted".to_owned());
    assert_eq!(state(&cluster), closed);
    cluster.add(
        "
kind: ReferenceGrant
metadata: {name: a, namespace: team}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: '', kind: Service, name: web}]
",
    );
    assert_eq!(
        state(&cluster),
        ("web".to_owned(), "True/ResolvedRefs".to_owned())
    );
    cluster.objects.grants.clear();
    assert_eq!(state(&cluster), closed);
}

#[test]
fn g60_g61_g92_bad_backends_keep_their_share() {
    let (route, cluster) = only(
        "{backendRefs: [{name: web, port: 80, weight: 7}, {name: no, port: 80, weight: 3}, \
         {name: api, port: 80, weight: 0}, {name: old, port: 80}]}",
    );
    let weights: Vec<u32> = route.targets.iter().map(|one| one.weight).collect();
    assert_eq!(weights, [7, 3, 0, 1]);
    assert!(matches!(route.targets[1].target, Target::Invalid(_)));
    assert!(matches!(route.targets[0].target, Target::Upstream(_)));
    assert_eq!(http(&cluster.resolve(), "r", "Accepted"), ["True/Accepted"]);
    for rule in [
        "{}",
        "{backendRefs: []}",
        "{backendRefs: [{name: web, port: 80, weight: 0}]}",
    ] {
        let (route, _) = only(rule);
        assert_eq!(
            route.targets.iter().map(|one| one.weight).sum::<u32>(),
            0,
            "{rule}"
        );
    }
}

#[test]
fn g67_g68_paths() {
    let paths = |type_: &str, path: &str, asked: &[&str]| -> Vec<bool> {
        let rule = format!(
            "{{matches: [{{path: {{type: {type_}, value: '{path}'}}}}], {}}}",
            to("web")
        );
        let resolved = with_rules(&rule).resolve();
        asked
            .iter()
            .map(|path| find(&resolved, &get("h", path)).is_some())
            .collect()
    };
    let asked = ["/two", "/two/", "/Two", "/two/three"];
    assert_eq!(paths("Exact", "/two", &asked), [true, false, false, false]);
    assert_eq!(paths("Exact", "/two/", &asked), [false, true, false, false]);
    let asked = ["/v2", "/v2/", "/v2/x", "/v2example", "/V2", "/"];
    let below = [true, true, true, false, false, false];
    assert_eq!(paths("PathPrefix", "/v2", &asked), below);
    assert_eq!(paths("PathPrefix", "/v2/", &asked), below);
    assert_eq!(paths("PathPrefix", "/", &asked), [true; 6]);
    // G70.
    let asked = ["/a1", "/a1/b", "/A1", "/xa1"];
    assert_eq!(
        paths("RegularExpression", "/a[0-9]", &asked),
        [true, false, false, false]
    );
}

#[test]
fn g69_g70_g74_the_better_match_wins() {
    let path = |path: &str| format!("path: {{value: {path}}}");
    let exact = |path: &str| format!("path: {{type: Exact, value: {path}}}");
    let regex = |path: &str| format!("path: {{type: RegularExpression, value: '{path}'}}");
    let header = |number: usize| {
        let headers: Vec<String> = (0..number)
            .map(|one| format!("{{name: h{one}, value: x}}"))
            .collect();
        format!("headers: [{}]", headers.join(", "))
    };
    let query = "queryParams: [{name: q, value: x}]";
    let headers = [("h0", "x"), ("h1", "x")];
    let request = crate::request::Request {
        headers: &headers,
        query: &[("q", "x")],
        ..get("h", "/aa/b")
    };
    // Each matches the request; the first of a pair wins, whatever the order of the rules.
    for (better, worse) in [
        (
            exact("/aa/b"),
            format!("{}, method: GET, {}, {query}", path("/aa/b"), header(2)),
        ),
        (
            path("/aa/b"),
            format!("{}, method: GET, {}", path("/aa"), header(2)),
        ),
        (
            format!("{}, method: GET", path("/aa")),
            format!("{}, {}", path("/aa"), header(2)),
        ),
        (
            format!("{}, {}", path("/aa"), header(2)),
            format!("{}, {}, {query}", path("/aa"), header(1)),
        ),
        (format!("{}, {query}", path("/aa")), path("/aa")),
        (regex("/[a-z]+/b"), path("/aa/b")),
        (path("/aa/b"), regex("/.*")),
    ] {
        for rules in [
            [(&better, "web"), (&worse, "api")],
            [(&worse, "api"), (&better, "web")],
        ] {
            let rules =
                rules.map(|(one, service)| format!("{{matches: [{{{one}}}], {}}}", to(service)));
            let resolved = with_rules(&rules.join(", ")).resolve();
            assert_eq!(
                answer(&resolved, &request),
                "web",
                "{better} before {worse}"
            );
        }
    }
    // Ties: older routes, then names, then the earlier rule and match.
    let mut cluster = with_rules(&format!("{{{}}}, {{{}}}", to("web"), to("api")));
    assert_eq!(answer(&cluster.resolve(), &get("h", "/")), "web");
    let other = |name: &str, age: i64| {
        format!(
            "
kind: HTTPRoute
metadata: {{name: {name}, creationTimestamp: {age}}}
spec: {{parentRefs: [{{name: web}}], rules: [{{{}}}]}}
",
            to("old")
        )
    };
    cluster.add(&other("z", 10));
    assert_eq!(answer(&cluster.resolve(), &get("h", "/")), "web");
    cluster.add(&other("a", 10));
    assert_eq!(answer(&cluster.resolve(), &get("h", "/")), "old");
    let mut cluster = with_rules(&format!("{{{}}}", to("web")));
    cluster.add(&other("z", 9));
    assert_eq!(answer(&cluster.resolve(), &get("h", "/")), "old");
    // Matches of a rule are alternatives.
    let rule = format!(
        "{{matches: [{{{}}}, {{method: POST}}], {}}}",
        path("/a"),
        to("web")
    );
    let resolved = with_rules(&rule).resolve();
    assert_eq!(answer(&resolved, &get("h", "/a/b")), "web");
    assert_eq!(answer(&resolved, &get("h", "/b")), "404");
    let post = crate::request::Request {
        method: "POST",
        ..get("h", "/b")
    };
    assert_eq!(answer(&resolved, &post), "web");
}

#[test]
fn g71_g72_g73_conditions() {
    let matches = |one: &str, method: &str, headers: &[(&str, &str)], query: &[(&str, &str)]| {
        let resolved = with_rules(&format!("{{matches: [{{{one}}}], {}}}", to("web"))).resolve();
        let request = crate::request::Request {
            method,
            headers,
            query,
            ..get("h", "/")
        };
        find(&resolved, &request).is_some()
    };
    let version = "headers: [{name: Version, value: two}, {name: version, value: other}]";
    assert!(matches(version, "GET", &[("version", "two")], &[]));
    assert!(!matches(version, "GET", &[("version", "other")], &[]));
    assert!(!matches(version, "GET", &[("version", "Two")], &[]));
    let both = "headers: [{name: a, value: x}, {name: b, value: y}]";
    assert!(matches(both, "GET", &[("a", "x"), ("b", "y")], &[]));
    assert!(!matches(both, "GET", &[("a", "x")], &[]));
    let regex = "headers: [{name: a, value: 'x+', type: RegularExpression}]";
    assert!(matches(regex, "GET", &[("a", "xx")], &[]));
    assert!(!matches(regex, "GET", &[("a", "xxy")], &[]));
    let query = "queryParams: [{name: Animal, value: whale}]";
    assert!(matches(query, "GET", &[], &[("Animal", "whale")]));
    assert!(!matches(query, "GET", &[], &[("animal", "whale")]));
    assert!(!matches(query, "GET", &[], &[("Animal", "Whale")]));
    assert!(matches("method: GET", "GET", &[], &[]));
    assert!(!matches("method: GET", "HEAD", &[], &[]));
}

#[test]
fn g14_g82_rules_with_odd_values_are_dropped() {
    for (rule, reason) in [
        (
            "{matches: [{path: {type: Near, value: /}}]}",
            "UnsupportedValue",
        ),
        (
            "{matches: [{path: {type: RegularExpression, value: '('}}]}",
            "UnsupportedValue",
        ),
        ("{matches: [{path: {value: a}}]}", "UnsupportedValue"),
        ("{matches: [{method: BREW}]}", "UnsupportedValue"),
        (
            "{matches: [{headers: [{name: a, value: b, type: Near}]}]}",
            "UnsupportedValue",
        ),
        ("{timeouts: {request: soon}}", "UnsupportedValue"),
        ("{retry: {codes: [200]}}", "UnsupportedValue"),
        ("{sessionPersistence: {}}", "UnsupportedValue"),
        ("{filters: [{type: Teleport}]}", "UnsupportedValue"),
        ("{filters: [{type: CORS}]}", "UnsupportedValue"),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]}",
            "UnsupportedValue",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}",
            "UnsupportedValue",
        ),
        (
            "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch}}}]}",
            "UnsupportedValue",
        ),
        (
            "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}]}",
            "UnsupportedValue",
        ),
        (
            "{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {}}]}",
            "IncompatibleFilters",
        ),
        (
            "{filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]}",
            "IncompatibleFilters",
        ),
    ] {
        let resolved = with_rules(rule).resolve();
        assert_eq!(
            http(&resolved, "r", "Accepted"),
            [format!("False/{reason}")],
            "{rule}"
        );
        assert_eq!(http(&resolved, "r", "PartiallyInvalid"), [""], "{rule}");
        // A filter that is not understood may be a guard: its requests go to no other route.
        let is_closed = rule.contains("filters") && reason == "UnsupportedValue";
        let closed = is_closed.then(|| "500".to_owned());
        let asked = find(&resolved, &get("h", "/"));
        assert_eq!(
            asked.map(|_| answer(&resolved, &get("h", "/"))),
            closed,
            "{rule}"
        );
        let good = format!(
            "{{name: good, matches: [{{path: {{value: /good}}}}], {}}}",
            to("web")
        );
        let resolved = with_rules(&format!("{good}, {rule}")).resolve();
        assert_eq!(
            http(&resolved, "r", "Accepted"),
            ["True/Accepted"],
            "{rule}"
        );
        assert_eq!(
            http(&resolved, "r", "PartiallyInvalid"),
            [format!("True/{reason}")],
            "{rule}"
        );
        let conditions = &route(&resolved, RouteKind::Http, "r").parents[0].1;
        let partial = conditions
            .iter()
            .find(|one| one.type_ == "PartiallyInvalid")
            .unwrap();
        assert!(
            partial.message.starts_with("Dropped Rule 1: "),
            "{}",
            partial.message
        );
        assert_eq!(answer(&resolved, &get("h", "/good")), "web");
    }
}

#[test]
fn g86_a_filter_that_is_not_known_never_lets_requests_pass() {
    let guarded = |filter: &str| {
        let rest = to("web");
        let resolved = with_rules(&format!(
            "{{matches: [{{path: {{value: /admin}}}}], filters: [{filter}], {rest}}}, {{{rest}}}"
        ))
        .resolve();
        let reasons =
            ["Accepted", "ResolvedRefs"].map(|type_| http(&resolved, "r", type_)[0].clone());
        (
            answer(&resolved, &get("h", "/admin")),
            answer(&resolved, &get("h", "/")),
            reasons,
        )
    };
    let expect = |filter: &str, refs: &str| {
        let (admin, other, reasons) = guarded(filter);
        assert_eq!((&*admin, &*other), ("500", "web"), "{filter}");
        assert_eq!(reasons, ["True/Accepted", refs], "{filter}");
    };
    expect(
        "{type: ExtensionRef, extensionRef: {group: example.com, kind: Auth, name: a}}",
        "False/InvalidKind",
    );
    expect(
        "{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: web, port: 80}}}",
        "True/ResolvedRefs",
    );
    expect("{type: Guard}", "True/ResolvedRefs");
    // Filters of backends too.
    let (route, _) = only(
        "{backendRefs: [{name: web, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]}]}",
    );
    assert!(matches!(route.targets[0].target, Target::Invalid(_)));
}

/// Also if the route has no other rule, and another route has the same path.
#[test]
fn g86_a_refused_route_keeps_its_requests() {
    let mut cluster = with_rules(&format!(
        "{{matches: [{{path: {{value: /admin}}}}], filters: [{{type: Guard}}], {}}}",
        to("web")
    ));
    cluster.add(&format!(
        "
kind: HTTPRoute
metadata: {{name: other, generation: 1, creationTimestamp: 20}}
spec: {{parentRefs: [{{name: web}}], rules: [{{{}}}]}}
",
        to("api")
    ));
    let resolved = cluster.resolve();
    assert_eq!(answer(&resolved, &get("h", "/admin")), "500");
    assert_eq!(answer(&resolved, &get("h", "/")), "api");
    assert_eq!(http(&resolved, "r", "Accepted"), ["False/UnsupportedValue"]);
}

#[test]
fn g75_g76_fields_of_framing_cannot_be_changed() {
    let modified = |kind: &str, modifier: &str| {
        let field = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
        let filter = format!("{{type: {kind}, {field}: {modifier}}}");
        let resolved = with_rules(&format!("{{filters: [{filter}], {}}}", to("web"))).resolve();
        answer(&resolved, &get("h", "/"))
    };
    let (request, response) = ("RequestHeaderModifier", "ResponseHeaderModifier");
    for (kind, modifier, expected) in [
        (
            request,
            "{set: [{name: Content-Length, value: '9'}]}",
            "500",
        ),
        (
            request,
            "{add: [{name: transfer-encoding, value: chunked}]}",
            "500",
        ),
        (request, "{remove: [Content-Length]}", "500"),
        (request, "{add: [{name: host, value: b}]}", "500"),
        (request, "{set: [{name: Host, value: b}]}", "web"),
        (
            response,
            "{set: [{name: Content-Length, value: '9'}]}",
            "500",
        ),
        (response, "{set: [{name: Connection, value: close}]}", "500"),
    ] {
        assert_eq!(modified(kind, modifier), expected, "{kind} {modifier}");
    }
}

#[test]
fn g75_g76_g77_header_modifiers() {
    let set = |name: &str, value: &str| HeaderEdit::Set(name.into(), value.into());
    let add = |name: &str, value: &str| HeaderEdit::Add(name.into(), value.into());
    let modifier =
        "{set: [{name: X-One, value: a}], add: [{name: x-two, value: b}], remove: [X-Three]}";
    let edits = vec![
        set("x-one", "a"),
        add("x-two", "b"),
        HeaderEdit::Remove("x-three".into()),
    ];
    let request = policy(&format!(
        "{{type: RequestHeaderModifier, requestHeaderModifier: {modifier}}}"
    ));
    assert_eq!(
        (request.request_headers, request.response_headers),
        (edits.clone(), vec![])
    );
    let response = policy(&format!(
        "{{type: ResponseHeaderModifier, responseHeaderModifier: {modifier}}}"
    ));
    assert_eq!(
        (response.request_headers, response.response_headers),
        (vec![], edits.clone())
    );
    let (route, _) = only(&format!(
        "{{backendRefs: [{{name: web, port: 80}}, {{name: api, port: 80, filters: \
         [{{type: RequestHeaderModifier, requestHeaderModifier: {modifier}}}]}}]}}"
    ));
    assert!(route.targets[0].request_headers.is_empty());
    assert_eq!(route.targets[1].request_headers, edits);
}

#[test]
fn g78_g79_redirects() {
    let parts = |redirect: &str| match policy(&format!(
        "{{type: RequestRedirect, requestRedirect: {redirect}}}"
    ))
    .redirect
    {
        Some(Redirect::Parts(parts)) => parts,
        other => panic!("{other:?}"),
    };
    let none = parts("{}");
    assert_eq!(
        (none.scheme, none.host, none.port, none.path, none.code),
        (None, None, None, None, 302)
    );
    let all = parts(
        "{scheme: https, hostname: b.example, port: 8443, statusCode: 308, \
         path: {type: ReplaceFullPath, replaceFullPath: /x}}",
    );
    assert_eq!(
        (all.scheme, all.host.as_deref(), all.port),
        (Some(Scheme::Https), Some("b.example"), Some(8443))
    );
    assert_eq!(
        (all.path, all.code),
        (Some(PathChange::Full("/x".into())), 308)
    );
    for code in [301, 303, 307] {
        assert_eq!(parts(&format!("{{statusCode: {code}}}")).code, code);
    }
}

#[test]
fn g80_g81_rewrites() {
    let full = policy(
        "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}",
    );
    assert_eq!(
        (full.path, full.host),
        (Some(PathChange::Full("/x".into())), None)
    );
    let prefix = policy(
        "{type: URLRewrite, urlRewrite: {hostname: b.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x/}}}",
    );
    assert_eq!(prefix.path, Some(PathChange::Prefix("/x/".into())));
    assert_eq!(prefix.host.unwrap().to_string(), "b.example");
    for (written, path) in [("x", "/x"), ("''", "/")] {
        let bare = policy(&format!(
            "{{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: {written}}}}}}}"
        ));
        assert_eq!(bare.path, Some(PathChange::Full(path.into())));
    }
}

#[test]
fn g14_g80_a_prefix_is_replaced_only_where_one_matched() {
    let path = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}";
    let exact = "{path: {type: Exact, value: /a}}";
    let prefix = "{path: {value: /a}}";
    let regex = "{path: {type: RegularExpression, value: '/a.*'}}";
    for (matches, is_valid) in [
        (String::new(), true),
        (prefix.to_owned(), true),
        ("{method: GET}".into(), true),
        (exact.into(), false),
        (regex.into(), false),
        (format!("{prefix}, {{path: {{value: /b}}}}"), false),
        (format!("{prefix}, {exact}"), false),
    ] {
        for filter in [
            format!("{{type: URLRewrite, urlRewrite: {{{path}}}}}"),
            format!("{{type: RequestRedirect, requestRedirect: {{{path}}}}}"),
        ] {
            let rule = format!(
                "{{matches: [{matches}], filters: [{filter}], {}}}",
                to("web")
            );
            let resolved = with_rules(&rule).resolve();
            let expected = match is_valid {
                true => "True/Accepted",
                false => "False/UnsupportedValue",
            };
            assert_eq!(http(&resolved, "r", "Accepted"), [expected], "{rule}");
        }
    }
}

#[test]
fn g83_g84_g85_mirrors() {
    let mirror = |settings: &str| format!("{{type: RequestMirror, requestMirror: {{{settings}}}}}");
    let to_api = "backendRef: {name: api, port: 80}";
    let two = policy(&format!(
        "{}, {}",
        mirror(&format!("{to_api}, percent: 20")),
        mirror("backendRef: {name: old, port: 80}, fraction: {numerator: 1, denominator: 3}")
    ));
    let names: Vec<String> = two
        .mirrors
        .iter()
        .map(|one| one.upstream.service.name.clone())
        .collect();
    assert_eq!(names, ["api", "old"]);
    assert_eq!(
        two.mirrors[0].share,
        Share {
            part: 20,
            whole: 100
        }
    );
    assert_eq!(two.mirrors[1].share, Share { part: 1, whole: 3 });
    assert_eq!(policy(&mirror(to_api)).mirrors[0].share, Share::ALL);
    for (bad, reason) in [
        ("backendRef: {name: no, port: 80}", "BackendNotFound"),
        (
            "backendRef: {name: api, port: 80, namespace: team}",
            "RefNotPermitted",
        ),
        (
            "backendRef: {name: api, port: 80, kind: Pod}",
            "InvalidKind",
        ),
    ] {
        let (route, cluster) = only(&format!("{{filters: [{}], {}}}", mirror(bad), to("web")));
        assert!(route.policy.mirrors.is_empty());
        let resolved = cluster.resolve();
        assert_eq!(
            http(&resolved, "r", "ResolvedRefs"),
            [format!("False/{reason}")]
        );
        assert_eq!(answer(&resolved, &get("h", "/")), "web");
    }
}

#[test]
fn g89_g90_g91_cross_origin_rules() {
    let cors = |settings: &str| {
        policy(&format!("{{type: CORS, cors: {{{settings}}}}}"))
            .cors
            .unwrap()
    };
    let listed = |text: &str| CorsList::Listed(text.into());
    let some = cors(
        "allowOrigins: ['https://*.bar.com', 'http://a.example:80', 'https://*:8443', 'http://b.example:8080'], \
         allowMethods: [GET, PUT], allowHeaders: [x-a], exposeHeaders: [x-b, x-c], maxAge: 60",
    );
    let CorsOrigins::Listed(origins) = &some.origins else {
        panic!("{:?}", some.origins);
    };
    let origins: Vec<(&str, bool, &str)> = origins
        .iter()
        .map(|one| {
            (
                &*one.scheme,
                one.wildcard == Some(HostMode::Suffix),
                &*one.host,
            )
        })
        .collect();
    let expected = [
        ("https://", true, "bar.com"),
        ("http://", false, "a.example"),
        ("https://", true, ":8443"),
        ("http://", false, "b.example:8080"),
    ];
    assert_eq!(origins, expected);
    assert_eq!(
        (some.methods, some.headers),
        (listed("GET, PUT"), listed("x-a"))
    );
    assert_eq!(
        (some.expose.as_deref(), some.max_age_s),
        (Some("x-b, x-c"), 60)
    );
    assert!(!some.credentials);
    let all = cors("allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*']");
    assert_eq!(
        (all.origins, all.methods, all.max_age_s),
        (CorsOrigins::Each, CorsList::Asked, 5)
    );
    let trusted = cors(
        "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*'], allowCredentials: true",
    );
    assert_eq!(
        (trusted.origins, trusted.methods),
        (CorsOrigins::Each, CorsList::Asked)
    );
    assert_eq!(
        (trusted.headers, trusted.credentials),
        (CorsList::Asked, true)
    );
}

#[test]
fn g93_app_protocols() {
    for (app_protocol, expected) in [
        (None, Some(UpstreamProtocol::Http)),
        (Some("http"), Some(UpstreamProtocol::Http)),
        (Some("kubernetes.io/ws"), Some(UpstreamProtocol::Http)),
        (Some("kubernetes.io/h2c"), Some(UpstreamProtocol::Http2)),
        (Some("kubernetes.io/wss"), None),
    ] {
        let mut cluster = with_rules(&format!("{{{}}}", to("app")));
        cluster.add_service("app", app_protocol);
        let resolved = cluster.resolve();
        let route = find(&resolved, &get("h", "/")).unwrap();
        let protocol = route.targets[0]
            .target
            .upstream()
            .map(|key| key.policy.protocol);
        assert_eq!(protocol, expected, "{app_protocol:?}");
        let reason = match expected {
            Some(_) => "True/ResolvedRefs",
            None => "False/UnsupportedProtocol",
        };
        assert_eq!(
            http(&resolved, "r", "ResolvedRefs"),
            [reason],
            "{app_protocol:?}"
        );
    }
}

#[test]
fn g95_g96_g98_g99_g100_timeouts_and_retries() {
    let policy = |rule: &str| {
        let (route, _) = only(&format!("{{{rule}, {}}}", to("web")));
        (*route.policy).clone()
    };
    let seconds = Duration::from_secs;
    let both = policy("timeouts: {request: 5m, backendRequest: 1m30s}").timeouts;
    assert_eq!(
        (both.total, both.per_try),
        (Some(seconds(300)), Some(seconds(90)))
    );
    // No other limit is shorter.
    assert!(both.read >= seconds(90) && both.send >= seconds(90));
    let short = policy("timeouts: {request: 500ms}").timeouts;
    assert_eq!(
        (short.total, short.per_try),
        (Some(Duration::from_millis(500)), None)
    );
    let none = policy("timeouts: {request: 0s}").timeouts;
    assert_eq!((none.total, none.per_try), (None, None));
    assert!(none.read > seconds(3600));
    let retry = policy("retry: {attempts: 3, codes: [500, 503], backoff: 1s500ms}").retry;
    assert_eq!((retry.tries, &retry.on_codes[..]), (4, &[500, 503][..]));
    assert_eq!(
        (retry.resend, retry.backoff),
        (Resend::Always, Duration::from_millis(1500))
    );
    assert!(retry.on_error && retry.on_timeout && retry.same_endpoint);
    assert_eq!(policy("retry: {attempts: 0}").retry.tries, 1);
    let many = policy("retry: {attempts: 3000000000}").retry;
    assert!(many.tries < 100 && !many.backoff.is_zero(), "{many:?}");
    // G101.
    assert_eq!(policy("name: a").retry.resend, Resend::Never);
}

#[test]
fn g108_g112_services_with_a_policy_are_never_asked_without_tls() {
    const CA: &str = "-----BEGIN CERTIFICATE-----\\nx\\n-----END CERTIFICATE-----";
    let policy = |name: &str, target: &str, ca: &str, more: &str| {
        format!(
            "
---
kind: BackendTLSPolicy
metadata: {{name: {name}, creationTimestamp: 5}}
spec:
  targetRefs: [{{group: '', kind: Service, name: web{target}}}]
  validation: {{hostname: {name}.example, caCertificateRefs: [{{group: '', kind: ConfigMap, name: {ca}}}]{more}}}
"
        )
    };
    for (policies, expected) in [
        (policy("a", "", "ca", ""), Some("a.example")),
        (
            policy("a", ", sectionName: http", "ca", ""),
            Some("a.example"),
        ),
        (
            policy("a", "", "ca", "") + &policy("z", ", sectionName: http", "ca", ""),
            Some("z.example"),
        ),
        (
            policy("a", "", "ca", "") + &policy("b", "", "ca", ""),
            Some("a.example"),
        ),
        (policy("a", "", "missing", ""), None),
        (policy("a", "", "empty", ""), None),
        (
            policy("a", "", "ca", ", subjectAltNames: [{type: Email}]"),
            None,
        ),
    ] {
        let mut cluster = with_rules(&format!("{{{}}}", to("web")));
        cluster.add(&policies);
        for (name, text) in [("ca", CA), ("empty", "")] {
            let data = [("ca.crt".to_owned(), text.replace("\\n", "\n"))].into();
            cluster
                .objects
                .config_maps
                .insert(crate::build::name(name), data);
        }
        let resolved = cluster.resolve();
        let route = find(&resolved, &get("h", "/")).unwrap();
        let key = route.targets[0].target.upstream();
        let name = key.and_then(|key| key.policy.tls.name.clone());
        assert_eq!(name.as_deref(), expected, "{policies}");
        if let Some(key) = key {
            assert_eq!(key.policy.protocol, UpstreamProtocol::Https);
            assert!(matches!(key.policy.tls.trust, Trust::Authorities(_)));
        }
    }
    // A policy for another port, or of another namespace, is not for this one.
    let mut cluster = with_rules(&format!("{{{}}}", to("web")));
    cluster.add(&policy("a", ", sectionName: other", "ca", ""));
    cluster.add(&policy("b", "", "ca", "").replace("name: b,", "name: b, namespace: team,"));
    assert_eq!(answer(&cluster.resolve(), &get("h", "/")), "web");
}

#[test]
fn g138_a_route_adds_nothing_of_its_own() {
    let (route, cluster) = only(&format!("{{{}}}", to("web")));
    assert_eq!(*route.policy, Policy::neutral());
    assert_eq!(route.policy.hsts, "");
    assert_eq!(route.policy.limits.body_bytes, None);
    assert!(!route.policy.to_https);
    let resolved = cluster.resolve();
    assert!(
        resolved
            .gateways
            .values()
            .all(|port| port.listeners.iter().all(|one| one.default.is_none()))
    );
    let conditions = &route_conditions(&resolved);
    assert_eq!(condition(conditions, "PartiallyInvalid"), "");
}

fn route_conditions(
    resolved: &headgate_model::gateway::Resolved,
) -> Vec<headgate_model::gateway::Verdict> {
    route(resolved, RouteKind::Http, "r").parents[0].1.clone()
}
