//! An API server that serves an invalid binding, and one that is down for a while.
//!
//! These tests have their own control plane.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};
use testkit::kubernetes;

use crate::world::{CRD, Setup, World, pairs, secret};

/// The CRD without validation of the spec, as if an older or a newer one were installed.
pub fn lax_crd() -> Result<String> {
    let mut crd = serde_json::to_value(&kubernetes::documents(CRD)?[0])?;
    let spec = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .context("no schema of the spec")?;
    *spec = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema");
    let schema = schema.and_then(Value::as_object_mut);
    schema
        .context("no schema")?
        .remove("x-kubernetes-validations");
    Ok(crd.to_string())
}

async fn create(w: &World, name: &str, spec: &Value) -> Result<()> {
    let binding: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding", "metadata": {"name": name}, "spec": spec,
    }))?;
    w.bindings()
        .create(&PostParams::default(), &binding)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn survives_an_invalid_binding_and_an_api_server_outage() -> Result<()> {
    let plane = ControlPlane::start(Options {
        manifests: vec![lax_crd()?],
        ..Options::default()
    })
    .await?;
    // The control plane ends with this process, because the clients outlive the test.
    let plane: &'static ControlPlane = Box::leak(Box::new(plane));
    let setup = Setup {
        plane: Some(plane),
        ..Setup::default()
    };
    let w = World::with("apiserver", setup).await?;
    w.set_doppler_secret("A", &secret("good"));

    // Specs that do not parse, or that the real CRD rejects.
    create(
        &w,
        "wrong-types",
        &json!({"prefect": ["a list"], "suspend": secret("not a bool")}),
    )
    .await?;
    create(&w, "empty", &json!({})).await?;
    create(&w, "no-server", &json!({"prefect": {"server": {}}})).await?;
    create(&w, "good", &w.spec()).await?;
    w.until_ready("good").await?;
    w.until_event("InvalidSpec").await?;
    w.until_condition("no-server", "Ready", "False", "InvalidSpec")
        .await?;
    let ready = w.until_not_ready("empty", "InvalidSpec").await?;
    ensure!(
        ready.message.contains("set spec.prefect.server"),
        "{}",
        ready.message
    );
    let found = w.secrets().get_opt("empty").await?;
    ensure!(found.is_none(), "a Secret without a source");

    // A corrected binding works.
    w.delete_binding("empty").await?;
    w.until_binding_deleted("empty").await?;
    create(&w, "empty", &w.spec()).await?;
    w.until_ready("empty").await?;

    // The API server stops, Doppler changes, the API server starts again.
    plane.stop_apiserver();
    w.set_doppler_secret("A", &secret("while it was away"));
    w.until("the operator to notice", async || {
        let writes = w.operator()?.metrics().await?;
        let failed = writes.lines().any(|line| {
            line.starts_with(
                "doppler_prefect_kubernetes_writes_total{object=\"secret\",outcome=\"error\"}",
            )
        });
        ensure!(failed, "no write has failed yet");
        Ok(())
    })
    .await?;
    plane.start_apiserver().await?;
    let after = pairs(&[("A", secret("while it was away"))]);
    w.until_within(Duration::from_mins(1), "the change", async || {
        ensure!(w.values("good").await? == after);
        Ok(())
    })
    .await?;
    // The watches work again as well.
    w.until_within(Duration::from_mins(1), "a repair", async || {
        w.edit_secret("good", &json!({"stringData": {"A": secret("edited")}}))
            .await?;
        w.until_within(Duration::from_secs(5), "it", async || {
            ensure!(w.values("good").await? == after);
            Ok(())
        })
        .await
    })
    .await?;
    w.finish().await
}
