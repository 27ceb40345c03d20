//! Faults of the operator's own process.
//!
//! Input: none. Output: the cases of group Process.
//! Invariants: each case has its own operator on the shared control plane.

mod clock;
mod memory;
mod threads;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use testkit::folder::ScratchDir;

use crate::case::{Case, Group, Playing, Seen};
use crate::random_numbers::RandomNumbers;
use crate::stage::{after, before, entries, recovered, template, token_ref, wrapped};
use crate::world::{Setup, World, secret};

const NEWEST: &str = "After the next start the newest values are in the Secret, the pool has exactly its entry, and nothing is left behind.";

/// The cases.
pub fn cases() -> Vec<Case> {
    let new = |fault: &str, must_hold, play: fn() -> Playing| {
        Case::new(Group::Process, fault, must_hold, play)
    };
    let mut cases = vec![
        new("SIGTERM during changes", NEWEST, || {
            Box::pin(restarted("process-term", false))
        })
        .in_short_form(),
        new("SIGKILL between any two steps", NEWEST, || {
            Box::pin(restarted("process-kill", true))
        }),
        new(
            "SIGKILL between any two steps of a deletion",
            "After the next start the entry, the Secret and the finalizer are gone.",
            || Box::pin(killed_in_deletion()),
        ),
        new(
            "SIGSTOP past the lease, with two replicas",
            "The other replica takes over; the old one does not write again.",
            || Box::pin(stopped_past_the_lease()),
        ),
        new(
            "64 file descriptors",
            "All bindings are served, and the probe answers.",
            || Box::pin(few_descriptors()),
        ),
        new(
            "the disk for the log is full",
            "The process goes on and serves its bindings.",
            || Box::pin(full_disk()),
        ),
    ];
    cases.extend(clock::cases());
    cases.extend(memory::cases());
    cases.push(threads::case());
    cases
}

/// A world with a binding `b` that is injected into a pool of the world's name.
async fn world(name: &str, setup: Setup) -> Result<World> {
    let world = World::with(name, setup).await?;
    world.doppler.replace(name, "dev", before());
    world
        .api
        .create_pool(name, "kubernetes", Some(template(&world)?))
        .await?;
    world.apply_binding("b", &spec(&world)).await?;
    Ok(world)
}

/// The world's spec with the pool of its name.
fn spec(world: &World) -> Value {
    let mut spec = world.spec();
    spec["inject"] = json!({"workPools": [{"name": world.name}]});
    spec
}

async fn restarted(name: &str, kill: bool) -> Result<Seen> {
    const RESTARTS: usize = 10;
    let mut world = world(name, Setup::default()).await?;
    let (start, mut random) = (Instant::now(), RandomNumbers::new(7));
    for round in 0..RESTARTS {
        world.set_doppler_secret("A", &secret(&format!("round {round}")));
        tokio::time::sleep(random.span(Duration::from_millis(400))).await;
        if kill {
            world.kill_operator();
        } else {
            world.stop_operator().await?;
        }
        world.start_operator().await?;
    }
    let mended = Instant::now();
    world.doppler.replace(name, "dev", after());
    let recovery = recovered(&world, "b", &after(), mended).await?;
    let found = entries(&world, &world.name).await?;
    ensure!(found == ["b"], "the pool has the entries {found:?}");
    world.finish().await?;
    Ok(Seen {
        what: format!("{RESTARTS} restarts"),
        requests: None,
        lasted: Some(mended - start),
        recovery: Some(recovery),
    })
}

async fn killed_in_deletion() -> Result<Seen> {
    const ROUNDS: usize = 8;
    let mut world = world("process-delete", Setup::default()).await?;
    let (start, mut random) = (Instant::now(), RandomNumbers::new(11));
    for _ in 0..ROUNDS {
        world.until_ready("b").await?;
        world.delete_binding("b").await?;
        tokio::time::sleep(random.span(Duration::from_millis(1_600))).await;
        world.kill_operator();
        world.start_operator().await?;
        world.until_binding_deleted("b").await?;
        world.until_no_secret("b").await?;
        let found = entries(&world, &world.name).await?;
        ensure!(found.is_empty(), "the pool has the entries {found:?}");
        world.apply_binding("b", &spec(&world)).await?;
    }
    world.until_ready("b").await?;
    let lasted = start.elapsed();
    world.finish().await?;
    Ok(Seen {
        what: format!("{ROUNDS} deletions"),
        requests: None,
        lasted: Some(lasted),
        recovery: None,
    })
}

async fn stopped_past_the_lease() -> Result<Seen> {
    let mut world = world("process-lease", Setup::default().replicated()).await?;
    world.until_ready("b").await?;
    let second = world.start_replica().await?;
    let start = Instant::now();
    world.operator()?.process().pause();
    world.doppler.replace("process-lease", "dev", after());
    world
        .until_within(Duration::from_mins(1), "the takeover", async || {
            ensure!(
                second
                    .metrics()
                    .await?
                    .contains("doppler_prefect_leader 1\n"),
                "standby"
            );
            Ok(())
        })
        .await?;
    let recovery = recovered(&world, "b", &after(), start).await?;
    let first = world.operator.take().context("no operator")?;
    first.process().resume();
    let code = first.process().wait_async(Duration::from_secs(30)).await;
    ensure!(code.is_some(), "the old leader goes on");
    world.operator = Some(second);
    world.finish().await?;
    Ok(Seen {
        what: "the old leader ended itself".to_owned(),
        requests: None,
        lasted: Some(recovery),
        recovery: Some(recovery),
    })
}

/// Applies bindings of one config each, besides `b`.
async fn crowd(world: &World, number: usize) -> Result<()> {
    let token = format!("dp.sa.{}", secret(&world.name));
    world.doppler.add_account_token(&token);
    world.put_token("crowd", &token).await?;
    for index in 0..number {
        let config = format!("dev_{index}");
        world.doppler.replace(&world.name, &config, before());
        let spec = json!({"doppler": {
            "host": world.doppler.url(), "project": world.name, "config": config, "accessToken": token_ref("crowd"),
        }});
        world
            .apply_binding(&format!("crowd-{index}"), &spec)
            .await?;
    }
    Ok(())
}

async fn few_descriptors() -> Result<Seen> {
    const BINDINGS: usize = 100;
    let folder = ScratchDir::new("few-descriptors")?;
    let setup = Setup {
        binary: Some(wrapped(folder.path(), "ulimit -n 64")?),
        ..Setup::default()
    };
    let world = world("process-descriptors", setup).await?;
    let start = Instant::now();
    crowd(&world, BINDINGS).await?;
    for index in 0..BINDINGS {
        let name = format!("crowd-{index}");
        let ready = world.until_within(Duration::from_mins(3), "a Secret", async || {
            ensure!(
                world.values(&name).await? == before(),
                "{name} has other values"
            );
            Ok(())
        });
        ready.await?;
    }
    world.until_ready("b").await?;
    world.operator()?.is_ready().await?;
    let lasted = start.elapsed();
    world.finish().await?;
    Ok(Seen {
        what: format!("{BINDINGS} further bindings have their Secrets"),
        requests: None,
        lasted: Some(lasted),
        recovery: None,
    })
}

async fn full_disk() -> Result<Seen> {
    let folder = ScratchDir::new("full-disk")?;
    let setup = Setup {
        // Every write to this device fails with ENOSPC.
        binary: Some(wrapped(folder.path(), "exec >/dev/full 2>&1")?),
        ..Setup::default()
    };
    let world = world("process-disk", setup).await?;
    world.until_ready("b").await?;
    let mended = Instant::now();
    world.doppler.replace("process-disk", "dev", after());
    let recovery = recovered(&world, "b", &after(), mended).await?;
    world.finish().await?;
    Ok(Seen {
        what: "served without a log".to_owned(),
        requests: None,
        lasted: None,
        recovery: Some(recovery),
    })
}
