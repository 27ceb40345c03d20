//! Parses the command line, installs the crypto provider and runs the subcommand.
//!
//! Input: the command line.
//! Output: the exit code, and an error message on standard error.
//! Invariants: the message is one line and contains no secret value.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use doppler_prefect_operator::{
    args::{Cli, Command, CrdKind},
    check, command_line, crd, detach, environment, probe,
    process::{
        self,
        fatal::{report_fatal, report_panics},
    },
    reason, refresh,
};

#[tokio::main]
async fn main() -> ExitCode {
    report_panics();
    // It fails only if a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result: Result<ExitCode, Box<dyn std::error::Error>> = match Cli::parse().command {
        Command::Run(args) => Box::pin(process::run::run(*args))
            .await
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Crd(args) => crd::crd_yaml(match args.kind {
            CrdKind::Dopplerprefectbindings => crd::Kind::Binding,
            CrdKind::Clusterprefectservers => crd::Kind::ClusterServer,
        })
        .map(|text| print(&text))
        .map_err(Into::into),
        Command::Api => Ok(print(&crd::api_reference())),
        Command::Reasons => Ok(print(&reason::manual())),
        Command::Check(args) => check::check(*args).await.map_err(Into::into),
        Command::Environment(args) => environment::environment(*args).await.map_err(Into::into),
        Command::Refresh(args) => refresh::refresh(args).await.map_err(Into::into),
        Command::Detach(args) => detach::detach(*args)
            .await
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Probe(args) => probe::probe(&args).await.map_err(Into::into),
        Command::Completion(args) => command_line::completion(&args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Command::Man(args) => command_line::man(&args)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
    };
    result.unwrap_or_else(|error| {
        report_fatal(&*error);
        ExitCode::FAILURE
    })
}

fn print(text: &str) -> ExitCode {
    let written = std::io::stdout().write_all(text.as_bytes());
    if written.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
