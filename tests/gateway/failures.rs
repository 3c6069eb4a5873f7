//! Upstreams and clients that fail, what each side is told of it, and what becomes of units.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tower_quota::GatewayOptions;

use crate::front::Front;
use crate::rows::State;
use crate::support::until;
use crate::upstream::Upstream;

const CREATE: &str = "/acme/segments";
const SHORT: Duration = Duration::from_millis(200);

/// The one creation so far has left no trace.
#[track_caller]
fn void(front: &Front) {
    assert_eq!(front.state(), State { believed: 0, reserved: 0 });
}

/// Nobody knows about the one creation so far, until its time has come.
#[track_caller]
fn unknown(front: &Front) {
    until("its unit is held", || front.state().reserved == 1);
    front.settled();
}

#[test]
fn nobody_is_there() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for http2 in [false, true] {
        let front = Front::with(GatewayOptions::upstream(format!("http://127.0.0.1:{port}")).http2(http2));
        let told = front.connect().send("POST", CREATE, "{}").refused(502, "BAD_GATEWAY");
        assert!(!told.contains("127.0.0.1"), "{told}");
        void(&front);
        let problem = [("accept", "application/problem+json")];
        let answer = front.connect().send_with("POST", CREATE, &problem, "").expect(502);
        assert_eq!(answer.json()["status"], 502, "{answer}");
        // A gRPC caller reads it in its own terms.
        let grpc = [("content-type", "application/grpc")];
        let answer = front.connect().send_with("POST", CREATE, &grpc, "").expect(200);
        assert_eq!(answer.header("grpc-status"), Some("14"), "{answer}");
        void(&front);
    }
}

#[test]
fn no_connection_comes_about() {
    // It says nothing when it is to agree on TLS, or on HTTP/2.
    let upstream = Upstream::start(|talk| talk.outlast());
    let port = upstream.address.port();
    for http2 in [false, true] {
        let options = GatewayOptions::upstream(format!("https://localhost:{port}")).connect_timeout(SHORT).http2(http2);
        let front = Front::with(options);
        front.connect().send("POST", CREATE, "{}").refused(504, "GATEWAY_TIMEOUT");
        void(&front);
    }
}

#[test]
fn the_upstream_is_slow() {
    let upstream = Upstream::start(|talk| talk.outlast());
    let front = Front::with(GatewayOptions::upstream(upstream.url()).response_timeout(SHORT));
    front.connect().send("POST", CREATE, "{}").refused(504, "GATEWAY_TIMEOUT");
    unknown(&front);
    let grpc = [("content-type", "application/grpc")];
    let answer = front.connect().send_with("POST", CREATE, &grpc, "").expect(200);
    assert_eq!(answer.header("grpc-status"), Some("4"), "{answer}");
}

#[test]
fn others_do_not_wait_for_a_slow_one() {
    let upstream = Upstream::start(|talk| {
        loop {
            if talk.head()?.contains("/slow") {
                return talk.outlast();
            }
            talk.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    });
    let front = Front::of(&upstream);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = front.connect();
            connection.send_raw(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            connection
        })
        .collect();
    for _ in 0..20 {
        front.connect().send("GET", "/fast", "").expect(200);
    }
    drop(slow);
}

#[test]
fn the_upstream_breaks_off_before_it_answers() {
    for said in [
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "this is no HTTP at all\r\n\r\n",
        "HTTP/1.1 999999 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nx: a\r\n folded: b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nspace : x\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nx",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        let upstream = Upstream::start(move |talk| {
            talk.head()?;
            talk.send(said)
        });
        let front = Front::of(&upstream);
        let mut connection = front.connect();
        let answer = connection.send("POST", CREATE, "");
        assert_eq!(answer.status, 502, "{said:?}: {answer}");
        answer.refused(502, "BAD_GATEWAY");
        unknown(&front);
        // It goes on for this client.
        connection.send("GET", "/x", "").refused(502, "BAD_GATEWAY");
    }
}

/// What a client gets, to the end of its connection.
fn all(front: &Front, request: &str) -> String {
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A reset is one way to tell of it.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn the_upstream_breaks_off_in_its_response() {
    for (said, ends) in [
        ("HTTP/1.1 201 Created\r\ncontent-length: 10\r\n\r\nhalf", "half"),
        ("HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4\r\nhalf\r\n"),
        ("HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n", "4\r\nhalf\r\n"),
    ] {
        let falls_silent = said.ends_with("half\r\n");
        let upstream = Upstream::start(move |talk| {
            talk.head()?;
            talk.send(said)?;
            if falls_silent { talk.outlast() } else { Ok(()) }
        });
        let front = Front::with(GatewayOptions::upstream(upstream.url()).idle_timeout(SHORT));
        let answer = all(&front, &format!("POST {CREATE} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"));
        // It is never a whole one; where all comes at once, not even its head need come through.
        let half = answer.starts_with("HTTP/1.1 201") && answer.ends_with(ends);
        assert!(half || answer.is_empty(), "{answer:?}");
        assert_eq!(front.state(), State { believed: 1, reserved: 0 });
    }
}

#[test]
fn a_length_that_the_upstream_contradicts_is_not_passed_on() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 400\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    let front = Front::of(&upstream);
    let answer = all(&front, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(!answer.contains("content-length") && answer.ends_with("2\r\nok\r\n0\r\n\r\n"), "{answer}");
}

#[test]
fn an_answer_that_comes_before_the_body_has_is_passed_on() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!")?;
        talk.outlast()
    });
    let front = Front::of(&upstream);
    let answer = all(
        &front,
        &format!("POST {CREATE} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 1000\r\n\r\nx"),
    );
    assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("no!"), "{answer}");
    void(&front);
}

#[test]
fn the_client_is_slow_with_its_body() {
    let upstream = Upstream::start(|talk| talk.outlast());
    // Its own time is over before the upstream's.
    let options = GatewayOptions::upstream(upstream.url()).idle_timeout(SHORT).response_timeout(SHORT / 2);
    let front = Front::with(options);
    let answer = all(&front, &format!("POST {CREATE} HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf"));
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("REQUEST_TIMEOUT"), "{answer}");
    unknown(&front);
    // The upstream is not left with half a request.
    until("it is closed", || upstream.received().len() == 1 && upstream.closed() == 1);
}

#[test]
fn the_client_sends_its_body_byte_by_byte() {
    let upstream = Upstream::start(|talk| talk.outlast());
    let front = Front::with(GatewayOptions::upstream(upstream.url()).body_timeout(SHORT));
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut sends = stream.try_clone().unwrap();
    write!(sends, "POST {CREATE} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").unwrap();
    // Until nobody takes it any more.
    let sends = thread::spawn(move || {
        while sends.write_all(b"x").is_ok() {
            thread::sleep(SHORT / 40);
        }
    });
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    drop(stream);
    unknown(&front);
    until("it is closed", || upstream.closed() == 1);
    sends.join().unwrap();
}

#[test]
fn an_upstream_that_is_slow_is_no_fault_of_the_client() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.up_to("whole")?;
        thread::sleep(SHORT * 3);
        talk.send("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
    });
    let front = Front::with(GatewayOptions::upstream(upstream.url()).body_timeout(SHORT));
    front.connect().send("POST", CREATE, "whole").expect(201);
    assert_eq!(front.state(), State { believed: 1, reserved: 0 });
}

#[test]
fn the_client_sends_no_proper_body() {
    let upstream = Upstream::start(|talk| talk.outlast());
    let front = Front::of(&upstream);
    let answer = all(
        &front,
        &format!("POST {CREATE} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\nnonsense"),
    );
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    unknown(&front);
}

#[test]
fn the_client_hangs_up() {
    // In its body; and when all is sent.
    for request in ["content-length: 10\r\n\r\nhalf", "content-length: 4\r\n\r\nhalf"] {
        let upstream = Upstream::start(|talk| talk.outlast());
        let front = Front::of(&upstream);
        let mut stream = TcpStream::connect(front.address).unwrap();
        stream.write_all(format!("POST {CREATE} HTTP/1.1\r\nhost: a\r\n{request}").as_bytes()).unwrap();
        upstream.received_up_to("half");
        assert_eq!(front.state(), State { believed: 0, reserved: 1 });
        drop(stream);
        // So the upstream learns of it.
        until("it is closed", || upstream.closed() == 1);
        unknown(&front);
    }
}

#[test]
fn a_connection_that_the_upstream_has_closed_is_not_used() {
    let upstream = Upstream::start(|talk| {
        talk.head()?;
        talk.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    });
    let front = Front::of(&upstream);
    for at in 1..=20 {
        front.connect().send("GET", "/x", "").expect(200);
        until("it is closed", || upstream.closed() == at);
    }
}

#[test]
fn options_are_checked() {
    for (url, says) in [
        ("", "malformed"),
        ("127.0.0.1:3000", "malformed"),
        ("ftp://a", "begins with"),
        ("http://a/path", "path"),
        ("http://a?x", "query"),
        ("http://me:secret@a", "password"),
    ] {
        let error = tower_quota::Gateway::new(GatewayOptions::upstream(url)).unwrap_err();
        assert!(error.is_config() && error.message().contains(says), "{url}: {error}");
        assert!(!error.message().contains("secret"));
    }
    let error = tower_quota::Gateway::new(GatewayOptions::upstream("http://a").trusted_proxies(["10/8"])).unwrap_err();
    assert!(error.is_config(), "{error}");
    let error = tower_quota::Gateway::new(GatewayOptions::upstream("http://a").root_certificate_pem("x")).unwrap_err();
    assert!(error.is_config(), "{error}");
}
