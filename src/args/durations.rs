//! Durations on the command line.
//!
//! Input: a text.
//! Output: a duration within its range, or what to write instead.
//! Invariants: pure.

use std::time::Duration;

pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "use a duration such as 90s, 5m or 1h".to_owned())?;
    Duration::try_from(span).map_err(|_| "a duration cannot be negative".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    duration_or_zero(text).and_then(|span| {
        if span.is_zero() {
            Err("must be longer than zero".to_owned())
        } else {
            Ok(span)
        }
    })
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|span| {
        if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&span) {
            Ok(span)
        } else {
            Err("must be from 1s to 24h".to_owned())
        }
    })
}
