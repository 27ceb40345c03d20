//! The demo: the whole story on real parts, step by step.
//!
//! In: whether all of it is to stay up afterwards. Out: a short line for each step on standard output, what flow runs
//! printed among them, and on failure what was expected and the ends of the logs.
//!
//! Never: a value printed that is not the story's; what logs are shown is searched for Doppler's token first.
//!
//! Reading order: `stage` brings up what it needs, `install` installs it, `story` plays,
//! `keep` waits for Ctrl-C, `tell` is how all of them speak.

mod install;
mod keep;
mod stage;
mod story;
mod tell;

use anyhow::Result;

use crate::binary::{self, Profile};
use stage::Environment;
use tell::Output;

/// How it is called.
pub const USAGE: &str = "cargo demo [--keep]   (--keep: leave everything running until Ctrl-C)";

/// Plays the story.
///
/// # Errors
/// When anything is not as the story says: what was expected, and what was there. The ends of the logs were printed by then.
pub async fn run(keep: bool) -> Result<()> {
    let tell = Output::new();
    tell.step("builds the operator");
    let binary = binary::build(Profile::Dev).await?;
    let mut stage = Environment::start(&tell).await?;
    let played = story::run(&tell, &mut stage, &binary).await;
    if let Err(error) = played {
        for line in stage.logs().lines() {
            tell.quote(line);
        }
        return Err(anyhow::anyhow!(
            "{}",
            stage.redact_token(&format!("{error:#}"))
        ));
    }
    tell.step("all came true");
    if keep {
        keep::until_interrupted(&tell, &stage).await?;
    }
    tell.step("ends all processes");
    drop(stage);
    tell.step("done");
    Ok(())
}
