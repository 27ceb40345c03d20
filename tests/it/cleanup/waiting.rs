//! What a binding that is being deleted waits for, and how it says so.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::prefect::{Block, PrefectOptions, PrefectServer};

use super::records::{bind_strictly, until_nothing_is_left};
use super::removal_order::world;
use crate::work_pools::template;
use crate::world::{Setup, World, secret};

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

/// After the timeout, the operator goes on trying without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn removes_an_abandoned_entry_once_the_server_is_back() -> Result<()> {
    let server = PrefectServer::start(PrefectOptions::default()).await?;
    let setup = Setup::default().args(&["--release-timeout", "2s"]);
    let world = World::with("cleanup-server-back", setup).await?;
    world.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    let (api, name) = (server.api()?, world.name.clone());
    let block = Block::object(&name, "dev", &world.token);
    api.put_block(&name, &block).await?;
    let pool = serde_json::from_str(&template(&name))?;
    api.create_pool(&name, "kubernetes", Some(pool)).await?;
    let mut spec = world.pool_spec(&json!([{"name": name}]));
    spec["prefect"]["server"]["remoteApiUrl"] = json!(server.api_url());
    world.apply_binding("left", &spec).await?;
    world.until_ready("left").await?;
    server.stop().await;
    world.delete_binding("left").await?;
    world.until_binding_deleted("left").await?;
    world.until_event("CleanupAbandoned").await?;
    world.secrets().get("left").await?;

    server.restart().await?;
    // The operator looks again after a minute.
    let limit = Duration::from_mins(2);
    world
        .until_within(limit, "the removal of the entry", async || {
            let left = api.template(&name).await?.to_string();
            ensure!(!left.contains("secretRef"), "{left}");
            Ok(())
        })
        .await?;
    world.until_no_secret("left").await?;
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
