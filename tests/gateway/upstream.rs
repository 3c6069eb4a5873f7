//! Upstreams that say and do what a test wants, byte for byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::until;

/// Only so that a lost message fails a test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of which each connection is a thread.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Vec<Recorded>>>,
    sent: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    accepts: Option<JoinHandle<()>>,
}

struct Recorded {
    stream: TcpStream,
    bytes: Arc<Mutex<Vec<u8>>>,
}

/// A connection, from the server's side.
pub(crate) struct Talk {
    stream: TcpStream,
    bytes: Arc<Mutex<Vec<u8>>>,
    read: usize,
    sent: Arc<AtomicUsize>,
}

impl Upstream {
    /// Does `work` with each connection, and closes it then.
    pub(crate) fn start(work: impl Fn(&mut Talk) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<Mutex<Vec<Recorded>>> = Arc::default();
        let (sent, closed, ends): (Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicBool>) = Default::default();
        let (known, ending, work) = (Arc::clone(&connections), Arc::clone(&ends), Arc::new(work));
        let (all_sent, all_closed) = (Arc::clone(&sent), Arc::clone(&closed));
        let accepts = thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let bytes = Arc::default();
                known.lock().unwrap().push(Recorded { stream: stream.try_clone().unwrap(), bytes: Arc::clone(&bytes) });
                let (work, sent, closed) = (Arc::clone(&work), Arc::clone(&all_sent), Arc::clone(&all_closed));
                thread::spawn(move || {
                    let mut talk = Talk { stream, bytes, read: 0, sent };
                    // What breaks off is the test's affair.
                    let _ = work(&mut talk);
                    let _ = talk.stream.shutdown(Shutdown::Both);
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, connections, sent, closed, ends, accepts: Some(accepts) }
    }

    /// Answers each request with `answer`, once its head has come.
    pub(crate) fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |talk| {
            loop {
                talk.head()?;
                talk.send(&answer)?;
            }
        })
    }

    /// How many of its connections have ended.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    /// How many bytes it has sent, on all connections.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come on each connection.
    pub(crate) fn received(&self) -> Vec<String> {
        let connections = self.connections.lock().unwrap();
        connections.iter().map(|it| String::from_utf8_lossy(&it.bytes.lock().unwrap()).into_owned()).collect()
    }

    /// What has come on the only connection, once it has this at its end.
    #[track_caller]
    pub(crate) fn received_up_to(&self, end: &str) -> String {
        until("it has come", || self.received().first().is_some_and(|received| received.ends_with(end)));
        self.received().remove(0)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes who accepts.
        drop(TcpStream::connect(self.address));
        if let Some(accepts) = self.accepts.take() {
            let _ = accepts.join();
        }
        for connection in self.connections.lock().unwrap().iter() {
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

impl Talk {
    /// The next head, with the empty line at its end.
    pub(crate) fn head(&mut self) -> io::Result<String> {
        self.up_to("\r\n\r\n")
    }

    /// What comes, up to `end`.
    pub(crate) fn up_to(&mut self, end: &str) -> io::Result<String> {
        loop {
            let text = String::from_utf8_lossy(&self.bytes.lock().unwrap()[self.read..]).into_owned();
            if let Some(at) = text.find(end) {
                let found = text[..at + end.len()].to_owned();
                self.read += found.len();
                return Ok(found);
            }
            self.more()?;
        }
    }

    /// So many bytes.
    pub(crate) fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.bytes.lock().unwrap().len() < self.read + length {
            self.more()?;
        }
        let found = self.bytes.lock().unwrap()[self.read..self.read + length].to_vec();
        self.read += length;
        Ok(found)
    }

    /// Waits for bytes, and notes them.
    pub(crate) fn more(&mut self) -> io::Result<()> {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.bytes.lock().unwrap().extend_from_slice(&chunk[..read]);
                Ok(())
            }
        }
    }

    /// The bytes that have come since; some at least.
    pub(crate) fn bytes(&mut self) -> io::Result<Vec<u8>> {
        if self.bytes.lock().unwrap().len() == self.read {
            self.more()?;
        }
        let bytes = self.bytes.lock().unwrap()[self.read..].to_vec();
        self.read += bytes.len();
        Ok(bytes)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.sent.fetch_add(bytes.as_ref().len(), Ordering::SeqCst);
        Ok(())
    }

    /// Waits until the other side is gone.
    pub(crate) fn outlast(&mut self) -> io::Result<()> {
        loop {
            self.more()?;
        }
    }
}
