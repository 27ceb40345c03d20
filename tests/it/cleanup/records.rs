//! The finalizer and the record of entries: what becomes of them when other clients remove or forge
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use super::removal_order::world;
use crate::work_pools::{entry, template, with_sources};
use crate::world::{Setup, World};

const RECORD: &str = "doppler-prefect.dev/work-pool-entries";

/// Applies a binding whose entry would block runs without its Secret.
pub(super) async fn bind_strictly(world: &World, name: &str) -> Result<()> {
    let pools = json!([{"name": world.name, "optional": false}]);
    world.apply_binding(name, &world.pool_spec(&pools)).await?;
    world.until_ready(name).await?;
    Ok(())
}

/// Replaces the whole binding as `kubectl replace` does: its manifest has neither annotations nor
/// finalizers. The status is not part of it.
async fn replace(world: &World, name: &str) -> Result<()> {
    world
        .until("the replacement of the binding", async || {
            let mut binding = world.binding(name).await?;
            binding.metadata.annotations = None;
            binding.metadata.finalizers = None;
            let params = PostParams::default();
            world.bindings().replace(name, &params, &binding).await?;
            Ok(())
        })
        .await
}

/// Removes the record, as a user can who may edit Secrets.
async fn remove_record(world: &World, secret: &str) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {RECORD: null}}});
    world.edit_secret(secret, &patch).await.map(drop)
}

async fn until_guarded(world: &World, name: &str) -> Result<()> {
    world
        .until("finalizer and record", async || {
            let binding = world.binding(name).await?;
            ensure!(!binding.finalizers().is_empty(), "no finalizer");
            let secret = world.secrets().get(name).await?;
            let record = secret.annotations().get(RECORD).context("no record")?;
            ensure!(record.contains(&world.name), "{record}");
            Ok(())
        })
        .await
}

pub(super) async fn until_nothing_is_left(world: &World, name: &str) -> Result<()> {
    world.until_binding_deleted(name).await?;
    world.until_sources(&world.name, &[]).await?;
    world.until_no_secret(name).await
}

/// What other clients take away.
const LOSSES: [(&str, &[Loss]); 4] = [
    ("no-finalizer", &[Loss::Finalizer]),
    ("no-record", &[Loss::Record]),
    ("neither", &[Loss::Record, Loss::Finalizer]),
    ("no-secret", &[Loss::Secret, Loss::Finalizer]),
];

enum Loss {
    Finalizer,
    Record,
    Secret,
}

async fn lose(world: &World, name: &str, losses: &[Loss]) -> Result<()> {
    for loss in losses {
        match loss {
            Loss::Finalizer => replace(world, name).await?,
            Loss::Record => remove_record(world, name).await?,
            Loss::Secret => world.delete_secret(name).await?,
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_what_other_clients_remove_while_the_operator_runs() -> Result<()> {
    let world = world("cleanup-restored", Setup::without_polls()).await?;
    for (name, losses) in LOSSES {
        bind_strictly(&world, name).await?;
        lose(&world, name, losses).await?;
        until_guarded(&world, name).await?;
        world.until_ready(name).await?;
        world.delete_binding(name).await?;
        until_nothing_is_left(&world, name).await?;
    }
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_what_other_clients_removed_while_no_operator_ran() -> Result<()> {
    let mut world = world("cleanup-restored-late", Setup::default()).await?;
    for (name, losses) in LOSSES {
        bind_strictly(&world, name).await?;
        world.stop_operator().await?;
        lose(&world, name, losses).await?;
        world.start_operator().await?;
        until_guarded(&world, name).await?;
        world.delete_binding(name).await?;
        until_nothing_is_left(&world, name).await?;
    }
    world.finish().await
}

/// An earlier version recorded the entry in an annotation of the binding, and its status says that it
/// patched the pool.
#[tokio::test(flavor = "multi_thread")]
async fn owns_the_entry_of_an_earlier_version_again() -> Result<()> {
    let mut world = world("cleanup-upgraded", Setup::default()).await?;
    bind_strictly(&world, "upgraded").await?;
    world.stop_operator().await?;
    remove_record(&world, "upgraded").await?;
    let patch = Patch::Merge(json!({"status": {"injectedEntries": null}}));
    let params = PatchParams::default();
    world
        .bindings()
        .patch_status("upgraded", &params, &patch)
        .await?;
    world.start_operator().await?;
    until_guarded(&world, "upgraded").await?;
    world.until_ready("upgraded").await?;
    world.delete_binding("upgraded").await?;
    until_nothing_is_left(&world, "upgraded").await?;
    world.finish().await
}

/// The record costs no request of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_with_a_pool_takes_three_writes() -> Result<()> {
    let world = world("cleanup-writes", Setup::without_polls()).await?;
    bind_strictly(&world, "counted").await?;
    for (object, writes) in [("binding", 1), ("secret", 1), ("status", 1)] {
        assert_eq!(world.writes(Some(object)).await?, writes, "{object}");
    }
    world.delete_binding("counted").await?;
    until_nothing_is_left(&world, "counted").await?;
    world.finish().await
}

/// A suspended binding writes nothing else, but still has to be cleaned up one day.
#[tokio::test(flavor = "multi_thread")]
async fn restores_the_finalizer_of_a_suspended_binding() -> Result<()> {
    let world = world("cleanup-suspended-replaced", Setup::without_polls()).await?;
    bind_strictly(&world, "asleep").await?;
    let pools = json!([{"name": world.name, "optional": false}]);
    let mut spec = world.pool_spec(&pools);
    spec["suspend"] = json!(true);
    world.apply_binding("asleep", &spec).await?;
    world
        .until_condition("asleep", "Ready", "Unknown", "Suspended")
        .await?;
    replace(&world, "asleep").await?;
    until_guarded(&world, "asleep").await?;
    world.delete_binding("asleep").await?;
    until_nothing_is_left(&world, "asleep").await?;
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cleans_up_after_a_binding_that_was_deleted_without_its_finalizer() -> Result<()> {
    let mut world = world("cleanup-orphan", Setup::default()).await?;
    let before = world.template_text(&world.name).await?;
    // While no operator runs: the binding ceases to exist at once.
    bind_strictly(&world, "gone").await?;
    world.kill_operator();
    replace(&world, "gone").await?;
    world.delete_binding("gone").await?;
    world.until_binding_deleted("gone").await?;
    assert_eq!(world.sources(&world.name).await?, ["gone"]);
    world.start_operator().await?;
    until_nothing_is_left(&world, "gone").await?;

    // While it runs, in one step.
    bind_strictly(&world, "gone").await?;
    world.delete_binding("gone").await?;
    let bare = json!({"metadata": {"finalizers": null}});
    let (params, bare) = (PatchParams::default(), Patch::Merge(&bare));
    // The operator may have been faster.
    drop(world.bindings().patch("gone", &params, &bare).await);
    until_nothing_is_left(&world, "gone").await?;
    assert_eq!(world.template_text(&world.name).await?, before);
    world.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_retained_secret_of_a_binding_without_finalizer() -> Result<()> {
    let mut world = world("cleanup-orphan-retained", Setup::default()).await?;
    let mut spec = world.pool_spec(&json!([{"name": world.name}]));
    spec["managedSecret"] = json!({"deletionPolicy": "Retain"});
    world.apply_binding("gone", &spec).await?;
    world.until_ready("gone").await?;
    world.kill_operator();
    replace(&world, "gone").await?;
    world.delete_binding("gone").await?;
    world.until_binding_deleted("gone").await?;
    world.start_operator().await?;
    world.until_sources(&world.name, &[]).await?;
    world
        .until("the Secret to have no record", async || {
            let kept = world.secrets().get("gone").await?;
            ensure!(!kept.annotations().contains_key(RECORD), "a record");
            Ok(())
        })
        .await?;
    world.finish().await
}

/// A new binding of the same name owns what the earlier one left: Secret and entry stay throughout.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_binding_of_the_same_name_takes_over() -> Result<()> {
    let mut world = world("cleanup-successor", Setup::default()).await?;
    bind_strictly(&world, "again").await?;
    let left = world.secrets().get("again").await?.uid();
    world.kill_operator();
    replace(&world, "again").await?;
    world.delete_binding("again").await?;
    world.until_binding_deleted("again").await?;
    let pools = json!([{"name": world.name, "optional": false}]);
    world
        .apply_binding("again", &world.pool_spec(&pools))
        .await?;
    world.start_operator().await?;
    world.until_ready("again").await?;
    until_guarded(&world, "again").await?;
    let taken = world.secrets().get("again").await?;
    assert_eq!(taken.uid(), left, "the Secret was created again");
    let owner = &taken.annotations()["doppler-prefect.dev/binding-uid"];
    assert_eq!(Some(owner.clone()), world.binding("again").await?.uid());
    world.delete_binding("again").await?;
    until_nothing_is_left(&world, "again").await?;
    world.finish().await
}

/// Authors of bindings can write annotations and finalizers of bindings. Neither makes the operator
/// remove an entry, nor send a request.
#[tokio::test(flavor = "multi_thread")]
async fn forged_records_of_a_binding_do_nothing() -> Result<()> {
    let world = world("cleanup-forged", Setup::default()).await?;
    let by_hand = format!("[{}]", entry("by-hand", true));
    let pool = with_sources(&template(&world.name), &by_hand);
    world.write_template(&world.name, &pool).await?;
    bind_strictly(&world, "victim").await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("http://{}/api", listener.local_addr()?);
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let accepting = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });

    let shared = world.prefect.api_url();
    let entry = |server: &str, secret: &str| json!({"server": server, "pool": world.name, "secret": secret});
    let forged = json!([
        entry(&server, "attacker"),
        entry(&shared, "by-hand"),
        entry(&shared, "victim"),
    ]);
    let record = json!({"secret": "cleanup-forged/attacker", "servers": [{"url": server, "pools": [world.name]}]});
    let binding = json!({
        "apiVersion": "doppler-prefect.dev/v1alpha1", "kind": "DopplerPrefectBinding",
        "metadata": {
            "name": "attacker",
            "annotations": {
                "doppler-prefect.dev/injected": forged.to_string(),
                RECORD: record.to_string(),
            },
            "finalizers": ["doppler-prefect.dev/injected"],
        },
        "spec": world.spec(),
        "status": {"injectedEntries": forged},
    });
    world.apply(&binding.to_string()).await?;
    world.until_ready("attacker").await?;
    world.delete_binding("attacker").await?;
    world.until_binding_deleted("attacker").await?;
    assert_eq!(world.sources(&world.name).await?, ["victim", "by-hand"]);
    world.until_ready("victim").await?;
    assert_eq!(world.events("PoolReleased").await?, Vec::<String>::new());
    assert_eq!(connections.load(Ordering::SeqCst), 0, "a request was sent");
    accepting.abort();

    // And a hand-written entry survives the binding that names its Secret.
    world.bind_to("by-hand", &world.name).await?;
    world
        .until_pool("by-hand", &world.name, "AlreadyPresent")
        .await?;
    world.delete_binding("by-hand").await?;
    world.until_binding_deleted("by-hand").await?;
    assert_eq!(world.sources(&world.name).await?, ["victim", "by-hand"]);
    world.finish().await
}

/// A user who may edit Secrets can write a record. Its URL passes the checks of a URL in a spec.
#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_server_that_is_not_allowed_gets_no_request() -> Result<()> {
    let setup = Setup::default().args(&["--release-timeout", "3s"]);
    let world = world("cleanup-recorded-url", setup).await?;
    bind_strictly(&world, "edited").await?;
    let own = world.prefect.api_url();
    let secret = format!("{}/edited", world.name);
    let forge = async |url: &str| {
        let pools = json!([world.name]);
        let servers = json!([{"url": own, "pools": pools}, {"url": url, "pools": pools}]);
        let record = json!({"secret": secret, "servers": servers}).to_string();
        let patch = json!({"metadata": {"annotations": {RECORD: record}}});
        world.edit_secret("edited", &patch).await
    };
    // No spec can name a URL with a password, so this is no record.
    forge("http://a:b@127.0.0.1:1/api").await?;
    world
        .until("the record to be repaired", async || {
            let secret = world.secrets().get("edited").await?;
            ensure!(!secret.annotations()[RECORD].contains("a:b@"), "forged");
            Ok(())
        })
        .await?;
    forge("http://prefect.example.com/api").await?;
    let event = world.until_event("HostNotAllowed").await?;
    ensure!(event.contains("prefect.example.com"), "{event}");
    let shown = world.status("edited").await?.to_string();
    ensure!(
        !shown.contains("a:b") && !world.log().contains("a:b@"),
        "{shown}"
    );
    world.until_ready("edited").await?;
    world.delete_binding("edited").await?;
    world
        .until("the status to name the server", async || {
            let deleting = world.condition("edited", "Ready").await?;
            ensure!(deleting.reason == "Deleting", "{deleting:?}");
            ensure!(deleting.message.contains("not allow"), "{deleting:?}");
            Ok(())
        })
        .await?;
    world.until_binding_deleted("edited").await?;
    world.until_sources(&world.name, &[]).await?;
    world.until_event("CleanupAbandoned").await?;
    world.finish().await
}
