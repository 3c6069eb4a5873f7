//! The ledger against a simple model: rows as a set, and requests that commit, fail, vanish and edit at any moment.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Admission, Cell, Round, Step, Verdict};

#[derive(Debug, Clone)]
enum Op {
    Reserve(u64),
    /// A transaction of a request commits one row.
    Commit(usize),
    /// A request ends, and says how many rows it made.
    End(usize),
    /// A request's outcome becomes unknown: it may still commit.
    Abandon(usize),
    /// No transaction of an abandoned request can commit any more.
    Settle(usize),
    Delete(usize),
    BeginEdit(usize),
    EndEdit(usize),
    BeginCount,
    ReadCount(usize),
    ApplyCount(usize),
    /// A count that was begun is never applied.
    DropCount(usize),
    SetLimit(Option<u64>),
    Resolve,
    /// Everybody's patience is at its end.
    Expire,
    Forget,
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..8_usize;
    prop_oneof![
        6 => (1..4_u64).prop_map(Op::Reserve),
        6 => at.clone().prop_map(Op::Commit),
        5 => at.clone().prop_map(Op::End),
        2 => at.clone().prop_map(Op::Abandon),
        2 => at.clone().prop_map(Op::Settle),
        3 => at.clone().prop_map(Op::Delete),
        3 => at.clone().prop_map(Op::BeginEdit),
        3 => at.clone().prop_map(Op::EndEdit),
        2 => Just(Op::BeginCount),
        3 => at.clone().prop_map(Op::ReadCount),
        3 => at.clone().prop_map(Op::ApplyCount),
        1 => at.prop_map(Op::DropCount),
        1 => prop_oneof![4 => (0..8_u64).prop_map(Some), 1 => Just(None)].prop_map(Op::SetLimit),
        8 => Just(Op::Resolve),
        1 => Just(Op::Expire),
        1 => Just(Op::Forget),
    ]
}

#[derive(Debug)]
struct Held {
    units: u64,
    committed: u64,
    abandoned: bool,
}

/// How far the resolver has come.
#[derive(Debug)]
enum Resolver {
    Idle,
    Ready,
    Counting(Round),
    Counted(Round, u64),
    Waiting,
}

#[derive(Debug)]
struct World {
    cell: Cell<u64>,
    limit: Option<u64>,
    /// The most rows that there may be: the limit in force at the last grant.
    ceiling: Option<u64>,
    rows: BTreeSet<u64>,
    next: u64,
    held: Vec<Held>,
    /// The rows that are being edited.
    edits: Vec<u64>,
    waiting: BTreeMap<u64, u64>,
    counts: Vec<(Round, Option<u64>)>,
    resolver: Resolver,
}

impl World {
    fn new(rows: u64, limit: Option<u64>) -> Self {
        Self {
            cell: Cell::new(limit),
            limit,
            ceiling: limit.map(|limit| limit.max(rows)),
            rows: (0..rows).collect(),
            next: rows,
            held: Vec::new(),
            edits: Vec::new(),
            waiting: BTreeMap::new(),
            counts: Vec::new(),
            resolver: Resolver::Idle,
        }
    }

    fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    fn at_rest(&self) -> bool {
        self.held.is_empty() && self.edits.is_empty()
    }

    fn granted(&mut self, units: u64) {
        self.ceiling = self.limit;
        self.held.push(Held { units, committed: 0, abandoned: false });
    }

    fn create(&mut self) {
        self.rows.insert(self.next);
        self.next += 1;
        self.check();
    }

    fn check(&self) {
        if let Some(ceiling) = self.ceiling {
            assert!(self.count() <= ceiling, "{} rows, and at most {ceiling} may be", self.count());
        }
    }

    fn reserve(&mut self, units: u64) {
        if self.cell.try_take(units).is_some() {
            assert!(self.waiting.is_empty(), "the queue was overtaken");
            return self.granted(units);
        }
        let who = self.next;
        self.next += 1;
        match self.cell.admit(units, who) {
            Admission::Granted => self.granted(units),
            Admission::Queued { resolve } => {
                assert_eq!(resolve, matches!(self.resolver, Resolver::Idle));
                self.waiting.insert(who, units);
                if resolve {
                    self.resolver = Resolver::Ready;
                }
            }
            Admission::Retired => panic!("nobody retires cells here"),
        }
    }

    fn hear(&mut self, verdicts: Vec<(u64, Verdict)>) {
        for (who, verdict) in verdicts {
            let units = self.waiting.remove(&who).expect("heard twice");
            match verdict {
                Verdict::Granted => self.granted(units),
                Verdict::Over(standing) => {
                    assert!(
                        standing.counted.expect("by a count") + units
                            > standing.limit.expect("unlimited can't be over")
                    );
                }
                Verdict::Blocked(_) => assert!(!self.at_rest(), "refused while nothing was in flight"),
            }
        }
    }

    fn resolve(&mut self) {
        let mut verdicts = Vec::new();
        self.resolver = match std::mem::replace(&mut self.resolver, Resolver::Idle) {
            Resolver::Idle => Resolver::Idle,
            Resolver::Ready => match self.cell.step(&mut verdicts) {
                Step::Done => Resolver::Idle,
                Step::Count(round) => Resolver::Counting(round),
                Step::Wait => Resolver::Waiting,
                Step::Ask(_) => unreachable!("there is no other authority"),
            },
            Resolver::Waiting => Resolver::Ready,
            Resolver::Counting(round) => Resolver::Counted(round, self.count()),
            Resolver::Counted(round, rows) => {
                self.cell.resolve(&round, rows, &mut verdicts);
                Resolver::Ready
            }
        };
        self.hear(verdicts);
    }

    /// The resolver does this between its steps, and never while it counts.
    fn expire(&mut self) {
        if matches!(self.resolver, Resolver::Ready | Resolver::Waiting) {
            let mut verdicts = Vec::new();
            self.cell.expire(|_| true, &mut verdicts);
            self.resolver = Resolver::Ready;
            self.hear(verdicts);
        }
    }

    fn end(&mut self, at: usize) {
        let held = self.held.swap_remove(at);
        let rows = held.committed;
        self.cell.post(rows);
        self.cell.give_back(held.units - rows);
    }

    fn settle(&mut self, at: usize) {
        let held = self.held.swap_remove(at);
        self.cell.post(held.units);
    }

    fn end_edit(&mut self, at: usize) {
        // If the row was deleted meanwhile, the edit makes it anew.
        let row = self.edits.swap_remove(at);
        self.rows.insert(row);
        self.check();
        self.cell.end_edit(1);
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Reserve(units) => self.reserve(units),
            Op::Commit(at) => {
                let open = self.held.iter_mut().filter(|held| held.committed < held.units).nth(at);
                if let Some(held) = open {
                    held.committed += 1;
                    self.create();
                }
            }
            Op::End(at) => {
                if self.held.get(at).is_some_and(|held| !held.abandoned) {
                    self.end(at);
                }
            }
            Op::Abandon(at) => {
                if let Some(held) = self.held.get_mut(at) {
                    held.abandoned = true;
                }
            }
            Op::Settle(at) => {
                if self.held.get(at).is_some_and(|held| held.abandoned) {
                    self.settle(at);
                }
            }
            Op::Delete(at) => {
                if let Some(row) = self.rows.iter().copied().nth(at) {
                    self.rows.remove(&row);
                    self.cell.delete(1);
                }
            }
            Op::BeginEdit(at) => {
                assert!(self.cell.begin_edit(1));
                match self.rows.iter().copied().nth(at) {
                    Some(row) => self.edits.push(row),
                    None => drop(self.cell.end_edit(1)),
                }
            }
            Op::EndEdit(at) => {
                if at < self.edits.len() {
                    self.end_edit(at);
                }
            }
            Op::BeginCount => self.counts.push((self.cell.begin_count().unwrap(), None)),
            Op::ReadCount(at) => {
                let rows = self.count();
                if let Some((_, read)) = self.counts.get_mut(at) {
                    *read = Some(rows);
                }
            }
            Op::ApplyCount(at) => {
                if let Some((_, Some(rows))) = self.counts.get(at) {
                    let rows = *rows;
                    let (round, _) = self.counts.swap_remove(at);
                    self.cell.finish_count(&round, rows);
                }
            }
            Op::DropCount(at) => {
                if at < self.counts.len() {
                    self.counts.swap_remove(at);
                }
            }
            Op::SetLimit(limit) => {
                self.limit = limit;
                self.cell.set_limit(limit);
            }
            Op::Resolve => self.resolve(),
            Op::Expire => self.expire(),
            Op::Forget => drop(self.cell.forget()),
        }
    }

    /// From every state, all units come back.
    fn drain(&mut self) {
        while !self.at_rest() || !matches!(self.resolver, Resolver::Idle) {
            if !self.edits.is_empty() {
                self.end_edit(0);
            } else if let Some(held) = self.held.first() {
                if held.abandoned { self.settle(0) } else { self.end(0) }
            }
            for _ in 0..5 {
                self.resolve();
                self.expire();
            }
        }
        assert!(self.waiting.is_empty(), "somebody waits for ever");
        let round = self.cell.begin_count().unwrap();
        self.cell.finish_count(&round, self.count());
        let standing = self.cell.standing();
        assert_eq!((standing.counted, standing.posted), (Some(self.count()), 0));
        assert_eq!(standing.reserved, 0, "units leaked");
        let free = self.limit.map(|limit| limit.saturating_sub(self.count()));
        match free {
            Some(free) => {
                assert!(free == 0 || self.cell.try_take(free).is_some(), "the free units can't be used");
                assert_eq!(self.cell.try_take(1), None, "a unit too many");
            }
            None => assert!(self.cell.try_take(1).is_some()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn rows_never_exceed_the_limit_and_no_unit_leaks(
        rows in 0..6_u64,
        limit in prop_oneof![5 => (0..6_u64).prop_map(Some), 1 => Just(None)],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut world = World::new(rows, limit);
        for op in &ops {
            world.apply(op);
        }
        world.drain();
    }
}

#[test]
fn nothing_is_granted_before_the_first_count() {
    let cell = Cell::new(Some(50));
    assert_eq!(cell.try_take(1), None);
    assert_eq!(cell.admit(1, "first"), Admission::Queued { resolve: true });
}

#[test]
fn a_request_is_granted_whole() {
    let cell: Cell<()> = Cell::new(Some(10));
    let round = cell.begin_count().unwrap();
    cell.finish_count(&round, 1);
    assert_eq!(cell.try_take(10), None);
    assert_eq!(cell.try_take(9), Some(0));
}

#[test]
fn without_a_limit_nothing_is_counted() {
    let cell: Cell<()> = Cell::new(None);
    assert_eq!(cell.admit(u64::MAX / 2, ()), Admission::Granted);
    assert!(cell.try_take(1).is_some());
}

#[test]
fn a_retired_cell_grants_nothing() {
    let cell = Cell::new(None);
    assert_eq!(cell.admit(1, ()), Admission::Granted);
    assert!(!super::retire_all([&cell].into_iter()), "a unit is out");
    cell.give_back(1);
    assert!(super::retire_all([&cell].into_iter()));
    assert_eq!(cell.try_take(1), None);
    assert_eq!(cell.admit(1, ()), Admission::Retired);
    assert!(!cell.force(1));
}

#[test]
fn more_units_than_a_pool_holds() {
    let cell: Cell<()> = Cell::new(Some(u64::MAX >> 1));
    let round = cell.begin_count().unwrap();
    cell.finish_count(&round, 0);
    assert_eq!(cell.admit(1 << 40, ()), Admission::Granted);
    cell.post(1 << 40);
    let standing = cell.standing();
    assert_eq!((standing.counted, standing.posted, standing.reserved), (Some(0), 1 << 40, 0));
}
#[test]
fn units_given_back_above_the_limit_do_not_go_round_again() {
    let cell: Cell<()> = Cell::new(None);
    assert_eq!(cell.admit(2, ()), Admission::Granted);
    cell.set_limit(Some(1));
    let round = cell.begin_count().unwrap();
    cell.finish_count(&round, 0);
    cell.give_back(1);
    assert_eq!(cell.try_take(1), None, "one unit is still out");
    cell.give_back(1);
    assert_eq!(cell.try_take(1), Some(0));
}

#[test]
fn an_edit_takes_nothing_from_new_rows() {
    let cell: Cell<()> = Cell::new(Some(50));
    cell.finish_count(&cell.begin_count().unwrap(), 45);
    assert!(cell.begin_edit(10));
    cell.finish_count(&cell.begin_count().unwrap(), 45);
    assert_eq!(cell.try_take(5), Some(0));
}

#[test]
fn a_row_that_an_edit_may_make_anew_is_held() {
    let cell: Cell<()> = Cell::new(Some(50));
    cell.finish_count(&cell.begin_count().unwrap(), 50);
    assert!(cell.begin_edit(2));
    // One was deleted, and may be one that is being edited.
    cell.finish_count(&cell.begin_count().unwrap(), 49);
    assert_eq!(cell.try_take(1), None);
    cell.end_edit(2);
    cell.finish_count(&cell.begin_count().unwrap(), 49);
    assert_eq!(cell.try_take(1), Some(0));
}

#[test]
fn a_count_from_before_a_change_of_epoch_tells_nothing() {
    let cell: Cell<()> = Cell::new(Some(50));
    let round = cell.begin_count().unwrap();
    cell.forget();
    cell.finish_count(&round, 10);
    assert_eq!(cell.try_take(1), None);
}

#[test]
fn units_that_come_free_at_the_last_moment_are_used() {
    let cell = Cell::new(Some(1));
    cell.finish_count(&cell.begin_count().unwrap(), 0);
    assert_eq!(cell.try_take(1), Some(0));
    assert_eq!(cell.admit(1, "waits"), Admission::Queued { resolve: true });
    let mut verdicts = Vec::new();
    let Step::Count(round) = cell.step(&mut verdicts) else { panic!("it has to be counted for") };
    cell.resolve(&round, 0, &mut verdicts);
    assert!(matches!(cell.step(&mut verdicts), Step::Wait));
    assert!(cell.give_back(1));
    cell.expire(|_| true, &mut verdicts);
    assert_eq!(verdicts, [("waits", Verdict::Granted)]);
}

#[test]
fn rows_in_the_making_are_no_drift() {
    let cell: Cell<()> = Cell::new(Some(50));
    cell.finish_count(&cell.begin_count().unwrap(), 45);
    assert!(cell.try_take(2).is_some());
    let round = cell.begin_count().unwrap();
    cell.post(1);
    assert_eq!(cell.finish_count(&round, 47), (None, false));
    cell.post(1);
    assert_eq!(cell.finish_count(&cell.begin_count().unwrap(), 47), (None, false));
    cell.delete(2);
    assert_eq!(cell.finish_count(&cell.begin_count().unwrap(), 45), (None, false));
    assert_eq!(cell.finish_count(&cell.begin_count().unwrap(), 40), (Some(45), false));
    assert_eq!(cell.finish_count(&cell.begin_count().unwrap(), 41), (Some(40), false));
}

#[test]
fn changes_that_never_stop_keep_nobody_waiting() {
    let cell = Cell::new(Some(1));
    cell.finish_count(&cell.begin_count().unwrap(), 0);
    assert_eq!(cell.try_take(1), Some(0));
    assert_eq!(cell.admit(1, "waits"), Admission::Queued { resolve: true });
    let mut verdicts = Vec::new();
    for _ in 0..3 {
        if let Step::Count(round) = cell.step(&mut verdicts) {
            cell.delete(1);
            cell.resolve(&round, 0, &mut verdicts);
        }
        cell.delete(1);
        cell.expire(|_| true, &mut verdicts);
    }
    assert!(matches!(verdicts[..], [("waits", Verdict::Blocked(_))]), "{verdicts:?}");
}

#[test]
fn whoever_is_blocked_hears_what_the_last_count_found() {
    let cell = Cell::new(Some(2));
    cell.finish_count(&cell.begin_count().unwrap(), 0);
    assert_eq!(cell.try_take(2), Some(0));
    assert_eq!(cell.admit(1, "waits"), Admission::Queued { resolve: true });
    let mut verdicts = Vec::new();
    let Step::Count(round) = cell.step(&mut verdicts) else { panic!("it has to be counted for") };
    cell.post(1);
    cell.resolve(&round, 0, &mut verdicts);
    cell.expire(|_| true, &mut verdicts);
    let Step::Count(round) = cell.step(&mut verdicts) else { panic!("something has changed") };
    cell.resolve(&round, 1, &mut verdicts);
    assert!(matches!(cell.step(&mut verdicts), Step::Wait | Step::Done));
    let [(_, Verdict::Blocked(standing))] = verdicts[..] else { panic!("{verdicts:?}") };
    assert_eq!((standing.counted, standing.posted, standing.reserved, standing.remaining), (Some(1), 0, 1, 0));
}
