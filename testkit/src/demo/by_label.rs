//! Injection by label: a deployment gets the Secret while the operator is stopped, and the template
//! stays as it is.
//!
//! Input: the stage with the installed operator, and the example with `inject.jobs`. Output: a line
//! for each step.
//! Invariants: afterwards the operator runs again, and the binding and its Secret are deleted.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::binding::apply_binding;
use super::flow_run::{FlowRun, run_flow};
use super::names::{NAMESPACE, NIGHTLY, OPERATOR_NAMESPACE, POOL, RELEASE, SECOND_VALUE};
use super::output::Output;
use super::stage::Environment;
use crate::binary::workspace;
use crate::prefect::PrefectApi;
use crate::{kubernetes, wait};

const FILE: &str = "examples/jobs.yaml";
const TIMEOUT: Duration = Duration::from_mins(2);

/// Plays the act. `nightly` is the ID of the deployment that the example selects.
pub(super) async fn inject_by_label(
    output: &Output,
    stage: &Environment,
    api: &PrefectApi,
    nightly: &str,
) -> Result<()> {
    output.step("by label: the API server adds the Secret to the Jobs of one deployment");
    let template = api.template_text(POOL).await?;
    let yaml = std::fs::read_to_string(workspace().join(FILE))?;
    let binding = apply_binding(output, stage, FILE).await?;
    until_policy_is_used(stage).await?;
    scale(stage, 0).await?;
    output.step(&format!(
        "kubectl -n {OPERATOR_NAMESPACE} scale deployment {RELEASE} --replicas 0: the operator is stopped"
    ));
    let run = FlowRun {
        name: NIGHTLY,
        deployment: nightly,
        value: SECOND_VALUE,
    };
    run_flow(output, stage, api, &run).await?;
    output.quote(&annotation(stage).await?);
    let after = api.template_text(POOL).await?;
    ensure!(
        after == template,
        "expected the pool's template to be byte for byte what it was:\n{template}\nand it is\n{after}"
    );
    scale(stage, 1).await?;
    kubernetes::delete(&stage.client, NAMESPACE, &yaml).await?;
    output.step(&format!(
        "the operator runs again; kubectl delete -f {FILE}"
    ));
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), NAMESPACE);
    wait::until(TIMEOUT, "the Secret to be deleted", async || match secrets
        .get_metadata_opt(binding.name())
        .await?
    {
        None => Ok(()),
        Some(found) => bail!("owners {:?}", found.metadata.owner_references),
    })
    .await
}

/// The API server reads bindings by a watch, which takes a moment.
async fn until_policy_is_used(stage: &Environment) -> Result<()> {
    let jobs: Api<Job> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let labels = json!({"prefect.io/work-pool-name": POOL, "prefect.io/deployment-name": NIGHTLY});
    let job: Job = serde_json::from_value(json!({
        "metadata": {"generateName": "dry-run-", "labels": labels},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}],
        }}},
    }))?;
    let params = PostParams {
        dry_run: true,
        field_manager: None,
    };
    wait::until(TIMEOUT, "the policy to add the Secret", async || {
        let job = serde_json::to_value(jobs.create(&params, &job).await?)?;
        let sources = &job["spec"]["template"]["spec"]["containers"][0]["envFrom"];
        ensure!(sources.is_array(), "a Job has no entry");
        Ok(())
    })
    .await
}

/// Scales the operator's Deployment, and waits until it has this number of pods.
async fn scale(stage: &Environment, replicas: usize) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), OPERATOR_NAMESPACE);
    let patch = json!({"spec": {"replicas": replicas}});
    deployments
        .patch_scale(RELEASE, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), OPERATOR_NAMESPACE);
    wait::until(TIMEOUT, "the pods of the operator", async || {
        let found = pods.list(&ListParams::default()).await?.items.len();
        ensure!(found == replicas, "{found} pods");
        Ok(())
    })
    .await
}

/// The annotation of the Job that the policy changed.
async fn annotation(stage: &Environment) -> Result<String> {
    let jobs: Api<Job> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let injected = ListParams::default().labels("doppler-prefect.dev/injected=true");
    let job = jobs.list(&injected).await?.items.into_iter().next();
    let annotations = job.context("no Job has the label")?.metadata.annotations;
    let key = "doppler-prefect.dev/injected";
    let record = annotations.unwrap_or_default().remove(key);
    let record = record.context("the Job has no annotation")?;
    Ok(format!("the Job's annotation {key}: {record}"))
}
