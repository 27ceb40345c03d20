//! Flow runs that a real worker starts and the process node executes: their environment, and that
//! they run regardless of the operator's state.

mod content;
mod quick_start;
mod selected;
mod waiting;

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use testkit::kubernetes;
use testkit::node::{NodeOptions, ProcessNode};
use testkit::prefect::{Deployment, flows};

use crate::work_pools::template;
use crate::worker::start_worker;
use crate::world::{Setup, World, pairs, secret};

/// Python's imports alone take 6 to 13 s.
const RUN: Duration = Duration::from_mins(3);

async fn deployment(world: &World, name: &str, job_variables: Value) -> Result<String> {
    let deployment = Deployment {
        name: &format!("{}-{name}", world.name),
        pool: &world.name,
        path: &flows(),
        entrypoint: "flow.py:main",
        job_variables,
    };
    world.api.create_deployment(&deployment).await
}

async fn node(world: &World, name: &str, namespace: &str) -> Result<ProcessNode> {
    let mut options = NodeOptions::new(name, world.plane.admin_kubeconfig_path());
    options.namespace = Some(namespace.to_owned());
    ProcessNode::start(options).await
}

/// Waits for the end of the run, and fails unless it has printed `expected`.
async fn ensure_printed(
    world: &World,
    node: &ProcessNode,
    run: &str,
    expected: &str,
) -> Result<()> {
    let state = world.api.wait_for_run(run, RUN).await?;
    let log = node.logs_of_run(run);
    // The log may contain values, but only values of this test.
    ensure!(
        state.kind == "COMPLETED",
        "{}: {}\n{log}",
        state.name,
        state.message
    );
    ensure!(
        log.contains(expected),
        "{expected:?} is missing in the log\n{log}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_get_doppler_values_even_without_the_operator() -> Result<()> {
    let setup = Setup {
        release_wait: "3m",
        ..Setup::default()
    };
    let mut world = World::with("runs", setup).await?;
    let elsewhere = "runs-elsewhere";
    world
        .apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {elsewhere}}}}}"
        ))
        .await?;
    let (first, second) = (secret("1234567890"), secret("0987654321"));
    world.set_doppler_secret("SECRET_API_KEY", &first);
    world.create_pool("runs", &template("runs")).await?;
    world.bind_to("story", "runs").await?;
    world.until_ready("story").await?;

    let _worker = start_worker(&world).await?;
    let here = node(&world, "node-of-runs", "runs").await?;
    let there = node(&world, "node-of-runs-elsewhere", elsewhere).await?;
    let ordinary = deployment(&world, "ordinary", json!({})).await?;
    let run = world.api.create_flow_run(&ordinary).await?;
    ensure_printed(&world, &here, &run, &format!("secret_api_key = {first}")).await?;

    world.set_doppler_secret("SECRET_API_KEY", &second);
    world
        .until_values("story", &pairs(&[("SECRET_API_KEY", second.as_str())]))
        .await?;
    // The other namespace has no Secret. The runs start anyway, and fail in their own code.
    let own = deployment(&world, "own-namespace", json!({"namespace": elsewhere})).await?;
    world
        .until("the namespace in the status", async || {
            let pool = world.pool_status("story", "runs").await?;
            ensure!(pool["unservedNamespaces"] == json!([elsewhere]), "{pool}");
            Ok(())
        })
        .await?;
    // Without the operator, runs keep the current Secret.
    world.kill_operator();
    let run = world.api.create_flow_run(&ordinary).await?;
    let other = world.api.create_flow_run(&own).await?;
    ensure_printed(&world, &here, &run, &format!("secret_api_key = {second}")).await?;
    let state = world.api.wait_for_run(&other, RUN).await?;
    let log = there.logs_of_run(&other);
    ensure!(
        !log.is_empty(),
        "its pod never started: {} {}",
        state.name,
        state.message
    );
    ensure!(
        log.contains("secret_api_key") && log.contains("Field required"),
        "{}\n{log}",
        state.message
    );

    // A binding that is deleted while a Job waits for a node.
    drop(here);
    let run = world.api.create_flow_run(&ordinary).await?;
    let jobs: Api<Job> = Api::namespaced(world.client.clone(), "runs");
    let of_run = ListParams::default().labels(&format!("prefect.io/flow-run-id={run}"));
    world
        .until("the run's Job", async || {
            ensure!(
                !jobs.list(&of_run).await?.items.is_empty(),
                "there is no Job"
            );
            Ok(())
        })
        .await?;
    world.start_operator().await?;
    world.delete_binding("story").await?;
    world.until_sources("runs", &[]).await?;
    let here = node(&world, "node-of-runs-again", "runs").await?;
    ensure_printed(&world, &here, &run, &format!("secret_api_key = {second}")).await?;
    kubernetes::delete(
        &world.client,
        "default",
        &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {elsewhere}}}}}"),
    )
    .await?;
    world.finish().await
}
