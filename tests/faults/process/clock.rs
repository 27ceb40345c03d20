//! Steps of the wall clock while the operator works, as of a machine that wakes up or gets its time.
//!
//! Input: none. Output: the cases.
//! Invariants: only the operator's clock steps; that of the servers stays. Each case has its own
//! operator.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use serde_json::json;
use testkit::doppler::{Doppler, RateLimit};
use testkit::prefect::Block;

use super::{spec, world};
use crate::case::{Case, Group, Playing, Seen};
use crate::relay::{Mode, Relay};
use crate::shim::Shim;
use crate::stage::{after, before, entries, recovered, token_ref};
use crate::world::{Setup, World, secret};

const DAY: i64 = 24 * 60 * 60;
const YEAR: i64 = 365 * DAY;

const PACE: &str = "Polls keep their pace, a rate limit is kept, and the newest values arrive.";
const DELETION: &str =
    "A deletion that waits for Prefect waits for its timeout, no shorter and no longer.";
const SOCKET: &str = "A changed block is followed without a poll.";

/// The cases.
pub fn cases() -> Vec<Case> {
    let row = |fault: &str, must_hold, play: fn() -> Playing| {
        Case::new(Group::Process, fault, must_hold, play)
    };
    vec![
        row("the wall clock steps a day forward", PACE, || {
            Box::pin(pace("process-clock-forward", DAY))
        })
        .in_short_form(),
        row("the wall clock steps a day back", PACE, || {
            Box::pin(pace("process-clock-back", -DAY))
        }),
        row(
            "the wall clock steps a day forward during a deletion",
            DELETION,
            || Box::pin(deletion_waits()),
        ),
        row(
            "the wall clock steps a day back during a deletion",
            DELETION,
            || Box::pin(deletion_ends()),
        ),
        row(
            "the wall clocks of two replicas step apart",
            "The leader stays the leader, and the other replica stays standby.",
            || Box::pin(lease_is_kept()),
        ),
        row("the wall clock is two years ahead", SOCKET, || {
            Box::pin(socket("process-clock-ahead", 2 * YEAR))
        }),
        row("the wall clock is two years behind", SOCKET, || {
            Box::pin(socket("process-clock-behind", -2 * YEAR))
        }),
    ]
}

/// The clock steps by so many seconds, and the operator has read it since.
async fn step(world: &World, shim: &Shim, seconds: i64) -> Result<()> {
    shim.set_clock_offset(seconds)?;
    let read = shim.clock_reads()?;
    world
        .until("a read of the clock", async || {
            ensure!(shim.clock_reads()? > read, "none yet");
            Ok(())
        })
        .await
}

fn setup(shim: &Shim) -> Setup {
    Setup {
        env: shim.env(),
        ..Setup::default()
    }
}

/// A binding whose Doppler allows three downloads in five seconds, and its number of downloads.
async fn limited(world: &World) -> Result<Doppler> {
    let doppler = Doppler::start()?;
    doppler.set_rate_limit(RateLimit {
        secret_reads: 3,
        reads: 100,
        window: Duration::from_secs(5),
    });
    doppler.replace("p", "dev", before());
    let token = format!("dp.st.dev.{}", secret("limited"));
    doppler.add_service_token(&token, "p", "dev");
    world.put_token("limited-token", &token).await?;
    let spec = json!({"doppler": {
        "host": doppler.url(), "project": "p", "config": "dev", "accessToken": token_ref("limited-token"),
    }});
    world.apply_binding("limited", &spec).await?;
    Ok(doppler)
}

async fn pace(name: &str, seconds: i64) -> Result<Seen> {
    const POLLS: usize = 15;
    let shim = Shim::build()?;
    let world = world(name, setup(&shim)).await?;
    shim.ensure_loaded()?;
    let doppler = limited(&world).await?;
    world.until_ready("b").await?;
    world.until_ready("limited").await?;
    step(&world, &shim, seconds).await?;
    let (start, polls) = (Instant::now(), world.downloads());
    let limited = doppler.counts();
    world
        .until("polls after the step", async || {
            let more = world.downloads() - polls;
            ensure!(more >= POLLS, "{more} polls");
            Ok(())
        })
        .await?;
    let lasted = start.elapsed();
    // Polls are one second apart, plus or minus their jitter.
    let least = Duration::from_secs(POLLS as u64 * 2 / 3);
    ensure!(lasted >= least, "{POLLS} polls in {lasted:?}");
    let now = doppler.counts();
    let (reads, refused) = (
        now.downloads - limited.downloads,
        now.status(429) - limited.status(429),
    );
    let most = 3 * (lasted.as_secs() / 5 + 2);
    ensure!(
        (3..=most).contains(&reads) && refused <= 1,
        "{reads} downloads with a limit of 3 in 5 s, {refused} refused, in {lasted:?}"
    );
    let mended = Instant::now();
    world.doppler.replace(name, "dev", after());
    let recovery = recovered(&world, "b", &after(), mended).await?;
    world.finish().await?;
    Ok(Seen {
        what: format!(
            "{POLLS} polls of one second each; {reads} downloads with a limit of 3 in 5 s"
        ),
        requests: Some(POLLS as u64 + reads),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

/// A world whose binding `b` reaches Prefect through a relay. Prefect answers 503 from now on, and the
/// binding is being deleted.
async fn deletion(name: &str, shim: &Shim, timeout: &str) -> Result<(World, Relay)> {
    let setup = setup(shim).args(&["--release-timeout", timeout]);
    let world = world(name, setup).await?;
    shim.ensure_loaded()?;
    let relay = Relay::start(([127, 0, 0, 1], world.prefect.port()).into()).await?;
    let mut through = spec(&world);
    through["prefect"]["server"]["remoteApiUrl"] = json!(format!("{}/api", relay.url()));
    world.apply_binding("b", &through).await?;
    world.until_ready("b").await?;
    relay.set(Mode::json("503 Service Unavailable", "{}"));
    world.delete_binding("b").await?;
    world.until_not_ready("b", "Deleting").await?;
    Ok((world, relay))
}

async fn until_no_entry(world: &World) -> Result<()> {
    // What was given up is tried again once a minute.
    world
        .until_within(
            Duration::from_mins(2),
            "the removal of the entry",
            async || {
                let found = entries(world, &world.name).await?;
                ensure!(found.is_empty(), "{found:?}");
                Ok(())
            },
        )
        .await
}

async fn deletion_waits() -> Result<Seen> {
    let shim = Shim::build()?;
    let (world, relay) = deletion("process-clock-deletion", &shim, "10m").await?;
    step(&world, &shim, DAY).await?;
    let (start, attempts) = (Instant::now(), relay.connections());
    world
        .until("attempts after the step", async || {
            let more = relay.connections() - attempts;
            ensure!(more >= 5, "{more} attempts");
            Ok(())
        })
        .await?;
    world.binding("b").await.context("it was abandoned")?;
    world.secrets().get("b").await.context("it was abandoned")?;
    let (lasted, mended) = (start.elapsed(), Instant::now());
    let requests = relay.connections() - attempts;
    relay.set(Mode::Forward);
    world.until_binding_deleted("b").await?;
    world.until_no_secret("b").await?;
    until_no_entry(&world).await?;
    let recovery = mended.elapsed();
    world.finish().await?;
    Ok(Seen {
        what: format!("waits on through {requests} attempts, and removes the entry"),
        requests: Some(requests),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

async fn deletion_ends() -> Result<Seen> {
    let shim = Shim::build()?;
    let (world, relay) = deletion("process-clock-timeout", &shim, "5s").await?;
    let (start, attempts) = (Instant::now(), relay.connections());
    step(&world, &shim, -DAY).await?;
    world.until_binding_deleted("b").await?;
    let (lasted, mended) = (start.elapsed(), Instant::now());
    let requests = relay.connections() - attempts;
    ensure!(
        lasted >= Duration::from_secs(3),
        "given up after {lasted:?}"
    );
    relay.set(Mode::Forward);
    until_no_entry(&world).await?;
    let recovery = mended.elapsed();
    world.finish().await?;
    Ok(Seen {
        what: format!("given up after {:.1} s", lasted.as_secs_f64()),
        requests: Some(requests),
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

async fn lease(world: &World) -> Result<LeaseSpec> {
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), &world.grant.namespace);
    let lease = leases.get(&world.grant.service_account).await?;
    lease.spec.context("the lease is empty")
}

async fn lease_is_kept() -> Result<Seen> {
    /// More than the duration of the lease, at one renewal in five seconds.
    const RENEWALS: usize = 5;
    let (first, second) = (Shim::build()?, Shim::build()?);
    let mut world = world("process-clock-lease", setup(&first).replicated()).await?;
    first.ensure_loaded()?;
    world.until_ready("b").await?;
    world.add_operator_env(second.env());
    let standby = world.start_replica().await?;
    let start = Instant::now();
    let held = lease(&world).await?;
    for (leader_is_off, standby_is_off) in [(DAY, -DAY), (-DAY, DAY)] {
        step(&world, &first, leader_is_off).await?;
        second.set_clock_offset(standby_is_off)?;
        let mut renewed = Vec::new();
        world
            .until_within(
                Duration::from_mins(1),
                "renewals of the lease",
                async || {
                    let now = lease(&world).await?;
                    ensure!(now.holder_identity == held.holder_identity, "a takeover");
                    if renewed.last() != Some(&now.renew_time) {
                        renewed.push(now.renew_time);
                    }
                    ensure!(renewed.len() > RENEWALS, "{} so far", renewed.len());
                    Ok(())
                },
            )
            .await?;
        let metrics = standby.metrics().await?;
        ensure!(
            metrics.contains("doppler_prefect_leader 0\n"),
            "two leaders"
        );
    }
    let now = lease(&world).await?;
    ensure!(
        now.lease_transitions == held.lease_transitions
            && now.holder_identity == held.holder_identity,
        "the lease changed its holder"
    );
    second.ensure_loaded()?;
    let (lasted, mended) = (start.elapsed(), Instant::now());
    world.doppler.replace(&world.name, "dev", after());
    let recovery = recovered(&world, "b", &after(), mended).await?;
    standby.terminate(Duration::from_secs(25)).await?;
    world.finish().await?;
    Ok(Seen {
        what: "no takeover".to_owned(),
        requests: None,
        lasted: Some(lasted),
        recovery: Some(recovery),
    })
}

async fn socket(name: &str, seconds: i64) -> Result<Seen> {
    let shim = Shim::build()?;
    shim.set_clock_offset(seconds)?;
    let setup = Setup {
        env: shim.env(),
        ..Setup::without_polls()
    };
    let world = world(name, setup).await?;
    shim.ensure_loaded()?;
    let token = format!("dp.sa.{}", secret(name));
    world.doppler.add_account_token(&token);
    world.doppler.replace(name, "stg", after());
    world.until_ready("b").await?;
    let connected = "doppler_prefect_subscriptions_connected{upstream=\"prefect\"} 1\n";
    world
        .until("the event socket", async || {
            let metrics = world.operator()?.metrics().await?;
            ensure!(metrics.contains(connected), "it is not connected");
            Ok(())
        })
        .await?;
    // The read that follows the opening of the socket may see the first change.
    let mut recovery = Duration::ZERO;
    for (config, values) in [("stg", after()), ("dev", before())] {
        let changed = Instant::now();
        let block = Block::object(name, config, &token);
        world.api.put_block(name, &block).await?;
        recovery = recovered(&world, "b", &values, changed).await?;
    }
    world.finish().await?;
    Ok(Seen {
        what: "both changes of the block arrived".to_owned(),
        requests: None,
        lasted: None,
        recovery: Some(recovery),
    })
}
