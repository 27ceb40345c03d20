//! An operator at rest: its requests to the API server and upstream, and its CPU time, while
//! nothing changes.
//!
//! Input: the large run, in sync and idle. Output: counts, and the share of a core.
//! Invariants: only this figure waits for a fixed time, because the absence of requests can only be
//! observed over a time span.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::context::FigureContext;
use crate::idle::wait_until_idle;
use crate::number::{as_f64, number};
use crate::process_usage::Usage;
use crate::request_counter::Requests;
use crate::result::{Findings, Goal, Row};
use crate::sizes::Sizes;
use crate::subject::RunOptions;
use crate::testbed::Testbed;
use crate::workload::Workload;

/// The operator adds up to a tenth of jitter to its poll interval.
const JITTER: f64 = 1.1;

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let sizes = &context.sizes;
    let workload = Workload {
        bindings: sizes.large,
        ..context.small()
    };
    let options = RunOptions::refresh(sizes.refresh);
    let synced = context.cold_sync("rest", workload, &options).await?;
    let testbed = &synced.testbed;
    let pid = synced.running.pid();
    let pid = pid.context("the subject is not a process")?;
    let was_idle = wait_until_idle(testbed, pid).await?;
    let (requests, usage) = (testbed.requests.read(testbed.plane).await?, Usage::of(pid)?);
    let before = UpstreamCounts::of(testbed)?;
    sleep(sizes.rest).await;
    let upstream = UpstreamCounts::of(testbed)?;
    let (reads, observed) = (upstream.since(before), upstream.at - before.at);
    let cpu_share = Usage::of(pid)?.share_since(&usage);
    let requests = testbed.requests.read(testbed.plane).await? - requests;
    synced.stop().await?;

    let about = |what: &str| about(what, workload, sizes);
    let mut rows = api_server_rows(about, requests, was_idle);
    rows.push(upstream_row(about, sizes, reads, observed));
    let percent = 100.0 * cpu_share;
    rows.push(Row::new(
        about("CPU"),
        percent,
        "% of a core",
        Goal::Below(1.0),
    ));
    Ok(Findings::rows(rows))
}

fn about(what: &str, workload: Workload, sizes: &Sizes) -> String {
    let bindings = number(as_f64(workload.bindings));
    let seconds = sizes.rest.as_secs_f64();
    let time = if seconds >= 60.0 {
        format!("{} minutes", number(seconds / 60.0))
    } else {
        format!("{} s", number(seconds))
    };
    format!("{what}, {bindings} bindings at rest for {time}")
}

fn api_server_rows(about: impl Fn(&str) -> String, requests: Requests, was_idle: bool) -> Vec<Row> {
    let note = format!(
        "{}; {} Leases; {} watches were opened again; {}",
        requests.writes_by_kind(),
        requests.leases,
        requests.watches,
        if was_idle {
            "observed after the operator was idle and had sent its Events"
        } else {
            "the operator was never idle before"
        }
    );
    let goal = Goal::Exactly(0.0);
    let writes = as_f64(requests.writes() + requests.events);
    let reads = as_f64(requests.reads);
    vec![
        Row::count(about("API server writes"), writes, goal).note(note),
        Row::count(about("API server reads beyond open watches"), reads, goal),
    ]
}

fn upstream_row(
    about: impl Fn(&str) -> String,
    sizes: &Sizes,
    reads: UpstreamCounts,
    observed: Duration,
) -> Row {
    let intervals = observed.as_secs_f64() / sizes.refresh.as_secs_f64();
    let interval = if sizes.refresh == Duration::from_mins(1) {
        "a minute"
    } else {
        "an interval"
    };
    // The observation can start and end with a poll: one more of each kind.
    let most = (2.0 * JITTER * intervals + 2.0) / intervals;
    let UpstreamCounts {
        blocks,
        downloads,
        streams,
        others,
        at: _,
    } = reads;
    let note = format!(
        "{blocks} for the block, {downloads} for the config; {streams} opened watch streams, {others} other requests to Prefect since the start; the goal is 2, a tenth of jitter and one poll of each kind"
    );
    Row::count(
        about(&format!("requests upstream {interval}")),
        as_f64(blocks + downloads) / intervals,
        Goal::AtMost(most),
    )
    .note(note)
}

/// The requests upstream until a time.
#[derive(Clone, Copy)]
struct UpstreamCounts {
    at: Instant,
    blocks: u64,
    downloads: u64,
    streams: u64,
    others: u64,
}

impl UpstreamCounts {
    fn of(testbed: &Testbed<'_>) -> Result<Self> {
        let doppler = testbed.doppler.counts();
        let prefect = testbed.prefect.stand_in()?.counts();
        Ok(Self {
            at: Instant::now(),
            blocks: prefect.blocks,
            downloads: doppler.downloads,
            streams: doppler.watches,
            others: prefect.others,
        })
    }

    /// The requests since `before`. `others` still counts from the start.
    fn since(self, before: Self) -> Self {
        Self {
            blocks: self.blocks - before.blocks,
            downloads: self.downloads - before.downloads,
            streams: self.streams - before.streams,
            ..self
        }
    }
}
