//! Floods over HTTP/2: memory stays bounded, and other clients are served.

use std::fs;

use tokio::task::JoinHandle;

use crate::{
    client::Client,
    frames::{
        self, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame,
    },
    setup::{Setup, until},
};

/// Largest growth of memory by a flood, in bytes. Each flood sends many times as much.
const MOST_MEMORY: u64 = 32 << 20;

/// Returns the memory of this process, in bytes.
pub(crate) fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kilobytes << 10
}

/// Sends frames repeatedly and reads nothing, until the proxy closes the connection or stops reading.
fn flood(mut client: Client, bytes: Vec<u8>, times: usize) -> JoinHandle<Client> {
    tokio::spawn(async move {
        for _ in 0..times {
            client.send(&bytes).await;
        }
        client
    })
}

/// Checks that memory stays bounded and others are served during a flood.
async fn survives(setup: &Setup, flood: JoinHandle<Client>) {
    let before = memory();
    for _ in 0..50 {
        setup.serves_others().await;
        setup.web.forget();
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < MOST_MEMORY, "{grown} bytes");
    flood.abort();
}

#[tokio::test]
async fn l84_frames_whose_replies_are_not_read() {
    let setup = Setup::new().await;
    let settings = [0, 3, 0, 0, 0, 100].repeat(100);
    for frames in [
        frame(PING, 0, 0, &[7; 8]),
        frame(SETTINGS, 0, 0, &[]),
        frame(SETTINGS, 0, 0, &settings),
    ] {
        let client = frames::connect(setup.http).await;
        let many = frames.repeat(1000);
        survives(&setup, flood(client, many, 10_000)).await;
    }
}

#[tokio::test]
async fn l84_an_endless_field_section() {
    let setup = Setup::new().await;
    let part = frames::section(&vec![("x", "y"); 3000]);
    let mut client = frames::connect(setup.http).await;
    let begin = frames::request("GET", "/a", &[]);
    client.send(frame(HEADERS, END_STREAM, 1, &begin)).await;
    let more = frame(CONTINUATION, 0, 1, &part);
    let flooding = flood(client, more, 100_000);
    let before = memory();
    // The proxy closes the connection long before the flood has sent its gigabyte.
    flooding.await.unwrap();
    assert!(memory().saturating_sub(before) < MOST_MEMORY);
    assert_eq!(setup.web.targets(), [""; 0]);
    // The same with empty frames.
    let mut client = frames::connect(setup.http).await;
    client.send(frame(HEADERS, END_STREAM, 1, &begin)).await;
    flood(client, frame(CONTINUATION, 0, 1, &[]), 100_000)
        .await
        .unwrap();
    setup.serves_others().await;
}

#[tokio::test]
async fn l84_requests_that_are_reset_at_once() {
    let setup = Setup::new().await;
    let mut client = frames::connect(setup.http).await;
    let request = frames::request("GET", "/hold", &[]);
    let mut is_reached = 0;
    for number in 0..20_000 {
        let stream = 2 * number + 1;
        client
            .send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &request))
            .await;
        client
            .send(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]))
            .await;
        if number % 1000 == 0 {
            setup.serves_others().await;
            is_reached = is_reached.max(setup.web.open());
        }
    }
    assert!(is_reached < 200, "{is_reached} connections to the backend");
    until("requests are cancelled", || in_flight(&setup) == 0).await;
}

fn in_flight(setup: &Setup) -> u32 {
    let states = setup.proxy.upstreams();
    let endpoints = states.iter().flat_map(|state| &state.endpoints);
    endpoints.map(|endpoint| endpoint.in_flight).sum()
}

#[tokio::test]
async fn l84_more_concurrent_requests_than_allowed() {
    let setup = Setup::new().await;
    let mut client = frames::connect(setup.http).await;
    let request = frames::request("GET", "/hold", &[]);
    for number in 0..1000 {
        let flags = END_HEADERS | END_STREAM;
        client
            .send(frame(HEADERS, flags, 2 * number + 1, &request))
            .await;
    }
    until("128 requests", || in_flight(&setup) == 128).await;
    assert_eq!(
        frames::until(&mut client, &[RST_STREAM]).await,
        Some(RST_STREAM)
    );
    setup.serves_others().await;
    assert_eq!(in_flight(&setup), 128);
    drop(client);
    until("requests are cancelled", || in_flight(&setup) == 0).await;
}

/// The client requests large responses and reads them one byte at a time.
#[tokio::test]
async fn l84_responses_that_are_not_read() {
    let setup = Setup::new().await;
    let mut floods = Vec::new();
    let before = memory();
    for _ in 0..4 {
        let mut client = frames::connect(setup.http).await;
        // SETTINGS_INITIAL_WINDOW_SIZE is 1.
        client
            .send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]))
            .await;
        let request = frames::request("GET", "/large", &[]);
        for number in 0..100 {
            let flags = END_HEADERS | END_STREAM;
            client
                .send(frame(HEADERS, flags, 2 * number + 1, &request))
                .await;
        }
        floods.push(client);
    }
    until("the requests", || setup.web.targets().len() == 400).await;
    for _ in 0..50 {
        setup.serves_others().await;
    }
    let grown = memory().saturating_sub(before);
    assert!(grown < 4 * MOST_MEMORY, "{grown} bytes for 400 MiB");
    drop(floods);
    until("requests are cancelled", || in_flight(&setup) == 0).await;
}
