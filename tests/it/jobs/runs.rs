//! Flow runs of a real worker whose Jobs the policy changes, with the operator stopped.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::node::{NodeOptions, ProcessNode};
use testkit::prefect::{Deployment, flows};

use super::{install_policy, until_admitted};
use crate::work_pools::template;
use crate::worker::start_worker;
use crate::world::{World, secret};

/// Python's imports alone take 6 to 13 s.
const RUN: Duration = Duration::from_mins(3);

async fn deployment(world: &World, name: &str, job_variables: Value) -> Result<String> {
    let deployment = Deployment {
        name,
        pool: &world.name,
        path: &flows(),
        entrypoint: "flow.py:main",
        job_variables,
    };
    world.api.create_deployment(&deployment).await
}

/// Runs a deployment to its end, and returns its log.
async fn log_of_run(world: &World, node: &ProcessNode, deployment: &str) -> Result<String> {
    let run = world.api.create_flow_run(deployment).await?;
    world.api.wait_for_run(&run, RUN).await?;
    Ok(node.logs_of_run(&run))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_gets_its_secret_by_label_without_the_operator() -> Result<()> {
    install_policy().await?;
    let mut w = World::start("jobs-runs").await?;
    let value = secret("1234567890");
    w.set_doppler_secret("SECRET_API_KEY", &value);
    let before = template("jobs-runs");
    w.create_pool("jobs-runs", &before).await?;
    // The worker writes the deployment's name as a slug.
    let mut spec = w.spec();
    spec["inject"] = json!({"jobs": [{"matchLabels": {
        "prefect.io/work-pool-name": "jobs-runs",
        "prefect.io/deployment-name": "Nightly-Job-prod",
    }}]});
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    let selected = "Nightly Job (prod)!";
    let slug = "Nightly-Job-prod";
    w.until("the policy", async || {
        let labels =
            json!({"prefect.io/work-pool-name": "jobs-runs", "prefect.io/deployment-name": slug});
        let job = super::admitted(&w, &super::job(&labels)).await?;
        ensure!(!super::sources(&job, 0).is_null(), "no entry");
        Ok(())
    })
    .await?;
    w.kill_operator();

    let _worker = start_worker(&w).await?;
    let mut node = NodeOptions::new("node-of-jobs", w.plane.admin_kubeconfig_path());
    node.namespace = Some(w.name.clone());
    let node = ProcessNode::start(node).await?;
    let nightly = deployment(&w, selected, json!({})).await?;
    let log = log_of_run(&w, &node, &nightly).await?;
    ensure!(log.contains(&format!("secret_api_key = {value}")), "{log}");
    // Another deployment of the pool does not get the Secret.
    let other = deployment(&w, "other", json!({})).await?;
    let log = log_of_run(&w, &node, &other).await?;
    ensure!(log.contains("Field required"), "{log}");
    // A job variable sets the label of the first one: selection by label is no boundary.
    let labels = json!({"labels": {"prefect.io/deployment-name": slug}});
    let forged = deployment(&w, "forged", labels).await?;
    let log = log_of_run(&w, &node, &forged).await?;
    ensure!(log.contains(&format!("secret_api_key = {value}")), "{log}");
    // The template has no entry.
    w.until_sources("jobs-runs", &[]).await?;
    until_admitted(&w, "no-such-deployment", &[]).await?;
    w.finish().await
}
