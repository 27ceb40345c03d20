//! A flow run that is created right after a change in Doppler of which no push notifies the operator.
//!
//! Input: one binding, a work pool of the real Prefect server, its real worker, and a node that runs
//! pods as processes. Output: which value each run prints, and how long before the creation of its
//! container the Secret was written.
//! Invariants: the operator does not poll, and the stand-in rejects watch streams, as Doppler does on a
//! plan without them. Only the start of a run can trigger a read. The node creates a container as soon as
//! it sees the pod; a kubelet takes one to two seconds longer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use testkit::doppler::WatchMode;
use testkit::node::{NodeOptions, PodRecord, ProcessNode};
use testkit::prefect::{Deployment, PrefectWorker, WorkerOptions, flows};
use testkit::wait;

use super::change_chart::{change_config, one_binding};
use super::context::FigureContext;
use super::run_load;
use super::statistics::{median, milliseconds, worst};
use crate::cold_sync::Synced;
use crate::number::as_f64;
use crate::result::{Findings, Goal, Row};
use crate::subject::RunOptions;
use crate::upstreams::Prefect;
use crate::workload::Workload;

/// The longest time from the creation of a run to the end of its container.
const RUN_TIMEOUT: Duration = Duration::from_mins(2);
/// The resolution of the creation of a container.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);

/// Measures the figure.
pub async fn measure(context: &FigureContext<'_>) -> Result<Findings> {
    let workload = Workload {
        real_prefect: true,
        has_pool: true,
        ..one_binding(context)
    };
    let options = RunOptions::without_polls();
    let synced = context.cold_sync("run", workload, &options).await?;
    let testbed = &synced.testbed;
    let Prefect::Real(real) = &testbed.prefect else {
        bail!("the testbed has no real Prefect server");
    };
    let (server, api) = &**real;
    testbed.doppler.set_watch_mode(WatchMode::Refused(
        403,
        "Your plan has no watch streams".to_owned(),
    ));
    testbed.doppler.close_streams();
    let pool = workload.pool().context("the workload has no pool")?;
    let worker = WorkerOptions {
        pool: pool.to_owned(),
        name: "bench".to_owned(),
        kubeconfig: testbed.plane.admin_kubeconfig_path(),
        env: Vec::new(),
    };
    let worker = PrefectWorker::start(server, &worker).await?;
    let mut node = NodeOptions::new("bench-node", testbed.plane.admin_kubeconfig_path());
    node.namespace = Some(testbed.namespace.clone());
    let node = ProcessNode::start(node).await?;
    let deployment = Deployment {
        name: "bench",
        pool,
        path: &flows(),
        entrypoint: "flow.py:main",
        // The container prints the value and ends, without the imports of a flow.
        job_variables: json!({"command": "printenv KEY_00"}),
    };
    let deployment = api.create_deployment(&deployment).await?;
    let mut runs = Vec::new();
    for number in 0..=context.sizes.flow_runs {
        let create = async || api.create_flow_run(&deployment).await;
        let run = start(&synced, &node, number, create).await?;
        // The subscription may not be open at the first one.
        if number > 0 {
            runs.push(run);
        }
    }
    drop(worker);
    let load = run_load::measure(testbed, api, &deployment, context.sizes.flow_run_load).await?;
    drop(node);
    synced.stop().await?;
    let mut rows = rows(&runs);
    rows.push(load);
    Ok(Findings::rows(rows))
}

/// One run.
struct Run {
    /// Whether it printed the value that Doppler had when it was created.
    is_current: bool,
    /// From the write of the Secret to the creation of the container; none if the container was created
    /// first.
    lead: Option<Duration>,
    /// From the creation of the run to the creation of the container.
    total: Duration,
}

/// Changes the value, creates a run at once, and waits for what it prints.
async fn start(
    synced: &Synced<'_>,
    node: &ProcessNode,
    number: usize,
    create: impl AsyncFn() -> Result<String>,
) -> Result<Run> {
    synced.watch.mark();
    let started_at = change_config(&synced.testbed, number);
    let run = create().await?;
    let of_run = || {
        let mut pods = node.pods().into_iter();
        pods.find(|pod: &PodRecord| pod.flow_run_id.as_deref() == Some(&run))
    };
    let created = wait::until_every(
        RUN_TIMEOUT,
        PROBE_INTERVAL,
        "the container of the run",
        async || {
            let pod = of_run().context("there is no pod")?;
            pod.env_value("KEY_00").context("it has no environment")?;
            anyhow::Ok(Instant::now())
        },
    )
    .await?;
    let written = synced.watch.seen().secrets.values().min().copied();
    let printed = wait::until(RUN_TIMEOUT, "the output of the run", async || {
        let log = of_run().context("there is no pod")?.log();
        let line = log.lines().next().map(ToOwned::to_owned);
        line.context("it has printed nothing")
    })
    .await?;
    Ok(Run {
        is_current: printed == format!("{number:032}"),
        lead: written.and_then(|written| created.checked_duration_since(written)),
        total: created.saturating_duration_since(started_at),
    })
}

fn rows(runs: &[Run]) -> Vec<Row> {
    let count = runs.len();
    let current = runs.iter().filter(|run| run.is_current).count();
    let leads: Vec<_> = runs.iter().filter_map(|run| run.lead).collect();
    let totals: Vec<_> = runs.iter().map(|run| run.total).collect();
    let shortest = leads.iter().min().copied().unwrap_or_default();
    let about = "flow run right after a change in Doppler, no push";
    let note = format!(
        "the real worker and server; a node that runs pods as processes; from the change to the container {:.0} ms (median), {:.0} ms (worst)",
        milliseconds(median(&totals)),
        milliseconds(worst(&totals))
    );
    let stale = count - current;
    vec![
        Row::new(
            format!("{about}: runs of {count} that print the old value"),
            as_f64(stale),
            "",
            Goal::Exactly(0.0),
        )
        .note(note),
        // The value is negated, because a goal is a maximum.
        Row::new(
            format!("{about}: write of the Secret, relative to the creation of the container: latest of {count}"),
            -milliseconds(shortest),
            "ms",
            Goal::Below(0.0),
        )
        .note(format!("median {:.0} ms before it", milliseconds(median(&leads)))),
    ]
}
