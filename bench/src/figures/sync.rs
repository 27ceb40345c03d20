//! A cold sync: resources are there, their Secrets are not, and the subject is started.
//!
//! In: a subject and a plan. Out: when what was written, and what it cost. The clock starts when the process is started, and stops when the last
//! Secret and the last status that says done were seen by the watches.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{interval, timeout};

use crate::Bench;
use crate::observe::ledger::Requests;
use crate::observe::process::Usage;
use crate::observe::watch::Watching;
use crate::result::Line;
use crate::scene::{Plan, Scene};
use crate::subject::{How, Running, Subject};

/// No run takes longer, unless something is stuck.
pub const LIMIT: Duration = Duration::from_mins(10);
const ALIVE: Duration = Duration::from_secs(1);
/// Points of a line in a chart.
const POINTS: usize = 200;

/// A subject that has synced, and goes on running.
pub struct Synced<'a> {
    /// It ends first.
    pub running: Box<dyn Running>,
    /// What its writes are seen by.
    pub watching: Watching,
    /// Where it is.
    pub scene: Scene<'a>,
    /// How it came there.
    pub cold: Cold,
}

/// What a cold sync took.
pub struct Cold {
    /// From the start to the last write.
    pub whole: Duration,
    /// From the start to its own word that it is ready.
    pub ready: Duration,
    /// Seconds from the start to each resource that is done, sorted.
    pub done: Vec<f64>,
    /// What it asked of the API server.
    pub requests: Requests,
    /// CPU time of the servers, and of the subject if it is a process.
    pub cpu: Vec<(String, Duration)>,
}

impl Cold {
    /// From its word that it is ready to the last write.
    #[must_use]
    pub fn after_ready(&self) -> Duration {
        self.whole.saturating_sub(self.ready)
    }

    /// CPU times in words: what a slow run was busy with.
    #[must_use]
    pub fn profile(&self) -> String {
        let part = |(name, cpu): &(String, Duration)| format!("{name} {:.2} s", cpu.as_secs_f64());
        let parts: Vec<_> = self.cpu.iter().map(part).collect();
        format!("CPU: {}", parts.join(", "))
    }

    /// Resources that are done over time, as a line of a chart.
    #[must_use]
    pub fn line(&self, name: &str) -> Line {
        Line {
            name: name.to_owned(),
            points: cumulated(&self.done),
        }
    }
}

/// How many had come at what time, thinned out.
#[allow(clippy::cast_precision_loss)] // Counts are far below the limit of exactness.
fn cumulated(times: &[f64]) -> Vec<(f64, f64)> {
    let step = (times.len() / POINTS).max(1);
    let kept = |at: &usize| at.is_multiple_of(step) || at + 1 == times.len();
    let points = (0..times.len()).filter(kept);
    std::iter::once((0.0, 0.0))
        .chain(points.map(|at| (times[at], (at + 1) as f64)))
        .collect()
}

/// Sets a scene, starts the subject in it and waits until all is written.
///
/// # Errors
/// When it ends early or does not come to an end.
pub async fn cold<'a>(
    bench: &Bench<'a>,
    subject: &dyn Subject,
    name: &str,
    plan: Plan,
    how: &How,
) -> Result<Synced<'a>> {
    let scene = Scene::set(bench.plane, subject, name, plan).await?;
    let watching = Watching::start(&scene, subject).await?;
    let requests = scene.ledger.read(scene.plane).await?;
    let servers = usages(&scene)?;

    let begun = Instant::now();
    let running = subject.start(&scene, how).await?;
    running.ready(LIMIT).await?;
    let ready = begun.elapsed();
    tokio::select! {
        synced = watching.until_synced(limit(plan.bindings), plan.bindings) => synced?,
        ended = ended(running.as_ref()) => return Err(ended),
    }

    let mut cpu = Vec::new();
    for ((name, before), (_, after)) in servers.into_iter().zip(usages(&scene)?) {
        cpu.push((name, after.cpu.saturating_sub(before.cpu)));
    }
    if let Some(pid) = running.pid() {
        cpu.push((subject.name().to_owned(), Usage::of(pid)?.cpu));
    }
    let since = |at: &Instant| at.saturating_duration_since(begun);
    let (last, mut done) = {
        let sight = watching.sight();
        let last = sight
            .secrets
            .values()
            .chain(sight.done.values())
            .max()
            .map(since);
        let done = sight.done.values().map(|at| since(at).as_secs_f64());
        (last, done.collect::<Vec<_>>())
    };
    done.sort_by(f64::total_cmp);
    let cold = Cold {
        whole: last.context("nothing was written")?,
        ready,
        done,
        requests: scene.ledger.read(scene.plane).await? - requests,
        cpu,
    };
    Ok(Synced {
        running,
        watching,
        scene,
        cold,
    })
}

/// How long it may take: slow operators are to be measured as well, and stuck ones are not to be waited for.
fn limit(bindings: usize) -> Duration {
    let each = Duration::from_millis(60);
    Duration::from_mins(1) + each * u32::try_from(bindings).unwrap_or(u32::MAX)
}

fn usages(scene: &Scene<'_>) -> Result<Vec<(String, Usage)>> {
    let mut processes = scene.plane.processes();
    processes.push(("the benchmark itself".to_owned(), std::process::id()));
    processes
        .into_iter()
        .map(|(name, pid)| Ok((name, Usage::of(pid)?)))
        .collect()
}

/// Waits until the subject has ended, which it should not.
async fn ended(running: &dyn Running) -> anyhow::Error {
    let mut looks = interval(ALIVE);
    loop {
        looks.tick().await;
        if let Err(error) = running.still_runs() {
            return error;
        }
    }
}

/// Ends a subject that was measured.
///
/// # Errors
/// When it does not end well.
pub async fn end(synced: Synced<'_>) -> Result<()> {
    let stop = timeout(LIMIT, synced.running.stop()).await;
    stop.context("the subject does not end")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_line_ends_where_the_whole_one_does() {
        assert_eq!(cumulated(&[0.5, 1.5]), [(0.0, 0.0), (0.5, 1.0), (1.5, 2.0)]);
        let times: Vec<f64> = (0..1001).map(f64::from).collect();
        let line = cumulated(&times);
        assert!(line.len() < 210);
        assert_eq!(line.last(), Some(&(1000.0, 1001.0)));
    }
}
