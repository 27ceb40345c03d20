//! Injection by label: the API server adds Secrets to Jobs, by the chart's admission policy.
//!
//! Input: bindings with `spec.inject.jobs`, and Jobs.
//! Output: what the Jobs contain (`policy`), the condition of bindings (`condition`), and what flow
//! runs of a real worker print (`runs`).
//! Invariants: the shared control plane has the policy for these tests. Bindings without `jobs` do not
//! notice it.

mod condition;
mod policy;
mod runs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use testkit::admission;
use tokio::sync::OnceCell;

use crate::world::{World, plane};

/// The label of the deployment that most tests select.
pub const DEPLOYMENT: &str = "prefect.io/deployment-name";

/// Installs the policy on the shared control plane, once.
pub async fn install_policy() -> Result<()> {
    static INSTALLED: OnceCell<()> = OnceCell::const_new();
    let install = async || {
        let plane = tokio::task::spawn_blocking(plane).await??;
        admission::install(plane).await
    };
    INSTALLED.get_or_try_init(install).await.copied()
}

/// The world's spec, with a selector for Jobs of this deployment.
pub fn spec_for(world: &World, deployment: &str) -> Value {
    let mut spec = world.spec();
    spec["inject"] = json!({"jobs": [{"matchLabels": {DEPLOYMENT: deployment}}]});
    spec
}

/// A Job with these labels and one container.
pub fn job(labels: &Value) -> Value {
    json!({
        "metadata": {"generateName": "job-", "labels": labels},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "none"}],
        }}},
    })
}

/// A Job of this deployment.
pub fn job_of(deployment: &str) -> Value {
    job(&json!({DEPLOYMENT: deployment}))
}

/// What the API server would make of a Job.
pub async fn admitted(world: &World, job: &Value) -> Result<Value> {
    created(world, job, true).await
}

/// Creates a Job, and returns it as the API server stored it.
pub async fn created(world: &World, job: &Value, dry_run: bool) -> Result<Value> {
    let jobs: Api<Job> = Api::namespaced(world.client.clone(), &world.name);
    let params = PostParams {
        dry_run,
        field_manager: None,
    };
    let job: Job = serde_json::from_value(job.clone())?;
    let job = jobs.create(&params, &job).await.context("create the Job")?;
    Ok(serde_json::to_value(job)?)
}

/// The sources of a container's environment.
pub fn sources(job: &Value, container: usize) -> Value {
    job["spec"]["template"]["spec"]["containers"][container]["envFrom"].clone()
}

/// The entry of a Secret as the policy adds it.
pub fn entry(secret: &str) -> Value {
    json!({"secretRef": {"name": secret, "optional": true}})
}

/// Waits until the API server adds exactly these Secrets to a Job of this deployment. It reads
/// bindings by a watch, so that a change takes a moment.
pub async fn until_admitted(world: &World, deployment: &str, secrets: &[&str]) -> Result<Value> {
    let expected = match secrets {
        [] => Value::Null,
        _ => secrets.iter().map(|secret| entry(secret)).collect(),
    };
    world
        .until("the effect of the admission policy", async || {
            let job = admitted(world, &job_of(deployment)).await?;
            let found = sources(&job, 0);
            ensure!(found == expected, "envFrom: {found}");
            Ok(job)
        })
        .await
}
