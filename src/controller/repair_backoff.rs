//! Delays repairs of a Secret that another client keeps changing. Pure.
//!
//! Input: the times of the repairs.
//! Output: the delay of the next one, and whether the Secret is contested.
//! Invariants: the first repairs are immediate, so that a single change costs no time.

use std::time::Duration;

use tokio::time::Instant;

/// Time without a repair after which earlier repairs no longer count.
const QUIET_PERIOD: Duration = Duration::from_mins(5);
/// Number of repairs in a row without a delay.
const IMMEDIATE_REPAIRS: u32 = 3;
/// Delay of the first repair after these. It doubles with each further repair.
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// Maximum delay between two repairs.
const MAX_DELAY: Duration = Duration::from_mins(5);

/// How often, and when last, the operator repaired an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecretRepairBackoff {
    repairs: u32,
    last: Option<Instant>,
}

impl SecretRepairBackoff {
    /// How long the next repair has to wait.
    #[must_use]
    pub fn delay(&self, now: Instant) -> Duration {
        let Some(last) = self.last else {
            return Duration::ZERO;
        };
        let since = now.saturating_duration_since(last);
        if self.repairs < IMMEDIATE_REPAIRS || since >= QUIET_PERIOD {
            return Duration::ZERO;
        }
        let doublings = (self.repairs - IMMEDIATE_REPAIRS).min(16);
        let delay = FIRST_DELAY.saturating_mul(2_u32.saturating_pow(doublings));
        delay.min(MAX_DELAY).saturating_sub(since)
    }

    /// Records a repair.
    pub fn record_repair(&mut self, now: Instant) {
        let quiet = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= QUIET_PERIOD);
        self.repairs = if quiet {
            1
        } else {
            self.repairs.saturating_add(1)
        };
        self.last = Some(now);
    }

    /// For how long another client must leave the object alone until it counts as uncontested. None
    /// if it is uncontested.
    #[must_use]
    pub fn contested_for(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.last?);
        (self.repairs > IMMEDIATE_REPAIRS && since < QUIET_PERIOD)
            .then(|| QUIET_PERIOD.saturating_sub(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_repairs_are_immediate_and_later_ones_back_off() {
        let mut backoff = SecretRepairBackoff::default();
        let mut now = Instant::now();
        let mut delays = vec![];
        for _ in 0..10 {
            let delay = backoff.delay(now);
            delays.push(delay.as_secs());
            now += delay;
            backoff.record_repair(now);
        }
        assert_eq!(delays, [0, 0, 0, 2, 4, 8, 16, 32, 64, 128]);
        assert!(backoff.contested_for(now).is_some());
    }

    #[test]
    fn quiet_period_resets_the_backoff() {
        let mut backoff = SecretRepairBackoff::default();
        let mut now = Instant::now();
        for _ in 0..6 {
            backoff.record_repair(now);
        }
        assert!(backoff.contested_for(now).is_some());
        now += QUIET_PERIOD;
        assert_eq!(backoff.contested_for(now), None);
        assert_eq!(backoff.delay(now), Duration::ZERO);
        backoff.record_repair(now);
        assert_eq!(backoff.contested_for(now), None);
    }
}
