//! Python virtual environments.
//!
//! Input: the name of a pinned requirements file in `python/`.
//! Output: the folder of an environment with exactly these packages, cached under a hash of the
//! file and the interpreter.
//! Invariants: a complete environment never changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;

/// The oldest Python that all requirements support.
const MINIMUM_PYTHON: (u32, u32) = (3, 11);

/// The folder of the virtual environment for `python/{name}.txt`. Its interpreter is `bin/python`.
///
/// Blocks, for minutes if the environment must be created: call it from a blocking thread.
///
/// # Errors
/// If the file is missing, there is no `python3` of 3.11 or later, or pip fails.
pub fn venv(name: &str) -> Result<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("python")
        .join(format!("{name}.txt"));
    let requirements =
        std::fs::read(&file).with_context(|| format!("no requirements in {}", file.display()))?;
    let interpreter = interpreter()?;
    let key = cache::key(
        &format!("venv-{name}"),
        &[&requirements, interpreter.as_bytes()],
    );
    // Scripts of an environment contain its path, so it is created in place, beside a marker of
    // completeness.
    let place = cache::dir()?.join(format!("{key}.in-place"));
    let entry = cache::get_or_build(&key, &format!("the Python environment {name}"), |_| {
        create(&place, &file)
    })?;
    if !place.join("bin/python").exists() {
        bail!(
            "{} is gone; delete {} too",
            place.display(),
            entry.display()
        );
    }
    Ok(place)
}

/// Version and path of `python3`: an environment depends on both.
fn interpreter() -> Result<String> {
    let code = "import sys; print(*sys.version_info[:3], sys.base_prefix)";
    let found = run(Command::new("python3").args(["-c", code]))
        .context("tests need python3, with venv and pip, in PATH")?;
    let mut numbers = found.split_whitespace().map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= MINIMUM_PYTHON => Ok(found),
        _ => bail!(
            "tests need python3 of {}.{} or later, and this is {found}",
            MINIMUM_PYTHON.0,
            MINIMUM_PYTHON.1
        ),
    }
}

/// The caller holds the cache's lock, so no other process writes to `place`.
fn create(place: &Path, requirements: &Path) -> Result<()> {
    if place.exists() {
        // Removes the remains of a build that was killed.
        std::fs::remove_dir_all(place)?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(place))?;
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--require-hashes",
        "--requirement",
    ];
    run(Command::new(place.join("bin/python"))
        .args(pip)
        .arg(requirements))?;
    Ok(())
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{command:?} exited with {}: {}",
            output.status,
            error.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_names_the_missing_requirements_file() {
        let error = venv("no-such").unwrap_err().to_string();
        assert!(error.ends_with("python/no-such.txt"), "{error}");
    }

    #[test]
    fn has_what_was_pinned_and_its_scripts_run() {
        let place = venv("prefect").unwrap();
        let frozen = run(
            Command::new(place.join("bin/pip")).args(["freeze", "--disable-pip-version-check"])
        )
        .unwrap();
        for pinned in include_str!("../python/prefect.in")
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            assert!(
                frozen.lines().any(|line| line == pinned),
                "{pinned} is not in {frozen}"
            );
        }
        assert_eq!(venv("prefect").unwrap(), place);
    }
}
