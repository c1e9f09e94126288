//! An upstream under test.

use std::{
    collections::BTreeMap,
    error::Error,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, channel::mpsc, future::ready, stream};
use headgate_model::{
    NamespacedName,
    edge::{Timeouts, UpstreamKey, UpstreamPolicy, UpstreamProtocol},
};
use headgate_proxy::{
    Body, EndpointState, Pick, PickInput, SendError, Upstream, UpstreamState, Upstreams,
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

/// Address of the client, and the local address that it connected to.
pub(crate) const CLIENT: (SocketAddr, SocketAddr) = (
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1234),
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 80),
);

pub(crate) struct Setup {
    pub(crate) upstreams: Upstreams,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) key: UpstreamKey,
    pub(crate) timeouts: Timeouts,
}

impl Setup {
    pub(crate) fn new(policy: UpstreamPolicy, endpoints: &[SocketAddr]) -> Self {
        let upstreams = Upstreams::new(0);
        let key = UpstreamKey {
            service: NamespacedName::new("shop", "web"),
            port: 80,
            policy: Arc::new(policy),
        };
        let setup = Self {
            upstream: upstreams.ensure(&key),
            upstreams,
            key,
            timeouts: Timeouts::default(),
        };
        setup.update(endpoints);
        setup
    }

    pub(crate) fn speaking(protocol: UpstreamProtocol, endpoint: SocketAddr) -> Self {
        let policy = UpstreamPolicy {
            protocol,
            ..UpstreamPolicy::default()
        };
        Self::new(policy, &[endpoint])
    }

    pub(crate) fn http(endpoint: SocketAddr) -> Self {
        Self::speaking(UpstreamProtocol::Http, endpoint)
    }

    pub(crate) fn update(&self, endpoints: &[SocketAddr]) {
        let endpoints: BTreeMap<_, _> = endpoints.iter().map(|address| (*address, 1)).collect();
        self.upstreams.update(&self.key, &endpoints);
    }

    pub(crate) fn pick(&self) -> Pick {
        let request = Request::new(());
        let input = PickInput::new(CLIENT.0.ip(), &request);
        self.upstream.pick(&input, &[]).unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, SendError> {
        let pick = self.pick();
        let client = Some(CLIENT);
        let sent = self
            .upstream
            .send(&pick, request.into(), &self.timeouts, client);
        sent.await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Response<Body>, SendError> {
        self.send(get(path)).await
    }

    /// Status and text of a response.
    pub(crate) async fn read(&self, path: &str) -> (StatusCode, String) {
        let response = self.get(path).await.unwrap();
        let status = response.status();
        (status, text(response).await)
    }

    pub(crate) fn state(&self) -> UpstreamState {
        self.upstreams.snapshot().swap_remove(0)
    }

    /// The first endpoint.
    pub(crate) fn endpoint(&self) -> EndpointState {
        self.state().endpoints.swap_remove(0)
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let (text, _) = whole(response.into_body()).await;
    text
}

/// A body's text and trailers.
pub(crate) async fn whole<B>(body: B) -> (String, Option<HeaderMap>)
where
    B: hyper::body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let collected = body.collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let bytes = collected.to_bytes();
    (String::from_utf8(bytes.to_vec()).unwrap(), trailers)
}

/// A body whose frames the test sends.
pub(crate) fn channel() -> (ChannelSender, Body) {
    let (sender, receiver) = mpsc::unbounded();
    (sender, Body::boxed(StreamBody::new(receiver)))
}

/// A body with one frame that never ends.
pub(crate) fn unfinished(frame: &'static str) -> Body {
    let first = stream::once(ready(Ok::<_, BodyError>(Frame::data(frame.into()))));
    Body::boxed(StreamBody::new(first.chain(stream::pending())))
}

pub(crate) type ChannelSender = mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>;

type BodyError = Box<dyn Error + Send + Sync>;

/// Polls until a condition holds, while other tasks run.
pub(crate) async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
