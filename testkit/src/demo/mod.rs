//! The demo: the use of the operator from installation to removal, on real parts.
//!
//! Input: whether everything is left running afterwards. Output: a line for each step on standard
//! output, with the lines that flow runs print, and on failure what was expected and the ends of
//! the logs.
//! Invariants: every printed value is one of the demo; Doppler's token is redacted from printed
//! logs.
//!
//! Reading order: `stage` starts the servers, `install` installs the operator, `story` runs the
//! acts in `prefect_setup`, `flow_run`, `binding`, `choice` and `by_label`, and `keep` waits for Ctrl-C.

mod binding;
mod by_label;
mod choice;
mod flow_run;
mod install;
mod keep;
mod names;
mod output;
mod prefect_setup;
mod stage;
mod story;
mod table;

use anyhow::{Result, anyhow};

use crate::binary::{self, Profile};
use output::Output;
use stage::Environment;

/// The usage line.
pub const USAGE: &str = "cargo demo [--keep]   (--keep: leave everything running until Ctrl-C)";

/// Runs the demo.
///
/// # Errors
/// When a step has another result than expected. The ends of the logs are printed before.
pub async fn run(keep: bool) -> Result<()> {
    let output = Output::new();
    output.step("builds the operator");
    let binary = binary::build(Profile::Dev).await?;
    let mut stage = Environment::start(&output).await?;
    if let Err(error) = story::run(&output, &mut stage, &binary).await {
        for line in stage.logs().lines() {
            output.quote(line);
        }
        let error = stage.redact_token(&format!("{error:#}"));
        return Err(anyhow!(error));
    }
    output.step("all steps succeeded");
    if keep {
        keep::until_interrupted(&output, &stage).await?;
    }
    output.step("stops all processes");
    drop(stage);
    output.step("done");
    Ok(())
}
