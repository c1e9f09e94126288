//! Events of both sources.

use headgate_apiserver::Options;
use headgate_control::{Event, Interest, Served, manifests};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    server::PATIENCE,
    source::{Proxy, Source, class, ingress, our_class, rule, secret, service, slice, web},
};

/// Runs a case on manifests, and on an API server whose watches break often.
macro_rules! on_both_sources {
    ($($name:ident;)+) => {
        mod on_manifests {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::source::Proxy::on_manifests().await).await;
            })+
        }
        mod on_api {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::source::Proxy::on_api().await).await;
            })+
        }
    };
}

on_both_sources! {
    l50_every_kind_is_created_changed_and_deleted;
    l50_headless_services_and_those_of_other_proxies_are_served;
    l50_external_names_are_not_backends;
    l50_udp_ports_are_not_backends;
}

async fn l50_every_kind_is_created_changed_and_deleted(mut proxy: Proxy) {
    let tls = |host: &str| format!("tls: [{{hosts: [{host}], secretName: web}}], ");
    let shop = |host: &str| {
        ingress(
            "shop",
            &format!("{}rules: [{}]", tls(host), rule(host, "web")),
        )
    };
    proxy.write("class.yaml", &our_class()).await;
    proxy.write("shop.yaml", &shop("a.example")).await;
    proxy.serves("a.example / Unavailable\n").await;
    proxy.write("web.yaml", &web("web", "10.244.1.2")).await;
    let served = "a.example / default/web:80 [10.244.1.2:8080]\n";
    proxy.serves(served).await;
    let certified = |host: &str, text: &str| {
        format!("{host} / default/web:80 [10.244.1.2:8080]\n{host} certificate {text}\n")
    };
    let tls_secret = |text: &str| secret("web", "kubernetes.io/tls", text);
    proxy.write("secret.yaml", &tls_secret("one")).await;
    proxy.serves(&certified("a.example", "one")).await;

    proxy.write("secret.yaml", &tls_secret("two")).await;
    proxy.serves(&certified("a.example", "two")).await;
    proxy.write("shop.yaml", &shop("b.example")).await;
    proxy.serves(&certified("b.example", "two")).await;

    proxy.write("secret.yaml", "").await;
    proxy
        .serves("b.example / default/web:80 [10.244.1.2:8080]\n")
        .await;
    proxy.write("class.yaml", "").await;
    proxy.serves("").await;
    proxy.write("class.yaml", &our_class()).await;
    proxy
        .serves("b.example / default/web:80 [10.244.1.2:8080]\n")
        .await;
    proxy
        .write("web.yaml", &service("web", "ports: [{port: 80}]"))
        .await;
    proxy.serves("b.example / default/web:80 []\n").await;
    proxy.write("web.yaml", "").await;
    proxy.serves("b.example / Unavailable\n").await;
    proxy.write("shop.yaml", "").await;
    proxy.serves("").await;
}

async fn l50_headless_services_and_those_of_other_proxies_are_served(mut proxy: Proxy) {
    let rules = [rule("a.example", "headless"), rule("b.example", "others")].join(", ");
    let others = web("others", "10.244.1.3").replace(
        "metadata: {name: others}",
        "metadata: {name: others, labels: {service.kubernetes.io/service-proxy-name: other}}",
    );
    let headless = service("headless", "clusterIP: None, ports: [{port: 80}]")
        + &slice("headless-1", "headless", "10.244.1.2");
    let labels = "labels: {service.kubernetes.io/headless: '', ";
    let text = our_class()
        + &ingress("shop", &format!("rules: [{rules}]"))
        + &headless.replace("labels: {", labels)
        + &others;
    proxy.write("all.yaml", &text).await;
    let served = "a.example / default/headless:80 [10.244.1.2:8080]\n\
                  b.example / default/others:80 [10.244.1.3:8080]\n";
    proxy.serves(served).await;
    proxy.refuses("").await;
}

async fn l50_external_names_are_not_backends(mut proxy: Proxy) {
    let external = "type: ExternalName, externalName: metadata.internal, ports: [{port: 80}]";
    let text = our_class()
        + &ingress("shop", &format!("rules: [{}]", rule("a.example", "web")))
        + &service("web", external)
        + &slice("web-1", "web", "10.244.1.2");
    proxy.write("all.yaml", &text).await;
    proxy.serves("a.example / Unavailable\n").await;
}

async fn l50_udp_ports_are_not_backends(mut proxy: Proxy) {
    let text = our_class()
        + &ingress("shop", &format!("rules: [{}]", rule("a.example", "dns")))
        + &service("dns", "ports: [{port: 80, protocol: UDP}]");
    proxy.write("all.yaml", &text).await;
    proxy.serves("a.example / Unavailable\n").await;
    proxy
        .complains("Service default/dns has no TCP port 80")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l50_secrets_of_other_types_are_not_sent() {
    let text = secret("web", "kubernetes.io/tls", "one")
        + &secret("ca", "Opaque", "two")
        + &secret("token", "kubernetes.io/service-account-token", "three")
        + &secret("release", "helm.sh/release.v1", "four");
    let api = Source::api(Options::default()).await;
    let folder = Source::manifests();
    match (&api, &folder) {
        (Source::Api(server), Source::Manifests(folder)) => {
            server.apply_yaml(&text).unwrap();
            std::fs::write(folder.path().join("all.yaml"), &text).unwrap();
        }
        _ => unreachable!(),
    }
    let names = |events: Vec<Event>| {
        let names = events.into_iter().filter_map(|event| match event {
            Event::Secret(name, Some(_)) => Some(name.name.clone()),
            _ => None,
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(folder.list().await), ["ca", "web"]);
    let sent = api.list().await;
    let is_skipped = |event: &Event| matches!(event, Event::Secret(_, None));
    assert!(!sent.iter().any(is_skipped), "they are not even sent");
    assert_eq!(names(sent), ["ca", "web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn l50_each_interest_gets_its_own_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let broken = ingress("shop", "rules: 7");
    let text = class("other", "example.com/other") + &broken + &web("web", "10.244.1.2");
    std::fs::write(folder.path().join("all.yaml"), text).unwrap();
    let (sender, mut events) = mpsc::channel(64);
    let path = folder.path().to_owned();
    tokio::spawn(async move {
        manifests::follow(path, "n1", Served::default(), Interest::Services, sender).await
    });
    let mut listed = Vec::new();
    while listed.len() < Interest::Services.kinds().len() {
        match timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            Event::Listed(kind) => listed.push(kind),
            Event::Service(..) | Event::Slice(..) => {}
            Event::Refused(_, refusals) => assert_eq!(refusals, []),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed, Interest::Services.kinds());
}
