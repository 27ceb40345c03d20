//! A flow run that starts causes a read of the configs of its work pool, and of no other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use testkit::doppler::Fault;

use crate::work_pools::template;
use crate::worker::start_worker;
use crate::world::{World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn secret_is_current_before_the_job_of_a_run_exists() -> Result<()> {
    let w = World::quiet_with_pool("run-fresh").await?;
    let _worker = start_worker(&w).await?;
    let deployment = w.deploy(&w.name).await?;
    // A Python program takes its time to start.
    let limit = Duration::from_mins(3);
    w.until_within(limit, "the worker to be online", async || {
        let workers = w.api.online_workers(&w.name).await?;
        ensure!(!workers.is_empty(), "none is");
        Ok(())
    })
    .await?;
    let before = w.downloads();
    w.set_doppler_secret("A", &secret("new"));
    let run = w.api.create_flow_run(&deployment).await?;
    w.until_values("b", &pairs(&[("A", secret("new"))])).await?;
    // The API client repeats requests that a busy database rejects.
    let reads = w.downloads() - before;
    ensure!((1..=2).contains(&reads), "{reads} reads");

    // The write came before the Job, by the clock of the API server.
    let jobs: Api<Job> = Api::namespaced(w.client.clone(), &w.name);
    let of_run = ListParams::default().labels(&format!("prefect.io/flow-run-id={run}"));
    let job = w
        .until("the Job of the run", async || {
            let items = jobs.list(&of_run).await?.items;
            items.into_iter().next().context("there is no Job")
        })
        .await?;
    let secret = w.secrets().get("b").await?;
    let written = secret.metadata.managed_fields.unwrap_or_default();
    let written = written.into_iter().filter_map(|fields| fields.time).max();
    let (written, created) = (
        written.context("no write")?,
        job.metadata.creation_timestamp,
    );
    ensure!(
        written.0 <= created.clone().context("no creation")?.0,
        "Secret {written:?}, Job {created:?}"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_share_one_read_a_second_and_the_last_change_arrives() -> Result<()> {
    let w = World::quiet_with_pool("run-storm").await?;
    let deployment = w.deploy(&w.name).await?;
    let (reads, started) = (w.downloads(), Instant::now());
    for number in 0..30 {
        w.set_doppler_secret("A", &secret(&format!("value-{number}")));
        w.start_run(&deployment).await?;
    }
    w.until_values("b", &pairs(&[("A", secret("value-29"))]))
        .await?;
    w.until_reads_end().await?;
    let seconds = usize::try_from(started.elapsed().as_secs())?;
    let reads = w.downloads() - reads;
    ensure!(
        (1..=seconds + 2).contains(&reads),
        "{reads} reads in {seconds} s"
    );
    let calls = w.doppler.downloads();
    let mine: Vec<_> = calls
        .iter()
        .filter(|call| call.uses_token(&w.token))
        .collect();
    let storm = &mine[mine.len() - reads..];
    for three in storm.windows(3) {
        let gap = three[2].at - three[0].at;
        ensure!(
            gap >= Duration::from_millis(950),
            "three reads within {gap:?}"
        );
    }
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_others_and_bindings_that_opt_out_cause_no_read() -> Result<()> {
    let w = World::quiet_with_pool("run-others").await?;
    let elsewhere = format!("{}-elsewhere", w.name);
    w.create_pool(&elsewhere, &template(&w.name)).await?;
    let other = w.deploy(&elsewhere).await?;
    let before = w.downloads();
    let seen = w.run_events().await?;
    for _ in 0..3 {
        w.start_run(&other).await?;
    }
    let until_seen = async |count: u64| {
        w.until("the events of the runs", async || {
            let now = w.run_events().await?;
            ensure!(now >= seen + count, "{}", now - seen);
            Ok(())
        })
        .await
    };
    until_seen(3).await?;
    w.until_reads_end().await?;
    ensure!(w.downloads() == before, "{} reads", w.downloads() - before);

    let mut spec = w.pool_spec(&json!([{"name": w.name}]));
    spec["refreshOnRun"] = json!(false);
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.until_reads_end().await?;
    let before = w.downloads();
    let own = w.deploy(&w.name).await?;
    w.start_run(&own).await?;
    until_seen(4).await?;
    w.until_reads_end().await?;
    ensure!(w.downloads() == before, "{} reads", w.downloads() - before);

    spec["refreshOnRun"] = json!(true);
    w.apply_binding("b", &spec).await?;
    w.until_ready("b").await?;
    w.set_doppler_secret("A", &secret("new"));
    // The declaration follows the reconcile of the new generation.
    w.until("the new value", async || {
        w.start_run(&own).await?;
        let values = w.values("b").await?;
        ensure!(values == pairs(&[("A", secret("new"))]), "the old value");
        Ok(())
    })
    .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_starts_with_the_last_values_while_doppler_is_down() -> Result<()> {
    let w = World::quiet_with_pool("run-outage").await?;
    let deployment = w.deploy(&w.name).await?;
    let token = w.token.clone();
    let down = w.doppler.fault(
        move |call| call.uses_token(&token),
        Fault::Error(503, "down".to_owned()),
    );
    w.set_doppler_secret("A", &secret("new"));
    let before = w.all_reads("doppler").await?;
    w.start_run(&deployment).await?;
    w.until("a failed read", async || {
        ensure!(w.all_reads("doppler").await? > before, "no read");
        Ok(())
    })
    .await?;
    ensure!(w.values("b").await? == pairs(&[("A", secret("old"))]));
    w.doppler.remove_fault(down);
    w.until_values("b", &pairs(&[("A", secret("new"))])).await?;
    w.until_ready("b").await?;
    w.finish().await
}
