//! `cargo demo`: the story of the README on real parts, from a clean checkout. Exit code 0 when all of it came true.

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
    match demo::run(keep).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::line(&format!("the demo failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
