//! Flow runs that a real worker starts and the process node runs: what they find in their environment, and that nothing the operator does, or no
//! longer does, keeps one from running.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use testkit::kubernetes;
use testkit::node::{NodeOptions, ProcessNode};
use testkit::prefect::{Deployment, PrefectWorker, WorkerOptions, flows};

use crate::work_pools::template;
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

/// Waits for the run's end; it must have printed `expected`.
async fn printed(world: &World, node: &ProcessNode, run: &str, expected: &str) -> Result<()> {
    let state = world.api.wait_for_run(run, RUN).await?;
    let log = node.logs_of_run(run);
    // Its log may hold values, which are only a test's.
    ensure!(
        state.kind == "COMPLETED",
        "{}: {}\n{log}",
        state.name,
        state.message
    );
    ensure!(log.contains(expected), "it printed something else\n{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_print_what_doppler_says_and_go_on_whatever_becomes_of_the_operator() -> Result<()> {
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

    let options = WorkerOptions {
        pool: world.name.clone(),
        name: "worker-of-runs".to_owned(),
        kubeconfig: world.plane.admin_kubeconfig_path(),
        env: Vec::new(),
    };
    let _worker = PrefectWorker::start(world.prefect, &options).await?;
    let here = node(&world, "node-of-runs", "runs").await?;
    let there = node(&world, "node-of-runs-elsewhere", elsewhere).await?;
    let ordinary = deployment(&world, "ordinary", json!({})).await?;
    let run = world.api.create_flow_run(&ordinary).await?;
    printed(&world, &here, &run, &format!("secret_api_key = {first}")).await?;

    world.set_doppler_secret("SECRET_API_KEY", &second);
    world
        .until_values("story", &pairs(&[("SECRET_API_KEY", second.as_str())]))
        .await?;
    // A deployment with a namespace of its own has no Secret there: its runs start all the same, and fail loudly in their own code.
    let own = deployment(&world, "own-namespace", json!({"namespace": elsewhere})).await?;
    world
        .until("the namespace to be named", async || {
            let pool = world.pool_status("story", "runs").await?;
            ensure!(pool["unservedNamespaces"] == json!([elsewhere]), "{pool}");
            Ok(())
        })
        .await?;
    // From here on nobody keeps anything up to date.
    world.kill_operator();
    let run = world.api.create_flow_run(&ordinary).await?;
    let other = world.api.create_flow_run(&own).await?;
    printed(&world, &here, &run, &format!("secret_api_key = {second}")).await?;
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

    // A binding that is deleted while a Job waits for its node.
    drop(here);
    let run = world.api.create_flow_run(&ordinary).await?;
    let jobs: Api<Job> = Api::namespaced(world.client.clone(), "runs");
    let of_run = ListParams::default().labels(&format!("prefect.io/flow-run-id={run}"));
    world
        .until("the run's Job", async || {
            ensure!(!jobs.list(&of_run).await?.items.is_empty(), "no Job");
            Ok(())
        })
        .await?;
    world.start_operator().await?;
    world.delete_binding("story").await?;
    world.until_sources("runs", &[]).await?;
    let here = node(&world, "node-of-runs-again", "runs").await?;
    printed(&world, &here, &run, &format!("secret_api_key = {second}")).await?;
    kubernetes::delete(
        &world.client,
        "default",
        &format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {elsewhere}}}}}"),
    )
    .await?;
    world.finish().await
}
