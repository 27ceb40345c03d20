//! A change in Doppler, notified by the watch stream.
//!
//! Input: one binding. Output: the times of the changes.
//! Invariants: the operator does not poll, so that only a notification can trigger a read.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::wait;

use super::change_chart::{change_config, doppler_findings, one_binding};
use super::change_times::change_times;
use super::context::FigureContext;
use crate::result::Findings;
use crate::subject::RunOptions;

const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let options = RunOptions::without_polls();
    let workload = one_binding(context);
    let synced = context.cold_sync("stream", workload, &options).await?;
    let testbed = &synced.testbed;
    wait::until(STREAM_TIMEOUT, "an open watch stream", async || {
        ensure!(testbed.doppler.open_streams() > 0, "no stream is open");
        Ok(())
    })
    .await?;
    let times = change_times(&synced.watch, context.sizes.changes, async |number| {
        Ok(change_config(testbed, number))
    })
    .await?;
    synced.stop().await?;
    Ok(doppler_findings("stream", "watch stream", &times))
}
