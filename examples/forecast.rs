//! How good the forecast is: it is held against what came true, beside a straight line.
//!
//! `cargo run --example forecast --features insight` makes a year of usage of several kinds, always the same, hides the
//! last 30 days, predicts them, and prints for each kind:
//!
//! - the mean absolute error of the forecast, in rows;
//! - that of the straight line through the first and the last day that were not hidden;
//! - how many of the hidden days were within the 80 % interval;
//! - how long the fit took.

use std::time::Instant;

use jiff::Span;
use jiff::civil::{Date, date};
use tower_quota::predict;

/// Days that are made, and the last of them, which are hidden.
const DAYS: usize = 365;
const HIDDEN: usize = 30;

/// Noise that is the same in each run.
struct Noise(u64);

impl Noise {
    /// From -1 to 1, mostly near 0: the mean of some numbers of a linear congruential generator.
    fn next(&mut self) -> f64 {
        const DRAWS: u32 = 4;
        let sum: f64 = (0..DRAWS)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Its upper bits are the better ones.
                (self.0 >> 32) as f64 / f64::from(u32::MAX) * 2.0 - 1.0
            })
            .sum();
        sum / f64::from(DRAWS)
    }
}

/// What usage is on a day that has so many before it.
type Usage = fn(u32, &mut Noise) -> f64;

const KINDS: [(&str, Usage); 10] = [
    ("linear", |day, _| 200.0 + 2.0 * f64::from(day)),
    ("linear, noise", |day, noise| 200.0 + 2.0 * f64::from(day) + 40.0 * noise.next()),
    ("weekly", |day, noise| {
        let weekend = if day % 7 >= 5 { -120.0 } else { 0.0 };
        500.0 + f64::from(day) + weekend + 20.0 * noise.next()
    }),
    // Each day adds what it happens to add: from none to about 8 rows.
    ("arrivals", |day, _| {
        let mut noise = Noise(7);
        200.0 + (0..day).map(|_| (3.0 + 8.0 * noise.next()).max(0.0)).sum::<f64>()
    }),
    ("stepped", |day, _| 100.0 + 50.0 * f64::from(day / 30)),
    ("flat", |_, _| 300.0),
    ("flat, noise", |_, noise| 300.0 + 20.0 * noise.next()),
    ("falling", |day, noise| 1500.0 - 3.0 * f64::from(day) + 30.0 * noise.next()),
    ("saturating", |day, noise| 1000.0 * (1.0 - (f64::from(day) / -90.0).exp()) + 10.0 * noise.next()),
    ("exponential", |day, noise| 100.0 * (f64::from(day) / 120.0).exp() + 10.0 * noise.next()),
];

/// The series of a kind: usage at the end of each day.
fn history(usage: Usage) -> Vec<(Date, u64)> {
    let mut noise = Noise(42);
    let days = date(2024, 1, 1).series(Span::new().days(1)).take(DAYS);
    days.zip(0..).map(|(date, day)| (date, rows(usage(day, &mut noise)))).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "all of them are a few thousand at most")]
fn rows(usage: f64) -> u64 {
    usage.max(0.0).round() as u64
}

/// The mean absolute error of what was predicted, beside what came.
fn mean_error(predicted: impl Iterator<Item = (f64, f64)>) -> f64 {
    let errors: Vec<_> = predicted.map(|(predicted, came)| (predicted - came).abs()).collect();
    errors.iter().sum::<f64>() / errors.len() as f64
}

fn main() {
    println!("{:<16}{:>12}{:>12}{:>14}{:>10}", "usage", "forecast", "line", "within 80 %", "fit");
    for (name, usage) in KINDS {
        let all = history(usage);
        let (known, hidden) = all.split_at(DAYS - HIDDEN);
        let begun = Instant::now();
        let predicted = predict(known, HIDDEN);
        let took = begun.elapsed();
        assert!(predicted.iter().map(|predicted| predicted.date).eq(hidden.iter().map(|(date, _)| *date)));

        let came = || hidden.iter().map(|(_, usage)| *usage as f64);
        let forecast = mean_error(predicted.iter().map(|predicted| predicted.point).zip(came()));
        let (first, last) = (known[0].1 as f64, known[known.len() - 1].1 as f64);
        let slope = (last - first) / (known.len() - 1) as f64;
        let line = mean_error((1..).map(|ahead| last + slope * f64::from(ahead)).zip(came()));
        let within = predicted.iter().zip(came()).filter(|(day, came)| (day.lower..=day.upper).contains(came)).count();
        let percent = 100.0 * within as f64 / HIDDEN as f64;
        println!("{name:<16}{forecast:>12.2}{line:>12.2}{percent:>12.0} %{:>7} ms", took.as_millis());
    }
}
