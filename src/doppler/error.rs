//! Why a download failed, and what the user can do about it.
//!
//! Input: the failures that `client` finds.
//! Output: [`DopplerError`], with its reason, its message and the wait that Doppler asks for.
//! Invariants: the message never contains a token, a value or a body. Of a body it quotes only
//! Doppler's own `messages`, cut to one short line.

use std::time::Duration;

use super::{identity::error::IdentityError, loss::LostNames};
use crate::{outbound::TransportError, reason::Reason, upstream::limiter::CircuitOpen};

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DopplerError {
    /// The token cannot be sent in a header.
    #[error(
        "the Doppler token is empty or contains a space, a line break or another character that no token has: store the bare token in the block or the Secret that it comes from"
    )]
    TokenInvalid,
    /// An identity gives no access.
    #[error(transparent)]
    Identity(Box<IdentityError>),
    /// 401.
    #[error(
        "Doppler rejected the token: store a valid token in the block or the Secret that it comes from{}", quoted(.quote.as_deref())
    )]
    Unauthorized {
        /// Doppler's messages.
        quote: Option<String>,
    },
    /// 403, or the 400 that Doppler sends for a token of another config.
    #[error(
        "the Doppler token has no permission to read config {config} of project {project}: use a token of that config, or name the config that the token can read{}", quoted(.quote.as_deref())
    )]
    Forbidden {
        /// The Doppler project.
        project: String,
        /// The Doppler config.
        config: String,
        /// Doppler's messages.
        quote: Option<String>,
    },
    /// 404, or any other 400. The cause is ambiguous, so it never leads to a deletion.
    #[error(
        "Doppler has no config {config} of project {project}, or hides it from this token: correct the names, or use another token{}", quoted(.quote.as_deref())
    )]
    ConfigMissing {
        /// The Doppler project.
        project: String,
        /// The Doppler config.
        config: String,
        /// Doppler's messages.
        quote: Option<String>,
    },
    /// 429, or a request that was not sent because the token's quota is used up.
    #[error(
        "Doppler's rate limit for this token is used up{}: raise spec.refreshInterval, or use fewer configs with one token", retry_hint(*.retry_after)
    )]
    RateLimited {
        /// How long to wait before the next request.
        retry_after: Option<Duration>,
    },
    /// Any 3xx. The token was not sent to the redirect's target.
    #[error(
        "{host} answered with a redirect ({status}), which the operator does not follow with a token: set spec.doppler.host to the final URL"
    )]
    Redirected {
        /// The host of the request.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// No answer.
    #[error(
        "{host} {cause}: check the network path, proxy and certificates between the operator and Doppler, and Doppler's status page"
    )]
    Unreachable {
        /// The host of the request.
        host: String,
        /// What failed during the request.
        cause: TransportError,
    },
    /// The request was not sent, because the host just failed to answer other requests.
    #[error("{}", .0.error)]
    CircuitOpen(Box<CircuitOpen<Self>>),
    /// 5xx, or the time limit of a server in between.
    #[error(
        "{host} answered with a server error ({status}): the operator tries again; check Doppler's status page if it persists"
    )]
    ServerError {
        /// The host of the request.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// A status that Doppler does not use here.
    #[error(
        "{host} answered with a status that Doppler does not use ({status}): check that spec.doppler.host is Doppler's API"
    )]
    UnexpectedStatus {
        /// The host of the request.
        host: String,
        /// The HTTP status.
        status: u16,
    },
    /// A 200 whose body is not a config.
    #[error("the answer of {host} {problem}: check that spec.doppler.host is Doppler's API")]
    InvalidBody {
        /// The host of the request.
        host: String,
        /// What is wrong with the body.
        problem: String,
    },
    /// A config that no Secret can hold.
    #[error(
        "the config that {host} sent holds more than 1 MiB, which no Secret can hold: split the config"
    )]
    ConfigTooLarge {
        /// The host of the request.
        host: String,
    },
    /// A 200 without the names that every config has.
    #[error(
        "the answer of {host} has no {missing}, which every config has and earlier answers had: check that spec.doppler.host is Doppler's API"
    )]
    ConfigIncomplete {
        /// The host of the request.
        host: String,
        /// The names.
        missing: String,
    },
    /// A 200 without most of the names of earlier answers.
    #[error(
        "the answer of {host} lacks {lost}; the operator rejects it until the next poll confirms it: check the config"
    )]
    NamesLost {
        /// The host of the request.
        host: String,
        /// What is lost.
        lost: LostNames,
    },
    /// The body is larger than the limit.
    #[error(
        "the answer of {host} is larger than {limit} bytes, the maximum of a Doppler config: check that spec.doppler.host is Doppler's API, or make the config smaller"
    )]
    TooLarge {
        /// The host of the request.
        host: String,
        /// The limit, in bytes.
        limit: usize,
    },
}

impl DopplerError {
    /// The reason for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TokenInvalid | Self::Unauthorized { .. } => Reason::DopplerUnauthorized,
            Self::Identity(error) => error.reason(),
            Self::Forbidden { .. } => Reason::DopplerForbidden,
            Self::ConfigMissing { .. } => Reason::ConfigMissing,
            Self::RateLimited { .. } => Reason::DopplerRateLimited,
            Self::Unreachable {
                cause: TransportError::AddressRefused,
                ..
            } => Reason::HostNotAllowed,
            Self::Unreachable {
                cause: TransportError::Undecodable | TransportError::Request,
                ..
            }
            | Self::Redirected { .. }
            | Self::UnexpectedStatus { .. }
            | Self::InvalidBody { .. } => Reason::DopplerError,
            Self::Unreachable {
                cause: TransportError::Headers(_),
                ..
            }
            | Self::TooLarge { .. } => Reason::AnswerTooLarge,
            Self::Unreachable { .. } | Self::ServerError { .. } => Reason::DopplerUnreachable,
            Self::ConfigIncomplete { .. } => Reason::ConfigIncomplete,
            Self::NamesLost { .. } => Reason::NamesLost,
            Self::ConfigTooLarge { .. } => Reason::SecretTooLarge,
            Self::CircuitOpen(open) => open.error.reason(),
        }
    }

    /// How long to wait before the next request, if Doppler or the circuit breaker says so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            Self::CircuitOpen(open) => Some(open.retry_after),
            _ => None,
        }
    }
}

impl From<IdentityError> for DopplerError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(Box::new(error))
    }
}

fn quoted(quote: Option<&str>) -> String {
    quote
        .map(|quote| format!(" (Doppler says: {quote})"))
        .unwrap_or_default()
}

/// The part of a message that says when to try again, if that is known.
pub(super) fn retry_hint(retry_after: Option<Duration>) -> String {
    retry_after
        .map(|wait| {
            format!(
                ", and the operator tries again in {} s",
                wait.as_secs().max(1)
            )
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_says_when_to_try_again() {
        let error = DopplerError::RateLimited {
            retry_after: Some(Duration::from_secs(7)),
        };
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(
            error.to_string(),
            "Doppler's rate limit for this token is used up, and the operator tries again in 7 s: raise spec.refreshInterval, or use fewer configs with one token"
        );
        let error = DopplerError::ServerError {
            host: "h".to_owned(),
            status: 500,
        };
        assert_eq!(error.retry_after(), None);
    }

    #[test]
    fn a_refused_address_has_the_reason_host_not_allowed() {
        let error = |cause| DopplerError::Unreachable {
            host: "h".to_owned(),
            cause,
        };
        assert_eq!(
            error(TransportError::AddressRefused).reason(),
            Reason::HostNotAllowed
        );
        assert_eq!(
            error(TransportError::Dns).reason(),
            Reason::DopplerUnreachable
        );
    }
}
