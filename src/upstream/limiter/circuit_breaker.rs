//! Pure: the circuit breaker of one upstream.
//!
//! Input: answers and failures, by source. Output: whether the next request may be sent, is a
//! probe, or gets the error of the last ones at once.
//! Invariants: only failures of the host count, and as long as a source is proven, only those of
//! proven sources: no author can keep the circuit open with bindings of their own. Proven sources have
//! probes of their own. Every other source has its own backoff, so that none takes the probes of
//! another. It reads no clock.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::sources::{Lane, Source, SourceId, Sources};
use crate::upstream::backoff::Backoff;

/// Failures in a row, without an answer between them, that open the circuit: one broken answer does
/// not stop the other requests.
const FAILURE_THRESHOLD: u32 = 3;
/// First and shortest wait of an open circuit, and the least time between two probes.
pub(super) const MIN_WAIT: Duration = Duration::from_secs(1);
/// Waits between probes of one source.
const PROBES: Backoff = Backoff::new(MIN_WAIT, Duration::from_mins(1));
/// Longest wait of an interactive request: a user who has repaired a server and tries again must
/// not wait for a minute.
const MAX_INTERACTIVE_WAIT: Duration = Duration::from_secs(5);
/// Sources whose probes are remembered. Beyond it, the backoff of all begins anew.
const MAX_PROBED: usize = 4096;

/// Whether a request may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Circuit<E> {
    /// It may.
    Closed,
    /// It may, as a probe that shows whether the upstream answers again.
    HalfOpen,
    /// It would fail with this error; to be tried again after the wait.
    Open(E, Duration),
}

/// Counts failures, and opens and closes the circuit.
#[derive(Debug)]
pub(super) struct CircuitBreaker<E> {
    sources: Sources,
    failures: u32,
    open: Option<Open<E>>,
}

#[derive(Debug)]
struct Open<E> {
    error: E,
    since: Instant,
    /// Probes of proven sources.
    proven: Probes,
    /// Probes of all other sources.
    unproven: Probes,
    /// How many probes of a source have failed.
    failed_probes: HashMap<SourceId, u32>,
}

/// The probes of one kind of sources.
#[derive(Debug)]
struct Probes {
    /// When the last one was sent.
    last_at: Instant,
    /// Sources whose probe is in flight.
    in_flight: Vec<SourceId>,
}

impl Probes {
    const fn none(now: Instant) -> Self {
        Self {
            last_at: now,
            in_flight: Vec::new(),
        }
    }
}

impl<E> Open<E> {
    fn end_probe(&mut self, source: SourceId) {
        for probes in [&mut self.proven, &mut self.unproven] {
            probes.in_flight.retain(|probing| *probing != source);
        }
    }
}

impl<E> Default for CircuitBreaker<E> {
    fn default() -> Self {
        Self {
            sources: Sources::default(),
            failures: 0,
            open: None,
        }
    }
}

impl<E: Clone> CircuitBreaker<E> {
    /// Whether the next request of a source may be sent, of `max_in_flight` to this upstream. Proven
    /// sources have half of them for their probes, other sources a quarter, and half of that those
    /// which never succeeded.
    pub(super) fn check(
        &mut self,
        source: SourceId,
        is_interactive: bool,
        max_in_flight: usize,
        now: Instant,
    ) -> Circuit<E> {
        let Some(open) = &mut self.open else {
            return Circuit::Closed;
        };
        let known = self.sources.get(source);
        let is_proven = known.is_some_and(Source::is_proven);
        let (probes, max) = if is_proven {
            (&mut open.proven, max_in_flight / 2)
        } else if known.is_some_and(Source::has_succeeded) {
            (&mut open.unproven, max_in_flight / 4)
        } else {
            (&mut open.unproven, max_in_flight / 8)
        };
        let mut until = probes.last_at + MIN_WAIT;
        if let Some(failed_at) = known
            .and_then(|known| known.failed_at)
            .filter(|_| !is_proven)
        {
            let failed = open.failed_probes.get(&source).copied().unwrap_or(0);
            let mut wait = PROBES.delay(failed.saturating_add(1));
            if is_interactive {
                wait = wait.min(MAX_INTERACTIVE_WAIT);
            }
            until = until.max(failed_at.max(open.since) + wait);
        }
        let in_flight = &mut probes.in_flight;
        let is_busy = in_flight.len() >= max.max(1) || in_flight.contains(&source);
        if is_busy || until > now {
            let wait = until.saturating_duration_since(now).max(MIN_WAIT);
            return Circuit::Open(open.error.clone(), wait);
        }
        in_flight.push(source);
        probes.last_at = now;
        Circuit::HalfOpen
    }

    /// The lane of a source's next request.
    pub(super) fn lane(&self, source: SourceId) -> Lane {
        self.sources.lane(source)
    }

    /// How many requests of the lane may be in flight, of `max_in_flight` of all lanes.
    pub(super) fn max_in_flight(&self, lane: Lane, max_in_flight: usize, now: Instant) -> usize {
        self.sources.max_in_flight(lane, max_in_flight, now)
    }

    /// Records an answer of the host; `is_success` is whether it is what the source requested. True
    /// if it closes an open circuit.
    pub(super) fn record_answer(
        &mut self,
        source: SourceId,
        is_success: bool,
        now: Instant,
    ) -> bool {
        if is_success {
            self.sources.record_success(source, now);
        } else {
            self.sources.record_answer(source, now);
        }
        self.failures = 0;
        self.open.take().is_some()
    }

    /// Records that the host did not answer. True if this opens the circuit.
    pub(super) fn record_failure(
        &mut self,
        source: SourceId,
        error: E,
        is_probe: bool,
        now: Instant,
    ) -> bool {
        let counts = self.sources.is_proven(source) || !self.sources.any_proven(now);
        self.sources.record_failure(source, now);
        if let Some(open) = &mut self.open {
            // Any other request was in flight when the circuit opened.
            if is_probe {
                open.error = error;
                open.end_probe(source);
                if open.failed_probes.len() >= MAX_PROBED {
                    open.failed_probes.clear();
                }
                let failed = open.failed_probes.entry(source).or_default();
                *failed = failed.saturating_add(1);
            }
            return false;
        }
        if counts {
            self.failures = self.failures.saturating_add(1);
        }
        if self.failures < FAILURE_THRESHOLD {
            return false;
        }
        self.open = Some(Open {
            error,
            since: now,
            proven: Probes::none(now),
            unproven: Probes::none(now),
            failed_probes: HashMap::new(),
        });
        true
    }

    /// Records how long an exchange of a source took.
    pub(super) fn record_duration(&mut self, source: SourceId, elapsed: Duration, now: Instant) {
        self.sources.record_duration(source, elapsed, now);
    }

    /// The probe of a source was dropped without an outcome: it may send another.
    pub(super) fn abandon_probe(&mut self, source: SourceId) {
        if let Some(open) = &mut self.open {
            open.end_probe(source);
        }
    }

    /// Whether no failure is recorded.
    pub(super) fn is_healthy(&self) -> bool {
        self.failures == 0 && self.open.is_none()
    }
}

#[cfg(test)]
mod tests;
