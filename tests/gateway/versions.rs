//! HTTP/1.1 and HTTP/2, in the clear and with TLS, on either side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower_quota::GatewayOptions;

use crate::front::Front;
use crate::support::until;
use crate::upstream::Upstream;

/// What a server has seen of its requests.
type Seen = Arc<Mutex<Vec<(Version, String, HeaderMap)>>>;

/// Sends bodies back with their trailers, and notes what it sees. With TLS where it has a certificate.
async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, seen: Seen) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (seen, tls) = (Arc::clone(&seen), tls.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (head, body) = request.into_parts();
                let authority = head.uri.authority().map(ToString::to_string).unwrap_or_default();
                seen.lock().unwrap().push((head.version, authority, head.headers));
                let mut response = Response::new(body);
                response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
                async { Ok::<_, std::convert::Infallible>(response) }
            });
            let http = auto::Builder::new(TokioExecutor::new());
            let _ = match tls {
                None => http.serve_connection(TokioIo::new(stream), service).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => return,
                },
            };
        });
    }
}

/// A gateway to such a server; `options` are by its URL and certificate.
fn front(tls: Option<&[&str]>, options: impl FnOnce(String, String) -> GatewayOptions) -> (Front, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let front = Front::to_be_served(|runtime| {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let Some(protocols) = tls else {
            runtime.spawn(serve(listener, None, noted));
            return options(format!("http://localhost:{port}"), String::new());
        };
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())
                .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        runtime.spawn(serve(listener, Some(TlsAcceptor::from(Arc::new(config))), noted));
        options(format!("https://localhost:{port}"), made.cert.pem())
    });
    (front, seen)
}

fn trusting(url: String, pem: String) -> GatewayOptions {
    GatewayOptions::upstream(url).root_certificate_pem(pem)
}

/// Sends a body with trailers over HTTP/2, and answers what comes back.
async fn send(front: &Front, target: &str) -> (Response<()>, Bytes, Option<HeaderMap>) {
    let stream = TcpStream::connect(front.address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("12"));
    let frames = [Frame::data(Bytes::from("one")), Frame::data(Bytes::from("two")), Frame::trailers(trailers)];
    let frames = tonic::codegen::tokio_stream::iter(frames.map(Ok::<_, std::convert::Infallible>));
    let request = Request::put(target).header("te", "trailers").header("trailer", "x-sum");
    let response = client.send_request(request.body(StreamBody::new(frames)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    let whole = body.collect().await.unwrap();
    let trailers = whole.trailers().cloned();
    (Response::from_parts(head, ()), whole.to_bytes(), trailers)
}

#[track_caller]
fn comes_back(front: &Front) {
    let (response, body, trailers) = front.runtime.block_on(send(front, "http://api.example.com/x"));
    assert_eq!((response.status().as_u16(), &body[..]), (200, &b"onetwo"[..]));
    assert_eq!(trailers.unwrap()["x-sum"], "12");
}

#[test]
fn http2_on_one_side_or_both() {
    for http2 in [false, true] {
        let (front, seen) = front(None, |url, _| GatewayOptions::upstream(url).http2(http2));
        comes_back(&front);
        let (version, authority, headers) = seen.lock().unwrap().remove(0);
        // By the name that the client uses.
        let host = headers.get("host").map(|host| host.to_str().unwrap().to_owned());
        match http2 {
            true => assert_eq!((version, authority.as_str(), host), (Version::HTTP_2, "api.example.com", None)),
            false => assert_eq!((version, host.as_deref()), (Version::HTTP_11, Some("api.example.com"))),
        }
        assert_eq!(headers["x-forwarded-host"], "api.example.com");
        // HTTP/1.1 clients don't notice.
        let answer = front.connect().send("PUT", "/x", "text").expect(200);
        assert_eq!(answer.text(), "text");
    }
}

#[test]
fn the_upstreams_own_name() {
    let (front, seen) = front(None, |url, _| GatewayOptions::upstream(url).http2(true).upstream_host(true));
    comes_back(&front);
    let (_, authority, headers) = seen.lock().unwrap().remove(0);
    assert!(authority.starts_with("localhost:"), "{authority}");
    assert_eq!(headers["forwarded"], "for=127.0.0.1;host=\"api.example.com\";proto=http");
}

#[test]
fn tls_to_the_upstream() {
    let (one, seen) = front(Some(&["h2", "http/1.1"]), trusting);
    comes_back(&one);
    assert_eq!(seen.lock().unwrap()[0].0, Version::HTTP_11);
    let (two, seen) = front(Some(&["h2", "http/1.1"]), |url, pem| trusting(url, pem).http2(true));
    comes_back(&two);
    comes_back(&two);
    assert_eq!(seen.lock().unwrap()[1].0, Version::HTTP_2);
    // It agrees on no HTTP/2, or is somebody else.
    let (none, _) = front(Some(&["http/1.1"]), |url, pem| trusting(url, pem).http2(true));
    none.connect().send("GET", "/x", "").refused(502, "BAD_GATEWAY");
    // Nobody vouches for it.
    let (stranger, _) = front(Some(&["http/1.1"]), |url, _| GatewayOptions::upstream(url));
    stranger.connect().send("GET", "/x", "").refused(502, "BAD_GATEWAY");
}

#[test]
fn an_http2_connection_that_has_ended_is_replaced() {
    // It gives up the connection after each request.
    let upstream = Upstream::start(|talk| {
        talk.up_to("\r\n\r\nSM\r\n\r\n")?;
        // SETTINGS, and their acknowledgement.
        talk.send([0, 0, 0, 4, 0, 0, 0, 0, 0])?;
        talk.send([0, 0, 0, 4, 1, 0, 0, 0, 0])?;
        // Up to the head of a request.
        loop {
            let head = talk.exactly(9)?;
            talk.exactly(usize::from(head[1]) << 8 | usize::from(head[2]))?;
            if head[3] == 1 {
                break;
            }
        }
        // `:status: 200` and the end of the stream; GOAWAY.
        talk.send([0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88])?;
        talk.send([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0])?;
        talk.outlast()
    });
    let front = Front::with(GatewayOptions::upstream(upstream.url()).http2(true));
    for at in 1..=5 {
        // A request may still meet one that is just ending.
        until("it is answered again", || front.connect().send("GET", "/x", "").status == 200);
        until("it is closed", || upstream.closed() >= at);
    }
    assert!(upstream.received().len() >= 5);
}

#[test]
fn many_requests_share_an_http2_connection() {
    let (front, seen) = front(None, |url, _| GatewayOptions::upstream(url).http2(true));
    let answers = crate::support::client::together(8, 7, 0, |thread, _| {
        let mut connection = front.connect();
        (0..50).all(|at| {
            connection.send("PUT", "/x", &format!("{thread}-{at}")).expect(200).text() == format!("{thread}-{at}")
        })
    });
    assert!(answers.into_iter().all(|all| all));
    assert_eq!(seen.lock().unwrap().len(), 400);
}

#[test]
fn a_short_body_over_http2_is_whole() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    let front = Front::of(&upstream);
    front.runtime.block_on(async {
        let stream = TcpStream::connect(front.address).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://a/x").body(Full::new(Bytes::from("x"))).unwrap();
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    });
}

#[test]
fn who_reads_slowly_holds_back_nobody_else() {
    const PIECE: usize = 16 << 10;
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    // Endless for the slow ones; more than any window is in question for the others.
    let body = move |path: &str| {
        let (sent, pieces) = if path == "/slow" { (Some(Arc::clone(&counted)), usize::MAX) } else { (None, 32) };
        StreamBody::new(tonic::codegen::tokio_stream::iter((0..pieces).map(move |_| {
            if let Some(sent) = &sent {
                sent.fetch_add(1, Ordering::SeqCst);
            }
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(&[b'x'; PIECE])))
        })))
    };
    let connections = Arc::new(AtomicU64::new(0));
    let accepted = Arc::clone(&connections);
    let front = Front::to_be_served(|runtime| {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let body = body.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path();
                    let mut response = Response::new(body(path));
                    if path != "/slow" {
                        response.headers_mut().insert("content-length", (32 * PIECE).into());
                    }
                    async { Ok::<_, std::convert::Infallible>(response) }
                });
                tokio::spawn(async move {
                    let http = auto::Builder::new(TokioExecutor::new());
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        GatewayOptions::upstream(url).http2(true)
    });
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut connection = front.connect();
            connection.send_raw(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            connection.read_head().unwrap().expect(200);
            connection
        })
        .collect();
    // They get no more when all is full on the way to them: somebody else is answered before that, and after it.
    let (mut connection, mut before, mut unchanged) = (front.connect(), 0, 0);
    while unchanged < 20 {
        let answer = connection.send("GET", "/other", "").expect(200);
        assert_eq!(answer.text().len(), 32 * PIECE);
        let now = sent.load(Ordering::SeqCst);
        unchanged = if now == before { unchanged + 1 } else { 0 };
        before = now;
    }
    assert_eq!((slow.len(), connections.load(Ordering::SeqCst)), (8, 1));
}
