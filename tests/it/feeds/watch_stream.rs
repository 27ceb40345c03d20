//! Doppler's watch streams.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testkit::doppler::{Fault, Framing, RecordedRequest, WatchMode};

use super::{sample_name, values_with_a};
use crate::world::{Setup, World, secret};

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_and_one_read_serve_all_bindings_of_a_config() -> Result<()> {
    let w = World::with_own_doppler("feed-stream", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("0"));
    let names: Vec<_> = (0..20).map(|number| format!("b{number}")).collect();
    for name in &names {
        w.apply_binding(name, &w.spec()).await?;
    }
    for name in &names {
        w.until_ready(name).await?;
    }
    w.until_subscriptions("doppler", 1).await?;
    ensure!(w.full_downloads() == 1, "{}", w.full_downloads());
    // One of them also cuts inside events.
    let framings = [
        Framing::Whole,
        Framing::Split(vec![1, 9, 20, 40]),
        Framing::Whole,
    ];
    for (framing, value) in framings.into_iter().zip(["1", "2", "3"]) {
        w.doppler.set_framing(framing);
        w.set_doppler_secret("A", &secret(value));
        for name in &names {
            w.until_values(name, &values_with_a(value)).await?;
        }
    }
    ensure!(w.full_downloads() == 4, "{}", w.full_downloads());
    // One more if the stream opened later than the first download ended.
    ensure!(w.downloads() <= 5, "{} downloads", w.downloads());
    ensure!(
        w.sample(&sample_name(
            "change_notifications_total",
            "source",
            "doppler"
        ))
        .await?
            == 3
    );
    // The operator counts a Secret after the API server has it.
    w.until("each Secret to be timed", async || {
        let timed = w.sample("doppler_prefect_notification_to_secret_seconds_count");
        let timed = timed.await?;
        ensure!(timed == 3 * 20, "{timed} are timed");
        Ok(())
    })
    .await?;

    // Two events in one chunk. A name transformer is another download but the same stream.
    let mut spec = w.spec();
    for style in ["lower-snake", "lower-kebab"] {
        spec["doppler"]["nameTransformer"] = json!(style);
        w.apply_binding(style, &spec).await?;
        w.until_ready(style).await?;
    }
    w.doppler.set_framing(Framing::Merge(2));
    w.set_doppler_secret("A", &secret("superseded"));
    w.set_doppler_secret("A", &secret("4"));
    w.until_values("b0", &values_with_a("4")).await?;
    for style in ["lower-snake", "lower-kebab"] {
        w.until(&format!("the change in {style}"), async || {
            let values = w.values(style).await?;
            let found = values.get("a").context("no such key")?;
            ensure!(*found == secret("4"), "another value");
            Ok(())
        })
        .await?;
    }
    ensure!(
        w.doppler.open_streams() == 1,
        "{} streams",
        w.doppler.open_streams()
    );
    ensure!(
        w.doppler.counts().watches == 1,
        "the stream was opened again"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_reconnects_and_reads_missed_changes_once() -> Result<()> {
    let w = World::with_own_doppler("feed-lost", Setup::without_polls()).await?;
    w.set_doppler_secret("A", &secret("before"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.until_subscriptions("doppler", 1).await?;
    w.reconciles_at_rest().await?;
    let reconnects = sample_name("subscription_reconnects_total", "upstream", "doppler");
    for (reconnect, value, status) in [(1, "missed", 200), (2, "missed", 304)] {
        let before = w.downloads();
        let fault = w.doppler.fault(
            RecordedRequest::is_watch,
            Fault::Error(503, "Down".to_owned()),
        );
        let watches = w.doppler.counts().watches;
        w.doppler.close_streams();
        w.until("a failed attempt", async || {
            ensure!(w.doppler.counts().watches > watches, "none");
            Ok(())
        })
        .await?;
        w.until_subscriptions("doppler", 0).await?;
        // The second time nothing changes while the stream is down.
        if status == 200 {
            w.set_doppler_secret("A", &secret(value));
        }
        ensure!(w.downloads() == before, "a download without a notification");
        w.doppler.remove_fault(fault);
        w.until_subscriptions("doppler", 1).await?;
        w.until_values("b", &values_with_a(value)).await?;
        w.until_sample(&reconnects, reconnect).await?;
        w.until("the read", async || {
            let requests = w.doppler.downloads();
            ensure!(requests.len() > before, "none");
            let last = requests.last().context("no download")?;
            ensure!(last.status == Some(status), "{:?}", last.status);
            let conditional = last.headers.contains_key("if-none-match");
            ensure!(conditional, "it was read without its ETag");
            Ok(())
        })
        .await?;
        // The reconnected stream reports a later change.
        w.set_doppler_secret("A", &secret("after"));
        w.until_values("b", &values_with_a("after")).await?;
        let read = w.downloads() - before;
        ensure!(read == 2, "{read} downloads for a reconnect and a change");
        w.set_doppler_secret("A", &secret("missed"));
        w.until_values("b", &values_with_a("missed")).await?;
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_stream_is_reported_once_and_the_config_polled() -> Result<()> {
    let w = World::with_own_doppler("feed-rejected", Setup::default()).await?;
    let reason = "Upgrade your plan to watch secrets";
    w.doppler
        .set_watch_mode(WatchMode::Refused(403, reason.to_owned()));
    w.set_doppler_secret("A", &secret("before"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    let rejection = async || -> Result<String> {
        let synced = w.condition("b", "SecretSynced").await?;
        ensure!(synced.status == "True" && synced.reason == "Synced");
        let times = synced.message.matches("rejects the watch stream").count();
        ensure!(times == 1, "{times} times in: {}", synced.message);
        Ok(synced.message)
    };
    let message = w.until("the rejection in the condition", rejection).await?;
    ensure!(message.contains(reason), "{message}");
    ensure!(w.condition("b", "Ready").await?.status == "True");
    let rejections = sample_name("subscription_rejections_total", "upstream", "doppler");
    ensure!(w.sample(&rejections).await? == 1);

    w.set_doppler_secret("A", &secret("after"));
    w.until_values("b", &values_with_a("after")).await?;
    w.until_polls("unchanged", 1).await?;
    let before = w.binding("b").await?.metadata.resource_version;
    w.until_polls("unchanged", 4).await?;
    ensure!(
        w.binding("b").await?.metadata.resource_version == before,
        "the status was written at a poll that found nothing new"
    );
    ensure!(rejection().await? == message, "the message changed");
    ensure!(w.sample(&rejections).await? == 1 && w.doppler.counts().watches == 1);
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_beyond_max_streams_is_polled_until_one_is_free() -> Result<()> {
    let setup = Setup::default().args(&["--max-streams", "1"]);
    let w = World::with_own_doppler("feed-over-limit", setup).await?;
    for config in ["dev", "prd"] {
        w.doppler.set(&w.name, config, "A", &secret("before"));
    }
    // Too long for a poll: the stream reports changes of this config.
    let mut dev = w.own_spec("dev").await?;
    dev["refreshInterval"] = json!("1h");
    w.apply_binding("dev", &dev).await?;
    w.until_ready("dev").await?;
    w.until_subscriptions("doppler", 1).await?;
    w.bind_own(&["prd".to_owned()]).await?;
    w.until_ready("prd").await?;
    for config in ["dev", "prd"] {
        w.doppler.set(&w.name, config, "A", &secret("after"));
    }
    for config in ["dev", "prd"] {
        w.until_values(config, &values_with_a("after")).await?;
    }
    ensure!(w.doppler.open_streams_of(&w.name, "dev") == 1);
    ensure!(w.doppler.counts().watches == 1, "a second one was opened");
    let message = w.condition("prd", "SecretSynced").await?.message;
    let plain = "Secret prd holds the 4 keys that Doppler last returned";
    ensure!(message == plain, "our own limit is not reported: {message}");

    w.delete_binding("dev").await?;
    w.until("the stream of prd", async || {
        ensure!(w.doppler.open_streams_of(&w.name, "prd") == 1, "not yet");
        Ok(())
    })
    .await?;
    ensure!(
        w.doppler.open_streams() == 1,
        "{} streams",
        w.doppler.open_streams()
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn max_streams_of_zero_opens_no_streams() -> Result<()> {
    let setup = Setup::default().args(&["--max-streams", "0"]);
    let w = World::with_own_doppler("feed-none", setup).await?;
    w.set_doppler_secret("A", &secret("before"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    w.set_doppler_secret("A", &secret("after"));
    w.until_values("b", &values_with_a("after")).await?;
    ensure!(w.doppler.counts().watches == 0);
    w.finish().await
}
