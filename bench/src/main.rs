//! `cargo bench-operator`: benchmarks the operator against the floor.
//!
//! Input: the command line. Output: the table, and the results in docs/benchmarks.
//! Invariants: the exit code is 0 if the run succeeded and, in the short form, no count is wrong.

use std::process::ExitCode;

use bench::Options;
use clap::Parser;
use testkit::progress;

#[tokio::main]
async fn main() -> ExitCode {
    progress::enable_bars();
    match bench::run(&Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            progress::line("counts of requests or writes miss their goals; see the table");
            ExitCode::FAILURE
        }
        Err(error) => {
            progress::line(&format!("the benchmark failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
