//! Starts a task again when it panics.
//!
//! Input: a function that starts the task.
//! Output: its result; a log line and a count for each panic.
//! Invariants: a panic of one block, config, pool or subscription stops no other, and not itself for
//! long. The message of a panic is not logged, because it may contain a value.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
use tokio::time::sleep;
use tracing::error;

use super::backoff::Backoff;
use crate::metrics::{Metrics, TaskLabels};

/// Delays before a task that panicked is started again.
const RESTARTS: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(5));

/// Runs a task, and again after each panic.
pub async fn supervised<T, F: Future<Output = T>>(
    task: &'static str,
    metrics: &Metrics,
    mut start: impl FnMut() -> F,
) -> T {
    let mut panics = 0;
    loop {
        // No lock is poisoned, and each task reads its state again when it starts.
        if let Ok(result) = AssertUnwindSafe(start()).catch_unwind().await {
            return result;
        }
        panics += 1;
        let delay = RESTARTS.delay(panics);
        error!(task, panics, ?delay, "a task panicked; it starts again");
        let labels = TaskLabels { task };
        metrics.task_panics.get_or_create(&labels).inc();
        sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn starts_a_task_again_after_each_panic() {
        let metrics = Metrics::new();
        let mut starts = 0;
        let result = supervised("test", &metrics, || {
            starts += 1;
            let start = starts;
            async move {
                assert!(start > 2, "never shown");
                start
            }
        })
        .await;
        assert_eq!(result, 3);
        let page = metrics.text();
        assert!(
            page.contains("doppler_prefect_task_panics_total{task=\"test\"} 2"),
            "{page}"
        );
    }
}
