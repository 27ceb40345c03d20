//! What an answer says about the rate limit.
//!
//! In: headers of an answer and the time. Out: how much is left, and how long to wait. Waits are bounded both ways, so that neither a wrong clock
//! nor a wrong header stops a config for long.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, fmt::rfc2822};
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

use crate::upstream::limiter::Rate;

/// Doppler's windows last a minute.
const MAX_WAIT: Duration = Duration::from_mins(5);
const MIN_WAIT: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);

/// Reads `x-ratelimit-limit`, `-remaining` and `-reset`; nothing unless all three are there and numbers.
pub(super) fn parse_rate(headers: &HeaderMap, now: Timestamp) -> Option<Rate> {
    let count = |name| u32::try_from(number(headers, name)?).ok();
    Some(Rate {
        limit: count("x-ratelimit-limit")?,
        remaining: count("x-ratelimit-remaining")?,
        resets_in: time_until_reset(headers, now)?,
    })
}

/// How long to wait after a 429: what `retry-after` says (seconds or a date), or until the window ends; nothing if neither is there.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let said = number(headers, RETRY_AFTER.as_str())
        .map(Duration::from_secs)
        .or_else(|| {
            let at = date(headers, RETRY_AFTER.as_str())?;
            Some(until(at, server_time(headers, now)))
        });
    said.map(bounded).or_else(|| time_until_reset(headers, now))
}

/// How long to wait until the window ends, by the server's clock if it tells the time. Both are whole seconds, so that the window may last up to one
/// more than their difference.
fn time_until_reset(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    reset_at(headers).map(|at| bounded(until(at, server_time(headers, now)) + SECOND))
}

fn bounded(wait: Duration) -> Duration {
    wait.clamp(MIN_WAIT, MAX_WAIT)
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now).max(SignedDuration::ZERO)).unwrap_or_default()
}

fn server_time(headers: &HeaderMap, now: Timestamp) -> Timestamp {
    date(headers, DATE.as_str()).unwrap_or(now)
}

fn reset_at(headers: &HeaderMap) -> Option<Timestamp> {
    let seconds = i64::try_from(number(headers, "x-ratelimit-reset")?).ok()?;
    Timestamp::from_second(seconds).ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn date(headers: &HeaderMap, name: &str) -> Option<Timestamp> {
    let zoned = rfc2822::parse(headers.get(name)?.to_str().ok()?).ok()?;
    Some(zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    // 2027-01-15T08:00:00Z
    const NOW: i64 = 1_800_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn parses_the_remaining_quota() {
        let said = headers(&[
            ("x-ratelimit-limit", "240"),
            ("x-ratelimit-remaining", "7"),
            ("x-ratelimit-reset", "1800000060"),
        ]);
        assert_eq!(
            parse_rate(&said, now()),
            Some(Rate {
                limit: 240,
                remaining: 7,
                resets_in: Duration::from_secs(61),
            })
        );
    }

    #[test]
    fn ignores_missing_and_malformed_headers() {
        assert_eq!(parse_rate(&headers(&[]), now()), None);
        assert_eq!(
            parse_rate(
                &headers(&[
                    ("x-ratelimit-limit", "many"),
                    ("x-ratelimit-remaining", "-1"),
                    ("x-ratelimit-reset", "99999999999999999999"),
                ]),
                now()
            ),
            None
        );
        let absurd = headers(&[("x-ratelimit-reset", "9223372036854775807")]);
        assert_eq!(time_until_reset(&absurd, now()), None);
        assert_eq!(retry_after(&headers(&[]), now()), None);
    }

    #[test]
    fn retry_after_overrides_the_window_end_and_is_bounded() {
        let wait = |pairs: &[(&'static str, &str)]| {
            retry_after(&headers(pairs), now()).map(|wait| wait.as_secs())
        };
        let reset = ("x-ratelimit-reset", "1800000042");
        assert_eq!(wait(&[("retry-after", "7"), reset]), Some(7));
        assert_eq!(
            wait(&[reset]),
            Some(43),
            "the window ends within that second"
        );
        assert_eq!(wait(&[("retry-after", "soon"), reset]), Some(43));
        assert_eq!(wait(&[("retry-after", "0")]), Some(1));
        assert_eq!(wait(&[("retry-after", "86400")]), Some(300));
        assert_eq!(
            wait(&[("retry-after", "Fri, 15 Jan 2027 08:00:20 GMT")]),
            Some(20)
        );
    }

    #[test]
    fn uses_the_servers_clock_if_sent() {
        let said = headers(&[
            ("date", "Fri, 15 Jan 2027 06:00:00 GMT"),
            ("x-ratelimit-reset", "1799992830"),
        ]);
        assert_eq!(
            time_until_reset(&said, now()),
            Some(Duration::from_secs(31))
        );
    }
}
