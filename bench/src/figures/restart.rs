//! A restart in sync: when the operator is ready, and whether it writes anything.
//!
//! Input: the large run, in sync. Output: the time until ready, and the number of writes.
//! Invariants: the first operator is idle before it stops, so that it leaves no work.

use std::time::Instant;

use anyhow::{Context, Result};

use super::context::FigureContext;
use crate::cold_sync::LIMIT;
use crate::idle::wait_until_idle;
use crate::number::{as_f64, number};
use crate::process_usage::Usage;
use crate::result::{Findings, Goal, Row};
use crate::subject::RunOptions;
use crate::workload::Workload;

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let workload = Workload {
        bindings: context.sizes.large,
        ..context.small()
    };
    let options = RunOptions::without_polls();
    let synced = context.cold_sync("restart", workload, &options).await?;
    if let Some(pid) = synced.running.pid() {
        wait_until_idle(&synced.testbed, pid).await?;
    }
    synced.running.stop().await?;
    let (testbed, watch) = (synced.testbed, synced.watch);
    watch.mark();
    let before = testbed.requests.read(testbed.plane).await?;
    testbed.doppler.reset_requests();

    let started_at = Instant::now();
    let running = context.subject.start(&testbed, &options).await?;
    running.wait_until_ready(LIMIT).await?;
    let ready = started_at.elapsed();
    let pid = running.pid().context("the subject is not a process")?;
    // Ready means that the caches are filled. All bindings are reconciled when the operator is
    // idle.
    let is_idle = wait_until_idle(&testbed, pid).await?;
    let settled = started_at.elapsed();
    let requests = testbed.requests.read(testbed.plane).await? - before;
    let cpu = Usage::of(pid)?.cpu;
    let downloads = testbed.doppler.counts().downloads;
    running.stop().await?;

    let count = number(as_f64(workload.bindings));
    let about = |what: &str| format!("restart in sync, {count} bindings: {what}");
    let note = format!(
        "{} after {:.1} s, {:.2} s of CPU, {downloads} requests for the config",
        if is_idle { "idle" } else { "still busy" },
        settled.as_secs_f64(),
        cpu.as_secs_f64()
    );
    let writes = format!(
        "{}; the watch showed {} writes of Secrets",
        requests.writes_by_kind(),
        watch.seen().secret_writes
    );
    Ok(Findings::rows(vec![
        Row::new(about("ready"), ready.as_secs_f64(), "s", Goal::Below(10.0)).note(note),
        Row::count(
            about("API server writes"),
            as_f64(requests.writes() + requests.events),
            Goal::Exactly(0.0),
        )
        .note(writes),
    ]))
}
