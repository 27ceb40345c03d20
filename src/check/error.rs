//! Why a check cannot run.
//!
//! Input: the failures before the first check.
//! Output: [`CheckError`], with its message.
//! Invariants: a finding about a binding is not an error.

use std::io;

use crate::{
    outbound::{ClientError, PatternError},
    process::run::RunError,
    secret::InvalidForbiddenName,
};

/// The check cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A file cannot be read.
    #[error("cannot read {file}: {source}")]
    File {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A pattern of allowed hosts is invalid.
    #[error(transparent)]
    Hosts(#[from] PatternError),
    /// A `--forbidden-name` is invalid.
    #[error(transparent)]
    ForbiddenName(#[from] InvalidForbiddenName),
    /// The HTTP client cannot be created.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The API server cannot be reached.
    #[error("{0}; use --offline to validate without a cluster")]
    Kubernetes(#[from] RunError),
    /// The address of the Prefect server is invalid.
    #[error("--prefect-api-url is not a URL: use one such as http://127.0.0.1:4200/api")]
    PrefectUrl,
    /// The arguments of `--compare` are wrong.
    #[error(
        "--compare needs two or more files with different labels, as LABEL=FILE: write check --compare stg=stg.yaml prd=prd.yaml"
    )]
    Labels,
    /// A file has no binding.
    #[error("{file} contains no DopplerPrefectBinding")]
    NoBinding {
        /// The file.
        file: String,
    },
    /// A document is not a binding.
    #[error("{file}: {why}")]
    Document {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The result cannot be printed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}
