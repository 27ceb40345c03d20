//! A cold sync: the resources exist, their Secrets do not, and the subject starts.
//!
//! Input: a subject and a workload. Output: `Synced`: the times of all writes, and their cost.
//! Invariants: the clock starts with the process of the subject, and stops when the watches have
//! shown the last Secret and the last ready status.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use testkit::control_plane::ControlPlane;
use tokio::time::{interval, timeout};

use crate::chart::Line;
use crate::number::as_f64;
use crate::process_usage::Usage;
use crate::request_counter::Requests;
use crate::resources;
use crate::subject::{RunOptions, RunningSubject, Subject};
use crate::testbed::Testbed;
use crate::workload::Workload;
use crate::write_watch::WriteWatch;

/// The longest time to become ready, and to stop.
pub const LIMIT: Duration = Duration::from_mins(10);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A subject that is in sync and running.
pub struct Synced<'a> {
    /// The subject. It is the first field, so that it stops first.
    pub running: Box<dyn RunningSubject>,
    /// The watches of its writes.
    pub watch: WriteWatch,
    /// Its environment.
    pub testbed: Testbed<'a>,
    /// The times and the cost of the sync.
    pub cold: ColdSync,
}

impl Synced<'_> {
    /// Stops the subject.
    ///
    /// # Errors
    /// When it does not stop in time, or exits with an error.
    pub async fn stop(self) -> Result<()> {
        let stop = timeout(LIMIT, self.running.stop()).await;
        stop.context("the subject does not stop")?
    }
}

/// The times and the cost of a cold sync.
pub struct ColdSync {
    /// From the start to the last write.
    pub total: Duration,
    /// From the start until the subject reported that it is ready.
    pub ready: Duration,
    /// Seconds from the start until each resource was ready, sorted.
    pub ready_times: Vec<f64>,
    /// The requests to the API server.
    pub requests: Requests,
    /// CPU time of the servers, and of the subject if it is a process.
    pub cpu: Vec<(String, Duration)>,
}

impl ColdSync {
    /// From the time at which the subject was ready to the last write.
    #[must_use]
    pub fn after_ready(&self) -> Duration {
        self.total.saturating_sub(self.ready)
    }

    /// The CPU times as text.
    #[must_use]
    pub fn cpu_text(&self) -> String {
        let part = |(name, cpu): &(String, Duration)| format!("{name} {:.2} s", cpu.as_secs_f64());
        let parts: Vec<_> = self.cpu.iter().map(part).collect();
        format!("CPU: {}", parts.join(", "))
    }

    /// The number of ready resources over time, as a line of a chart.
    #[must_use]
    pub fn line(&self, name: &str) -> Line {
        Line::cumulative(name, &self.ready_times, as_f64(self.ready_times.len()))
    }
}

/// Prepares a testbed, starts the subject, and waits until all resources are in sync.
///
/// # Errors
/// When the subject exits, or is not in sync in time.
pub async fn run<'a>(
    plane: &'a ControlPlane,
    subject: &dyn Subject,
    name: &str,
    workload: Workload,
    options: &RunOptions,
) -> Result<Synced<'a>> {
    let testbed = resources::prepare(plane, subject, name, workload).await?;
    let watch = WriteWatch::start(&testbed, subject).await?;
    let requests = testbed.requests.read(plane).await?;
    let servers = server_usages(plane)?;

    let started_at = Instant::now();
    let running = subject.start(&testbed, options).await?;
    running.wait_until_ready(LIMIT).await?;
    let ready = started_at.elapsed();
    tokio::select! {
        synced = watch.until_synced(limit(workload.bindings), workload.bindings) => synced?,
        exited = wait_until_exited(running.as_ref()) => return Err(exited),
    }

    let mut cpu = Vec::new();
    for ((name, before), (_, after)) in servers.into_iter().zip(server_usages(plane)?) {
        cpu.push((name, after.cpu.saturating_sub(before.cpu)));
    }
    if let Some(pid) = running.pid() {
        cpu.push((subject.name().to_owned(), Usage::of(pid)?.cpu));
    }
    let (last, ready_times) = write_times(&watch, started_at);
    let cold = ColdSync {
        total: last.context("the watches showed no write")?,
        ready,
        ready_times,
        requests: testbed.requests.read(plane).await? - requests,
        cpu,
    };
    Ok(Synced {
        running,
        watch,
        testbed,
        cold,
    })
}

/// The time of the last write, and the sorted seconds at which resources became ready.
fn write_times(watch: &WriteWatch, started_at: Instant) -> (Option<Duration>, Vec<f64>) {
    let since_start = |at: &Instant| at.saturating_duration_since(started_at);
    let seen = watch.seen();
    let times = seen.secrets.values().chain(seen.ready.values());
    let last = times.max().map(since_start);
    let ready = seen.ready.values().map(|at| since_start(at).as_secs_f64());
    let mut ready: Vec<_> = ready.collect();
    ready.sort_by(f64::total_cmp);
    (last, ready)
}

/// The time limit of a sync: long enough for a slow subject, and finite for a stuck one.
fn limit(bindings: usize) -> Duration {
    let each = Duration::from_millis(60);
    Duration::from_mins(1) + each * u32::try_from(bindings).unwrap_or(u32::MAX)
}

/// The usage of the control plane's processes and of the benchmark itself.
fn server_usages(plane: &ControlPlane) -> Result<Vec<(String, Usage)>> {
    let mut processes = plane.processes();
    processes.push(("the benchmark itself".to_owned(), std::process::id()));
    processes
        .into_iter()
        .map(|(name, pid)| Ok((name, Usage::of(pid)?)))
        .collect()
}

/// Waits until the subject has exited, which is an error.
async fn wait_until_exited(running: &dyn RunningSubject) -> anyhow::Error {
    let mut probes = interval(PROBE_INTERVAL);
    loop {
        probes.tick().await;
        if let Err(error) = running.ensure_running() {
            return error;
        }
    }
}
