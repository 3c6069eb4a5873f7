//! All that is outside of the replicas: the database with its rows, transactions and books, the network, and what goes
//! wrong with them. It moves by events, in an order that the seed decides.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::books::{self, Books, Count};
use super::plan::{Mutation, Plan};
use super::random::Random;
use crate::authority::{BooksMark, Heard, LeaseOf, News, Notice, Peer, Reply};
use crate::decision::Refusal;
use crate::error::Error;
use crate::ledger::Ask;
use crate::limit::{Limit, LimitSet};
use crate::resource::{ResourceCatalog, ResourceId, ResourceSpec};
use crate::store::{Expect, MemoryStore, QuotaRecord, QuotaStore};
use crate::workspace::{WorkspaceFormat, WorkspaceId};

/// Virtual time since the start of a run.
pub(super) type Time = Duration;

pub(super) type Shared = Arc<Mutex<World>>;

type Event = Box<dyn FnOnce(&mut World) + Send>;

/// The longest that the database keeps a transaction open, whatever became of its client.
pub(super) const LONGEST_TRANSACTION: Duration = Duration::from_millis(1800);

/// The longest that a statement can be under way.
pub(super) const LONGEST_DELAY: Duration = Duration::from_millis(1500);

/// Rows that several requests know by name.
const NAMED_ROWS: usize = 5;

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    numbers: u64,
    /// Things go wrong.
    pub(super) faults: bool,
    /// Clients make requests.
    pub(super) load: bool,
    pub(super) catalog: ResourceCatalog,
    pub(super) workspace: WorkspaceId,
    store: MemoryStore,
    pub(super) tables: Vec<Table>,
    transactions: BTreeMap<u64, Transaction>,
    pub(super) books: Books<usize>,
    copy: Option<Copied>,
    /// How often the database failed over. What was under way to the one before is lost.
    epoch: u64,
    pub(super) hosts: Vec<HostState>,
    pub(super) orders: VecDeque<Order>,
    decisions: BTreeMap<u64, Deciding>,
    /// Requests under way.
    pub(super) requests: usize,
    pub(super) seen: Seen,
    /// The first thing that should not have happened.
    pub(super) failure: Option<String>,
    trace: u64,
    names: BTreeMap<u128, usize>,
    verbose: bool,
}

/// The rows of one resource type.
pub(super) struct Table {
    pub(super) rows: BTreeSet<u64>,
    pub(super) limit: Option<u64>,
    /// The limit in force at the last grant.
    ceiling: Option<u64>,
    /// The limit before the last change, for a mutation.
    stale: Option<u64>,
}

/// The database as it was.
struct Copied {
    books: Books<usize>,
    /// Rows, and the limit in force at the last grant.
    tables: Vec<(BTreeSet<u64>, Option<u64>)>,
}

#[derive(Default)]
pub(super) struct HostState {
    /// Where notices are heard.
    pub(super) notices: Option<UnboundedSender<Result<Notice, Error>>>,
    /// Until when nothing of it gets through.
    cut_off_until: Time,
    pub(super) closing: bool,
}

/// What is to be done to a host.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    Start(usize),
    Crash(usize),
    Pause(usize),
    Resume(usize),
}

struct Transaction {
    leases: Vec<u128>,
    /// A host that doesn't fence keeps this time.
    not_after: Option<Time>,
}

/// A decision under way.
struct Deciding {
    resource: usize,
    /// How far the rows were above the limit at most, which is below 0 most of the time.
    most_over: i128,
    most_rows: usize,
    least_limit: Option<u64>,
}

/// What a run came across: a simulation in which nothing happens finds nothing.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) blocked: u64,
    pub(super) errors: u64,
    pub(super) crashes: u64,
    pub(super) pauses: u64,
    pub(super) buried: u64,
    pub(super) fenced_off: u64,
    pub(super) failed_over: u64,
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.blocked += other.blocked;
        self.errors += other.errors;
        self.crashes += other.crashes;
        self.pauses += other.pauses;
        self.buried += other.buried;
        self.fenced_off += other.fenced_off;
        self.failed_over += other.failed_over;
    }
}

/// How a call to the database goes.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// When it is executed: not at all, or once or twice.
    executed: [Option<Duration>; 2],
    answered: Duration,
    fails: bool,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan, verbose: bool) -> Self {
        let catalog = (0..plan.resources).fold(ResourceCatalog::empty(), |catalog, index| {
            catalog.resource(ResourceSpec::new(format!("type{index}"), format!("maxType{index}"), Limit::of(3)))
        });
        let table = || Table { rows: BTreeSet::new(), limit: Some(3), ceiling: Some(3), stale: Some(3) };
        let mut world = Self {
            random: Random::new(seed, &[1]),
            now: Time::ZERO,
            queue: BTreeMap::new(),
            numbers: 1000,
            faults: true,
            load: true,
            catalog: catalog.build().unwrap(),
            workspace: WorkspaceFormat::Verbatim.parse("acme").unwrap(),
            store: MemoryStore::new(),
            tables: (0..plan.resources).map(|_| table()).collect(),
            transactions: BTreeMap::new(),
            books: Books::default(),
            copy: None,
            epoch: 0,
            hosts: (0..plan.hosts).map(|_| HostState::default()).collect(),
            orders: VecDeque::new(),
            decisions: BTreeMap::new(),
            requests: 0,
            seen: Seen::default(),
            failure: None,
            trace: 0xcbf2_9ce4_8422_2325,
            names: BTreeMap::new(),
            verbose,
            plan,
        };
        if verbose {
            println!("{:?}", world.plan);
        }
        for resource in 0..world.plan.resources {
            let limit = world.any_limit();
            world.set_limit(resource, limit);
            let rows = world.random.below(3).min(limit.rows().map_or(2, |limit| usize::try_from(limit).unwrap()));
            for _ in 0..rows {
                let row = world.number();
                world.tables[resource].rows.insert(row);
            }
            world.tables[resource].ceiling = world.tables[resource].limit;
        }
        world.at(Time::ZERO, Self::meddle);
        world
    }

    /// What happened, in one number.
    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    pub(super) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>9.3} {what}", self.now.as_secs_f64() * 1e3);
        if self.verbose {
            println!("{line}");
        }
        for byte in line.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// A number for an id, which is another in every run.
    fn name(&mut self, id: u128) -> usize {
        let next = self.names.len();
        *self.names.entry(id).or_insert(next)
    }

    pub(super) fn fail(&mut self, what: std::fmt::Arguments<'_>) {
        self.note(format_args!("FAILED: {what}"));
        self.failure.get_or_insert_with(|| what.to_string());
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    /// A time below `most`: mostly a short one.
    pub(super) fn some_time(&mut self, most: Duration) -> Duration {
        let most = usize::try_from(most.as_micros()).unwrap().max(2);
        let most = if self.chance(80) { most / 8 } else { most };
        Duration::from_micros(u64::try_from(self.random.below(most.max(1))).unwrap())
    }

    // Events.

    pub(super) fn at(&mut self, time: Time, event: impl FnOnce(&mut Self) + Send + 'static) {
        self.numbers += 1;
        self.queue.insert((time, self.numbers), Box::new(event));
    }

    pub(super) fn after(&mut self, time: Duration, event: impl FnOnce(&mut Self) + Send + 'static) {
        self.at(self.now + time, event);
    }

    pub(super) fn next_event(&self) -> Option<Time> {
        self.queue.first_key_value().map(|((time, _), _)| *time)
    }

    pub(super) fn take_event(&mut self) {
        if let Some(((time, _), event)) = self.queue.pop_first() {
            self.now = self.now.max(time);
            event(self);
        }
    }

    // The network.

    /// Has `work` done at the database for `host`, who calls at `time`; perhaps twice. `answer` hears what
    /// became of it.
    pub(super) fn call<T: Send + 'static>(
        &mut self,
        host: usize,
        time: Time,
        work: impl Fn(&mut Self) -> T + Send + Sync + 'static,
        answer: impl FnOnce(Result<T, Error>) + Send + 'static,
    ) {
        let fate = self.fate(host, time);
        let work = Arc::new(work);
        let done = Arc::new(Mutex::new(None));
        let epoch = self.epoch;
        for delay in fate.executed.into_iter().flatten() {
            let (work, done) = (Arc::clone(&work), Arc::clone(&done));
            self.at(time + delay, move |world| {
                if world.epoch != epoch {
                    return;
                }
                let result = work(world);
                done.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(result);
            });
        }
        self.at(time + fate.answered, move |_| {
            let result = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            answer(result.filter(|_| !fate.fails).ok_or_else(|| Error::unavailable("the network failed")));
        });
    }

    fn fate(&mut self, host: usize, time: Time) -> Fate {
        let quick = Duration::from_millis(4);
        let (there, back) = (self.some_time(quick), self.some_time(quick));
        let fine = Fate { executed: [Some(there), None], answered: there + back, fails: false };
        if !self.faults {
            return fine;
        }
        // Who is told nothing gives up at some time, or waits for longer than any time-out.
        let silence = if self.chance(50) { self.some_time(LONGEST_DELAY) } else { Duration::from_secs(10) };
        if time < self.hosts[host].cut_off_until {
            return Fate { executed: [None, None], answered: silence, fails: true };
        }
        if self.plan.slow && self.chance(10) {
            let (there, back) = (self.some_time(LONGEST_DELAY), self.some_time(LONGEST_DELAY));
            return Fate { executed: [Some(there), None], answered: there + back, fails: false };
        }
        if !self.plan.lossy || !self.chance(6) {
            return fine;
        }
        let late = self.some_time(LONGEST_DELAY);
        match self.random.below(4) {
            0 => Fate { executed: [None, None], answered: silence, fails: true },
            1 => Fate { answered: there + silence, fails: true, ..fine },
            2 => Fate { executed: [Some(late), None], answered: silence, fails: true },
            _ => Fate { executed: [Some(there), Some(there + late)], ..fine },
        }
    }

    fn tell(&mut self, notice: &Notice) {
        self.note(format_args!("tells {notice:?}"));
        for host in 0..self.hosts.len() {
            let quick = if self.faults && self.plan.slow { LONGEST_DELAY } else { Duration::from_millis(4) };
            let (delay, notice) = (self.some_time(quick), notice.clone());
            if self.faults && (self.plan.notices_lost && self.chance(60) || self.now < self.hosts[host].cut_off_until) {
                continue;
            }
            self.after(delay, move |world| {
                if let Some(notices) = &world.hosts[host].notices {
                    // Nobody listens in a process that ends.
                    let _ = notices.send(Ok(notice));
                }
            });
        }
    }

    fn tell_all(&mut self) {
        for notice in std::mem::take(&mut self.books.notices) {
            let of = |resource: usize| {
                (self.catalog.get(self.resource(resource)).name().to_owned(), self.workspace.as_str().to_owned())
            };
            let notice = match notice {
                books::Notice::Recall(key) => {
                    let (resource, workspace) = of(key);
                    Notice::Recall { resource, workspace }
                }
                books::Notice::Free(key) => {
                    let (resource, workspace) = of(key);
                    Notice::Free { resource, workspace }
                }
            };
            if self.plan.mutation != Some(Mutation::NobodyIsRecalled) {
                self.tell(&notice);
            }
        }
    }

    // The database: rows.

    pub(super) fn resource(&self, index: usize) -> ResourceId {
        self.catalog.iter().nth(index).unwrap().id()
    }

    pub(super) fn count(&mut self, resource: usize) -> u64 {
        self.tables[resource].rows.len().try_into().unwrap()
    }

    /// The name of a row that others know too.
    pub(super) fn any_name(&mut self) -> u64 {
        self.random.below(NAMED_ROWS).try_into().unwrap()
    }

    pub(super) fn exists(&self, resource: usize, row: u64) -> bool {
        self.tables[resource].rows.contains(&row)
    }

    /// Opens a transaction that holds on to `leases`; `None` when that is refused.
    pub(super) fn begin(&mut self, leases: &[u128], not_after: Option<Time>) -> Option<u64> {
        let live = |id: &u128| self.books.leases.get(id).is_some_and(|lease| lease.live);
        if !leases.iter().all(live) && self.plan.mutation != Some(Mutation::FencesAnything) {
            self.seen.fenced_off += 1;
            self.note(format_args!("a fence fails"));
            return None;
        }
        let id = self.number();
        self.note(format_args!("begins {id}"));
        self.transactions.insert(id, Transaction { leases: leases.to_vec(), not_after });
        self.after(LONGEST_TRANSACTION, move |world| {
            world.end(id);
        });
        Some(id)
    }

    /// Rolls back, if that has not happened yet.
    pub(super) fn end(&mut self, transaction: u64) -> bool {
        let open = self.transactions.remove(&transaction).is_some();
        if open {
            self.note(format_args!("ends {transaction}"));
        }
        open
    }

    /// Makes rows and commits. `false` when the transaction was cut off before.
    pub(super) fn commit(&mut self, transaction: u64, rows: &[(usize, u64)]) -> bool {
        let Some(open) = self.transactions.get(&transaction) else { return false };
        if open.not_after.is_some_and(|latest| self.now > latest) {
            self.end(transaction);
            return false;
        }
        self.note(format_args!("commits {transaction}: {rows:?}"));
        for (resource, row) in rows {
            self.tables[*resource].rows.insert(*row);
        }
        for resource in 0..self.tables.len() {
            self.look_at(resource);
        }
        self.end(transaction)
    }

    pub(super) fn delete(&mut self, resource: usize) -> bool {
        let count = self.tables[resource].rows.len();
        if count == 0 {
            return false;
        }
        let chosen = self.random.below(count);
        let row = *self.tables[resource].rows.iter().nth(chosen).unwrap();
        self.tables[resource].rows.remove(&row);
        self.note(format_args!("deletes {row} of {resource}"));
        true
    }

    /// The promise, after rows or limits have changed; and what each decision under way has to go by.
    fn look_at(&mut self, resource: usize) {
        let table = &self.tables[resource];
        let (rows, limit, ceiling) = (table.rows.len(), table.limit, table.ceiling);
        if ceiling.is_some_and(|ceiling| rows as u64 > ceiling) {
            self.fail(format_args!("{rows} rows of type {resource}, at a limit of {ceiling:?} at the last grant"));
        }
        for deciding in self.decisions.values_mut().filter(|deciding| deciding.resource == resource) {
            deciding.see(rows, limit);
        }
    }

    // The database: limits.

    pub(super) fn any_limit(&mut self) -> Limit {
        match self.random.below(12) {
            0 => Limit::Unlimited,
            1 => Limit::of(20),
            limit => Limit::of(u32::try_from(limit).unwrap() - 2),
        }
    }

    pub(super) fn set_limit(&mut self, resource: usize, limit: Limit) {
        let changes = LimitSet::new().with(self.resource(resource), limit);
        // Of a record in memory, without conditions.
        let _ = self.update_limits(&changes, &Expect::Anything);
    }

    pub(super) fn update_limits(&mut self, changes: &LimitSet, expect: &Expect) -> Result<QuotaRecord, Error> {
        let record = at_once(self.store.update(&self.workspace, changes, expect))?;
        self.note(format_args!("limits are {:?}", record.limits));
        for resource in 0..self.tables.len() {
            let limit = record.limits.get(self.resource(resource)).unwrap_or(Limit::of(3)).rows();
            let table = &mut self.tables[resource];
            if limit != table.limit {
                table.stale = std::mem::replace(&mut table.limit, limit);
            }
            self.look_at(resource);
        }
        self.tell(&Notice::Limits { workspace: self.workspace.as_str().to_owned() });
        Ok(record)
    }

    pub(super) fn record(&self) -> Result<Option<QuotaRecord>, Error> {
        at_once(self.store.load(&self.workspace))
    }

    pub(super) fn provision(&self) -> Result<QuotaRecord, Error> {
        at_once(self.store.provision(&self.workspace))
    }

    // The database: the books.

    pub(super) fn ask(&mut self, asker: &books::Asker<usize>, ask: &Ask, here: bool, counted: Counted) -> Reply {
        let (resource, mutation) = (asker.key, self.plan.mutation);
        let mut ask = *ask;
        if mutation == Some(Mutation::GrantsAgain) {
            let asked = self.books.leases.get(&asker.lease).map_or(0, |lease| lease.asked);
            ask.seq = ask.seq.max(if ask.need > 0 { asked + 1 } else { 0 });
        }
        let count = match counted {
            Some((mark, rows)) => Count::Since { posts: mark.posts, edits_ended: mark.edits_ended, rows },
            None if here => Count::Here(self.count(resource)),
            None => Count::Elsewhere,
        };
        let table = &self.tables[resource];
        let limit = if mutation == Some(Mutation::StaleLimit) { table.stale } else { table.limit };
        let granted = |world: &Self| world.books.leases.get(&asker.lease).map_or(0, |lease| lease.granted);
        let before = granted(self);
        let outcome = self.books.ask(asker, &ask, limit, count);
        let new = granted(self) - before;
        if new > 0 {
            self.tables[resource].ceiling = self.tables[resource].limit;
        }
        let lease = self.name(asker.lease);
        let (totals, need) = (ask.totals, ask.need);
        self.note(format_args!("is asked by {lease}: {totals:?}, for {need} of {resource}: {outcome:?}"));
        self.tell_all();
        match outcome {
            books::Outcome::Answer { mut answer, believed, breach } => {
                if mutation == Some(Mutation::RefusesTheBlocked) && answer.waits {
                    answer.waits = false;
                    answer.counted = true;
                    answer.known.counted = limit.unwrap_or(0);
                }
                Reply::Answer { answer, believed, breach }
            }
            books::Outcome::Count { posts, edits_ended } => {
                Reply::Count(BooksMark { posts, edits_ended, limit, below: None })
            }
            books::Outcome::Dead => Reply::Dead,
        }
    }

    pub(super) fn flush(&mut self, news: &[News]) -> Vec<Heard> {
        let said: Vec<_> = news
            .iter()
            .map(|news| books::Said {
                lease: news.lease.as_u128(),
                totals: news.totals,
                waiting: news.waits,
                ends: news.ends,
                held: self.is_held(news.lease.as_u128()),
            })
            .collect();
        let mut heard = self.books.flush(&said);
        match self.plan.mutation {
            Some(Mutation::ReturnsWhatItKeeps) => {
                for said in &said {
                    let lease = self.books.leases.get_mut(&said.lease).filter(|lease| lease.live && lease.rest() > 0);
                    if let Some(lease) = lease {
                        lease.totals.returned += 1;
                        if let Some(key) = self.books.keys.get_mut(&lease.key) {
                            key.leased -= 1;
                        }
                    }
                }
            }
            Some(Mutation::NobodyIsRecalled) => heard.iter_mut().for_each(|heard| heard.wanted = false),
            _ => {}
        }
        for said in &said {
            let lease = self.name(said.lease);
            self.note(format_args!("hears of {lease}: {:?}, ends {}", said.totals, said.ends));
        }
        self.tell_all();
        let heard = heard.into_iter().map(|heard| Heard {
            lease: Uuid::from_u128(heard.lease),
            seq: heard.asked,
            granted: heard.answer,
            wanted: heard.wanted,
        });
        heard.collect()
    }

    pub(super) fn beat(&mut self, replica: Uuid) -> Vec<Peer> {
        self.books.beat(replica.as_u128());
        let peer = |(id, replica): (&u128, &books::Replica)| Peer {
            replica: Uuid::from_u128(*id),
            beats: replica.beats,
            live: replica.live,
        };
        let peers: Vec<_> = self.books.replicas.iter().map(peer).collect();
        self.note(format_args!("beats {:?}", peers.iter().map(|peer| (peer.beats, peer.live)).collect::<Vec<_>>()));
        peers
    }

    pub(super) fn bury(&mut self, replica: Uuid, beats: u64) {
        self.seen.buried += 1;
        self.note(format_args!("buries at {beats} beats"));
        self.books.bury(replica.as_u128(), beats);
    }

    pub(super) fn orphans(&self) -> Vec<Uuid> {
        if self.plan.mutation == Some(Mutation::LeavesOrphans) {
            return Vec::new();
        }
        self.books.orphans().into_iter().map(Uuid::from_u128).collect()
    }

    fn is_held(&self, lease: u128) -> bool {
        self.transactions.values().any(|transaction| transaction.leases.contains(&lease))
    }

    /// Unless a transaction still holds on to it.
    pub(super) fn settle(&mut self, lease: u128) -> u64 {
        if self.is_held(lease) && self.plan.mutation != Some(Mutation::SettlesUnderFences) {
            return 0;
        }
        let units = self.books.settle(lease);
        let lease = self.name(lease);
        self.note(format_args!("settles {lease}: {units:?}"));
        self.tell_all();
        units.unwrap_or(0)
    }

    // Decisions.

    pub(super) fn begin_decision(&mut self, resource: usize) -> u64 {
        let id = self.number();
        let table = &self.tables[resource];
        let mut deciding = Deciding { resource, most_over: i128::MIN, most_rows: 0, least_limit: None };
        deciding.see(table.rows.len(), table.limit);
        self.decisions.insert(id, deciding);
        id
    }

    pub(super) fn end_decision(&mut self, id: u64) {
        self.decisions.remove(&id);
    }

    /// A refusal for good needs rows that were too many at some time since the request came.
    pub(super) fn refused(&mut self, id: u64, refusal: &Refusal) {
        self.note(format_args!(
            "refuses {} at {} of {}, {:?} reserved",
            refusal.requested, refusal.current_usage, refusal.limit, refusal.reserved
        ));
        if refusal.reserved.is_some() {
            self.seen.blocked += 1;
            return;
        }
        self.seen.refused += 1;
        let Some(deciding) = self.decisions.get(&id) else { return };
        // Rows that are counted elsewhere are held against the limit a little later.
        let over = if self.plan.counts_elsewhere {
            deciding.least_limit.is_some_and(|limit| deciding.most_rows as u64 + refusal.requested > limit)
        } else {
            deciding.most_over + i128::from(refusal.requested) > 0
        };
        if !over {
            let (resource, rows, limit) = (deciding.resource, deciding.most_rows, deciding.least_limit);
            self.fail(format_args!(
                "refused {} of type {resource} at {rows} rows and a limit of {limit:?}",
                refusal.requested
            ));
        }
    }

    // What goes wrong.

    /// Does something to the hosts or the database, and again a while later.
    fn meddle(&mut self) {
        if !self.faults {
            return;
        }
        let host = self.random.below(self.hosts.len());
        // Half of the time long enough to be taken for dead.
        let most = self.plan.time_to_live * if self.chance(50) { 1 } else { 24 };
        let while_ = self.some_time(most).min(self.plan.time_to_live * 4) + Duration::from_millis(5);
        match self.random.below(6) {
            0 if self.plan.crashes && self.hosts[host].notices.is_some() => {
                self.orders.push_back(Order::Crash(host));
                self.after(while_, move |world| world.orders.push_back(Order::Start(host)));
            }
            1 if self.plan.pauses => {
                self.orders.push_back(Order::Pause(host));
                self.after(while_, move |world| world.orders.push_back(Order::Resume(host)));
            }
            2 if self.plan.cuts => {
                self.note(format_args!("cuts {host} off"));
                self.hosts[host].cut_off_until = self.now + while_;
            }
            3 if self.plan.database_crashes => self.crash_database(while_ / 4),
            4 if self.plan.fail_overs => match self.copy.take() {
                Some(copied) => {
                    self.crash_database(while_ / 4);
                    self.fail_over(copied);
                }
                None => {
                    self.note(format_args!("the database is copied"));
                    let tables = self.tables.iter().map(|table| (table.rows.clone(), table.ceiling)).collect();
                    self.copy = Some(Copied { books: self.books.clone(), tables });
                }
            },
            _ if self.plan.notices_lost => {
                if let Some(notices) = &self.hosts[host].notices {
                    let _ = notices.send(Ok(Notice::Lost));
                }
            }
            _ => {}
        }
        let next = self.some_time(self.plan.time_to_live * 4);
        self.after(next, Self::meddle);
    }

    fn crash_database(&mut self, away: Duration) {
        self.note(format_args!("the database crashes"));
        for host in &mut self.hosts {
            host.cut_off_until = host.cut_off_until.max(self.now + away);
            if let Some(notices) = &host.notices {
                let _ = notices.send(Err(Error::unavailable("the database crashed")));
            }
        }
        for transaction in self.transactions.keys().copied().collect::<Vec<_>>() {
            self.end(transaction);
        }
    }

    /// A copy takes the place of the database. Limits are in both.
    fn fail_over(&mut self, copied: Copied) {
        self.note(format_args!("a copy takes its place"));
        self.seen.failed_over += 1;
        self.epoch += 1;
        self.books = copied.books;
        if self.plan.mutation != Some(Mutation::KeepsOldBooks) {
            self.books.fail_over();
        }
        for (table, (rows, ceiling)) in self.tables.iter_mut().zip(copied.tables) {
            (table.rows, table.ceiling) = (rows, ceiling);
        }
        for resource in 0..self.tables.len() {
            self.look_at(resource);
        }
    }
}

/// Rows that were counted by a replica.
pub(super) type Counted = Option<(BooksMark, u64)>;

impl Deciding {
    fn see(&mut self, rows: usize, limit: Option<u64>) {
        let limits = limit.map(|limit| rows as i128 - i128::from(limit));
        self.most_over = self.most_over.max(limits.unwrap_or(i128::MIN));
        self.most_rows = self.most_rows.max(rows);
        self.least_limit = [self.least_limit, limit].into_iter().flatten().min();
    }
}

/// Who asks.
pub(super) fn asker(of: &LeaseOf<'_>) -> books::Asker<usize> {
    books::Asker {
        lease: of.lease.as_u128(),
        replica: of.replica.as_u128(),
        beats: of.beats,
        key: of.resource.id().index(),
        replicas: of.replicas,
    }
}

pub(super) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a future that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("it waits"),
    }
}
