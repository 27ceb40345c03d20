//! A config that changes all the time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::world::{Setup, World, pairs, secret};

/// Changes, and the time between them.
const CHANGES: u64 = 300;
const GAP: Duration = Duration::from_millis(20);

/// How often something may happen, as `docs/operations.md` states it.
fn bound(burst: u64, period: u64, since: Instant) -> u64 {
    burst + since.elapsed().as_secs() / period + 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_flips_causes_bounded_writes_and_its_last_value_arrives() -> Result<()> {
    let w = World::with("up-flipping", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("first"));
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    w.until_subscriptions("doppler", 1).await?;
    let writes = async |object| w.writes(Some(object)).await;
    let (secrets, statuses) = (writes("secret").await?, writes("status").await?);
    let reads = w.all_reads("doppler").await?;
    let started = Instant::now();
    for number in 0..CHANGES {
        w.set_doppler_secret("A", &secret(&number.to_string()));
        tokio::time::sleep(GAP).await;
    }
    w.set_doppler_secret("A", &secret("last"));
    w.until_values("b", &pairs(&[("A", secret("last"))]))
        .await?;
    let secrets = writes("secret").await? - secrets;
    // On a busy machine, one write takes several changes.
    ensure!(secrets >= 10, "{secrets} writes: a burst has to pass");
    let max = bound(30, 2, started);
    ensure!(secrets <= max, "{secrets} writes of the Secret, not {max}");
    let statuses = writes("status").await? - statuses;
    let max = bound(30, 2, started);
    ensure!(
        statuses <= max,
        "{statuses} writes of the status, not {max}"
    );
    let reads = w.all_reads("doppler").await? - reads;
    let max = bound(60, 1, started);
    ensure!(reads <= max, "{reads} reads, not {max}");
    let events = writes("event").await?;
    let max = bound(42, 15, started);
    ensure!(events <= max, "{events} Events, not {max}");
    // The status follows, and nothing more is written after it.
    let hash = |status: &serde_json::Value| status["contentHash"].clone();
    w.until("the last status", async || {
        let annotation = w.secrets().get("b").await?.metadata.annotations;
        let written = annotation.unwrap_or_default();
        let status = w.status("b").await?;
        ensure!(
            written.values().any(|value| hash(&status) == *value),
            "it has another content hash"
        );
        Ok(())
    })
    .await?;
    w.finish().await
}
