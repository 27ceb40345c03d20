//! Rejections of Doppler: an invalid token, a missing config, a rate limit, an empty response.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::doppler::{Doppler, Fault, RateLimit, RecordedRequest};
use testkit::prefect::Block;

use super::{good, with};
use crate::world::{Setup, World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn keeps_last_good_secret_on_401() -> Result<()> {
    let w = World::start("up-refused").await?;
    w.set_doppler_secret("A", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    // `--stale-after` is five minutes here: a persistent failure does not wait for it.
    w.doppler.revoke(&w.token);
    let ready = w.until_not_ready("b", "DopplerUnauthorized").await?;
    ensure!(
        ready.message.contains("last good values"),
        "{}",
        ready.message
    );
    let synced = w.condition("b", "SecretSynced").await?;
    ensure!(
        synced.status == "False" && synced.reason == "DopplerUnauthorized",
        "{synced:?}"
    );
    let resolved = w.condition("b", "BlockResolved").await?;
    ensure!(resolved.status == "True", "{resolved:?}");
    w.until_event("DopplerUnauthorized").await?;
    w.until_values("b", &good()).await?;
    // The failure is written once, not at each poll.
    w.until_polls("DopplerUnauthorized", 1).await?;
    let writes = w.writes(None).await?;
    w.until_polls("DopplerUnauthorized", 3).await?;
    ensure!(
        w.writes(None).await? == writes,
        "{} writes in three polls",
        w.writes(None).await? - writes
    );
    // The operator still repairs the Secret.
    w.delete_secret("b").await?;
    w.until_values("b", &good()).await?;

    let token = format!("dp.st.dev.{}", secret("renewed"));
    w.doppler.add_service_token(&token, &w.name, "dev");
    w.set_doppler_secret("A", &secret("renewed"));
    w.api
        .put_block(&w.name, &Block::object(&w.name, "dev", &token))
        .await?;
    w.until_values("b", &pairs(&[("A", secret("renewed"))]))
        .await?;
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_with_a_refused_token_writes_no_status() -> Result<()> {
    let mut w = World::start("up-refused-restart").await?;
    w.set_doppler_secret("A", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.doppler.revoke(&w.token);
    let before = w.until_not_ready("b", "DopplerUnauthorized").await?;
    w.restart_operator().await?;
    w.until_polls("DopplerUnauthorized", 3).await?;
    let after = w.condition("b", "Ready").await?;
    ensure!(
        after.message == before.message && after.message.contains("last good values"),
        "{} instead of {}",
        after.message,
        before.message
    );
    let writes = w.writes(None).await?;
    ensure!(writes == 0, "{writes} writes after the restart");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_config_and_foreign_token_delete_nothing() -> Result<()> {
    let w = World::start("up-missing").await?;
    w.set_doppler_secret("A", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.doppler.remove_config(&w.name, "dev");
    let ready = w.until_not_ready("b", "ConfigMissing").await?;
    ensure!(
        ready.message.contains(&w.name) && ready.message.contains("dev"),
        "{}",
        ready.message
    );
    w.until_values("b", &good()).await?;
    w.set_doppler_secret("A", &secret("good"));
    w.until_ready("b").await?;

    // The block's token only reads `dev`.
    w.doppler.set(&w.name, "prd", "A", &secret("prd"));
    let mut spec = w.spec();
    spec["doppler"]["config"] = json!("prd");
    w.apply_binding("b", &spec).await?;
    w.until_not_ready("b", "DopplerForbidden").await?;
    w.until_values("b", &good()).await?;
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_config_never_empties_the_secret() -> Result<()> {
    let mut w = World::start("up-no-config").await?;
    w.set_doppler_secret("A", &secret("good"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    // Doppler adds three names to every config, so neither answer is one.
    let only_a = json!({"A": secret("other")}).to_string().into_bytes();
    for answer in [b"{}".to_vec(), only_a] {
        let fault = Fault::Answer(200, "application/json".to_owned(), answer);
        let fault = w.doppler.fault(with(&w.token), fault);
        let ready = w.until_not_ready("b", "ConfigIncomplete").await?;
        ensure!(
            ready.message.contains("DOPPLER_PROJECT"),
            "{}",
            ready.message
        );
        w.until_polls("ConfigIncomplete", 4).await?;
        w.until_values("b", &good()).await?;
        // The last good values outlive the answer: the operator restores the Secret.
        w.delete_secret("b").await?;
        w.until_values("b", &good()).await?;
        // After a restart, the Secret shows what earlier answers had.
        w.stop_operator().await?;
        w.start_operator().await?;
        w.until_not_ready("b", "ConfigIncomplete").await?;
        let before = w.all_reads("doppler").await?;
        w.until("three more polls", async || {
            let now = w.all_reads("doppler").await?;
            ensure!(now >= before + 3, "{} so far", now - before);
            Ok(())
        })
        .await?;
        w.until_values("b", &good()).await?;
        w.doppler.remove_fault(fault);
        w.until_ready("b").await?;
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_of_most_names_is_rejected_until_the_next_poll_confirms_it() -> Result<()> {
    let w = World::with(
        "up-loss",
        Setup {
            refresh_interval: "3s",
            ..Setup::default()
        },
    )
    .await?;
    let all: Vec<_> = (0..8).map(|number| format!("N{number}")).collect();
    for name in &all {
        w.set_doppler_secret(name, &secret(name));
    }
    w.apply_binding("b", &w.direct_spec().await?).await?;
    w.until_ready("b").await?;
    let full = w.values("b").await?;
    ensure!(full.len() == all.len());
    let started = std::time::Instant::now();
    let few = json!({
        "DOPPLER_PROJECT": w.name, "DOPPLER_CONFIG": "dev", "DOPPLER_ENVIRONMENT": "dev", "N0": secret("N0"),
    });
    let few = few.to_string().into_bytes();
    let few = Fault::Answer(200, "application/json".to_owned(), few);
    w.doppler.fault(with(&w.token), few);
    let ready = w.until_not_ready("b", "NamesLost").await?;
    ensure!(
        ready.message.contains("7 of 11 names (N1,"),
        "{}",
        ready.message
    );
    ensure!(w.values("b").await?.len() > 1, "it was accepted at once");
    w.until_values("b", &pairs(&[("N0", secret("N0"))])).await?;
    ensure!(started.elapsed() >= Duration::from_secs(2));
    w.until_ready("b").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_is_respected_before_it_is_reached() -> Result<()> {
    let w = World::start("up-limit").await?;
    // Its own Doppler, because all clients share the limit.
    let doppler = Doppler::start()?;
    let window = Duration::from_secs(5);
    doppler.set_rate_limit(RateLimit {
        secret_reads: 2,
        reads: 10,
        window,
    });
    doppler.add_service_token(&w.token, &w.name, "dev");
    doppler.set(&w.name, "dev", "A", &secret("good"));
    let mut spec = w.spec();
    spec["doppler"]["host"] = json!(doppler.url());
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.until("six downloads", async || {
        let count = doppler.downloads().len();
        ensure!(count >= 6, "{count} so far");
        Ok(())
    })
    .await?;
    ensure!(
        doppler.counts().status(429) == 0,
        "the operator exceeded the limit: {:?}",
        doppler.counts()
    );
    let calls = doppler.downloads();
    ensure!(
        calls[5].at - calls[0].at >= window,
        "six downloads within {:?}",
        calls[5].at - calls[0].at
    );
    ensure!(
        w.condition("b", "Ready").await?.status == "True",
        "the rate limit changed the condition"
    );

    // A 429 without earlier rate headers is respected as well.
    doppler.set_rate_limit(RateLimit {
        secret_reads: 1000,
        reads: 1000,
        window,
    });
    let more = doppler.downloads().len();
    doppler.fault_times(
        1,
        RecordedRequest::is_download,
        Fault::Error(429, "Exceeded rate limit".to_owned()),
    );
    doppler.set(&w.name, "dev", "A", &secret("after"));
    w.until_values("b", &pairs(&[("A", secret("after"))]))
        .await?;
    ensure!(
        doppler.counts().status(429) == 1,
        "{:?} in {} more",
        doppler.counts(),
        doppler.downloads().len() - more
    );
    w.finish().await
}
