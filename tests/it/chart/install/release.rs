//! The files of a release, which `.ci/release dry-run` makes.
//!
//! Input: the folder that the environment variable RELEASE names.
//! Output: an installed operator, and files that agree with each other.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::Value;
use testkit::helm::Helm;
use testkit::kubectl::kubectl_async;
use testkit::kubernetes;

use super::cluster::Cluster;
use crate::world::{CRD, SERVER_CRD};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const NAMESPACE: &str = "doppler-prefect-operator";

fn yaml(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the files of `.ci/release dry-run`, which runs it"]
async fn files_of_a_release_install_the_operator() -> Result<()> {
    let folder = PathBuf::from(std::env::var_os("RELEASE").context("RELEASE is not set")?);
    let read = |file: &str| {
        std::fs::read_to_string(folder.join(file)).with_context(|| format!("cannot read {file}"))
    };
    let cluster = Cluster::start(Helm::V3, "release", "replicaCount=1").await?;
    let kubeconfig = cluster.plane.admin_kubeconfig_path();
    let install = folder.join("install.yaml");
    let install = install.to_str().context("the path is not UTF-8")?;
    kubectl_async(&["apply", "--filename", install], &kubeconfig).await?;
    cluster.until_pod(NAMESPACE).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let deployment = deployments.get(NAMESPACE).await?;
    let pod = deployment.spec.and_then(|spec| spec.template.spec);
    let image = pod.context("a pod")?.containers[0].image.clone();
    let image = image.context("an image")?;
    ensure!(
        image.ends_with(&format!("/{NAMESPACE}:{VERSION}")),
        "{image}"
    );

    // The chart names the same image without a value, and the CRDs are those of the manifest.
    let package = folder.join(format!("{NAMESPACE}-{VERSION}.tgz"));
    let package = package.to_str().context("the path is not UTF-8")?;
    let command = ["template", "op", package, "--set", "allNamespaces=true"];
    let rendered = Helm::V3.run_async(&command, None).await?.success()?;
    ensure!(rendered.contains(&image), "the chart has another image");
    let crds = kubernetes::documents(&read("crds.yaml")?)?;
    let generated = [SERVER_CRD, CRD].map(kubernetes::documents);
    ensure!(crds == generated.into_iter().collect::<Result<Vec<_>>>()?.concat());
    let show = Helm::V4
        .run_async(&["show", "chart", package], None)
        .await?;
    let chart = yaml(&show.success()?)?;
    ensure!(chart["version"] == VERSION && chart["icon"].is_string());
    let changes = chart["annotations"]["artifacthub.io/changes"].as_str();
    let changes = yaml(changes.context("no changes")?)?;
    ensure!(!changes.as_array().context("no list")?.is_empty());

    // The manifest of the plugin names the archives that have checksums.
    let sums = read("SHA256SUMS")?;
    let sums: BTreeSet<(&str, &str)> = sums
        .lines()
        .filter_map(|line| line.split_once("  "))
        .collect();
    let plugin = yaml(&read("dpb.yaml")?)?;
    let platforms = plugin["spec"]["platforms"].as_array().context("a list")?;
    ensure!(!platforms.is_empty());
    for platform in platforms {
        let uri = platform["uri"].as_str().context("a URI")?;
        let file = uri.rsplit('/').next().context("a file")?;
        let sum = platform["sha256"].as_str().context("a checksum")?;
        ensure!(sums.contains(&(sum, file)), "{file} has another checksum");
    }
    let bill: Value = serde_json::from_str(&read(&format!("{NAMESPACE}_{VERSION}.cdx.json"))?)?;
    let components = bill["components"].as_array().context("no components")?;
    ensure!(components.iter().any(|one| one["name"] == "kube"), "{bill}");
    ensure!(!read("notes.md")?.trim().is_empty());
    Ok(())
}
