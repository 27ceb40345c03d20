//! The version of a Prefect server.
//!
//! Input: the answer of `GET /admin/version`.
//! Output: [`ServerVersion`], and what the server can do.
//! Invariants: pure. The text is bounded and has no control characters. A version that cannot be
//! parsed is not assumed to be old or new.

use std::fmt;

/// The oldest version that the operator supports.
const OLDEST: (u32, u32, u32) = (2, 20, 0);
/// The first version with an event socket by default.
const EVENT_SOCKET: (u32, u32, u32) = (3, 0, 0);
/// The first version that reports changes of blocks.
const REPORTS_BLOCKS: (u32, u32, u32) = (3, 7, 4);
/// The longest version, in bytes.
const MAX_BYTES: usize = 64;

/// The version of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerVersion {
    text: String,
    number: Option<(u32, u32, u32)>,
}

impl ServerVersion {
    /// The version, if the text can be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".+-_".contains(&byte);
        if text.is_empty() || text.len() > MAX_BYTES || !text.bytes().all(is_part) {
            return None;
        }
        Some(Self {
            text: text.to_owned(),
            number: number(text),
        })
    }

    /// Whether the server reports changes of blocks. Unknown versions have to show it.
    #[must_use]
    pub fn reports_blocks(&self) -> bool {
        self.number.is_some_and(|number| number >= REPORTS_BLOCKS)
    }

    /// Whether a server of this version has an event socket, unless it is switched on by an experimental
    /// setting. Unknown versions may have it.
    #[must_use]
    pub fn has_event_socket(&self) -> bool {
        self.number.is_none_or(|number| number >= EVENT_SOCKET)
    }

    /// What users should know of this version.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let number = self.number?;
        if number < OLDEST {
            Some(format!(
                "the Prefect server has version {self}, and the operator supports 2.20 and newer: upgrade the server"
            ))
        } else if number < REPORTS_BLOCKS {
            Some(format!(
                "the Prefect server has version {self}, which does not report changes of blocks, so the operator polls them"
            ))
        } else {
            None
        }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The first three numbers. A missing one is zero.
fn number(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.splitn(3, '.').map(|part| {
        let digits = part.find(|letter: char| !letter.is_ascii_digit());
        part[..digits.unwrap_or(part.len())].parse().ok()
    });
    let first = parts.next()??;
    let mut next = || parts.next().map_or(Some(0), |part| part);
    Some((first, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> ServerVersion {
        ServerVersion::parse(text).unwrap()
    }

    #[test]
    fn reports_blocks_from_3_7_4() {
        for text in ["3.7.4", "3.7.10", "3.8", "3.10.0rc1", "4", "3.7.4+12.gabc"] {
            assert!(version(text).reports_blocks(), "{text}");
            assert_eq!(version(text).note(), None, "{text}");
        }
        for text in [
            "3.7.3",
            "3.7.3+12.gabc",
            "3.6.99",
            "2.20",
            "2.18.0",
            "dev",
            "3.x",
        ] {
            assert!(!version(text).reports_blocks(), "{text}");
        }
    }

    #[test]
    fn an_old_version_is_reported() {
        let note = |text| version(text).note().unwrap_or_default();
        assert!(note("2.19.9").contains("supports 2.20 and newer"));
        assert!(note("0.15.13").contains("supports 2.20 and newer"));
        assert!(note("2.20.25").contains("polls them"));
        assert!(note("3.7.3").contains("polls them"));
        assert_eq!(note("dev"), "", "nothing is known of it");
    }

    #[test]
    fn version_2_has_no_event_socket() {
        for (text, has_socket) in [
            ("2.20.25", false),
            ("3.0.0", true),
            ("3.8", true),
            ("dev", true),
        ] {
            assert_eq!(version(text).has_event_socket(), has_socket, "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_version() {
        let long = "1".repeat(MAX_BYTES + 1);
        for text in ["", "3 8", "3.8\n", "<html>", "3.8\u{202e}", &long] {
            assert_eq!(ServerVersion::parse(text), None, "{text}");
        }
        assert_eq!(version("3.8.8").to_string(), "3.8.8");
    }
}
