//! The books of limits that several replicas keep together, as the functions of `migrations/postgres/0002_ledger.sql` keep
//! them: each method is one of those, and one atomic step.

use std::collections::BTreeMap;

use crate::ledger::{Answer, Ask, Known, Totals};

/// For how many beats of its replica a request may be under way and still begin a lease.
const PATIENCE: u64 = 64;

/// All books. `K` is a resource type of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Books<K: Ord> {
    pub(crate) replicas: BTreeMap<u128, Replica>,
    pub(crate) keys: BTreeMap<K, Key>,
    pub(crate) leases: BTreeMap<u128, Lease<K>>,
    /// Leases that have ended: their replica, and how often it had beaten then.
    pub(crate) ended: BTreeMap<u128, (u128, u64)>,
    /// What is to be told to the replicas.
    pub(crate) notices: Vec<Notice<K>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    pub(crate) beats: u64,
    pub(crate) live: bool,
}

/// At most `counted + posted + carried + leased` rows may exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) counted: Option<u64>,
    pub(crate) posted: u64,
    pub(crate) carried: u64,
    pub(crate) leased: u64,
    pub(crate) posts: u64,
    pub(crate) edits: u64,
    pub(crate) edits_ended: u64,
    /// The lease for which all others wait.
    pub(crate) claim: Option<u128>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lease<K> {
    pub(crate) replica: u128,
    pub(crate) key: K,
    pub(crate) live: bool,
    pub(crate) granted: u64,
    pub(crate) totals: Totals,
    /// The last request for units that was granted, and how many it was granted.
    pub(crate) asked: u64,
    pub(crate) answer: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Notice<K> {
    Recall(K),
    Free(K),
}

/// Who asks, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asker<K> {
    pub(crate) lease: u128,
    pub(crate) replica: u128,
    /// How often the replica had beaten when it asked.
    pub(crate) beats: u64,
    pub(crate) key: K,
    /// How many replicas share what is left.
    pub(crate) replicas: u64,
}

/// How rows are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Count {
    /// There are so many now.
    Here(u64),
    /// By the replica.
    Elsewhere,
    /// By the replica, since the books said this.
    Since { posts: u64, edits_ended: u64, rows: u64 },
}

/// The outcome of an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Answer {
        answer: Answer,
        believed: Option<u64>,
        breach: u64,
    },
    /// The rows must be counted elsewhere.
    Count {
        posts: u64,
        edits_ended: u64,
    },
    Dead,
}

/// What a replica says about one of its leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Said {
    pub(crate) lease: u128,
    pub(crate) totals: Totals,
    pub(crate) waiting: bool,
    pub(crate) ends: bool,
    /// A transaction holds on to the lease.
    pub(crate) held: bool,
}

/// A lease that was heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Heard {
    pub(crate) lease: u128,
    pub(crate) asked: u64,
    pub(crate) answer: u64,
    pub(crate) wanted: bool,
}

impl<K: Ord> Default for Books<K> {
    fn default() -> Self {
        Self {
            replicas: BTreeMap::new(),
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            ended: BTreeMap::new(),
            notices: Vec::new(),
        }
    }
}

impl<K> Lease<K> {
    fn new(replica: u128, key: K) -> Self {
        Self { replica, key, live: true, granted: 0, totals: Totals::default(), asked: 0, answer: 0 }
    }

    /// What it may still turn into rows.
    pub(crate) fn rest(&self) -> u64 {
        self.granted.saturating_sub(self.totals.posted + self.totals.returned)
    }
}

impl Key {
    fn merge<K>(&mut self, before: &Lease<K>, lease: &Lease<K>) {
        self.leased = self.leased + lease.rest() - before.rest();
        self.posted += lease.totals.posted - before.totals.posted;
        self.posts += lease.totals.posted - before.totals.posted;
        self.edits = self.edits + (lease.totals.edits - lease.totals.edits_ended)
            - (before.totals.edits - before.totals.edits_ended);
        self.edits_ended += lease.totals.edits_ended - before.totals.edits_ended;
    }

    fn waits<K>(&self, leases: &BTreeMap<u128, Lease<K>>) -> bool {
        self.claim.and_then(|claim| leases.get(&claim)).is_some_and(|lease| lease.live)
    }
}

impl<K: Ord + Copy> Books<K> {
    pub(crate) fn ask(&mut self, asker: &Asker<K>, ask: &Ask, limit: Option<u64>, count: Count) -> Outcome {
        let mut key = self.keys.entry(asker.key).or_default().clone();
        let before = match self.leases.get(&asker.lease) {
            Some(lease) => lease.clone(),
            None if ask.seq > 1 || !self.may_begin(asker) => return Outcome::Dead,
            None => Lease::new(asker.replica, asker.key),
        };
        if !before.live {
            return Outcome::Dead;
        }
        let mut lease = before.clone();
        lease.totals = lease.totals.merged(ask.totals);
        key.merge(&before, &lease);
        let believed = key.counted.map(|counted| counted + key.posted);
        let carried_before = key.carried;
        let bound = believed.map(|believed| believed + key.carried + key.leased);
        let claimed = key.claim == Some(asker.lease);
        if claimed {
            key.claim = None;
        }
        let waits = key.waits(&self.leases);

        let (mut granted, mut counted, mut blocked, mut breach) = (0, false, false, 0);
        let mut elsewhere = None;
        if ask.need > 0 && ask.seq <= before.asked {
            granted = if ask.seq == before.asked { before.answer } else { 0 };
        } else {
            blocked = ask.need > 0;
            for attempt in 1..=2 {
                let since = matches!(count, Count::Since { .. });
                if attempt == 2 || ask.recount || since || key.counted.is_none() && ask.need > 0 {
                    let rows = match count {
                        Count::Since { posts, edits_ended, rows } => {
                            key.posted = key.posts - posts;
                            key.carried = key.edits + key.edits_ended - edits_ended;
                            rows
                        }
                        Count::Elsewhere => {
                            elsewhere = Some((key.posts, key.edits_ended));
                            break;
                        }
                        Count::Here(rows) => {
                            key.posted = 0;
                            key.carried = key.edits;
                            rows
                        }
                    };
                    if let Some(believed) = believed {
                        let missing = (believed + carried_before).saturating_sub(rows + key.posted);
                        key.carried = key.carried.min(missing);
                    }
                    breach = bound.map_or(0, |bound| rows.saturating_sub(bound));
                    key.counted = Some(rows);
                    counted = true;
                }
                if ask.need == 0 {
                    break;
                }
                let rows = key.counted.unwrap_or(0);
                let taken = rows + key.posted + key.carried + key.leased;
                // Negative where a limit was lowered.
                let room = limit.map_or(u64::MAX / 2, |limit| limit.saturating_sub(taken));
                if ask.need <= room && !waits {
                    granted = ask.queued.min(room);
                    granted += ask.spare.min((room - granted) / (2 * asker.replicas.max(1)));
                    lease.granted += granted;
                    key.leased += granted;
                    blocked = false;
                    break;
                }
                if counted {
                    if limit.is_some_and(|limit| rows + ask.need > limit) {
                        blocked = false;
                    } else if !waits {
                        key.claim = Some(asker.lease);
                    }
                    break;
                }
            }
        }
        if ask.need > 0 && ask.seq > before.asked && elsewhere.is_none() {
            lease.asked = ask.seq;
            lease.answer = granted;
        }
        if let Some((posts, edits_ended)) = elsewhere {
            self.close(asker, key, lease, claimed || waits);
            return Outcome::Count { posts, edits_ended };
        }
        let known =
            Known { counted: key.counted.unwrap_or(0), posted: key.posted, reserved: key.leased + key.carried, limit };
        if blocked {
            self.notices.push(Notice::Recall(asker.key));
        }
        self.close(asker, key, lease, !blocked && (claimed || waits));
        Outcome::Answer { answer: Answer { granted, waits: blocked, counted, known }, believed, breach }
    }

    fn close(&mut self, asker: &Asker<K>, key: Key, lease: Lease<K>, free: bool) {
        if free {
            self.notices.push(Notice::Free(asker.key));
        }
        self.keys.insert(asker.key, key);
        self.leases.insert(asker.lease, lease);
    }

    /// Answers the leases that are live.
    pub(crate) fn flush(&mut self, said: &[Said]) -> Vec<Heard> {
        let mut said: Vec<_> =
            said.iter().filter_map(|said| Some((self.leases.get(&said.lease)?.key, said.lease, said))).collect();
        said.sort_unstable_by_key(|(key, lease, _)| (*key, *lease));
        said.into_iter().filter_map(|(_, _, said)| self.hear(said)).collect()
    }

    fn hear(&mut self, said: &Said) -> Option<Heard> {
        let before = self.leases.get(&said.lease).filter(|lease| lease.live)?.clone();
        let mut key = self.keys.entry(before.key).or_default().clone();
        let mut lease = before.clone();
        lease.totals = lease.totals.merged(said.totals);
        key.merge(&before, &lease);
        if key.claim == Some(said.lease) && !said.waiting {
            key.claim = None;
            self.notices.push(Notice::Free(lease.key));
        }
        let wanted = key.waits(&self.leases) && key.claim != Some(said.lease);
        if wanted && lease != before {
            self.notices.push(Notice::Free(lease.key));
        }
        let heard = Heard { lease: said.lease, asked: lease.asked, answer: lease.answer, wanted };
        let used = lease.rest() > 0 || lease.totals.edits != lease.totals.edits_ended;
        self.keys.insert(lease.key, key);
        if said.ends && !used && !said.held {
            self.leases.remove(&said.lease);
            self.bar(said.lease, lease.replica);
        } else {
            lease.live = !said.ends || used;
            self.leases.insert(said.lease, lease);
        }
        Some(heard)
    }

    pub(crate) fn kill(&mut self, lease: u128) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.live = false;
        }
    }

    /// After a kill, when no transaction holds on to the lease any more. Answers how many units were taken for rows.
    pub(crate) fn settle(&mut self, lease: u128) -> Option<u64> {
        let before = self.leases.get(&lease).filter(|lease| !lease.live)?.clone();
        self.leases.remove(&lease);
        self.bar(lease, before.replica);
        let mut after = before.clone();
        after.totals.posted += before.rest();
        after.totals.edits_ended = after.totals.edits;
        self.keys.entry(before.key).or_default().merge(&before, &after);
        self.notices.push(Notice::Free(before.key));
        Some(after.totals.posted - before.totals.posted)
    }

    pub(crate) fn join(&mut self, replica: u128) {
        self.replicas.entry(replica).or_insert(Replica { beats: 0, live: true });
    }

    pub(crate) fn leave(&mut self, replica: u128) {
        if self.leases.values().all(|lease| lease.replica != replica) {
            self.replicas.remove(&replica);
            self.ended.retain(|_, (whose, _)| *whose != replica);
        }
    }

    pub(crate) fn beat(&mut self, id: u128) {
        if let Some(replica) = self.replicas.get_mut(&id).filter(|replica| replica.live) {
            replica.beats += 1;
            let now = replica.beats;
            self.ended.retain(|_, (whose, beats)| *whose != id || *beats + PATIENCE >= now);
        }
    }

    pub(crate) fn bury(&mut self, replica: u128, beats: u64) {
        if let Some(replica) = self.replicas.get_mut(&replica).filter(|replica| replica.beats == beats) {
            replica.live = false;
        }
    }

    /// The database is now a copy of what it was: nothing of before counts.
    pub(crate) fn fail_over(&mut self) {
        self.replicas.values_mut().for_each(|replica| replica.live = false);
        self.leases.values_mut().for_each(|lease| lease.live = false);
        self.keys.values_mut().for_each(|key| key.counted = None);
    }

    /// Leases that have to be ended: their replica has, or somebody has begun to.
    pub(crate) fn orphans(&self) -> Vec<u128> {
        let orphans = self.leases.iter().filter(|(_, lease)| !lease.live || !self.is_live(lease.replica));
        orphans.map(|(id, _)| *id).collect()
    }

    /// Not anew, and not by a request that was under way for too long.
    fn may_begin(&self, asker: &Asker<K>) -> bool {
        let replica = self.replicas.get(&asker.replica);
        !self.ended.contains_key(&asker.lease)
            && replica.is_some_and(|replica| replica.live && replica.beats <= asker.beats + PATIENCE)
    }

    fn bar(&mut self, lease: u128, replica: u128) {
        if let Some(beats) = self.replicas.get(&replica).filter(|replica| replica.live).map(|replica| replica.beats) {
            self.ended.entry(lease).or_insert((replica, beats));
        }
    }

    fn is_live(&self, replica: u128) -> bool {
        self.replicas.get(&replica).is_some_and(|replica| replica.live)
    }
}
