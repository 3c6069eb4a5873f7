//! How often replicas ask the authority until a limit is used up, by the state machines alone.

use crate::authority::{Asker, Books, Count, Notice, Outcome, Said};
use crate::ledger::LeaseState;

const RESOURCE: u8 = 0;

/// How often what was called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RoundTrips {
    pub(crate) asks: u64,
    pub(crate) flushes: u64,
}

/// Creates rows at all replicas in turn until there are `limit`.
pub(crate) fn drain(replicas: u64, limit: u64) -> RoundTrips {
    let mut books = Books::default();
    let mut leases: Vec<_> = (0..replicas).map(|id| LeaseState::new(id.into())).collect();
    (0..replicas).for_each(|replica| books.join(replica.into()));
    let mut made = RoundTrips::default();
    let mut rows = 0;
    while rows < limit {
        for index in 0..leases.len() {
            if rows < limit && take(&mut books, &mut leases, index, (limit, rows), &mut made) {
                leases[index].post(1);
                rows += 1;
            }
        }
    }
    made
}

/// Takes a unit, by asking for it if there is none. `false` when there is none anywhere.
fn take(
    books: &mut Books<u8>,
    leases: &mut [LeaseState],
    index: usize,
    (limit, rows): (u64, u64),
    made: &mut RoundTrips,
) -> bool {
    while leases[index].headroom() == 0 {
        let ask = leases[index].ask(1, 1);
        let id = leases[index].id();
        let asker = Asker { lease: id, replica: id, beats: 0, key: RESOURCE, replicas: leases.len() as u64 };
        made.asks += 1;
        let Outcome::Answer { answer, .. } = books.ask(&asker, &ask, Some(limit), Count::Here(rows)) else {
            return false;
        };
        leases[index].answered(&ask, &answer);
        if answer.granted == 0 && !answer.waits {
            return false;
        }
        heed(books, leases, made);
    }
    leases[index].hold(1);
    true
}

/// Who is called gives back what is idle.
fn heed(books: &mut Books<u8>, leases: &mut [LeaseState], made: &mut RoundTrips) {
    while let Some(notice) = books.notices.pop() {
        if let Notice::Free(_) = notice {
            continue;
        }
        for lease in leases.iter_mut() {
            lease.return_idle();
            if lease.has_news() {
                let said = Said {
                    lease: lease.id(),
                    totals: lease.totals(),
                    waiting: lease.waits(),
                    ends: false,
                    held: false,
                };
                made.flushes += 1;
                for heard in books.flush(&[said]) {
                    lease.heard(said.totals, heard.asked, heard.answer);
                }
            }
        }
    }
}
