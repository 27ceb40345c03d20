//! Workloads that restart when the content of a Secret changes: which, how often, and what the condition
//! `Restarted` says.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use testkit::kubectl::kubectl_async;

use crate::world::chart::Optional;
use crate::world::{Setup, World, pairs, secret};

const HASHES: &str = "doppler-prefect.dev/content-hash";

fn setup() -> Setup {
    Setup {
        optional: Optional::Restarts,
        ..Setup::default()
    }
}

/// A pod that loads a Secret.
fn loads(secret: &str) -> Value {
    json!({"containers": [{"name": "a", "image": "none", "envFrom": [{"secretRef": {"name": secret}}]}]})
}

/// A pod that mounts a Secret.
fn mounts(secret: &str) -> Value {
    json!({
        "containers": [{"name": "a", "image": "none"}],
        "volumes": [{"name": "v", "secret": {"secretName": secret}}],
    })
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "Rollout" => "argoproj.io/v1alpha1",
        _ => "apps/v1",
    }
}

impl World {
    async fn workload(&self, kind: &str, name: &str, pod: &Value) -> Result<()> {
        self.labelled_workload(kind, name, pod, &json!({})).await
    }

    async fn labelled_workload(
        &self,
        kind: &str,
        name: &str,
        pod: &Value,
        labels: &Value,
    ) -> Result<()> {
        let mut workload = json!({
            "apiVersion": api_version(kind), "kind": kind, "metadata": {"name": name, "labels": labels},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
            },
        });
        if kind == "StatefulSet" {
            workload["spec"]["serviceName"] = json!(name);
        }
        self.apply(&workload.to_string()).await
    }

    async fn read_workload(&self, kind: &str, name: &str) -> Result<DynamicObject> {
        let (group, version) = api_version(kind).split_once('/').context("a group")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.name, &resource);
        Ok(api.get(name).await?)
    }

    /// The hash in the pod template, and the generation, which counts the changes of the spec.
    async fn pods_of(&self, kind: &str, name: &str) -> Result<(String, i64)> {
        let workload = self.read_workload(kind, name).await?;
        let annotations = &workload.data["spec"]["template"]["metadata"]["annotations"];
        let hash = annotations[HASHES].as_str().unwrap_or_default().to_owned();
        Ok((hash, workload.metadata.generation.unwrap_or_default()))
    }

    /// Waits until the pods of a workload have the content of `b`. Returns the generation.
    async fn until_current(&self, kind: &str, name: &str) -> Result<i64> {
        self.until(&format!("current pods of {kind} {name}"), async || {
            let status = self.status("b").await?;
            let hash = status["contentHash"].as_str().context("no hash")?;
            let (found, generation) = self.pods_of(kind, name).await?;
            ensure!(found == format!("b={hash}"), "{found}");
            Ok(generation)
        })
        .await
    }

    async fn bind_with(&self, restart: &Value) -> Result<()> {
        let mut spec = self.spec();
        spec["managedSecret"] = json!({"restart": restart});
        self.apply_binding("b", &spec).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_restarts_each_workload_that_uses_the_secret_once() -> Result<()> {
    let mut w = World::with("restarts-kinds", setup()).await?;
    w.apply(ROLLOUT_CRD).await?;
    w.set_doppler_secret("A", &secret("old"));
    let label = json!({"doppler-prefect.dev/restart": "true"});
    w.workload("Deployment", "served", &loads("b")).await?;
    w.workload("DaemonSet", "daemon", &mounts("b")).await?;
    w.until("the kind Rollout", async || {
        w.workload("Rollout", "canary", &loads("b")).await
    })
    .await?;
    w.labelled_workload("StatefulSet", "labelled", &mounts("b"), &label)
        .await?;
    w.labelled_workload("Deployment", "other", &loads("another"), &label)
        .await?;
    w.workload("Deployment", "unlabelled", &loads("b")).await?;
    let targets = json!([
        {"kind": "Deployment", "name": "served"},
        {"kind": "DaemonSet", "name": "daemon"},
        {"kind": "Rollout", "name": "canary"},
    ]);
    w.bind_with(&json!({"targets": targets, "minInterval": "10s"}))
        .await?;
    let restarting = [
        ("Deployment", "served"),
        ("DaemonSet", "daemon"),
        ("Rollout", "canary"),
        ("StatefulSet", "labelled"),
    ];
    let mut generations = Vec::new();
    for (kind, name) in restarting {
        generations.push(w.until_current(kind, name).await?);
    }
    let condition = w
        .until_condition("b", "Restarted", "True", "WorkloadRestarted")
        .await?;
    ensure!(
        condition.message.contains("4 workloads"),
        "{}",
        condition.message
    );

    // A restart of the operator changes nothing, and neither do polls.
    w.restart_operator().await?;
    w.until_polls("unchanged", 2).await?;
    for ((kind, name), generation) in restarting.into_iter().zip(&generations) {
        ensure!(w.until_current(kind, name).await? == *generation, "{name}");
    }
    // Five changes within the interval: one restart.
    for number in 0..5 {
        let value = secret(&format!("new-{number}"));
        w.set_doppler_secret("A", &value);
        w.until_values("b", &pairs(&[("A", value)])).await?;
    }
    for ((kind, name), generation) in restarting.into_iter().zip(&generations) {
        let found = w.until_current(kind, name).await?;
        ensure!(
            found <= generation + 2,
            "{name}: {found} after {generation}"
        );
    }
    for name in ["other", "unlabelled"] {
        ensure!(w.pods_of("Deployment", name).await?.0.is_empty(), "{name}");
    }
    let event = w.until_event("WorkloadRestarted").await?;
    ensure!(
        event.contains("restarts with the content of Secret b"),
        "{event}"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_within_the_interval_restart_at_its_end() -> Result<()> {
    let w = World::with("restarts-interval", setup()).await?;
    w.set_doppler_secret("A", &secret("old"));
    w.set_doppler_secret("FLAG_X", &secret("off"));
    w.workload("Deployment", "served", &loads("b")).await?;
    let target = json!([{"kind": "Deployment", "name": "served"}]);
    w.bind_with(&json!({"targets": target, "minInterval": "10s", "ignore": ["FLAG_*"]}))
        .await?;
    w.until_condition("b", "Restarted", "True", "WorkloadRestarted")
        .await?;
    let (first, generation) = w.pods_of("Deployment", "served").await?;
    let started = Instant::now();
    // A key that does not count.
    w.set_doppler_secret("FLAG_X", &secret("on"));
    let values = pairs(&[("A", secret("old")), ("FLAG_X", secret("on"))]);
    w.until_values("b", &values).await?;
    w.until_polls("unchanged", 1).await?;
    ensure!(w.pods_of("Deployment", "served").await? == (first.clone(), generation));
    w.set_doppler_secret("A", &secret("new"));
    let condition = w
        .until_condition("b", "Restarted", "False", "RestartPending")
        .await?;
    ensure!(
        condition.message.contains("restarts at"),
        "{}",
        condition.message
    );
    w.until_ready("b").await?;
    w.until_condition("b", "Restarted", "True", "WorkloadRestarted")
        .await?;
    ensure!(started.elapsed() >= Duration::from_secs(7), "too early");
    let (second, after) = w.pods_of("Deployment", "served").await?;
    ensure!(
        second != first && after == generation + 1,
        "{after} after {generation}"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_cannot_restart_has_its_reason_and_ready_stays() -> Result<()> {
    let w = World::with("restarts-missing", setup()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let target = json!([{"kind": "Deployment", "name": "served"}]);
    w.bind_with(&json!({"targets": target})).await?;
    let condition = w
        .until_condition("b", "Restarted", "False", "RestartTargetMissing")
        .await?;
    ensure!(
        condition.message.contains("Deployment served"),
        "{}",
        condition.message
    );
    w.until_ready("b").await?;
    // A workload that does not use the Secret belongs to others.
    w.workload("Deployment", "served", &loads("another"))
        .await?;
    w.until_condition("b", "Restarted", "False", "RestartTargetUnrelated")
        .await?;
    ensure!(w.pods_of("Deployment", "served").await?.0.is_empty());
    w.workload("Deployment", "served", &loads("b")).await?;
    w.until_condition("b", "Restarted", "True", "WorkloadRestarted")
        .await?;
    // Without the field, the condition goes.
    w.apply_binding("b", &w.spec()).await?;
    w.until("a status without the condition", async || {
        let status = w.status("b").await?.to_string();
        ensure!(!status.contains("Restarted"), "{status}");
        Ok(())
    })
    .await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_permission_the_condition_names_the_chart_value() -> Result<()> {
    let w = World::start("restarts-forbidden").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.workload("Deployment", "served", &loads("b")).await?;
    let target = json!([{"kind": "Deployment", "name": "served"}]);
    w.bind_with(&json!({"targets": target})).await?;
    let condition = w
        .until_condition("b", "Restarted", "False", "RestartForbidden")
        .await?;
    ensure!(
        condition.message.contains("rbac.restarts"),
        "{}",
        condition.message
    );
    w.until_ready("b").await?;
    ensure!(w.pods_of("Deployment", "served").await?.0.is_empty());
    w.finish().await
}

/// What docs/restarts.md says of Argo CD and of `kubectl apply`.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_applies_the_workload_keeps_the_restart() -> Result<()> {
    let w = World::with("restarts-applied", setup()).await?;
    w.set_doppler_secret("A", &secret("a"));
    let manifest = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "served", "namespace": w.name},
        "spec": {
            "selector": {"matchLabels": {"app": "served"}},
            "template": {"metadata": {"labels": {"app": "served"}, "annotations": {"team": "data"}}, "spec": loads("b")},
        },
    });
    let file = w.plane.folder().join("restarts-applied.yaml");
    std::fs::write(&file, manifest.to_string())?;
    let (file, kubeconfig) = (file.display().to_string(), w.plane.admin_kubeconfig_path());
    kubectl_async(&["apply", "-f", &file], &kubeconfig).await?;
    let target = json!([{"kind": "Deployment", "name": "served"}]);
    w.bind_with(&json!({"targets": target})).await?;
    w.until_current("Deployment", "served").await?;
    let template = async || -> Result<Value> {
        let workload = w.read_workload("Deployment", "served").await?;
        Ok(workload.data["spec"]["template"].clone())
    };
    let restarted = template().await?;
    let server_side = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=argocd-controller",
        "-f",
        &file,
    ];
    for args in [&["apply", "-f", &file][..], &server_side] {
        kubectl_async(args, &kubeconfig).await?;
        ensure!(template().await? == restarted, "{args:?}");
    }
    // `managedFieldsManagers` of `ignoreDifferences` finds the operator's fields by this manager.
    let workload = w.read_workload("Deployment", "served").await?;
    let ours = workload
        .managed_fields()
        .iter()
        .find(|fields| fields.manager.as_deref() == Some("doppler-prefect-operator"))
        .context("no fields of the operator")?;
    let fields = serde_json::to_value(&ours.fields_v1)?;
    let expected = json!({"f:spec": {"f:template": {"f:metadata": {"f:annotations": {
        "f:doppler-prefect.dev/content-hash": {}, "f:doppler-prefect.dev/restarted-at": {},
    }}}}});
    ensure!(fields == expected, "{fields}");
    w.finish().await
}

/// The part of the CRD of Argo Rollouts that the API server needs.
const ROLLOUT_CRD: &str = r#"{
  "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
  "metadata": {"name": "rollouts.argoproj.io"},
  "spec": {
    "group": "argoproj.io", "scope": "Namespaced",
    "names": {"kind": "Rollout", "plural": "rollouts", "singular": "rollout", "listKind": "RolloutList"},
    "versions": [{
      "name": "v1alpha1", "served": true, "storage": true,
      "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}
    }]
  }
}"#;
