//! What shells and `man` know of the command line.
//!
//! Input: the definition of the flags.
//! Output: a completion script on standard output; man pages in a directory.
//! Invariants: generated from the definition that parses the command line.

use std::io;

use clap::{Command, CommandFactory};

use crate::args::{Cli, CompletionArgs, ManArgs};

/// The name of the program in scripts and pages.
const PROGRAM: &str = "doppler-prefect-operator";
/// The name under which kubectl finds the program as the plugin `kubectl dpb`.
const PLUGIN: &str = "kubectl-dpb";

/// Writes the completion script of a shell to standard output.
///
/// # Errors
/// If standard output is closed.
pub fn completion(args: &CompletionArgs) -> io::Result<()> {
    let mut script = Vec::new();
    let name = if args.plugin { PLUGIN } else { PROGRAM };
    clap_complete::generate(args.shell, &mut Cli::command(), name, &mut script);
    io::Write::write_all(&mut io::stdout(), &script)
}

/// Writes a man page for the program and for each subcommand.
///
/// # Errors
/// If the directory does not exist, or a file cannot be written.
pub fn man(args: &ManArgs) -> io::Result<()> {
    let command: Command = Cli::command().name(PROGRAM);
    clap_mangen::generate_to(command, &args.output)
}
