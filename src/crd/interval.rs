//! Durations of the spec that say how often something happens.
//!
//! Input: a text such as `30s`, `5m` or `1h30m`.
//! Output: a duration from 10 s to 24 h.
//! Invariants: pure. The rules of the fields accept the same texts.

use std::time::Duration;

/// The duration. None if the text is none, or out of bounds.
pub(super) fn interval(text: &str) -> Option<Duration> {
    let span: jiff::SignedDuration = text.parse().ok()?;
    Duration::try_from(span)
        .ok()
        .filter(|span| (Duration::from_secs(10)..=Duration::from_hours(24)).contains(span))
}
