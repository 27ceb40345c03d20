//! The real kubectl.
//!
//! Input: arguments and a kubeconfig.
//! Output: what kubectl printed.
//! Invariants: taken from `KUBEBUILDER_ASSETS` or `PATH`, or else built with Go into the cache;
//! never uses the user's kubeconfig.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::control_plane::{go_version, in_path};
use crate::guard::GuardedCommand;

/// The pinned Go module of kubectl.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubectl");

const BUILD_TIMEOUT: Duration = Duration::from_mins(30);

/// The path of kubectl. Blocks while kubectl is built.
///
/// # Errors
/// If no folder has it and it cannot be built.
pub fn program() -> Result<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS")
        .map(|assets| PathBuf::from(assets).join("kubectl"))
        .filter(|path| path.is_file());
    if let Some(found) = assets.or_else(|| in_path("kubectl")) {
        return Ok(found);
    }
    let go = go_version().context("kubectl is missing and cannot be built")?;
    let module = Path::new(MODULE);
    let sources = ["go.mod", "go.sum", "main.go"].map(|file| std::fs::read(module.join(file)));
    let [go_mod, go_sum, main] = sources;
    let (go_mod, go_sum, main) = (go_mod?, go_sum?, main?);
    let key = cache::key("kubectl", &[&go_mod, &go_sum, &main, go.as_bytes()]);
    let folder = cache::get_or_build(&key, "kubectl", |folder| {
        let mut command = Command::new("go");
        command
            .current_dir(module)
            .args(["build", "-trimpath", "-ldflags", "-s -w", "-o"])
            .arg(folder.join("kubectl"))
            .arg(".");
        GuardedCommand::new("go build", command, folder.join("log")).run(BUILD_TIMEOUT)
    })?;
    Ok(folder.join("kubectl"))
}

/// Runs kubectl and returns its standard output.
///
/// # Errors
/// If kubectl is not available, or fails.
pub async fn kubectl_async(args: &[&str], kubeconfig: &Path) -> Result<String> {
    let program = tokio::task::spawn_blocking(program).await??;
    let output = tokio::process::Command::new(program)
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("no_proxy", "127.0.0.1,localhost")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_mins(2), output)
        .await
        .context("kubectl did not end")??;
    if !output.status.success() {
        bail!(
            "kubectl exited with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
