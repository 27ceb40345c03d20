//! A watched namespace is deleted while no operator runs, and takes its Role with it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use testkit::grant::grant;
use testkit::helm::Helm;
use testkit::operator::Operator;
use testkit::prefect::PrefectServer;
use testkit::{kubernetes, wait};

use super::bind;
use super::cluster::{Cluster, FLOW_NAMESPACE, FULL_NAME, OPERATOR_NAMESPACE};
use crate::chart::CHART;
use crate::world::{TIMEOUT, canary, doppler, secret};

const OTHER: &str = "chart-other";
const WATCHED: &str = "watchNamespaces={chart-flows,chart-other}";

async fn create_namespace(cluster: &Cluster, name: &str) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    kubernetes::apply(&cluster.client, name, &namespace.to_string()).await?;
    Ok(())
}

/// A binding without Prefect becomes Ready in the namespace.
async fn is_served(cluster: &Cluster, namespace: &str, limit: Duration) -> Result<()> {
    let token = format!("dp.st.dev.{}", secret(namespace));
    let doppler = doppler()?;
    doppler.set(namespace, "dev", "SECRET_API_KEY", &secret(namespace));
    doppler.add_service_token(&token, namespace, "dev");
    for object in [
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"token": token}}),
        json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": "served"},
            "spec": {"doppler": {
                "host": doppler.url(), "project": namespace, "config": "dev",
                "accessToken": {"valueFrom": {"secretKeyRef": {"name": "token", "key": "token"}}},
            }},
        }),
    ] {
        kubernetes::apply(&cluster.client, namespace, &object.to_string()).await?;
    }
    let secrets: Api<k8s_openapi::api::core::v1::Secret> =
        Api::namespaced(cluster.client.clone(), namespace);
    wait::until(limit, "the Secret of a binding", async || {
        secrets.get("served").await.map(drop)
    })
    .await
}

async fn shows(operator: &Operator, reason: &str) -> Result<()> {
    let line = format!(
        "doppler_prefect_namespace_unavailable{{namespace=\"{FLOW_NAMESPACE}\",reason=\"{reason}\"}} 1"
    );
    wait::until(TIMEOUT, "the metric of the namespace", async || {
        let page = operator.metrics().await?;
        ensure!(page.contains(&line), "{line} is missing");
        Ok(())
    })
    .await
}

/// The reasons of all warnings in the log. Only the namespace gives one, and each reason one.
fn warnings(operator: &Operator) -> Result<Vec<String>> {
    let mut reasons = Vec::new();
    for line in operator.log()?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let is_about = line["namespace"] == FLOW_NAMESPACE && line["binding"].is_null();
        if line["level"] == "WARN" {
            ensure!(is_about || line["reason"] == "NamespaceForbidden", "{line}");
            if is_about {
                reasons.push(line["reason"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    Ok(reasons)
}

async fn end(operator: Operator) -> Result<()> {
    canary::ensure_absent("the operator's log", &operator.log()?)?;
    let code = operator.terminate(Duration::from_secs(30)).await?;
    ensure!(code == 0, "the operator exited with {code}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_namespace_delays_nothing() -> Result<()> {
    let cluster = Cluster::start(Helm::V3, "chart-deleted", "replicaCount=1").await?;
    create_namespace(&cluster, OTHER).await?;
    cluster.deploy_with(&["install"], CHART, WATCHED).await?;
    let grant = grant(&cluster.plane, OPERATOR_NAMESPACE, FULL_NAME).await?;
    let operator = cluster.operator(&grant).await?;
    let prefect = PrefectServer::shared().await?;
    let api = prefect.api()?;
    let before = bind(&cluster, prefect, &api).await?;
    ensure!(api.template(cluster.pool).await? != before);
    end(operator).await?;

    // The namespace stays terminating until the hold is removed.
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), FLOW_NAMESPACE);
    let hold = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "hold", "finalizers": ["example.com/hold"]},
    });
    kubernetes::apply(&cluster.client, FLOW_NAMESPACE, &hold.to_string()).await?;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let params = DeleteParams::default();
    namespaces.delete(FLOW_NAMESPACE, &params).await?;
    let roles: Api<Role> = Api::namespaced(cluster.client.clone(), FLOW_NAMESPACE);
    wait::until(TIMEOUT, "the deletion of the Role", async || {
        ensure!(roles.get_opt(FULL_NAME).await?.is_none());
        Ok(())
    })
    .await?;
    ensure!(
        !cluster
            .bindings()
            .get("left")
            .await?
            .finalizers()
            .is_empty()
    );

    let notes = cluster.deploy_with(&["upgrade"], CHART, WATCHED).await?;
    ensure!(
        notes.contains("No Role was created in chart-flows, which is being deleted"),
        "{notes}"
    );
    // It becomes ready, serves the other namespace, and cleans up.
    let operator = cluster.operator(&grant).await?;
    is_served(&cluster, OTHER, TIMEOUT).await?;
    wait::until(TIMEOUT, "the deletion of the binding", async || {
        ensure!(cluster.bindings().get_opt("left").await?.is_none());
        Ok(())
    })
    .await?;
    assert_eq!(api.template(cluster.pool).await?, before);
    shows(&operator, "terminating").await?;
    let found = warnings(&operator)?;
    assert_eq!(found, ["terminating"]);
    end(operator).await?;

    let no_finalizers = json!({"metadata": {"finalizers": null}});
    let patch = Patch::Merge(&no_finalizers);
    maps.patch("hold", &PatchParams::default(), &patch).await?;
    wait::until(TIMEOUT, "the deletion of the namespace", async || {
        ensure!(namespaces.get_opt(FLOW_NAMESPACE).await?.is_none());
        Ok(())
    })
    .await?;
    cluster.deploy_with(&["upgrade"], CHART, WATCHED).await?;
    let operator = cluster.operator(&grant).await?;
    shows(&operator, "gone").await?;
    is_served(&cluster, OTHER, TIMEOUT).await?;

    // The namespace comes back. The waits of the watches have grown.
    create_namespace(&cluster, FLOW_NAMESPACE).await?;
    cluster.deploy_with(&["upgrade"], CHART, WATCHED).await?;
    roles.get(FULL_NAME).await.context("the Role")?;
    is_served(&cluster, FLOW_NAMESPACE, Duration::from_secs(100)).await?;
    ensure!(
        !operator
            .metrics()
            .await?
            .contains("namespace=\"chart-flows\"")
    );
    // It may have seen the namespace without its Role.
    let found = warnings(&operator)?;
    ensure!(
        found[..2] == ["terminating", "gone"] && found.len() <= 3,
        "{found:?}"
    );
    end(operator).await
}
