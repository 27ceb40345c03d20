//! One change in Doppler with many bindings on the config: the time until the last Secret is written, beside the floor, which writes the same
//! Secrets and statuses once each.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::cold::as_f64;
use super::sync::{self, LIMIT};
use super::times::{median, worst};
use crate::Bench;
use crate::floor::Floor;
use crate::observe::watch::{Sight, Watching};
use crate::result::{Findings, Goal, Row, number};
use crate::scene::{PROJECT, config};
use crate::subject::How;

/// The run.
pub async fn measure(bench: &Bench<'_>) -> Result<Findings> {
    let plan = bench.plan();
    let how = How::without_polls();
    let known = bench.floor().await?;
    let floor = Floor::new(bench.subject, known);
    let written = sync::cold(bench, &floor, "many-floor", plan, &how).await?;
    let synced = sync::cold(bench, bench.subject, "many", plan, &how).await?;
    let (mut floors, mut times) = (Vec::new(), Vec::new());
    for number in 0..bench.sizes.many_changes {
        written.watching.mark();
        let begun = Instant::now();
        floor.change(&written.scene, number).await?;
        floors.push(last_secret(&written.watching, plan.bindings, begun, LIMIT).await?);

        // Without anything to hear of a change, nothing comes.
        let limit = Duration::from_secs(5) + worst(&floors) * 4;
        synced.watching.mark();
        let begun = Instant::now();
        synced
            .scene
            .doppler
            .set(PROJECT, &config(0), "KEY_00", &format!("{number:032}"));
        times.push(last_secret(&synced.watching, plan.bindings, begun, limit).await?);
        // The statuses as well, before the next change.
        let all = |sight: &Sight| sight.resource_writes >= plan.bindings;
        synced.watching.until(limit, "the statuses", all).await?;
    }
    sync::end(synced).await?;
    written.running.stop().await?;

    let (time, floor) = (median(&times), median(&floors));
    let note = format!(
        "{:.2} s; floor {:.2} s, {} at a time (medians of {} changes each, in turn)",
        time.as_secs_f64(),
        floor.as_secs_f64(),
        known.concurrency,
        times.len(),
    );
    let what = format!(
        "change in Doppler → last Secret written, {} bindings on the config: time ÷ floor",
        number(as_f64(plan.bindings))
    );
    let ratio = time.as_secs_f64() / floor.as_secs_f64();
    Ok(Findings {
        rows: vec![Row::new(what, ratio, "", Goal::AtMost(1.5)).note(note)],
        charts: Vec::new(),
    })
}

async fn last_secret(
    watching: &Watching,
    count: usize,
    begun: Instant,
    limit: Duration,
) -> Result<Duration> {
    let what = format!("{count} Secrets to be changed");
    watching
        .until(limit, &what, |sight| sight.secrets.len() >= count)
        .await?;
    let last = watching.sight().secrets.values().max().copied();
    Ok(last.map_or(Duration::ZERO, |last| last.saturating_duration_since(begun)))
}
