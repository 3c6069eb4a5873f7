//! HTTP/1.1 by hand, so that a client can do what no well-behaved library lets it do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::random::Random;

/// Only so that a lost answer fails a test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(60);

/// One keep-alive connection.
pub(crate) struct Connection {
    stream: TcpStream,
    token: Option<String>,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Whether the server keeps the connection open after this answer.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Checks an error answer of the contract, and returns its message.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{self}");
        let body = self.json();
        assert_eq!(body["error"], code, "{self}");
        let message = body["message"].as_str().unwrap_or_default().to_owned();
        assert!(!message.is_empty(), "{self}");
        message
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, self.text())
    }
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, token: Option<&str>, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: quickstart\r\ncontent-length: {}\r\n", body.len());
    if let Some(token) = token {
        head.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.push_str(body);
    head.into_bytes()
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, token: None, buffer: Vec::new() })
    }

    pub(crate) fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub(crate) fn end_sending(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    pub(crate) fn try_send(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let bytes = request(method, path, self.token.as_deref(), &[], body);
        self.send_raw(&bytes)?;
        self.read()
    }

    #[track_caller]
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> Answer {
        self.try_send(method, path, body).unwrap()
    }

    #[track_caller]
    pub(crate) fn send_with(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let bytes = request(method, path, self.token.as_deref(), headers, body);
        self.send_raw(&bytes).unwrap();
        self.read().unwrap()
    }

    /// Reads one answer.
    pub(crate) fn read(&mut self) -> io::Result<Answer> {
        let mut answer = self.read_head()?;
        if answer.header("transfer-encoding").is_some() {
            panic!("the answers that are read here all have a length: {answer}");
        }
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.buffer.len() < length {
            self.fill()?;
        }
        answer.body = self.buffer.drain(..length).collect();
        Ok(answer)
    }

    /// Reads an answer to HEAD, or as much as there is to it without its body.
    pub(crate) fn read_head(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break self.buffer.drain(..end + 4).collect::<Vec<u8>>();
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Answer { status: status.expect("an HTTP status line"), headers, body: Vec::new() })
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.buffer.extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Runs `work` on so many threads, all let go at the same moment, and returns what each of them returns.
pub(crate) fn together<T: Send>(
    threads: usize,
    seed: u64,
    round: usize,
    work: impl Fn(usize, &mut Random) -> T + Sync,
) -> Vec<T> {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let (start, work) = (&start, &work);
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut random = Random::new(seed, &[round, thread]);
                    start.wait();
                    work(thread, &mut random)
                })
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Counts answers, and lets somebody wait for so many of them.
#[derive(Default)]
pub(crate) struct Answered {
    answers: Mutex<usize>,
    more: Condvar,
}

impl Answered {
    pub(crate) fn one(&self) {
        *self.answers.lock().unwrap() += 1;
        self.more.notify_all();
    }

    pub(crate) fn wait_for(&self, answers: usize) {
        let found = self.answers.lock().unwrap();
        let (found, late) = self.more.wait_timeout_while(found, PATIENCE, |found| *found < answers).unwrap();
        assert!(!late.timed_out(), "{found} answers, and no more come");
    }

    /// More than there are now.
    pub(crate) fn wait_for_more(&self, answers: usize) {
        let now = *self.answers.lock().unwrap();
        self.wait_for(now + answers);
    }
}
