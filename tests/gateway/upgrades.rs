//! Connections that go on in another protocol.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::front::Front;
use crate::support::until;
use crate::upstream::Upstream;

const ASKED: &str = "GET /socket HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

/// Agrees to all upgrades, and sends back whatever comes.
fn echo() -> Upstream {
    echo_once(&Arc::new(AtomicBool::new(true)))
}

/// Does so once it may.
fn echo_once(may: &Arc<AtomicBool>) -> Upstream {
    let may = Arc::clone(may);
    Upstream::start(move |talk| {
        let head = talk.head()?;
        until("it may answer", || may.load(Ordering::SeqCst));
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(head.contains("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{head}");
        // Its first words come with its answer.
        talk.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello",
        )?;
        loop {
            let bytes = talk.bytes()?;
            if bytes == b"bye" {
                return Ok(());
            }
            talk.send(bytes)?;
        }
    })
}

/// Opens such a connection, and reads up to the first words.
fn open(front: &Front) -> TcpStream {
    let mut stream = ask(front, b"");
    agreed(&mut stream);
    stream
}

/// Asks for such a connection, and goes on at once.
fn ask(front: &Front, early: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(&[ASKED.as_bytes(), early].concat()).unwrap();
    stream
}

/// Reads up to the first words.
fn agreed(stream: &mut TcpStream) {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nhello") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
    for field in
        ["connection: upgrade\r\n", "upgrade: websocket\r\n", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"]
    {
        assert!(answer.contains(field), "{answer}");
    }
}

#[test]
fn bytes_go_both_ways() {
    let upstream = echo();
    let front = Front::of(&upstream);
    let mut streams: Vec<_> = (0..5).map(|_| open(&front)).collect();
    for round in 0..20_u8 {
        for (at, stream) in streams.iter_mut().enumerate() {
            let said = [0, 0xff, round, u8::try_from(at).unwrap()].repeat(1000);
            stream.write_all(&said).unwrap();
            let mut heard = vec![0; said.len()];
            stream.read_exact(&mut heard).unwrap();
            assert!(heard == said);
        }
    }
}

#[test]
fn the_end_of_one_side_is_the_end_of_the_other() {
    let upstream = echo();
    let front = Front::of(&upstream);
    // The upstream's.
    let mut stream = open(&front);
    stream.write_all(b"bye").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    until("it is closed", || upstream.closed() == 1);
    // The client's; and when it only says that it has no more to say.
    drop(open(&front));
    until("it is closed", || upstream.closed() == 2);
    let mut stream = open(&front);
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    until("it is closed", || upstream.closed() == 3);
}

#[test]
fn an_upgrade_that_the_upstream_declines_is_a_plain_request() {
    let upstream = Upstream::answering("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno");
    let front = Front::of(&upstream);
    let mut connection = front.connect();
    connection.send_raw(ASKED.as_bytes()).unwrap();
    assert_eq!(connection.read().unwrap().expect(426).text(), "no");
    connection.send("GET", "/x", "").expect(426);
}

#[test]
fn what_comes_before_the_answer_is_carried_as_it_is() {
    // No head of HTTP/1.1, whose bytes these are not.
    let early = b"\n\r\0GET\r\n\n content-length: 1\r\ncontent-length: 1\r\n\r\n".repeat(300);
    for length in [1, 2, 100, 6000, early.len()] {
        let early = &early[..length];
        // With the request, and after it.
        for (with, after) in [(early, &b""[..]), (b"", early), (&early[..length / 2], &early[length / 2..])] {
            let may = Arc::new(AtomicBool::new(false));
            let upstream = echo_once(&may);
            let front = Front::of(&upstream);
            let mut stream = ask(&front, with);
            upstream.received_up_to("\r\n\r\n");
            stream.write_all(after).unwrap();
            may.store(true, Ordering::SeqCst);
            agreed(&mut stream);
            stream.write_all(b"\nlate").unwrap();
            let mut heard = vec![0; length + 5];
            stream.read_exact(&mut heard).unwrap();
            assert!(heard == [early, b"\nlate"].concat(), "{length}: {:?}", String::from_utf8_lossy(&heard));
        }
    }
}

#[test]
fn what_comes_behind_a_declined_upgrade_is_a_request() {
    let upstream = Upstream::answering("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno");
    let front = Front::of(&upstream);
    let get = "GET /x HTTP/1.1\r\nhost: a\r\n";
    for (more, answers) in [
        (format!("{ASKED}{get}connection: close\r\n\r\n"), [426, 426, 426]),
        (format!("{get}content-length: 1\r\n\r\n\n{get}x: y\n\r\n"), [426, 426, 400]),
        (format!("{ASKED}{get}content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n"), [426, 426, 400]),
    ] {
        let mut answer = String::new();
        ask(&front, more.as_bytes()).read_to_string(&mut answer).unwrap();
        let statuses: Vec<u16> = answer.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect();
        assert_eq!(statuses, answers, "{more:?}: {answer}");
    }
}
