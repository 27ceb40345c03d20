//! The story, in the order in which it is told.
//!
//! In: a stage and the operator's binary. Out: a line for each step. Every wait has a deadline, and every step that does not
//! come true is an error that says what was expected.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use axum::http::{Request, header};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::install;
use super::stage::{DOPPLER_CONFIG, Environment, NAMESPACE};
use super::tell::Output;
use crate::binary::workspace;
use crate::prefect::{
    Block, Deployment, PrefectApi, PrefectWorker, WorkerOptions, flows, kubernetes_template,
};
use crate::progress::Step;
use crate::{kubernetes, wait};

/// The flow after, and its deployment.
pub(super) const FLOW: &str = "my-flow";
/// The flow before: it asks Doppler itself.
const ARTICLE: &str = "article";
const POOL: &str = "k8s";
const WORKER: &str = "demo";
const KEY: &str = "SECRET_API_KEY";
const FIRST: &str = "1234567890";
const SECOND: &str = "0987654321";
const RUN_TIMEOUT: Duration = Duration::from_mins(4);
const TIMEOUT: Duration = Duration::from_mins(2);

/// Plays all of it.
pub(super) async fn run(tell: &Output, stage: &mut Environment, binary: &Path) -> Result<()> {
    let api = stage.prefect.api()?;
    stage
        .doppler
        .set(DOPPLER_CONFIG.0, DOPPLER_CONFIG.1, KEY, FIRST);
    tell.step(&format!(
        "Doppler: project {}, config {}, {KEY}={FIRST}",
        DOPPLER_CONFIG.0, DOPPLER_CONFIG.1
    ));
    let deployments = set_up_prefect(tell, stage, &api).await?;
    install::install(tell, stage, binary).await?;

    tell.step("before: the article's flow asks Doppler itself");
    run_flow(tell, stage, &api, ARTICLE, &deployments.article, FIRST).await?;

    let template = api.template_text(POOL).await?;
    let yaml = std::fs::read_to_string(workspace().join("examples/smallest.yaml"))?;
    let binding = apply_binding(tell, stage, &yaml).await?;
    wait_for_heartbeats(&api).await?;

    tell.step(
        "after: the flow has its settings from its environment; the article's flow runs beside it",
    );
    let (flow, article) = (&deployments.flow, &deployments.article);
    tokio::try_join!(
        run_flow(tell, stage, &api, FLOW, flow, FIRST),
        run_flow(tell, stage, &api, ARTICLE, article, FIRST),
    )?;

    change_secret(tell, stage).await?;
    run_flow(tell, stage, &api, FLOW, flow, SECOND).await?;
    delete_binding(tell, stage, &api, &yaml, &binding, &template).await
}

struct Deployments {
    flow: String,
    article: String,
}

/// Block, pool, deployments and worker, as somebody has them before the operator comes.
async fn set_up_prefect(
    tell: &Output,
    stage: &mut Environment,
    api: &PrefectApi,
) -> Result<Deployments> {
    let block = Block::object(DOPPLER_CONFIG.0, DOPPLER_CONFIG.1, &stage.token);
    api.put_block("doppler-config", &block).await?;
    tell.step("Prefect: block doppler-config of type Secret, with project, config and token");

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
    let deployments = Deployments {
        flow: api.create_deployment(&flow).await?,
        article: api.create_deployment(&article).await?,
    };
    tell.step(&format!(
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
    tell.step("Prefect: a Kubernetes worker is online");
    Ok(deployments)
}

/// Runs a deployment and shows the line that its flow prints.
async fn run_flow(
    tell: &Output,
    stage: &Environment,
    api: &PrefectApi,
    name: &str,
    deployment: &str,
    value: &str,
) -> Result<()> {
    let begun = Instant::now();
    let step = Step::start_quietly(&format!("a flow run of {name}"));
    let id = api.create_flow_run(deployment).await?;
    let ended = api.wait_for_run(&id, RUN_TIMEOUT).await;
    let node = stage.node.as_ref().context("there is no node")?;
    let run_log = || node.logs_of_run(&id);
    let expected = format!("secret_api_key = {value}");
    let last = ended.with_context(|| {
        format!(
            "expected {name} to print {expected:?}; its log:\n{}",
            run_log()
        )
    })?;
    ensure!(
        last.kind == "COMPLETED",
        "expected {name} to print {expected:?}; its run is {}: {}; its log:\n{}",
        last.name,
        last.message,
        run_log()
    );
    step.finish();
    let log = run_log();
    let line = log.lines().find(|line| line.contains("secret_api_key = "));
    let line =
        line.with_context(|| format!("expected {name} to print {expected:?}; its log:\n{log}"))?;
    ensure!(
        line.ends_with(&expected),
        "expected {name} to print {expected:?}, and it printed {line:?}"
    );
    tell.step(&format!(
        "{name} ran in a process that stands in for its pod, for {:.0} s and printed:",
        begun.elapsed().as_secs_f64()
    ));
    tell.quote(line);
    Ok(())
}

/// Applies the binding and waits until it is Ready.
async fn apply_binding(tell: &Output, stage: &Environment, yaml: &str) -> Result<DynamicObject> {
    let begun = Instant::now();
    let applied = kubernetes::apply(&stage.client, NAMESPACE, yaml).await?;
    let binding = applied
        .into_iter()
        .next()
        .context("no binding in the example")?;
    let name = binding
        .metadata
        .name
        .clone()
        .context("a binding without a name")?;
    tell.step("kubectl apply -f examples/smallest.yaml");
    let bindings = kubernetes::api(&stage.client, NAMESPACE, &binding).await?;
    wait::until(TIMEOUT, "the binding to be Ready", async || {
        let found = bindings.get(&name).await?;
        let conditions = found.data["status"]["conditions"].clone();
        let ready = conditions.as_array().into_iter().flatten();
        let mut ready = ready.filter(|condition| condition["type"] == "Ready");
        if ready.any(|condition| condition["status"] == "True") {
            return Ok(());
        }
        bail!("conditions {conditions}")
    })
    .await?;
    tell.step(&format!(
        "Ready after {:.1} s; kubectl get dpb -n {NAMESPACE}:",
        begun.elapsed().as_secs_f64()
    ));
    for line in printed_table(stage).await? {
        tell.quote(&line);
    }
    Ok(binding)
}

/// What `kubectl get` prints: the columns are the API server's own.
async fn printed_table(stage: &Environment) -> Result<Vec<String>> {
    let path =
        format!("/apis/doppler-prefect.dev/v1alpha1/namespaces/{NAMESPACE}/dopplerprefectbindings");
    let request = Request::get(path)
        .header(
            header::ACCEPT,
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        )
        .body(Vec::new())?;
    Ok(lines_of(&stage.client.request(request).await?))
}

fn lines_of(table: &Value) -> Vec<String> {
    let columns = table["columnDefinitions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let shown = |cells: &mut dyn Iterator<Item = String>| -> Vec<String> {
        let cells = cells.zip(columns);
        cells
            .filter(|(_, column)| column["priority"] == 0)
            .map(|(cell, _)| cell)
            .collect()
    };
    let mut head = columns
        .iter()
        .map(|column| column["name"].as_str().unwrap_or_default().to_uppercase());
    let mut rows = vec![shown(&mut head)];
    for row in table["rows"].as_array().into_iter().flatten() {
        let cells = row["cells"].as_array().into_iter().flatten();
        rows.push(shown(&mut cells.map(|cell| {
            cell.as_str()
                .map_or_else(|| cell.to_string(), ToOwned::to_owned)
        })));
    }
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
    };
    let lines = rows.iter().map(|row| {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(at, cell)| format!("{cell:0$}", width(at).unwrap_or_default()));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    });
    lines.collect()
}

/// Waits until the worker has read the pool's template since: it does so before each heartbeat, and the first one that is
/// seen may have been under way.
async fn wait_for_heartbeats(api: &PrefectApi) -> Result<()> {
    let path = format!("/work_pools/{POOL}/workers/filter");
    let beat = async || -> Result<Value> {
        let mut workers = api.post(&path, &json!({})).await?;
        Ok(workers[0]["last_heartbeat_time"].take())
    };
    for _ in 0..2 {
        let before = beat().await?;
        wait::until(TIMEOUT, "the worker's next heartbeat", async || {
            let now = beat().await?;
            ensure!(now != before, "the one of {before}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Changes the value in Doppler and waits until the Secret holds it.
async fn change_secret(tell: &Output, stage: &Environment) -> Result<()> {
    let begun = Instant::now();
    stage
        .doppler
        .set(DOPPLER_CONFIG.0, DOPPLER_CONFIG.1, KEY, SECOND);
    tell.step(&format!("Doppler: {KEY}={SECOND}"));
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), NAMESPACE);
    wait::until(TIMEOUT, "the Secret to hold what Doppler has", async || {
        let secret = secrets
            .get_opt("my-project-dev")
            .await?
            .context("there is no Secret")?;
        let data = secret.data.unwrap_or_default();
        let value = data.get(KEY).with_context(|| format!("it has no {KEY}"))?;
        ensure!(value.0 == SECOND.as_bytes(), "the value before");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    tell.step(&format!(
        "the Secret holds it after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Deletes the binding and looks whether anything of it is left.
async fn delete_binding(
    tell: &Output,
    stage: &Environment,
    api: &PrefectApi,
    yaml: &str,
    binding: &DynamicObject,
    template: &str,
) -> Result<()> {
    let begun = Instant::now();
    let changed = api.template_text(POOL).await?;
    ensure!(
        changed != template,
        "expected the pool's template to name the Secret, and it is as it was before the binding"
    );
    kubernetes::delete(&stage.client, NAMESPACE, yaml).await?;
    tell.step("kubectl delete -f examples/smallest.yaml");
    let name = binding.metadata.name.clone().unwrap_or_default();
    let bindings = kubernetes::api(&stage.client, NAMESPACE, binding).await?;
    wait::until(TIMEOUT, "the binding to be gone", async || {
        match bindings.get_opt(&name).await? {
            None => Ok(()),
            Some(found) => bail!("finalizers {:?}", found.metadata.finalizers),
        }
    })
    .await?;
    let after = api.template_text(POOL).await?;
    ensure!(
        after == template,
        "expected the pool's template to be byte for byte what it was:\n{template}\nand it is\n{after}"
    );
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let left = secrets.get_metadata_opt(&name).await?;
    ensure!(
        left.is_none(),
        "expected the Secret {name} to be gone, and it is there"
    );
    tell.step(&format!(
        "gone after {:.1} s: the pool's template is byte for byte what it was ({} bytes), and there is no Secret {name}",
        begun.elapsed().as_secs_f64(),
        after.len()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_columns_of_kubectl_get() {
        let table = json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Keys", "priority": 0}, {"name": "Message", "priority": 1}],
            "rows": [{"cells": ["my-project-dev", 1, "not shown"]}],
        });
        assert_eq!(
            lines_of(&table),
            ["NAME             KEYS", "my-project-dev   1"]
        );
    }
}
