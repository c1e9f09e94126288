//! Direct requests: those of which nothing but the head must be read, and whose route asks for nothing rare.
//! Most requests are such: HTTP/1.1 on both sides, no body, no rewriting, and no guard that has to compute or to ask.
//! Their heads are relayed as bytes, without the types that the other steps read.
//!
//! A direct request has the result that it would have on the general way (`forward.rs`), which takes over
//! whenever this module does not know what to do: before anything was sent, with a failed first try, or with
//! the first response. A test sends the same requests both ways and compares (L180).

mod plan;
mod request;
mod response;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, request::Parts};
use tokio::time::Instant;

pub(crate) use self::{
    plan::Plan,
    request::Head as RequestHead,
    response::{Asked, Head as ResponseHead, relay as relay_response},
};
use crate::{
    access_log::{Delivery, Entry, Pending},
    body::Body,
    call::Call,
    client::Client,
    forward::RequestHeld,
    guard,
    headers::random_id,
    held::Held,
    http1::{Encoder, Shared},
    limits::Admission,
    message,
    observed::Observed,
    origin::Origin,
    proxy::Proxy,
    routing::{listener, refuse},
    serving::ServedRoute,
    upstream::{DirectRequest, DirectResponse, Pick, PickInput, SendError},
};

/// A response whose head is in the output to the client.
pub(crate) struct Sent {
    /// Sends the body, as far as it is not in the output.
    pub(crate) body: Observed<Body, Held<RequestHeld>>,
    pub(crate) encoder: Encoder,
    /// Whether the connection ends with it.
    pub(crate) is_last: bool,
}

/// The first try of a request that continues on the general way.
pub(crate) struct FirstTry {
    pub(crate) route: Arc<ServedRoute>,
    pub(crate) pick: Pick,
    /// Of the limits of the route.
    pub(crate) admission: Option<Admission>,
    pub(crate) result: Result<Response<Body>, SendError>,
    /// When the request arrived.
    pub(crate) begin: Instant,
}

impl FirstTry {
    /// The request with its route.
    pub(crate) fn call(
        &self,
        client: &Client,
        origin: Origin,
        parts: &Parts,
    ) -> Result<Call, Response<Body>> {
        let head = message::RequestHead::of(parts).map_err(|why| refuse(client, why))?;
        Ok(Call {
            route: self.route.clone(),
            origin,
            host: head.host.into_owned(),
            path: head.path.into_owned(),
            spelling: None,
            trace: None,
            begin: self.begin,
        })
    }
}

/// The result of [`answer`].
#[allow(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and is moved once"
)]
pub(crate) enum Direct {
    Sent(Sent),
    /// The request takes the general way.
    No(Option<Box<FirstTry>>),
}

/// A direct request before it is sent.
struct Prepared {
    route: Arc<ServedRoute>,
    pick: Pick,
    admission: Option<Admission>,
    method: Method,
    is_last: bool,
    log: Pending,
    begin: Instant,
}

/// Writes `name: value`, the name in lower case.
fn line(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    let start = out.len();
    out.put_slice(name.as_bytes());
    if let Some(name) = out.get_mut(start..) {
        name.make_ascii_lowercase();
    }
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Answers a request if it is a direct one. `space` holds the head that is sent.
pub(crate) async fn answer(
    proxy: &Proxy,
    client: &Client,
    head: &Bytes,
    transport: &Shared,
    space: &mut BytesMut,
) -> Direct {
    let Some(mut prepared) = prepare(proxy, client, head, space) else {
        return Direct::No(None);
    };
    let Some(plan) = &prepared.route.plan else {
        return Direct::No(None);
    };
    let request = DirectRequest {
        head: space,
        method: &prepared.method,
        asked: Asked {
            is_head: prepared.method == Method::HEAD,
            is_last: prepared.is_last,
            is_closing: &client.is_closing,
            hsts: plan.hsts(client.is_secure),
        },
        ends: (client.peer, client.local),
    };
    let timeouts = &prepared.route.policy().timeouts;
    let sent = plan.upstream.relay(
        &prepared.pick,
        &request,
        timeouts,
        prepared.begin,
        transport,
    );
    let (head, body, bytes) = match sent.await {
        Ok(DirectResponse::Whole(head, bytes)) => (head, Body::empty(), bytes),
        Ok(DirectResponse::Head(head, body)) => (head, body, 0),
        Ok(DirectResponse::Other(response)) => return prepared.otherwise(Ok(response)),
        Err(error) => return prepared.otherwise(Err(error)),
    };
    let took = prepared.begin.elapsed();
    prepared.route.count(head.status, took);
    if let Some(entry) = prepared.log.entry() {
        entry.status = Some(head.status);
        entry.sent = Some(Delivery {
            upstream: plan.upstream.clone(),
            endpoint: prepared.pick.address(),
            tries: 1,
            took,
        });
    }
    let Prepared {
        route,
        pick,
        admission,
        log,
        ..
    } = prepared;
    let held = (Some((pick, admission)), None, None);
    let held = Held::new(held, log.answered(), None, Some(route));
    Direct::Sent(Sent {
        body: Observed::new(body, held.after(bytes)),
        is_last: head.ends,
        encoder: head.encoder,
    })
}

impl Prepared {
    /// Leaves the rest of a request to the general way.
    fn otherwise(self, result: Result<Response<Body>, SendError>) -> Direct {
        let Self {
            route,
            pick,
            admission,
            log,
            begin,
            ..
        } = self;
        // The general way writes it.
        drop(log.answered());
        Direct::No(Some(Box::new(FirstTry {
            route,
            pick,
            admission,
            result,
            begin,
        })))
    }
}

/// Finds route and endpoint of a request, and writes the head that the endpoint gets. `None` if the request must
/// take the general way.
fn prepare(proxy: &Proxy, client: &Client, head: &Bytes, space: &mut BytesMut) -> Option<Prepared> {
    if proxy.settings.tracer.is_some() {
        return None;
    }
    let begin = Instant::now();
    let head = request::relay(head, space)?;
    let origin = Origin::of_untrusted(client, &proxy.settings.trusted)?;
    let serving = proxy.serving.load();
    let index = &listener(&serving, client, &head.host).ok()?.index;
    let route = index.find_plain(&head.host, head.path)?;
    let plan = route.plan.as_ref()?;
    if plan.needs_tls && !origin.is_secure {
        return None;
    }
    if !guard::admits(&route.policy().sources, origin.client) {
        return None;
    }
    let user = match &route.authenticator {
        Some(authenticator) => Some(authenticator.known_user(head.authorization?)?),
        None => None,
    };
    let input = PickInput {
        client: origin.client,
        host: &head.host,
        path: head.path.into(),
        query: head.query,
        headers: &HeaderMap::new(),
    };
    let pick = plan.upstream.pick(&input, &[]).ok()?;
    // The last step that can fail: what is admitted counts.
    let admission = match &route.limiter {
        Some(limiter) => Some(limiter.admit(origin.client)?),
        None => None,
    };
    let random = random_id();
    let id = head.id.unwrap_or(&random);
    request::end(space, &head, client.about(origin), user.as_ref(), id);
    let log = proxy.settings.log.as_ref();
    let log = log.filter(|_| route.policy().access_log);
    let log = log.map(|log| {
        let mut entry = Entry::direct(log.clone(), client.peer.ip(), &head);
        entry.route = Some(route.clone());
        entry.request_id = HeaderValue::from_bytes(id).ok();
        entry
    });
    Some(Prepared {
        route: route.clone(),
        pick,
        admission,
        method: head.method,
        is_last: head.is_last,
        log: Pending::new(log),
        begin,
    })
}
