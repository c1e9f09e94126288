//! A folder of ordinary manifests, followed live: the source for machines without a cluster.
//!
//! Errors in a file are reported with file, object and field. A file that cannot be parsed, and an
//! object that is invalid, keep their previous content, so that a typing error removes nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use headgate_model::{
    NamespacedName, ObjectName, Refusal,
    gateway::object::{GROUP, POLICY_GROUP},
};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Node, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use serde::Deserialize;
use tokio::{sync::mpsc, time::sleep};
use yaml_serde::Value;

use crate::source::{
    convert::{self, Custom, Object, PROXY_NAME},
    event::{Event, Interest, Kind, Served},
};

/// Delay between a change and reading the folder: editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(20);
/// Delay before files that could not be read are read again.
const RETRY: Duration = Duration::from_secs(1);

type Objects = BTreeMap<(Kind, NamespacedName), Value>;

/// Sends what the manifests in `folder` have of Services, EndpointSlices and the Node `node`, with
/// [`Interest::Listeners`] also of TCP and UDP listeners of Gateways, now and after each change. Returns when the receiver is gone.
///
/// # Errors
///
/// If the folder cannot be watched.
pub async fn follow(
    folder: PathBuf,
    node: &str,
    served: Served,
    interest: Interest,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    follow_as(folder, Reader::new(interest, node, served), events).await
}

/// As [`follow`], for Ingresses, IngressClasses, Services, EndpointSlices and Secrets.
///
/// # Errors
///
/// If the folder cannot be watched.
pub async fn follow_ingresses(
    folder: PathBuf,
    interest: Interest,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    let reader = Reader::new(interest, "", Served::default());
    follow_as(folder, reader, events).await
}

/// Returns the manifests of a folder and its sub-folders; of a file, itself. Skips hidden folders.
///
/// # Errors
///
/// If a folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.is_file() {
        return Ok(vec![folder.into()]);
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_dir() {
            if name.is_none_or(|name| !name.starts_with('.')) {
                paths.extend(files(&path)?);
            }
        } else if matches!(extension, Some("yaml" | "yml" | "json")) && !is_special(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether it is a pipe, a socket or a device: reading a pipe would wait for its writer.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| !about.is_file())
}

/// Reads the manifests in `folder`, or a file, once. Of Nodes only `node` is read.
pub fn read(folder: &Path, interest: Interest, node: &str) -> Vec<Event> {
    Reader::new(interest, node, Served::default()).read(folder)
}

/// Returns the data of the ConfigMaps in `folder`, by name. Skips files that cannot be parsed.
///
/// # Errors
///
/// If the folder or a file cannot be read.
pub fn config_maps(folder: &Path) -> Result<BTreeMap<NamespacedName, BTreeMap<String, String>>> {
    let mut found = BTreeMap::new();
    for path in files(folder)? {
        let documents = parse_documents(&fs::read_to_string(path)?).unwrap_or_default();
        for document in documents.into_iter().flat_map(items) {
            if document.get("kind").and_then(Value::as_str) == Some("ConfigMap")
                && let Ok(object) = ConfigMap::deserialize(document)
            {
                found.insert(convert::name(&object), object.data.unwrap_or_default());
            }
        }
    }
    Ok(found)
}

/// A document, or the items of a list.
fn items(document: Value) -> Vec<Value> {
    match document.get("items").and_then(Value::as_sequence) {
        Some(items) => items.clone(),
        None => vec![document],
    }
}

async fn follow_as(folder: PathBuf, mut reader: Reader, events: mpsc::Sender<Event>) -> Result<()> {
    let (changed, mut changes) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the folder is an event as well.
        const WRITTEN: AccessKind = AccessKind::Close(AccessMode::Write);
        let is_read = |event: notify::Event| match event.kind {
            EventKind::Access(how) => how != WRITTEN,
            _ => false,
        };
        if event.is_ok_and(is_read) {
            return;
        }
        // One pending change is enough: everything is read again.
        let _full = changed.try_send(());
    })?;
    watcher
        .watch(&folder, RecursiveMode::Recursive)
        .with_context(|| format!("cannot watch {}", folder.display()))?;
    let mut is_listed = false;
    loop {
        for event in reader.read(&folder) {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        // What could not be read may still be in the maps.
        if !is_listed && !reader.is_incomplete {
            for kind in reader.interest.kinds() {
                if events.send(Event::Listed(*kind)).await.is_err() {
                    return Ok(());
                }
            }
            is_listed = true;
        }
        tokio::select! {
            changed = changes.recv() => {
                if changed.is_none() {
                    return Ok(());
                }
            }
            () = sleep(RETRY), if reader.is_incomplete => {}
        }
        sleep(SETTLE).await;
        while changes.try_recv().is_ok() {}
    }
}

/// Reads a folder and remembers what it read before.
struct Reader {
    interest: Interest,
    node: String,
    served: Served,
    files: BTreeMap<PathBuf, Objects>,
    /// The objects whose events were returned.
    sent: Objects,
    /// Errors of files.
    refused: BTreeMap<ObjectName, Vec<Refusal>>,
    /// Whether a file or folder could not be read the last time, for example without free descriptors.
    is_incomplete: bool,
}

impl Reader {
    fn new(interest: Interest, node: &str, served: Served) -> Self {
        Self {
            interest,
            node: node.into(),
            served,
            files: BTreeMap::new(),
            sent: Objects::new(),
            refused: BTreeMap::new(),
            is_incomplete: false,
        }
    }

    /// Reads the folder and returns the events of what changed.
    fn read(&mut self, folder: &Path) -> Vec<Event> {
        let refused = self.read_files(folder);
        let mut events = self.object_events();
        events.extend(self.file_events(refused));
        events
    }

    /// Reads every file; returns the errors, by file.
    fn read_files(&mut self, folder: &Path) -> BTreeMap<ObjectName, Vec<Refusal>> {
        let mut refused = BTreeMap::new();
        self.is_incomplete = false;
        match files(folder) {
            Ok(paths) => {
                self.files.retain(|path, _| paths.contains(path));
                for path in paths {
                    let mut problems = Vec::new();
                    let before = self.files.remove(&path).unwrap_or_default();
                    let objects = self.read_file(&path, before, &mut problems);
                    self.files.insert(path.clone(), objects);
                    refused.insert(file_name(&path), problems);
                }
            }
            Err(error) => {
                self.is_incomplete = true;
                let problem = file_problem(folder, &error.to_string());
                refused.insert(file_name(folder), vec![problem]);
            }
        }
        refused
    }

    fn object_events(&mut self) -> Vec<Event> {
        let objects: Objects = self
            .files
            .values()
            .flat_map(|objects| objects.clone())
            .filter(|((kind, name), value)| self.is_wanted(*kind, name, value))
            .collect();
        let mut events = Vec::new();
        for (key, value) in &objects {
            if self.sent.get(key) != Some(value) {
                events.extend(events_of(key.0, self.interest, &self.served, value));
            }
        }
        for (kind, name) in self.sent.keys().filter(|key| !objects.contains_key(key)) {
            events.extend(kind.gone(name.clone(), self.interest));
            events.push(Event::Refused(kind.object(name), Vec::new()));
        }
        self.sent = objects;
        events
    }

    fn is_wanted(&self, kind: Kind, name: &NamespacedName, value: &Value) -> bool {
        match kind {
            Kind::Node => name.name == self.node,
            Kind::Service | Kind::EndpointSlice if self.interest == Interest::Services => {
                let metadata = value.get("metadata");
                let labels = metadata.and_then(|metadata| metadata.get("labels"));
                let proxy_name = labels.and_then(|labels| labels.get(PROXY_NAME)?.as_str());
                self.served.has(&name.namespace, proxy_name)
            }
            _ => true,
        }
    }

    fn file_events(&mut self, refused: BTreeMap<ObjectName, Vec<Refusal>>) -> Vec<Event> {
        let before = std::mem::replace(&mut self.refused, refused);
        let is_new = |file: &ObjectName, problems: &Vec<Refusal>| match before.get(file) {
            Some(before) => before != problems,
            None => !problems.is_empty(),
        };
        let files = self.refused.iter();
        let changed = files.filter(|(file, problems)| is_new(file, problems));
        let changed = changed.map(|(file, problems)| (file.clone(), problems.clone()));
        let gone = before
            .keys()
            .filter(|file| !self.refused.contains_key(*file));
        let gone = gone.map(|file| (file.clone(), Vec::new()));
        let events = changed.chain(gone);
        events
            .map(|(file, problems)| Event::Refused(file, problems))
            .collect()
    }

    /// The objects of a file. If it cannot be parsed, those that it had before.
    fn read_file(&mut self, path: &Path, before: Objects, problems: &mut Vec<Refusal>) -> Objects {
        let text = fs::read_to_string(path).inspect_err(|error| {
            let is_its_own = [ErrorKind::NotFound, ErrorKind::InvalidData].contains(&error.kind());
            self.is_incomplete |= !is_its_own;
        });
        let documents = text
            .map_err(anyhow::Error::from)
            .and_then(|text| parse_documents(&text));
        match documents {
            Ok(documents) => {
                let mut objects = Objects::new();
                for document in documents {
                    self.add_object(path, document, &before, &mut objects, problems);
                }
                objects
            }
            Err(error) => {
                problems.push(file_problem(
                    path,
                    &format!("{error:#}; its previous content stays in effect"),
                ));
                before
            }
        }
    }

    fn add_object(
        &self,
        path: &Path,
        document: Value,
        before: &Objects,
        objects: &mut Objects,
        problems: &mut Vec<Refusal>,
    ) {
        let kind = match document.get("kind").and_then(Value::as_str) {
            Some("List") => {
                let items = document.get("items").and_then(Value::as_sequence).cloned();
                for item in items.unwrap_or_default() {
                    self.add_object(path, item, before, objects, problems);
                }
                return;
            }
            Some(kind) => Kind::named(kind),
            None => return problems.push(file_problem(path, "a document has no `kind`")),
        };
        // Manifests of an application have objects of many other kinds.
        let is_wanted = |kind: &Kind| self.interest.kinds().contains(kind) && kind.has(&document);
        let Some(kind) = kind.filter(is_wanted) else {
            return;
        };
        let checked = check_as(kind, &document);
        let (name, problem) = match checked {
            Ok(name) => (name, None),
            Err((name, problem)) => (name, Some(problem)),
        };
        let Some(problem) = old_api(kind, &document).or(problem) else {
            objects.insert((kind, name), document);
            return;
        };
        problems.push(file_problem(
            path,
            &format!("{}: {problem}", kind.object(&name)),
        ));
        if let Some((key, value)) = before.get_key_value(&(kind, name)) {
            objects.insert(key.clone(), value.clone());
        }
    }
}

impl Kind {
    /// Whether a document is of this kind: other API groups have kinds of the same names as the Gateway API.
    fn has(self, document: &Value) -> bool {
        let version = document.get("apiVersion").and_then(Value::as_str);
        let group = version.and_then(|version| version.split_once('/'));
        match self {
            Self::Namespace | Self::ConfigMap => group.is_none(),
            Self::RoutePolicy => group.is_none_or(|(group, _)| group == POLICY_GROUP),
            other if other.is_of_gateways() => group.is_none_or(|(group, _)| group == GROUP),
            _ => true,
        }
    }
}

/// How to convert an Ingress of an API that Kubernetes 1.22 removed.
fn old_api(kind: Kind, document: &Value) -> Option<String> {
    let version = document.get("apiVersion").and_then(Value::as_str)?;
    let is_old = ["extensions/v1beta1", "networking.k8s.io/v1beta1"].contains(&version);
    (kind == Kind::Ingress && is_old).then(|| {
        format!(
            "apiVersion {version} is not supported, as Kubernetes 1.22 removed it. Convert it with \
             `kubectl convert -f FILE --output-version networking.k8s.io/v1`, or by hand: \
             apiVersion networking.k8s.io/v1; for each path a pathType, and \
             backend.service.name and backend.service.port for serviceName and servicePort"
        )
    })
}

fn file_name(file: &Path) -> ObjectName {
    ObjectName::File(file.display().to_string())
}

fn file_problem(file: &Path, reason: &str) -> Refusal {
    Refusal::new(file_name(file), "", reason)
}

fn parse_documents(text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for (index, document) in yaml_serde::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document);
        let value = value.with_context(|| format!("document {}", index + 1))?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// An object, and the fields that the API does not have.
fn decode<K: Object>(document: &Value) -> (Result<K, yaml_serde::Error>, Vec<String>) {
    let mut unknown = Vec::new();
    let object = serde_ignored::deserialize(document, |path| {
        unknown.push(path.to_string().replace(".?", ""))
    });
    (object, unknown)
}

/// The object's name, and what is wrong with it: a wrong type, or a field that the API does not
/// have, which `kubectl --validate=strict` refuses too.
fn check<K: Object>(document: &Value) -> Result<NamespacedName, (NamespacedName, String)> {
    let (object, unknown) = decode::<K>(document);
    match object {
        Ok(object) if unknown.is_empty() => Ok(convert::name(&object)),
        Ok(object) => Err((
            convert::name(&object),
            format!("unknown field {}", unknown.join(", ")),
        )),
        Err(error) => {
            let text = |field: &str| document.get("metadata")?.get(field)?.as_str();
            let namespace = text("namespace").unwrap_or("default");
            let name = NamespacedName::new(namespace, text("name").unwrap_or_default());
            let reason = match K::KIND {
                // The error would quote the value.
                Kind::Secret => "a field has a wrong type, or `data` is not base64".into(),
                _ => error.to_string(),
            };
            Err((name, reason))
        }
    }
}

fn check_as(kind: Kind, document: &Value) -> Result<NamespacedName, (NamespacedName, String)> {
    match kind {
        Kind::Service => check::<Service>(document),
        Kind::EndpointSlice => check::<EndpointSlice>(document),
        Kind::Node => check::<Node>(document),
        Kind::Ingress => check::<Ingress>(document),
        Kind::IngressClass => check::<IngressClass>(document),
        Kind::Secret => check::<Secret>(document),
        Kind::Namespace => check::<Namespace>(document),
        Kind::ConfigMap => check::<ConfigMap>(document),
        Kind::GatewayClass => check::<Custom<convert::GatewayClass>>(document),
        Kind::Gateway => check::<Custom<convert::Gateway>>(document),
        Kind::ListenerSet => check::<Custom<convert::ListenerSet>>(document),
        Kind::HttpRoute => check::<Custom<convert::HttpRoute>>(document),
        Kind::GrpcRoute => check::<Custom<convert::GrpcRoute>>(document),
        Kind::TlsRoute => check::<Custom<convert::TlsRoute>>(document),
        Kind::TcpRoute => check::<Custom<convert::TcpRoute>>(document),
        Kind::UdpRoute => check::<Custom<convert::UdpRoute>>(document),
        Kind::ReferenceGrant => check::<Custom<convert::ReferenceGrant>>(document),
        Kind::BackendTlsPolicy => check::<Custom<convert::BackendTlsPolicy>>(document),
        Kind::RoutePolicy => check::<Custom<convert::RoutePolicy>>(document),
    }
}

/// The events of an object that was checked.
fn events_of(kind: Kind, interest: Interest, served: &Served, value: &Value) -> Vec<Event> {
    type Wanted<'a> = (Interest, &'a Served);
    fn events_as<K: Object>((interest, served): Wanted<'_>, value: &Value) -> Vec<Event> {
        // As in `check`: a second way to decode each kind would be much of the binary.
        let object = decode::<K>(value).0.unwrap_or_default();
        convert::events(&object, convert::name(&object), interest, served)
    }
    let wanted = (interest, served);
    match kind {
        Kind::Service => events_as::<Service>(wanted, value),
        Kind::EndpointSlice => events_as::<EndpointSlice>(wanted, value),
        Kind::Node => events_as::<Node>(wanted, value),
        Kind::Ingress => events_as::<Ingress>(wanted, value),
        Kind::IngressClass => events_as::<IngressClass>(wanted, value),
        Kind::Secret => events_as::<Secret>(wanted, value),
        Kind::Namespace => events_as::<Namespace>(wanted, value),
        Kind::ConfigMap => events_as::<ConfigMap>(wanted, value),
        Kind::GatewayClass => events_as::<Custom<convert::GatewayClass>>(wanted, value),
        Kind::Gateway => events_as::<Custom<convert::Gateway>>(wanted, value),
        Kind::ListenerSet => events_as::<Custom<convert::ListenerSet>>(wanted, value),
        Kind::HttpRoute => events_as::<Custom<convert::HttpRoute>>(wanted, value),
        Kind::GrpcRoute => events_as::<Custom<convert::GrpcRoute>>(wanted, value),
        Kind::TlsRoute => events_as::<Custom<convert::TlsRoute>>(wanted, value),
        Kind::TcpRoute => events_as::<Custom<convert::TcpRoute>>(wanted, value),
        Kind::UdpRoute => events_as::<Custom<convert::UdpRoute>>(wanted, value),
        Kind::ReferenceGrant => events_as::<Custom<convert::ReferenceGrant>>(wanted, value),
        Kind::BackendTlsPolicy => events_as::<Custom<convert::BackendTlsPolicy>>(wanted, value),
        Kind::RoutePolicy => events_as::<Custom<convert::RoutePolicy>>(wanted, value),
    }
}
