//! Pure: the circuit breaker of one upstream.
//!
//! Input: answers and failures. Output: whether the next request may be sent, is the probe, or gets
//! the error of the last ones at once.
//! Invariants: while the circuit is open there is one stream of retries, however many callers there
//! are. It reads no clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::backoff::Backoff;

/// Failures in a row, without an answer between them, that open the circuit: one broken answer does
/// not stop the other requests.
const FAILURE_THRESHOLD: u32 = 3;
/// First and shortest wait of an open circuit.
pub(super) const MIN_WAIT: Duration = Duration::from_secs(1);
/// Waits between probes.
const PROBES: Backoff = Backoff::new(MIN_WAIT, Duration::from_mins(1));
/// Longest wait of an interactive request: a user who has repaired a server and tries again must
/// not wait for a minute.
const MAX_INTERACTIVE_WAIT: Duration = Duration::from_secs(5);

/// Whether a request may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Circuit<E> {
    /// It may.
    Closed,
    /// It may, as the only one: the probe that shows whether the upstream answers again.
    HalfOpen,
    /// It would fail with this error; to be tried again after the wait.
    Open(E, Duration),
}

/// Counts failures, and opens and closes the circuit.
#[derive(Debug)]
pub(super) struct CircuitBreaker<E> {
    failures: u32,
    open: Option<Open<E>>,
}

#[derive(Debug)]
struct Open<E> {
    error: E,
    probes: u32,
    since: Instant,
    until: Instant,
    is_probing: bool,
}

impl<E> Default for CircuitBreaker<E> {
    fn default() -> Self {
        Self {
            failures: 0,
            open: None,
        }
    }
}

impl<E: Clone> CircuitBreaker<E> {
    /// Whether the next request may be sent. If it may as the probe, the others wait for its
    /// outcome.
    pub(super) fn check(&mut self, is_interactive: bool, now: Instant) -> Circuit<E> {
        let Some(open) = &mut self.open else {
            return Circuit::Closed;
        };
        let until = if is_interactive {
            open.until.min(open.since + MAX_INTERACTIVE_WAIT)
        } else {
            open.until
        };
        if open.is_probing || until > now {
            let wait = until.saturating_duration_since(now).max(MIN_WAIT);
            return Circuit::Open(open.error.clone(), wait);
        }
        open.is_probing = true;
        Circuit::HalfOpen
    }

    /// Records an answer of any status. True if it closes an open circuit.
    pub(super) fn record_answer(&mut self) -> bool {
        self.failures = 0;
        self.open.take().is_some()
    }

    /// Records that no answer came. True if this opens the circuit.
    pub(super) fn record_failure(&mut self, error: E, is_probe: bool, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        match &mut self.open {
            Some(open) if is_probe => {
                open.error = error;
                open.probes = open.probes.saturating_add(1);
                open.is_probing = false;
                open.since = now;
                open.until = now + PROBES.delay(open.probes.saturating_add(1));
                false
            }
            // It was in flight when the circuit opened.
            Some(_) => false,
            None if self.failures < FAILURE_THRESHOLD => false,
            None => {
                self.open = Some(Open {
                    error,
                    probes: 0,
                    since: now,
                    until: now + PROBES.delay(1),
                    is_probing: false,
                });
                true
            }
        }
    }

    /// The probe was dropped without an outcome: the next request is the probe.
    pub(super) fn abandon_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.is_probing = false;
        }
    }

    /// Whether no failure is recorded.
    pub(super) fn is_healthy(&self) -> bool {
        self.failures == 0 && self.open.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_answer_does_not_open_the_circuit() {
        let (mut breaker, now) = (CircuitBreaker::default(), Instant::now());
        for _ in 0..10 {
            assert!(!breaker.record_failure("down", false, now));
            assert!(!breaker.record_failure("down", false, now));
            assert!(!breaker.record_answer());
        }
        assert_eq!(breaker.check(false, now), Circuit::Closed);
    }

    #[test]
    fn an_open_circuit_sends_one_probe_at_a_time_with_backoff() {
        let (mut breaker, mut now) = (CircuitBreaker::default(), Instant::now());
        assert!(!breaker.record_failure("down", false, now));
        assert!(!breaker.record_failure("down", false, now));
        assert!(breaker.record_failure("down", false, now));
        assert!(!breaker.record_failure("late", false, now), "opens once");
        let mut waits = Vec::new();
        for _ in 0..8 {
            let Circuit::Open("down", wait) = breaker.check(false, now) else {
                panic!("not open")
            };
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(breaker.check(false, now), Circuit::HalfOpen);
            assert!(
                matches!(breaker.check(false, now), Circuit::Open(..)),
                "one at a time"
            );
            breaker.record_failure("down", true, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let soon = now + MAX_INTERACTIVE_WAIT;
        assert_eq!(breaker.check(true, soon), Circuit::HalfOpen, "interactive");
        breaker.abandon_probe();
        now += Duration::from_mins(1);
        assert_eq!(breaker.check(false, now), Circuit::HalfOpen);
        breaker.abandon_probe();
        assert_eq!(breaker.check(false, now), Circuit::HalfOpen, "the next one");
        assert!(breaker.record_answer(), "it has recovered");
        assert_eq!(breaker.check(false, now), Circuit::Closed);
        assert!(breaker.is_healthy());
    }
}
