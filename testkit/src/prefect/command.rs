//! In: a virtual environment and a folder. Out: Prefect's command line with an environment of its own, so that neither a
//! developer's profile nor a proxy of theirs reaches it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The virtual environment, made on first use. Making it blocks, so it runs on a thread that may.
pub(crate) async fn virtual_environment() -> Result<PathBuf> {
    tokio::task::spawn_blocking(|| crate::venv::venv("prefect"))
        .await
        .context("making the virtual environment")?
}

/// `prefect` with `home` as its `PREFECT_HOME` and the rest of the environment clean.
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
