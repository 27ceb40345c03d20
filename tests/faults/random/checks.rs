//! What must hold after a randomised run.
//!
//! Input: the scene. Output: the first difference.
//! Invariants: the checks read the servers, not the operator, except for its count of writes and its
//! memory.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::ListParams;

use super::model::{POOLS, Scene, binding_name, secret_name};

/// A repair of a contested template or Secret waits for minutes.
const LIMIT: Duration = Duration::from_mins(3);
/// The most last edits of users that may be lost: an overlap of two writes is rare.
const MAX_LOST_EDITS: usize = 1;
/// More memory than at the start, in KiB: allocators keep some.
const MEMORY: u64 = 24 << 10;

/// Waits until everything is as desired. Returns how many edits of users had to be repeated.
pub async fn until_as_desired(scene: &Scene) -> Result<usize> {
    let what = "everything to be as desired";
    let lost = AtomicUsize::new(0);
    scene
        .world
        .until_within(LIMIT, what, async || {
            ensure_bindings(scene).await?;
            ensure_secrets(scene).await?;
            for pool in 0..POOLS {
                ensure_pool(scene, pool, &lost).await?;
            }
            Ok(())
        })
        .await?;
    Ok(lost.into_inner())
}

/// Exactly the bindings of the model exist.
async fn ensure_bindings(scene: &Scene) -> Result<()> {
    let found = scene.world.bindings().list(&ListParams::default()).await?;
    let found: BTreeSet<String> = found.iter().map(ResourceExt::name_any).collect();
    let wanted: BTreeSet<String> = scene.bindings.keys().copied().map(binding_name).collect();
    ensure!(
        found == wanted,
        "the bindings are {found:?} instead of {wanted:?}"
    );
    Ok(())
}

/// Every Secret equals its config, and no other Secret of the operator exists.
async fn ensure_secrets(scene: &Scene) -> Result<()> {
    let mut wanted = BTreeSet::from(["random".to_owned()]);
    for (binding, wish) in &scene.bindings {
        let name = secret_name(*binding, wish);
        let values = scene.world.values(&name).await?;
        let config = scene.config_of(wish);
        ensure!(
            values == scene.configs[config],
            "Secret {name} does not equal config {config}: {:?}",
            scene
                .world
                .condition(&binding_name(*binding), "Ready")
                .await
        );
        wanted.insert(name);
    }
    let found = scene.world.secrets().list(&ListParams::default()).await?;
    let found: BTreeSet<String> = found.iter().map(ResourceExt::name_any).collect();
    ensure!(
        found == wanted,
        "the Secrets are {found:?} instead of {wanted:?}"
    );
    Ok(())
}

/// A pool has exactly its entries, and the last edit of its users. Prefect replaces a template without
/// a condition, so an edit that arrives between a GET of the operator and its PATCH is lost. A person
/// sees that and repeats it, and so does this.
async fn ensure_pool(scene: &Scene, pool: usize, lost: &AtomicUsize) -> Result<()> {
    let name = scene.pool(pool);
    let mut template = scene.world.api.template(&name).await?;
    let entries = testkit::prefect::env_from(&mut template)?.clone();
    let mut found = BTreeSet::new();
    for entry in &entries {
        let secret = entry["secretRef"]["name"]
            .as_str()
            .context("an entry without Secret")?;
        ensure!(found.insert(secret.to_owned()), "two entries name {secret}");
    }
    let wanted = scene.entries_of(pool);
    ensure!(
        found == wanted,
        "pool {name} has {found:?} instead of {wanted:?}"
    );
    let mut users = scene.template(pool)?;
    let users_entries = testkit::prefect::env_from(&mut users)?;
    *users_entries = entries;
    if users_entries.is_empty() {
        // The operator removes a list that it added, or leaves an empty one of users.
        return Ok(());
    }
    if template != users && lost.fetch_add(1, Relaxed) < MAX_LOST_EDITS {
        scene.world.api.set_template(&name, &users).await?;
    }
    ensure!(
        template == users,
        "the template of {name} differs in more than its entries"
    );
    Ok(())
}

/// Nothing more is written during some polls.
pub async fn ensure_at_rest(scene: &Scene) -> Result<()> {
    let world = &scene.world;
    // Ready is the last thing that is written.
    for binding in scene.bindings.keys() {
        let name = binding_name(*binding);
        let ready = world.until_within(LIMIT, "a Ready binding", async || {
            let ready = world.condition(&name, "Ready").await?;
            ensure!(
                ready.status == "True",
                "{}: {}",
                ready.reason,
                ready.message
            );
            Ok(())
        });
        ready.await?;
    }
    let rest = world.until_within(LIMIT, "no writes in five polls", async || {
        let before = world.writes(None).await?;
        world.until_polls("unchanged", 5).await?;
        let after = world.writes(None).await?;
        ensure!(before == after, "{} writes in five polls", after - before);
        Ok(())
    });
    rest.await
}

/// The memory is about what it was.
pub fn ensure_memory_is_back(scene: &Scene, before: u64) -> Result<()> {
    let now = scene.world.operator()?.rss_kib()?;
    ensure!(now <= before + MEMORY, "{now} KiB instead of {before} KiB");
    Ok(())
}
