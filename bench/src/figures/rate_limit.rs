//! Many configs of one token under Doppler's rate limit: when all are in sync, and whether all are
//! polled.
//!
//! Input: the limited workload. Output: the time until all bindings are in sync, and counts.
//! Invariants: the stand-in rejects watch streams, as Doppler does on the plan with this rate
//! limit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::doppler::{RateLimit, WatchMode};
use testkit::wait;

use super::context::FigureContext;
use crate::number::{as_f64, number};
use crate::resources;
use crate::result::{Findings, Goal, Row};
use crate::sizes::Sizes;
use crate::subject::RunOptions;
use crate::testbed::Testbed;
use crate::workload::Workload;
use crate::write_watch::WriteWatch;

/// The time for the start and for the last writes, in addition to the windows.
const SLACK: Duration = Duration::from_secs(10);

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let (sizes, subject) = (&context.sizes, context.subject);
    let workload = Workload {
        bindings: sizes.limited,
        configs: sizes.limited,
        one_token: true,
        ..context.small()
    };
    let testbed = resources::prepare(context.plane, subject, "limit", workload).await?;
    set_rate_limit(&testbed, sizes);
    let watch = WriteWatch::start(&testbed, subject).await?;
    // The first window begins with the first read. The last config is read in this window:
    let windows = (sizes.limited - 1) / sizes.rate as usize;
    let soonest = sizes.window * u32::try_from(windows)?;

    let started_at = Instant::now();
    let options = RunOptions::refresh(sizes.refresh);
    let running = subject.start(&testbed, &options).await?;
    running.wait_until_ready(SLACK * 6).await?;
    watch
        .until_synced(soonest * 3 + SLACK * 6, sizes.limited)
        .await?;
    let total = started_at.elapsed();

    // One more round of polls, and half a round for the last ones.
    let round = sizes.window * u32::try_from(windows + 1)? + sizes.refresh;
    let all_polled = wait::until(round * 3 / 2, "a second read of every config", async || {
        let missing = read_less_than_twice(&testbed);
        ensure!(missing == 0, "{missing} configs are not read again");
        Ok(())
    });
    let starved = match all_polled.await {
        Ok(()) => 0,
        Err(_) => read_less_than_twice(&testbed),
    };
    let rows = rows(sizes, &testbed, (total, soonest), starved);
    running.stop().await?;
    Ok(Findings::rows(rows))
}

fn set_rate_limit(testbed: &Testbed<'_>, sizes: &Sizes) {
    testbed.doppler.set_watch_mode(WatchMode::Refused(
        403,
        "Your plan has no watch streams".to_owned(),
    ));
    testbed.doppler.set_rate_limit(RateLimit {
        secret_reads: sizes.rate,
        reads: sizes.rate,
        window: sizes.window,
    });
}

/// The rows. `total` is the measured time, and `soonest` the time that the rate limit allows.
fn rows(
    sizes: &Sizes,
    testbed: &Testbed<'_>,
    (total, soonest): (Duration, Duration),
    starved: usize,
) -> Vec<Row> {
    let count = number(as_f64(sizes.limited));
    let about = format!(
        "{count} bindings on {count} configs of one token, {} requests in {}",
        sizes.rate,
        window_text(sizes.window)
    );
    let time = format!(
        "all in sync {:.1} s after the start; the rate limit allows the last read after {:.0} s",
        total.as_secs_f64(),
        soonest.as_secs_f64()
    );
    let calls = testbed.doppler.requests();
    let streams = calls.iter().filter(|call| call.is_watch()).count();
    let counts = testbed.doppler.counts();
    let requests = format!(
        "{} requests in total, {streams} of them for watch streams, which the stand-in rejects",
        counts.requests
    );
    vec![
        Row::new(
            format!("{about}: all synced"),
            total.as_secs_f64(),
            "s",
            Goal::AtMost((soonest + SLACK).as_secs_f64()),
        )
        .note(time),
        Row::count(
            format!("{about}: answers 429"),
            as_f64(counts.status(429)),
            Goal::AtMost(1.0),
        )
        .note(requests),
        Row::count(
            format!("{about}: configs not read again in the next round and a half"),
            as_f64(starved),
            Goal::Exactly(0.0),
        ),
    ]
}

/// The number of configs that were read less than twice.
fn read_less_than_twice(testbed: &Testbed<'_>) -> usize {
    let mut reads: BTreeMap<String, u32> = BTreeMap::new();
    for call in testbed.doppler.downloads() {
        if matches!(call.status, Some(200 | 304)) {
            let config = call.query.get("config").cloned().unwrap_or_default();
            *reads.entry(config).or_default() += 1;
        }
    }
    let twice = reads.values().filter(|count| **count >= 2).count();
    testbed.workload.configs.saturating_sub(twice)
}

fn window_text(time: Duration) -> String {
    if time == Duration::from_mins(1) {
        "a minute".to_owned()
    } else {
        format!("{} s", time.as_secs_f64())
    }
}
