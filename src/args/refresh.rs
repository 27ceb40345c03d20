//! The flags of `refresh`.
//!
//! Input: the command line. Output: typed values.
//! Invariants: parsing has no side effects.

use std::time::Duration;

use clap::Args;

use super::durations::duration_or_zero;

/// Flags of `refresh`.
#[derive(Clone, Debug, Args)]
pub struct RefreshArgs {
    /// Name of the binding.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Namespace of the binding. Default: that of the kubeconfig's context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How long to wait until the Secret holds what the operator read. 0s does not wait.
    #[arg(long, default_value = "30s", value_parser = duration_or_zero, value_name = "DURATION")]
    pub wait: Duration,
}
