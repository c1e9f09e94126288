//! RoutePolicies: which settings a route has.
//!
//! The settings of a route come from the policies for its rule, the route, the listener, its ListenerSet and the Gateway;
//! of each setting the most specific one counts as a whole. Of several policies for one target the older one decides,
//! then by name. A setting that is invalid closes the routes that would have it; a policy that cannot be understood
//! closes everything that it is for.

mod sections;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use sections::{PolicyField, policy_fields};
use sections::{SECTIONS, Section, Values};

use super::{
    Holder, Listener, Problem, World,
    object::{
        GROUP, HttpRoute, ListenerProtocol, ParentRef, RoutePolicy, RoutePolicyTarget, TargetKind,
    },
    status::{PolicyVerdict, Verdict},
};
use crate::{
    NamespacedName,
    edge::{Route, RouteKind},
    ingress::Context,
};

/// What a policy is for: its kind, its name, and perhaps a listener or a rule of it.
type Key = (TargetKind, NamespacedName, Option<String>);

/// All policies, by what they are for.
#[derive(Default)]
pub(super) struct RoutePolicies {
    levels: BTreeMap<Key, Level>,
    judged: BTreeMap<NamespacedName, Judged>,
    /// Objects that policies, or those for parts of them, are for.
    named: BTreeSet<(TargetKind, NamespacedName)>,
    /// Why all routes are closed.
    closed: Option<String>,
}

/// What the policies for one target ask for.
#[derive(Default)]
struct Level {
    sections: BTreeMap<&'static str, Setting>,
    /// Why everything is closed.
    closed: Option<String>,
}

/// A setting, or why it cannot be followed.
#[derive(Clone)]
struct Setting {
    policy: NamespacedName,
    values: Arc<Result<Values, String>>,
}

/// The verdict about a policy.
struct Judged {
    /// Why it is not served as it is written.
    refusal: Option<Problem>,
    targets: Vec<(Key, Option<Problem>)>,
}

impl RoutePolicies {
    pub(super) fn new(world: &World<'_>) -> Self {
        let objects = world.objects;
        let mut policies: Vec<&RoutePolicy> = objects.route_policies.values().collect();
        policies.sort_by_cached_key(|policy| policy.meta.age());
        let mut all = Self::default();
        if objects.lacks_policies {
            all.closed = Some("RoutePolicies could not be listed".into());
        }
        for policy in policies {
            all.add(world, policy);
        }
        all
    }

    fn add(&mut self, world: &World<'_>, policy: &RoutePolicy) {
        let name = &policy.meta.name;
        let (sections, failure) = read(world, policy);
        let invalid = sections
            .iter()
            .find_map(|(_, values)| values.as_ref().as_ref().err());
        let reason = failure.as_ref().or(invalid);
        let refusal = reason.map(|reason| Problem::new("Invalid", reason.clone()));
        let mut targets: Vec<(Key, Option<Problem>)> = Vec::new();
        for target in &policy.spec.targets {
            let of = NamespacedName::new(&name.namespace, &target.name);
            let key = (target.kind, of, target.section_name.clone());
            if targets.iter().any(|(known, _)| *known == key) {
                continue;
            }
            self.named.insert((key.0, key.1.clone()));
            let mut problem = missing(world, target, &key);
            let level = self.levels.entry(key.clone()).or_default();
            if let Some(reason) = &failure {
                let reason = format!("RoutePolicy {name}: {reason}");
                level.closed.get_or_insert(reason);
            }
            for (section, values) in &sections {
                if let Some(winner) = level.sections.get(section.name) {
                    let message = format!(
                        "RoutePolicy {} has {} for {target} as well, and comes first",
                        winner.policy, section.name
                    );
                    problem.get_or_insert_with(|| Problem::new("Conflicted", message));
                    continue;
                }
                let setting = Setting {
                    policy: name.clone(),
                    values: values.clone(),
                };
                level.sections.insert(section.name, setting);
            }
            targets.push((key, problem));
        }
        self.judged
            .insert(name.clone(), Judged { refusal, targets });
    }

    /// Whether a policy is for a route or a rule of it.
    pub(super) fn names(&self, kind: TargetKind, route: &NamespacedName) -> bool {
        self.named.contains(&(kind, route.clone()))
    }

    /// Applies the policies for a route at a listener of a Gateway.
    pub(super) fn applied(
        &self,
        gateway: &NamespacedName,
        listener: &Listener<'_>,
        route: Arc<Route>,
    ) -> Arc<Route> {
        let origin = &route.origin;
        let kind = match origin.kind {
            RouteKind::GrpcRoute => TargetKind::GrpcRoute,
            _ => TargetKind::HttpRoute,
        };
        let (holder, set) = match &listener.holder {
            Holder::Gateway(name) => ((TargetKind::Gateway, name.clone()), None),
            Holder::ListenerSet(name) => {
                let holder = (TargetKind::ListenerSet, name.clone());
                (holder.clone(), Some(holder))
            }
        };
        let of_rule = origin.rule.clone();
        let of_rule = of_rule.map(|rule| (kind, origin.name.clone(), Some(rule)));
        let keys = [
            of_rule,
            Some((kind, origin.name.clone(), None)),
            Some((holder.0, holder.1, Some(listener.spec.name.clone()))),
            set.map(|(kind, name)| (kind, name, None)),
            Some((TargetKind::Gateway, gateway.clone(), None)),
        ];
        let levels = keys.iter().flatten();
        let levels: Vec<&Level> = levels.filter_map(|key| self.levels.get(key)).collect();
        if levels.is_empty() && self.closed.is_none() {
            return route;
        }
        let mut changed = (*route).clone();
        let closed = levels.iter().find_map(|level| level.closed.as_ref());
        let mut closed = self.closed.as_ref().or(closed).cloned();
        let mut parts: BTreeMap<&NamespacedName, Vec<&str>> = BTreeMap::new();
        for section in SECTIONS {
            let mut settings = levels.iter();
            let setting = settings.find_map(|level| level.sections.get(section.name));
            let Some(Setting { policy, values }) = setting else {
                continue;
            };
            parts.entry(policy).or_default().push(section.name);
            let values = values.as_ref().as_ref().map_err(String::clone);
            let applied = values.and_then(|values| section.apply(values, &mut changed));
            if let Err(reason) = applied {
                closed.get_or_insert(format!("RoutePolicy {policy}: {reason}"));
            }
        }
        let policy = Arc::make_mut(&mut changed.policy);
        policy.closed = policy.closed.take().or(closed);
        let parts = parts.into_iter();
        policy.parts = parts
            .map(|(name, parts)| format!("RoutePolicy {name}: {}", parts.join(", ")))
            .collect();
        Arc::new(changed)
    }

    /// The verdicts about policies. `sets` has the Gateways of ours that are parents of ListenerSets, `gateways` those that
    /// are parents of routes.
    pub(super) fn verdicts(
        &self,
        world: &World<'_>,
        sets: &BTreeMap<NamespacedName, (NamespacedName, bool)>,
        gateways: &BTreeMap<(TargetKind, NamespacedName), BTreeSet<NamespacedName>>,
    ) -> BTreeMap<NamespacedName, PolicyVerdict> {
        let verdict = |judged: &Judged| {
            let mut ancestors: BTreeMap<ParentRef, Option<&Problem>> = BTreeMap::new();
            for ((kind, name, _), problem) in &judged.targets {
                let parents = match kind {
                    // No other entry would say that it is missing.
                    _ if !exists(world, *kind, name) => vec![reference(*kind, name)],
                    TargetKind::Gateway => {
                        let gateway = world.objects.gateways.get(name);
                        let ours = gateway.filter(|one| world.options.serves(world.objects, one));
                        let ours = ours.map(|_| reference(TargetKind::Gateway, name));
                        ours.into_iter().collect()
                    }
                    TargetKind::ListenerSet => {
                        let gateway = sets.get(name).map(|(gateway, _)| gateway);
                        let gateway = gateway.map(|name| reference(TargetKind::Gateway, name));
                        gateway.into_iter().collect()
                    }
                    TargetKind::HttpRoute | TargetKind::GrpcRoute => {
                        let gateways = gateways.get(&(*kind, name.clone()));
                        let gateways = gateways.into_iter().flatten();
                        gateways
                            .map(|gateway| reference(TargetKind::Gateway, gateway))
                            .collect()
                    }
                };
                for parent in parents {
                    let known = ancestors.entry(parent).or_default();
                    *known = known.or(judged.refusal.as_ref()).or(problem.as_ref());
                }
            }
            let ancestors = ancestors.into_iter();
            let ancestors =
                ancestors.map(|(parent, problem)| (parent, vec![Verdict::of("Accepted", problem)]));
            PolicyVerdict {
                ancestors: ancestors.collect(),
            }
        };
        let judged = self.judged.iter();
        judged
            .map(|(name, judged)| (name.clone(), verdict(judged)))
            .collect()
    }
}

/// What a policy has for each section.
type Read = Vec<(&'static Section, Arc<Result<Values, String>>)>;

/// Reads a policy; returns as well why it cannot be understood.
fn read(world: &World<'_>, policy: &RoutePolicy) -> (Read, Option<String>) {
    let spec = match &policy.spec.spec {
        Ok(spec) => spec,
        Err(reason) => return (Vec::new(), Some(reason.clone())),
    };
    let mut foreign = spec.target_refs.iter().filter(|one| one.group != GROUP);
    if let Some(target) = foreign.next() {
        let reason = format!("spec.targetRefs: group `{}` is not {GROUP}", target.group);
        return (Vec::new(), Some(reason));
    }
    let value = match serde_json::to_value(spec) {
        Ok(value) => value,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let context = Context {
        secrets: world.secrets,
        namespace: &policy.meta.name.namespace,
        auth_local: &world.options.auth_local,
    };
    let sections = SECTIONS.iter().filter_map(|section| {
        let values = section.read(&value, &context)?;
        Some((section, Arc::new(values)))
    });
    (sections.collect(), None)
}

/// Whether an object is there, of whichever class.
fn exists(world: &World<'_>, kind: TargetKind, name: &NamespacedName) -> bool {
    let objects = world.objects;
    match kind {
        TargetKind::Gateway => objects.gateways.contains_key(name),
        TargetKind::ListenerSet => objects.listener_sets.contains_key(name),
        TargetKind::HttpRoute => objects.http_routes.contains_key(name),
        TargetKind::GrpcRoute => objects.grpc_routes.contains_key(name),
    }
}

/// Why a target is not there.
fn missing(world: &World<'_>, target: &RoutePolicyTarget, key: &Key) -> Option<Problem> {
    let (kind, name, section) = key;
    let lacks = |what: String| Some(Problem::new("TargetNotFound", what));
    if !exists(world, *kind, name) {
        return lacks(format!("there is no {} {name}", kind.as_str()));
    }
    let section = section.as_ref()?;
    let objects = world.objects;
    let has_section = match kind {
        TargetKind::Gateway | TargetKind::ListenerSet => {
            let listeners = match kind {
                TargetKind::ListenerSet => &objects.listener_sets.get(name)?.spec.listeners,
                _ => &objects.gateways.get(name)?.spec.listeners,
            };
            let mut listeners = listeners.iter();
            let listener = listeners.find(|one| one.name == *section);
            let requests = [ListenerProtocol::Http, ListenerProtocol::Https];
            if listener.is_some_and(|one| !requests.contains(&one.protocol)) {
                let message = format!("{target} has no requests that are read");
                return Some(Problem::new("Invalid", message));
            }
            listener.is_some()
        }
        TargetKind::HttpRoute => has_rule(objects.http_routes.get(name)?, section),
        TargetKind::GrpcRoute => {
            let route = objects.grpc_routes.get(name)?;
            let mut rules = route.spec.rules.iter();
            rules.any(|rule| rule.name.as_ref() == Some(section))
        }
    };
    match has_section {
        true => None,
        false => lacks(format!("there is no {target}")),
    }
}

fn has_rule(route: &HttpRoute, name: &str) -> bool {
    let mut rules = route.spec.rules.iter();
    rules.any(|rule| rule.name.as_deref() == Some(name))
}

/// An object as an ancestor in a status.
fn reference(kind: TargetKind, name: &NamespacedName) -> ParentRef {
    ParentRef {
        group: GROUP.into(),
        kind: kind.as_str().into(),
        namespace: Some(name.namespace.clone()),
        name: name.name.clone(),
        section_name: None,
        port: None,
    }
}
