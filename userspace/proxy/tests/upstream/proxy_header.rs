//! PROXY protocol headers to endpoints.

use std::sync::{Arc, Mutex};

use headgate_model::edge::{UpstreamPolicy, UpstreamProtocol};
use headgate_proxy::Body;
use http::Response;
use tokio::io::AsyncReadExt;

use crate::{
    server::{Server, serve_http},
    setup::Setup,
};

/// The fixed part of a PROXY protocol v2 header (specification, 2.2): command PROXY, TCP over IPv4, 12
/// bytes of addresses.
const FIXED: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c";

const ADDRESSES: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x04, 0xd2, 0, 80];

#[tokio::test]
async fn l44_each_connection_begins_with_its_clients_address() {
    for protocol in [UpstreamProtocol::Http, UpstreamProtocol::Http2] {
        let headers = Arc::new(Mutex::new(Vec::new()));
        let seen = headers.clone();
        let server = Server::raw(move |mut stream| {
            let seen = seen.clone();
            async move {
                let mut header = [0; 28];
                stream.read_exact(&mut header).await.unwrap();
                seen.lock().unwrap().push(header);
                let answer = |_| async { Response::new(Body::from("named".to_owned())) };
                serve_http(stream, answer).await;
            }
        })
        .await;
        let policy = UpstreamPolicy {
            proxy_protocol: true,
            protocol,
            ..UpstreamPolicy::default()
        };
        let setup = Setup::new(policy, &[server.address]);
        for _ in 0..3 {
            assert_eq!(setup.read("/").await.1, "named");
        }
        assert_eq!(server.accepted(), 3, "a connection belongs to one client");
        let headers = headers.lock().unwrap();
        assert!(
            headers
                .iter()
                .all(|header| header[..] == [FIXED, &ADDRESSES].concat())
        );
    }
}
