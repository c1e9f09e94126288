//! Which rule has a request.

use headgate_model::edge::{Condition, PathMatch, Pattern, Text};
use http::Method;

use crate::{
    client::{ask, get},
    setup::{RouteExt, Setup, exact, prefix, route},
};

fn text(text: &str) -> Text {
    Text::OneOf(vec![text.into()])
}

fn header(name: &str, value: &str) -> Condition {
    Condition::Header(name.into(), text(value))
}

fn query(name: &str, value: &str) -> Condition {
    Condition::FirstQuery(name.into(), text(value))
}

#[tokio::test]
async fn g67_g68_g70_g74_paths_match_whole_elements_with_case() {
    let pattern = Pattern::whole("/re/[a-z]+").unwrap();
    let setup = Setup::routes(vec![
        route("exact").at(exact("/two")),
        route("slash").at(exact("/three/")),
        route("regex").at(PathMatch::Regex(pattern)),
        route("prefix").at(prefix("/v2")),
    ])
    .await;
    for (path, expected) in [
        ("/two", "exact"),
        ("/two?x=1", "exact"),
        ("/two/", "404"),
        ("/Two", "404"),
        ("/three", "404"),
        ("/three/", "slash"),
        ("/v2", "prefix"),
        ("/v2/", "prefix"),
        ("/v2/x", "prefix"),
        ("/v2example", "404"),
        ("/V2", "404"),
        ("/re/abc", "regex"),
        ("/re/ABC", "404"),
        ("/re/abc/d", "404"),
        ("/", "404"),
    ] {
        let got = setup.send(80, get("a.test", path)).await;
        assert_eq!(got.by(), expected, "{path}");
    }
}

#[tokio::test]
async fn g69_the_first_rule_in_order_that_matches_has_the_request() {
    // Among equal paths conditions decide; the order is the model's.
    let setup = Setup::routes(vec![
        route("both")
            .at(prefix("/x"))
            .if_(header("a", "1"))
            .if_(header("b", "1")),
        route("one").at(prefix("/x")).if_(header("a", "1")),
        route("query").at(prefix("/x")).if_(query("a", "1")),
        route("plain").at(prefix("/x")),
        route("rest").if_(Condition::Method(text("GET"))),
    ])
    .await;
    for (path, headers, expected) in [
        ("/x/y", &[][..], "plain"),
        ("/x/y", &[("a", "1")], "one"),
        ("/x/y?a=1", &[("a", "1")], "one"),
        ("/x/y?a=1", &[("a", "2")], "query"),
        ("/x/y", &[("b", "1"), ("a", "1")], "both"),
        ("/y", &[("a", "1")], "rest"),
    ] {
        let mut request = get("a.test", path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let got = setup.send(80, request).await;
        assert_eq!(got.by(), expected, "{path} {headers:?}");
    }
}

#[tokio::test]
async fn g71_g72_g73_headers_queries_and_methods_match_exactly() {
    let setup = Setup::routes(vec![
        route("headers")
            .at(exact("/h"))
            .if_(header("version", "two"))
            .if_(header("color", "blue")),
        route("query").at(exact("/q")).if_(query("animal", "Whale")),
        route("get")
            .at(exact("/m"))
            .if_(Condition::Method(text("GET"))),
    ])
    .await;
    for (fields, expected) in [
        (&[("Version", "two"), ("COLOR", "blue")][..], "headers"),
        (&[("version", "two")], "404"),
        (&[("version", "Two"), ("color", "blue")], "404"),
        (&[("version", "twoo"), ("color", "blue")], "404"),
    ] {
        let mut request = get("a.test", "/h");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        assert_eq!(setup.send(80, request).await.by(), expected, "{fields:?}");
    }
    for (query, expected) in [
        ("animal=Whale", "query"),
        ("a=b&animal=Whale&c", "query"),
        ("animal=Whale&animal=cat", "query"),
        ("animal=cat&animal=Whale", "404"),
        ("animal=whale", "404"),
        ("Animal=Whale", "404"),
        ("animal=Whales", "404"),
    ] {
        let got = setup.send(80, get("a.test", &format!("/q?{query}"))).await;
        assert_eq!(got.by(), expected, "{query}");
    }
    for (method, expected) in [(Method::GET, 200), (Method::HEAD, 404), (Method::POST, 404)] {
        let got = setup.send(80, ask(method.clone(), "a.test", "/m")).await;
        assert_eq!(got.status, expected, "{method}");
    }
}
