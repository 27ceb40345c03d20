//! The acts of the demo, in order.
//!
//! Input: the stage, and the operator's binary. Output: a line for each step.
//! Invariants: every wait has a deadline. A step with another result than expected is an error that
//! says what was expected.

use std::path::Path;

use anyhow::Result;

use super::binding::{apply_binding, change_secret, delete_binding};
use super::by_label::inject_by_label;
use super::choice::choose_config;
use super::flow_run::{FlowRun, run_flow};
use super::install::install;
use super::names::{ARTICLE, DOPPLER_CONFIG, FIRST_VALUE, FLOW, KEY, POOL, SECOND_VALUE};
use super::output::Output;
use super::prefect_setup::{Deployments, set_up_prefect, wait_for_heartbeats};
use super::stage::Environment;
use crate::progress::Step;

/// The number of acts in [`run`].
const ACTS: usize = 8;

/// Runs all acts.
pub(super) async fn run(output: &Output, stage: &mut Environment, binary: &Path) -> Result<()> {
    let acts = Step::counted("acts of the demo", ACTS);
    let api = stage.prefect.api()?;
    let (project, config) = DOPPLER_CONFIG;
    stage.doppler.set(project, config, KEY, FIRST_VALUE);
    output.step(&format!(
        "Doppler: project {project}, config {config}, {KEY}={FIRST_VALUE}"
    ));
    let Deployments {
        flow,
        article,
        nightly,
    } = set_up_prefect(output, stage, &api).await?;
    acts.set(1);
    install(output, stage, binary).await?;
    acts.set(2);

    let flow = |value| FlowRun {
        name: FLOW,
        deployment: &flow,
        value,
    };
    let article = FlowRun {
        name: ARTICLE,
        deployment: &article,
        value: FIRST_VALUE,
    };
    output.step("before: the article's flow reads Doppler with the SDK");
    run_flow(output, stage, &api, &article).await?;
    acts.set(3);

    let template = api.template_text(POOL).await?;
    let binding = apply_binding(output, stage, "examples/smallest.yaml").await?;
    wait_for_heartbeats(&api).await?;
    acts.set(4);

    output.step("after: the flow reads its environment; the article's flow still runs");
    let first = flow(FIRST_VALUE);
    tokio::try_join!(
        run_flow(output, stage, &api, &first),
        run_flow(output, stage, &api, &article),
    )?;
    acts.set(5);

    change_secret(output, stage).await?;
    run_flow(output, stage, &api, &flow(SECOND_VALUE)).await?;
    acts.set(6);

    delete_binding(output, stage, &binding, &template).await?;
    acts.set(7);

    choose_config(output, stage, &api, &template).await?;
    inject_by_label(output, stage, &api, &nightly).await?;
    acts.set(ACTS);
    acts.finish();
    Ok(())
}
