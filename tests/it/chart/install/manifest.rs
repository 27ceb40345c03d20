//! Installs the operator without Helm, from the plain manifest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;
use testkit::grant::grant;
use testkit::kubectl::kubectl_async;
use testkit::operator::{Operator, OperatorOptions};
use testkit::{kubernetes, wait};

use super::cluster::{Cluster, FLOW_NAMESPACE};
use crate::chart::BINARY;
use crate::world::{TIMEOUT, canary, doppler, secret};

/// Applies the kustomization, which has the CRD and the plain manifest, and waits until a binding of
/// another namespace is served.
pub(super) async fn install(cluster: &Cluster) -> Result<()> {
    let home = "doppler-prefect-operator";
    let apply = ["apply", "--kustomize", env!("CARGO_MANIFEST_DIR")];
    kubectl_async(&apply, &cluster.plane.admin_kubeconfig_path()).await?;
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
    // The manifest grants permissions in every namespace.
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
