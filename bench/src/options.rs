//! The command line of the benchmark.
//!
//! Input: arguments. Output: `Options`: which figures, their sizes, the binary, and the output
//! folder.
//! Invariants: parsing has no side effects.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::figures;
use crate::sizes::Sizes;

/// Benchmarks the operator against a minimal client that makes the same writes.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo bench-operator",
    bin_name = "cargo bench-operator",
    max_term_width = 120
)]
pub struct Options {
    /// Measure only these figures. Without `--out`, no results are written.
    #[arg(long, num_args = 1.., value_name = "FIGURE", value_parser = figures::names())]
    pub only: Vec<String>,
    /// Run with 100 bindings, and check only counts of requests and writes. The exit code is 1 if a
    /// count is wrong. Without `--out`, no results are written.
    #[arg(long)]
    pub short: bool,
    /// Number of bindings of the large runs. Small runs have 1,000 bindings, or this number if it
    /// is lower.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub bindings: Option<u32>,
    /// Delay of the Doppler and Prefect stand-ins before each response, in milliseconds.
    #[arg(long, default_value_t = 20, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub delay: u32,
    /// Use this binary of the operator instead of building one.
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Print the table only, and write no results.
    #[arg(long, conflicts_with = "out")]
    pub no_docs: bool,
    /// Write the results to this folder. Default for a full run: docs/benchmarks.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Measure nothing. Write the page and the charts again from the results.json of the output
    /// folder.
    #[arg(long, conflicts_with_all = ["only", "short", "bindings", "binary", "no_docs"])]
    pub redraw: bool,
}

impl Options {
    /// The options of the short form.
    #[must_use]
    pub fn short() -> Self {
        Self::parse_from(["bench-operator", "--short"])
    }

    /// The sizes that the options ask for.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let mut sizes = if self.short {
            Sizes::SHORT
        } else {
            Sizes::FULL
        };
        if let Some(bindings) = self.bindings {
            sizes.large = bindings as usize;
            sizes.small = sizes.small.min(sizes.large);
        }
        sizes.delay = Duration::from_millis(self.delay.into());
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn fewer_bindings_make_small_runs_smaller_too() {
        let sizes = |arguments: &[&str]| {
            Options::parse_from([&["bench-operator"], arguments].concat()).sizes()
        };
        assert_eq!(sizes(&[]).large, 10_000);
        assert_eq!(sizes(&["--bindings", "50"]).small, 50);
        assert_eq!(sizes(&["--bindings", "5000"]).small, 1_000);
        assert_eq!(sizes(&["--short"]).small, 100);
        assert_eq!(sizes(&["--delay", "0"]).delay, Duration::ZERO);
    }

    #[test]
    fn rejects_an_unknown_figure() {
        assert!(Options::try_parse_from(["bench-operator", "--only", "cold", "rest"]).is_ok());
        assert!(Options::try_parse_from(["bench-operator", "--only", "warm"]).is_err());
    }
}
