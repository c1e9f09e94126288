//! From a request to a response: authorization, dispatch, and the shape of the response.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use crate::convert;
use crate::deletion::{Deleted, Preconditions};
use crate::discovery;
use crate::error::ApiError;
use crate::faults::Faults;
use crate::negotiate::Shape;
use crate::operations::{self, Write, Written};
use crate::patch::PatchKind;
use crate::request::{Continue, ListVersion, Query, Target};
use crate::resource::Resources;
use crate::selector::Selector;
use crate::storage::Store;
use crate::watch::{self, Start, WatchRequest};
use crate::{Attributes, Authorize};

/// Largest body that the API accepts, because of the limit of etcd.
const LARGEST_BODY: usize = 3 * 1024 * 1024;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The state that all requests share.
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) faults: Faults,
    pub(crate) token: Mutex<Option<String>>,
    pub(crate) authorize: Option<Authorize>,
    pub(crate) bookmark_interval: Duration,
    pub(crate) open_watches: Arc<AtomicUsize>,
    /// Number of requests by verb and resource.
    pub(crate) requests: Mutex<HashMap<(String, String), u64>>,
}

/// A request with its whole body.
struct Asked {
    method: Method,
    path: String,
    query: Query,
    headers: HeaderMap,
    body: Bytes,
}

impl Asked {
    fn header(&self, name: http::header::HeaderName) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    fn media_type(&self) -> &str {
        let header = self.header(CONTENT_TYPE);
        header.split(';').next().unwrap_or_default().trim()
    }

    /// The body as a value; `Null` if it is empty.
    fn body(&self) -> Result<Value, ApiError> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        let refused = |e: &dyn std::fmt::Display| {
            ApiError::bad_request(format!("the request body could not be decoded: {e}"))
        };
        match self.media_type() {
            "application/yaml" | "application/apply-patch+yaml" => {
                yaml_serde::from_slice(&self.body).map_err(|e| refused(&e))
            }
            ""
            | "application/json"
            | "application/json-patch+json"
            | "application/merge-patch+json"
            | "application/strategic-merge-patch+json" => {
                serde_json::from_slice(&self.body).map_err(|e| refused(&e))
            }
            _ => Err(ApiError::unsupported_media_type(
                "application/json, application/yaml",
            )),
        }
    }
}

fn full(code: u16, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn json_response(code: u16, value: &Value) -> Response<Body> {
    full(code, "application/json", value.to_string())
}

fn refusal(error: &ApiError) -> Response<Body> {
    json_response(error.code, &error.status())
}

/// The response of a broken proxy in between: a success that is not JSON, with a Secret in it.
fn garbage() -> Response<Body> {
    const TEXT: &str = r#"{"kind": "SecretList", "items": [{"data": {"key": "aHVzaC1rZXk="}}}"#;
    let text = Bytes::from_static(TEXT.as_bytes());
    let never = |never: Infallible| match never {};
    Response::new(Full::new(text).map_err(never).boxed_unsync())
}

/// Answers a request. An error is a response, too.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let faults = shared.faults.now();
    if !faults.delay.is_zero() {
        tokio::time::sleep(faults.delay).await;
    }
    let line = format!("{} {}", request.method(), request.uri());
    let response = if faults.refusing {
        refusal(&ApiError::unavailable())
    } else if faults.garbling {
        garbage()
    } else {
        match read(request).await {
            Ok(asked) => route(&shared, &asked).unwrap_or_else(|error| refusal(&error)),
            Err(error) => refusal(&error),
        }
    };
    tracing::debug!(request = line, status = response.status().as_u16());
    Ok(response)
}

async fn read(request: Request<Incoming>) -> Result<Asked, ApiError> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, LARGEST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(ApiError::too_much());
        }
        Err(error) => return Err(ApiError::bad_request(error.to_string())),
    };
    Ok(Asked {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body,
    })
}

fn route(shared: &Shared, asked: &Asked) -> Result<Response<Body>, ApiError> {
    let segments: Vec<&str> = asked.path.split('/').filter(|s| !s.is_empty()).collect();
    // Public, as by the role system:public-info-viewer.
    match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(full(200, "text/plain", "ok")),
        ["version"] => return Ok(json_response(200, &discovery::version())),
        _ => {}
    }
    authenticate(shared, asked)?;
    let resources = shared.store.with(|state| state.resources.clone());
    if let Some(answer) = discover(&resources, &segments, asked) {
        return answer;
    }
    if segments
        == [
            "apis",
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
        ]
    {
        return review(shared, asked);
    }
    let target = Target::parse(&resources, &segments).ok_or_else(ApiError::no_such_path)?;
    serve(shared, asked, target)
}

fn bearer(asked: &Asked) -> Option<String> {
    let (_, token) = asked.header(AUTHORIZATION).split_once(' ')?;
    Some(token.to_owned())
}

/// SelfSubjectAccessReview: whether the caller may do something. Every authenticated caller may send it.
fn review(shared: &Shared, asked: &Asked) -> Result<Response<Body>, ApiError> {
    let mut review = asked.body()?;
    let wanted = &review["spec"]["resourceAttributes"];
    let field = |name: &str| wanted[name].as_str().filter(|text| !text.is_empty());
    let text = |name: &str| field(name).unwrap_or_default().to_owned();
    let attributes = Attributes {
        verb: text("verb"),
        group: text("group"),
        resource: text("resource"),
        subresource: field("subresource").map(String::from),
        namespace: field("namespace").map(String::from),
        name: field("name").map(String::from),
        token: bearer(asked),
    };
    let is_allowed = shared.authorize.as_ref().is_none_or(|may| may(&attributes));
    review["status"] = json!({"allowed": is_allowed});
    Ok(json_response(201, &review))
}

fn authenticate(shared: &Shared, asked: &Asked) -> Result<(), ApiError> {
    let wanted = shared.token.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(wanted) = wanted.as_deref() else {
        return Ok(());
    };
    match asked.header(AUTHORIZATION).split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && token == wanted => Ok(()),
        _ => Err(ApiError::unauthorized()),
    }
}

fn discover(
    resources: &Resources,
    segments: &[&str],
    asked: &Asked,
) -> Option<Result<Response<Body>, ApiError>> {
    let accept = asked.header(ACCEPT);
    let answer = match segments {
        ["api" | "apis"] => {
            let core = segments == ["api"];
            if let Some(media_type) = discovery::wants_aggregated(accept) {
                let body = discovery::aggregated(resources, core).to_string();
                return Some(Ok(full(200, media_type, body)));
            }
            Some(if core {
                discovery::core_versions()
            } else {
                discovery::group_list(resources)
            })
        }
        ["api", version] => discovery::resource_list(resources, "", version),
        ["apis", group] => discovery::group(resources, group),
        ["apis", group, version] => discovery::resource_list(resources, group, version),
        ["openapi", "v2"] => {
            // Older clients accept only protobuf, and continue without this document after a 406.
            if Shape::negotiate(accept, None).is_err() {
                return Some(Err(ApiError::not_acceptable("application/json")));
            }
            Some(discovery::openapi_v2())
        }
        ["openapi", "v3"] => Some(discovery::openapi_v3_index(resources)),
        ["openapi", "v3", root @ ..] => discovery::openapi_v3(resources, &root.join("/")),
        _ => return None,
    };
    let answer = answer.ok_or_else(ApiError::no_such_path);
    Some(answer.map(|value| json_response(200, &value)))
}

fn verb(asked: &Asked, target: &Target) -> Result<&'static str, ApiError> {
    let named = target.name.is_some();
    match (asked.method.as_str(), named) {
        ("GET", _) if asked.query.flag("watch") => Ok("watch"),
        ("GET", true) => Ok("get"),
        ("GET", false) => Ok("list"),
        ("POST", false) if target.namespace.is_some() == target.resource.namespaced => Ok("create"),
        ("PUT", true) => Ok("update"),
        ("PATCH", true) => Ok("patch"),
        ("DELETE", true) if target.subresource.is_none() => Ok("delete"),
        ("DELETE", false) => Ok("deletecollection"),
        _ => Err(ApiError::method_not_allowed(
            "the server does not allow this method on the requested resource",
        )),
    }
}

fn authorize(shared: &Shared, asked: &Asked, target: &Target, verb: &str) -> Result<(), ApiError> {
    let Some(authorize) = &shared.authorize else {
        return Ok(());
    };
    let attributes = Attributes {
        verb: verb.to_owned(),
        group: target.resource.group.to_owned(),
        resource: target.resource.plural.to_owned(),
        subresource: target.subresource.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        token: bearer(asked),
    };
    if authorize(&attributes) {
        return Ok(());
    }
    let scope = match &target.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".to_owned(),
    };
    let name = target.name.as_deref().unwrap_or_default();
    Err(ApiError::forbidden(&target.resource, name, verb, &scope))
}

fn serve(shared: &Shared, asked: &Asked, target: Target) -> Result<Response<Body>, ApiError> {
    let verb = verb(asked, &target)?;
    *shared
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry((verb.to_owned(), target.resource.plural.to_owned()))
        .or_default() += 1;
    authorize(shared, asked, &target, verb)?;
    let shape = Shape::negotiate(asked.header(ACCEPT), asked.query.get("includeObject"))?;
    let resource = &*target.resource;
    let name = target.name.as_deref().unwrap_or_default();
    let write = Write {
        validation: asked.query.field_validation()?,
        dry_run: asked.query.dry_run(),
        status_only: target.subresource.is_some(),
        manager: asked
            .query
            .get("fieldManager")
            .unwrap_or_default()
            .to_owned(),
    };
    let namespace = target.namespace();
    match verb {
        "watch" => start_watch(shared, asked, target, shape),
        "list" => list(shared, asked, &target, shape),
        "get" => {
            let object = shared
                .store
                .with(|state| operations::get(state, resource, namespace, name))?;
            Ok(json_response(200, &shape.object(resource, object, true)))
        }
        "create" => {
            let object = asked.body()?;
            let written = shared
                .store
                .with(|state| write.create(state, resource, namespace, object))?;
            Ok(write_response(&target, shape, written))
        }
        "update" => {
            let object = asked.body()?;
            let written = shared
                .store
                .with(|state| write.update(state, resource, namespace, name, object))?;
            Ok(write_response(&target, shape, written))
        }
        "patch" => {
            let kind = PatchKind::of(resource, asked.media_type())?;
            if kind == PatchKind::Apply && write.manager.is_empty() {
                return Err(ApiError::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            let patch = asked.body()?;
            let written = shared
                .store
                .with(|state| write.patch(state, resource, namespace, name, kind, &patch))?;
            Ok(write_response(&target, shape, written))
        }
        "delete" => {
            let only_if = preconditions(&asked.body()?);
            let deleted = shared
                .store
                .with(|state| write.delete(state, resource, namespace, name, &only_if))?;
            Ok(delete_response(&target, shape, deleted))
        }
        _ => delete_collection(shared, asked, &target, shape, &write),
    }
}

fn write_response(target: &Target, shape: Shape, written: Written) -> Response<Body> {
    let object = shape.object(&target.resource, written.object, true);
    let mut response = json_response(if written.created { 201 } else { 200 }, &object);
    for warning in &written.warnings {
        let text = format!("299 - {}", json!(warning));
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    response
}

fn preconditions(options: &Value) -> Preconditions {
    let wanted = |field: &str| options["preconditions"][field].as_str().map(str::to_owned);
    Preconditions {
        uid: wanted("uid"),
        resource_version: wanted("resourceVersion"),
    }
}

fn delete_response(target: &Target, shape: Shape, deleted: Deleted) -> Response<Body> {
    let resource = &*target.resource;
    match deleted {
        Deleted::Marked(object) => json_response(200, &shape.object(resource, object, true)),
        Deleted::Gone(object) if resource.returns_deleted => {
            json_response(200, &shape.object(resource, object, true))
        }
        Deleted::Gone(object) => {
            let metadata = &object["metadata"];
            let mut details =
                json!({"name": metadata["name"], "kind": resource.plural, "uid": metadata["uid"]});
            if !resource.group.is_empty() {
                details["group"] = json!(resource.group);
            }
            let status = json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            });
            json_response(200, &status)
        }
    }
}

fn selector(asked: &Asked, target: &Target) -> Result<Selector, ApiError> {
    let query = &asked.query;
    let (labels, fields) = (query.get("labelSelector"), query.get("fieldSelector"));
    Selector::parse(&target.resource, labels, fields)
}

fn list(
    shared: &Shared,
    asked: &Asked,
    target: &Target,
    shape: Shape,
) -> Result<Response<Body>, ApiError> {
    let resource = &*target.resource;
    let namespace = target.namespace.as_deref();
    let selector = selector(asked, target)?;
    let wanted = asked.query.list_version()?;
    let limit = asked.query.limit()?;
    let (version, objects) = shared.store.with(|state| {
        let current = state.version();
        let version = match &wanted {
            ListVersion::Current => current,
            ListVersion::AtLeast(version) if *version > current => {
                return Err(ApiError::too_large(*version, current));
            }
            ListVersion::AtLeast(_) => current,
            ListVersion::Exactly(version) => *version,
            ListVersion::Continued(token) => token.version,
        };
        let objects = state.list_at(resource.table, namespace, version)?;
        Ok((version, objects))
    })?;
    fn place(object: &Value) -> (&str, &str) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        (text("namespace"), text("name"))
    }
    // Only what a page holds is copied: a list of many pages would take the square of its time.
    let mut selected: Vec<&Arc<Value>> = objects
        .iter()
        .filter(|object| selector.matches(object))
        .filter(|object| match &wanted {
            ListVersion::Continued(token) => {
                let (namespace, name) = &token.after;
                place(object) > (namespace, name)
            }
            _ => true,
        })
        .collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if limit > 0 && selected.len() > limit {
        let remaining = selected.len() - limit;
        selected.truncate(limit);
        let after = selected.last().map(|last| place(last)).unwrap_or_default();
        let after = (after.0.to_owned(), after.1.to_owned());
        metadata["continue"] = json!(Continue { version, after }.encode());
        // The API does not count what a selector would leave out.
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    let items = selected.into_iter();
    let items = items.map(|object| convert::from_stored(resource, Value::clone(object)));
    Ok(json_response(
        200,
        &shape.list(resource, items.collect(), &metadata),
    ))
}

fn delete_collection(
    shared: &Shared,
    asked: &Asked,
    target: &Target,
    shape: Shape,
    write: &Write,
) -> Result<Response<Body>, ApiError> {
    let resource = &*target.resource;
    let selector = selector(asked, target)?;
    let (version, deleted) = shared.store.with(|state| {
        let mut deleted = Vec::new();
        for object in state.list(resource.table, target.namespace.as_deref()) {
            if !selector.matches(&object) {
                continue;
            }
            let metadata = &object["metadata"];
            let namespace = metadata["namespace"].as_str().unwrap_or_default();
            let name = metadata["name"].as_str().unwrap_or_default();
            let only_if = Preconditions::default();
            let (Deleted::Gone(object) | Deleted::Marked(object)) =
                write.delete(state, resource, namespace, name, &only_if)?;
            deleted.push(object);
        }
        Ok::<_, ApiError>((state.version(), deleted))
    })?;
    let metadata = json!({"resourceVersion": version.to_string()});
    Ok(json_response(
        200,
        &shape.list(resource, deleted, &metadata),
    ))
}

fn start_watch(
    shared: &Shared,
    asked: &Asked,
    target: Target,
    shape: Shape,
) -> Result<Response<Body>, ApiError> {
    let mut selector = selector(asked, &target)?;
    if let Some(name) = &target.name {
        selector = selector.named(name);
    }
    let start = asked.query.watch_start()?;
    if let Start::After(version) = start
        && shared.faults.now().gone_as_status
    {
        let oldest = shared.store.with(|state| state.compacted());
        if version < oldest {
            return Err(ApiError::too_old(version, oldest));
        }
    }
    let request = WatchRequest {
        resource: target.resource,
        namespace: target.namespace,
        selector,
        shape,
        start,
        bookmarks: asked.query.flag("allowWatchBookmarks"),
        timeout: asked.query.timeout()?,
    };
    let lines = watch::watch(
        request,
        &shared.store,
        &shared.faults,
        shared.bookmark_interval,
        &shared.open_watches,
    );
    use futures::StreamExt as _;
    let body = StreamBody::new(lines.map(|line| line.map(Frame::data))).boxed_unsync();
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
