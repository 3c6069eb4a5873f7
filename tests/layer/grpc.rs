//! tonic, with its own client.

use std::net::SocketAddr;

use http::Method;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request};
use tower_quota::{Charge, EnforcementMode, QuotaLayer, RouteMap, Rule, WorkspaceSource};

use crate::rows::{State, World};
use crate::shop::{Client, Shop, all};

fn layer(world: &World) -> QuotaLayer {
    let rule = |name: &str, path: &str| {
        Rule::new(name, Method::POST, path)
            .workspace(WorkspaceSource::header(http::HeaderName::from_static("x-workspace")))
            .charge(Charge::of("segments"))
    };
    let routes = RouteMap::builder(world.quota.catalog())
        .strict_prefix("/shop.v1.Segments")
        .rule(rule("create", "/shop.v1.Segments/Create"))
        .rule(rule("import", "/shop.v1.Segments/Import"))
        .build()
        .unwrap();
    QuotaLayer::new(world.quota.clone(), routes).unwrap()
}

async fn listen(world: &World) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().layer(layer(world)).add_service(Shop);
    tokio::spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
    address
}

/// Statuses that say that the call was refused: nothing came of it.
const VOID: [u8; 7] = [3, 5, 6, 7, 9, 12, 16];
/// Statuses that say nothing about what came of it. 8 and 11 are also of answers that were too large to be sent.
const UNKNOWN: [u8; 9] = [1, 2, 4, 8, 10, 11, 13, 14, 15];

#[tokio::test]
async fn the_status_of_a_call_settles_it() {
    let world = World::new(&[("segments", 50)], |builder| builder).await;
    let mut client = Client::connect(listen(&world).await).await;
    assert_eq!(client.create(0).await.unwrap(), b"done");
    assert_eq!(world.state("segments").await, State { believed: 1, reserved: 0 });
    assert_eq!(all(client.import(0).await.unwrap()).await.unwrap(), 3);
    assert_eq!(world.state("segments").await, State { believed: 1, reserved: 0 });
    for code in VOID {
        assert_eq!(client.create(code).await.unwrap_err().code(), Code::from_i32(code.into()));
        assert_eq!(world.state("segments").await, State { believed: 0, reserved: 0 }, "{code}");
        // In the trailers, after messages.
        assert_eq!(all(client.import(code).await.unwrap()).await.unwrap_err().code(), Code::from_i32(code.into()));
        assert_eq!(world.state("segments").await, State { believed: 0, reserved: 0 }, "{code}");
    }
    let mut unknown = 0;
    for code in UNKNOWN {
        client.create(code).await.unwrap_err();
        all(client.import(code).await.unwrap()).await.unwrap_err();
        unknown += 2;
        assert_eq!(world.state("segments").await, State { believed: 0, reserved: unknown }, "{code}");
    }
    world.settled("segments").await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_unknown() {
    let world = World::new(&[("segments", 50)], |builder| builder).await;
    let address = listen(&world).await;
    let mut client = Client::connect(address).await;
    let mut stream = client.import(99).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap(), [0]);
    // As long as it goes on, its unit is held.
    assert_eq!(world.state("segments").await, State { believed: 0, reserved: 1 });
    drop(stream);
    world.settled("segments").await;
    // The whole connection.
    let mut stream = client.import(99).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap(), [0]);
    drop((stream, client));
    world.settled("segments").await;
    // Its unit is taken for a row, until a count says otherwise.
    assert_eq!(world.state("segments").await, State { believed: 1, reserved: 0 });
    assert_eq!(world.state("segments").await, State { believed: 0, reserved: 0 });
}

#[tokio::test]
async fn a_refusal_is_resource_exhausted() {
    let world = World::new(&[("segments", 2)], |builder| builder).await;
    let mut client = Client::connect(listen(&world).await).await;
    for rows in 1..=2 {
        client.create(0).await.unwrap();
        world.set("segments", rows);
    }
    for _ in 0..3 {
        let refused = client.create(0).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "Segment quota exceeded"));
        assert_eq!(client.import(0).await.unwrap_err().code(), Code::ResourceExhausted);
    }
    // Another call on the same connection.
    world.set("segments", 1);
    client.create(0).await.unwrap();
    // Without a workspace, and with two.
    let nameless = client.send("/shop.v1.Segments/Create", Request::new(vec![0])).await.unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument, "{nameless:?}");
    assert!(nameless.message().contains("x-workspace"), "{nameless:?}");
    let mut two = Client::request(0);
    two.metadata_mut().append("x-workspace", "globex".parse().unwrap());
    let two = client.send("/shop.v1.Segments/Create", two).await.unwrap_err();
    assert_eq!(two.code(), Code::InvalidArgument, "{two:?}");
    // What no rule maps.
    let list = "/shop.v1.Segments/List";
    client.send(list, Client::request(0)).await.unwrap();
    world.quota.set_mode(EnforcementMode::Strict);
    assert_eq!(client.send(list, Client::request(0)).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_refusal_is_known_as_one_to_a_layer_around() {
    let (outer, inner) =
        (World::new(&[("segments", 50)], |builder| builder), World::new(&[("segments", 0)], |builder| builder));
    let (outer, inner) = (outer.await, inner.await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().layer(layer(&outer)).layer(layer(&inner)).add_service(Shop);
    tokio::spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
    let refused = Client::connect(address).await.create(0).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, "Segment quota exceeded"));
    assert_eq!(outer.state("segments").await, State { believed: 0, reserved: 0 });
}

#[tokio::test]
async fn grpc_inside_of_axum() {
    let world = World::new(&[("segments", 1)], |builder| builder).await;
    // tonic's routes end in a catch-all for each service.
    let app = Routes::new(Shop).into_axum_router().layer(layer(&world));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut client = Client::connect(address).await;
    client.create(0).await.unwrap();
    world.set("segments", 1);
    assert_eq!(client.create(0).await.unwrap_err().code(), Code::ResourceExhausted);
}
