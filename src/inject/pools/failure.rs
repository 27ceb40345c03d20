//! Pure: what a failed look means for a claim and for the next look, and which differences a binding would see.
//!
//! In: the error, the claim, what was known of it. Out: a finding, a wait. It reads no clock.

use std::time::{Duration, Instant};

use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Claim, Observation, Phase, Want};
use crate::prefect::PrefectError;
use crate::reason::{Class, Reason};

/// First wait after a failed look.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Waits after failures grow to the interval, or to this if it is longer.
const MAX_RETRY: Duration = Duration::from_mins(1);
/// No server can make us wait longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// What a failed look means for a claim. `planned` is what the template meant for it, if the template could be read and not be written.
pub(super) fn failed_observation(
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
        PrefectError::PoolForbidden { .. } => {
            // Who may read and not write learns from the template whose entry is in already.
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
            Observation::new(phase, Some(State::Forbidden), reason, message)
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

/// What is known of a claim that has changed, until the pool is looked at again. An entry may be in, out, or on its way: only what cannot mislead
/// stays.
pub(super) fn changed_claim_observation(claim: &Claim, last: &Observation) -> Observation {
    let keeps_phase = matches!(last.phase, Phase::Injected | Phase::Skipped);
    let phase = match claim.want {
        Want::Observe | Want::Present if keeps_phase => return last.clone(),
        Want::Observe => Phase::Unknown,
        Want::Present | Want::Absent => Phase::InProgress,
    };
    let message =
        "what the binding asks of the work pool has changed: it is looked at again".to_owned();
    Observation {
        failing_since: last.failing_since,
        event: last.event,
        ..Observation::new(phase, last.state, Reason::Pending, message)
    }
}

/// Whether a binding would see a difference.
pub(super) fn visibly_differs(one: &Observation, other: &Observation) -> bool {
    let visible = |observation: &Observation| Observation {
        failing_since: None,
        ..observation.clone()
    };
    one.failing_since.is_some() != other.failing_since.is_some() || visible(one) != visible(other)
}

/// The wait after a failed look, and whether pokes wait too.
pub(super) fn retry_delay(
    error: &PrefectError,
    failures: u32,
    interval: Duration,
) -> (Duration, bool) {
    let backoff = FIRST_RETRY
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)))
        .min(interval.max(MAX_RETRY));
    if let PrefectError::CircuitOpen(shut) = error {
        // Asking costs nothing as long as the server is dead.
        return (shut.retry_after, false);
    }
    match error.reason().class() {
        Class::WaitForChange | Class::Settled => (interval, false),
        Class::Retry => (backoff, true),
        Class::WaitUntil => {
            let requested = error.retry_after().unwrap_or(backoff);
            (requested.clamp(FIRST_RETRY, MAX_RETRY_AFTER), true)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crd::InjectMode;

    fn claim(want: Want) -> Claim {
        Claim {
            namespace: "flows".to_owned(),
            secret: "s".to_owned(),
            optional: true,
            mode: InjectMode::Patch,
            keys: Arc::default(),
            want,
            recorded: true,
            reported_state: None,
            interval: Duration::from_mins(1),
        }
    }

    fn observation(phase: Phase) -> Observation {
        Observation::new(
            phase,
            Some(State::Patched),
            Reason::Injected,
            "it is in".to_owned(),
        )
    }

    fn missing() -> PrefectError {
        PrefectError::PoolMissing {
            host: "h".to_owned(),
            pool: "k8s".to_owned(),
        }
    }

    fn forbidden() -> PrefectError {
        PrefectError::PoolForbidden {
            pool: "k8s".to_owned(),
            action: "edit the template",
            permission: "Edit work pools",
        }
    }

    fn fault() -> PrefectError {
        PrefectError::ServerFault {
            host: "h".to_owned(),
            status: 500,
        }
    }

    fn limited(seconds: Option<u64>) -> PrefectError {
        PrefectError::RateLimited {
            host: "h".to_owned(),
            retry_after: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn maps_each_error_and_claim_to_a_phase() {
        let (missing, forbidden, fault) = (missing(), forbidden(), fault());
        let cases = [
            (&missing, Want::Present, Phase::Injected, Phase::Skipped),
            (&missing, Want::Absent, Phase::InProgress, Phase::Removed),
            (&forbidden, Want::Present, Phase::Injected, Phase::Skipped),
            (
                &forbidden,
                Want::Absent,
                Phase::InProgress,
                Phase::InProgress,
            ),
            (&forbidden, Want::Absent, Phase::Injected, Phase::InProgress),
            (&forbidden, Want::Absent, Phase::Removed, Phase::Removed),
            (&fault, Want::Present, Phase::Injected, Phase::Injected),
            (&fault, Want::Absent, Phase::InProgress, Phase::InProgress),
            (&fault, Want::Absent, Phase::Removed, Phase::Removed),
        ];
        for (error, want, before, after) in cases {
            let result = failed_observation(
                error,
                &claim(want),
                Some(&observation(before)),
                None,
                Instant::now(),
            );
            assert_eq!(result.phase, after, "{error}, {want:?}");
            assert_eq!(result.reason, error.reason());
            let state = match error {
                PrefectError::PoolMissing { .. } => State::Missing,
                PrefectError::PoolForbidden { .. } => State::Forbidden,
                _ => State::Patched,
            };
            assert_eq!(result.state, Some(state), "{error}, {want:?}");
            assert_eq!(result.failing_since.is_some(), *error == fault);
        }
    }

    #[test]
    fn read_only_credentials_still_observe_an_existing_entry() {
        let planned = observation(Phase::Injected);
        let result = failed_observation(
            &forbidden(),
            &claim(Want::Present),
            None,
            Some(&planned),
            Instant::now(),
        );
        assert_eq!(result, planned);
    }

    #[test]
    fn failing_since_is_the_first_failure() {
        let first = Instant::now();
        let claim = claim(Want::Present);
        let once = failed_observation(&fault(), &claim, None, None, first);
        let later = first + Duration::from_secs(9);
        let twice = failed_observation(&fault(), &claim, Some(&once), None, later);
        assert_eq!(twice.failing_since, Some(first));
        assert!(!visibly_differs(&once, &twice));
        assert!(visibly_differs(&observation(Phase::Injected), &once));
    }

    #[test]
    fn a_removal_claim_never_gets_the_previous_phase() {
        for phase in [
            Phase::Unknown,
            Phase::Injectable,
            Phase::Injected,
            Phase::Removed,
            Phase::Skipped,
            Phase::InProgress,
        ] {
            let answer = changed_claim_observation(&claim(Want::Absent), &observation(phase));
            assert_eq!(answer.phase, Phase::InProgress);
            let answer = changed_claim_observation(&claim(Want::Present), &observation(phase));
            assert!(!matches!(answer.phase, Phase::Removed | Phase::Injectable));
        }
    }

    #[test]
    fn retry_delay_doubles_and_respects_retry_after() {
        let (short, long) = (Duration::from_secs(5), Duration::from_mins(5));
        let seconds = Duration::from_secs;
        let cases = [
            (fault(), 1, short, seconds(1), true),
            (fault(), 3, short, seconds(4), true),
            (fault(), 30, short, seconds(60), true),
            (fault(), 30, long, long, true),
            (limited(None), 2, short, seconds(2), true),
            (limited(Some(90)), 1, short, seconds(90), true),
            (limited(Some(90_000)), 1, short, seconds(3600), true),
            (missing(), 9, short, short, false),
            (forbidden(), 9, long, long, false),
        ];
        for (error, failures, interval, wait, delay_triggers) in cases {
            let delay = retry_delay(&error, failures, interval);
            assert_eq!(delay, (wait, delay_triggers), "{error}, {failures}");
        }
    }
}
