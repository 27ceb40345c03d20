//! Doppler's own messages in the body of an error.
//!
//! Input: the body of an error and the token that was sent.
//! Output: the whole text, to decide by, and a quote that may be shown.
//! Invariants: a quote is one short printable line and contains no token. A body of another shape
//! yields neither text nor quote.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::printable::characters;

/// Larger bodies of errors are not read.
pub(super) const MAX_BODY_BYTES: usize = 64 << 10;
/// Longest quote, in characters.
pub(super) const MAX_QUOTE_CHARS: usize = 200;
/// The prefixes of Doppler's tokens.
const TOKEN_PREFIXES: [&str; 7] = [
    "dp.st.",
    "dp.sa.",
    "dp.pt.",
    "dp.ct.",
    "dp.said.",
    "dp.scim.",
    "dp.audit.",
];

/// A part of a token between dots of this length is as secret as the token.
const MIN_PART_CHARS: usize = 16;
/// How every JWT begins: `{"` in base64.
const JWT_PREFIX: &str = "eyJ";

/// The messages of one error.
#[derive(Default)]
pub(super) struct ErrorMessages {
    /// The whole text. Never show it.
    text: String,
    quote: Option<String>,
}

impl ErrorMessages {
    /// Parses a body. The result is empty unless the body has the shape of Doppler's errors.
    pub(super) fn parse(body: &[u8], token: &SecretString) -> Self {
        #[derive(Deserialize)]
        struct ErrorBody {
            messages: Vec<String>,
            success: bool,
        }
        let text = match serde_json::from_slice(body) {
            Ok(ErrorBody {
                messages,
                success: false,
            }) => one_line(&messages.join(" "), usize::MAX),
            _ => String::new(),
        };
        // A token that is broken over several lines is still a token.
        let joined: String = text.split(' ').collect();
        let token = token.expose_secret();
        let is_part = |part: &str| part.len() >= MIN_PART_CHARS && joined.contains(part);
        let contains_token = joined.contains(token)
            || token.split('.').any(is_part)
            || TOKEN_PREFIXES.iter().any(|prefix| joined.contains(prefix))
            || joined.contains(JWT_PREFIX);
        let quote = (!text.is_empty() && !contains_token).then(|| one_line(&text, MAX_QUOTE_CHARS));
        Self { text, quote }
    }

    /// Whether Doppler says that the token lacks access to the project or the config.
    pub(super) fn denies_access(&self) -> bool {
        self.text
            .to_ascii_lowercase()
            .contains("does not have access")
    }

    /// Whether Doppler says that the token is invalid. Some clients saw this with a 400.
    pub(super) fn rejects_token(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        text.starts_with("invalid ") && text.contains("token")
    }

    /// Whether Doppler says that the plan of the workplace lacks something.
    pub(super) fn names_plan(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        ["plan", "upgrade", "subscription"]
            .iter()
            .any(|word| text.contains(word))
    }

    /// The quote that may be shown.
    pub(super) fn into_quote(self) -> Option<String> {
        self.quote
    }
}

/// One line of at most `max_chars`, without control characters or marks that reorder text.
pub(super) fn one_line(text: &str, max_chars: usize) -> String {
    let mut printable = characters(text);
    let mut line: String = printable.by_ref().take(max_chars).collect();
    if printable.next().is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests;
