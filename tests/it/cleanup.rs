//! Cleanup: entry, wait, Secret, finalizer, in this order, even if the operator is killed between two
//! steps.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::{Value, json};
use testkit::prefect::{Block, PrefectOptions, PrefectServer};

use crate::work_pools::template;
use crate::world::{Setup, TIMEOUT, World, secret};

/// Long enough to be measured.
const CLEANUP_DELAY: Duration = Duration::from_secs(3);

async fn world(name: &str, setup: Setup) -> Result<World> {
    let world = World::with(name, setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    world.create_pool(name, &template(name)).await?;
    Ok(world)
}

fn with_cleanup_delay() -> Setup {
    Setup {
        release_wait: "3s",
        ..Setup::default()
    }
}

/// What remains of one Secret during cleanup.
#[derive(Debug, PartialEq, Eq)]
struct Remaining {
    entry: bool,
    secret: bool,
    binding: bool,
}

async fn remaining(world: &World, binding: &str, secret: &str) -> Result<Remaining> {
    // In the order of removal, so that reads at different times cannot show a wrong order.
    let entry = world
        .sources(&world.name)
        .await?
        .contains(&secret.to_owned());
    let secret = world.secrets().get_opt(secret).await?.is_some();
    let binding = world.bindings().get_opt(binding).await?.is_some();
    Ok(Remaining {
        entry,
        secret,
        binding,
    })
}

/// Waits until nothing remains, and fails if the Secret was deleted before its entry or too early.
async fn assert_removed_in_order(
    world: &World,
    binding: &str,
    secret: &str,
    wait: Duration,
) -> Result<()> {
    let mut removed_since = None;
    world
        .until(
            &format!("{binding} and {secret} to be deleted"),
            async || {
                let before = Instant::now();
                let remaining = remaining(world, binding, secret).await?;
                if !remaining.entry && removed_since.is_none() {
                    removed_since = Some(before);
                }
                if remaining.entry && !remaining.secret {
                    // Read again, because the entry was read before the Secret.
                    let entry = world
                        .sources(&world.name)
                        .await?
                        .contains(&secret.to_owned());
                    assert!(!entry, "the entry exists and the Secret does not");
                }
                if !remaining.secret {
                    let since = removed_since.context("the entry")?.elapsed();
                    // One round of reads takes some time as well.
                    assert!(
                        since + Duration::from_millis(700) >= wait,
                        "the Secret was deleted {since:?} after the entry"
                    );
                }
                ensure!(
                    !remaining.entry && !remaining.secret && !remaining.binding,
                    "{remaining:?}"
                );
                Ok(())
            },
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_removes_entry_waits_then_deletes_secret() -> Result<()> {
    let world = world("back-delete", with_cleanup_delay()).await?;
    let before = world.template_text("back-delete").await?;
    world.bind_to("going", "back-delete").await?;
    world.until_ready("going").await?;
    let binding = world.binding("going").await?;
    ensure!(
        !binding.finalizers().is_empty(),
        "an injected binding has a finalizer"
    );
    let recorded = &binding.annotations()["doppler-prefect.dev/injected"];
    ensure!(
        recorded.contains("back-delete") && recorded.contains("going"),
        "{recorded}"
    );
    let owned = world.secrets().get("going").await?;
    ensure!(
        owned.owner_references().is_empty(),
        "a Secret with an entry in a pool has no owner"
    );

    world.delete_binding("going").await?;
    assert_removed_in_order(&world, "going", "going", CLEANUP_DELAY).await?;
    assert_eq!(world.template_text("back-delete").await?, before);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_binding_keeps_its_entry_until_it_is_deleted() -> Result<()> {
    let world = world("back-suspended", Setup::default()).await?;
    let before = world.template_text("back-suspended").await?;
    world.bind_to("asleep", "back-suspended").await?;
    world.until_ready("asleep").await?;
    let mut spec = world.pool_spec(&json!([{"name": "back-suspended"}]));
    spec["suspend"] = json!(true);
    world.apply_binding("asleep", &spec).await?;
    world
        .until_condition("asleep", "Ready", "Unknown", "Suspended")
        .await?;
    assert_eq!(world.sources("back-suspended").await?, ["asleep"]);
    world.delete_binding("asleep").await?;
    world.until_binding_deleted("asleep").await?;
    world.until_no_secret("asleep").await?;
    assert_eq!(world.template_text("back-suspended").await?, before);
    world.finish().await
}

/// Argo CD's default: dependants are deleted first, while the owner's finalizer remains.
#[tokio::test(flavor = "multi_thread")]
async fn foreground_deletion_keeps_the_removal_order() -> Result<()> {
    let world = world("back-foreground", with_cleanup_delay()).await?;
    world.bind_to("going", "back-foreground").await?;
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
    let world = world("back-rename", with_cleanup_delay()).await?;
    world.bind_to("renamed", "back-rename").await?;
    world.until_ready("renamed").await?;
    let mut spec = world.pool_spec(&json!([{"name": "back-rename"}]));
    spec["managedSecret"] = json!({"name": "another"});
    world.apply_binding("renamed", &spec).await?;
    let mut removed_since = None;
    world
        .until("the old Secret to be deleted", async || {
            let now = Instant::now();
            let sources = world.sources("back-rename").await?;
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
    assert_eq!(world.sources("back-rename").await?, ["another"]);
    world.delete_binding("renamed").await?;
    world.until_binding_deleted("renamed").await?;
    ensure!(world.sources("back-rename").await?.is_empty());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_owner_and_drops_finalizer_without_pools() -> Result<()> {
    let world = world("back-unlisted", Setup::default()).await?;
    let before = world.template_text("back-unlisted").await?;
    world.bind_to("unlisted", "back-unlisted").await?;
    world.until_ready("unlisted").await?;
    let uid = world.secrets().get("unlisted").await?.uid();
    world.apply_binding("unlisted", &world.spec()).await?;
    world
        .until(
            "the Secret to have its owner and the binding no finalizer",
            async || {
                let binding = world.binding("unlisted").await?;
                ensure!(binding.finalizers().is_empty(), "the finalizer remains");
                ensure!(
                    !binding
                        .annotations()
                        .contains_key("doppler-prefect.dev/injected"),
                    "the annotation remains"
                );
                let secret = world.secrets().get("unlisted").await?;
                ensure!(
                    secret
                        .owner_references()
                        .iter()
                        .any(|owner| Some(&owner.uid) == binding.uid().as_ref()),
                    "no owner"
                );
                assert_eq!(secret.uid(), uid, "the Secret was created again");
                Ok(())
            },
        )
        .await?;
    assert_eq!(world.template_text("back-unlisted").await?, before);
    world.until_ready("unlisted").await?;
    // And again: the owner reference is removed before the entry is added.
    world.bind_to("unlisted", "back-unlisted").await?;
    world.until_sources("back-unlisted", &["unlisted"]).await?;
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
    let world = world("back-retain", Setup::default()).await?;
    let mut spec = world.pool_spec(&json!([{"name": "back-retain"}]));
    spec["managedSecret"] = json!({"deletionPolicy": "Retain"});
    world.apply_binding("retained", &spec).await?;
    world.until_ready("retained").await?;
    world.delete_binding("retained").await?;
    world.until_binding_deleted("retained").await?;
    ensure!(world.sources("back-retain").await?.is_empty());
    let kept = world.secrets().get("retained").await?;
    ensure!(kept.owner_references().is_empty() && kept.metadata.deletion_timestamp.is_none());

    world.apply_binding("retained", &spec).await?;
    world.until_not_ready("retained", "SecretForeign").await?;
    ensure!(
        world.sources("back-retain").await?.is_empty(),
        "an entry for a Secret that is not ours"
    );
    spec["managedSecret"]["adopt"] = json!(true);
    world.apply_binding("retained", &spec).await?;
    world.until_ready("retained").await?;
    assert_eq!(world.secrets().get("retained").await?.uid(), kept.uid());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn abandons_cleanup_and_keeps_secret_if_prefect_is_down() -> Result<()> {
    let setup = Setup::default().args(&["--release-timeout", "4s"]);
    let world = World::with("back-unreachable", setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let server = PrefectServer::start(PrefectOptions::default()).await?;
    let api = server.api()?;
    let block = Block::object(&world.name, "dev", &world.token);
    api.put_block("back-unreachable", &block).await?;
    let pool: Value = serde_json::from_str(&template(&world.name))?;
    api.create_pool("lost-pool", "kubernetes", Some(pool))
        .await?;
    let mut spec = world.pool_spec(&json!([{"name": "lost-pool"}]));
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.api_url());
    world.apply_binding("abandoned", &spec).await?;
    world.until_ready("abandoned").await?;

    server.stop().await;
    let started = Instant::now();
    world.delete_binding("abandoned").await?;
    world.until_binding_deleted("abandoned").await?;
    ensure!(
        started.elapsed() > Duration::from_secs(3),
        "it was deleted after {:?}",
        started.elapsed()
    );
    let event = world.until_event("CleanupAbandoned").await?;
    ensure!(
        event.contains("lost-pool") && event.contains("Secret abandoned"),
        "{event}"
    );
    let kept = world.secrets().get("abandoned").await?;
    ensure!(kept.owner_references().is_empty() && kept.metadata.deletion_timestamp.is_none());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleans_the_pools_of_a_terminating_namespace() -> Result<()> {
    // A long wait, which the test would notice: a terminating namespace needs none.
    let setup = Setup {
        release_wait: "10m",
        ..Setup::default()
    };
    let world = world("back-terminating", setup).await?;
    // Credentials that are deleted with the namespace.
    world.put_token("api-key", &secret("pnu")).await?;
    let mut spec = world.pool_spec(&json!([{"name": "back-terminating"}]));
    spec["prefect"]["server"]["apiKey"] =
        json!({"valueFrom": {"secretKeyRef": {"name": "api-key", "key": "token"}}});
    world.apply_binding("terminated", &spec).await?;
    world.until_ready("terminated").await?;
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(world.client.clone());
    namespaces
        .delete(&world.name, &DeleteParams::default())
        .await?;
    world.until_binding_deleted("terminated").await?;
    ensure!(world.sources("back-terminating").await?.is_empty());
    world
        .until("the namespace to be deleted", async || {
            let found = namespaces.get_opt(&world.name).await?;
            ensure!(
                found.is_none(),
                "{:?}",
                found
                    .and_then(|one| one.status)
                    .and_then(|status| status.conditions)
            );
            Ok(())
        })
        .await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleans_up_after_kills_between_any_two_steps() -> Result<()> {
    let mut world = world(
        "back-killed",
        Setup {
            release_wait: "2s",
            ..Setup::default()
        },
    )
    .await?;
    let before = world.template_text("back-killed").await?;
    world.bind_to("killed", "back-killed").await?;
    // As soon as the binding records the entry. The Secret and the entry may or may not exist.
    world
        .until("the finalizer", async || {
            let binding = world.binding("killed").await?;
            ensure!(!binding.finalizers().is_empty(), "no finalizer");
            Ok(())
        })
        .await?;
    world.kill_operator();
    world.start_operator().await?;
    world.until_ready("killed").await?;
    assert_eq!(world.sources("back-killed").await?, ["killed"]);

    // Deleted while no operator runs; then killed during the wait, once the entry is removed.
    world.kill_operator();
    world.delete_binding("killed").await?;
    assert_eq!(
        remaining(&world, "killed", "killed").await?,
        Remaining {
            entry: true,
            secret: true,
            binding: true
        }
    );
    world.start_operator().await?;
    world.until_sources("back-killed", &[]).await?;
    world.kill_operator();
    assert_eq!(
        remaining(&world, "killed", "killed").await?,
        Remaining {
            entry: false,
            secret: true,
            binding: true
        }
    );
    world.start_operator().await?;
    assert_removed_in_order(&world, "killed", "killed", Duration::ZERO).await?;
    assert_eq!(world.template_text("back-killed").await?, before);
    world.finish().await
}

/// The operator cleans a server that the spec no longer names, even if it never saw the old spec.
#[tokio::test(flavor = "multi_thread")]
async fn cleans_recorded_entries_after_an_offline_spec_change() -> Result<()> {
    let mut world = world("back-changed", Setup::default()).await?;
    world
        .create_pool("back-changed-other", &template("back-changed"))
        .await?;
    world.bind_to("changed", "back-changed").await?;
    world.until_ready("changed").await?;
    world.kill_operator();
    world.bind_to("changed", "back-changed-other").await?;
    world.start_operator().await?;
    world
        .until_sources("back-changed-other", &["changed"])
        .await?;
    world.until_sources("back-changed", &[]).await?;
    world.until_ready("changed").await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_removes_all_entries_and_finalizers() -> Result<()> {
    let mut world = world("back-release", Setup::default()).await?;
    let before = world.template_text("back-release").await?;
    for name in ["first", "second"] {
        world.bind_to(name, "back-release").await?;
        world.until_ready(name).await?;
    }
    world.stop_operator().await?;
    run_detach(&world, &[]).await?;
    assert_eq!(world.template_text("back-release").await?, before);
    for name in ["first", "second"] {
        let binding = world.binding(name).await?;
        ensure!(binding.finalizers().is_empty(), "{name} has its finalizer");
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
        .until_sources("back-release", &["first", "second"])
        .await?;

    world.stop_operator().await?;
    run_detach(&world, &["--keep-secrets"]).await?;
    assert_eq!(world.template_text("back-release").await?, before);
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
    for name in ["first", "second"] {
        let kept = world.secrets().get(name).await?;
        ensure!(kept.metadata.deletion_timestamp.is_none());
    }
    world.finish().await
}

/// Runs `detach` as the chart's hook does; what it says is part of what must not show values.
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
    crate::world::canary::ensure_absent("what release says", &output)?;
    ensure!(
        result.status.success(),
        "release ended with {}: {output}",
        result.status
    );
    Ok(())
}
