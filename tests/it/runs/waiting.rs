//! A run whose pod waits for its Secret, with a real worker: the labels are those that it sets.

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::prefect::Block;

use super::{deployment, ensure_printed, node};
use crate::work_pools::{template, with_sources};
use crate::worker::start_worker;
use crate::world::chart::Optional;
use crate::world::{Setup, World, secret};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_waits_for_its_secret_is_reported_and_starts_with_it() -> Result<()> {
    let pool = "runs-waiting";
    let setup = Setup {
        optional: Optional::RunPods,
        ..Setup::default()
    };
    let world = World::with(pool, setup.args(&["--watch-run-pods"])).await?;
    let value = secret("1234567890");
    world.set_doppler_secret("SECRET_API_KEY", &value);
    let sources = r#"[{"secretRef":{"name":"story","optional":false}}]"#;
    world
        .create_pool(pool, &with_sources(&template(pool), sources))
        .await?;
    let late = "runs-waiting-late";
    let mut spec = world.pool_spec(&json!([{"name": pool, "mode": "Observe"}]));
    spec["prefect"]["block"]["name"] = json!(late);
    world.apply_binding("story", &spec).await?;
    world.until_not_ready("story", "BlockMissing").await?;

    let _worker = start_worker(&world).await?;
    let here = node(&world, "node-of-waiting", pool).await?;
    let id = deployment(&world, "waiting", json!({})).await?;
    let run = world.api.create_flow_run(&id).await?;
    let note = world.until_event("RunPodNotStarted").await?;
    let name = world.api.get(&format!("/flow_runs/{run}")).await?["name"].clone();
    let name = name.as_str().unwrap_or_default();
    ensure!(
        note.contains(&format!(" of flow run {name} waits")),
        "{name}: {note}"
    );
    world
        .until_condition("story", "Injected", "False", "RunPodNotStarted")
        .await?;

    let block = Block::object(&world.name, "dev", &world.token);
    world.api.put_block(late, &block).await?;
    ensure_printed(&world, &here, &run, &format!("secret_api_key = {value}")).await?;
    world.until_ready("story").await?;
    world.finish().await
}
