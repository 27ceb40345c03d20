//! The flags of `env`.
//!
//! Input: the command line and the environment. Output: typed values.
//! Invariants: parsing has no side effects.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

use super::ResolveArgs;

/// Flags of `env`.
#[derive(Clone, Debug, Args)]
pub struct EnvironmentArgs {
    /// A file with one binding, or the name of a binding in the cluster. What contains a `/` or ends in
    /// `.yaml`, `.yml` or `.json` is a file; `-` is standard input.
    #[arg(value_name = "FILE|NAME")]
    pub target: String,
    /// Namespace of the binding, if the file does not say it. Default: that of the kubeconfig's context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How the values are printed.
    #[arg(long, default_value = "env", conflicts_with = "command")]
    pub format: EnvironmentFormat,
    /// Print the values also if standard output is a terminal.
    #[arg(long, conflicts_with = "command")]
    pub show: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub resolve: ResolveArgs,
    /// Run this command with the values in its environment, over those of the caller, and print nothing.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Formats of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EnvironmentFormat {
    /// `NAME='value'`, quoted for a POSIX shell.
    Env,
    /// An object of strings.
    Json,
    /// `NAME=value`, for `docker run --env-file`. It cannot hold a value of several lines.
    Docker,
}
