//! A control plane in which Helm installs the chart.
//!
//! Input: the version of Helm, the number of replicas, and a chart.
//! Output: a release `op`, its objects, and an operator that starts as its Deployment states.
//! Invariants: pods of the release are admitted by the `restricted` Pod Security Standard.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{EnvVar, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};
use testkit::grant::Grant;
use testkit::helm::Helm;
use testkit::operator::{Operator, OperatorOptions};
use testkit::{kubernetes, wait};

use crate::chart::{BINARY, CHART};
use crate::world::{CRD, TIMEOUT};

pub(super) const OPERATOR_NAMESPACE: &str = "doppler";
pub(super) const FLOW_NAMESPACE: &str = "chart-flows";
pub(super) const FULL_NAME: &str = "op-doppler-prefect-operator";

pub(super) struct Cluster {
    pub(super) helm: Helm,
    pub(super) plane: ControlPlane,
    pub(super) client: Client,
    /// Name of the work pool, the block and the Doppler project.
    pub(super) pool: &'static str,
    /// `replicaCount=` and the number of replicas.
    pub(super) replicas: &'static str,
}

impl Cluster {
    pub(super) async fn start(
        helm: Helm,
        pool: &'static str,
        replicas: &'static str,
    ) -> Result<Self> {
        let plane = ControlPlane::start(Options::default()).await?;
        let client = plane.admin_client()?;
        for (name, labels) in [
            (
                OPERATOR_NAMESPACE,
                json!({"pod-security.kubernetes.io/enforce": "restricted"}),
            ),
            (
                "doppler-prefect-operator",
                json!({"pod-security.kubernetes.io/enforce": "restricted"}),
            ),
            (FLOW_NAMESPACE, json!({})),
        ] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
            kubernetes::apply(&client, name, &namespace.to_string()).await?;
        }
        Ok(Self {
            helm,
            plane,
            client,
            pool,
            replicas,
        })
    }

    pub(super) async fn helm(&self, args: &[&str]) -> Result<String> {
        let mut all = args.to_vec();
        all.extend(["--namespace", OPERATOR_NAMESPACE]);
        self.helm
            .run_async(&all, Some(&self.plane.admin_kubeconfig_path()))
            .await?
            .success()
    }

    /// Installs or upgrades. The values allow the operator to reach the servers of the tests.
    pub(super) async fn deploy(&self, command: &str, chart: &str) -> Result<String> {
        self.deploy_with(&[command], chart, self.replicas).await
    }

    pub(super) async fn deploy_with(
        &self,
        command: &[&str],
        chart: &str,
        set: &str,
    ) -> Result<String> {
        let watched = format!("watchNamespaces={{{FLOW_NAMESPACE}}}");
        let sets = [
            "image.repository=doppler-prefect-operator",
            watched.as_str(),
            "operator.allowedDopplerHosts={http://127.0.0.1:*}",
            "operator.allowedPrefectHosts={http://127.0.0.1:*}",
            "operator.releaseWait=1s",
            "operator.refreshInterval=1s",
            // The last value counts.
            set,
        ];
        let mut args = [command, &["op", chart]].concat();
        for set in sets {
            args.extend(["--set", set]);
        }
        self.helm(&args).await
    }

    /// Whether the CRD in the cluster has `spec.suspend`.
    pub(super) async fn crd_has_suspend(&self) -> Result<bool> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let crd = definitions
            .get("dopplerprefectbindings.doppler-prefect.dev")
            .await?;
        let schema = serde_json::to_value(&crd.spec.versions[0].schema)?;
        Ok(schema["openAPIV3Schema"]["properties"]["spec"]["properties"]["suspend"].is_object())
    }

    /// Waits until the pod of the operator exists, which means that it was admitted.
    pub(super) async fn until_pod(&self, namespace: &str) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let operator = ListParams::default().labels("app.kubernetes.io/component=operator");
        wait::until(TIMEOUT, "the operator's pod to be admitted", async || {
            if !pods.list(&operator).await?.items.is_empty() {
                return Ok(());
            }
            let all = deployments.list(&ListParams::default()).await?.items;
            Err(anyhow!(
                "{}",
                serde_json::to_string(&all.iter().map(|one| &one.status).collect::<Vec<_>>())?
            ))
        })
        .await
    }

    pub(super) fn bindings(&self) -> Api<DynamicObject> {
        let kind =
            GroupVersionKind::gvk("doppler-prefect.dev", "v1alpha1", "DopplerPrefectBinding");
        let resource = ApiResource::from_gvk_with_plural(&kind, "dopplerprefectbindings");
        Api::namespaced_with(self.client.clone(), FLOW_NAMESPACE, &resource)
    }

    /// Starts the operator with the arguments, environment and account of its Deployment.
    pub(super) async fn operator(&self, grant: &Grant) -> Result<Operator> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        let deployment = deployments.get(FULL_NAME).await?;
        let pod = deployment
            .spec
            .and_then(|spec| spec.template.spec)
            .context("a pod")?;
        let env = pod.containers[0].env.clone().unwrap_or_default();
        let env = env.into_iter().map(|variable: EnvVar| {
            let field = variable
                .value_from
                .and_then(|from| from.field_ref)
                .map(|field| field.field_path);
            let value = match field.as_deref() {
                None => variable.value.unwrap_or_default(),
                Some("metadata.namespace") => OPERATOR_NAMESPACE.to_owned(),
                Some("metadata.name") => "a-pod".to_owned(),
                Some("status.podIP") => "127.0.0.1".to_owned(),
                Some(other) => panic!("{other}"),
            };
            (variable.name, value)
        });
        let options = OperatorOptions {
            binary: BINARY.into(),
            kubeconfig: grant.kubeconfig.clone(),
            args: Vec::new(),
            env: env.collect(),
            log: Some(self.plane.folder().join("operator.log")),
        };
        Operator::start(options).await
    }
}

/// An older chart: its CRD has no `suspend`, and its values lack most of today's keys.
pub(super) fn older_chart(folder: &Path) -> Result<PathBuf> {
    let chart = folder.join("older-chart");
    copy(Path::new(CHART), &chart)?;
    let mut crd: Value = serde_json::to_value(&kubernetes::documents(CRD)?[0])?;
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let fields = crd.pointer_mut(spec).and_then(Value::as_object_mut);
    fields
        .and_then(|fields| fields.remove("suspend"))
        .context("spec.suspend is missing in the CRD")?;
    std::fs::write(chart.join("files/crd.yaml"), crd.to_string())?;
    std::fs::write(chart.join("values.yaml"), "operator: {concurrency: 32}")?;
    Ok(chart)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            std::fs::copy(path, to)?;
        }
    }
    Ok(())
}
