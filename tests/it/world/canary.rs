//! The canary that every secret value of the tests carries.
//!
//! In: some text that people or machines can read: logs, Events, statuses, metrics. Out: an error if the canary is in it, as it is, or in base64
//! at any of the three places where base64 can cut it. The error never quotes the text.

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// In every value, token, key and password that the tests use.
pub const CANARY: &str = "cANaRy8w5Kq3vX1z";

/// A secret value that can be told from others by `what`.
pub fn secret(what: &str) -> String {
    format!("{what}-{CANARY}")
}

/// Looks for the canary in `text`; `place` says where the text is from.
///
/// # Errors
/// When it is there.
pub fn ensure_absent(place: &str, text: &str) -> Result<()> {
    for form in forms() {
        if let Some(at) = text.find(&form) {
            let line = text[..at].matches('\n').count() + 1;
            bail!("{place} shows a secret value, in line {line}");
        }
    }
    Ok(())
}

/// The canary in clear, and the part of its base64 that does not depend on its neighbours, for each alignment.
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
fn the_canary_is_found_in_clear_and_in_base64_wherever_it_stands() {
    for before in 0..7 {
        let value = format!("{}{CANARY} and more", "x".repeat(before));
        assert!(ensure_absent("the value", &value).is_err());
        let encoded = STANDARD.encode(&value);
        assert!(
            ensure_absent("its base64", &encoded).is_err(),
            "after {before} bytes"
        );
    }
    ensure_absent("an innocent text", "nothing here\n").unwrap();
}
