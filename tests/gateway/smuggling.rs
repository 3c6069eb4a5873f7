//! Requests of which two parsers might think two things: each is refused. What goes on has one meaning.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime;
use tower_quota::{ClientConnection, GatewayOptions};

use crate::front::Front;
use crate::rows::State;
use crate::support::until;
use crate::upstream::{Talk, Upstream};

/// A request as the strictest reader takes it, or nothing where it may mean two things.
struct Strict {
    head: String,
    body: String,
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn strict(talk: &mut Talk) -> std::io::Result<Strict> {
    let head = talk.head()?;
    let lines: Vec<_> = head.trim_end_matches("\r\n").split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])), "{head:?}");
    assert_eq!(lines[0].split(' ').count(), 3, "{head:?}");
    let field = |name: &str| {
        let named = |line: &&str| line.split_once(':').is_some_and(|(found, _)| found == name);
        let found: Vec<_> = lines[1..].iter().copied().filter(named).collect();
        assert!(found.len() <= 1, "{head:?}");
        found.first().map(|line| line[name.len() + 1..].trim().to_owned())
    };
    assert!(lines[1..].iter().all(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric())), "{head:?}");
    assert!(field("host").is_some(), "{head:?}");
    let body = match (field("content-length"), field("transfer-encoding")) {
        (None, None) => String::new(),
        (Some(length), None) => text(talk.exactly(length.parse().unwrap())?),
        (None, Some(coding)) => {
            assert_eq!(coding, "chunked", "{head:?}");
            let mut body = String::new();
            loop {
                let size = talk.up_to("\r\n")?;
                let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
                body.push_str(&text(talk.exactly(size)?));
                assert_eq!(talk.exactly(2)?, b"\r\n");
                if size == 0 {
                    break body;
                }
            }
        }
        both => panic!("{both:?}: {head:?}"),
    };
    Ok(Strict { head, body })
}

/// Tells in its answers which requests it has seen.
fn witness() -> Upstream {
    Upstream::start(|talk| {
        loop {
            let request = strict(talk)?;
            let target = request.head.split(' ').nth(1).unwrap();
            let told = format!("saw {target} {:?}", request.body);
            talk.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{told}", told.len()))?;
        }
    })
}

/// Sends bytes, and what may be taken for another request behind them; answers all that comes back.
fn told(front: &Front, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_may_mean_two_things_is_refused() {
    let upstream = witness();
    let front = Front::of(&upstream);
    let post = "POST /a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
    for fields in [
        "content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        "content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        "content-length: 3\r\nx: y\r\nContent-Length: 3\r\n\r\nabc",
        "content-length: 30\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nx: y\r\nContent-Length: 13\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: 13\r\ntransfer-encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "content-length: 3\n\r\nabc",
        "content-length: 3\r\n\nabc",
        "content-length: 3\n\nabc",
        "x: y\ncontent-length: 3\r\n\r\nabc",
        "x: y\n content-length: 3\r\n\r\nabc",
        "x: y\r\n\ncontent-length: 3\r\n\r\nabc",
        "x: y\r\r\ncontent-length: 3\r\n\r\nabc",
        "content-length: 3, 3\r\n\r\nabc",
        "content-length: 3, 4\r\n\r\nabcd",
        "content-length: +3\r\n\r\nabc",
        "content-length: -3\r\n\r\nabc",
        "content-length: 0x3\r\n\r\nabc",
        "content-length: 3 3\r\n\r\nabc",
        "content-length:\r\n\r\nabc",
        "content-length: 99999999999999999999\r\n\r\nabc",
        "content-length : 3\r\n\r\nabc",
        "content-length\t: 3\r\n\r\nabc",
        "transfer-encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: chunkedx\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: \"chunked\"\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding:\x0bchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding : chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        " transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "x: y\r\n\ttransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "x: y\rtransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "x: y\0z\r\ncontent-length: 0\r\n\r\n",
        "x\0y: z\r\ncontent-length: 0\r\n\r\n",
        "no field at all\r\ncontent-length: 0\r\n\r\n",
        ": nameless\r\ncontent-length: 0\r\n\r\n",
        "host: b\r\ncontent-length: 0\r\n\r\n",
    ] {
        let answer = told(&front, format!("{post}{fields}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{fields:?}: {answer}");
        // And nothing is taken for a second request.
        assert_eq!(answer.matches("HTTP/1.1 400").count(), 1, "{fields:?}: {answer}");
    }
    for line in [
        "POST /a b HTTP/1.1",
        "POST  /a HTTP/1.1",
        "POST /a  HTTP/1.1",
        "POST /a HTTP/1.1 ",
        "POST /a HTTP/1.2",
        "POST /a HTTP/3.0",
        "POST /a",
        "PO ST /a HTTP/1.1",
        "POST /a\0b HTTP/1.1",
        " POST /a HTTP/1.1",
        "POST a HTTP/1.1",
        "POST ftp://a/x HTTP/1.1",
        "POST /a HTTP/1.1\nx: y",
        "\nPOST /a HTTP/1.1",
        "\r\n\nPOST /a HTTP/1.1",
        "\rPOST /a HTTP/1.1",
    ] {
        let answer = told(&front, format!("{line}\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes());
        assert!(!answer.contains("HTTP/1.1 200"), "{line:?}: {answer}");
    }
    let answer = told(&front, b"POST /a HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 400 "), "{answer}");
    assert!(upstream.received().is_empty(), "{:?}", upstream.received());
}

#[test]
fn what_goes_on_has_one_meaning() {
    let upstream = witness();
    let front = Front::of(&upstream);
    let next = "GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    for (request, saw) in [
        ("POST /a HTTP/1.1\r\nhost: a\r\nContent-Length:  3  \r\n\r\nabc", "/a \"abc\""),
        ("POST /a HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n", "/a \"abc\""),
        ("POST /a HTTP/1.1\r\nhost: a\r\n\r\n", "/a \"\""),
        ("GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc", "/a \"abc\""),
        ("DELETE /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "/a \"abc\""),
        ("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n\n\r\n", "/a \"\\n\\r\\n\""),
        (
            "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\n\n\r\n\r\n0\r\n\r\n",
            "/a \"\\n\\r\\n\"",
        ),
        ("\r\nPOST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc", "/a \"abc\""),
        // A body that looks like a request is a body.
        (
            "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
            "/a \"GET /smuggled HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n\"",
        ),
    ] {
        let answer = told(&front, format!("{request}{next}").as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{request:?}: {answer}");
        assert!(answer.contains(&format!("saw {saw}")) && answer.contains("saw /next \"\""), "{request:?}: {answer}");
    }
}

#[test]
fn who_asks_well_first_is_answered_first() {
    let upstream = witness();
    let front = Front::of(&upstream);
    let create = "POST /acme/segments HTTP/1.1\r\nhost: a\r\n";
    let next = "GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
    let refused = [
        "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        "content-length: 3\n\nabc",
        "x: y\r\n\nabc",
    ];
    for fields in refused {
        let good = format!("{create}content-length: 3\r\n\r\na\nb");
        let answer = told(&front, format!("{good}{create}{fields}{next}").as_bytes());
        let (first, second) = answer.split_once("saw /acme/segments \"a\\nb\"").unwrap();
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{fields}: {answer}");
        assert!(second.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{fields}: {answer}");
        assert!(second.ends_with("\r\n\r\n"), "{fields}: {answer}");
    }
    let received = upstream.received().join("");
    assert!(!received.contains("/next") && !received.contains("abc"), "{received}");
    // Nor has the layer seen it.
    assert_eq!(front.state(), State { believed: 5, reserved: 0 });
}

#[test]
fn a_body_that_is_no_proper_one_never_ends_for_the_upstream() {
    for body in [
        "0x3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabcd\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\nabc\r\n0\r\n\r\n",
        "3;x\nabc\r\n0\r\n\r\n",
        "3;x\ry\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n0\r\n\nGET /next HTTP/1.1\r\nhost: a\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: y\nz: 1\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: y\rz: 1\r\n\r\n",
    ] {
        let upstream = witness();
        let front = Front::with(GatewayOptions::upstream(upstream.url()));
        let request = format!("POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let answer = told(&front, request.as_bytes());
        assert!(!answer.contains("HTTP/1.1 200"), "{body:?}: {answer}");
        until("the upstream is rid of it", || upstream.closed() == upstream.received().len());
        assert!(!upstream.received().iter().any(|received| received.ends_with("0\r\n\r\n")), "{body:?}");
    }
}

/// What the strictest reader takes for requests, up to where another might part with it.
fn strictly(mut rest: &str) -> Vec<String> {
    let mut requests = Vec::new();
    loop {
        while let Some(after) = rest.strip_prefix("\r\n") {
            rest = after;
        }
        let Some(request) = next(&mut rest) else { return requests };
        requests.push(request);
    }
}

/// The next of them, whose bytes are taken from the rest.
fn next(rest: &mut &str) -> Option<String> {
    let mut section = || {
        let (section, after) = rest.split_once("\r\n\r\n")?;
        *rest = after;
        (!section.replace("\r\n", "").contains(['\r', '\n'])).then_some(section)
    };
    let head = section()?;
    if !head.split("\r\n").skip(1).all(|field| field.contains(": ")) {
        return None;
    }
    let field = |name: &str| {
        let fields = head.split("\r\n").filter_map(|line| line.split_once(": "));
        let found: Vec<_> = fields.filter(|(found, _)| found.eq_ignore_ascii_case(name)).collect();
        found.iter().map(|(_, value)| (*value).to_owned()).collect::<Vec<_>>()
    };
    let mut exactly = |length: usize| {
        let (taken, after) = rest.split_at_checked(length)?;
        *rest = after;
        Some(taken)
    };
    let mut body = String::new();
    match (&field("content-length")[..], &field("transfer-encoding")[..]) {
        ([], []) => {}
        ([length], []) => body.push_str(exactly(length.parse().ok()?)?),
        ([], [_]) => loop {
            let (line, after) = rest.split_once("\r\n")?;
            let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
            if line.contains(['\r', '\n']) {
                return None;
            }
            *rest = after;
            if size == 0 {
                // Of fields there may be none.
                if let Some(after) = after.strip_prefix("\r\n") {
                    *rest = after;
                    break;
                }
                let (fields, after) = after.split_once("\r\n\r\n")?;
                *rest = after;
                if !fields.split("\r\n").all(|field| field.contains(": ") && !field.contains(['\r', '\n'])) {
                    return None;
                }
                break;
            }
            let (data, after) = rest.split_at_checked(size)?;
            body.push_str(data);
            *rest = after.strip_prefix("\r\n")?;
        },
        _ => return None,
    }
    Some(format!("{} {body:?}", head.split(' ').nth(1)?))
}

/// What a service behind the guard is asked, and gets to the end of.
async fn asked(sent: &str, pieces: usize) -> Vec<String> {
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&requests);
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let requests = Arc::clone(&noted);
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                requests.lock().unwrap().push(format!("{} {:?}", head.uri, text(body.to_bytes().to_vec())));
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("ok"))))
        }
    });
    let (client, server) = duplex(1 << 20);
    let (stream, service) = ClientConnection::new(([127, 0, 0, 1], 1)).guard(server, service);
    let service = TowerToHyperService::new(service);
    let serves = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service);
    let (mut answers, mut sends) = tokio::io::split(client);
    let sends = async move {
        for piece in sent.as_bytes().chunks(sent.len().div_ceil(pieces).max(1)) {
            // Who has refused it may be gone.
            if sends.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = sends.shutdown().await;
    };
    let mut answered = Vec::new();
    let (_, (), _) = tokio::join!(serves, sends, answers.read_to_end(&mut answered));
    requests.lock().unwrap().clone()
}

/// A request, or something that is almost one.
fn almost_a_request() -> impl Strategy<Value = String> {
    let line =
        || prop_oneof![30 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\r\n"), 1 => Just("\n\r\n")];
    let field = prop::sample::select(vec!["x: y", "upgrade: other", "content-length: 3", "transfer-encoding: chunked"]);
    let more = prop::collection::vec(field, 0..2);
    let kind = prop::sample::select(vec![
        ("x: y", ""),
        ("Content-Length: 5", "a\r\n\nb"),
        ("content-length: 26", "GET /smuggled HTTP/1.1\r\n\r\n"),
        ("Transfer-Encoding: Chunked", "chunked"),
        ("upgrade: other", ""),
    ]);
    let chunked = (line(), line(), line(), line(), line()).prop_map(|(a, b, c, d, e)| {
        let trailer = if b.len() == a.len() { format!("x-sum: 1{d}") } else { String::new() };
        format!("3;x=y{a}\n\r\n{b}A{c}0123456789\r\n0{c}{trailer}{e}")
    });
    (prop::collection::vec(line(), 0..2), 0..100_u8, kind, more, chunked, (line(), line(), line(), line())).prop_map(
        |(before, number, (field, body), more, chunked, (a, b, c, d))| {
            let more: String = more.iter().map(|field| format!("{field}{c}")).collect();
            let body = if body == "chunked" { &chunked } else { body };
            format!("{}POST /{number} HTTP/1.1{a}host: a{b}{field}{c}{more}{d}{body}", before.concat())
        },
    )
}

proptest! {
    #[test]
    fn what_gets_to_a_service_is_what_the_strictest_reader_has(
        requests in prop::collection::vec(almost_a_request(), 1..5),
        pieces in 1..40_usize,
    ) {
        let text = requests.concat();
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        prop_assert_eq!(runtime.block_on(asked(&text, pieces)), strictly(&text), "{:?}", text);
    }
}

/// HTTP/2, byte for byte.
struct Frames(TcpStream);

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
}

impl Frames {
    fn open(front: &Front) -> Self {
        let mut stream = TcpStream::connect(front.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let mut frames = Self(stream);
        frames.write(4, 0, 0, &[]);
        frames
    }

    fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).unwrap();
    }

    /// Sends a head, field by field as it is written here.
    fn request(&mut self, fields: &[(&str, &str)], body: Option<&str>) -> Fate {
        let mut block = Vec::new();
        for (name, value) in fields {
            // A literal without an index, and without Huffman's code.
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
        let (end_stream, end_headers) = (1, 4);
        self.write(1, end_headers | if body.is_none() { end_stream } else { 0 }, 1, &block);
        if let Some(body) = body {
            self.write(0, end_stream, 1, body.as_bytes());
        }
        loop {
            let mut head = [0; 9];
            if self.0.read_exact(&mut head).is_err() {
                return Fate::Refused;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).unwrap();
            match head[3] {
                // The head of a response: `:status: 200` is one byte.
                1 => return if payload[0] == 0x88 { Fate::Answered } else { Fate::Refused },
                // The stream is reset, or the connection given up.
                3 | 7 => return Fate::Refused,
                _ => {}
            }
        }
    }
}

const PSEUDO: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a")];

#[test]
fn http2_can_smuggle_nothing_into_http1() {
    let upstream = witness();
    let front = Front::of(&upstream);
    let with = |fields: &[(&'static str, &'static str)]| [&PSEUDO[..], fields].concat();
    let instead = |name: &'static str, value: &'static str| {
        PSEUDO.map(|(found, old)| if found == name { (found, value) } else { (found, old) }).to_vec()
    };
    for fields in [
        with(&[("connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "1")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("X-Upper", "1")]),
        with(&[("x", "1\r\ntransfer-encoding: chunked")]),
        with(&[("x", "1\0")]),
        with(&[("x: y\r\nz", "1")]),
        with(&[("x y", "1")]),
        with(&[("", "1")]),
        with(&[(":path", "/b")]),
        with(&[("x", "1"), (":method", "GET")]),
        with(&[(":protocol", "websocket")]),
        with(&[(":unknown", "1")]),
        with(&[("content-length", "5")]),
        with(&[("content-length", "x")]),
        instead(":path", ""),
        instead(":path", "/a HTTP/1.1\r\nx: y"),
        instead(":path", "/a b"),
        instead(":method", "GET /x HTTP/1.1\r\nhost: b\r\n\r\nGET"),
        instead(":authority", "a\r\nx: y"),
        instead(":authority", "me@a"),
        instead(":scheme", "http\r\nx: y"),
        PSEUDO[..3].to_vec(),
        PSEUDO[1..].to_vec(),
    ] {
        let fate = Frames::open(&front).request(&fields, Some("abc"));
        assert_eq!(fate, Fate::Refused, "{fields:?}");
    }
    assert!(upstream.received().iter().all(|received| !received.contains("0\r\n\r\n")), "{:?}", upstream.received());
}

#[test]
fn http2_goes_on_as_http1_that_has_one_meaning() {
    let upstream = witness();
    let front = Front::of(&upstream);
    let saw = |fields: &[(&'static str, &'static str)], body: Option<&str>| {
        let before = upstream.received().join("").len();
        assert_eq!(Frames::open(&front).request(&[&PSEUDO[..], fields].concat(), body), Fate::Answered, "{fields:?}");
        upstream.received().join("").split_off(before)
    };
    let received = saw(&[("content-length", "3")], Some("abc"));
    assert!(received.contains("content-length: 3\r\n") && received.ends_with("abc"), "{received}");
    let received = saw(&[("te", "trailers")], Some("abc"));
    assert!(
        received.contains("transfer-encoding: chunked\r\n") && received.ends_with("3\r\nabc\r\n0\r\n\r\n"),
        "{received}"
    );
    // The target's own host counts.
    let received = saw(&[("host", "b")], None);
    assert!(received.contains("host: a\r\n") && !received.contains("host: b"), "{received}");
    // What were several lines is one.
    let received = saw(&[("cookie", "a=1"), ("cookie", "b=2")], None);
    assert!(received.contains("cookie: a=1; b=2\r\n") && received.contains("via: 2 tower-quota\r\n"), "{received}");
}
