//! Metric families made by hand, for numbers that are counted elsewhere.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// A gauge with one value for each set of labels.
pub(super) fn gauge(name: &str, help: &str, values: Vec<(Vec<LabelPair>, f64)>) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(labels);
        metric.set_gauge(gauge);
        metric
    });
    family((name, help), MetricType::GAUGE, metrics.collect())
}

/// A counter with one value for each set of labels.
pub(super) fn counter(name: &str, help: &str, values: Vec<(Vec<LabelPair>, u64)>) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, value)| {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = Metric::from_label(labels);
        metric.set_counter(counter);
        metric
    });
    family((name, help), MetricType::COUNTER, metrics.collect())
}

/// Counts of a histogram: those up to each bound and above the one before, then the rest.
#[derive(Clone, Debug)]
pub(super) struct Counts<'a> {
    /// Upper bounds, inclusive.
    pub(super) bounds: &'a [f64],
    /// One more than there are bounds.
    pub(super) buckets: &'a [u64],
    /// Sum of all values.
    pub(super) sum: f64,
}

/// A histogram with its counts for each set of labels.
pub(super) fn histogram(
    name: &str,
    help: &str,
    values: Vec<(Vec<LabelPair>, Counts<'_>)>,
) -> MetricFamily {
    let metrics = values.into_iter().map(|(labels, counts)| {
        let mut metric = Metric::from_label(labels);
        metric.set_histogram(filled(&counts));
        metric
    });
    family((name, help), MetricType::HISTOGRAM, metrics.collect())
}

fn filled(counts: &Counts<'_>) -> Histogram {
    let mut cumulative = 0;
    let buckets = counts.bounds.iter().zip(counts.buckets).map(|(&bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.buckets.iter().sum());
    histogram.set_sample_sum(counts.sum);
    histogram
}

fn family((name, help): (&str, &str), kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// A label.
pub(super) fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
