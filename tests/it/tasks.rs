//! The commands of the pages about tasks, run as they are written there, with the world's names.
//!
//! Input: the lines of the pages that begin with a program of this project, of Kubernetes or of Prefect.
//! Output: whether each of them succeeds beside a running operator.
//! Invariants: a command that is not run is listed here with the reason.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::page::{blocks, pages};
use crate::work_pools::template;
use crate::world::{World, operator_binary, secret};

/// Pages that have a test of their own, or are not about tasks.
const OTHER_PAGES: [&str; 5] = [
    "quick-start",
    "migration",
    "operations",
    "restarts",
    "runbooks",
];
/// Commands that are run by other tests, or cannot run here.
const OTHER_COMMANDS: [&str; 5] = [
    "kubectl apply -f examples/smallest.yaml", // the first step of this test
    "kubectl get --raw /.well-known/openid-configuration", // needs jq
    "kubectl dpb ",                            // a plugin is found by its name alone
    "doppler-prefect-operator check --offline examples/", // `it manual`
    "doppler-prefect-operator check --print-patch", // `it manual`
];
const PROGRAMS: [&str; 3] = ["kubectl ", "doppler-prefect-operator ", "prefect "];

/// The commands of the tasks, each with its page.
fn commands() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for (path, text) in pages()? {
        let page = path.file_stem().unwrap_or_default().to_string_lossy();
        if OTHER_PAGES.contains(&page.as_ref()) {
            continue;
        }
        for line in blocks(&text, "sh").iter().flat_map(|block| block.lines()) {
            let runs = PROGRAMS.iter().any(|program| line.starts_with(program));
            if runs && !OTHER_COMMANDS.iter().any(|other| line.starts_with(other)) {
                found.push((page.to_string(), line.to_owned()));
            }
        }
    }
    Ok(found)
}

/// A `PATH` with the programs that the pages name, before those of the machine.
async fn search_path(folder: &Path) -> Result<String> {
    let kubectl = tokio::task::spawn_blocking(testkit::kubectl::program).await??;
    let venv = tokio::task::spawn_blocking(|| testkit::venv::venv("prefect")).await??;
    let bin = folder.join("bin");
    std::fs::create_dir(&bin)?;
    symlink(kubectl, bin.join("kubectl"))?;
    symlink(operator_binary(), bin.join("doppler-prefect-operator"))?;
    let venv = venv.join("bin");
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{}:{}:{path}", bin.display(), venv.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_tasks_succeed() -> Result<()> {
    let w = World::start("tasks").await?;
    w.set_doppler_secret("SECRET_API_KEY", &secret("1234567890"));
    w.create_pool(&w.name, &template(&w.name)).await?;
    let folder = w.examples(&w.name)?;
    let smallest = std::fs::read_to_string(folder.join("examples/smallest.yaml"))?;
    std::fs::create_dir(folder.join("bindings"))?;
    for name in ["etl-dev", "stg", "prd"] {
        let binding = smallest.replace("name: my-project-dev", &format!("name: {name}"));
        std::fs::write(folder.join(format!("bindings/{name}.yaml")), binding)?;
    }
    std::fs::copy(
        testkit::prefect::flows().join("flow.py"),
        folder.join("flow.py"),
    )?;
    w.apply(&smallest).await?;
    w.until_ready("my-project-dev").await?;
    std::fs::write(
        folder.join("template.json"),
        w.template_text(&w.name).await?,
    )?;
    let path = search_path(&folder).await?;

    let commands = commands()?;
    ensure!(commands.len() >= 14, "{commands:?}");
    for (page, command) in commands {
        let own = command
            .replace("-n flows ", &format!("-n {} ", w.name))
            .replace(
                "work-pool update k8s",
                &format!("work-pool update {}", w.name),
            );
        let output = Command::new("sh")
            .args(["-c", &own])
            .current_dir(&folder)
            .env("PATH", &path)
            .env("KUBECONFIG", w.plane.admin_kubeconfig_path())
            .env("ALLOWED_PREFECT_HOST", "http://127.0.0.1:*")
            .env("ALLOWED_DOPPLER_HOST", "http://127.0.0.1:*")
            .env("PREFECT_API_URL", w.prefect.api_url())
            .env("PREFECT_HOME", &folder)
            .stdin(std::process::Stdio::null())
            .output()
            .await?;
        let error = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "{page}: {command}: {printed}{error}"
        );
    }
    w.finish().await
}
