//! Samples as rows with their rates, for those who look again and again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use crate::view::{
    Address, Backend, Counter, Fill, Rate, Rates, Report, Sample, Service, Totals, View,
};

/// A look this young serves the next who asks as well: many tabs cost one walk over the maps.
const FRESH: Duration = Duration::from_millis(500);
/// Rates since a look older than this would say nothing of now.
const STALE: Duration = Duration::from_secs(5);
/// Rows of a kind, at most: a node may know ten thousand services.
const MOST: usize = 200;

/// What was seen at a moment.
struct Look {
    at: Instant,
    sample: Sample,
    addresses: BTreeMap<String, BTreeSet<Address>>,
}

impl Look {
    fn take(pins: &Path) -> Result<Self> {
        let view = View::open(pins)?;
        Ok(Self {
            at: Instant::now(),
            sample: Sample::of(&view, pins)?,
            addresses: view.addresses()?,
        })
    }
}

/// The last look, and the one that rates are since.
#[derive(Clone)]
struct Pair {
    before: Arc<Look>,
    now: Arc<Look>,
}

pub(super) struct Looks {
    pins: PathBuf,
    last: Mutex<Option<Pair>>,
}

/// A row and what happens a second.
#[derive(Serialize)]
struct Rated<T, R = Rate> {
    #[serde(flatten)]
    row: T,
    per_second: R,
}

#[derive(Serialize)]
struct Addressed {
    #[serde(flatten)]
    service: Service,
    addresses: BTreeSet<Address>,
}

#[derive(Serialize)]
struct Shared {
    #[serde(flatten)]
    backend: Backend,
    /// By service: its part of what it and its peers got, in percent; none if that is nothing.
    shares: BTreeMap<String, Option<f64>>,
}

/// Backends of one service, protocol, family and port: these share out connections.
type Peers<'a> = (&'a str, &'static str, bool, &'a str);

fn peers<'a>(row: &'a Backend, service: &'a str) -> Peers<'a> {
    let port = row.backend.rsplit(':').next().unwrap_or_default();
    (service, row.protocol, row.backend.starts_with('['), port)
}

/// Connections of all peers together.
struct Sums<'a>(HashMap<Peers<'a>, u64>);

/// The busiest rows of those that are asked for.
#[derive(Serialize)]
struct Rows<T> {
    rows: Vec<Rated<T>>,
    /// Others that are asked for, which there is no room for.
    more: usize,
}

/// What the page draws.
#[derive(Serialize)]
pub(super) struct Drawing {
    time: Timestamp,
    /// What the rates are over; 0 at the first look, which has none.
    interval_s: f64,
    agent: Option<Report>,
    totals: Totals,
    services: Rows<Addressed>,
    backends: Rows<Shared>,
    counters: Vec<Rated<Counter, f64>>,
    maps: Vec<Fill>,
}

impl<T> Rows<T> {
    fn busiest(mut rows: Vec<Rated<T>>) -> Self {
        let more = rows.len().saturating_sub(MOST);
        if more > 0 {
            rows.sort_by(|a, b| b.per_second.packets.total_cmp(&a.per_second.packets));
            rows.truncate(MOST);
        }
        Self { rows, more }
    }
}

impl Looks {
    pub(super) fn new(pins: &Path) -> Self {
        Self {
            pins: pins.into(),
            last: Mutex::default(),
        }
    }

    /// The last two looks. Whoever asks while one is taken waits for it.
    fn last(&self) -> Result<Pair> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pair) = last.as_ref().filter(|pair| pair.now.at.elapsed() < FRESH) {
            return Ok(pair.clone());
        }
        let now = Arc::new(Look::take(&self.pins)?);
        let before = last.take().map(|pair| pair.now);
        let before = before.filter(|look| look.at.elapsed() < STALE);
        let pair = Pair {
            before: before.unwrap_or_else(|| now.clone()),
            now,
        };
        *last = Some(pair.clone());
        Ok(pair)
    }

    /// What there is now, services and backends that contain `filter` alone.
    pub(super) fn rows(&self, filter: &str) -> Result<Drawing> {
        let Pair { before, now } = self.last()?;
        let Look {
            sample, addresses, ..
        } = now.as_ref();
        let rates = Rates::new(&before.sample, sample);
        let addressed = |row: &Service| Addressed {
            service: row.clone(),
            addresses: addresses.get(&row.service).cloned().unwrap_or_default(),
        };
        let services = sample.services.iter().map(|row| Rated {
            per_second: rates.service(row),
            row: addressed(row),
        });
        let sums = Sums::new(&sample.backends);
        let backends = sample.backends.iter().filter(|row| contains(row, filter));
        let backends = backends.map(|row| Rated {
            per_second: rates.backend(row),
            row: Shared {
                backend: row.clone(),
                shares: sums.of(row),
            },
        });
        let counters = sample.counters.iter().map(|row| Rated {
            per_second: rates.reason(row),
            row: row.clone(),
        });
        Ok(Drawing {
            time: sample.time,
            interval_s: sample.seconds_since(&before.sample),
            agent: sample.agent.clone(),
            totals: rates.totals(sample),
            services: Rows::busiest(services.filter(|row| row.row.contains(filter)).collect()),
            backends: Rows::busiest(backends.collect()),
            counters: counters.collect(),
            maps: sample.maps.clone(),
        })
    }
}

impl<'a> Sums<'a> {
    fn new(backends: &'a [Backend]) -> Self {
        let mut sums = HashMap::new();
        for row in backends {
            for service in &row.services {
                *sums.entry(peers(row, service)).or_default() += row.connections;
            }
        }
        Self(sums)
    }

    fn of(&self, row: &Backend) -> BTreeMap<String, Option<f64>> {
        let shares = row.services.iter().map(|service| {
            let sum = self.0.get(&peers(row, service)).filter(|sum| **sum > 0);
            let share = sum.map(|sum| row.connections as f64 * 100.0 / *sum as f64);
            (service.clone(), share)
        });
        shares.collect()
    }
}

impl Addressed {
    fn contains(&self, filter: &str) -> bool {
        let addresses = self.addresses.iter().map(|address| &address.frontend);
        let mut all = addresses.chain(&self.service.backends);
        self.service.service.contains(filter) || all.any(|text| text.contains(filter))
    }
}

fn contains(backend: &Backend, filter: &str) -> bool {
    let mut services = backend.services.iter();
    backend.backend.contains(filter) || services.any(|service| service.contains(filter))
}

#[cfg(test)]
mod tests {
    use super::{Backend, MOST, Rate, Rated, Rows, Sums};

    #[test]
    fn shares_are_among_those_who_could_have_been_chosen() {
        let backend = |protocol, backend: &str, connections| Backend {
            id: 1,
            protocol,
            backend: backend.into(),
            node: "this",
            services: vec!["default/web".into()],
            connections,
            packets: 0,
            bytes: 0,
        };
        let rows = [
            backend("tcp", "10.0.0.1:80", 30),
            backend("tcp", "10.0.0.2:80", 10),
            backend("tcp", "10.0.0.2:81", 7),
            backend("tcp", "[fd00::1]:80", 7),
            backend("udp", "10.0.0.1:80", 0),
        ];
        let sums = Sums::new(&rows);
        let shares = rows.each_ref().map(|row| sums.of(row)["default/web"]);
        let all = Some(100.0);
        assert_eq!(shares, [Some(75.0), Some(25.0), all, all, None]);
    }

    #[test]
    fn busiest_rows_stay_and_the_rest_is_counted() {
        let rows = (0..MOST + 5).map(|row| Rated {
            row,
            per_second: Rate {
                packets: row as f64,
                ..Rate::default()
            },
        });
        let rows = Rows::busiest(rows.collect());
        assert_eq!((rows.rows.len(), rows.more), (MOST, 5));
        assert!(rows.rows.iter().all(|row| row.row >= 5));
    }
}
