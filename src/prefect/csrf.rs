//! The token that a Prefect server with CSRF protection requires with each request except GET.
//!
//! Input: answers of `/csrf-token`, and the time.
//! Output: whether to fetch a token, send it, or send none.
//! Invariants: pure. It sends nothing itself.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::SecretString;
use serde::Deserialize;

/// How long a server without CSRF protection is assumed to have none. An administrator may enable it.
const DISABLED_FOR: Duration = Duration::from_mins(10);
/// A token is not used this shortly before it expires.
const EXPIRY_MARGIN: Duration = Duration::from_mins(1);
/// Bounds on the lifetime of a token, because the clocks of operator and server may differ.
const MIN_LIFETIME: Duration = Duration::from_secs(30);
const MAX_LIFETIME: Duration = Duration::from_hours(1);

/// The answer of `/csrf-token`.
#[derive(Deserialize)]
pub(super) struct TokenResponse {
    token: SecretString,
    #[serde(default)]
    expiration: Option<Timestamp>,
}

/// What is known of a server's CSRF protection.
#[derive(Default)]
pub(super) enum CsrfState {
    /// Nothing, or the last token was refused.
    #[default]
    Unknown,
    /// It is off.
    Disabled { until: Instant },
    /// It is on, and this is the token.
    Token { token: SecretString, until: Instant },
}

/// What to do before a request.
pub(super) enum CsrfAction {
    /// Fetch a token first.
    Fetch,
    /// Send no token.
    Omit,
    /// Send this token.
    Send(SecretString),
}

impl CsrfAction {
    /// The token to send, if there is one.
    pub(super) fn token(self) -> Option<SecretString> {
        match self {
            Self::Send(token) => Some(token),
            Self::Fetch | Self::Omit => None,
        }
    }
}

impl CsrfState {
    /// What to do before a request that is sent at `now`.
    pub(super) fn action(&self, now: Instant) -> CsrfAction {
        match self {
            Self::Disabled { until } if now < *until => CsrfAction::Omit,
            Self::Token { token, until } if now < *until => CsrfAction::Send(token.clone()),
            _ => CsrfAction::Fetch,
        }
    }

    /// The server has no CSRF protection.
    pub(super) fn disabled(now: Instant) -> Self {
        Self::Disabled {
            until: now + DISABLED_FOR,
        }
    }

    /// The server issued a token. `now` and `clock` are the same moment.
    pub(super) fn issued(response: TokenResponse, now: Instant, clock: Timestamp) -> Self {
        let lifetime = response
            .expiration
            .and_then(|end| Duration::try_from(end.duration_since(clock)).ok())
            .unwrap_or_default();
        let lifetime = lifetime
            .saturating_sub(EXPIRY_MARGIN)
            .clamp(MIN_LIFETIME, MAX_LIFETIME);
        Self::Token {
            token: response.token,
            until: now + lifetime,
        }
    }
}

/// Whether a 403 is about CSRF and not about a permission.
pub(super) fn is_csrf_refusal(detail: &str) -> bool {
    let detail = detail.to_ascii_lowercase();
    detail.contains("csrf") || detail.contains("client identifier")
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn response(expiration: &str) -> TokenResponse {
        serde_json::from_str(&format!(
            r#"{{"id": "x", "token": "t", "client": "c", "expiration": "{expiration}"}}"#
        ))
        .unwrap()
    }

    fn clock() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn sends_token(action: &CsrfAction) -> bool {
        matches!(action, CsrfAction::Send(token) if token.expose_secret() == "t")
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let now = Instant::now();
        let csrf = CsrfState::issued(response("2026-01-01T00:30:00.123456Z"), now, clock());
        assert!(sends_token(&csrf.action(now + Duration::from_mins(28))));
        assert!(matches!(
            csrf.action(now + Duration::from_mins(30)),
            CsrfAction::Fetch
        ));
    }

    #[test]
    fn token_lifetime_is_clamped_when_clocks_differ() {
        let now = Instant::now();
        for end in ["2025-12-31T00:00:00Z", "2026-01-01T00:00:10+00:00"] {
            let csrf = CsrfState::issued(response(end), now, clock());
            assert!(
                sends_token(&csrf.action(now + Duration::from_secs(29))),
                "{end}"
            );
            assert!(matches!(
                csrf.action(now + Duration::from_secs(31)),
                CsrfAction::Fetch
            ));
        }
        let csrf = CsrfState::issued(response("2030-01-01T00:00:00Z"), now, clock());
        assert!(matches!(csrf.action(now + MAX_LIFETIME), CsrfAction::Fetch));
    }

    #[test]
    fn asks_a_server_without_csrf_again_after_a_while() {
        let now = Instant::now();
        let csrf = CsrfState::disabled(now);
        assert!(matches!(csrf.action(now), CsrfAction::Omit));
        assert!(matches!(csrf.action(now + DISABLED_FOR), CsrfAction::Fetch));
        assert!(matches!(
            CsrfState::default().action(now),
            CsrfAction::Fetch
        ));
    }

    #[test]
    fn distinguishes_csrf_refusals_from_missing_permissions() {
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
