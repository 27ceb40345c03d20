//! In: the workspace and a profile. Out: the path of the operator's binary, built by the cargo that runs demo or benchmark.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

const PACKAGE: &str = "doppler-prefect-operator";

/// Some minutes on two cores when nothing is built yet, and another cargo may hold the lock.
const BUILD_TIMEOUT: Duration = Duration::from_mins(30);

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As `cargo build` does.
    Dev,
    /// As it ships.
    Release,
}

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Builds the operator; cargo says itself how far it is.
///
/// # Errors
/// When the build fails or takes too long.
pub async fn build(profile: Profile) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // What `cargo run` tells about this package makes build scripts that look at it run again (ring's does), and all
    // that depends on them is compiled anew.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(executable_of_package) {
            build.env_remove(name);
        }
    }
    let build = build
        .args(["build", "--package", PACKAGE, "--bin", PACKAGE])
        .arg("--message-format=json-render-diagnostics")
        .args((profile == Profile::Release).then_some("--release"))
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .context("cargo cannot be started")?;
    let output = timeout(BUILD_TIMEOUT, build.wait_with_output()).await;
    let output =
        output.with_context(|| format!("cargo build took longer than {BUILD_TIMEOUT:?}"))??;
    if !output.status.success() {
        bail!("cargo build ended with {}", output.status);
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    executable(&messages).context("cargo build named no executable")
}

/// Whether the variable tells about one package; those that tell cargo where and how to build are kept.
fn executable_of_package(name: &str) -> bool {
    [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BIN_",
        "CARGO_CRATE_",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
        || name == "CARGO_PRIMARY_PACKAGE"
}

/// The executable among cargo's messages, one JSON object a line.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| {
            message["reason"] == "compiler-artifact" && message["target"]["name"] == PACKAGE
        })
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_executable_not_the_library() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
not JSON
{"reason":"compiler-artifact","target":{"name":"doppler-prefect-operator"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"doppler-prefect-operator"},"executable":"/t/debug/doppler-prefect-operator"}
{"reason":"build-finished","success":true}"#;
        let found = executable(messages);
        assert_eq!(found, Some("/t/debug/doppler-prefect-operator".into()));
        assert_eq!(executable(""), None);
    }
}
