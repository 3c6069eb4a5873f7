//! The engine under deterministic simulation: several replicas, the real ones, at a database that is not, with everything
//! going wrong that may. One seed decides all of it.
//!
//! Each replica runs on a runtime of its own, whose clock is paused: so it can be stopped, and killed, as a process is,
//! and its clock can run fast or slow. Between them there is nothing but messages, which the world delivers.
//!
//! `TEST_SEED=…` runs one seed, and tells what happens in it. `SIMULATION_SEEDS=…` sets how many are run.

#![allow(clippy::print_stdout, reason = "what happened is told by the test that fails")]

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::limit::Limit;

use host::{Client, Host};
use plan::{Mutation, Plan};
use world::{LONGEST_DELAY, LONGEST_TRANSACTION, Order, Seen, Shared, Time, World, lock};

#[path = "../../../checks/src/authority.rs"]
mod books;
mod host;
mod link;
mod plan;
#[path = "../../../tests/support/random.rs"]
#[allow(dead_code, reason = "seeds are counted here")]
mod random;
mod world;

/// How many seeds are run: a minute or two.
const SEEDS: usize = 1000;

/// In how many seeds a mistake has to be found.
const MUTANT_SEEDS: usize = 5000;

/// How long clients make requests, and things go wrong.
const LOAD: Duration = Duration::from_secs(4);

/// By then all requests have ended: each of their steps has a time-out.
const LONGEST_REQUEST: Duration = Duration::from_secs(20);

/// How far hosts run ahead of each other when nothing is under way.
const STRIDE: Duration = Duration::from_millis(50);

struct Simulation {
    world: Shared,
    hosts: Vec<Option<Host>>,
}

/// How a run ended.
#[derive(Debug)]
struct End {
    failure: Option<String>,
    seen: Seen,
    trace: u64,
}

impl Simulation {
    fn run(seed: u64, mutation: Option<Mutation>, verbose: bool) -> End {
        let plan = Plan::new(seed, mutation);
        let world = Arc::new(Mutex::new(World::new(seed, plan.clone(), verbose)));
        let hosts = (0..plan.hosts).map(|index| Some(Host::start(&world, index))).collect();
        let mut simulation = Self { world, hosts };
        let failure = simulation.story(&plan).err();
        // Without the lock: what ends with a host tells the world so.
        simulation.hosts.clear();
        let world = lock(&simulation.world);
        if verbose {
            println!("{:#?}", world.books);
        }
        let failure = world.failure.clone().or(failure);
        End { failure, seen: world.seen.clone(), trace: world.trace() }
    }

    fn story(&mut self, plan: &Plan) -> Result<(), String> {
        self.run_until(LOAD, |_| false)?;
        self.calm();
        self.run_for(LONGEST_REQUEST, |run| lock(&run.world).requests == 0)?;
        // The longest that anything of before can still be under way, and the stated time of reclaim; the others learn
        // of a replica's end by two of their beats, and by two more that what they have is not used.
        let handler = if plan.fenced { Duration::ZERO } else { plan.longest_handler };
        let reclaim = plan.time_to_live * 5 / 4 + handler + plan.time_to_live / 2;
        self.run_for(LONGEST_DELAY + LONGEST_TRANSACTION + plan.longest_handler + reclaim, |_| false)?;
        self.nothing_stays_behind(false)?;
        for resource in 0..plan.resources {
            {
                let mut world = lock(&self.world);
                let limit = world.tables[resource].rows.len() + world.random.below(12);
                world.set_limit(resource, Limit::of(u32::try_from(limit).unwrap()));
            }
            self.fill(resource)?;
        }
        self.run_for(plan.time_to_live, |_| false)?;
        self.nothing_stays_behind(false)?;
        for index in 0..self.hosts.len() {
            self.ask(index, Client::shut_down)?;
        }
        self.nothing_stays_behind(true)
    }

    /// From now on nothing goes wrong, and no requests come.
    fn calm(&mut self) {
        {
            let mut world = lock(&self.world);
            world.note(format_args!("calm"));
            world.faults = false;
            world.load = false;
            for host in 0..self.hosts.len() {
                world.orders.push_back(Order::Resume(host));
                world.orders.push_back(Order::Start(host));
            }
        }
        self.obey();
    }

    /// Every free unit can be had at any replica, and no other.
    fn fill(&mut self, resource: usize) -> Result<(), String> {
        for _ in 0..100 {
            let host = lock(&self.world).random.below(self.hosts.len());
            if !self.ask(host, move |client| client.fill(resource))? {
                break;
            }
        }
        let (rows, limit) = {
            let table = &lock(&self.world).tables[resource];
            (table.rows.len() as u64, table.limit.unwrap_or(0))
        };
        if rows < limit {
            return Err(format!("refused at {rows} rows of {limit}"));
        }
        for host in 0..self.hosts.len() {
            if self.ask(host, move |client| client.fill(resource))? {
                return Err(format!("admitted at {rows} rows of {limit}"));
            }
        }
        Ok(())
    }

    fn nothing_stays_behind(&self, all: bool) -> Result<(), String> {
        let world = lock(&self.world);
        let books = &world.books;
        if world.requests > 0 {
            return Err(format!("{} requests never ended", world.requests));
        }
        if books.keys.values().any(|key| key.leased > 0 || key.edits > 0)
            || books.replicas.len() > self.hosts.len()
            || all && !(books.leases.is_empty() && books.replicas.is_empty())
        {
            return Err("units stay behind".to_owned());
        }
        Ok(())
    }

    /// Has something done at a host, and waits until it is.
    fn ask<F>(&mut self, host: usize, work: impl FnOnce(Client) -> F) -> Result<bool, String>
    where
        F: Future<Output = Result<bool, String>> + Send + 'static,
    {
        let (answer, answered) = mpsc::channel();
        let Some(host) = &self.hosts[host] else { return Err("a host is missing".to_owned()) };
        let (client, work) = (host.client.clone(), work(host.client.clone()));
        host.spawn(async move {
            let _ = answer.send(work.await);
            client.sent();
        });
        let mut result = None;
        self.run_for(Duration::from_secs(5), |_| {
            result = answered.try_recv().ok();
            result.is_some()
        })?;
        result.unwrap_or_else(|| Err("a request takes too long".to_owned()))
    }

    fn run_for(&mut self, time: Duration, done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let now = lock(&self.world).now;
        self.run_until(now + time, done)
    }

    /// Lets whatever is due happen, up to `end`, or until it is done.
    fn run_until(&mut self, end: Time, mut done: impl FnMut(&Self) -> bool) -> Result<(), String> {
        while !done(self) {
            let event = lock(&self.world).next_event().unwrap_or(end).min(end);
            let running = self.hosts.iter_mut().flatten().filter(|host| !host.paused);
            match running.min_by_key(|host| host.at).filter(|host| host.at < event) {
                Some(host) => host.run(event.min(host.at + STRIDE)),
                None if event >= end => {
                    let mut world = lock(&self.world);
                    world.now = world.now.max(end);
                    return Ok(());
                }
                None => {
                    lock(&self.world).take_event();
                    self.obey();
                }
            }
            if let Some(failure) = &lock(&self.world).failure {
                return Err(failure.clone());
            }
        }
        Ok(())
    }

    fn obey(&mut self) {
        loop {
            let (order, now) = {
                let mut world = lock(&self.world);
                (world.orders.pop_front(), world.now)
            };
            let Some(order) = order else { return };
            match order {
                Order::Start(index) if self.hosts[index].is_none() => {
                    self.hosts[index] = Some(Host::start(&self.world, index));
                }
                Order::Crash(index) => {
                    if self.hosts[index].take().is_some() {
                        let mut world = lock(&self.world);
                        world.note(format_args!("host {index} is gone"));
                        world.seen.crashes += 1;
                        world.hosts[index].notices = None;
                    }
                }
                Order::Pause(index) => {
                    if let Some(host) = &mut self.hosts[index] {
                        host.paused = true;
                        let mut world = lock(&self.world);
                        world.note(format_args!("host {index} stands still"));
                        world.seen.pauses += 1;
                    }
                }
                Order::Resume(index) => {
                    if let Some(host) = self.hosts[index].as_mut().filter(|host| host.paused) {
                        lock(&self.world).note(format_args!("host {index} goes on"));
                        host.wake(now);
                    }
                }
                Order::Start(_) => {}
            }
        }
    }
}

/// Runs seeds on all processors until one fails with this symptom.
fn search(seeds: usize, mutation: Option<Mutation>, symptom: &str) -> (Option<(u64, String)>, Seen) {
    let next = AtomicUsize::new(0);
    let (failed, seen) = (Mutex::new(None), Mutex::new(Seen::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || failed.lock().unwrap().is_some() {
                return;
            }
            let end = Simulation::run(seed as u64, mutation, false);
            seen.lock().unwrap().add(&end.seen);
            if let Some(failure) = end.failure.filter(|failure| failure.contains(symptom)) {
                failed.lock().unwrap().get_or_insert((seed as u64, failure));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    (failed.into_inner().unwrap(), seen.into_inner().unwrap())
}

/// The simulation can fail: it finds out each of these mistakes, by what comes of it.
macro_rules! mistakes {
    ($($name:ident: $mutation:ident => $symptom:expr,)*) => {
        mod finds {
            use super::*;

            $(#[test]
            fn $name() {
                let (failure, seen) = search(MUTANT_SEEDS, Some(Mutation::$mutation), $symptom);
                println!("{failure:?}");
                assert!(failure.is_some(), "{seen:?}");
            })*
        }
    };
}

mistakes! {
    leases_that_end_under_open_transactions: SettlesUnderFences => "rows of type",
    transactions_on_leases_that_have_ended: FencesAnything => "rows of type",
    a_replica_that_goes_on_for_too_long: IgnoresItsDeadline => "rows of type",
    units_that_are_returned_and_kept: ReturnsWhatItKeeps => "rows of type",
    a_request_that_is_granted_again: GrantsAgain => "units stay behind",
    grants_by_a_limit_of_before: StaleLimit => "rows of type",
    leases_without_a_replica: LeavesOrphans => "units stay behind",
    refusals_of_those_that_only_have_to_wait: RefusesTheBlocked => "refused",
    books_from_before_a_fail_over: KeepsOldBooks => "rows of type",
    idle_units_that_nobody_calls_back: NobodyIsRecalled => "units never came back",
}

fn number(variable: &str) -> Option<u64> {
    Some(env::var(variable).ok()?.parse().unwrap())
}

#[test]
fn limits_are_kept_whatever_goes_wrong() {
    if let Some(seed) = number("TEST_SEED") {
        let end = Simulation::run(seed, None, true);
        assert_eq!(end.failure, None, "{:?}", end.seen);
        return;
    }
    let seeds = number("SIMULATION_SEEDS").map_or(SEEDS, |seeds| usize::try_from(seeds).unwrap());
    let (failure, seen) = search(seeds, None, "");
    println!("{seen:?}");
    if let Some((seed, failure)) = failure {
        panic!("TEST_SEED={seed}: {failure}");
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        let traces = [(); 2].map(|()| Simulation::run(seed, None, false).trace);
        assert_eq!(traces[0], traces[1], "seed {seed}");
    }
}
