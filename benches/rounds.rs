//! Measurements in turns.

use std::collections::BTreeMap;
use std::time::Duration;

/// Something that is timed: so many requests in a row.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    batch: Box<dyn FnMut(u64) -> Duration>,
}

/// Few enough that their requests, which are made beforehand, stay in the cache.
const BATCH: u64 = 64;

/// How many rounds there are, and how many requests each variant makes in one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) batch: u64,
}

/// For what takes nanoseconds.
pub(crate) const FAST: Pace = Pace { rounds: 2000, batch: BATCH };

impl Variant {
    pub(crate) fn new(name: &'static str, batch: impl FnMut(u64) -> Duration + 'static) -> Self {
        Self { name, batch: Box::new(batch) }
    }

    /// The time for `requests` requests.
    pub(crate) fn time(&mut self, requests: u64) -> Duration {
        let mut left = requests;
        let mut time = Duration::ZERO;
        while left > 0 {
            let batch = left.min(BATCH);
            time += (self.batch)(batch);
            left -= batch;
        }
        time
    }
}

/// Nanoseconds per request by variant, round by round.
pub(crate) struct Rounds(BTreeMap<&'static str, Vec<f64>>);

impl Rounds {
    pub(crate) fn of(variants: &mut [Variant], pace: Pace) -> Self {
        let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
        for round in 0..pace.rounds {
            // Each variant comes after each other one in turn, and finds the caches as that one left them.
            let mut order: Vec<usize> = (0..variants.len()).collect();
            order.rotate_left(round % variants.len());
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let variant = &mut variants[at];
                // A batch that isn't timed brings the variant's own code and data back.
                (variant.batch)(pace.batch / 4);
                let time = (variant.batch)(pace.batch).as_secs_f64() * 1e9 / pace.batch as f64;
                times.entry(variant.name).or_default().push(time);
            }
        }
        Self(times)
    }

    pub(crate) fn median(&self, name: &str) -> f64 {
        median(self.0[name].clone())
    }

    /// How many times as long `name` takes as `base`: the median of the ratios within rounds.
    pub(crate) fn ratio(&self, name: &str, base: &str) -> f64 {
        median(self.0[name].iter().zip(&self.0[base]).map(|(time, base)| time / base).collect())
    }

    /// What `name` takes beyond `base`: the median of the differences within rounds.
    pub(crate) fn added(&self, name: &str, base: &str) -> f64 {
        median(self.0[name].iter().zip(&self.0[base]).map(|(time, base)| time - base).collect())
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The result of a run.
#[derive(Default)]
pub(crate) struct Ratios(Vec<(String, f64)>);

impl Ratios {
    pub(crate) fn push(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    pub(crate) fn print(&self) {
        for (name, value) in &self.0 {
            println!("ratio {name} {value:.3}");
        }
    }
}
