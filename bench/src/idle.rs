//! Waits until a subject is idle: it uses almost no CPU and sends no request to the API server.
//!
//! Input: a testbed and the process ID of the subject. Output: whether it became idle in time.
//! Invariants: an Event that the subject delays counts as a request when it is sent.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::process_usage::Usage;
use crate::testbed::Testbed;

const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// The share of a core below which a process counts as idle.
const IDLE_SHARE: f64 = 0.03;
const LIMIT: Duration = Duration::from_mins(5);

/// Waits until the process was idle for two samples in a row. False if it did not become idle in
/// time.
///
/// # Errors
/// When the process exits, or the API server does not return its metrics.
pub async fn wait_until_idle(testbed: &Testbed<'_>, pid: u32) -> Result<bool> {
    let deadline = Instant::now() + LIMIT;
    let mut idle_samples = 0;
    let mut usage = Usage::of(pid)?;
    let mut requests = testbed.requests.read(testbed.plane).await?;
    while Instant::now() < deadline {
        sleep(SAMPLE_INTERVAL).await;
        let (now, counted) = (Usage::of(pid)?, testbed.requests.read(testbed.plane).await?);
        let is_idle = now.share_since(&usage) < IDLE_SHARE && counted == requests;
        idle_samples = if is_idle { idle_samples + 1 } else { 0 };
        if idle_samples == 2 {
            return Ok(true);
        }
        (usage, requests) = (now, counted);
    }
    Ok(false)
}
