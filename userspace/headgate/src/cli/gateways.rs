//! Gateways and their routes, as a controller judges those of the cluster or of a folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use headgate_control::{Event, Interest, kube as kube_source, manifests};
use headgate_model::{
    NamespacedName, Refusal,
    edge::{GatewayPort, PortListeners, Secret, Services},
    gateway::{
        Addresses, GatewayOptions, ListenerVerdict, Objects, Resolved, RouteKind, Servers, Verdict,
        World, assign,
        object::{ListenerSpec, TargetKind},
        resolve,
    },
};
use ipnet::IpNet;
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};

use super::output::{OutputArgs, print_rows};
use crate::api_servers;

/// Events of the source that wait to be read.
const EVENTS: usize = 1024;
/// How long the lists of the cluster may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct GatewaysArgs {
    /// Read manifests from this folder and its sub-folders instead of the Kubernetes API
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// Network whose addresses Gateways of a folder get; may be repeated
    #[arg(long = "address-pool", value_name = "CIDR", requires = "source")]
    pools: Vec<IpNet>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A listener of a Gateway.
#[derive(Serialize)]
struct ListenerRow {
    gateway: String,
    /// The ListenerSet that has the listener, if it is not the Gateway.
    set: Option<String>,
    class: String,
    addresses: Vec<String>,
    listener: String,
    port: i32,
    protocol: String,
    hostname: String,
    /// The port of nodes that its connections arrive at; `null` if it is not served.
    target_port: Option<u16>,
    kinds: Vec<&'static str>,
    /// Number of routes that are accepted here.
    routes: usize,
    /// RoutePolicies for the listener and for its Gateway.
    policies: Vec<String>,
    /// Conditions of the Gateway or the ListenerSet, as `True/Accepted`, by type.
    object: BTreeMap<&'static str, String>,
    /// Conditions of the listener.
    conditions: BTreeMap<&'static str, String>,
    /// `Programmed`, or the reason why it is not.
    state: String,
    /// What is wrong.
    message: Vec<String>,
}

/// A route at one of its parents.
#[derive(Serialize)]
struct RouteRow {
    kind: &'static str,
    route: String,
    parent: String,
    /// RoutePolicies for the route and for its rules.
    policies: Vec<String>,
    /// Conditions, as `True/Accepted`, by type.
    conditions: BTreeMap<&'static str, String>,
    /// `Accepted`, or the reason why it is not.
    accepted: String,
    /// `ResolvedRefs`, or the reason why a reference is not valid.
    references: String,
    /// What is wrong.
    message: Vec<String>,
}

/// Prints the listeners of the cluster or of a folder.
pub(crate) fn gateways(args: &GatewaysArgs) -> Result<()> {
    let mut input = match &args.source {
        Some(folder) => Input::read(folder)?,
        None => Input::list()?,
    };
    input.options.pools.clone_from(&args.pools);
    let resolved = input.resolve();
    let header = [
        "gateway", "listener", "port", "protocol", "hostname", "routes", "policies", "state",
        "message",
    ];
    let wide = ["target_port", "set", "class", "addresses", "kinds"];
    print_rows(&args.output, &header, &wide, &input.listeners(&resolved))
}

/// Prints the routes of a folder.
pub(super) fn routes(source: &Path, output: &OutputArgs) -> Result<()> {
    let input = Input::read(source)?;
    let resolved = input.resolve();
    let rows = resolved.routes.iter().flat_map(|((kind, name), verdict)| {
        let parents = verdict.parents.iter();
        parents.map(|(parent, conditions)| RouteRow {
            kind: kind.name(),
            route: name.to_string(),
            parent: parent.to_string(),
            policies: match target_kind(*kind) {
                Some(kind) => input.policies(&resolved, kind, name, |_| true),
                None => Vec::new(),
            },
            accepted: state(conditions, "Accepted"),
            references: state(conditions, "ResolvedRefs"),
            message: messages(conditions),
            conditions: by_type(conditions),
        })
    });
    let rows: Vec<RouteRow> = rows.collect();
    let header = [
        "kind",
        "route",
        "parent",
        "accepted",
        "references",
        "policies",
        "message",
    ];
    print_rows(output, &header, &[], &rows)
}

/// The objects of the cluster or of a folder.
struct Input {
    objects: Objects,
    secrets: BTreeMap<NamespacedName, Secret>,
    services: Services,
    options: GatewayOptions,
}

impl Input {
    /// Reads a folder; prints what is refused.
    fn read(folder: &Path) -> Result<Self> {
        manifests::files(folder).with_context(|| folder.display().to_string())?;
        let events = manifests::read(folder, Interest::Verdicts, "");
        Ok(Self::new(events))
    }

    /// Reads the cluster; prints what is refused.
    fn list() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = api_servers::client(None).await?;
            let (sender, mut receiver) = mpsc::channel(EVENTS);
            let follow = kube_source::follow_verdicts(client, sender);
            let mut missing = BTreeSet::from_iter(Interest::Verdicts.kinds());
            let mut events = Vec::new();
            let mut trouble = None;
            let list = async {
                while let Some(event) = receiver.recv().await {
                    match event {
                        Event::Listed(kind) => drop(missing.remove(&kind)),
                        Event::Connected(result) => trouble = result.err(),
                        event => events.push(event),
                    }
                    if missing.is_empty() {
                        return;
                    }
                }
            };
            let is_listed = tokio::select! {
                listed = timeout(LIST_TIMEOUT, list) => listed.is_ok(),
                () = follow => false,
            };
            match (is_listed, trouble) {
                (true, _) => Ok(Self::new(events)),
                (false, Some(trouble)) => bail!("cannot list the cluster: {trouble}"),
                (false, None) => bail!("cannot list the cluster: no answer about {missing:?}"),
            }
        })
    }

    fn new(events: Vec<Event>) -> Self {
        let mut input = Self {
            objects: Objects::default(),
            secrets: BTreeMap::new(),
            services: Services::new(),
            options: GatewayOptions {
                check_certificate: headgate_proxy::check_certificate,
                check_authorities: headgate_proxy::check_authorities,
                ..GatewayOptions::default()
            },
        };
        for event in events {
            match event {
                Event::Gateway(change) => {
                    input.objects.apply(*change);
                }
                Event::Secret(name, Some(secret)) => drop(input.secrets.insert(name, secret)),
                Event::Upstream(name, Some(service)) => {
                    drop(input.services.insert(name, service));
                }
                Event::Refused(_, refusals) => refusals.iter().for_each(print_refusal),
                _ => {}
            }
        }
        input
    }

    /// Gateways keep the addresses in their statuses, which those of a cluster have.
    fn resolve(&self) -> Resolved {
        let mut addresses = assign(&self.objects, &self.options, &Addresses::default());
        if self.options.pools.is_empty() {
            for (name, gateway) in &self.objects.gateways {
                addresses.set(name.clone(), gateway.status.addresses.clone(), None);
            }
        }
        resolve(&World {
            objects: &self.objects,
            secrets: &self.secrets,
            services: &self.services,
            addresses: &addresses,
            servers: &Servers::default(),
            options: &self.options,
        })
    }

    /// RoutePolicies for an object, with their sections that `is_meant`, each with the reason if it is not accepted.
    fn policies(
        &self,
        resolved: &Resolved,
        kind: TargetKind,
        name: &NamespacedName,
        is_meant: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let policies = self.objects.route_policies.iter();
        let policies = policies.filter(|(policy, object)| {
            let mut targets = object.spec.targets.iter();
            policy.namespace == name.namespace
                && targets.any(|target| {
                    let section = target.section_name.as_deref();
                    target.kind == kind && target.name == name.name && section.is_none_or(&is_meant)
                })
        });
        let texts = policies.map(|(policy, _)| {
            let verdict = resolved.route_policies.get(policy);
            let ancestors = verdict.iter().flat_map(|verdict| &verdict.ancestors);
            let mut conditions = ancestors.flat_map(|(_, conditions)| conditions);
            match conditions.find(|one| !one.is_true) {
                Some(one) => format!("{policy} ({}: {})", one.reason, one.message),
                None => policy.to_string(),
            }
        });
        texts.collect()
    }

    /// Listeners of Gateways, each followed by those of its ListenerSets.
    fn listeners(&self, resolved: &Resolved) -> Vec<ListenerRow> {
        let mut rows = Vec::new();
        for (name, verdict) in &resolved.verdicts {
            let Some(gateway) = self.objects.gateways.get(name) else {
                continue;
            };
            let addresses = verdict.addresses.iter().map(|one| one.value.clone());
            let addresses: Vec<String> = addresses.collect();
            let of = |kind: TargetKind, name: &NamespacedName, listener: Option<&str>| {
                let is_meant = |section: &str| Some(section) == listener;
                self.policies(resolved, kind, name, is_meant)
            };
            let policies = |listener: &str| of(TargetKind::Gateway, name, Some(listener));
            let own = Group {
                policies: &policies,
                served: &resolved.gateways,
                gateway: name,
                set: None,
                class: &gateway.spec.gateway_class_name,
                addresses: &addresses,
                conditions: &verdict.conditions,
            };
            own.add(&gateway.spec.listeners, &verdict.listeners, &mut rows);
            for (set_name, set) in &self.objects.listener_sets {
                let is_here = set.spec.parent_ref.target(&set_name.namespace) == *name;
                if let Some(verdict) = resolved.listener_sets.get(set_name).filter(|_| is_here) {
                    let policies = |listener: &str| {
                        let mut all = of(TargetKind::ListenerSet, set_name, Some(listener));
                        all.extend(of(TargetKind::Gateway, name, None));
                        all
                    };
                    let group = Group {
                        policies: &policies,
                        set: Some(set_name),
                        conditions: &verdict.conditions,
                        ..own
                    };
                    group.add(&set.spec.listeners, &verdict.listeners, &mut rows);
                }
            }
        }
        rows
    }
}

/// What the listeners of an object have in common.
struct Group<'a> {
    /// RoutePolicies for a listener of the Gateway, or for the Gateway alone.
    policies: &'a dyn Fn(&str) -> Vec<String>,
    served: &'a BTreeMap<GatewayPort, PortListeners>,
    gateway: &'a NamespacedName,
    set: Option<&'a NamespacedName>,
    class: &'a str,
    addresses: &'a [String],
    conditions: &'a [Verdict],
}

impl Group<'_> {
    /// The port of nodes for a listener.
    fn target_port(&self, spec: &ListenerSpec) -> Option<u16> {
        let port = GatewayPort {
            gateway: self.gateway.clone(),
            port: u16::try_from(spec.port).ok()?,
        };
        let label = match self.set {
            None => spec.name.clone(),
            Some(set) => format!("{set}/{}", spec.name),
        };
        let entry = self.served.get(&port)?;
        let is_served = entry.listeners.iter().any(|one| one.name == label);
        is_served.then_some(entry.target_port)
    }

    fn add(
        &self,
        specs: &[ListenerSpec],
        verdicts: &[ListenerVerdict],
        rows: &mut Vec<ListenerRow>,
    ) {
        for verdict in verdicts {
            let Some(spec) = specs.iter().find(|spec| spec.name == verdict.name) else {
                continue;
            };
            rows.push(ListenerRow {
                gateway: self.gateway.to_string(),
                set: self.set.map(ToString::to_string),
                class: self.class.into(),
                addresses: self.addresses.to_vec(),
                listener: spec.name.clone(),
                port: spec.port,
                protocol: spec.protocol.to_string(),
                hostname: spec.hostname.clone().unwrap_or_default(),
                target_port: self.target_port(spec),
                kinds: verdict.kinds.iter().map(|kind| kind.name()).collect(),
                routes: verdict.attached_routes,
                policies: (self.policies)(&spec.name),
                object: by_type(self.conditions),
                conditions: by_type(&verdict.conditions),
                state: state(&verdict.conditions, "Programmed"),
                message: messages(self.conditions.iter().chain(&verdict.conditions)),
            });
        }
    }
}

/// The kind of a route as a target of RoutePolicies.
fn target_kind(kind: RouteKind) -> Option<TargetKind> {
    match kind {
        RouteKind::Http => Some(TargetKind::HttpRoute),
        RouteKind::Grpc => Some(TargetKind::GrpcRoute),
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => None,
    }
}

fn print_refusal(refusal: &Refusal) {
    eprintln!("headgate: {refusal}");
}

fn by_type(conditions: &[Verdict]) -> BTreeMap<&'static str, String> {
    let pairs = conditions.iter().map(|one| {
        let status = if one.is_true { "True" } else { "False" };
        (one.type_, format!("{status}/{}", one.reason))
    });
    pairs.collect()
}

/// The reason of a condition.
fn state(conditions: &[Verdict], type_: &str) -> String {
    let found = conditions.iter().find(|one| one.type_ == type_);
    found.map_or_else(String::new, |one| one.reason.into())
}

/// The texts of all conditions that have one, each once.
fn messages<'a>(conditions: impl IntoIterator<Item = &'a Verdict>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for one in conditions {
        if !one.message.is_empty() && !texts.contains(&one.message) {
            texts.push(one.message.clone());
        }
    }
    texts
}
