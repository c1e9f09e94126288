//! Content of each tab, as rows of cells.

use std::cmp::Ordering;

use crate::view::{ConnectionRow, Rate, Rates, Sample};

/// A cell. Numbers are sorted by value and drawn to the right.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Number(f64),
}

impl Cell {
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => short(*number),
        }
    }

    /// Text ascending, numbers descending: the largest come first.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => b.total_cmp(a),
            _ => self.shown().cmp(&other.shown()),
        }
    }
}

/// Formats a number with three digits and an SI prefix.
pub(super) fn short(number: f64) -> String {
    let mut rest = number;
    for unit in ["", "k", "M", "G", "T"] {
        if rest < 999.5 {
            return match unit {
                "" if rest.fract() == 0.0 => format!("{rest:.0}"),
                _ if rest < 99.95 => format!("{rest:.1}{unit}"),
                _ => format!("{rest:.0}{unit}"),
            };
        }
        rest /= 1000.0;
    }
    format!("{rest:.0}P")
}

/// A tab's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Content {
    pub(super) header: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
}

fn text(of: &str) -> Cell {
    Cell::Text(of.into())
}

fn number(of: u64) -> Cell {
    Cell::Number(of as f64)
}

/// Connections, packets and bytes per second.
fn cells(rate: Rate) -> [Cell; 3] {
    [rate.connections, rate.packets, rate.bytes].map(Cell::Number)
}

pub(super) fn services(rates: &Rates<'_>, now: &Sample) -> Content {
    let rows = now.services.iter().map(|row| {
        let [connections, packets, bytes] = cells(rates.service(row));
        let total = number(row.connections);
        let backends = number(row.backends.len() as u64);
        vec![
            text(&row.service),
            connections,
            packets,
            bytes,
            total,
            backends,
        ]
    });
    Content {
        header: vec![
            "service",
            "conn/s",
            "pkt/s",
            "B/s",
            "connections",
            "backends",
        ],
        rows: rows.collect(),
    }
}

/// Backends, or those of one Service, with their shares of its connections.
pub(super) fn backends(rates: &Rates<'_>, now: &Sample, of: Option<&str>) -> Content {
    let is_wanted = |row: &&crate::view::BackendRow| {
        of.is_none_or(|service| row.services.iter().any(|name| name == service))
    };
    let total: u64 = now
        .backends
        .iter()
        .filter(is_wanted)
        .map(|row| row.connections)
        .sum();
    let rows = now.backends.iter().filter(is_wanted).map(|row| {
        let [connections, packets, bytes] = cells(rates.backend(row));
        let share = row.connections as f64 * 100.0 / total.max(1) as f64;
        vec![
            text(&row.backend),
            text(row.protocol),
            text(row.node),
            connections,
            packets,
            bytes,
            number(row.connections),
            Cell::Number(share.round()),
            text(&row.services.join(" ")),
        ]
    });
    Content {
        header: vec![
            "backend",
            "proto",
            "node",
            "conn/s",
            "pkt/s",
            "B/s",
            "connections",
            "share %",
            "services",
        ],
        rows: rows.collect(),
    }
}

pub(super) fn reasons(rates: &Rates<'_>, now: &Sample) -> Content {
    let rows = now.counters.iter().map(|row| {
        let rate = Cell::Number(rates.reason(row));
        vec![
            text(row.reason),
            text(row.fate),
            rate,
            number(row.count),
            text(row.meaning),
        ]
    });
    Content {
        header: vec!["reason", "fate", "per s", "count", "meaning"],
        rows: rows.collect(),
    }
}

pub(super) fn maps(now: &Sample) -> Content {
    let rows = now.maps.iter().map(|row| {
        let percent = row.entries as f64 * 100.0 / f64::from(row.capacity.max(1));
        vec![
            text(row.map),
            number(row.entries),
            number(row.capacity.into()),
            Cell::Number(percent.round()),
            text(&bar(percent)),
            number(row.kib),
        ]
    });
    Content {
        header: vec!["map", "entries", "capacity", "fill %", "", "KiB"],
        rows: rows.collect(),
    }
}

fn bar(percent: f64) -> String {
    const WIDTH: usize = 20;
    let full = (percent / 100.0 * WIDTH as f64).round() as usize;
    format!("{:·<WIDTH$}", "█".repeat(full.min(WIDTH)))
}

pub(super) fn connections(rows: &[ConnectionRow]) -> Content {
    let rows = rows.iter().map(|row| {
        vec![
            text(&row.service),
            text(row.protocol),
            text(&row.client),
            text(&row.frontend),
            text(&row.backend),
            text(row.state),
            number(row.idle_s.into()),
        ]
    });
    Content {
        header: vec![
            "service", "proto", "client", "frontend", "backend", "state", "idle s",
        ],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn numbers_keep_three_digits() {
        for (number, shown) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.46, "0.5"),
            (12.34, "12.3"),
            (999.0, "999"),
            (999.6, "1.0k"),
            (123_456.0, "123k"),
            (5_000_000.0, "5.0M"),
        ] {
            assert_eq!(short(number), shown);
        }
    }
}
