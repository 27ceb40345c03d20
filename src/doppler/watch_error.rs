//! Why a watch stream did not open or ended, and whether a retry can help.
//!
//! Input: the failures that `watch` finds.
//! Output: [`WatchError`], with its reason, its message and the wait that Doppler asks for.
//! Invariants: the message contains no token, no value and nothing of a body except Doppler's own
//! messages. Each message says that the config is polled instead.

use std::time::Duration;

use super::error::{DopplerError, retry_hint};
use crate::{outbound::TransportError, reason::Reason, upstream::limiter::CircuitOpen};

/// Why there is no stream, or no stream any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The token cannot be sent in a header. No request was sent.
    #[error(
        "the Doppler token is empty or contains a character that no token has, so the operator cannot open a watch stream for this config: store the bare token in the block or the Secret that it comes from"
    )]
    TokenInvalid,
    /// The identity has no valid token. No request was sent for a stream.
    #[error("{0}")]
    NoToken(Box<DopplerError>),
    /// The plan, the token or a proxy does not permit a stream. A retry does not help until
    /// something changes.
    #[error(
        "{host} rejects the watch stream of this config (status {status}{}): the operator polls the config", suffix(.message.as_deref())
    )]
    Rejected {
        /// The host of the request.
        host: String,
        /// The HTTP status.
        status: u16,
        /// Doppler's messages, or what is wrong with the answer.
        message: Option<String>,
        /// Whether the token itself is rejected, and not what it asks for.
        rejects_token: bool,
    },
    /// 429.
    #[error(
        "{host} limits the rate of requests with this token{}: the operator polls the config until the watch stream is open", retry_hint(*.retry_after)
    )]
    RateLimited {
        /// The host of the request.
        host: String,
        /// How long to wait before the next request.
        retry_after: Option<Duration>,
    },
    /// A retry may help. Changes may have been missed.
    #[error("{host} {cause}: the operator polls the config until the watch stream is open again")]
    Disconnected {
        /// The host of the request.
        host: String,
        /// What happened to the stream.
        cause: DisconnectCause,
    },
    /// The request was not sent, because the host just failed to answer other requests.
    #[error("{}", .0.error)]
    CircuitOpen(CircuitOpen<DopplerError>),
}

/// What happened to a stream. The text continues a sentence that begins with the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DisconnectCause {
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// 5xx, or the time limit of a server in between.
    #[error("answered with a server error ({0})")]
    ServerError(u16),
    /// The server ended the stream.
    #[error("ended the watch stream")]
    Ended,
    /// No event arrived for this long, whatever other bytes did.
    #[error("sent no event for {} s", .0.as_secs_f64())]
    IdleTimeout(Duration),
    /// The bytes are not an event stream.
    #[error("sent bytes that are not an event stream")]
    NotEventStream,
    /// An event is larger than the limit.
    #[error("sent an event of more than {limit} bytes, which the operator does not read")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
}

impl WatchError {
    /// Whether a retry cannot help until the user or Doppler changes something.
    #[must_use]
    pub const fn is_rejection(&self) -> bool {
        matches!(self, Self::TokenInvalid | Self::Rejected { .. })
    }

    /// Whether Doppler rejects the token itself.
    #[must_use]
    pub const fn rejects_token(&self) -> bool {
        matches!(
            self,
            Self::Rejected {
                rejects_token: true,
                ..
            }
        )
    }

    /// How long to wait before the next request, if Doppler or the circuit breaker says so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoToken(error) => error.retry_after(),
            Self::RateLimited { retry_after, .. } => *retry_after,
            Self::CircuitOpen(open) => Some(open.retry_after),
            _ => None,
        }
    }

    /// The reason for metric and log. The download reports what is wrong with the config itself.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::NoToken(error) => error.reason(),
            Self::TokenInvalid | Self::Rejected { status: 401, .. } => Reason::DopplerUnauthorized,
            Self::Rejected {
                status: 400 | 403, ..
            } => Reason::DopplerForbidden,
            Self::Rejected { status: 404, .. } => Reason::ConfigMissing,
            Self::RateLimited { .. } => Reason::DopplerRateLimited,
            Self::Disconnected {
                cause: DisconnectCause::Transport(TransportError::AddressRefused),
                ..
            } => Reason::HostNotAllowed,
            Self::Rejected { .. }
            | Self::Disconnected {
                cause:
                    DisconnectCause::NotEventStream
                    | DisconnectCause::Transport(TransportError::Undecodable | TransportError::Request),
                ..
            } => Reason::DopplerError,
            Self::Disconnected {
                cause:
                    DisconnectCause::TooLarge { .. }
                    | DisconnectCause::Transport(TransportError::Headers(_)),
                ..
            } => Reason::AnswerTooLarge,
            Self::Disconnected { .. } => Reason::DopplerUnreachable,
            Self::CircuitOpen(open) => open.error.reason(),
        }
    }
}

fn suffix(message: Option<&str>) -> String {
    message
        .map(|message| format!(": {message}"))
        .unwrap_or_default()
}
