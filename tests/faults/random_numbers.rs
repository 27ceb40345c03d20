//! A generator of random numbers whose runs can be played again: xorshift64.
//!
//! Input: a seed. Output: numbers. Invariants: the same seed gives the same numbers.

use std::time::Duration;

/// The generator.
#[derive(Clone, Debug)]
pub struct RandomNumbers(u64);

impl RandomNumbers {
    pub const fn new(seed: u64) -> Self {
        // A state of zero would stay zero, and small seeds would begin alike.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.next() >> 11) % bound).unwrap_or_default()
    }

    /// True in one of `times` cases.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A span shorter than `limit`, in whole milliseconds.
    pub fn span(&mut self, limit: Duration) -> Duration {
        let limit = usize::try_from(limit.as_millis()).unwrap_or(usize::MAX);
        Duration::from_millis(u64::try_from(self.below(limit)).unwrap_or_default())
    }
}
