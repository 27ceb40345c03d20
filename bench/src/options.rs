//! What the benchmark may be told.
//!
//! In: the command line. Out: which figures, of what size, with which binary, and where the results go. Nothing here is acted upon.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::figures;

/// Measures the operator beside the floor: the least that a plain client needs for the same writes.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo bench-operator",
    bin_name = "cargo bench-operator",
    max_term_width = 120
)]
pub struct Options {
    /// Measure only these figures. Without `--out` nothing is written then.
    #[arg(long, num_args = 1.., value_name = "FIGURE", value_parser = figures::names())]
    pub only: Vec<String>,
    /// 100 bindings, and only counts of requests and writes are judged; a wrong one makes the exit code 1. Without `--out` nothing is written.
    #[arg(long)]
    pub short: bool,
    /// How many bindings the large runs have. The small ones have 1,000, or this many if that is fewer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub bindings: Option<u32>,
    /// How long Doppler's and Prefect's stand-ins wait before each answer, in milliseconds.
    #[arg(long, default_value_t = 20, value_name = "MS", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub delay: u32,
    /// Use this binary of the operator instead of building one.
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Write no results, only print the table.
    #[arg(long, conflicts_with = "out")]
    pub no_docs: bool,
    /// Write the results into this folder. Default: docs/benchmarks, for a full run.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Measure nothing: make the page and the charts anew from the results in that folder.
    #[arg(long, conflicts_with_all = ["only", "short", "bindings", "binary", "no_docs"])]
    pub redraw: bool,
}

impl Options {
    /// Those of the short form.
    #[must_use]
    pub fn short() -> Self {
        Self::parse_from(["bench-operator", "--short"])
    }

    /// The sizes that are asked for.
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

/// How large the runs are, and how long what has no end is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bindings of a small run.
    pub small: usize,
    /// Bindings of a large run.
    pub large: usize,
    /// Configs of the large run on many configs.
    pub configs: usize,
    /// Secrets of a config.
    pub keys: usize,
    /// The stand-ins' wait before each answer.
    pub delay: Duration,
    /// Bindings and configs of the run under a limit.
    pub limited: usize,
    /// The limit: reads of secrets in a window.
    pub rate: u32,
    /// The length of a window.
    pub window: Duration,
    /// The operator's interval where polls are counted or waited for.
    pub refresh: Duration,
    /// For how long an operator at rest is looked at.
    pub rest: Duration,
    /// Changes of a config with one binding.
    pub changes: usize,
    /// Changes of a block.
    pub block_changes: usize,
    /// Changes of a config with many bindings.
    pub many_changes: usize,
    /// Bindings of a run that finds the floor's concurrency.
    pub pace: usize,
    /// The concurrencies that are tried.
    pub paces: &'static [usize],
}

impl Sizes {
    /// What the results are made of.
    pub const FULL: Self = Self {
        small: 1_000,
        large: 10_000,
        configs: 1_000,
        keys: 20,
        delay: Duration::from_millis(20),
        limited: 500,
        rate: 120,
        window: Duration::from_mins(1),
        refresh: Duration::from_mins(1),
        rest: Duration::from_mins(5),
        changes: 200,
        block_changes: 40,
        many_changes: 9,
        pace: 300,
        paces: &[1, 4, 8, 16, 32, 64],
    };
    /// What continuous integration has time for.
    pub const SHORT: Self = Self {
        small: 100,
        large: 100,
        configs: 10,
        keys: 20,
        delay: Duration::from_millis(20),
        limited: 20,
        rate: 8,
        window: Duration::from_secs(2),
        refresh: Duration::from_secs(1),
        rest: Duration::from_secs(4),
        changes: 10,
        block_changes: 4,
        many_changes: 1,
        pace: 20,
        paces: &[8],
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
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
    fn an_unknown_figure_is_refused() {
        assert!(Options::try_parse_from(["bench-operator", "--only", "cold", "rest"]).is_ok());
        assert!(Options::try_parse_from(["bench-operator", "--only", "warm"]).is_err());
    }
}
