//! Bindings of a newer version: this version can read neither their spec nor their status.
//!
//! The test has its own control plane, whose CRD validates nothing, as a newer CRD would allow more.

use anyhow::{Context, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use testkit::control_plane::{ControlPlane, Options};

use crate::apiserver::lax_crd;
use crate::work_pools::{entry, template};
use crate::world::{Setup, World, pairs, secret};

/// The CRD that validates neither spec nor status.
fn newer_crd() -> Result<String> {
    let mut crd: Value = serde_json::from_str(&lax_crd()?)?;
    let status = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status")
        .context("no schema of the status")?;
    *status = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    Ok(crd.to_string())
}

async fn patch_status(w: &World, name: &str, status: &Value) -> Result<()> {
    let patch = Patch::Merge(json!({"status": status}));
    let params = PatchParams::default();
    w.bindings().patch_status(name, &params, &patch).await?;
    Ok(())
}

/// A binding with a Secret and an entry in the pool of the world.
async fn bind(w: &World, name: &str) -> Result<()> {
    let spec = w.pool_spec(&json!([{"name": w.name}]));
    w.apply_binding(name, &spec).await?;
    w.until_ready(name).await?;
    Ok(())
}

/// Gives a binding the spec and the status of a newer version.
async fn upgrade(w: &World, name: &str) -> Result<()> {
    let newer = json!({"inject": [{"everywhere": true}], "suspend": "never"});
    let patch = Patch::Merge(json!({"spec": newer}));
    let params = PatchParams::default();
    w.bindings().patch(name, &params, &patch).await?;
    let status = json!({"conditions": "all well", "injectedEntries": {"k8s": 1}});
    patch_status(w, name, &status).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleans_up_bindings_of_a_newer_version() -> Result<()> {
    let options = Options {
        manifests: vec![newer_crd()?],
        ..Options::default()
    };
    // The control plane ends with this process, because the clients outlive the test.
    let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).await?));
    let setup = Setup {
        plane: Some(plane),
        release_wait: "1s",
        ..Setup::default()
    };
    let mut w = World::with("rollback", setup).await?;
    w.create_pool("rollback", &template("rollback")).await?;
    let before = w.template_text("rollback").await?;
    w.set_doppler_secret("A", &secret("first"));

    // A status that cannot be read counts as absent: the next change is written, and the status with
    // it.
    bind(&w, "status").await?;
    let newer = json!({"conditions": {"Ready": true}, "secretName": 7, "injectedEntries": "none"});
    patch_status(&w, "status", &newer).await?;
    w.set_doppler_secret("A", &secret("second"));
    w.until_values("status", &pairs(&[("A", secret("second"))]))
        .await?;
    w.until("a status of this version", async || {
        let status = w.status("status").await?;
        ensure!(status["secretName"] == "status", "{status}");
        ensure!(status["injectedEntries"].is_array(), "{status}");
        Ok(())
    })
    .await?;
    w.until_ready("status").await?;

    // A spec that cannot be read keeps Secret and entry, and is reported.
    bind(&w, "online").await?;
    bind(&w, "offline").await?;
    // The newer version writes spec and status, and the operator sees both at once.
    w.operator()?.process().pause();
    upgrade(&w, "online").await?;
    w.operator()?.process().resume();
    w.until_not_ready("online", "InvalidSpec").await?;
    let templates = w.template_text("rollback").await?;
    ensure!(templates.contains("\"online\""), "the entry is gone");
    ensure!(!w.values("online").await?.is_empty());

    // It is deleted, while an operator runs and while none does: entry and Secret go, and so does
    // the finalizer.
    w.delete_binding("online").await?;
    w.until_binding_deleted("online").await?;
    w.until_no_secret("online").await?;
    w.stop_operator().await?;
    upgrade(&w, "offline").await?;
    w.delete_binding("offline").await?;
    w.start_operator().await?;
    w.until_binding_deleted("offline").await?;
    w.until_no_secret("offline").await?;
    let text = w.template_text("rollback").await?;
    ensure!(!text.contains("online") && !text.contains("offline"));
    ensure!(text.contains(&entry("status", true)), "{text}");

    w.delete_binding("status").await?;
    w.until_binding_deleted("status").await?;
    ensure!(w.template_text("rollback").await? == before);
    w.finish().await
}
