//! What there is in the model: replicas, their requests, messages under way, and the database.

use std::collections::BTreeMap;

use super::Config;
use crate::authority::{Books, Count, Key, Said};
use crate::ledger::{Answer, Ask, LeaseState, Totals};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) books: Books<()>,
    pub(crate) rows: u64,
    /// Whether the row that is edited is one of them.
    pub(crate) edited: bool,
    pub(crate) limit: u64,
    pub(crate) replicas: [Replica; 2],
    /// Sorted, so that two states that differ in nothing but an order are one.
    pub(crate) requests: Vec<Request>,
    pub(crate) messages: Vec<Message>,
    /// A copy of the database, as it was.
    pub(crate) copy: Option<Box<Copied>>,
    pub(crate) left: Budget,
    /// The next id of a lease or a replica.
    pub(crate) next_id: u128,
    /// The limit that was in force at the last grant.
    pub(crate) ceiling: u64,
    /// Whom the authority told first to wait, and who still does.
    pub(crate) first: Option<u128>,
    /// The limit before it was changed: for those that go by what they remember.
    pub(crate) limit_before: u64,
    pub(crate) fault: Option<Fault>,
}

/// What a step itself did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// Refused for good, though rows and need are within the limit.
    FalseRefusal,
    /// Somebody was granted units while another waited for them.
    Overtaken,
    /// The replica's word and the requests that it has differ.
    Unbalanced,
}

/// How often each thing may still happen. That is what keeps the model finite: messages, counts, beginnings and ends of
/// transactions need no bound of their own, since each belongs to one of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) requests: u8,
    /// Requests for units, all together.
    pub(crate) asks: u8,
    pub(crate) repeats: u8,
    /// Outcomes that nobody tells.
    pub(crate) unknown: u8,
    pub(crate) evictions: u8,
    pub(crate) crashes: u8,
    pub(crate) burials: u8,
    pub(crate) deletes: u8,
    pub(crate) limits: u8,
    pub(crate) recounts: u8,
    pub(crate) edits: u8,
    pub(crate) failovers: u8,
    pub(crate) ticks: u8,
    pub(crate) drifts: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Copied {
    pub(crate) books: Books<()>,
    pub(crate) rows: u64,
    pub(crate) edited: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Replica {
    pub(crate) me: u128,
    pub(crate) lease: LeaseState,
    pub(crate) queue: Vec<Waiter>,
    /// Leases that are out of use, and have to be ended.
    pub(crate) parting: Vec<Parting>,
    pub(crate) clock: Clock,
}

/// Somebody who waits for units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Waiter {
    pub(crate) units: u64,
    /// Units that it has already: none, but in a mutant.
    pub(crate) has: u64,
    /// The authority was asked since it came.
    pub(crate) asked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Parting {
    pub(crate) lease: LeaseState,
    /// The authority has heard the last of it, but something of it was lost.
    pub(crate) told: bool,
}

/// What a replica knows of time. All zero where time is not in the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Clock {
    /// How long units may be handed out yet.
    pub(crate) life: u8,
    /// A sign of life under way: how long, and whether the authority has it.
    pub(crate) beat: Option<(u8, bool)>,
    /// It has sent one since time last went by.
    pub(crate) beaten: bool,
    /// Another replica that is watched: its sign of life, and for how long it has stood still.
    pub(crate) watched: Option<(u128, u64, u8)>,
}

/// A request that was admitted, and its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) replica: usize,
    pub(crate) lease: u128,
    pub(crate) units: u64,
    /// An edit of one row, rather than new rows.
    pub(crate) edit: bool,
    pub(crate) stage: Stage,
    /// The replica has not told its end yet.
    pub(crate) open: bool,
    /// Nobody will tell, but the units end when the transaction can't commit any more.
    pub(crate) abandoned: bool,
    pub(crate) age: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// No transaction yet.
    Admitted,
    /// An edit that has begun; its row is looked up when the authority has heard of so many edits.
    Announced(u64),
    /// The authority has heard.
    Heard,
    /// A transaction is open, and holds on to the lease where requests fence.
    Begun,
    /// So many rows were made.
    Committed(u64),
    Aborted,
}

impl Request {
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Committed(_) | Stage::Aborted)
    }
}

/// A message under way, to the authority or back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Message {
    pub(crate) replica: usize,
    /// Of which incarnation.
    pub(crate) me: u128,
    pub(crate) lease: u128,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Body {
    Ask(Ask, Option<Counted>),
    Flush { totals: Totals, waiting: bool, ends: Ends },
    Answer(Ask, Answer),
    Count(Ask, Mark),
    Dead,
    Heard { totals: Totals, asked: u64, answer: u64, wanted: bool, ends: Ends },
    Unheard { totals: Totals, ends: Ends },
}

/// Whether a lease ends with what is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ends {
    No,
    Yes,
    /// Yes, but it may not have begun yet.
    Early,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) posts: u64,
    pub(crate) edits_ended: u64,
}

/// Rows that a replica counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Counted {
    pub(crate) mark: Mark,
    pub(crate) rows: u64,
}

impl Message {
    pub(crate) fn is_to_authority(&self) -> bool {
        matches!(self.body, Body::Ask(..) | Body::Flush { .. })
    }

    /// Any order will do, as long as it is one.
    fn order(&self) -> (usize, u128, u8, [u64; 10]) {
        let of = |totals: &Totals| [totals.posted, totals.returned, totals.edits, totals.edits_ended];
        let (kind, a, b) = match &self.body {
            Body::Ask(ask, counted) => {
                let counted = counted.map_or(0, |counted| 1 + counted.rows * 64 + counted.mark.posts * 8);
                (0, of(&ask.totals), [ask.seq, ask.need, ask.queued, ask.recount.into(), counted, 0])
            }
            Body::Flush { totals, waiting, ends } => (1, of(totals), [(*waiting).into(), *ends as u64, 0, 0, 0, 0]),
            Body::Answer(ask, answer) => {
                let flags = u64::from(answer.waits) * 2 + u64::from(answer.counted);
                (2, of(&ask.totals), [ask.seq, ask.need, answer.granted, flags, answer.known.counted, ask.queued])
            }
            Body::Count(ask, mark) => (3, of(&ask.totals), [ask.seq, ask.need, mark.posts, mark.edits_ended, 0, 0]),
            Body::Dead => (4, [0; 4], [0; 6]),
            Body::Heard { totals, asked, answer, wanted, ends } => {
                (5, of(totals), [*asked, *answer, (*wanted).into(), *ends as u64, 0, 0])
            }
            Body::Unheard { totals, ends } => (6, of(totals), [*ends as u64, 0, 0, 0, 0, 0]),
        };
        let [a0, a1, a2, a3] = a;
        let [b0, b1, b2, b3, b4, b5] = b;
        (self.replica, self.lease, kind, [a0, a1, a2, a3, b0, b1, b2, b3, b4, b5])
    }
}

impl Replica {
    fn new(me: u128, lease: u128, life: u8) -> Self {
        let clock = Clock { life, ..Clock::default() };
        Self { me, lease: LeaseState::new(lease), queue: Vec::new(), parting: Vec::new(), clock }
    }

    pub(crate) fn state_of(&mut self, lease: u128) -> Option<&mut LeaseState> {
        if self.lease.id() == lease {
            return Some(&mut self.lease);
        }
        self.parting.iter_mut().map(|parting| &mut parting.lease).find(|state| state.id() == lease)
    }
}

impl State {
    pub(crate) fn new(config: &Config) -> Self {
        let life = config.times.map_or(0, |times| times.time_to_live);
        let mut books = Books { replicas: BTreeMap::new(), ..Books::default() };
        books.join(1);
        books.join(2);
        Self {
            books,
            rows: config.rows,
            edited: config.rows > 0,
            limit: config.limit,
            replicas: [Replica::new(1, 3, life), Replica::new(2, 4, life)],
            requests: Vec::new(),
            messages: Vec::new(),
            copy: None,
            left: config.budget,
            next_id: 5,
            ceiling: config.limit,
            first: None,
            limit_before: config.limit,
            fault: None,
        }
    }

    pub(crate) fn new_id(&mut self) -> u128 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub(crate) fn sort(&mut self) {
        self.requests.sort_unstable();
        self.messages.sort_by_cached_key(Message::order);
        self.books.notices.clear();
        // Nobody asks for units of the others any more.
        let (messages, replicas) = (&self.messages, &self.replicas);
        let in_use = |lease: u128| {
            let of = |replica: &Replica| {
                replica.lease.id() == lease || replica.parting.iter().any(|parting| parting.lease.id() == lease)
            };
            messages.iter().any(|message| message.lease == lease) || replicas.iter().any(of)
        };
        self.books.ended.retain(|lease, _| in_use(*lease));
        // A replica that is gone leaves when nothing of it is left.
        let gone: Vec<_> = self.books.replicas.iter().filter(|(_, replica)| !replica.live).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.books.leave(id));
    }

    /// The books of the key.
    pub(crate) fn book(&mut self) -> &mut Key {
        self.books.keys.entry(()).or_default()
    }

    pub(crate) fn is_held(&self, lease: u128, config: &Config) -> bool {
        let holds = |request: &&Request| request.lease == lease && request.stage == Stage::Begun;
        config.fenced && self.requests.iter().any(|request| holds(&request))
    }

    /// At most so many rows there can be by the books, which is never less than there are.
    pub(crate) fn bound(&self) -> Option<u64> {
        let key = self.books.keys.get(&())?;
        Some(key.counted? + key.posted + key.carried + key.leased)
    }

    pub(crate) fn count(&self, config: &Config, counted: Option<Counted>) -> Count {
        match counted {
            Some(Counted { mark, rows }) => Count::Since { posts: mark.posts, edits_ended: mark.edits_ended, rows },
            None if config.counts_elsewhere => Count::Elsewhere,
            None => Count::Here(self.rows),
        }
    }

    pub(crate) fn said(&self, config: &Config, lease: u128, totals: Totals, waiting: bool, ends: Ends) -> Said {
        let ends = ends != Ends::No;
        Said { lease, totals, waiting, ends, held: self.is_held(lease, config) }
    }

    /// The replica's lease goes out of use; who waits there goes on with a new one.
    pub(crate) fn give_up(&mut self, replica: usize) {
        let id = self.new_id();
        let replica = &mut self.replicas[replica];
        let lease = std::mem::replace(&mut replica.lease, LeaseState::new(id));
        replica.parting.push(Parting { lease, told: false });
    }
}
