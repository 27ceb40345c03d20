//! The order of removal: the mount, a wait, the Secret with the files.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{PATH, mounting, with_files, world};
use crate::work_pools::template;
use crate::world::{Setup, World};

fn with_wait() -> Setup {
    Setup {
        release_wait: "3s",
        ..Setup::default()
    }
}

/// Fails if the template names the files of a Secret that does not exist. Returns whether either is
/// there.
async fn is_left(w: &World, files: &str) -> Result<bool> {
    // In the order of removal, so that reads at different times cannot show a wrong order.
    let is_mounted = w.template_text(&w.name).await?.contains(files);
    let exists = w.secrets().get_opt(files).await?.is_some();
    if is_mounted && !exists {
        let again = w.template_text(&w.name).await?.contains(files);
        // A panic, because a failure would be tried again.
        assert!(!again, "the mount exists and Secret {files} does not");
    }
    Ok(is_mounted || exists)
}

async fn until_gone(w: &World, files: &str) -> Result<()> {
    let mut outlived = false;
    w.until(&format!("the removal of {files}"), async || {
        let is_mounted = w.template_text(&w.name).await?.contains(files);
        let exists = w.secrets().get_opt(files).await?.is_some();
        outlived |= !is_mounted && exists;
        ensure!(!is_left(w, files).await?, "it is there");
        Ok(())
    })
    .await?;
    ensure!(outlived, "Secret {files} went with its mount");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_outlive_their_mount() -> Result<()> {
    let w = world("mount-order", with_wait()).await?;
    w.create_pool("mount-order", &template("mount-order"))
        .await?;
    let before = w.template_text("mount-order").await?;
    let spec = mounting(&w, &json!({"path": PATH}));
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    let files = w.secrets().get("etl-files").await?;
    ensure!(
        files.metadata.owner_references.is_none(),
        "foreground deletion would remove it first"
    );
    // Without files, the mount goes first.
    w.apply_binding("etl", &w.pool_spec(&json!([{"name": w.name}])))
        .await?;
    until_gone(&w, "etl-files").await?;
    // With another name, the old mount is replaced, and the old files outlive it.
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    let mut renamed = spec.clone();
    renamed["managedSecret"]["name"] = json!("renamed");
    w.apply_binding("etl", &renamed).await?;
    until_gone(&w, "etl-files").await?;
    let text = w.template_text("mount-order").await?;
    ensure!(text.contains("doppler-renamed-files"), "{text}");
    w.until_ready("etl").await?;
    // With the binding.
    w.bindings()
        .delete("etl", &kube::api::DeleteParams::default())
        .await?;
    until_gone(&w, "renamed-files").await?;
    w.until_binding_deleted("etl").await?;
    ensure!(
        w.template_text("mount-order").await? == before,
        "the template differs"
    );
    w.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_removed_after_a_restart_and_by_detach() -> Result<()> {
    let mut w = world("mount-restart", Setup::default()).await?;
    w.create_pool("mount-restart", &template("mount-restart"))
        .await?;
    let before = w.template_text("mount-restart").await?;
    let spec = mounting(&w, &json!({"path": PATH}));
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    // The mount is removed from the spec while no operator runs.
    w.kill_operator();
    w.apply_binding("etl", &with_files(w.spec())).await?;
    w.start_operator().await?;
    w.until("the template of before", async || {
        let text = w.template_text("mount-restart").await?;
        ensure!(text == before, "{text}");
        Ok(())
    })
    .await?;
    w.apply_binding("etl", &spec).await?;
    w.until_ready("etl").await?;
    w.until_pool("etl", "mount-restart", "Patched").await?;
    w.stop_operator().await?;
    crate::cleanup::run_detach(&w, &[]).await?;
    ensure!(
        w.template_text("mount-restart").await? == before,
        "the template differs"
    );
    ensure!(
        w.secrets().get_opt("etl-files").await?.is_some(),
        "detach deletes nothing"
    );
    w.finish().await
}
