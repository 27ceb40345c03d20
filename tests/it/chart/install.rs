//! Install, upgrade, roll back and uninstall the chart with Helm 3 and Helm 4.
//!
//! Input: the chart and its older version.
//! Output: the objects in the cluster, a served binding, and the remains of an uninstallation.
//! Invariants: each test has its own control plane, because the CRD of the chart is cluster-wide.

mod cluster;
mod deleted_namespace;
mod manifest;
mod release;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use testkit::grant::grant;
use testkit::helm::Helm;
use testkit::node::{Image, NodeOptions, ProcessNode};
use testkit::operator::Operator;
use testkit::prefect::{Block, PrefectApi, PrefectServer};
use testkit::{kubernetes, wait};

use self::cluster::{Cluster, FLOW_NAMESPACE, FULL_NAME, OPERATOR_NAMESPACE, older_chart};
use super::{BINARY, CHART};
use crate::work_pools::template;
use crate::world::{TIMEOUT, canary, doppler, secret};

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
    manifest::install(&cluster).await
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

    ensure!(notes.contains("Two steps remain"), "{notes}");
    let notes = cluster
        .deploy_with(&["upgrade", "--reuse-values"], CHART, cluster.replicas)
        .await?;
    ensure!(
        notes.contains("kubectl get dpb") && !notes.contains("steps remain"),
        "{notes}"
    );
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
    ensure!(code == 0, "the operator exited with {code}");
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
