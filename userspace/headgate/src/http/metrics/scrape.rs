//! Metrics as values that are read for one scrape.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// Labels of a value: name and value.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// A metric with a value for each set of labels.
#[derive(Debug)]
pub(crate) struct Metric {
    name: &'static str,
    help: &'static str,
    values: Values,
}

#[derive(Debug)]
enum Values {
    /// Values that only grow. Their name in the text ends with `_total`.
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, i64)>),
    /// Seconds since 1970.
    Time(f64),
}

/// Name and help of a metric without labels, and how its value is read.
pub(crate) struct Reader<T> {
    pub(crate) name: &'static str,
    /// A sentence that ends with a period.
    pub(crate) help: &'static str,
    pub(crate) read: fn(&T) -> u64,
}

impl Metric {
    pub(crate) fn counter(
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Self {
        let values = Values::Counter(values.into_iter().collect());
        Self { name, help, values }
    }

    pub(crate) fn gauge(
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, i64)>,
    ) -> Self {
        let values = Values::Gauge(values.into_iter().collect());
        Self { name, help, values }
    }

    pub(crate) fn time(name: &'static str, help: &'static str, seconds: f64) -> Self {
        let values = Values::Time(seconds);
        Self { name, help, values }
    }

    /// Reads a table of counters.
    pub(crate) fn counters<T>(readers: &[Reader<T>], from: &T) -> Vec<Self> {
        let metrics = readers.iter().map(|reader| {
            let value = (Labels::new(), (reader.read)(from));
            Self::counter(reader.name, reader.help, [value])
        });
        metrics.collect()
    }

    /// Reads a table of gauges.
    pub(crate) fn gauges<T>(readers: &[Reader<T>], from: &T) -> Vec<Self> {
        let metrics = readers.iter().map(|reader| {
            let value = (Labels::new(), (reader.read)(from) as i64);
            Self::gauge(reader.name, reader.help, [value])
        });
        metrics.collect()
    }

    fn kind(&self) -> MetricType {
        match self.values {
            Values::Counter(_) => MetricType::Counter,
            Values::Gauge(_) | Values::Time(_) => MetricType::Gauge,
        }
    }
}

/// All metrics of a scrape that are not counted in this process as they happen.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) Vec<Metric>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in &self.0 {
            let kind = metric.kind();
            let mut encoder = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            match &metric.values {
                Values::Counter(values) => each(&mut encoder, values, |encoder, value| {
                    encoder.encode_counter::<NoLabelSet, _, f64>(value, None)
                })?,
                Values::Gauge(values) => {
                    each(&mut encoder, values, |encoder, value| {
                        encoder.encode_gauge(value)
                    })?;
                }
                Values::Time(seconds) => encoder.encode_gauge(seconds)?,
            }
        }
        Ok(())
    }
}

fn each<T>(
    encoder: &mut MetricEncoder<'_>,
    values: &[(Labels, T)],
    encode: impl Fn(&mut MetricEncoder<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (labels, value) in values {
        match labels.is_empty() {
            true => encode(encoder, value)?,
            false => encode(&mut encoder.encode_family(labels)?, value)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::{Metric, Reader, Scrape};

    #[test]
    fn metrics_are_written_with_their_kind_help_and_labels() {
        const GAUGES: [Reader<u64>; 1] = [Reader {
            name: "services",
            help: "Services in the maps.",
            read: |value| *value,
        }];
        let labels = |value: &str| vec![("fate", value.to_owned())];
        let mut metrics = Metric::gauges(&GAUGES, &7);
        let packets = [(labels("drop"), 1), (labels("pass"), 2)];
        metrics.push(Metric::counter("packets", "Packets by fate.", packets));
        metrics.push(Metric::time("last", "Time of the last pass.", 1.5));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape(metrics)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let wanted = "# HELP services Services in the maps.\n# TYPE services gauge\nservices 7\n\
                      # HELP packets Packets by fate.\n# TYPE packets counter\n\
                      packets_total{fate=\"drop\"} 1\npackets_total{fate=\"pass\"} 2\n\
                      # HELP last Time of the last pass.\n# TYPE last gauge\nlast 1.5\n# EOF\n";
        assert_eq!(text, wanted);
    }
}
