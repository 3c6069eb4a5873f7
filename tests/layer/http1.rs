//! Plain hyper, HTTP/1.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower::{Service, ServiceBuilder};
use tower_quota::{
    Amount, Charge, DecisionReceipt, Evidence, Limit, Principal, Promise, Provisioning, QuotaLayer, Refusal,
    ResponseBody, RouteMap, Rule, WorkspaceSource,
};

use crate::rows::{State, World, blocking, until};
use crate::support::client::{Answer, Connection, request};
use crate::support::random::{Random, seed};

fn rule(name: &str, path: &str) -> Rule {
    Rule::new(name, Method::POST, path).workspace(WorkspaceSource::path("ws"))
}

fn routes(world: &World, rules: impl IntoIterator<Item = Rule>) -> RouteMap {
    rules.into_iter().fold(RouteMap::builder(world.quota.catalog()), |map, rule| map.rule(rule)).build().unwrap()
}

fn plain(world: &World) -> RouteMap {
    routes(world, [rule("create", "/{ws}/segments").charge(Charge::of("segments"))])
}

/// Serves `service` on a socket.
async fn serve<S, B>(service: S) -> SocketAddr
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody<B>>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(async move { drop(connection.await) });
        }
    });
    address
}

/// Answers with the status that the header `x-status` asks for.
async fn obey<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = request
        .headers()
        .get("x-status")
        .map_or(StatusCode::CREATED, |status| StatusCode::from_bytes(status.as_bytes()).unwrap());
    let mut response = Response::new(Full::from("done"));
    *response.status_mut() = status;
    Ok(response)
}

async fn send(
    address: SocketAddr,
    method: &'static str,
    path: &'static str,
    headers: &'static [(&str, &str)],
) -> Answer {
    blocking(move || {
        let mut connection = Connection::open(address).unwrap();
        connection.send_raw(&request(method, path, None, headers, "")).unwrap();
        if method == "HEAD" { connection.read_head().unwrap() } else { connection.read().unwrap() }
    })
    .await
}

#[tokio::test]
async fn statuses_settle_what_was_reserved() {
    let world = World::new(&[("segments", 50)], |builder| builder).await;
    let layer = QuotaLayer::new(world.quota.clone(), plain(&world)).unwrap();
    let address = serve(ServiceBuilder::new().layer(layer).service_fn(obey)).await;
    send(address, "POST", "/acme/segments", &[]).await.expect(201);
    assert_eq!(world.state("segments").await, State { believed: 1, reserved: 0 });
    // A form that was posted may have made its row.
    send(address, "POST", "/acme/segments", &[("x-status", "303")]).await.expect(303);
    assert_eq!(world.state("segments").await, State { believed: 1, reserved: 0 });
    for (headers, status) in
        [(&[("x-status", "409")], 409), (&[("x-status", "404")], 404), (&[("x-status", "429")], 429)]
    {
        send(address, "POST", "/acme/segments", headers).await.expect(status);
        assert_eq!(world.state("segments").await, State { believed: 0, reserved: 0 }, "{status}");
    }
    for (at, headers) in
        [&[("x-status", "500")], &[("x-status", "503")], &[("x-status", "408")], &[("x-status", "499")]]
            .into_iter()
            .enumerate()
    {
        send(address, "POST", "/acme/segments", headers).await;
        let reserved = u64::try_from(at + 1).unwrap();
        assert_eq!(world.state("segments").await, State { believed: 0, reserved }, "{headers:?}");
    }
    world.settled("segments").await;
    assert_eq!(world.state("segments").await, State { believed: 0, reserved: 0 });
}

#[tokio::test]
async fn units_are_held_for_as_long_as_rows_may_come() {
    let world = World::new(&[("segments", 50), ("journeys", 50)], |builder| builder).await;
    let late = |name: &str, path: &str, resource: &str, within| {
        rule(name, path).charge(Charge::of(resource)).late_rows(within)
    };
    let rules = [
        late("soon", "/{ws}/segments", "segments", Duration::from_millis(1)),
        late("late", "/{ws}/journeys", "journeys", Duration::from_secs(3600)),
    ];
    let layer = QuotaLayer::new(world.quota.clone(), routes(&world, rules)).unwrap();
    let address = serve(ServiceBuilder::new().layer(layer).service_fn(obey)).await;
    send(address, "POST", "/acme/journeys", &[]).await.expect(201);
    send(address, "POST", "/acme/journeys", &[("x-status", "500")]).await.expect(500);
    assert_eq!(world.state("journeys").await, State { believed: 0, reserved: 2 });
    // None come of what was refused.
    send(address, "POST", "/acme/journeys", &[("x-status", "409")]).await.expect(409);
    assert_eq!(world.state("journeys").await, State { believed: 0, reserved: 2 });

    send(address, "POST", "/acme/segments", &[]).await.expect(201);
    until("the time is over", || async { world.state("segments").await.reserved == 0 }).await;
    // Nobody knows of these: they are settled after that time, like all others.
    send(address, "POST", "/acme/segments", &[("x-status", "500")]).await.expect(500);
    assert_eq!(world.state("segments").await.reserved, 1);
    world.settled("segments").await;
    assert_eq!(world.state("journeys").await.reserved, 2);
}

#[tokio::test]
async fn units_are_held_as_long_where_the_client_hangs_up() {
    let world = World::new(&[("segments", 50), ("journeys", 50)], |builder| builder).await;
    let rules = [
        rule("plain", "/{ws}/segments").charge(Charge::of("segments")),
        rule("late", "/{ws}/journeys").charge(Charge::of("journeys")).late_rows(Duration::from_secs(3600)),
    ];
    let layer = QuotaLayer::new(world.quota.clone(), routes(&world, rules)).unwrap();
    // Tells when a handler begins, and when it is dropped.
    let (tells, mut told) = mpsc::unbounded_channel();
    let hang = move |_: Request<Incoming>| {
        let tells = tells.clone();
        async move {
            tells.send("begun").unwrap();
            let _dropped = Dropped(tells);
            pending::<Result<Response<Full<Bytes>>, Infallible>>().await
        }
    };
    let address = serve(ServiceBuilder::new().layer(layer).service_fn(hang)).await;
    for path in ["/acme/journeys", "/acme/segments"] {
        let connection = blocking(move || {
            let mut connection = Connection::open(address).unwrap();
            connection.send_raw(&request("POST", path, None, &[], "")).unwrap();
            connection
        })
        .await;
        assert_eq!(told.recv().await, Some("begun"));
        drop(connection);
        assert_eq!(told.recv().await, Some("dropped"));
    }
    // Abandoned units are settled in their order: those of before would be, too.
    world.settled("segments").await;
    assert_eq!(world.state("journeys").await, State { believed: 0, reserved: 1 });
}

struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn only_what_a_rule_maps_is_charged() {
    let world = World::new(&[("segments", 1)], |builder| builder).await;
    let layer = QuotaLayer::new(world.quota.clone(), plain(&world)).unwrap();
    let address = serve(ServiceBuilder::new().layer(layer).service_fn(obey)).await;
    world.set("segments", 1);
    for _ in 0..20 {
        for method in ["OPTIONS", "HEAD", "GET", "PUT", "DELETE", "PATCH", "post"] {
            send(address, method, "/acme/segments", &[]).await.expect(201);
        }
        send(address, "POST", "/acme/journeys", &[]).await.expect(201);
    }
    assert_eq!(world.state("segments").await, State { believed: 1, reserved: 0 });
    send(address, "POST", "/acme/segments", &[]).await.refused(429, "QUOTA_EXCEEDED");
    assert!(
        RouteMap::builder(world.quota.catalog())
            .rule(rule("head", "/{ws}").method(Method::HEAD).charge(Charge::of("segments")))
            .build()
            .is_err()
    );
}

#[tokio::test]
async fn a_refusal_can_be_made_to_measure() {
    let world = World::new(&[("segments", 2)], |builder| builder).await;
    let custom = |refusal: &Refusal, request: &Parts| {
        let text = format!("{} {} of {}", request.uri.path(), refusal.current_usage, refusal.limit);
        Response::new(Bytes::from(text))
    };
    let layer = QuotaLayer::new(world.quota.clone(), plain(&world))
        .unwrap()
        .refusal_response(custom)
        .refusal_status(StatusCode::PAYMENT_REQUIRED)
        .rate_limit_headers(true);
    // A layer outside sees the refusal itself.
    let seen: Arc<Mutex<Vec<Refusal>>> = Arc::default();
    let sees = Arc::clone(&seen);
    let note = move |response: Response<ResponseBody<Full<Bytes>>>| {
        sees.lock().unwrap().extend(response.extensions().get::<Refusal>().cloned());
        response
    };
    let service = ServiceBuilder::new().map_response(note).layer(layer).service_fn(obey);
    let address = serve(service).await;
    let first = send(address, "POST", "/acme/segments", &[]).await.expect(201);
    let fields =
        |answer: &Answer| ["ratelimit-policy", "ratelimit"].map(|name| answer.header(name).unwrap().to_owned());
    assert_eq!(fields(&first), ["\"segments\";q=2", "\"segments\";r=1"]);
    send(address, "POST", "/acme/segments", &[]).await.expect(201);
    world.set("segments", 2);
    let refused = send(address, "POST", "/acme/segments", &[]).await.expect(402);
    assert_eq!(refused.text(), "/acme/segments 2 of 2");
    assert_eq!(fields(&refused), ["\"segments\";q=2", "\"segments\";r=0"]);
    // What is not mapped has no such headers.
    assert_eq!(send(address, "POST", "/other", &[]).await.header("ratelimit"), None);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.iter().map(|it| (it.requested, it.resource.name())).collect::<Vec<_>>(), [(1, "segments")]);
}

#[tokio::test]
async fn every_decision_has_a_receipt() {
    let world = World::new(&[("segments", 2), ("users", 10)], |builder| builder).await;
    let both = rule("both", "/{ws}/segments")
        .charge(Charge::of("users").amount(Amount::Constant(3)))
        .charge(Charge::of("segments"));
    let layer = QuotaLayer::new(world.quota.clone(), routes(&world, [both])).unwrap().receipts(true);
    let seen: Arc<Mutex<Vec<DecisionReceipt>>> = Arc::default();
    let sees = Arc::clone(&seen);
    let note = move |response: Response<ResponseBody<Full<Bytes>>>| {
        sees.lock().unwrap().extend(response.extensions().get::<DecisionReceipt>().cloned());
        response
    };
    let service = ServiceBuilder::new().map_response(note).layer(layer).service_fn(obey);
    let address = serve(service).await;
    send(address, "POST", "/acme/segments", &[]).await.expect(201);
    world.set("users", 3);
    world.set("segments", 2);
    send(address, "POST", "/acme/segments", &[]).await.expect(201);
    send(address, "POST", "/acme/segments", &[]).await.refused(429, "QUOTA_EXCEEDED");
    send(address, "POST", "/other", &[]).await;

    let receipts = std::mem::take(&mut *seen.lock().unwrap());
    let told: Vec<_> = receipts
        .iter()
        .map(|receipt| {
            assert_eq!((receipt.workspace.as_str(), receipt.promise), ("acme", Promise::Exact));
            let of = |it: &Evidence| {
                assert!(it.count_age.unwrap() < Duration::from_secs(60));
                // Each of the two limits was set by itself.
                assert_eq!(it.limit_version, Some(2));
                (it.resource.name().to_owned(), it.requested, it.limit, it.counted, it.posted, it.leased)
            };
            (receipt.admitted, receipt.evidence.iter().map(of).collect::<Vec<_>>())
        })
        .collect();
    let segments =
        |counted, posted, leased| ("segments".to_owned(), 1, Some(Limit::of(2)), Some(counted), posted, leased);
    let users = |posted| ("users".to_owned(), 3, Some(Limit::of(10)), Some(0), posted, 3);
    let expected = [
        (true, vec![users(0), segments(0, 0, 1)]),
        (true, vec![users(3), segments(0, 1, 1)]),
        (false, vec![segments(2, 0, 0)]),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn several_charges_are_all_or_none() {
    let world = World::new(&[("segments", 3), ("users", 10), ("journeys", 100)], |builder| builder).await;
    let all = rule("all", "/{ws}/import")
        .charge(Charge::of("users").amount(Amount::Constant(5)))
        .charge(Charge::of("segments"))
        .charge(Charge::of("journeys").amount(Amount::Constant(7)));
    let layer = QuotaLayer::new(world.quota.clone(), routes(&world, [all])).unwrap().rate_limit_headers(true);
    let address = serve(ServiceBuilder::new().layer(layer).service_fn(obey)).await;
    let answer = send(address, "POST", "/acme/import", &[]).await.expect(201);
    let left = answer.header("ratelimit").unwrap();
    for field in ["\"users\";r=5", "\"segments\";r=2", "\"journeys\";r=93"] {
        assert!(left.contains(field), "{left}");
    }
    let all = ["users", "segments", "journeys"];
    let posted = |believed| State { believed, reserved: 0 };
    assert_eq!(world.states(&all).await, [posted(5), posted(1), posted(7)]);
    // One of the three is too much: the other two stay as they were.
    world.set("users", 6);
    world.states(&all).await;
    let refused = send(address, "POST", "/acme/import", &[]).await;
    refused.refused(429, "QUOTA_EXCEEDED");
    assert_eq!(refused.json()["details"]["resourceType"], "users");
    assert_eq!(world.states(&all).await, [posted(6), posted(0), posted(0)]);
}

#[tokio::test]
async fn without_a_record_there_is_no_decision() {
    let world = World::new(&[], |builder| builder.provisioning(Provisioning::Explicit)).await;
    let layer = QuotaLayer::new(world.quota.clone(), plain(&world)).unwrap();
    let address = serve(ServiceBuilder::new().layer(layer).service_fn(obey)).await;
    for _ in 0..3 {
        send(address, "POST", "/acme/segments", &[]).await.refused(404, "QUOTA_NOT_FOUND");
    }
    world.limit("segments", 1).await;
    send(address, "POST", "/acme/segments", &[]).await.expect(201);
}

#[tokio::test]
async fn the_hosts_authentication_is_heeded() {
    let world = World::new(&[("segments", 50)], |builder| builder).await;
    let layer = QuotaLayer::new(world.quota.clone(), plain(&world)).unwrap();
    let authenticate = |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Principal::member("somebody", ["globex"]));
        request
    };
    let address = serve(ServiceBuilder::new().map_request(authenticate).layer(layer).service_fn(obey)).await;
    send(address, "POST", "/acme/segments", &[]).await.refused(403, "INSUFFICIENT_PERMISSIONS");
    send(address, "POST", "/globex/segments", &[]).await.expect(201);
    assert_eq!(world.state("segments").await.believed, 0);
}

#[test]
fn a_map_that_needs_bodies_needs_a_layer_that_reads_them() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new(&[], |builder| builder));
    let _inside = runtime.enter();
    let error = QuotaLayer::new(world.quota.clone(), bodies(&world)).unwrap_err();
    assert!(error.is_config() && error.to_string().contains("reading_bodies"), "{error}");
}

fn bodies(world: &World) -> RouteMap {
    routes(world, [rule("batch", "/{ws}/users").charge(Charge::of("users").amount(Amount::length("/users")))])
}

type Seen = Arc<Mutex<Option<(Bytes, Option<HeaderMap>, Option<u64>)>>>;

#[tokio::test]
async fn bodies_are_handed_on_byte_for_byte() {
    let seed = seed();
    let world = World::new(&[("users", 1_000_000)], |builder| builder).await;
    let layer = QuotaLayer::reading_bodies(world.quota.clone(), bodies(&world)).unwrap();
    let seen: Seen = Arc::default();
    let upstream = Arc::clone(&seen);
    let keep = move |request: Request<tower_quota::RequestBody<Incoming>>| {
        let upstream = Arc::clone(&upstream);
        async move {
            let exact = request.body().size_hint().exact();
            let whole = request.into_body().collect().await.unwrap();
            let trailers = whole.trailers().cloned();
            *upstream.lock().unwrap() = Some((whole.to_bytes(), trailers, exact));
            Ok::<_, Infallible>(Response::new(Full::from("kept")))
        }
    };
    let address = serve(ServiceBuilder::new().layer(layer).service_fn(keep)).await;
    let texts = [
        "{\"users\":[]}".to_owned(),
        "\u{feff}{\"users\": [1]}".to_owned(),
        " \r\n\t{ \"users\" :[ {\"name\":\"\\u00e4\\ud83d\\ude00 ä😀\"} ],\"users\":[1,2]  }\n ".to_owned(),
        format!("{{\"users\": [{}0], \"text\": \"{}\"}}", "0, ".repeat(5000), "x".repeat(100_000)),
    ];
    for round in 0..40_usize {
        let mut random = Random::new(seed, &[round]);
        // A mapped path has JSON; one that isn't is handed on whatever it has.
        let (path, body) = match round % 2 {
            0 => ("/acme/users", random.pick(&texts).clone().into_bytes()),
            _ => ("/acme/files", (0..random.below(70_000)).map(|_| random.next().to_le_bytes()[0]).collect()),
        };
        let in_chunks = round % 4 < 2;
        let mut bytes = format!("POST {path} HTTP/1.1\r\nhost: h\r\n").into_bytes();
        if in_chunks {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n");
            let mut rest = &body[..];
            while !rest.is_empty() {
                let (chunk, others) = rest.split_at(rest.len().min(1 + random.below(9000)));
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
                rest = others;
            }
            bytes.extend_from_slice(b"0\r\nx-sum: 42\r\n\r\n");
        } else {
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
        }
        let answer = blocking(move || {
            let mut connection = Connection::open(address).unwrap();
            connection.send_raw(&bytes).unwrap();
            connection.read().unwrap()
        })
        .await;
        assert_eq!(answer.status, 200, "{path}: {answer}");
        let (kept, trailers, exact) = seen.lock().unwrap().take().unwrap();
        assert!(kept == body, "round {round}: {} bytes became {}", body.len(), kept.len());
        let sum = trailers.as_ref().and_then(|trailers| trailers.get("x-sum"));
        assert_eq!(sum, in_chunks.then_some(&HeaderValue::from_static("42")), "round {round}");
        if !in_chunks {
            assert_eq!(exact, Some(u64::try_from(body.len()).unwrap()));
        }
    }
}
