//! Install, upgrade, roll back and uninstall the chart with Helm 3 and Helm 4.
//!
//! Input: the chart and its older version. Output: the objects in the cluster, a served binding,
//! and what is left after the removal.
//! Invariants: each test has its own control plane, because the CRD of the chart is cluster-wide.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{EnvVar, Pod, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};
use testkit::grant::{Grant, grant};
use testkit::helm::Helm;
use testkit::node::{Image, NodeOptions, ProcessNode};
use testkit::operator::{Operator, OperatorOptions};
use testkit::prefect::{Block, PrefectApi, PrefectServer};
use testkit::{kubernetes, wait};

use super::{BINARY, CHART, MANIFEST};
use crate::work_pools::template;
use crate::world::{CRD, TIMEOUT, canary, doppler, secret};

const OPERATOR_NAMESPACE: &str = "doppler";
const FLOW_NAMESPACE: &str = "chart-flows";
const FULL_NAME: &str = "op-doppler-prefect-operator";

/// An older chart: its CRD has no `suspend`, and its values lack most of today's keys.
fn older_chart(folder: &Path) -> Result<PathBuf> {
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

struct Cluster {
    helm: Helm,
    plane: ControlPlane,
    client: Client,
    /// Name of the work pool, the block and the Doppler project.
    pool: &'static str,
    /// `replicaCount=` and the number of replicas.
    replicas: &'static str,
}

impl Cluster {
    async fn start(helm: Helm, pool: &'static str, replicas: &'static str) -> Result<Self> {
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

    async fn helm(&self, args: &[&str]) -> Result<String> {
        let mut all = args.to_vec();
        all.extend(["--namespace", OPERATOR_NAMESPACE]);
        self.helm
            .run_async(&all, Some(&self.plane.admin_kubeconfig_path()))
            .await?
            .success()
    }

    /// Installs or upgrades. The values allow the operator to reach the servers of the tests.
    async fn deploy(&self, command: &str, chart: &str) -> Result<String> {
        self.deploy_with(&[command], chart, self.replicas).await
    }

    async fn deploy_with(&self, command: &[&str], chart: &str, set: &str) -> Result<String> {
        let watched = format!("watchNamespaces={{{FLOW_NAMESPACE}}}");
        let sets = [
            set,
            "image.repository=doppler-prefect-operator",
            watched.as_str(),
            "operator.allowedDopplerHosts={http://127.0.0.1:*}",
            "operator.allowedPrefectHosts={http://127.0.0.1:*}",
            "operator.releaseWait=1s",
            "operator.refreshInterval=1s",
        ];
        let mut args = [command, &["op", chart]].concat();
        for set in sets {
            args.extend(["--set", set]);
        }
        self.helm(&args).await
    }

    /// Whether the CRD in the cluster has `spec.suspend`.
    async fn crd_has_suspend(&self) -> Result<bool> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let crd = definitions
            .get("dopplerprefectbindings.doppler-prefect.dev")
            .await?;
        let schema = serde_json::to_value(&crd.spec.versions[0].schema)?;
        Ok(schema["openAPIV3Schema"]["properties"]["spec"]["properties"]["suspend"].is_object())
    }

    /// Waits until the pod of the operator exists, which means that it was admitted.
    async fn until_pod(&self, namespace: &str) -> Result<()> {
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

    fn bindings(&self) -> Api<DynamicObject> {
        let kind =
            GroupVersionKind::gvk("doppler-prefect.dev", "v1alpha1", "DopplerPrefectBinding");
        let resource = ApiResource::from_gvk_with_plural(&kind, "dopplerprefectbindings");
        Api::namespaced_with(self.client.clone(), FLOW_NAMESPACE, &resource)
    }

    /// Starts the operator with the arguments, environment and account of its Deployment.
    async fn operator(&self, grant: &Grant) -> Result<Operator> {
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

/// Creates the block, work pool and binding of a user. Returns the template before the injection.
async fn bind(cluster: &Cluster, prefect: &PrefectServer, api: &PrefectApi) -> Result<Value> {
    let (doppler, pool) = (doppler()?, cluster.pool);
    doppler.set(pool, "dev", "SECRET_API_KEY", &secret("1234567890"));
    let token = format!("dp.st.dev.{}", secret(pool));
    doppler.add_service_token(&token, pool, "dev");
    api.put_block(pool, &Block::object(pool, "dev", &token))
        .await?;
    api.create_pool(
        pool,
        "kubernetes",
        Some(serde_json::from_str(&template(FLOW_NAMESPACE))?),
    )
    .await?;
    let before = api.template(pool).await?;
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": "left", "namespace": FLOW_NAMESPACE},
        "spec": {
            "prefect": {"server": {"remoteApiUrl": prefect.api_url()}, "block": {"name": pool}},
            "doppler": {"host": doppler.url()},
            "inject": {"workPools": [{"name": pool}]},
        },
    });
    kubernetes::apply(&cluster.client, FLOW_NAMESPACE, &binding.to_string()).await?;
    let bindings = cluster.bindings();
    wait::until(TIMEOUT, "the binding to be Ready", async || {
        let status = bindings.get("left").await?.data["status"].take();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True");
        ensure!(ready, "{status}");
        Ok(())
    })
    .await?;
    Ok(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_3_installs_upgrades_and_uninstalls() -> Result<()> {
    let cluster = Cluster::start(Helm::V3, "chart-3", "replicaCount=1").await?;
    install_upgrade_uninstall(&cluster).await?;
    changes_replica_count(&cluster).await?;
    installs_from_manifest(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_4_installs_upgrades_and_uninstalls() -> Result<()> {
    let cluster = Cluster::start(Helm::V4, "chart-4", "replicaCount=1").await?;
    install_upgrade_uninstall(&cluster).await?;
    changes_replica_count(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_3_uninstalls_several_replicas() -> Result<()> {
    let cluster = Cluster::start(Helm::V3, "chart-3-replicas", "replicaCount=2").await?;
    install_upgrade_uninstall(&cluster).await?;
    detach_job_keeps_lease(&cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn helm_4_uninstalls_several_replicas() -> Result<()> {
    let cluster = Cluster::start(Helm::V4, "chart-4-replicas", "replicaCount=2").await?;
    install_upgrade_uninstall(&cluster).await?;
    detach_job_keeps_lease(&cluster).await
}

/// A replica that is still shutting down cannot add the entries again.
async fn detach_job_keeps_lease(cluster: &Cluster) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), OPERATOR_NAMESPACE);
    let spec = leases.get(FULL_NAME).await?.spec.context("a lease")?;
    let holder = spec.holder_identity.context("the lease has no holder")?;
    ensure!(holder.starts_with("detach_"), "{holder}");
    Ok(())
}

/// An installation accepts the CRD of the previous one, and one strategy fits every replica count.
async fn changes_replica_count(cluster: &Cluster) -> Result<()> {
    cluster.deploy("install", CHART).await?;
    cluster
        .deploy_with(&["upgrade"], CHART, "replicaCount=2")
        .await?;
    cluster.deploy("upgrade", CHART).await?;
    for (revision, replicas) in [("2", 2), ("1", 1)] {
        cluster.helm(&["rollback", "op", revision]).await?;
        let deployments: Api<Deployment> =
            Api::namespaced(cluster.client.clone(), OPERATOR_NAMESPACE);
        let spec = deployments.get(FULL_NAME).await?.spec.context("a spec")?;
        ensure!(spec.replicas == Some(replicas), "{:?}", spec.replicas);
    }
    cluster.helm(&["uninstall", "op", "--no-hooks"]).await?;
    Ok(())
}

/// Installs the older chart, upgrades to the chart with the values of the older one, and
/// uninstalls.
async fn install_upgrade_uninstall(cluster: &Cluster) -> Result<()> {
    let prefect = PrefectServer::shared().await?;
    let older = older_chart(cluster.plane.folder())?;
    let older = older.to_str().context("a path that is not UTF-8")?;
    let notes = cluster.deploy("install", older).await?;
    ensure!(
        notes.contains(&format!("kubectl apply -n {FLOW_NAMESPACE}")),
        "{notes}"
    );
    ensure!(!cluster.crd_has_suspend().await?);
    cluster.until_pod(OPERATOR_NAMESPACE).await?;
    rejects_unrestricted_pod(cluster).await?;

    cluster
        .deploy_with(&["upgrade", "--reuse-values"], CHART, cluster.replicas)
        .await?;
    ensure!(
        cluster.crd_has_suspend().await?,
        "helm upgrade did not upgrade the CRD"
    );

    let grant = grant(&cluster.plane, OPERATOR_NAMESPACE, FULL_NAME).await?;
    let operator = cluster.operator(&grant).await?;
    let api = prefect.api()?;
    let before = bind(cluster, prefect, &api).await?;
    ensure!(api.template(cluster.pool).await? != before);

    // Helm runs the detach Job before it deletes the Deployment.
    let mut options = NodeOptions::new("chart-node", cluster.plane.admin_kubeconfig_path());
    options.namespace = Some(OPERATOR_NAMESPACE.to_owned());
    options.images = vec![Image {
        repository: "doppler-prefect-operator".to_owned(),
        entrypoint: vec![BINARY.to_owned()],
        env: vec![(
            "KUBECONFIG".to_owned(),
            grant.kubeconfig.display().to_string(),
        )],
    }];
    let node = ProcessNode::start(options).await?;
    let uninstall = ["uninstall", "op", "--timeout", "60s"];
    let (uninstalled, ended) = tokio::join!(
        cluster.helm(&uninstall),
        terminate_with_its_pod(cluster, &operator)
    );
    let log: String = node
        .pods()
        .iter()
        .map(testkit::node::PodRecord::log)
        .collect();
    uninstalled.with_context(|| format!("log of the detach Job: {log}"))?;
    canary::ensure_absent("the log of the detach Job", &log)?;
    ended?;
    canary::ensure_absent("the operator's log", &operator.log()?)?;

    assert_eq!(
        api.template(cluster.pool).await?,
        before,
        "the template differs from the original"
    );
    let left = cluster.bindings().get("left").await?;
    ensure!(left.finalizers().is_empty(), "{:?}", left.finalizers());
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), FLOW_NAMESPACE);
    secrets
        .get("left")
        .await
        .context("the Secret of the binding")?;
    ensure!(cluster.crd_has_suspend().await?, "the CRD was not kept");
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), OPERATOR_NAMESPACE);
    let jobs: Api<Job> = Api::namespaced(cluster.client.clone(), OPERATOR_NAMESPACE);
    ensure!(deployments.get_opt(FULL_NAME).await?.is_none());
    ensure!(
        jobs.list(&ListParams::default()).await?.items.is_empty(),
        "the detach Job still exists"
    );
    // No finalizer delays its deletion.
    cluster
        .bindings()
        .delete("left", &kube::api::DeleteParams::default())
        .await?;
    wait::until(TIMEOUT, "the deletion of the binding", async || {
        cluster
            .bindings()
            .get_opt("left")
            .await
            .is_ok_and(|found| found.is_none())
            .then_some(())
    })
    .await?;
    Ok(())
}

/// Does what a kubelet does: terminates the operator once its pod is being deleted.
async fn terminate_with_its_pod(cluster: &Cluster, operator: &Operator) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), OPERATOR_NAMESPACE);
    let its = ListParams::default().labels("app.kubernetes.io/component=operator");
    wait::until(TIMEOUT, "the deletion of the operator's pod", async || {
        let left = pods.list(&its).await?.items;
        let left = left
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        ensure!(left.count() == 0, "a pod is not being deleted");
        Ok(())
    })
    .await?;
    let code = operator.terminate(Duration::from_secs(30)).await?;
    ensure!(code == 0, "the operator ended with {code}");
    Ok(())
}

/// Proves that the namespace enforces the level that the pods of the chart are admitted to.
async fn rejects_unrestricted_pod(cluster: &Cluster) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "loose"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let refused = kubernetes::apply(&cluster.client, OPERATOR_NAMESPACE, &pod.to_string()).await;
    let error = refused.err().context("an unrestricted pod was admitted")?;
    ensure!(
        format!("{error:#}").contains("violates PodSecurity"),
        "{error:#}"
    );
    Ok(())
}

/// Applies the CRD and the plain manifest.
async fn installs_from_manifest(cluster: &Cluster) -> Result<()> {
    let home = "doppler-prefect-operator";
    kubernetes::apply(&cluster.client, home, CRD).await?;
    kubernetes::apply(&cluster.client, home, MANIFEST).await?;
    cluster.until_pod(home).await?;
    let grant = grant(&cluster.plane, home, home).await?;
    let options = OperatorOptions {
        binary: BINARY.into(),
        kubeconfig: grant.kubeconfig,
        env: vec![
            ("POD_NAMESPACE".to_owned(), home.to_owned()),
            (
                "ALLOWED_DOPPLER_HOST".to_owned(),
                "http://127.0.0.1:*".to_owned(),
            ),
        ],
        ..OperatorOptions::default()
    };
    // The operator becomes ready only if it may list and watch what it needs.
    let operator = Operator::start(options).await?;
    // With the rights of the manifest it serves every namespace.
    let token = format!("dp.st.dev.{}", secret("plain"));
    let doppler = doppler()?;
    doppler.set("plain", "dev", "SECRET_API_KEY", &secret("plain"));
    doppler.add_service_token(&token, "plain", "dev");
    let objects = [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"token": token}}),
        json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": "plain"},
            "spec": {"doppler": {
                "host": doppler.url(), "project": "plain", "config": "dev",
                "accessToken": {"valueFrom": {"secretKeyRef": {"name": "token", "key": "token"}}},
            }},
        }),
    ];
    for object in objects {
        kubernetes::apply(&cluster.client, FLOW_NAMESPACE, &object.to_string()).await?;
    }
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), FLOW_NAMESPACE);
    wait::until(TIMEOUT, "the Secret of a binding", async || {
        let made = secrets.get("plain").await?.data.unwrap_or_default();
        let value = made.get("SECRET_API_KEY").context("no such key")?;
        ensure!(
            value.0 == secret("plain").into_bytes(),
            "it has another value"
        );
        Ok(())
    })
    .await?;
    canary::ensure_absent("the operator's log", &operator.log()?)?;
    operator.terminate(Duration::from_secs(30)).await?;
    Ok(())
}
