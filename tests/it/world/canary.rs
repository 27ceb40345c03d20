//! The canary that every secret value of the tests contains.
//!
//! Input: a text that users or machines can read: logs, Events, statuses, metrics.
//! Output: an error if it contains the canary in clear or in base64, at any of the three
//! alignments.
//! Invariants: the error never quotes the text.

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Part of every value, token, key and password of the tests.
pub const CANARY: &str = "cANaRy8w5Kq3vX1z";

/// A secret value, distinguished from others by `what`.
pub fn secret(what: &str) -> String {
    format!("{what}-{CANARY}")
}

/// Searches `text` for the canary. `place` names the source of the text.
///
/// # Errors
/// If the text contains the canary.
pub fn ensure_absent(place: &str, text: &str) -> Result<()> {
    for form in forms() {
        if let Some(at) = text.find(&form) {
            let line = text[..at].matches('\n').count() + 1;
            bail!("{place} shows a secret value, in line {line}");
        }
    }
    Ok(())
}

/// Searches `text` for the secret part of tokens: the last one, after two dots or the prefix of
/// Doppler's tokens. The others are the header and the claims of a service account's token.
///
/// # Errors
/// If the text contains one.
pub fn ensure_no_token(place: &str, text: &str, tokens: &[String]) -> Result<()> {
    for token in tokens {
        let (_, secret) = token.rsplit_once('.').unwrap_or(("", token));
        if text.contains(secret) {
            let prefix: String = token.chars().take(8).collect();
            bail!("{place} shows a token that begins with {prefix}");
        }
    }
    Ok(())
}

/// The canary in clear, and for each alignment the part of its base64 that does not depend on the
/// neighbouring bytes.
fn forms() -> [String; 4] {
    let encoded = |before: usize| {
        let mut bytes = vec![b'-'; before];
        bytes.extend_from_slice(CANARY.as_bytes());
        let whole = bytes.len() / 3 * 3;
        let text = STANDARD.encode(&bytes[..whole]);
        text[if before == 0 { 0 } else { 4 }..].to_owned()
    };
    [CANARY.to_owned(), encoded(0), encoded(1), encoded(2)]
}

#[test]
fn finds_the_secret_part_of_a_token() {
    let tokens = ["dp.said.abcdef".to_owned(), "e30.e30.signature".to_owned()];
    for text in ["x abcdef", "signature"] {
        assert!(ensure_no_token("the value", text, &tokens).is_err());
    }
    ensure_no_token("other text", "dp.said. e30.e30", &tokens).unwrap();
}

#[test]
fn finds_the_canary_in_clear_and_in_base64() {
    for before in 0..7 {
        let value = format!("{}{CANARY} and more", "x".repeat(before));
        assert!(ensure_absent("the value", &value).is_err());
        let encoded = STANDARD.encode(&value);
        assert!(
            ensure_absent("its base64", &encoded).is_err(),
            "after {before} bytes"
        );
    }
    ensure_absent("a text without canary", "nothing here\n").unwrap();
}
