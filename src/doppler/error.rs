//! What can go wrong with Doppler, and what to do about it.
//!
//! In: statuses and, of an error's body, only Doppler's own `messages`, cut to one short line. Out: [`DopplerError`], whose text never holds a
//! token, a value or a body.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{outbound::TransportError, reason::Reason, upstream::limiter::CircuitOpen};

/// Of a larger body Doppler's words are not read.
pub(super) const MAX_ERROR_BODY_BYTES: usize = 64 << 10;
/// Longest piece of Doppler's own words that is shown, in characters.
const MAX_QUOTE_CHARS: usize = 200;
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
        "Doppler refused the token: put a valid one into the block or the Secret it comes from{}", quoted(.quote.as_deref())
    )]
    Unauthorized {
        /// Doppler's words.
        quote: Option<String>,
    },
    /// 403, or the 400 of a token for another config.
    #[error(
        "the Doppler token may not read config {config} of project {project}: use a token of that config, or name the one that the token can read{}", quoted(.quote.as_deref())
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
        "Doppler does not know config {config} of project {project}, or does not show it to this token: correct the names, or the token{}", quoted(.quote.as_deref())
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
        "Doppler's rate limit for this token is used up{}: raise refreshInterval, or use fewer configs with one token", retry_hint(*.retry_after)
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
    /// Not asked, since the host gave no answer to others just now.
    #[error("{}", .0.error)]
    CircuitOpen(Box<CircuitOpen<Self>>),
    /// 5xx, or a time limit of a server on the way.
    #[error(
        "{host} answered with a fault of its own ({status}): it is tried again; look at Doppler's status page if it lasts"
    )]
    ServerError {
        /// The host that was asked.
        host: String,
        /// The status.
        status: u16,
    },
    /// A status that Doppler does not give here.
    #[error(
        "{host} answered in a way that Doppler does not ({status}): look whether spec.doppler.host is Doppler's API"
    )]
    UnexpectedStatus {
        /// The host that was asked.
        host: String,
        /// The status.
        status: u16,
    },
    /// A 200 whose body is not what it should be.
    #[error("the answer of {host} {problem}: look whether spec.doppler.host is Doppler's API")]
    InvalidBody {
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
            | Self::UnexpectedStatus { .. }
            | Self::InvalidBody { .. } => Reason::DopplerError,
            Self::Unreachable { .. } | Self::ServerError { .. } => Reason::DopplerUnreachable,
            Self::TooLarge { .. } => Reason::AnswerTooLarge,
            Self::CircuitOpen(shut) => shut.error.reason(),
        }
    }

    /// Whether the host is to blame, so that other requests would meet the same.
    pub(super) const fn is_host_failure(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::ServerError { .. })
    }

    /// When to come back, if Doppler said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            Self::CircuitOpen(shut) => Some(shut.retry_after),
            _ => None,
        }
    }
}

/// Doppler's own words in the body of an error.
#[derive(Default)]
pub(super) struct ErrorMessages {
    /// All of them, to be looked at and never shown.
    text: String,
    /// One short line of them, unless a token is in it.
    quote: Option<String>,
}

impl ErrorMessages {
    /// Reads a body; nothing unless it has the shape of Doppler's errors.
    pub(super) fn parse(body: &[u8], token: &SecretString) -> Self {
        #[derive(Deserialize)]
        struct Refusal {
            messages: Vec<String>,
            success: bool,
        }
        let all = match serde_json::from_slice(body) {
            Ok(Refusal {
                messages,
                success: false,
            }) => one_line(&messages.join(" "), usize::MAX),
            _ => String::new(),
        };
        // A token that was broken over lines is still a token.
        let joined: String = all.split(' ').collect();
        let names_a_token = joined.contains(token.expose_secret())
            || TOKEN_PREFIXES.iter().any(|prefix| joined.contains(prefix));
        let quote = (!all.is_empty() && !names_a_token).then(|| one_line(&all, MAX_QUOTE_CHARS));
        Self { text: all, quote }
    }

    /// What of them may be shown.
    pub(super) fn quote(self) -> Option<String> {
        self.quote
    }
}

/// Reads a status other than 200, 304 and 429.
pub(super) fn error_for_status(
    status: u16,
    (host, project, config): (&str, &str, &str),
    ErrorMessages { text: all, quote }: ErrorMessages,
) -> DopplerError {
    let host = host.to_owned();
    let (project, config) = (one_line(project, 100), one_line(config, 100));
    let lower = all.to_ascii_lowercase();
    let no_access = lower.contains("does not have access");
    // Seen by one client instead of a 401.
    let invalid_token = lower.starts_with("invalid ") && lower.contains("token");
    match status {
        401 => DopplerError::Unauthorized { quote },
        400 if invalid_token && !no_access => DopplerError::Unauthorized { quote },
        403 => DopplerError::Forbidden {
            project,
            config,
            quote,
        },
        400 if no_access => DopplerError::Forbidden {
            project,
            config,
            quote,
        },
        400 | 404 => DopplerError::ConfigMissing {
            project,
            config,
            quote,
        },
        300..=399 => DopplerError::Redirected { host, status },
        408 | 500..=599 => DopplerError::ServerError { host, status },
        _ => DopplerError::UnexpectedStatus { host, status },
    }
}

/// One line of at most `longest` characters, without control characters or marks that reorder text.
fn one_line(text: &str, longest: usize) -> String {
    let mut kept = text
        .chars()
        .map(|c| if c.is_whitespace() { ' ' } else { c })
        .filter(|&c| !is_unprintable(c));
    let mut line: String = kept.by_ref().take(longest).collect();
    if kept.next().is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn quoted(quote: Option<&str>) -> String {
    quote
        .map(|quote| format!(" (Doppler says: {quote})"))
        .unwrap_or_default()
}

pub(super) fn retry_hint(retry_after: Option<Duration>) -> String {
    retry_after
        .map(|wait| format!(", try again in {} s", wait.as_secs().max(1)))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: (&str, &str, &str) = ("api.doppler.com", "my-project", "dev");

    fn body(message: &str) -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!({"messages": [message], "success": false})).unwrap()
    }

    fn read(status: u16, message: &str) -> DopplerError {
        error_for_status(
            status,
            NAMES,
            ErrorMessages::parse(&body(message), &"dp.st.dev.canary".into()),
        )
    }

    #[test]
    fn each_refusal_has_its_reason() {
        for (status, message, reason) in [
            (401, "Invalid Auth token", Reason::DopplerUnauthorized),
            (401, "", Reason::DopplerUnauthorized),
            (400, "Invalid Service token", Reason::DopplerUnauthorized),
            (
                400,
                "This token does not have access to requested config 'dev'",
                Reason::DopplerForbidden,
            ),
            (
                400,
                "Invalid: this token does not have access to requested project 'x'",
                Reason::DopplerForbidden,
            ),
            (
                400,
                "dp.st.dev.canary does not have access",
                Reason::DopplerForbidden,
            ),
            (403, "no", Reason::DopplerForbidden),
            (
                404,
                "Could not find requested project 'x'",
                Reason::ConfigMissing,
            ),
            (
                400,
                "Could not find requested config 'invalid-token'",
                Reason::ConfigMissing,
            ),
            (400, "", Reason::ConfigMissing),
            (307, "", Reason::DopplerError),
            (302, "", Reason::DopplerError),
            (204, "", Reason::DopplerError),
            (206, "", Reason::DopplerError),
            (418, "", Reason::DopplerError),
            (500, "", Reason::DopplerUnreachable),
            (503, "", Reason::DopplerUnreachable),
            (408, "", Reason::DopplerUnreachable),
        ] {
            assert_eq!(read(status, message).reason(), reason, "{status} {message}");
        }
    }

    #[test]
    fn shows_dopplers_words_on_one_short_line() {
        assert_eq!(
            read(404, "Could not find\nrequested\u{7} project\u{202e} 'x'").to_string(),
            "Doppler does not know config dev of project my-project, or does not show it to this token: correct the names, or the token \
             (Doppler says: Could not find requested project 'x')"
        );
        let DopplerError::Unauthorized { quote: Some(quote) } = read(401, &"é".repeat(1000))
        else {
            panic!("no quote")
        };
        assert_eq!(quote, format!("{}…", "é".repeat(MAX_QUOTE_CHARS)));
        let exact = "x".repeat(MAX_QUOTE_CHARS);
        assert_eq!(
            read(401, &exact),
            DopplerError::Unauthorized { quote: Some(exact) }
        );
    }

    #[test]
    fn shows_nothing_of_a_body_that_names_a_token_or_has_another_shape() {
        let unquoted = DopplerError::Unauthorized { quote: None };
        for message in [
            "Invalid Auth token dp.st.dev.canary",
            "Invalid Auth token dp.st.dev.\ncanary",
            "Invalid Auth token dp.pt.somebody-elses",
        ] {
            assert_eq!(read(401, message), unquoted, "{message}");
        }
        for body in [
            &b"<html>canary</html>"[..],
            br#"{"messages":["canary"]}"#,
            br#"{"messages":["canary"],"success":true}"#,
            br#"{"messages":"canary","success":false}"#,
            br#""canary""#,
            b"",
            b"\xff",
        ] {
            let words = ErrorMessages::parse(body, &"t".into());
            assert_eq!(error_for_status(401, NAMES, words), unquoted);
        }
    }

    #[test]
    fn a_name_cannot_break_the_message_over_lines() {
        let names = ("h", "p\nq", &*"c".repeat(500));
        let text = error_for_status(404, names, ErrorMessages::default()).to_string();
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
    }

    #[test]
    fn says_when_it_is_tried_again() {
        let error = DopplerError::RateLimited {
            retry_after: Some(Duration::from_secs(7)),
        };
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(
            error.to_string(),
            "Doppler's rate limit for this token is used up, try again in 7 s: raise refreshInterval, or use fewer configs with one token"
        );
        assert_eq!(read(500, "").retry_after(), None);
    }

    #[test]
    fn a_name_that_leads_to_a_refused_address_is_a_matter_of_the_host() {
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
