//! What a run is about.

use std::time::Duration;

use super::random::Random;

/// Every run has only some of what can go wrong: where all of it happens all the time, little else does.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) hosts: usize,
    pub(super) resources: usize,
    pub(super) clients: usize,
    pub(super) fenced: bool,
    pub(super) counts_elsewhere: bool,
    pub(super) time_to_live: Duration,
    pub(super) longest_handler: Duration,
    pub(super) lossy: bool,
    pub(super) slow: bool,
    pub(super) crashes: bool,
    pub(super) pauses: bool,
    pub(super) cuts: bool,
    pub(super) database_crashes: bool,
    /// To a copy of the database, which may have lost commits.
    pub(super) fail_overs: bool,
    pub(super) notices_lost: bool,
    pub(super) clocks_differ: bool,
    pub(super) shutdowns: bool,
    pub(super) deletes: bool,
    pub(super) upserts: bool,
    pub(super) limits_change: bool,
    pub(super) abandons: bool,
    pub(super) mutation: Option<Mutation>,
}

/// A mistake made on purpose, by the database or the set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mutation {
    /// A lease is settled while transactions hold on to it.
    SettlesUnderFences,
    /// Transactions hold on to leases that have ended.
    FencesAnything,
    /// One replica goes on long after the others take it for dead.
    IgnoresItsDeadline,
    /// Units are given back by a replica that keeps them.
    ReturnsWhatItKeeps,
    /// A request that is repeated is granted again.
    GrantsAgain,
    /// Units are granted by a limit that has changed since.
    StaleLimit,
    /// Leases stay behind when their replica is gone.
    LeavesOrphans,
    /// Who has to wait is refused as if there were rows.
    RefusesTheBlocked,
    /// Units that lie idle are not called back.
    NobodyIsRecalled,
    /// After a fail-over the books of before are in force.
    KeepsOldBooks,
}

impl Plan {
    pub(super) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let random = &mut Random::new(seed, &[0]);
        let mut yes = || random.below(2) == 0;
        let mut plan = Self {
            hosts: if yes() { 2 } else { 3 },
            resources: if yes() { 1 } else { 2 },
            clients: if yes() { 2 } else { 5 },
            fenced: yes(),
            counts_elsewhere: yes() && yes(),
            time_to_live: Duration::from_millis(if yes() { 400 } else { 1000 }),
            longest_handler: Duration::ZERO,
            lossy: yes(),
            slow: yes(),
            crashes: yes(),
            pauses: yes(),
            cuts: yes(),
            database_crashes: yes(),
            fail_overs: yes(),
            notices_lost: yes(),
            clocks_differ: yes(),
            shutdowns: yes(),
            deletes: yes() || yes(),
            upserts: yes(),
            limits_change: yes(),
            abandons: yes(),
            mutation,
        };
        plan.longest_handler = plan.time_to_live * 2;
        // No more is promised where nothing ties rows to the books.
        plan.fail_overs &= plan.fenced && !plan.counts_elsewhere;
        plan
    }
}
