//! Limits and usage of a workspace, live.

mod lines;
mod screen;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::{DefaultTerminal, restore, try_init};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tower_quota::AuditEntry;
use tower_quota::client::{Analytics, AuditQuery, ClientError, Enforcement, QuotaClient, QuotaStatus, TrendQuery};

use crate::args::Monitor;
use crate::failure::{Failure, Outcome};
use screen::View;

/// How many audit entries are shown.
const ENTRIES: u32 = 10;

/// How many days of what the server remembers are shown.
const DAYS: i64 = 30;

/// How long refusals are recent.
const RECENT: SignedDuration = SignedDuration::from_hours(24);

/// What the server tells at one time.
struct Sample {
    status: QuotaStatus,
    enforcement: Enforcement,
    /// `None` where the server has none.
    analytics: Option<Analytics>,
    /// The newest first; `None` where the server keeps none.
    refusals: Option<Vec<Refused>>,
    /// `None` where the token may not see it.
    entries: Option<Vec<AuditEntry>>,
}

/// Creations that were refused within an hour.
struct Refused {
    /// When the hour began.
    hour: Timestamp,
    resource: String,
    many: u64,
}

impl Sample {
    async fn take(client: &QuotaClient, workspace: &str) -> Result<Self, ClientError> {
        let status = client.quota(workspace).await?;
        let enforcement = client.enforcement().await?;
        let analytics = analytics(client, workspace, &TrendQuery::last_days(DAYS)).await?;
        let hours = TrendQuery { granularity: Some("hour".into()), ..TrendQuery::last_days(2) };
        let refusals = match &analytics {
            Some(_) => self::analytics(client, workspace, &hours).await?.map(|hours| recent(&hours)),
            None => None,
        };
        let query = AuditQuery { workspace: Some(workspace.into()), limit: Some(ENTRIES), ..AuditQuery::default() };
        let entries = match client.audit(&query).await {
            Err(error) if error.is_forbidden() => None,
            list => Some(list?.entries),
        };
        Ok(Self { status, enforcement, analytics, refusals, entries })
    }

    /// How many creations of a resource type were refused of late.
    fn refused(&self, resource: &str) -> Option<u64> {
        let of = |refusals: &Vec<Refused>| {
            refusals.iter().filter(|of| of.resource == resource).fold(0, |sum: u64, of| sum.saturating_add(of.many))
        };
        self.refusals.as_ref().map(of)
    }
}

/// What the server tells of usage over time; `None` where it doesn't.
async fn analytics(
    client: &QuotaClient,
    workspace: &str,
    query: &TrendQuery,
) -> Result<Option<Analytics>, ClientError> {
    match client.analytics(workspace, query).await {
        // It is there in some servers only.
        Err(error) if error.is_not_found() || error.is_bad_request() => Ok(None),
        analytics => analytics.map(Some),
    }
}

/// The recent refusals among those of some hours.
fn recent(hours: &Analytics) -> Vec<Refused> {
    let since = Timestamp::now().saturating_sub(RECENT).unwrap_or(Timestamp::MIN);
    let of_hour = hours.trends.iter().rev().filter_map(|trend| {
        let hour = trend.date.parse::<Timestamp>().ok().filter(|hour| *hour > since)?;
        Some(trend.refusals.iter().map(move |(resource, many)| Refused {
            hour,
            resource: resource.to_owned(),
            many: *many,
        }))
    });
    of_hour.flatten().collect()
}

pub(crate) async fn run(client: QuotaClient, asked: Monitor) -> Result<Outcome, Failure> {
    let Monitor { of, refresh } = asked;
    // What can't be had at all is told as by any other command.
    let first = Sample::take(&client, &of.workspace).await?;
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return lines::run(&client, &of.workspace, first, refresh).await;
    }
    let mut view = View::new(client.url().to_owned(), refresh, first);
    let mut screen = Screen::enter()?;
    let shown = live(&client, &of.workspace, refresh, &mut view, &mut screen.0).await;
    drop(screen);
    shown.map(|()| Outcome::Done)
}

/// A terminal that is given back as it was, however this ends.
struct Screen(DefaultTerminal);

impl Screen {
    /// A panic gives it back, too: `try_init` sees to that.
    fn enter() -> Result<Self, Failure> {
        try_init().map(Self).map_err(|error| Failure::other(format!("the terminal can't be used: {error}")))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

async fn live(
    client: &QuotaClient,
    workspace: &str,
    refresh: Duration,
    view: &mut View,
    terminal: &mut DefaultTerminal,
) -> Result<(), Failure> {
    let (send, mut keys) = mpsc::channel(16);
    // To read a key waits for one. The thread ends with the process.
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if send.blocking_send(event).is_err() {
                return;
            }
        }
    });
    let (wake, mut wakes) = mpsc::channel(1);
    let (samples, mut sampled) = mpsc::channel(1);
    let (client, workspace) = (client.clone(), workspace.to_owned());
    let sampler = tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(refresh) => {}
                _ = wakes.recv() => {}
            }
            if samples.send(Sample::take(&client, &workspace).await).await.is_err() {
                return;
            }
        }
    });
    let mut clock = interval(Duration::from_secs(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told::new()?;
    loop {
        terminal.draw(|frame| view.draw(frame))?;
        tokio::select! {
            Some(sample) = sampled.recv() => view.take(sample),
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => break,
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => break,
                    KeyCode::Char('r') => drop(wake.try_send(())),
                    KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
                    KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
                    _ => {}
                },
                Some(_) => {}
                // The terminal is gone.
                None => break,
            },
            () = told.heard() => break,
            _ = clock.tick() => {}
        }
    }
    sampler.abort();
    Ok(())
}

/// The signals that end a process, which must give the terminal back first.
struct Told {
    #[cfg(unix)]
    signals: [tokio::signal::unix::Signal; 3],
}

impl Told {
    #[cfg(unix)]
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::{SignalKind, signal};
        let caught = |kind| signal(kind).map_err(|error| Failure::other(format!("signals can't be caught: {error}")));
        let [terminate, hang_up, interrupt] =
            [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()].map(caught);
        Ok(Self { signals: [terminate?, hang_up?, interrupt?] })
    }

    #[cfg(unix)]
    async fn heard(&mut self) {
        let [terminate, hang_up, interrupt] = &mut self.signals;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
            _ = interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn new() -> Result<Self, Failure> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn heard(&mut self) {
        // Where Ctrl-C can't be heard of, it is a key.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
