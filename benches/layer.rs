//! What a layer adds to a request, beside its peers: `cargo bench --bench layer`.
//!
//! All variants get the same requests, over `tower::service_fn` and over an axum `Router`. Criterion reports each on its
//! own. The `ratio` lines at the end come from measurements of their own, in which the variants take turns in short
//! batches, so that a machine that slows down for a while slows all of them down.

#![allow(missing_docs, clippy::expect_used, reason = "a benchmark that can't be set up has nothing to measure")]

mod counts;
mod parallel;
mod peers;
#[allow(dead_code, reason = "the benchmarks take from it what each needs")]
mod rounds;
mod setup;

use std::rc::Rc;
use std::time::Duration;

use criterion::Criterion;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::runtime::Builder;

use rounds::{FAST, Ratios, Rounds};
use setup::{Over, variants};

fn main() {
    let runtime = Rc::new(Builder::new_current_thread().enable_all().build().expect("a runtime"));
    let mut ratios = Ratios::default();
    // For those variants that tell it anything.
    PrometheusBuilder::new()
        .set_buckets(&tower_quota::DECISION_SECONDS_BUCKETS)
        .and_then(PrometheusBuilder::install_recorder)
        .expect("a recorder");

    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    let mut all = Vec::new();
    for over in [Over::ServiceFn, Over::Axum] {
        let mut variants = variants(&runtime, over);
        let mut group = criterion.benchmark_group(over.name());
        for variant in &mut variants {
            group.bench_function(variant.name, |bencher| bencher.iter_custom(|requests| variant.time(requests)));
        }
        group.finish();
        all.push((over, variants));
    }
    let rows = counts::prepare(&runtime);
    rows.report(&mut criterion);
    criterion.final_summary();
    if !measures_all() {
        return;
    }

    for (over, mut variants) in all {
        let name = over.name();
        let rounds = Rounds::of(&mut variants, FAST);
        println!("\n{name}: nanoseconds per request, median of {} interleaved rounds", FAST.rounds);
        for variant in &variants {
            println!("  {:<28} {:>9.1}", variant.name, rounds.median(variant.name));
        }
        let governor = |bare| rounds.added("governor", bare);
        for (ours, bare) in setup::OURS {
            ratios.push(format!("{name}_{ours}_added_vs_governor_added"), rounds.added(ours, bare) / governor("bare"));
        }
        ratios.push(
            format!("{name}_limitador_added_vs_governor_added"),
            rounds.added("limitador", "bare") / governor("bare"),
        );
        for ours in [
            "admitted_with_metrics",
            "admitted_with_metrics_and_thresholds",
            "admitted_with_plan_and_parent",
            "admitted_under_cap",
        ] {
            let ratio = rounds.added(ours, "bare") / rounds.added("admitted", "bare");
            ratios.push(format!("{name}_{ours}_added_vs_admitted_added"), ratio);
        }
        let ratio = rounds.added("refused_with_metrics", "bare") / rounds.added("refused", "bare");
        ratios.push(format!("{name}_refused_with_metrics_added_vs_refused_added"), ratio);
        for peer in ["governor_by_workspace", "limitador"] {
            ratios.push(
                format!("{name}_admitted_added_vs_{peer}_added"),
                rounds.added("admitted", "bare") / rounds.added(peer, "bare"),
            );
        }
        if over == Over::Axum {
            // `Router::layer` itself costs a boxed clone and a boxed future, whatever the layer does.
            for (ours, bare) in setup::OURS {
                let noop = setup::noop_of(bare);
                let ratio = rounds.added(ours, noop) / governor("noop");
                ratios.push(format!("{name}_{ours}_over_noop_vs_governor_over_noop"), ratio);
            }
        }
    }
    rows.ratios(&mut ratios);
    parallel::ratios(&mut ratios);

    println!();
    ratios.print();
}

/// Not under `cargo test`, which doesn't say `--bench`, nor when criterion only lists, tries or profiles.
fn measures_all() -> bool {
    let mut arguments = std::env::args().skip(1).peekable();
    arguments.peek().is_some() && arguments.all(|argument| argument == "--bench")
}
