//! One flow run.
//!
//! Input: a deployment, and the value that its flow must print. Output: the line that the flow
//! prints.
//! Invariants: a run that fails or prints another value is an error with the log of the run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::output::Output;
use super::stage::Environment;
use crate::prefect::PrefectApi;
use crate::progress::Step;

const RUN_TIMEOUT: Duration = Duration::from_mins(4);

/// A flow run and its expected result.
pub(super) struct FlowRun<'a> {
    /// The name of the flow.
    pub(super) name: &'a str,
    /// The ID of its deployment.
    pub(super) deployment: &'a str,
    /// The value that the flow must print.
    pub(super) value: &'a str,
}

/// Runs a flow, and prints its line.
pub(super) async fn run_flow(
    output: &Output,
    stage: &Environment,
    api: &PrefectApi,
    run: &FlowRun<'_>,
) -> Result<()> {
    let name = run.name;
    let started_at = Instant::now();
    let step = Step::start_quietly(&format!("a flow run of {name}"));
    let id = api.create_flow_run(run.deployment).await?;
    let ended = api.wait_for_run(&id, RUN_TIMEOUT).await;
    let node = stage.node.as_ref().context("the stage has no node")?;
    let log = || node.logs_of_run(&id);
    let expected = format!("secret_api_key = {}", run.value);
    let last = ended.with_context(|| {
        let log = log();
        format!("expected {name} to print {expected:?}; its log:\n{log}")
    })?;
    ensure!(
        last.kind == "COMPLETED",
        "expected {name} to print {expected:?}; its run is {}: {}; its log:\n{}",
        last.name,
        last.message,
        log()
    );
    step.finish();
    let log = log();
    let line = log.lines().find(|line| line.contains("secret_api_key = "));
    let line =
        line.with_context(|| format!("expected {name} to print {expected:?}; its log:\n{log}"))?;
    ensure!(
        line.ends_with(&expected),
        "expected {name} to print {expected:?}, and it printed {line:?}"
    );
    output.step(&format!(
        "{name} ran in a process that stands in for its pod, for {:.0} s and printed:",
        started_at.elapsed().as_secs_f64()
    ));
    output.quote(line);
    Ok(())
}
