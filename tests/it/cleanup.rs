//! Cleanup: entry, wait, Secret, finalizer, in this order, even if the operator is killed between
//! two steps.

mod detach;
mod interrupted;
mod old_copies;
mod records;
mod removal_order;
mod waiting;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::json;

use self::removal_order::{CLEANUP_DELAY, assert_removed_in_order, with_cleanup_delay, world};
use crate::world::Setup;

pub(crate) use self::detach::run_detach;

#[tokio::test(flavor = "multi_thread")]
async fn deletion_removes_entry_waits_then_deletes_secret() -> Result<()> {
    let world = world("cleanup-delete", with_cleanup_delay()).await?;
    let before = world.template_text("cleanup-delete").await?;
    world.bind_to("going", "cleanup-delete").await?;
    world.until_ready("going").await?;
    let binding = world.binding("going").await?;
    ensure!(
        !binding.finalizers().is_empty(),
        "an injected binding has a finalizer"
    );
    let listed = &world.status("going").await?["injectedEntries"];
    assert_eq!(listed[0]["pool"], "cleanup-delete", "{listed}");
    let owned = world.secrets().get("going").await?;
    let recorded = &owned.annotations()["doppler-prefect.dev/work-pool-entries"];
    ensure!(recorded.contains("cleanup-delete"), "{recorded}");
    ensure!(
        owned.owner_references().is_empty(),
        "a Secret with an entry in a pool has no owner"
    );

    world.delete_binding("going").await?;
    assert_removed_in_order(&world, "going", "going", CLEANUP_DELAY).await?;
    assert_eq!(world.template_text("cleanup-delete").await?, before);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_binding_keeps_its_entry_until_it_is_deleted() -> Result<()> {
    let world = world("cleanup-suspended", Setup::default()).await?;
    let before = world.template_text("cleanup-suspended").await?;
    world.bind_to("asleep", "cleanup-suspended").await?;
    world.until_ready("asleep").await?;
    let mut spec = world.pool_spec(&json!([{"name": "cleanup-suspended"}]));
    spec["suspend"] = json!(true);
    world.apply_binding("asleep", &spec).await?;
    world
        .until_condition("asleep", "Ready", "Unknown", "Suspended")
        .await?;
    assert_eq!(world.sources("cleanup-suspended").await?, ["asleep"]);
    world.delete_binding("asleep").await?;
    world.until_binding_deleted("asleep").await?;
    world.until_no_secret("asleep").await?;
    assert_eq!(world.template_text("cleanup-suspended").await?, before);
    world.finish().await
}

/// Argo CD's default: dependants are deleted first, while the owner's finalizer remains.
#[tokio::test(flavor = "multi_thread")]
async fn foreground_deletion_keeps_the_removal_order() -> Result<()> {
    let world = world("cleanup-foreground", with_cleanup_delay()).await?;
    world.bind_to("going", "cleanup-foreground").await?;
    world.until_ready("going").await?;
    let foreground = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    world.bindings().delete("going", &foreground).await?;
    assert_removed_in_order(&world, "going", "going", CLEANUP_DELAY).await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn removes_the_entry_before_a_renamed_secret_is_deleted() -> Result<()> {
    let world = world("cleanup-rename", with_cleanup_delay()).await?;
    world.bind_to("renamed", "cleanup-rename").await?;
    world.until_ready("renamed").await?;
    let mut spec = world.pool_spec(&json!([{"name": "cleanup-rename"}]));
    spec["managedSecret"] = json!({"name": "another"});
    world.apply_binding("renamed", &spec).await?;
    let mut removed_since = None;
    world
        .until("the old Secret to be deleted", async || {
            let now = Instant::now();
            let sources = world.sources("cleanup-rename").await?;
            let (old, new) = (
                world.secrets().get_opt("renamed").await?,
                world.secrets().get_opt("another").await?,
            );
            assert!(!sources.is_empty(), "the pool has neither entry");
            let has = |name: &str| sources.iter().any(|source| source == name);
            assert!(
                !has("another") || new.is_some(),
                "the new entry was added before the Secret"
            );
            if !has("renamed") {
                removed_since.get_or_insert(now);
            }
            ensure!(
                old.is_none() && !has("renamed"),
                "{sources:?}, old Secret {}",
                old.is_some()
            );
            Ok(())
        })
        .await?;
    let since = removed_since.context("the entry")?.elapsed();
    ensure!(
        since + Duration::from_millis(700) >= CLEANUP_DELAY,
        "the old Secret was deleted {since:?} after its entry"
    );
    world.until_ready("renamed").await?;
    assert_eq!(world.sources("cleanup-rename").await?, ["another"]);
    world.delete_binding("renamed").await?;
    world.until_binding_deleted("renamed").await?;
    ensure!(world.sources("cleanup-rename").await?.is_empty());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_owner_and_drops_finalizer_without_pools() -> Result<()> {
    let world = world("cleanup-unlisted", Setup::default()).await?;
    let before = world.template_text("cleanup-unlisted").await?;
    world.bind_to("unlisted", "cleanup-unlisted").await?;
    world.until_ready("unlisted").await?;
    let uid = world.secrets().get("unlisted").await?.uid();
    world.apply_binding("unlisted", &world.spec()).await?;
    world
        .until(
            "the Secret to have its owner and the binding no finalizer",
            async || {
                let binding = world.binding("unlisted").await?;
                ensure!(binding.finalizers().is_empty(), "the finalizer remains");
                let listed = &binding.data["status"]["injectedEntries"];
                ensure!(listed.is_null(), "{listed}");
                let secret = world.secrets().get("unlisted").await?;
                ensure!(
                    secret
                        .owner_references()
                        .iter()
                        .any(|owner| Some(&owner.uid) == binding.uid().as_ref()),
                    "no owner"
                );
                assert_eq!(secret.uid(), uid, "the Secret was created again");
                ensure!(
                    !secret
                        .annotations()
                        .contains_key("doppler-prefect.dev/work-pool-entries"),
                    "the record remains"
                );
                Ok(())
            },
        )
        .await?;
    assert_eq!(world.template_text("cleanup-unlisted").await?, before);
    world.until_ready("unlisted").await?;
    // And again: the owner reference is removed before the entry is added.
    world.bind_to("unlisted", "cleanup-unlisted").await?;
    world
        .until_sources("cleanup-unlisted", &["unlisted"])
        .await?;
    world
        .until("the Secret to have no owner", async || {
            let secret = world.secrets().get("unlisted").await?;
            ensure!(secret.owner_references().is_empty(), "it has an owner");
            Ok(())
        })
        .await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn adopts_a_retained_secret_only_when_asked() -> Result<()> {
    let world = world("cleanup-retain", Setup::default()).await?;
    let mut spec = world.pool_spec(&json!([{"name": "cleanup-retain"}]));
    spec["managedSecret"] = json!({"deletionPolicy": "Retain"});
    world.apply_binding("retained", &spec).await?;
    world.until_ready("retained").await?;
    world.delete_binding("retained").await?;
    world.until_binding_deleted("retained").await?;
    ensure!(world.sources("cleanup-retain").await?.is_empty());
    let kept = world.secrets().get("retained").await?;
    ensure!(kept.owner_references().is_empty() && kept.metadata.deletion_timestamp.is_none());

    world.apply_binding("retained", &spec).await?;
    world.until_not_ready("retained", "SecretForeign").await?;
    ensure!(
        world.sources("cleanup-retain").await?.is_empty(),
        "an entry for a Secret that is not ours"
    );
    spec["managedSecret"]["adopt"] = json!(true);
    world.apply_binding("retained", &spec).await?;
    world.until_not_ready("retained", "SecretForeign").await?;
    let consent = json!({"metadata": {"annotations": {"doppler-prefect.dev/adopt": "retained"}}});
    world.edit_secret("retained", &consent).await?;
    world.until_ready("retained").await?;
    assert_eq!(world.secrets().get("retained").await?.uid(), kept.uid());
    world.finish().await
}
