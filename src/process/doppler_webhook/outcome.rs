//! What became of a request: the label of the metric and the HTTP status of the answer.
//!
//! Input: how a request was handled.
//! Output: [`WebhookOutcome`].
//! Invariants: the labels are a closed list.

use axum::http::StatusCode;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The handler was called.
    Accepted,
    /// The handler is called later, for several webhooks at once.
    RateLimited,
    /// The leader accepted it.
    Forwarded,
    /// This replica is not the leader, and no leader accepted it. Doppler sends it again.
    NotForwarded,
    /// No valid secret signed it, or it was signed for something else.
    Rejected,
    /// The operator reads no config for this binding, or the secret does not cover its project.
    NotServed,
    /// The body is too large.
    TooLarge,
    /// The body did not arrive completely or in time.
    Incomplete,
}

impl WebhookOutcome {
    /// The label of the metric.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::RateLimited => "rate-limited",
            Self::Forwarded => "forwarded",
            Self::NotForwarded => "not-forwarded",
            Self::Rejected => "rejected",
            Self::NotServed => "not-served",
            Self::TooLarge => "too-large",
            Self::Incomplete => "incomplete",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Accepted | Self::RateLimited | Self::Forwarded => StatusCode::ACCEPTED,
            Self::NotForwarded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Rejected => StatusCode::UNAUTHORIZED,
            Self::NotServed => StatusCode::NOT_FOUND,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Incomplete => StatusCode::REQUEST_TIMEOUT,
        }
    }
}
