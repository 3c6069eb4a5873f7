//! Who is signed in, and who tries to be.

use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use subtle::ConstantTimeEq;

use crate::error::Error;

/// The most sessions at a time.
const SESSIONS: u64 = 10_000;
/// How long failures to sign in count, how many there may be, and of how many clients they are counted.
const MINUTE: Duration = Duration::from_secs(60);
const FAILURES: u32 = 20;
const CLIENTS: u64 = 10_000;

/// Something to be told on the next page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flash {
    Done(String),
    Failed(String),
    /// Something that is shown this once.
    #[cfg(feature = "webhooks")]
    Secret(String),
}

/// One browser that is signed in.
pub(super) struct Session {
    /// What it has signed in with.
    pub(super) token: String,
    /// What its forms have in them.
    pub(super) form: String,
    clicked: Mutex<Instant>,
    flash: Mutex<Option<Flash>>,
}

impl Session {
    pub(super) fn tell(&self, flash: Flash) {
        *self.flash.lock().unwrap_or_else(PoisonError::into_inner) = Some(flash);
    }

    pub(super) fn told(&self) -> Option<Flash> {
        self.flash.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether a form is one of its own.
    pub(super) fn made(&self, form: &str) -> bool {
        self.form.as_bytes().ct_eq(form.as_bytes()).into()
    }
}

/// The sessions of this process, by their ids.
pub(super) struct Sessions {
    sessions: Cache<String, Arc<Session>>,
    idle: Duration,
}

impl Sessions {
    pub(super) fn new(idle: Duration, lifetime: Duration) -> Self {
        Self { sessions: Cache::builder().max_capacity(SESSIONS).time_to_live(lifetime).build(), idle }
    }

    /// Begins a session; answers its id.
    pub(super) fn begin(&self, token: &str) -> Result<String, Error> {
        let id = random()?;
        let session = Session {
            token: token.to_owned(),
            form: random()?,
            clicked: Mutex::new(Instant::now()),
            flash: Mutex::new(None),
        };
        self.sessions.insert(id.clone(), Arc::new(session));
        Ok(id)
    }

    /// The session with this id, unless it is over. A click makes it last.
    pub(super) fn find(&self, id: &str, click: bool) -> Option<Arc<Session>> {
        let session = self.sessions.get(id)?;
        let mut clicked = session.clicked.lock().unwrap_or_else(PoisonError::into_inner);
        if clicked.elapsed() >= self.idle {
            drop(clicked);
            self.end(id);
            return None;
        }
        if click {
            *clicked = Instant::now();
        }
        drop(clicked);
        Some(session)
    }

    pub(super) fn end(&self, id: &str) {
        self.sessions.invalidate(id);
    }
}

/// 256 random bits.
fn random() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::unavailable("the system has no random bytes to begin a session with").with_source(error)
    })?;
    Ok(hex(&bytes))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A string takes all that is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Counts failures to sign in, by client.
pub(super) struct Throttle(Cache<String, Arc<AtomicU32>>);

impl Throttle {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(CLIENTS).time_to_live(MINUTE).build())
    }

    /// Whether a client may try.
    pub(super) fn lets(&self, client: &str) -> bool {
        self.0.get(client).is_none_or(|failures| failures.load(Ordering::Relaxed) < FAILURES)
    }

    pub(super) fn failed(&self, client: &str) {
        self.0.get_with_by_ref(client, Arc::default).fetch_add(1, Ordering::Relaxed);
    }

    /// How long a client is to wait at most, in seconds.
    pub(super) fn wait() -> u64 {
        MINUTE.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_nobody_clicks_however_often_the_page_is_brought_up_to_date() {
        let sessions = Sessions::new(Duration::from_millis(50), Duration::from_secs(3600));
        let begun = Instant::now();
        let id = sessions.begin("token").unwrap();
        while sessions.find(&id, false).is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it never ends");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(begun.elapsed() >= Duration::from_millis(50) && sessions.find(&id, true).is_none());
    }

    #[test]
    fn a_session_ends_in_any_case() {
        let sessions = Sessions::new(Duration::from_secs(3600), Duration::from_millis(50));
        let id = sessions.begin("token").unwrap();
        let begun = Instant::now();
        while sessions.find(&id, true).is_some() {
            assert!(begun.elapsed() < Duration::from_secs(10), "it never ends");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn ids_and_forms_are_all_different_and_fit_their_session_only() {
        let sessions = Sessions::new(Duration::from_secs(60), Duration::from_secs(60));
        let (one, other) = (sessions.begin("token").unwrap(), sessions.begin("token").unwrap());
        assert!(one != other && one.len() == 64);
        let (one, other) = (sessions.find(&one, true).unwrap(), sessions.find(&other, true).unwrap());
        assert!(one.made(&one.form) && !one.made(&other.form) && !one.made(""));
        one.tell(Flash::Done("saved".to_owned()));
        assert_eq!((one.told(), one.told(), other.told()), (Some(Flash::Done("saved".to_owned())), None, None));
    }

    #[test]
    fn failures_are_counted_by_client() {
        let throttle = Throttle::new();
        for _ in 0..FAILURES {
            assert!(throttle.lets("mallory"));
            throttle.failed("mallory");
        }
        assert!(!throttle.lets("mallory") && throttle.lets("ann"));
    }
}
