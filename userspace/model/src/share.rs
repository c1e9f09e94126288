//! What each Service gets if the maps cannot hold everything.
//!
//! While every map has capacity, each Service gets what it asks for. Otherwise Services alternate:
//! within a namespace the one that has least is next, and among namespaces the one that has least;
//! between equals the oldest. So neither a Service nor a namespace can take the capacity of others, and
//! of Services that ask for the same the youngest are refused. The result depends on the objects
//! alone, not on the order of their events.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    Backend, Desired, Frontend, FrontendKind, FrontendSpec, HealthCheck, NamespacedName,
    ObjectName, Refusal, ServiceKey, ServiceSpec,
};

/// How many entries the maps hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frontends.
    pub frontends: u32,
    /// Addresses of frontends.
    pub addresses: u32,
    /// Services.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Slots of all services.
    pub slots: u32,
    /// Source ranges of all services.
    pub source_ranges: u32,
    /// Pairs of a service with session affinity and a backend.
    pub members: u32,
    /// Sizes of consistent tables, in slots, from the smallest that may be used.
    pub tables: Vec<u32>,
}

impl Default for Limits {
    /// No limits, and one slot for each backend.
    fn default() -> Self {
        Self {
            frontends: u32::MAX,
            addresses: u32::MAX,
            services: u32::MAX,
            backends: u32::MAX,
            slots: u32::MAX,
            source_ranges: u32::MAX,
            members: u32::MAX,
            tables: Vec::new(),
        }
    }
}

/// With fewer slots for each backend, shares are uneven.
const SLOTS_PER_BACKEND: usize = 100;

impl Limits {
    /// Returns the number of slots of a service. A plain list has one for each backend.
    pub(crate) fn slots_of(&self, spec: &ServiceSpec) -> u32 {
        let backends = spec.backends.len();
        let list = u32::try_from(backends).unwrap_or(u32::MAX);
        let is_alike = backends < 2 && spec.shares.is_none();
        if !spec.consistent || is_alike {
            return list;
        }
        let wanted = backends.saturating_mul(SLOTS_PER_BACKEND);
        let mut sizes = self.tables.iter();
        let size = sizes.find(|size| **size as usize >= wanted);
        let size = size.or(self.tables.last()).copied();
        size.filter(|size| *size >= list).unwrap_or(list)
    }

    /// Whether they hold all that is asked for, with the tables that are asked for.
    pub(crate) fn hold(&self, asked: &Desired, sums: &Sums) -> bool {
        Amounts::asked(asked, sums).fits(&self.usable())
    }

    /// Returns limits that hold what is asked for and as much again, if less than a quarter of these is left: larger maps
    /// take a while.
    pub(crate) fn enlarged(&self, asked: &Desired, sums: &Sums) -> Option<Self> {
        let (Amounts(needed), Amounts(usable)) = (Amounts::asked(asked, sums), self.usable());
        let mut larger = self.clone();
        for (at, limit) in larger.all().into_iter().enumerate() {
            if needed[at] > usable[at] - usable[at] / 4 {
                let factor = if at == SLOTS { 3 } else { 2 };
                let room = needed[at].saturating_mul(factor).next_multiple_of(STEP);
                *limit = u32::try_from(room).unwrap_or(u32::MAX).max(*limit);
            }
        }
        (larger != *self).then_some(larger)
    }

    /// The limits in the order of [`NAMES`].
    fn all(&mut self) -> [&mut u32; 7] {
        [
            &mut self.frontends,
            &mut self.addresses,
            &mut self.services,
            &mut self.backends,
            &mut self.slots,
            &mut self.source_ranges,
            &mut self.members,
        ]
    }

    /// What may be in use. A service that changes has its old and its new backends, source ranges and
    /// table at once, and ids and slots rest before they are used again: for this an eighth of each
    /// map stays free, and half of the slots.
    fn usable(&self) -> Amounts {
        let most = |limit: u32| u64::from(limit - limit / 8);
        Amounts([
            self.frontends.into(),
            self.addresses.into(),
            most(self.services),
            most(self.backends),
            u64::from(self.slots / 2),
            most(self.source_ranges),
            most(self.members),
        ])
    }
}

/// Entries of each map, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amounts([u64; 7]);

const NAMES: [&str; 7] = [
    "frontends",
    "addresses",
    "services",
    "backends",
    "slots",
    "source ranges",
    "backends of services with session affinity",
];
const SLOTS: usize = 4;

/// Limits are enlarged to a multiple of this.
const STEP: u64 = 1 << 10;

impl Amounts {
    /// What all Services ask for, with the tables that they ask for.
    fn asked(asked: &Desired, sums: &Sums) -> Self {
        let [_, ranges, members] = sums.least;
        Self([
            asked.frontends.len() as u64,
            asked.addresses.len() as u64,
            asked.services.len() as u64,
            asked.backends.len() as u64,
            sums.slots,
            ranges,
            members,
        ])
    }

    fn of_service(spec: &ServiceSpec) -> Self {
        let backends = spec.backends.len() as u64;
        let members = match spec.affinity_timeout_s {
            0 => 0,
            _ => backends,
        };
        let ranges = spec.source_ranges.len() as u64;
        Self([0, 0, 1, backends, backends, ranges, members])
    }

    fn plus(mut self, other: Self) -> Self {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
        self
    }

    fn fits(&self, usable: &Self) -> bool {
        self.0
            .iter()
            .zip(usable.0)
            .all(|(amount, most)| *amount <= most)
    }
}

/// Sums over all services, which [`Planner`](crate::Planner) keeps up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    slots: u64,
    least: [u64; 3],
}

impl Sums {
    pub(crate) fn add(&mut self, spec: &ServiceSpec) {
        let Amounts([.., slots, ranges, members]) = Amounts::of_service(spec);
        self.slots += u64::from(spec.slots);
        for (sum, more) in self.least.iter_mut().zip([slots, ranges, members]) {
            *sum += more;
        }
    }

    pub(crate) fn subtract(&mut self, spec: &ServiceSpec) {
        let Amounts([.., slots, ranges, members]) = Amounts::of_service(spec);
        self.slots -= u64::from(spec.slots);
        for (sum, less) in self.least.iter_mut().zip([slots, ranges, members]) {
            *sum -= less;
        }
    }
}

/// What the maps can hold of what was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Granted {
    pub(crate) desired: Desired,
    pub(crate) refusals: Vec<Refusal>,
}

/// Returns what the maps can hold of `asked`; `None` if that is everything.
pub(crate) fn grant(
    asked: &Desired,
    sums: &Sums,
    limits: &Limits,
    created_s: impl Fn(&NamespacedName) -> i64,
) -> Option<Granted> {
    if limits.hold(asked, sums) {
        return None;
    }
    let (mut total, usable) = (Amounts::asked(asked, sums), limits.usable());
    // Every Service gets the slots of a plain list before any gets a table.
    [total.0[SLOTS], ..] = sums.least;
    let mut granted = Granted::default();
    let mut used = Amounts::default();
    if total.fits(&usable) {
        granted.desired.clone_from(asked);
        used = total;
    } else {
        let order = alternating(frontends(asked, &total, &usable), &created_s);
        let mut refused: BTreeMap<&NamespacedName, usize> = BTreeMap::new();
        for (frontend, spec) in order {
            match granted.desired.admit(asked, frontend, spec, &used, &usable) {
                Some(now) => used = now,
                None => *refused.entry(&spec.inside.service).or_default() += 1,
            }
        }
        granted.refusals = refusals(asked, &refused, &total, &usable);
        granted.desired.health_checks = health_checks(asked, &granted.desired);
    }
    granted.enlarge(used.0[SLOTS], usable.0[SLOTS], &created_s);
    Some(granted)
}

/// Units that a Service asks for, each with its share of a map.
type Asking<'a, T> = BTreeMap<&'a NamespacedName, Vec<(u64, T)>>;

/// The units of all Services in the order in which they are granted.
fn alternating<T>(asking: Asking<'_, T>, created_s: &impl Fn(&NamespacedName) -> i64) -> Vec<T> {
    let mut namespaces: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, units) in asking {
        let age = (created_s(name), name);
        let mut sum: u64 = 0;
        let namespace = namespaces.entry(&name.namespace).or_default();
        for (at, (share, unit)) in units.into_iter().enumerate() {
            sum = sum.saturating_add(share);
            namespace.push((sum, age, at, share, unit));
        }
    }
    let mut all = Vec::new();
    for mut units in namespaces.into_values() {
        units.sort_by_key(|(sum, age, at, ..)| (*sum, *age, *at));
        let mut sum: u64 = 0;
        for (of_service, age, at, share, unit) in units {
            sum = sum.saturating_add(share);
            all.push(((sum, of_service, age, at), unit));
        }
    }
    all.sort_by_key(|(key, _)| *key);
    all.into_iter().map(|(_, unit)| unit).collect()
}

/// The share of a map, for comparison with other shares.
fn share(amount: u64, most: u64) -> u64 {
    (amount << 24) / most.max(1)
}

/// The frontends of each Service, the most trusted kind of address first. The share of each is the
/// largest one of any map that is too small.
fn frontends<'a>(
    asked: &'a Desired,
    total: &Amounts,
    usable: &Amounts,
) -> Asking<'a, (&'a Frontend, &'a FrontendSpec)> {
    let short: Vec<usize> = (0..NAMES.len())
        .filter(|at| total.0[*at] > usable.0[*at])
        .collect();
    let mut of_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (frontend, spec) in &asked.frontends {
        let all = of_service.entry(&spec.inside.service).or_default();
        all.push((frontend, spec));
    }
    let mut asking = BTreeMap::new();
    for (name, mut all) in of_service {
        all.sort_by_key(|(frontend, spec)| (spec.kind, **frontend));
        let mut keys: BTreeSet<&ServiceKey> = BTreeSet::new();
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        let units = all.into_iter().map(|(frontend, spec)| {
            let is_new = addresses.insert(frontend.address);
            let mut cost = Amounts([1, u64::from(is_new), 0, 0, 0, 0, 0]);
            for key in [&spec.inside, &spec.outside] {
                if let Some(service) = asked.services.get(key).filter(|_| keys.insert(key)) {
                    cost = cost.plus(Amounts::of_service(service));
                }
            }
            let shares = short.iter().map(|at| share(cost.0[*at], usable.0[*at]));
            (shares.max().unwrap_or(0), (frontend, spec))
        });
        asking.insert(name, units.collect());
    }
    asking
}

impl Desired {
    /// Adds a frontend with all that it needs, if that fits; returns what is used then.
    fn admit(
        &mut self,
        asked: &Self,
        frontend: &Frontend,
        spec: &FrontendSpec,
        used: &Amounts,
        usable: &Amounts,
    ) -> Option<Amounts> {
        let is_new = !self.addresses.contains_key(&frontend.address);
        let mut cost = Amounts([1, u64::from(is_new), 0, 0, 0, 0, 0]);
        let mut backends: BTreeSet<Backend> = BTreeSet::new();
        let mut services: BTreeMap<&ServiceKey, &ServiceSpec> = BTreeMap::new();
        for key in [&spec.inside, &spec.outside] {
            if !self.services.contains_key(key) {
                services.insert(key, asked.services.get(key)?);
            }
        }
        for service in services.values() {
            cost = cost.plus(Amounts::of_service(service));
            let new = service.backends.iter().copied();
            backends.extend(new.filter(|backend| !self.backends.contains(backend)));
        }
        cost.0[3] = backends.len() as u64;
        let used = used.plus(cost);
        if !used.fits(usable) {
            return None;
        }
        self.frontends.insert(*frontend, spec.clone());
        let address = asked.addresses.get(&frontend.address)?;
        self.addresses.insert(frontend.address, *address);
        self.backends.extend(backends);
        let services = services.into_iter();
        self.services
            .extend(services.map(|(key, spec)| (key.clone(), spec.clone())));
        Some(used)
    }
}

impl Granted {
    /// Gives services the tables that they ask for, as far as there are slots, and plain lists to the
    /// others. Every service has the slots of a plain list already.
    fn enlarge(&mut self, used: u64, usable: u64, created_s: &impl Fn(&NamespacedName) -> i64) {
        let mut asking: Asking<'_, ServiceKey> = BTreeMap::new();
        for (key, spec) in &self.desired.services {
            let more = u64::from(spec.slots) - spec.backends.len() as u64;
            let units = asking.entry(&key.service).or_default();
            units.push((share(more, usable), key.clone()));
        }
        let mut left = usable - used;
        for key in alternating(asking, created_s) {
            let Some(spec) = self.desired.services.get_mut(&key) else {
                continue;
            };
            let list = spec.backends.len() as u32;
            match left.checked_sub(u64::from(spec.slots - list)) {
                Some(rest) => left = rest,
                None => {
                    spec.consistent = false;
                    spec.resize(list);
                }
            }
        }
    }
}

/// The health checks that were asked for. Load balancers use other nodes for a Service that has only its
/// cluster IPs here.
fn health_checks(asked: &Desired, granted: &Desired) -> BTreeMap<NamespacedName, HealthCheck> {
    let frontends = granted.frontends.values();
    let reached = frontends.filter(|spec| spec.kind != FrontendKind::ClusterIp);
    let reached: BTreeSet<&NamespacedName> = reached.map(|spec| &spec.outside.service).collect();
    let mut checks = asked.health_checks.clone();
    for (_, check) in checks
        .iter_mut()
        .filter(|(name, _)| !reached.contains(name))
    {
        check.local_endpoints = 0;
    }
    checks
}

/// One refusal for each Service: a Service may have thousands of frontends.
fn refusals(
    asked: &Desired,
    refused: &BTreeMap<&NamespacedName, usize>,
    total: &Amounts,
    usable: &Amounts,
) -> Vec<Refusal> {
    let amounts = total.0.iter().zip(usable.0).zip(NAMES);
    let short = amounts.filter(|((total, most), _)| *total > most);
    let short: Vec<&str> = short.map(|(_, name)| name).collect();
    let short = short.join(", ");
    let mut all: BTreeMap<&NamespacedName, usize> = BTreeMap::new();
    for spec in asked.frontends.values() {
        *all.entry(&spec.inside.service).or_default() += 1;
    }
    let refusals = refused.iter().map(|(name, count)| {
        let reason = format!(
            "{count} of {} frontends are not served: this node has no capacity for more {short} \
             (--max-map-memory), and others of the same or a smaller share are older",
            all[name]
        );
        Refusal::new(ObjectName::Service((*name).clone()), "spec.ports", reason)
    });
    refusals.collect()
}
