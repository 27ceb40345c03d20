//! Exponential backoff, and jitter.
//!
//! Input: the first and the longest delay, and how many attempts have failed in a row. Output: the
//! delay before the next attempt; a delay moved by a random part. Invariants: a delay never exceeds
//! the longest one. Every retry of the operator uses this module.

use std::time::Duration;

use backon::{BackoffBuilder, ConstantBuilder, ExponentialBuilder};

/// After so many doublings every delay has reached its maximum.
const MAX_DOUBLINGS: u32 = 32;

/// Delays that double from `initial` up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays from `initial` up to `max`.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max }
    }

    /// The delay after `failures` failures in a row: `initial` after the first one, then twice the
    /// one before.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(MAX_DOUBLINGS) as usize;
        let mut delays = ExponentialBuilder::new()
            .with_min_delay(self.initial)
            .with_max_delay(self.max)
            .without_max_times()
            .build();
        delays.nth(doublings).unwrap_or(self.max).min(self.max)
    }
}

/// `delay`, moved at random by at most the part `spread` of it in each direction, so that many
/// retries do not come at the same time.
#[must_use]
pub fn jittered(delay: Duration, spread: f64) -> Duration {
    let below = delay.mul_f64(spread);
    let range = below * 2;
    let constant = ConstantBuilder::new().with_delay(range).with_jitter();
    // backon adds a random part of the delay to the delay.
    let offset = constant
        .build()
        .next()
        .unwrap_or(range)
        .saturating_sub(range);
    delay.saturating_sub(below).saturating_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_up_to_the_longest_delay() {
        let backoff = Backoff::new(SECOND, Duration::from_mins(1));
        let delays: Vec<_> = (0..9)
            .map(|failures| backoff.delay(failures).as_secs())
            .collect();
        assert_eq!(delays, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.delay(u32::MAX), Duration::from_mins(1));
    }

    #[test]
    fn never_exceeds_the_longest_delay() {
        let backoff = Backoff::new(Duration::from_hours(1), SECOND);
        assert_eq!(backoff.delay(1), SECOND);
        let backoff = Backoff::new(SECOND, Duration::MAX);
        assert!(backoff.delay(u32::MAX) > Duration::from_hours(1));
    }

    #[test]
    fn jitter_stays_within_its_spread_and_varies() {
        let delays: Vec<_> = (0..200).map(|_| jittered(SECOND * 10, 0.1)).collect();
        assert!(
            delays
                .iter()
                .all(|delay| (9_000..=11_000).contains(&delay.as_millis()))
        );
        assert!(delays.iter().any(|delay| delay.as_millis() < 9_900));
        assert!(delays.iter().any(|delay| delay.as_millis() > 10_100));
        assert_eq!(jittered(Duration::ZERO, 0.5), Duration::ZERO);
    }
}
