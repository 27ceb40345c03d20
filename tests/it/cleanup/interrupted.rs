//! Cleanup without Prefect, without its namespace, or by an operator that was killed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use testkit::prefect::{Block, PrefectOptions, PrefectServer};

use super::removal_order::{Remaining, assert_removed_in_order, remaining, world};
use crate::work_pools::template;
use crate::world::{Setup, World, secret};

#[tokio::test(flavor = "multi_thread")]
async fn abandons_cleanup_and_keeps_secret_if_prefect_is_down() -> Result<()> {
    let setup = Setup::default().args(&["--release-timeout", "4s"]);
    let world = World::with("cleanup-unreachable", setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let server = PrefectServer::start(PrefectOptions::default()).await?;
    let api = server.api()?;
    let block = Block::object(&world.name, "dev", &world.token);
    api.put_block("cleanup-unreachable", &block).await?;
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
async fn cleans_up_a_binding_that_was_deleted_without_operator() -> Result<()> {
    let timeout = Duration::from_secs(4);
    let setup = Setup::default().args(&["--release-timeout", "4s"]);
    let mut world = world("cleanup-late", setup).await?;
    let spec = world.pool_spec(&json!([{"name": "cleanup-late"}]));
    world.apply_binding("late", &spec).await?;
    world.until_ready("late").await?;
    world.stop_operator().await?;
    world.delete_binding("late").await?;
    world
        .until("a deletion older than the timeout", async || {
            let binding = world.binding("late").await?;
            let deleted = binding.metadata.deletion_timestamp;
            let deleted = deleted.ok_or_else(|| anyhow::anyhow!("it is not deleted"))?;
            let age = k8s_openapi::jiff::Timestamp::now().duration_since(deleted.0);
            ensure!(Duration::try_from(age)? > timeout * 2, "only {age:?}");
            Ok(())
        })
        .await?;
    world.start_operator().await?;
    world.until_binding_deleted("late").await?;
    ensure!(
        world.sources("cleanup-late").await?.is_empty(),
        "the entry stays"
    );
    world.until_no_secret("late").await?;
    ensure!(world.events("CleanupAbandoned").await?.is_empty());
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleans_the_pools_of_a_terminating_namespace() -> Result<()> {
    // A long wait, which the test would notice: a terminating namespace needs none.
    let setup = Setup {
        release_wait: "10m",
        ..Setup::default()
    };
    let world = world("cleanup-terminating", setup).await?;
    // Credentials that are deleted with the namespace.
    world.put_token("api-key", &secret("pnu")).await?;
    let mut spec = world.pool_spec(&json!([{"name": "cleanup-terminating"}]));
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
    ensure!(world.sources("cleanup-terminating").await?.is_empty());
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
async fn reports_the_entry_that_a_terminating_namespace_leaves() -> Result<()> {
    let setup = Setup::default().args(&["--release-timeout", "3s"]);
    let world = World::with("cleanup-lost", setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let server = PrefectServer::start(PrefectOptions::default()).await?;
    let api = server.api()?;
    let block = Block::object(&world.name, "dev", &world.token);
    api.put_block("cleanup-lost", &block).await?;
    let pool: Value = serde_json::from_str(&template(&world.name))?;
    api.create_pool("lost-pool", "kubernetes", Some(pool))
        .await?;
    let mut spec = world.pool_spec(&json!([{"name": "lost-pool"}]));
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.api_url());
    world.apply_binding("lost", &spec).await?;
    world.until_ready("lost").await?;
    server.stop().await;
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
        kube::Api::all(world.client.clone());
    namespaces
        .delete(&world.name, &DeleteParams::default())
        .await?;
    world.until_binding_deleted("lost").await?;
    let log = world.log();
    let line = log.lines().find(|line| line.contains("CleanupAbandoned"));
    let line = line.ok_or_else(|| anyhow::anyhow!("no line: {}", world.log_tail()))?;
    for expected in [
        "WARN",
        "Kubernetes deletes Secret lost",
        "prefect work-pool update lost-pool --base-job-template FILE",
        server.api_url().trim_end_matches('/'),
    ] {
        ensure!(line.contains(expected), "{expected} is missing: {line}");
    }
    let metrics = world.operator()?.metrics().await?;
    ensure!(metrics.contains("doppler_prefect_cleanups_abandoned_total 1"));
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleans_up_after_kills_between_any_two_steps() -> Result<()> {
    let mut world = world(
        "cleanup-killed",
        Setup {
            release_wait: "2s",
            ..Setup::default()
        },
    )
    .await?;
    let before = world.template_text("cleanup-killed").await?;
    world.bind_to("killed", "cleanup-killed").await?;
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
    assert_eq!(world.sources("cleanup-killed").await?, ["killed"]);

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
    world.until_sources("cleanup-killed", &[]).await?;
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
    assert_eq!(world.template_text("cleanup-killed").await?, before);
    world.finish().await
}

/// The operator cleans a server that the spec no longer names, even if it never saw the old spec.
#[tokio::test(flavor = "multi_thread")]
async fn cleans_recorded_entries_after_an_offline_spec_change() -> Result<()> {
    let mut world = world("cleanup-changed", Setup::default()).await?;
    world
        .create_pool("cleanup-changed-other", &template("cleanup-changed"))
        .await?;
    world.bind_to("changed", "cleanup-changed").await?;
    world.until_ready("changed").await?;
    world.kill_operator();
    world.bind_to("changed", "cleanup-changed-other").await?;
    world.start_operator().await?;
    world
        .until_sources("cleanup-changed-other", &["changed"])
        .await?;
    world.until_sources("cleanup-changed", &[]).await?;
    world.until_ready("changed").await?;
    world.finish().await
}
