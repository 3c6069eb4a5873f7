//! tonic, with its own client.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use http::Method;
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::Service;
use tower_quota::{Charge, EnforcementMode, QuotaLayer, RouteMap, Rule, WorkspaceSource};

use crate::rows::{State, World};

/// Messages are bytes.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}

/// `Create` answers once, `Import` with a stream. The request's one byte is the status that the call ends with.
#[derive(Clone)]
struct Shop;

impl NamedService for Shop {
    const NAME: &'static str = "shop.v1.Segments";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<tonic::body::Body>> for Shop {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Plain);
            Ok(match request.uri().path() {
                "/shop.v1.Segments/Import" => grpc.server_streaming(Import, request).await,
                _ => grpc.unary(Create, request).await,
            })
        })
    }
}

fn ended(code: u8) -> Result<Vec<u8>, Status> {
    match Code::from_i32(code.into()) {
        Code::Ok => Ok(b"done".to_vec()),
        code => Err(Status::new(code, "as asked")),
    }
}

struct Create;

impl tonic::server::UnaryService<Vec<u8>> for Create {
    type Response = Vec<u8>;
    type Future = Answer<Result<Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move { ended(request.into_inner()[0]).map(Response::new) })
    }
}

struct Import;

impl tonic::server::ServerStreamingService<Vec<u8>> for Import {
    type Response = Vec<u8>;
    type ResponseStream = BoxStream<Vec<u8>>;
    type Future = Answer<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Vec<u8>>) -> Self::Future {
        Box::pin(async move {
            let code = request.into_inner()[0];
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                for at in 0..3_u8 {
                    let _ = sender.send(Ok(vec![at])).await;
                }
                match code {
                    // Never ends.
                    99 => sender.closed().await,
                    0 => {}
                    code => drop(sender.send(ended(code)).await),
                }
            });
            let stream: BoxStream<Vec<u8>> = Box::pin(ReceiverStream::new(receiver));
            Ok(Response::new(stream))
        })
    }
}

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

struct Client(tonic::client::Grpc<Channel>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self(tonic::client::Grpc::new(channel))
    }

    fn request(code: u8) -> Request<Vec<u8>> {
        let mut request = Request::new(vec![code]);
        request.metadata_mut().insert("x-workspace", "acme".parse().unwrap());
        request
    }

    async fn send(&mut self, method: &'static str, request: Request<Vec<u8>>) -> Result<Vec<u8>, Status> {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static(method);
        Ok(self.0.unary(request, path, Plain).await?.into_inner())
    }

    async fn create(&mut self, code: u8) -> Result<Vec<u8>, Status> {
        self.send("/shop.v1.Segments/Create", Self::request(code)).await
    }

    async fn import(&mut self, code: u8) -> Result<Streaming<Vec<u8>>, Status> {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static("/shop.v1.Segments/Import");
        Ok(self.0.server_streaming(Self::request(code), path, Plain).await?.into_inner())
    }
}

/// Reads a stream to its end.
async fn all(mut stream: Streaming<Vec<u8>>) -> Result<usize, Status> {
    let mut messages = 0;
    while stream.message().await?.is_some() {
        messages += 1;
    }
    Ok(messages)
}

/// Statuses that say that the call was refused: nothing came of it.
const VOID: [u8; 9] = [3, 5, 6, 7, 8, 9, 11, 12, 16];
/// Statuses that say nothing about what came of it.
const UNKNOWN: [u8; 7] = [1, 2, 4, 10, 13, 14, 15];

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
