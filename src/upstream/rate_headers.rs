//! What the headers of an answer say about the rate limit, for both upstreams.
//!
//! Input: the headers of an answer, and the time.
//! Output: the quota that is left, and how long to wait.
//! Invariants: pure. [`parse_rate`] and [`retry_after_limit`] bound their waits, so neither a wrong
//! clock nor a wrong header stops a config for long. The server's clock is used if it is sent.

use std::time::Duration;

use http::{
    HeaderMap,
    header::{DATE, RETRY_AFTER},
};
use jiff::{SignedDuration, Timestamp, fmt::rfc2822};

use super::limiter::Rate;

const LIMIT: &str = "x-ratelimit-limit";
const REMAINING: &str = "x-ratelimit-remaining";
const RESET: &str = "x-ratelimit-reset";
/// Doppler's windows last one minute.
const MAX_WAIT: Duration = Duration::from_mins(5);
const MIN_WAIT: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);

/// Parses `x-ratelimit-limit`, `-remaining` and `-reset`. Returns `None` unless all are numbers.
#[must_use]
pub fn parse_rate(headers: &HeaderMap, now: Timestamp) -> Option<Rate> {
    let count = |name| u32::try_from(number(headers, name)?).ok();
    Some(Rate {
        limit: count(LIMIT)?,
        remaining: count(REMAINING)?,
        resets_in: time_until_reset(headers, now)?,
    })
}

/// How long to wait after a 429: `Retry-After`, or else until the window of the limit ends, bounded
/// both ways. Returns `None` if neither header is usable.
#[must_use]
pub fn retry_after_limit(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    retry_after(headers, now)
        .map(bounded)
        .or_else(|| time_until_reset(headers, now))
}

/// Parses `Retry-After`, in seconds (also with a fraction) or as a date. The caller bounds it.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    Some(until(
        date(headers, RETRY_AFTER.as_str())?,
        server_time(headers, now),
    ))
}

/// The time until the window of the limit ends. Reset and clock are whole seconds, so the window
/// may last up to one second longer than their difference.
fn time_until_reset(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let seconds = i64::try_from(number(headers, RESET)?).ok()?;
    let reset = Timestamp::from_second(seconds).ok()?;
    Some(bounded(until(reset, server_time(headers, now)) + SECOND))
}

fn bounded(wait: Duration) -> Duration {
    wait.clamp(MIN_WAIT, MAX_WAIT)
}

fn until(time: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(now).max(SignedDuration::ZERO)).unwrap_or_default()
}

/// The time by the server's clock. `now` if it is not sent.
#[must_use]
pub fn server_time(headers: &HeaderMap, now: Timestamp) -> Timestamp {
    date(headers, DATE.as_str()).unwrap_or(now)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn date(headers: &HeaderMap, name: &str) -> Option<Timestamp> {
    let zoned = rfc2822::parse(headers.get(name)?.to_str().ok()?.trim()).ok()?;
    Some(zoned.timestamp())
}

#[cfg(test)]
mod tests;
