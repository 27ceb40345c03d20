//! A change in Doppler, notified by a signed webhook.
//!
//! Input: one binding, and the operator with a webhook receiver. Output: the times of the changes.
//! Invariants: the operator does not poll, and the stand-in rejects watch streams, as Doppler does
//! on a plan without them. Only a webhook can trigger a read.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use testkit::doppler::{WatchMode, hex};
use testkit::folder::ScratchDir;
use testkit::operator::local_http;
use testkit::ports;
use tokio::time::sleep_until;

use super::change_chart::{change_config, doppler_findings, one_binding};
use super::change_times::change_times;
use super::context::FigureContext;
use crate::result::Findings;
use crate::subject::{RunOptions, Webhook};
use crate::workload::{PROJECT, config};

/// The interval between webhooks. An operator may limit their rate, and the figure measures one
/// webhook.
const INTERVAL: Duration = Duration::from_millis(1100);
const SECRET: &str = "the secret of a benchmark";

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let folder = ScratchDir::new("webhook-secrets")?;
    std::fs::write(folder.path().join("_all"), SECRET)?;
    let [port] = ports::free()?;
    let options = RunOptions {
        webhook: Some(Webhook {
            address: format!("127.0.0.1:{port}"),
            secrets: folder.path().to_owned(),
        }),
        ..RunOptions::without_polls()
    };
    let workload = one_binding(context);
    let synced = context.cold_sync("webhook", workload, &options).await?;
    let testbed = &synced.testbed;
    // The streams are rejected only now: the operator's first sync may wait for its stream.
    testbed.doppler.set_watch_mode(WatchMode::Refused(
        403,
        "Your plan has no watch streams".to_owned(),
    ));
    testbed.doppler.close_streams();
    let http = local_http()?;
    let url = format!("http://127.0.0.1:{port}/webhooks/doppler");
    let mut earliest = Instant::now();
    let times = change_times(&synced.watch, context.sizes.changes, async |number| {
        sleep_until(earliest.into()).await;
        let started_at = change_config(testbed, number);
        earliest = started_at + INTERVAL;
        let body = body().to_string();
        let response = http
            .post(&url)
            .header("X-Doppler-Signature", signature(&body)?)
            .header("Content-Type", "application/json")
            .body(body)
            .send()
            .await?;
        let status = response.status();
        ensure!(
            status.is_success(),
            "the webhook receiver responds {status}"
        );
        Ok(started_at)
    })
    .await?;
    synced.stop().await?;
    Ok(doppler_findings("webhook", "webhook", &times))
}

/// The body of a webhook, with the fields that Doppler sends.
fn body() -> Value {
    json!({
        "type": "config.secrets.update",
        "config": {
            "name": config(0),
            "environment": config(0),
            "project": PROJECT,
            "root": true,
            "locked": false,
        },
        "project": {"id": PROJECT, "slug": PROJECT, "name": PROJECT},
        "workplace": {"id": "workplace", "name": "Workplace"},
        "diff": {"added": [], "removed": [], "updated": ["KEY_00"]},
    })
}

fn signature(body: &str) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    Ok(format!("sha256={}", hex(&digest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_equals_that_of_another_implementation() {
        let digest = "df86544d57711ee2e47c67c1d9a88eb482004747de2f6f6d1292b0ec48b28c36";
        assert_eq!(signature("{}").unwrap(), format!("sha256={digest}"));
    }
}
