//! Pure: how often the operator repairs a pool that another writer keeps reverting.
//!
//! Input: repairs and reconciles without one, with their times.
//! Output: whether the next repair has to wait, and whether the pool is contested.
//! Invariants: reads no clock.

use std::time::{Duration, Instant};

use crate::upstream::backoff::Backoff;

/// After this many repairs in a row the pool is contested.
const CONTESTED_AFTER: u32 = 3;
/// The longest wait between two repairs.
const MAX_DELAY: Duration = Duration::from_mins(10);

/// The repairs in a row, and the earliest time of the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PoolRepairBackoff {
    repairs: u32,
    blocked_until: Option<Instant>,
}

impl PoolRepairBackoff {
    /// Counts a repair and doubles the wait for the next.
    pub(super) fn record_repair(&mut self, now: Instant, interval: Duration) {
        self.repairs = self.repairs.saturating_add(1);
        let delay = Backoff::new(interval, MAX_DELAY).delay(self.repairs);
        self.blocked_until = Some(now + delay);
    }

    /// Resets the count if the pool stayed as it was for one interval after the wait.
    pub(super) fn record_unchanged(&mut self, now: Instant, interval: Duration) {
        let interval = interval.min(MAX_DELAY);
        if self
            .blocked_until
            .is_some_and(|until| now >= until + interval)
        {
            *self = Self::default();
        }
    }

    /// The earliest time of the next repair, if it is in the future.
    pub(super) fn blocked_until(&self, now: Instant) -> Option<Instant> {
        self.blocked_until.filter(|until| now < *until)
    }

    /// Whether another writer keeps reverting the pool.
    pub(super) const fn is_contested(&self) -> bool {
        self.repairs >= CONTESTED_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_mins(1);

    #[test]
    fn delays_double_to_ten_minutes_and_third_repair_contests() {
        let mut now = Instant::now();
        let mut backoff = PoolRepairBackoff::default();
        assert_eq!(
            backoff.blocked_until(now),
            None,
            "the first repair does not wait"
        );
        let cases = [
            (1, false),
            (2, false),
            (4, true),
            (8, true),
            (10, true),
            (10, true),
        ];
        for (minutes, contested) in cases {
            backoff.record_repair(now, INTERVAL);
            let until = now + Duration::from_mins(minutes);
            assert_eq!(backoff.blocked_until(now), Some(until));
            assert_eq!(
                backoff.blocked_until(until.checked_sub(Duration::from_millis(1)).unwrap()),
                Some(until)
            );
            assert_eq!(backoff.blocked_until(until), None, "after {minutes} min");
            assert_eq!(backoff.is_contested(), contested, "after {minutes} min");
            now = until;
        }
    }

    #[test]
    fn resets_only_after_an_unchanged_interval() {
        let start = Instant::now();
        let mut backoff = PoolRepairBackoff::default();
        for _ in 0..3 {
            backoff.record_repair(start, INTERVAL);
        }
        let until = backoff.blocked_until(start).unwrap();
        for early in [start, until, until + INTERVAL / 2] {
            backoff.record_unchanged(early, INTERVAL);
            assert!(backoff.is_contested());
        }
        backoff.record_unchanged(until + INTERVAL, INTERVAL);
        assert_eq!(backoff, PoolRepairBackoff::default());
    }

    #[test]
    fn unchanged_reads_without_a_repair_change_nothing() {
        let mut backoff = PoolRepairBackoff::default();
        backoff.record_unchanged(Instant::now(), INTERVAL);
        assert_eq!(backoff, PoolRepairBackoff::default());
    }
}
