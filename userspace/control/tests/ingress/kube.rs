//! Behaviour of the proxy that only an API server can cause.

use std::{collections::BTreeSet, sync::Arc};

use headgate_apiserver::{Attributes, Options};
use headgate_control::{Event, Interest};
use k8s_openapi::api::{
    core::v1::{Secret, Service},
    networking::v1::Ingress,
};
use tokio::time::timeout;

use crate::{
    server::PATIENCE,
    source::{Proxy, Source, ingress, our_class, rule, secret, web},
};

fn shop(name: &str, host: &str) -> String {
    ingress(name, &format!("rules: [{}]", rule(host, "web")))
}

#[tokio::test(flavor = "multi_thread")]
async fn l55_no_request_is_sent_about_other_namespaces() {
    // A user with access to two namespaces cannot list all of them.
    let may = |asked: &Attributes| match asked.namespace.as_deref() {
        Some(namespace) => ["blue", "green"].contains(&namespace),
        None => asked.resource == "ingressclasses",
    };
    let options = Options {
        authorize: Some(Arc::new(may)),
        ..Options::default()
    };
    let source = Source::api(options).await;
    let within = |namespace: &str, text: &str| {
        let named = format!("metadata: {{namespace: {namespace}, ");
        text.replace("metadata: {", &named)
    };
    let Source::Api(server) = &source else {
        unreachable!("it is one");
    };
    server.apply_yaml(&our_class()).unwrap();
    for namespace in ["red", "green", "blue"] {
        let text = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}");
        server.apply_yaml(&text).unwrap();
        let host = format!("{namespace}.example");
        let objects = shop("shop", &host) + &web("web", "10.244.1.2");
        server.apply_yaml(&within(namespace, &objects)).unwrap();
    }
    let namespaces = BTreeSet::from(["blue".to_owned(), "green".to_owned()]);
    let mut proxy = Proxy::over(source, namespaces).await;
    assert_eq!(
        proxy.received.borrow().calls,
        [
            "place blue/web:80 [10.244.1.2:8080]",
            "place green/web:80 [10.244.1.2:8080]",
            "serve blue.example green.example",
        ],
        "at once, when both were listed"
    );
    assert_eq!(proxy.status.borrow().source.disconnected, None);
    proxy.api().delete::<Ingress>("green", "shop").unwrap();
    proxy
        .serves("blue.example / blue/web:80 [10.244.1.2:8080]\n")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l56_changes_missed_by_watches_are_found_by_listing() {
    let mut proxy = Proxy::on_api().await;
    let tls = "tls: [{hosts: [a.example], secretName: web}], ";
    let text = our_class()
        + &ingress("a", &format!("{tls}rules: [{}]", rule("a.example", "web")))
        + &shop("b", "b.example")
        + &secret("web", "kubernetes.io/tls", "one")
        + &web("web", "10.244.1.2");
    proxy.api().apply_yaml(&text).unwrap();
    proxy
        .serves(
            "a.example / default/web:80 [10.244.1.2:8080]\n\
             b.example / default/web:80 [10.244.1.2:8080]\n\
             a.example certificate one\n",
        )
        .await;
    let server = proxy.api();
    server.stop().await;
    server.delete::<Ingress>("default", "b").unwrap();
    server.delete::<Secret>("default", "web").unwrap();
    server.delete::<Service>("default", "web").unwrap();
    server.compact(server.version());
    let lists = server.requests("list", "ingresses");
    server.resume().await.unwrap();
    proxy.serves("a.example / Unavailable\n").await;
    assert!(proxy.api().requests("list", "ingresses") > lists);
}

#[tokio::test(flavor = "multi_thread")]
async fn l56_an_absent_server_removes_nothing_and_is_reported() {
    let mut proxy = Proxy::on_api().await;
    let text = our_class() + &shop("a", "a.example") + &web("web", "10.244.1.2");
    proxy.api().apply_yaml(&text).unwrap();
    let served = "a.example / default/web:80 [10.244.1.2:8080]\n";
    proxy.serves(served).await;
    proxy.api().stop().await;
    let received = proxy
        .status
        .wait_for(|status| status.source.disconnected.is_some());
    assert!(timeout(PATIENCE, received).await.is_ok());
    assert_eq!(proxy.received.borrow().dump(), served);
    // Most watches have no change afterwards.
    let text = web("web", "10.244.1.9");
    proxy.api().apply_yaml(&text).unwrap();
    proxy.api().resume().await.unwrap();
    proxy
        .serves("a.example / default/web:80 [10.244.1.9:8080]\n")
        .await;
    let received = proxy
        .status
        .wait_for(|status| status.source.disconnected.is_none());
    assert!(timeout(PATIENCE, received).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn l56_a_forbidden_watch_is_reported_while_it_fails() {
    let may = |asked: &Attributes| asked.resource != "secrets";
    let options = Options {
        authorize: Some(Arc::new(may)),
        ..Options::default()
    };
    let source = Source::api(options).await;
    let Source::Api(server) = &source else {
        unreachable!("it is one");
    };
    let mut events = source.follow(&BTreeSet::new(), Interest::Ingress);
    let mut connected = Vec::new();
    let mut until = async |is_last: fn(&Event) -> bool| {
        loop {
            let event = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
            if let Event::Connected(result) = &event {
                connected.push(result.clone());
            }
            if is_last(&event) {
                return;
            }
        }
    };
    until(|event| matches!(event, Event::Connected(Err(reason)) if reason.starts_with("Secret")))
        .await;
    server.stop().await;
    until(|event| matches!(event, Event::Connected(Err(reason)) if reason.starts_with("Service")))
        .await;
    server.apply_yaml(&web("web", "10.244.1.2")).unwrap();
    server.resume().await.unwrap();
    until(|event| matches!(event, Event::Upstream(_, Some(_)))).await;
    // The recovery of other watches leaves the error of the one that fails.
    while !matches!(connected.last(), Some(Err(reason)) if reason.starts_with("Secret")) {
        if let Event::Connected(result) = timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            connected.push(result);
        }
    }
    assert!(connected.iter().all(Result::is_err), "{connected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn l56_a_restart_serves_everything_in_one_step() {
    let mut proxy = Proxy::on_api().await;
    let text =
        our_class() + &shop("a", "a.example") + &shop("b", "b.example") + &web("web", "10.244.1.2");
    proxy.api().apply_yaml(&text).unwrap();
    let served = "a.example / default/web:80 [10.244.1.2:8080]\n\
                  b.example / default/web:80 [10.244.1.2:8080]\n";
    proxy.serves(served).await;
    let proxy = proxy.restart().await;
    let received = proxy.received.borrow().clone();
    assert_eq!(received.dump(), served);
    let all = [
        "place default/web:80 [10.244.1.2:8080]",
        "serve a.example b.example",
    ];
    assert_eq!(received.calls, all);
}
