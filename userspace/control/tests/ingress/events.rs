//! Refusals are written as Events.

use headgate_control::report;
use k8s_openapi::api::events::v1::Event;

use crate::{
    server::PATIENCE,
    source::{Proxy, client, ingress, our_class, rule, secret, web},
};

/// Kind and name of the object of each Event, and its note.
fn written(proxy: &Proxy) -> Vec<String> {
    let events = proxy.api().list::<Event>().into_iter();
    let mut lines: Vec<String> = events
        .map(|event| {
            let about = event.regarding.unwrap_or_default();
            let (kind, name) = (
                about.kind.unwrap_or_default(),
                about.name.unwrap_or_default(),
            );
            format!("{kind} {name}: {}", event.note.unwrap_or_default())
        })
        .collect();
    lines.sort();
    lines
}

async fn waits_for(proxy: &Proxy, expected: &[String]) {
    let wait = async {
        while written(proxy) != expected {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let result = tokio::time::timeout(PATIENCE, wait).await;
    assert!(result.is_ok(), "{:#?}", written(proxy));
}

#[tokio::test(flavor = "multi_thread")]
async fn l54_refusals_become_events_once() {
    let proxy = Proxy::on_api().await;
    tokio::spawn(report(client(proxy.api()), "n1", proxy.status.clone()));
    let class = our_class().trim_end().trim_end_matches('}').to_owned()
        + ", parameters: {kind: Config, name: c}}\n";
    let tls = "tls: [{hosts: [a.example], secretName: web}], ";
    let rules = [rule("a.example", "gone"), rule("b.example", "lost")].join(", ");
    let text = secret("web", "kubernetes.io/tls", "bad")
        + &class
        + &ingress("shop", &format!("{tls}rules: [{rules}]"));
    proxy.api().apply_yaml(&text).unwrap();
    let missing = |ingress: &str, rule: usize, service: &str| {
        format!(
            "Ingress {ingress}: spec.rules[{rule}].http.paths[0].backend.service: there is no \
             Service default/{service}"
        )
    };
    let mut expected = vec![
        missing("shop", 0, "gone"),
        missing("shop", 1, "lost"),
        "IngressClass headgate: spec.parameters: Config c is not supported".into(),
        "Secret web: data[tls.crt]: is not a certificate".into(),
    ];
    waits_for(&proxy, &expected).await;
    // More passes, during which the refusals stay.
    proxy.api().apply_yaml(&web("web", "10.244.1.2")).unwrap();
    let other = format!("rules: [{}]", rule("c.example", "away"));
    proxy.api().apply_yaml(&ingress("other", &other)).unwrap();
    expected.insert(0, missing("other", 0, "away"));
    waits_for(&proxy, &expected).await;
}
