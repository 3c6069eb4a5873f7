//! What comes through, and in what form.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use tower_quota::GatewayOptions;

use crate::front::Front;
use crate::rows::State;
use crate::support::client::Connection;
use crate::support::until;
use crate::upstream::Upstream;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Sends these bytes on a connection of their own, and reads until it is closed.
fn exchange(front: &Front, bytes: &str) -> String {
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[track_caller]
fn lines<'t>(head: &'t str, name: &str) -> Vec<&'t str> {
    let named = |line: &'t str| line.split_once(": ").filter(|(found, _)| found.eq_ignore_ascii_case(name));
    head.lines().filter_map(named).map(|(_, value)| value).collect()
}

#[test]
fn a_creation_goes_through_and_counts() {
    let upstream = Upstream::answering("HTTP/1.1 201 Created\r\ncontent-length: 4\r\nx-id: 7\r\n\r\nmade");
    let front = Front::of(&upstream);
    let answer = front.connect().send("POST", "/acme/segments", "{}").expect(201);
    assert_eq!((answer.text().as_str(), answer.header("x-id")), ("made", Some("7")));
    assert_eq!(front.state(), State { believed: 1, reserved: 0 });
    // At the limit, nothing of it is forwarded.
    front.world.set("segments", 50);
    front.state();
    let mut connection = front.connect();
    connection.send("POST", "/acme/segments", "{}").refused(429, "QUOTA_EXCEEDED");
    assert_eq!(upstream.received().len(), 1);
    // Nothing else is held up by that.
    connection.send("GET", "/acme/segments", "").expect(201);
}

#[test]
fn a_body_that_a_rule_reads_goes_on_whole() {
    let upstream = Upstream::answering(OK);
    let front = Front::of(&upstream);
    let body = r#"{"workspace": "acme", "name":  "two  spaces"}"#;
    front.connect().send("POST", "/named", body).expect(200);
    let received = upstream.received_up_to(body);
    assert_eq!(lines(&received, "content-length"), [body.len().to_string()]);
    assert_eq!(front.state(), State { believed: 1, reserved: 0 });
}

#[test]
fn targets_are_forwarded_as_they_are() {
    let upstream = Upstream::answering(OK);
    let front = Front::of(&upstream);
    for path in ["/a%2Fb/./../c//d;x=%7e?q=a+b&&r=%20?#", "/%E4%F6", "/?", "/a|b{c}"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = exchange(&front, &request);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let received = upstream.received().join("");
        // A fragment is no part of a target.
        let expected = path.trim_end_matches('#');
        assert!(received.contains(&format!("GET {expected} HTTP/1.1\r\n")), "{received}");
    }
    // Absolute, and for the server as a whole.
    for (target, forwarded, host) in [
        ("http://other.example:81/x?y", "/x?y", "other.example:81"),
        ("http://other.example", "/", "other.example"),
        ("*", "*", "a"),
    ] {
        let before = upstream.received().join("").len();
        let request = format!("OPTIONS {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(exchange(&front, &request).starts_with("HTTP/1.1 200"));
        let received = upstream.received().join("").split_off(before);
        assert!(received.starts_with(&format!("OPTIONS {forwarded} HTTP/1.1\r\n")), "{received}");
        assert_eq!(lines(&received, "host"), [host]);
    }
}

#[test]
fn fields_of_the_connection_end_here() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 Sure\r\ncontent-length: 2\r\nconnection: keep-alive, x-hop\r\nkeep-alive: timeout=9\r\nx-hop: 1\r\n\
         proxy-authenticate: Basic\r\nupgrade: h2c\r\nx-end: 1\r\n\r\nok",
    );
    let front = Front::of(&upstream);
    let answer = exchange(
        &front,
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, te, keep-alive\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\n\
         te: gzip, trailers\r\nproxy-authorization: Basic eA==\r\nupgrade: h2c\r\nhttp2-settings: AA\r\nx-end: 1\r\nx-end: 2\r\n\
         x-empty:\r\nvia: 1.0 first\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 Sure\r\n"), "{answer}");
    for gone in ["keep-alive", "x-hop", "proxy-authenticate", "upgrade"] {
        assert!(lines(&answer, gone).is_empty(), "{answer}");
    }
    assert_eq!((lines(&answer, "x-end"), lines(&answer, "via")), (vec!["1"], vec!["1.1 tower-quota"]));
    let received = upstream.received_up_to("\r\n\r\n");
    for gone in ["keep-alive", "proxy-connection", "proxy-authorization", "upgrade", "http2-settings"] {
        assert!(lines(&received, gone).is_empty(), "{received}");
    }
    assert_eq!((lines(&received, "te"), lines(&received, "connection")), (vec!["trailers"], vec!["te"]));
    assert_eq!(lines(&received, "via"), ["1.0 first, 1.1 tower-quota"]);
    assert_eq!((lines(&received, "x-end"), lines(&received, "x-empty").len()), (vec!["1", "2"], 1));
}

#[test]
fn a_field_that_the_layer_may_have_gone_by_is_not_hidden_from_the_upstream() {
    let upstream = Upstream::answering(OK);
    let front = Front::of(&upstream);
    let answer =
        exchange(&front, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x-workspace\r\nx-workspace: acme\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("x-workspace"), "{answer}");
    // What isn't there can't be hidden.
    let answer = exchange(&front, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, x-other\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn the_upstream_is_told_who_asks() {
    let upstream = Upstream::answering(OK);
    let front = Front::of(&upstream);
    let request = "GET / HTTP/1.1\r\nhost: api.example.com\r\nconnection: close\r\nx-forwarded-for: 192.0.2.1\r\n\
                   forwarded: for=192.0.2.1\r\nX-Forwarded-Proto: https\r\nx-real-ip: 192.0.2.1\r\n\r\n";
    exchange(&front, request);
    let received = upstream.received_up_to("\r\n\r\n");
    assert!(!received.contains("192.0.2.1"), "{received}");
    assert_eq!(lines(&received, "forwarded"), ["for=127.0.0.1;host=\"api.example.com\";proto=http"]);
    assert_eq!(lines(&received, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(lines(&received, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(lines(&received, "x-forwarded-host"), ["api.example.com"]);
    assert_eq!(
        (lines(&received, "x-forwarded-proto"), lines(&received, "host")),
        (vec!["http"], vec!["api.example.com"])
    );

    let upstream = Upstream::answering(OK);
    let options = GatewayOptions::upstream(upstream.url()).trusted_proxies(["127.0.0.0/8"]).upstream_host(true);
    exchange(&Front::with(options), request);
    let received = upstream.received_up_to("\r\n\r\n");
    assert_eq!(lines(&received, "x-forwarded-for"), ["192.0.2.1, 127.0.0.1"]);
    assert_eq!(
        (lines(&received, "x-forwarded-proto"), lines(&received, "x-real-ip")),
        (vec!["https"], vec!["192.0.2.1"])
    );
    assert_eq!(lines(&received, "host"), [upstream.address.to_string()]);
}

#[test]
fn bodies_are_streamed_both_ways() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        // Each piece is answered before the next one is sent.
        talk.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        for piece in ["one", "two", "three"] {
            talk.up_to(piece)?;
            talk.send(format!("{:x}\r\n{piece}!\r\n", piece.len() + 1))?;
        }
        talk.up_to("0\r\n\r\n")?;
        talk.send("0\r\n\r\n")?;
        talk.outlast()
    });
    let front = Front::of(&upstream);
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.write_all(b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let mut answer = String::new();
    for piece in ["one", "two", "three"] {
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).unwrap();
        let mut chunk = [0; 1024];
        while !answer.contains(&format!("{piece}!")) {
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "{answer}");
            answer.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut chunk = [0; 1024];
    while !answer.ends_with("0\r\n\r\n") {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
    }
}

#[test]
fn large_bodies_come_through_byte_for_byte() {
    let size = 3_000_017_usize;
    let byte = |at: usize| u8::try_from(at * 31 % 251).unwrap();
    let body: Vec<u8> = (0..size).map(byte).collect();
    let sent = body.clone();
    let upstream = Upstream::start(move |talk| {
        let head = talk.head()?;
        assert!(head.contains(&format!("content-length: {size}\r\n")), "{head}");
        let mut got = Vec::new();
        while got.len() < size {
            got.extend(talk.bytes()?);
        }
        assert!(got == sent);
        talk.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n"))?;
        talk.send(&got)?;
        talk.outlast()
    });
    let front = Front::of(&upstream);
    let mut connection = front.connect();
    let head = format!("PUT /x HTTP/1.1\r\nhost: a\r\ncontent-length: {size}\r\n\r\n");
    connection.send_raw(head.as_bytes()).unwrap();
    connection.send_raw(&body).unwrap();
    let answer = connection.read().unwrap().expect(200);
    assert!(answer.body == body);
}

#[test]
fn a_reader_that_does_not_read_holds_the_upstream_back() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        // More than any buffers on the way take.
        for _ in 0..4000 {
            talk.send(&chunk)?;
        }
        talk.send("0\r\n\r\n")?;
        talk.outlast()
    });
    let front = Front::of(&upstream);
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    // It has stopped once nothing moves for a while.
    let mut before = upstream.sent();
    let mut quiet = 0;
    until("nothing moves any more", || {
        thread::sleep(Duration::from_millis(20));
        let now = upstream.sent();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        quiet > 25
    });
    assert!(before < 100_000_000, "{before}");
    // Others don't wait for it.
    let mut other = [0; 12];
    let mut second = TcpStream::connect(front.address).unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    second.read_exact(&mut other).unwrap();
    drop(second);
    let mut rest = Vec::new();
    let mut chunk = vec![0; 1 << 20];
    while !rest.ends_with(b"0\r\n\r\n") {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0);
        rest.extend_from_slice(&chunk[..read]);
        let keep = rest.len().saturating_sub(16);
        rest.drain(..keep);
    }
}

#[test]
fn responses_without_a_body() {
    for (method, response) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\netag: \"1\"\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\netag: \"1\"\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5000\r\netag: \"1\"\r\n\r\n"),
        ("GET", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\netag: \"1\"\r\n\r\n"),
    ] {
        let upstream = Upstream::answering(response);
        let front = Front::of(&upstream);
        let mut connection = front.connect();
        // Two of them, so that a body that isn't there would be missed.
        for _ in 0..2 {
            connection.send_raw(format!("{method} /x HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).unwrap();
            let answer = connection.read_head().unwrap();
            assert!(response.contains(&format!(" {} ", answer.status)), "{answer}");
            assert_eq!(answer.header("etag"), Some("\"1\""));
            // To HEAD it is what GET would have; elsewhere it may be left out.
            let length = (method == "HEAD").then_some("5000");
            assert_eq!(answer.header("content-length"), length, "{answer}");
        }
    }
}

#[test]
fn requests_in_a_row_are_answered_in_a_row() {
    let upstream = Upstream::start(|talk| {
        loop {
            let head = talk.head()?;
            let path = head.split(' ').nth(1).unwrap();
            talk.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()))?;
        }
    });
    let front = Front::of(&upstream);
    let mut connection = front.connect();
    let requests: String = (0..20).map(|at| format!("GET /{at} HTTP/1.1\r\nhost: a\r\n\r\n")).collect();
    connection.send_raw(requests.as_bytes()).unwrap();
    for at in 0..20 {
        assert_eq!(connection.read().unwrap().expect(200).text(), format!("/{at}"));
    }
    // All on one connection.
    assert_eq!(upstream.received().len(), 1);
}

#[test]
fn trailers_come_through_both_ways() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.up_to("x-sum: 12\r\n\r\n")?;
        talk.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-result\r\n\r\n2\r\nok\r\n0\r\nx-result: fine\r\n\r\n",
        )?;
        talk.outlast()
    });
    let front = Front::of(&upstream);
    let answer = exchange(
        &front,
        "PUT / HTTP/1.1\r\nhost: a\r\nconnection: close, te\r\nte: trailers\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
         \r\n2\r\nhi\r\n0\r\nx-sum: 12\r\n\r\n",
    );
    assert!(answer.ends_with("2\r\nok\r\n0\r\nx-result: fine\r\n\r\n"), "{answer}");
}

#[test]
fn a_get_may_have_a_body() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.up_to("hello\r\n0\r\n\r\n")?;
        talk.send(OK)?;
        talk.outlast()
    });
    let front = Front::of(&upstream);
    let answer = exchange(
        &front,
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn old_clients_are_answered() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    let front = Front::of(&upstream);
    let answer = exchange(&front, "GET /x HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("\r\n\r\nok"), "{answer}");
    let received = upstream.received_up_to("\r\n\r\n");
    assert!(received.starts_with("GET /x HTTP/1.1\r\n"), "{received}");
    assert_eq!(
        (lines(&received, "host"), lines(&received, "via")),
        (vec![upstream.address.to_string().as_str()], vec!["1.0 tower-quota"])
    );
}

#[test]
fn old_upstreams_are_understood() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        // Its body ends with the connection.
        talk.send("HTTP/1.0 200 OK\r\n\r\nall of it")
    });
    let front = Front::of(&upstream);
    for _ in 0..2 {
        let answer = exchange(&front, "GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("9\r\nall of it\r\n0\r\n\r\n"), "{answer}");
    }
}

#[test]
fn a_body_is_asked_for_only_where_it_is_wanted() {
    let upstream = Upstream::start(|talk| {
        loop {
            let head = talk.head()?;
            if head.starts_with("PUT /refused") {
                talk.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
                return talk.outlast();
            }
            if head.starts_with("PUT /asked") {
                assert!(head.contains("expect: 100-continue"), "{head}");
                talk.send("HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            talk.up_to("hello")?;
            talk.send(OK)?;
        }
    });
    let front = Front::of(&upstream);
    let begin = |method: &str, path: &str| {
        let mut connection: Connection = front.connect();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");
        connection.send_raw(head.as_bytes()).unwrap();
        connection
    };
    // It is asked for when the upstream does; and after a while by itself, since not all know of it.
    for path in ["/asked", "/silent"] {
        let mut connection = begin("PUT", path);
        assert_eq!(connection.read_head().unwrap().status, 100, "{path}");
        connection.send_raw(b"hello").unwrap();
        connection.read().unwrap().expect(200);
    }
    // The upstream wants none of it.
    begin("PUT", "/refused").read().unwrap().expect(403);
    // Nor does the layer.
    front.world.set("segments", 50);
    begin("POST", "/acme/segments").read().unwrap().refused(429, "QUOTA_EXCEEDED");
}

#[test]
fn questions_about_the_way_go_as_far_as_they_may() {
    let upstream = Upstream::answering(OK);
    let front = Front::of(&upstream);
    let ask = |left: &str| {
        exchange(&front, &format!("OPTIONS * HTTP/1.1\r\nhost: a\r\nmax-forwards: {left}\r\nconnection: close\r\n\r\n"))
    };
    assert!(ask("0").starts_with("HTTP/1.1 200"));
    assert!(upstream.received().is_empty());
    assert!(ask("3").ends_with("\r\n\r\nok"));
    assert_eq!(lines(&upstream.received_up_to("\r\n\r\n"), "max-forwards"), ["2"]);
}

#[test]
fn what_no_gateway_forwards() {
    let upstream = Upstream::answering(OK);
    let front = Front::of(&upstream);
    for (request, status, says) in [
        (
            "CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\nconnection: close\r\n\r\n",
            "405",
            "CONNECT is not forwarded",
        ),
        ("TRACE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", "405", "TRACE is not forwarded"),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "400", "one `Host`"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n", "400", "one `Host`"),
        ("GET / HTTP/1.1\r\nhost: me@a\r\nconnection: close\r\n\r\n", "400", "host is malformed"),
        ("GET / HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n", "400", "`Host` is malformed"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
            "400",
            "`chunked`",
        ),
    ] {
        let answer = exchange(&front, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says), "{request}: {answer}");
    }
    assert!(upstream.received().is_empty());
}
