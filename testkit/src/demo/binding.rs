//! The life of the binding: applied, changed in Doppler, and deleted.
//!
//! Input: the stage, and the file of an example. Output: a line for each step.
//! Invariants: after the deletion the pool's template is byte for byte what it was before the
//! binding.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use axum::http::{Request, header};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DynamicObject;

use super::names::{DOPPLER_CONFIG, KEY, NAMESPACE, POOL, SECOND_VALUE};
use super::output::Output;
use super::stage::Environment;
use super::table::lines_of;
use crate::binary::workspace;
use crate::{kubernetes, wait};

const TIMEOUT: Duration = Duration::from_mins(2);

/// The binding that was applied.
pub(super) struct AppliedBinding<'a> {
    file: &'a str,
    yaml: String,
    name: String,
    api: Api<DynamicObject>,
}

impl AppliedBinding<'_> {
    /// The name of the binding.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// Applies the binding of an example and waits until it is Ready.
pub(super) async fn apply_binding<'a>(
    output: &Output,
    stage: &Environment,
    file: &'a str,
) -> Result<AppliedBinding<'a>> {
    let started_at = Instant::now();
    let yaml = std::fs::read_to_string(workspace().join(file))?;
    let applied = kubernetes::apply(&stage.client, NAMESPACE, &yaml).await?;
    let object = applied.into_iter().next();
    let object = object.context("the example has no binding")?;
    let name = object.metadata.name.clone();
    let name = name.context("the binding has no name")?;
    output.step(&format!("kubectl apply -f {file}"));
    let api = kubernetes::api(&stage.client, NAMESPACE, &object).await?;
    wait::until(TIMEOUT, "the binding to be Ready", async || {
        let found = api.get(&name).await?;
        let conditions = found.data["status"]["conditions"].clone();
        let ready = conditions.as_array().into_iter().flatten();
        let mut ready = ready.filter(|condition| condition["type"] == "Ready");
        if ready.any(|condition| condition["status"] == "True") {
            return Ok(());
        }
        bail!("conditions {conditions}")
    })
    .await?;
    output.step(&format!(
        "Ready after {:.1} s; kubectl get dpb -n {NAMESPACE}:",
        started_at.elapsed().as_secs_f64()
    ));
    for line in printed_table(stage).await? {
        output.quote(&line);
    }
    Ok(AppliedBinding {
        file,
        yaml,
        name,
        api,
    })
}

/// What `kubectl get dpb` prints.
async fn printed_table(stage: &Environment) -> Result<Vec<String>> {
    let path =
        format!("/apis/doppler-prefect.dev/v1alpha1/namespaces/{NAMESPACE}/dopplerprefectbindings");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let request = Request::get(path)
        .header(header::ACCEPT, table)
        .body(Vec::new())?;
    Ok(lines_of(&stage.client.request(request).await?))
}

/// Changes the value in Doppler, and waits until the Secret has it.
pub(super) async fn change_secret(output: &Output, stage: &Environment) -> Result<()> {
    let started_at = Instant::now();
    let (project, config) = DOPPLER_CONFIG;
    stage.doppler.set(project, config, KEY, SECOND_VALUE);
    output.step(&format!("Doppler: {KEY}={SECOND_VALUE}"));
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), NAMESPACE);
    wait::until(TIMEOUT, "the Secret to have Doppler's value", async || {
        let secret = secrets.get_opt("my-project-dev").await?;
        let secret = secret.context("the Secret is missing")?;
        let data = secret.data.unwrap_or_default();
        let value = data.get(KEY);
        let value = value.with_context(|| format!("the Secret has no {KEY}"))?;
        ensure!(
            value.0 == SECOND_VALUE.as_bytes(),
            "the Secret has the earlier value"
        );
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    output.step(&format!(
        "the Secret has it after {:.1} s",
        started_at.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Deletes the binding, and checks that nothing of it is left. `template` is the pool's template
/// before the binding was applied.
pub(super) async fn delete_binding(
    output: &Output,
    stage: &Environment,
    binding: &AppliedBinding<'_>,
    template: &str,
) -> Result<()> {
    let prefect = stage.prefect.api()?;
    let changed = prefect.template_text(POOL).await?;
    ensure!(
        changed != template,
        "expected the pool's template to name the Secret, and it is the template before the binding"
    );
    request_deletion(output, stage, binding).await?;
    check_deletion(output, stage, binding, template).await
}

/// Waits until the binding is deleted, and checks that nothing of it is left.
pub(super) async fn check_deletion(
    output: &Output,
    stage: &Environment,
    binding: &AppliedBinding<'_>,
    template: &str,
) -> Result<()> {
    let started_at = Instant::now();
    let prefect = stage.prefect.api()?;
    let name = &binding.name;
    wait::until(TIMEOUT, "the binding to be deleted", async || match binding
        .api
        .get_opt(name)
        .await?
    {
        None => Ok(()),
        Some(found) => bail!("finalizers {:?}", found.metadata.finalizers),
    })
    .await?;
    let after = prefect.template_text(POOL).await?;
    ensure!(
        after == template,
        "expected the pool's template to be byte for byte what it was:\n{template}\nand it is\n{after}"
    );
    let secrets: Api<Secret> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let left = secrets.get_metadata_opt(name).await?;
    ensure!(
        left.is_none(),
        "expected the Secret {name} to be deleted, and it exists"
    );
    output.step(&format!(
        "deleted after {:.1} s: the pool's template is byte for byte what it was ({} bytes), and the Secret {name} is deleted",
        started_at.elapsed().as_secs_f64(),
        after.len()
    ));
    Ok(())
}

/// Asks for the deletion of the binding.
pub(super) async fn request_deletion(
    output: &Output,
    stage: &Environment,
    binding: &AppliedBinding<'_>,
) -> Result<()> {
    kubernetes::delete(&stage.client, NAMESPACE, &binding.yaml).await?;
    output.step(&format!("kubectl delete -f {}", binding.file));
    Ok(())
}

/// The message of the condition Ready, once it has this text in it.
pub(super) async fn wait_for_message(binding: &AppliedBinding<'_>, part: &str) -> Result<String> {
    let what = format!("a message with {part:?}");
    wait::until(TIMEOUT, &what, async || {
        let found = binding.api.get(&binding.name).await?;
        let conditions = found.data["status"]["conditions"].clone();
        let mut ready = conditions.as_array().into_iter().flatten();
        let ready = ready.find(|condition| condition["type"] == "Ready");
        let message = ready.and_then(|ready| ready["message"].as_str());
        match message.filter(|message| message.contains(part)) {
            Some(message) => Ok(message.to_owned()),
            None => bail!("conditions {conditions}"),
        }
    })
    .await
}
