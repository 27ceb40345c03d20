//! Pure: whether an upstream is worth asking.
//!
//! In: answers and failures. Out: whether the next request may go, goes as the one that tries, or is answered at once with the error of those before.
//! So a dead upstream sees one stream of retries, however many ask. It reads no clock.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row, without an answer between them, after which an upstream counts as dead: one broken answer does not hold up the others.
const IN_A_ROW: u32 = 3;
/// First wait of a dead upstream.
pub(super) const FIRST: Duration = Duration::from_secs(1);
/// Longest wait.
const LONGEST: Duration = Duration::from_mins(1);
/// Longest wait of a request that somebody waits for: whoever has mended a server, and asks anew, is not to wait for a minute.
const URGENT: Duration = Duration::from_secs(5);

/// Whether a request may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Door<E> {
    /// It may.
    Open,
    /// It may, as the only one, to see whether the upstream is back.
    Try,
    /// It would fail like those before; to be tried again after the wait.
    Shut(E, Duration),
}

#[derive(Debug)]
pub(super) struct Health<E> {
    in_a_row: u32,
    dead: Option<Dead<E>>,
}

#[derive(Debug)]
struct Dead<E> {
    error: E,
    tries: u32,
    since: Instant,
    until: Instant,
    trying: bool,
}

impl<E> Default for Health<E> {
    fn default() -> Self {
        Self {
            in_a_row: 0,
            dead: None,
        }
    }
}

impl<E: Clone> Health<E> {
    pub(super) fn door(&mut self, urgent: bool, now: Instant) -> Door<E> {
        let Some(dead) = &mut self.dead else {
            return Door::Open;
        };
        let until = if urgent {
            dead.until.min(dead.since + URGENT)
        } else {
            dead.until
        };
        if dead.trying || until > now {
            let wait = until.saturating_duration_since(now).max(FIRST);
            return Door::Shut(dead.error.clone(), wait);
        }
        dead.trying = true;
        Door::Try
    }

    /// An answer came, whatever it said. True if the upstream was dead until now.
    pub(super) fn answered(&mut self) -> bool {
        self.in_a_row = 0;
        self.dead.take().is_some()
    }

    /// No answer came. True if the upstream counts as dead from now on.
    pub(super) fn failed(&mut self, error: E, tried: bool, now: Instant) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        match &mut self.dead {
            Some(dead) if tried => {
                dead.error = error;
                dead.tries = dead.tries.saturating_add(1);
                dead.trying = false;
                dead.since = now;
                dead.until = now + wait(dead.tries);
                false
            }
            // One that was on its way when the others failed.
            Some(_) => false,
            None if self.in_a_row < IN_A_ROW => false,
            None => {
                self.dead = Some(Dead {
                    error,
                    tries: 0,
                    since: now,
                    until: now + wait(0),
                    trying: false,
                });
                true
            }
        }
    }

    /// The one that tried came to nothing, not even to a failure: the next one tries.
    pub(super) fn gave_up(&mut self) {
        if let Some(dead) = &mut self.dead {
            dead.trying = false;
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.in_a_row == 0 && self.dead.is_none()
    }
}

fn wait(tries: u32) -> Duration {
    FIRST
        .saturating_mul(2_u32.saturating_pow(tries.min(16)))
        .min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_answer_does_not_hold_up_the_others() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..10 {
            assert!(!health.failed("down", false, now));
            assert!(!health.failed("down", false, now));
            assert!(!health.answered());
        }
        assert_eq!(health.door(false, now), Door::Open);
    }

    #[test]
    fn a_dead_upstream_is_tried_by_one_at_a_time_with_growing_waits() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        assert!(!health.failed("down", false, now));
        assert!(!health.failed("down", false, now));
        assert!(health.failed("down", false, now));
        assert!(!health.failed("late", false, now), "told once");
        let mut waits = Vec::new();
        for _ in 0..8 {
            let Door::Shut("down", wait) = health.door(false, now) else {
                panic!("not shut")
            };
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(health.door(false, now), Door::Try);
            assert!(
                matches!(health.door(false, now), Door::Shut(..)),
                "one at a time"
            );
            health.failed("down", true, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(health.door(true, now + URGENT), Door::Try, "somebody waits");
        health.gave_up();
        now += LONGEST;
        assert_eq!(health.door(false, now), Door::Try);
        health.gave_up();
        assert_eq!(health.door(false, now), Door::Try, "the next one tries");
        assert!(health.answered(), "it is back");
        assert_eq!(health.door(false, now), Door::Open);
        assert!(health.is_well());
    }
}
