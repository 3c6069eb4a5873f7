//! The engine without HTTP, over a database that the crate knows nothing of, with limits that the host keeps itself.
//!
//! `cargo run --example custom_source` prints each step. It shows:
//!
//! - a [`UsageSource`] of the host's own: live counts from any database, ORM or service;
//! - a [`QuotaStore`] of the host's own: here limits follow from the plan that a workspace has booked;
//! - a [`Settling`] that proves when an abandoned request's transaction can't commit any more;
//! - a reservation and its four ends: posted, posted in part, void, and dropped.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tower_quota::{
    BoxFuture, Decision, Demand, Error, Expect, Limit, LimitSet, Quota, QuotaRecord, QuotaStore, Refusal, Reservation,
    ResourceCatalog, ResourceSpec, ResourceType, Settling, UsageSource, WorkspaceId,
};
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let catalog = ResourceCatalog::empty()
        .resource(ResourceSpec::new("projects", "maxProjects", Limit::of(3)))
        .resource(ResourceSpec::new("webhooks", "maxWebhooks", Limit::of(2)))
        .build()?;
    let (projects, webhooks) = (catalog.by_name("projects")?.id(), catalog.by_name("webhooks")?.id());

    let database = Database::open();
    let plans = Plans::new(&catalog)?;
    let settling = {
        let database = database.clone();
        // The database works in order. When it answers this, all that was sent to it before has ended, and what has
        // not been sent by then never will be, since whoever would have sent it was dropped.
        Settling::barrier(move || {
            let database = database.clone();
            async move { database.ask(Command::Ping).await.map(drop) }
        })
        // Without such a proof, take a time that the database enforces, such as the sum of its time-outs for a
        // statement, a lock and an idle transaction: `Settling::After(Duration::from_secs(30))`.
    };
    let quota = Quota::builder(catalog)
        .store(Arc::clone(&plans))
        .usage(database.clone())
        .settling(settling)
        .max_wait(Duration::from_millis(500))
        .build()?;
    let acme = quota.workspace("acme")?;
    let show = async |step: &str| -> Result<(), Error> {
        let usage = quota.usage(&acme).await?;
        let shown = usage.iter().zip(quota.catalog().iter());
        let shown: Vec<_> =
            shown.map(|(usage, of)| format!("{} {}/{}", of.name(), usage.current, usage.limit)).collect();
        println!("{step}\n    rows: {}", shown.join(", "));
        Ok(())
    };
    show("At the start, on the small plan.").await?;

    // The reservation is declared first, and so dropped last: the transaction is gone before its units are told of.
    let reservation = admitted(quota.reserve(&acme, &[Demand::one(projects)]).await?)?;
    database.insert(&acme, "projects", "Apollo").await?;
    reservation.post();
    show("Posted: the row exists.").await?;

    let reservation = admitted(quota.reserve(&acme, &[Demand::one(projects)]).await?)?;
    if let Err(taken) = database.insert(&acme, "projects", "Apollo").await {
        println!("The database refuses: {taken}.");
        reservation.void();
    }
    show("Void: no row came of it, and the unit is free again at once.").await?;

    // A project and two webhooks, all or none.
    let mut reservation = admitted(quota.reserve(&acme, &[Demand::one(projects), Demand::new(webhooks, 2)]).await?)?;
    database.insert(&acme, "projects", "Gemini").await?;
    database.insert(&acme, "webhooks", "https://example.com/hook").await?;
    reservation.post_some(projects, 1);
    reservation.post_some(webhooks, 1);
    drop(reservation);
    show("Posted in part: one of the two webhooks was made, the other unit is free again.").await?;

    // The caller gives up while its insert is under way. Nobody can say yet whether there will be a row.
    let abandoned = async {
        let reservation = admitted(quota.reserve(&acme, &[Demand::one(projects)]).await?)?;
        database.insert(&acme, "projects", "Mercury").await?;
        reservation.post();
        Ok::<_, Box<dyn StdError>>(())
    };
    match timeout(Database::LATENCY / 2, abandoned).await {
        Ok(done) => done?,
        Err(_) => println!("Dropped: the caller gave up, and the insert is still on its way."),
    }
    match quota.reserve(&acme, &[Demand::one(projects)]).await? {
        Decision::Admitted(_) => println!("admitted, which would be one too many"),
        Decision::Refused(refusal) => refused(&refusal),
    }
    show("The insert did commit. Its unit was held all the while, so that nobody else could take it.").await?;

    plans.book(&acme, Plan::Large);
    // The engine reads limits again every minute (`refresh_after`); reading the record puts them in force at once.
    quota.record(&acme).await?;
    let reservation = admitted(quota.reserve(&acme, &[Demand::one(projects)]).await?)?;
    database.insert(&acme, "projects", "Skylab").await?;
    reservation.post();
    show("A larger plan was booked, and there is room again.").await?;
    Ok(())
}

fn admitted(decision: Decision) -> Result<Reservation, String> {
    match decision {
        Decision::Admitted(reservation) => Ok(reservation),
        Decision::Refused(refusal) => Err(refusal.message()),
    }
}

fn refused(refusal: &Refusal) {
    println!(
        "Refused: {}; {} of {} exist, {} asked for.",
        refusal.message(),
        refusal.current_usage,
        refusal.limit,
        refusal.requested
    );
}

/// Names, by workspace and resource type.
type Rows = HashMap<(String, String), Vec<String>>;

/// A stand-in for a database server: it takes commands in order, and carries out what it was sent even when nobody
/// waits for the answer any more.
#[derive(Clone)]
struct Database(mpsc::Sender<(Command, Answer)>);

type Answer = oneshot::Sender<Result<u64, String>>;

enum Command {
    Insert { workspace: String, table: String, name: String },
    Count { workspace: String, table: String },
    Ping,
}

impl Database {
    /// How long an insert takes.
    const LATENCY: Duration = Duration::from_millis(50);

    fn open() -> Self {
        let (sender, mut commands) = mpsc::channel::<(Command, Answer)>(16);
        tokio::spawn(async move {
            let mut rows = Rows::new();
            while let Some((command, answer)) = commands.recv().await {
                // The caller may be gone.
                let _ = answer.send(execute(&mut rows, command).await);
            }
        });
        Self(sender)
    }

    async fn ask(&self, command: Command) -> Result<u64, String> {
        let (answer, answered) = oneshot::channel();
        let down = "the database is down";
        self.0.send((command, answer)).await.map_err(|_| down)?;
        answered.await.map_err(|_| down)?
    }

    async fn insert(&self, workspace: &WorkspaceId, table: &str, name: &str) -> Result<(), String> {
        let (workspace, table, name) = (workspace.as_str().to_owned(), table.to_owned(), name.to_owned());
        self.ask(Command::Insert { workspace, table, name }).await.map(drop)
    }
}

async fn execute(rows: &mut Rows, command: Command) -> Result<u64, String> {
    match command {
        Command::Insert { workspace, table, name } => {
            sleep(Database::LATENCY).await;
            let rows = rows.entry((workspace, table)).or_default();
            if rows.contains(&name) {
                return Err(format!("there is one called {name}"));
            }
            rows.push(name);
            Ok(1)
        }
        Command::Count { workspace, table } => {
            Ok(rows.get(&(workspace, table)).map_or(0, |rows| u64::try_from(rows.len()).unwrap_or(u64::MAX)))
        }
        Command::Ping => Ok(0),
    }
}

/// Live counts. For a count alone, `ClosureUsage` spares the host this trait.
impl UsageSource for Database {
    fn count<'a>(
        &'a self,
        workspace: &'a WorkspaceId,
        resource: &'a ResourceType,
        // A large table need not be counted further than this: `SELECT count(*) FROM (SELECT 1 … LIMIT $2)`.
        _at_most: Option<u64>,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            let (workspace, table) = (workspace.as_str().to_owned(), resource.name().to_owned());
            let counted = self.ask(Command::Count { workspace, table }).await;
            // An answer that is not to be had is an error, never 0.
            counted.map_err(|error| Error::unavailable("the rows can't be counted").with_source(error))
        })
    }

    fn existing<'a>(
        &'a self,
        _workspace: &'a WorkspaceId,
        _resource: &'a ResourceType,
        _column: &'a str,
        _values: &'a [String],
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        Box::pin(async { Err(Error::config("this host has no rules that look up rows")) })
    }
}

#[derive(Clone, Copy)]
enum Plan {
    Small,
    Large,
}

/// Limits that follow from plans. A record's version has to grow with every change: the engine never lets an older one
/// replace a newer.
struct Plans {
    small: LimitSet,
    large: LimitSet,
    booked: Mutex<HashMap<WorkspaceId, (Plan, u64)>>,
    since: Timestamp,
}

impl Plans {
    fn new(catalog: &ResourceCatalog) -> Result<Arc<Self>, Error> {
        let limits = |projects| -> Result<LimitSet, Error> {
            Ok(LimitSet::new().with(catalog.by_name("projects")?.id(), Limit::of(projects)))
        };
        let (small, large) = (limits(3)?, limits(10)?);
        Ok(Arc::new(Self { small, large, booked: Mutex::default(), since: Timestamp::now() }))
    }

    fn booked(&self) -> MutexGuard<'_, HashMap<WorkspaceId, (Plan, u64)>> {
        self.booked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self, workspace: &WorkspaceId, plan: Plan) {
        let mut booked = self.booked();
        let (current, version) = booked.entry(workspace.clone()).or_insert((Plan::Small, 1));
        *current = plan;
        *version += 1;
    }

    fn record(&self, workspace: &WorkspaceId) -> QuotaRecord {
        let (plan, version) = self.booked().get(workspace).copied().unwrap_or((Plan::Small, 1));
        let limits = match plan {
            Plan::Small => &self.small,
            Plan::Large => &self.large,
        };
        QuotaRecord::new(Uuid::nil(), workspace.clone(), version, limits.clone(), self.since, self.since)
    }
}

impl QuotaStore for Plans {
    fn load<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<Option<QuotaRecord>, Error>> {
        Box::pin(async move { Ok(Some(self.record(workspace))) })
    }

    fn provision<'a>(&'a self, workspace: &'a WorkspaceId) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Box::pin(async move { Ok(self.record(workspace)) })
    }

    fn update<'a>(
        &'a self,
        _workspace: &'a WorkspaceId,
        _changes: &'a LimitSet,
        _expect: &'a Expect,
    ) -> BoxFuture<'a, Result<QuotaRecord, Error>> {
        Box::pin(async { Err(Error::invalid("limits follow from the plan: book another one")) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}
