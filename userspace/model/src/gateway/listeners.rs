//! The listeners of a Gateway and its ListenerSets: what each can serve, and which of them conflict.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    Problem, World,
    certificates::Certificates,
    frontend, hostname,
    object::{
        AllowedRoutes, FromNamespaces, GROUP, Gateway, ListenerProtocol, ListenerSet, ListenerSpec,
        RouteGroupKind, TlsMode,
    },
    reference::Referrer,
};
use crate::{
    NamespacedName, Protocol,
    edge::{Certificate, ClientCheck},
};

/// A kind of route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute.
    Udp,
}

impl RouteKind {
    /// Returns the name of the kind.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }

    /// Returns the kind as an entry of `supportedKinds`.
    pub(super) fn group_kind(self) -> RouteGroupKind {
        RouteGroupKind {
            group: GROUP.into(),
            kind: self.name().into(),
        }
    }

    fn of(protocol: &ListenerProtocol) -> &'static [Self] {
        match protocol {
            ListenerProtocol::Http | ListenerProtocol::Https => &[Self::Http, Self::Grpc],
            ListenerProtocol::Tls => &[Self::Tls],
            ListenerProtocol::Tcp => &[Self::Tcp],
            ListenerProtocol::Udp => &[Self::Udp],
            ListenerProtocol::Other(_) => &[],
        }
    }
}

/// The object that has a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A Gateway.
    Gateway(NamespacedName),
    /// A ListenerSet.
    ListenerSet(NamespacedName),
}

impl Holder {
    /// Returns the name of the object.
    pub fn name(&self) -> &NamespacedName {
        match self {
            Self::Gateway(name) | Self::ListenerSet(name) => name,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "Gateway",
            Self::ListenerSet(_) => "ListenerSet",
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind(), self.name())
    }
}

/// Why two listeners cannot be served both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// Their protocols cannot share the port.
    Protocol,
    /// Port, protocol and host name are the same.
    Hostname,
}

impl Conflict {
    /// Returns the reason in conditions.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Protocol => "ProtocolConflict",
            Self::Hostname => "HostnameConflict",
        }
    }
}

/// A listener, judged.
#[derive(Clone, Debug)]
pub struct Listener<'a> {
    /// The object that has it.
    pub holder: Holder,
    /// What the object says of it.
    pub spec: &'a ListenerSpec,
    /// The port, 0 if it is not valid.
    pub port: u16,
    /// The host name in lower case; empty for all names.
    pub hostname: String,
    /// Kinds of routes that it can have.
    pub kinds: Vec<RouteKind>,
    /// The conflict with another listener that it does not win.
    pub conflict: Option<Conflict>,
    /// Whether the conflict is with a listener of another object, which is served.
    pub(super) loses: bool,
    /// Why it is not accepted, apart from a conflict.
    pub refusal: Option<Problem>,
    /// A reference or a kind of route that is not valid.
    pub unresolved: Option<Problem>,
    /// Valid certificates.
    pub certificates: Vec<Arc<Certificate>>,
    /// What is asked of the certificates of clients.
    pub client_check: Option<ClientCheck>,
}

impl<'a> Listener<'a> {
    /// Judges a listener, apart from conflicts.
    fn new(
        world: &World<'_>,
        certificates: &mut Certificates,
        gateway: &Gateway,
        holder: Holder,
        spec: &'a ListenerSpec,
    ) -> Self {
        let port = u16::try_from(spec.port).unwrap_or_default();
        let mut listener = Self {
            holder,
            spec,
            port,
            hostname: hostname::normal(spec.hostname.as_deref().unwrap_or_default()),
            kinds: Vec::new(),
            conflict: None,
            loses: false,
            refusal: None,
            unresolved: None,
            certificates: Vec::new(),
            client_check: None,
        };
        if port == 0 {
            let message = format!("{} is not a port (1 to 65535)", spec.port);
            listener.refusal = Some(Problem::new("PortUnavailable", message));
        } else {
            listener.refusal = unsupported(spec);
        }
        listener.set_kinds(&spec.allowed_routes);
        if listener.terminates_tls() {
            listener.set_certificates(world, certificates);
        }
        if spec.protocol == ListenerProtocol::Https && world.options.judges_certificates {
            listener.set_client_check(world, certificates, gateway);
        }
        listener
    }

    /// Whether it decrypts connections.
    pub fn terminates_tls(&self) -> bool {
        match self.spec.protocol {
            ListenerProtocol::Https => true,
            ListenerProtocol::Tls => !self.passes_through(),
            _ => false,
        }
    }

    /// Whether it forwards TLS connections without decryption.
    pub fn passes_through(&self) -> bool {
        let mode = self.spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
        self.spec.protocol == ListenerProtocol::Tls && mode == Some(&TlsMode::Passthrough)
    }

    /// The protocol of a listener that agents serve; `None` if proxies do.
    pub(super) fn l4_protocol(&self) -> Option<Protocol> {
        match self.spec.protocol {
            ListenerProtocol::Tcp => Some(Protocol::Tcp),
            ListenerProtocol::Udp => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// Whether it is accepted.
    pub fn is_accepted(&self) -> bool {
        self.refusal.is_none() && self.conflict.is_none()
    }

    /// Whether it is served.
    pub fn is_served(&self) -> bool {
        let has_certificate = !self.terminates_tls() || !self.certificates.is_empty();
        self.is_accepted() && has_certificate && !self.kinds.is_empty()
    }

    /// Returns its name among all listeners of the Gateway.
    pub fn label(&self) -> String {
        match &self.holder {
            Holder::Gateway(_) => self.spec.name.clone(),
            Holder::ListenerSet(set) => format!("{set}/{}", self.spec.name),
        }
    }

    fn set_kinds(&mut self, allowed: &AllowedRoutes) {
        let possible = RouteKind::of(&self.spec.protocol);
        if allowed.kinds.is_empty() {
            self.kinds = possible.into();
            return;
        }
        let mut invalid = Vec::new();
        for wanted in &allowed.kinds {
            let mut known = possible.iter();
            match known.find(|kind| wanted.group == GROUP && wanted.kind == kind.name()) {
                Some(kind) if !self.kinds.contains(kind) => self.kinds.push(*kind),
                Some(_) => {}
                None => invalid.push(wanted.kind.as_str()),
            }
        }
        if !invalid.is_empty() {
            let message = format!(
                "{} listeners cannot have routes of kind {}",
                self.spec.protocol,
                invalid.join(", ")
            );
            self.unresolved = Some(Problem::new("InvalidRouteKinds", message));
        }
    }

    fn set_certificates(&mut self, world: &World<'_>, known: &mut Certificates) {
        const INVALID: &str = "InvalidCertificateRef";
        let references = self.spec.tls.iter().flat_map(|tls| &tls.certificate_refs);
        let mut problems = Vec::new();
        for reference in references {
            match known.certificate(world, self.referrer(), reference, INVALID) {
                Ok(certificate) => self.certificates.push(certificate),
                Err(problem) => problems.push(problem),
            }
        }
        if self.certificates.is_empty() && problems.is_empty() {
            let message = "`tls.certificateRefs` names no certificate";
            problems.push(Problem::new(INVALID, message));
        }
        // A certificate that is missing matters more than a kind.
        self.unresolved = problems.into_iter().next().or(self.unresolved.take());
    }

    /// Sets what the Gateway asks of the certificates of clients of this port.
    fn set_client_check(
        &mut self,
        world: &World<'_>,
        certificates: &mut Certificates,
        gateway: &Gateway,
    ) {
        let frontend::Validation {
            check,
            unresolved,
            refusal,
        } = frontend::validation(world, certificates, gateway, self.spec.port);
        self.client_check = check;
        self.refusal = self.refusal.take().or(refusal);
        self.unresolved = unresolved.or(self.unresolved.take());
    }

    /// The object that has it, for references.
    fn referrer(&self) -> Referrer<'_> {
        Referrer {
            group: GROUP,
            kind: self.holder.kind(),
            namespace: &self.holder.name().namespace,
        }
    }

    /// Whether routes of a namespace may attach.
    pub(super) fn allows_namespace(&self, world: &World<'_>, namespace: &str) -> bool {
        let namespaces = &self.spec.allowed_routes.namespaces;
        let from = namespaces.from.as_ref().unwrap_or(&FromNamespaces::Same);
        let own = &self.holder.name().namespace;
        world.selects(from, namespaces.selector.as_ref(), own, namespace)
    }
}

/// What of a listener is not supported.
fn unsupported(spec: &ListenerSpec) -> Option<Problem> {
    let unsupported = |message: String| Some(Problem::new("UnsupportedValue", message));
    if let ListenerProtocol::Other(protocol) = &spec.protocol {
        let message = format!("protocol {protocol} is not supported");
        return Some(Problem::new("UnsupportedProtocol", message));
    }
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    match (&spec.protocol, mode) {
        (_, Some(TlsMode::Other(mode))) => {
            unsupported(format!("`tls.mode` {mode} is not supported"))
        }
        (ListenerProtocol::Https, Some(TlsMode::Passthrough)) => {
            unsupported("`tls.mode` of HTTPS listeners must be Terminate".into())
        }
        _ => None,
    }
}

/// Which listeners of a port can be served together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Plain,
    Secure,
    Tcp,
    Udp,
}

impl Layer {
    fn of(protocol: &ListenerProtocol) -> Option<Self> {
        match protocol {
            ListenerProtocol::Http => Some(Self::Plain),
            ListenerProtocol::Https | ListenerProtocol::Tls => Some(Self::Secure),
            ListenerProtocol::Tcp => Some(Self::Tcp),
            ListenerProtocol::Udp => Some(Self::Udp),
            ListenerProtocol::Other(_) => None,
        }
    }

    /// Whether names choose between several listeners.
    fn has_names(self) -> bool {
        matches!(self, Self::Plain | Self::Secure)
    }
}

/// Names in use, by layer, of a port of TCP or UDP.
type Claims = BTreeMap<Layer, BTreeMap<String, usize>>;

/// Ports in use; `true` for UDP.
#[derive(Default)]
struct Ports(BTreeMap<(u16, bool), Claims>);

impl Ports {
    fn add(&mut self, listener: &Listener<'_>) {
        let Some(layer) = Layer::of(&listener.spec.protocol) else {
            return;
        };
        let claims = self.0.entry((listener.port, layer == Layer::Udp));
        let names = claims.or_default().entry(layer).or_default();
        *names.entry(listener.hostname.clone()).or_default() += 1;
    }

    /// The conflict of a listener with those that are here; `own` of them are the listener.
    fn conflict(&self, listener: &Listener<'_>, own: usize) -> Option<Conflict> {
        let layer = Layer::of(&listener.spec.protocol)?;
        let claims = self.0.get(&(listener.port, layer == Layer::Udp))?;
        let others = claims.keys().any(|other| *other != layer);
        let Some(names) = claims.get(&layer) else {
            return others.then_some(Conflict::Protocol);
        };
        let is_shared = !layer.has_names() && names.values().sum::<usize>() > own;
        let same = names.get(&listener.hostname).copied().unwrap_or_default();
        match (others || is_shared, same > own) {
            (true, _) => Some(Conflict::Protocol),
            (false, true) => Some(Conflict::Hostname),
            (false, false) => None,
        }
    }
}

/// Judges the listeners of a Gateway and of the ListenerSets that it allows, oldest first. Those of the
/// Gateway win over those of sets, and those of older sets over those of younger ones. Of the listeners of
/// one object that conflict none is served.
///
/// A listener that loses against another object takes nothing from others: it would not be served without
/// them either. The port and name of one that conflicts within its own object stay closed to others, so that these
/// do not change when the object is corrected.
pub(super) fn listeners<'a>(
    world: &World<'_>,
    certificates: &mut Certificates,
    gateway: &'a Gateway,
    sets: &[&'a ListenerSet],
) -> Vec<Listener<'a>> {
    let name = &gateway.meta.name;
    let own = (Holder::Gateway(name.clone()), &gateway.spec.listeners);
    let of_sets = sets.iter().map(|set| {
        let holder = Holder::ListenerSet(set.meta.name.clone());
        (holder, &set.spec.listeners)
    });
    let mut ports = Ports::default();
    let mut all = Vec::new();
    for (holder, specs) in std::iter::once(own).chain(of_sets) {
        // The API server refuses a name twice.
        let is_first = |(index, spec): &(usize, &ListenerSpec)| {
            let mut earlier = specs[..*index].iter();
            !earlier.any(|one| one.name == spec.name)
        };
        let judged = specs.iter().enumerate().filter(is_first);
        let judged = judged
            .map(|(_, spec)| Listener::new(world, certificates, gateway, holder.clone(), spec));
        let mut judged: Vec<Listener<'_>> = judged.collect();
        let mut within = Ports::default();
        for listener in judged.iter_mut().filter(|one| one.port != 0) {
            listener.conflict = ports.conflict(listener, 0);
            listener.loses = listener.conflict.is_some();
            if !listener.loses {
                within.add(listener);
            }
        }
        for listener in judged.iter_mut().filter(|one| one.port != 0) {
            if !listener.loses {
                ports.add(listener);
                listener.conflict = within.conflict(listener, 1);
            }
        }
        all.extend(judged);
    }
    all
}
