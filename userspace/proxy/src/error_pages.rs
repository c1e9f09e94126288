//! Error pages of another backend, in place of responses with some status codes.

use std::sync::Arc;

use http::{HeaderName, Method, Request, Response, StatusCode, Uri, header, request::Parts};

use crate::{
    access_log::Delivery,
    body::Body,
    call::{Call, with_query},
    client::Client,
    headers::{self, insert},
    prepare::prepare,
    send::send,
    upstream::{Pick, PickInput, Upstream},
};

const CODE: HeaderName = HeaderName::from_static("x-code");
const FORMAT: HeaderName = HeaderName::from_static("x-format");
const INGRESS: HeaderName = HeaderName::from_static("x-ingress-name");
const NAMESPACE: HeaderName = HeaderName::from_static("x-namespace");
const ORIGINAL: HeaderName = HeaderName::from_static("x-original-uri");
const PORT: HeaderName = HeaderName::from_static("x-service-port");
const SERVICE: HeaderName = HeaderName::from_static("x-service-name");

/// The head of a request whose response may be replaced by a page.
pub(crate) struct PageRequest {
    upstream: Arc<Upstream>,
    parts: Parts,
}

impl PageRequest {
    /// Copies the head of a request. `None` if its route has no pages.
    pub(crate) fn of(call: &Call, parts: &Parts) -> Option<Self> {
        let pages = call.route.policy().error_pages.as_ref();
        pages.filter(|pages| !pages.codes.is_empty())?;
        let upstream = call.route.error_pages.clone()?;
        let (mut copy, ()) = Request::new(()).into_parts();
        copy.headers = parts.headers.clone();
        copy.uri = parts.uri.clone();
        copy.method = match parts.method {
            Method::HEAD => Method::HEAD,
            _ => Method::GET,
        };
        Some(Self {
            upstream,
            parts: copy,
        })
    }

    /// Returns the page for a response. `None` if the response is for the client, or there is no page.
    pub(crate) async fn page(
        mut self,
        call: &Call,
        client: &Client,
        status: StatusCode,
    ) -> Option<(Response<Body>, Pick, Delivery)> {
        let pages = call.route.policy().error_pages.as_ref()?;
        if !pages.codes.contains(&status.as_u16()) {
            return None;
        }
        self.describe(call, client, status);
        let request = Box::new(Request::from_parts(self.parts, Body::empty()));
        // The backend of the pages is balanced by the load of its endpoints alone.
        let nothing = Request::new(());
        let asked = PickInput::new(call.origin.client, &nothing);
        let sent = send(&self.upstream, call, client, &asked, request, None).await;
        let (mut response, pick, sent) = sent.ok()?;
        headers::end_framing(response.headers_mut());
        headers::strip_hop_by_hop(response.headers_mut());
        Some((response, pick, sent))
    }

    /// Asks for the page of a status, with the headers of ingress-nginx.
    fn describe(&mut self, call: &Call, client: &Client, status: StatusCode) {
        let target = call.target(&self.parts.uri).into_owned();
        prepare(client, call, &mut self.parts, None);
        let root = with_query("/", self.parts.uri.query());
        self.parts.uri = Uri::try_from(root).unwrap_or_default();
        let fields = &mut self.parts.headers;
        for name in headers::BODY_AND_CACHE
            .iter()
            .chain([&SERVICE, &PORT, &FORMAT])
        {
            fields.remove(name);
        }
        if let Some(accepted) = fields.get(header::ACCEPT).cloned() {
            fields.insert(FORMAT, accepted);
        }
        insert(fields, CODE, status.as_str());
        insert(fields, ORIGINAL, &target);
        let ingress = &(*call.route).as_ref().origin.name;
        insert(fields, NAMESPACE, &ingress.namespace);
        insert(fields, INGRESS, &ingress.name);
        if let Some(key) = call.route.key() {
            insert(fields, SERVICE, &key.service.name);
            insert(fields, PORT, &key.port.to_string());
        }
    }
}
