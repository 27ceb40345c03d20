//! Pure: bounds how often something is done, and never drops the last time.
//!
//! Input: the limit, and the times at which something is to be done.
//! Output: whether it may be done now, or how long it has to wait.
//! Invariants: it reads no clock. A burst passes without a wait, so that ordinary changes are never
//! delayed.

use std::time::Duration;

use tokio::time::Instant;

/// How often something may be done: `burst` times at once, and then once per `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaceLimit {
    /// How often without a wait.
    pub burst: u32,
    /// The time after which it may be done once more.
    pub period: Duration,
}

/// What was done lately, as the time at which a whole burst is possible again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace(Option<Instant>);

impl Pace {
    /// Counts one more time.
    ///
    /// # Errors
    /// It is not counted and has to wait for this time.
    pub fn take(&mut self, limit: PaceLimit, now: Instant) -> Result<(), Duration> {
        let begin = self.0.map_or(now, |at| at.max(now));
        let end = begin + limit.period;
        let wait = end
            .saturating_duration_since(now)
            .saturating_sub(limit.period * limit.burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.0 = Some(end);
        Ok(())
    }

    /// Whether nothing was done lately, so that it may be dropped.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.0.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: PaceLimit = PaceLimit {
        burst: 3,
        period: Duration::from_secs(2),
    };

    #[test]
    fn a_burst_passes_and_the_rest_waits() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(pace.take(LIMIT, now), Ok(()));
        }
        assert_eq!(pace.take(LIMIT, now), Err(Duration::from_secs(2)));
        let later = now + Duration::from_millis(500);
        let wait = Duration::from_millis(1500);
        assert_eq!(pace.take(LIMIT, later), Err(wait), "a wait is not counted");
        assert_eq!(pace.take(LIMIT, later + wait), Ok(()));
        assert!(pace.take(LIMIT, later + wait).is_err());
        assert!(!pace.is_fresh(now));
        assert!(pace.is_fresh(now + Duration::from_mins(1)));
        for _ in 0..3 {
            assert_eq!(pace.take(LIMIT, now + Duration::from_mins(1)), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn no_span_has_more_than_the_limit(gaps in prop::collection::vec(0_u64..3000, 1..200)) {
            let (mut pace, start) = (Pace::default(), Instant::now());
            let mut now = start;
            let mut done = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                match pace.take(LIMIT, now) {
                    Ok(()) => done.push(now),
                    Err(wait) => {
                        // After the wait, it may be done.
                        prop_assert!(pace.clone().take(LIMIT, now + wait).is_ok());
                    }
                }
            }
            for (index, first) in done.iter().enumerate() {
                for (number, last) in (1_u32..).zip(&done[index..]) {
                    let span = last.duration_since(*first).as_secs_f64();
                    let max = f64::from(LIMIT.burst) + span / LIMIT.period.as_secs_f64();
                    prop_assert!(f64::from(number) <= max + 1e-6);
                }
            }
        }
    }
}
