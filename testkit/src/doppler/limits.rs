//! Doppler's rate limits.
//!
//! Input: a token's fingerprint, the kind of request, and the time. Output: the remaining requests,
//! or the time to wait.
//! Invariants: windows have a fixed length, and start with their first request. The module reads no
//! clock.

use std::collections::HashMap;
use std::time::Duration;

/// The kinds of requests, which have separate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RequestKind {
    Read,
    SecretRead,
}

/// The number of requests of a token in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Downloads in a window.
    pub secret_reads: u32,
    /// Other reads in a window.
    pub reads: u32,
    /// The length of a window; Doppler's is a minute.
    pub window: Duration,
}

impl RateLimit {
    /// The Developer plan.
    pub const DEVELOPER: Self = Self {
        secret_reads: 120,
        reads: 240,
        window: Duration::from_mins(1),
    };
    /// The Team plan.
    pub const TEAM: Self = Self {
        secret_reads: 240,
        reads: 480,
        window: Duration::from_mins(1),
    };
}

/// The rate-limit headers of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) limit: u32,
    pub(super) remaining: u32,
    /// The end of the window, in seconds since 1970.
    pub(super) reset: u64,
    /// The seconds to wait, if the request exceeds the limit.
    pub(super) retry_after: Option<u64>,
}

/// The windows of all tokens.
pub(super) struct RateLimiter {
    pub(super) rate: RateLimit,
    windows: HashMap<(String, RequestKind), (Duration, u32)>,
}

impl RateLimiter {
    pub(super) fn new(rate: RateLimit) -> Self {
        Self {
            rate,
            windows: HashMap::new(),
        }
    }

    /// Counts a request at `now`, the time since 1970.
    pub(super) fn acquire(&mut self, token: &str, kind: RequestKind, now: Duration) -> Quota {
        let limit = match kind {
            RequestKind::Read => self.rate.reads,
            RequestKind::SecretRead => self.rate.secret_reads,
        };
        let fresh = (now + self.rate.window, 0);
        let (ends, used) = self
            .windows
            .entry((token.to_owned(), kind))
            .or_insert(fresh);
        if *ends <= now {
            (*ends, *used) = fresh;
        }
        let refused = *used >= limit;
        if !refused {
            *used += 1;
        }
        Quota {
            limit,
            remaining: limit - (*used).min(limit),
            reset: ends.as_secs(),
            retry_after: refused.then(|| ends.saturating_sub(now).as_secs().max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_in_ten_seconds() -> RateLimiter {
        RateLimiter::new(RateLimit {
            secret_reads: 2,
            reads: 1,
            window: Duration::from_secs(10),
        })
    }

    #[test]
    fn rejects_requests_over_the_limit_with_retry_after() {
        let mut limits = two_in_ten_seconds();
        let at = |s: u64| Duration::from_secs(1000 + s);
        assert_eq!(
            limits
                .acquire("a", RequestKind::SecretRead, at(0))
                .remaining,
            1
        );
        assert_eq!(
            limits
                .acquire("a", RequestKind::SecretRead, at(1))
                .retry_after,
            None
        );
        let refused = limits.acquire("a", RequestKind::SecretRead, at(4));
        assert_eq!(
            refused,
            Quota {
                limit: 2,
                remaining: 0,
                reset: 1010,
                retry_after: Some(6)
            }
        );
        assert_eq!(
            limits
                .acquire("a", RequestKind::SecretRead, at(10))
                .retry_after,
            None
        );
    }

    #[test]
    fn limits_each_token_and_kind_separately() {
        let mut limits = two_in_ten_seconds();
        let now = Duration::from_secs(1);
        assert_eq!(
            limits.acquire("a", RequestKind::Read, now).retry_after,
            None
        );
        assert_eq!(
            limits
                .acquire("a", RequestKind::SecretRead, now)
                .retry_after,
            None
        );
        assert_eq!(
            limits.acquire("b", RequestKind::Read, now).retry_after,
            None
        );
        assert_eq!(
            limits.acquire("a", RequestKind::Read, now).retry_after,
            Some(10)
        );
    }
}
