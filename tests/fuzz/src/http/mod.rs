//! Bytes to the L7 proxy, over the loopback.

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

/// Bytes to the proxy: it never panics, always answers or closes, and the backend sees no request that
/// can be read in two ways, nor more requests than the proxy.
pub(crate) const HTTP: Target = Target {
    name: "http",
    needs_root: false,
    make: make::input,
    runner,
};

/// What a client sends last, so that most connections end at once.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
/// A client that has heard nothing for so long says that it sends no more.
const SILENCE: Duration = Duration::from_millis(50);
/// Longer than the proxy waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first byte says which listener it is, the second where the bytes are torn apart.
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
        assert_eq!(seen.wrong, [""; 0], "the backend got what it must not get");
        // What a client did not wait for may reach the backend later, so it is the sums that count.
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
