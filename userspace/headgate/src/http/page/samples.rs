//! Samples with rates, for a page that asks once a second.

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
    AddressRow, AgentState, BackendRow, CounterRow, FillRow, Rate, Rates, Sample, ServiceRow,
    Totals, View,
};

/// A snapshot younger than this is reused: many tabs cost one walk over the maps.
const FRESH: Duration = Duration::from_millis(500);
/// Rates since a snapshot older than this are not current.
const STALE: Duration = Duration::from_secs(5);
/// Maximum number of rows of a kind: a node may have ten thousand Services.
const MAX_ROWS: usize = 200;

/// What the maps held at one moment.
struct Snapshot {
    at: Instant,
    sample: Sample,
    addresses: BTreeMap<String, BTreeSet<AddressRow>>,
}

impl Snapshot {
    fn take(pins: &Path) -> Result<Self> {
        let view = View::open(pins)?;
        Ok(Self {
            at: Instant::now(),
            sample: Sample::read(&view, pins)?,
            addresses: view.addresses()?,
        })
    }
}

/// The last snapshot, and the one before it.
#[derive(Clone)]
struct Pair {
    before: Arc<Snapshot>,
    now: Arc<Snapshot>,
}

pub(super) struct Snapshots {
    pins: PathBuf,
    last: Mutex<Option<Pair>>,
}

/// A row with its rates per second.
#[derive(Serialize)]
struct Rated<T, R = Rate> {
    #[serde(flatten)]
    row: T,
    per_second: R,
}

#[derive(Serialize)]
struct Addressed {
    #[serde(flatten)]
    service: ServiceRow,
    addresses: BTreeSet<AddressRow>,
}

#[derive(Serialize)]
struct Shared {
    #[serde(flatten)]
    backend: BackendRow,
    /// By Service: its percentage of the connections that it and its peers got; `None` if they got
    /// none.
    shares: BTreeMap<String, Option<f64>>,
}

/// Backends of one Service, protocol, IP family and port: they share the connections.
type Peers<'a> = (&'a str, &'static str, bool, &'a str);

fn peers<'a>(row: &'a BackendRow, service: &'a str) -> Peers<'a> {
    let port = row.backend.rsplit(':').next().unwrap_or_default();
    (service, row.protocol, row.backend.starts_with('['), port)
}

/// Number of connections of all peers together.
struct Sums<'a>(HashMap<Peers<'a>, u64>);

/// The busiest of the selected rows.
#[derive(Serialize)]
struct Rows<T> {
    rows: Vec<Rated<T>>,
    /// Number of selected rows that are left out.
    more: usize,
}

/// What the page shows.
#[derive(Serialize)]
pub(super) struct AgentSample {
    time: Timestamp,
    /// Interval of the rates; 0 for the first snapshot, which has no rates.
    interval_s: f64,
    agent: Option<AgentState>,
    totals: Totals,
    services: Rows<Addressed>,
    backends: Rows<Shared>,
    counters: Vec<Rated<CounterRow, f64>>,
    maps: Vec<FillRow>,
}

impl<T> Rows<T> {
    fn busiest(mut rows: Vec<Rated<T>>) -> Self {
        let more = rows.len().saturating_sub(MAX_ROWS);
        if more > 0 {
            rows.sort_by(|a, b| b.per_second.packets.total_cmp(&a.per_second.packets));
            rows.truncate(MAX_ROWS);
        }
        Self { rows, more }
    }
}

impl Snapshots {
    pub(super) fn new(pins: &Path) -> Self {
        Self {
            pins: pins.into(),
            last: Mutex::default(),
        }
    }

    /// Returns the last two snapshots. A request waits while another one takes a snapshot.
    fn last(&self) -> Result<Pair> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pair) = last.as_ref().filter(|pair| pair.now.at.elapsed() < FRESH) {
            return Ok(pair.clone());
        }
        let now = Arc::new(Snapshot::take(&self.pins)?);
        let before = last.take().map(|pair| pair.now);
        let before = before.filter(|snapshot| snapshot.at.elapsed() < STALE);
        let pair = Pair {
            before: before.unwrap_or_else(|| now.clone()),
            now,
        };
        *last = Some(pair.clone());
        Ok(pair)
    }

    /// Returns the current rows; of Services and backends only those that contain `filter`.
    pub(super) fn rows(&self, filter: &str) -> Result<AgentSample> {
        let Pair { before, now } = self.last()?;
        let Snapshot {
            sample, addresses, ..
        } = now.as_ref();
        let rates = Rates::new(&before.sample, sample);
        let addressed = |row: &ServiceRow| Addressed {
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
        Ok(AgentSample {
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
    fn new(backends: &'a [BackendRow]) -> Self {
        let mut sums = HashMap::new();
        for row in backends {
            for service in &row.services {
                *sums.entry(peers(row, service)).or_default() += row.connections;
            }
        }
        Self(sums)
    }

    fn of(&self, row: &BackendRow) -> BTreeMap<String, Option<f64>> {
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

fn contains(backend: &BackendRow, filter: &str) -> bool {
    let mut services = backend.services.iter();
    backend.backend.contains(filter) || services.any(|service| service.contains(filter))
}

#[cfg(test)]
mod tests {
    use super::{BackendRow, MAX_ROWS, Rate, Rated, Rows, Sums};

    #[test]
    fn shares_are_among_backends_that_could_have_been_chosen() {
        let backend = |protocol, backend: &str, connections| BackendRow {
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
    fn busiest_rows_stay_and_the_others_are_counted() {
        let rows = (0..MAX_ROWS + 5).map(|row| Rated {
            row,
            per_second: Rate {
                packets: row as f64,
                ..Rate::default()
            },
        });
        let rows = Rows::busiest(rows.collect());
        assert_eq!((rows.rows.len(), rows.more), (MAX_ROWS, 5));
        assert!(rows.rows.iter().all(|row| row.row >= 5));
    }
}
