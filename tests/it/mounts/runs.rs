//! Flow runs of a real worker that read mounted files.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::node::{NodeOptions, ProcessNode};
use testkit::prefect::{Deployment, flows};

use super::{PATH, mounting, with_files, world};
use crate::jobs::install_policy;
use crate::work_pools::template;
use crate::worker::start_worker;
use crate::world::{Setup, World, secret};

/// Python's imports alone take 6 to 13 s.
const RUN: Duration = Duration::from_mins(3);

async fn node(world: &World) -> Result<ProcessNode> {
    let name = format!("node-of-{}", world.name);
    let mut options = NodeOptions::new(&name, world.plane.admin_kubeconfig_path());
    options.namespace = Some(world.name.clone());
    ProcessNode::start(options).await
}

/// Starts a run of a deployment of this name.
async fn start_run(world: &World, name: &str) -> Result<String> {
    let deployment = Deployment {
        name,
        pool: &world.name,
        path: &flows(),
        entrypoint: "mounted.py:main",
        job_variables: json!({}),
    };
    let id = world.api.create_deployment(&deployment).await?;
    world.api.create_flow_run(&id).await
}

async fn until_printed(w: &World, node: &ProcessNode, run: &str, text: &str) -> Result<()> {
    w.until_within(RUN, &format!("{text:?} in the log"), async || {
        let log = node.logs_of_run(run);
        ensure!(log.contains(text), "{log}");
        Ok(())
    })
    .await
}

/// The run ends well, and has no file in its environment.
async fn ensure_completed(w: &World, node: &ProcessNode, run: &str) -> Result<()> {
    let state = w.api.wait_for_run(run, RUN).await?;
    let log = node.logs_of_run(run);
    ensure!(
        state.kind == "COMPLETED",
        "{}: {}\n{log}",
        state.name,
        state.message
    );
    ensure!(log.contains("files in the environment: []"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_read_mounted_files_and_see_a_change() -> Result<()> {
    let w = world("mount-runs", Setup::default()).await?;
    w.create_pool("mount-runs", &template("mount-runs")).await?;
    let mut spec = mounting(&w, &json!({"path": PATH, "files": ["profiles.yml"]}));
    spec["managedSecret"]["files"]["profiles.yml"] =
        json!({"template": "host: {{ DB_HOST }}, follow"});
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    w.until_pool("etl", "mount-runs", "Patched").await?;
    let _worker = start_worker(&w).await?;
    let node = node(&w).await?;
    let run = start_run(&w, "mount-runs-deployment").await?;
    until_printed(
        &w,
        &node,
        &run,
        &format!("profiles = host: {}, follow", secret("db")),
    )
    .await?;
    until_printed(&w, &node, &run, "files = ['profiles.yml']").await?;
    // The process that runs sees the change.
    w.set_doppler_secret("DB_HOST", &secret("db2"));
    until_printed(
        &w,
        &node,
        &run,
        &format!("changed = host: {}, follow", secret("db2")),
    )
    .await?;
    ensure_completed(&w, &node, &run).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_selected_by_label_read_mounted_files() -> Result<()> {
    install_policy().await?;
    let mut w = world("mount-runs-jobs", Setup::default()).await?;
    w.create_pool("mount-runs-jobs", &template("mount-runs-jobs"))
        .await?;
    let labels = json!({"prefect.io/deployment-name": "nightly"});
    let mut spec = with_files(w.spec());
    spec["inject"] = json!({"jobs": [{"matchLabels": labels, "mount": {"path": PATH}}]});
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    w.until("the policy", async || {
        let job = crate::jobs::admitted(&w, &crate::jobs::job(&labels)).await?;
        ensure!(
            !job["spec"]["template"]["spec"]["volumes"].is_null(),
            "no volume"
        );
        Ok(())
    })
    .await?;
    w.kill_operator();
    let _worker = start_worker(&w).await?;
    let node = node(&w).await?;
    let run = start_run(&w, "nightly").await?;
    until_printed(
        &w,
        &node,
        &run,
        &format!("profiles = host: {}", secret("db")),
    )
    .await?;
    until_printed(&w, &node, &run, "files = ['all.json', 'profiles.yml']").await?;
    ensure_completed(&w, &node, &run).await?;
    w.finish().await
}
