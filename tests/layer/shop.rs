//! A gRPC service that ends its calls as it is asked to, and its client; tonic's, both of them.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::BoxStream;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tower::Service;

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
pub(crate) struct Shop;

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

pub(crate) struct Client(tonic::client::Grpc<Channel>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self(tonic::client::Grpc::new(channel))
    }

    pub(crate) fn request(code: u8) -> Request<Vec<u8>> {
        let mut request = Request::new(vec![code]);
        request.metadata_mut().insert("x-workspace", "acme".parse().unwrap());
        request
    }

    pub(crate) async fn send(&mut self, method: &'static str, request: Request<Vec<u8>>) -> Result<Vec<u8>, Status> {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static(method);
        Ok(self.0.unary(request, path, Plain).await?.into_inner())
    }

    pub(crate) async fn create(&mut self, code: u8) -> Result<Vec<u8>, Status> {
        self.send("/shop.v1.Segments/Create", Self::request(code)).await
    }

    pub(crate) async fn import(&mut self, code: u8) -> Result<Streaming<Vec<u8>>, Status> {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static("/shop.v1.Segments/Import");
        Ok(self.0.server_streaming(Self::request(code), path, Plain).await?.into_inner())
    }
}

/// Reads a stream to its end.
pub(crate) async fn all(mut stream: Streaming<Vec<u8>>) -> Result<usize, Status> {
    let mut messages = 0;
    while stream.message().await?.is_some() {
        messages += 1;
    }
    Ok(messages)
}
