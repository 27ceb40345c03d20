//! The code of docs/quick-start.md, run as it is written there, with the world's names.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::process::Command;

use super::{deployment, node};
use crate::page::{blocks, section};
use crate::work_pools::template;
use crate::worker::start_worker;
use crate::world::{World, secret};

const PAGE: &str = include_str!("../../../docs/quick-start.md");

/// The commands of a step, one in each line.
fn commands(step: &str) -> Result<Vec<String>> {
    let code = blocks(section(PAGE, step)?, "sh").join("\n");
    ensure!(!code.is_empty(), "step {step} has no command");
    Ok(code.lines().map(str::to_owned).collect())
}

/// Runs a program of Prefect's virtual environment. Returns what it prints.
async fn run(world: &World, folder: &Path, program: &str, args: &[&str]) -> Result<String> {
    let venv = tokio::task::spawn_blocking(|| testkit::venv::venv("prefect")).await??;
    let output = Command::new(venv.join("bin").join(program))
        .args(args)
        .current_dir(folder)
        .env("PREFECT_HOME", folder)
        .env("PREFECT_API_URL", world.prefect.api_url())
        .env("NO_COLOR", "1")
        .output()
        .await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {args:?}: {printed}{error}"
    );
    Ok(printed)
}

#[tokio::test(flavor = "multi_thread")]
async fn quick_start_leads_from_a_block_to_a_run_and_back() -> Result<()> {
    let w = World::start("quick-start").await?;
    let value = secret("1234567890");
    w.set_doppler_secret("SECRET_API_KEY", &value);
    w.set_doppler_secret("PATH", &secret("path"));
    w.create_pool(&w.name, &template(&w.name)).await?;
    let folder = w.examples(&w.name)?;
    let kubectl = async |step: &str| -> Result<Vec<String>> {
        let mut printed = Vec::new();
        for command in commands(step)? {
            printed.push(w.run_kubectl(&folder, &command).await?);
        }
        Ok(printed)
    };

    w.api.delete_block("secret", &w.name).await?;
    let code = blocks(section(PAGE, "1. ")?, "python").join("\n");
    let code = code
        .replace("\"my-project\"", &format!("\"{}\"", w.name))
        .replace("dp.st.dev.…", &w.token)
        .replace("doppler-config", &w.name);
    run(&w, &folder, "python", &["-c", &code]).await?;

    kubectl("2. ").await?;
    let looked = kubectl("3. ").await?;
    ensure!(
        looked[0].lines().any(|key| key == "SECRET_API_KEY"),
        "{looked:?}"
    );
    ensure!(looked[1].contains("\"PATH\""), "{looked:?}");

    let _worker = start_worker(&w).await?;
    let node = node(&w, "node-of-quick-start", &w.name).await?;
    deployment(&w, "hello", json!({})).await?;
    let commands = commands("4. ")?;
    ensure!(commands.len() == 1, "{commands:?}");
    let name = format!("{0}-hello/{0}-hello", w.name);
    let command = commands[0].replace("main/hello", &name);
    let args: Vec<_> = command.split(' ').collect();
    let printed = run(&w, &folder, args[0], &args[1..]).await?;
    let id = printed
        .split_whitespace()
        .find(|word| word.len() == 36 && word.matches('-').count() == 4)
        .with_context(|| format!("no id of the run: {printed}"))?;
    let log = node.logs_of_run(id);
    ensure!(log.contains(&format!("secret_api_key = {value}")), "{log}");

    kubectl("6. ").await?;
    w.until_sources(&w.name, &[]).await?;
    w.until_no_secret("my-project-dev").await?;
    w.finish().await
}
