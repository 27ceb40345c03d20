//! Prometheus' programs.
//!
//! Input: the `PATH`.
//! Output: the output of `promtool`.
//! Invariants: a program that is missing is an error that names the package.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// What to do if a program is missing.
const MISSING: &str = "is not on the PATH: install Prometheus' programs `prometheus` and `promtool` (Debian's package prometheus; `.ci/run` does so)";

/// Checks that a program is there.
///
/// # Errors
/// If it is missing. The error says what to install.
pub fn ensure_program(name: &str) -> Result<()> {
    match Command::new(name).arg("--version").output() {
        Ok(output) => {
            ensure!(output.status.success(), "{name} --version failed");
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{name} {MISSING}"),
        Err(error) => Err(error).with_context(|| name.to_owned()),
    }
}

/// Runs `promtool` at the root of the repository.
///
/// # Errors
/// If it is missing or fails. The error has its output.
pub fn promtool(arguments: &[&str]) -> Result<String> {
    ensure_program("promtool")?;
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(output.status.success(), "promtool {arguments:?}: {text}");
    Ok(text)
}

#[test]
fn missing_program_is_an_error_that_says_what_to_install() {
    let error = ensure_program("promtool-that-is-not-installed").unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("promtool-that-is-not-installed is not on the PATH")
            && message.contains("package prometheus"),
        "{message}"
    );
}
