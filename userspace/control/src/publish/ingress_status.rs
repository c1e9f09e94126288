//! Writes `status.loadBalancer` of Ingresses: the addresses that they are served at.
//!
//! Every node writes the same value, so no leader is elected. A write names the `resourceVersion`
//! that it is based on: of several nodes one succeeds, and the others see its result. Values that
//! are already there are not written. A node that stops removes nothing, because others still
//! serve. When an Ingress is no longer served, this node removes the addresses that it knows as its
//! own, unless another controller has changed the status since.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    str::FromStr,
    time::Duration,
};

use futures::{StreamExt, stream};
use headgate_model::{NamespacedName, ObjectName};
use k8s_openapi::api::{
    core::v1::Service,
    networking::v1::{
        Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressStatus as ApiStatus,
    },
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::watcher,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::warn;

use crate::{
    loops::status::IngressStatus,
    source::{
        convert,
        kube::{apis, watch_objects},
    },
};

/// Delay after a failed write.
const RETRY: Duration = Duration::from_secs(5);
/// Field manager of the writes.
const MANAGER: &str = "headgate-ingress";

/// The addresses at which clients find the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Publish {
    /// These addresses.
    Addresses(BTreeSet<Address>),
    /// Those of this Service: for type `LoadBalancer` those of its load balancer and its external
    /// IPs, otherwise its external IPs, or else its cluster IPs.
    Service(NamespacedName),
}

/// An address that clients use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A host name.
    Host(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        match convert::host(text) {
            Ok(host) if !host.starts_with('*') => Ok(Self::Host(host)),
            _ => Err(format!("`{text}` is neither an IP address nor a DNS name")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => write!(out, "{ip}"),
            Self::Host(host) => out.write_str(host),
        }
    }
}

/// Addresses in the form of the API.
type Points = Vec<IngressLoadBalancerIngress>;

/// Keeps the status of served Ingresses up to date, in these namespaces or in all if there are
/// none. Returns when the loop is gone.
pub async fn publish(
    client: Client,
    publish: Publish,
    namespaces: &BTreeSet<String>,
    mut statuses: watch::Receiver<IngressStatus>,
) {
    let apis = apis(namespaces).into_iter();
    let apis = apis.map(|api| api(client.clone())).collect();
    let mut ingresses = watch_objects(apis, watcher::Config::default());
    let mut services = match &publish {
        Publish::Addresses(_) => stream::pending().boxed(),
        Publish::Service(name) => {
            let api: Api<Service> = Api::namespaced(client.clone(), &name.namespace);
            let named = format!("metadata.name={}", name.name);
            watch_objects(vec![api], watcher::Config::default().fields(&named))
        }
    };
    let mut writer = StatusWriter {
        points: match publish {
            Publish::Addresses(addresses) => Some(points(addresses)),
            Publish::Service(_) => None,
        },
        ..StatusWriter::default()
    };
    writer.note_status(&statuses.borrow_and_update());
    let mut next_write = Instant::now();
    loop {
        let change = writer.change();
        tokio::select! {
            // Changes by others are read before anything is written.
            biased;
            Some(event) = ingresses.next() => writer.note_ingress(event),
            Some(event) = services.next() => writer.note_service(event),
            changed = statuses.changed() => {
                if changed.is_err() {
                    return;
                }
                writer.note_status(&statuses.borrow_and_update());
            }
            () = sleep_until(next_write), if change.is_some() => {
                if let Some((name, points)) = change
                    && !writer.write(&client, name, points).await
                {
                    next_write = Instant::now() + RETRY;
                }
            }
        }
    }
}

/// The status of an Ingress, and its version.
struct Found {
    version: Option<String>,
    points: Points,
}

impl Found {
    fn of(ingress: &Ingress) -> Self {
        let status = ingress.status.as_ref();
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        Self {
            version: ingress.resource_version(),
            points: balancer
                .and_then(|balancer| balancer.ingress.clone())
                .unwrap_or_default(),
        }
    }
}

/// Compares the status of Ingresses with what it should be.
#[derive(Default)]
struct StatusWriter {
    /// Addresses of the proxy; `None` until they are known.
    points: Option<Points>,
    /// Addresses in the list that is being read.
    listed: Points,
    served: BTreeSet<NamespacedName>,
    found: BTreeMap<NamespacedName, Found>,
    /// Ingresses that are no longer served, with the addresses that were ours.
    lost: BTreeMap<NamespacedName, Points>,
}

impl StatusWriter {
    fn note_ingress(&mut self, event: watcher::Event<Ingress>) {
        match event {
            watcher::Event::InitApply(ingress) | watcher::Event::Apply(ingress) => {
                self.find(convert::name(&ingress), &ingress);
            }
            watcher::Event::Delete(ingress) => self.forget(&convert::name(&ingress)),
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    fn note_service(&mut self, event: watcher::Event<Service>) {
        match event {
            watcher::Event::Init => self.listed = Points::new(),
            watcher::Event::InitApply(service) => self.listed = points(addresses(&service)),
            watcher::Event::InitDone => self.points = Some(std::mem::take(&mut self.listed)),
            watcher::Event::Apply(service) => self.points = Some(points(addresses(&service))),
            watcher::Event::Delete(_) => self.points = Some(Points::new()),
        }
    }

    fn note_status(&mut self, status: &IngressStatus) {
        if !status.is_synced {
            return;
        }
        let served: BTreeSet<_> = status.ingresses.iter().cloned().collect();
        for name in self.served.difference(&served) {
            let found = self.found.get(name);
            let points = found.map(|found| &found.points);
            if let Some(points) = points.filter(|points| Some(*points) == self.points.as_ref()) {
                self.lost.insert(name.clone(), points.clone());
            }
        }
        self.lost.retain(|name, _| !served.contains(name));
        self.served = served;
    }

    fn find(&mut self, name: NamespacedName, ingress: &Ingress) {
        let found = Found::of(ingress);
        // A value that another controller wrote is not ours, even if it becomes the same again.
        if self
            .lost
            .get(&name)
            .is_some_and(|points| *points != found.points)
        {
            self.lost.remove(&name);
        }
        self.found.insert(name, found);
    }

    fn forget(&mut self, name: &NamespacedName) {
        self.found.remove(name);
        self.lost.remove(name);
    }

    /// One of the writes that are due, at random: so nodes seldom try the same one.
    fn change(&self) -> Option<(NamespacedName, Points)> {
        let points = self.points.as_ref()?;
        let nothing = Points::new();
        let wanted = self.served.iter().map(|name| (name, points));
        let cleared = self.lost.keys().map(|name| (name, &nothing));
        let differs = |(name, points): &(&NamespacedName, &Points)| {
            let found = self.found.get(*name);
            found.is_some_and(|found| found.points != **points)
        };
        let due: Vec<_> = wanted.chain(cleared).filter(differs).collect();
        let start = RandomState::new().hash_one(()) as usize;
        let (name, points) = due.get(start.checked_rem(due.len())?)?;
        Some(((*name).clone(), (*points).clone()))
    }

    /// Writes; returns whether the next write can follow at once.
    async fn write(&mut self, client: &Client, name: NamespacedName, points: Points) -> bool {
        let api: Api<Ingress> = Api::namespaced(client.clone(), &name.namespace);
        let version = self
            .found
            .get(&name)
            .and_then(|found| found.version.clone());
        let patch = Ingress {
            metadata: ObjectMeta {
                resource_version: version,
                ..ObjectMeta::default()
            },
            status: Some(ApiStatus {
                load_balancer: Some(IngressLoadBalancerStatus {
                    ingress: Some(points),
                }),
            }),
            ..Ingress::default()
        };
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        match api
            .patch_status(&name.name, &params, &Patch::Merge(patch))
            .await
        {
            Ok(ingress) => {
                self.find(name, &ingress);
                true
            }
            // Another node was faster: the watch sends the new status.
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                self.found.remove(&name);
                true
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                self.forget(&name);
                true
            }
            Err(error) => {
                warn!(object = %ObjectName::Ingress(name), %error, "cannot write the status");
                false
            }
        }
    }
}

fn points(addresses: BTreeSet<Address>) -> Points {
    let point = |address| match address {
        Address::Ip(ip) => IngressLoadBalancerIngress {
            ip: Some(ip.to_string()),
            ..IngressLoadBalancerIngress::default()
        },
        Address::Host(host) => IngressLoadBalancerIngress {
            hostname: Some(host),
            ..IngressLoadBalancerIngress::default()
        },
    };
    addresses.into_iter().map(point).collect()
}

/// The addresses of a Service, chosen as ingress-nginx does.
fn addresses(service: &Service) -> BTreeSet<Address> {
    let spec = service.spec.clone().unwrap_or_default();
    let status = service.status.clone().unwrap_or_default();
    let external = spec.external_ips.unwrap_or_default();
    let cluster = match spec.cluster_ips {
        Some(ips) => ips,
        None => spec.cluster_ip.into_iter().collect(),
    };
    let texts = match spec.type_.as_deref() {
        Some("LoadBalancer") => {
            let points = status.load_balancer.and_then(|balancer| balancer.ingress);
            let points = points.into_iter().flatten();
            let texts = points.filter_map(|point| point.hostname.or(point.ip));
            texts.chain(external).collect()
        }
        Some("ExternalName") => spec.external_name.into_iter().collect(),
        _ if external.is_empty() => cluster,
        _ => external,
    };
    // Not the `None` of a headless Service.
    let texts = texts.iter().filter(|text| *text != "None");
    texts.flat_map(|text| text.parse()).collect()
}
