//! What a proxy serves of a listener.

use std::{collections::BTreeMap, sync::Arc};

use super::{Listener, object::ListenerProtocol, resolve::Ranked, site::Site};
use crate::{
    NamespacedName,
    edge::{
        self, Certificate, GatewayPort, HostMode, PortListeners, Route, Scheme, Stream, Streams,
        Target, UpstreamPolicy,
    },
};

/// Adds the listeners that are not served to their ports, without hosts: requests for their host names must not
/// get to a listener with a wildcard.
pub(super) fn close(
    name: &NamespacedName,
    site: &Site<'_>,
    ports: &mut BTreeMap<GatewayPort, PortListeners>,
) {
    for listener in site.listeners.iter().filter(|one| !site.serves(one)) {
        let key = GatewayPort {
            gateway: name.clone(),
            port: listener.port,
        };
        // What loses against another object takes nothing from it.
        let port = ports.get_mut(&key).filter(|_| !listener.loses);
        let Some(port) = port.filter(|port| Some(port.scheme) == scheme(listener)) else {
            continue;
        };
        let mut known = port.listeners.iter();
        if known.all(|known| known.hostname != listener.hostname) {
            let closed = edge::Listener {
                name: listener.label(),
                hostname: listener.hostname.clone(),
                mode: HostMode::Suffix,
                ..edge::Listener::default()
            };
            port.listeners.push(Arc::new(closed));
        }
    }
}

/// A route with the certificate that its Gateway shows to endpoints.
pub(super) fn shown(site: &Site<'_>, route: &Arc<Route>) -> Arc<Route> {
    let Some(Ok(identity)) = &site.identity else {
        return route.clone();
    };
    let mut changed = (**route).clone();
    for weighted in &mut changed.targets {
        show(identity, &mut weighted.target);
    }
    let has_mirrors = !changed.policy.mirrors.is_empty();
    if has_mirrors {
        for mirror in &mut Arc::make_mut(&mut changed.policy).mirrors {
            set_identity(identity, &mut mirror.upstream.policy);
        }
    }
    Arc::new(changed)
}

/// The same for connections.
pub(super) fn shown_by(site: &Site<'_>, stream: &Arc<Stream>) -> Arc<Stream> {
    let Some(Ok(identity)) = &site.identity else {
        return stream.clone();
    };
    let mut changed = (**stream).clone();
    for weighted in &mut changed.targets {
        show(identity, &mut weighted.target);
    }
    Arc::new(changed)
}

fn show(identity: &Certificate, target: &mut Target) {
    if let Target::Upstream(key) = target {
        set_identity(identity, &mut key.policy);
    }
}

fn set_identity(identity: &Certificate, policy: &mut Arc<UpstreamPolicy>) {
    if policy.protocol.is_tls() {
        let pair = (identity.chain.clone(), identity.key.clone());
        Arc::make_mut(policy).tls.identity = Some(pair);
    }
}

/// The protocol of a listener that a proxy serves.
pub(super) fn scheme(listener: &Listener<'_>) -> Option<Scheme> {
    match listener.spec.protocol {
        ListenerProtocol::Http => Some(Scheme::Http),
        ListenerProtocol::Https | ListenerProtocol::Tls => Some(Scheme::Https),
        ListenerProtocol::Tcp | ListenerProtocol::Udp | ListenerProtocol::Other(_) => None,
    }
}

/// A listener with its hosts.
pub(super) fn served(
    listener: &Listener<'_>,
    hosts: BTreeMap<String, Ranked>,
    streams: BTreeMap<String, Arc<Stream>>,
) -> edge::Listener {
    let hosts = hosts.into_iter().map(|(name, mut routes)| {
        routes.sort_by(|(one, _), (other, _)| one.cmp(other));
        let host = edge::Host {
            asks_certificate: false,
            routes: routes.into_iter().map(|(_, route)| route).collect(),
        };
        (name, host)
    });
    let is_tls = listener.spec.protocol == ListenerProtocol::Tls;
    edge::Listener {
        name: listener.label(),
        hostname: listener.hostname.clone(),
        mode: HostMode::Suffix,
        hosts: hosts.collect(),
        default_certificate: listener.certificates.first().cloned(),
        client_check: listener.client_check.clone(),
        streams: is_tls.then(|| Streams {
            is_decrypted: listener.terminates_tls(),
            hosts: streams,
        }),
        ..edge::Listener::default()
    }
}
