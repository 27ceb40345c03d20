//! The flags of `completion` and `man`.
//!
//! Input: the command line. Output: typed values.
//! Invariants: parsing has no side effects.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;

/// Flags of `completion`.
#[derive(Clone, Debug, Args)]
pub struct CompletionArgs {
    /// The shell that reads the script.
    pub shell: Shell,
    /// Complete the name `kubectl-dpb`, under which kubectl finds the program as `kubectl dpb`.
    #[arg(long)]
    pub plugin: bool,
}

/// Flags of `man`.
#[derive(Clone, Debug, Args)]
pub struct ManArgs {
    /// An existing directory, to which the pages are written.
    #[arg(value_name = "DIRECTORY")]
    pub output: PathBuf,
}
