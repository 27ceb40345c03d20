//! Runs the Helm that the tests use, so that a release packages the chart with the same one.
//!
//! Input: the arguments of Helm.
//! Output: what Helm prints, and its exit code.

use std::process::{Command, ExitCode};

use testkit::helm::Helm;

fn main() -> anyhow::Result<ExitCode> {
    let status = Command::new(Helm::V3.program()?)
        .args(std::env::args_os().skip(1))
        .status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
