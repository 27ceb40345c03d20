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
        Want::Absent => Phase::Underway,
        Want::Look | Want::Present if stays => return last.clone(),
        Want::Look => Phase::Unknown,
        Want::Present => Phase::Underway,
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
    match error.reason().class() {
        Class::WaitForChange | Class::Settled => (interval, false),
        Class::Retry => (growing, true),
        Class::WaitUntil => {
            let asked = error.retry_after().unwrap_or(growing);
            (asked.clamp(FIRST_RETRY, LONGEST_WAIT), true)
        }
    }
}
