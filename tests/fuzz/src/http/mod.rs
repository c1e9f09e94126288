//! Random bytes to the L7 proxy, over loopback.

mod backend;
mod make;
mod setup;

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    time::timeout,
};

use crate::{Runner, Target, input::Input};
use setup::Setup;

/// Random bytes to the proxy. It never panics, always answers or closes, and the backend gets no ambiguous
/// request and no more requests than the proxy counts.
pub(crate) const HTTP: Target = Target {
    name: "http",
    needs_root: false,
    make: make::input,
    runner,
};

/// The last request of a client, so that most connections end at once.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
/// Time without an answer after which a client shuts down its sending side.
const SILENCE: Duration = Duration::from_millis(50);
/// Longer than the proxy waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// The first byte selects the listener, the second the position where the bytes are split.
fn runner() -> Result<Runner> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let setup = runtime.block_on(Setup::new())?;
    let mut seen_so_far = 0;
    Ok(Box::new(move |input| {
        let mut input = Input(input);
        let (listener, split) = (input.byte(), input.byte());
        let address = setup.listeners[usize::from(listener) % setup.listeners.len()];
        runtime.block_on(async {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let ended = timeout(PATIENCE, converse(&mut stream, input.0, split.into())).await;
            ended.expect("a connection that ends");
        });
        let seen = setup.backend.take();
        assert_eq!(seen.wrong, [""; 0], "the backend got an invalid request");
        // A request may reach the backend after its client has gone, so the sums are compared.
        seen_so_far += seen.requests;
        let sent = setup.sent();
        assert!(
            seen_so_far <= sent,
            "{seen_so_far} requests of {sent} that the proxy knows of"
        );
        1
    }))
}

/// Sends everything and reads until the proxy closes, which it may at any time.
async fn converse(stream: &mut TcpStream, bytes: &[u8], split: usize) {
    let (first, second) = bytes.split_at(split.min(bytes.len()));
    for part in [first, second, LAST] {
        drop(stream.write_all(part).await);
        tokio::task::yield_now().await;
    }
    let mut buffer = [0; 4096];
    loop {
        match timeout(SILENCE, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => {}
            Err(_) => break,
        }
    }
    drop(stream.shutdown().await);
    while let Ok(1..) = stream.read(&mut buffer).await {}
}
