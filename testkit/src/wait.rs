//! Waits for a condition with a deadline.
//!
//! Input: a time limit, the name of the condition, and an attempt to observe it.
//! Output: the value of the first successful attempt, or an error with the condition, the time
//! waited, and the last failure.
//! Invariants: the wait ends at the deadline even if an attempt hangs.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// The result of one attempt: the value, or what was observed instead.
pub trait Attempt {
    /// The value that the wait returns.
    type Value;

    /// # Errors
    /// If the condition is not met yet: what was observed instead.
    fn into_result(self) -> Result<Self::Value, String>;
}

impl<T> Attempt for Option<T> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Display> Attempt for Result<T, E> {
    type Value = T;

    fn into_result(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// Repeats the attempt until it returns `Some` or `Ok`; `None` and `Err` mean "not yet".
///
/// # Errors
/// After `limit`: the condition, and the last error of an attempt.
pub async fn until<L: Attempt>(
    limit: Duration,
    what: &str,
    attempt: impl AsyncFnMut() -> L,
) -> Result<L::Value> {
    let pauses = Duration::from_millis(10)..=Duration::from_millis(250);
    poll(limit, pauses, what, attempt).await
}

/// Like `until`, with a constant pause between attempts, for measurements.
///
/// # Errors
/// As for `until`.
pub async fn until_every<L: Attempt>(
    limit: Duration,
    pause: Duration,
    what: &str,
    attempt: impl AsyncFnMut() -> L,
) -> Result<L::Value> {
    poll(limit, pause..=pause, what, attempt).await
}

async fn poll<L: Attempt>(
    limit: Duration,
    pauses: RangeInclusive<Duration>,
    what: &str,
    mut attempt: impl AsyncFnMut() -> L,
) -> Result<L::Value> {
    let deadline = Instant::now() + limit;
    let mut last_failure = "no attempt ended in time".to_owned();
    let mut pause = *pauses.start();
    loop {
        match timeout_at(deadline, attempt())
            .await
            .map(Attempt::into_result)
        {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(failure)) => last_failure = failure,
            Err(_) => {}
        }
        if Instant::now() + pause >= deadline {
            bail!("waited {limit:?} for {what}; last attempt: {last_failure}");
        }
        sleep(pause).await;
        pause = (pause * 2).min(*pauses.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[tokio::test]
    async fn returns_the_value_once_the_attempt_succeeds() {
        let mut attempts = 0;
        let found = until(Duration::from_secs(10), "the third attempt", async || {
            attempts += 1;
            (attempts == 3).then_some("there")
        });
        assert_eq!(found.await.unwrap(), "there");
    }

    #[tokio::test]
    async fn timeout_error_names_the_condition_and_last_failure() {
        let error = until(Duration::from_millis(100), "a Ready binding", async || {
            Err::<(), _>(anyhow!("Ready is False").context("binding a"))
        });
        let error = error.await.unwrap_err().to_string();
        assert_eq!(
            error,
            "waited 100ms for a Ready binding; last attempt: binding a: Ready is False"
        );
    }

    #[tokio::test]
    async fn a_hanging_attempt_ends_at_the_deadline() {
        let error = until(Duration::from_millis(100), "a server", async || {
            std::future::pending::<()>().await;
            Some(())
        });
        assert!(
            error
                .await
                .unwrap_err()
                .to_string()
                .contains("no attempt ended in time")
        );
    }
}
