//! One key: its state, its pool of units, and the queue of those who wait for a count.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::book::Book;
use super::key::{KeyState, Mark};
use super::lease::{Answer, Ask, LeaseState, Totals};
use super::pool::Pool;
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// A key, at the authority itself or at a replica. `W` stands for whoever waits; the cell itself neither waits nor wakes.
///
/// The pool is open only while nobody waits, so that late-comers can't overtake the queue. Whatever changes the state
/// takes the lock, closes the pool and so brings its contents into the state, and opens it again with all headroom.
#[derive(Debug)]
pub(crate) struct Cell<W> {
    pool: Pool,
    ledger: Mutex<Ledger<W>>,
}

#[derive(Debug)]
struct Ledger<W> {
    book: Book,
    limit: Option<u64>,
    /// In order of arrival, which is the order of service.
    queue: VecDeque<Waiting<W>>,
    /// A resolver is at work on the queue.
    resolving: bool,
    /// Something happened since the last count began that may change the queue's fate.
    changed: bool,
    /// Nothing is granted any more: the key lives on in another cell.
    retired: bool,
    /// When the last count began, in ticks of the engine's clock. Only to tell.
    counted_at: u32,
}

#[derive(Debug)]
struct Waiting<W> {
    units: u64,
    who: W,
    /// A count that began after this arrival has been applied.
    counted: bool,
    patience: Patience,
}

/// How long somebody in the queue still waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Lasts,
    /// It is at its end, but something has changed: one more count is to tell.
    OneMoreCount,
    /// That count has begun.
    LastCount,
}

/// The answer to a demand that the pool could not meet at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The units are the caller's.
    Granted,
    /// The caller is in the queue. With `resolve`, it must see to it that somebody resolves the queue, and else wake who
    /// does.
    Queued {
        /// No resolver is at work.
        resolve: bool,
    },
    /// The cell is out of use: look the key up again.
    Retired,
}

/// The end of somebody's waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The units are the waiter's.
    Granted,
    /// Rows and demand together are over the limit.
    Over(Standing),
    /// Rows and demand fit, but units of others are in the way.
    Blocked(Standing),
}

/// Where a key stands: the evidence of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Rows at the last count; `None` before the first.
    pub(crate) counted: Option<u64>,
    /// Units posted since.
    pub(crate) posted: u64,
    /// Units that requests in flight may still turn into rows.
    pub(crate) reserved: u64,
    /// The limit in force; `None` is unlimited.
    pub(crate) limit: Option<u64>,
    /// Units that could be granted.
    pub(crate) remaining: u64,
    /// When the last count began, in ticks of the engine's clock.
    pub(crate) counted_at: u32,
}

impl Standing {
    /// Whether `units` don't fit beside the rows that are believed to exist, whatever is in flight.
    pub(crate) fn would_exceed(&self, units: u64) -> bool {
        let believed = self.counted.map(|counted| counted.saturating_add(self.posted));
        let full = |(believed, limit): (u64, u64)| believed.saturating_add(units) > limit;
        believed.zip(self.limit).is_some_and(full)
    }
}

/// A count in the making.
#[derive(Debug)]
pub(crate) struct Round {
    mark: Mark,
    /// How many rows should have been there when it began.
    believed: Option<RangeInclusive<u64>>,
    /// The limit when it began: counting may stop above it.
    pub(crate) limit: Option<u64>,
}

impl Round {
    /// What was believed, if `rows` show that it was wrong.
    ///
    /// Rows that requests in flight have made, or may have made since the mark, are no error of anybody's.
    fn wrong(&self, key: &KeyState, rows: u64) -> Option<u64> {
        let in_flight = key.reserved().saturating_add(key.posts_since(self.mark));
        let right = |believed: &RangeInclusive<u64>| {
            (*believed.start()..=believed.end().saturating_add(in_flight)).contains(&rows)
        };
        self.believed.as_ref().filter(|believed| !right(believed)).map(|believed| *believed.start())
    }
}

/// What a resolver has to do next.
#[derive(Debug)]
pub(crate) enum Step {
    /// The queue is empty, and the resolver is discharged.
    Done,
    /// Count the rows.
    Count(Round),
    /// Ask the authority.
    Ask(Ask),
    /// Wait until something changes, or until the patience of the first in the queue is at its end.
    Wait,
}

impl<W> Cell<W> {
    /// A key of which nothing is known but its limit.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self::with(Book::Own(KeyState::default()), limit)
    }

    /// A key whose units are granted elsewhere.
    pub(crate) fn leased(id: u128, limit: Option<u64>) -> Self {
        Self::with(Book::Leased(Box::new(LeaseState::new(id))), limit)
    }

    fn with(book: Book, limit: Option<u64>) -> Self {
        let (queue, counted_at) = (VecDeque::new(), 0);
        let ledger = Ledger { book, limit, queue, resolving: false, changed: false, retired: false, counted_at };
        Self { pool: Pool::closed(), ledger: Mutex::new(ledger) }
    }

    /// The common admission: takes `units` from the pool, and answers how many are left in it.
    #[inline]
    pub(crate) fn try_take(&self, units: u64) -> Option<u64> {
        self.pool.take(units)
    }

    /// Admits `units`, or queues `who` until a count has told.
    pub(crate) fn admit(&self, units: u64, who: W) -> Admission {
        let mut ledger = self.collect();
        if ledger.retired {
            return Admission::Retired;
        }
        let granted = ledger.queue.is_empty() && ledger.grant(units);
        if granted {
            self.reopen(&mut ledger);
            return Admission::Granted;
        }
        ledger.queue.push_back(Waiting { units, who, counted: false, patience: Patience::Lasts });
        let resolve = !ledger.resolving;
        ledger.resolving = true;
        Admission::Queued { resolve }
    }

    /// Takes `units` past the limit, for a request that passes anyway. `false` when the cell is out of use.
    pub(crate) fn force(&self, units: u64) -> bool {
        let mut ledger = self.collect();
        if ledger.retired {
            return false;
        }
        ledger.book.force(units);
        self.reopen(&mut ledger);
        true
    }

    /// `units` became rows, or may have. `true` when a resolver waits to hear it.
    #[inline]
    pub(crate) fn post(&self, units: u64) -> bool {
        !self.pool.settle(units) && self.change(|ledger| ledger.book.post(units))
    }

    /// `units` can't become rows any more. `true` when a resolver waits to hear it.
    #[inline]
    pub(crate) fn give_back(&self, units: u64) -> bool {
        !self.pool.put_back(units) && self.change(|ledger| ledger.book.give_back(units))
    }

    /// An edit of `units` rows begins, whose existence the caller finds out after this. `false` when the cell is out of
    /// use.
    pub(crate) fn begin_edit(&self, units: u64) -> bool {
        let mut ledger = self.lock();
        if !ledger.retired {
            ledger.book.begin_edit(units);
        }
        !ledger.retired
    }

    /// The edit of `units` rows has ended. `true` when a resolver waits to hear it.
    pub(crate) fn end_edit(&self, units: u64) -> bool {
        self.change(|ledger| ledger.book.end_edit(units))
    }

    /// `rows` were deleted. `true` when a resolver waits to hear it.
    pub(crate) fn delete(&self, rows: u64) -> bool {
        self.change(|ledger| ledger.book.delete(rows))
    }

    /// Puts a new limit in force. `true` when a resolver waits to hear it.
    pub(crate) fn set_limit(&self, limit: Option<u64>) -> bool {
        self.change(|ledger| {
            ledger.limit = limit;
            ledger.book.limit_changed();
        })
    }

    /// The rows must be counted anew before anything is granted.
    pub(crate) fn forget(&self) -> bool {
        self.change(|ledger| ledger.book.forget())
    }

    /// Nothing is granted any more by what was known until now: rows are counted anew, and what is in store goes back to where
    /// it was granted.
    pub(crate) fn outdate(&self) -> bool {
        self.change(|ledger| {
            ledger.book.limit_changed();
            ledger.book.forget();
        })
    }

    /// The resolver is gone without an end: everybody leaves the queue unserved.
    pub(crate) fn abort(&self) {
        let mut ledger = self.collect();
        ledger.queue.clear();
        ledger.resolving = false;
        self.reopen(&mut ledger);
    }

    /// Where the key stands.
    pub(crate) fn standing(&self) -> Standing {
        let mut ledger = self.collect();
        let standing = ledger.standing();
        self.reopen(&mut ledger);
        standing
    }

    /// Rows were counted, and the books have it: the count began then, in ticks of the engine's clock.
    pub(crate) fn counted_at(&self, ticks: u32) {
        self.lock().counted_at = ticks;
    }

    /// Units of requests in flight, beside the rows.
    pub(crate) fn reserved(&self) -> u64 {
        let mut ledger = self.collect();
        let reserved = ledger.book.reserved();
        self.reopen(&mut ledger);
        reserved
    }

    /// Rows that requests in flight of this process may still make, or make anew.
    pub(crate) fn in_flight(&self) -> u64 {
        let mut ledger = self.collect();
        let in_flight = match &ledger.book {
            Book::Own(key) => key.in_flight(),
            Book::Leased(lease) => lease.held(),
        };
        self.reopen(&mut ledger);
        in_flight
    }

    /// Rows and units of requests in flight, but for what other processes have in store.
    pub(crate) fn used(&self) -> u64 {
        let mut ledger = self.collect();
        let used = ledger.book.used();
        self.reopen(&mut ledger);
        used
    }

    /// Takes the mark of a count that is not the resolver's; `None` where the authority counts.
    pub(crate) fn begin_count(&self) -> Option<Round> {
        let mut ledger = self.collect();
        let round = ledger.begin_count();
        self.reopen(&mut ledger);
        round
    }

    /// Applies such a count. Answers what was believed, if that was wrong, and whether a resolver waits to hear it.
    pub(crate) fn finish_count(&self, round: &Round, rows: u64) -> (Option<u64>, bool) {
        let mut wrong = None;
        let wake = self.change(|ledger| {
            let Book::Own(key) = &mut ledger.book else { return };
            let believed = round.wrong(key, rows);
            let applied = key.apply(round.mark, rows);
            wrong = believed.filter(|_| applied);
        });
        (wrong, wake)
    }

    /// The same of a count that is not applied.
    pub(crate) fn compare_count(&self, round: &Round, rows: u64) -> Option<u64> {
        let mut ledger = self.collect();
        let wrong = match &ledger.book {
            Book::Own(key) if key.is_of_now(round.mark) => round.wrong(key, rows),
            _ => None,
        };
        self.reopen(&mut ledger);
        wrong
    }

    /// Serves the head of the queue as far as it fits, and tells the resolver what to do next.
    pub(crate) fn step(&self, verdicts: &mut Vec<(W, Verdict)>) -> Step {
        let mut ledger = self.collect();
        if ledger.retired && ledger.queue.is_empty() {
            ledger.resolving = false;
            return Step::Done;
        }
        ledger.serve(verdicts);
        // As long as others are in flight, something may change for ever. When none is left, nobody is refused because
        // of them: another count is to tell.
        if ledger.book.in_flight() {
            ledger.end_blocked(|waiting| waiting.counted && waiting.patience == Patience::LastCount, verdicts);
        }
        if !ledger.queue.is_empty() && (ledger.changed || ledger.queue.iter().any(|waiting| !waiting.counted)) {
            ledger.changed = false;
            // These, and no later arrival, are told by the count that begins now.
            for waiting in &mut ledger.queue {
                waiting.counted = true;
                if waiting.patience == Patience::OneMoreCount {
                    waiting.patience = Patience::LastCount;
                }
            }
            let units = ledger.queue.iter().map(|waiting| waiting.units);
            let (need, queued) = (units.clone().next().unwrap_or(0), units.fold(0, u64::saturating_add));
            return match &mut ledger.book {
                Book::Own(_) => ledger.begin_count().map_or(Step::Wait, Step::Count),
                Book::Leased(lease) => Step::Ask(lease.ask(need, queued)),
            };
        }
        if ledger.queue.is_empty() {
            if let Book::Leased(lease) = &mut ledger.book
                && lease.waits()
            {
                return Step::Ask(lease.ask(0, 0));
            }
            ledger.resolving = false;
            self.reopen(&mut ledger);
            return Step::Done;
        }
        Step::Wait
    }

    /// Applies the resolver's count: grants in order, and refuses those for whom rows and demand are over the limit.
    pub(crate) fn resolve(&self, round: &Round, rows: u64, verdicts: &mut Vec<(W, Verdict)>) {
        let mut ledger = self.collect();
        if let Book::Own(key) = &mut ledger.book
            && !key.apply(round.mark, rows)
        {
            for waiting in &mut ledger.queue {
                waiting.counted = false;
            }
            return;
        }
        ledger.end_over(rows, verdicts);
    }

    /// The authority's answer to the resolver: as [`resolve`](Self::resolve).
    pub(crate) fn answered(&self, ask: &Ask, answer: &Answer, verdicts: &mut Vec<(W, Verdict)>) {
        let mut ledger = self.collect();
        if let Book::Leased(lease) = &mut ledger.book {
            lease.answered(ask, answer);
        }
        ledger.serve(verdicts);
        if let Book::Leased(lease) = &mut ledger.book {
            lease.served();
        }
        if answer.counted {
            ledger.end_over(answer.known.counted, verdicts);
        }
        if ask.need > 0 && answer.granted == 0 && !answer.counted {
            // The number of the request was used before, and its answer lost: nobody was told anything.
            for waiting in &mut ledger.queue {
                waiting.counted = false;
            }
        }
    }

    /// A request to the authority that is not the resolver's: it tells what became of the units, and may have the rows
    /// counted. `None` where there is no other authority.
    pub(crate) fn report(&self, recount: bool) -> Option<Ask> {
        let mut ledger = self.collect();
        let ask = match &mut ledger.book {
            Book::Own(_) => None,
            Book::Leased(lease) => Some(lease.report(recount)),
        };
        self.reopen(&mut ledger);
        ask
    }

    /// The authority's answer to such a request. `true` when a resolver waits to hear it.
    pub(crate) fn reported(&self, ask: &Ask, answer: &Answer) -> bool {
        self.change(|ledger| {
            if let Book::Leased(lease) = &mut ledger.book {
                lease.answered(ask, answer);
            }
        })
    }

    /// Calls idle units back, all of them or those that were not used since the last call; answers what the authority
    /// hasn't heard yet, if there is anything, and whether somebody waits here.
    pub(crate) fn news(&self, all: bool) -> Option<(Totals, bool)> {
        let mut ledger = self.collect();
        let news = match &mut ledger.book {
            Book::Own(_) => None,
            Book::Leased(lease) => {
                if all {
                    lease.return_idle();
                } else {
                    lease.return_unused();
                }
                lease.has_news().then(|| (lease.totals(), lease.waits()))
            }
        };
        self.reopen(&mut ledger);
        news
    }

    /// The authority has heard `totals`, and last granted `granted` to the request `seq`.
    pub(crate) fn heard(&self, totals: Totals, seq: u64, granted: u64) {
        let mut ledger = self.collect();
        if let Book::Leased(lease) = &mut ledger.book {
            lease.heard(totals, seq, granted);
        }
        self.reopen(&mut ledger);
    }

    /// The authority doesn't know the lease, or not any more. Answers how many posted units it has never heard of.
    pub(crate) fn unheard(&self, totals: Totals) -> u64 {
        let mut ledger = self.collect();
        let posted = match &mut ledger.book {
            Book::Own(_) => 0,
            Book::Leased(lease) => lease.unheard(totals),
        };
        self.reopen(&mut ledger);
        posted
    }

    /// Whether the lease may not have begun yet, and begin by a request that is under way.
    pub(crate) fn may_begin(&self) -> bool {
        match &self.lock().book {
            Book::Own(_) => false,
            Book::Leased(lease) => lease.may_begin(),
        }
    }

    /// What the authority is told of the lease; nothing where there is no other.
    pub(crate) fn totals(&self) -> Totals {
        let mut ledger = self.collect();
        let totals = match &ledger.book {
            Book::Own(_) => Totals::default(),
            Book::Leased(lease) => lease.totals(),
        };
        self.reopen(&mut ledger);
        totals
    }

    /// How many units the lease has of which nobody will ever tell what became of them.
    pub(crate) fn lost(&self) -> u64 {
        match &self.lock().book {
            Book::Own(_) => 0,
            Book::Leased(lease) => lease.lost(),
        }
    }

    /// The lease that units are of, where another place grants them.
    pub(crate) fn lease(&self) -> Option<u128> {
        match &self.lock().book {
            Book::Own(_) => None,
            Book::Leased(lease) => Some(lease.id()),
        }
    }

    /// What became of `units` will never be known: they end with their lease.
    pub(crate) fn lose(&self, units: u64) {
        self.change(|ledger| {
            if let Book::Leased(lease) = &mut ledger.book {
                lease.lose(units);
            }
        });
    }

    /// What became of an edit of `units` rows will never be known.
    pub(crate) fn lose_edit(&self, units: u64) {
        self.change(|ledger| {
            if let Book::Leased(lease) = &mut ledger.book {
                lease.lose_edit(units);
            }
        });
    }

    /// Something may have changed elsewhere. `true` when a resolver waits to hear it.
    pub(crate) fn hint(&self) -> bool {
        self.change(|_| ())
    }

    /// Takes the cell out of use whatever is in flight, and answers who waited.
    pub(crate) fn retire(&self) -> Vec<W> {
        let mut ledger = self.collect();
        ledger.retired = true;
        ledger.queue.drain(..).map(|waiting| waiting.who).collect()
    }

    /// Whether no request of this process is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        let mut ledger = self.collect();
        let idle = ledger.book.is_idle();
        self.reopen(&mut ledger);
        idle
    }

    /// The resolver's count failed: those whom it should have told leave the queue.
    pub(crate) fn fail(&self) -> Vec<W> {
        let mut ledger = self.collect();
        let (failed, rest) = ledger.queue.drain(..).partition::<VecDeque<_>, _>(|waiting| waiting.counted);
        ledger.queue = rest;
        failed.into_iter().map(|waiting| waiting.who).collect()
    }

    /// Ends the waiting of those who are `done` with it.
    pub(crate) fn expire(&self, done: impl Fn(&W) -> bool, verdicts: &mut Vec<(W, Verdict)>) {
        let mut ledger = self.collect();
        ledger.serve(verdicts);
        if ledger.changed {
            for waiting in &mut ledger.queue {
                if waiting.patience == Patience::Lasts && done(&waiting.who) {
                    waiting.patience = Patience::OneMoreCount;
                }
            }
            return;
        }
        ledger.end_blocked(|waiting| waiting.counted && done(&waiting.who), verdicts);
    }

    /// The first in the queue.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&W) -> T) -> Option<T> {
        self.lock().queue.front().map(|waiting| look(&waiting.who))
    }

    fn change(&self, change: impl FnOnce(&mut Ledger<W>)) -> bool {
        let mut ledger = self.collect();
        change(&mut ledger);
        ledger.changed = true;
        self.reopen(&mut ledger);
        ledger.resolving
    }

    fn lock(&self) -> MutexGuard<'_, Ledger<W>> {
        // No code that runs under the lock can panic half-way through a change.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock and brings the pool's contents into the state.
    fn collect(&self) -> MutexGuard<'_, Ledger<W>> {
        let mut ledger = self.lock();
        let contents = self.pool.close();
        ledger.book.give_back(contents.idle);
        ledger.book.post(contents.settled);
        ledger
    }

    /// Opens the pool with all headroom, if nobody waits and there is any.
    ///
    /// Without headroom it stays closed: the bound may be over the limit, and units that are given back must not go
    /// round again.
    fn reopen(&self, ledger: &mut Ledger<W>) {
        if ledger.retired || !ledger.queue.is_empty() {
            return;
        }
        let lease = ledger.book.headroom(ledger.limit).min(Pool::MAX);
        if lease > 0 {
            ledger.book.force(lease);
            self.pool.open(lease);
        }
    }
}

impl<W> Ledger<W> {
    fn grant(&mut self, units: u64) -> bool {
        self.book.grant(units, self.limit)
    }

    fn begin_count(&self) -> Option<Round> {
        match &self.book {
            Book::Own(key) => Some(Round { mark: key.mark(), believed: key.believed(), limit: self.limit }),
            Book::Leased(_) => None,
        }
    }

    fn serve(&mut self, verdicts: &mut Vec<(W, Verdict)>) {
        while let Some(first) = self.queue.pop_front() {
            if !self.grant(first.units) {
                self.queue.push_front(first);
                return;
            }
            verdicts.push((first.who, Verdict::Granted));
        }
    }

    fn end(&mut self, ends: impl Fn(&Waiting<W>) -> bool, verdict: Verdict, verdicts: &mut Vec<(W, Verdict)>) {
        let (ended, rest) = self.queue.drain(..).partition::<VecDeque<_>, _>(ends);
        self.queue = rest;
        verdicts.extend(ended.into_iter().map(|waiting| (waiting.who, verdict)));
    }

    /// After a count that found `rows`: grants in order, and refuses those for whom rows and demand are over the limit.
    fn end_over(&mut self, rows: u64, verdicts: &mut Vec<(W, Verdict)>) {
        self.serve(verdicts);
        let standing = Standing { counted: Some(rows), ..self.standing() };
        let over = |waiting: &Waiting<W>| {
            waiting.counted && standing.limit.is_some_and(|limit| rows.saturating_add(waiting.units) > limit)
        };
        self.end(over, Verdict::Over(standing), verdicts);
        self.serve(verdicts);
    }

    /// Ends the waiting of those whom only requests in flight stand in the way of, and serves those behind them.
    fn end_blocked(&mut self, ends: impl Fn(&Waiting<W>) -> bool, verdicts: &mut Vec<(W, Verdict)>) {
        self.end(ends, Verdict::Blocked(self.standing()), verdicts);
        self.serve(verdicts);
    }

    /// The pool is closed while this is asked, so that what is leased is held by requests in flight.
    fn standing(&self) -> Standing {
        let counted = self.book.counted();
        Standing {
            counted,
            posted: self.book.rows().unwrap_or(0) - counted.unwrap_or(0),
            reserved: self.book.reserved(),
            limit: self.book.limit(self.limit),
            remaining: self.book.remaining(self.limit),
            counted_at: self.counted_at,
        }
    }
}

/// Takes cells out of use, all or none: none when one of them has units out or somebody waiting.
///
/// Nothing else locks two cells at once, so that the order of the slice is as good as any.
pub(crate) fn retire_all<'a, W: 'a>(cells: impl Iterator<Item = &'a Cell<W>> + Clone) -> bool {
    let mut ledgers: Vec<_> = cells.clone().map(Cell::collect).collect();
    let idle = ledgers.iter().all(|ledger| ledger.book.is_idle() && ledger.queue.is_empty() && !ledger.resolving);
    for (cell, ledger) in cells.zip(&mut ledgers) {
        ledger.retired |= idle;
        cell.reopen(ledger);
    }
    idle
}
