//! The token that a Prefect server with CSRF protection wants beside each request that is not a GET.
//!
//! In: answers of `/csrf-token`. Out: what to send along, as long as it is good. It knows time and tokens, and never sends anything itself.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;

/// For how long a server that has no CSRF protection is taken to have none: someone may turn it on.
const OFF_FOR: Duration = Duration::from_mins(10);
/// How long before its end a token is no longer used.
const MARGIN: Duration = Duration::from_mins(1);
/// A token is used for at least so long, if clocks differ, and at most for so long, whatever the server says.
const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_hours(1);

/// A server's answer to the question for a token.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: SecretString,
    #[serde(default)]
    expiration: Option<Timestamp>,
}

/// What is known of a server's CSRF protection.
#[derive(Default)]
pub(super) enum Csrf {
    /// Nothing, or nothing any more.
    #[default]
    Unknown,
    /// It has none.
    Off { until: Instant },
    /// It gave this token.
    Token { token: SecretString, until: Instant },
}

/// What to do before a request.
pub(super) enum Step {
    /// Ask the server for a token.
    Ask,
    /// Send no token.
    Without,
    /// Send this one.
    With(SecretString),
}

impl Csrf {
    /// What to do before a request that is sent at `now`.
    pub(super) fn step(&self, now: Instant) -> Step {
        match self {
            Self::Off { until } if now < *until => Step::Without,
            Self::Token { token, until } if now < *until => Step::With(token.clone()),
            _ => Step::Ask,
        }
    }

    /// The server has no CSRF protection.
    pub(super) fn off(now: Instant) -> Self {
        Self::Off {
            until: now + OFF_FOR,
        }
    }

    /// The server gave a token. `now` and `clock` are the same moment.
    pub(super) fn given(answer: TokenAnswer, now: Instant, clock: Timestamp) -> Self {
        let lasts = answer
            .expiration
            .and_then(|end| Duration::try_from(end.duration_since(clock)).ok())
            .unwrap_or_default();
        let lasts = lasts.saturating_sub(MARGIN).clamp(SHORTEST, LONGEST);
        Self::Token {
            token: answer.token,
            until: now + lasts,
        }
    }
}

/// Whether a 403 speaks of CSRF rather than of permission.
pub(super) fn is_csrf_refusal(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    detail.contains("csrf") || detail.contains("client identifier")
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn answer(expiration: &str) -> TokenAnswer {
        serde_json::from_str(&format!(
            r#"{{"id": "x", "token": "t", "client": "c", "expiration": "{expiration}"}}"#
        ))
        .unwrap()
    }

    fn clock() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn is_with(step: &Step) -> bool {
        matches!(step, Step::With(token) if token.expose_secret() == "t")
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let now = Instant::now();
        let csrf = Csrf::given(answer("2026-01-01T00:30:00.123456Z"), now, clock());
        assert!(is_with(&csrf.step(now + Duration::from_mins(28))));
        assert!(matches!(
            csrf.step(now + Duration::from_mins(30)),
            Step::Ask
        ));
    }

    #[test]
    fn a_clock_that_differs_does_not_ask_before_each_request_or_keep_a_token_for_ever() {
        let now = Instant::now();
        for end in ["2025-12-31T00:00:00Z", "2026-01-01T00:00:10+00:00"] {
            let csrf = Csrf::given(answer(end), now, clock());
            assert!(is_with(&csrf.step(now + Duration::from_secs(29))), "{end}");
            assert!(matches!(
                csrf.step(now + Duration::from_secs(31)),
                Step::Ask
            ));
        }
        let csrf = Csrf::given(answer("2030-01-01T00:00:00Z"), now, clock());
        assert!(matches!(csrf.step(now + LONGEST), Step::Ask));
    }

    #[test]
    fn a_server_without_protection_is_asked_again_after_a_while() {
        let now = Instant::now();
        let csrf = Csrf::off(now);
        assert!(matches!(csrf.step(now), Step::Without));
        assert!(matches!(csrf.step(now + OFF_FOR), Step::Ask));
        assert!(matches!(Csrf::default().step(now), Step::Ask));
    }

    #[test]
    fn the_refusals_of_a_real_server_are_told_from_those_of_permission() {
        for detail in [
            "Missing CSRF token.",
            "Missing client identifier.",
            "Invalid CSRF token or client identifier.",
        ] {
            assert!(is_csrf_refusal(detail), "{detail}");
        }
        assert!(!is_csrf_refusal("Forbidden"));
    }
}
