//! `cargo bench-operator`: the operator beside the floor. Exit code 0 when it could be measured and, in the short form, every count is right.

use std::process::ExitCode;

use bench::Options;
use clap::Parser;
use testkit::progress;

#[tokio::main]
async fn main() -> ExitCode {
    match bench::run(&Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            progress::line("counts of requests or writes are wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            progress::line(&format!("the benchmark failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
