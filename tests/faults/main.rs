//! `cargo faults`: plays faults on the operator with real servers, and prints what it saw.
//!
//! Input: the command line. Output: a table on standard output, and docs/reliability.md after a full
//! run. `cargo test` runs the short form.
//! Invariants: the exit code is 0 only if everything that must hold held.
//!
//! Reading order: `options` says what is played, `case` what a fault is. `doppler`, `prefect`,
//! `api_server`, `process` and `tenants` are the table; `stage`, `relay`, `shim`, `cgroup` and `hostile` are what they are
//! played on. `play` plays, and `page` writes. `random` is the randomised run.

// A fault that cannot be played is a panic of the table, as in other tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout
)]

mod api_server;
mod case;
mod cgroup;
mod doppler;
#[path = "../it/memory/hostile.rs"]
mod hostile;
mod options;
mod page;
mod play;
mod prefect;
mod process;
mod random;
mod random_numbers;
mod relay;
mod shim;
mod stage;
mod tenants;
#[path = "../it/world/mod.rs"]
#[allow(dead_code, unused_imports)] // the other test binary uses the rest
mod world;

use std::process::ExitCode;

use clap::Parser;
use options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match play::play(&options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the faults could not be played: {error:#}");
            ExitCode::FAILURE
        }
    }
}
