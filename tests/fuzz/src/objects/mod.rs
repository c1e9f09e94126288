//! Invalid manifests beside valid ones.

mod make;

use std::fs;

use anyhow::Result;
use headgate_control::{Event, Interest, manifests};
use headgate_model::{
    Desired, Node, Planner, Refusal,
    ingress::{IngressOptions, Objects, Routes, routes},
};

use crate::{Runner, Target};

/// Objects through conversion, planner and routes: no panic, every refusal names its object, and valid
/// objects are not affected.
pub(crate) const OBJECTS: Target = Target {
    name: "objects",
    needs_root: false,
    make: make::manifest,
    runner,
};

/// Valid objects beside the input. No input uses their names, hosts, addresses or ports.
const GOOD: &str = include_str!("good.yaml");
const GOOD_NAMESPACE: &str = "good";
const GOOD_HOST: &str = "good.test";

fn runner() -> Result<Runner> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("good.yaml"), GOOD)?;
    let read = |interest| manifests::read(folder.path(), interest, "n1");
    let (alone, refusals) = plan(read(Interest::Services));
    let alone_routes = route(read(Interest::Ingress));
    assert_eq!(refusals, []);
    assert_eq!(alone_routes.refusals, []);
    assert!(!alone.frontends.is_empty() && alone_routes.listener.hosts.contains_key(GOOD_HOST));
    Ok(Box::new(move |input| {
        let bad = folder.path().join("input.yaml");
        fs::write(&bad, input).expect("a file to be written");
        let read = |interest| manifests::read(folder.path(), interest, "n1");
        let events = read(Interest::Services);
        let (desired, mut refusals) = plan(events.clone());
        for (frontend, spec) in &alone.frontends {
            assert_eq!(desired.frontends.get(frontend), Some(spec), "{frontend}");
        }
        for (key, spec) in &alone.services {
            assert_eq!(desired.services.get(key), Some(spec), "{key}");
        }
        for backend in &alone.backends {
            assert!(desired.backends.contains(backend), "{backend}");
        }
        let backwards = plan(events.into_iter().rev().collect());
        assert_eq!(backwards.0, desired, "the order of events matters");
        let routes = route(read(Interest::Ingress));
        assert_eq!(
            routes
                .listener
                .hosts
                .get(GOOD_HOST)
                .map(|host| &host.routes),
            alone_routes
                .listener
                .hosts
                .get(GOOD_HOST)
                .map(|host| &host.routes),
            "routes of {GOOD_HOST}"
        );
        assert_eq!(
            routes.listener.certificates.get(GOOD_HOST),
            alone_routes.listener.certificates.get(GOOD_HOST)
        );
        refusals.extend(routes.refusals);
        for refusal in &refusals {
            let text = refusal.to_string();
            assert!(
                !text.contains(&format!("{GOOD_NAMESPACE}/")) || text.contains("belongs to"),
                "{text}"
            );
            assert!(
                !refusal.object.to_string().is_empty() && !refusal.reason.is_empty(),
                "{text}"
            );
        }
        1
    }))
}

/// The desired content of the maps, and the refusals.
fn plan(events: Vec<Event>) -> (Desired, Vec<Refusal>) {
    let address = || vec!["192.168.50.1".parse().expect("an address")];
    let mut planner = Planner::new(Node {
        name: "n1".into(),
        zone: None,
        addresses: address(),
        own_addresses: address(),
        networks: Vec::new(),
        node_port_addresses: address(),
        serves_external_ips: true,
    });
    let mut refusals = Vec::new();
    for event in events {
        match event {
            Event::Service(name, service) => planner.set_service(&name, service),
            Event::Slice(name, slice) => planner.set_slice(&name, slice),
            Event::Node(state) => {
                let node = planner.node().clone();
                planner.set_node(Node {
                    zone: state.zone,
                    ..node
                });
            }
            Event::Refused(_, refused) => refusals.extend(refused),
            _ => {}
        }
    }
    planner.update();
    refusals.extend(planner.refusals());
    (planner.desired().clone(), refusals)
}

fn route(events: Vec<Event>) -> Routes {
    let mut objects = Objects::default();
    let mut refusals = Vec::new();
    for event in events {
        match event {
            Event::Upstream(name, Some(service)) => drop(objects.services.insert(name, service)),
            Event::Slice(name, Some(slice)) => {
                let of = objects.slices.entry(slice.service.clone()).or_default();
                of.insert(name, slice);
            }
            Event::Ingress(name, Some(ingress)) => drop(objects.ingresses.insert(name, ingress)),
            Event::IngressClass(name, Some(class)) => drop(objects.classes.insert(name, class)),
            Event::Secret(name, Some(secret)) => drop(objects.secrets.insert(name, secret)),
            Event::Refused(_, refused) => refusals.extend(refused),
            _ => {}
        }
    }
    let options = IngressOptions {
        without_class: true,
        ..IngressOptions::default()
    };
    let mut routes = routes(&objects, &options);
    routes.refusals.extend(refusals);
    routes
}
