//! Maps that become larger: when, and what waits for it.

use std::{convert::Infallible, time::Instant};

use headgate_control::{Event, Kind, Reconciler};
use headgate_model::{Actual, Change, Dataplane, Limits, Restored, Sweep};

use crate::{health::service, memory::node};

/// Maps that are small, and take some calls to become larger.
#[derive(Clone)]
struct Small {
    limits: Limits,
    /// Calls until larger maps are ready.
    calls: usize,
    actual: Actual,
}

impl Small {
    fn new(calls: usize) -> Self {
        let limits = Limits {
            services: 16,
            ..Limits::default()
        };
        Self {
            limits,
            calls,
            actual: Actual::default(),
        }
    }
}

impl Dataplane for Small {
    type Error = Infallible;

    fn limits(&self) -> Limits {
        self.limits.clone()
    }

    fn grow(&mut self, wanted: &Limits) -> Result<Option<Limits>, Infallible> {
        if self.calls > 0 {
            self.calls -= 1;
            return Ok(None);
        }
        self.limits = wanted.clone();
        Ok(Some(self.limits()))
    }

    fn restore(&mut self) -> Result<Restored, Infallible> {
        let actual = self.actual.clone();
        Ok(Restored { actual, repairs: 0 })
    }

    fn apply(&mut self, change: &Change) -> Result<(), Infallible> {
        self.actual.record(change, Instant::now());
        assert!(self.actual.services.len() <= self.limits.services as usize);
        Ok(())
    }

    fn step_sweep(&mut self) -> Result<Sweep, Infallible> {
        Ok(Sweep::Done)
    }
}

fn with_services(calls: usize, count: u8) -> Reconciler<Small> {
    let mut reconciler = Reconciler::new(Small::new(calls), node()).unwrap();
    for number in 1..=count {
        reconciler.note(service(&format!("s{number}"), number));
    }
    reconciler
}

fn list(reconciler: &mut Reconciler<Small>) {
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
        reconciler.note(Event::Listed(kind));
    }
}

#[test]
fn s212_maps_become_larger_while_objects_are_listed_and_nothing_is_written() {
    const CALLS: usize = 3;
    let mut reconciler = with_services(CALLS, 100);
    for _ in 0..=CALLS {
        reconciler.prepare();
    }
    assert_eq!(
        (reconciler.status().revision, reconciler.status().services),
        (0, 0)
    );
    list(&mut reconciler);
    // Once everything is known, the first pass waits for nothing.
    let pass = reconciler.reconcile();
    assert_eq!(pass.failures, 0);
    let status = reconciler.status();
    assert_eq!((status.revision, status.services), (1, 100));
    assert!(status.is_synced && status.refusals.is_empty());
}

#[test]
fn s212_what_the_maps_hold_waits_for_no_larger_ones() {
    // More than three quarters of the maps, but not more than they hold.
    let mut reconciler = with_services(usize::MAX, 13);
    list(&mut reconciler);
    reconciler.reconcile();
    let status = reconciler.status();
    assert_eq!((status.revision, status.services), (1, 13));
    assert!(status.is_synced && status.refusals.is_empty());
    // More than they hold: nothing is taken from anyone while larger ones are prepared.
    for number in 14..=40 {
        reconciler.note(service(&format!("s{number}"), number));
    }
    reconciler.reconcile();
    let status = reconciler.status();
    assert_eq!((status.revision, status.services), (1, 13));
    assert!(status.refusals.is_empty());
}
