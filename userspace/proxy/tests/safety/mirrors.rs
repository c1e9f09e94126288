//! Mirrored requests.

use crate::{
    client::Client,
    setup::{Setup, objects, until},
};
use headgate_proxy::Settings;

const MIRROR: (&str, &str) = ("headgate.io/mirror-service", "admin:80");

#[tokio::test]
async fn l74_a_mirror_gets_bodies() {
    let setup = Setup::with(Settings::default(), &objects(&[MIRROR])).await;
    for (framing, sent) in [
        ("Content-Length: 3", "abc"),
        (
            "Transfer-Encoding: chunked",
            "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        ),
    ] {
        let mut client = Client::connect(setup.http).await;
        let head = format!("POST /a HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n");
        client.send(format!("{head}{sent}")).await;
        assert!(client.until("ok\n").await.starts_with("HTTP/1.1 200 "));
        until("the copy", || {
            setup.admin.seen().iter().any(|seen| seen.is_whole)
        })
        .await;
        for backend in [&setup.web, &setup.admin] {
            let seen = backend.seen();
            assert_eq!((seen.len(), &seen[0].body[..]), (1, &b"abc"[..]));
            backend.forget();
        }
    }
}

#[tokio::test]
async fn l74_copy_of_an_incomplete_body_is_incomplete() {
    let setup = Setup::with(Settings::default(), &objects(&[MIRROR])).await;
    let mut client = Client::connect(setup.http).await;
    client
        .send("POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    until("request and copy", || {
        setup.web.targets() == ["/a"] && setup.admin.targets() == ["/a"]
    })
    .await;
    drop(client);
    until("both end", || setup.web.open() + setup.admin.open() == 0).await;
    assert!(!setup.web.seen()[0].is_whole && !setup.admin.seen()[0].is_whole);
}
