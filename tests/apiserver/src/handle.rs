//! The handle of a test: the address of the server, its objects, and its faults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::allocation::Allocations;
use crate::convert;
use crate::deletion::Preconditions;
use crate::error::ApiError;
use crate::faults::Faults;
use crate::handler::Shared;
use crate::operations::{self, FieldValidation, Write};
use crate::options::{Options, StartError};
use crate::patch::PatchKind;
use crate::server::Listener;
use crate::storage::{State, Store};
use crate::tls::{self, Identity};

/// A running server. Dropping it closes the socket and every connection.
pub struct ApiServer {
    shared: Arc<Shared>,
    listener: Listener,
    address: SocketAddr,
    _reserved: TcpSocket,
    identity: Option<Box<Identity>>,
    /// Ends the thread of a server that has one.
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl ApiServer {
    /// Starts a server on the current tokio runtime.
    ///
    /// A thread of that runtime makes the socket: a runtime built inside a network namespace listens there.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let listen = options.listen;
        let identity = if options.tls {
            let cluster = options
                .service_cidrs
                .iter()
                .filter_map(|cidr| cidr.hosts().next());
            let mut addresses: Vec<IpAddr> = vec![
                listen.ip(),
                Ipv4Addr::LOCALHOST.into(),
                Ipv6Addr::LOCALHOST.into(),
            ];
            addresses.extend(cluster);
            Some(Box::new(Identity::new(&addresses, &options.names)?))
        } else {
            None
        };
        let shared = Arc::new(Shared {
            store: Arc::new(Store::new(
                options.history,
                Allocations::new(&options.service_cidrs, options.node_ports.clone()),
            )),
            faults: Faults::new(),
            token: Mutex::new(options.token.clone()),
            authorize: options.authorize.clone(),
            bookmark_interval: options.bookmark_interval,
            open_watches: Arc::new(AtomicUsize::new(0)),
            requests: Mutex::default(),
        });
        let collects_garbage = options.collects_garbage;
        shared
            .store
            .with(|state| state.collects_garbage = collects_garbage);
        let acceptor = identity
            .as_ref()
            .map(|identity| identity.acceptor())
            .transpose()?;
        let listener = Listener::new(Arc::clone(&shared), acceptor, Handle::current());
        let refused = |source| StartError::Listen {
            address: listen,
            source,
        };
        let reserved = listener.reserve(listen).await.map_err(refused)?;
        let address = reserved.local_addr().map_err(refused)?;
        let socket = listener.bind(address).await.map_err(refused)?;
        let server = Self {
            shared,
            listener,
            address,
            _reserved: reserved,
            identity,
            thread: None,
        };
        server.create_first_objects(&options)?;
        server.listener.accept(socket);
        Ok(server)
    }

    /// Starts a server on its own thread and runtime, for tests that are not async.
    ///
    /// The thread is in the network namespace of the calling thread, and stays there when the caller
    /// enters another one.
    pub fn spawn(options: Options) -> Result<Self, StartError> {
        let address = options.listen;
        let refused = |source| StartError::Listen { address, source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(refused)?;
        let (started, start) = mpsc::channel();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("headgate-apiserver".to_owned())
            .spawn(move || {
                runtime.block_on(async move {
                    if started.send(Self::start(options).await).is_ok() {
                        // Ends on request, or when the handle is dropped.
                        drop(ended.await);
                    }
                });
            })
            .map_err(refused)?;
        let died = |_| refused(std::io::Error::other("the server's thread ended"));
        let mut server = start.recv().map_err(died)??;
        server.thread = Some((end, thread));
        Ok(server)
    }

    fn create_first_objects(&self, options: &Options) -> Result<(), StartError> {
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            self.apply_value(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            }))?;
        }
        if !options.kubernetes_service || options.service_cidrs.is_empty() {
            return Ok(());
        }
        self.apply_value(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {"ports": [
                {"name": "https", "port": 443, "protocol": "TCP", "targetPort": self.address.port()},
            ]},
        }))?;
        let ip = self.address.ip();
        if ip.is_loopback() || ip.is_unspecified() {
            return Ok(());
        }
        self.apply_value(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": crate::allocation::family(ip),
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": self.address.port(), "protocol": "TCP"}],
        }))?;
        Ok(())
    }

    /// The address that it listens on, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() {
            "https"
        } else {
            "http"
        };
        let mut address = self.address;
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        format!("{scheme}://{address}")
    }

    /// The certificate of its authority, if it uses TLS.
    pub fn ca_pem(&self) -> Option<String> {
        self.identity.as_ref().map(|identity| identity.ca_pem())
    }

    /// A kubeconfig for it, without references to files.
    pub fn kubeconfig(&self) -> String {
        let token = self.token();
        tls::kubeconfig(&self.url(), self.ca_pem().as_deref(), token.as_deref())
    }

    fn token(&self) -> Option<String> {
        let token = self.shared.token.lock();
        token.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the bearer token. Requests with the old one are unauthorized from now on.
    pub fn set_token(&self, token: Option<String>) {
        let mut current = self
            .shared
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = token;
    }
}

/// Objects.
impl ApiServer {
    /// The resourceVersion of the latest write.
    pub fn version(&self) -> u64 {
        self.shared.store.with(|state| state.version())
    }

    /// Creates an object, or merges it into the existing one and removes the fields that an earlier call
    /// set and this one does not. The default namespace is `default`. A `status` is written too, as a
    /// controller would with `/status`.
    pub fn apply<K: k8s_openapi::Resource + Serialize>(
        &self,
        object: &K,
    ) -> Result<Value, ApiError> {
        let object = serde_json::to_value(object)
            .map_err(|e| ApiError::bad_request(format!("cannot encode the object: {e}")))?;
        self.apply_value(object)
    }

    /// [`Self::apply`] of every document of a YAML text, in order. Unknown fields are refused.
    pub fn apply_yaml(&self, text: &str) -> Result<Vec<Value>, ApiError> {
        let mut applied = Vec::new();
        for document in yaml_serde::Deserializer::from_str(text) {
            let object: Value = serde::Deserialize::deserialize(document)
                .map_err(|e| ApiError::bad_request(format!("cannot read the YAML: {e}")))?;
            if !object.is_null() {
                applied.push(self.apply_value(object)?);
            }
        }
        Ok(applied)
    }

    /// [`Self::apply`] of a JSON value with `apiVersion` and `kind`.
    pub fn apply_value(&self, mut object: Value) -> Result<Value, ApiError> {
        let known = |state: &mut State| state.resources.of_object(&object).cloned();
        let resource = &*self.shared.store.with(known).ok_or_else(|| {
            ApiError::bad_request(format!(
                "no such kind: {} {}",
                object["apiVersion"], object["kind"]
            ))
        })?;
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let namespace = match object["metadata"]["namespace"].as_str() {
            _ if !resource.namespaced => String::new(),
            Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
            _ => "default".to_owned(),
        };
        // Without the subresource, the status is a part of the object.
        let status = object
            .as_object_mut()
            .filter(|_| resource.status)
            .and_then(|fields| fields.remove("status"))
            .filter(|status| !status.is_null());
        let write = Write {
            validation: FieldValidation::Strict,
            manager: "headgate-apiserver".to_owned(),
            ..Write::default()
        };
        self.shared.store.with(|state| {
            let written = write.patch(
                state,
                resource,
                &namespace,
                &name,
                PatchKind::Apply,
                &object,
            )?;
            let Some(status) = status else {
                return Ok(written.object);
            };
            let write = Write {
                status_only: true,
                ..write
            };
            let mut object = written.object;
            object["status"] = status;
            let written = write.update(state, resource, &namespace, &name, object)?;
            Ok(written.object)
        })
    }

    /// An object, if it exists. `namespace` is ignored for cluster-wide kinds.
    pub fn get<K: k8s_openapi::Resource + DeserializeOwned>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<K> {
        typed(self.get_value(K::API_VERSION, K::KIND, namespace, name)?)
    }

    /// [`Self::get`] by `apiVersion` and `kind`, for custom resources.
    pub fn get_value(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Value> {
        self.shared.store.with(|state| {
            let resource = &*state.resources.of_kind(api_version, kind).cloned()?;
            let namespace = if resource.namespaced { namespace } else { "" };
            operations::get(state, resource, namespace, name).ok()
        })
    }

    /// All objects of a kind, in all namespaces.
    pub fn list<K: k8s_openapi::Resource + DeserializeOwned>(&self) -> Vec<K> {
        let objects = self.list_values(K::API_VERSION, K::KIND);
        objects.into_iter().filter_map(typed).collect()
    }

    /// [`Self::list`] by `apiVersion` and `kind`, for custom resources.
    pub fn list_values(&self, api_version: &str, kind: &str) -> Vec<Value> {
        self.shared.store.with(|state| {
            let Some(resource) = state.resources.of_kind(api_version, kind).cloned() else {
                return Vec::new();
            };
            let objects = state.list(resource.table, None).into_iter();
            objects
                .map(|object| convert::from_stored(&resource, Value::clone(&object)))
                .collect()
        })
    }

    /// Deletes an object.
    pub fn delete<K: k8s_openapi::Resource>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        self.delete_value(K::API_VERSION, K::KIND, namespace, name)
    }

    /// [`Self::delete`] by `apiVersion` and `kind`, for custom resources.
    pub fn delete_value(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        self.shared.store.with(|state| {
            let resource = state.resources.of_kind(api_version, kind).cloned();
            let resource = &*resource.ok_or_else(ApiError::no_such_path)?;
            let namespace = if resource.namespaced { namespace } else { "" };
            Write::default()
                .delete(state, resource, namespace, name, &Preconditions::default())
                .map(|_| ())
        })
    }
}

fn typed<K: DeserializeOwned>(object: Value) -> Option<K> {
    match serde_json::from_value(object) {
        Ok(object) => Some(object),
        Err(error) => {
            // Cannot fail: the object was decoded with the same type before it was stored.
            tracing::error!(%error, "a stored object is not of its kind");
            None
        }
    }
}

/// Faults, and counters that show their effect.
impl ApiServer {
    /// Forgets the changes up to `version`: lists and watches that start before it get 410. Open watches
    /// that are up to date are not affected.
    pub fn compact(&self, version: u64) {
        self.shared.store.with(|state| state.compact(version));
    }

    /// Whether a watch that starts too early is refused with HTTP 410, instead of an ERROR event in its
    /// stream, which the API sends since it serves watches from a cache.
    pub fn set_gone_as_status(&self, on: bool) {
        self.shared.faults.set(|state| state.gone_as_status = on);
    }

    /// Ends every open watch with an ERROR event of code 410.
    pub fn expire_watches(&self) {
        self.shared.faults.set(|state| state.expired += 1);
    }

    /// Cuts every open watch in the middle of its stream.
    pub fn drop_watches(&self) {
        self.shared.faults.set(|state| state.dropped += 1);
    }

    /// While on, watches stay open and send nothing, and do not time out. Afterwards they send the events
    /// since then.
    pub fn stall_watches(&self, on: bool) {
        self.shared.faults.set(|state| state.stalled = on);
    }

    /// Sends a bookmark to every watch that asked for bookmarks.
    pub fn bookmark_watches(&self) {
        self.shared.faults.set(|state| state.bookmarked += 1);
    }

    /// While on, every request is answered with 503. Open watches continue.
    pub fn refuse(&self, on: bool) {
        self.shared.faults.set(|state| state.refusing = on);
    }

    /// While on, every request is answered with a success that is not JSON. Open watches continue.
    pub fn garble(&self, on: bool) {
        self.shared.faults.set(|state| state.garbling = on);
    }

    /// Makes a new certificate with the same authority, for connections from the next [`Self::resume`] on.
    pub fn rotate_certificate(&self) -> Result<(), StartError> {
        if let Some(identity) = &self.identity {
            self.listener.show(identity.acceptor()?);
        }
        Ok(())
    }

    /// Waits before answering each request.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.faults.set(|state| state.delay = delay);
    }

    /// Closes the socket and cuts every connection. Objects stay. Works on any executor.
    pub async fn stop(&self) {
        self.listener.close().await;
    }

    /// Listens on the same port again. Works on any executor.
    pub async fn resume(&self) -> std::io::Result<()> {
        // Two sockets cannot listen on one port.
        self.listener.close().await;
        let socket = self.listener.bind(self.address).await?;
        self.listener.accept(socket);
        Ok(())
    }

    /// Number of open watches.
    pub fn open_watches(&self) -> usize {
        self.shared.open_watches.load(Ordering::SeqCst)
    }

    /// Number of requests with a verb to a resource: `requests("list", "services")`.
    pub fn requests(&self, verb: &str, resource: &str) -> u64 {
        let requests = self.shared.requests.lock();
        let requests = requests.unwrap_or_else(PoisonError::into_inner);
        let key = (verb.to_owned(), resource.to_owned());
        requests.get(&key).copied().unwrap_or_default()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.thread.take() {
            drop(end);
            if thread.join().is_err() {
                tracing::error!("the server's thread panicked");
            }
        }
    }
}
