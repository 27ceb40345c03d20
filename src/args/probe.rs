//! The flags of `probe`.
//!
//! Input: the command line. Output: typed values.
//! Invariants: parsing has no side effects.

use std::time::Duration;

use clap::Args;

use super::durations::duration_or_zero;

/// Flags of `probe`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// What to request, such as `http://doppler-prefect-operator-metrics:8080/metrics`.
    #[arg(value_name = "URL")]
    pub url: String,
    /// How long to try again.
    #[arg(long, default_value = "30s", value_parser = duration_or_zero, value_name = "DURATION")]
    pub timeout: Duration,
}
