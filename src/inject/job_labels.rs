//! Labels of Jobs, and the slugs that Prefect's worker writes.
//!
//! Input: a key or a value of `spec.inject.jobs[].matchLabels`, or all of them.
//! Output: whether it can be a label, what the worker writes instead, and the labels as text.
//! Invariants: pure. The rules of the CRD agree with it.

use std::collections::BTreeMap;

use crate::printable;

/// The longest value of a label, and the longest name of its key.
const MAX_CHARS: usize = 63;
/// The longest prefix of a label's key.
const MAX_PREFIX: usize = 253;

/// The labels as kubectl takes them, such as `a=b,c=d`.
#[must_use]
pub fn shown_labels(labels: &BTreeMap<String, String>) -> String {
    let labels = labels.iter();
    let labels = labels.map(|(key, value)| printable::name(&format!("{key}={value}")));
    labels.collect::<Vec<_>>().join(",")
}

/// Whether a label can have this value.
#[must_use]
pub fn is_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

/// Whether a label can have this key: a name, with or without a prefix.
#[must_use]
pub fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_prefix(prefix) && is_name(name),
        None => is_name(text),
    }
}

/// The label that Prefect's worker writes for a name. None if the name has characters that the worker
/// transliterates, or if nothing of it is left.
#[must_use]
pub fn slug(name: &str) -> Option<String> {
    if name.chars().any(|c| !(' '..='~').contains(&c)) {
        return None;
    }
    let parts = name.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'));
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let joined = parts.join("-");
    let is_edge = |c: char| !c.is_ascii_alphanumeric();
    let start = joined.trim_start_matches(is_edge);
    let cut = start.get(..MAX_CHARS).unwrap_or(start);
    let slug = cut.trim_end_matches(is_edge);
    (!slug.is_empty()).then(|| slug.to_owned())
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_CHARS).contains(&bytes.len())
        && bytes.iter().all(is_inner)
        && [bytes.first(), bytes.last()]
            .into_iter()
            .flatten()
            .all(u8::is_ascii_alphanumeric)
}

fn is_prefix(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=MAX_PREFIX).contains(&bytes.len())
        && bytes
            .iter()
            .all(|byte| is_edge(byte) || matches!(byte, b'-' | b'.'))
        && [bytes.first(), bytes.last()]
            .into_iter()
            .flatten()
            .all(is_edge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_those_of_the_worker() {
        for (name, expected) in [
            ("nightly", Some("nightly")),
            ("Nightly Job (prod)!", Some("Nightly-Job-prod")),
            ("etl.v2_daily", Some("etl.v2_daily")),
            ("a - b -- c", Some("a-b-c")),
            ("_private_", Some("private")),
            ("-- . --", None),
            ("!!!", None),
            ("Größe", None),
        ] {
            assert_eq!(slug(name).as_deref(), expected, "{name}");
        }
        let long = slug(&format!("{} b", "a".repeat(62)));
        assert_eq!(long, Some("a".repeat(62)));
        assert_eq!(slug(&"a".repeat(80)), Some("a".repeat(63)));
    }

    #[test]
    fn a_slug_is_a_value() {
        for name in ["Nightly Job (prod)!", "a/b", ".x.", "1"] {
            assert!(is_value(&slug(name).unwrap()), "{name}");
            assert_eq!(slug(&slug(name).unwrap()), slug(name));
        }
    }

    #[test]
    fn keys_and_values_have_their_forms() {
        for (text, key, value) in [
            ("", false, true),
            ("a", true, true),
            ("a b", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("prefect.io/flow-name", true, false),
            ("Prefect.io/flow-name", false, false),
            ("prefect.io/", false, false),
            ("/a", false, false),
            ("a/b/c", false, false),
        ] {
            assert_eq!(is_key(text), key, "{text}");
            assert_eq!(is_value(text), value, "{text}");
        }
        assert!(!is_value(&"a".repeat(64)));
    }
}
