//! The life cycle of the Secret: ownership, retention, renames, suspension.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{consent, spec_with_secret};
use crate::world::{World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn garbage_collector_deletes_secret_with_its_binding() -> Result<()> {
    let mut w = World::start("secret-owned").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("owned", &w.spec()).await?;
    w.until_ready("owned").await?;
    let binding = w.binding("owned").await?;
    let object = w.secrets().get("owned").await?;
    let owners: Vec<_> = object
        .owner_references()
        .iter()
        .map(|owner| &owner.uid)
        .collect();
    ensure!(owners == [&binding.uid().unwrap()], "{owners:?}");
    ensure!(
        binding.finalizers().is_empty(),
        "{:?}",
        binding.finalizers()
    );
    // The garbage collector cleans up, even without the operator.
    w.kill_operator();
    w.delete_binding("owned").await?;
    w.until_binding_deleted("owned").await?;
    w.until_no_secret("owned").await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_secret_needs_adopt_for_a_new_binding() -> Result<()> {
    let w = World::start("secret-retained").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding(
        "b",
        &spec_with_secret(&w, json!({"deletionPolicy": "Retain"})),
    )
    .await?;
    w.until_ready("b").await?;
    ensure!(
        w.secrets().get("b").await?.owner_references().is_empty(),
        "the garbage collector would take it"
    );
    w.delete_binding("b").await?;
    w.until_binding_deleted("b").await?;
    w.set_doppler_secret("A", &secret("b"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_not_ready("b", "SecretForeign").await?;
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    w.apply_binding("b", &spec_with_secret(&w, json!({"adopt": true})))
        .await?;
    consent(&w, "b", "b").await?;
    w.until_ready("b").await?;
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_deletion_policy_changes_the_owner_reference() -> Result<()> {
    let w = World::start("secret-policy").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &w.spec()).await?;
    w.until_ready("b").await?;
    let owners = async |count: usize| {
        w.until("the owners to change", async || {
            let found = w.secrets().get("b").await?.owner_references().len();
            ensure!(found == count, "{found} owners");
            Ok(())
        })
        .await
    };
    w.apply_binding(
        "b",
        &spec_with_secret(&w, json!({"deletionPolicy": "Retain"})),
    )
    .await?;
    owners(0).await?;
    w.apply_binding(
        "b",
        &spec_with_secret(&w, json!({"deletionPolicy": "Delete"})),
    )
    .await?;
    owners(1).await?;
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rename_writes_new_secret_and_deletes_old_one() -> Result<()> {
    let w = World::start("secret-rename").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("b", &spec_with_secret(&w, json!({"name": "old"})))
        .await?;
    w.until_ready("b").await?;
    // A tool that tracks the binding by labels, such as Argo CD, must not track the Secret by them.
    let theirs = json!({"metadata": {
        "labels": {"app.kubernetes.io/instance": "their-app"}, "annotations": {"example.com/tracking": "their-app"},
    }});
    w.bindings()
        .patch("b", &PatchParams::default(), &Patch::Merge(&theirs))
        .await?;
    w.apply_binding("b", &spec_with_secret(&w, json!({"name": "new"})))
        .await?;
    w.until_values("new", &pairs(&[("A", secret("a"))])).await?;
    let made = w.secrets().get("new").await?;
    ensure!(
        !serde_json::to_string(&made.metadata)?.contains("their-app"),
        "{:?}",
        made.metadata
    );
    w.until_no_secret("old").await?;
    w.until_ready("b").await?;
    ensure!(w.status("b").await?["secretName"] == "new");
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn suspended_binding_changes_nothing() -> Result<()> {
    let w = World::start("secret-suspend").await?;
    w.set_doppler_secret("A", &secret("a"));
    w.apply_binding("sleeper", &w.spec()).await?;
    w.apply_binding("waker", &w.spec()).await?;
    w.until_ready("sleeper").await?;
    let mut spec = w.spec();
    spec["suspend"] = json!(true);
    w.apply_binding("sleeper", &spec).await?;
    w.until_condition("sleeper", "Ready", "Unknown", "Suspended")
        .await?;
    w.set_doppler_secret("A", &secret("b"));
    w.edit_secret("sleeper", &json!({"stringData": {"B": secret("edited")}}))
        .await?;
    // The other binding has the new value, so the operator has read it.
    w.until_values("waker", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_polls("unchanged", 2).await?;
    w.until_values(
        "sleeper",
        &pairs(&[("A", secret("a")), ("B", secret("edited"))]),
    )
    .await?;
    w.apply_binding("sleeper", &w.spec()).await?;
    w.until_values("sleeper", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_ready("sleeper").await?;
    w.finish().await
}
