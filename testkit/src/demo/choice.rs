//! A deployment chooses its config in the variable of the pool.
//!
//! Input: the stage, and the pool's template. Output: a line for each step.
//! Invariants: after the deletion the pool's template is byte for byte what it was.

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::binding::{apply_binding, check_deletion, request_deletion, wait_for_message};
use super::flow_run::{FlowRun, run_flow};
use super::names::{
    CHOSEN_BLOCK, CHOSEN_CONFIG, CHOSEN_SECRET, CHOSEN_VALUE, DOPPLER_CONFIG, FLOW, KEY, POOL,
    VARIABLE,
};
use super::output::Output;
use super::prefect_setup::wait_for_heartbeats;
use super::stage::Environment;
use crate::prefect::{Block, Deployment, PrefectApi, flows};

/// The deployment that chooses.
const NAME: &str = "my-flow-prd";

/// Applies the binding with `runs: Selected`, runs a deployment that chooses it, and deletes both.
pub(super) async fn choose_config(
    output: &Output,
    stage: &Environment,
    api: &PrefectApi,
    template: &str,
) -> Result<()> {
    let project = DOPPLER_CONFIG.0;
    stage.doppler.set(project, CHOSEN_CONFIG, KEY, CHOSEN_VALUE);
    let block = Block::object(project, CHOSEN_CONFIG, &stage.chosen_token);
    api.put_block(CHOSEN_BLOCK, &block).await?;
    output.step(&format!(
        "Doppler: project {project}, config {CHOSEN_CONFIG}, {KEY}={CHOSEN_VALUE}; Prefect: block {CHOSEN_BLOCK}"
    ));
    let binding = apply_binding(output, stage, "examples/selected.yaml").await?;
    wait_for_heartbeats(api).await?;

    let path = flows();
    let deployment = |job_variables| Deployment {
        name: NAME,
        pool: POOL,
        path: &path,
        entrypoint: "flow.py:main",
        job_variables,
    };
    let wrong = deployment(json!({VARIABLE: "another-secret"}));
    if api.create_deployment(&wrong).await.is_ok() {
        bail!("expected Prefect to refuse a value that no binding offers");
    }
    output.step("Prefect refuses a deployment that chooses a Secret which no binding offers");
    let right = deployment(json!({VARIABLE: CHOSEN_SECRET}));
    let id = api.create_deployment(&right).await?;
    output.step(&format!(
        "deployment {NAME} with job_variables {{{VARIABLE}: {CHOSEN_SECRET}}}"
    ));
    let run = FlowRun {
        name: FLOW,
        deployment: &id,
        value: CHOSEN_VALUE,
    };
    run_flow(output, stage, api, &run).await?;

    request_deletion(output, stage, &binding).await?;
    let message = wait_for_message(&binding, NAME).await?;
    output.step("the binding stays while the deployment chooses its Secret:");
    output.quote(&message);
    let path = format!("/deployments/{id}");
    let none = json!({"job_variables": {VARIABLE: "none"}});
    api.patch(&path, &none).await.context("the deployment")?;
    output.step(&format!("deployment {NAME}: {VARIABLE}: none"));
    check_deletion(output, stage, &binding, template).await
}
