//! `check` and `env` with a server that many namespaces share.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::fixture::Fixture;
use crate::check::run_with_input;
use crate::world::{plane, secret};

fn documents(f: &Fixture, block: &str, lists: Option<&Value>) -> String {
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {"name": "checked", "namespace": f.w.name}, "spec": f.spec(block, &[]),
    });
    let mut text = binding.to_string();
    if let Some(lists) = lists {
        let key = json!({"namespace": f.platform(), "name": "prefect-api-key", "key": "key"});
        let mut spec = lists.clone();
        spec["server"] = json!({
            "remoteApiUrl": f.front.url(), "apiKey": {"valueFrom": {"secretKeyRef": key}},
        });
        let server = json!({
            "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "ClusterPrefectServer",
            "metadata": {"name": f.w.name}, "spec": spec,
        });
        text = format!("{text}\n---\n{server}");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_env_read_the_server_from_file_or_cluster() -> Result<()> {
    let f = Fixture::start("servers-local", Fixture::setup()).await?;
    f.w.set_doppler_secret("A", &secret("local"));
    f.put_block("servers-local").await?;
    f.put_block("private").await?;
    let lists = json!({"namespaces": {"names": [f.w.name]}, "blocks": ["{namespace}"]});
    let kubeconfig = plane()?.admin_kubeconfig_path();
    let check = async |text: &str| run_with_input(&kubeconfig, text, &[]).await;

    // In neither.
    let (ok, text) = check(&documents(&f, "servers-local", None)).await?;
    ensure!(
        !ok && text.contains("ServerNotFound: ClusterPrefectServer servers-local"),
        "{text}"
    );
    // In the file.
    let (ok, text) = check(&documents(&f, "servers-local", Some(&lists))).await?;
    ensure!(ok && text.contains("gives 4 keys: A"), "{text}");
    ensure!(
        text.contains("ClusterPrefectServer servers-local"),
        "{text}"
    );
    f.front.clear();
    let (ok, text) = check(&documents(&f, "private", Some(&lists))).await?;
    ensure!(
        !ok && text.contains("ServerNotAllowed") && text.contains("block private"),
        "{text}"
    );
    f.ensure_silent("private")?;
    let bad = json!({"namespaces": {"names": ["Upper"]}});
    let (ok, text) = check(&documents(&f, "servers-local", Some(&bad))).await?;
    ensure!(
        !ok && text.contains("spec.namespaces.names[0]: has to match"),
        "{text}"
    );

    // In the cluster.
    f.put_server(&lists).await?;
    let (ok, text) = check(&documents(&f, "servers-local", None)).await?;
    ensure!(ok && text.contains("gives 4 keys: A"), "{text}");

    f.w.apply_binding("b", &f.spec("servers-local", &[]))
        .await?;
    f.w.until_ready("b").await?;
    let output = Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"))
        .args(["env", "b", "--namespace", &f.w.name, "--format", "json"])
        .args(["--allowed-prefect-host", "http://127.0.0.1:*"])
        .args(["--allowed-doppler-host", "http://127.0.0.1:*"])
        .env("KUBECONFIG", &kubeconfig)
        .output()?;
    let printed: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(
        printed["A"] == json!(secret("local")),
        "env prints other values"
    );
    f.finish().await
}
