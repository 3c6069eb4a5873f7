//! A network between a process and Postgres that fails in the ways in which networks do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// What is sent is lost, both ways, and nobody is told.
    Drop,
    /// What is sent arrives when it passes again.
    Delay,
    /// Nothing comes from the server any more, and the client is told so; what the client sends arrives.
    HalfClose,
    /// Connections break.
    Reset,
}

/// What happens to connections. `only` those whose client has sent these bytes since it was set, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weather {
    mode: Mode,
    only: Option<&'static [u8]>,
    // To tell one from an equal one before it.
    number: usize,
}

/// Listens on a port of its own, and passes on to a server until it is told otherwise.
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    caught: Arc<AtomicUsize>,
    // Its end is the end of all connections.
    _runtime: Runtime,
}

impl Proxy {
    pub(crate) fn start(server: PathBuf) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (weather, seen) = watch::channel(Weather { mode: Mode::Pass, only: None, number: 0 });
        let caught = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&caught);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&server).await else { continue };
                tokio::spawn(Link::new(client, server, seen.clone(), Arc::clone(&counter)).run());
            }
        });
        Self { address, weather, caught, _runtime: runtime }
    }

    /// The URL by which a database of the server is reached through here.
    pub(crate) fn url(&self, direct: &str) -> String {
        let (url, _) = direct.split_once('?').unwrap();
        url.replace("@localhost/", &format!("@{}/", self.address)) + "?sslmode=disable"
    }

    /// For all connections, those that come later too.
    pub(crate) fn set(&self, mode: Mode) {
        self.change(mode, None);
    }

    /// For those whose client sends this from now on; the others pass.
    pub(crate) fn set_for(&self, mode: Mode, only: &'static [u8]) {
        self.change(mode, Some(only));
    }

    fn change(&self, mode: Mode, only: Option<&'static [u8]>) {
        self.weather.send_modify(|weather| {
            self.caught.store(0, Ordering::SeqCst);
            *weather = Weather { mode, only, number: weather.number + 1 };
        });
    }

    /// How many connections `set_for` has met.
    pub(crate) fn caught(&self) -> usize {
        self.caught.load(Ordering::SeqCst)
    }
}

/// One connection.
struct Link {
    client: TcpStream,
    server: UnixStream,
    weather: watch::Receiver<Weather>,
    caught: Arc<AtomicUsize>,
    /// The weather in which the client sent what is looked for.
    marked: Option<usize>,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// Something of it was lost: it can't go on as if nothing had happened.
    broken: bool,
    /// One side has hung up.
    ended: bool,
}

impl Link {
    fn new(client: TcpStream, server: UnixStream, weather: watch::Receiver<Weather>, caught: Arc<AtomicUsize>) -> Self {
        let (to_server, to_client) = (Vec::new(), Vec::new());
        Self { client, server, weather, caught, marked: None, to_server, to_client, broken: false, ended: false }
    }

    async fn run(mut self) {
        let mut half_closed = false;
        let (mut from_client, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        loop {
            let weather = *self.weather.borrow_and_update();
            let mode = match weather.only {
                Some(_) if self.marked != Some(weather.number) => Mode::Pass,
                _ => weather.mode,
            };
            let passed = match mode {
                Mode::Pass if self.broken => return drop(self.client.set_zero_linger()),
                Mode::Reset => return drop(self.client.set_zero_linger()),
                Mode::Pass => self.pass().await,
                Mode::Drop => {
                    self.broken |= !self.to_server.is_empty() || !self.to_client.is_empty();
                    self.to_server.clear();
                    self.to_client.clear();
                    Ok(())
                }
                Mode::Delay => Ok(()),
                Mode::HalfClose => {
                    if !half_closed {
                        (half_closed, self.broken) = (true, true);
                        let _ = self.client.shutdown().await;
                    }
                    self.to_client.clear();
                    self.pass().await
                }
            };
            // Of a hang-up, too, nobody hears while nothing arrives.
            if passed.is_err() || self.ended && matches!(mode, Mode::Pass | Mode::HalfClose) {
                return;
            }
            tokio::select! {
                read = self.client.read(&mut from_client), if !self.ended => match read {
                    Ok(0) | Err(_) => self.ended = true,
                    Ok(read) => {
                        self.to_server.extend_from_slice(&from_client[..read]);
                        self.look_for(weather);
                    }
                },
                read = self.server.read(&mut from_server), if !self.ended => match read {
                    Ok(0) | Err(_) => self.ended = true,
                    Ok(read) => self.to_client.extend_from_slice(&from_server[..read]),
                },
                changed = self.weather.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn pass(&mut self) -> std::io::Result<()> {
        self.server.write_all(&self.to_server).await?;
        self.to_server.clear();
        self.client.write_all(&self.to_client).await?;
        self.to_client.clear();
        Ok(())
    }

    fn look_for(&mut self, weather: Weather) {
        let Some(only) = weather.only.filter(|_| self.marked != Some(weather.number)) else { return };
        if self.to_server.windows(only.len()).any(|bytes| bytes == only) {
            self.marked = Some(weather.number);
            self.caught.fetch_add(1, Ordering::SeqCst);
        }
    }
}
