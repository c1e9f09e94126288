//! Rates per second, from two samples.

use std::collections::HashMap;

use serde::Serialize;

use super::{BackendRow, CounterRow, Sample, ServiceRow};

/// Traffic per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rate {
    pub(crate) connections: f64,
    pub(crate) packets: f64,
    pub(crate) bytes: f64,
}

/// Traffic and drops per second, of all Services together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Totals {
    #[serde(flatten)]
    pub(crate) traffic: Rate,
    pub(crate) drops: f64,
}

/// New connections, packets and bytes.
type Counts = [u64; 3];

/// Rates since an earlier sample, for each row of a later one. The rate is zero for rows that are new,
/// and for counters that restarted.
pub(crate) struct Rates<'a> {
    seconds: f64,
    services: HashMap<&'a str, Counts>,
    backends: HashMap<u32, Counts>,
    reasons: HashMap<&'a str, u64>,
}

fn of_service(row: &ServiceRow) -> Counts {
    [row.connections, row.packets, row.bytes]
}

fn of_backend(row: &BackendRow) -> Counts {
    [row.connections, row.packets, row.bytes]
}

impl<'a> Rates<'a> {
    pub(crate) fn new(before: &'a Sample, now: &Sample) -> Self {
        let services = before.services.iter();
        let backends = before.backends.iter();
        let reasons = before.counters.iter();
        Self {
            seconds: now.seconds_since(before),
            services: services
                .map(|row| (row.service.as_str(), of_service(row)))
                .collect(),
            backends: backends.map(|row| (row.id, of_backend(row))).collect(),
            reasons: reasons.map(|row| (row.reason, row.count)).collect(),
        }
    }

    fn rate(&self, before: u64, now: u64) -> f64 {
        match self.seconds > 0.0 {
            true => now.saturating_sub(before) as f64 / self.seconds,
            false => 0.0,
        }
    }

    fn traffic(&self, before: Option<&Counts>, now: Counts) -> Rate {
        let before = before.copied().unwrap_or(now);
        let [connections, packets, bytes] =
            [0, 1, 2].map(|at: usize| self.rate(before[at], now[at]));
        Rate {
            connections,
            packets,
            bytes,
        }
    }

    pub(crate) fn service(&self, row: &ServiceRow) -> Rate {
        self.traffic(self.services.get(row.service.as_str()), of_service(row))
    }

    pub(crate) fn backend(&self, row: &BackendRow) -> Rate {
        self.traffic(self.backends.get(&row.id), of_backend(row))
    }

    /// Counters of zero are not listed, so a new reason counts from zero.
    pub(crate) fn reason(&self, row: &CounterRow) -> f64 {
        let before = self.reasons.get(row.reason).copied();
        self.rate(before.unwrap_or(0), row.count)
    }

    /// All Services together, and all drops.
    pub(crate) fn totals(&self, now: &Sample) -> Totals {
        let mut totals = Totals::default();
        for rate in now.services.iter().map(|row| self.service(row)) {
            totals.traffic.connections += rate.connections;
            totals.traffic.packets += rate.packets;
            totals.traffic.bytes += rate.bytes;
        }
        let drops = now.counters.iter().filter(|row| row.fate == "drop");
        // The sum of no numbers is -0.0.
        totals.drops = drops.fold(0.0, |sum, row| sum + self.reason(row));
        totals
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::{Rate, Rates};
    use crate::view::{CounterRow, Sample, ServiceRow};

    fn sample(second: i64, services: &[(&str, u64)], drops: Option<u64>) -> Sample {
        let services = services.iter().map(|(name, packets)| ServiceRow {
            service: (*name).into(),
            packets: *packets,
            ..ServiceRow::default()
        });
        let counters = drops.into_iter().map(|count| CounterRow {
            fate: "drop",
            reason: "spoofed",
            count,
            meaning: "",
        });
        Sample {
            time: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second),
            agent: None,
            services: services.collect(),
            backends: Vec::new(),
            counters: counters.collect(),
            maps: Vec::new(),
        }
    }

    #[test]
    fn new_rows_have_no_rate_yet_but_new_reasons_have() {
        let before = sample(0, &[("old", 10), ("reset", 10)], None);
        let now = sample(2, &[("new", 100), ("old", 40), ("reset", 3)], Some(8));
        let rates = Rates::new(&before, &now);
        let services = now.services.iter().map(|row| rates.service(row).packets);
        assert_eq!(services.collect::<Vec<f64>>(), [0.0, 15.0, 0.0]);
        assert_eq!(rates.reason(&now.counters[0]), 4.0);
        let totals = rates.totals(&now);
        assert_eq!((totals.traffic.packets, totals.drops), (15.0, 4.0));

        let first = Rates::new(&now, &now);
        assert_eq!(first.service(&now.services[0]), Rate::default());
        assert_eq!(first.totals(&now).drops, 0.0);
        let nothing = sample(0, &[], None);
        let rates = Rates::new(&nothing, &nothing);
        assert!(rates.totals(&nothing).drops.is_sign_positive());
    }
}
