//! When a value is read again, and how stale it may become.
//!
//! Input: the failure of the last read, the failures in a row, the poll interval, how long the read
//! took.
//! Output: waits.
//! Invariants: pure. It reads no clock.

use std::time::Duration;

use crate::{failure::Failure, reason::Class, upstream::backoff::Backoff};

/// First and shortest wait after a failed read.
const MIN_RETRY: Duration = Duration::from_secs(1);
/// Longest wait that an upstream can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// A read that took longer than this, which is longer than a request takes, has waited for a
/// permit.
const QUEUED_AFTER: Duration = Duration::from_secs(30);

/// How stale the value of a read that took `elapsed` may become, if the read has waited for a
/// permit. In whole minutes.
pub(super) fn staleness(elapsed: Duration) -> Option<Duration> {
    (elapsed > QUEUED_AFTER).then(|| Duration::from_mins(elapsed.as_secs().div_ceil(60) + 1))
}

/// How long to wait before the next read, without jitter. Waits after failures grow to the poll
/// interval and no further, because a poll costs no less.
pub(super) fn next_wait(failure: Option<&Failure>, failures: u32, interval: Duration) -> Duration {
    let Some(failure) = failure else {
        return interval;
    };
    let backoff = Backoff::new(MIN_RETRY, interval.max(MIN_RETRY)).delay(failures);
    match failure.reason.class() {
        Class::WaitForChange | Class::Settled | Class::GivenUp => interval,
        Class::Retry => failure
            .retry_after
            .map_or(backoff, |asked| asked.max(backoff))
            .min(MAX_RETRY_AFTER),
        Class::WaitUntil => failure
            .retry_after
            .unwrap_or(backoff)
            .clamp(MIN_RETRY, MAX_RETRY_AFTER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn an_upstream_can_ask_for_a_wait_within_bounds() {
        let limited = |retry_after| Failure {
            retry_after,
            ..Failure::new(Reason::DopplerRateLimited, "it failed")
        };
        let asked = limited(Some(Duration::from_secs(7)));
        assert_eq!(next_wait(Some(&asked), 1, MINUTE), Duration::from_secs(7));
        assert_eq!(
            next_wait(Some(&limited(Some(Duration::MAX))), 1, MINUTE),
            MAX_RETRY_AFTER
        );
        assert_eq!(
            next_wait(Some(&limited(Some(Duration::ZERO))), 1, MINUTE),
            MIN_RETRY
        );
    }

    #[test]
    fn waits_after_failures_grow_to_the_interval() {
        let failure = Failure::new(Reason::DopplerUnreachable, "it failed");
        let interval = Duration::from_secs(10);
        let waits = (1..=6).map(|failures| next_wait(Some(&failure), failures, interval).as_secs());
        assert_eq!(waits.collect::<Vec<_>>(), [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_rejected_token_is_polled_at_the_interval() {
        let failure = Failure::new(Reason::DopplerUnauthorized, "it failed");
        assert_eq!(next_wait(Some(&failure), 9, MINUTE), MINUTE);
    }
}
