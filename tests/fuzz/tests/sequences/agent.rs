//! The control loop of an agent, with maps whose writes may fail.

use std::{cell::RefCell, rc::Rc};

use headgate_control::{Event, Interest, NodeState, Reconciler};
use headgate_model::{Actual, Change, Dataplane, Restored, Sweep};

use crate::{
    cluster::{Cluster, Step, Stray, service_name, slice_name},
    reference::{assert_consistent, expected, seen},
};

/// Passes after which everything must be written once writes work again.
const PASSES: usize = 3;

/// Maps that the test can also read and write.
pub(crate) trait World: Dataplane + Sized {
    /// Whether the maps have capacity for everything.
    const HAS_ROOM: bool;
    /// Empty maps; `None` without root.
    fn new() -> Option<Self>;
    /// Reads their content.
    fn holds(&mut self) -> Actual;
    /// Writes a stray change to them.
    fn tamper(&mut self, stray: Stray);
}

/// The error of a write that the test lets fail.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("this write fails")
    }
}

impl std::error::Error for Broken {}

/// The agent's handle of the maps: the maps outlive it, and its writes may fail.
struct Handle<W> {
    world: Rc<RefCell<W>>,
    /// Every write with a multiple of this number fails; with 0 none fails.
    fails: Rc<RefCell<usize>>,
    /// Number of writes until an agent crashes, if it does.
    left: Option<usize>,
    writes: usize,
}

impl<W: World> Dataplane for Handle<W> {
    type Error = Error<W::Error>;

    fn restore(&mut self) -> Result<Restored, Self::Error> {
        self.world.borrow_mut().restore().map_err(Error::World)
    }

    fn apply(&mut self, change: &Change) -> Result<(), Self::Error> {
        self.writes += 1;
        let fails = *self.fails.borrow();
        let is_dead = self.left.is_some_and(|left| self.writes > left);
        if is_dead || fails != 0 && self.writes.is_multiple_of(fails) {
            return Err(Error::Broken);
        }
        self.world.borrow_mut().apply(change).map_err(Error::World)
    }

    fn step_sweep(&mut self) -> Result<Sweep, Self::Error> {
        self.world.borrow_mut().step_sweep().map_err(Error::World)
    }
}

#[derive(Debug)]
pub(crate) enum Error<E> {
    World(E),
    Broken,
}

impl<E: std::fmt::Display> std::fmt::Display for Error<E> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::World(error) => error.fmt(out),
            Self::Broken => Broken.fmt(out),
        }
    }
}

impl<E: std::error::Error> std::error::Error for Error<E> {}

/// A control loop and its maps.
pub(crate) struct Agent<W: World> {
    world: Rc<RefCell<W>>,
    fails: Rc<RefCell<usize>>,
    reconciler: Reconciler<Handle<W>>,
    /// Whether the test wrote to the maps since the last audit.
    is_tampered: bool,
}

impl<W: World> Agent<W> {
    pub(crate) fn start(world: W, cluster: &Cluster) -> Self {
        let world = Rc::new(RefCell::new(world));
        let fails = Rc::default();
        let reconciler = Self::reconciler(&world, &fails, None, cluster);
        let mut agent = Self {
            world,
            fails,
            reconciler,
            is_tampered: false,
        };
        agent.send_all(cluster, true);
        agent
    }

    fn reconciler(
        world: &Rc<RefCell<W>>,
        fails: &Rc<RefCell<usize>>,
        left: Option<usize>,
        cluster: &Cluster,
    ) -> Reconciler<Handle<W>> {
        let handle = Handle {
            world: world.clone(),
            fails: fails.clone(),
            left,
            writes: 0,
        };
        let node = headgate_model::Node {
            zone: None,
            ..cluster.node.clone()
        };
        Reconciler::new(handle, node).unwrap()
    }

    fn send_all(&mut self, cluster: &Cluster, services_first: bool) {
        let services = cluster.services.iter();
        let mut events: Vec<Event> = services
            .map(|(name, service)| Event::Service(name.clone(), Some(service.clone())))
            .collect();
        let slices = cluster.slices.iter();
        events.extend(slices.map(|(name, slice)| Event::Slice(name.clone(), Some(slice.clone()))));
        events.push(zone(cluster));
        if !services_first {
            events.reverse();
        }
        for event in events {
            self.reconciler.note(event);
        }
        assert!(
            !self.reconciler.is_listed(),
            "the loop writes before everything was listed"
        );
        for kind in Interest::Services.kinds() {
            self.reconciler.note(Event::Listed(*kind));
        }
        assert!(self.reconciler.is_listed());
    }

    /// Takes a step; `cluster` is the state after it.
    pub(crate) fn step(mut self, cluster: &Cluster, step: &Step) -> Self {
        match step {
            Step::Service(number, service) => {
                let event = Event::Service(service_name(*number), service.clone());
                self.reconciler.note(event);
            }
            Step::Slice(number, slice) => {
                let event = Event::Slice(slice_name(*number), slice.clone());
                self.reconciler.note(event);
            }
            Step::Addresses(node) => self.reconciler.note_node(node.clone()),
            Step::Zone(_) => self.reconciler.note(zone(cluster)),
            Step::Pass => self.pass(cluster),
            Step::Crash(left, services_first) => self.crash(cluster, *left, *services_first),
            Step::Fail(every) => *self.fails.borrow_mut() = *every,
            Step::Heal => *self.fails.borrow_mut() = 0,
            Step::Tamper(stray) => {
                self.world.borrow_mut().tamper(*stray);
                self.is_tampered = true;
            }
            Step::Audit => self.audit(cluster),
        }
        self
    }

    fn pass(&mut self, cluster: &Cluster) {
        let pass = self.reconciler.reconcile();
        if self.is_tampered {
            return;
        }
        let holds = self.world.borrow_mut().holds();
        assert_consistent(&holds);
        if pass.failures == 0 {
            assert_eq!(
                seen(&holds),
                expected(cluster),
                "maps (left) and cluster (right)"
            );
        } else {
            let failures = &self.reconciler.status().failures;
            let may_fail = !W::HAS_ROOM || *self.fails.borrow() != 0;
            assert!(may_fail, "failed: {failures:?}");
        }
    }

    /// An agent crashes after some writes of a pass, and the next agent starts with the maps that it left.
    fn crash(&mut self, cluster: &Cluster, left: Option<usize>, services_first: bool) {
        if left.is_some() {
            self.reconciler = Self::reconciler(&self.world, &self.fails, left, cluster);
            self.is_tampered = false;
            self.send_all(cluster, !services_first);
            self.reconciler.reconcile();
        }
        self.reconciler = Self::reconciler(&self.world, &self.fails, None, cluster);
        self.is_tampered = false;
        self.send_all(cluster, services_first);
        self.pass(cluster);
    }

    fn audit(&mut self, cluster: &Cluster) {
        let before = self.reconciler.status().repaired;
        self.reconciler.audit().unwrap();
        let found = self.reconciler.status().repaired - before;
        assert!(
            self.is_tampered || found == 0,
            "{found} repairs without a stray write"
        );
        self.is_tampered = false;
        self.pass(cluster);
    }

    /// Lets writes work again, and checks that the maps are correct after an audit.
    pub(crate) fn end(mut self, cluster: &Cluster) {
        *self.fails.borrow_mut() = 0;
        self.audit(cluster);
        for _ in 0..PASSES {
            self.pass(cluster);
        }
        self.crash(cluster, None, true);
        // S07: when all Services are deleted, the maps are empty.
        for name in cluster.services.keys() {
            self.reconciler.note(Event::Service(name.clone(), None));
        }
        let pass = self.reconciler.reconcile();
        assert_eq!(pass.failures, 0);
        let holds = self.world.borrow_mut().holds();
        assert_eq!(holds, Actual::default(), "left behind");
    }
}

fn zone(cluster: &Cluster) -> Event {
    Event::Node(NodeState {
        zone: cluster.node.zone.clone(),
        is_leaving: false,
    })
}
