//! What can go wrong with Doppler, and what to do about it.
//!
//! In: statuses and, of an error's body, only Doppler's own `messages`, cut to one short line. Out: [`DopplerError`], whose text never holds a
//! token, a value or a body.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{outbound::TransportError, reason::Reason};

/// Longest piece of Doppler's own words that is shown, in characters.
const LONGEST_QUOTE: usize = 200;
/// How Doppler's tokens begin.
const TOKEN_PREFIXES: [&str; 7] = [
    "dp.st.",
    "dp.sa.",
    "dp.pt.",
    "dp.ct.",
    "dp.said.",
    "dp.scim.",
    "dp.audit.",
];

/// Why there is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DopplerError {
    /// The token cannot be sent at all.
    #[error(
        "the Doppler token is empty or holds a space, a line break or another character that no token has: put the bare token into the block or the Secret it comes from"
    )]
    TokenInvalid,
    /// 401.
    #[error(
        "Doppler refused the token: put a valid one into the block or the Secret it comes from{}", said(.quote.as_deref())
    )]
    Unauthorized {
        /// Doppler's words.
        quote: Option<String>,
    },
    /// 403, or the 400 of a token for another config.
    #[error(
        "the Doppler token may not read config {config} of project {project}: use a token of that config, or name the one that the token can read{}", said(.quote.as_deref())
    )]
    Forbidden {
        /// Doppler project.
        project: String,
        /// Doppler config.
        config: String,
        /// Doppler's words.
        quote: Option<String>,
    },
    /// 404, or any other 400. Ambiguous, so that it never means that something is to be deleted.
    #[error(
        "Doppler does not know config {config} of project {project}, or does not show it to this token: correct the names, or the token{}", said(.quote.as_deref())
    )]
    ConfigMissing {
        /// Doppler project.
        project: String,
        /// Doppler config.
        config: String,
        /// Doppler's words.
        quote: Option<String>,
    },
    /// 429, or a request that was held back since the token's limit is used up.
    #[error(
        "Doppler's rate limit for this token is used up{}: raise refreshInterval, or use fewer configs with one token", wait(*.retry_after)
    )]
    RateLimited {
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Any 3xx. The token was not sent on.
    #[error(
        "{host} answered with a redirect ({status}), which is not followed with a token: give the final URL as spec.doppler.host"
    )]
    Redirected {
        /// The host that was asked.
        host: String,
        /// The status.
        status: u16,
    },
    /// No answer.
    #[error(
        "{host} {cause}: look at the network path, proxy and certificates between here and Doppler, and at Doppler's status page"
    )]
    Unreachable {
        /// The host that was asked.
        host: String,
        /// What happened on the way.
        cause: TransportError,
    },
    /// 5xx, or a time limit of a server on the way.
    #[error(
        "{host} answered with a fault of its own ({status}): it is tried again; look at Doppler's status page if it lasts"
    )]
    Fault {
        /// The host that was asked.
        host: String,
        /// The status.
        status: u16,
    },
    /// A status that Doppler does not give here.
    #[error(
        "{host} answered in a way that Doppler does not ({status}): look whether spec.doppler.host is Doppler's API"
    )]
    Unexpected {
        /// The host that was asked.
        host: String,
        /// The status.
        status: u16,
    },
    /// A 200 whose body is not what it should be.
    #[error("the answer of {host} {problem}: look whether spec.doppler.host is Doppler's API")]
    Unreadable {
        /// The host that was asked.
        host: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The body is larger than what is read.
    #[error(
        "the answer of {host} is larger than {limit} bytes, which no Doppler config is: look whether spec.doppler.host is Doppler's API, or make the config smaller"
    )]
    TooLarge {
        /// The host that was asked.
        host: String,
        /// The bound, in bytes.
        limit: usize,
    },
}

impl DopplerError {
    /// The word for condition, Event, metric and log.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TokenInvalid | Self::Unauthorized { .. } => Reason::DopplerUnauthorized,
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
            | Self::Unexpected { .. }
            | Self::Unreadable { .. } => Reason::DopplerError,
            Self::Unreachable { .. } | Self::Fault { .. } => Reason::DopplerUnreachable,
            Self::TooLarge { .. } => Reason::AnswerTooLarge,
        }
    }

    /// When to come back, if Doppler said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            _ => None,
        }
    }
}

/// Reads a status other than 200, 304 and 429. `quote` is what [`quote`] made of the body.
pub(super) fn refusal(
    status: u16,
    (host, project, config): (&str, &str, &str),
    quote: Option<String>,
) -> DopplerError {
    let host = host.to_owned();
    let (project, config) = (one_line(project, 100), one_line(config, 100));
    let lower = quote.as_deref().unwrap_or_default().to_ascii_lowercase();
    match status {
        401 => DopplerError::Unauthorized { quote },
        // Seen by one client instead of a 401.
        400 if lower.contains("invalid") && lower.contains("token") => {
            DopplerError::Unauthorized { quote }
        }
        400 if !lower.contains("does not have access") => DopplerError::ConfigMissing {
            project,
            config,
            quote,
        },
        400 | 403 => DopplerError::Forbidden {
            project,
            config,
            quote,
        },
        404 => DopplerError::ConfigMissing {
            project,
            config,
            quote,
        },
        300..=399 => DopplerError::Redirected { host, status },
        408 | 500..=599 => DopplerError::Fault { host, status },
        _ => DopplerError::Unexpected { host, status },
    }
}

/// Doppler's own words in the body of an error, in one short line; nothing unless it has Doppler's shape, and nothing if a token is in it.
pub(super) fn quote(body: &[u8], token: &SecretString) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        messages: Vec<String>,
        success: bool,
    }
    let refusal: Refusal = serde_json::from_slice(body).ok()?;
    let whole = one_line(&refusal.messages.join(" "), usize::MAX);
    let names_a_token = whole.contains(token.expose_secret())
        || TOKEN_PREFIXES.iter().any(|prefix| whole.contains(prefix));
    if refusal.success || whole.is_empty() || names_a_token {
        return None;
    }
    Some(one_line(&whole, LONGEST_QUOTE))
}

/// One line of at most `longest` characters, without control characters or marks that reorder text.
fn one_line(text: &str, longest: usize) -> String {
    let mut kept = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c });
    let mut line: String = kept
        .by_ref()
        .filter(|&c| !c.is_control() && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
        .take(longest)
        .collect();
    if kept.next().is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

fn said(quote: Option<&str>) -> String {
    quote
        .map(|quote| format!(" (Doppler says: {quote})"))
        .unwrap_or_default()
}

fn wait(retry_after: Option<Duration>) -> String {
    retry_after
        .map(|wait| format!(", try again in {} s", wait.as_secs().max(1)))
        .unwrap_or_default()
}
