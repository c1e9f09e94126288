//! Maps in memory.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use headgate_model::{Actual, Change, Dataplane, Limits, Location, Node, Restored, Sweep};
use tokio::sync::watch;

/// Timeout of every wait; far longer than any of them takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Size of consistent tables.
const TABLE: u32 = 1021;

/// The node that agents of tests run on.
pub(crate) fn node() -> Node {
    Node {
        name: "n1".into(),
        zone: None,
        addresses: vec!["192.168.50.1".parse().unwrap(), "fd50::1".parse().unwrap()],
        own_addresses: vec!["192.168.50.1".parse().unwrap(), "fd50::1".parse().unwrap()],
        networks: vec!["192.168.50.0/24".parse().unwrap()],
        node_port_addresses: vec!["192.168.50.1".parse().unwrap(), "fd50::1".parse().unwrap()],
        serves_external_ips: true,
    }
}

/// Maps in memory, published after each pass.
pub(crate) struct PublishedMaps {
    pub(crate) actual: Actual,
    pub(crate) published: watch::Sender<Actual>,
}

impl Dataplane for PublishedMaps {
    type Error = Infallible;

    fn limits(&self) -> Limits {
        Limits {
            tables: vec![TABLE],
            ..Limits::default()
        }
    }

    fn restore(&mut self) -> Result<Restored, Infallible> {
        let actual = self.actual.clone();
        Ok(Restored { actual, repairs: 0 })
    }

    fn apply(&mut self, change: &Change) -> Result<(), Infallible> {
        self.actual.record(change, Instant::now());
        Ok(())
    }

    fn step_sweep(&mut self) -> Result<Sweep, Infallible> {
        self.published.send_replace(self.actual.clone());
        Ok(Sweep::Done)
    }
}

/// One line for each frontend: its backends for traffic from inside and from outside, with their percentages if they
/// have weights, and what is refused.
pub(crate) fn dump(actual: &Actual) -> String {
    let backends = |key| {
        let (_, spec) = &actual.services[key];
        let percent = |share: u32| {
            format!(
                "={}%",
                (f64::from(share * 100) / f64::from(spec.slots)).round()
            )
        };
        let shares = spec.shares.iter().flat_map(|shares| shares.iter().copied());
        let refused = spec.slots - shares.clone().sum::<u32>();
        let refused = spec
            .shares
            .as_ref()
            .map(|_| format!("refused{}", percent(refused)));
        let shares = shares.map(percent).chain(std::iter::repeat(String::new()));
        let backends = spec.backends.iter().zip(shares).map(|(backend, share)| {
            let place = match backend.location {
                Location::ThisNode => "here",
                Location::OtherNode => "there",
                Location::Outside => "outside",
            };
            format!("{}:{}@{place}{share}", backend.address, backend.port)
        });
        let refused = refused.filter(|text| text != "refused=0%");
        backends.chain(refused).collect::<Vec<_>>().join(" ")
    };
    actual
        .frontends
        .iter()
        .map(|(frontend, spec)| {
            let (inside, outside) = (backends(&spec.inside), backends(&spec.outside));
            format!("{frontend} {:?} in[{inside}] out[{outside}]\n", spec.kind)
        })
        .collect()
}
