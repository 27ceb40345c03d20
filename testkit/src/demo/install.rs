//! Installs the operator with Helm, and runs its pod.
//!
//! Input: the stage, and the operator's binary. Output: the chart's objects, and a node that runs
//! the pod of the Deployment.
//! Invariants: the operator has the service account, the rights and the flags of the chart.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::names::{NAMESPACE, OPERATOR_NAMESPACE, RELEASE};
use super::output::Output;
use super::stage::Environment;
use crate::binary::workspace;
use crate::grant::grant;
use crate::node::{Image, NodeOptions, ProcessNode};
use crate::{helm, operator, ports, wait};

const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Installs the chart and runs its pod.
pub(super) async fn install(output: &Output, stage: &mut Environment, binary: &Path) -> Result<()> {
    // The pods of the node share the network of this machine, so that the ports must be free on it.
    let [metrics, health] = ports::free()?;
    let flags = format!(
        "watchNamespaces={{{NAMESPACE}}},operator.refreshInterval=1s,operator.releaseWait=2s"
    );
    let values =
        format!("{flags},image.repository={RELEASE},ports.metrics={metrics},ports.health={health}");
    let chart = workspace().join("charts").join(RELEASE);
    let chart = chart.to_str().context("the chart's path is not UTF-8")?;
    let arguments = [
        "install",
        RELEASE,
        chart,
        "--namespace",
        OPERATOR_NAMESPACE,
        "--create-namespace",
        "--set",
        &values,
    ];
    let kubeconfig = stage.plane.admin_kubeconfig_path();
    helm::helm_async(&arguments, Some(&kubeconfig))
        .await?
        .success()?;
    output.step(&format!(
        "helm install {RELEASE} charts/{RELEASE} --set {flags}"
    ));
    output.quote("(shorter than the defaults: 60s between polls, 90s until workers have reloaded the template)");

    // A kubelet mounts the token of the pod's service account; the node gives a kubeconfig with it.
    // With a kubeconfig, kube uses HTTPS_PROXY; NO_PROXY of the network excludes 127.0.0.1.
    let grant = grant(&stage.plane, OPERATOR_NAMESPACE, RELEASE).await?;
    let account = grant.kubeconfig.display().to_string();
    let mut options = NodeOptions::new("demo", kubeconfig);
    options.extra_env = stage.cluster_env();
    options.images = vec![Image {
        repository: RELEASE.to_owned(),
        entrypoint: vec![binary.display().to_string()],
        env: vec![("KUBECONFIG".to_owned(), account)],
    }];
    stage.node = Some(ProcessNode::start(options).await?);
    wait_until_ready(&format!("http://127.0.0.1:{health}/readyz")).await?;
    output.step(&format!(
        "the operator is ready: the chart's Deployment, as {}",
        grant.user()
    ));
    Ok(())
}

async fn wait_until_ready(url: &str) -> Result<()> {
    let http = operator::local_http()?;
    let ready = wait::until(START_TIMEOUT, "the operator to be ready", async || {
        let status = http.get(url).send().await?.status();
        if !status.is_success() {
            bail!("{url} responds {status}");
        }
        Ok(())
    });
    ready.await
}
