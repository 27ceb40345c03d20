//! Prefect's command line.
//!
//! Input: a virtual environment and a folder.
//! Output: a command with a clean environment, without the developer's profile and proxy.
//! Invariants: no variable of the developer reaches Prefect.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The virtual environment, created on first use on a blocking thread.
pub(crate) async fn virtual_environment() -> Result<PathBuf> {
    environment("prefect").await
}

/// The virtual environment of `python/{name}.txt`, as [`virtual_environment`].
pub(super) async fn environment(name: &'static str) -> Result<PathBuf> {
    tokio::task::spawn_blocking(|| crate::venv::venv(name))
        .await
        .context("creating the virtual environment")?
}

/// `prefect` with `home` as its `PREFECT_HOME` and an otherwise clean environment.
pub(super) fn prefect(venv: &Path, home: &Path) -> Command {
    let bin = venv.join("bin");
    let mut command = Command::new(bin.join("prefect"));
    command
        .env_clear()
        .env(
            "PATH",
            format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()),
        )
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .env("NO_COLOR", "1")
        .env("PYTHONUNBUFFERED", "1")
        .env("DO_NOT_TRACK", "1")
        .env("PREFECT_HOME", home)
        .env("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        .current_dir(home);
    command
}
