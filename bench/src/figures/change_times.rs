//! The time from a change to the write of the Secret, for one binding.
//!
//! Input: a function that makes a change. Output: the time of each change.
//! Invariants: the clock starts right before the change, and stops when the watch shows the new
//! version of the Secret. The next change waits until the status is written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::write_watch::WriteWatch;

/// A change that takes longer was not notified.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);
/// The first changes are not measured, because the subscription may not be open yet.
const TRIES: usize = 4;
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes `count` changes one after the other, and returns the time of each.
///
/// # Errors
/// When a change is not written in time.
pub async fn change_times(
    watch: &WriteWatch,
    count: usize,
    mut change: impl AsyncFnMut(usize) -> Result<Instant>,
) -> Result<Vec<Duration>> {
    let mut number = 0;
    while time_of(watch, &mut change, number).await?.is_none() {
        number += 1;
        ensure!(
            number < TRIES,
            "none of {number} changes was written within {NOTIFY_TIMEOUT:?}: no notification arrives"
        );
    }
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        number += 1;
        let time = time_of(watch, &mut change, number).await?;
        let current = times.len() + 1;
        times.push(time.with_context(|| {
            format!("change {current} of {count} was not written within {NOTIFY_TIMEOUT:?}")
        })?);
    }
    Ok(times)
}

/// The time of one change; none if it was not written in time.
async fn time_of(
    watch: &WriteWatch,
    change: &mut impl AsyncFnMut(usize) -> Result<Instant>,
    number: usize,
) -> Result<Option<Duration>> {
    watch.mark();
    let started_at = change(number).await?;
    let written = watch.until(NOTIFY_TIMEOUT, "the Secret", |seen| {
        !seen.secrets.is_empty()
    });
    if written.await.is_err() {
        return Ok(None);
    }
    let at = watch.seen().secrets.values().next().copied();
    // The status of this change must not overlap with the next change. A subject may write no
    // status.
    let status = watch.until(STATUS_TIMEOUT, "the status", |seen| {
        seen.resource_writes > 0
    });
    let _ = status.await;
    Ok(at.map(|at| at.saturating_duration_since(started_at)))
}
