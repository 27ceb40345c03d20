//! Pure: what a failed reconcile means for a claim and for the next reconcile.
//!
//! Input: the error, the claim, and its last observation.
//! Output: an observation, a delay, and whether two observations visibly differ.
//! Invariants: reads no clock.

use std::time::{Duration, Instant};

use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Claim, Observation, Phase, Want};
use crate::prefect::PrefectError;
use crate::reason::{Class, Reason};
use crate::upstream::backoff::Backoff;

/// First delay after a failed reconcile.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest delay that a server's Retry-After can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What a failed reconcile means for a claim.
///
/// `planned` is the claim's observation if the operator could read the template and not write it.
pub(super) fn observe_failure(
    error: &PrefectError,
    claim: &Claim,
    last: Option<&Observation>,
    planned: Option<&Observation>,
    now: Instant,
) -> Observation {
    let (reason, message) = (error.reason(), error.to_string());
    match error {
        PrefectError::PoolMissing { .. } => {
            let phase = match claim.want {
                Want::Absent => Phase::Removed,
                Want::Observe | Want::Present => Phase::Skipped,
            };
            Observation::new(phase, Some(State::Missing), reason, message)
        }
        PrefectError::PoolForbidden { .. } | PrefectError::TemplateRefused { .. } => {
            // Without a write the template still shows which entries are there.
            if let Some(planned) = planned.filter(|planned| planned.phase != Phase::InProgress) {
                return planned.clone();
            }
            let phase = match claim.want {
                Want::Absent if last.is_some_and(|last| last.phase == Phase::Removed) => {
                    Phase::Removed
                }
                Want::Absent => Phase::InProgress,
                Want::Observe | Want::Present => Phase::Skipped,
            };
            let state = match error {
                PrefectError::TemplateRefused { .. } => State::NotEditable,
                _ => State::Forbidden,
            };
            Observation::new(phase, Some(state), reason, message)
        }
        _ => {
            let unknown = || Observation::new(Phase::Unknown, None, reason, String::new());
            let mut observation = last.cloned().unwrap_or_else(unknown);
            observation.failing_since.get_or_insert(now);
            observation.reason = reason;
            observation.message = message;
            observation
        }
    }
}

/// What is known of a changed claim until the next reconcile.
///
/// The entry may be present, absent, or about to change, so only what cannot mislead is kept.
pub(super) fn observe_changed_claim(claim: &Claim, last: &Observation) -> Observation {
    let keeps_phase = matches!(last.phase, Phase::Injected | Phase::Skipped);
    let phase = match claim.want {
        Want::Observe | Want::Present if keeps_phase => return last.clone(),
        Want::Observe => Phase::Unknown,
        Want::Present | Want::Absent => Phase::InProgress,
    };
    let message = "the binding's claim on the work pool changed: the operator reads the pool again"
        .to_owned();
    Observation {
        failing_since: last.failing_since,
        event: last.event,
        ..Observation::new(phase, last.state, Reason::Pending, message)
    }
}

/// Whether a binding sees a difference.
pub(super) fn visibly_differs(one: &Observation, other: &Observation) -> bool {
    let visible = |observation: &Observation| Observation {
        failing_since: None,
        ..observation.clone()
    };
    one.failing_since.is_some() != other.failing_since.is_some() || visible(one) != visible(other)
}

/// The delay after a failed reconcile, and whether triggers wait too. Delays grow to the interval
/// and no further, because a poll costs no less.
pub(super) fn retry_delay(
    error: &PrefectError,
    failures: u32,
    interval: Duration,
) -> (Duration, bool) {
    let backoff = Backoff::new(FIRST_RETRY, interval.max(FIRST_RETRY)).delay(failures);
    if let PrefectError::CircuitOpen(shut) = error {
        // While the circuit is open, no request is sent.
        return (shut.retry_after, false);
    }
    match error.reason().class() {
        Class::WaitForChange | Class::Settled | Class::GivenUp => (interval, false),
        Class::Retry => (backoff, true),
        Class::WaitUntil => {
            let requested = error.retry_after().unwrap_or(backoff);
            (requested.clamp(FIRST_RETRY, MAX_RETRY_AFTER), true)
        }
    }
}

#[cfg(test)]
mod tests;
