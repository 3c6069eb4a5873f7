use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use http_body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

const BODY: &str = r#"{"event": "quota.warning", "workspace_id": "Zürich"}"#;

/// A task that ends with what started it.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a receiver was sent, by path.
type Seen = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

/// A body that begins with `head`, and has nothing more to say but doesn't end, or never stops.
struct Unending {
    head: Option<&'static [u8]>,
    tail: Option<Bytes>,
}

impl Body for Unending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.head.take().map(Bytes::from_static).or_else(|| self.tail.clone());
        next.map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
    }
}

fn response(status: u16, body: axum::body::Body) -> Response<axum::body::Body> {
    Response::builder().status(status).body(body).unwrap()
}

fn hanging(status: u16) -> Response<axum::body::Body> {
    response(status, axum::body::Body::new(Unending { head: Some(b"broken"), tail: None }))
}

fn endless(status: u16) -> Response<axum::body::Body> {
    let tail = Some(Bytes::from(vec![b'x'; 64 * 1024]));
    response(status, axum::body::Body::new(Unending { head: None, tail }))
}

fn pausing(status: u16, retry_after: &str) -> Response<axum::body::Body> {
    let mut response = response(status, "busy".into());
    response.headers_mut().insert(RETRY_AFTER, retry_after.parse().unwrap());
    response
}

async fn answer(State(seen): State<Seen>, request: Request<axum::body::Body>) -> Response<axum::body::Body> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = parts.uri.path().to_owned();
    seen.lock().unwrap().push((path.clone(), parts.headers, body));
    match path.as_str() {
        "/200" => {
            let mut response = response(200, "thanks".into());
            response.headers_mut().insert(SET_COOKIE, HeaderValue::from_static("session=1"));
            response
        }
        "/in-an-hour" => pausing(429, "3600"),
        "/in-a-year" => pausing(429, "31536000"),
        "/never" => pausing(503, "99999999999999999999999999"),
        "/at-a-date" => pausing(503, &httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600))),
        "/in-the-past" => pausing(503, "Sun, 06 Nov 1994 08:49:37 GMT"),
        "/no-pause" => pausing(429, "soon"),
        "/pause-of-another" => pausing(500, "3600"),
        "/lines" => response(500, "out of\r\nhooks\0".into()),
        "/hangs" => pending().await,
        "/hangs-in-body/200" => hanging(200),
        "/hangs-in-body/500" => hanging(500),
        "/endless/200" => endless(200),
        "/endless/500" => endless(500),
        path => {
            let status = path.rsplit('/').next().unwrap().parse().unwrap();
            let mut response = response(status, "".into());
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("/200"));
            response
        }
    }
}

struct Receiver {
    port: u16,
    seen: Seen,
    _running: Running,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Seen::default();
        let router = Router::new().route("/{*path}", post(answer)).with_state(Arc::clone(&seen));
        let running = Running(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
        Self { port, seen, _running: running }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn paths(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(path, ..)| path.clone()).collect()
    }
}

fn local() -> WebhookOptions {
    WebhookOptions::new().allow_networks(["127.0.0.0/8", "::1"])
}

async fn send(client: &WebhookClient, url: &str) -> Outcome {
    let secret = WebhookSecret::generate().unwrap();
    client.send(url, "msg_1", Timestamp::now(), BODY, &[secret]).await
}

fn failed(outcome: Outcome) -> (String, Option<Duration>) {
    match outcome {
        Outcome::Failed { error, retry_after } => (error, retry_after),
        other => panic!("not failed: {other:?}"),
    }
}

fn rejected(outcome: Outcome) -> String {
    match outcome {
        Outcome::Rejected { error } => error,
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test]
async fn the_receiver_can_check_what_it_is_sent() {
    let receiver = Receiver::start().await;
    let client = WebhookClient::new(&local()).unwrap();
    let (old, new) = (WebhookSecret::generate().unwrap(), WebhookSecret::generate().unwrap());
    let at = Timestamp::now();
    for _ in 0..2 {
        let outcome = client.send(&receiver.url("/200"), "msg_1", at, BODY, &[old.clone(), new.clone()]).await;
        assert_eq!(outcome, Outcome::Delivered { status: "200".into() });
    }
    let seen = receiver.seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    for (_, headers, body) in &*seen {
        for secret in [&old, &new] {
            Webhook::new(&secret.expose()).unwrap().verify(body, headers).unwrap();
        }
        assert_eq!(body, BODY);
        assert_eq!(headers["webhook-id"], "msg_1");
        assert_eq!(headers["webhook-timestamp"], at.as_second().to_string());
        assert_eq!(headers["webhook-signature"].to_str().unwrap().split(' ').count(), 2);
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        assert_eq!(headers[USER_AGENT], concat!("tower-quota/", env!("CARGO_PKG_VERSION")));
        assert!(!headers.contains_key("cookie"));
    }
}

#[tokio::test]
async fn answers_are_told_apart() {
    let receiver = Receiver::start().await;
    let client = WebhookClient::new(&local()).unwrap();
    for status in ["200", "202", "204", "299"] {
        let outcome = send(&client, &receiver.url(&format!("/{status}"))).await;
        assert_eq!(outcome, Outcome::Delivered { status: status.into() });
    }
    assert_eq!(send(&client, &receiver.url("/410")).await, Outcome::Gone { status: "410".into() });
    for (path, text) in [
        ("/400", "400 Bad Request"),
        ("/404", "404 Not Found"),
        ("/429", "429 Too Many Requests"),
        ("/500", "500 Internal Server Error"),
        ("/lines", "500 Internal Server Error: out of  hooks"),
    ] {
        assert_eq!(failed(send(&client, &receiver.url(path)).await), (text.into(), None));
    }
}

#[tokio::test]
async fn a_pause_is_honoured_up_to_a_day() {
    let receiver = Receiver::start().await;
    let client = WebhookClient::new(&local()).unwrap();
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86400));
    for (path, pause) in [
        ("/in-an-hour", Some(hour)),
        ("/in-a-year", Some(day)),
        ("/never", Some(day)),
        ("/in-the-past", Some(Duration::ZERO)),
        ("/no-pause", None),
        ("/pause-of-another", None),
    ] {
        let (error, retry_after) = failed(send(&client, &receiver.url(path)).await);
        assert_eq!(retry_after, pause, "{path}");
        assert!(error.ends_with(": busy"), "{error}");
    }
    let (_, retry_after) = failed(send(&client, &receiver.url("/at-a-date")).await);
    let pause = retry_after.unwrap();
    assert!(pause > hour - Duration::from_secs(600) && pause <= hour, "{pause:?}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let receiver = Receiver::start().await;
    let client = WebhookClient::new(&local()).unwrap();
    let redirects = ["/301", "/302", "/303", "/307", "/308"];
    for path in redirects {
        let (error, _) = failed(send(&client, &receiver.url(path)).await);
        assert_eq!(
            error,
            format!("{}: redirects are not followed; set the endpoint to where it redirects", &path[1..])
        );
    }
    assert_eq!(receiver.paths(), redirects);
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_nothing_up() {
    let receiver = Receiver::start().await;
    let client = WebhookClient::new(&local()).unwrap();
    for path in ["/hangs-in-body/200", "/endless/200"] {
        assert_eq!(send(&client, &receiver.url(path)).await, Outcome::Delivered { status: "200".into() });
    }
    let (error, _) = failed(send(&client, &receiver.url("/endless/500")).await);
    assert_eq!(error, format!("500 Internal Server Error: {}", "x".repeat(300)));
    // The head is there in time on a busy machine too; the rest never is.
    let client = WebhookClient::new(&local().timeout(Duration::from_secs(2))).unwrap();
    let (error, _) = failed(send(&client, &receiver.url("/hangs-in-body/500")).await);
    assert_eq!(error, "500 Internal Server Error: broken");

    let client = WebhookClient::new(&local().timeout(Duration::from_millis(200))).unwrap();
    let (error, _) = failed(send(&client, &receiver.url("/hangs")).await);
    assert_eq!(error, "no answer within 200ms");
    // A connection that is taken, and then nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for scheme in ["http", "https"] {
        let (error, _) = failed(send(&client, &format!("{scheme}://{}/", silent.local_addr().unwrap())).await);
        assert_eq!(error, "no answer within 200ms");
    }
}

#[tokio::test]
async fn nobody_there_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = WebhookClient::new(&local()).unwrap();
    let (error, _) = failed(send(&client, &format!("http://{address}/?token=s3cret")).await);
    assert!(error.contains("refused") && !error.contains("s3cret"), "{error}");
}

/// An HTTPS server that answers everything with 204, with a certificate for `name`.
async fn https(name: &str) -> (u16, CertifiedKey<KeyPair>, Running) {
    let key = generate_simple_self_signed([name.to_owned()]).unwrap();
    let private = PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = config.with_single_cert(vec![key.cert.der().clone()], private).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let running = Running(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that doesn't trust the certificate goes away.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = service_fn(async |_| Ok::<_, Infallible>(response(204, "".into())));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }));
    (port, key, running)
}

#[tokio::test]
async fn tls_needs_a_certificate_that_is_trusted_and_of_that_name() {
    let (port, key, _running) = https("localhost").await;
    let (_, other, _other) = https("localhost").await;
    let url = format!("https://localhost:{port}/");

    // Two in one file, as bundles are.
    let bundle = format!("{}{}", other.cert.pem(), key.cert.pem());
    let trusting = WebhookClient::new(&local().root_certificate_pem(bundle)).unwrap();
    assert_eq!(send(&trusting, &url).await, Outcome::Delivered { status: "204".into() });
    let (error, _) = failed(send(&trusting, &format!("https://127.0.0.1:{port}/")).await);
    assert!(error.contains("not valid for name"), "{error}");

    for options in [local(), local().root_certificate_pem(other.cert.pem())] {
        let (error, _) = failed(send(&WebhookClient::new(&options).unwrap(), &url).await);
        assert!(error.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn names_and_addresses_of_the_machine_are_left_unasked() {
    let receiver = Receiver::start().await;
    let client = WebhookClient::new(&WebhookOptions::new()).unwrap();
    for host in
        ["127.0.0.1", "localhost", "LOCALHOST", "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]"]
    {
        let url = format!("http://{host}:{}/200", receiver.port);
        assert!(client.check(&url).await.unwrap_err().is_invalid(), "{url}");
        let (error, _) = failed(send(&client, &url).await);
        assert!(error.contains("not on the public internet"), "{host}: {error}");
    }
    assert_eq!(receiver.paths(), Vec::<String>::new());
}

fn mixed(name: &str) -> BoxFuture<'_, io::Result<Vec<SocketAddr>>> {
    let addresses: &[&str] = match name {
        "mixed.example" => &["10.0.0.1:0", "[::1]:0", "127.0.0.1:0", "169.254.169.254:0"],
        "private.example" => &["10.0.0.1:0", "[::ffff:10.0.0.1]:0", "[fd00::1]:0"],
        "empty.example" => &[],
        _ => return Box::pin(async { Err(io::Error::other("no such name")) }),
    };
    Box::pin(async move { Ok(addresses.iter().map(|address| address.parse().unwrap()).collect()) })
}

#[tokio::test]
async fn only_addresses_that_were_checked_are_connected_to() {
    let receiver = Receiver::start().await;
    let options = WebhookOptions::new().allow_networks(["127.0.0.1"]);
    let client = WebhookClient::with_lookup(&options, mixed).unwrap();

    let addresses = client.resolver.clone().call("mixed.example".parse().unwrap()).await.unwrap();
    assert_eq!(addresses.collect::<Vec<_>>(), ["127.0.0.1:0".parse().unwrap()]);
    let url = format!("http://mixed.example:{}/200", receiver.port);
    assert_eq!(send(&client, &url).await, Outcome::Delivered { status: "200".into() });

    client.check("http://mixed.example/").await.unwrap();
    let (error, _) = failed(send(&client, "https://private.example/").await);
    assert!(error.contains("private.example: it is not on the public internet"), "{error}");
    let refused = client.check("https://private.example/").await.unwrap_err();
    assert!(refused.is_invalid() && refused.message() == error, "{refused}");
    for (name, told) in [("unknown.example", "no such name"), ("empty.example", "has no addresses")] {
        let (error, _) = failed(send(&client, &format!("http://{name}/")).await);
        assert!(error.contains(told), "{error}");
        // It may come to exist.
        client.check(&format!("http://{name}/")).await.unwrap();
    }
}

#[test]
fn urls_are_judged_before_they_are_used() {
    let client = WebhookClient::new(&WebhookOptions::new().allow_networks(["10.1.0.0/16"])).unwrap();
    for (url, normal) in [
        ("https://example.com/hooks?a=1", "https://example.com/hooks?a=1"),
        ("HTTP://Example.COM:80", "http://example.com/"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://8.8.8.8/", "https://8.8.8.8/"),
        ("https://10.1.2.3/", "https://10.1.2.3/"),
        ("https://[2606:4700::1111]:8443/", "https://[2606:4700::1111]:8443/"),
    ] {
        assert_eq!(client.check_url(url).unwrap().as_str(), normal);
    }
    let long = format!("https://example.com/{}", "a".repeat(2048));
    for (url, told) in [
        ("", "malformed"),
        ("example.com/hooks", "malformed"),
        ("https://", "malformed"),
        ("https://exa mple.com/", "malformed"),
        ("https://example.com:99999/", "malformed"),
        ("ftp://example.com/", "begins with https:// or http://"),
        ("file:///etc/passwd", "begins with https:// or http://"),
        ("javascript:alert(1)", "begins with https:// or http://"),
        ("https://user@example.com/", "no user and password"),
        ("https://user:s3cret@example.com/", "no user and password"),
        ("https://:s3cret@example.com/", "no user and password"),
        (&long, "at most 2048 bytes"),
        ("http://127.0.0.1/", "don't go to 127.0.0.1"),
        ("http://2130706433/", "don't go to 127.0.0.1"),
        ("http://0x7f.1/", "don't go to 127.0.0.1"),
        ("http://0177.0.0.01/", "don't go to 127.0.0.1"),
        ("http://127.1/", "don't go to 127.0.0.1"),
        ("http://①②⑦.0.0.1/", "don't go to 127.0.0.1"),
        ("http://127.0.0.1./", "don't go to 127.0.0.1"),
        ("http://0/", "don't go to 0.0.0.0"),
        ("http://169.254.169.254/latest/meta-data/", "don't go to 169.254.169.254"),
        ("http://10.2.0.1/", "don't go to 10.2.0.1"),
        ("http://[::1]/", "don't go to ::1"),
        ("http://[::ffff:a9fe:a9fe]/", "don't go to ::ffff:169.254.169.254"),
        ("http://[fd00:ec2::254]/", "don't go to fd00:ec2::254"),
    ] {
        let error = client.check_url(url).unwrap_err();
        assert!(error.is_invalid() && error.message().contains(told), "{url}: {error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
    let strict = WebhookClient::new(&WebhookOptions::new().allow_http(false)).unwrap();
    assert!(strict.check_url("http://example.com/").unwrap_err().message().contains("begins with https://"));
    strict.check_url("https://example.com/").unwrap();
}

#[tokio::test]
async fn what_cannot_be_sent_is_rejected() {
    let client = WebhookClient::new(&WebhookOptions::new().allow_http(false)).unwrap();
    assert!(failed(send(&client, "http://example.com/").await).0.contains("over TLS only"));
    let secret = [WebhookSecret::generate().unwrap()];
    let outcome = client.send("https://example.com/", "a\nb", Timestamp::now(), BODY, &secret).await;
    assert!(rejected(outcome).contains("can't be written"));
}

#[test]
fn options_that_cannot_work_are_refused() {
    let network = WebhookClient::new(&WebhookOptions::new().allow_networks(["the office"])).unwrap_err();
    assert!(network.is_config() && network.message().contains("\"the office\""), "{network}");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for pem in ["", "no certificate", broken] {
        let error = WebhookClient::new(&WebhookOptions::new().root_certificate_pem(pem)).unwrap_err();
        assert!(error.is_config() && error.message().contains("in PEM"), "{error}");
    }
}
