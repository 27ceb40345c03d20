//! The subcommand `env`: the environment that a flow run would have, on another machine.
//!
//! Input: a file with a binding, or the name of one in the cluster, and a kubeconfig.
//! Output: the values on standard output, or a command that runs with them.
//! Invariants: resolves with the controller's own functions and the permissions of the user; writes
//! nothing. Values go to standard output or into the command's environment, never into an error or a
//! note, and to a terminal only with `--show`.

mod format;
mod target;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    args::EnvironmentArgs,
    check::{CheckContext, CheckError, Findings, resolve_document},
    printable::{MAX_MESSAGE_BYTES, one_line},
    secret::Desired,
};
use format::FormatError;
use target::TargetError;

/// Exit code if the command does not exist, as that of a shell.
const NOT_FOUND: u8 = 127;
/// Exit code if the command cannot be run, as that of a shell.
const NOT_EXECUTABLE: u8 = 126;

/// Why there is no environment.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The values would appear on a terminal.
    #[error(
        "standard output is a terminal: add --show to print the values there, send the output to a file or a program, or run a command with -- COMMAND"
    )]
    Terminal,
    /// The binding cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A flag is invalid, or there is no kubeconfig.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The format cannot hold a key.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The result cannot be printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

/// Prints the environment of a binding, or runs a command with it.
///
/// # Errors
/// If the binding cannot be read, or its environment cannot be printed.
pub async fn environment(args: EnvironmentArgs) -> Result<ExitCode, EnvironmentError> {
    let prints = args.command.is_empty();
    if prints && !args.show && io::stdout().is_terminal() {
        return Err(EnvironmentError::Terminal);
    }
    let mut context = CheckContext::new(args.resolve).await?;
    if let Some(namespace) = args.namespace {
        context.namespace = namespace;
    }
    let binding = target::read(&context, &args.target).await?;
    let mut findings = Findings::default();
    let Some(resolved) = resolve_document(&context, &binding, &mut findings).await else {
        write!(io::stderr(), "{findings}")?;
        return Ok(ExitCode::FAILURE);
    };
    if let Some(note) = exclusions(&resolved.desired) {
        writeln!(io::stderr(), "{note}")?;
    }
    let values = &resolved.desired.texts();
    if prints {
        let text = format::text(args.format, values)?;
        io::stdout().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(run(&args.command, values))
}

/// The names that are not in the environment, although the config has them.
fn exclusions(desired: &Desired) -> Option<String> {
    let names: Vec<&str> = desired
        .excluded_keys
        .iter()
        .map(|key| key.name.as_str())
        .collect();
    (!names.is_empty()).then(|| {
        let note = format!(
            "excluded, as in a run: {} (check says why)",
            names.join(", ")
        );
        one_line(&note, MAX_MESSAGE_BYTES)
    })
}

/// Replaces this process by the command. Returns only if that fails.
fn run(command: &[OsString], values: &BTreeMap<String, SecretString>) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::SUCCESS;
    };
    let pairs = values
        .iter()
        .map(|(name, value)| (name, value.expose_secret()));
    let error = Command::new(program).args(arguments).envs(pairs).exec();
    let message = format!("cannot run {}: {error}", program.to_string_lossy());
    let _ = writeln!(io::stderr(), "{}", one_line(&message, MAX_MESSAGE_BYTES));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    })
}
