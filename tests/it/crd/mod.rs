//! The CRD at a real API server: what it rejects, what it accepts, and what `kubectl apply`
//! reports.
//!
//! No operator runs here, so these are the checks of the API server itself.

mod accepted;
mod apply;
mod offline;
mod pages;
mod rejected;
mod schema;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use kube::Client;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use testkit::kubernetes;

use crate::world::{CRD, SERVER_CRD, plane};

/// The output of one subcommand of the operator.
fn output(subcommand: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"))
        .args(subcommand)
        .output()?;
    ensure!(
        output.status.success(),
        "{subcommand:?} exited with {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn read_file(path: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

#[test]
fn crds_in_the_repository_are_current() -> Result<()> {
    ensure!(
        output(&["crd"])? == CRD,
        "run `cargo run -- crd > crds/dopplerprefectbindings.yaml`"
    );
    ensure!(
        output(&["crd", "clusterprefectservers"])? == SERVER_CRD,
        "run `cargo run -- crd clusterprefectservers > crds/clusterprefectservers.yaml`"
    );
    Ok(())
}

#[test]
fn api_reference_is_current() -> Result<()> {
    let printed = output(&["api"])?;
    ensure!(
        printed == read_file("docs/api.md")?,
        "run `cargo run -- api > docs/api.md`"
    );
    Ok(())
}

#[test]
fn reasons_manual_is_current() -> Result<()> {
    let printed = output(&["reasons"])?;
    ensure!(
        printed == read_file("docs/reasons.md")?,
        "run `cargo run -- reasons > docs/reasons.md`"
    );
    Ok(())
}

async fn client() -> Result<Client> {
    tokio::task::spawn_blocking(plane).await??.admin_client()
}

async fn namespace(client: &Client, name: &str) -> Result<()> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    kubernetes::apply(client, name, &namespace.to_string())
        .await
        .map(drop)
}

fn binding(name: &str, spec: &Value) -> Result<DynamicObject> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": name}, "spec": spec,
    }))?)
}

/// A valid spec with every field that a test case may invalidate.
fn valid_spec() -> Value {
    json!({
        "prefect": {"server": {"name": "prefect-server", "namespace": "prefect"}},
        "doppler": {"project": "my-project"},
        "inject": {"workPools": [{"name": "k8s"}]},
    })
}
