//! The web page of an agent.

use std::{
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use crate::common::{
    CLUSTER_V4,
    browser::{Browser, fetch, has_browser},
    cluster, cluster_without_agents, content, eventually, finish, json, on,
};
use headgate_netns::{Cluster, Load, Node, SERVICE, connections, get, slices};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const PAGE: &str = "127.0.0.1:10254";

fn cluster_with_page(name: &str, pods: u8) -> Option<Cluster> {
    let mut cluster = cluster_without_agents(name, 1, pods)?;
    let serving: Vec<(u8, u8)> = (1..=pods).map(|pod| (1, pod)).collect();
    cluster.write("web.yaml", SERVICE).unwrap();
    cluster.write("slices.yaml", &slices(&serving)).unwrap();
    let options = ["--page-bind-address", PAGE];
    cluster.start_agent_with(0, &options).unwrap();
    Some(cluster)
}

/// Sends a request to the page; returns status, headers and body.
fn ask(node: &Node, path: &str, words: &[&str]) -> (u16, String, String) {
    let url = format!("http://{PAGE}{path}");
    let output = fetch(node, &[words, &["--include", &url]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_lowercase(), body.into())
}

fn sample(node: &Node, filter: &str) -> Value {
    let (code, head, body) = ask(node, &format!("/api/sample?filter={filter}"), &[]);
    assert_eq!(code, 200, "{body}");
    assert!(head.contains("content-type: application/json"), "{head}");
    content(&body)
}

#[test]
fn page_shows_rates_of_services_backends_and_reasons() {
    let Some(cluster) = cluster_with_page("rows", 2) else {
        return;
    };
    let node = &cluster.nodes[0];
    let route = format!("route add {CLUSTER_V4}/32 via {}", node.v4);
    cluster.client.batch(&route).unwrap();
    let (target, unused) = (on(node.v4, 30080), on(CLUSTER_V4, 81));
    let load = Load::new().with(
        &cluster.client,
        Duration::from_millis(10),
        Box::new(move || {
            assert!(get(unused).is_err());
            Ok(get(target)?.pod)
        }),
    );
    let is_positive = |rate: &Value| rate.as_f64().unwrap() > 0.0;
    let row = |rows: &Value, is_it: &dyn Fn(&Value) -> bool| {
        let rows = rows.as_array().unwrap().clone();
        rows.into_iter().find(|row| is_it(row)).unwrap_or_default()
    };
    eventually("there are rates", || {
        let now = sample(node, "");
        let service = &now["services"]["rows"][0];
        assert_eq!(service["service"], "default/web");
        let address =
            json!({"kind": "NodePort", "frontend": "192.168.50.1:30080", "protocol": "tcp"});
        let addresses = service["addresses"].as_array().unwrap();
        assert!(addresses.contains(&address), "{service}");
        let is_it = |row: &Value| row["backend"] == "10.244.1.2:9376" && row["protocol"] == "tcp";
        let backend = row(&now["backends"]["rows"], &is_it);
        assert_eq!(backend["services"], json!(["default/web"]));
        let reason = row(&now["counters"], &|row| row["reason"] == "no-port");
        now["interval_s"] != 0.0
            && reason["meaning"] == "No Service uses this port of its address."
            && is_positive(&reason["per_second"])
            && ["connections", "packets", "bytes"].iter().all(|what| {
                is_positive(&service["per_second"][what])
                    && is_positive(&backend["per_second"][what])
                    && is_positive(&now["totals"][what])
            })
    });
    let rows = |filter: &str| {
        let now = sample(node, filter);
        ["services", "backends"].map(|kind| now[kind]["rows"].as_array().unwrap().len())
    };
    assert_eq!(rows(""), [1, 8]);
    assert_eq!(
        rows("10.244.1.2:9376"),
        [1, 2],
        "one over TCP, one over UDP"
    );
    assert_eq!(rows("absent"), [0, 0]);
    eventually("concurrent requests share a sample", || {
        sample(node, "")["time"] == sample(node, "")["time"]
    });
    finish(load);
}

#[test]
fn page_explains_as_the_command_does() {
    let Some(cluster) = cluster_with_page("pexpl", 1) else {
        return;
    };
    let node = &cluster.nodes[0];
    let explain = |parameters: &str| ask(node, &format!("/api/explain?{parameters}"), &[]);
    let (source, target) = ("192.168.50.100:4000", "192.168.50.1:30080");
    let command = json(node, &["explain", source, "tcp", target]);
    let question = format!("source={source}&protocol=tcp&destination={target}");
    let (code, _, body) = explain(&question);
    assert_eq!(code, 200, "{body}");
    let mut page = content(&body);
    assert_eq!(page["reason"], "to-backend");
    page.as_object_mut().unwrap().remove("version");
    assert_eq!(page, command[0]);
    for (parameters, complaint) in [
        ("", "source is missing: write ADDRESS:PORT"),
        ("source=here", "source \"here\" is not ADDRESS:PORT"),
        (
            &format!("source={source}&protocol=icmp"),
            "protocol \"icmp\" is not tcp or udp",
        ),
        (
            &format!("source={source}&protocol=udp"),
            "destination is missing",
        ),
        (
            "source=1.1.1.1:1&protocol=udp&destination=[::1]:2",
            "destination: 1.1.1.1:1 and [::1]:2 are not of one family",
        ),
        (
            &format!("{question}&dev=nope"),
            "dev: no program is attached to device nope; there are eth0, lxc1",
        ),
    ] {
        let (code, _, body) = explain(parameters);
        assert_eq!(code, 400, "{parameters}: {body}");
        assert!(
            body.starts_with(complaint) && body.lines().count() == 1,
            "{parameters}: {body}"
        );
    }
}

#[test]
fn page_is_read_only_and_accepts_its_own_host_names_only() {
    let Some(cluster) = cluster_with_page("guard", 1) else {
        return;
    };
    let node = &cluster.nodes[0];
    let is_strict = |head: &str| {
        [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ]
        .iter()
        .all(|line| head.contains(line))
    };
    let paths = ["/", "/page.css", "/page.js", "/shared.js", "/api/sample"];
    for path in paths {
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"] {
            let (code, head, _) = ask(node, path, &["--request", method]);
            assert_eq!(code, 405, "{method} {path}");
            assert!(is_strict(&head), "{head}");
        }
        let (code, head, body) = ask(node, path, &["--head"]);
        assert_eq!((code, body.as_str()), (200, ""), "{path}");
        assert!(is_strict(&head), "{head}");
        for host in [
            "attacker.example",
            "127.0.0.1.attacker.example:10254",
            "n2",
            "",
        ] {
            let (code, head, body) = ask(node, path, &["--header", &format!("Host: {host}")]);
            assert_eq!(code, 421, "{host}{path}: {body}");
            assert!(
                is_strict(&head) && body.contains("use an IP address, localhost or n1"),
                "{head} {body}"
            );
        }
        for host in ["localhost:10254", "n1:10254", "[::1]:10254", "192.168.50.1"] {
            let (code, head, _) = ask(node, path, &["--header", &format!("Host: {host}")]);
            assert_eq!(code, 200, "{host}{path}");
            assert!(is_strict(&head), "{head}");
        }
    }
    let (code, head, _) = ask(node, "/etc/passwd", &[]);
    assert_eq!(code, 404);
    assert!(is_strict(&head), "{head}");
}

#[test]
fn page_is_off_by_default_and_warns_off_loopback() {
    let Some(mut cluster) = cluster("off", 1, 1, &[(1, 1)]) else {
        return;
    };
    let address = on([127, 0, 0, 1], 10254);
    let is_served = |cluster: &Cluster| {
        let connect = move || TcpStream::connect(address).is_ok();
        cluster.nodes[0].netns.run(connect)
    };
    assert!(!is_served(&cluster));
    for (bind, is_warned) in [(PAGE, false), ("0.0.0.0:10254", true)] {
        cluster.nodes[0].agent.take().unwrap().terminate().unwrap();
        let options = ["--page-bind-address", bind];
        cluster.start_agent_with(0, &options).unwrap();
        eventually("it is served", || is_served(&cluster));
        let agent = cluster.nodes[0].agent.as_ref().unwrap();
        agent.signal(Signal::SIGTERM).unwrap();
        eventually("its log is complete", || agent.log().contains("stopped;"));
        let log = agent.log();
        assert_eq!(log.contains("is not on loopback"), is_warned, "{log}");
    }
}

/// Adds two Services: a plain one, and one whose source ranges admit no client of the cluster.
fn write_more(cluster: &Cluster) {
    for (name, host, pods, more) in [
        ("cart", 20, &[(1, 3), (1, 4)][..], ""),
        (
            "ledger",
            30,
            &[(1, 5)],
            "  loadBalancerSourceRanges: [198.51.100.0/24]\n",
        ),
    ] {
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: shop, name: {name}}}\n\
             spec:\n  clusterIP: 10.96.0.{host}\n  type: LoadBalancer\n{more}  ports:\n  \
             - {{name: http, port: 80}}\n  - {{name: echo, port: 7, protocol: UDP}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.{host}}}]}}}}\n"
        );
        cluster.write(&format!("{name}.yaml"), &service).unwrap();
        let slices = slices(pods)
            .replace("service-name: web", &format!("service-name: {name}"))
            .replace("name: web", &format!("namespace: shop\n  name: {name}"));
        let file = format!("{name}-slices.yaml");
        cluster.write(&file, &slices).unwrap();
    }
}

#[test]
fn page_draws_rates_and_explains_in_a_browser() {
    const NAME: &str = "page_draws_rates_and_explains_in_a_browser";
    if !has_browser(NAME) {
        return;
    }
    let Some(cluster) = cluster_with_page("brows", 5) else {
        return;
    };
    write_more(&cluster);
    cluster
        .write("slices.yaml", &slices(&[(1, 1), (1, 2)]))
        .unwrap();
    let node = &cluster.nodes[0];
    eventually("all of them are served", || {
        let backends = sample(node, "shop/ledger")["backends"]["rows"].take();
        backends.as_array().unwrap().len() == 2
    });
    let client = &cluster.client;
    let route = format!("route add 10.96.0.0/16 via {}", node.v4);
    client.batch(&route).unwrap();
    let (web, cart, unused) = (
        on(node.v4, 30080),
        on([203, 0, 113, 20], 80),
        on(CLUSTER_V4, 81),
    );
    let ledger = on([203, 0, 113, 30], 7);
    let every = Duration::from_millis;
    let load = Load::new()
        .with(client, every(15), connections(web))
        .with(client, every(60), connections(cart))
        .with(
            client,
            every(200),
            Box::new(move || {
                assert!(get(unused).is_err());
                Ok("no pod".into())
            }),
        )
        .with(
            client,
            every(150),
            Box::new(move || {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(b"x", ledger)?;
                Ok("no pod".into())
            }),
        );

    let browser = Browser::start(node);
    browser.post("/url", &json!({"url": format!("http://{PAGE}/")}));
    browser.prefer("light");
    browser.resize(1360);
    page_shows_rates(&browser);
    page_explains_a_packet(&browser);
    browser.shoot_all("page");

    browser.enter("#filter", "absent");
    eventually("nothing is left", || {
        browser.text("#services + .empty") == "No service contains “absent”."
    });
    assert_eq!(browser.complaints(), json!([]));

    let agent = node.agent.as_ref().unwrap();
    agent.signal(Signal::SIGTERM).unwrap();
    eventually("the page shows that the agent is gone", || {
        browser.text("#state").starts_with("Agent unreachable")
    });
    browser.shoot("page-unreachable");
    finish(load);
}

fn page_shows_rates(browser: &Browser<'_>) {
    eventually("a rate of the service", || {
        let rate = browser.text("#services tbody tr:first-child .rate .value");
        browser.text("#state") == "In sync"
            && browser.text("#services tbody .name") == "default/web"
            && !["", "0", "–"].contains(&rate.as_str())
    });
    eventually("the reasons", || {
        browser
            .text("#reasons")
            .contains("No Service uses this port")
    });
    assert!(browser.text("#backends").contains("10.244.1.2:9376"));

    eventually("a line of the last seconds", || {
        let script = "return document.querySelector('#services .rate .line').points.length";
        browser.run(script).as_u64().unwrap() > 4
    });
}

fn page_explains_a_packet(browser: &Browser<'_>) {
    browser.enter("[name=source]", "192.168.50.100");
    browser.enter("[name=destination]", "192.168.50.1:30080");
    browser.click("#explain button");
    eventually("what is wrong with the question", || {
        browser
            .text("#explanation")
            .starts_with("source \"192.168.50.100\" is not ADDRESS:PORT")
    });
    browser.enter("[name=source]", ":4000");
    browser.click("#explain button");
    eventually("the steps", || {
        let steps = browser.text("#explanation ol");
        steps.contains("is NodePort of Service default/web")
            && browser
                .text("#explanation .verdict")
                .starts_with("to-backend")
    });
}
