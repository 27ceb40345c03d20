//! A change in Doppler with many bindings on the config, compared with the floor.
//!
//! Input: the small run. Output: the ratio of the times until the last Secret is written.
//! Invariants: the operator and the floor change in turn, and the median of each counts.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::change_chart::change_config;
use super::context::FigureContext;
use super::statistics::{median, worst};
use crate::cold_sync::{self, LIMIT};
use crate::number::{as_f64, number};
use crate::result::{Findings, Goal, Row};
use crate::subject::RunOptions;
use crate::write_watch::{SeenWrites, WriteWatch};

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let workload = context.small();
    let bindings = workload.bindings;
    let options = RunOptions::without_polls();
    let calibration = context.calibration().await?;
    let floor = calibration.floor(context.subject);
    let written = cold_sync::run(context.plane, &floor, "many-floor", workload, &options).await?;
    let synced = context.cold_sync("many", workload, &options).await?;
    let (mut floors, mut times) = (Vec::new(), Vec::new());
    for number in 0..context.sizes.many_changes {
        written.watch.mark();
        let started_at = Instant::now();
        floor.change(&written.testbed, number).await?;
        floors.push(last_secret(&written.watch, bindings, started_at, LIMIT).await?);

        // A subject without a notification writes nothing, and must not wait for the long limit.
        let limit = Duration::from_secs(5) + worst(&floors) * 4;
        synced.watch.mark();
        let started_at = change_config(&synced.testbed, number);
        times.push(last_secret(&synced.watch, bindings, started_at, limit).await?);
        // All statuses must be written before the next change.
        let all = |seen: &SeenWrites| seen.resource_writes >= bindings;
        synced.watch.until(limit, "the statuses", all).await?;
    }
    synced.stop().await?;
    written.stop().await?;

    let (time, floor) = (median(&times).as_secs_f64(), median(&floors).as_secs_f64());
    let note = format!(
        "{time:.2} s; floor {floor:.2} s with {} concurrent requests (medians of {} changes each, in turn)",
        calibration.concurrency,
        times.len(),
    );
    let what = format!(
        "change in Doppler → last Secret written, {} bindings on the config: time ÷ floor",
        number(as_f64(bindings))
    );
    let row = Row::new(what, time / floor, "", Goal::AtMost(1.5)).note(note);
    Ok(Findings::rows(vec![row]))
}

async fn last_secret(
    watch: &WriteWatch,
    count: usize,
    started_at: Instant,
    limit: Duration,
) -> Result<Duration> {
    let what = format!("{count} changed Secrets");
    watch
        .until(limit, &what, |seen| seen.secrets.len() >= count)
        .await?;
    let last = watch.seen().secrets.values().max().copied();
    Ok(last.map_or(Duration::ZERO, |last| {
        last.saturating_duration_since(started_at)
    }))
}
