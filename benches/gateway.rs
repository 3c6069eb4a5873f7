//! What the layer costs in a reverse proxy: `wrk` through a gateway with the layer, against the same gateway without it, both in
//! front of the same upstream, in turns. It fails where more throughput is lost than may be.
//!
//! All of it shares one machine, the load too: so this tells what throughput is lost, and not how much there is.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark that can't be set up has nothing to measure"
)]

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, service_fn};
use tower_quota::{
    Actor, Charge, Expect, Gateway, GatewayOptions, Limit, LimitSet, Quota, QuotaLayer, Replayed, ResourceCatalog,
    ResourceSpec, RouteMap, Rule, SqlTable, SqliteStore, SqliteUsage, WorkspaceSource,
};

const ROUNDS: usize = 9;
const SECONDS: u32 = 4;
const CONNECTIONS: u32 = 64;

/// The part of the throughput that is left, at least, where no rule maps the request, and where one does.
const UNMAPPED: f64 = 0.95;
const ADMITTED: f64 = 0.90;

/// What is asked for: its name, how `wrk` asks, and how much of the throughput is left at least.
const LOADS: [(&str, &str, f64); 4] = [
    ("unmapped", r#"wrk.method, wrk.path = "GET", "/api/acme/segments""#, UNMAPPED),
    ("unmapped_post", r#"wrk.method, wrk.path, wrk.body = "POST", "/api/acme/others", '{"name":"one"}'"#, UNMAPPED),
    ("admitted", r#"wrk.method, wrk.path, wrk.body = "POST", "/api/acme/segments", '{"name":"one"}'"#, ADMITTED),
    (
        "admitted_reading_body",
        r#"wrk.method, wrk.path, wrk.body = "POST", "/api/segments", '{"name":"one","workspaceId":"acme"}'"#,
        ADMITTED,
    ),
];

fn main() -> ExitCode {
    // `cargo test --benches` runs it, too, and asks for no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    if Command::new("wrk").arg("--version").output().is_err() {
        eprintln!("this benchmark makes its load with `wrk`, which is missing: install Debian's package of that name");
        return ExitCode::FAILURE;
    }
    let folder = tempfile::tempdir().unwrap();
    let (behind, before) = (runtime(), runtime());
    let upstream = behind.block_on(serve(service_fn(answer)));
    let (bare, layered) = before.block_on(async {
        let gateway = || Gateway::new(GatewayOptions::upstream(format!("http://{upstream}"))).unwrap();
        let layer = layer(folder.path()).await;
        (serve(gateway()).await, serve(layer.layer(gateway())).await)
    });

    println!("{ROUNDS} rounds of {SECONDS} s with {CONNECTIONS} connections, median of the ratios within rounds");
    let mut below = Vec::new();
    for (name, script, least) in LOADS {
        let path = folder.path().join(format!("{name}.lua"));
        fs::write(&path, script).unwrap();
        let (mut throughput, mut tail, mut each) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (without, with) = if round % 2 == 0 {
                let without = load(bare, &path);
                (without, load(layered, &path))
            } else {
                let with = load(layered, &path);
                (load(bare, &path), with)
            };
            throughput.push(with.per_second / without.per_second);
            tail.push(with.p99 / without.p99);
            each.push((without, with));
        }
        let (without, with) = each[ROUNDS / 2];
        println!(
            "{name}: for example {:.0} and {:.0} requests/s, p99 {:.2} and {:.2} ms, without and with the layer",
            without.per_second, with.per_second, without.p99, with.p99
        );
        let throughput = median(throughput);
        println!("ratio gateway_{name}_throughput {throughput:.3}");
        println!("ratio gateway_{name}_p99 {:.3}", median(tail));
        if throughput < least {
            below.push(format!("gateway_{name}_throughput is {throughput:.4}, below {least:.2}"));
        }
    }
    for line in &below {
        eprintln!("failed: {line}");
    }
    if below.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What a run of `wrk` says: requests per second, and the time that one of a hundred takes longer than, in milliseconds.
#[derive(Clone, Copy)]
struct Told {
    per_second: f64,
    p99: f64,
}

fn load(address: SocketAddr, script: &Path) -> Told {
    let output = Command::new("wrk")
        .args(["--latency", "-t", "2", "-c", &CONNECTIONS.to_string(), "-d", &format!("{SECONDS}s")])
        .arg("-s")
        .arg(script)
        .arg(format!("http://{address}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for trouble in ["Non-2xx", "Socket errors"] {
        assert!(!text.contains(trouble), "{text}");
    }
    let value = |label: &str| {
        let line = text
            .lines()
            .map(str::trim)
            .find(|line| line.starts_with(label))
            .unwrap_or_else(|| panic!("wrk tells no {label}: {text}"));
        line[label.len()..].trim().to_owned()
    };
    let p99 = value("99%");
    let at = p99.find(|letter: char| letter.is_ascii_alphabetic()).unwrap();
    let (number, unit) = p99.split_at(at);
    let factor = match unit {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        unit => panic!("wrk tells times in {unit}"),
    };
    Told { per_second: value("Requests/sec:").parse().unwrap(), p99: number.parse::<f64>().unwrap() * factor }
}

/// Serves connections, each in a task of its own.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn layer(folder: &Path) -> QuotaLayer<Replayed> {
    let url = folder.join("quota.db");
    let rows = SqliteConnectOptions::new().filename(&url).create_if_missing(true);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(rows).await.unwrap();
    sqlx::query(r#"CREATE TABLE "Segment" ("id" INTEGER PRIMARY KEY, "workspaceId" TEXT NOT NULL)"#)
        .execute(&pool)
        .await
        .unwrap();
    let spec = ResourceSpec::new("segments", "maxSegments", Limit::of(1_000_000_000));
    let catalog = ResourceCatalog::empty().resource(spec).build().unwrap();
    let store = SqliteStore::connect(&format!("sqlite://{}", url.display()), &catalog).await.unwrap();
    let usage = SqliteUsage::builder(pool, &catalog).table("segments", SqlTable::new("Segment")).build();
    let quota = Quota::builder(catalog.clone()).store(store).usage(usage.unwrap()).build().unwrap();
    let limits = LimitSet::new();
    quota
        .admin(Actor::library())
        .set_limits(&quota.workspace("acme").unwrap(), &limits, &Expect::Anything, None)
        .await
        .unwrap();
    let by_path = Rule::new("by-path", Method::POST, "/api/{ws}/segments")
        .workspace(WorkspaceSource::path("ws"))
        .charge(Charge::of("segments"));
    let by_body = Rule::new("by-body", Method::POST, "/api/segments")
        .workspace(WorkspaceSource::body("/workspaceId"))
        .charge(Charge::of("segments"));
    let routes = RouteMap::builder(&catalog).rule(by_path).rule(by_body).build().unwrap();
    QuotaLayer::reading_bodies(quota, routes).unwrap()
}

/// Answers 201 to what is posted, and 200 to all else, once it has read it.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = if request.method() == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
    let _ = request.into_body().collect().await;
    let mut response = Response::new(Full::new(Bytes::from_static(br#"{"id":"one"}"#)));
    *response.status_mut() = status;
    Ok(response)
}
