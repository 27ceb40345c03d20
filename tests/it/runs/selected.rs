//! Deployments that choose a config: each run prints its own value.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::prefect::Block;

use super::{deployment, ensure_printed, node};
use crate::work_pools::template;
use crate::worker::start_worker;
use crate::world::{Setup, World, secret};

/// Applies a binding of one config, with its own block and value. Returns the value.
async fn bind(world: &World, config: &str, pool: &Value) -> Result<String> {
    let name = format!("{}-{config}", world.name);
    let value = secret(config);
    let token = format!("dp.st.{config}.{}", secret(&name));
    world
        .doppler
        .set(&world.name, config, "SECRET_API_KEY", &value);
    world.doppler.add_service_token(&token, &world.name, config);
    let block = Block::object(&world.name, config, &token);
    world.api.put_block(&name, &block).await?;
    let mut spec = world.pool_spec(&json!([pool]));
    spec["prefect"]["block"]["name"] = json!(name);
    world.apply_binding(config, &spec).await?;
    world.until_ready(config).await?;
    Ok(value)
}

/// Ensures that the event feed of a run has one event for each of these bindings, with the hash of
/// its Secret.
async fn ensure_reported(world: &World, run: &str, bindings: &[&str]) -> Result<()> {
    let mut expected = BTreeMap::new();
    for &binding in bindings {
        let hash = &world.binding(binding).await?.data["status"]["contentHash"];
        expected.insert(binding.to_owned(), hash.as_str().map(str::to_owned));
    }
    let filter = json!({"filter": {
        "event": {"name": ["doppler-prefect.values-injected"]},
        "related": {"id": [format!("prefect.flow-run.{run}")]},
    }});
    world
        .until("events of the run", async || {
            let page = world.api.post("/events/filter", &filter).await?;
            let events = page["events"].as_array().cloned().unwrap_or_default();
            let payloads = events.iter().map(|event| &event["payload"]);
            let found: BTreeMap<_, _> = payloads
                .map(|payload| {
                    let text = |key: &str| payload[key].as_str().map(str::to_owned);
                    (text("binding").unwrap_or_default(), text("contentHash"))
                })
                .collect();
            ensure!(events.len() == bindings.len(), "{events:?}");
            ensure!(found == expected, "{found:?} instead of {expected:?}");
            Ok(())
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_deployment_gets_the_config_that_it_chose() -> Result<()> {
    let pool = "runs-selected";
    let world = World::with(pool, Setup::default()).await?;
    world.create_pool(pool, &template(pool)).await?;
    let before = world.template_text(pool).await?;
    let selected = json!({"name": pool, "runs": "Selected"});
    let mut values = BTreeMap::new();
    for config in ["etl-dev", "etl-prd"] {
        values.insert(config, bind(&world, config, &selected).await?);
    }
    values.insert(
        "none",
        bind(&world, "shared", &json!({"name": pool})).await?,
    );

    let _worker = start_worker(&world).await?;
    let here = node(&world, "node-of-selected", pool).await?;
    let mut runs = Vec::new();
    let mut deployments = BTreeMap::new();
    for config in values.keys() {
        let variables = match *config {
            "none" => json!({}),
            config => json!({"doppler_config": config}),
        };
        let id = deployment(&world, config, variables).await?;
        runs.push((*config, world.api.create_flow_run(&id).await?));
        deployments.insert(*config, id);
    }
    for (config, run) in &runs {
        let expected = format!("secret_api_key = {}", values[config]);
        ensure_printed(&world, &here, run, &expected).await?;
    }

    // Each run tells which values it got: what it chose, and what all runs of the pool get.
    for (config, run) in &runs {
        let chosen = ["shared", *config];
        let expected = &chosen[..if *config == "none" { 1 } else { 2 }];
        ensure_reported(&world, run, expected).await?;
    }

    // A run chooses for itself.
    let path = format!("/deployments/{}/create_flow_run", deployments["none"]);
    let body = json!({"job_variables": {"doppler_config": "etl-dev"}});
    let run = world.api.post(&path, &body).await?;
    let run = run["id"].as_str().unwrap_or_default();
    let expected = format!("secret_api_key = {}", values["etl-dev"]);
    ensure_printed(&world, &here, run, &expected).await?;
    ensure_reported(&world, run, &["shared", "etl-dev"]).await?;

    // A deleted binding whose name a deployment chooses keeps its runs going.
    world.delete_binding("etl-prd").await?;
    world
        .until_condition("etl-prd", "Injected", "False", "Deleting")
        .await?;
    let run = world.api.create_flow_run(&deployments["etl-prd"]).await?;
    let expected = format!("secret_api_key = {}", values["etl-prd"]);
    ensure_printed(&world, &here, &run, &expected).await?;

    for config in ["etl-dev", "etl-prd"] {
        let path = format!("/deployments/{}", deployments[config]);
        world
            .api
            .patch(&path, &json!({"job_variables": {}}))
            .await?;
    }
    for config in ["etl-dev", "shared"] {
        world.delete_binding(config).await?;
    }
    for config in ["etl-dev", "etl-prd", "shared"] {
        world.until_binding_deleted(config).await?;
        ensure!(world.secrets().get_opt(config).await?.is_none());
    }
    assert_eq!(world.template_text(pool).await?, before);
    world.finish().await
}
