//! Many configs of one token under Doppler's limit: all are synced as soon as it allows, and all are read again in their turn.
//!
//! Doppler's stand-in refuses watch streams here, as on the plan that has this limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::cold::as_f64;
use crate::Bench;
use crate::observe::watch::Watching;
use crate::result::{Findings, Goal, Row, number};
use crate::scene::{Plan, Scene};
use crate::subject::How;
use testkit::doppler::{RateLimit, WatchMode};
use testkit::wait;

/// What a start and the last writes may take beside the windows.
const SLACK: Duration = Duration::from_secs(10);

/// The run.
pub async fn measure(bench: &Bench<'_>) -> Result<Findings> {
    let sizes = &bench.sizes;
    let plan = Plan {
        bindings: sizes.limited,
        configs: sizes.limited,
        one_token: true,
        ..bench.plan()
    };
    let scene = Scene::set(bench.plane, bench.subject, "limit", plan).await?;
    scene.doppler.set_watch_mode(WatchMode::Refused(
        403,
        "Your plan has no watch streams".to_owned(),
    ));
    scene.doppler.set_rate_limit(RateLimit {
        secret_reads: sizes.rate,
        reads: sizes.rate,
        window: sizes.window,
    });
    let watching = Watching::start(&scene, bench.subject).await?;
    // The last config's first read is in this window; the first window begins with the first read.
    let windows = (sizes.limited - 1) / sizes.rate as usize;
    let soonest = sizes.window * u32::try_from(windows)?;

    let begun = Instant::now();
    let how = How::refresh(sizes.refresh);
    let running = bench.subject.start(&scene, &how).await?;
    running.ready(SLACK * 6).await?;
    watching
        .until_synced(soonest * 3 + SLACK * 6, sizes.limited)
        .await?;
    let whole = begun.elapsed();

    // Another round, and half of one for those that come last.
    let round = sizes.window * u32::try_from(windows + 1)? + sizes.refresh;
    let starved = wait::until(round * 3 / 2, "every config to be read again", async || {
        let left = read_less_than_twice(&scene);
        ensure!(left == 0, "{left} were not");
        Ok(())
    });
    let starved = match starved.await {
        Ok(()) => 0,
        Err(_) => read_less_than_twice(&scene),
    };
    let refused = scene.doppler.counts().status(429);
    let streams = scene
        .doppler
        .requests()
        .iter()
        .filter(|call| call.is_watch())
        .count();
    running.stop().await?;

    let about = format!(
        "{} bindings on {} configs of one token, {} requests in {}",
        number(as_f64(sizes.limited)),
        number(as_f64(sizes.limited)),
        sizes.rate,
        span(sizes.window)
    );
    let note = format!(
        "all synced {:.1} s after the start; the limit allows the last read after {:.0} s",
        whole.as_secs_f64(),
        soonest.as_secs_f64()
    );
    let reads = format!(
        "{} requests in all, {streams} of them for watch streams, which are refused",
        scene.doppler.counts().requests
    );
    Ok(Findings {
        rows: vec![
            Row::new(
                format!("{about}: all synced"),
                whole.as_secs_f64(),
                "s",
                Goal::AtMost((soonest + SLACK).as_secs_f64()),
            )
            .note(note),
            Row::count(
                format!("{about}: answers 429"),
                as_f64(refused),
                Goal::AtMost(1.0),
            )
            .note(reads),
            Row::count(
                format!("{about}: configs not read again in the next round and a half"),
                as_f64(starved),
                Goal::Exactly(0.0),
            ),
        ],
        charts: Vec::new(),
    })
}

/// How many configs were not given out at least twice.
fn read_less_than_twice(scene: &Scene<'_>) -> usize {
    let mut reads: BTreeMap<String, u32> = BTreeMap::new();
    for call in scene.doppler.downloads() {
        if matches!(call.status, Some(200 | 304)) {
            *reads
                .entry(call.query.get("config").cloned().unwrap_or_default())
                .or_default() += 1;
        }
    }
    let twice = reads.values().filter(|count| **count >= 2).count();
    scene.plan.configs.saturating_sub(twice)
}

fn span(time: Duration) -> String {
    if time == Duration::from_mins(1) {
        "a minute".to_owned()
    } else {
        format!("{} s", time.as_secs_f64())
    }
}
