//! What the protocol between processes costs.

use crate::round_trips::drain;

#[test]
fn round_trips_grow_as_the_replicas_times_the_logarithm_of_their_shares() {
    for limit in [1_000, 10_000, 100_000] {
        for replicas in [1, 2, 4, 8, 16] {
            let made = drain(replicas, limit);
            let expected = replicas * u64::from((limit / replicas).ilog2() + 1);
            let trips = made.asks + made.flushes;
            assert!(trips <= 3 * expected, "{replicas} replicas, limit {limit}: {made:?}, expected {expected}");
        }
    }
}
