//! Builds the operator with the cargo that runs the demo or the benchmark.
//!
//! Input: the workspace, and a profile. Output: the path of the operator's binary.
//! Invariants: the build does not invalidate the dependencies of the running package.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

const PACKAGE: &str = "doppler-prefect-operator";

/// A first build takes some minutes on two cores, and another cargo may hold the lock.
const BUILD_TIMEOUT: Duration = Duration::from_mins(30);

/// The profile of the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The profile `dev`.
    Dev,
    /// The profile `release`.
    Release,
}

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Builds the operator. Cargo reports its own progress.
///
/// # Errors
/// When the build fails or takes too long.
pub async fn build(profile: Profile) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // `cargo run` sets variables about this package. Build scripts that depend on them, such as
    // ring's, would run again, and all dependents would be compiled again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_one_package) {
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

/// Whether the variable is about one package. Variables that configure the build are kept.
fn is_about_one_package(name: &str) -> bool {
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

/// The executable in cargo's messages, which have one JSON object a line.
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
