//! The kernel's limit on the memory of the operator.
//!
//! Input: the limit of the chart's values. Output: the cases.
//! Invariants: the kernel enforces the limit; a case where it cannot is skipped. Each case has its own
//! operator.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::folder::ScratchDir;

use super::{spec, world};
use crate::case::{Case, Group, Playing, Seen};
use crate::cgroup::Cgroup;
use crate::hostile::{HostileServer, Input};
use crate::stage::{after, entries, recovered, template, wrapped};
use crate::world::{Setup, World};

const VALUES: &str = include_str!("../../../charts/doppler-prefect-operator/values.yaml");
/// The exit code after SIGKILL.
const KILLED: i32 = 128 + 9;

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Input::ALL
        .into_iter()
        .map(|input| {
            Case::new(
                Group::Process,
                format!("the memory limit of the chart: {}", input.title()),
                "The kernel kills nothing, and other bindings are served.",
                move || within_the_limit(input),
            )
        })
        .collect();
    cases.push(Case::new(
        Group::Process,
        "the kernel kills the operator at a smaller memory limit",
        "After the next start the newest values are in the Secret, a deletion goes on, the pool has exactly its entry, and nothing is left behind.",
        || -> Playing { Box::pin(killed()) },
    ));
    cases
}

/// The limit of the chart, in bytes.
fn limit() -> Result<u64> {
    let values: Value = serde_saphyr::from_str(VALUES)?;
    let limit = values["resources"]["limits"]["memory"]
        .as_str()
        .context("the chart has no memory limit")?;
    let mebibytes = limit.strip_suffix("Mi").context("the limit is not in Mi")?;
    Ok(mebibytes.parse::<u64>()? << 20)
}

async fn limited(name: &str, cgroup: &Cgroup, folder: &ScratchDir) -> Result<World> {
    let setup = Setup {
        binary: Some(wrapped(folder.path(), &cgroup.enter())?),
        ..Setup::default()
    };
    let world = world(name, setup).await?;
    world.until_ready("b").await?;
    Ok(world)
}

async fn within_the_limit(input: Input) -> Result<Seen> {
    let name = format!("process-memory-{}", input.name());
    let (limit, folder) = (limit()?, ScratchDir::new("memory")?);
    let cgroup = Cgroup::new(input.name(), limit)?;
    let world = limited(&name, &cgroup, &folder).await?;
    let shown = format!("doppler_prefect_memory_limit_bytes {limit}\n");
    let page = world.operator()?.metrics().await?;
    ensure!(page.contains(&shown), "not the limit of the group: {page}");
    let before = world.operator()?.peak_kib()?;
    let server = HostileServer::start(&world, &template(&world)?.to_string()).await?;
    let start = Instant::now();
    server.apply(&world, input).await?;
    server.until_reported(&world, input).await?;
    let mended = Instant::now();
    world.doppler.replace(&name, "dev", after());
    let recovery = recovered(&world, "b", &after(), mended).await?;
    let kills = cgroup.kills()?;
    ensure!(kills == 0, "the kernel killed {kills} processes");
    let peak = world.operator()?.peak_kib()?;
    world.finish().await?;
    Ok(Seen {
        what: format!(
            "no kill; the peak is {} MiB of {} MiB, {} MiB before",
            peak >> 10,
            limit >> 20,
            before >> 10
        ),
        requests: None,
        lasted: Some(mended - start),
        recovery: Some(recovery),
    })
}

async fn killed() -> Result<Seen> {
    let name = "process-killed";
    let (limit, folder) = (limit()?, ScratchDir::new("killed")?);
    let cgroup = Cgroup::new("killed", limit)?;
    let mut world = limited(name, &cgroup, &folder).await?;
    world.apply_binding("deleted", &spec(&world)).await?;
    world.until_ready("deleted").await?;
    let server = HostileServer::start(&world, &template(&world)?.to_string()).await?;
    let start = Instant::now();
    // Just enough for what is there. The kernel first gives up cached files, so several attempts.
    let usage = world.operator()?.rss_kib()? << 10;
    world
        .until("a smaller limit", async || cgroup.set_limit(usage))
        .await?;
    world.delete_binding("deleted").await?;
    for input in Input::ALL {
        server.apply(&world, input).await?;
    }
    let code = world
        .operator()?
        .process()
        .wait_async(Duration::from_mins(1))
        .await;
    ensure!(code == Some(KILLED), "the operator ended with {code:?}");
    world.operator = None;
    // The kubelet starts it again with the same limit; that may end in the same way.
    for _ in 0..2 {
        if world.start_operator().await.is_ok() {
            let process = world.operator()?.process();
            process.wait_async(Duration::from_secs(10)).await;
        }
        world.kill_operator();
    }
    let kills = cgroup.kills()?;
    ensure!(kills > 0, "not the kernel killed it");
    cgroup.set_limit(limit)?;
    world.doppler.replace(name, "dev", after());
    let mended = Instant::now();
    world.start_operator().await?;
    let recovery = recovered(&world, "b", &after(), mended).await?;
    world.until_binding_deleted("deleted").await?;
    world.until_no_secret("deleted").await?;
    world
        .until("exactly the entry", async || {
            let found = entries(&world, name).await?;
            ensure!(found == ["b"], "the pool has the entries {found:?}");
            Ok(())
        })
        .await?;
    for input in Input::ALL {
        server.until_reported(&world, input).await?;
    }
    ensure!(cgroup.kills()? == kills, "killed at the limit of the chart");
    world.finish().await?;
    Ok(Seen {
        what: format!("{kills} kills at {} MiB", usage >> 20),
        requests: None,
        lasted: Some(mended - start),
        recovery: Some(recovery),
    })
}
