//! Pure: what a failed look means for a claim and for the next look, and which differences a binding would see.
//!
//! In: the error, the claim, what was known of it. Out: a finding, a wait. It reads no clock.

use std::time::{Duration, Instant};

use crate::crd::WorkPoolState as State;
use crate::inject::claim::{Claim, Finding, Phase, Want};
use crate::prefect::PrefectError;
use crate::reason::{Class, Reason};

/// First wait after a failed look.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Waits after failures grow to the interval, or to this if it is longer.
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// No server can make us wait longer than this.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// What a failed look means for a claim. `planned` is what the template meant for it, if the template could be read and not be written.
pub(super) fn failed(
    error: &PrefectError,
    claim: &Claim,
    last: Option<&Finding>,
    planned: Option<&Finding>,
    now: Instant,
) -> Finding {
    let (reason, message) = (error.reason(), error.to_string());
    match error {
        PrefectError::PoolMissing { .. } => {
            let phase = match claim.want {
                Want::Absent => Phase::Out,
                Want::Look | Want::Present => Phase::LeftAlone,
            };
            Finding::new(phase, Some(State::Missing), reason, message)
        }
        PrefectError::PoolForbidden { .. } => {
            // Who may read and not write learns from the template whose entry is in already.
            if let Some(planned) = planned.filter(|planned| planned.phase != Phase::Underway) {
                return planned.clone();
            }
            let phase = match claim.want {
                Want::Absent if last.is_some_and(|last| last.phase == Phase::Out) => Phase::Out,
                Want::Absent => Phase::Underway,
                Want::Look | Want::Present => Phase::LeftAlone,
            };
            Finding::new(phase, Some(State::Forbidden), reason, message)
        }
        _ => {
            let unknown = || Finding::new(Phase::Unknown, None, reason, String::new());
            let mut finding = last.cloned().unwrap_or_else(unknown);
            finding.failing_since.get_or_insert(now);
            finding.reason = reason;
            finding.message = message;
            finding
        }
    }
}

/// What is known of a claim that has changed, until the pool is looked at again. An entry may be in, out, or on its way: only what cannot mislead
/// stays.
pub(super) fn restated(claim: &Claim, last: &Finding) -> Finding {
    let stays = matches!(last.phase, Phase::Held | Phase::LeftAlone);
    let phase = match claim.want {
        Want::Look | Want::Present if stays => return last.clone(),
        Want::Look => Phase::Unknown,
        Want::Present | Want::Absent => Phase::Underway,
    };
    let message =
        "what the binding asks of the work pool has changed: it is looked at again".to_owned();
    Finding {
        failing_since: last.failing_since,
        event: last.event,
        ..Finding::new(phase, last.state, Reason::Pending, message)
    }
}

/// Whether a binding would see a difference.
pub(super) fn differs(one: &Finding, other: &Finding) -> bool {
    let visible = |finding: &Finding| Finding {
        failing_since: None,
        ..finding.clone()
    };
    one.failing_since.is_some() != other.failing_since.is_some() || visible(one) != visible(other)
}

/// The wait after a failed look, and whether pokes wait too.
pub(super) fn wait_after(
    error: &PrefectError,
    failures: u32,
    interval: Duration,
) -> (Duration, bool) {
    let growing = FIRST_RETRY
        .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16)))
        .min(interval.max(LONGEST_RETRY));
    if let PrefectError::Shut(shut) = error {
        // Asking costs nothing as long as the server is dead.
        return (shut.retry_after, false);
    }
    match error.reason().class() {
        Class::WaitForChange | Class::Settled => (interval, false),
        Class::Retry => (growing, true),
        Class::WaitUntil => {
            let asked = error.retry_after().unwrap_or(growing);
            (asked.clamp(FIRST_RETRY, LONGEST_WAIT), true)
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
            noted: true,
            known: None,
            interval: Duration::from_mins(1),
        }
    }

    fn finding(phase: Phase) -> Finding {
        Finding::new(
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
            what: "edit the template",
            permission: "Edit work pools",
        }
    }

    fn fault() -> PrefectError {
        PrefectError::Fault {
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
    fn each_error_means_for_each_claim_what_the_table_says() {
        let (missing, forbidden, fault) = (missing(), forbidden(), fault());
        let table = [
            (&missing, Want::Present, Phase::Held, Phase::LeftAlone),
            (&missing, Want::Absent, Phase::Underway, Phase::Out),
            (&forbidden, Want::Present, Phase::Held, Phase::LeftAlone),
            (&forbidden, Want::Absent, Phase::Underway, Phase::Underway),
            (&forbidden, Want::Absent, Phase::Held, Phase::Underway),
            (&forbidden, Want::Absent, Phase::Out, Phase::Out),
            (&fault, Want::Present, Phase::Held, Phase::Held),
            (&fault, Want::Absent, Phase::Underway, Phase::Underway),
            (&fault, Want::Absent, Phase::Out, Phase::Out),
        ];
        for (error, want, before, after) in table {
            let found = failed(
                error,
                &claim(want),
                Some(&finding(before)),
                None,
                Instant::now(),
            );
            assert_eq!(found.phase, after, "{error}, {want:?}");
            assert_eq!(found.reason, error.reason());
            let state = match error {
                PrefectError::PoolMissing { .. } => State::Missing,
                PrefectError::PoolForbidden { .. } => State::Forbidden,
                _ => State::Patched,
            };
            assert_eq!(found.state, Some(state), "{error}, {want:?}");
            assert_eq!(found.failing_since.is_some(), *error == fault);
        }
    }

    #[test]
    fn who_may_not_write_is_told_where_the_entry_is_in_already() {
        let planned = finding(Phase::Held);
        let found = failed(
            &forbidden(),
            &claim(Want::Present),
            None,
            Some(&planned),
            Instant::now(),
        );
        assert_eq!(found, planned);
    }

    #[test]
    fn failing_since_is_the_first_failure() {
        let first = Instant::now();
        let claim = claim(Want::Present);
        let once = failed(&fault(), &claim, None, None, first);
        let later = first + Duration::from_secs(9);
        let twice = failed(&fault(), &claim, Some(&once), None, later);
        assert_eq!(twice.failing_since, Some(first));
        assert!(!differs(&once, &twice));
        assert!(differs(&finding(Phase::Held), &once));
    }

    #[test]
    fn a_claim_to_take_out_is_never_answered_with_what_was_before() {
        for phase in [
            Phase::Unknown,
            Phase::Wanted,
            Phase::Held,
            Phase::Out,
            Phase::LeftAlone,
            Phase::Underway,
        ] {
            let answer = restated(&claim(Want::Absent), &finding(phase));
            assert_eq!(answer.phase, Phase::Underway);
            let answer = restated(&claim(Want::Present), &finding(phase));
            assert!(!matches!(answer.phase, Phase::Out | Phase::Wanted));
        }
    }

    #[test]
    fn waits_double_up_to_a_minute_or_the_interval_and_keep_to_what_the_server_asks() {
        let (short, long) = (Duration::from_secs(5), Duration::from_mins(5));
        let seconds = Duration::from_secs;
        let table = [
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
        for (error, failures, interval, wait, pokes_wait) in table {
            let told = wait_after(&error, failures, interval);
            assert_eq!(told, (wait, pokes_wait), "{error}, {failures}");
        }
    }
}
