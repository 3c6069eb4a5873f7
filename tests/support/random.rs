//! Randomness that a printed seed repeats.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Random(u64);

/// The seed of this run: `TEST_SEED`, or a new one. A failing test prints it.
pub(crate) fn seed() -> u64 {
    let seed = match env::var("TEST_SEED") {
        Ok(seed) => seed.parse().expect("TEST_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into(),
    };
    println!("TEST_SEED={seed}");
    seed
}

impl Random {
    /// A stream of its own for each of the numbers in `streams`.
    pub(crate) fn new(seed: u64, streams: &[usize]) -> Self {
        let mix = |state: u64, stream: &usize| {
            let mut random = Self(state ^ u64::try_from(*stream).unwrap().wrapping_mul(0xa076_1d64_78bd_642f));
            random.next()
        };
        Self(streams.iter().fold(seed, mix))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
