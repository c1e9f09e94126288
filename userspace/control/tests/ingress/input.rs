//! Invalid input is refused by object and field, and the rest stays in effect.

use crate::source::{Proxy, class, ingress, our_class, rule, rule_at, web};

const SERVED: &str = "ok.example / default/web:80 [10.244.1.2:8080]\n";

/// A path with these fields of a host.
fn path(fields: &str) -> String {
    format!("{{host: a.example, http: {{paths: [{{{fields}}}]}}}}")
}

fn backend(fields: &str) -> String {
    path(&format!("path: /, pathType: Prefix, backend: {{{fields}}}"))
}

#[tokio::test]
async fn l51_invalid_rules_are_refused_by_field() {
    let at = |text: &str| rule_at("a.example", text, "web");
    let port = |text: &str| backend(&format!("service: {{name: web, port: {{{text}}}}}"));
    let web_80 = "service: {name: web, port: {number: 80}}";
    let of_type = |text: &str| path(&format!("path: /, {text}backend: {{{web_80}}}"));
    let cases = [
        (
            rule("10.0.0.1", "web"),
            "host: `10.0.0.1` must be a DNS name, not an IP address",
        ),
        (
            rule("fd00::1", "web"),
            "host: `fd00::1` must be a DNS name, not an IP address",
        ),
        (
            rule("*", "web"),
            "host: `*` is not a DNS name, with or without `*.` in front",
        ),
        (
            rule("*.*.example", "web"),
            "host: `*.*.example` is not a DNS name, with or without `*.` in front",
        ),
        (
            rule("a.example:80", "web"),
            "host: `a.example:80` is not a DNS name, with or without `*.` in front",
        ),
        (
            at("shop"),
            "http.paths[0].path: `shop` does not start with `/`",
        ),
        (at(""), "http.paths[0].path: `` does not start with `/`"),
        (
            at("/a/../b"),
            "http.paths[0].path: `/a/../b` must not contain `/../`",
        ),
        (
            at("/a//b"),
            "http.paths[0].path: `/a//b` must not contain `//`",
        ),
        (
            at("/a%2Fb"),
            "http.paths[0].path: `/a%2Fb` must not contain `%2F`",
        ),
        (
            at("/a/.."),
            "http.paths[0].path: `/a/..` must not contain `/..`",
        ),
        (of_type(""), "http.paths[0].pathType: is missing"),
        (
            of_type("pathType: Regex, "),
            "http.paths[0].pathType: Regex is not one of Exact, Prefix, ImplementationSpecific",
        ),
        (
            path("path: /, pathType: Prefix"),
            "http.paths[0].backend: neither a service nor a resource is given",
        ),
        (
            backend(&format!("{web_80}, resource: {{kind: Bucket, name: b}}")),
            "http.paths[0].backend: both a service and a resource are given",
        ),
        (
            backend("service: {name: Web, port: {number: 80}}"),
            "http.paths[0].backend.service.name: `Web` is not a valid name of a Service",
        ),
        (
            backend("service: {name: web}"),
            "http.paths[0].backend.service.port: neither name nor number is given",
        ),
        (
            port(""),
            "http.paths[0].backend.service.port: neither name nor number is given",
        ),
        (
            port("name: http, number: 80"),
            "http.paths[0].backend.service.port: both name and number are given",
        ),
        (
            port("number: 65536"),
            "http.paths[0].backend.service.port.number: 65536 is not a port (1 to 65535)",
        ),
        (
            port("name: HTTP"),
            "http.paths[0].backend.service.port.name: `HTTP` is not a valid name of a port",
        ),
        (
            port("name: '80'"),
            "http.paths[0].backend.service.port.name: `80` is not a valid name of a port",
        ),
    ];
    let mut proxy = Proxy::on_manifests().await;
    let base = our_class() + &web("web", "10.244.1.2");
    proxy.write("base.yaml", &base).await;
    for (bad, complaint) in cases {
        let rules = format!("rules: [{bad}, {}]", rule("ok.example", "web"));
        proxy.write("shop.yaml", &ingress("shop", &rules)).await;
        let line = format!("Ingress default/shop: spec.rules[0].{complaint}\n");
        proxy.refuses(&line).await;
        let now = proxy.received.borrow().dump();
        assert!(now.ends_with(SERVED), "{bad}: {now}");
        assert!(
            !now.contains("default/web:80 [10.244.1.2:8080]\nok"),
            "{bad}: {now}"
        );
        // Its refusals are removed with it.
        proxy.write("shop.yaml", "").await;
        proxy.refuses("").await;
    }
}

#[tokio::test]
async fn l51_invalid_tls_entries_apply_to_no_other_host() {
    let mut proxy = Proxy::on_manifests().await;
    let text = our_class()
        + &web("web", "10.244.1.2")
        + &crate::source::secret("web", "kubernetes.io/tls", "one")
        + &ingress(
            "shop",
            &format!(
                "tls: [{{hosts: ['*'], secretName: web}}, {{hosts: [b.example], secretName: W}}], \
                 rules: [{}]",
                rule("ok.example", "web")
            ),
        );
    proxy.write("all.yaml", &text).await;
    proxy
        .refuses(
            "Ingress default/shop: spec.tls[0].hosts[0]: `*` is not a DNS name, with or without \
             `*.` in front\n\
             Ingress default/shop: spec.tls[1].secretName: `W` is not a valid name of a Secret\n",
        )
        .await;
    proxy.serves(SERVED).await;
}

#[tokio::test]
async fn l51_a_default_backend_gets_no_more_hosts_than_written() {
    let mut proxy = Proxy::on_manifests().await;
    let spec = "defaultBackend: {service: {name: web, port: {number: 80}}}, rules: ";
    let spec = format!("{spec}[{}]", rule("*", "web"));
    let text = our_class() + &web("web", "10.244.1.2") + &ingress("shop", &spec);
    proxy.write("all.yaml", &text).await;
    proxy.complains("spec.rules[0].host").await;
    proxy.serves("").await;
}

#[tokio::test]
async fn l51_hosts_are_in_lower_case_without_final_dot() {
    let mut proxy = Proxy::on_manifests().await;
    let text = our_class()
        + &web("web", "10.244.1.2")
        + &ingress("shop", &format!("rules: [{}]", rule("OK.Example.", "web")));
    proxy.write("all.yaml", &text).await;
    proxy.serves(SERVED).await;
}

#[tokio::test]
async fn l51_empty_objects_are_refused() {
    let mut proxy = Proxy::on_manifests().await;
    let text = class("none", "''") + &our_class() + &ingress("shop", "");
    proxy.write("all.yaml", &text).await;
    proxy
        .refuses(
            "Ingress default/shop: spec: either `defaultBackend` or `rules` must be given\n\
             IngressClass none: spec.controller: is missing\n",
        )
        .await;
}

#[tokio::test]
async fn l51_invalid_ingresses_of_other_classes_are_not_reported() {
    let mut proxy = Proxy::on_manifests().await;
    let bad = ingress("shop", &format!("rules: [{}]", rule("*", "web")));
    let others = bad.replace("ClassName: headgate", "ClassName: other");
    proxy.write("shop.yaml", &others).await;
    let received = "Ingress default/shop: spec.rules[0].host: `*` is not a DNS name, with or without \
                `*.` in front\n";
    let marker = class("none", "''");
    proxy.write("marker.yaml", &marker).await;
    proxy
        .refuses("IngressClass none: spec.controller: is missing\n")
        .await;
    proxy.write("marker.yaml", &our_class()).await;
    proxy.write("shop.yaml", &bad).await;
    proxy.refuses(received).await;
}

#[tokio::test]
async fn l51_invalid_objects_keep_their_previous_content() {
    let mut proxy = Proxy::on_manifests().await;
    let shop = |rules: &str| ingress("shop", &format!("rules: {rules}"));
    let good = shop(&format!("[{}]", rule("ok.example", "web")));
    proxy
        .write("base.yaml", &(our_class() + &web("web", "10.244.1.2")))
        .await;
    proxy.write("shop.yaml", &good).await;
    proxy.serves(SERVED).await;
    for (text, complaint) in [
        (
            shop("[{hots: a.example}]"),
            "unknown field spec.rules.0.hots",
        ),
        (shop("7"), "invalid type"),
    ] {
        proxy.write("shop.yaml", &text).await;
        proxy.complains(complaint).await;
        proxy.serves(SERVED).await;
    }
}

#[tokio::test]
async fn l51_secrets_are_not_quoted() {
    let mut proxy = Proxy::on_manifests().await;
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: web}\ndata: {tls.key: hunter2}\n";
    proxy.write("secret.yaml", text).await;
    let received = "Secret default/web: a field has a wrong type";
    proxy.complains(received).await;
    let refusals = proxy.refusals();
    assert!(!refusals.contains("hunter2"), "{refusals}");
}
