//! The current token of an identity, and when it is renewed. Pure.
//!
//! Input: the results of token requests, and the time.
//! Output: what a caller does next: [`Next`].
//! Invariants: it reads no clock. A token is used until it expires, also if its renewal fails. After
//! a refusal no request is due before a growing delay is over; other failures leave the delay to the
//! caller, who has no token to go on with. `Debug` prints no token.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::{doppler::error::DopplerError, reason::Class, upstream::backoff::Backoff};

/// The part of its life after which a token is renewed.
const RENEW_AFTER: f64 = 0.8;
/// The wait after failed requests. The longest one is the default poll interval.
const RETRIES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// A token of Doppler, and how long it lives.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) token: SecretString,
    /// When it was requested.
    pub(super) sent_at: Instant,
    pub(super) life: Duration,
}

/// What a caller does next.
#[derive(Debug)]
pub(super) enum Next {
    /// Use this token.
    Use(SecretString),
    /// Renew this token, which is still valid.
    Renew(SecretString),
    /// Request a token.
    Request,
    /// Do not try again yet: this is what the last request came to.
    Wait(DopplerError),
}

struct Current {
    token: SecretString,
    renewal: Instant,
    expiry: Instant,
}

struct Failed {
    error: DopplerError,
    times: u32,
    until: Instant,
}

impl Failed {
    /// Whether only a change by a user can help.
    fn is_refusal(&self) -> bool {
        self.error.reason().class() == Class::WaitForChange
    }
}

/// The token of one identity.
#[derive(Default)]
pub(super) struct TokenState {
    current: Option<Current>,
    failed: Option<Failed>,
}

impl TokenState {
    /// What to do at `now`.
    pub(super) fn next(&self, now: Instant) -> Next {
        let failed = self.failed.as_ref().filter(|failed| now < failed.until);
        match &self.current {
            Some(current) if now < current.renewal => Next::Use(current.token.clone()),
            Some(current) if now < current.expiry => match failed {
                Some(_) => Next::Use(current.token.clone()),
                None => Next::Renew(current.token.clone()),
            },
            _ => match failed {
                Some(failed) if failed.is_refusal() => Next::Wait(failed.error.clone()),
                _ => Next::Request,
            },
        }
    }

    /// Records the result of a request.
    pub(super) fn record(&mut self, result: Result<Issued, DopplerError>, now: Instant) {
        match result {
            Ok(Issued {
                token,
                sent_at,
                life,
            }) => {
                self.failed = None;
                self.current = Some(Current {
                    token,
                    renewal: sent_at + life.mul_f64(RENEW_AFTER),
                    expiry: sent_at + life,
                });
            }
            Err(error) => {
                let times = self.failed.as_ref().map_or(0, |failed| failed.times) + 1;
                let wait = RETRIES.delay(times);
                let wait = error.retry_after().map_or(wait, |asked| asked.max(wait));
                self.failed = Some(Failed {
                    error,
                    times,
                    until: now + wait,
                });
            }
        }
    }

    /// Drops `rejected`, unless it was renewed meanwhile.
    pub(super) fn discard(&mut self, rejected: &SecretString) {
        let is_current =
            |current: &mut Current| current.token.expose_secret() == rejected.expose_secret();
        self.current.take_if(is_current);
    }

    /// Takes the token out, for its revocation. None if it has expired.
    pub(super) fn take(&mut self, now: Instant) -> Option<SecretString> {
        let current = self.current.take()?;
        (now < current.expiry).then_some(current.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(100);

    fn issued(token: &str, sent_at: Instant) -> Issued {
        Issued {
            token: token.into(),
            sent_at,
            life: LIFE,
        }
    }

    fn failure() -> Result<Issued, DopplerError> {
        Err(DopplerError::TokenInvalid)
    }

    fn outage() -> Result<Issued, DopplerError> {
        let host = "h".to_owned();
        Err(DopplerError::ServerError { host, status: 503 })
    }

    fn text(next: &Next) -> String {
        match next {
            Next::Use(token) => format!("use {}", token.expose_secret()),
            Next::Renew(token) => format!("renew {}", token.expose_secret()),
            Next::Request => "request".to_owned(),
            Next::Wait(_) => "wait".to_owned(),
        }
    }

    #[test]
    fn a_token_is_renewed_at_80_percent_of_its_life() {
        let (start, mut state) = (Instant::now(), TokenState::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(text(&state.next(start)), "request");
        state.record(Ok(issued("a", start)), at(3));
        assert_eq!(text(&state.next(at(79))), "use a");
        assert_eq!(text(&state.next(at(80))), "renew a");
        assert_eq!(text(&state.next(at(100))), "request");
        state.record(Ok(issued("b", at(80))), at(81));
        assert_eq!(text(&state.next(at(100))), "use b");
    }

    #[test]
    fn a_failed_renewal_keeps_the_token_until_it_expires() {
        let (start, mut state) = (Instant::now(), TokenState::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        state.record(Ok(issued("a", start)), start);
        state.record(outage(), at(80));
        assert_eq!(text(&state.next(at(80))), "use a");
        assert_eq!(text(&state.next(at(81))), "renew a");
        state.record(failure(), at(99));
        assert_eq!(text(&state.next(at(100))), "wait");
        assert_eq!(text(&state.next(at(101))), "request");
    }

    #[test]
    fn an_outage_does_not_delay_the_next_request_without_a_token() {
        let (now, mut state) = (Instant::now(), TokenState::default());
        for _ in 0..3 {
            state.record(outage(), now);
            assert_eq!(text(&state.next(now)), "request");
        }
    }

    #[test]
    fn refusals_back_off_until_a_request_succeeds() {
        let (mut now, mut state) = (Instant::now(), TokenState::default());
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            state.record(failure(), now);
            let wait = Duration::from_secs(wait);
            let almost = now + wait.saturating_sub(Duration::from_millis(1));
            assert_eq!(text(&state.next(almost)), "wait");
            now += wait;
            assert_eq!(text(&state.next(now)), "request");
        }
        state.record(Ok(issued("a", now)), now);
        state.discard(&"a".into());
        state.record(failure(), now);
        assert_eq!(text(&state.next(now + Duration::from_secs(1))), "request");
    }

    #[test]
    fn a_rejected_token_is_dropped_unless_it_was_renewed() {
        let (now, mut state) = (Instant::now(), TokenState::default());
        state.record(Ok(issued("b", now)), now);
        state.discard(&"a".into());
        assert_eq!(text(&state.next(now)), "use b");
        state.discard(&"b".into());
        assert_eq!(text(&state.next(now)), "request");
    }

    #[test]
    fn only_a_valid_token_is_revoked() {
        let (now, mut state) = (Instant::now(), TokenState::default());
        assert!(state.take(now).is_none());
        state.record(Ok(issued("a", now)), now);
        assert_eq!(state.take(now).unwrap().expose_secret(), "a");
        assert!(state.take(now).is_none());
        state.record(Ok(issued("b", now)), now);
        assert!(state.take(now + LIFE).is_none());
    }
}
