//! Two threads at once: in one workspace, and each in its own.

use std::sync::Barrier;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tower::{Layer, service_fn};
use tower_quota::{AxumBody, QuotaLayer};

use crate::rounds::{Ratios, median};
use crate::setup::{Caller, Shape, WORKSPACE, answer_created, large, layer, quota};

const REQUESTS: u64 = 2_000;
const ROUNDS: usize = 60;
const OTHER_WORKSPACE: &str = "0190163d-8694-739b-aea5-966c26f8ad92";

pub(crate) fn ratios(ratios: &mut Ratios) {
    let background = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let layer = {
        let _inside = background.enter();
        layer(&quota(large(), 0))
    };
    let (mut alone, mut shared, mut apart) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(round(&layer, &[WORKSPACE]));
        shared.push(round(&layer, &[WORKSPACE, WORKSPACE]));
        apart.push(round(&layer, &[WORKSPACE, OTHER_WORKSPACE]));
    }
    let (alone, shared, apart) = (median(alone), median(shared), median(apart));
    println!("\nparallel: nanoseconds per request and thread, median");
    println!("  one thread                    {alone:>9.1}");
    println!("  two threads, one workspace    {shared:>9.1}");
    println!("  two threads, two workspaces   {apart:>9.1}");
    ratios.push("parallel_one_workspace_vs_one_thread", shared / alone);
    ratios.push("parallel_two_workspaces_vs_one_thread", apart / alone);
    ratios.push("parallel_one_workspace_vs_two_workspaces", shared / apart);
}

/// A thread for each of the workspaces; the mean time of a request.
fn round(layer: &QuotaLayer<AxumBody>, workspaces: &[&str]) -> f64 {
    let start = Barrier::new(workspaces.len());
    let times: Vec<f64> = thread::scope(|scope| {
        let threads: Vec<_> =
            workspaces.iter().map(|workspace| scope.spawn(|| thread(layer, workspace, &start))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a time")).collect()
    });
    times.iter().sum::<f64>() / times.len() as f64
}

fn thread(layer: &QuotaLayer<AxumBody>, workspace: &str, start: &Barrier) -> f64 {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let service = layer.layer(service_fn(answer_created));
    let mut caller = Caller { service, shape: Shape::Create, workspace: workspace.to_owned() };
    runtime.block_on(async {
        assert!(caller.first().await.is_success(), "admitted");
        start.wait();
        caller.batch(REQUESTS).await.as_secs_f64() * 1e9 / REQUESTS as f64
    })
}
