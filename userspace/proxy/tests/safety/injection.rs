//! Malicious objects: values stay text, and objects of other namespaces cannot be reached.

use headgate_model::{
    NamespacedName, Refusal,
    edge::PortName,
    ingress::{ANNOTATIONS, IngressBackend, NGINX, OWN},
};
use headgate_proxy::Settings;

use crate::{
    client::Client,
    setup::{Setup, add_secret, add_tls, name, objects},
};

/// Characters that end a value, a line or a word in the configuration of some proxy.
const ENDS: [&str; 12] = [
    "\n", "\r\n", "\0", "\"", "'", "`", "\"; }\n", ";}", "$(id)", "${HOME}", "$http_x", "\\",
];

async fn answer(setup: &Setup, target: &str) -> String {
    let mut client = Client::connect(setup.http).await;
    let head = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nOrigin: https://a.test\r\n");
    client
        .send(format!("{head}Connection: close\r\n\r\n"))
        .await;
    client.rest().await
}

fn names(refusals: &[Refusal], key: &str) -> bool {
    let field = format!("metadata.annotations[{key}]");
    refusals.iter().any(|refusal| refusal.field == field)
}

/// Annotations that contain lines or patterns.
const ANY_TEXT: [&str; 5] = [
    "request-headers",
    "response-headers",
    "match-headers",
    "match-query",
    "canary-by-header-pattern",
];

#[tokio::test]
async fn l87_annotations_stay_one_value() {
    let setup = Setup::new().await;
    for annotation in ANNOTATIONS.iter() {
        let prefix = if annotation.is_nginx { NGINX } else { OWN };
        let key = format!("{prefix}{}", annotation.name);
        for begin in ["", "true", "7", "/a", "https://x.test/", "a.test", "X: y"] {
            for end in ENDS {
                let value = format!("{begin}{end}X-Injected: 1");
                let refusals = setup.serve(&objects(&[(&key, &value)]));
                let is_ignored = annotation.meaning.starts_with("has no effect");
                let takes_any = ANY_TEXT.contains(&annotation.name) || is_ignored;
                if value.trim().contains(['\n', '\0']) && !takes_any {
                    assert!(names(&refusals, &key), "{key}: {value:?}: {refusals:?}");
                }
                if names(&refusals, &key) || takes_any {
                    continue;
                }
                let answer = answer(&setup, "/a").await;
                let is_split = |line: &str| line.to_ascii_lowercase().starts_with("x-injected");
                assert!(!answer.lines().any(is_split), "{key}: {value:?}: {answer}");
                for seen in setup.web.seen() {
                    assert_eq!(seen.all("x-injected"), [""; 0], "{key}: {value:?}");
                }
                setup.web.forget();
            }
        }
    }
    setup.serve(&objects(&[]));
    setup.serves_others().await;
}

/// Lines are parsed by one grammar, and no line changes the framing of a message.
#[tokio::test]
async fn l87_header_lines_are_headers_or_refused() {
    let setup = Setup::new().await;
    for name in ["request-headers", "response-headers"] {
        let key = format!("{OWN}{name}");
        for value in [
            "X: y\rX-Injected: 1",
            "X: y\0",
            "X y: z",
            "X\t: y\n: z",
            "no header",
            "Transfer-Encoding: chunked",
            "content-length: 0",
            "Connection: close",
            "Host: b.test",
            "Upgrade: h2c",
            "Transfer_Encoding :chunked\nTransfer-Encoding : chunked",
        ] {
            let refusals = setup.serve(&objects(&[(&key, value)]));
            assert!(names(&refusals, &key), "{key}: {value:?}");
            assert!(answer(&setup, "/a").await.starts_with("HTTP/1.1 200 "));
        }
    }
}

/// Text of a client stays inside of the rewritten path or `Location`.
#[tokio::test]
async fn l87_a_target_does_not_split_a_header() {
    let redirect = [(
        "nginx.ingress.kubernetes.io/permanent-redirect",
        "$scheme://www.a.test$request_uri",
    )];
    let setup = Setup::with(Settings::default(), &objects(&redirect)).await;
    for target in ["/a%0d%0aX-Injected:%201", "/a%0aX-Injected:%201", "/a%00"] {
        assert!(
            answer(&setup, target).await.starts_with("HTTP/1.1 400 "),
            "{target}"
        );
    }
    let text = answer(&setup, "/a?b=%0d%0aX-Injected:%201").await;
    assert!(text.starts_with("HTTP/1.1 301 "), "{text}");
    assert!(
        text.contains("location: http://www.a.test/a?b=%0d%0aX-Injected:%201\r\n"),
        "{text}"
    );

    let mut rewrite = objects(&[("nginx.ingress.kubernetes.io/rewrite-target", "/x$1$host$2")]);
    let ingress = rewrite.ingresses.get_mut(&name("main")).unwrap();
    ingress.rules[0].paths[1].path = "/r/(.*)".into();
    assert_eq!(setup.serve(&rewrite), []);
    for (target, sent) in [
        ("/r//a%2f$2", Some("/xa/$2a.test")),
        ("/r/a%3fb%23c%20d", Some("/xa%3Fb%23c%20da.test")),
        ("/r/${9}", None),
        (
            "/r/a%20HTTP/1.1?b=%0d%0a",
            Some("/xa%20HTTP/1.1a.test?b=%0d%0a"),
        ),
        ("/r/%0d%0aX-Injected:%201", None),
    ] {
        let text = answer(&setup, target).await;
        match sent {
            Some(sent) => assert_eq!(setup.web.targets(), [sent], "{text}"),
            None => assert!(!text.contains("njected"), "{text}"),
        }
        setup.web.forget();
    }
}

/// Secrets and Services of other namespaces cannot be referenced, in any spelling.
#[tokio::test]
async fn l87_other_namespaces_cannot_be_referenced() {
    let setup = Setup::new().await;
    let other = NamespacedName::new("other", "tls");
    let certificate = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let (chain, key) = (
        certificate.cert.pem(),
        certificate.signing_key.serialize_pem(),
    );
    for secret in [
        "other/tls",
        "../other/tls",
        "default/../other/tls",
        "tls",
        "other.tls",
    ] {
        let mut objects = objects(&[]);
        add_secret(&mut objects, "moved", &chain, &key);
        let moved = objects.secrets.remove(&name("moved")).unwrap();
        objects.secrets.insert(other.clone(), moved);
        add_tls(&mut objects, "a.test", secret);
        let refusals = setup.serve(&objects);
        assert_eq!(refusals.len(), 1, "{secret}: {refusals:?}");
        assert_eq!(refusals[0].field, "spec.tls[0].secretName");
    }
    for (key, value) in [
        ("proxy-ssl-secret", "other/tls"),
        ("auth-secret", "other/tls"),
        ("auth-tls-secret", "other/tls"),
    ] {
        let key = format!("{NGINX}{key}");
        let mut objects = objects(&[(&key, value)]);
        add_secret(&mut objects, "moved", &chain, &chain);
        let mut moved = objects.secrets.remove(&name("moved")).unwrap();
        moved
            .data
            .insert("ca.crt".into(), chain.clone().into_bytes());
        objects.secrets.insert(other.clone(), moved);
        assert!(names(&setup.serve(&objects), &key), "{key}");
        let text = answer(&setup, "/a").await;
        assert!(
            text.starts_with("HTTP/1.1 503 "),
            "the Ingress is closed: {text}"
        );
    }
    for service in ["other/web", "../other/web", "web.other"] {
        let mut objects = objects(&[]);
        let moved = objects.services[&name("web")].clone();
        let elsewhere = NamespacedName::new("other", "web");
        objects.services.insert(elsewhere, moved);
        let ingress = objects.ingresses.get_mut(&name("main")).unwrap();
        ingress.rules[0].paths[1].backend = IngressBackend::Service {
            name: service.into(),
            port: PortName::Number(80),
        };
        setup.serve(&objects);
        let text = answer(&setup, "/a").await;
        assert!(text.starts_with("HTTP/1.1 503 "), "{service}: {text}");
    }
    assert_eq!(setup.web.targets(), [""; 0]);
}
