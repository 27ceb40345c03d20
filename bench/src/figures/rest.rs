//! An operator at rest: what it asks of the API server and upstream, and what it uses, while nothing changes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::cold::as_f64;
use super::sync;
use crate::Bench;
use crate::observe::process::Usage;
use crate::observe::rest::at_rest;
use crate::result::{Findings, Goal, Row, number};
use crate::scene::{Plan, Scene};
use crate::subject::How;

/// Polls are jittered by a tenth.
const JITTER: f64 = 1.1;

/// The run.
pub async fn measure(bench: &Bench<'_>) -> Result<Findings> {
    let sizes = &bench.sizes;
    let plan = Plan {
        bindings: sizes.large,
        ..bench.plan()
    };
    let how = How::refresh(sizes.refresh);
    let synced = sync::cold(bench, bench.subject, "rest", plan, &how).await?;
    let (scene, pid) = (&synced.scene, synced.running.pid().context("no process")?);
    let calm = at_rest(scene, pid).await?;
    let (requests, usage) = (scene.ledger.read(scene.plane).await?, Usage::of(pid)?);
    let upstream = Upstream::of(scene)?;
    // The one wait for a time: what does not happen can only be seen by looking for a while.
    sleep(sizes.rest).await;
    let (upstream, looked) = upstream.until(Upstream::of(scene)?);
    let after = Usage::of(pid)?;
    let requests = scene.ledger.read(scene.plane).await? - requests;
    let Upstream {
        blocks,
        downloads,
        streams,
        ..
    } = upstream;
    let others = scene.prefect.stand_in()?.counts().others;
    sync::end(synced).await?;

    let intervals = looked.as_secs_f64() / sizes.refresh.as_secs_f64();
    let about = |what: &str| {
        format!(
            "{what}, {} bindings at rest for {}",
            number(as_f64(plan.bindings)),
            minutes(sizes.rest)
        )
    };
    let note = format!(
        "{}; {} Leases; {} watches were opened anew; {}",
        requests.in_words(),
        requests.leases,
        requests.watches,
        if calm {
            "looked at once it had nothing to do and no Event to write"
        } else {
            "it never came to rest before"
        }
    );
    let interval = if sizes.refresh == Duration::from_mins(1) {
        "a minute"
    } else {
        "an interval"
    };
    // What may fall into the window at its edges: one poll of each.
    let most = (2.0 * JITTER * intervals + 2.0) / intervals;
    Ok(Findings {
        rows: vec![
            Row::count(
                about("API server writes"),
                as_f64(requests.writes() + requests.events),
                Goal::Exactly(0.0),
            )
            .note(note),
            Row::count(about("API server reads beyond open watches"), as_f64(requests.reads), Goal::Exactly(0.0)),
            Row::count(
                about(&format!("requests upstream {interval}")),
                as_f64(blocks + downloads) / intervals,
                Goal::AtMost(most),
            )
            .note(format!(
                "{blocks} for the block, {downloads} for the config; beside them {streams} watch streams opened, {others} others at Prefect since the start; the goal is 2, a tenth of jitter and the edges of the window"
            )),
            Row::new(about("CPU"), 100.0 * after.share_since(&usage), "% of a core", Goal::Below(1.0)),
        ],
        charts: Vec::new(),
    })
}

/// What upstreams were asked until a moment.
#[derive(Clone, Copy)]
struct Upstream {
    at: Instant,
    blocks: u64,
    downloads: u64,
    streams: u64,
}

impl Upstream {
    fn of(scene: &Scene<'_>) -> Result<Self> {
        let doppler = scene.doppler.counts();
        Ok(Self {
            at: Instant::now(),
            blocks: scene.block_reads().context("no count of blocks")?,
            downloads: doppler.downloads,
            streams: doppler.watches,
        })
    }

    /// What was asked from here until then, and how long that was.
    fn until(self, then: Self) -> (Self, Duration) {
        let between = Self {
            blocks: then.blocks - self.blocks,
            downloads: then.downloads - self.downloads,
            streams: then.streams - self.streams,
            ..then
        };
        (between, then.at - self.at)
    }
}

fn minutes(time: Duration) -> String {
    if time.as_secs() >= 60 {
        format!("{} minutes", number(time.as_secs_f64() / 60.0))
    } else {
        format!("{} s", number(time.as_secs_f64()))
    }
}
