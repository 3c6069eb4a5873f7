//! A tonic 0.14 server behind the layer. The workspace comes from the metadata; a call too many ends with
//! `RESOURCE_EXHAUSTED`, and the trailers of the others say whether their unit became a row.
//!
//! `cargo run --example tonic` starts the server, calls it from the same process, prints what the client sees, and
//! ends. With `-- serve` it goes on serving on `127.0.0.1:3002` (or `LISTEN_ADDR`), and curl can be the client: a
//! message is a name as plain text, behind five bytes that tell its length.
//!
//! ```text
//! printf '\0\0\0\0\005Quiet' | curl --http2-prior-knowledge 127.0.0.1:3002/shop.v1.Segments/Create \
//!     -H 'content-type: application/grpc' -H 'te: trailers' -H 'x-workspace: globex' --data-binary @- -v -o -
//! ```
//!
//! Service and codec are written by hand, so that the example needs no `protoc`; the layer is used in the same way with
//! generated code.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use http::{HeaderName, Method};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};
use tower_quota::{
    Charge, ClosureUsage, Limit, MemoryStore, Quota, QuotaLayer, ResourceCatalog, ResourceSpec, RouteMap, Rule,
    Settling, WorkspaceSource,
};

const CREATE: &str = "/shop.v1.Segments/Create";
const WORKSPACE: &str = "x-workspace";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let segments = Segments::default();

    // One resource type, of which a workspace may have two.
    let catalog =
        ResourceCatalog::empty().resource(ResourceSpec::new("segments", "maxSegments", Limit::of(2))).build()?;
    let routes = RouteMap::builder(&catalog)
        .rule(
            // A gRPC method is a path, metadata are headers.
            Rule::new("create-segment", Method::POST, CREATE)
                .workspace(WorkspaceSource::header(HeaderName::from_static(WORKSPACE)))
                .charge(Charge::of("segments")),
        )
        .build()?;
    let counted = segments.clone();
    let quota = Quota::builder(catalog)
        .store(MemoryStore::new())
        .usage(ClosureUsage::new(move |workspace, _resource, _at_most| {
            let rows = counted.count(workspace.as_str());
            async move { Ok::<_, Infallible>(rows) }
        }))
        // A handler that is dropped has either made its row or never will: there is nothing to wait for.
        .settling(Settling::barrier(|| async { Ok::<_, Infallible>(()) }))
        .build()?;

    let serve = env::args().any(|argument| argument == "serve");
    let address = if serve { "127.0.0.1:3002" } else { "127.0.0.1:0" };
    let incoming = TcpIncoming::bind(env::var("LISTEN_ADDR").unwrap_or_else(|_| address.to_owned()).parse()?)?;
    let address = format!("http://{}", incoming.local_addr()?);
    let server = Server::builder()
        .layer(QuotaLayer::new(quota, routes)?)
        .add_service(SegmentsServer(segments))
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    println!("listening on {address}, 2 segments per workspace");

    let channel = Channel::from_shared(address)?.connect().await?;
    call(&channel, "acme", "Big spenders").await;
    call(&channel, "acme", "Big spenders").await;
    call(&channel, "acme", "Newcomers").await;
    call(&channel, "acme", "One too many").await;
    call(&channel, "globex", "Regulars").await;

    if serve {
        server.await??;
    }
    Ok(())
}

/// The client: asks for one segment, and prints what comes back.
async fn call(channel: &Channel, workspace: &'static str, name: &str) {
    let mut client = tonic::client::Grpc::new(channel.clone());
    if let Err(error) = client.ready().await {
        return println!("no connection: {error}");
    }
    let mut request = Request::new(name.to_owned());
    request.metadata_mut().insert(WORKSPACE, tonic::metadata::MetadataValue::from_static(workspace));
    match client.unary(request, PathAndQuery::from_static(CREATE), TextCodec).await {
        Ok(created) => println!("{workspace}, {name:?}: created as {}", created.into_inner()),
        Err(status) => println!("{workspace}, {name:?}: {:?}, {:?}", status.code(), status.message()),
    }
}

/// The host's service, with its rows. It knows nothing of quotas.
#[derive(Clone, Default)]
struct Segments(Arc<Mutex<HashMap<String, HashSet<String>>>>);

impl Segments {
    fn rows(&self) -> MutexGuard<'_, HashMap<String, HashSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, workspace: &str) -> u64 {
        self.rows().get(workspace).map_or(0, |rows| u64::try_from(rows.len()).unwrap_or(u64::MAX))
    }

    fn create(&self, request: Request<String>) -> Result<Response<String>, Status> {
        let workspace = request.metadata().get(WORKSPACE).and_then(|workspace| workspace.to_str().ok());
        let workspace = workspace.ok_or_else(|| Status::invalid_argument("x-workspace is missing"))?.to_owned();
        let name = request.into_inner();
        let mut rows = self.rows();
        let rows = rows.entry(workspace).or_default();
        if !rows.insert(name.clone()) {
            // The layer reads in the answer that there is no new row, and gives the unit back.
            return Err(Status::already_exists("this workspace has one of that name"));
        }
        Ok(Response::new(format!("{name} ({})", rows.len())))
    }
}

impl UnaryService<String> for Segments {
    type Response = String;
    type Future = BoxFuture<Response<String>, Status>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let created = self.create(request);
        Box::pin(async { created })
    }
}

/// What generated code calls `SegmentsServer`: from the path to the method.
#[derive(Clone)]
struct SegmentsServer(Segments);

impl NamedService for SegmentsServer {
    const NAME: &'static str = "shop.v1.Segments";
}

impl Service<http::Request<Body>> for SegmentsServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let segments = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != CREATE {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            Ok(tonic::server::Grpc::new(TextCodec).unary(segments, request).await)
        })
    }
}

/// Messages that are plain text.
#[derive(Clone, Copy)]
struct TextCodec;

impl Codec for TextCodec {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for TextCodec {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for TextCodec {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        String::from_utf8(bytes.into()).map(Some).map_err(|_| Status::invalid_argument("a name is UTF-8"))
    }
}
