//! A restart in sync: how soon it is ready, and whether it writes what is there already.

use std::time::Instant;

use anyhow::{Context, Result};

use super::cold::as_f64;
use super::sync::{self, LIMIT};
use crate::Bench;
use crate::observe::process::Usage;
use crate::observe::rest::at_rest;
use crate::result::{Findings, Goal, Row, number};
use crate::scene::Plan;
use crate::subject::How;

/// The run.
pub async fn measure(bench: &Bench<'_>) -> Result<Findings> {
    let plan = Plan {
        bindings: bench.sizes.large,
        ..bench.plan()
    };
    let how = How::without_polls();
    let synced = sync::cold(bench, bench.subject, "restart", plan, &how).await?;
    if let Some(pid) = synced.running.pid() {
        // What it still had to do is not the next one's.
        at_rest(&synced.scene, pid).await?;
    }
    synced.running.stop().await?;
    let (scene, watching) = (synced.scene, synced.watching);
    watching.mark();
    let before = scene.ledger.read(scene.plane).await?;
    scene.doppler.reset_requests();

    let begun = Instant::now();
    let running = bench.subject.start(&scene, &how).await?;
    running.ready(LIMIT).await?;
    let ready = begun.elapsed();
    let pid = running.pid().context("no process")?;
    // Ready says that it knows what is there; it has compared all of it once it has nothing to do.
    let calm = at_rest(&scene, pid).await?;
    let settled = begun.elapsed();
    let requests = scene.ledger.read(scene.plane).await? - before;
    let cpu = Usage::of(pid)?.cpu;
    let downloads = scene.doppler.counts().downloads;
    running.stop().await?;

    let about = |what: &str| {
        format!(
            "restart in sync, {} bindings: {what}",
            number(as_f64(plan.bindings))
        )
    };
    let note = format!(
        "{} after {:.1} s, {:.2} s of CPU, {downloads} requests for the config",
        if calm {
            "nothing left to do"
        } else {
            "still busy"
        },
        settled.as_secs_f64(),
        cpu.as_secs_f64()
    );
    Ok(Findings {
        rows: vec![
            Row::new(about("ready"), ready.as_secs_f64(), "s", Goal::Below(10.0)).note(note),
            Row::count(
                about("API server writes"),
                as_f64(requests.writes() + requests.events),
                Goal::Exactly(0.0),
            )
            .note(format!(
                "{}; {} Secrets were seen written",
                requests.in_words(),
                watching.sight().secret_writes
            )),
        ],
        charts: Vec::new(),
    })
}
