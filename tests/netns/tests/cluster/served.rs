//! Showing what the proxy serves, and why: the commands, the HTTP endpoints that they use, and the page.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::common::{
    API, SHOP,
    browser::{Browser, fetch, has_browser},
    content, eventually, finish, ingress_cluster, json, on, on_node,
};
use headgate_netns::{Certificate, Client, Cluster, Load, Node};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Routes with guards, and one whose Service is missing.
const MORE: &str = include_str!("manifests/served.yaml");

fn served_cluster(name: &str, options: &[&str]) -> Option<Cluster> {
    let (cluster, _) = ingress_cluster(name, options)?;
    cluster.write("more.yaml", MORE).unwrap();
    let short = Certificate::ending(&["soon.example.com"], 5).unwrap();
    cluster
        .write("soon.yaml", &short.secret("soon-tls"))
        .unwrap();
    let node = &cluster.nodes[0];
    eventually("all of it is served", || {
        let routes = rows(node, &["routes", "--name", "soon"]);
        let certificates = rows(node, &["certificates", "--name", "soon-tls"]);
        routes.len() == 1 && certificates.len() == 1
    });
    Some(cluster)
}

fn rows(node: &Node, words: &[&str]) -> Vec<Value> {
    json(node, words).as_array().unwrap().clone()
}

fn explain(node: &Node, words: &[&str]) -> Value {
    json(node, &[&["explain", "request"], words].concat())
}

/// Sends a request to the metrics address of the proxy; returns status and body.
fn ask(node: &Node, target: &str, words: &[&str]) -> (u16, String) {
    let (code, _, body) = ask_at("127.0.0.1:10245", node, target, words);
    (code, body)
}

/// Sends a request to an address; returns status, headers and body.
fn ask_at(at: &str, node: &Node, target: &str, words: &[&str]) -> (u16, String, String) {
    let url = format!("http://{at}{target}");
    let output = fetch(node, &[words, &["--include", &url]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.into())
}

#[test]
fn l79_routes_are_listed_in_order_with_their_guards() {
    let Some(cluster) = served_cluster("lkroute", &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let routes = rows(node, &["routes"]);
    let of_shop = routes.iter().filter(|row| row["host"] == SHOP);
    let paths: Vec<&str> = of_shop.map(|row| row["path"].as_str().unwrap()).collect();
    let paths_in_order = [
        "exactly /cart",
        "/cart/old and below",
        "/admin and below",
        "/cart and below",
        "/gone and below",
        "every path",
    ];
    assert_eq!(paths, paths_in_order);
    let of = |name: &str| {
        let found = routes
            .iter()
            .find(|row| row["ingress"] == format!("default/{name}"));
        found.unwrap_or_else(|| panic!("{name}: {routes:?}"))
    };
    let shop = of("shop");
    assert_eq!(shop["target"], "default/web:80");
    assert_eq!(shop["front"], json!(["HTTP is redirected to HTTPS"]));
    let admin = of("admin");
    let front = json!([
        "only for 10.0.0.0/8",
        "HTTP is redirected to HTTPS",
        "needs a password",
        "5 requests per client and second, burst 25",
    ]);
    assert_eq!(admin["front"], front);
    let post = of("post");
    assert_eq!(post["conditions"], json!(["method is POST"]));
    assert_eq!(
        of("old")["front"][1],
        "redirects to https://old.example.com (301)"
    );
    assert_eq!(
        of("gone")["target"],
        "none: the Service or its port is missing"
    );
    let passed = ["pass.example.com", "TLS passthrough", "default/web:80"];
    let first = ["host", "path", "target"].map(|name| &routes[0][name]);
    assert_eq!(first, passed);
    assert_eq!(of("cart")["canary"], "default/web:80");
    let closed = of("closed")["front"][0].as_str().unwrap();
    assert!(closed.starts_with("closed: "), "{closed}");
    assert_eq!(of("api")["front"], json!(["rewrites to /$2"]));

    let table = on_node(node, &["routes", "-o", "wide", "--name", "admin"]).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[0].trim_start().starts_with("HOST") && lines[0].contains("CONDITIONS"),
        "{table}"
    );
    assert!(lines[1].contains("only for 10.0.0.0/8; HTTP is"), "{table}");
    assert_eq!(rows(node, &["routes", "--namespace", "absent"]).len(), 0);

    let (code, body) = ask(node, "/table", &[]);
    assert_eq!(code, 200);
    let table = content(&body);
    assert_eq!(table["routes"], Value::Array(routes));
    let backend = &table["backends"][0];
    let named = [
        &backend["service"],
        &backend["port"],
        &backend["endpoints"][0]["health"],
    ];
    assert_eq!(named, [&json!("default/web"), &json!(80), &json!("well")]);
}

#[test]
fn l79_certificates_are_listed_with_their_remaining_days() {
    let Some(cluster) = served_cluster("lkcert", &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let rows = rows(node, &["certificates"]);
    let named = rows
        .iter()
        .map(|row| (&row["secret"], &row["kind"], &row["hosts"]));
    assert_eq!(
        named.collect::<Vec<_>>(),
        [
            (&json!("default/shop-tls"), &json!("hosts"), &json!([SHOP])),
            (
                &json!("default/soon-tls"),
                &json!("hosts"),
                &json!(["soon.example.com"])
            ),
            (&Value::Null, &json!("self-signed"), &json!([])),
        ]
    );
    assert_eq!(rows[1]["names"], json!(["soon.example.com"]));
    let left = rows[1]["days_left"].as_i64().unwrap();
    assert!((4..=5).contains(&left), "{left}");
    let table = on_node(node, &["certificates"]).unwrap();
    assert!(table.trim_start().starts_with("SECRET"), "{table}");

    let words = ["doctor", "--no-api", "-o", "json"];
    // The exit code is not checked: other findings may be errors here.
    let mut command = node
        .netns
        .command(headgate_netns::binary("headgate").unwrap(), None);
    let output = command
        .arg("--pins")
        .arg(&node.pins)
        .args(words)
        .output()
        .unwrap();
    let findings = content(&String::from_utf8(output.stdout).unwrap());
    let findings = findings.as_array().unwrap();
    let of_certificates = findings.iter().filter(|row| row["about"] == "certificates");
    let of_certificates: Vec<&Value> = of_certificates.collect();
    assert_eq!(of_certificates.len(), 1, "{findings:?}");
    assert_eq!(of_certificates[0]["level"], "warning");
    let what = of_certificates[0]["what"].as_str().unwrap();
    assert!(
        what.starts_with("the certificate of Secret default/soon-tls, for soon.example.com"),
        "{what}"
    );

    let (_, metrics) = ask(node, "/metrics", &[]);
    let line = |secret: &str| {
        let name = "headgate_proxy_certificate_not_after_seconds";
        let start = format!("{name}{{namespace=\"default\",secret=\"{secret}\"}} ");
        let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
        found
            .unwrap_or_else(|| panic!("{secret}: {metrics}"))
            .parse::<i64>()
            .unwrap()
    };
    assert!(line("soon-tls") < line("shop-tls"));
}

#[test]
fn l79_a_request_is_explained_step_by_step() {
    let Some(cluster) = served_cluster("lkexpl", &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    forwarded_requests_are_explained(node);
    answered_requests_are_explained(node);
    steps_are_printed(node);
}

fn forwarded_requests_are_explained(node: &Node) {
    let cart = format!("https://{SHOP}/cart");
    let explained = explain(node, &[&cart]);
    assert_eq!(explained["matched"], "exact");
    assert_eq!(explained["host"], SHOP);
    let why = |at: usize| explained["passed"][at]["why"].as_str().unwrap();
    assert_eq!(why(0), "it requires: method is POST");
    assert_eq!(why(1), "another path");
    assert_eq!(explained["route"]["path"], "/cart and below");
    assert_eq!(
        explained["backend"]["endpoints"].as_array().unwrap().len(),
        4
    );
    assert_eq!(explained["answer"], Value::Null);
    for (header, step) in [
        ("X-Canary: always", "it goes to the canary"),
        (
            "X-Other: 1",
            "10 of 100 such requests go to the canary, default/web:80",
        ),
    ] {
        let explained = explain(node, &[&cart, "--header", header]);
        let steps = explained["steps"].as_array().unwrap();
        assert!(steps.contains(&json!(step)), "{header}: {explained}");
    }
    let never = explain(node, &[&cart, "--header", "X-Canary: never"]);
    assert!(!never["steps"].to_string().contains("canary"), "{never}");
    let passed = explain(node, &["https://pass.example.com/"]);
    let step = "TLS passthrough: the backend gets the connection as it is";
    assert_eq!(passed["steps"][0], step, "{passed}");
    assert_eq!(passed["backend"]["service"], "default/web");
    let post = explain(node, &[&cart, "--method", "post"]);
    assert_eq!(post["route"]["ingress"], "default/post");
}

/// Requests that the proxy answers itself.
fn answered_requests_are_explained(node: &Node) {
    for (url, words, status, says) in [
        (
            format!("http://{SHOP}/cart?id=7"),
            &[][..],
            308,
            "https://shop.example.com/cart?id=7",
        ),
        (
            format!("https://{SHOP}/admin"),
            &["--from", "192.0.2.7"],
            403,
            "not allowed for this client address",
        ),
        (
            format!("https://{SHOP}/gone"),
            &[],
            503,
            "the Service or its port is missing",
        ),
        (
            format!("https://{SHOP}/cart/old/1"),
            &[],
            301,
            "https://old.example.com",
        ),
        (
            format!("http://{API}/v2"),
            &[],
            404,
            "no rule for this host and path",
        ),
        (
            "http://other.example.com/".into(),
            &[],
            404,
            "no rule for this host and path",
        ),
        (
            "http://closed.example.com/".into(),
            &[],
            503,
            "closed: an access rule",
        ),
    ] {
        let explained = explain(node, &[&[url.as_str()], words].concat());
        assert_eq!(explained["answer"]["status"], status, "{url}: {explained}");
        let text = explained["answer"]["says"].as_str().unwrap();
        assert!(text.contains(says), "{url}: {explained}");
        assert_eq!(explained["backend"], Value::Null, "{url}");
    }
    assert_eq!(
        explain(node, &["http://other.example.com"])["matched"],
        "none"
    );
    assert_eq!(
        explain(node, &["http://a.wild.example.com"])["matched"],
        "wildcard"
    );
}

fn steps_are_printed(node: &Node) {
    let admin = format!("https://{SHOP}/admin");
    let text = on_node(node, &["explain", "request", &admin, "--from", "10.1.2.3"]).unwrap();
    for line in [
        "GET https://shop.example.com/admin from 10.1.2.3",
        "  1. TLS shows the certificate of Secret default/shop-tls",
        "  2. the rules of host shop.example.com decide",
        "it needs a password, which is not checked here",
        "  backend default/web:80",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let api = format!("http://{API}/v1/users?x=y");
    let explained = explain(node, &[&api]).to_string();
    assert!(
        explained.contains("the backend gets GET /users?x=y"),
        "{explained}"
    );
}

#[test]
fn l79_explaining_uses_no_limit_and_counts_nothing() {
    let Some(cluster) = served_cluster("lkside", &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    let answers = || {
        let (_, body) = ask(node, "/table", &[]);
        serde_json::from_str::<Value>(&body).unwrap()["answers"].take()
    };
    let before = answers();
    for _ in 0..5 {
        let explained = explain(
            node,
            &["http://slow.example.com/", "--from", "192.168.50.1"],
        );
        assert_eq!(explained["answer"], Value::Null, "{explained}");
    }
    assert_eq!(answers(), before);
    let status = || {
        let host = format!("slow.example.com:80:{}", node.v4);
        let words = [
            "--resolve",
            &host,
            "--write-out",
            "%{http_code}",
            "--output",
            "/dev/null",
        ];
        let output = fetch(node, &[&words[..], &["http://slow.example.com/"]].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let statuses = [status(), status(), status()];
    assert_eq!(
        statuses,
        ["200", "200", "503"],
        "one a minute, and one more at once"
    );
    assert_ne!(answers(), before);
}

#[test]
fn l79_queries_to_the_proxy_are_read_only_and_name_invalid_input() {
    let Some(mut cluster) = served_cluster("lkwrong", &[]) else {
        return;
    };
    let node = &cluster.nodes[0];
    for (target, complaint) in [
        (
            "/explain",
            "url is missing: write https://HOST/PATH or http://HOST/PATH",
        ),
        (
            "/explain?url=/cart",
            "url \"/cart\" is not https://HOST/PATH",
        ),
        (
            "/explain?url=http://a&client=b",
            "client \"b\" is not an address",
        ),
        (
            "/explain?url=http://a&header=b",
            "header \"b\" is not NAME: VALUE",
        ),
        (
            "/explain?url=http://a&method=%20%22",
            "method \"\\\"\" is not GET",
        ),
        ("/explain?url=http://a&form=b", "form is not a parameter"),
    ] {
        let (code, body) = ask(node, target, &[]);
        assert_eq!(code, 400, "{target}: {body}");
        assert!(
            body.starts_with(complaint) && body.lines().count() == 1,
            "{target}: {body}"
        );
    }
    for target in ["/table", "/explain?url=http://a"] {
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(
                ask(node, target, &["--request", method]).0,
                405,
                "{method} {target}"
            );
        }
        let foreign = ["--header", "Host: attacker.example"];
        assert_eq!(ask(node, target, &foreign).0, 421, "{target}");
    }
    let wrong = on_node(node, &["explain", "request", "shop.example.com"]).unwrap_err();
    assert_eq!(wrong.lines().count(), 1, "{wrong}");
    assert!(
        wrong.starts_with("headgate: url \"shop.example.com\" is not"),
        "{wrong}"
    );

    cluster.nodes[0].proxy.take().unwrap().terminate().unwrap();
    for words in [
        &["routes"][..],
        &["certificates"],
        &["explain", "request", "http://a/"],
    ] {
        let gone = on_node(&cluster.nodes[0], words).unwrap_err();
        let line = "headgate: no proxy answers at 127.0.0.1:10245: Connection refused";
        assert!(
            gone.starts_with(line) && gone.lines().count() == 1,
            "{gone}"
        );
    }
}

const PAGE: &str = "127.0.0.1:10255";

/// A client that opens a connection for each request and accepts every answer.
fn send(cluster: &Cluster, host: &'static str, path: &'static str) -> Client {
    let address = on(cluster.nodes[0].v4, 80);
    Box::new(move || {
        let mut stream = TcpStream::connect(address)?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(host.into())
    })
}

#[test]
fn l79_page_draws_routes_certificates_backends_and_explains() {
    const NAME: &str = "l79_page_draws_routes_certificates_backends_and_explains";
    if !has_browser(NAME) {
        return;
    }
    let Some(cluster) = served_cluster("lkpage", &["--page-bind-address", PAGE]) else {
        return;
    };
    let ended = Certificate::ending(&["wild.example.com"], -3).unwrap();
    cluster
        .write("ended.yaml", &ended.secret("wild-tls"))
        .unwrap();
    let client = &cluster.client;
    let every = Duration::from_millis;
    let load = Load::new()
        .with(client, every(15), send(&cluster, API, "/v1/users"))
        .with(client, every(50), send(&cluster, "a.wild.example.com", "/"))
        .with(
            client,
            every(200),
            send(&cluster, "closed.example.com", "/"),
        );

    let browser = Browser::start(&cluster.nodes[0]);
    browser.post("/url", &json!({"url": format!("http://{PAGE}/")}));
    browser.prefer("light");
    browser.resize(1360);
    page_shows_what_is_served(&browser);
    page_explains_a_request(&browser);
    browser.shoot_all("proxy");
    page_filters_tables(&browser);
    assert_eq!(browser.complaints(), json!([]));

    finish(load);
    let proxy = cluster.nodes[0].proxy.as_ref().unwrap();
    proxy.signal(Signal::SIGTERM).unwrap();
    eventually("the page shows that the proxy is gone", || {
        browser.text("#state").starts_with("Proxy unreachable")
    });
}

fn page_shows_what_is_served(browser: &Browser<'_>) {
    eventually("a rate of an Ingress", || {
        let rate = browser.text("#ingresses tbody tr:nth-child(2) .rate .value");
        let name = browser.text("#ingresses tbody tr:nth-child(2) .name");
        name == "default/api" && !["", "0", "–"].contains(&rate.as_str())
    });
    let errors = "return [...document.querySelectorAll('#ingresses tbody tr')]
        .find((row) => row.textContent.startsWith('default/closed'))
        ?.querySelector('.drop .value')?.textContent ?? ''";
    eventually("errors of the one that is closed", || {
        let rate = browser.run(errors);
        !["", "0", "–"].contains(&rate.as_str().unwrap())
    });
    eventually("a line of the last seconds", || {
        let script = "return document.querySelector('#totals .line').points.length";
        browser.run(script).as_u64().unwrap() > 8
    });
    for (selector, text) in [
        ("#routes", "only for 10.0.0.0/8"),
        ("#routes", "none: the Service or its port is missing"),
        ("#backends", "10.244.1.2:9376"),
        ("#backends", "by cookie"),
        ("#undone", "default/closed"),
        ("#state", "3 refused"),
        ("#certificates", "self-signed: clients do not trust it"),
        ("#certificates .ends.warn", "in "),
        ("#certificates .ends.bad", "expired 3 days ago"),
    ] {
        eventually(&format!("{text} in {selector}"), || {
            browser.text(selector).contains(text)
        });
    }
}

fn page_explains_a_request(browser: &Browser<'_>) {
    browser.enter("[name=url]", "shop.example.com/cart");
    browser.click("#explain button");
    eventually("what is wrong with the question", || {
        browser
            .text("#explanation")
            .starts_with("url \"shop.example.com/cart\" is not")
    });
    browser.run("document.querySelector('[name=url]').value = ''");
    browser.enter("[name=url]", "https://shop.example.com/admin");
    browser.enter("[name=client]", "10.1.2.3");
    browser.click("#explain button");
    eventually("the steps", || {
        let steps = browser.text("#explanation ol");
        steps.contains("it needs a password")
            && browser
                .text("#explanation .verdict")
                .starts_with("default/web:80: round robin")
    });
}

fn page_filters_tables(browser: &Browser<'_>) {
    browser.enter("#filter", "absent");
    for (table, kind) in [
        ("ingresses", "Ingress"),
        ("routes", "route"),
        ("backends", "backend"),
    ] {
        eventually("nothing is left", || {
            let text = browser.text(&format!("#{table} + .empty"));
            text == format!("No {kind} contains “absent”.")
        });
    }
}

#[test]
fn l79_page_is_off_by_default_and_accepts_its_own_host_names_only() {
    let Some(mut cluster) = served_cluster("lkguard", &[]) else {
        return;
    };
    let address = on([127, 0, 0, 1], 10255);
    let is_served = |cluster: &Cluster| {
        let connect = move || TcpStream::connect(address).is_ok();
        cluster.nodes[0].netns.run(connect)
    };
    assert!(!is_served(&cluster));
    let options = ["--page-bind-address", "0.0.0.0:10255"];
    let before = cluster.start_proxy(0, &options).unwrap();
    before.unwrap().terminate().unwrap();
    eventually("it is served", || is_served(&cluster));
    let node = &cluster.nodes[0];
    eventually("the log warns that it is not on loopback", || {
        let log = node.proxy.as_ref().unwrap().log();
        log.contains("is not on loopback")
    });
    let explain = "/api/explain?url=http://a";
    for path in [
        "/",
        "/page.css",
        "/shared.js",
        "/proxy.js",
        "/api/table",
        explain,
    ] {
        let (code, head, _) = ask_at(PAGE, node, path, &[]);
        assert_eq!(code, 200, "{path}");
        let policy = "content-security-policy: default-src 'none'; script-src 'self';";
        assert!(head.contains(policy), "{path}: {head}");
        for method in ["POST", "PUT", "DELETE"] {
            let (code, ..) = ask_at(PAGE, node, path, &["--request", method]);
            assert_eq!(code, 405, "{method} {path}");
        }
        let (code, ..) = ask_at(PAGE, node, path, &["--header", "Host: attacker.example"]);
        assert_eq!(code, 421, "{path}");
    }
}
