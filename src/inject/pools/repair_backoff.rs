//! Pure: how often a pool may be repaired that somebody else keeps changing back.
//!
//! In: repairs and quiet looks, with their times. Out: whether the next repair has to wait, and whether the pool is contested. It reads no clock.

use std::time::{Duration, Instant};

/// From this many repairs in a row on, the pool is contested.
const CONTESTED: u32 = 3;
/// No repair waits longer.
const LONGEST_HOLD: Duration = Duration::from_mins(10);

/// Repairs in a row, and until when no other may follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    repairs: u32,
    hold_until: Option<Instant>,
}

impl Drift {
    /// What somebody changed was changed back.
    pub(super) fn repaired(&mut self, now: Instant, interval: Duration) {
        let doublings = self.repairs.min(16);
        self.repairs = self.repairs.saturating_add(1);
        let hold = interval.saturating_mul(1 << doublings).min(LONGEST_HOLD);
        self.hold_until = Some(now + hold);
    }

    /// Nothing was to be repaired.
    pub(super) fn quiet(&mut self, now: Instant, interval: Duration) {
        let interval = interval.min(LONGEST_HOLD);
        if self.hold_until.is_some_and(|until| now >= until + interval) {
            *self = Self::default();
        }
    }

    /// Until when repairs wait, if they do.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.hold_until.filter(|until| now < *until)
    }

    /// Whether somebody keeps changing the pool back.
    pub(super) const fn contested(&self) -> bool {
        self.repairs >= CONTESTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_mins(1);

    #[test]
    fn holds_double_up_to_ten_minutes_and_the_third_repair_makes_it_contested() {
        let mut now = Instant::now();
        let mut drift = Drift::default();
        assert_eq!(drift.held_until(now), None, "the first repair is at once");
        let table = [
            (1, false),
            (2, false),
            (4, true),
            (8, true),
            (10, true),
            (10, true),
        ];
        for (minutes, contested) in table {
            drift.repaired(now, INTERVAL);
            let until = now + Duration::from_mins(minutes);
            assert_eq!(drift.held_until(now), Some(until));
            assert_eq!(
                drift.held_until(until.checked_sub(Duration::from_millis(1)).unwrap()),
                Some(until)
            );
            assert_eq!(drift.held_until(until), None, "after {minutes} min");
            assert_eq!(drift.contested(), contested, "after {minutes} min");
            now = until;
        }
    }

    #[test]
    fn only_an_interval_of_quiet_after_the_hold_resets() {
        let start = Instant::now();
        let mut drift = Drift::default();
        for _ in 0..3 {
            drift.repaired(start, INTERVAL);
        }
        let until = drift.held_until(start).unwrap();
        for early in [start, until, until + INTERVAL / 2] {
            drift.quiet(early, INTERVAL);
            assert!(drift.contested());
        }
        drift.quiet(until + INTERVAL, INTERVAL);
        assert_eq!(drift, Drift::default());
    }

    #[test]
    fn quiet_looks_without_a_repair_change_nothing() {
        let mut drift = Drift::default();
        drift.quiet(Instant::now(), INTERVAL);
        assert_eq!(drift, Drift::default());
    }
}
