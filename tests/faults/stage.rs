//! What the cases are played on: operators that many cases share, and bindings of one case.
//!
//! Input: names. Output: a [`World`] for each group, and steps that cases have in common.
//! Invariants: each case has its own binding, config, token and servers, so that cases can be played
//! side by side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::prefect::{PrefectApi, kubernetes_template};
use tokio::sync::OnceCell;

use crate::world::observe::Condition;
use crate::world::{Setup, World, canary, operator_binary, pairs, secret};

/// The operator of a group. It polls each second and reports a failure after two.
pub struct Stage(OnceCell<World>);

impl Stage {
    /// A stage that starts with its first case.
    pub const fn new() -> Self {
        Self(OnceCell::const_new())
    }

    /// The world of the stage.
    pub async fn world(&self, name: &str) -> Result<&World> {
        let setup = || {
            Setup::default().args(&[
                "--stale-after",
                "2s",
                "--doppler-timeout",
                "1s",
                "--prefect-timeout",
                "2s",
                "--release-timeout",
                "30s",
                // Relays speak HTTP and TLS.
                "--allowed-prefect-host",
                "http://127.0.0.1:*,127.0.0.1:*",
            ])
        };
        self.0
            .get_or_try_init(async || World::with(name, setup()).await)
            .await
    }

    /// Searches the log of the operator for secret values and panics.
    pub fn ensure_clean_log(&self) -> Result<()> {
        let Some(world) = self.0.get() else {
            return Ok(());
        };
        let log = world.log();
        canary::ensure_absent("the operator's log", &log)?;
        ensure!(!log.contains("panicked at"), "the operator panicked");
        Ok(())
    }
}

/// The values of each config before its fault: enough names that a loss of most of them is seen.
pub fn before() -> BTreeMap<String, String> {
    ["A", "B", "C", "D", "E", "F"]
        .map(|name| (name.to_owned(), secret("before")))
        .into()
}

/// The values of each config after its fault.
pub fn after() -> BTreeMap<String, String> {
    let mut values = before();
    values.extend(pairs(&[("A", secret("after"))]));
    values
}

/// The reference to a token in key `token` of a Secret.
pub fn token_ref(secret: &str) -> Value {
    json!({"valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}})
}

/// Waits until the Secret has these values and the binding is Ready. Returns the time since `start`.
pub async fn recovered(
    world: &World,
    binding: &str,
    values: &BTreeMap<String, String>,
    start: Instant,
) -> Result<Duration> {
    world.until_values(binding, values).await?;
    world.until_ready(binding).await?;
    Ok(start.elapsed())
}

/// Checks that the Secret has exactly the values from before the fault.
pub async fn ensure_kept(world: &World, binding: &str) -> Result<()> {
    let found = world.values(binding).await?;
    ensure!(
        found == before(),
        "the Secret changed: it has the keys {:?}",
        found.keys().collect::<Vec<_>>()
    );
    Ok(())
}

/// Waits until the condition is False.
pub async fn until_false(world: &World, binding: &str, kind: &str) -> Result<Condition> {
    world
        .until("a condition that names the failure", async || {
            let found = world.condition(binding, kind).await?;
            ensure!(
                found.status == "False",
                "{kind} is {} ({}): {}",
                found.status,
                found.reason,
                found.message
            );
            Ok(found)
        })
        .await
}

/// Waits until the binding is not Ready, and returns the reason, which must be one of `reasons`.
pub async fn reported(world: &World, binding: &str, reasons: &[&str]) -> Result<String> {
    let condition = until_false(world, binding, "Ready").await?;
    ensure!(
        reasons.contains(&condition.reason.as_str()),
        "the reason is {}: {}",
        condition.reason,
        condition.message
    );
    Ok(condition.reason)
}

/// The default template for jobs in the world's namespace.
pub fn template(world: &World) -> Result<Value> {
    let mut template = kubernetes_template()?;
    template["variables"]["properties"]["namespace"]["default"] = json!(world.name);
    Ok(template)
}

/// The Secrets that the template of a pool of the shared server names.
pub async fn entries(world: &World, pool: &str) -> Result<Vec<String>> {
    entries_of(&world.api, pool).await
}

/// The Secrets that the template of a pool of this server names.
pub async fn entries_of(api: &PrefectApi, pool: &str) -> Result<Vec<String>> {
    let mut template = api.template(pool).await?;
    let entries = testkit::prefect::env_from(&mut template)?;
    let names = entries
        .iter()
        .filter_map(|one| one["secretRef"]["name"].as_str());
    Ok(names.map(ToOwned::to_owned).collect())
}

/// A program that runs the operator after these lines of a shell.
pub fn wrapped(folder: &Path, lines: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join("operator");
    let operator = operator_binary().display().to_string();
    std::fs::write(
        &path,
        format!("#!/bin/sh\n{lines}\nexec {operator} \"$@\"\n"),
    )?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
