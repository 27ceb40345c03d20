//! The annotation that asks the operator to read block and config now.
//!
//! Input: the metadata of a binding.
//! Output: the text of the request, or why it is refused.
//! Invariants: pure. What is kept of a refused text is bounded.

use std::collections::BTreeMap;

use kube::api::ObjectMeta;

use crate::printable::has_control;

/// The annotation. Each new value is a new request.
pub const REFRESH_ANNOTATION: &str = "doppler-prefect.dev/refresh";
/// The longest request, in characters.
pub const MAX_REFRESH_CHARS: usize = 128;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRefresh {
    /// The text is too long.
    #[error(
        "the annotation {REFRESH_ANNOTATION} has more than {MAX_REFRESH_CHARS} characters, so the operator ignores it: set a short text that is new, such as the time"
    )]
    TooLong,
    /// The text would not be readable in the status.
    #[error(
        "the annotation {REFRESH_ANNOTATION} has control characters, so the operator ignores it: set a short text that is new, such as the time"
    )]
    ControlCharacter,
}

/// The request of a binding, if it has one. An empty text is none.
///
/// # Errors
/// If the status cannot repeat it.
pub fn refresh_request(meta: &ObjectMeta) -> Result<Option<&str>, InvalidRefresh> {
    let annotations = meta.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(REFRESH_ANNOTATION));
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text.chars().nth(MAX_REFRESH_CHARS).is_some() {
        Err(InvalidRefresh::TooLong)
    } else if has_control(text) {
        Err(InvalidRefresh::ControlCharacter)
    } else {
        Ok(Some(text))
    }
}

/// The annotations without all others. Of a text that is too long, enough is kept to see that.
#[must_use]
pub fn only_refresh(annotations: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let request = annotations
        .into_iter()
        .find(|(name, _)| name == REFRESH_ANNOTATION);
    let (name, text) = request?;
    let text: String = text.chars().take(MAX_REFRESH_CHARS + 1).collect();
    Some(BTreeMap::from([(name, text)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(text: &str) -> ObjectMeta {
        let others = BTreeMap::from([
            ("other".to_owned(), "x".repeat(1000)),
            (REFRESH_ANNOTATION.to_owned(), text.to_owned()),
        ]);
        ObjectMeta {
            annotations: only_refresh(others),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_request_is_a_short_text() {
        let longest = "ä".repeat(MAX_REFRESH_CHARS);
        for text in ["1", "2026-01-01T00:00:00Z", "deploy 7", &longest] {
            assert_eq!(refresh_request(&meta(text)), Ok(Some(text)));
        }
        assert_eq!(refresh_request(&meta("")), Ok(None));
        assert_eq!(refresh_request(&ObjectMeta::default()), Ok(None));
        assert_eq!(only_refresh(BTreeMap::default()), None);
    }

    #[test]
    fn a_text_that_the_status_cannot_repeat_is_refused() {
        for length in [MAX_REFRESH_CHARS + 1, 100_000] {
            let meta = meta(&"ä".repeat(length));
            assert_eq!(refresh_request(&meta), Err(InvalidRefresh::TooLong));
            let kept = meta.annotations.unwrap();
            assert_eq!(kept.len(), 1);
            assert_eq!(
                kept[REFRESH_ANNOTATION].chars().count(),
                MAX_REFRESH_CHARS + 1
            );
        }
        for text in ["a\nb", "a\u{202e}b"] {
            let refused = Err(InvalidRefresh::ControlCharacter);
            assert_eq!(refresh_request(&meta(text)), refused);
        }
    }
}
