//! How long the Secret lives: ownership, retention, renames, suspension.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::managed;
use crate::world::{World, pairs, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_no_pool_refers_to_belongs_to_its_binding_and_goes_with_it() -> Result<()> {
    let mut w = World::start("secret-owned").await?;
    w.set("A", &secret("a"));
    w.bind("owned", &w.spec()).await?;
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
    // Kubernetes itself cleans up, even without the operator.
    w.kill_operator();
    w.unbind("owned").await?;
    w.until_unbound("owned").await?;
    w.until_no_secret("owned").await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retained_secret_stays_and_a_new_binding_needs_adopt_to_take_it() -> Result<()> {
    let w = World::start("secret-retained").await?;
    w.set("A", &secret("a"));
    w.bind("b", &managed(&w, json!({"deletionPolicy": "Retain"})))
        .await?;
    w.until_ready("b").await?;
    ensure!(
        w.secrets().get("b").await?.owner_references().is_empty(),
        "the garbage collector would take it"
    );
    w.unbind("b").await?;
    w.until_unbound("b").await?;
    w.set("A", &secret("b"));
    w.bind("b", &w.spec()).await?;
    w.until_not_ready("b", "SecretForeign").await?;
    w.until_values("b", &pairs(&[("A", secret("a"))])).await?;
    w.bind("b", &managed(&w, json!({"adopt": true}))).await?;
    w.until_ready("b").await?;
    w.until_values("b", &pairs(&[("A", secret("b"))])).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_deletion_policy_changes_who_owns_the_secret() -> Result<()> {
    let w = World::start("secret-policy").await?;
    w.set("A", &secret("a"));
    w.bind("b", &w.spec()).await?;
    w.until_ready("b").await?;
    let owners = async |count: usize| {
        w.until("the owners to change", async || {
            let found = w.secrets().get("b").await?.owner_references().len();
            ensure!(found == count, "{found} owners");
            Ok(())
        })
        .await
    };
    w.bind("b", &managed(&w, json!({"deletionPolicy": "Retain"})))
        .await?;
    owners(0).await?;
    w.bind("b", &managed(&w, json!({"deletionPolicy": "Delete"})))
        .await?;
    owners(1).await?;
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_writes_the_new_secret_and_removes_the_old_one() -> Result<()> {
    let w = World::start("secret-rename").await?;
    w.set("A", &secret("a"));
    w.bind("b", &managed(&w, json!({"name": "old"}))).await?;
    w.until_ready("b").await?;
    // Whoever owns the binding by its labels, as Argo CD does, does not own the Secret by them.
    let theirs = json!({"metadata": {
        "labels": {"app.kubernetes.io/instance": "their-app"}, "annotations": {"example.com/tracking": "their-app"},
    }});
    w.bindings()
        .patch("b", &PatchParams::default(), &Patch::Merge(&theirs))
        .await?;
    w.bind("b", &managed(&w, json!({"name": "new"}))).await?;
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
    w.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_binding_leaves_everything_as_it_is() -> Result<()> {
    let w = World::start("secret-suspend").await?;
    w.set("A", &secret("a"));
    w.bind("sleeper", &w.spec()).await?;
    w.bind("waker", &w.spec()).await?;
    w.until_ready("sleeper").await?;
    let mut spec = w.spec();
    spec["suspend"] = json!(true);
    w.bind("sleeper", &spec).await?;
    w.until_condition("sleeper", "Ready", "Unknown", "Suspended")
        .await?;
    w.set("A", &secret("b"));
    w.edit_secret("sleeper", &json!({"stringData": {"B": secret("edited")}}))
        .await?;
    // The other one has it, so the operator knows of it.
    w.until_values("waker", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_polls("same", 2).await?;
    w.until_values(
        "sleeper",
        &pairs(&[("A", secret("a")), ("B", secret("edited"))]),
    )
    .await?;
    w.bind("sleeper", &w.spec()).await?;
    w.until_values("sleeper", &pairs(&[("A", secret("b"))]))
        .await?;
    w.until_ready("sleeper").await?;
    w.end().await
}
