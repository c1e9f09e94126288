//! Authentication comes before everything else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router};
use headgate_model::{
    NamespacedName,
    edge::{
        ApiKey, Auth, Basic, Claims, Cors, CorsList, CorsOrigins, Hidden, Introspection, Limits,
        Listener, Mirror, Policy, Rate, Redirect, Server, Share, Template, UpstreamKey,
    },
};
use http::Request;
use serde_json::json;
use tokio::net::TcpListener;

use crate::setup::{HOSTS, Setup, echoed, request};

fn key() -> Auth {
    Auth::ApiKey(ApiKey {
        header: "x-api-key".into(),
        query: None,
        consumers: [("ada".into(), Hidden("right".into()))].into(),
    })
}

fn guarded() -> Policy {
    Policy {
        auth: vec![key()],
        ..Policy::default()
    }
}

#[tokio::test]
async fn l71_auth_forged_headers_do_not_reach_backends() {
    let setup = Setup::new(key()).await;
    let spellings = [
        "x-auth-user",
        "X_Auth_User",
        "x-auth_user",
        "x-consumer",
        "X_CONSUMER",
    ];
    let builder = spellings
        .into_iter()
        .fold(request("/"), |builder, name| builder.header(name, "root"));
    let response = setup.get(builder.header("x-api-key", "right")).await;
    let headers = echoed(&response);
    assert!(
        !headers.values().any(|value| value == "root"),
        "{headers:?}"
    );
    assert_eq!(
        (&*headers["x-auth-user"], &*headers["x-consumer"]),
        ("ada", "ada")
    );
    assert!(!headers.contains_key("x-api-key"));
}

#[tokio::test]
async fn l67_auth_introspection_cache_outlives_new_routes() {
    let requests = Arc::<AtomicUsize>::default();
    let count = requests.clone();
    let issuer = Router::new().fallback(move || {
        count.fetch_add(1, Ordering::SeqCst);
        async { Json(json!({"active": true, "sub": "ada"})) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, issuer).await });
    let setup = Setup::new(Auth::Introspection(Introspection {
        server: Server {
            url,
            authorities: None,
        },
        client_id: "shop".into(),
        client_secret: Hidden("secret".into()),
        scopes: Vec::new(),
        claims: Claims::default(),
    }));
    let setup = setup.await;
    for _ in 0..3 {
        let builder = request("/").header("authorization", "Bearer token");
        assert_eq!(setup.get(builder).await.status(), 200);
        setup.reload();
    }
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn l72_auth_with_invalid_settings_never_reaches_the_backend() {
    let closed = Policy {
        closed: Some("why".into()),
        ..Policy::default()
    };
    let broken = Policy {
        auth: vec![Auth::Basic(Basic {
            realm: "r".into(),
            users: [("ada".into(), Hidden("plain".into()))].into(),
        })],
        ..Policy::default()
    };
    for (policy, refusals) in [(closed, 0), (broken, 1)] {
        let setup = Setup::with(policy, Listener::default()).await;
        assert_eq!(setup.refusals, refusals);
        for builder in [
            request("/"),
            request("/").header("authorization", "Basic YWRhOnBsYWlu"),
        ] {
            assert_eq!(setup.get(builder).await.status(), 503);
        }
        assert_eq!(setup.hits(), 0);
        let open = Request::get("/").header("host", HOSTS[1]);
        assert_eq!(
            setup.get(open).await.status(),
            200,
            "other hosts are not affected"
        );
    }
}

#[tokio::test]
async fn l73_auth_comes_before_redirects_and_body_limits() {
    let redirect = Policy {
        redirect: Some(Redirect::Location {
            location: Template::plain("https://else.example/"),
            code: 301,
        }),
        ..guarded()
    };
    let root = Policy {
        app_root: Some("/secret-place".into()),
        ..guarded()
    };
    for policy in [redirect, root] {
        let setup = Setup::with(policy, Listener::default()).await;
        let denied = setup.get(request("/")).await;
        assert_eq!(denied.status(), 401);
        assert!(!denied.headers().contains_key("location"));
        let sent = setup.get(request("/").header("x-api-key", "right")).await;
        assert!(sent.status().is_redirection());
    }
    let setup = Setup::with(guarded(), Listener::default()).await;
    let large = request("/").header("content-length", "999999999");
    assert_eq!(setup.get(large).await.status(), 401);
}

#[tokio::test]
async fn l73_auth_comes_before_mirrors() {
    let upstream = UpstreamKey {
        service: NamespacedName::new("shop", "copy"),
        port: 80,
        policy: Default::default(),
    };
    let policy = Policy {
        mirrors: vec![Mirror {
            upstream,
            share: Share::ALL,
        }],
        ..guarded()
    };
    let setup = Setup::with(policy, Listener::default()).await;
    for _ in 0..5 {
        assert_eq!(setup.get(request("/")).await.status(), 401);
    }
    let right = request("/").header("x-api-key", "right");
    assert_eq!(setup.get(right).await.status(), 200);
    // The copy may arrive after the response.
    while setup.hits() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(setup.hits(), 2, "the request and its copy");
}

#[tokio::test]
async fn l73_auth_is_not_required_for_preflights_and_https_redirects() {
    let policy = Policy {
        to_https: true,
        cors: Some(Cors {
            origins: CorsOrigins::All,
            methods: CorsList::Listed("GET".into()),
            headers: CorsList::Listed("X-API-Key".into()),
            expose: None,
            credentials: false,
            max_age_s: 1,
        }),
        ..guarded()
    };
    let setup = Setup::with(policy, Listener::default()).await;
    assert_eq!(setup.plain(request("/")).await.status(), 308);
    let preflight = request("/")
        .method("OPTIONS")
        .header("origin", "https://a.example")
        .header("access-control-request-method", "GET");
    assert_eq!(setup.get(preflight).await.status(), 204);
    let denied = setup
        .get(request("/").header("origin", "https://a.example"))
        .await;
    assert_eq!(denied.status(), 401);
    assert!(
        denied.headers().contains_key("access-control-allow-origin"),
        "scripts can read the response"
    );
    assert_eq!(setup.hits(), 0);
}

/// Clients that guess passwords are slowed down; each client that a trusted proxy names has its own limit.
#[tokio::test]
async fn l46_limits_count_before_passwords_are_checked() {
    let hash = "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/";
    let policy = Policy {
        auth: vec![Auth::Basic(Basic {
            realm: "r".into(),
            users: [("ada".into(), Hidden(hash.into()))].into(),
        })],
        limits: Limits {
            rates: vec![Rate {
                requests: 1,
                period: Duration::from_secs(3600),
                burst: 1,
            }],
            ..Limits::default()
        },
        ..Policy::default()
    };
    let setup = Setup::with(policy, Listener::default()).await;
    // `ada` with `wrong`, then with `secret`.
    let (wrong, right) = ("Basic YWRhOndyb25n", "Basic YWRhOnNlY3JldA==");
    for (client, password, expected) in [
        ("192.0.2.1", wrong, 401),
        ("192.0.2.1", wrong, 401),
        ("192.0.2.1", wrong, 503),
        ("192.0.2.1", right, 503),
        ("192.0.2.2", right, 200),
        ("192.0.2.2", right, 200),
        ("192.0.2.2", right, 503),
        ("192.0.2.3", wrong, 401),
    ] {
        let asking = request("/").header("x-forwarded-for", client);
        let response = setup.get(asking.header("authorization", password)).await;
        assert_eq!(response.status(), expected, "{client} {password}");
    }
    assert_eq!(setup.hits(), 2);
}
