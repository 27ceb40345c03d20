//! The flags of `check`.
//!
//! Input: the command line and the environment. Output: typed values.
//! Invariants: parsing has no side effects.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ResolveArgs;

/// Flags of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Files with bindings; `-` is standard input. With `--compare`, LABEL=FILE.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Validate the files only, without any network access.
    #[arg(long)]
    pub offline: bool,
    /// Compare the keys of bindings, given as LABEL=FILE, such as `stg=stg.yaml prd=prd.yaml`. The exit
    /// code is 1 if one lacks a key that another one has, or excludes a name that another one does not.
    #[arg(long, conflicts_with_all = ["offline", "print_patch"])]
    pub compare: bool,
    /// Print the findings as text, or as one JSON document with `ok` and `bindings`.
    #[arg(
        long,
        short,
        value_name = "FORM",
        default_value = "text",
        conflicts_with = "print_patch"
    )]
    pub output: CheckOutput,
    /// Print the entry in the format of another tool that owns the template of the work pool.
    #[arg(long, value_name = "FORM")]
    pub print_patch: Option<PatchForm>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub resolve: ResolveArgs,
}

/// Forms of the findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// Lines for a person.
    Text,
    /// One document for a program.
    Json,
}

/// Formats of the entry for tools that own the template of a work pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PatchForm {
    /// A JSON Patch of a base job template.
    Json,
    /// `spec.baseJobTemplate.patches` of prefect-operator's `PrefectWorkPool`.
    PrefectOperator,
    /// `base_job_template` of Terraform.
    Terraform,
    /// Values of the prefect-worker chart.
    Helm,
}
