//! `cargo demo`: the use of the operator on real parts, from a clean checkout.
//!
//! Input: the command line. Output: a line for each step.
//! Invariants: the exit code is 0 if all steps succeeded, 2 for unknown arguments.

use std::process::ExitCode;

use testkit::demo::{self, USAGE};
use testkit::progress;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let keep = match arguments[..] {
        [] => false,
        ["--keep"] => true,
        _ => {
            progress::line(USAGE);
            return ExitCode::from(2);
        }
    };
    progress::enable_bars();
    match demo::run(keep).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::line(&format!("the demo failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
