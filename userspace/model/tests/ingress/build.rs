//! Builders of objects, and a simple search for the route of a request.

use std::{collections::BTreeMap, net::IpAddr};

use headgate_model::{
    NamespacedName,
    edge::{Condition, PortName, Route, Secret, Target, UpstreamPort, UpstreamService},
    ingress::{
        Ingress, IngressBackend, IngressClass, IngressOptions, IngressPath, IngressRule,
        IngressTls, Objects, PathType, Routes, routes,
    },
};

pub(crate) use PathType::{Exact, ImplementationSpecific, Prefix};

/// Services that every namespace has, with port 80 (`http`).
pub(crate) const SERVICES: [&str; 5] = ["web", "api", "old", "new", "rest"];
pub(crate) const NAMESPACES: [&str; 2] = ["default", "team"];

pub(crate) fn name(text: &str) -> NamespacedName {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    NamespacedName::new(namespace, name)
}

/// A Service with these ports, by name and number.
pub(crate) fn service(ports: &[(&str, u16)]) -> UpstreamService {
    let ports = ports.iter().map(|(name, port)| UpstreamPort {
        name: (*name).into(),
        port: *port,
        app_protocol: None,
    });
    UpstreamService {
        uid: "4c1e".into(),
        ports: ports.collect(),
        udp_ports: Vec::new(),
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        is_external: false,
    }
}

/// An Ingress of our class; all have the same age unless `created` sets another one.
pub(crate) fn ingress(text: &str) -> Ingress {
    Ingress {
        name: name(text),
        created_s: Some(100),
        annotations: BTreeMap::new(),
        class: Some("ours".into()),
        default_backend: None,
        rules: Vec::new(),
        tls: Vec::new(),
    }
}

pub(crate) fn backend(service: &str) -> IngressBackend {
    IngressBackend::Service {
        name: service.into(),
        port: PortName::Number(80),
    }
}

pub(crate) trait Build: Sized {
    fn created(self, seconds: i64) -> Self;
    /// An annotation: with the prefix of Headgate if it begins with `/`, else with that of
    /// ingress-nginx.
    fn note(self, key: &str, value: &str) -> Self;
    /// A rule of one path.
    fn rule(self, host: &str, path_type: PathType, path: &str, service: &str) -> Self;
    fn rest(self, service: &str) -> Self;
    fn tls(self, hosts: &[&str], secret: &str) -> Self;
}

impl Build for Ingress {
    fn created(mut self, seconds: i64) -> Self {
        self.created_s = Some(seconds);
        self
    }

    fn note(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(annotation(key), value.into());
        self
    }

    fn rule(mut self, host: &str, path_type: PathType, path: &str, service: &str) -> Self {
        self.rules.push(IngressRule {
            host: host.into(),
            paths: vec![IngressPath {
                path: path.into(),
                path_type,
                backend: backend(service),
            }],
        });
        self
    }

    fn rest(mut self, service: &str) -> Self {
        self.default_backend = Some(backend(service));
        self
    }

    fn tls(mut self, hosts: &[&str], secret: &str) -> Self {
        self.tls.push(IngressTls {
            hosts: hosts.iter().map(ToString::to_string).collect(),
            secret: Some(secret.into()),
        });
        self
    }
}

/// A key: with the prefix of Headgate if it begins with `/`.
pub(crate) fn annotation(key: &str) -> String {
    match key.strip_prefix('/') {
        Some(own) => format!("headgate.io/{own}"),
        None => format!("nginx.ingress.kubernetes.io/{key}"),
    }
}

pub(crate) fn secret(keys: &[&str]) -> Secret {
    let data = keys
        .iter()
        .map(|key| (key.to_string(), key.as_bytes().to_vec()));
    Secret {
        type_: "kubernetes.io/tls".into(),
        data: data.collect(),
    }
}

/// Our class, the usual Services, and these Ingresses.
pub(crate) fn objects(ingresses: impl IntoIterator<Item = Ingress>) -> Objects {
    let mut objects = Objects::default();
    for ingress in ingresses {
        objects.ingresses.insert(ingress.name.clone(), ingress);
    }
    let ours = IngressClass {
        controller: "headgate.io/ingress".into(),
        is_default: false,
        parameters: None,
    };
    objects.classes.insert("ours".into(), ours);
    for namespace in NAMESPACES {
        for short in SERVICES {
            let name = NamespacedName::new(namespace, short);
            objects.services.insert(name, service(&[("http", 80)]));
        }
    }
    objects
}

pub(crate) fn routes_of(ingresses: impl IntoIterator<Item = Ingress>) -> Routes {
    routes(&objects(ingresses), &IngressOptions::default())
}

pub(crate) fn refusals(routes: &Routes) -> Vec<String> {
    routes.refusals.iter().map(ToString::to_string).collect()
}

/// The fields of all refusals.
pub(crate) fn fields(routes: &Routes) -> Vec<&str> {
    routes.refusals.iter().map(|one| &*one.field).collect()
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) method: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) query: &'a [(&'a str, &'a str)],
    pub(crate) client: IpAddr,
}

pub(crate) fn get<'a>(host: &'a str, path: &'a str) -> Request<'a> {
    Request {
        host,
        path,
        method: "GET",
        headers: &[],
        query: &[],
        client: IpAddr::from([192, 0, 2, 1]),
    }
}

impl Request<'_> {
    fn meets(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Method(text) => text.matches(self.method),
            Condition::Header(name, text) => {
                let mut headers = self.headers.iter();
                headers.any(|(known, value)| known == name && text.matches(value))
            }
            Condition::Query(name, text) | Condition::FirstQuery(name, text) => {
                let mut query = self.query.iter();
                query.any(|(known, value)| known == name && text.matches(value))
            }
            Condition::Source(networks) => networks.iter().any(|net| net.contains(&self.client)),
        }
    }
}

/// The route of a request: the host decides, then the first route whose path and conditions match.
pub(crate) fn find<'a>(routes: &'a Routes, request: &Request<'_>) -> Option<&'a Route> {
    let hosts = routes.listener.hosts(request.host);
    let mut known = hosts.flat_map(|host| &host.routes);
    let found = known.find(|route| {
        let mut conditions = route.conditions.iter();
        route.path.matches(request.path) && conditions.all(|one| request.meets(one))
    });
    found
        .or(routes.listener.default.as_ref())
        .map(|route| &**route)
}

/// The one target of a route of an Ingress; none for a route that needs no backend.
pub(crate) fn target(route: &Route) -> &Target {
    let mut targets = route.targets.iter();
    targets.next().map_or(&Target::Missing, |only| &only.target)
}

/// The Service that answers, or the status code without one.
pub(crate) fn answer_to(routes: &Routes, request: &Request<'_>) -> String {
    match find(routes, request).map(target) {
        Some(Target::Upstream(key)) => key.service.name.clone(),
        Some(Target::Unavailable) => "503".into(),
        Some(Target::Missing) | None => "404".into(),
        Some(Target::Invalid(_)) => "500".into(),
    }
}

pub(crate) fn answer(routes: &Routes, host: &str, path: &str) -> String {
    answer_to(routes, &get(host, path))
}
