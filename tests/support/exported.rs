//! Metrics as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tower_quota::DECISION_SECONDS_BUCKETS;

/// A recorder of a test's own, and what it has been told.
pub(crate) struct Recorder {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let seconds = Matcher::Suffix("_seconds".to_owned());
        let builder = PrometheusBuilder::new().set_buckets_for_metric(seconds, &DECISION_SECONDS_BUCKETS).unwrap();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { recorder, handle }
    }

    /// An engine that is built inside tells this one.
    pub(crate) fn told_by<T>(&self, build: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&self.recorder, build)
    }

    pub(crate) fn exported(&self) -> Exported {
        Exported::parse(&self.handle.render())
    }

    /// The value of one series, as of now.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        self.exported().value(series)
    }
}

/// What a scrape has.
#[derive(Debug)]
pub(crate) struct Exported {
    /// By the series, with its labels in order.
    values: BTreeMap<String, f64>,
    /// The names that have a type, and all that there are of.
    pub(crate) names: BTreeSet<String>,
}

/// The same for all orders of labels.
fn normal(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else { return series.to_owned() };
    let mut labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

impl Exported {
    pub(crate) fn parse(text: &str) -> Self {
        let (mut values, mut names) = (BTreeMap::new(), BTreeSet::new());
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(of_type) = line.strip_prefix("# TYPE ") {
                names.insert(of_type.split(' ').next().unwrap().to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let before = values.insert(normal(series), value.parse().unwrap());
                assert_eq!(before, None, "{series} is there twice");
            }
        }
        Self { values, names }
    }

    /// The value of one series, written as Prometheus writes it.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        let value = self.values.get(&normal(series));
        *value.unwrap_or_else(|| panic!("there is no {series} in {:#?}", self.values.keys()))
    }

    /// The sum of all series of that name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of = |series: &str| series.split('{').next() == Some(name);
        self.values.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }

    pub(crate) fn series(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}
