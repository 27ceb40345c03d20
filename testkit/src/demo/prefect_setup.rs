//! Prefect as a user has it before the operator is installed: block, work pool, deployments and
//! worker.
//!
//! Input: the stage. Output: the IDs of the deployments, and a worker that is online.
//! Invariants: nothing here depends on the operator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::names::{ARTICLE, DOPPLER_CONFIG, FLOW, NAMESPACE, NIGHTLY, POOL};
use super::output::Output;
use super::stage::Environment;
use crate::prefect::{
    Block, Deployment, PrefectApi, PrefectWorker, WorkerOptions, flows, kubernetes_template,
};
use crate::progress::Step;
use crate::wait;

const WORKER: &str = "demo";
const HEARTBEAT_TIMEOUT: Duration = Duration::from_mins(2);

/// The IDs of the deployments.
pub(super) struct Deployments {
    pub(super) flow: String,
    pub(super) article: String,
    pub(super) nightly: String,
}

/// Creates block, work pool and deployments, and starts a worker.
pub(super) async fn set_up_prefect(
    output: &Output,
    stage: &mut Environment,
    api: &PrefectApi,
) -> Result<Deployments> {
    let (project, config) = DOPPLER_CONFIG;
    let block = Block::object(project, config, &stage.token);
    api.put_block("doppler-config", &block).await?;
    output.step("Prefect: block doppler-config of type Secret, with project, config and token");

    let deployments = create_deployments(api).await?;
    output.step(&format!(
        "Prefect: work pool {POOL} for namespace {NAMESPACE}, deployments of testkit/flows/flow.py and article.py"
    ));

    let step = Step::start_quietly("starting Prefect's Kubernetes worker");
    let options = WorkerOptions {
        pool: POOL.to_owned(),
        name: WORKER.to_owned(),
        kubeconfig: stage.plane.admin_kubeconfig_path(),
        env: Vec::new(),
    };
    stage.worker = Some(PrefectWorker::start(&stage.prefect, &options).await?);
    step.finish();
    output.step("Prefect: a Kubernetes worker is online");
    Ok(deployments)
}

async fn create_deployments(api: &PrefectApi) -> Result<Deployments> {
    let mut template = kubernetes_template()?;
    let namespace = template.pointer_mut("/variables/properties/namespace/default");
    *namespace.context("the template has no namespace")? = NAMESPACE.into();
    api.create_pool(POOL, "kubernetes", Some(template)).await?;
    let path = flows();
    let deployment = |name, entrypoint| Deployment {
        name,
        pool: POOL,
        path: &path,
        entrypoint,
        job_variables: json!({}),
    };
    let flow = deployment(FLOW, "flow.py:main");
    let article = deployment(ARTICLE, "article.py:main");
    let nightly = deployment(NIGHTLY, "flow.py:main");
    Ok(Deployments {
        flow: api.create_deployment(&flow).await?,
        article: api.create_deployment(&article).await?,
        nightly: api.create_deployment(&nightly).await?,
    })
}

/// Waits until the worker has reloaded the pool's template. It does so before each heartbeat, and
/// the first heartbeat may have started before this call.
pub(super) async fn wait_for_heartbeats(api: &PrefectApi) -> Result<()> {
    let path = format!("/work_pools/{POOL}/workers/filter");
    let heartbeat = async || -> Result<Value> {
        let mut workers = api.post(&path, &json!({})).await?;
        Ok(workers[0]["last_heartbeat_time"].take())
    };
    for _ in 0..2 {
        let before = heartbeat().await?;
        wait::until(
            HEARTBEAT_TIMEOUT,
            "the worker's next heartbeat",
            async || {
                let now = heartbeat().await?;
                ensure!(now != before, "the last heartbeat is that of {before}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}
