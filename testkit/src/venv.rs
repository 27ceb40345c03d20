//! Python virtual environments, made on first use. In: the name of a pinned requirements file in `python/`. Out: the
//! folder of an environment that has just that, kept in the cache under a hash of the file and of the interpreter. It
//! never changes an environment that is complete.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache;

/// The oldest Python that all requirements have releases for.
const MINIMUM_PYTHON: (u32, u32) = (3, 10);

/// The folder of the virtual environment for `python/{name}.txt`; its interpreter is `bin/python` in there.
///
/// It blocks, for minutes when the environment has to be made: call it from a thread that may.
///
/// # Errors
/// When there is no such file, no `python3` of 3.10 or later, or pip fails.
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
    // An environment's scripts name its folder, so it is made where it stays, beside the entry that says it is complete.
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

/// Version and place of `python3`: an environment is bound to both.
fn interpreter() -> Result<String> {
    let code = "import sys; print(*sys.version_info[:3], sys.base_prefix)";
    let found = run(Command::new("python3").args(["-c", code]))
        .context("tests need python3, with venv and pip, in PATH")?;
    let mut words = found.split_whitespace().map(str::parse::<u32>);
    match (words.next(), words.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= MINIMUM_PYTHON => Ok(found),
        _ => bail!(
            "tests need python3 of {}.{} or later, and this is {found}",
            MINIMUM_PYTHON.0,
            MINIMUM_PYTHON.1
        ),
    }
}

/// Called under the cache's lock, so nobody else is at work in `place`.
fn create(place: &Path, requirements: &Path) -> Result<()> {
    if place.exists() {
        // Left by a build that was killed.
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
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {}", output.status, said.trim());
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
        for pinned in include_str!("../python/prefect.txt")
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
