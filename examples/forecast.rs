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

use jiff::civil::{Date, date};
use tower_quota::predict;

/// Days that are made, and the last of them, which are hidden.
const DAYS: usize = 365;
const HIDDEN: usize = 30;

/// Noise that is the same in each run.
struct Noise(u64);

impl Noise {
    /// About -1 to 1, mostly near 0: the mean of some numbers of a linear congruential generator.
    fn next(&mut self) -> f64 {
        let sum: f64 = (0..4)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                f64::from((self.0 >> 32) as u32) / f64::from(u32::MAX) - 0.5
            })
            .sum();
        sum / 2.0
    }
}

type Kind = (&'static str, fn(f64, &mut Noise) -> f64);

const KINDS: [Kind; 9] = [
    ("linear", |day, _| 200.0 + 2.0 * day),
    ("linear, noise", |day, noise| 200.0 + 2.0 * day + 40.0 * noise.next()),
    ("weekly", |day, noise| {
        let weekend = day % 7.0 >= 5.0;
        500.0 + day + if weekend { -120.0 } else { 0.0 } + 20.0 * noise.next()
    }),
    ("stepped", |day, _| 100.0 + 50.0 * (day / 30.0).floor()),
    ("flat", |_, _| 300.0),
    ("flat, noise", |_, noise| 300.0 + 20.0 * noise.next()),
    ("falling", |day, noise| 1500.0 - 3.0 * day + 30.0 * noise.next()),
    ("saturating", |day, noise| 1000.0 * (1.0 - (-day / 90.0).exp()) + 10.0 * noise.next()),
    ("growing faster", |day, noise| 100.0 * (day / 120.0).exp() + 10.0 * noise.next()),
];

fn main() {
    println!("{:<16}{:>12}{:>12}{:>12}{:>10}", "usage", "forecast", "line", "within 80%", "fit");
    for (name, usage) in KINDS {
        let mut noise = Noise(42);
        let days = date(2024, 1, 1).series(jiff::Span::new().days(1)).take(DAYS);
        let all: Vec<(Date, u64)> =
            days.enumerate().map(|(day, date)| (date, usage(day as f64, &mut noise).round().max(0.0) as u64)).collect();
        let (known, hidden) = all.split_at(DAYS - HIDDEN);
        let begun = Instant::now();
        let predicted = predict(known, HIDDEN);
        let took = begun.elapsed();
        assert_eq!(predicted.len(), HIDDEN);

        let (first, last) = (known[0].1 as f64, known[known.len() - 1].1 as f64);
        let slope = (last - first) / (known.len() - 1) as f64;
        let (mut error, mut line_error, mut within) = (0.0, 0.0, 0);
        for (ahead, (predicted, (date, came))) in predicted.iter().zip(hidden).enumerate() {
            assert_eq!(predicted.date, *date);
            let came = *came as f64;
            error += (predicted.point - came).abs();
            line_error += (last + slope * (ahead + 1) as f64 - came).abs();
            within += usize::from((predicted.lower..=predicted.upper).contains(&came));
        }
        let days = HIDDEN as f64;
        println!(
            "{name:<16}{:>12.2}{:>12.2}{:>11.0}%{:>7} ms",
            error / days,
            line_error / days,
            100.0 * within as f64 / days,
            took.as_millis()
        );
    }
}
