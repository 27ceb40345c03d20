//! `detach`, which the chart runs before an uninstall.

use anyhow::{Result, ensure};
use kube::ResourceExt;
use serde_json::json;

use super::removal_order::world;
use crate::world::{Setup, TIMEOUT, World};

#[tokio::test(flavor = "multi_thread")]
async fn detach_removes_all_entries_and_finalizers() -> Result<()> {
    let mut world = world("cleanup-detach", Setup::default()).await?;
    let before = world.template_text("cleanup-detach").await?;
    let mut with_files = world.pool_spec(&json!([{"name": "cleanup-detach"}]));
    with_files["managedSecret"] = json!({"files": {"all.json": {"format": "Json"}}});
    world.apply_binding("first", &with_files).await?;
    world.bind_to("second", "cleanup-detach").await?;
    for name in ["first", "second"] {
        world.until_ready(name).await?;
    }
    world.stop_operator().await?;
    run_detach(&world, &[]).await?;
    assert_eq!(world.template_text("cleanup-detach").await?, before);
    for name in ["first", "second"] {
        let binding = world.binding(name).await?;
        ensure!(binding.finalizers().is_empty(), "{name} has its finalizer");
        for kind in ["Injected", "Ready"] {
            let detached = world.condition(name, kind).await?;
            ensure!(
                detached.status == "False"
                    && detached.reason == "Detached"
                    && detached.message.contains("nothing is injected"),
                "{detached:?}"
            );
        }
        ensure!(world.status(name).await?["injectedEntries"].is_null());
        // The Secret is deleted with its binding.
        let secret = world.secrets().get(name).await?;
        ensure!(
            secret
                .owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == binding.uid().as_ref()),
            "{name}"
        );
    }
    // A new start of the operator reverts the detach.
    world.start_operator().await?;
    world
        .until_sources("cleanup-detach", &["first", "second"])
        .await?;
    for name in ["first", "second"] {
        world.until_ready(name).await?;
    }

    world.stop_operator().await?;
    run_detach(&world, &["--keep-secrets"]).await?;
    assert_eq!(world.template_text("cleanup-detach").await?, before);
    for name in ["first", "second"] {
        ensure!(world.binding(name).await?.finalizers().is_empty());
        ensure!(
            world
                .secrets()
                .get(name)
                .await?
                .owner_references()
                .is_empty()
        );
        world.delete_binding(name).await?;
        world.until_binding_deleted(name).await?;
    }
    for name in ["first", "first-files", "second"] {
        let kept = world.secrets().get(name).await?;
        ensure!(kept.owner_references().is_empty(), "{name}");
        ensure!(kept.metadata.deletion_timestamp.is_none());
    }
    world.finish().await
}

/// Runs `detach` as the chart's hook does. Its output must not contain values.
pub(crate) async fn run_detach(world: &World, args: &[&str]) -> Result<()> {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_doppler-prefect-operator"));
    command
        .arg("detach")
        .args(args)
        .args([
            "--watch-namespace",
            &world.name,
            "--allowed-prefect-host",
            "http://127.0.0.1:*",
        ])
        .env_clear()
        .env("KUBECONFIG", &world.grant.kubeconfig)
        .kill_on_drop(true);
    let result = tokio::time::timeout(TIMEOUT, command.output()).await??;
    let output = format!(
        "{}{}",
        String::from_utf8_lossy(&result.stdout),
        String::from_utf8_lossy(&result.stderr)
    );
    crate::world::canary::ensure_absent("the output of detach", &output)?;
    ensure!(
        result.status.success(),
        "detach exited with {}: {output}",
        result.status
    );
    Ok(())
}
