//! Heads over the size limit.

use crate::{
    client::Client,
    frames::{self, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, frame},
    setup::Setup,
};

#[tokio::test]
async fn l85_heads_over_the_limit_are_refused() {
    let setup = Setup::new().await;
    let many: String = (0..300)
        .map(|number| format!("X-{number}: y\r\n"))
        .collect();
    for (target, fields, statuses) in [
        (
            "/a".into(),
            format!("X: {}\r\n", "y".repeat(64 << 10)),
            ["431", "431"],
        ),
        (
            "/a".into(),
            format!("{}: y\r\n", "x".repeat(64 << 10)),
            ["431", "431"],
        ),
        ("/a".into(), "X: y\r\n".repeat(32 << 10), ["431", "431"]),
        ("/a".into(), many, ["431", "431"]),
        (
            format!("/{}", "a".repeat(20 << 10)),
            String::new(),
            ["414", "414"],
        ),
        (
            format!("/a?{}", "a".repeat(20 << 10)),
            String::new(),
            ["414", "414"],
        ),
        (
            format!("/{}", "a".repeat(70 << 10)),
            String::new(),
            ["414", "431"],
        ),
    ] {
        let mut client = Client::connect(setup.http).await;
        let head = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
        client.send(head).await;
        let answer = client.rest().await;
        assert!(statuses.contains(&&answer[9..12]), "{answer}");
        assert_eq!(setup.web.targets(), [""; 0]);
        setup.serves_others().await;
        setup.web.forget();
    }
}

#[tokio::test]
async fn l85_a_field_section_of_http2_is_bounded() {
    let setup = Setup::new().await;
    let value = "y".repeat(120);
    let long = frames::request("GET", "/a", &vec![("x", value.as_str()); 400]);
    let mut client = frames::connect(setup.http).await;
    // It takes several frames.
    let (first, rest) = long.split_at(16 << 10);
    client.send(frame(HEADERS, END_STREAM, 1, first)).await;
    for (place, part) in rest.chunks(16 << 10).enumerate() {
        let is_last = (place + 1) * (16 << 10) >= rest.len();
        let flags = if is_last { END_HEADERS } else { 0 };
        client.send(frame(CONTINUATION, flags, 1, part)).await;
    }
    let answered = frames::until(&mut client, &[HEADERS, RST_STREAM, GOAWAY]).await;
    assert!(answered.is_some());
    assert_eq!(setup.web.targets(), [""; 0]);
    // The same connection serves the next request.
    let next = frames::request("GET", "/next", &[]);
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &next))
        .await;
    crate::setup::until("the next request", || setup.web.targets() == ["/next"]).await;
}
