//! The finalizer and the record of entries: what becomes of them when other clients remove or forge
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use testkit::prefect::{Block, PrefectOptions, PrefectServer};

use super::removal_order::world;
use crate::work_pools::{entry, template, with_sources};
use crate::world::{Setup, World, secret};

const RECORD: &str = "doppler-prefect.dev/work-pool-entries";

/// Applies a binding whose entry would block runs without its Secret.
async fn bind_strictly(world: &World, name: &str) -> Result<()> {
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

async fn until_nothing_is_left(world: &World, name: &str) -> Result<()> {
    world.until_binding_deleted(name).await?;
    world.until_sources(&world.name, &[]).await?;
    world.until_no_secret(name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_what_other_clients_remove_while_the_operator_runs() -> Result<()> {
    let world = world("cleanup-restored", Setup::without_polls()).await?;
    for (name, finalizer, record) in [
        ("no-finalizer", true, false),
        ("no-record", false, true),
        ("neither", true, true),
    ] {
        bind_strictly(&world, name).await?;
        if record {
            remove_record(&world, name).await?;
        }
        if finalizer {
            replace(&world, name).await?;
        }
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
    for (name, finalizer, record) in [
        ("no-finalizer", true, false),
        ("no-record", false, true),
        ("neither", true, true),
    ] {
        bind_strictly(&world, name).await?;
        world.stop_operator().await?;
        if record {
            remove_record(&world, name).await?;
        }
        if finalizer {
            replace(&world, name).await?;
        }
        world.start_operator().await?;
        until_guarded(&world, name).await?;
        world.delete_binding(name).await?;
        until_nothing_is_left(&world, name).await?;
    }
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
    let record = json!({"servers": [{"url": server, "pools": [world.name]}]});
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
    for url in [
        "http://a:b@127.0.0.1:1/api",
        "http://prefect.example.com/api",
    ] {
        let pools = json!([world.name]);
        let servers = json!([{"url": own, "pools": pools}, {"url": url, "pools": pools}]);
        let record = json!({"servers": servers}).to_string();
        let patch = json!({"metadata": {"annotations": {RECORD: record}}});
        world.edit_secret("edited", &patch).await?;
    }
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

/// `kubectl delete -f dir/` deletes the credentials before or with the binding.
#[tokio::test(flavor = "multi_thread")]
async fn waits_for_the_credentials_of_a_deleted_binding() -> Result<()> {
    let auth = format!("admin:{}", secret("pass"));
    let server = PrefectServer::start(PrefectOptions {
        auth: Some(auth.clone()),
        ..PrefectOptions::default()
    })
    .await?;
    let mut world = World::with("cleanup-credentials", Setup::default()).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let api = server.api()?;
    api.put_block(
        "credentials",
        &Block::object(&world.name, "dev", &world.token),
    )
    .await?;
    let pool = serde_json::from_str(&template(&world.name))?;
    api.create_pool("credentials", "kubernetes", Some(pool))
        .await?;
    world.put_token("auth", &auth).await?;
    let mut spec = world.pool_spec(&json!([{"name": "credentials"}]));
    spec["prefect"] = json!({
        "server": {
            "remoteApiUrl": server.api_url(),
            "basicAuth": {"valueFrom": {"secretKeyRef": {"name": "auth", "key": "token"}}},
        },
        "block": {"name": "credentials"},
    });
    world.apply_binding("going", &spec).await?;
    world.until_ready("going").await?;

    world.stop_operator().await?;
    world.delete_secret("auth").await?;
    world.delete_binding("going").await?;
    world.start_operator().await?;
    let deleting = world.until_not_ready("going", "Deleting").await?;
    let message = &deleting.message;
    for says in ["Secret auth does not exist", "credentials", "600 s"] {
        ensure!(message.contains(says), "no {says} in: {message}");
    }
    world.secrets().get("going").await?;
    world.put_token("auth", &auth).await?;
    world.until_binding_deleted("going").await?;
    world.until_no_secret("going").await?;
    let left = api.template("credentials").await?.to_string();
    ensure!(!left.contains("secretRef"), "{left}");
    server.stop().await;
    world.finish().await
}

/// After the timeout, the binding is deleted. Its entry is still removed once that is possible.
#[tokio::test(flavor = "multi_thread")]
async fn removes_an_abandoned_entry_once_the_credentials_are_back() -> Result<()> {
    let auth = format!("admin:{}", secret("pass"));
    let server = PrefectServer::start(PrefectOptions {
        auth: Some(auth.clone()),
        ..PrefectOptions::default()
    })
    .await?;
    let setup = Setup::default().args(&["--release-timeout", "2s"]);
    let mut world = World::with("cleanup-abandoned", setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let api = server.api()?;
    api.put_block(
        "abandoned",
        &Block::object(&world.name, "dev", &world.token),
    )
    .await?;
    let pool = serde_json::from_str(&template(&world.name))?;
    api.create_pool("abandoned", "kubernetes", Some(pool))
        .await?;
    world.put_token("auth", &auth).await?;
    let mut spec = world.pool_spec(&json!([{"name": "abandoned"}]));
    spec["prefect"] = json!({
        "server": {
            "remoteApiUrl": server.api_url(),
            "basicAuth": {"valueFrom": {"secretKeyRef": {"name": "auth", "key": "token"}}},
        },
        "block": {"name": "abandoned"},
    });
    world.apply_binding("left", &spec).await?;
    world.until_ready("left").await?;
    world.stop_operator().await?;
    world.delete_secret("auth").await?;
    world.delete_binding("left").await?;
    world.start_operator().await?;
    world.until_binding_deleted("left").await?;
    let event = world.until_event("CleanupAbandoned").await?;
    ensure!(event.contains("Secret auth does not exist"), "{event}");
    world.secrets().get("left").await?;

    world.put_token("auth", &auth).await?;
    world.restart_operator().await?;
    world.until_no_secret("left").await?;
    let left = api.template("abandoned").await?.to_string();
    ensure!(!left.contains("secretRef"), "{left}");
    server.stop().await;
    world.finish().await
}

/// Waits long enough that a status must exist before the end of the wait.
pub(super) const LONG_DELAY: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_binding_says_so_at_once() -> Result<()> {
    let setup = Setup {
        release_wait: "6s",
        ..Setup::default()
    };
    let world = world("cleanup-says-so", setup).await?;
    bind_strictly(&world, "going").await?;
    world.delete_binding("going").await?;
    let deleted = std::time::Instant::now();
    let ready = world.until_not_ready("going", "Deleting").await?;
    ensure!(
        deleted.elapsed() < LONG_DELAY,
        "after {:?}",
        deleted.elapsed()
    );
    ensure!(ready.message.contains("being deleted"), "{}", ready.message);
    world
        .until_condition("going", "Injected", "False", "Deleting")
        .await?;
    world
        .until("the status to name the wait", async || {
            let ready = world.condition("going", "Ready").await?;
            ensure!(ready.message.contains("6 s after"), "{}", ready.message);
            Ok(())
        })
        .await?;
    until_nothing_is_left(&world, "going").await?;
    world.finish().await
}
