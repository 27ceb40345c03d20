//! Waiting for a condition, never for a time.
//!
//! In: a limit, what is waited for, and a look at it. Out: what the look found, or an error that says what was
//! waited for, how long, and what was seen last.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// What a look found: the thing, or what was there instead.
pub trait Look {
    /// The thing that is waited for.
    type Found;

    /// # Errors
    /// When it is not there yet: what was seen instead.
    fn found(self) -> Result<Self::Found, String>;
}

impl<T> Look for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// Looks again and again until the look gives `Some` or `Ok`; `None` and `Err` mean "not yet".
///
/// # Errors
/// After `limit`: what was waited for, and what the last look saw (an `Err` is what it saw).
pub async fn until<L: Look>(
    limit: Duration,
    what: &str,
    look: impl AsyncFnMut() -> L,
) -> Result<L::Found> {
    let pauses = Duration::from_millis(10)..=Duration::from_millis(250);
    looking(limit, pauses, what, look).await
}

/// As `until`, with the same pause between any two looks: for those who measure when it was.
///
/// # Errors
/// As `until`.
pub async fn until_each<L: Look>(
    limit: Duration,
    pause: Duration,
    what: &str,
    look: impl AsyncFnMut() -> L,
) -> Result<L::Found> {
    looking(limit, pause..=pause, what, look).await
}

async fn looking<L: Look>(
    limit: Duration,
    pauses: RangeInclusive<Duration>,
    what: &str,
    mut look: impl AsyncFnMut() -> L,
) -> Result<L::Found> {
    let deadline = Instant::now() + limit;
    let mut seen = "no look ended in time".to_owned();
    let mut pause = *pauses.start();
    loop {
        match timeout_at(deadline, look()).await.map(Look::found) {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(instead)) => seen = instead,
            Err(_) => {}
        }
        if Instant::now() + pause >= deadline {
            bail!("waited {limit:?} for {what}; seen last: {seen}");
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
    async fn gives_what_the_look_found() {
        let mut looks = 0;
        let found = until(Duration::from_secs(10), "the third look", async || {
            looks += 1;
            (looks == 3).then_some("there")
        });
        assert_eq!(found.await.unwrap(), "there");
    }

    #[tokio::test]
    async fn says_what_was_waited_for_and_what_was_seen_last() {
        let error = until(Duration::from_millis(100), "a Ready binding", async || {
            Err::<(), _>(anyhow!("Ready is False").context("binding a"))
        });
        let error = error.await.unwrap_err().to_string();
        assert_eq!(
            error,
            "waited 100ms for a Ready binding; seen last: binding a: Ready is False"
        );
    }

    #[tokio::test]
    async fn a_look_that_hangs_ends_at_the_deadline() {
        let error = until(Duration::from_millis(100), "a server", async || {
            std::future::pending::<()>().await;
            Some(())
        });
        assert!(
            error
                .await
                .unwrap_err()
                .to_string()
                .contains("no look ended in time")
        );
    }
}
