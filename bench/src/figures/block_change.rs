//! A change of the Prefect block, notified by the event socket of the real Prefect server.
//!
//! Input: one binding, and a block that names two configs in turn. Output: the times of the
//! changes.
//! Invariants: the operator does not poll, so that only a notification can trigger a read. The
//! clock includes the time in which the server applies the change.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use testkit::prefect::PrefectApi;

use super::change_chart::{chart, one_binding};
use super::change_times::change_times;
use super::context::FigureContext;
use super::statistics::{median, milliseconds, worst};
use crate::result::{Findings, Goal, Row};
use crate::subject::RunOptions;
use crate::testbed::Testbed;
use crate::upstreams::Prefect;
use crate::workload::{PROJECT, Workload, config, secrets};

const GOAL: f64 = 150.0;

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let workload = Workload {
        real_prefect: true,
        ..one_binding(context)
    };
    let options = RunOptions::without_polls();
    let synced = context.cold_sync("block", workload, &options).await?;
    let Prefect::Real(real) = &synced.testbed.prefect else {
        bail!("the testbed has no real Prefect server");
    };
    let api = &real.1;
    let targets = two_configs(&synced.testbed);
    let document = api.block("secret", &workload.block_of(0)).await?;
    let document = document.context("the block is missing")?;
    let id = document["id"].as_str().context("the block has no id")?;
    let mut patches = Vec::new();
    let count = context.sizes.block_changes;
    let times = change_times(&synced.watch, count, async |number| {
        let started_at = Instant::now();
        point_at(api, id, &targets[number % 2]).await?;
        patches.push(started_at.elapsed());
        Ok(started_at)
    })
    .await?;
    synced.stop().await?;
    Ok(findings(&times, &patches))
}

fn findings(times: &[Duration], patches: &[Duration]) -> Findings {
    let what = "change of the Prefect block → Secret written, event socket, 1 binding: median";
    let note = format!(
        "{} changes, worst {:.0} ms; includes the response time of the real server to the PATCH, {:.0} ms (median)",
        times.len(),
        milliseconds(worst(times)),
        milliseconds(median(patches))
    );
    let median = milliseconds(median(times));
    let title = "Change of the Prefect block → Secret written";
    Findings {
        rows: vec![Row::new(what, median, "ms", Goal::Below(GOAL)).note(note)],
        charts: vec![chart("block", title, times, GOAL)],
    }
}

/// Two configs with different content, and a token for each.
fn two_configs(testbed: &Testbed<'_>) -> [(String, String); 2] {
    [1, 2].map(|number| {
        let (doppler, config) = (&testbed.doppler, config(number));
        let content = secrets(testbed.workload.keys, &format!("config-{number}"));
        doppler.replace(PROJECT, &config, content);
        let token = doppler.service_token(PROJECT, &config);
        (config, token)
    })
}

async fn point_at(api: &PrefectApi, id: &str, (config, token): &(String, String)) -> Result<()> {
    let value = json!({"project": PROJECT, "config": config, "access_token": token});
    let body = json!({"data": {"value": value}, "merge_existing_data": false});
    api.patch(&format!("/block_documents/{id}"), &body).await?;
    Ok(())
}
