//! What the loop says of itself if writes fail.

use std::{
    io,
    time::{Duration, Instant},
};

use headgate_control::{Event, Kind, Reconciler};
use headgate_model::{
    Actual, Change, Dataplane, NamespacedName, Restored, Scope, Service, ServicePort, Sweep,
};

use crate::memory::node;

/// Maps that refuse some writes.
struct Refusing {
    actual: Actual,
    refuses: fn(&Change) -> bool,
    is_broken: bool,
}

impl Dataplane for Refusing {
    type Error = io::Error;

    fn check(&mut self) -> io::Result<()> {
        match self.is_broken {
            true => Err(io::Error::other("refused")),
            false => Ok(()),
        }
    }

    fn restore(&mut self) -> io::Result<Restored> {
        let actual = self.actual.clone();
        Ok(Restored { actual, repairs: 0 })
    }

    fn apply(&mut self, change: &Change) -> io::Result<()> {
        if self.is_broken || (self.refuses)(change) {
            return Err(io::Error::other("refused"));
        }
        self.actual.record(change, Instant::now());
        Ok(())
    }

    fn step_sweep(&mut self) -> io::Result<Sweep> {
        Ok(Sweep::Done)
    }
}

pub(crate) fn service(name: &str, number: u8) -> Event {
    let name = NamespacedName::new("default", name);
    let service = Service {
        name: name.clone(),
        created_s: None,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: headgate_model::Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
        cluster_ips: vec![[10, 96, 0, number].into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        external_policy: Scope::Cluster,
        internal_policy: Scope::Cluster,
        affinity_timeout_s: None,
        source_ranges: None,
        health_check_node_port: None,
    };
    Event::Service(name, Some(service))
}

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[test]
fn s147_health_fails_if_nothing_can_be_written_not_if_one_change_fails() {
    let is_bad = |change: &Change| match change {
        Change::PutService { key, .. } => key.service.name == "bad",
        _ => false,
    };
    for is_broken in [false, true] {
        let maps = Refusing {
            actual: Actual::default(),
            refuses: is_bad,
            is_broken,
        };
        let mut reconciler = Reconciler::new(maps, node()).unwrap();
        reconciler.note(service("bad", 1));
        for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
            reconciler.note(Event::Listed(kind));
        }
        for _ in 0..3 {
            let pass = reconciler.reconcile();
            assert!(pass.failures > 0);
        }
        let status = reconciler.status();
        assert!(status.is_followed(after(9)), "not at once");
        assert_eq!(status.is_followed(after(11)), !is_broken, "{is_broken}");
    }
}

#[test]
fn s147_failures_are_tried_again_and_named_until_they_end() {
    let maps = Refusing {
        actual: Actual::default(),
        refuses: |_| false,
        is_broken: true,
    };
    let mut reconciler = Reconciler::new(maps, node()).unwrap();
    reconciler.note(service("web", 1));
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
        reconciler.note(Event::Listed(kind));
    }
    reconciler.reconcile();
    let first = reconciler.status().failures.clone();
    assert!(!first.is_empty());
    // A pass for another Service keeps what is known of the first one.
    reconciler.note(service("other", 2));
    reconciler.reconcile();
    let failures = &reconciler.status().failures;
    assert!(first.iter().all(|failure| failures.contains(failure)));
    // A Service that is gone fails no more.
    for name in ["web", "other"] {
        let name = NamespacedName::new("default", name);
        reconciler.note(Event::Service(name, None));
    }
    assert_eq!(reconciler.reconcile().failures, 0);
    assert_eq!(reconciler.status().failures, []);
    assert!(reconciler.status().is_followed(after(60)));
}

#[test]
fn s148_a_loop_that_does_not_run_is_not_alive() {
    let mut status = headgate_control::Status::default();
    assert!(status.is_alive(after(0)), "it has not begun");
    status.beat = Some(Instant::now());
    assert!(status.is_alive(after(59)));
    assert!(!status.is_alive(after(61)));
}
