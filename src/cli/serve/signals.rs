//! What the system tells a service to do.

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Reload,
    Stop,
}

#[cfg(unix)]
pub(super) use unix::Signals;

#[cfg(unix)]
mod unix {
    use std::io;

    use tokio::signal::unix;
    use tokio::signal::unix::SignalKind;

    use super::Signal;

    /// The signals that have come since it was made.
    pub(crate) struct Signals {
        hang_up: unix::Signal,
        interrupt: unix::Signal,
        terminate: unix::Signal,
    }

    impl Signals {
        pub(crate) fn listen() -> io::Result<Self> {
            Ok(Self {
                hang_up: unix::signal(SignalKind::hangup())?,
                interrupt: unix::signal(SignalKind::interrupt())?,
                terminate: unix::signal(SignalKind::terminate())?,
            })
        }

        pub(crate) async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.hang_up.recv() => Signal::Reload,
                _ = self.interrupt.recv() => Signal::Stop,
                _ = self.terminate.recv() => Signal::Stop,
            }
        }

        /// Waits for the one that ends it; the others wait, too.
        pub(crate) async fn stop(&mut self) {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        }
    }
}

#[cfg(not(unix))]
pub(super) struct Signals(());

#[cfg(not(unix))]
impl Signals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self(()))
    }

    pub(super) async fn next(&mut self) -> Signal {
        self.stop().await;
        Signal::Stop
    }

    pub(super) async fn stop(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
