//! In: the stage and the operator's binary. Out: the chart installed by helm, and the node that runs its pod: the operator
//! under the chart's own service account, with the chart's rights and flags.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::stage::Environment;
use super::tell::Output;
use crate::binary::workspace;
use crate::grant::grant;
use crate::node::{Image, NodeOptions, ProcessNode};
use crate::{helm, operator, ports, wait};

/// Where the chart is installed.
pub(super) const NAMESPACE: &str = "doppler-prefect-operator";
/// The release, and with it the service account and the image.
const RELEASE: &str = "doppler-prefect-operator";
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// Installs the chart and runs its pod.
pub(super) async fn install(tell: &Output, stage: &mut Environment, binary: &Path) -> Result<()> {
    // The node has no network of its own for each pod, so the ports must be free on this machine.
    let [metrics, health] = ports::free()?;
    let flags = "operator.refreshInterval=1s,operator.releaseWait=2s";
    let values =
        format!("{flags},image.repository={RELEASE},ports.metrics={metrics},ports.health={health}");
    let chart = workspace().join("charts").join(RELEASE);
    let chart = chart.to_str().context("the chart's path is not UTF-8")?;
    let arguments = [
        "install",
        RELEASE,
        chart,
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--set",
        &values,
    ];
    let kubeconfig = stage.plane.admin_kubeconfig_path();
    helm::helm_async(&arguments, Some(&kubeconfig))
        .await?
        .success()?;
    tell.step(&format!(
        "helm install {RELEASE} charts/{RELEASE} --set {flags}"
    ));
    tell.quote("(for the demo's sake: the defaults are 60s between polls, and 90s in which workers forget a Secret)");

    // What a kubelet would mount: the token of the pod's service account. In a cluster kube asks the API server directly; with
    // a kubeconfig it heeds HTTPS_PROXY, and goes past the proxy because the network's NO_PROXY names 127.0.0.1.
    let grant = grant(&stage.plane, NAMESPACE, RELEASE).await?;
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
    tell.step(&format!(
        "the operator is ready: the chart's Deployment, as {}",
        grant.user()
    ));
    Ok(())
}

async fn wait_until_ready(url: &str) -> Result<()> {
    let http = operator::local_http()?;
    let settled = wait::until(START_TIMEOUT, "the operator to be ready", async || {
        let status = http.get(url).send().await?.status();
        if !status.is_success() {
            bail!("{url} answers {status}");
        }
        Ok(())
    });
    settled.await
}
