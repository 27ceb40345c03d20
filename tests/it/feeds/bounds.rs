//! Upstreams that do not respond, are down, or have a small quota.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::doppler::{Fault, RateLimit};

use super::{sample_name, values_with_a};
use crate::world::{Setup, World, secret};

/// Time for a few windows of a rate limit, or for a long backoff.
const LONG_TIMEOUT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_prefect_server_delays_no_other_binding() -> Result<()> {
    const UNRESPONSIVE: u64 = 40;
    // Of the 8 permits, one is kept for sources that have answered before.
    const QUEUED: u64 = UNRESPONSIVE - 7;
    // Longer than the test.
    let setup = Setup::without_polls().args(&["--prefect-timeout", "5m"]);
    let w = World::with("feed-unresponsive", setup).await?;
    w.set_doppler_secret("A", &secret("good"));
    // The kernel accepts the connections, and no process answers.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut spec = w.spec();
    spec["prefect"]["server"]["remoteApiUrl"] =
        json!(format!("http://{}/api", listener.local_addr()?));
    for number in 0..UNRESPONSIVE {
        spec["prefect"]["block"]["name"] = json!(format!("unresponsive-{number}"));
        w.apply_binding(&format!("unresponsive-{number}"), &spec)
            .await?;
    }
    let queued = sample_name("upstream_queue_depth", "upstream", "prefect");
    w.until_sample(&queued, QUEUED).await?;
    for number in 0..5 {
        w.apply_binding(&format!("good-{number}"), &w.spec())
            .await?;
    }
    for number in 0..5 {
        w.until_ready(&format!("good-{number}")).await?;
    }
    ensure!(
        w.sample(&queued).await? == QUEUED,
        "a request left the queue"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn small_quota_is_shared_by_all_configs_without_a_429() -> Result<()> {
    let w = World::with_own_doppler("feed-limit", Setup::default()).await?;
    w.doppler.set_rate_limit(RateLimit {
        secret_reads: 20,
        reads: 1_000,
        window: Duration::from_secs(5),
    });
    let configs: Vec<_> = (0..30).map(|number| format!("c{number}")).collect();
    for config in &configs {
        w.doppler.set(&w.name, config, "A", &secret(config));
    }
    // The first response contains the limit.
    let (first, others) = configs.split_at(1);
    w.bind_own(first).await?;
    w.until_ready(&first[0]).await?;
    w.bind_own(others).await?;
    for config in &configs {
        w.until_within(
            LONG_TIMEOUT,
            &format!("the values of {config}"),
            async || {
                ensure!(
                    w.values(config).await? == values_with_a(config),
                    "other values"
                );
                Ok(())
            },
        )
        .await?;
    }
    let reads_per_config = || -> Vec<usize> {
        let calls = w.doppler.downloads();
        let of = |config: &String| calls.iter().filter(|it| it.is_for(&w.name, config)).count();
        configs.iter().map(of).collect()
    };
    let before = reads_per_config();
    w.until_within(LONG_TIMEOUT, "a poll of each config", async || {
        let now = reads_per_config();
        let starved = now
            .iter()
            .zip(&before)
            .filter(|(now, before)| now == before);
        let starved = starved.count();
        ensure!(starved == 0, "{starved} configs were not polled");
        Ok(())
    })
    .await?;
    let counts = w.doppler.counts();
    ensure!(counts.status(429) == 0, "{counts:?}");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_connections_are_retried_for_one_config_at_a_time() -> Result<()> {
    retries_one_config_at_a_time("feed-dead-closed", Fault::Close).await
}

#[tokio::test(flavor = "multi_thread")]
async fn status_503_is_retried_for_one_config_at_a_time() -> Result<()> {
    retries_one_config_at_a_time("feed-dead-503", Fault::Error(503, "Down".to_owned())).await
}

async fn retries_one_config_at_a_time(name: &str, fault: Fault) -> Result<()> {
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
    w.until("three failed reads of each config", async || {
        let failed = w.reads("doppler", "DopplerUnreachable").await?;
        ensure!(failed >= 3 * CONFIGS, "{failed} reads");
        Ok(())
    })
    .await?;
    let after = w.doppler.counts();
    let downloads = after.downloads - before.downloads;
    let watches = after.watches - before.watches;
    // A few requests start before the circuit breaker opens; then there is one probe at a time.
    ensure!(
        downloads < CONFIGS && watches < CONFIGS,
        "{downloads} downloads and {watches} streams of {CONFIGS} configs"
    );
    ensure!(downloads > 2 && watches > 0, "the operator does not retry");
    w.doppler.remove_fault(fault);
    for config in &configs {
        w.until_within(LONG_TIMEOUT, &format!("{config} to recover"), async || {
            ensure!(w.values(config).await? == values_with_a("after"), "not yet");
            Ok(())
        })
        .await?;
    }
    w.until_subscriptions("doppler", CONFIGS).await?;
    w.finish().await
}
