//! A change, and the time until the Secret is written: in Doppler, heard by the watch stream and by a hook, and of the Prefect block, heard by the
//! event socket. One binding. The operator does not poll meanwhile, so what happens was caused by the event.
//!
//! The clock starts right before the change is made, and stops when the watch shows the Secret's new version.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use tokio::time::sleep_until;

use super::cold::as_f64;
use super::sync::{self, Synced};
use super::times::{median, worst};
use crate::Bench;
use crate::observe::watch::Watching;
use crate::result::{Chart, Findings, Goal, Line, Row, number};
use crate::scene::{PROJECT, Plan, Prefect, config};
use crate::subject::{Hooks, How};
use testkit::doppler::WatchMode;
use testkit::folder::ScratchDir;
use testkit::operator::local_http;
use testkit::prefect::PrefectApi;
use testkit::{ports, wait};

/// Whoever needs longer was not told.
const TOLD: Duration = Duration::from_secs(5);
/// The first changes are not measured: whoever listens may only now begin to.
const TRIES: usize = 4;
const STATUS_LIMIT: Duration = Duration::from_secs(1);
const STREAM_LIMIT: Duration = Duration::from_secs(10);
/// Between two hooks: an operator may bound how often hooks have it read, and here it is asked how long one takes.
const HOOKS_APART: Duration = Duration::from_millis(1100);
const SECRET: &str = "the secret of a benchmark";

/// By the watch stream.
pub async fn stream(bench: &Bench<'_>) -> Result<Findings> {
    let how = How::without_polls();
    let synced = sync::cold(bench, bench.subject, "stream", one(bench), &how).await?;
    let doppler = &synced.scene.doppler;
    wait::until(STREAM_LIMIT, "a watch stream to be opened", async || {
        ensure!(doppler.open_streams() > 0, "none is open");
        Ok(())
    })
    .await?;
    let times = samples(&synced.watching, bench.sizes.changes, async |number| {
        let begun = Instant::now();
        doppler.set(PROJECT, &config(0), "KEY_00", &format!("{number:032}"));
        Ok(begun)
    })
    .await?;
    sync::end(synced).await?;
    Ok(doppler_findings("stream", "watch stream", &times))
}

/// By a signed hook. The stand-in refuses watch streams here, as on a plan without them.
pub async fn hook(bench: &Bench<'_>) -> Result<Findings> {
    let folder = ScratchDir::new("hook-secrets")?;
    std::fs::write(folder.path().join("_all"), SECRET)?;
    let [port] = ports::free()?;
    let how = How {
        hooks: Some(Hooks {
            address: format!("127.0.0.1:{port}"),
            secrets: folder.path().to_owned(),
        }),
        ..How::without_polls()
    };
    // A subject that knows no hooks ends at once, and says so. Streams are ended afterwards, so that nobody waits for one at the start.
    let synced = sync::cold(bench, bench.subject, "hook", one(bench), &how).await?;
    let doppler = &synced.scene.doppler;
    doppler.set_watch_mode(WatchMode::Refused(
        403,
        "Your plan has no watch streams".to_owned(),
    ));
    doppler.close_streams();
    let http = local_http()?;
    let url = format!("http://127.0.0.1:{port}/webhooks/doppler");
    let mut earliest = Instant::now();
    let times = samples(&synced.watching, bench.sizes.changes, async |number| {
        sleep_until(earliest.into()).await;
        let begun = Instant::now();
        earliest = begun + HOOKS_APART;
        doppler.set(PROJECT, &config(0), "KEY_00", &format!("{number:032}"));
        let body = hook_body().to_string();
        let request = http
            .post(&url)
            .header("X-Doppler-Signature", signature(&body)?);
        let answer = request
            .header("Content-Type", "application/json")
            .body(body)
            .send()
            .await?;
        ensure!(
            answer.status().is_success(),
            "the hook answers {}",
            answer.status()
        );
        Ok(begun)
    })
    .await?;
    sync::end(synced).await?;
    Ok(doppler_findings("hook", "hook", &times))
}

/// Of the Prefect block, by the event socket of the real server.
pub async fn block(bench: &Bench<'_>) -> Result<Findings> {
    let plan = Plan {
        real_prefect: true,
        ..one(bench)
    };
    let how = How::without_polls();
    let synced = sync::cold(bench, bench.subject, "block", plan, &how).await?;
    let Prefect::Real(real) = &synced.scene.prefect else {
        bail!("no real server");
    };
    let api = &real.1;
    // Two configs of different content, and a block that names the one and the other in turn.
    let tokens = two_configs(&synced);
    let document = api.block("secret", &synced.scene.block(0)).await?;
    let id = document.context("no block")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    let mut patches = Vec::new();
    let times = samples(
        &synced.watching,
        bench.sizes.block_changes,
        async |number| {
            let begun = Instant::now();
            point_at(api, &id, &tokens[number % 2]).await?;
            patches.push(begun.elapsed());
            Ok(begun)
        },
    )
    .await?;
    sync::end(synced).await?;
    let what = "change of the Prefect block → Secret written, event socket, 1 binding: median";
    let note = format!(
        "{} changes, worst {:.0} ms; the real server, which takes {:.0} ms (median) to answer the PATCH itself, in which the clock runs",
        times.len(),
        ms(worst(&times)),
        ms(median(&patches))
    );
    Ok(Findings {
        rows: vec![Row::new(what, ms(median(&times)), "ms", Goal::Below(150.0)).note(note)],
        charts: vec![chart(
            "block",
            "Change of the Prefect block → Secret written",
            &times,
            150.0,
        )],
    })
}

fn one(bench: &Bench<'_>) -> Plan {
    Plan {
        bindings: 1,
        ..bench.plan()
    }
}

/// Makes changes one after the other, and gives for each the time until the Secret was seen written.
async fn samples(
    watching: &Watching,
    count: usize,
    mut change: impl AsyncFnMut(usize) -> Result<Instant>,
) -> Result<Vec<Duration>> {
    let mut number = 0;
    while time_of(watching, &mut change, number).await?.is_none() {
        number += 1;
        ensure!(
            number < TRIES,
            "{number} changes, and none came within {TOLD:?}: nothing was heard of them"
        );
    }
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        number += 1;
        let time = time_of(watching, &mut change, number).await?;
        times.push(time.with_context(|| {
            format!(
                "change {} of {count} did not come within {TOLD:?}",
                times.len() + 1
            )
        })?);
    }
    Ok(times)
}

/// The time of one change; none if it did not come.
async fn time_of(
    watching: &Watching,
    change: &mut impl AsyncFnMut(usize) -> Result<Instant>,
    number: usize,
) -> Result<Option<Duration>> {
    watching.mark();
    let begun = change(number).await?;
    let seen = watching.until(TOLD, "the Secret", |sight| !sight.secrets.is_empty());
    if seen.await.is_err() {
        return Ok(None);
    }
    let at = watching.sight().secrets.values().next().copied();
    // The next change is not to meet what this one still causes. One that writes no status is no worse for it.
    let written = watching.until(STATUS_LIMIT, "the status", |sight| {
        sight.resource_writes > 0
    });
    let _ = written.await;
    Ok(at.map(|at| at.saturating_duration_since(begun)))
}

fn doppler_findings(file: &str, by: &str, times: &[Duration]) -> Findings {
    let count = number(as_f64(times.len()));
    let about = format!("change in Doppler → Secret written, {by}, 1 binding");
    Findings {
        rows: vec![
            Row::new(
                format!("{about}: median of {count}"),
                ms(median(times)),
                "ms",
                Goal::Below(50.0),
            ),
            Row::new(
                format!("{about}: worst of {count}"),
                ms(worst(times)),
                "ms",
                Goal::Below(250.0),
            ),
        ],
        charts: vec![chart(
            file,
            &format!("Change in Doppler → Secret written, by {by}"),
            times,
            50.0,
        )],
    }
}

fn chart(file: &str, title: &str, times: &[Duration], goal: f64) -> Chart {
    let mut sorted: Vec<_> = times.iter().map(|time| ms(*time)).collect();
    sorted.sort_by(f64::total_cmp);
    let share = |at: usize| 100.0 * as_f64(at + 1) / as_f64(sorted.len());
    let points = sorted
        .iter()
        .enumerate()
        .map(|(at, time)| (*time, share(at)));
    Chart {
        file: file.to_owned(),
        title: title.to_owned(),
        description: "The share of the changes that were in the Secret after that time; the mark is the goal of the median".to_owned(),
        x: "milliseconds".to_owned(),
        y: "% of changes".to_owned(),
        lines: vec![Line {
            name: "changes".to_owned(),
            points: std::iter::once((0.0, 0.0)).chain(points).collect(),
        }],
        marks: vec![("goal".to_owned(), goal)],
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// As Doppler sends it.
fn hook_body() -> serde_json::Value {
    json!({
        "type": "config.secrets.update",
        "config": {"name": config(0), "environment": config(0), "project": PROJECT, "root": true, "locked": false},
        "project": {"id": PROJECT, "slug": PROJECT, "name": PROJECT},
        "workplace": {"id": "workplace", "name": "Workplace"},
        "diff": {"added": [], "removed": [], "updated": ["KEY_00"]},
    })
}

fn signature(body: &str) -> Result<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    Ok(format!("sha256={}", testkit::doppler::hex(&digest)))
}

fn two_configs(synced: &Synced<'_>) -> [(String, String); 2] {
    [1, 2].map(|number| {
        let (doppler, plan) = (&synced.scene.doppler, synced.scene.plan);
        let secrets = crate::scene::secrets(plan.keys, &format!("config-{number}"));
        doppler.replace(PROJECT, &config(number), secrets);
        (
            config(number),
            doppler.service_token(PROJECT, &config(number)),
        )
    })
}

async fn point_at(api: &PrefectApi, id: &str, (config, token): &(String, String)) -> Result<()> {
    let value = json!({"project": PROJECT, "config": config, "access_token": token});
    let body = json!({"data": {"value": value}, "merge_existing_data": false});
    api.patch(&format!("/block_documents/{id}"), &body).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_signed_as_another_implementation_would() {
        let digest = "df86544d57711ee2e47c67c1d9a88eb482004747de2f6f6d1292b0ec48b28c36";
        assert_eq!(signature("{}").unwrap(), format!("sha256={digest}"));
    }
}
