//! The cost of flow runs that start at a rate of 100 a minute.
//!
//! Input: a testbed in sync. Output: a row with the reads of the config.
//! Invariants: the runs are taken as a worker takes them, so that the server reports them, and no Job is
//! created.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use testkit::prefect::PrefectApi;
use tokio::time::sleep_until;

use crate::number::as_f64;
use crate::result::{Goal, Row};
use crate::testbed::Testbed;

/// 100 runs a minute.
const INTERVAL: Duration = Duration::from_millis(600);
/// The last read follows the last run within this time.
const TRAILING: Duration = Duration::from_secs(2);

/// Starts runs for this time, and counts the reads of the config.
///
/// # Errors
/// When the server rejects a run.
pub async fn measure(
    testbed: &Testbed<'_>,
    api: &PrefectApi,
    deployment: &str,
    time: Duration,
) -> Result<Row> {
    testbed.doppler.reset_requests();
    let started_at = Instant::now();
    let (mut runs, mut next) = (0_usize, started_at);
    while started_at.elapsed() < time {
        let run = api.create_flow_run(deployment).await?;
        let pending = json!({"state": {"type": "PENDING", "name": "Pending"}});
        api.post(&format!("/flow_runs/{run}/set_state"), &pending)
            .await
            .context("taking a run")?;
        runs += 1;
        next += INTERVAL;
        sleep_until(next.into()).await;
    }
    sleep_until((Instant::now() + TRAILING).into()).await;
    let seconds = started_at.elapsed().as_secs_f64();
    let reads = as_f64(testbed.doppler.downloads().len());
    let rate = as_f64(runs) / (seconds - TRAILING.as_secs_f64()) * 60.0;
    let row = Row::new(
        "reads of one config a second while flow runs start, 100 a minute",
        reads / (seconds - TRAILING.as_secs_f64()),
        "",
        // One more read is allowed after a pause, and the last read may follow the time.
        Goal::AtMost(1.0 + 2.0 / (seconds - TRAILING.as_secs_f64())),
    );
    Ok(row.note(format!(
        "{runs} runs, {rate:.0} a minute; {reads:.0} reads, all conditional"
    )))
}
