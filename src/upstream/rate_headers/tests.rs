use super::*;
use http::{HeaderName, HeaderValue};

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
    assert_eq!(retry_after_limit(&headers(&[]), now()), None);
}

#[test]
fn retry_after_overrides_the_window_end_and_is_bounded() {
    let wait = |pairs: &[(&'static str, &str)]| {
        retry_after_limit(&headers(pairs), now()).map(|wait| wait.as_secs())
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

#[test]
fn parses_retry_after_unbounded_in_seconds_and_as_a_date() {
    let wait = |pairs: &[(&'static str, &str)]| retry_after(&headers(pairs), now());
    let date = ("date", "Fri, 15 Jan 2027 06:00:00 GMT");
    let later = ("retry-after", "Fri, 15 Jan 2027 07:00:00 GMT");
    assert_eq!(wait(&[("retry-after", "0")]), Some(Duration::ZERO));
    assert_eq!(
        wait(&[("retry-after", " 1.5")]),
        Some(Duration::from_millis(1500))
    );
    assert_eq!(
        wait(&[("retry-after", "86400")]),
        Some(Duration::from_hours(24))
    );
    assert_eq!(wait(&[later]), Some(Duration::ZERO), "it has passed");
    assert_eq!(wait(&[later, date]), Some(Duration::from_hours(1)));
    for malformed in ["", "soon", "-1", "nan", "inf", "1e300"] {
        assert_eq!(wait(&[("retry-after", malformed)]), None, "{malformed}");
    }
}
