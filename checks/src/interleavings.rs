//! Threads that meet in one cell.
//!
//! Rows stand under a lock, as a database has them: a commit or a count is one step. Whatever the order, rows never
//! exceed the limit, and once all is quiet the ledger believes exactly what a count finds.

use std::iter;

use loom::model;
use loom::model::Builder;
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::ledger::{Admission, Cell, Step, Verdict, retire_all};

/// A cell whose rows have been counted.
fn counted(limit: Option<u64>, rows: u64) -> Arc<Cell<u8>> {
    let cell = Cell::new(limit);
    let round = cell.begin_count().unwrap();
    cell.finish_count(&round, rows);
    Arc::new(cell)
}

/// Asks for `units` as the engine does, the pool first. One that must wait is refused and leaves the queue.
fn takes(cell: &Cell<u8>, units: u64) -> bool {
    if cell.try_take(units).is_some() {
        return true;
    }
    match cell.admit(units, 0) {
        Admission::Granted => true,
        Admission::Queued { .. } | Admission::Retired => false,
    }
}

/// Counts `rows` as the engine does: the mark, then the rows, then both in one step.
fn count(cell: &Cell<u8>, rows: &Mutex<u64>) {
    let round = cell.begin_count().unwrap();
    let found = *rows.lock().unwrap();
    cell.finish_count(&round, found);
}

/// What the cell would still grant, by asking for it.
fn room(cell: &Cell<u8>) -> u64 {
    let room = iter::repeat_with(|| cell.try_take(1)).take_while(Option::is_some).count().try_into().unwrap();
    cell.give_back(room);
    room
}

/// With nothing in flight, one count puts everything right.
fn assert_quiet(cell: &Cell<u8>, rows: &Mutex<u64>) {
    count(cell, rows);
    let standing = cell.standing();
    assert_eq!((standing.counted, standing.posted, standing.reserved), (Some(*rows.lock().unwrap()), 0, 0));
}

#[test]
fn two_takers_of_the_last_unit() {
    model(|| {
        let cell = counted(Some(3), 2);
        let other = Arc::clone(&cell);
        let there = thread::spawn(move || takes(&other, 1));
        let here = takes(&cell, 1);
        let there = there.join().unwrap();
        assert!(here ^ there, "exactly one of them gets it");
    });
}

#[test]
fn takers_of_several_units_get_all_or_none() {
    model(|| {
        let cell = counted(Some(3), 0);
        let takers = [1, 2].map(|units| {
            let cell = Arc::clone(&cell);
            thread::spawn(move || cell.try_take(units).map_or(0, |_| units))
        });
        let here = cell.try_take(2).map_or(0, |_| 2);
        let taken: u64 = here + takers.into_iter().map(|taker| taker.join().unwrap()).sum::<u64>();
        assert!(taken >= 2, "whoever comes first fits");
        assert_eq!(taken + room(&cell), 3);
    });
}

#[test]
fn a_waiter_hears_of_the_unit_that_comes_back() {
    model(|| {
        let cell = counted(Some(1), 0);
        assert!(cell.try_take(1).is_some());
        let holder = Arc::clone(&cell);
        let holder = thread::spawn(move || holder.give_back(1));

        let granted = match cell.admit(1, 7) {
            Admission::Granted => true,
            Admission::Queued { resolve } => {
                assert!(resolve, "nobody else is at work on the queue");
                serve_until_idle(&cell)
            }
            Admission::Retired => unreachable!("nobody retires it"),
        };
        let told = holder.join().unwrap();
        if !granted {
            assert!(told, "the resolver waits, and nobody wakes it");
            let mut verdicts = Vec::new();
            assert!(matches!(cell.step(&mut verdicts), Step::Done));
            assert_eq!(verdicts, [(7, Verdict::Granted)]);
        }
        assert_eq!((cell.reserved(), room(&cell)), (1, 0));
    });
}

/// Resolves the queue until its only waiter is granted, or there is nothing left to do but wait. No rows exist.
fn serve_until_idle(cell: &Cell<u8>) -> bool {
    let mut verdicts = Vec::new();
    loop {
        match cell.step(&mut verdicts) {
            Step::Done => {
                assert_eq!(verdicts, [(7, Verdict::Granted)]);
                return true;
            }
            Step::Count(round) => cell.resolve(&round, 0, &mut verdicts),
            Step::Wait => return false,
            Step::Ask(_) => unreachable!("there is no other authority"),
        }
    }
}

#[test]
fn late_comers_do_not_overtake_a_waiter() {
    model(|| {
        let cell = counted(Some(1), 0);
        assert!(cell.try_take(1).is_some());
        assert_eq!(cell.admit(1, 7), Admission::Queued { resolve: true });
        let holder = Arc::clone(&cell);
        let holder = thread::spawn(move || holder.give_back(1));
        assert!(cell.try_take(1).is_none());
        assert!(holder.join().unwrap(), "the resolver is told");
        assert!(cell.try_take(1).is_none(), "the unit is the waiter's");
        assert!(serve_until_idle(&cell));
    });
}

#[test]
fn nobody_is_left_in_the_queue_by_a_resolver_that_ends() {
    model(|| {
        let cell = counted(Some(0), 0);
        assert_eq!(cell.admit(1, 7), Admission::Queued { resolve: true });
        let late = Arc::clone(&cell);
        let late = thread::spawn(move || late.admit(1, 8));
        let mut verdicts = Vec::new();
        loop {
            match cell.step(&mut verdicts) {
                Step::Done => break,
                Step::Count(round) => cell.resolve(&round, 0, &mut verdicts),
                Step::Wait => unreachable!("no unit is out that could come back"),
                Step::Ask(_) => unreachable!("there is no other authority"),
            }
        }
        let told = verdicts.iter().any(|(who, _)| *who == 8);
        let resolves = late.join().unwrap() == Admission::Queued { resolve: true };
        assert!(told ^ resolves, "the late one is told by this resolver, or by one of its own");
    });
}

#[test]
fn posts_during_a_count() {
    model(|| {
        let cell = counted(Some(2), 0);
        let rows = Arc::new(Mutex::new(0));
        assert!(cell.try_take(1).is_some());
        let creator = thread::spawn({
            let (cell, rows) = (Arc::clone(&cell), Arc::clone(&rows));
            move || {
                *rows.lock().unwrap() += 1;
                cell.post(1);
            }
        });
        count(&cell, &rows);
        creator.join().unwrap();
        assert!(*rows.lock().unwrap() + room(&cell) <= 2, "the count has lost the post");
        assert_quiet(&cell, &rows);
    });
}

#[test]
fn two_counts_and_a_post() {
    // Three threads in every order would take minutes; what can go wrong takes two preemptions.
    let mut model = Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let cell = counted(Some(2), 0);
        let rows = Arc::new(Mutex::new(0));
        assert!(cell.try_take(1).is_some());
        let counter = thread::spawn({
            let (cell, rows) = (Arc::clone(&cell), Arc::clone(&rows));
            move || count(&cell, &rows)
        });
        let creator = thread::spawn({
            let (cell, rows) = (Arc::clone(&cell), Arc::clone(&rows));
            move || {
                *rows.lock().unwrap() += 1;
                cell.post(1);
            }
        });
        count(&cell, &rows);
        counter.join().unwrap();
        creator.join().unwrap();
        assert!(*rows.lock().unwrap() + room(&cell) <= 2, "a count has lost the post");
        assert_quiet(&cell, &rows);
    });
}

#[test]
fn a_lowered_limit_binds_once_it_is_set() {
    model(|| {
        let cell = counted(Some(2), 0);
        let taker = Arc::clone(&cell);
        let taker = thread::spawn(move || u64::from(taker.try_take(1).is_some()));
        cell.set_limit(Some(0));
        assert!(!takes(&cell, 1));
        assert_eq!(cell.reserved(), taker.join().unwrap(), "what was taken before is known");
        assert_eq!(room(&cell), 0);
    });
}

#[test]
fn a_unit_given_back_above_the_limit_does_not_go_round_again() {
    model(|| {
        let cell = counted(Some(2), 1);
        assert!(cell.try_take(1).is_some());
        let holder = Arc::clone(&cell);
        let holder = thread::spawn(move || holder.give_back(1));
        cell.set_limit(Some(1));
        assert!(!takes(&cell, 1));
        holder.join().unwrap();
        assert!(!takes(&cell, 1));
    });
}

#[test]
fn a_retired_cell_has_nothing_out() {
    model(|| {
        let cell = counted(Some(2), 0);
        let taker = Arc::clone(&cell);
        let taker = thread::spawn(move || takes(&taker, 1));
        let forcer = Arc::clone(&cell);
        let forcer = thread::spawn(move || forcer.force(1));
        let retired = retire_all(iter::once(&*cell));
        let (took, forced) = (taker.join().unwrap(), forcer.join().unwrap());
        assert!(!retired || !took && !forced, "somebody holds units of a cell that is out of use");
        if retired {
            assert_eq!(cell.admit(1, 0), Admission::Retired);
        } else {
            assert_eq!(cell.reserved(), u64::from(took) + u64::from(forced));
        }
    });
}

#[test]
fn a_cell_retires_once_its_units_are_back() {
    model(|| {
        let cell = counted(Some(1), 0);
        assert!(cell.try_take(1).is_some());
        let holder = Arc::clone(&cell);
        let holder = thread::spawn(move || holder.give_back(1));
        let early = retire_all(iter::once(&*cell));
        holder.join().unwrap();
        assert!(early || cell.try_take(1).map(|_| cell.give_back(1)).is_some(), "it is as good as before");
        assert!(retire_all(iter::once(&*cell)), "it is idle");
        assert!(!takes(&cell, 1) && !cell.force(1));
    });
}

#[test]
fn cells_retire_all_or_none() {
    model(|| {
        let (first, second) = (counted(Some(1), 0), counted(Some(1), 0));
        let taker = Arc::clone(&second);
        let taker = thread::spawn(move || taker.try_take(1).is_some());
        let retired = retire_all([&*first, &*second].into_iter());
        assert!(retired ^ taker.join().unwrap());
        assert_eq!(first.try_take(1).is_some(), !retired);
    });
}

/// The rows of one key: one that an upsert is about, and others.
#[derive(Default)]
struct Rows {
    edited: bool,
    others: u64,
}

impl Rows {
    fn all(&self) -> u64 {
        u64::from(self.edited) + self.others
    }
}

#[test]
fn an_edit_whose_row_is_deleted_and_made_anew() {
    model(|| {
        let cell = counted(Some(1), 1);
        let rows = Arc::new(Mutex::new(Rows { edited: true, others: 0 }));
        // The edit begins before the row is looked up.
        assert!(cell.begin_edit(1));
        let editor = thread::spawn({
            let (cell, rows) = (Arc::clone(&cell), Arc::clone(&rows));
            move || {
                rows.lock().unwrap().edited = true;
                cell.end_edit(1);
            }
        });
        rows.lock().unwrap().edited = false;
        let round = cell.begin_count().unwrap();
        let found = rows.lock().unwrap().all();
        cell.finish_count(&round, found);
        if cell.try_take(1).is_some() {
            rows.lock().unwrap().others += 1;
            cell.post(1);
        }
        editor.join().unwrap();
        let all = rows.lock().unwrap().all();
        assert!(all <= 1, "{all} rows under a limit of 1");
        assert!(all + room(&cell) <= 1, "the ledger has lost the row");
    });
}

#[test]
fn an_edit_that_ends_during_a_count() {
    model(|| {
        let cell = counted(Some(1), 1);
        let rows = Arc::new(Mutex::new(Rows { edited: true, others: 0 }));
        assert!(cell.begin_edit(1));
        rows.lock().unwrap().edited = false;
        let counter = thread::spawn({
            let (cell, rows) = (Arc::clone(&cell), Arc::clone(&rows));
            move || {
                let round = cell.begin_count().unwrap();
                let found = rows.lock().unwrap().all();
                cell.finish_count(&round, found);
            }
        });
        rows.lock().unwrap().edited = true;
        cell.end_edit(1);
        counter.join().unwrap();
        assert_eq!(room(&cell), 0, "the count was made before the edit, and applied after it");
    });
}
