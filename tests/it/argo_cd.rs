//! Argo CD's health check of a binding, from the manual, run by Lua 5.1 as Argo CD does.
//!
//! Input: the script in docs/operations.md, and bindings as a real operator leaves them.
//! Output: the health that Argo CD would show, and the condition by which Flux gives up.

use anyhow::{Context, Result, anyhow, ensure};
use kube::api::{Patch, PatchParams};
use mlua::{Lua, LuaSerdeExt as _};
use serde_json::{Value, json};

use crate::world::{World, secret};

const MANUAL: &str = include_str!("../../docs/operations.md");

/// The script of the manual, without its indentation in YAML.
fn script() -> Result<String> {
    let key = "resource.customizations.health.doppler-prefect.dev_DopplerPrefectBinding: |\n";
    let (_, rest) = MANUAL.split_once(key).context("no health check")?;
    let (script, _) = rest.split_once("```").context("no end")?;
    Ok(script.replace("\n    ", "\n"))
}

/// The health of an object: status and message.
fn health(object: &Value) -> Result<(String, String)> {
    let script = script()?;
    let run = || {
        let lua = Lua::new();
        lua.globals().set("obj", lua.to_value(object)?)?;
        let result: mlua::Table = lua.load(&script).eval()?;
        mlua::Result::Ok((result.get("status")?, result.get("message")?))
    };
    // Its errors cannot be sent between threads.
    run().map_err(|error| anyhow!("{error}"))
}

async fn health_of(world: &World, name: &str) -> Result<(String, String)> {
    health(&serde_json::to_value(world.bindings().get(name).await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_binding() -> Result<()> {
    let new = json!({"metadata": {"generation": 1}, "spec": {}});
    ensure!(health(&new)?.0 == "Progressing");
    let world = World::start("argo-cd").await?;
    world.set_doppler_secret("A", &secret("1"));
    world.apply_binding("b", &world.spec()).await?;
    world.until_ready("b").await?;
    ensure!(health_of(&world, "b").await?.0 == "Healthy");
    ensure!(world.condition("b", "Stalled").await.is_err());

    // What the status says of an older generation does not count.
    let mut edited = serde_json::to_value(world.bindings().get("b").await?)?;
    edited["metadata"]["generation"] = json!(99);
    ensure!(health(&edited)?.0 == "Progressing");

    let change = async |patch: Value| {
        let patch = Patch::Merge(patch);
        let bindings = world.bindings();
        bindings.patch("b", &PatchParams::default(), &patch).await
    };
    change(json!({"spec": {"suspend": true}})).await?;
    world
        .until("a suspended binding", async || {
            let (status, message) = health_of(&world, "b").await?;
            ensure!(status == "Suspended", "{status}: {message}");
            Ok(())
        })
        .await?;
    change(json!({"spec": {"suspend": false, "prefect": {"block": {"name": "no-such-block"}}}}))
        .await?;
    world
        .until("a degraded binding", async || {
            let (status, message) = health_of(&world, "b").await?;
            ensure!(status == "Degraded", "{status}: {message}");
            ensure!(message.contains("no-such-block"), "{message}");
            Ok(())
        })
        .await?;
    // Flux gives up at once.
    let stalled = world.condition("b", "Stalled").await?;
    ensure!(stalled.status == "True" && stalled.message.contains("no-such-block"));
    world.finish().await
}
