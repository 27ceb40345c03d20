//! Upstreams that are dead, slow or mean with their limit.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::doppler::{Fault, RateLimit};

use super::{sample_name, values_with_a};
use crate::world::{Setup, World, secret};

/// Long enough for a few windows of a limit, or for a wait that has grown.
const A_WHILE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_prefect_server_delays_no_other_binding() -> Result<()> {
    const MUTE: u64 = 40;
    // Longer than anybody waits here.
    let setup = Setup::without_polls().args(&["--prefect-timeout", "5m"]);
    let w = World::with("push-mute", setup).await?;
    w.set_doppler_secret("A", &secret("good"));
    // The kernel takes the connections, and nobody answers.
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] = json!(format!("http://{}/api", mute.local_addr()?));
    for number in 0..MUTE {
        spec["prefect"]["block"]["name"] = json!(format!("mute-{number}"));
        w.apply_binding(&format!("mute-{number}"), &spec).await?;
    }
    let waiting = sample_name("upstream_queue_depth", "upstream", "prefect");
    w.until_sample(&waiting, MUTE - 8).await?;
    for number in 0..5 {
        w.apply_binding(&format!("good-{number}"), &w.spec())
            .await?;
    }
    for number in 0..5 {
        w.until_ready(&format!("good-{number}")).await?;
    }
    ensure!(
        w.sample(&waiting).await? == MUTE - 8,
        "somebody answered after all"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn small_quota_is_shared_by_all_configs_without_a_429() -> Result<()> {
    let w = World::with_own_doppler("push-limit", Setup::default()).await?;
    w.doppler.set_rate_limit(RateLimit {
        secret_reads: 20,
        reads: 1_000,
        window: Duration::from_secs(5),
    });
    let configs: Vec<_> = (0..30).map(|number| format!("c{number}")).collect();
    for config in &configs {
        w.doppler.set(&w.name, config, "A", &secret(config));
    }
    // The first answer states the limit.
    let (first, others) = configs.split_at(1);
    w.bind_own(first).await?;
    w.until_ready(&first[0]).await?;
    w.bind_own(others).await?;
    for config in &configs {
        w.until_within(A_WHILE, &format!("the values of {config}"), async || {
            ensure!(w.values(config).await? == values_with_a(config), "others");
            Ok(())
        })
        .await?;
    }
    let asked = || -> Vec<usize> {
        let calls = w.doppler.downloads();
        let of = |config: &String| calls.iter().filter(|it| it.is_for(&w.name, config)).count();
        configs.iter().map(of).collect()
    };
    let before = asked();
    w.until_within(A_WHILE, "a poll of each config", async || {
        let now = asked();
        let starved = now
            .iter()
            .zip(&before)
            .filter(|(now, before)| now == before);
        let starved = starved.count();
        ensure!(starved == 0, "{starved} configs were not asked for");
        Ok(())
    })
    .await?;
    let counts = w.doppler.counts();
    ensure!(counts.status(429) == 0, "{counts:?}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_closes_connections_sees_one_stream_of_retries() -> Result<()> {
    one_stream_of_retries("push-dead-closed", Fault::Close).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doppler_that_answers_503_sees_one_stream_of_retries() -> Result<()> {
    one_stream_of_retries("push-dead-503", Fault::Error(503, "Down".to_owned())).await
}

async fn one_stream_of_retries(name: &str, fault: Fault) -> Result<()> {
    const CONFIGS: u64 = 20;
    let w = World::with_own_doppler(name, Setup::default()).await?;
    let configs: Vec<_> = (0..CONFIGS).map(|number| format!("c{number}")).collect();
    for config in &configs {
        w.doppler.set(&w.name, config, "A", &secret("before"));
    }
    w.bind_own(&configs).await?;
    for config in &configs {
        w.until_ready(config).await?;
    }
    w.until_subscriptions("doppler", CONFIGS).await?;

    let before = w.doppler.counts();
    let fault = w.doppler.fault(|_| true, fault);
    w.doppler.close_streams();
    for config in &configs {
        w.doppler.set(&w.name, config, "A", &secret("after"));
    }
    w.until("each config to have been wanted three times", async || {
        let wanted = w.reads("doppler", "DopplerUnreachable").await?;
        ensure!(wanted >= 3 * CONFIGS, "{wanted} reads");
        Ok(())
    })
    .await?;
    let after = w.doppler.counts();
    let downloads = after.downloads - before.downloads;
    let watches = after.watches - before.watches;
    // A few are on their way before the host counts as dead; then it is one at a time.
    ensure!(
        downloads < CONFIGS && watches < CONFIGS,
        "{downloads} downloads and {watches} streams of {CONFIGS} configs"
    );
    ensure!(downloads > 2 && watches > 0, "nobody tries again");
    w.doppler.remove_fault(fault);
    for config in &configs {
        w.until_within(A_WHILE, &format!("{config} to recover"), async || {
            ensure!(w.values(config).await? == values_with_a("after"), "not yet");
            Ok(())
        })
        .await?;
    }
    w.until_subscriptions("doppler", CONFIGS).await?;
    w.finish().await
}
